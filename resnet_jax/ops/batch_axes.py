"""The mesh axes over which the images of a batch are split."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh

from resnet_jax.errors import UserError

Array = jax.Array
AxisName = str | Sequence[str] | None


def mapped_batch_axes(images: Array, axis_name: AxisName = None) -> tuple[str, ...]:
    """Finds the axes of a surrounding `shard_map` that split the batch, of whose images (B, ...) one share is seen.

    Args:
      axis_name: the axes that split the batch; None: those along which the images vary where `shard_map` checks that,
        else its only axis of more than one device, whatever its name.

    Raises:
      UserError: where axis_name is no axis of the images' mesh or not what their type says, and where it is None and
        there is a choice.
    """
    mesh = jax.typeof(images).sharding.mesh
    manual = mesh.manual_axes
    names = varying_axes(images) if manual and _checks(manual) else None
    known = None if names is None else tuple(name for name in manual if name in names)
    return _split(manual, mesh, axis_name, known, "the surrounding shard_map")


def automatic_batch_axes(images: Array, axis_name: AxisName = None) -> tuple[str, ...]:
    """Finds the mesh axes that split the images (B, ...) that are seen, which the partitioner takes care of.

    Args:
      axis_name: the axes that split the batch; None: the axes of the images' type on an explicit mesh, else the
        only axis of more than one device, whatever its name.

    Raises:
      UserError: as `mapped_batch_axes` does.
    """
    sharding = jax.typeof(images).sharding
    mesh = sharding.mesh
    names = [name for name in mesh.axis_names if name not in mesh.manual_axes]
    rows = sharding.spec[0] if sharding.spec else None
    explicit = (rows,) if isinstance(rows, str) else tuple(rows or ())
    known = explicit if set(names) <= set(mesh.explicit_axes) else None
    return _split(names, mesh, axis_name, known, "their mesh")


def varying_axes(x: Any) -> frozenset[str]:
    """Returns the axes of a surrounding `shard_map` with its checks along which `x` may differ."""
    return jax.typeof(x).manual_axis_type.varying


def vary_alike(tree: Any, *others: Array) -> Any:
    """Casts each array of a tree to vary along all axes of a checking `shard_map` that `others` vary along.

    Its gradient is then each device's own. An array that does not vary has the sum over the devices as its gradient.
    """
    names = frozenset().union(*map(varying_axes, others))

    def cast(x: Array) -> Array:
        missing = tuple(sorted(names - varying_axes(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)


def _checks(manual: Sequence[str]) -> bool:
    """Returns whether the surrounding `shard_map` checks what varies: then a device's own index does."""
    return bool(varying_axes(jax.lax.axis_index(manual[0])))


def _split(
    names: Sequence[str], mesh: AbstractMesh, axis_name: AxisName, known: tuple[str, ...] | None, where: str
) -> tuple[str, ...]:
    """Returns which of `names` split the images: `known` unless that is None, else `axis_name`, else the only one."""
    given = (axis_name,) if isinstance(axis_name, str) else axis_name
    large = [name for name in names if mesh.shape[name] > 1]
    for name in given or ():
        if not mesh.empty and name not in mesh.axis_names:
            raise UserError(f"axis_name={name!r} must be of the images' mesh, which has {_listed(mesh.axis_names)}")
    if known is not None:
        if given is not None and {*known} & {*large} != {*given} & {*large}:
            raise UserError(
                f"axis_name={axis_name!r} must be what splits the images in {where}, which is {_listed(known)}"
            )
        return known
    if given is not None:
        return tuple(name for name in names if name in given)
    if len(large) > 1:
        raise UserError(
            f"axis_name=None must say which axes of {where} split the images: one or several of {_listed(large)}"
        )
    return tuple(large)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
