"""JAX primitives that are an ordinary function of JAX on every platform but one: on the CPU they may be another.

So each platform gets its own lowering, and programs for the others hold what the function says and no more.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, partial_eval

Function = Callable[..., Any]


def make_primitive(
    name: str,
    function: Function,
    for_cpu: Callable[..., Function | None],
    *,
    several: bool = False,
    infer: Function | None = None,
) -> Primitive:
    """Returns a primitive that computes `function(*operands, **params)`, and under vmap and elsewhere lowers to it.

    Args:
      for_cpu: gets (avals of the operands, avals of the results, whether the program is for one device, **params);
        returns the function of the operands that a program for the CPU computes, None for `function` itself.
      several: results are a tuple.
      infer: returns the type of the result, if that is quicker than to trace `function`.
    """
    primitive = Primitive(name)
    primitive.multiple_results = several

    @cache
    def compiled(**params: Any) -> Function:
        return jax.jit(partial(primitive.bind, **params))

    def infer_by_tracing(*operands: Any, **params: Any) -> Any:
        avals = jax.make_jaxpr(partial(function, **params))(*operands).out_avals
        return avals if several else avals[0]

    def lower_for_cpu(context: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        chosen = for_cpu(context.avals_in, context.avals_out, _is_for_one_device(context), **params)
        chosen = chosen or partial(function, **params)
        return mlir.lower_fun(chosen, multiple_results=several)(context, *operands)

    def batch(operands: Any, axes: Any, **params: Any) -> tuple[Any, Any]:
        mapped = jax.vmap(partial(function, **params), in_axes=axes)(*operands)
        return mapped, (0,) * len(mapped) if several else 0

    def compute(*operands: Any, **params: Any) -> Any:
        with jax.disable_jit(False):  # without, `bind` would end up here again
            return compiled(**params)(*operands)

    primitive.def_impl(compute)
    primitive.def_abstract_eval(infer or infer_by_tracing)
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=several))
    mlir.register_lowering(primitive, lower_for_cpu, platform="cpu")
    return primitive


def _is_for_one_device(context: mlir.LoweringRuleContext) -> bool:
    """Returns whether this part of the program sees one device's data: XLA would not split a custom call over
    several.
    """
    module = context.module_context
    if getattr(module.lowering_parameters, "for_export", False):
        return False
    axes: Any = module.axis_context
    if manual := getattr(axes, "manual_axes", None):  # inside shard_map
        return manual == frozenset(axes.mesh.axis_names)
    return getattr(axes, "num_devices", None) == 1


def evaluate_what_counts(function: Function, *operands: Any) -> Any:
    """Returns `function(*operands)`, an array, with no operation in the program that it does not depend on."""
    closed = jax.make_jaxpr(function)(*operands)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True], instantiate=True)
    (result,) = jax.core.eval_jaxpr(jaxpr, closed.consts, *operands)
    return result


def like(result: Any) -> jax.ShapeDtypeStruct:
    """Returns an array of a type: its shape and dtype, how it lies on an explicit mesh, and along which axes it
    varies.
    """
    return jax.ShapeDtypeStruct(
        result.shape,
        result.dtype,
        sharding=None if result.sharding.mesh.empty else result.sharding,
        manual_axis_type=result.manual_axis_type,
    )


def make_linear_primitive(
    name: str,
    function: Function,
    for_cpu_transposed: Callable[..., Function | None],
    *,
    num_linear: int,
    num_cotangents: int,
) -> Primitive:
    """Returns a primitive of several results, linear in its first operands, whose transpose is a primitive as well.

    The transpose takes the cotangents of the first results, if all others are zero, and returns the cotangents of the
    linear operands. Both are differentiable in all their operands as `function` is.

    Args:
      for_cpu_transposed: as `make_primitive` takes it, of the transpose: its operands are the cotangents, then what is
        not linear; its params also have `types`, the linear operands' types.
    """

    def transpose(*operands: Any, types: Any, **params: Any) -> tuple[Any, ...]:
        cotangents, given = operands[:num_cotangents], operands[num_cotangents:]

        def of_first(*linear: Any) -> Any:
            return tuple(function(*linear, *given, **params))[:num_cotangents]

        return tuple(jax.linear_transpose(of_first, *map(like, types))(tuple(cotangents)))

    def no_choice(*avals: Any, **params: Any) -> None:
        del avals, params

    primitive = make_primitive(name, function, no_choice, several=True)
    transposed = make_primitive(
        f"{name}_transpose", transpose, for_cpu_transposed, several=True, infer=lambda *operands, types, **params: types
    )

    def transpose_rule(cotangents: Any, *operands: Any, **params: Any) -> list[Any]:
        linear, given = operands[:num_linear], operands[num_linear:]
        unknown = [ad.is_undefined_primal(value) for value in linear]
        types = tuple(value.aval if ad.is_undefined_primal(value) else jax.typeof(value) for value in linear)
        first, others = cotangents[:num_cotangents], cotangents[num_cotangents:]
        if all(isinstance(one, ad.Zero) for one in others):
            found = transposed.bind(*map(ad.instantiate_zeros, first), *given, types=types, **params)
        else:
            of_all = partial(_of_linear, function, given, params)
            found = jax.linear_transpose(of_all, *map(like, types))(tuple(map(ad.instantiate_zeros, cotangents)))
        results = [one if is_unknown else None for one, is_unknown in zip(found, unknown, strict=True)]
        return [*results, *(None for _ in given)]

    def transpose_of_transposed(cotangents: Any, *operands: Any, types: Any, **params: Any) -> list[Any]:
        linear, given = operands[:num_cotangents], operands[num_cotangents:]
        of_cotangents = partial(_of_linear, transpose, given, {"types": types, **params})
        found = jax.linear_transpose(of_cotangents, *(like(value.aval) for value in linear))
        return [*found(tuple(map(ad.instantiate_zeros, cotangents))), *(None for _ in given)]

    for one, rule, of in ((primitive, transpose_rule, function), (transposed, transpose_of_transposed, transpose)):
        ad.primitive_jvps[one] = partial(_differentiate, of)
        ad.primitive_transposes[one] = rule
    return primitive


def _of_linear(function: Function, given: Any, params: Any, *linear: Any) -> tuple[Any, ...]:
    return tuple(function(*linear, *given, **params))


def _differentiate(function: Function, primals: Any, tangents: Any, **params: Any) -> Any:
    """Returns results and their tangents, of a function that JAX differentiates."""
    return jax.jvp(partial(function, **params), primals, tuple(map(ad.instantiate_zeros, tangents)))
