"""Training: the state and step, the optimizer, and the loop around them."""

from resnet_jax.training.adam import adam, adamw, lion, rmsprop
from resnet_jax.training.average_precision import average_precision, mean_average_precision
from resnet_jax.training.callbacks import Callback, TrainingRun
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.optimizer import add_l1, clip_gradient_norm, lamb, lars, scale_by_layer, sgd
from resnet_jax.training.precise_batch_norm import precise_batch_stats
from resnet_jax.training.schedule import make_schedule
from resnet_jax.training.train_state import TrainState, create_train_state
from resnet_jax.training.train_step import (
    accumulate,
    begin_accumulation,
    eval_step,
    finish_accumulation,
    multi_label_eval_step,
    train_step,
)

__all__ = [
    "Callback",
    "TrainState",
    "TrainingRun",
    "accumulate",
    "adam",
    "adamw",
    "add_l1",
    "average_precision",
    "begin_accumulation",
    "clip_gradient_norm",
    "create_train_state",
    "eval_step",
    "evaluate",
    "finish_accumulation",
    "lamb",
    "lars",
    "lion",
    "make_schedule",
    "mean_average_precision",
    "multi_label_eval_step",
    "precise_batch_stats",
    "rmsprop",
    "scale_by_layer",
    "sgd",
    "train_step",
]
