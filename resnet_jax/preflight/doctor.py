"""All checks except the packages', which all of these need."""

from collections.abc import Iterator
from pathlib import Path

from resnet_jax.preflight.data import Images, check_images, check_known_sets
from resnet_jax.preflight.devices import check_batch, check_devices
from resnet_jax.preflight.dummy_data import dummy_data
from resnet_jax.preflight.finding import ERROR, Finding, checked, ok
from resnet_jax.preflight.folders import check_cache, check_home, check_workdir
from resnet_jax.preflight.images import check_all_images
from resnet_jax.preflight.space import check_disk, check_memory
from resnet_jax.preflight.weights import check_weights
from resnet_jax.training.experiment import Experiment, Options, build_experiment


def examine(options: Options | None, workdir: Path | None, *, deep: bool = False) -> list[Finding]:
    """Returns what is found of this machine besides its packages, and of what a run of `options`, if given, needs in
    `workdir`.

    Args:
      deep: every image is decoded.

    A check that fails in a way that nobody foresaw is an error among the others.
    """
    devices = checked("devices", check_devices)
    findings = [
        *devices,
        *checked("compiled", check_cache),
        *checked("home", check_home),
    ]
    if options is None:
        return findings + checked("data", check_known_sets)
    assert workdir is not None
    images = Images()
    findings += checked("data", lambda: check_images(options, images))
    if deep and (splits := images.splits) is not None:
        findings += checked("deep", lambda: check_all_images(options.images, splits))
    if devices[0].status == ERROR:  # without them nothing else can be checked
        return findings
    findings += checked("batch", lambda: check_batch(options.batches))
    experiments: list[Experiment] = []

    def check_config() -> Iterator[Finding]:
        experiments.append(_build(options, images))
        named, num_classes = options.model, experiments[0].model.num_classes
        yield ok("config", f"{named.model} of {num_classes} classes, {named.dtype}, {options.optimizer.optimizer}")

    told = [finding.found for finding in findings]
    findings += [finding for finding in checked("config", check_config) if finding.found not in told]
    for experiment in experiments:
        findings += _examine_needs(experiment, workdir, images)
    own = experiments[0] if experiments and images.splits is not None else None
    return findings + checked("workdir", lambda: check_workdir(options, workdir, own))


def _examine_needs(experiment: Experiment, workdir: Path, images: Images) -> list[Finding]:
    """Returns the findings on a run's needs besides its images."""
    known = images.splits is not None  # then the experiment's classes and number of steps are the run's
    to_prepare = images.needs is not None
    return [
        *checked("weights", lambda: check_weights(experiment, workdir, classes_known=known)),
        *checked("memory", lambda: check_memory(experiment)),
        *checked("disk", lambda: check_disk(experiment, workdir, counts_known=known, to_prepare=to_prepare)),
    ]


def _build(options: Options, images: Images) -> Experiment:
    if images.splits is not None:
        return build_experiment(options, splits=images.splits)
    if images.needs is not None:
        return dummy_data(options, images.needs.num_classes, images.needs.image_shape)
    return dummy_data(options)
