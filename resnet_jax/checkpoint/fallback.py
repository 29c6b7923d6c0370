"""Falls back from damaged checkpoints to the latest step before them that is intact."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from resnet_jax.checkpoint.folder import CheckpointFolder
from resnet_jax.errors import DamagedCheckpointError

Result = TypeVar("Result")
OnDamaged = Callable[[CheckpointFolder, int, DamagedCheckpointError], None]


def read_latest(
    folders: Sequence[CheckpointFolder],
    read: Callable[[CheckpointFolder, int], Result],
    on_damaged: OnDamaged,
    *,
    is_damaged: bool = False,
) -> Result | None:
    """Reads the latest intact step, from the first folder that has one.

    Args:
      folders: a folder after the first serves only where a step of those before it was damaged.
      read: reads a step; DamagedCheckpointError sends it to the step before.
      on_damaged: called with each damaged step; if it raises, the search ends.
      is_damaged: whether a step was found damaged earlier.

    Returns:
      The result of `read`; None if there is no such step.
    """
    for place, folder in enumerate(folders):
        if place and not is_damaged:  # as old as the best of a run that was killed before its first checkpoint
            return None
        for step in reversed(folder.steps()):
            try:
                return read(folder, step)
            except DamagedCheckpointError as error:
                is_damaged = True
                on_damaged(folder, step, error)
    return None
