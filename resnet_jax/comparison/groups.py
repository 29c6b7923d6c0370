"""Runs side by side: those that differ in their seed alone are one group, with mean and standard deviation."""

import hashlib
import json
import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_jax.comparison.runs import IMAGES, METRICS, RunSummary
from resnet_jax.errors import abridge, check_choice
from resnet_jax.training.experiment import default_fields
from resnet_jax.training.resume import MAY_CHANGE
from resnet_jax.training.workdir import flatten_fields

NUMBERS = ("best", "best_epoch", *METRICS, "minutes")
# Of what a continued run may change, these decide where it ends; and its numbers, as how often the best is chosen does.
LENGTHS = ("num_epochs", "num_steps", "early_stopping_patience")
NOT_DECIDING = frozenset(MAY_CHANGE) - {*LENGTHS, "eval_every_epochs", "model_args.remat"}
SEED = "seed"
# Of what less is better.
ASCENDING = ("loss", "epoch", "minutes")
# In what else groups may differ, where it is known.
OF_STARTS = ("machine", "source")


@dataclass(frozen=True)
class Group:
    """Finished runs of one config, one set of versions and the same images, with their seeds; or one unfinished run.

    Attributes:
      differs: what it has of the fields that decide a run's numbers, but the seed, and of "versions", IMAGES, "machine"
        and "source", in which the groups differ.
      mean, deviation: of each number; the standard deviation is the sample's (n - 1), None for a single run. Both are
        NaN where a run's number is not finite.
    """

    runs: list[RunSummary]
    differs: dict[str, Any]
    mean: dict[str, float]
    deviation: dict[str, float | None]

    @property
    def name(self) -> str:
        """The run's name, or of several the first's and how many more there are."""
        more = f" +{len(self.runs) - 1}" if len(self.runs) > 1 else ""
        return f"{self.runs[0].name}{more}"

    @property
    def config(self) -> str:
        """Eight digits of a digest of what its config changes of the defaults, and decides its numbers, but the seed:
        the same whenever and with whatever workdir it runs.
        """
        defaults = flatten_fields(default_fields())
        changed = {
            field: value
            for field, value in _deciding(self.runs[0]).items()
            if field not in defaults or defaults[field] != value
        }
        return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def machine(self) -> str:
        """Where its runs ran; empty if they are too old to say it."""
        return "; ".join(sorted({machine for run in self.runs for machine in run.machines}))

    @property
    def source(self) -> str:
        """Digests of the package's code that its runs ran by; empty if they are too old to say it."""
        return ", ".join(sorted({source for run in self.runs for source in run.sources}))

    @property
    def note(self) -> str:
        """Says what one must know of it: that it is not finished, has a seed several times, went on after its end, ran
        by code or libraries that were changed meanwhile or on images that may have been; else empty.
        """
        run, seeds = self.runs[0], [run.fields[SEED] for run in self.runs]
        if not run.is_finished:
            return f"unfinished: step {run.step} of {run.num_steps or '?'}"
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        notes = [f"seed {abridge([str(seed) for seed in twice])} more than once"] if twice else []
        if ends := sorted({run.extended_after for run in self.runs} - {0}):
            notes.append(f"went on after an end at step {abridge([str(step) for step in ends])}")
        num_sources = len({source for run in self.runs for source in run.sources})
        if num_sources > 1:
            notes.append(f"{num_sources} states of the code")
        sets = [start.versions for run in self.runs for start in run.starts if start.versions]
        num_sets = len({json.dumps(one, sort_keys=True) for one in sets})
        if num_sets > 1:
            notes.append(f"{num_sets} sets of versions")
        return ", ".join(notes + self._notes_on_images())

    def _notes_on_images(self) -> list[str]:
        notes = [] if all("data" in run.images for run in self.runs) else ["no checkpoint: its images are not known"]
        # The same training images by their names and labels; what is in them is not looked at.
        places = {run.fields["data_dir"]: None for run in self.runs if "data_dir" not in run.without_effect}
        if len(places) > 1:
            notes.append(f"images in {abridge([*places])}")
        for split, images in (("val", "validation"), ("test", "test")):
            counts = {
                record[name] for run in self.runs for record in run.records if (name := f"{split}_count") in record
            }
            if len(counts) > 1:
                notes.append(f"{abridge([f'{count:,}' for count in sorted(counts)])} {images} images")
        return notes


def group_runs(runs: Sequence[RunSummary], sort: str = "", parted_by: Collection[str] = ()) -> list[Group]:
    """Returns the groups of `runs`, sorted.

    Args:
      parted_by: fields that part groups though they decide no number in general.
      sort: a number, a field or "name"; "": the best validation, else the test accuracy, else as they were given.
        Losses and epochs ascend, other numbers descend.

    Raises:
      UserError: for another name.
    """
    by_key: dict[str, list[list[RunSummary]]] = {}
    for run in runs:
        key = [_deciding(run, parted_by), run.versions, bool(run.images)] if run.is_finished else [run.name]
        alike = by_key.setdefault(json.dumps(key, sort_keys=True, default=list), [])
        fitting = (members for members in alike if all(_may_be_of_same_images(run, other) for other in members))
        if (members := next(fitting, None)) is None:
            alike.append([run])
        else:
            members.append(run)
    parts = [members for alike in by_key.values() for members in alike]
    differing = _differing(parts, parted_by)
    groups = [_group(members, differing) for members in parts]
    _show_differing_versions(groups)
    for name in OF_STARTS:
        if len({getattr(group, name) for group in groups} - {""}) > 1:
            for group in groups:
                group.differs[name] = getattr(group, name) or "?"
    known = {number for group in groups for number in group.mean}
    if sort:
        check_choice("--sort", sort, ("name", *NUMBERS, *{field: None for run in runs for field in run.fields}))
    else:
        sort = next((number for number in ("best", "test_accuracy") if number in known), "")
    return sorted(groups, key=lambda group: _place(group, sort)) if sort else groups


def _may_be_of_same_images(run: RunSummary, other: RunSummary) -> bool:
    """Returns whether all images agree of which both runs know: an older one does not know its evaluations'."""
    return all(run.images[name] == other.images[name] for name in run.images.keys() & other.images.keys())


def _group(runs: list[RunSummary], differing: Sequence[str]) -> Group:
    mean: dict[str, float] = {}
    deviation: dict[str, float | None] = {}
    for number in NUMBERS:
        values = [run.numbers[number] for run in runs if number in run.numbers]
        if len(values) == len(runs):
            finite = all(map(math.isfinite, values))  # of others `statistics` raises what it likes
            mean[number] = statistics.fmean(values) if finite else math.nan
            deviation[number] = None if len(values) == 1 else statistics.stdev(values) if finite else math.nan
    return Group(runs, {name: _value(runs, name) for name in differing}, mean, deviation)


def _show_differing_versions(groups: Sequence[Group]) -> None:
    """Leaves of each group's versions those in which the groups differ."""
    versions = [group.differs["versions"] for group in groups if "versions" in group.differs]
    known = [one for one in versions if one]  # none of an older run without a checkpoint
    names = {name: None for one in known for name in one if len({other.get(name) for other in known}) > 1}
    for group in groups:
        if "versions" in group.differs:
            group.differs["versions"] = {name: group.differs["versions"].get(name, "?") for name in names}


def _deciding(run: RunSummary, also: Collection[str] = ()) -> dict[str, Any]:
    """Returns the fields that decide the run's numbers, but the seed, and those of `also`."""
    left_out = (NOT_DECIDING | run.without_effect | {SEED}) - {*also}
    return {field: value for field, value in run.fields.items() if field not in left_out}


def _value(runs: Sequence[RunSummary], name: str) -> Any:
    if name in IMAGES:
        return _images(runs, name)[:8] or "?"
    return runs[0].versions if name == "versions" else runs[0].fields.get(name)


def _images(runs: Sequence[RunSummary], name: str) -> str:
    """Returns the digest of a group's images; empty if none of its runs knows it."""
    return next((run.images[name] for run in runs if name in run.images), "")


def _differing(groups: Sequence[Sequence[RunSummary]], also: Collection[str]) -> list[str]:
    """Returns in what the groups differ: fields that decide a run's numbers, and those of `also`, then "versions" and
    IMAGES of those whose are known.
    """
    runs = [group[0] for group in groups]
    fields = {field: None for run in runs for field in _deciding(run, also)}
    found = [field for field in fields if len({repr(run.fields.get(field)) for run in runs}) > 1]
    known: dict[str, list[Any]] = {"versions": [run.versions for run in runs]}
    known |= {name: [_images(group, name) for group in groups] for name in IMAGES}
    return found + [name for name, values in known.items() if len({repr(value) for value in values if value}) > 1]


def _place(group: Group, sort: str) -> tuple[Any, ...]:
    """Returns a key to sort by; groups without the number are last."""
    if sort == "name":
        return (group.name,)
    if sort in NUMBERS:
        value = group.mean.get(sort)
        if value is None or value != value:
            return (1, 0.0)
        return (0, value if sort.endswith(ASCENDING) else -value)
    value = group.runs[0].fields.get(sort)
    is_number = isinstance(value, int | float)
    return (0, value, "") if is_number else (1, 0, str(value))
