from __future__ import annotations

import json

import pytest

from normsurgery import isolation, providers
from normsurgery.probing import Nvidia


def test_the_command_line(cli):
    done = cli("doctor")
    assert (done.status, done.err) == (0, "")
    assert b"onnxruntime runs on the CPU" in done.out
    assert json.loads(cli("doctor", "--json").out)["verb"] == "doctor"
    assert cli("doctor", "--require", "tpu").status == 2


@pytest.fixture
def bare(monkeypatch):
    """Pretend: the CPU wheel on a machine without a GPU."""
    answers = {"built_with": (providers.CPU,), "nvidia": Nvidia(), "starts": "", "torch": False}
    monkeypatch.setattr(isolation, "call", lambda probe, _, **__: answers[probe.__name__])
    monkeypatch.setattr(providers, "wheels", lambda: ["onnxruntime"])


@pytest.mark.usefixtures("bare")
def test_what_is_required_and_missing_ends_with_6(cli):
    done = cli("doctor", "--require", "cuda")
    assert done.status == 6
    assert done.err.startswith("error[NS-E600]: cuda: onnxruntime was built without CUDA")
    assert "mend it with: install NVIDIA's driver" in done.err
    assert done.err.count("\n") == 1
    assert json.loads(cli("doctor", "--require", "cuda", "--json").out)["ok"] is False
