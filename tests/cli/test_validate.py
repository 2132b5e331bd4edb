from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli.terminal import on_a_terminal
from cli.test_html import Reader
from validation.nets import BUGS, conv_bn_net, fold, graph
from validation.specimens import MODELS, change, folded, weights
from validation.test_validate import made_by

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "sample_models"
ENDLESS = """g (float[4] x) => (float[4] y) {
    n = Constant<value_int = 9223372036854775807>()
    t = Constant<value = bool {1}>()
    y = Loop<body = b (int64 i, bool c, float[4] a) => (bool d, float[4] e)
        {d = Identity(c) e = Neg(a)}>(n, t, x)
}"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models with spaces")
    net = conv_bn_net()
    found = folder / "reference.onnx", folder / "candidate.onnx", folder / "wrong.onnx"
    models = net, fold(net), fold(BUGS["epsilon ×10"](net))
    for path, model in zip(found, models, strict=True):
        onnx.save(model, str(path))
    return found


def test_parity(cli, pair):
    done = cli("validate", pair[0], pair[1], "--sets", 2)
    assert (done.status, done.err) == (0, "")
    out = done.out.decode()
    assert "scores  CPU  passed" in out
    assert "parity: ok, onnxruntime CPU" in out


def test_no_parity(cli, pair):
    done = cli("validate", pair[0], pair[2], "--sets", 2)
    assert done.status == 1
    assert "scores  CPU  FAILED" in done.out.decode()
    assert done.err.startswith("error[NS-E100]: parity: FAILED")
    assert done.err.count("\n") == 1


def test_json(cli, pair):
    done = cli("validate", pair[0], pair[2], "--sets", 2, "--json")
    assert done.status == 1
    told = json.loads(done.out)
    assert (told["verb"], told["ok"], told["status"]) == ("validate", False, "failed")
    assert told["reference"] == str(pair[0])
    assert told["runs"][0]["verdict"]["outputs"][0]["ratio"] > 4


def test_standard_input(cli, pair):
    done = cli("validate", pair[0], "-", "--sets", 2, "--json", stdin=pair[1].read_bytes())
    assert done.status == 0
    assert json.loads(done.out)["candidate"] == "-"
    assert cli("validate", "-", "-").status == 2


def test_drift(cli, pair, tmp_path):
    converted = tmp_path / "converted.onnx"
    onnx.save(made_by("convert", onnx.load(str(pair[2]))), str(converted))
    done = cli("validate", pair[0], converted, "--sets", 2)
    assert (done.status, done.err) == (0, "")
    assert "drift: onnxruntime CPU" in done.out.decode()
    assert "parity" not in done.out.decode()
    assert cli("validate", pair[0], converted, "--sets", 2, "--parity").status == 1
    told = cli("validate", pair[0], pair[1], "--sets", 2, "--drift", "--json")
    assert json.loads(told.out)["kind"] == "drift"


def test_data(cli):
    model = SAMPLES / "digits_resnet.onnx"
    data = f"{SAMPLES / 'digits.npz'}:test"
    arguments = ["--data", data, "--array", "image=images", "--samples", 16, "--json"]
    done = cli("validate", model, SAMPLES / "digits_resnet_folded.onnx", *arguments)
    assert done.status == 0
    assert len(json.loads(done.out)["runs"][0]["verdict"]["sets"]) == 4
    done = cli("validate", model, SAMPLES / "digits_resnet_folded.onnx", *arguments, "--drift")
    before, after = json.loads(done.out)["drift"]["accuracy"]
    assert before == after > 0.8


def test_shapes(cli, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(graph("g (float[N,3,H,W] x) => (float[N,3,H,W] y) {y = Exp(x)}"), str(path))
    done = cli("validate", path, path, "--shape", "x=1x3x5x7", "--sets", 1, "--json")
    assert json.loads(done.out)["runs"][0]["verdict"]["sets"][0].endswith("x (1, 3, 5, 7)")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shape", "x"],
        ["--shape", "x=axb"],
        ["--mean", "a"],
        ["--memory", "much"],
        ["--array", "x"],
        ["--bound", "0.5"],
        ["--providers", "tpu"],
        ["--shape", "q=1x3x16x16"],
    ],
    ids=" ".join,
)
def test_usage(cli, pair, arguments):
    done = cli("validate", pair[0], pair[1], *arguments)
    assert done.status == 2
    assert done.err.startswith("error[NS-E200]")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(("text", "size"), [("512", 512), ("2k", 2048), ("1.5GiB", 3 << 29)])
def test_sizes(text, size):
    from normsurgery_cli.validate import Memory

    assert Memory().convert(text, None, None) == size


def test_cuda_is_missing(cli, pair):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    done = cli("validate", pair[0], pair[1], "--providers", "cpu,cuda")
    assert (done.status, done.out) == (6, b"")
    assert done.err.startswith("error[NS-E600]: CUDAExecutionProvider cannot be used: onnxruntime ")
    assert "pip uninstall -y onnxruntime" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(("what", "status"), [("nothing there", 4), ("garbage", 3), ("hang", 3)])
def test_bad_models(cli, pair, tmp_path, what, status):
    path = tmp_path / "bad.onnx"
    if what == "garbage":
        path.write_bytes(b"garbage")
    elif what == "hang":
        model = graph(ENDLESS)
        onnx.save(model, str(path))
    done = cli("validate", path, pair[1], "--timeout", 1)
    assert (done.status, done.out) == (status, b"")
    assert done.err.startswith("error[NS-E")
    assert done.err.count("\n") == 1


def test_progress_is_on_a_terminal_only(pair):
    out, shown = on_a_terminal("validate", *map(str, pair[:2]), "--sets", "2")
    assert b"validate" in shown
    assert b"validate" not in out


def test_a_page(cli, pair, tmp_path):
    page = tmp_path / "report.html"
    done = cli("validate", pair[0], pair[1], "--sets", 2, "--html", page)
    assert done.status == 0
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    for heading in ("Verdict on CPU", "Errors through depth", "Coefficients", "Coverage", "Ratios"):
        assert f"<h2>{heading}</h2>" in text
    assert "✓" in text
    assert "✗" not in text
    Reader(text)


def test_a_page_of_a_failure(cli, pair, tmp_path):
    page = tmp_path / "report.html"
    done = cli("validate", pair[0], pair[2], "--sets", 2, "--html", page)
    assert done.status == 1
    text = page.read_text()
    assert "first diverging value: `b.y`" in text
    assert "first to diverge" in text
    assert "✗" in text
    Reader(text)


def test_a_page_of_a_drift(cli, pair, tmp_path):
    page = tmp_path / "report.html"
    assert cli("validate", pair[0], pair[2], "--drift", "--html", page).status == 0
    assert "<h2>Drift</h2>" in page.read_text()


def test_a_page_replaces_another_only_by_force(cli, pair, tmp_path):
    page = tmp_path / "report.html"
    page.write_text("mine")
    done = cli("validate", pair[0], pair[1], "--sets", 1, "--html", page)
    assert done.status == 4
    assert done.out == b""
    assert page.read_text() == "mine"
    assert cli("validate", pair[0], pair[1], "--sets", 1, "--html", page, "--force").status == 0
    assert page.read_text() != "mine"


def test_names_of_a_model_do_nothing_to_the_page(cli, tmp_path):
    net = conv_bn_net()
    for number, node in enumerate(net.graph.node):
        node.name = f"<script>alert({number})</script>"
    onnx.save(net, tmp_path / "a.onnx")
    onnx.save(fold(BUGS["channel zeroed"](net)), tmp_path / "b.onnx")
    page = tmp_path / "report.html"
    files = tmp_path / "a.onnx", tmp_path / "b.onnx"
    assert cli("validate", *files, "--sets", 1, "--html", page).status == 1
    assert "&lt;script&gt;" in page.read_text()
    assert "<script>" not in page.read_text()


def test_a_certificate_that_fails_ends_with_status_1(cli, tmp_path):
    model = MODELS["dead"]()
    wrong = folded(model)
    name = weights(wrong)[0]
    onnx.save(model, tmp_path / "a.onnx")
    onnx.save(change(wrong, name, lambda w: w * (1 + (np.arange(8) == 3)[:, None, None, None])),
              tmp_path / "b.onnx")  # fmt: skip
    done = cli("validate", tmp_path / "a.onnx", tmp_path / "b.onnx", "--sets", 2)
    assert done.status == 1
    assert "scores  CPU  passed" in done.out.decode()
    assert done.err.startswith("error[NS-E100]: certificate: FAILED: ")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_child_too(tmp_path, number):
    path = tmp_path / "endless.onnx"
    onnx.save(graph(ENDLESS), str(path))
    code = "import sys; from normsurgery_cli.main import main; main()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    arguments = [sys.executable, "-c", code, "validate", str(path), str(path)]
    parent = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    until = time.monotonic() + 60
    while not (found := children.read_text().split()) and time.monotonic() < until:
        time.sleep(0.02)
    parent.send_signal(number)
    out, err = parent.communicate(timeout=60)
    assert (parent.returncode, out) == (130, b"")
    assert err.strip().startswith(b"error[NS-E130]: interrupted")  # click begins a line first
    # At once; or, if the signal came before the parent knew of it, when it looks for its parent.
    while Path(f"/proc/{found[0]}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(f"/proc/{found[0]}").exists()
