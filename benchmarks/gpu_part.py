"""The frame of each part of gpu.py: its time, its sizes, and where its rows go."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class OutOfTimeError(Exception):
    """The part has no time for what comes next."""


@dataclass
class Part:
    """One part at work: the file of its rows, the seconds it may take, whether all is tiny, where CIFAR-10 lies."""

    rows: Path
    seconds: float
    tiny: bool = False
    cifar10: Path | None = None

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.seconds

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._deadline - time.monotonic()

    def row(self, **values: Any) -> None:
        """Keeps a row."""
        line = json.dumps(values)
        print(line, flush=True)
        with self.rows.open("a") as file:
            file.write(line + "\n")

    @contextmanager
    def measured(self, **names: Any) -> Iterator[dict[str, Any]]:
        """A row of `names` and of what the block puts into it, kept whatever becomes of the block.

        An exception becomes the row's "failed". Raises OutOfTimeError before the block if no time is left.
        """
        if self.left <= 0:
            raise OutOfTimeError
        values: dict[str, Any] = {}
        try:
            yield values
        except Exception as error:
            values["failed"] = shorten(error)
        self.row(**names, **values)

    def run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a Python command from the project's folder until the part's time ends; prints what it printed.

        Where its time is up, the exit code is that of a killed process, and what it had printed is there.
        """
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, env={**os.environ, **environment}, stdout=output,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                process.wait(timeout=max(1.0, self.left))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            output.seek(0)
            text = output.read()
        print(text, flush=True)
        return subprocess.CompletedProcess(process.args, process.returncode, text)


def shorten(error: Exception) -> str:
    """Returns the error's name and first line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:150]}"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows that a part has written so far; a line that is not whole yet is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
