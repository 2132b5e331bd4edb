"""Small graphs in which a norm stays, by the name of the page of the reason."""

from __future__ import annotations

from example_graphs import NO_SHIFT, ONES, SINGLE, SQUARE, graph

FUNCTION = """
<domain: "local", opset_import: ["" : 21]>
block <e> (x, W, p) => (y) {
  c = Conv(x, W)
  y = BatchNormalization<epsilon: float = @e>(c, p, p, p, p)
}"""

REASONS = {
    "why-training-mode": graph(
        "",
        "c = Conv(x, W);"
        "y = BatchNormalization<epsilon = 0.0, training_mode = 1>(c, scale, B, mean, var)",
    ),
    "why-per-activation": graph(
        "",
        "c = Conv(x, W); y = BatchNormalization<spatial = 0>(c, p, p, p, p)",
        "double[2, 1, 2] p = {1, 2, 3, 4}",
        x="double[N, 1, 1, 2] x",
        y="double[N, 2, 1, 2] y",
        opset=8,
    ),
    "why-not-constant": graph(
        "`mean` is an input.",
        "c = Conv(x, W); y = BN(c)",
        x="double[N, 1, 4, 4] x, double[2] mean",
    ),
    "why-overridable": graph(
        "`mean` is an input with a default value.",
        "c = Conv(x, W); y = BN(c)",
        x="double[N, 1, 4, 4] x, double[2] mean = {0, 3}",
    ),
    "why-not-finite": graph(
        "`epsilon` is 0 and so is a variance.",
        "c = Conv(x, W); y = BN(c)",
        "double[2] var = {1, 0}",
    ),
    "why-not-linear": graph("", "c = Conv(x, W); d = Sigmoid(c); y = BN(d)"),
    "why-graph-input": graph(
        "",
        "y = BN(x)",
        x="double[N, 2, 4, 4] x",
    ),
    "why-fan-out": graph("", "c = Conv(x, W); d = Relu(c); b = BN(c); y = Add(b, d)"),
    "why-graph-output": graph(
        "", "c = Conv(x, W); y = BN(c)", y="double[N, 2, 4, 4] c, double[N, 2, 4, 4] y"
    ),
    "why-custom-operator": graph("", "c = custom.Conv(x, W); y = BN(c)"),
    "why-attribute-reference": graph(
        "Functions with norms are put where they are called, unless that would make too large a "
        "graph, as here with `max_inlined_nodes=0`. One definition then serves every `e`.",
        "y = local.block<e = 0.5>(x, W, p)",
        "double[2] p = {1, 2}",
        functions=FUNCTION,
        max_inlined_nodes=0,
    ),
    "why-unknown-rank": graph(
        "Whether axis 1 holds the columns of the product depends on the rank of `x`.",
        "c = MatMul(x, A); y = BN(c)",
        SQUARE,
        *NO_SHIFT,
        x="double[] x",
        y="double[] y",
    ),
    "why-no-channel": graph(
        "The norm is over the height, axis 1 behind the Transpose and 2 before it; the Conv's "
        "weight has one value for all rows.",
        "c = Conv(x, W); d = Transpose<perm = [0, 2, 3, 1]>(c); y = BN(d)",
        x="double[N, 1, 2, 2] x",
        y="double[N, 2, 2, 2] y",
    ),
    "why-overflow": graph(
        "",
        "c = Conv(x, W); y = BN(c)",
        "float[1, 1, 1, 1] W = {1e30}",
        "float[1] scale = {1e30}",
        *ONES,
        x="float[N, 1, 4, 4] x",
        y="float[N, 1, 4, 4] y",
    ),
    "why-underflow": graph(
        "",
        "c = Conv(x, W); y = BN(c)",
        "float[1, 1, 1, 1] W = {1e-30}",
        "float[1] scale = {1e-30}",
        "float[1] B = {0}",
        "float[1] mean = {0}",
        "float[1] var = {1}",
        x="float[N, 1, 4, 4] x",
        y="float[N, 1, 4, 4] y",
    ),
    "why-weight-not-finite": graph(
        "", "c = Conv(x, W); y = BN(c)", "double[2, 1, 1, 1] W = {1, inf}"
    ),
    "why-no-bias": graph(
        "Only between matrices the shift may [stay behind as an Add](sink-matmul.md).",
        "c = MatMul(A, x); y = BN(c)",
        SQUARE,
        x="double[N, 2, 4] x",
        y="double[N, 2, 4] y",
    ),
    "why-padded-shift": graph(
        "",
        "b = BN(x); y = Conv<pads = [1, 1, 1, 1]>(b, V)",
        x="double[N, 2, 4, 4] x",
        y="double[N, 1, 6, 6] y",
    ),
    "why-negative-scale": graph(
        "",
        "c = Conv(x, W); d = MaxPool<kernel_shape = [2, 2]>(c); y = BN(d)",
        y="double[N, 2, 3, 3] y",
    ),
    "why-shift-across": graph(
        "No scale is negative, so that the shift alone is in the way.",
        "c = Conv(x, W); d = Relu(c); y = BN(d)",
        "double[2] scale = {2, 1}",
    ),
    "why-unknown-shape": graph(
        "`shape` is known at run time only.",
        "c = Conv(x, W); d = Reshape(c, shape); y = BN(d)",
        x="double[N, 1, 4, 4] x, int64[3] shape",
        y="double[N, 2, M] y",
    ),
    "why-mixed-channels": graph(
        "Each channel of the Conv is two of the norm's, which have different scales.",
        "c = Conv(x, W); d = Flatten(c); y = BatchNormalization<epsilon = 0.0>(d, p, p, p, p)",
        "double[4] p = {1, 2, 3, 4}",
        x="double[N, 1, 1, 2] x",
        y="double[N, 4] y",
    ),
    "why-reached-twice": graph(
        "The channels change places. Each gets its part of the map, and both come from one Conv.",
        "c = Conv(x, W); p, q = Split<axis = 1, num_outputs = 2>(c);"
        "d = Concat<axis = 1>(q, p); y = BN(d)",
    ),
    "why-read-in-body": graph(
        "",
        """b = BN(x); y = If (flag) <
        then_branch = then () => (double[N, 1, 4, 4] u) { u = Conv(b, V) },
        else_branch = otherwise () => (double[N, 1, 4, 4] v) { v = Conv(b, V) }>""",
        x="double[N, 2, 4, 4] x, bool flag",
        y="double[N, 1, 4, 4] y",
    ),
    "why-extra-output": graph(
        "",
        "c = Conv(x, W); d, at = MaxPool<kernel_shape = [2, 2]>(c); y = BN(d)",
        "double[2] scale = {2, 1}",
        y="double[N, 2, 3, 3] y, int64[N, 2, 3, 3] at",
    ),
    "why-quantized": graph(
        "Channel 1 would need the integer 128.",
        "weight = DequantizeLinear<axis = 0>(q, s); c = Conv(x, weight); y = BN(c)",
        "int8[2, 1, 1, 1] q = {10, -128}",
        "float[2] s = {1, 2}",
        *SINGLE,
        x="float[N, 1, 4, 4] x",
        y="float[N, 2, 4, 4] y",
    ),
    "why-too-long": graph(
        "Ten thousand nodes between the Conv and the BN.",
        "c = Conv(x, W); d0 = Identity(c);"
        + ";".join(f"d{i} = Identity(d{i - 1})" for i in range(1, 10_000))
        + "; y = BN(d9999)",
    ),
}
