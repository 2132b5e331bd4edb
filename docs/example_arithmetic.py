"""Examples of the carriers that compute with values: elementwise, over windows, over positions."""

from __future__ import annotations

from example_graphs import TO_ONE, graph

ELEMENTWISE = {
    "carrier-add": (
        graph(
            "`k` varies along the width. It becomes `a·k + b`, and the scale goes on to the Conv.",
            "c = Conv(x, W); d = Add(c, k); y = BN(d)",
            "double[4] k = {0, 1, 2, 3}",
        ),
        graph(
            "Two branches: the scale goes to both, each with its own copy of `W`, and the "
            "shift to the first that can take it.",
            "c = Conv(x, W); d = Conv(z, W); e = Add(c, d); y = BN(e)",
            x="double[N, 1, 4, 4] x, double[N, 1, 4, 4] z",
        ),
        graph(
            "`k` becomes `(b + k)/a`, and the scale goes on to the Conv.",
            "b = BN(x); d = Add(b, k); y = Conv(d, V)",
            "double[4] k = {0, 1, 2, 3}",
            **TO_ONE,
        ),
        graph(
            "A Sum of both kinds: the constant takes the shift.",
            "c = Conv(x, W); d = Conv(z, W); e = Sum(c, k, d); y = BN(e)",
            "double[4] k = {0, 1, 2, 3}",
            x="double[N, 1, 4, 4] x, double[N, 1, 4, 4] z",
        ),
    ),
    "carrier-mul": (
        graph(
            "`k` varies along height and width and takes the whole scale.",
            "d = Mul(x, k); y = Mul(d, m)",
            "double[2, 2] k = {1, 2, 3, 4}",
            x="double[N, 2, 2, 2] x",
            y="double[N, 2, 2, 2] y",
        ),
        graph(
            "The Mul takes the scale; the shift, times 3, goes on to the Conv. Then the Mul, a map "
            "itself, goes into the Conv too.",
            "b = BN(x); d = Mul(b, three); y = Conv(d, V)",
            "double three = {3}",
            **TO_ONE,
        ),
        graph(
            "Two branches, a gate as in squeeze-and-excitation: a scale goes to one of them.",
            "c = Conv(x, W); g = Sigmoid(z); d = Mul(c, g); y = Mul(d, m)",
            x="double[N, 1, 4, 4] x, double[N, 2, 1, 1] z",
        ),
    ),
    "carrier-identity": (
        graph("", "c = Conv(x, W); d = Identity(c); y = BN(d)"),
        graph("", "b = BN(x); d = Identity(b); y = Conv(d, V)", **TO_ONE),
    ),
    "carrier-dropout": (
        graph("", "c = Conv(x, W); d = Dropout(c); y = BN(d)"),
        graph("", "b = BN(x); d = Dropout(b); y = Conv(d, V)", **TO_ONE),
    ),
    "carrier-cast": (
        graph("Type 11 is double.", "c = Conv(x, W); d = Cast<to = 11>(c); y = BN(d)"),
        graph("Type 11 is double.", "b = BN(x); d = Cast<to = 11>(b); y = Conv(d, V)", **TO_ONE),
    ),
    "carrier-rectifier": (
        graph("", "c = Conv(x, W); d = Relu(c); y = Mul(d, m)"),
        graph("", "b = Mul(x, m); d = LeakyRelu(b); y = Conv(d, V)", **TO_ONE),
    ),
}


POSITIONS = {
    "carrier-average_pool": (
        graph("", "c = Conv(x, W); d = GlobalAveragePool(c); y = BN(d)", y="double[N, 2, 1, 1] y"),
        graph(
            "",
            "b = BN(x); d = AveragePool<kernel_shape = [2, 2]>(b); y = Conv(d, V)",
            x="double[N, 2, 4, 4] x",
            y="double[N, 1, 3, 3] y",
        ),
    ),
    "carrier-max_pool": (
        graph(
            "No scale is negative here; see [negative-scale](why-negative-scale.md).",
            "c = Conv(x, W); d = MaxPool<kernel_shape = [2, 2]>(c); y = BN(d)",
            "double[2] scale = {2, 1}",
            y="double[N, 2, 3, 3] y",
        ),
        graph(
            "",
            "b = BN(x); d = GlobalMaxPool(b); y = Conv(d, V)",
            "double[2] scale = {2, 1}",
            x="double[N, 2, 4, 4] x",
            y="double[N, 1, 1, 1] y",
        ),
    ),
    "carrier-reduction": (
        graph(
            "",
            "c = Conv(x, W); d = ReduceMean<keepdims = 0>(c, axes); y = BN(d)",
            "int64[2] axes = {2, 3}",
            y="double[N, 2] y",
        ),
        graph(
            "",
            "b = BN(x); d = ReduceMean(b, axes); y = Conv(d, V)",
            "int64[2] axes = {2, 3}",
            x="double[N, 2, 4, 4] x",
            y="double[N, 1, 1, 1] y",
        ),
    ),
    "carrier-pad": (
        graph(
            "Padding with 0 lets a map without shift pass.",
            "c = Conv(x, W); d = Pad(c, pads); y = Mul(d, m)",
            "int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}",
            y="double[N, 2, 6, 6] y",
        ),
        graph(
            "Padding with the image's own border lets any map pass.",
            'b = BN(x); d = Pad<mode = "reflect">(b, pads); y = Conv(d, V)',
            "int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}",
            x="double[N, 2, 4, 4] x",
            y="double[N, 1, 6, 6] y",
        ),
    ),
    "carrier-resize": (
        graph(
            "",
            'c = Conv(x, W); d = Resize<mode = "nearest">(c, "", scales); y = BN(d)',
            "float[4] scales = {1, 1, 2, 2}",
            y="double[N, 2, 8, 8] y",
        ),
        graph(
            "",
            'b = BN(x); d = Resize<mode = "linear">(b, "", scales); y = Conv(d, V)',
            "float[4] scales = {1, 1, 2, 2}",
            x="double[N, 2, 4, 4] x",
            y="double[N, 1, 8, 8] y",
        ),
    ),
    "carrier-depth_to_space": (
        graph(
            "Four channels of the Conv become one of the BN: 0, 2, 4, 6 and 1, 3, 5, 7.",
            "c = Conv(x, W); d = DepthToSpace<blocksize = 2>(c); y = BN(d)",
            "double[8, 1, 1, 1] W = {1, 2, 3, 4, 5, 6, 7, 8}",
            y="double[N, 2, 8, 8] y",
        ),
        graph(
            "All four channels have the same map, so the one they become has it too.",
            "b = Mul(x, m); d = DepthToSpace<blocksize = 2>(b); y = Conv(d, V)",
            "double[4, 1, 1] m = {2, 2, 2, 2}",
            "double[1, 1, 1, 1] V = {3}",
            x="double[N, 4, 2, 2] x",
            y="double[N, 1, 4, 4] y",
        ),
    ),
    "carrier-space_to_depth": (
        graph(
            "All four channels have the same map, so the one they come from gets it.",
            "c = Conv(x, W); d = SpaceToDepth<blocksize = 2>(c); y = Mul(d, m)",
            "double[1, 1, 1, 1] W = {3}",
            "double[4, 1, 1] m = {2, 2, 2, 2}",
            y="double[N, 4, 2, 2] y",
        ),
        graph(
            "Each channel of the BN becomes four of the Conv: 0, 2, 4, 6 and 1, 3, 5, 7.",
            "b = BN(x); d = SpaceToDepth<blocksize = 2>(b); y = Conv(d, V)",
            "double[1, 8, 1, 1] V = {1, 2, 3, 4, 5, 6, 7, 8}",
            x="double[N, 2, 4, 4] x",
            y="double[N, 1, 2, 2] y",
        ),
    ),
}
