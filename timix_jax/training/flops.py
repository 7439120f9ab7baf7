"""Floating-point operations of a training step, counted in its jaxpr.

Matrix products and convolutions count, 2 operations per multiply-add; norms, activations and softmaxes do not (a few
percent at the usual widths). XLA's own count does not help, because it counts the body of a scan once.

The name stack of each product tells three kinds of work apart:

* rematerialised: work that the backward pass repeats, by `jax.checkpoint` or under `jax.named_scope("recomputed")`. Of
  the six products over all pairs in a tiled contrastive loss, three repeat similarities; without them every form of
  the loss counts the three products of the dense form.
* optimizer: everything under `jax.named_scope("optimizer")`, such as Muon's Newton–Schulz iterations.
* model: the rest. Utilisation (MFU) refers to this work.
"""

import math
import re
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, jaxprs_in_params
from jax.interpreters import partial_eval

_REMATERIALISED = re.compile(r"\b(rematted_computation|recomputed)\b")
_OPTIMIZER = re.compile(r"(^|/)optimizer(/|$)")


class StepFlops(NamedTuple):
    """FLOPs of one step over all devices.

    Attributes:
      model: the model's own work, forward and backward.
      rematerialised: parts of the forward pass that the backward pass repeats to save memory.
      optimizer: the optimiser's products.
    """

    model: float = 0.0
    rematerialised: float = 0.0
    optimizer: float = 0.0


def count_flops(jaxpr: ClosedJaxpr) -> StepFlops:
    """Count the products of a jaxpr by kind, without those whose results are unused.

    A scan counts once per iteration, a conditional as its most expensive branch. A while loop counts once, as a jaxpr
    does not say how often it runs (`fori_loop` with constant bounds is a scan). Work that shard_map repeats along a
    mesh axis, because none of its inputs is split over that axis, counts once.

    **Example:**

        count_flops(jax.jit(step).trace(abstract_state, abstract_batch).jaxpr).model
    """
    used, _ = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))
    return _count(used, "model")


def _count(jaxpr: Any, kind: str) -> StepFlops:
    total = StepFlops()
    for equation in jaxpr.eqns:
        total = _add(total, _count_equation(equation, kind))
    return total


def _count_equation(equation: Any, kind: str) -> StepFlops:
    # Name stacks are relative to the enclosing equation, whose kind its whole body has.
    if kind == "model":
        kind = _kind(str(equation.source_info.name_stack))
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return StepFlops(**{kind: _dot_flops(equation)})
    if name == "conv_general_dilated":
        return StepFlops(**{kind: _convolution_flops(equation)})
    # A scan holds a Jaxpr, other primitives a ClosedJaxpr; both have equations.
    bodies = [_count(body, kind) for body in jaxprs_in_params(params)]
    if name == "cond":
        return max(bodies, key=sum)
    repeated = {"scan": _scan_length, "shard_map": _shards}.get(name)
    times = repeated(params) if repeated else 1
    return StepFlops(*(times * sum(flops) for flops in zip(StepFlops(), *bodies, strict=True)))


def _kind(name_stack: str) -> str:
    if _OPTIMIZER.search(name_stack):
        return "optimizer"
    return "rematerialised" if _REMATERIALISED.search(name_stack) else "model"


def _add(one: StepFlops, other: StepFlops) -> StepFlops:
    return StepFlops(*(a + b for a, b in zip(one, other, strict=True)))


def _scan_length(params: dict[str, Any]) -> int:
    return params["length"]


def _shards(params: dict[str, Any]) -> int:
    """Return the number of distinct pieces of work in a shard_map, whose body is that of one device."""
    split: set[str] = set()
    for spec in params["in_specs"]:
        for axes in spec:
            split.update([axes] if isinstance(axes, str) else axes or ())
    return math.prod(params["mesh"].shape[axis] for axis in split)


def _dot_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    depth = math.prod(left[axis] for axis in contracted)
    return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)


def _convolution_flops(equation: Any) -> float:
    """Count products with real inputs: not with padding, nor with the zeros that a dilation puts between inputs.

    The two backward passes of a convolution then cost as much as the convolution itself.
    """
    params = equation.params
    numbers = params["dimension_numbers"]
    left, kernel = (equation.invars[i].aval.shape for i in (0, 1))
    out = equation.outvars[0].aval.shape
    total = 2.0 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    for axis, stride in enumerate(params["window_strides"]):
        size, taps, places = (
            shape[spec[2 + axis]] for shape, spec in zip((left, kernel, out), numbers, strict=True)
        )
        total *= sum(
            _meets_input(
                place * stride + tap * params["rhs_dilation"][axis] - params["padding"][axis][0],
                size,
                params["lhs_dilation"][axis],
            )
            for tap in range(taps)
            for place in range(places)
        )
    return total


def _meets_input(position: int, size: int, dilation: int) -> bool:
    index, hole = divmod(position, dilation)
    return not hole and 0 <= index < size
