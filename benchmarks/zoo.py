"""Fold real architectures, exported by both of PyTorch's exporters with their norms kept.

Random seeded weights; statistics of each BatchNorm near those of its input, scales of both signs.
``error``: ``rms(folded − oracle) / rms(original − oracle)``, the oracle the module in float64,
without graph optimizations; ``parity``: normsurgery's own verdict with its worst ratio.
Needs torch, torchvision, timm, onnxscript and onnxruntime; exports are kept for the next run.

``python benchmarks/zoo.py [NETWORK ...] [--latency]``
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import re
import time
from collections import Counter, abc
from functools import partial
from pathlib import Path
from typing import Any

import models
import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.onnx.utils import register_custom_op_symbolic

import normsurgery
from normsurgery import runtime
from normsurgery.validation import parity

Network = tuple[abc.Callable[[], nn.Module], tuple[int, ...]]  # how to make it; shape of one input
FOLDER = models.FOLDER / "zoo"
EXPORTERS: dict[str, dict[str, Any]] = {
    "legacy": {"dynamo": False, "do_constant_folding": False, "dynamic_axes": {"x": {0: "N"}}}
    | {"training": torch.onnx.TrainingMode.PRESERVE},
    "dynamo": {"dynamo": True, "optimize": False, "external_data": False, "verbose": False}
    | {"dynamic_shapes": ({0: torch.export.Dim("N")},)},
}
QUICK = {"aux_logits": False, "init_weights": False}
ZOOS = (
    """resnet18:64 resnet50:64 densenet121:64 mobilenet_v2:64 mobilenet_v3_small:64 googlenet:64
    efficientnet_b0:64 inception_v3:96 shufflenet_v2_x0_5:64 regnet_y_400mf:64 mnasnet0_5:64
    squeezenet1_1:64""",
    """repvgg_a0:64 resnetv2_50:64 legacy_xception:96 ghostnet_100:64 hrnet_w18_small:64 dla34:64
    res2net50_26w_4s:64 cspdarknet53:64 mixnet_s:64 levit_128s:224 mobileone_s0:64 fastvit_t8:64
    lcnet_050:64 tinynet_e:64 repghostnet_050:64 repvit_m0_9:64 dpn68:64 selecsls42:64 shvit_s1:96
    skresnet18:64 resnest14d:64 densenetblur121d:64 starnet_s1:64 efficientvit_b0:64 hgnetv2_b0:64
    efficientvit_m0:224 efficientformerv2_s0:224 mobilevitv2_050:64 inception_next_atto:64
    xcit_nano_12_p16_224:224 visformer_tiny:224 nextvit_small:64 tf_efficientnet_b0:64""",
)


class Skip(nn.Sequential):
    """Concatenate the input and what becomes of it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return torch.cat([x, super().forward(x)], 1)  # type: ignore[no-untyped-call]


def rows(layer: Any, norm: Any, widths: tuple[int, ...], **options: Any) -> list[nn.Module]:
    layer = partial(layer, bias=False, **options)
    return [m for i, o in itertools.pairwise(widths) for m in (layer(i, o), norm(o), nn.ReLU())]


def pointnet() -> nn.Module:
    points = rows(nn.Conv1d, nn.BatchNorm1d, (3, 32, 64, 128), kernel_size=1)
    head = rows(nn.Linear, nn.BatchNorm1d, (128, 64, 32))
    return nn.Sequential(*points, nn.AdaptiveMaxPool1d(1), nn.Flatten(), *head, nn.Linear(32, 9))


def unet() -> nn.Module:
    block = partial(rows, nn.Conv2d, nn.BatchNorm2d, kernel_size=3, padding=1)
    up = partial(rows, nn.ConvTranspose2d, nn.BatchNorm2d, kernel_size=2, stride=2)
    inner = Skip(nn.MaxPool2d(2), *block((32, 64, 64)), *up((64, 32))[:2])
    outer = Skip(nn.MaxPool2d(2), *block((16, 32)), inner, *block((64, 32)), *up((32, 16))[:2])
    return nn.Sequential(*block((3, 16)), outer, *block((32, 16)), nn.Conv2d(16, 2, 1))


def dcgan(groups: int) -> nn.Module:
    deconv = partial(nn.ConvTranspose2d, kernel_size=4, stride=2, padding=1)
    up = rows(deconv, nn.BatchNorm2d, (64, 32, 16), groups=groups)
    start = [nn.Linear(64, 1024), nn.Unflatten(1, (64, 4, 4)), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*start, *up, deconv(16, 3), nn.Tanh())


def renormed(norm: abc.Callable[[nn.Module], nn.Module]) -> nn.Module:
    layers = rows(nn.Conv2d, nn.BatchNorm2d, (3, 16, 32, 32), kernel_size=3, padding=1)
    return nn.Sequential(*(norm(m) if isinstance(m, nn.Conv2d) else m for m in layers))


def networks() -> dict[str, Network]:
    # the extension of a CUDA wheel does not load beside a CPU torch, and no model here needs it
    folder = Path(str(getattr(importlib.util.find_spec("torchvision"), "origin", None))).parent
    with contextlib.suppress(RuntimeError):  # it does load
        for name in re.findall(r'fake\("(.+)"\)', (folder / "_meta_registrations.py").read_text()):
            torch.library.define(name, "(Tensor x) -> Tensor")
    import timm
    from torchvision.models import get_model

    # the legacy exporter lacks an operator of parametrizations.spectral_norm
    register_custom_op_symbolic("aten::vdot", lambda g, a, b: g.op("MatMul", a, b), 9)
    all_of: dict[str, Network] = {"pointnet": (pointnet, (3, 256)), "unet": (unet, (3, 64, 64))}
    all_of |= {"dcgan": (partial(dcgan, 1), (64,)), "dcgan_grouped": (partial(dcgan, 2), (64,))}
    all_of["r3d_18"] = (partial(get_model, "r3d_18"), (3, 8, 32, 32))
    for module in (weight_norm, spectral_norm):
        name, new = module.__name__, getattr(parametrizations, module.__name__)
        all_of[name] = (partial(renormed, module), (3, 32, 32))
        all_of[f"{name}_new"] = (partial(renormed, new), (3, 32, 32))
    for text, make in zip(ZOOS, (get_model, timm.create_model), strict=True):
        for name, size in (word.split(":") for word in text.split()):
            options = QUICK if name in {"inception_v3", "googlenet"} else {}
            all_of[name] = (partial(make, name, **options), (3, int(size), int(size)))
    return all_of


def randomise(module: Any, inputs: tuple[torch.Tensor]) -> None:
    """Before a BatchNorm runs, give it statistics near those of its input, and random scales."""
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        x = inputs[0].transpose(0, 1).flatten(1)
        spread = x.std(1).clamp(min=0.03)
        module.running_var = spread**2 * torch.empty_like(spread).uniform_(0.2, 3)
        module.running_mean = x.mean(1) + spread * torch.empty_like(spread).normal_(0, 0.5)
        module.weight.data.uniform_(0.5, 1.5).mul_(1 - 2 * (torch.rand_like(spread) < 0.3))
        module.bias.data.normal_(0, 0.3)
    if isinstance(module, nn.Conv3d):  # without a bias, onnxscript writes a wrong one (issue 2931)
        module.bias = nn.Parameter(torch.zeros(module.out_channels))


def export(make: abc.Callable[[], nn.Module], shape: tuple[int, ...], stem: str) -> None:
    """Write both exports of a network, an input of batch 2, and what float64 makes of it."""
    torch.manual_seed(0)
    module, x = make().eval(), torch.randn(2, *shape)
    with torch.no_grad():
        with register_module_forward_pre_hook(randomise):
            module(x)
        for exporter, options in EXPORTERS.items():
            path = f"{stem}.{exporter}.onnx"
            torch.onnx.export(module, (x,), path, input_names=["x"], **options)
        np.savez(f"{stem}.npz", x=x.numpy(), truth=module.double()(x.double()).numpy())


def judge(path: Path, output: Path, known: Any) -> tuple[list[str], float]:
    """Fold one export; return the cells of its row, and the ratio of the errors."""
    started = time.perf_counter()
    result = normsurgery.fold(path)
    seconds, report = time.perf_counter() - started, result.report
    result.save(output, force=True)
    runs = [runtime.run(runtime.session(file), {"x": known["x"]}) for file in (path, output)]
    before, after = (np.linalg.norm(y - known["truth"]) for run in runs for y in run.values())
    verdict, ratio = parity(path, output), float(after / before)
    worst, slugs = verdict.worst(), Counter(k.slug for k in report.kept).most_common()
    ulp = max((c.max_ulp for c in result.certificates()), default=0.0)
    cells = [f"{report.before} → {report.after}", f"{len(report.folded)}", f"{len(report.merged)}"]
    cells += [", ".join(f"{n} {slug}" for slug, n in slugs), f"{ratio:.3f}"]
    cells += [f"{'ok' if verdict.ok else 'FAILED'} {(worst and worst.ratio) or 0:.2f}"]
    return [*cells, f"{ulp:.3f}", f"{seconds:.2f}"], ratio


def latency(paths: list[Path], known: Any, rounds: int = 100) -> str:
    """Return the folded model's median time over the original's, in turn, fully optimized."""
    sessions = [runtime.session(path, optimize=True, threads=1) for path in paths]
    times = np.empty((rounds, len(paths)))
    for i, j in np.ndindex(times.shape):
        started = time.perf_counter()
        runtime.run(sessions[j], {"x": known["x"]})
        times[i, j] = 1e3 * (time.perf_counter() - started)
    before, after = np.median(times, axis=0)
    return f"{before:.2f} → {after:.2f} ms, {after / before:.3f}×"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NETWORK")
    parser.add_argument("--latency", action="store_true")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(
        "| network | exporter | BN | folded | merged | kept | error | parity | ULP | s | latency |"
    )
    print("| --- " * 11 + "|")
    logs, all_of = [], networks()
    for name, exporter in itertools.product(options.names or all_of, EXPORTERS):
        if not (FOLDER / f"{name}.npz").exists():
            export(*all_of[name], f"{FOLDER / name}")
        paths = [FOLDER / f"{name}.{exporter}{end}" for end in (".onnx", ".folded.onnx")]
        known = np.load(FOLDER / f"{name}.npz")
        cells, ratio = judge(paths[0], paths[1], known)
        cells += [latency(paths, known) if options.latency else ""]
        print(f"| {' | '.join([name, exporter, *cells])} |", flush=True)
        logs.append(np.log(ratio))
    print(f"geometric mean of {len(logs)} errors: {np.exp(np.mean(logs)):.3f}")


if __name__ == "__main__":
    main()
