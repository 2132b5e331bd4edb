"""Small graphs to see each entry of the calculus at work, by the name of its page."""

from __future__ import annotations

from example_graphs import MATRIX, NO_SHIFT, SINGLE, SQUARE, TO_ONE, Example, graph
from refusals import REASONS

SOURCES = {
    "source-batch_normalization": (
        graph(
            "With `epsilon = 0`, `a = {2/√1, -1/√4}` and `b = {1 - 2·0, 0 + 0.5·3}`.",
            "c = Conv(x, W); y = BN(c)",
        ),
    ),
    "source-elementwise": (
        graph(
            "A BN that an exporter took apart: four maps in a row, one Conv.",
            "c = Conv(x, W); d = Sub(c, mean); v = Add(var, eps); s = Sqrt(v); e = Div(d, s);"
            "f = Mul(e, scale); y = Add(f, B)",
            "double[2, 1, 1] scale = {2, -1}",
            "double[2, 1, 1] B = {1, 0}",
            "double[2, 1, 1] mean = {0, 3}",
            "double[2, 1, 1] var = {0, 3}",
            "double eps = {1}",
        ),
        graph(
            "A LayerNormalization that an exporter took apart: its scale and bias, `scale` and "
            "`k`, go forwards into the MatMul and the Add behind it.",
            "u = ReduceMean(x, last); d = Sub(x, u); q = Mul(d, d); v = ReduceMean(q, last);"
            "w = Add(v, eps); s = Sqrt(w); n = Div(d, s); e = Mul(n, scale); f = Add(e, k);"
            "p = MatMul(f, A); y = Add(p, l)",
            "int64[1] last = {-1}",
            "double eps = {1}",
            "double[2] k = {1, 4}",
            "double[2, 1] A = {1, 3}",
            "double[1] l = {5}",
            x="double[N, T, 2] x",
            y="double[N, T, 1] y",
        ),
    ),
    "source-normalization": (
        graph(
            "The node stays, with scale 1 and bias 0: its map went into the MatMul and the Add "
            "behind it.",
            "n = LayerNormalization<axis = -1>(x, s, b); p = MatMul(n, A); y = Add(p, k)",
            "double[2] s = {2, -1}",
            "double[2] b = {1, 4}",
            "double[2, 1] A = {1, 3}",
            "double[1] k = {5}",
            x="double[N, T, 2] x",
            y="double[N, T, 1] y",
        ),
    ),
}

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

JOINTS = {
    "carrier-concat": (
        graph(
            "One channel of the map for each of the Convs.",
            "c = Conv(x, W); d = Conv(z, V); e = Concat<axis = 1>(c, d); y = BN(e)",
            "double[1, 1, 1, 1] W = {1}",
            "double[1, 1, 1, 1] V = {3}",
            x="double[N, 1, 4, 4] x, double[N, 1, 4, 4] z",
        ),
        graph(
            "The channel of `z` is multiplied by 1 and gets no shift.",
            "b = BN(x); d = Concat<axis = 1>(b, z); y = Conv(d, V)",
            "double[1, 3, 1, 1] V = {1, 3, 5}",
            x="double[N, 2, 4, 4] x, double[N, 1, 4, 4] z",
            y="double[N, 1, 4, 4] y",
        ),
        graph(
            "A class token before the rows: `(c - b)/a`, so that the map makes `c` of it again.",
            "b = Mul(x, m); d = Concat<axis = 1>(c, b); y = MatMul(d, A)",
            "double[2] m = {2, 4}",
            "double[1, 1, 2] c = {6, 8}",
            SQUARE,
            x="double[1, 3, 2] x",
            y="double[1, 4, 2] y",
        ),
    ),
    "carrier-split": (
        graph(
            "The channels of `q` keep their weights.",
            "c = Conv(x, W); p, q = Split<axis = 1, num_outputs = 2>(c); y = BN(p)",
            "double[4, 1, 1, 1] W = {1, 3, 5, 7}",
            y="double[N, 2, 4, 4] y, double[N, 2, 4, 4] q",
        ),
        graph(
            "One channel of the map for each of the Convs.",
            "b = BN(x); p, q = Split<axis = 1, num_outputs = 2>(b); y = Conv(p, W); z = Conv(q, V)",
            "double[1, 1, 1, 1] W = {1}",
            "double[1, 1, 1, 1] V = {3}",
            x="double[N, 2, 4, 4] x",
            y="double[N, 1, 4, 4] y, double[N, 1, 4, 4] z",
        ),
    ),
    "carrier-pick": (
        graph(
            "Channels 1 and 2 of three.",
            "c = Conv(x, W); d = Slice(c, from, to, axes); y = BN(d)",
            "double[3, 1, 1, 1] W = {1, 3, 5}",
            "int64[1] from = {1}",
            "int64[1] to = {3}",
            "int64[1] axes = {1}",
        ),
        graph(
            "Channels 2 and 0 of three.",
            "b = BN(x); d = Slice(b, from, to, axes, steps); y = Conv(d, V)",
            "double[3] scale = {2, -1, 3}",
            "double[3] B = {1, 0, 2}",
            "double[3] mean = {0, 3, 1}",
            "double[3] var = {1, 4, 1}",
            "int64[1] from = {2}",
            "int64[1] to = {-9}",
            "int64[1] axes = {1}",
            "int64[1] steps = {-2}",
            x="double[N, 3, 4, 4] x",
            y="double[N, 1, 4, 4] y",
        ),
    ),
    "carrier-sequence_at": (
        graph(
            "Channel 0 of the Conv, which the norm does not see, stays as it is.",
            "c = Conv(x, W); s = SplitToSequence<axis = 1>(c, parts); d = SequenceAt(s, i);"
            "y = BN(d)",
            "double[3, 1, 1, 1] W = {1, 3, 5}",
            "int64[2] parts = {1, 2}",
            "int64 i = {1}",
        ),
    ),
    "carrier-split_to_sequence": (
        graph(
            "The Conv reads the second part, channel 1.",
            "b = BN(x); s = SplitToSequence<axis = 1>(b, parts); d = SequenceAt(s, i);"
            "y = Conv(d, V)",
            "int64[2] parts = {1, 1}",
            "int64 i = {1}",
            "double[1, 1, 1, 1] V = {3}",
            **TO_ONE,
        ),
    ),
    "carrier-gather": (
        graph(
            "The channels of `c` change places, so those of the map do.",
            "c = Conv(x, W); d = Gather<axis = 1>(c, order); y = BN(d)",
            "int64[2] order = {1, 0}",
        ),
        graph(
            "Rows picked at run time; the channels' axis moves from 2 to 3.",
            "b = Mul(x, m); d = Gather<axis = 1>(b, i); y = MatMul(d, A)",
            "double[2] m = {2, 3}",
            SQUARE,
            x="double[N, R, 2] x, int64[P, Q] i",
            y="double[N, P, Q, 2] y",
        ),
    ),
    "carrier-expand": (
        graph(
            "",
            "c = Conv(x, W); d = Expand(c, shape); y = BN(d)",
            "int64[4] shape = {1, 1, 1, 3}",
            x="double[N, 1, 4, 1] x",
            y="double[N, 2, 4, 3] y",
        ),
        graph(
            "",
            "b = BN(x); d = Expand(b, shape); y = Conv(d, V)",
            "int64[4] shape = {1, 1, 1, 3}",
            x="double[N, 2, 4, 1] x",
            y="double[N, 1, 4, 3] y",
        ),
    ),
    "carrier-tile": (
        graph(
            "",
            "c = Conv(x, W); d = Tile(c, repeats); y = BN(d)",
            "int64[4] repeats = {1, 1, 2, 2}",
            y="double[N, 2, 8, 8] y",
        ),
        graph(
            "The channels are repeated, and so is their map.",
            "b = BN(x); d = Tile(b, repeats); y = Conv(d, V)",
            "int64[4] repeats = {1, 2, 1, 1}",
            "double[1, 4, 1, 1] V = {1, 3, 5, 7}",
            x="double[N, 2, 4, 4] x",
            y="double[N, 1, 4, 4] y",
        ),
    ),
}

LAYOUT = {
    "carrier-transpose": (
        graph(
            "Behind the Transpose the channels are the last axis, before it axis 1.",
            "c = Conv(x, W); d = Transpose<perm = [0, 2, 3, 1]>(c); y = Mul(d, m)",
            "double[2] m = {2, 3}",
            y="double[N, 4, 4, 2] y",
        ),
        graph(
            "",
            "b = Mul(x, m); d = Transpose<perm = [0, 3, 1, 2]>(b); y = Conv(d, V)",
            "double[2] m = {2, 3}",
            x="double[N, 4, 4, 2] x",
            y="double[N, 1, 4, 4] y",
        ),
    ),
    "carrier-reshape": (
        graph(
            "Each channel of the BN is two columns of the Gemm.",
            "c = Gemm(x, W); d = Reshape(c, shape); y = BN(d)",
            "double[1, 4] W = {1, 3, 5, 7}",
            "int64[3] shape = {0, 2, 2}",
            x="double[N, 1] x",
            y="double[N, 2, 2] y",
        ),
        graph(
            "Each channel of the BN is two rows of the Gemm's weight.",
            "b = BN(x); d = Flatten(b); y = Gemm(d, W)",
            "double[4, 1] W = {1, 3, 5, 7}",
            x="double[N, 2, 2] x",
            y="double[N, 1] y",
        ),
        graph(
            "A channel shuffle: two groups of two are exchanged.",
            "c = Conv(x, W); r = Reshape(c, apart); t = Transpose<perm = [0, 2, 1, 3, 4]>(r);"
            "d = Reshape(t, together); y = Mul(d, m)",
            "double[4, 1, 1, 1] W = {1, 3, 5, 7}",
            "double[4, 1, 1] m = {2, 3, 4, 5}",
            "int64[5] apart = {0, 2, 2, 4, 4}",
            "int64[4] together = {0, 4, 4, 4}",
            y="double[N, 4, 4, 4] y",
        ),
        graph(
            "The shape is computed when the model runs, as PyTorch's legacy exporter writes "
            "`c.view(x.size(0), 2, -1)`; the batch stays the batch whatever it is.",
            "c = Conv(x, W); s = Shape(x); n = Slice(s, zero, one); t = Concat<axis = 0>(n, rest);"
            "d = Reshape(c, t); y = BN(d)",
            "int64[1] zero = {0}",
            "int64[1] one = {1}",
            "int64[2] rest = {2, -1}",
            x="double[N, 1, H, W1] x",
            y="double[N, 2, M] y",
        ),
    ),
    "carrier-squeeze": (
        graph(
            "",
            "c = Conv(x, W); d = Squeeze(c, axes); y = BN(d)",
            "int64[2] axes = {2, 3}",
            x="double[N, 1, 1, 1] x",
            y="double[N, 2] y",
        ),
        graph(
            "",
            "b = BN(x); d = Unsqueeze(b, axes); y = Conv(d, V)",
            "int64[2] axes = {2, 3}",
            x="double[N, 2] x",
            y="double[N, 1, 1, 1] y",
        ),
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

SINKS = {
    "sink-conv": (
        graph(
            "The map acts on the output, so padding does not matter.",
            "c = Conv<pads = [1, 1, 1, 1]>(x, W, bias); y = BN(c)",
            "double[2] bias = {1, 2}",
            y="double[N, 2, 6, 6] y",
        ),
    ),
    "sink-conv_transpose": (
        graph(
            "Two groups: row i of `W` makes channel i.",
            "c = ConvTranspose<group = 2>(x, W); y = BN(c)",
            x="double[N, 2, 4, 4] x",
        ),
    ),
    "sink-gemm": (
        graph(
            "`alpha` stays; `beta` is multiplied into C.",
            "c = Gemm<alpha = 0.5, beta = 2.0>(x, A, C); y = BN(c)",
            SQUARE,
            "double[2] C = {1, 2}",
            **MATRIX,
        ),
    ),
    "sink-matmul": (
        graph(
            "`a` goes into the columns of `A`.",
            "c = MatMul(x, A); y = Mul(c, m)",
            SQUARE,
            "double[2] m = {2, 3}",
            **MATRIX,
        ),
        graph(
            "A MatMul has no bias: between matrices the shift stays as an Add, which runtimes "
            "take into one Gemm.",
            "c = MatMul(x, A); y = BN(c)",
            SQUARE,
            **MATRIX,
        ),
    ),
    "sink-batch_normalization": (
        graph(
            "Only `scale` and `B` change.",
            "c = BN(x); y = Mul(c, m)",
            x="double[N, 2, 4, 4] x",
        ),
    ),
    "sink-normalization": (
        graph(
            "`scale` becomes `a·scale`, `B` becomes `a·B + b`.",
            "c = InstanceNormalization(x, s, k); y = BN(c)",
            "double[2] s = {3, 4}",
            "double[2] k = {1, 2}",
            x="double[N, 2, 4, 4] x",
        ),
    ),
    "sink-embedding": (
        graph(
            "Each row `t` of the table becomes `2·t + 3`.",
            "j = Cast<to = 7>(i); e = Gather(table, j); f = Mul(e, two); y = Add(f, three)",
            "double[2, 2] table = {1, 2, 3, 4}",
            "double two = {2}",
            "double three = {3}",
            x="bool[N, T] i",
            y="double[N, T, 2] y",
        ),
    ),
    "forward-sink-conv_of_affine": (
        graph(
            "The Conv does not pad, so it takes the shift as well: `Σ V·b = 1·1 + 3·1.5`.",
            "b = BN(x); y = Conv(b, V)",
            **TO_ONE,
        ),
        graph(
            "With padding, a map without shift is absorbed.",
            "b = BN(x); y = Conv<pads = [1, 1, 1, 1]>(b, V)",
            *NO_SHIFT,
            x="double[N, 2, 4, 4] x",
            y="double[N, 1, 6, 6] y",
        ),
    ),
    "forward-sink-conv_transpose_of_affine": (
        graph(
            "",
            "b = Mul(x, m); y = ConvTranspose(b, U)",
            "double[2, 1, 1, 1] U = {1, 3}",
            **TO_ONE,
        ),
    ),
    "forward-sink-gemm_of_affine": (
        graph(
            "`a` goes into the rows of `A`, and `b A` into C.",
            "b = BN(x); y = Gemm(b, A, C)",
            SQUARE,
            "double[2] C = {1, 2}",
            **MATRIX,
        ),
    ),
    "forward-sink-matmul_of_affine": (
        graph(
            "`a` goes into the rows of `A`; the shift `b A` goes on, into the Add.",
            "b = BN(x); c = MatMul(b, A); y = Add(c, k)",
            SQUARE,
            "double[2] k = {1, 2}",
            **MATRIX,
        ),
    ),
    "forward-sink-batch_normalization_of_affine": (
        graph(
            "Only `scale` and `B` change.",
            "b = Mul(x, m); y = BN(b)",
            x="double[N, 2, 4, 4] x",
        ),
    ),
}

BEYOND = {
    "beyond-branches": (
        graph(
            "A RepVGG block: a 3×3 Conv, a 1×1 Conv and a BN of the same `x`. The `2` of the 1×1 "
            "Conv and the `3` of the BN are added to the tap in the middle.",
            "c = Conv<pads = [1, 1, 1, 1]>(x, W); d = Conv(x, V); e = BN(x); f = Add(c, d);"
            "y = Add(f, e)",
            "double[1, 1, 3, 3] W = {1, 2, 3, 4, 5, 6, 7, 8, 9}",
            "double[1, 1, 1, 1] V = {2}",
            "double[1] scale = {3}",
            "double[1] B = {1}",
            "double[1] mean = {0}",
            "double[1] var = {1}",
            y="double[N, 1, 4, 4] y",
        ),
    ),
    "beyond-baking": (
        graph(
            "Weight norm: the weight is `direction·length`, computed at every run.",
            "weight = Mul(direction, length); y = Conv(x, weight)",
            "double[2, 1, 1, 1] direction = {1, -1}",
            "double[2, 1, 1, 1] length = {3, 5}",
        ),
    ),
    "beyond-quantized": (
        graph(
            "The scales get `|a| = {2, 0.5}`; the integers of channel 1 change their sign.",
            "weight = DequantizeLinear<axis = 0>(q, s); c = Conv(x, weight); y = BN(c)",
            "int8[2, 1, 1, 1] q = {10, 30}",
            "float[2] s = {1, 2}",
            *SINGLE,
            x="float[N, 1, 4, 4] x",
            y="float[N, 2, 4, 4] y",
        ),
    ),
}

EXAMPLES: dict[str, tuple[Example, ...]] = {
    **SOURCES,
    **ELEMENTWISE,
    **JOINTS,
    **LAYOUT,
    **POSITIONS,
    **SINKS,
    **BEYOND,
    **{page: (example,) for page, example in REASONS.items()},
}
