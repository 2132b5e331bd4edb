"""Peak memory of ``normsurgery fold`` on models of 100 MB and 1 GB: it must not grow with them.

Counted is *anonymous* memory (RssAnon + RssShmem, sampled every 2 ms): what the process asked
for. Pages of the mapped model are the system's cache, given back at need; VmHWM counts them too
and stands beside it for the record.

``python benchmarks/fold_memory.py`` (Linux; about 3 GB of disk, 5 GB more with ``--external``)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

import measuring
import models
import tools

SIZES = (100, 1000)  # megabytes
EXTERNAL_SIZE = 2400
ALLOWED = 50.0  # megabytes that the sizes' peaks may lie apart


def cases(folder: Path, *, external: bool) -> dict[str, Path]:
    """Return the models by description: more layers or wider ones, inline or external data."""
    found = {}
    for megabytes in SIZES:
        for how, layers in (("wider", 12), ("deeper", megabytes // 10)):
            found[f"{how}, {megabytes} MB"] = _wide(folder, megabytes, layers)
    if external:
        label = f"wider, {EXTERNAL_SIZE} MB external"
        found[label] = _wide(folder, EXTERNAL_SIZE, 12, external=True)
    return found


def _wide(folder: Path, megabytes: int, layers: int, *, external: bool = False) -> Path:
    place = "external" if external else "inline"
    return models.cached(
        folder / f"wide-{place}-{megabytes}-{layers}",
        "model.onnx",
        lambda path: models.wide(path, megabytes, layers, external=external),
    )


def measure(tool: tools.Tool, model: Path, rounds: int) -> measuring.Run | None:
    """Return the medians over the rounds; None where the tool fails."""
    outputs = model.parent / "out"
    outputs.mkdir(exist_ok=True)
    runs = []
    try:
        for _ in range(rounds):
            for old in outputs.iterdir():
                old.unlink()
            command = tool.command(model, outputs / "model.onnx")
            runs.append(measuring.run(command, sample=True))
    except measuring.FailedError as error:
        print(f"{tool.name}: {error}")
        return None
    finally:
        for old in outputs.iterdir():
            old.unlink()
    fields = ("wall", "cpu", "anonymous", "resident")
    return measuring.Run(*(median(getattr(r, f) for r in runs) for f in fields))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", nargs="*", choices=tools.PEERS, default=["onnxruntime"])
    parser.add_argument("--folder", type=Path, default=models.FOLDER)
    parser.add_argument("--external", action="store_true", help="2.4 GB of external data too")
    options = parser.parse_args()
    chosen = tools.installed([tools.OURS, *options.tools])
    print(tools.describe(chosen))
    print("| tool | model | file MB | anonymous MB | VmHWM MB | wall s |")
    print("| --- | --- | --- | --- | --- | --- |")
    peaks = []
    for label, model in cases(options.folder, external=options.external).items():
        size = sum(f.stat().st_size for f in model.parent.iterdir() if f.is_file()) / 1e6
        for tool in chosen:
            run = measure(tool, model, options.rounds)
            if run is None:
                continue
            figures = f"{run.anonymous:.0f} | {run.resident:.0f} | {run.wall:.2f}"
            print(f"| {tool.name} | {label} | {size:.0f} | {figures} |", flush=True)
            if tool.name == tools.OURS:
                peaks.append(run.anonymous)
    apart = max(peaks) - min(peaks)
    print(f"normsurgery's peaks lie {apart:.0f} MB apart; allowed are {ALLOWED:.0f} MB")
    sys.exit(apart >= ALLOWED)


if __name__ == "__main__":
    main()
