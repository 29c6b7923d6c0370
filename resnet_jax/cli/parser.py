"""The command line: which commands there are, and what is wrong with the words of one."""

import argparse
import sys
from collections.abc import Callable, Sequence

from resnet_jax.cli import (
    benchmark,
    compare,
    convert,
    doctor,
    evaluate,
    export,
    list_models,
    lr_find,
    predict,
    preview,
    summary,
    sweep,
    train,
)
from resnet_jax.cli.options import GIVEN_BACK
from resnet_jax.cli.usage import Parser
from resnet_jax.errors import UserError

COMMANDS = (
    train,
    evaluate,
    predict,
    export,
    convert,
    list_models,
    summary,
    preview,
    compare,
    lr_find,
    sweep,
    benchmark,
    doctor,
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the arguments of a command line (sys.argv's if None): the command's function as `run`, its `overrides`,
    the --config.field=value words, and what its options say.

    Raises:
      UserError: for wrong usage.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    before = words[: words.index("--")] if "--" in words else words
    command = before[0] if before else ""
    parser.refuse_missing_command(before)
    if command in parser.commands:  # first what is mistyped, and only then what is missing for that reason
        parser.commands[command].refuse_unknown(command, before[1:])
        parser.commands[command].refuse_stray(command, before[1:], before)
    arguments, rest = parser.parse_known_args(words)
    names = ", ".join(parser.commands)
    if arguments.command is None:
        parser.refuse_unknown("python -m resnet_jax", rest)
        parser.error(f"the following arguments are required: COMMAND, one of {names}")
    words_of = parser.commands[arguments.command].takes_words
    if words_of:  # argparse takes those before an option or those behind it, not both
        given_back = getattr(arguments, GIVEN_BACK, [])
        setattr(arguments, words_of, [*getattr(arguments, words_of), *given_back, *rest])
        rest = []
    if parser.commands[arguments.command].takes_fields:
        parser.commands[arguments.command].refuse_stray_field(arguments.command, rest, before)
    elif rest:
        parser.commands[arguments.command].refuse_stray(arguments.command, rest, before)
        raise UserError(f"{rest[0]!r} is no option of {arguments.command}")
    arguments.overrides = rest
    return arguments


def make_parser() -> Parser:
    """Returns the parser of `python -m resnet_jax`; what it returns has the command's function as `run`."""
    parser = Parser(
        prog="python -m resnet_jax",
        description="Residual networks in JAX: train them, judge them, bring weights in and out",
        epilog="example: python -m resnet_jax train --config digits",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def add(
        name: str, function: Callable[[argparse.Namespace], int], summary: str, example: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary, epilog=f"example: {example}")
        command.set_defaults(run=function)
        parser.commands[name] = command
        return command

    for module in COMMANDS:
        module.add_command(add)
    return parser
