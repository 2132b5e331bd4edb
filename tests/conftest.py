from __future__ import annotations

import functools
import os
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

# Set before torch is loaded. OpenMP's threads wait for each other by spinning: on a machine where
# another process has a core, tiny steps take ten times as long with two of them as with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background jobs ignore Ctrl-C, and so would the children that tests send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)

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
    """Skip what is marked ``gpu`` where there is none, with the reason; seed torch, if it is there.

    A test's network of random weights is the same one at every run then.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    if item.get_closest_marker("gpu") and (reason := no_cuda()):
        pytest.skip(f"no CUDA: {reason}")
