"""Runs the code blocks of a page of the documentation, from its first to its last, in a new folder.

    python tests/pages.py docs/weights.md                                as the suite does
    python tests/pages.py --word_for_word docs/tutorial/first_steps.md   as a reader does, each block in bash

A block `bash` holds commands, one `python` a program, which goes on where the page's last one ended. A block `text` is
what the block before it printed: integers and words must agree, other numbers may differ, `...` stands for anything.
Where the suite cannot do what a reader does, a comment before the block says what it does in its place:

    <!-- test: with --config.num_steps=3 -->    each command of ours gets these words as well: a long run cut short
    <!-- test: instead COMMAND -->              COMMAND is run
    <!-- test: first COMMAND -->                COMMAND is run before the block: what the page takes for given
    <!-- test: needs torch -->                  only where that package is installed
    <!-- test: fails 2 -->                      it ends with that exit code; its errors count as printed
    <!-- test: shown of the whole run -->       what is printed here is of a run that the suite cuts short

SMALL in these stands for options that make any network small, and its run short. After `with`, `instead` and `needs`
the block `text` that follows is not compared, as it shows the whole run; an error is compared in any case.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What lies in a checkout and is called by the pages.
CHECKOUT = ("configs", "benchmarks", "examples", "train.py", "launch", "Makefile", "tests")
LANGUAGES = ("bash", "python", "text")
SMALL = (
    '--config.model_args.stage_sizes="(1,)" --config.model_args.num_filters=8 '
    "--config.warmup_epochs=0 --config.num_epochs=1"
)
OURS = re.compile(r"(\w+=\S+ )*python3? (train\.py|-m resnet_jax)(?= |$)")
SHELL = re.compile(r"[|><$;&*~`\[?{!]")
WORDS_END = re.compile(r"\s*(?: [#|>&].*)?$")  # where the words of a command end
BLOCK = re.compile(r"(?P<notes>(?:^<!-- test: [^\n]* -->\n)*)^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$", re.M | re.S)
NOTE = re.compile(r"<!-- test: (with|instead|first|needs|fails|shown) (.*) -->")
NUMBER = re.compile(r"\d+\.\d+(?:e[-+]?\d+)?|\d+e[-+]?\d+|\b[0-9a-f]{64}\b")


class PageError(Exception):
    """A block failed, or printed other words than the page shows."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, its first line in the page, and the notes before it by kind."""

    language: str
    code: str
    line: int
    notes: dict[str, str]


def read_blocks(path: Path) -> list[Block]:
    """The page's blocks but Sphinx's directives; of a notebook its cells of code, and what they are kept to print."""
    text = path.read_text()
    blocks = []
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        for number, cell in enumerate(cells, 1):
            blocks.append(Block("python", "".join(cell["source"]), number, {}))
            printed = ["".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream"]
            if printed:
                blocks.append(Block("text", "".join(printed), number, {}))
        return blocks
    if odd := re.search(r"^[ \t]+```|^[ \t]*~~~|^```[ \t]+$", text, re.M):
        raise PageError(f"{path.name}: a fence that would not be run: {odd[0]!r}")
    num_notes = 0
    for found in BLOCK.finditer(text):
        language = found["language"].strip()
        notes = dict(NOTE.findall(found["notes"].replace("SMALL", SMALL)))
        num_notes += len(notes)
        if not language.startswith("{"):
            line = text.count("\n", 0, found.start("code")) + 1
            blocks.append(Block(language, found["code"], line, notes))
    if num_notes != text.count("<!-- test:"):
        raise PageError(f"{path.name}: a note that is not understood, or stands before no block")
    return blocks


def run_page(path: Path, *, word_for_word: bool = False) -> None:
    """Run the page's blocks here; raises PageError with the line of the first that fails."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    output, notes = None, {}
    for block in read_blocks(path):
        where = f"{path.name}, line {block.line}"
        if block.language not in LANGUAGES:
            raise PageError(f"{where}: a block of {block.language!r} is not among {', '.join(LANGUAGES)}")
        if block.language == "text":
            if output is None:
                raise PageError(f"{where}: no block before it that could have printed this")
            altered = {"with", "instead", "needs", "shown"} & (set(notes) | set(block.notes))
            if word_for_word or "fails" in notes or not altered:
                compare(block.code, output, where)
            output = None
            continue
        kept = ("first", "fails") if word_for_word else tuple(block.notes)
        notes = {kind: text for kind, text in block.notes.items() if kind in kept}
        code = int(notes.get("fails", "0"))
        if "needs" in notes and importlib.util.find_spec(notes["needs"]) is None:
            print(f"{where}: skipped, {notes['needs']} is not installed")
            output = ""
            continue
        if "first" in notes:
            in_bash(notes["first"], where) if word_for_word else in_shell(notes["first"], "", where)
        if block.language == "python":
            output = in_python(block.code, namespace, where)
        elif word_for_word:
            output = in_bash(block.code, where, code)
        else:
            output = in_shell(notes.get("instead", block.code), notes.get("with", ""), where, code)


def in_python(code: str, namespace: dict[str, object], where: str) -> str:
    """Return what a program prints."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, where, "exec"), namespace)
    except (Exception, SystemExit):
        raise PageError(f"{where}: {traceback.format_exc()}") from None
    return printed.getvalue()


def in_shell(code: str, words: str, where: str, expected: int = 0) -> str:
    """Return what commands print; our own run in this process, which is quicker, if they need only the shell's &&."""
    commands = [line.strip() for line in code.replace("\\\n", " ").splitlines() if line.strip()]
    if words:
        commands = [
            WORDS_END.sub(lambda end: f" {words}{end[0]}", command, count=1) if OURS.match(command) else command
            for command in commands
        ]
    pieces = [piece for command in commands for piece in command.split(" && ")]
    if all(piece.startswith("python") and not SHELL.search(piece) for piece in pieces):
        return "".join((in_process if OURS.match(piece) else in_bash)(piece, where, expected) for piece in pieces)
    return in_bash("\n".join(commands), where, expected)


def in_process(command: str, where: str, expected: int = 0) -> str:
    """Return what one of our commands prints, run in this process."""
    from resnet_jax.cli.main import main

    words = shlex.split(OURS.sub("", command), comments=True)
    printed, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
        try:
            code = main((["train"] if command.split()[1] == "train.py" else []) + words)
        except SystemExit as stop:  # --help
            code = stop.code
    if (code or 0) != expected:
        raise PageError(f"{where}: {command}\nexit code {code}\n{printed.getvalue()}{told.getvalue()}")
    return printed.getvalue() + (told.getvalue() if expected else "")


def in_bash(code: str, where: str, expected: int = 0) -> str:
    """Return what bash prints; captures standard error only if it is expected to fail."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], stdout=subprocess.PIPE, text=True,
        stderr=subprocess.STDOUT if expected else None, env={**os.environ, "PATH": path},
    )  # fmt: skip
    if done.returncode != expected:
        raise PageError(f"{where}: {code}\nexit code {done.returncode}\n{done.stdout}")
    return done.stdout


def compare(shown: str, printed: str, where: str) -> None:
    """Raise PageError unless what is shown agrees with what was printed."""
    pattern = r"\s*.*?\s*".join(re.escape(_normal(part)) for part in re.split(r"\.\.\.|…", shown))
    if not re.fullmatch(pattern, _normal(printed), re.S):
        raise PageError(f"{where}: the page shows\n{shown}\nand the block before it printed\n{printed}")


def _normal(text: str) -> str:
    """The text on one line, with # for each number that may differ."""
    return " ".join(NUMBER.sub("#", text).split())


def main() -> int:
    """Run the pages that the command line names, each in a new folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--word_for_word", action="store_true", help="run what is written, here, in bash")
    arguments = parser.parse_args()
    start = Path.cwd()
    for page in [page.resolve() for page in arguments.pages]:
        with tempfile.TemporaryDirectory(prefix="resnet_jax-page-") as folder:
            if not arguments.word_for_word:
                for name in CHECKOUT:
                    (Path(folder) / name).symlink_to(ROOT / name)
                os.chdir(folder)
            try:
                run_page(page, word_for_word=arguments.word_for_word)
            except PageError as error:
                print(error, file=sys.stderr)
                return 1
            finally:
                os.chdir(start)
        print(f"{page.name}: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
