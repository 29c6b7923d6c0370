"""The train state: all that a training step reads and writes, and how it begins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from resnet_jax.errors import UserError, check_choice
from resnet_jax.ranges import CLASS_WEIGHTS, FRACTION, NOT_NEGATIVE, POSITIVE, OneOf
from resnet_jax.training.losses import Loss

Array = jax.Array

ON_NONFINITE = ("stop", "skip")


@dataclass(frozen=True)
class StateOptions:
    """The first filters, the loss, the moving average, what follows an update that is not finite, and whose statistics
    are evaluated.
    """

    stem_init: Annotated[str, OneOf(("random", "whitening"))]
    loss: Annotated[str, OneOf(("softmax", "sigmoid"))]
    target_threshold: Annotated[float, FRACTION]
    label_smoothing: Annotated[float, FRACTION]
    class_weights: Annotated[str | tuple[float, ...], CLASS_WEIGHTS]
    ema_decay: Annotated[float, FRACTION]  # 0: no average is kept
    ema_every_steps: Annotated[int, POSITIVE]
    ema_warmup_epochs: Annotated[float, NOT_NEGATIVE]
    on_nonfinite: Annotated[str, OneOf(ON_NONFINITE)]
    max_skipped_updates: Annotated[int, POSITIVE]
    precise_bn_batches: Annotated[int, NOT_NEGATIVE]  # > 0: statistics are recomputed over so many for evaluation


@dataclass(frozen=True)
class Averaging:
    """When and how the moving average of the weights is updated, as torchvision's reference training does it but for
    counting every_steps through the run where that begins anew with each epoch.

    decay in [0, 1): the share of the average that stays.

    Attributes:
      every_steps: after the updates 1, 1 + every_steps, ...
      warmup_steps: the average is a copy of the weights until an update of it lies behind so many updates.

    Raises:
      UserError: for numbers outside these ranges.
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
        """Returns the average (a tree of arrays) after the update number `step` (from 0) has made `new`."""
        due = step % self.every_steps == 0
        copies = step - self.every_steps < self.warmup_steps

        def one(old: Array, value: Array) -> Array:
            moved = self.decay * old + (1.0 - self.decay) * value
            return jnp.where(due, jnp.where(copies, value, moved), old)

        return jax.tree.map(one, average, new)


class TrainState(flax.struct.PyTreeNode):
    """All that a training step reads and writes; the fields after `ema_batch_stats` are fixed for a run.

    Attributes:
      step: updates done, () int32.
      params, batch_stats: the model's variables.
      opt_state: the optimizer's, of the layers that are trained.
      ema_params, ema_batch_stats: the moving averages of params and batch_stats; None without `averaging`.
      frozen_layers: the names of those that stay as they are, bit for bit.
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
    frozen_layers: tuple[str, ...] = flax.struct.field(pytree_node=False)
    on_nonfinite: str = flax.struct.field(pytree_node=False)
    local_batch_norm: bool = flax.struct.field(pytree_node=False)
    axis_name: str | tuple[str, ...] | None = flax.struct.field(pytree_node=False)
    seed: int = flax.struct.field(pytree_node=False)

    @property
    def variables(self) -> dict[str, Any]:
        """The variables, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def trained(self, tree: Any) -> Any:
        """Returns the part of a tree by layers, such as params, that belongs to the trained layers."""
        return {name: layer for name, layer in tree.items() if name not in self.frozen_layers}

    def averaged(self) -> "TrainState":
        """Returns this state with the moving averages as its variables, to be evaluated.

        Raises:
          ValueError: if it has none.
        """
        if self.averaging is None:
            raise ValueError("the train state has no moving average: create it with ema_decay")
        return self.replace(params=self.ema_params, batch_stats=self.ema_batch_stats)


def create_train_state(
    model: nn.Module,
    variables: Mapping[str, Any],
    tx: optax.GradientTransformation,
    label_smoothing: float = 0.0,
    loss: str = "softmax",
    ema_decay: float | None = None,
    *,
    target_threshold: float = 0.0,
    class_weights: tuple[float, ...] = (),
    multi_label: bool = False,
    ema_every_steps: int = 1,
    ema_warmup_steps: int = 0,
    on_nonfinite: str = "stop",
    seed: int = 0,
) -> TrainState:
    """Returns a train state at step 0.

    The layers in the model's `frozen_layers` are not trained.

    Args:
      variables: from `model.init` (or imported weights).
      loss, label_smoothing, target_threshold, class_weights, multi_label: see `Loss`.
      ema_decay: None for no moving average of the weights; see `Averaging`.
      on_nonfinite: "skip" leaves all but the step number unchanged if a loss or gradient is not finite; "stop" leaves
        the reaction to the reader of the metrics.
      seed: of the dropout.

    Raises:
      UserError: for values outside their ranges.
    """
    averaging = None if ema_decay is None else Averaging(ema_decay, ema_every_steps, ema_warmup_steps)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    # Copies: a donated state must not hold one buffer twice.
    ema_params, ema_batch_stats = jax.tree.map(jnp.copy, (params, batch_stats)) if averaging else (None, None)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=(),
        ema_params=ema_params,
        ema_batch_stats=ema_batch_stats,
        apply_fn=model.apply,
        tx=tx,
        loss=Loss(loss, label_smoothing, target_threshold, class_weights, multi_label),
        averaging=averaging,
        frozen_layers=getattr(model, "frozen_layers", ()),
        on_nonfinite=check_choice("on_nonfinite", on_nonfinite, ON_NONFINITE),
        local_batch_norm=getattr(model, "batch_norm", None) == "local",
        axis_name=getattr(model, "axis_name", None),
        seed=seed,
    )
    return state.replace(opt_state=tx.init(state.trained(params)))
