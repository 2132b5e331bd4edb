"""What the usual ways to compare two models make of planted bugs and of correct rewrites.

The suite is that of the tests (``tests/validation/bugs.py`` and ``rewrites.py``), the inputs are
those of ``validate``: one set of each distribution. A setting catches a bug if an output of any set
is beyond it, and flags a rewrite likewise; outputs that are integers have to be equal.

``python benchmarks/mutations.py > docs/validate-mutations.md``
"""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from validation.bugs import BLIND, BUGS  # type: ignore[import-not-found]
from validation.rewrites import REWRITES  # type: ignore[import-not-found]
from validation.specimens import MODELS  # type: ignore[import-not-found]

from normsurgery import runtime
from normsurgery.errors import NormSurgeryError
from normsurgery.validation.certificate import certify
from normsurgery.validation.saturation import settled, unsaturated
from normsurgery.validation.sets import flatten, input_sets
from normsurgery.validation.verdict import parity

if TYPE_CHECKING:
    from collections.abc import Callable

SETS = 6


def all_close(rtol: float, atol: float) -> Callable[[np.ndarray, np.ndarray], bool]:
    return lambda a, b: bool(np.allclose(b, a, rtol=rtol, atol=atol, equal_nan=True))


def cosine(least: float) -> Callable[[np.ndarray, np.ndarray], bool]:
    def same(a: np.ndarray, b: np.ndarray) -> bool:
        x, y = (one.astype(np.float64).ravel() for one in (a, b))
        norms = float(np.linalg.norm(x) * np.linalg.norm(y))
        return norms == 0 or bool(x @ y / norms >= least)

    return same


PEERS = {
    "allclose 1e-3, 1e-4": all_close(1e-3, 1e-4),
    "allclose 1e-4, 1e-5": all_close(1e-4, 1e-5),
    "allclose 1e-5, 1e-5": all_close(1e-5, 1e-5),
    "cosine 0.997": cosine(0.997),
}
OURS = ("verdict", "certificate", "verdict or certificate")


def outputs(path: Path, sets: list[Any]) -> list[dict[str, np.ndarray]]:
    session = runtime.session(path, threads=1)
    return [flatten(runtime.run(session, one.make())) for one in sets]


def judge(folder: Path, name: str, rewrite: Callable[[Any], Any]) -> dict[str, bool]:
    """Return for each way whether it objects to the candidate."""
    paths = folder / "reference.onnx", folder / "candidate.onnx"
    model = MODELS[name]()
    onnx.save(model, paths[0])
    onnx.save(rewrite(model), paths[1])
    session = runtime.session(paths[0], threads=1)
    sets = list(input_sets(model, functools.partial(runtime.run, session), SETS, 0))
    try:
        pairs = list(zip(*(outputs(path, sets) for path in paths), strict=True))
        found = {peer: any(_differ(a, b, same) for a, b in pairs) for peer, same in PEERS.items()}
    except NormSurgeryError:
        found = dict.fromkeys(PEERS, True)  # it does not run: nobody misses that
    with unsaturated(*paths) as (ours, theirs):
        verdict = not settled(parity(ours, theirs, sets=SETS, threads=1)).ok
    certificate = not certify(*paths).ok
    return found | dict(zip(OURS, (verdict, certificate, verdict or certificate), strict=True))


def _differ(
    one: dict[str, np.ndarray],
    other: dict[str, np.ndarray],
    same: Callable[[np.ndarray, np.ndarray], bool],
) -> bool:
    if one.keys() != other.keys():
        return True
    for name, a in one.items():
        b = other[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            return True
        if not (same(a, b) if a.dtype.kind == "f" else np.array_equal(a, b)):
            return True
    return False


def table(title: str, cases: dict[str, Any], folder: Path) -> tuple[list[str], dict[str, int]]:
    """Return the rows of one half of the suite, and how often each way objected."""
    ways = [*PEERS, *OURS]
    rows = [f"| {title} | model | {' | '.join(ways)} |", "| --- " * (len(ways) + 2) + "|"]
    counts = dict.fromkeys(ways, 0)
    for number, (name, (model, rewrite, *_)) in enumerate(cases.items()):
        print(f"{title} {number + 1} of {len(cases)}", file=sys.stderr)
        found = judge(folder, model, rewrite)
        for way in ways:
            counts[way] += found[way]
        cells = " | ".join("×" if found[way] else "" for way in ways)
        rows.append(f"| {name} | {model} | {cells} |")
    return rows, counts


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bugs, caught = table("bug", BUGS, Path(folder))
        rewrites, flagged = table("rewrite", REWRITES, Path(folder))
        blind, _ = table("bug", BLIND, Path(folder))
    lines = [
        "# What catches planted bugs, and what cries wolf",
        "",
        f"{len(BUGS)} bugs planted into {len({m for m, _ in BUGS.values()})} models and "
        f"{len(REWRITES)} correct rewrites of {len({m for m, _ in REWRITES.values()})}, "
        "judged on one input set of each of six distributions. Generated by "
        "`python benchmarks/mutations.py`; the cases are in `tests/validation/bugs.py` and "
        "`rewrites.py`, and are part of the tests.",
        "",
        "| | bugs caught | correct rewrites flagged |",
        "| --- | --- | --- |",
        *(
            f"| {way} | {caught[way]} of {len(BUGS)} | {flagged[way]} of {len(REWRITES)} |"
            for way in caught
        ),
        "",
        "No tolerance is right: those that pass the rewrites miss bugs, and those that catch them "
        "flag rewrites. *Verdict* is the error budget against float64, *certificate* the "
        "coefficients alone (for a rewrite that is no fold there is none, and it speaks for "
        "neither).",
        "",
        "## Bugs",
        "",
        "× caught.",
        "",
        *bugs,
        "",
        "## Correct rewrites",
        "",
        "× flagged.",
        "",
        *rewrites,
        "",
        "## What nothing here can see",
        "",
        "A difference that no input reaches, in a part that has no coefficients. `validate` passes "
        "these, and its *coverage* says what was not tested: a bound that no channel reaches, an "
        "output that is discrete.",
        "",
        *blind,
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
