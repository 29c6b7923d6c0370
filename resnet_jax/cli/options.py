"""What several commands make of their options."""

from pathlib import Path

from resnet_jax.filesystem import expand


def run_folder(workdir: str | None, config: str) -> Path:
    """Returns the folder of a run: `workdir`, or where None is given that of the config's name. Raises as `expand`."""
    return expand(f"runs/{Path(config).stem}" if workdir is None else workdir)
