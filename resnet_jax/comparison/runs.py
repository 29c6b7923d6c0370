"""Reads the facts on a run from its folder, without opening its images or arrays."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resnet_jax.checkpoint.folder import open_best, open_latest
from resnet_jax.checkpoint.manifest import read_manifest
from resnet_jax.errors import RunError, UserError
from resnet_jax.training.experiment import stored_options
from resnet_jax.training.starts import Start, describe_machine, read_starts
from resnet_jax.training.validation_score import best_validation, is_over, validation_score
from resnet_jax.training.workdir import CONFIG_FILE, MetricsLog, Record, flatten_fields, read_config

logger = logging.getLogger(__name__)  # and not `distributed.processes.warn`, which would take the devices

# The last of each in the log is a number of the run.
METRICS = tuple(
    f"{split}_{average}{metric}"
    for split in ("train", "val", "test")
    for average in ("", "ema_")
    for metric in ("loss", "accuracy", "map")
)

# The images that a checkpoint knows by digests, as they are called beside configs: "data" is the training images.
IMAGES = {"data": "train_digest", "validation data": "val_digest", "test data": "test_digest"}
NO_IMAGES = "none"

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
      images: digests by the names of IMAGES, or NO_IMAGES, as far as its newest checkpoint says it.
      numbers: "best" of the validations, "best_epoch", the last of each of METRICS, and the "minutes" of all its
        starts.
      starts: in order; none of an older run.
    """

    name: str
    fields: dict[str, Any]
    without_effect: frozenset[str]
    records: list[Record]
    step: int
    num_steps: int
    is_finished: bool
    versions: dict[str, str]
    images: dict[str, str]
    numbers: dict[str, float]
    starts: tuple[Start, ...]

    @property
    def machines(self) -> tuple[str, ...]:
        """Where it ran, in the order of its starts."""
        return tuple(dict.fromkeys(map(describe_machine, self.starts)))

    @property
    def sources(self) -> tuple[str, ...]:
        """Digests of the package's code that it ran by."""
        return tuple(dict.fromkeys(start.source for start in self.starts))

    @property
    def command(self) -> str:
        """Its last start's; "" of an older run."""
        return self.starts[-1].command if self.starts else ""

    @property
    def extended_after(self) -> int:
        """The last step at which it was finished before it went on, being made longer; 0 if it never was."""
        furthest = max((start.to_step for start in self.starts), default=0)
        return max((start.to_step for start in self.starts if start.finished and start.to_step < furthest), default=0)


def find_runs(paths: Sequence[Path], shown: Callable[[Path], str] = str) -> list[Path]:
    """Returns the workdirs among `paths`, and in the folders among them that hold runs, in order, each once by the
    first of its names; leaves out a path that holds none, or cannot be read, with a warning.

    Args:
      shown: gives a path's name for messages.

    Raises:
      UserError: for a path that does not exist, or if nothing is left.
    """
    found: dict[Path, Path] = {}  # by where they lie, links followed
    for path in paths:
        try:
            if not path.exists():
                raise UserError(f"{shown(path)} does not exist: give workdirs of runs, or folders of them")
            inside = sorted(_runs_below(path)) if path.is_dir() else []
        except OSError as error:
            logger.warning(f"{shown(path)} is left out: {error.strerror or error}")
            continue
        if not inside:
            logger.warning(f"{shown(path)} holds no run: it is left out")
        for workdir in inside:
            found.setdefault(workdir.resolve(), workdir)
    if not found:
        raise UserError(f"no runs in {', '.join(map(shown, paths))}: give workdirs, which hold a {CONFIG_FILE}")
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
                logger.warning(f"{child} is left out: {error.strerror or error}")
            else:
                yield from inside


def read_runs(workdirs: Sequence[Path], shown: Callable[[Path], str] = str) -> list[RunSummary]:
    """Returns the facts on the runs; leaves out one that cannot be read, with a warning.

    Args:
      shown: gives a run's name by its folder, for the facts and for messages.

    Raises:
      UserError: if none can be read.
    """
    runs = []
    for workdir in workdirs:
        try:
            runs.append(replace(read_run(workdir), name=shown(workdir)))
        except (UserError, RunError, OSError) as error:
            if len(workdirs) == 1:
                raise
            logger.warning(f"{shown(workdir)} is left out: {getattr(error, 'strerror', None) or error}")
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
    has_ended = num_steps > 0 and is_over(records, step, num_steps, options.periods.early_stopping_patience)
    return RunSummary(
        name=str(workdir),
        fields=flatten_fields(json.loads(options.written)),
        without_effect=options.without_effect,
        records=records,
        step=max(step, manifest.get("step", 0), starts[-1].to_step if starts else 0),  # it may save between records
        num_steps=num_steps,
        is_finished=has_ended and (not starts or starts[-1].finished),
        versions=manifest.get("versions") or (starts[-1].versions if starts else {}),
        images={name: position[field] or NO_IMAGES for name, field in IMAGES.items() if field in position},
        numbers=_numbers(records, starts),
        starts=tuple(starts),
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
            with contextlib.suppress(UserError, RunError, OSError):
                return read_manifest(folder.directory / str(step))
    return {}
