"""The list command."""

import argparse

from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.cli.options import AddCommand


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    add("list", run_list, "list the models", "python -m resnet_jax list")


def run_list(arguments: argparse.Namespace) -> int:
    """Lists the models."""
    del arguments
    from resnet_jax.models.variants import list_models

    print("\n".join(list_models()))
    return EXIT_DONE
