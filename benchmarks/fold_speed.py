"""Whole-process time of folding a ResNet: ``normsurgery fold`` against other tools.

Interleaved: every round runs every tool once, in turn, so that a slow moment of the machine hits
all of them; a ratio is formed within a round and the median taken over rounds.

``python benchmarks/fold_speed.py --model resnet50 --rounds 9``
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

import measuring
import models
import onnx
import tools


def measure(model: Path, chosen: list[tools.Tool], rounds: int) -> dict[str, list[measuring.Run]]:
    """Return for each tool that works its run in each round; round 0 warms caches up."""
    output = model.with_name(f"{model.stem}.out.onnx")
    runs: dict[str, list[measuring.Run]] = {tool.name: [] for tool in chosen}
    for number in range(rounds + 1):
        for tool in chosen:
            if tool.name not in runs:
                continue
            output.unlink(missing_ok=True)
            try:
                took = measuring.run(tool.command(model, output))
            except measuring.FailedError as error:
                print(f"{tool.name}: {error}; left out")
                del runs[tool.name]
                continue
            if number:
                runs[tool.name].append(took)
            else:
                print(f"{tool.name}: {left(output)} BatchNormalization left")
    output.unlink(missing_ok=True)
    return runs


def left(path: Path) -> int:
    """Return how many BatchNormalization nodes a model has."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    return sum(n.op_type == "BatchNormalization" for n in nodes)


def table(runs: dict[str, list[measuring.Run]]) -> str:
    """Return the Markdown table: wall time, CPU time, and both against normsurgery's."""
    ours = runs[tools.OURS]
    lines = [
        "| tool | wall s: min | median | max | CPU s | wall ratio (min … max) | CPU ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, own in runs.items():
        walls = [r.wall for r in own]
        ratios = [r.wall / o.wall for r, o in zip(own, ours, strict=True)]
        cpu = median(r.cpu / o.cpu for r, o in zip(own, ours, strict=True))
        lines.append(
            f"| {name} | {min(walls):.3f} | {median(walls):.3f} | {max(walls):.3f} "
            f"| {median(r.cpu for r in own):.3f} "
            f"| {median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f}) | {cpu:.2f} |"
        )
    return "\n".join(lines)


def start_up(rounds: int) -> str:
    """Return the table of what starting takes before any model is read."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "normsurgery --help": [tools.NORMSURGERY, "--help"],
        "normsurgery fold --help": [tools.NORMSURGERY, "fold", "--help"],
        "python -c 'import onnx'": [sys.executable, "-c", "import onnx"],
        "python -c 'import onnxruntime'": [sys.executable, "-c", "import onnxruntime"],
    }
    walls: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            walls[name].append(measuring.run(command).wall)
    lines = ["| command | wall s: min | median | max |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{name}` | {min(w):.3f} | {median(w):.3f} | {max(w):.3f} |" for name, w in walls.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=list(models.DEPTHS), default="resnet50")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tools", nargs="*", choices=tools.PEERS, default=list(tools.PEERS))
    parser.add_argument("--folder", type=Path, default=models.FOLDER)
    parser.add_argument("--start-up", action="store_true", help="time --help too")
    options = parser.parse_args()
    chosen = tools.installed([tools.OURS, *options.tools])
    model = models.network(options.model, options.folder)
    print(tools.describe(chosen))
    print(f"{model.name}, {model.stat().st_size / 1e6:.1f} MB, {options.rounds} rounds")
    print(table(measure(model, chosen, options.rounds)))
    if options.start_up:
        print(start_up(options.rounds))


if __name__ == "__main__":
    main()
