"""Reads the facts on a run from its folder, without opening its images or arrays."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_jax.checkpoint.folder import open_best, open_latest
from resnet_jax.checkpoint.manifest import read_manifest
from resnet_jax.distributed.processes import warn
from resnet_jax.errors import UserError
from resnet_jax.training.experiment import stored_options
from resnet_jax.training.starts import Start, describe_machine, read_starts
from resnet_jax.training.validation_score import best_validation, is_out_of_patience, validation_score
from resnet_jax.training.workdir import CONFIG_FILE, MetricsLog, Record, flatten_fields, read_config

# The last of each in the log is a number of the run.
METRICS = tuple(
    f"{split}_{average}{metric}"
    for split in ("train", "val", "test")
    for average in ("", "ema_")
    for metric in ("loss", "accuracy", "map")
)

MOST_DEEP = 3  # folders of runs within folders


@dataclass(frozen=True)
class RunSummary:
    """A run.

    Attributes:
      name: its folder's, as it was given.
      fields: its config, by dotted paths; a field that is newer than the run has its default.
      without_effect: those of them that change nothing in it.
      records: its metrics log.
      step, num_steps: how far it got, and how far it was to go; num_steps is 0 where nothing is known of it yet.
      is_finished: it got there, or stopped early as it was to, and did what was due then.
      versions: of Python and the libraries that computed its newest checkpoint, else its last start.
      data: the digest of its training images; "" where it has no checkpoint.
      numbers: "best" of the validations, "best_epoch", the last of each of METRICS, and the "minutes" of all its
        starts.
      machines: where it ran, in the order of its starts.
      sources: digests of the package's code that it ran by; of an older run, () as its machines.
      command: its last start's; "" of an older run.
    """

    name: str
    fields: dict[str, Any]
    without_effect: frozenset[str]
    records: list[Record]
    step: int
    num_steps: int
    is_finished: bool
    versions: dict[str, str]
    data: str
    numbers: dict[str, float]
    machines: tuple[str, ...]
    sources: tuple[str, ...]
    command: str


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Returns the workdirs among `paths`, and in the folders among them that hold runs, in order, each once by the
    first of its names; leaves out a path that holds none, or cannot be read, with a warning.

    Raises:
      UserError: for a path that does not exist, or if nothing is left.
    """
    found: dict[Path, Path] = {}  # by where they lie, links followed
    for path in paths:
        try:
            if not path.exists():
                raise UserError(f"{path} does not exist: give workdirs of runs, or folders of them")
            inside = sorted(_runs_below(path)) if path.is_dir() else []
        except OSError as error:
            warn(f"{path} is left out: {error.strerror or error}")
            continue
        if not inside:
            warn(f"{path} holds no run: it is left out")
        for workdir in inside:
            found.setdefault(workdir.resolve(), workdir)
    if not found:
        raise UserError(f"no runs in {', '.join(map(str, paths))}: give workdirs, which hold a {CONFIG_FILE}")
    return list(found.values())


def _runs_below(path: Path, depth: int = MOST_DEEP) -> Iterator[Path]:
    """Yields `path` if it is a run's, otherwise the runs in it and in its folders, so many below one another."""
    if (path / CONFIG_FILE).is_file():
        yield path
        return
    if depth == 0:
        return
    with contextlib.suppress(OSError):
        for child in path.iterdir():
            try:
                inside = list(_runs_below(child, depth - 1)) if child.is_dir() and not child.is_symlink() else []
            except OSError as error:
                warn(f"{child} is left out: {error.strerror or error}")
            else:
                yield from inside


def read_runs(workdirs: Sequence[Path]) -> list[RunSummary]:
    """Returns the facts on the runs; leaves out one whose config cannot be read, with a warning.

    Raises:
      UserError: if none can be read.
    """
    runs = []
    for workdir in workdirs:
        try:
            runs.append(read_run(workdir))
        except (UserError, OSError) as error:
            if len(workdirs) == 1:
                raise
            warn(f"{workdir} is left out: {getattr(error, 'strerror', None) or error}")
    if not runs:
        raise UserError(f"none of {len(workdirs)} runs can be read: see the warnings")
    return runs


def read_run(workdir: Path) -> RunSummary:
    """Returns the facts on the run in `workdir`.

    Raises:
      UserError: if its config cannot be read.
    """
    options = stored_options(read_config(workdir))
    records = MetricsLog(workdir).records
    step = max((record["step"] for record in records), default=0)
    manifest = _newest_manifest(workdir)
    position = manifest.get("position", {})
    steps_per_epoch = position.get("num_train", 0) // options.batches.batch_size or _steps_per_epoch(records)
    num_steps = options.periods.run_length(steps_per_epoch)
    starts = read_starts(workdir)
    has_stopped = is_out_of_patience(records, options.periods.early_stopping_patience)
    return RunSummary(
        name=str(workdir),
        fields=flatten_fields(json.loads(options.written)),
        without_effect=options.without_effect,
        records=records,
        step=max(step, manifest.get("step", 0), starts[-1].to_step if starts else 0),  # it may save between records
        num_steps=num_steps,
        is_finished=(has_stopped or (num_steps > 0 and step >= num_steps)) and (not starts or starts[-1].finished),
        versions=manifest.get("versions") or (starts[-1].versions if starts else {}),
        data=position.get("train_digest", ""),
        numbers=_numbers(records, starts),
        machines=tuple(dict.fromkeys(map(describe_machine, starts))),
        sources=tuple(dict.fromkeys(start.source for start in starts)),
        command=starts[-1].command if starts else "",
    )


def _numbers(records: list[Record], starts: list[Start]) -> dict[str, float]:
    numbers: dict[str, float] = {"minutes": sum(start.seconds for start in starts) / 60} if starts else {}
    best = best_validation(records)
    if best is not None:
        numbers |= {"best": validation_score(best, "val_"), "best_epoch": best["epoch"]}
    last: Record = {}
    for record in records:
        last |= record
    return {**numbers, **{metric: last[metric] for metric in METRICS if metric in last}}


def _steps_per_epoch(records: list[Record]) -> int:
    return next((round(record["step"] / record["epoch"]) for record in records[::-1] if record["epoch"]), 0)


def _newest_manifest(workdir: Path) -> dict[str, Any]:
    """Returns the manifest of the run's newest readable checkpoint; empty if it has none."""
    for folder in (open_latest(workdir), open_best(workdir)):
        for step in reversed(folder.list_steps()):
            with contextlib.suppress(UserError, OSError):
                return read_manifest(folder.directory / str(step))
    return {}
