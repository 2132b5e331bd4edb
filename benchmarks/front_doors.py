"""Export, convert and fold real networks as modules, and hold both front doors against each other.

Seeded weights, BatchNorm statistics of a few random batches. Columns: norms; the worst ratio of
errors of dynamo's and of the legacy export (at most 2 passes); norms converted, and how many of
them keep a map in front; how far the converted module and the converted graph are apart in float64;
the ratio of convert-then-export against export-then-convert; BatchNorms before and after a fold of
the module, and its ratio. Needs torchvision, and timm for names that begin with ``timm:``.

``python benchmarks/front_doors.py [NETWORK[@SIZE] ...]``
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn

import normsurgery
from normsurgery import pytorch
from normsurgery.validation import parity

NETWORKS = (
    "resnet18", "mobilenet_v2", "densenet121", "shufflenet_v2_x0_5", "mnasnet0_5",
    "mobilenet_v3_small", "timm:repvgg_a0", "timm:efficientnet_lite0", "timm:resnetv2_50",
)  # fmt: skip
COLUMNS = (
    "network", "norms", "export, dynamo", "legacy", "converted (kept map)", "float64",
    "front doors", "fold", "ratio",
)  # fmt: skip


def network(name: str, x: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("timm:"):
        import timm

        module = timm.create_model(name.removeprefix("timm:"))
    else:
        from torchvision.models import get_model

        module = get_model(name)
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn_like(x))
    return module.eval()


def worst(found: normsurgery.validation.Parity | None) -> str:
    assert found is not None
    assert found.ok, found.line()
    return f"{max(output.ratio or 0.0 for output in found.outputs):.2f}"


def doors(module: nn.Module, converted: nn.Module, x: torch.Tensor, folder: Path) -> str:
    """Convert, then export, against export, then convert."""
    module_first, graph_first = folder / "module.onnx", folder / "graph.onnx"
    pytorch.export(converted, x, exporter="legacy", validate=False).save(module_first, force=True)
    exported = pytorch.export(module, x, exporter="legacy", validate=False).model
    normsurgery.convert(exported, encoding="instance").save(graph_first, force=True)
    return worst(parity(graph_first, module_first))


def row(name: str, folder: Path) -> list[str]:
    name, _, size = name.partition("@")
    side = int(size or 64)
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    module = network(name, x)
    cells = [name]
    for exporter in ("dynamo", "legacy"):
        result = pytorch.export(module, x, exporter=exporter, dynamic="batch")
        if exporter == "dynamo":
            cells.append(", ".join(f"{n} {kind}" for kind, n in result.report.norms.items()))
        cells.append(worst(result.parity))
    made = pytorch.convert(module, args=x)
    kept = sum(one.affine == "keep" for one in made.report.converted)
    cells += [f"{len(made.report.converted)} ({kept})", f"{made.difference:.0e}"]
    cells.append(doors(module, made.module, x, folder))
    folded = pytorch.fold(module, args=x)
    cells += [f"{folded.report.before} → {folded.report.after}", worst(folded.parity)]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK[@SIZE]", help="64 by default")
    chosen = parser.parse_args().networks or NETWORKS
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            print(f"| {' | '.join(row(name, Path(folder)))} |", flush=True)


if __name__ == "__main__":
    main()
