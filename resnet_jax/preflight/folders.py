"""The folders that are written: the run's, the user's own, and the one for compiled programs."""

import os
from collections.abc import Iterator
from pathlib import Path

from resnet_jax.checkpoint.folder import open_latest
from resnet_jax.errors import UserError
from resnet_jax.formatting import format_bytes
from resnet_jax.preflight.finding import Finding, ok, refused, warning
from resnet_jax.runtime import cache_fault, cache_folder, cache_is_off, home
from resnet_jax.training.experiment import Experiment, Options
from resnet_jax.training.resume import check_run, continues_after
from resnet_jax.training.validation_score import stops_early
from resnet_jax.training.workdir import MetricsLog, check_unlocked

OWN_HOME = "set RESNET_JAX_HOME to a folder of yours"


def check_cache() -> Iterator[Finding]:
    """Yields whether compiled programs are kept, where, and how much there is."""
    own = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if cache_is_off():
        yield ok("compiled", "programs are not kept: RESNET_JAX_COMPILATION_CACHE=0")
    elif own is not None:
        yield ok("compiled", f"programs are kept as JAX_COMPILATION_CACHE_DIR says, in {own}")
    elif fault := cache_fault(cache_folder()):
        remedy = f"chmod go-w {cache_folder()}" if fault.startswith("others") else OWN_HOME
        yield warning("compiled", f"programs are not kept, and compiled at each start: {fault}", remedy)
    else:
        sizes = [path.stat().st_size for path in cache_folder().parent.rglob("*") if path.is_file()]
        yield ok("compiled", f"{len(sizes)} files, {format_bytes(sum(sizes))}, kept in {cache_folder().parent}")


def check_home() -> Iterator[Finding]:
    """Yields the folder of what is kept between runs, downloaded weights among it."""
    existing = next(path for path in (home().absolute(), *home().absolute().parents) if path.exists())
    fault = "" if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK) else f"{home()} cannot be written"
    kept_there = not cache_is_off() and "JAX_COMPILATION_CACHE_DIR" not in os.environ
    if not fault and kept_there:  # this process has tried it: permission is not all that may be missing
        fault = cache_fault(cache_folder())
    if fault and not fault.startswith("others"):
        yield warning("home", f"{fault}: downloaded weights are not kept", OWN_HOME)
    else:
        yield ok("home", f"{home()} can be written")


def check_workdir(options: Options, workdir: Path, experiment: Experiment | None) -> Iterator[Finding]:
    """Yields what a run of these options finds in the folder; experiment: the run's own, None if its images are not
    known.
    """
    try:
        check_run(workdir, options)
        check_unlocked(workdir)
        step = continues_after(experiment, workdir) if experiment else open_latest(workdir).latest_step()
    except UserError as reason:
        yield refused("workdir", reason, "choose another --workdir")
        return
    if not step:
        yield ok("workdir", f"{workdir} holds no run yet, and can be written")
    elif experiment and step == experiment.num_steps:
        yield ok("workdir", f"{workdir} holds this run, which is finished")
    elif experiment and stops_early(
        MetricsLog(workdir).records, experiment.periods.patience, step, experiment.num_steps
    ):
        yield ok("workdir", f"{workdir} holds this run, which stopped early after step {step}")
    else:
        yield ok("workdir", f"{workdir} holds this run, which goes on after step {step}")
