"""Small graphs to see each entry of the calculus at work, by the name of its page."""

from __future__ import annotations

from example_arithmetic import ELEMENTWISE, POSITIONS
from example_graphs import MATRIX, NO_SHIFT, SINGLE, SQUARE, TO_ONE, Example, graph
from example_moving import JOINTS, LAYOUT
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
