"""Walks through a traced function's operations: computes those that depend on constants only, and hands on the rest."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "remat2",
    "checkpoint",
)


# What constants are mostly made by.
QUICK: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "rsqrt": lambda x: 1 / np.sqrt(x),
}


class JaxprTranslator:
    """Translates operation by operation: `translate` of a subclass is given those that depend on the function's
    arguments.

    A value is a constant, an np.ndarray as JAX has it, or anything else that the subclass returned.
    """

    def inline(self, closed: ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
        """Returns the values that a jaxpr returns for the values of its arguments."""
        known: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, map(np.asarray, closed.consts), strict=True))
        known.update(zip(closed.jaxpr.invars, values, strict=True))

        def value_of(operand: Any) -> Any:
            return np.asarray(operand.val) if isinstance(operand, Literal) else known[operand]

        for equation in closed.jaxpr.eqns:
            operands = [value_of(operand) for operand in equation.invars]
            for variable, value in zip(equation.outvars, self._results(equation, operands), strict=True):
                known[variable] = value
        return [value_of(operand) for operand in closed.jaxpr.outvars]

    def _results(self, equation: Any, operands: list[Any]) -> list[Any]:
        params = equation.params
        if equation.primitive.name in CALLS:
            inner = params.get("jaxpr", params.get("call_jaxpr", params.get("fun_jaxpr")))
            return self.inline(inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ()), operands)
        if all(isinstance(operand, np.ndarray) for operand in operands) and _is_concrete(equation):
            if (quick := QUICK.get(equation.primitive.name)) is not None:  # compiling a program takes longer
                return [np.asarray(quick(*operands), equation.outvars[0].aval.dtype)]
            with jax.ensure_compile_time_eval():  # also while another function is traced
                results = equation.primitive.bind(*operands, **params)
            return list(map(np.asarray, results if equation.primitive.multiple_results else [results]))
        return [self.translate(equation, operands)]

    def translate(self, equation: Any, operands: list[Any]) -> Any:
        """Returns the value of an operation with one result."""
        raise NotImplementedError


def _is_concrete(equation: Any) -> bool:
    """Returns whether nothing about the operation's results depends on the size of the batch."""
    return all(isinstance(side, int) for variable in equation.outvars for side in variable.aval.shape)
