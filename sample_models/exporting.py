"""ONNX from a trained network by either of torch's exporters, and the checks on what came out."""

from __future__ import annotations

import io
import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import torch

if TYPE_CHECKING:
    from torch import nn


def legacy(network: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    """TorchScript exporter, told to keep every BatchNormalization (opset 17)."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (example,),
            buffer,
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            opset_version=17,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


def dynamo(network: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    """torch.export's exporter, unoptimised: else it folds BatchNormalization away."""
    return _dynamo(network, example, optimize=False)


def folded(network: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    """torch's default: the exporter folds BatchNormalization into the convolutions itself."""
    return _dynamo(network, example, optimize=True)


def _dynamo(network: nn.Module, example: torch.Tensor, *, optimize: bool) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # torchvision need not be there.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            network,
            (example,),
            input_names=["image"],
            output_names=["scores"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            optimize=optimize,
            verbose=False,
        )
    model = program.model_proto
    for node in model.graph.node:  # Stack traces name folders of the machine that exported.
        for entry in [e for e in node.metadata_props if e.key == "pkg.torch.onnx.stack_trace"]:
            node.metadata_props.remove(entry)
    return model


def batch_norms(model: onnx.ModelProto) -> int:
    """How many BatchNormalization nodes `model` holds; all must be in inference mode."""
    nodes = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    for node in nodes:
        modes = [a.i for a in node.attribute if a.name == "training_mode"]
        assert modes in ([], [0]), f"{node.name} is in training mode"
        assert len(node.output) == 1, f"{node.name} gives statistics out"
    return len(nodes)


def check(model: onnx.ModelProto, x: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """onnxruntime's scores for `x`, after the model has proved valid and free in its batch size.

    `expected` (torch's scores) must be met within 1e-4 of its largest magnitude, with
    onnxruntime's own fusions on and off, for all of `x` and for 1 and 7 images.
    """
    onnx.checker.check_model(model, full_check=True)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch", value.name
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    for level in ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL"):
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for count in (1, 7, len(x)):
            (outputs,) = session.run(["scores"], {"image": x[:count]})
            worst = np.abs(outputs - expected[:count]).max()
            assert worst <= 1e-4 * np.abs(expected).max(), f"{level}, {count} images: {worst}"
    return outputs
