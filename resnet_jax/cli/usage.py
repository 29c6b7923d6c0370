"""Reports wrong usage of a command in one line, with the name that was meant, all read from the parser itself."""

import argparse
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from resnet_jax.errors import UserError, suggestion

# The entry in the options of a command that takes --config.field=value words.
ANY_FIELD = "--config.FIELD"


class Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line, with the name that was meant if one is near.

    Attributes:
      commands: by their names, the parsers of the commands; empty in theirs.
    """

    commands: dict[str, "Parser"]

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, allow_abbrev=False)
        self.commands = {}

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message} ('{self.prog} --help' shows the usage)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse's own, and the nearest choice.
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action, f"invalid choice: {value!r} (choose from {', '.join(known)}){suggestion(str(value), known)}"
            )

    @property
    def options(self) -> list[str]:
        """The options that it knows, as they are written."""
        return [option for action in self._actions for option in action.option_strings]

    @property
    def takes_fields(self) -> bool:
        """True if --config.field=value words may be given."""
        return ANY_FIELD in self.options

    @property
    def takes_words(self) -> str:
        """Names what words that belong to no option are, "images" or "runs"; empty where there are none."""
        return next((action.dest for action in self._actions if action.dest in ("images", "runs")), "")

    def refuse_missing_command(self, words: Sequence[str]) -> None:
        """Raises UserError if the first of `words` is an option of a command, and none of them is a command."""
        option = words[0].partition("=")[0] if words else ""
        knowing = [
            name
            for name, command in self.commands.items()
            if option in command.options or (command.takes_fields and option.startswith("--config."))
        ]
        if option.startswith("-") and option not in self.options and knowing and not {*words} & {*self.commands}:
            raise UserError(f"the command before {option} is missing: {' or '.join(knowing)}")

    def refuse_unknown(self, command: str, words: Sequence[str]) -> None:
        """Raises UserError for the first of `words` that is written as an option and is none of the command's."""
        for word in words:
            option = word.partition("=")[0]
            is_option = option.startswith("-") and option != "-" and not option[1:2].isdigit() and option[1:2] != "."
            if not is_option or self._takes(option):
                continue
            near = self._nearest(option)
            if self.takes_words and not option.startswith("--"):
                near += f"; a file of that name is given as ./{word}"
            raise UserError(f"{option!r} is no option of {command}{near}")

    def refuse_stray(self, command: str, words: Sequence[str], given: Sequence[str] = ()) -> None:
        """Raises UserError if the first of `words` belongs to no option, where the command takes nothing of the kind.

        Args:
          given: all words of the command line, whose options are not suggested again.
        """
        if not words or words[0].startswith("-") or self.takes_words:
            return
        option = self._option_for(words[0])
        if not option or option in {word.partition("=")[0] for word in given}:
            raise UserError(f"{words[0]!r} is no option of {command}; a name with spaces goes in quotes")
        joint = "=" if option.startswith("--config.") else " "
        meant = f"{option}{joint}{words[0]}"
        raise UserError(f"{words[0]!r} stands without an option of {command}; did you mean {meant}?")

    def refuse_stray_field(self, command: str, words: Sequence[str], given: Sequence[str]) -> None:
        """Raises UserError, as `refuse_stray` does, for the first of `words` that sets no field and is no field's
        value.

        Args:
          words: those that no option took, in a command that takes --config.field=value words.
        """
        is_value = False
        for word in words:
            if not is_value:
                self.refuse_stray(command, [word], given)
            is_value = not is_value and word.startswith("--config.") and "=" not in word

    def _option_for(self, word: str) -> str:
        """Returns the option that a word alone was probably meant for: a config's name, a model's, weights, a run's
        folder.
        """
        from resnet_jax.config import configs_dir
        from resnet_jax.models.variants import list_models

        configs = {path.stem for path in configs_dir().glob("*.py")}
        likely = []
        if word.endswith((".pth", ".pt", ".th", ".safetensors")):
            likely = ["--from", "--weights"]
        elif word in list_models():
            likely = ["--model"] if "--model" in self.options else ["--config.model"]
        elif ("/" in word and not word.endswith(".py")) or (os.path.isdir(word) and word not in configs):
            likely = ["--workdir"]
        known = (option for option in (*likely, "--config", "--from", "--workdir", "--model") if self._takes(option))
        return next(known, "")

    def _takes(self, option: str) -> bool:
        return option in self.options or (self.takes_fields and option.startswith("--config."))

    def _nearest(self, option: str) -> str:
        """Returns the suggestion for a mistyped option: an option, or the field of the config that bears its name."""
        near = suggestion(option, (known for known in self.options if known != ANY_FIELD))
        if not self.takes_fields:
            return near
        from resnet_jax.config import PREFIX, default_config, field_of_other_name, flatten

        if other := field_of_other_name(option):
            return f"; did you mean {PREFIX + other!r}?"
        if near:
            return near
        fields = {f"--{path.split('.')[-1]}": path for path in flatten(default_config())}
        whole = [PREFIX + path for path in fields.values()]
        if near := suggestion(option, whole):
            return near
        return next(
            (f"; did you mean {PREFIX + path!r}?" for field, path in fields.items() if suggestion(option, [field])), ""
        )
