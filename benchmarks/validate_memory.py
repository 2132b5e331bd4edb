"""Memory while the first diverging value of ResNet-50 at 224² is looked for, against one inference.

Each row is a process of its own, one thread: onnxruntime running the model once, optimizations off;
the same search that ``validate`` starts when a verdict fails, over the reference, a candidate with
a planted bug, and the reference in float64; and what marking every value as an output would take.

``python benchmarks/validate_memory.py``
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import measuring
import models
import numpy as np
import onnx
from onnx import numpy_helper

import normsurgery

_COMMON = (
    "import sys, numpy as np\n"
    "from normsurgery import runtime\n"
    "batch = int(sys.argv[3])\n"
    "x = np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype(np.float32)\n"
)
PROGRAMS = {
    "one inference": _COMMON
    + "runtime.run(runtime.session(sys.argv[1], threads=1), {'input': x})\n",
    "first diverging value": _COMMON + "import functools\n"
    "from normsurgery.validation import course\n"
    "from normsurgery.validation.setups import Setup\n"
    "start = functools.partial(Setup().start, threads=1)\n"
    "found = course(sys.argv[1], sys.argv[2], {'input': x}, start=start, multiply_adds=1e12)\n"
    "assert not found.reason and not found.stopped, (found.reason, found.stopped)\n"
    "assert len(found.values) > 100 and found.first.name == sys.argv[4], found.first\n",
    "every value an output": _COMMON + "import onnx, os, tempfile\n"
    "model = onnx.load(sys.argv[1])\n"
    "for node in model.graph.node: model.graph.output.add(name=node.output[0])\n"
    "path = os.path.join(tempfile.mkdtemp(), 'all.onnx')\n"
    "onnx.save(model, path); del model\n"
    "runtime.run(runtime.session(path, threads=1), {'input': x})\n"
    "os.remove(path)\n",
}


def planted(source: Path, folder: Path) -> tuple[Path, str]:
    """Return the fold of a model with one channel of a layer in the middle ×1.01, and its value."""
    result = normsurgery.fold(source)
    target = folder / "resnet50.wrong.onnx"
    result.save(target, force=True)
    model = onnx.load(target)
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    layer = convs[len(convs) // 2]
    tensor = next(t for t in model.graph.initializer if t.name == layer.input[1])
    array = numpy_helper.to_array(tensor).copy()
    array[0] *= np.float32(1.01)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, target)
    return target, layer.output[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=models.FOLDER)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    source = models.network("resnet50", options.folder)
    wrong, value = planted(source, options.folder)
    print("| | batch | anonymous MB | resident MB | of one inference | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for batch in options.batches:
        base = None
        for name, program in PROGRAMS.items():
            command = [sys.executable, "-c", program, str(source), str(wrong), str(batch), value]
            found = measuring.run(command, sample=True)
            base = base or found
            share = found.resident / base.resident
            cells = f"{found.anonymous:.0f} | {found.resident:.0f} | {share:.2f} | {found.wall:.1f}"
            print(f"| {name} | {batch} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
