"""The weights that a run begins from."""

from collections.abc import Iterator
from pathlib import Path

from resnet_jax.checkpoint.folder import open_latest
from resnet_jax.preflight.dummy_data import missing_weights
from resnet_jax.preflight.finding import Finding, ok, warning
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.init_weights import load_initial
from resnet_jax.weights.load import open_weights
from resnet_jax.weights.pretrained import find_weights


def check_weights(experiment: Experiment, workdir: Path, *, classes_known: bool) -> Iterator[Finding]:
    """Yields whether the weights of config.finetune can be read, and, if the images' classes are known, fit the
    network.

    Raises:
      UserError: as train if not. A run that goes on in `workdir` needs none any more.
    """
    options, named = experiment.options, experiment.options.finetune.weights
    model_name = options.model.model
    if not named or open_latest(workdir).latest_step() is not None:
        return
    if (missing := missing_weights(options)) is not None:
        yield warning(
            "weights",
            f"{named} of {model_name} is not downloaded yet",
            f"train downloads it, once; without a network {missing}",
        )
        return
    if not classes_known:
        path = find_weights(named, model_name, download=False)
        num_tensors = len(open_weights(path).tensors)
        yield ok("weights", f"{named} can be read, and holds {num_tensors} tensors")
        return
    load_initial(options, experiment.model, experiment.class_names)
    yield ok("weights", f"{named} fits, with config.finetune.head={options.finetune.head}")
