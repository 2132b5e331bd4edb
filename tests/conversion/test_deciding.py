"""What becomes of each norm: by the options, or by a plan that was read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conversion.definition import conv_bn, converted
from graphs import bn, parse, weights
from onnx import ModelProto

import normsurgery
from normsurgery.conversion import Layer, layers
from normsurgery.errors import UsageError


def test_groups_fall_to_the_largest_divisor_and_that_is_said() -> None:
    model = conv_bn(24)
    for options, groups, note in (
        ({"groups": 3}, 3, ""),
        ({"groups": 32}, 3, "32 groups leave under 8 of 24 channels each"),
        ({"groups": 32, "least": 1}, 24, "32 groups do not divide 24"),
        ({"channels_per_group": 16}, 1, "16 channels per group do not divide 24"),
        ({"channels_per_group": 4}, 6, ""),
        ({}, 1, ""),
    ):
        (one,) = converted(model, **options).report.converted
        assert (one.groups, one.note) == (groups, note)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "grupp"}, "to 'grupp' is none of"),
        ({"gauge": "best"}, "gauge 'best' is none of"),
        ({"affine": "drop"}, "affine 'drop' is none of"),
        ({"to": "affine", "encoding": "layer"}, "encoding 'layer' is none of"),
        ({"to": "batch"}, "needs statistics"),
        ({"groups": 2, "channels_per_group": 2}, "not both"),
        ({"groups": 0}, "groups must be 1 or more"),
        ({"epsilon": -1.0}, "epsilon -1.0"),
        ({"epsilon": 1e7}, "of an input of unit variance"),
        ({"only": "y"}, "only is a list of patterns"),
        ({"skip": "first"}, "skip is a list of patterns"),
        ({"only": ["nothing*"]}, "matches none of the 1 norms"),
        ({"skip": ["channels>99"]}, "matches none of the 1 norms"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        normsurgery.convert(conv_bn(), **options)


def chain() -> ModelProto:
    """Three norms of 8, 16 and 24 channels, called a, b and c."""
    text = """
    g (double[n, 3, h, w] x) => (double[n, 24, h, w] z) {
        x1 = Conv (x, W1)
        y1 = BatchNormalization (x1, scale1, B1, mean1, var1)
        x2 = Conv (y1, W2)
        y2 = BatchNormalization (x2, scale2, B2, mean2, var2)
        x3 = Conv (y2, W3)
        z = BatchNormalization (x3, scale3, B3, mean3, var3)
    }"""
    sizes = {1: (3, 8), 2: (8, 16), 3: (16, 24)}
    tensors = {f"W{i}": weights(out, inner, 1, 1) for i, (inner, out) in sizes.items()}
    for i, (_, out) in sizes.items():
        tensors |= {f"{k}{i}": v for k, v in bn(out, i).items()}
    model = parse(text, **tensors)
    for node, name in zip(model.graph.node[1::2], "abc", strict=True):
        node.name = name
    return model


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"skip": ["first"]}, "bc"),
        ({"skip": ["last"]}, "ab"),
        ({"skip": ["last:2"]}, "a"),
        ({"only": ["b"]}, "b"),
        ({"only": ["[ab]"], "skip": ["first"]}, "b"),
        ({"skip": ["channels<16"]}, "bc"),
        ({"only": ["channels=16"]}, "b"),
        ({"only": ["z"]}, "c"),
        ({"only": ["first", "last"]}, "ac"),
    ],
)
def test_selection(options: dict[str, Any], names: str) -> None:
    result = converted(chain(), **options)
    assert "".join(one.node for one in result.report.converted) == names
    assert {left.node for left in result.report.left} == set("abc") - set(names)


def test_a_plan_is_written_edited_and_read_back(tmp_path: Path) -> None:
    model, path = chain(), tmp_path / "plan.json"
    first = converted(model, channels_per_group=8, skip=["a"])
    layers.write(path, first.plan)
    again = converted(model, plan=path)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    entries = json.loads(path.read_text())["convert"]
    entries[1].update(to="affine", encoding="auto")
    entries[2].update(groups=2, gauge="fold", epsilon=0.5)
    path.write_text(json.dumps({"convert": entries}))
    edited = converted(model, plan=path).report
    assert [(c.node, c.to, c.groups, c.gauge) for c in edited.converted] == [
        ("b", "affine", 1, "none"),
        ("c", "group", 2, "fold"),
    ]
    path.write_text(json.dumps({"convert": entries[2:]}))
    assert [left.reason for left in converted(model, plan=path).report.left] == [
        "not in the plan"
    ] * 2


GOOD = {"output": "z", "node": "c", "channels": 24, "to": "group"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ([GOOD], "is no plan"),
        ({"convert": {}}, "holds no list"),
        ({"convert": [3]}, "is no object"),
        ({"convert": [{**GOOD, "grups": 2}]}, "unknown key 'grups'"),
        ({"convert": [{**GOOD, "groups": "2"}]}, "groups is '2', not of type int"),
        ({"convert": [{**GOOD, "groups": True}]}, "groups is True, not of type int"),
        ({"convert": [{**GOOD, "groups": 5}]}, "24 channels do not make 5 groups"),
        ({"convert": [{**GOOD, "to": "none"}]}, "to 'none' is none of"),
        ({"convert": [{**GOOD, "to": "batch"}]}, "batch"),
        ({"convert": [GOOD, GOOD]}, "two entries for `z`"),
        ({"convert": [{"output": "z"}]}, "lacks channels, node, to"),
        ({"convert": [{**GOOD, "output": "q"}]}, "no norm here makes"),
        ({"convert": [{**GOOD, "channels": 12}]}, "has 12 channels, the norm 24"),
    ],
)
def test_a_plan_that_is_none(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UsageError, match=message):
        normsurgery.convert(chain(), plan=path)


def test_a_plan_may_be_a_list_of_layers() -> None:
    result = converted(chain(), plan=[Layer("z", "c", 24, "instance", 24)])
    assert [one.to for one in result.report.converted] == ["instance"]


def test_a_plan_nested_beyond_reason(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("[" * 200_000)
    with pytest.raises(UsageError, match="is no JSON"):
        normsurgery.convert(conv_bn(), plan=path)


def test_a_plan_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    plan = normsurgery.convert(conv_bn()).plan
    layers.write(tmp_path / "plan.json", plan)
    text = (tmp_path / "plan.json").read_text(encoding="utf-8")
    (tmp_path / "plan.json").write_text(text, encoding="utf-8-sig")
    assert layers.read(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("to", ["instance", "layer", "affine"])
@pytest.mark.parametrize("option", ["groups", "channels_per_group", "least"])
def test_what_a_target_has_no_use_for_is_refused(to: str, option: str) -> None:
    with pytest.raises(UsageError, match=f"--to {to} has no use for {option.replace('_', ' ')}"):
        normsurgery.convert(conv_bn(), to, **{option: 8})
