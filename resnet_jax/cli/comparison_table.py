"""Runs side by side, as the commands print them: a table, CSV or one JSON object, and the picture of their curves."""

import io
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.cli.printing import draw_picture, print_columns
from resnet_jax.formatting import csv_writer, format_json, format_number
from resnet_jax.sweep.combinations import show

if TYPE_CHECKING:
    from resnet_jax.comparison.groups import Group

PICTURE = "compare.png"
# The numbers of the table, where a run has them, and what stands above them.
SHOWN = {
    "best": "best validation", "val_accuracy": "last", "val_map": "last map", "val_ema_accuracy": "last average",
    "val_ema_map": "last average map", "test_accuracy": "test", "test_map": "test map",
    "test_ema_accuracy": "test average", "test_ema_map": "test average map", "test_loss": "test loss",
    "minutes": "minutes",
}  # fmt: skip


def print_comparison(
    groups: "Sequence[Group]", picture: Path | None, *, as_json: bool = False, as_csv: bool = False
) -> None:
    """Prints groups of runs, a row each if neither JSON nor CSV is asked for, and draws their curves into `picture`."""
    picture = draw_picture(picture, partial(_draw, groups))
    if as_json:
        drawn = str(picture) if picture else None
        print(format_json({"groups": [_as_json(group) for group in groups], "picture": drawn}))
    elif as_csv:
        _print_csv(groups)
    else:
        _print_table(groups)
        print()
        machines = {group.machine for group in groups} - {""}
        if len(machines) == 1:
            print(f"machine: {machines.pop()}")
        if picture:
            print(f"curves: {picture}")


def _draw(groups: "Sequence[Group]", picture: Path) -> None:
    from resnet_jax.plotting.comparison import draw_comparison

    curves = {label: [run.records for run in group.runs] for label, group in zip(_labels(groups), groups, strict=True)}
    draw_comparison(curves, picture, f"{sum(len(group.runs) for group in groups)} runs")


def _labels(groups: "Sequence[Group]") -> list[str]:
    """Returns a label for each group: the fields in which it differs, and its name if they do not suffice; its name
    alone if they are too many to be told apart.
    """
    from resnet_jax.comparison.groups import OF_STARTS
    from resnet_jax.plotting.comparison import MOST_CHARACTERS

    labels = [
        ", ".join(
            f"{name.rpartition('.')[2]} {_show(value)}"
            for name, value in group.differs.items()
            if name not in OF_STARTS
        )
        for group in groups
    ]
    if any(len(label) > MOST_CHARACTERS for label in labels):
        return [group.name for group in groups]
    return [
        label if label and labels.count(label) == 1 else f"{label} {group.name}".strip()
        for label, group in zip(labels, groups, strict=True)
    ]


def _print_table(groups: "Sequence[Group]") -> None:
    differs = list(groups[0].differs)
    numbers = [number for number in SHOWN if any(number in group.mean for group in groups)]
    notes = any(group.note for group in groups)
    header = ["run", "n", *differs, *(SHOWN[number] for number in numbers), "config", *(["note"] if notes else [])]
    rows = [
        [
            group.name,
            str(len(group.runs)),
            *(_show(group.differs[name]) for name in differs),
            *(_show_number(group, number) for number in numbers),
            group.config,
            *([group.note] if notes else []),
        ]
        for group in groups
    ]
    print_columns(header, rows)


def _show(value: Any) -> str:
    if isinstance(value, dict):  # versions
        return " ".join(f"{name} {version}" for name, version in value.items())
    return show(value)


def _show_number(group: "Group", number: str) -> str:
    if number not in group.mean:
        return "-"
    shown, deviation = format_number(_kind(number), group.mean[number]), group.deviation[number]
    if deviation is None:
        return shown
    spread = format_number(_kind(number), deviation)
    return f"{shown.removesuffix(' %')} ± {spread}"


def _kind(number: str) -> str:
    return "best_accuracy" if number == "best" else number


def _as_json(group: "Group") -> dict[str, Any]:
    runs = [
        {
            "run": run.name,
            "seed": run.fields["seed"],
            "step": run.step,
            "num_steps": run.num_steps,
            "finished": run.is_finished,
            "machines": run.machines,
            "sources": run.sources,
            "versions": run.versions,
            "images": run.images,
            "command": run.command,
            **run.numbers,
        }
        for run in group.runs
    ]
    return {
        "n": len(runs),
        "config": group.config,
        "note": group.note,
        "differs": group.differs,
        "mean": group.mean,
        "deviation": group.deviation,
        "runs": runs,
    }


def _print_csv(groups: "Sequence[Group]") -> None:
    from resnet_jax.comparison.groups import NUMBERS

    runs = [(i, group, run) for i, group in enumerate(groups) for run in group.runs]
    numbers = [number for number in NUMBERS if any(number in run.numbers for _, _, run in runs)]
    text = io.StringIO()
    writer = csv_writer(text)
    header = ["run", "group", "seed", "step", "num_steps", "finished", "config", "note"]
    writer.writerow([*header, *groups[0].differs, *numbers])
    for i, group, run in runs:
        place = [run.name, i, run.fields["seed"], run.step, run.num_steps, run.is_finished, group.config, group.note]
        values = [json.dumps(value) if isinstance(value, dict) else value for value in group.differs.values()]
        writer.writerow([*place, *values, *(run.numbers.get(number, "") for number in numbers)])
    sys.stdout.write(text.getvalue())
