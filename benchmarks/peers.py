"""What ``validate`` makes of other tools' rewrites of real models.

Every tool rewrites every model with its default passes, in a process of its own, and ``validate``
judges the two files on one input set of each of six distributions. The models are those of
``sample_models/`` and those of the corpus up to ``--most`` MB, which are downloaded on first use
(``tests/corpus/README.md``). Rewrites and reports are kept in ``--folder``; a pair whose report is
there is not judged again.

    pip install -e . onnxruntime onnxoptimizer onnxsim onnxslim onnxscript
    python benchmarks/peers.py --folder peers > docs/validate-peers.md

Fifty minutes of one core, half of them for ``fastmrz-seg``. ``FINDINGS`` is written by hand: what
was found out about each flagged pair, with onnxruntime, NumPy and both graphs. A pair that is
flagged and not in it is said to be so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import tools
from corpus import fetch  # type: ignore[import-not-found]

import normsurgery
from normsurgery.errors import NormSurgeryError

SETS = 6
FLAGGED = ("failed", "inconclusive")
SECONDS = 300.0
SAMPLES = Path(__file__).parents[1] / "sample_models"
_LOADED = "import sys, onnx\nfrom {0} import {1}\n"
_SAVED = "onnx.save({}(onnx.load(sys.argv[1])), sys.argv[2])\n"
# Tool: (distribution, program). sys.argv is [-c, MODEL, OUTPUT].
PEERS = {
    "onnxsim": tools.PROGRAMS["onnxsim"],
    "onnxslim": tools.PROGRAMS["onnxslim"],
    "onnxoptimizer": (
        "onnxoptimizer",
        "import sys, onnx, onnxoptimizer\n" + _SAVED.format("onnxoptimizer.optimize"),
    ),
    "onnxscript optimizer": (
        "onnxscript",
        _LOADED.format("onnxscript", "optimizer") + _SAVED.format("optimizer.optimize"),
    ),
    "onnxscript rewriter": (
        "onnxscript",
        _LOADED.format("onnxscript", "rewriter") + _SAVED.format("rewriter.rewrite"),
    ),
    "onnxruntime basic": tools.PROGRAMS["onnxruntime"],
    "onnxruntime extended": ("onnxruntime", tools.offline("EXTENDED")),
}
_SCRIPT = {"onnxscript optimizer", "onnxscript rewriter"}
_OFFLINE = {"onnxruntime basic", "onnxruntime extended"}
_LIGHT = ("densenet121", "inception-v1", "inception-v2", "resnet50", "shufflenet", "squeezenet")
# (tools, models, what is wrong, and what may be said for it)
FINDINGS: list[tuple[set[str], set[str], str]] = [
    (
        _SCRIPT,
        {"basic-pitch"},
        "`Add(x, 1e-10)` in front of a Log is taken out, as if its constant were 0. The logarithm "
        "of silence is then −∞: on an input of zeros all 75,680 outputs are NaN, and none is in "
        "the original. `Log(Add(x, 1e-10))` alone shows it.",
    ),
    (
        _SCRIPT,
        {"mower-crnn"},
        "A Reshape gets the attribute `allowzero`, which came with operator set 14, in a model of "
        "operator set 9: neither onnx's checker nor onnxruntime takes the file. Its shape is the "
        "constant of the finding below as well.",
    ),
    (
        {"onnxslim"},
        {"mower-crnn"},
        "The inputs are of any batch and width, and the file says that its output is "
        "64 × 1 × 5531, which holds for one image of 256 columns. The tool believes it and "
        "reshapes to that: the rewrite is right for that image, runs with no other width, and "
        "mixes the images of a batch. The file contradicts itself, so this is its exporter's "
        "fault as much.",
    ),
    (
        _OFFLINE,
        {f"light-{name}" for name in _LIGHT},
        "At IR version 3 every initializer is a graph input too. Those that the optimizer has "
        "folded away are no initializers any more and are still inputs, so the file that it "
        "writes does not run without them (32 in `light-inception-v1`). The folded weights are "
        "right, as far as the certificate reaches, and a session that optimizes for itself and "
        "writes no file is not affected.",
    ),
    (
        {"onnxsim"},
        {"rapidocr-v3-rec"},
        "A Reshape to a computed shape gets a constant one that has −1 twice: onnxruntime does "
        "not load it.",
    ),
    (
        {"onnxsim"},
        {"rivagan-encoder"},
        "A size that is 1, taken from the shape of a value of five axes, becomes the constant 11. "
        "An Expand makes eleven frames of one, and the Concat behind it fails.",
    ),
]


def models(most: float, wanted: list[str]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return path and shapes to run with by name, the smallest first."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {
        path.stem: (path, {}) for path in sorted(SAMPLES.glob("*.onnx"))
    }
    for one in sorted(fetch.models(), key=lambda one: one.size):
        if one.size > most * 1e6 or (wanted and one.name not in wanted):
            continue
        shapes = {name: tuple(shape) for name, shape in one.inputs.items()}
        shapes |= {name: tuple(shape[2:]) for name, shape in one.integers.items()}
        try:
            found[one.name] = fetch.fetch(one), shapes
        except fetch.UnavailableError as failure:
            print(f"{one.name}: {failure}, left out", file=sys.stderr)
    return {name: one for name, one in found.items() if not wanted or name in wanted}


def rewrite(program: str, model: Path, target: Path) -> str:
    """Run the tool; return what went wrong, in one line."""
    command = [sys.executable, "-c", program, str(model), str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no result after {SECONDS:.0f} s"
    if done.returncode or not target.exists():
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return said[-1] if said else f"status {done.returncode} and no word"
    return ""


def judge(model: Path, target: Path, shapes: dict[str, Any]) -> dict[str, Any]:
    """Return validate's report; with the given shapes where it finds none that the model takes."""
    given = None
    while True:
        try:
            found = normsurgery.validate(model, target, sets=SETS, threads=1, shapes=given)
        except NormSurgeryError as failure:
            if given is not None or not shapes:
                return {"status": "refused", "why": f"{type(failure).__name__}: {failure}"}
            given = shapes
        else:
            return found.to_dict() | {"why": found.runs[0].verdict.line()}


def report(peer: str, path: Path, shapes: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what became of one pair, from an earlier run if it is there."""
    target = folder / f"{peer.replace(' ', '-')}.onnx"
    kept = target.with_suffix(".json")
    if not kept.exists():
        start = time.monotonic()
        failure = rewrite(PEERS[peer][1], path, target)
        found = {"status": "none", "why": failure} if failure else judge(path, target, shapes)
        kept.write_text(json.dumps(found, default=str))
        seconds = time.monotonic() - start
        print(f"{folder.name} {peer}: {found['status']} ({seconds:.0f} s)", file=sys.stderr)
    read: dict[str, Any] = json.loads(kept.read_text())
    return read


def cell(found: dict[str, Any]) -> str:
    """Return the largest ratio of a rewrite that passed, or what it is instead."""
    if found["status"] != "passed":
        return {"failed": "×", "inconclusive": "?", "none": "–", "refused": "refused"}[
            found["status"]
        ]
    ratio = found["runs"][0]["verdict"]["ratio"]
    return "equal" if ratio is None else f"{ratio:.2f}"


def page(found: dict[str, dict[str, dict[str, Any]]], versions: dict[str, str]) -> list[str]:
    """Return the lines of the page; ``found`` is by model and tool."""
    peers = list(versions)
    counts = {peer: Counter(by[peer]["status"] for by in found.values()) for peer in peers}
    told = [(p, m) for m, by in found.items() for p in peers if by[p]["status"] in FLAGGED]
    rest = set(told)
    findings = []
    for whose, names, text in FINDINGS:
        mine = [(p, m) for p, m in told if p in whose and m in names]
        rest -= set(mine)
        if mine:
            who, where = (", ".join(dict.fromkeys(side)) for side in zip(*mine, strict=True))
            findings.append(f"- **{who}**, on {where}: {text}")
    findings += [f"- **{peer}**, on {model}: not looked into." for peer, model in sorted(rest)]
    judged = sum(c.total() - c["none"] - c["refused"] for c in counts.values())
    samples = len([name for name in found if name.startswith("digits_")])
    return [
        "# What validate makes of other tools' rewrites",
        "",
        f"{samples} sample models and {len(found) - samples} real ones (`tests/corpus/`, those up "
        f"to 30 MB), each rewritten by {len(peers)} tools with their default passes: {judged} "
        "rewrites, judged on one input set of each of six distributions. Generated by "
        f"`python benchmarks/peers.py` on {time.strftime('%-d %B %Y')}, with normsurgery "
        f"{normsurgery.__version__}.",
        "",
        "| tool | version | passed | flagged | no rewrite | refused by validate |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {peer} | {version} | {c['passed']} | {sum(c[kind] for kind in FLAGGED)} | "
            f"{c['none']} | {c['refused']} |"
            for (peer, version), c in zip(versions.items(), counts.values(), strict=True)
        ),
        "",
        f"Of {len(told)} rewrites that are flagged, {len(told) - len(rest)} were looked into, with "
        "onnxruntime, NumPy and both graphs: each is wrong, and none is a false alarm. All others "
        "passed, those with onnxruntime's fused operators too.",
        "",
        "## What was flagged, and why",
        "",
        *findings,
        "",
        "## All pairs",
        "",
        "The largest ratio over all outputs and input sets: up to 2 passes, a right rewrite is "
        "near 1. × flagged; – the tool makes no file of this model (an operator that onnxruntime "
        "has no kernel for or does not know, a traceback of onnxslim); *refused*: `validate` "
        "cannot judge it, since neither onnxruntime nor onnx knows an operator of the original.",
        "",
        f"| model | {' | '.join(peers)} |",
        "| --- " * (len(peers) + 1) + "|",
        *(f"| {m} | {' | '.join(cell(by[p]) for p in peers)} |" for m, by in found.items()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("peers"))
    parser.add_argument("--most", type=float, default=30.0, help="MB of a model file")
    parser.add_argument("--model", action="append", default=[], help="one or more; default all")
    args = parser.parse_args()
    versions = {}
    for peer, (distribution, _) in PEERS.items():
        try:
            versions[peer] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            print(f"{peer}: not installed, left out", file=sys.stderr)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, (path, shapes) in models(args.most, args.model).items():
        folder = args.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        found[name] = {peer: report(peer, path, shapes, folder) for peer in versions}
    print("\n".join(page(found, versions)))


if __name__ == "__main__":
    main()
