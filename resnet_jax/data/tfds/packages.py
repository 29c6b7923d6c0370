"""The packages that only TFDS's sets need: imported where such a set is read, and named where one is missing."""

from importlib import import_module
from types import ModuleType

from resnet_jax.errors import UserError, suggestion

# By module; TFDS imports importlib_resources without declaring it.
PACKAGES = {
    "tensorflow_datasets": "tensorflow-datasets",
    "importlib_resources": "importlib-resources",
    "array_record": "array-record",
    "google_crc32c": "google-crc32c",
}


def import_for_tfds(module: str, name: str) -> ModuleType:
    """Returns the module, which the TFDS set `name` needs.

    Raises:
      UserError: saying what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if near := suggestion(name.lower(), ("digits", "folder")):
            raise UserError(
                f"dataset={name!r} must be one of digits, folder and the sets of TFDS, which is not complete here{near}"
            ) from error
        # All at once, and the module's own package too where something that it imports is missing: pip then adds that.
        missing = [package for other, package in PACKAGES.items() if other == module or not _is_importable(other)]
        raise UserError(
            f"dataset={name!r} is none of digits and folder, and sets of TFDS need more packages ({error}): "
            f"pip install {' '.join(missing)}"
        ) from error


def _is_importable(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True
