from __future__ import annotations

import functools

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@functools.cache
def no_cuda() -> str:
    """Why nothing can run on CUDA here, or nothing if it can."""
    from normsurgery import doctor

    found = doctor(["cuda"])
    return "; ".join(one.text for one in found.missing())


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked ``gpu`` where there is none, with the reason."""
    if item.get_closest_marker("gpu") and (reason := no_cuda()):
        pytest.skip(f"no CUDA: {reason}")
