"""The export command: calls what exports, prints what it returns."""

import argparse

from resnet_jax.cli.evaluate import check_model_options
from resnet_jax.cli.predict import open_trained
from resnet_jax.cli.printing import print_result
from resnet_jax.filesystem import expand


def run_export(arguments: argparse.Namespace) -> int:
    """A network for inference in one file."""
    check_model_options(arguments)
    target = expand(arguments.to)
    from resnet_jax.inference.export import check_export, export

    check_export(target)
    trained = open_trained(arguments, judges=arguments.preprocessing)
    result = export(trained, target, preprocessing=arguments.preprocessing, image_size=arguments.image_size)
    return print_result(result, arguments.json)
