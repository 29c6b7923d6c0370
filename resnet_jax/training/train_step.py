"""The pure functions on a train state: `train_step`, the same in parts, `eval_step` and `per_example_eval_step`."""

from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from resnet_jax.ops.batch_axes import automatic_batch_axes, mapped_batch_axes, vary_alike
from resnet_jax.training.losses import (
    check_labels,
    correct,
    correct_labels,
    masked_mean,
    multi_label_cross_entropy,
    softmax_cross_entropy,
)
from resnet_jax.training.train_state import TrainState

Array = jax.Array
Batch = Mapping[str, Array]


def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    """Returns the state after one update, and the batch's metrics before it; pure, to be jitted.

    Metrics, all scalars: "loss" (mean, without the weight decay), "accuracy" in [0, 1], "gradient_norm" (L2, before the
    weight decay and any clipping; not finite if any gradient is not). With class weights "loss" is the sum of weighted
    losses by the sum of weights.

    Inside `shard_map` batch is a device's share; the update and the metrics cover the whole batch.

    Args:
      batch: "image" (B, H, W, C) normalised, or (B, C), their pooled features, if the head alone is trained;
        "label" (B,) int in [0, K), or (B, K) float, distributions over the classes (mixed images); where the state's
        loss is of several labels (B, K), 1 where the image has the label; optional "mask"
        (B,): rows of 0 count neither in the loss nor in the metrics (batch norm sees them all the same). A label
        outside [0, K) is a UserError (a ValueError); under `jit`, where values are not known, it makes the loss NaN.
    """
    dropout_key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    return _update(state, *_gradients(state, state.batch_stats, batch, dropout_key))


class Accumulated(flax.struct.PyTreeNode):
    """The results of a batch's parts so far: sums of their gradients and metrics, and the newest statistics.

    Attributes:
      num_parts: () int32.
      loss_weight, row_weight: () float, the sums of what the parts weigh, in the loss and its gradients and in the
        accuracy: 1 each, or where rows have a mask or classes a weight, as much as their rows.
    """

    num_parts: Array
    loss_weight: Array
    row_weight: Array
    gradients: Any
    batch_stats: Any
    metrics: dict[str, Array]


def begin_accumulation(state: TrainState) -> Accumulated:
    """Returns the sums before the first part of a batch; pure."""
    zero = jnp.zeros((), jax.tree.leaves(state.params)[0].dtype)
    return Accumulated(
        num_parts=jnp.zeros((), jnp.int32),
        loss_weight=zero,
        row_weight=zero,
        gradients=jax.tree.map(jnp.zeros_like, state.trained(state.params)),
        batch_stats=state.trained(state.batch_stats),
        metrics={"loss": zero, "accuracy": zero},
    )


def accumulate(state: TrainState, accumulated: Accumulated, batch: Batch) -> Accumulated:
    """Returns the sums with one more part of a batch added, a `batch` as `train_step` takes it; pure, to be jitted.

    Batch norm normalises each part separately and moves its running statistics with each part.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(state.seed), state.step), accumulated.num_parts)
    before = {**state.batch_stats, **accumulated.batch_stats}
    gradients, batch_stats, metrics = _gradients(state, before, batch, key)
    loss_weight, row_weight = _part_weights(state, batch, accumulated.loss_weight.dtype)
    weigh = partial(_weighed, weight=loss_weight)
    metrics = {"loss": weigh(metrics["loss"]), "accuracy": _weighed(metrics["accuracy"], row_weight)}
    return Accumulated(
        num_parts=accumulated.num_parts + 1,
        loss_weight=accumulated.loss_weight + (1.0 if loss_weight is None else loss_weight),
        row_weight=accumulated.row_weight + (1.0 if row_weight is None else row_weight),
        gradients=jax.tree.map(jnp.add, accumulated.gradients, jax.tree.map(weigh, gradients)),
        batch_stats=batch_stats,
        metrics=jax.tree.map(jnp.add, accumulated.metrics, metrics),
    )


def finish_accumulation(state: TrainState, accumulated: Accumulated) -> tuple[TrainState, dict[str, Array]]:
    """Returns the same as `train_step`, from the mean over the parts; pure, to be jitted."""
    loss_weight, totals = accumulated.loss_weight, accumulated.metrics
    gradients = jax.tree.map(lambda total: total / loss_weight.astype(total.dtype), accumulated.gradients)
    metrics = {"loss": totals["loss"] / loss_weight, "accuracy": totals["accuracy"] / accumulated.row_weight}
    return _update(state, gradients, accumulated.batch_stats, metrics)


def _part_weights(state: TrainState, batch: Batch, dtype: Any) -> tuple[Array | None, Array | None]:
    """Returns what a part of a batch weighs in the loss and in the accuracy; None where all parts weigh the same."""
    labels, mask = batch["label"], batch.get("mask")
    class_weights = None
    if state.loss.weighs_rows:
        class_weights = state.loss.row_weights(jnp.zeros((1, len(state.loss.class_weights)), dtype), labels)
    rows = None if mask is None else mask.astype(dtype)
    loss_rows = [factor for factor in (rows, class_weights) if factor is not None]
    axes = mapped_batch_axes(batch["image"], state.axis_name)

    def total(factors: list[Array]) -> Array | None:
        if not factors:
            return None
        weight = jnp.sum(prod(factors))
        return jax.lax.psum(weight, axes) if axes else weight

    return total(loss_rows), total([] if rows is None else [rows])


def _weighed(value: Array, weight: Array | None) -> Array:
    """Returns a part's mean times its weight; 0 of a part without weight, whose mean is 0 / 0."""
    return value if weight is None else jnp.where(weight > 0, value * weight.astype(value.dtype), 0.0)


def eval_step(state: TrainState, batch: Batch) -> dict[str, Array]:
    """Sums over a batch in evaluation mode; the division happens once, on the host.

    Pure, to be jitted.

    batch as in `train_step`, or "image" (B, V, H, W, 3): V views of each image, whose logits are averaged.

    Returns:
      "loss_sum" (cross-entropy without smoothing, whatever the training loss), "correct" and "count", scalars over
        the rows whose mask is not 0.
    """
    _, sums, _ = _evaluate(state, batch)
    return sums


def per_example_eval_step(state: TrainState, batch: Batch) -> dict[str, Any]:
    """Returns the result of `eval_step`, and under "rows" the result of each row, (B,) each; pure, to be jitted.

    "label" and "predicted", int32; "confidence", the largest probability, in (0, 1]; "rank", int32: how many classes
    stand before the label's, of equal logits the earlier class first, so that 0 is a correct answer; "loss" in nats;
    "counted", bool: whether the row's mask is not 0. "label" of the batch is (B,) int.
    """
    logits, sums, rows = _evaluate(state, batch)
    labels = batch["label"]
    at_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)  # (B, 1)
    earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
    before = (logits > at_label) | ((logits == at_label) & earlier)  # (B, K)
    rows = {
        "label": labels,
        "predicted": jnp.argmax(logits, axis=-1).astype(jnp.int32),
        "confidence": jnp.max(jax.nn.softmax(logits), axis=-1),
        "rank": jnp.sum(before, axis=-1, dtype=jnp.int32),
        **rows,
    }
    return {**sums, "rows": rows}


def multi_label_eval_step(state: TrainState, batch: Batch) -> dict[str, Any]:
    """Evaluates like `per_example_eval_step`, for images of several labels: "label" (B, K) is 1 where the image has it.

    Pure, to be jitted.

    Returns:
      "loss_sum" (binary cross-entropy without smoothing or weights), "correct" (the rows' shares of `correct_labels`,
      float) and "count", scalars over the rows whose mask is not 0; and "rows": "label" (B, K) uint8, "logit" (B, K),
      "loss" (B,) and "counted" (B,) bool, of which average precision is computed: no sum is enough for that.
    """
    labels, mask = batch["label"], batch.get("mask")
    logits = _logits(state, batch["image"])
    counted = jnp.ones(len(labels), bool) if mask is None else mask > 0
    losses = multi_label_cross_entropy(logits, labels)
    right = jnp.mean(correct_labels(logits, labels), axis=-1, dtype=logits.dtype)
    return {
        "loss_sum": jnp.sum(jnp.where(counted, losses, 0.0)),
        "correct": jnp.sum(jnp.where(counted, right, 0.0)),
        "count": jnp.sum(counted, dtype=jnp.int32),
        "rows": {"label": labels, "logit": logits, "loss": losses, "counted": counted},
    }


def _logits(state: TrainState, images: Array) -> Array:
    """Returns the logits (B, K) of images (B, H, W, 3), or the mean over views (B, V, H, W, 3), in evaluation mode."""
    views = images.reshape(-1, *images.shape[2:]) if images.ndim == 5 else images
    logits = state.apply_fn(state.variables, views, train=False)
    return logits.reshape(*images.shape[:2], -1).mean(axis=1) if images.ndim == 5 else logits


def _evaluate(state: TrainState, batch: Batch) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """Returns (logits (B, K), the sums of `eval_step`, "loss" and "counted" of each row) in evaluation mode."""
    labels, mask = batch["label"], batch.get("mask")
    logits = _logits(state, batch["image"])
    check_labels(labels, logits.shape[-1], mask)
    counted = jnp.ones(len(labels), bool) if mask is None else mask > 0
    losses = softmax_cross_entropy(logits, labels)
    sums = {
        "loss_sum": jnp.sum(jnp.where(counted, losses, 0.0)),
        "correct": jnp.sum(correct(logits, labels) & counted, dtype=jnp.int32),
        "count": jnp.sum(counted, dtype=jnp.int32),
    }
    return logits, sums, {"loss": losses, "counted": counted}


def _gradients(
    state: TrainState, batch_stats: Any, batch: Batch, dropout_key: Array
) -> tuple[Any, Any, dict[str, Array]]:
    """Returns (gradients, batch statistics after the batch, metrics but for the gradients' norm), of the trained
    layers.
    """
    images = batch["image"]
    mapped = mapped_batch_axes(images, state.axis_name)
    if mapped:  # inside a shard_map of the caller's
        return _mean_of_gradients(state, mapped, state.params, batch_stats, batch, dropout_key)
    axes = automatic_batch_axes(images, state.axis_name) if state.local_batch_norm else ()
    if not axes:
        return _share_of_gradients(state, state.params, batch_stats, batch, dropout_key, ())
    # Each device computes alone, and one all-reduce brings all of it together, as torch's data parallelism does.
    whole, rows = PartitionSpec(), PartitionSpec(axes)
    compute = jax.shard_map(
        partial(_mean_of_gradients, state, axes),
        mesh=jax.typeof(images).sharding.mesh,
        in_specs=(whole, whole, rows, whole),
        out_specs=whole,
        check_vma=False,
    )
    return compute(state.params, batch_stats, dict(batch), dropout_key)


def _mean_of_gradients(
    state: TrainState, axes: tuple[str, ...], params: Any, batch_stats: Any, batch: Batch, dropout_key: Array
) -> tuple[Any, Any, dict[str, Array]]:
    """Returns `_gradients` by the shares of the batch that lie along mapped axes, the same on all devices."""
    for name in axes:
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(name))
    # As a device's own, the parameters get the gradient of its share alone, whether shard_map checks or not.
    params = vary_alike(params, batch["image"])
    return jax.lax.pmean(_share_of_gradients(state, params, batch_stats, batch, dropout_key, axes), axes)


def _share_of_gradients(
    state: TrainState, params: Any, batch_stats: Any, batch: Batch, dropout_key: Array, axes: tuple[str, ...]
) -> tuple[Any, Any, dict[str, Array]]:
    """Returns `_gradients` of the rows that one device sees; their mean over the mapped axes, if any, is the result of
    all rows.
    """
    labels, mask = batch["label"], batch.get("mask")

    def loss_fn(trained: Any) -> tuple[Array, tuple[Array, Any]]:
        logits, updated = state.apply_fn(
            {"params": {**params, **trained}, "batch_stats": batch_stats},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        check_labels(labels, logits.shape[-1], mask)
        weights = state.loss.row_weights(logits, labels)
        return masked_mean(state.loss(logits, labels), mask, axes, weights), (logits, updated.get("batch_stats", {}))

    (loss, (logits, moved)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.trained(params))
    accuracy = masked_mean(state.loss.accuracy(logits, labels).astype(loss.dtype), mask, axes)
    # Without the frozen layers' statistics: even a mean over devices would change their last bits.
    return gradients, state.trained(moved), {"loss": loss, "accuracy": accuracy}


def _update(
    state: TrainState, gradients: Any, batch_stats: Any, metrics: dict[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """Returns the state after the optimizer's step along `gradients`, and the metrics with the gradients' norm.

    Args:
      batch_stats: the trained layers'.
    """
    trained = state.trained(state.params)
    updates, opt_state = state.tx.update(gradients, state.opt_state, trained)
    metrics = {**metrics, "gradient_norm": optax.tree.norm(gradients)}
    params = {**state.params, **optax.apply_updates(trained, updates)}
    batch_stats = {**state.batch_stats, **batch_stats}
    ema_params, ema_batch_stats = state.ema_params, state.ema_batch_stats
    if state.averaging is not None:
        # Of frozen layers the average is the layer itself, to the last bit: not decay * x + (1 - decay) * x.
        old = state.trained(ema_params), state.trained(ema_batch_stats)
        moved = state.averaging(old, (state.trained(params), state.trained(batch_stats)), state.step)
        ema_params, ema_batch_stats = {**ema_params, **moved[0]}, {**ema_batch_stats, **moved[1]}
    new_state = state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema_params=ema_params,
        ema_batch_stats=ema_batch_stats,
    )
    if state.on_nonfinite == "skip":
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        new_state = _unless_skipped(finite, new_state, state)
    return new_state, metrics


def _unless_skipped(finite: Array, new: TrainState, old: TrainState) -> TrainState:
    """Returns `new` if `finite`, else `old` but for the step number and the learning rate's schedule, which follows
    it.
    """
    is_schedule = lambda node: isinstance(node, optax.ScaleByScheduleState)  # noqa: E731

    def choose_one(one: Any, other: Any) -> Any:
        return one if is_schedule(one) else jnp.where(finite, one, other)

    return jax.tree.map(choose_one, new, old, is_leaf=is_schedule).replace(step=new.step)
