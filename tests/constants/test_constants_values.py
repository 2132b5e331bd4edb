from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from normsurgery import io
from normsurgery.constants import Constant, Limits, NotConstant, constant_of
from normsurgery.graph import Graph
from normsurgery.payloads import Computed


def parse(text: str, ir: int = 10, opset: int = 21) -> ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: {ir}, opset_import: ["" : {opset}, "f" : 1, "custom" : 1]>\n{text}'
    )


def graph(model: ModelProto, **options: bool) -> Graph:
    return Graph(io.from_proto(model), **options)


def values(found: Constant | NotConstant) -> Any:
    assert isinstance(found, Constant), found
    return found.float64().tolist()


def kind(found: Constant | NotConstant) -> str:
    assert isinstance(found, NotConstant)
    return found.kind


def test_stored_and_constant_nodes() -> None:
    model = parse("""main (float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
        c = Constant <value = float[2] {3, 4}> ()
        d = Identity (c)
        a = Add (x, w)
        y = Add (a, d)
    }""")
    main = graph(model).main
    assert values(constant_of(main, "w")) == [1, 2]
    assert values(constant_of(main, "d")) == [3, 4]
    assert kind(constant_of(main, "x")) == "input"
    assert kind(constant_of(main, "nothing")) == "input"
    found = constant_of(main, "y")
    assert kind(found) == "input"
    assert isinstance(found, NotConstant)
    assert found.name == "x"


@pytest.mark.parametrize(
    "node",
    [
        "y = Relu (w)",
        "y = custom.Mul (w, w)",
        "y = f.twice (w)",
    ],
)
def test_computed_by_something_else(node: str) -> None:
    model = parse(f"""main (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{ {node} }}
        <opset_import: ["" : 21], domain: "f">
        twice (a) => (b) {{ b = Add (a, a) }}""")
    assert kind(constant_of(graph(model).main, "y")) == "computed"


def test_operator_that_the_model_defines_itself() -> None:
    model = parse("main () => (float[2] y) <float[2] w = {1, 2}> { y = Mul (w, w) }")
    model.functions.add(name="Mul", domain="")
    assert kind(constant_of(graph(model).main, "y")) == "computed"


def test_a_value_that_a_cone_uses_twice() -> None:
    """Weight norm: g·v/‖v‖, in which v is computed and read twice."""
    text = """main () => (float[2,2] y) <float[2,2] w = {3, 4, 0, 2}, float[2,1] g = {1, 3}> {
        v = Transpose <perm = [0, 1]> (w)
        norm = ReduceL2 <axes = [1], keepdims = 1> (v)
        unit = Div (v, norm)
        y = Mul (unit, g)
    }"""
    for swapped in (text, text.replace("Mul (unit, g)", "Mul (g, unit)")):
        found = constant_of(graph(parse(swapped, opset=13)).main, "y")
        assert np.allclose(values(found), [[0.6, 0.8], [0, 3]])


def test_diamonds_take_no_exponential_time() -> None:
    nodes = "\n".join(f"v{i + 1} = Add (v{i}, v{i})" for i in range(200))
    model = parse(f"main () => (double y) <double v0 = {{1}}> {{ {nodes} y = Identity (v200) }}")
    assert values(constant_of(graph(model).main, "y")) == 2.0**200


def chain(length: int, op: str = "Identity") -> ModelProto:
    nodes = [helper.make_node(op, [f"v{i}"], [f"v{i + 1}"]) for i in range(length)]
    stored = numpy_helper.from_array(np.float32([1]), "v0")
    outputs = [helper.make_tensor_value_info(f"v{length}", TensorProto.FLOAT, [1])]
    return helper.make_model(helper.make_graph(nodes, "g", [], outputs, [stored]))


def test_deep_chains() -> None:
    assert values(constant_of(graph(chain(9_000)).main, "v9000")) == [1]
    assert kind(constant_of(graph(chain(20_000)).main, "v20000")) == "too-large"


def test_intermediate_results_are_counted_together() -> None:
    """Each result is within the limit; a hundred of them are not."""
    model = chain(100, "Neg")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(30_000, np.float32), "v0"))
    main = graph(model).main
    tracemalloc.start()
    found = constant_of(main, "v100", Limits(1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kind(found) == "too-large"
    assert peak < 3 << 20
    assert isinstance(constant_of(main, "v4", Limits(1 << 20)), Constant)


def test_views_are_free() -> None:
    model = chain(100, "Transpose")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((300, 300)), "v0"))
    assert isinstance(constant_of(graph(model).main, "v100", Limits(1 << 10)), Constant)


def test_later_outputs() -> None:
    model = parse("main () => (float[2] y, float[2] z) <float[2] w = {1, 2}> { y, z = Abs (w) }")
    assert kind(constant_of(graph(model).main, "z")) == "unsupported"
    assert values(constant_of(graph(model).main, "y")) == [1, 2]


# -- initializers that are inputs ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("ir", "freeze", "expected"),
    [(3, False, None), (4, False, "overridable"), (10, False, "overridable"), (10, True, None)],
)
def test_overridable_initializers(ir: int, freeze: bool, expected: str | None) -> None:
    model = parse("main (float[2] w) => (float[2] y) { y = Neg (w) }", ir=ir)
    model.graph.initializer.append(numpy_helper.from_array(np.float32([1, 2]), "w"))
    for name in ("w", "y"):
        found = constant_of(graph(model, freeze_inputs=freeze).main, name)
        assert isinstance(found, Constant) if expected is None else kind(found) == expected


def test_sparse_initializers() -> None:
    model = parse("main () => (float[9] y) { y = Neg (w) }")
    sparse = model.graph.sparse_initializer.add(dims=[9])
    sparse.values.CopyFrom(numpy_helper.from_array(np.float32([1]), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([3]), "i"))
    assert kind(constant_of(graph(model).main, "y")) == "sparse"


# -- bodies and functions ------------------------------------------------------------------------

BODIES = """main (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
    n = Neg (w)
    y = If (c) <
        then_branch = t () => (float[2] a) <float[2] own = {5, 6}> { a = Sub (n, own) },
        else_branch = e () => (float[2] b) { b = Add (x, w) }
    >
}"""


def test_values_of_scopes_around() -> None:
    scopes = graph(parse(BODIES)).scopes
    then, other = (next(s for s in scopes if name in s.producer) for name in "ab")
    assert values(constant_of(then, "a")) == [-6, -8]
    assert values(constant_of(other, "w")) == [1, 2]
    assert kind(constant_of(other, "b")) == "input"
    assert kind(constant_of(scopes[0], "own")) == "input", "bodies are not looked into"


def test_names_of_a_body_do_not_reach_into_the_scope_around() -> None:
    """The outer n is of the outer w, whatever the body calls w."""
    model = parse(BODIES.replace("own", "w"))
    scopes = graph(model).scopes
    then = next(s for s in scopes if "a" in s.producer)
    assert values(constant_of(then, "a")) == [-1 - 5, -2 - 6]


@pytest.mark.parametrize(("op", "constant"), [("If", True), ("Loop", False)])
@pytest.mark.parametrize("freeze", [False, True])
def test_initializers_that_are_inputs_of_a_body(op: str, constant: bool, freeze: bool) -> None:
    """IR 3 had to list those of If; a Loop feeds its inputs in each round."""
    model = parse(BODIES.replace("else_branch", "other"))
    node = model.graph.node[1]
    node.op_type = op
    node.input.append("")
    body = next(a.g for a in node.attribute if a.name == "then_branch")
    body.input.add(name="own")
    scope = next(s for s in graph(model, freeze_inputs=freeze).scopes if "a" in s.producer)
    found = constant_of(scope, "own")
    assert isinstance(found, Constant) if constant else kind(found) == "overridable"


def test_function_inputs_and_attributes() -> None:
    model = parse("""main (float[2] x) => (float[2] y) { y = f.twice <k = 1.0> (x) }
        <opset_import: ["" : 21], domain: "f">
        twice <k> (a) => (b) {
            c = Constant <value_float : float = @k> ()
            d = Constant <value_float = 2.0> ()
            e = Neg (d)
            g = Mul (a, c)
            b = Mul (g, e)
        }""")
    scope = next(s for s in graph(model).scopes if "b" in s.producer)
    assert kind(constant_of(scope, "a")) == "input"
    assert kind(constant_of(scope, "c")) == "computed"
    assert values(constant_of(scope, "e")) == -2


# -- the cone of torch's dynamo exporter ---------------------------------------------------------


DYNAMO = """main (float[2,3] x, T like) => (float[4] y, float[2,3] z)
    <float[4,3] w, float zero = {0}, int64[1] zeros = {0}, int64[1] ones = {1}> {
    shape = Shape (w)
    length = Slice (shape, zeros, ones)
    wide = Expand (zero, length)
    cast = CastLike (zero, x)
    y = Expand (cast, length)
    z = Neg (x)
}""".replace("T like", "float16[1] like")


def test_missing_bias_of_dynamo() -> None:
    model = parse(DYNAMO.replace("float[4,3] w, ", ""))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))
    found = constant_of(graph(model).main, "y")
    assert values(found) == [0, 0, 0, 0]
    assert isinstance(found, Constant)
    assert found.elem_type == TensorProto.FLOAT


def test_like_of_another_type() -> None:
    model = parse(DYNAMO.replace("float[4,3] w, ", "").replace("(zero, x)", "(zero, like)"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))
    found = constant_of(graph(model).main, "y")
    assert isinstance(found, Constant)
    assert found.elem_type == TensorProto.FLOAT16


@pytest.mark.parametrize(
    "node",
    ["s = Shape (x)\n y = Expand (c, s)", "y = Mul (c, x)", "m = Neg (x)\n y = Mul (c, m)"],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_value_of_run_time_is_no_constant_because_its_type_is_known(
    node: str, swapped: bool
) -> None:
    if swapped:
        node = node.replace("(c, x)", "(x, c)").replace("(c, m)", "(m, c)")
    model = parse(f"""main (float[2] x) => (float[2] y) <float k = {{1}}> {{
        c = CastLike (k, x)
        {node}
    }}""")
    assert kind(constant_of(graph(model).main, "y")) == "input"


def test_like_of_an_unknown_type() -> None:
    model = parse("""main (float[2] x) => (float[2] y) <float k = {1}> {
        u = custom.What (x)
        y = CastLike (k, u)
    }""")
    assert kind(constant_of(graph(model).main, "y")) == "computed"


# -- tensors that are not stored -----------------------------------------------------------------


def test_folded_tensors_with_their_factors() -> None:
    model = io.from_proto(
        parse("""main () => (float[2,2] y) <float[2,2] w = {1, 2, 3, 4}> {
            t = Transpose (w)
            y = Add (t, t)
        }""")
    )
    tensor = model.proto.graph.initializer[0]
    base = np.array([[1.0, 2], [3, 4]])
    model.store.put(tensor, Computed(base, (np.array([[10.0], [100.0]]),), TensorProto.FLOAT))
    main = Graph(model).main
    found = constant_of(main, "w")
    assert isinstance(found, Constant)
    assert found.tensor.base is base, "not multiplied out"
    assert values(found) == [[10, 20], [300, 400]]
    assert values(constant_of(main, "t")) == [[10, 300], [20, 400]]
    assert values(constant_of(main, "y")) == [[20, 600], [40, 800]]
    assert kind(constant_of(main, "t", Limits(31))) == "too-large"


def test_strings_are_constants_too() -> None:
    model = parse("main () => (string[1] y) { y = Identity (w) }")
    model.graph.initializer.append(numpy_helper.from_array(np.array(["a"], object), "w"))
    found = constant_of(graph(model).main, "y")
    assert isinstance(found, Constant)
    assert found.shape == (1,)
