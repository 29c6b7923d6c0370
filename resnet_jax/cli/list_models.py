"""The list command."""

import argparse

from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.cli.options import AddCommand
from resnet_jax.formatting import format_json


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    models = add("list", run_list, "list the models", "python -m resnet_jax list")
    models.add_argument("--json", action="store_true", help="print one JSON object, the names by family")


def run_list(arguments: argparse.Namespace) -> int:
    """Lists the models, each family below a separate line."""
    from resnet_jax.models.architectures import FAMILIES

    if arguments.json:
        print(format_json({family: [*networks] for family, networks in FAMILIES.items()}))
        return EXIT_DONE
    for i, (family, networks) in enumerate(FAMILIES.items()):
        print("\n" * (i > 0) + f"# {family}")
        print("\n".join(networks))
    return EXIT_DONE
