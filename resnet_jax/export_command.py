"""The export command: calls what exports, prints what it returns."""

import argparse

from resnet_jax.evaluate_command import check_model_options
from resnet_jax.paths import expand
from resnet_jax.predict_command import open_trained
from resnet_jax.results import print_result


def run_export(arguments: argparse.Namespace) -> int:
    """A network for inference in one file."""
    check_model_options(arguments)
    target = expand(arguments.to)
    from resnet_jax.export import check_export, export

    check_export(target)
    trained = open_trained(arguments, judges=arguments.preprocessing)
    result = export(trained, target, preprocessing=arguments.preprocessing, image_size=arguments.image_size)
    return print_result(result, arguments.json)
