"""An ONNX graph under construction, with seeded random weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

if TYPE_CHECKING:
    from pathlib import Path

Vector = npt.NDArray[np.float32]


class Builder:
    """Nodes and weights; a value is called by the name of the node that makes it."""

    def __init__(self, seed: int | list[int], data_file: Path | None = None) -> None:
        """``data_file``: where weights over 1 KiB go as external data; None keeps all inline."""
        self.random = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.data_file = data_file
        if data_file is not None:
            data_file.write_bytes(b"")

    def weight(self, name: str, values: Vector) -> str:
        """Add an initializer."""
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=values.shape)
        if self.data_file is None or values.nbytes < 1024:
            tensor.raw_data = values.tobytes()
        else:
            self._move_out(tensor, values, self.data_file)
        self.weights.append(tensor)
        return name

    @staticmethod
    def _move_out(tensor: TensorProto, values: Vector, path: Path) -> None:
        with path.open("ab") as file:
            offset = -(-file.tell() // 4096) * 4096
            file.truncate(offset)
            file.seek(offset)
            file.write(values.data)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": path.name, "offset": str(offset), "length": str(values.nbytes)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)

    def node(self, op_type: str, name: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node of one output; return that output's name."""
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def conv_bn(self, x: str, name: str, shape: tuple[int, int, int], stride: int = 1) -> str:
        """Add a bias-free Conv (shape: C_out, C_in, kernel) and its BatchNormalization."""
        out, into, kernel = shape
        pad = kernel // 2
        spread = math.sqrt(2 / (out * kernel * kernel))  # Kaiming, fan out, as torchvision does
        values = self.random.standard_normal((out, into, kernel, kernel), dtype=np.float32)
        x = self.node(
            "Conv", f"{name}.conv", [x, self.weight(f"{name}.conv.weight", values * spread)],
            dilations=[1, 1], group=1, kernel_shape=[kernel, kernel], pads=[pad] * 4,
            strides=[stride, stride],
        )  # fmt: skip
        return self.batch_norm(x, f"{name}.bn", out)

    def batch_norm(self, x: str, name: str, channels: int) -> str:
        """Add a BatchNormalization whose statistics are spread as those of trained networks are.

        scale 0.02 … 1, bias and mean of either sign, variance log-normal over two decades.
        """
        draw = self.random
        scale = draw.gamma(4, 0.08, channels) + 0.02
        parameters = {
            "weight": scale,
            "bias": draw.normal(0, 0.2, channels),
            "running_mean": draw.normal(-0.1, 0.3, channels),
            "running_var": np.exp(draw.normal(-1.5, 1, channels)),
        }
        names = [self.weight(f"{name}.{k}", v.astype(np.float32)) for k, v in parameters.items()]
        return self.node("BatchNormalization", name, [x, *names], epsilon=1e-5, momentum=0.9)

    def model(
        self,
        name: str,
        inputs: ValueInfoProto,
        outputs: ValueInfoProto,
        *,
        opset: int = 17,
        ir_version: int = 8,
    ) -> ModelProto:
        """Return the finished model."""
        graph = helper.make_graph(self.nodes, name, [inputs], [outputs], self.weights)
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
