"""The train state and the pure functions on it: `train_step`, the same in parts, and `eval_step`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from resnet_jax.errors import UserError, choose
from resnet_jax.models.resnet import BATCH_AXIS, mesh_of_rows
from resnet_jax.training.metrics import Loss, correct, masked_mean, softmax_cross_entropy

Array = jax.Array
Batch = Mapping[str, Array]

ON_NONFINITE = ("stop", "skip")


@dataclass(frozen=True)
class Averaging:
    """When and how the moving average of the weights is updated, as torchvision's reference training does it.

    decay in [0, 1): the share of the average that stays. every_steps: after the updates 1, 1 + every_steps, ...
    warmup_steps: the average is a copy of the weights until an update of it lies behind so many updates.
    Raises UserError (a ValueError) for numbers outside these ranges.
    """

    decay: float
    every_steps: int = 1
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise UserError(f"ema_decay={self.decay} must be in [0, 1)")
        if self.every_steps < 1:
            raise UserError(f"ema_every_steps={self.every_steps} must be at least 1")
        if self.warmup_steps < 0:
            raise UserError(f"ema_warmup_steps={self.warmup_steps} must be at least 0")

    def __call__(self, average: Any, new: Any, step: Array) -> Any:
        """The average (a tree of arrays) after the update number `step` (from 0) has made `new`."""
        due = step % self.every_steps == 0
        copies = step - self.every_steps < self.warmup_steps

        def one(old: Array, value: Array) -> Array:
            moved = self.decay * old + (1.0 - self.decay) * value
            return jnp.where(due, jnp.where(copies, value, moved), old)

        return jax.tree.map(one, average, new)


class TrainState(flax.struct.PyTreeNode):
    """All that a training step reads and writes; the fields after `ema_batch_stats` are fixed for a run.

    step: updates done, () int32. params, batch_stats: the model's variables. opt_state: the optimizer's. ema_params,
    ema_batch_stats: the moving averages of params and batch_stats; None without `averaging`.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema_params: Any
    ema_batch_stats: Any
    apply_fn: Callable[..., Any] = flax.struct.field(pytree_node=False)
    tx: optax.GradientTransformation = flax.struct.field(pytree_node=False)
    loss: Loss = flax.struct.field(pytree_node=False)
    averaging: Averaging | None = flax.struct.field(pytree_node=False)
    on_nonfinite: str = flax.struct.field(pytree_node=False)
    local_batch_norm: bool = flax.struct.field(pytree_node=False)
    seed: int = flax.struct.field(pytree_node=False)

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def averaged(self) -> "TrainState":
        """This state with the moving averages as its variables, to be evaluated. Raises ValueError if it has none."""
        if self.averaging is None:
            raise ValueError("the train state has no moving average: create it with ema_decay")
        return self.replace(params=self.ema_params, batch_stats=self.ema_batch_stats)


def create_train_state(
    model: nn.Module,
    variables: Mapping[str, Any],
    tx: optax.GradientTransformation,
    *,
    label_smoothing: float = 0.0,
    loss: str = "softmax",
    target_threshold: float = 0.0,
    ema_decay: float | None = None,
    ema_every_steps: int = 1,
    ema_warmup_steps: int = 0,
    on_nonfinite: str = "stop",
    seed: int = 0,
) -> TrainState:
    """A train state at step 0.

    variables: from `model.init` (or imported weights). loss, label_smoothing, target_threshold: see `Loss`.
    ema_decay: None for no moving average of the weights; see `Averaging`. on_nonfinite: "skip" leaves all but the step
    number as it was where a loss or gradient is not finite; "stop" leaves that to whoever reads the metrics. seed: of
    the dropout.
    Raises UserError (a ValueError) for values outside their ranges.
    """
    averaging = None if ema_decay is None else Averaging(ema_decay, ema_every_steps, ema_warmup_steps)
    params, batch_stats = variables["params"], variables["batch_stats"]
    # Copies: a donated state must not hold one buffer twice.
    ema_params, ema_batch_stats = jax.tree.map(jnp.copy, (params, batch_stats)) if averaging else (None, None)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(params),
        ema_params=ema_params,
        ema_batch_stats=ema_batch_stats,
        apply_fn=model.apply,
        tx=tx,
        loss=Loss(loss, label_smoothing, target_threshold),
        averaging=averaging,
        on_nonfinite=choose("on_nonfinite", on_nonfinite, ON_NONFINITE),
        local_batch_norm=getattr(model, "batch_norm", None) == "local",
        seed=seed,
    )


def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    """The state after one update, and the batch's metrics before it; pure, to be jitted.

    batch: "image" (B, H, W, 3) normalised; "label" (B,) int in [0, K), or (B, K) float, distributions over the classes
    (mixed images); optional "mask" (B,): rows of 0 count neither in the loss nor in the metrics (batch norm sees them
    all the same).
    Metrics, all scalars: "loss" (mean, without the weight decay), "accuracy" in [0, 1], "gradient_norm" (L2, before
    the weight decay and any clipping; not finite if any gradient is not).
    """
    dropout_key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    return _update(state, *_gradients(state, state.batch_stats, batch, dropout_key))


class Accumulated(flax.struct.PyTreeNode):
    """What the parts of a batch have given so far: sums of their gradients and metrics, and the newest statistics.

    num_parts: () int32.
    """

    num_parts: Array
    gradients: Any
    batch_stats: Any
    metrics: dict[str, Array]


def begin_accumulation(state: TrainState) -> Accumulated:
    """The sums before the first part of a batch; pure."""
    zero = jnp.zeros((), jax.tree.leaves(state.params)[0].dtype)
    return Accumulated(
        num_parts=jnp.zeros((), jnp.int32),
        gradients=jax.tree.map(jnp.zeros_like, state.params),
        batch_stats=state.batch_stats,
        metrics={"loss": zero, "accuracy": zero},
    )


def accumulate(state: TrainState, accumulated: Accumulated, batch: Batch) -> Accumulated:
    """The sums with those of one more part of a batch, a `batch` as `train_step` takes it; pure, to be jitted.

    Batch norm normalises each part by itself and moves its running statistics with each part.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(state.seed), state.step), accumulated.num_parts)
    gradients, batch_stats, metrics = _gradients(state, accumulated.batch_stats, batch, key)
    return Accumulated(
        num_parts=accumulated.num_parts + 1,
        gradients=jax.tree.map(jnp.add, accumulated.gradients, gradients),
        batch_stats=batch_stats,
        metrics=jax.tree.map(jnp.add, accumulated.metrics, metrics),
    )


def finish_accumulation(state: TrainState, accumulated: Accumulated) -> tuple[TrainState, dict[str, Array]]:
    """What `train_step` returns, from the mean over the parts; pure, to be jitted."""
    gradients, metrics = jax.tree.map(
        lambda total: total / accumulated.num_parts.astype(total.dtype), (accumulated.gradients, accumulated.metrics)
    )
    return _update(state, gradients, accumulated.batch_stats, metrics)


def eval_step(state: TrainState, batch: Batch) -> dict[str, Array]:
    """Sums over a batch in evaluation mode; the division happens once, on the host. Pure, to be jitted.

    batch as in `train_step`, or "image" (B, V, H, W, 3): V views of each image, whose logits are averaged. Returns
    "loss_sum" (cross-entropy without smoothing, whatever the training loss), "correct" and "count", scalars over the
    rows whose mask is not 0.
    """
    labels, mask, images = batch["label"], batch.get("mask"), batch["image"]
    logits = state.apply_fn(state.variables, images.reshape(-1, *images.shape[-3:]), train=False)
    if images.ndim == 5:
        logits = logits.reshape(*images.shape[:2], -1).mean(axis=1)
    weights = jnp.ones(labels.shape, jnp.int32) if mask is None else mask.astype(jnp.int32)
    losses = softmax_cross_entropy(logits, labels)
    return {
        "loss_sum": jnp.sum(jnp.where(weights > 0, losses, 0.0)),
        "correct": jnp.sum(correct(logits, labels) * weights),
        "count": jnp.sum(weights),
    }


def _gradients(
    state: TrainState, batch_stats: Any, batch: Batch, dropout_key: Array
) -> tuple[Any, Any, dict[str, Array]]:
    """(gradients, batch statistics after the batch, metrics but for the gradients' norm) of a batch."""
    mesh = mesh_of_rows(batch["image"]) if state.local_batch_norm else None
    if mesh is None:
        return _share_of_gradients(state, state.params, batch_stats, batch, dropout_key, None)

    # Each device computes by itself, and one all-reduce brings all of it together, as torch's data parallelism does.
    def on_device(params: Any, batch_stats: Any, batch: Batch, key: Array) -> Any:
        key = jax.random.fold_in(key, jax.lax.axis_index(BATCH_AXIS))
        return jax.lax.pmean(_share_of_gradients(state, params, batch_stats, batch, key, BATCH_AXIS), BATCH_AXIS)

    whole, rows = PartitionSpec(), PartitionSpec(BATCH_AXIS)
    mapped = jax.shard_map(on_device, mesh=mesh, in_specs=(whole, whole, rows, whole), out_specs=whole, check_vma=False)
    return mapped(state.params, batch_stats, dict(batch), dropout_key)


def _share_of_gradients(
    state: TrainState, params: Any, batch_stats: Any, batch: Batch, dropout_key: Array, axis_name: str | None
) -> tuple[Any, Any, dict[str, Array]]:
    """`_gradients` of the rows that one device sees; their mean over the mapped axis, if any, is that of all rows."""
    labels, mask = batch["label"], batch.get("mask")

    def loss_fn(params: Any) -> tuple[Array, tuple[Array, Any]]:
        logits, updated = state.apply_fn(
            {"params": params, "batch_stats": batch_stats},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        return masked_mean(state.loss(logits, labels), mask, axis_name), (logits, updated["batch_stats"])

    (loss, (logits, batch_stats)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
    accuracy = masked_mean(correct(logits, labels).astype(loss.dtype), mask, axis_name)
    return gradients, batch_stats, {"loss": loss, "accuracy": accuracy}


def _update(
    state: TrainState, gradients: Any, batch_stats: Any, metrics: dict[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """The state after the optimizer's step along `gradients`, and the metrics with the gradients' norm."""
    updates, opt_state = state.tx.update(gradients, state.opt_state, state.params)
    metrics = {**metrics, "gradient_norm": optax.tree.norm(gradients)}
    params = optax.apply_updates(state.params, updates)
    ema_params, ema_batch_stats = state.ema_params, state.ema_batch_stats
    if state.averaging is not None:
        ema_params, ema_batch_stats = state.averaging((ema_params, ema_batch_stats), (params, batch_stats), state.step)
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
    """`new` if `finite`, else `old` but for the step number and the learning rate's schedule, which follows it."""
    is_schedule = lambda node: isinstance(node, optax.ScaleByScheduleState)  # noqa: E731

    def choose_one(one: Any, other: Any) -> Any:
        return one if is_schedule(one) else jnp.where(finite, one, other)

    return jax.tree.map(choose_one, new, old, is_leaf=is_schedule).replace(step=new.step)
