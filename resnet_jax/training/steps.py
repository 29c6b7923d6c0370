"""The train state and the two pure functions on it: `train_step` and `eval_step`."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from resnet_jax.errors import UserError
from resnet_jax.training.metrics import correct, masked_mean, softmax_cross_entropy

Array = jax.Array
Batch = Mapping[str, Array]


class TrainState(flax.struct.PyTreeNode):
    """All that a training step reads and writes; the fields after `opt_state` are fixed for a run.

    step: updates done, () int32. params, batch_stats: the model's variables. opt_state: the optimizer's.
    """

    step: Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    apply_fn: Callable[..., Any] = flax.struct.field(pytree_node=False)
    tx: optax.GradientTransformation = flax.struct.field(pytree_node=False)
    label_smoothing: float = flax.struct.field(pytree_node=False)
    seed: int = flax.struct.field(pytree_node=False)

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_train_state(
    model: nn.Module,
    variables: Mapping[str, Any],
    tx: optax.GradientTransformation,
    *,
    label_smoothing: float = 0.0,
    seed: int = 0,
) -> TrainState:
    """A train state at step 0.

    variables: from `model.init` (or imported weights). label_smoothing in [0, 1). seed: of the dropout.
    Raises UserError (a ValueError) if label_smoothing is outside its range.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise UserError(f"label_smoothing={label_smoothing} must be in [0, 1)")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
        apply_fn=model.apply,
        tx=tx,
        label_smoothing=label_smoothing,
        seed=seed,
    )


def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    """The state after one update, and the batch's metrics before it; pure, to be jitted.

    batch: "image" (B, H, W, 3) normalised; "label" (B,) int in [0, K), or (B, K) float, distributions over the classes
    (mixed images); optional "mask" (B,): rows of 0 count neither in the loss nor in the metrics (batch norm sees them
    all the same).
    Metrics, all scalars: "loss" (mean, without the weight decay), "accuracy" in [0, 1], "gradient_norm" (L2, before
    the weight decay; not finite if any gradient is not).
    """
    dropout_key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    labels, mask = batch["label"], batch.get("mask")

    def loss_fn(params: Any) -> tuple[Array, tuple[Array, Any]]:
        logits, updated = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        losses = softmax_cross_entropy(logits, labels, state.label_smoothing)  # (B,)
        return masked_mean(losses, mask), (logits, updated["batch_stats"])

    (loss, (logits, batch_stats)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = state.tx.update(gradients, state.opt_state, state.params)
    metrics = {
        "loss": loss,
        "accuracy": masked_mean(correct(logits, labels).astype(loss.dtype), mask),
        "gradient_norm": optax.tree.norm(gradients),
    }
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )
    return state, metrics


def eval_step(state: TrainState, batch: Batch) -> dict[str, Array]:
    """Sums over a batch in evaluation mode; the division happens once, on the host. Pure, to be jitted.

    batch as in `train_step`, or "image" (B, V, H, W, 3): V views of each image, whose logits are averaged. Returns
    "loss_sum" (cross-entropy without smoothing), "correct" and "count", scalars over the rows whose mask is not 0.
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
