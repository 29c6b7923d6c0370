"""Transfer learning: which layers are trained, and how fast each."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from resnet_jax.errors import UserError
from resnet_jax.ranges import NOT_NEGATIVE, POSITIVE_FRACTION, OneOf
from resnet_jax.training.optimizer import OptimizerOptions

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet
    from resnet_jax.models.variants import ModelOptions


@dataclass(frozen=True)
class FinetuneOptions:
    """The weights that a run begins from, and the layers that it trains."""

    weights: str  # "": from scratch
    head: Annotated[str, OneOf(("replace", "add", "keep"))]
    trainable: str
    head_learning_rate: Annotated[float, NOT_NEGATIVE]  # 0: the other layers'
    layer_decay: Annotated[float, POSITIVE_FRACTION]


def finetune_arguments(finetune: FinetuneOptions, model: "ModelOptions") -> dict[str, Any]:
    """Returns the arguments of the model that transfer learning sets beside config.model_args.

    base_classes, if a layer comes on top of the old head, comes from model_args, or is the named model's default
    number: 1000, or 10.
    """
    arguments: dict[str, Any] = {"trainable": finetune.trainable}
    if finetune.head == "add":
        from resnet_jax.models.variants import create_model  # not before: the config reads this file's ranges

        arguments["base_classes"] = model.model_args.get("base_classes", create_model(model.model).num_classes)
    elif finetune.head == "replace" and "base_classes" in model.model_args:
        raise UserError("config.model_args.base_classes needs config.finetune.head='add', or 'keep' of what has both")
    return arguments


def check_finetune(finetune: FinetuneOptions, optimizer: OptimizerOptions, precise_bn_batches: int) -> None:
    """Raises UserError (a ValueError) for options that make no sense together."""
    if not finetune.weights:
        for field, neutral in (("trainable", "all"), ("head", "replace")):
            if (value := getattr(finetune, field)) != neutral:
                raise UserError(
                    f"config.finetune.{field}={value!r} needs config.finetune.weights: drawn at random, nothing is "
                    "worth keeping"
                )
    if finetune.head_learning_rate and not optimizer.learning_rate:
        raise UserError("config.finetune.head_learning_rate needs config.learning_rate > 0, whose schedule it follows")
    if precise_bn_batches and finetune.trainable == "head":
        raise UserError("config.precise_bn_batches must be 0 with config.finetune.trainable='head': statistics stay")


def learning_rate_factors(finetune: FinetuneOptions, optimizer: OptimizerOptions, model: "ResNet") -> dict[str, float]:
    """Returns by the layer's name, its learning rate by config.learning_rate: none where all are trained alike.

    config.learning_rate_factors come before config.finetune.head_learning_rate, and that before layer_decay.
    """
    trained = [[name for name in group if name not in model.frozen_layers] for group in model.layer_groups]
    factors: dict[str, float] = {}
    if finetune.layer_decay != 1.0:
        for distance, group in enumerate(reversed(trained)):
            factors |= dict.fromkeys(group, finetune.layer_decay**distance)
    if finetune.head_learning_rate:
        factors[trained[-1][0]] = finetune.head_learning_rate / optimizer.learning_rate
    for layer, factor in optimizer.learning_rate_factors.items():
        if type(factor) not in (int, float):
            raise UserError(f"config.learning_rate_factors.{layer}={factor!r} must be a number")
    return factors | dict(optimizer.learning_rate_factors)
