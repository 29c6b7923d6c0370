"""The list command."""

import argparse

from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.cli.options import AddCommand


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    add("list", run_list, "list the models", "python -m resnet_jax list")


def run_list(arguments: argparse.Namespace) -> int:
    """Lists the models, each family below a separate line."""
    del arguments
    from resnet_jax.models.architectures import FAMILIES

    for i, (family, networks) in enumerate(FAMILIES.items()):
        print("\n" * (i > 0) + f"# {family}")
        print("\n".join(networks))
    return EXIT_DONE
