"""What a file's metadata tell of the verbs that it went through."""

from __future__ import annotations

import pytest
from onnx import ModelProto, helper

from normsurgery import io, models


def model(**props: str) -> io.Model:
    proto = helper.make_model(helper.make_graph([], "g", [], []))
    helper.set_model_props(proto, {f"normsurgery.{key}": value for key, value in props.items()})
    return io.from_proto(proto)


def stamped(*verbs: str) -> io.Model:
    made = model()
    for verb in verbs:
        models.stamp(made, verb, lambda: "hash")
        made = io.from_proto(io.to_proto(made))
    return made


def test_a_stamp_adds_to_the_history_and_to_nothing_twice() -> None:
    made = stamped("export", "convert", "fold")
    assert models.verb(made) == "fold"
    assert models.history(made) == ("export", "convert", "fold")
    proto: ModelProto = io.to_proto(made)
    keys = [prop.key for prop in proto.metadata_props]
    assert sorted(keys) == sorted({*keys})


def test_files_of_older_versions_tell_their_last_verb() -> None:
    assert models.history(model(verb="convert")) == ("convert",)
    assert models.history(stamped("fold")) == ("fold",)
    assert models.history(model()) == ()


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (("convert", "fold"), (), ("convert", "fold")),
        (("convert", "fold"), ("convert",), ("fold",)),
        (("convert",), ("convert",), ()),
        ((), ("convert",), ()),
        (("fold", "convert"), ("unfold",), ("fold", "convert")),
        (("export", "convert", "finetune"), ("export", "fold"), ("convert", "finetune")),
    ],
)
def test_since_is_what_came_after_both_were_one(
    ours: tuple[str, ...], theirs: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert models.since(stamped(*ours), stamped(*theirs)) == expected
