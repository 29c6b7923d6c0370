"""The exceptions that the commands answer with a line and an exit code."""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Sequence

# What the operating system says where the disk or the network is at fault, and not what the user gave.
FAULTS_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)


class UserError(ValueError):
    """Bad usage, config, data or file.

    The commands print its single line and exit with code 2.
    """


class DamagedCheckpointError(UserError):
    """A checkpoint that differs from the written one: cut, altered, or with parts missing."""


class RunError(RuntimeError):
    """The run cannot go on, by no fault of its input: a full disk, a lost process.

    A single line, exit code 1.
    """


class NonFiniteError(RunError):
    """The loss or a gradient is not finite: the run stops and this state is not saved.

    Exit code 1.
    """


class Preempted(BaseException):
    """A signal, whose name it carries, asked the run to stop where it cannot go on to the next step.

    Exit code 75.

    No Exception: it may be raised anywhere, and nothing that reads a file may take it for a fault of that file.
    """


def truncate(name: object) -> str:
    """Returns a name out of a file as a message shows it: printable, and no longer than 100 characters."""
    text = printable(str(name))
    return text if len(text) <= 100 else f"{text[:99]}…"


def abridge(names: Sequence[str], most: int = 10) -> str:
    """Returns names for a message: `a, b, c`, and of more than `most` the first and the last."""
    return ", ".join(names if len(names) <= most else (*names[: most - 1], "…", names[-1]))


def printable(text: str) -> str:
    """Returns `text` on one line, with a question mark for each character that shows nothing."""
    return "".join(character if character.isprintable() else "?" for character in text)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns ``; did you mean 'resnet50'?`` for the known name nearest to `name`, or an empty string."""
    words = {word.lstrip("-"): word for word in known}  # dashes make no two options alike
    near = difflib.get_close_matches(name.lstrip("-"), list(words), n=1, cutoff=0.6)
    return f"; did you mean {words[near[0]]!r}?" if near else ""


def check_choice(field: str, value: str, known: Iterable[str]) -> str:
    """Returns `value` itself if it is among `known`; otherwise a UserError that lists them and the nearest."""
    known = list(known)
    if value not in known:
        raise UserError(f"{field}={value!r} must be one of {', '.join(known)}{suggestion(str(value), known)}")
    return value


_OS_ERROR = re.compile(r"\[os_error_code='(\d+)'\]")
_MOST_CHARACTERS = 400


def first_line(error: BaseException) -> str:
    """Returns an exception's message in one line, without all that TensorStore adds to it; its type if it has none."""
    if (code := os_error_code(error)) is not None:
        return os.strerror(code)
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.partition(" [tensorstore_spec=")[0][:_MOST_CHARACTERS]


def os_error_code(error: BaseException) -> int | None:
    """Returns the number of what the operating system said, however it was wrapped; None if it was not it."""
    if (code := _OS_ERROR.search(str(error))) is not None:
        return int(code[1])
    return error.errno if isinstance(error, OSError) else None
