"""``onnx.reference.ReferenceEvaluator``, made to stay in float64 and within a budget.

What the base class lacks, and what is mended here:

- FLOAT attributes arrive as ``np.float32`` scalars, and arithmetic between two of them rounds to
  float32; here they are the same values as Python floats;
- constants in the function body of an operator (Gelu, Mish, …) stay float32;
- replaced operators do not reach local functions;
- every intermediate result is kept to the end; here it is dropped after its last use;
- a result in a narrower type passes unnoticed; here it is an error that names the node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from normsurgery.validation.budget import Budget, NoOracleError
from normsurgery.validation.double import double_function, widen
from normsurgery.validation.operators import implementations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Random by definition, or computed in float32 inside onnx.reference and cast afterwards.
_RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
_SINGLE = frozenset(
    {
        "AffineGrid",
        "CausalConvWithState",
        "DynamicQuantizeLinear",
        "GridSample",
        "LinearAttention",
        "MelWeightMatrix",
        "QLinearConv",
        "QLinearMatMul",
    }
)


class DoubleEvaluator(ReferenceEvaluator):
    """Runs a graph whose types are float64 already (`double.to_double`).

    The budget belongs to the class, not to the object, since the base class makes evaluators
    of ``type(self)`` for subgraphs and functions, and all share one: see :func:`evaluator`.
    """

    budget: ClassVar[Budget | None] = None

    def __init__(self, proto: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(proto, onnx.FunctionProto):
            body = onnx.FunctionProto()
            body.CopyFrom(proto)
            double_function(body)
            proto = body
        kwargs["new_ops"] = list(implementations())
        super().__init__(proto, *args, **kwargs)
        for name, value in self.rt_inits_.items():
            if isinstance(value, np.ndarray):
                self.rt_inits_[name] = widen(value)
        for node in self.rt_nodes_:
            node.run_params["budget"] = self.budget
            _exact_attributes(node)
        self.last_uses_ = _last_uses(self.nodes_, self.output_names_)

    def run(
        self,
        output_names: Sequence[str] | None,
        feed_inputs: Mapping[str, Any],
        attributes: dict[str, Any] | None = None,
        intermediate: bool = False,
        *_: object,
        **__: object,
    ) -> Any:
        """As in the base class; `intermediate` keeps every value.

        Raises:
            NoOracleError: a node cannot be run, leaves float64, or is over the budget.

        """
        results: dict[str, Any] = {"": None, **self.rt_inits_, **feed_inputs}
        wanted = list(self.output_names_ if output_names is None else output_names)
        for position, node in enumerate(self.rt_nodes_):
            for name, value in zip(node.output, _run_node(node, results, attributes), strict=False):
                _check(node, value)
                results[name] = value
                if self.budget is not None:
                    self.budget.spend(np.size(value) if isinstance(value, np.ndarray) else 1)
            if not intermediate:
                for name in self.last_uses_.get(position, ()):
                    if name not in wanted:
                        results.pop(name, None)
        return results if intermediate else [results[name] for name in wanted]


def evaluator(model: onnx.ModelProto, budget: Budget) -> DoubleEvaluator:
    """An evaluator of `model` whose subgraphs and functions all spend from `budget`."""
    kind = type("BudgetedEvaluator", (DoubleEvaluator,), {"budget": budget})
    made: DoubleEvaluator = kind(model)
    return made


def _run_node(
    node: Any,
    results: Mapping[str, Any],
    attributes: dict[str, Any] | None,
) -> Sequence[Any]:
    if node.domain in {"", "ai.onnx"} and node.op_type in _RANDOM:
        raise NoOracleError(f"{_label(node)} is random")
    if node.domain in {"", "ai.onnx"} and node.op_type in _SINGLE:
        raise NoOracleError(f"{_label(node)} has no float64 implementation")
    extra: dict[str, Any] = {}
    if node.has_linked_attribute and attributes:
        extra["linked_attributes"] = attributes
    if node.need_context():
        extra["context"] = results
    try:
        with np.errstate(all="ignore"):
            outputs: Sequence[Any] = node.run(*(results[name] for name in node.input), **extra)
    except NoOracleError:
        raise
    except Exception as failure:  # whatever an implementation stumbles over
        cause = failure.__cause__ or failure
        line = next(iter(str(cause).splitlines()), type(cause).__name__)
        raise NoOracleError(f"{_label(node)} does not run in float64: {line[:160]}") from failure
    return outputs


def _check(node: Any, value: Any) -> None:
    for array in value if isinstance(value, list) else (value,):
        dtype = getattr(array, "dtype", np.dtype(bool))
        if dtype.name in {"float32", "float16", "bfloat16"}:
            raise NoOracleError(f"{_label(node)} gives {dtype.name} where float64 was due")


def _label(node: Any) -> str:
    named = node.onnx_node.name or (node.output[0] if node.output else "")
    return f"{node.op_type} {named!r}"


def _exact_attributes(node: Any) -> None:
    for name in getattr(node, "attributes_names_", ()):
        value = getattr(node, name, None)
        if isinstance(value, np.float32):
            setattr(node, name, float(value))
        elif isinstance(value, list) and any(isinstance(v, np.float32) for v in value):
            setattr(node, name, [float(v) for v in value])
    held = getattr(node, "attributes_", None)
    if isinstance(held, dict):
        node.attributes_ = {name: getattr(node, name, value) for name, value in held.items()}


def _last_uses(nodes: Sequence[onnx.NodeProto], kept: Sequence[str]) -> dict[int, list[str]]:
    """For each node's position, the values that nothing after it reads."""
    last: dict[str, int] = {}
    for position, node in enumerate(nodes):
        for name in (*_reads(node), *node.output):
            last[name] = position
    dead: dict[int, list[str]] = {}
    for name, position in last.items():
        if name and name not in kept:
            dead.setdefault(position, []).append(name)
    return dead


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The node's inputs, and everything that its subgraphs name."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield from (output.name for output in attribute.g.output)
            for inner in attribute.g.node:
                yield from _reads(inner)
