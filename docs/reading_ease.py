"""Measures how easily the pages read: words a sentence, and Flesch's reading ease, before and after a change.

    python docs/reading_ease.py [--base REVISION] [PAGE ...]

Reads the prose of the Markdown pages: paragraphs and points of lists, without code, tables, headings and addresses.
Prints a line for each page and one for all: words, words a sentence, sentences of more than 25 words in a hundred, and
Flesch's reading ease (the higher, the easier; its syllables are Pyphen's places for a hyphen, which are too few), and
how many turns of phrase make a page read as translated (TURNS). With --base also the numbers of that revision. Needs
`pip install pyphen`.
"""

import argparse
import re
import subprocess
from pathlib import Path

import pyphen

ROOT = Path(__file__).resolve().parents[1]
LONG = 25  # words of a sentence from which on it is long
TURNS = re.compile(
    r"\b(that|those|these) of\b|\btells?\b|\blikewise\b|\bof (its|their|one's) own\b|\bis said\b|\bare said\b"
    r"|^(what|whether|who|which|that|where|how)\b(?![^?]*\?)|\band what\b|\bwhat it (is|was)\b",
    re.I,
)
MADE = {"docs/config.md"}  # by docs/make_config_page.py, from the fields' comments
SYLLABLES = pyphen.Pyphen(lang="en_US")
Numbers = tuple[int, float, float, float, int]


def prose(page: str) -> list[str]:
    """Returns the sentences of a page."""
    page = re.sub(r"^(```+|~~~+).*?^\1\s*$", "", page, flags=re.M | re.S)
    page = re.sub(r"<!--.*?-->|<[^>\n]+>|\$\$.*?\$\$", "", page, flags=re.S)
    page = re.sub(r"!?\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])", r"\1", page)
    page = re.sub(r"`+[^`]*`+|\$[^$\n]+\$", "code", page)
    paragraphs: list[str] = []
    for line in page.splitlines():
        if re.match(r"\s*(\||#|>|\[\^|---|===)", line):
            paragraphs.append("")
        elif not line.strip() or re.match(r"\s*([-*+]|\d+\.)\s", line):
            paragraphs.append(re.sub(r"^\s*([-*+]|\d+\.)\s+", "", line))
        else:
            paragraphs = paragraphs or [""]
            paragraphs[-1] += " " + line.strip()
    text = [re.sub(r"[*_]{1,2}(\S[^*_]*)[*_]{1,2}", r"\1", paragraph).strip() for paragraph in paragraphs]
    sentences = [one for paragraph in text for one in re.split(r"(?<=[.!?:])\s+(?=[A-Z0-9(])", paragraph)]
    return [one for one in sentences if len(re.findall(r"[A-Za-z]+", one)) > 2]


def measure(sentences: list[str]) -> Numbers:
    """Returns words, words a sentence, long sentences in a hundred, the reading ease and the turns of phrase."""
    counts = [len(sentence.split()) for sentence in sentences]
    syllables = sum(len(SYLLABLES.positions(word)) + 1 for word in re.findall(r"[A-Za-z]+", " ".join(sentences)))
    num_words, length = sum(counts), sum(counts) / max(len(counts), 1)
    long = 100 * sum(count > LONG for count in counts) / max(len(counts), 1)
    ease = 206.835 - 1.015 * length - 84.6 * syllables / max(num_words, 1)
    return num_words, length, long, ease, sum(len(TURNS.findall(sentence)) for sentence in sentences)


def of_revision(revision: str, page: str) -> list[str]:
    """Returns a page's sentences in a revision; none where it was not there."""
    shown = subprocess.run(
        ["git", "-C", ROOT, "show", f"{revision}:{page}"], capture_output=True, text=True, check=False
    )
    return prose(shown.stdout) if shown.returncode == 0 else []


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path, help="of docs/ and the README without any")
    parser.add_argument("--base", help="a revision to compare with")
    arguments = parser.parse_args()
    pages = arguments.pages or [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    columns = "words  a sentence  long %  ease  turns"
    print(f"{'page':32}{columns}{f'   in {arguments.base}: {columns}' if arguments.base else ''}")
    all_now: list[str] = []
    all_before: list[str] = []

    def show(name: str, now: list[str], before: list[str]) -> None:
        row = "".join(
            "{:5d}  {:10.1f}  {:6.0f}  {:4.0f}  {:5d}   ".format(*measure(part)) if part else " " * 41
            for part in ([now, before] if arguments.base else [now])
        )
        print(f"{name:32}{row}".rstrip())

    for path in pages:
        name = path.resolve().relative_to(ROOT).as_posix()
        now = prose(path.read_text())
        before = of_revision(arguments.base, name) if arguments.base else []
        if name in MADE or not (now or before):
            continue
        all_now += now
        all_before += before
        show(name, now, before)
    show("all", all_now, all_before)


if __name__ == "__main__":
    main()
