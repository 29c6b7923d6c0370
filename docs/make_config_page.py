"""Writes docs/config.md, the reference of the config's fields, from what the program itself goes by.

    python docs/make_config_page.py

What a field is for stands beside it in configs/default.py; its range beside it in the dataclass that it is unpacked
into; when it has an effect in resnet_jax/config/effects.py; and which recipes set it is seen by loading them.
"""

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from resnet_jax.config import SECTIONS, load_config
from resnet_jax.config.effects import CONDITIONS
from resnet_jax.ranges import OneOf, Range, ranges_of
from resnet_jax.training.workdir import flatten_fields

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "config.md"
HEAD = """# Config fields

A config has these fields. A config file sets some of them. The command line sets any of them over the file, for example
`--config.learning_rate=0.05`. A run refuses an unknown name, a value out of its range, and a field on the command line
that would have no effect.

Every field is there since version 0.1.0, the first. `python docs/make_config_page.py` makes this page from the program.
"""
_ASSIGNMENT = re.compile(r"    config\.([\w.]+) = (.*)")
_SECTION = re.compile(r"([A-Z][\w ]+)[.:] ?(.*)", re.DOTALL)


@dataclass
class Section:
    """A part of the page: its title, what is said of all its fields, and these with what is said of each."""

    title: str
    text: str
    fields: dict[str, str] = field(default_factory=dict)


def read_sections(text: str) -> list[Section]:
    """Returns the sections of configs/default.py."""
    sections: list[Section] = []
    comment: list[str] = []
    is_new = False  # behind an empty line a comment begins a section
    for line in text.splitlines():
        if not line.strip():
            is_new, comment = True, []
        elif line.strip().startswith("# "):
            comment.append(line.strip()[2:])
        elif found := _ASSIGNMENT.match(line):
            name, rest = found[1], found[2]
            said, trailing = " ".join(comment), rest.partition("  # ")[2]
            if is_new and comment:
                matched = _SECTION.fullmatch(said)
                title, said = (matched[1], matched[2]) if matched else (said, "")
                sections.append(Section(title, _sentence(said)))
                said = ""
            is_new, comment = False, []
            if not re.match(r"ConfigDict\(\)(  #|$)", rest) or name in ("model_args", "learning_rate_factors"):
                sections[-1].fields[name] = _sentence(" ".join(filter(None, (said, trailing))))
            elif said or trailing:
                sections.append(Section(name, _sentence(said or trailing)))
    return sections


def _sentence(text: str) -> str:
    if not text:
        return ""
    text = re.sub(r"(^|: |; )> (\d):", r"\1above \2:", text)  # which Markdown would take for a quotation
    text = re.sub(r"(--config\.\S*[\w')\]])", r"`\1`", text)
    text = text[0].upper() + text[1:] if not text.startswith('"') else text
    return text if text.endswith((".", "…")) else f"{text}."


def rules() -> dict[str, str]:
    """Returns each field's range in words, after "must"."""
    found = {}
    for prefix, options in SECTIONS.items():
        for section in options:
            for name, ranges in ranges_of(section).items():
                words = [_rule(one) for one in ranges]
                if words:
                    found[prefix + name] = " and ".join(words)
    return found


def _rule(one: Range | OneOf) -> str:
    return f"be one of {', '.join(f'`{value}`' for value in one.values)}" if isinstance(one, OneOf) else one.rule


def recipes() -> dict[str, list[str]]:
    """Returns the names of the configs that set a field to another value than its default, by field."""
    default = flatten_fields(load_config("default").to_dict())
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "configs").glob("*.py")):
        for name, value in flatten_fields(load_config(path.stem).to_dict()).items():
            key = name.split(".")[0] if name.startswith(("model_args.", "learning_rate_factors.")) else name
            if default.get(name) != value and path.stem not in found.setdefault(key, []):
                found[key].append(path.stem)
    return found


def describe(name: str, said: str, default: object, rule: str, needs: list[str], set_by: list[str]) -> str:
    """Returns a field's part of the page."""
    kind = "open: any name" if name in ("model_args", "learning_rate_factors") else type(default).__name__
    lines = [f"### {name}", "", said] if said else [f"### {name}"]
    shown = "" if kind.startswith("open") else f", default `{default!r}`"
    lines += ["", f"{kind}{shown}{f'; must {rule}' if rule else ''}."]
    if needs:
        lines += ["", f"Has an effect only with {'; and with '.join(needs)}."]
    if set_by:
        lines += ["", f"Set by {', '.join(f'`{one}`' for one in set_by)}."]
    return "\n".join(lines)


def page() -> str:
    """Returns the page's text."""
    default = load_config("default").to_dict()
    values, found_rules, set_by = flatten_fields(default), rules(), recipes()
    parts = [HEAD]
    for section in read_sections((ROOT / "configs" / "default.py").read_text()):
        parts.append(f"## {section.title}" + (f"\n\n{section.text}" if section.text else ""))
        for name, said in section.fields.items():
            needs = [condition.needs for condition in CONDITIONS if name in condition.fields]
            parts.append(describe(name, said, values.get(name), found_rules.get(name, ""), needs, set_by.get(name, [])))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.exit(0)
