"""Examples of the carriers that move values about: joined, cut, picked, repeated, laid out anew."""

from __future__ import annotations

from example_graphs import SQUARE, TO_ONE, graph

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
