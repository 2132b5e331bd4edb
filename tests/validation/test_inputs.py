from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from validation.nets import conv_bn_net, graph

from normsurgery.errors import InvalidModelError, NormSurgeryError, UsageError
from normsurgery.validation.inputs import KINDS, generate
from normsurgery.validation.sets import flatten, input_sets
from normsurgery.validation.shapes import fit, resolve
from normsurgery.validation.specs import specs
from normsurgery.validation.verdict import parity


def test_initializers_listed_as_inputs_are_no_inputs():
    model = graph("g (float[2] x, float[2] w) => (float[2] y) {y = Add(x, w)}",
                  w=np.zeros(2, np.float32))  # fmt: skip
    assert [spec.name for spec in specs(model)] == ["x"]


def test_dynamic_dimensions():
    model = graph("g (float[N,C,H,W] x, float[N,H] m, int64[?] k) => (float[?] y) {y = Relu(x)}")
    got = resolve(specs(model), batch=2, size=16)
    assert got == {"x": (2, 3, 16, 16), "m": (2, 16), "k": (2,)}


def test_channels_come_from_the_convolution_that_reads_the_input():
    model = graph("g (float[N,C,H,W] x) => (float[?] y) {y = Conv<group = 2>(x, w)}",
                  w=np.zeros((4, 3, 1, 1), np.float32))  # fmt: skip
    assert resolve(specs(model), size=8) == {"x": (1, 6, 8, 8)}


@pytest.mark.parametrize("axis", [1, -2])
@pytest.mark.parametrize("elem", ["int64", "int32"])
def test_indices_of_a_computed_value_reach_all_of_it(axis, elem):
    """Not only the first two: what is wrong behind the others would pass."""
    model = graph(f"""g ({elem}[3] i, float[N,5,2] x) => (float[?] y) {{
        r = Relu(x)
        j = Cast<to = 7>(i)
        k = Unsqueeze(j, one)
        y = Gather<axis = {axis}>(r, k)
    }}""", one=np.array([0]))  # fmt: skip
    assert specs(model)[0].rows == 5
    drawn = {int(i) for seed in range(40) for i in made(model, seed)["i"]}
    assert drawn == set(range(5))


def test_indices_of_two_tables_fit_both_and_a_free_size_tells_nothing():
    text = """g (int64[3] i, int64[3] k, float[N,2] x) => (float[?] a, float[?] b, float[?] c) {
        a = Gather(large, i)
        b = Gather<axis = 1>(small, i)
        c = Gather(x, k)
    }"""
    model = graph(text, large=np.zeros((9, 2)), small=np.zeros((2, 4)))
    assert [spec.rows for spec in specs(model)] == [4, None, None]
    broken = graph("g (int64[3] i) => (float[?] a) { a = Gather<axis = 5>(t, i) }", t=np.zeros(3))
    assert specs(broken)[0].rows is None


def made(model, seed):
    wanted = specs(model)
    return generate(wanted, resolve(wanted), "normal", np.random.default_rng(seed))


def test_nhwc_images_keep_their_height():
    model = graph("g (float[N,H,W,3] x) => (float[?] y) {y = Relu(x)}")
    assert resolve(specs(model), size=8) == {"x": (1, 8, 8, 3)}


def test_given_shapes_decide_named_dimensions():
    model = graph("g (float[N,3,S,S] x, float[N,S] m) => (float[?] y) {y = Relu(x)}")
    got = resolve(specs(model), shapes={"x": (4, 3, 24, 24)})
    assert got == {"x": (4, 3, 24, 24), "m": (4, 24)}


@pytest.mark.parametrize("shapes", [{"z": (1,)}, {"x": (1, 4, 8)}, {"x": (1, 3)}, {"x": (0, 3, 8)}])
def test_given_shapes_must_fit(shapes):
    model = graph("g (float[N,3,S] x) => (float[?] y) {y = Relu(x)}")
    with pytest.raises(UsageError):
        resolve(specs(model), shapes=shapes)


def test_strings_and_unknown_ranks_are_for_the_user():
    for text in ("string[2] x", "seq(float[2]) x"):
        with pytest.raises(UsageError, match="give inputs"):
            specs(graph(f"g ({text}) => (float[2] y) {{y = Identity(x)}}"))
    model = graph("g (float[2] x) => (float[2] y) {y = Relu(x)}")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UsageError, match="rank"):
        specs(model)


def test_the_ladder_is_climbed_until_the_model_runs():
    wanted = specs(conv_bn_net())
    assert fit(wanted, lambda _: None) == {"x": (1, 3, 16, 16)}
    model = graph("g (float[N,3,H,W] x) => (float[?] y) {y = Relu(x)}")
    seen = []

    def attempt(shapes):
        seen.append(shapes["x"][2])
        if shapes["x"][2] != 224:
            raise InvalidModelError("must be 224")

    assert fit(specs(model), attempt) == {"x": (1, 3, 224, 224)}
    assert seen[-1] == 224
    told = "none of 7 shapes, from x=1x3x64x64 on: give one with --shape; never"
    with pytest.raises(InvalidModelError, match=told):
        fit(specs(model), lambda _: (_ for _ in ()).throw(InvalidModelError("never")))


def test_a_signal_may_have_to_be_long():
    """A second of speech; an image has two free axes and is never so large."""

    def attempt(shapes):
        if shapes["x"][1] < 12400:
            raise InvalidModelError("too short")

    assert fit(specs(graph("g (float[N,T] x) => (float[?] y) {y = Relu(x)}")), attempt) == {
        "x": (1, 16000)
    }
    with pytest.raises(InvalidModelError, match="too short"):
        fit(specs(graph("g (float[N,H,W] x) => (float[?] y) {y = Relu(x)}")), attempt)


def test_sets_are_seeded_and_each_is_of_another_kind():
    model = graph("g (float[N,3,16,16] x) => (float[?] y) {y = Relu(x)}")
    twice = [list(input_sets(model, lambda _: None, 6, 7)) for _ in range(2)]
    for one, other in zip(*twice, strict=True):
        assert one.label == other.label
        assert np.array_equal(one.make()["x"], other.make()["x"])
    labels = [one.label.split(",")[0] for one in twice[0]]
    assert labels == list(KINDS)
    batches = [one.make()["x"].shape[0] for one in twice[0]]
    assert batches == [1, 2, 1, 2, 1, 2]


def test_a_model_that_takes_one_image_gets_one():
    model = graph("g (float[N,3,4,4] x) => (float[?] y) {y = Relu(x)}")

    def attempt(feeds):
        if feeds["x"].shape[0] != 1:
            raise InvalidModelError("one only")

    assert [s.make()["x"].shape[0] for s in input_sets(model, attempt, 3, 0)] == [1, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind):
    model = graph("g (float[1,3,32,32] x, float16[5] h) => (float[?] y) {y = Relu(x)}")
    wanted = specs(model)
    got = generate(wanted, resolve(wanted), kind, np.random.default_rng(0))
    x = got["x"]
    assert x.dtype == np.float32
    assert got["h"].dtype == np.float16
    assert np.isfinite(x).all()
    size = float(np.sqrt(np.mean(np.square(x))))
    low, high = {"large": (8, 12), "small": (0.08, 0.12), "normal": (0.9, 1.1)}.get(
        kind, (0.2, 1.6)
    )
    assert low < size < high
    if kind == "smooth":
        assert np.abs(np.diff(x, axis=-1)).mean() < 0.4 * x.std()


def test_integers_and_booleans_are_in_range():
    model = graph("""g (int64[2,50] ids, bool[9] b, uint8[1,40,40,3] p, int64 k, int32[4,4] m)
        => (float[?] y) {y = Gather(table, ids)}""")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((11, 2), np.float32), "table"))
    wanted = specs(model)
    got = generate(wanted, resolve(wanted), "normal", np.random.default_rng(0))
    assert got["ids"].dtype == np.int64
    assert got["ids"].min() >= 0
    assert 1 < got["ids"].max() < 11
    assert got["b"].dtype == bool
    assert got["p"].max() > 200
    assert got["k"] == 1
    assert set(np.unique(got["m"])) <= {0, 1}


def test_lengths_of_sequences_reach_the_longest():
    """With 1 for each, all steps but the first are masked, and what is wrong there would pass."""
    model = graph("""g (float[N,T,2] x, int64[N] long, int64[N] sizes, int64[N] row, int64 one)
        => (float[?] y, float[?] z, float[?] r) {
        c = Constant<value_ints = [0]>()
        u = Unsqueeze(c, c)
        y = ReduceSum(x, u)
        z = Relu(x)
        r = Gather(t, row)
    }""", t=np.zeros((5, 2), np.float32))  # fmt: skip

    def attempt(feeds):  # such as a mask made of the largest length
        if feeds["long"].max() > feeds["x"].shape[1] or feeds["sizes"].max() > 1:
            raise InvalidModelError("no")

    found = [one.make() for one in input_sets(model, attempt, 12, 0, batch=4)]
    steps = {feeds["x"].shape[1] for feeds in found}
    assert len(steps) == 2  # the second round is shorter
    for feeds in found:
        assert feeds["long"][0] == feeds["x"].shape[1]
        assert feeds["long"].min() >= 1
        assert feeds["long"].dtype == np.int64
        assert (feeds["sizes"] == 1).all()
        assert feeds["row"].max() < 5
        assert feeds["one"] == 1
    assert len({int(n) for feeds in found for n in feeds["long"]}) > 6


def test_a_recurrent_weight_is_seen_behind_lengths(tmp_path):
    """A GRU over packed sequences: with steps of one, its recurrent weights say nothing."""
    rng = np.random.default_rng(0)
    shapes = {"W": (1, 12, 2), "R": (1, 12, 4), "b": (1, 24)}
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    text = """g (float[N,T,2] x, int64[N] long) => (float[?] y) {
        t = Transpose<perm = [1, 0, 2]>(x)
        l = Cast<to = 6>(long)
        y, h = GRU<hidden_size = 4>(t, W, R, b, l)
    }"""
    wrong = {**weights, "R": np.roll(weights["R"], 4, axis=1)}
    paths = tmp_path / "reference.onnx", tmp_path / "candidate.onnx"
    for path, kept in zip(paths, (weights, wrong), strict=True):
        onnx.save(graph(text, **kept), path)
    found = parity(*paths, sets=2)
    assert found.oracle == "float64"
    assert not found.ok
    assert parity(paths[0], paths[0], sets=2).ok


def test_sequences_and_maps_are_flattened():
    one = np.ones(1)
    found = flatten({"a": one, "s": [one, one], "d": [{1: one}], "e": [{1: 0.5}, {2: 0.5}]})
    assert set(found) == {
        "a", "s[0]", "s[1]", "d[0][1]", "e[0][1]", "e[1][2]",
    }  # fmt: skip


def test_a_map_per_sample_is_one_array_per_key():
    flat = flatten({"p": [{"cat": 0.25, "dog": 0.75}, {"cat": 0.5, "dog": 0.5}]})
    assert {name: array.tolist() for name, array in flat.items()} == {
        "p['cat']": [0.25, 0.5], "p['dog']": [0.75, 0.5],
    }  # fmt: skip


def sizes(model, count=12, refuse=lambda shape: False, **options):
    """The shapes of x in all sets of a model that refuses some."""

    def attempt(made):
        if refuse(made["x"].shape):
            raise UsageError("not that")

    return [one.make()["x"].shape for one in input_sets(model, attempt, count, 0, **options)]


def test_the_second_round_has_other_sizes():
    model = graph("g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu(x) }")
    found = sizes(model)
    assert found[:6] == [(1, 3, 64, 64), (2, 3, 64, 64)] * 3
    assert found[6:] == [(2, 3, 33, 64), (1, 3, 33, 64)] * 3
    assert sizes(model, 6) == found[:6]


def test_sizes_stay_where_the_model_takes_no_other():
    model = graph("g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu(x) }")
    found = sizes(model, refuse=lambda shape: shape[2] < 64)
    assert {shape[2] for shape in found} == {64}
    assert {shape[0] for shape in found} == {1, 2}


def test_sizes_stay_where_they_are_given_or_fixed():
    model = graph("g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu(x) }")
    assert set(sizes(model, shapes={"x": (1, 3, 20, 24)})) == {(1, 3, 20, 24)}
    fixed = graph("g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu(x) }")
    assert {shape[2:] for shape in sizes(fixed)} == {(8, 8)}


def second_round(text, refused=(), **initializers):
    """The shapes of the seventh set, for a model that does not run in the shapes `refused`."""
    net = graph(text, **initializers)

    def attempt(feeds):
        if any(array.shape[-2:] in refused for array in feeds.values()):
            raise NormSurgeryError("refused")

    found = list(input_sets(net, attempt, 7, 0))[6].make()
    return {name: array.shape for name, array in found.items()}


def test_height_and_width_differ_where_both_are_free():
    text = "g (float[N,3,H,W] x, float[N,3,H,W] y) => (float[N,3,H,W] z) {z = Add(x, y)}"
    assert second_round(text) == {"x": (2, 3, 33, 64), "y": (2, 3, 33, 64)}
    assert second_round(text, refused=[(33, 64)])["x"][-2:] == (33, 33)
    assert second_round(text, refused=[(33, 33)])["x"][-2:] == (32, 64)
    assert second_round(text, refused=[(33, 33), (32, 64)])["x"][-2:] == (32, 32)


def test_height_and_width_of_one_name_are_one():
    square = "g (float[N,3,S,S] x) => (float[N,3,S,S] z) {z = Relu(x)}"
    assert second_round(square)["x"][-2:] == (33, 33)
    crossed = "g (float[N,3,H,W] x, float[N,3,W,H] y) => (float[N,3,H,W] z) {z = Relu(x)}"
    assert second_round(crossed)["x"][-2:] == (33, 33)
    rows = "g (float[N,T,8] x) => (float[N,T,8] z) {z = Relu(x)}"
    assert second_round(rows)["x"] == (2, 33, 8)


@pytest.mark.parametrize(("order", "ok"), [((0, 1, 2, 3), True), ((0, 1, 3, 2), False)])
def test_a_swap_of_height_and_width_is_seen(tmp_path, order, ok):
    """A square would not show it."""
    text = "g (float[N,3,H,W] x) => (float[?,?,?,?] y) {f = Flatten(x) q = Sigmoid(f) "
    text += "s = Shape(x) t = Gather(s, i) y = Reshape(q, t)}"
    for name, indices in (("reference", (0, 1, 2, 3)), ("candidate", order)):
        onnx.save(graph(text, i=np.array(indices)), tmp_path / f"{name}.onnx")
    paths = tmp_path / "reference.onnx", tmp_path / "candidate.onnx"
    assert parity(*paths, sets=6).ok
    assert parity(*paths, sets=7).ok is ok


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c)",
         "MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>(c)"),
        ('MaxPool<kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_UPPER">(c)',
         'MaxPool<kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_LOWER">(c)'),
    ],
)  # fmt: skip
def test_an_odd_size_is_rounded_the_right_way(tmp_path, right, wrong):
    """All powers of two are halved without a rest, behind a convolution of stride 2 too."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    paths = tmp_path / "reference.onnx", tmp_path / "candidate.onnx"
    for path, pool in zip(paths, (right, wrong), strict=True):
        text = "g (float[N,3,H,W] x) => (float[N,4,h,w] y) {"
        text += f"c = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w) y = {pool} }}"
        onnx.save(graph(text, w=w), path)
    assert parity(*paths, sets=6).ok
    assert not parity(*paths, sets=7).ok
