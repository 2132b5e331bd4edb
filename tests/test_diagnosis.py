from __future__ import annotations

import json

import pytest

import normsurgery
from normsurgery import diagnosis, isolation, probing, providers
from normsurgery.errors import CrashError, MissingPackageError, UsageError
from normsurgery.probing import Nvidia
from normsurgery.providers import CPU, CUDA


@pytest.fixture
def machine(monkeypatch):
    """Pretend: what wheels there are, and what each probe finds or raises."""

    def pretend(wheels=("onnxruntime",), version="1.32.0", **found):
        answers = {
            "built_with": (CPU,),
            "nvidia": Nvidia(),
            "starts CPU": "",
            "starts CUDA": "",
            "torch": False,
        } | found

        def call(probe, arguments, **_):
            key = probe.__name__
            if "provider" in arguments:
                key += " " + providers.short_name(arguments["provider"])
            if isinstance(answers[key], Exception):
                raise answers[key]
            return answers[key]

        monkeypatch.setattr(isolation, "call", call)
        monkeypatch.setattr(providers, "wheels", lambda: list(wheels))
        monkeypatch.setattr(diagnosis, "_version", lambda _: version)

    return pretend


def finding(found, name):
    return next(one for one in found.findings if one.name == name)


def test_this_machine():
    found = normsurgery.doctor()
    assert found.ok
    assert finding(found, "cpu").ok
    assert CPU in found.providers
    assert set(found.onnxruntime) == set(providers.wheels())
    told = json.loads(json.dumps(found.to_dict()))
    assert told["ok"] is True
    assert told["system"]["normsurgery"] == normsurgery.__version__


def test_unknown_names_are_a_usage_error():
    with pytest.raises(UsageError, match="'tpu'"):
        normsurgery.doctor(["tpu"])


def test_no_onnxruntime(machine):
    machine(wheels=())
    found = normsurgery.doctor()
    assert not found.ok
    assert finding(found, "cpu").mend == 'pip install "normsurgery[cpu]"'
    assert "not installed" in finding(found, "cpu").text


@pytest.mark.parametrize(
    "failure", [MissingPackageError("it does not import"), CrashError("SIGILL in importing")]
)
def test_an_onnxruntime_that_does_not_import(machine, failure):
    machine(built_with=failure)
    found = normsurgery.doctor()
    assert not found.ok
    assert finding(found, "cpu").text == str(failure)


def test_a_session_that_gives_wrong_numbers(machine):
    machine(**{"starts CPU": "a session on CPU gives wrong numbers"})
    assert [one.name for one in normsurgery.doctor().missing()] == ["cpu"]


def test_both_wheels(machine):
    both = ("onnxruntime", "onnxruntime-gpu")
    machine(wheels=both, built_with=(CUDA, CPU), nvidia=Nvidia("570.1", 1))
    found = normsurgery.doctor(["cuda"])
    assert not found.ok
    wheels = finding(found, "wheels")
    assert "installed over each other" in wheels.text
    assert wheels.mend == (
        'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "normsurgery[gpu]"'
    )
    assert not finding(found, "cuda").ok  # though it starts
    assert normsurgery.doctor().ok  # the CPU is well


@pytest.mark.parametrize(
    ("pretended", "text", "mend"),
    [
        ({}, "built without CUDA, and no NVIDIA driver", "install NVIDIA's driver"),
        ({"nvidia": Nvidia("570.1", 1)}, "though an NVIDIA driver is there", "normsurgery[gpu]"),
        ({"built_with": (CUDA, CPU)}, "no NVIDIA driver is there", "--gpus all"),
        (
            {
                "built_with": (CUDA, CPU),
                "nvidia": Nvidia("570.1", 1, "libcudnn.so.9"),
                "starts CUDA": MissingPackageError("did not start"),
            },
            "libraries are missing: libcudnn.so.9",
            "onnxruntime-gpu[cuda,cudnn]",
        ),
        (
            {
                "built_with": (CUDA, CPU),
                "nvidia": Nvidia("570.1", 1),
                "starts CUDA": "Conv did not run on CUDA",
            },
            "Conv did not run on CUDA",
            "pip uninstall",
        ),
    ],
    ids=["nothing", "cpu wheel", "no driver", "no cudnn", "fell back"],
)
def test_cuda_that_does_not_work(machine, pretended, text, mend):
    machine(**pretended)
    found = normsurgery.doctor(["cuda"])
    assert [one.name for one in found.missing()] == ["cuda"]
    assert text in finding(found, "cuda").text
    assert mend in finding(found, "cuda").mend


def test_cuda_that_works(machine):
    machine(wheels=("onnxruntime-gpu",), built_with=(CUDA, CPU), nvidia=Nvidia("570.1", 1))
    found = normsurgery.doctor(["cuda"])
    assert found.ok
    assert "driver 570.1" in finding(found, "cuda").text


def test_an_old_onnxruntime_records_nothing(machine):
    machine(version="1.23.2")
    placement = finding(normsurgery.doctor(), "placement")
    assert "no verdict on CUDA" in placement.text
    assert placement.mend == 'pip install -U "onnxruntime>=1.24"'
    for version in ("1.24.0", "1.40.0"):
        machine(version=version)
        assert "placement" not in [one.name for one in normsurgery.doctor().findings]


def test_what_is_said_of_versions_holds_here():
    """Both by what this onnxruntime can do; CUDA's newest wheel is older than the CPU's."""
    import onnxruntime

    records = hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")
    assert records == ("placement" not in [one.name for one in normsurgery.doctor().findings])


def test_cuda_alone(machine):
    machine()
    assert diagnosis.cuda() == finding(normsurgery.doctor(), "cuda")
    machine(wheels=("onnxruntime-gpu",), built_with=(CUDA, CPU))
    assert diagnosis.cuda().text == "no NVIDIA driver is there"
    machine(wheels=())
    assert diagnosis.cuda().text == "onnxruntime is not installed"


def test_a_torch_that_does_not_import(machine):
    machine(torch=OSError("libtorch.so: cannot open\nand more"))
    torch = finding(normsurgery.doctor(["torch"]), "torch")
    assert (torch.ok, torch.text) == (False, "OSError: libtorch.so: cannot open")
    assert "normsurgery[torch]" in torch.mend


def test_the_probes_here():
    assert CPU in probing.built_with()
    assert probing.starts(CPU) == ""
    with pytest.raises(MissingPackageError):
        probing.starts("NoSuchExecutionProvider")
    assert isinstance(probing.nvidia(), Nvidia)


def test_a_fall_back_is_seen(monkeypatch):
    from normsurgery import runtime

    monkeypatch.setattr(runtime, "assigned", lambda _: [(CPU, "Conv", ""), (CUDA, "Relu", "")])
    assert probing.starts(CPU) == "Relu did not run on CPU"
