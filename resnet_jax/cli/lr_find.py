"""The lr_find command: a learning rate for a run, by one short test of a growing rate."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.cli.options import AddCommand, picture_path
from resnet_jax.cli.printing import draw_picture, print_table
from resnet_jax.cli.usage import ANY_FIELD
from resnet_jax.errors import UserError
from resnet_jax.formatting import format_json

if TYPE_CHECKING:
    from resnet_jax.preflight.learning_rate import LossCurve, Proposal
    from resnet_jax.training.experiment import Options

PICTURE = "lr_find.png"
NUM_STEPS = 200


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    find = add("lr_find", run_lr_find, "propose a learning rate: the loss by a rate that grows, in one short run",
               "python -m resnet_jax lr_find --config digits")  # fmt: skip
    find.add_argument("--config", required=True, metavar="NAME|PATH", help="a config file, or its name in configs/")
    find.add_argument(ANY_FIELD, dest="ignored", metavar="VALUE", help="set a field, as for train")
    find.add_argument("--steps", type=int, default=NUM_STEPS, metavar="N", help=f"of the test (default: {NUM_STEPS})")
    find.add_argument(
        "--from", dest="low", type=float, metavar="RATE", help="the first rate (default: 1e-5, or the optimizer's)"
    )
    find.add_argument(
        "--to_rate", dest="high", type=float, metavar="RATE", help="the last rate (default: 10, or the optimizer's)"
    )
    find.add_argument("--to", default=PICTURE, metavar="FILE", help=f"the picture (default: {PICTURE})")
    find.add_argument("--json", action="store_true", help="print one JSON object, with the curve")


def run_lr_find(arguments: argparse.Namespace) -> int:
    """Prints the proposed learning rate, and draws the loss by the rate."""
    from resnet_jax.config import given_fields, load_config
    from resnet_jax.preflight.learning_rate import propose_learning_rate
    from resnet_jax.preflight.rising_rate import range_test, rate_range
    from resnet_jax.training.experiment import options_of

    config = load_config(arguments.config, arguments.overrides)
    if "learning_rate" in given_fields(config):
        raise UserError(
            "config.learning_rate is what lr_find looks for: leave out --config.learning_rate; the rates that it tries "
            "are set by --from and --to_rate"
        )
    options, picture = options_of(config), picture_path(arguments.to)
    low, high = rate_range(options.optimizer.optimizer, arguments.low, arguments.high, arguments.steps)
    curve, warmup_steps = range_test(options, low, high, arguments.steps)
    name = Path(arguments.config).stem
    try:
        proposal = propose_learning_rate(curve, warmup_steps=warmup_steps, optimizer=options.optimizer.optimizer)
    except UserError as error:
        drawn = draw_picture(picture, partial(_draw, curve, None, name))
        raise UserError(f"{error}; {drawn} shows the loss" if drawn else str(error)) from None
    drawn = draw_picture(picture, partial(_draw, curve, proposal, name))
    if arguments.json:
        print(format_json(_as_json(curve, proposal, options, arguments.steps, drawn)))
        return EXIT_DONE
    turned = "" if proposal.turn_rate is None else f", before it turned at {proposal.turn_rate:.2g}"
    print_table(
        [
            ("learning rate", f"{proposal.learning_rate:g} (the config has {options.optimizer.learning_rate:g})"),
            ("lowest loss", f"{proposal.lowest_loss:.4f} at {proposal.lowest_rate:.2g}{turned}"),
            ("diverged", f"at {curve.rates[-1]:.2g}" if curve.has_diverged else f"not up to {high:g}"),
            ("steps", f"{len(curve.rates)} of {arguments.steps}"),
            ("picture", str(drawn) if drawn else "none"),
            ("take it with", " ".join(_overrides(proposal, options))),
        ]
    )
    return EXIT_DONE


def _draw(curve: "LossCurve", proposal: "Proposal | None", name: str, picture: Path) -> None:
    from resnet_jax.plotting.learning_rate import draw_range_test

    draw_range_test(
        curve.rates,
        curve.losses,
        curve.averages,
        picture,
        f"{name}: loss by learning rate",
        proposal=proposal.learning_rate if proposal else None,
        lowest_rate=proposal.lowest_rate if proposal else None,
    )


def _overrides(proposal: "Proposal", options: "Options") -> list[str]:
    """Returns the fields that take the proposal: the head's own rate keeps its ratio to the other layers'."""
    words, head = [f"--config.learning_rate={proposal.learning_rate:g}"], options.finetune.head_learning_rate
    if head and "finetune.head_learning_rate" not in options.without_effect:
        of_head = head / options.optimizer.learning_rate * proposal.learning_rate
        words.append(f"--config.finetune.head_learning_rate={of_head:.2g}")
    return words


def _as_json(
    curve: "LossCurve", proposal: "Proposal", options: "Options", num_steps: int, picture: Path | None
) -> dict[str, Any]:
    return {
        "learning_rate": proposal.learning_rate,
        "lowest_loss": proposal.lowest_loss,
        "lowest_rate": proposal.lowest_rate,
        "turn_rate": proposal.turn_rate,
        "diverged_rate": curve.rates[-1] if curve.has_diverged else None,
        "steps": len(curve.rates),
        "num_steps": num_steps,
        "overrides": _overrides(proposal, options),
        "picture": str(picture) if picture else None,
        "curve": {
            "learning_rate": curve.rates,
            "loss": curve.losses,
            "average_loss": curve.averages,
        },
    }
