"""Transfer learning as a config says it: which layers are trained, and how fast each."""

from typing import Any

from ml_collections import ConfigDict

from resnet_jax.errors import UserError
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.variants import create_model


def finetune_arguments(config: ConfigDict) -> dict[str, Any]:
    """The arguments of the model that transfer learning sets beside config.model_args.

    base_classes, where a layer comes on top of the old head, is that of model_args, or as many as the named model has
    by itself: 1000, or 10.
    """
    arguments: dict[str, Any] = {"trainable": config.finetune.trainable}
    if config.finetune.head == "add":
        arguments["base_classes"] = config.model_args.get("base_classes", create_model(config.model).num_classes)
    elif config.finetune.head == "replace" and "base_classes" in config.model_args:
        raise UserError("config.model_args.base_classes needs config.finetune.head='add', or 'keep' of what has both")
    return arguments


def check_finetune(config: ConfigDict, model: ResNet) -> None:
    """Raise UserError (a ValueError) for options that make no sense together."""
    options = config.finetune
    if not options.weights:
        for field, neutral in (("trainable", "all"), ("head", "replace")):
            if options[field] != neutral:
                raise UserError(
                    f"config.finetune.{field}={options[field]!r} needs config.finetune.weights: drawn at random, "
                    "nothing is worth keeping"
                )
    if options.head_learning_rate and not config.learning_rate:
        raise UserError("config.finetune.head_learning_rate needs config.learning_rate > 0, whose schedule it follows")
    if config.precise_bn_batches and options.trainable == "head":
        raise UserError("config.precise_bn_batches must be 0 with config.finetune.trainable='head': statistics stay")
    learning_rate_factors(config, model)


def learning_rate_factors(config: ConfigDict, model: ResNet) -> dict[str, float]:
    """By the layer's name, its learning rate by config.learning_rate: none where all are trained alike.

    config.learning_rate_factors come before config.finetune.head_learning_rate, and that before layer_decay.
    """
    trained = [[name for name in group if name not in model.frozen_layers] for group in model.layer_groups]
    factors: dict[str, float] = {}
    if config.finetune.layer_decay != 1.0:
        for distance, group in enumerate(reversed(trained)):
            factors |= dict.fromkeys(group, config.finetune.layer_decay**distance)
    if config.finetune.head_learning_rate:
        factors[trained[-1][0]] = config.finetune.head_learning_rate / config.learning_rate
    for layer, factor in config.learning_rate_factors.items():
        if type(factor) not in (int, float):
            raise UserError(f"config.learning_rate_factors.{layer}={factor!r} must be a number")
    return factors | config.learning_rate_factors.to_dict()
