"""Training from Python: the same as the train command, with the user's callbacks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.distributed.log_handler import install_log_handler
from resnet_jax.errors import Preempted
from resnet_jax.runtime import prepare_process
from resnet_jax.storage import open_workdir

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from resnet_jax.training.loop import RunResult


def train(config: "ConfigDict | str | Path", workdir: str | Path, callbacks: Sequence[Any] = ()) -> "RunResult":
    """Trains as a config says in a folder, or continues the run that is there, as `python train.py` does.

    A notebook shows the progress below the cell. Ctrl-C, or the notebook's stop button, saves and returns; the same
    call then continues. The package's log is printed, unless the program has given `logging` its own handlers.
    Call it before JAX computes anything, so that it uses the CPU's memory as the command does. With many processes,
    each calls it, after `jax.distributed.initialize`.

    Args:
      config: a config, as `resnet_jax.load_config` or a config file's `get_config` gives it, changed as you like; or
        the name or path of a file.
      workdir: the run's folder, made if need be; or its address in a bucket, s3://bucket/folder or gs://bucket/folder.
      callbacks: called while the run trains; see `resnet_jax.training.Callback`.

    Returns:
      How the run ended: `step`, `num_steps`, `records` (the metrics log), `digest` (the SHA-256 of its parameters and
      statistics), and `interrupted_by`, empty if it ran to its end.

    Raises:
      UserError: a ValueError: if a config, a folder or a callback cannot be used, before anything is written.
      RunError: a RuntimeError: if the disk is full or a loss is not finite. An error from a callback ends the run too.
      KeyboardInterrupt: on Ctrl-C, or another signal, before the first step: there is nothing to save.
    """
    from resnet_jax.config import checked_config
    from resnet_jax.training.experiment import options_of
    from resnet_jax.training.run import train as train_options

    prepare_process()
    install_log_handler(unless_program_has_one=True)
    options = options_of(checked_config(config))
    try:
        with open_workdir(workdir) as place:
            name = Path(config).stem if isinstance(config, str | Path) else place.path.name
            return train_options(options, place, name, callbacks=callbacks)
    except Preempted as stop:
        raise KeyboardInterrupt(f"interrupted by {stop} before the first step: nothing is saved") from None
