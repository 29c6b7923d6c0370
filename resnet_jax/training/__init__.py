"""Training: the state and step, the optimizer, and the loop around them."""

from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.optimizer import sgd
from resnet_jax.training.schedule import make_schedule
from resnet_jax.training.steps import TrainState, create_train_state, eval_step, train_step

__all__ = ["TrainState", "create_train_state", "eval_step", "evaluate", "make_schedule", "sgd", "train_step"]
