"""Paths as users write them."""

from pathlib import Path

from resnet_jax.errors import UserError


def expand(text: str | Path) -> Path:
    """The path with its `~` replaced by the home folder. Raises UserError (a ValueError) for an empty one."""
    if not str(text):
        raise UserError("a path is empty: give the name of a file or folder")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~nobody
        raise UserError(f"{text}: {error}") from None


def run_folder(workdir: str | None, config: str) -> Path:
    """The folder of a run: `workdir`, or where None is given that of the config's name. Raises as `expand` does."""
    return expand(f"runs/{Path(config).stem}" if workdir is None else workdir)
