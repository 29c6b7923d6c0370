"""Models on the Hugging Face Hub, by owner/name: brought into the hub's own cache by the library huggingface_hub."""

import contextlib
import hashlib
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from resnet_jax import __version__
from resnet_jax.errors import UserError, first_line
from resnet_jax.weights.model_folder import CONFIG, INDEX_SUFFIX, PROCESSOR, WEIGHTS, index_files, read_json

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<prefix>hf[-_]hub:|hf://)?(?P<name>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?")
# How the names of files end: a path like weights/model.pth is no name of a model, whether it exists or not.
_FILE_SUFFIXES = (".pth", ".pt", ".th", ".tar", ".bin", ".pkl", ".safetensors", ".npz", ".h5", ".keras", ".msgpack")
TIMEOUT_SECONDS = 8
_LOG_IN = "log in by hf auth login, or set HF_TOKEN"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HubModel:
    """A model on the hub: its owner/name, and a branch, tag or commit, where None is the main branch."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def parse_hub_model(text: str) -> HubModel | None:
    """Returns the model that `text` names, as "timm/resnet50.a1_in1k" or "microsoft/resnet-50@main" do; None if it
    has another form, or is a path: a folder of the owner's name is here.

    "hf-hub:" before it says that it is a model, whatever is here.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    if not match["prefix"] and (not may_be_hub_model(text) or Path(match["name"]).parent.is_dir()):
        return None
    return HubModel(match["name"], match["revision"])


def may_be_hub_model(text: str) -> bool:
    """Returns whether `text` has the form owner/name, and not the ending of a file."""
    match = _NAME.fullmatch(text)
    return match is not None and not match["name"].lower().endswith(_FILE_SUFFIXES)


def fetch_hub_model(model: HubModel) -> Path:
    """Returns the folder in the hub's cache with the model's config and weights, which are downloaded if need be.

    HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE act as huggingface_hub has them. The SHA-256 of the weights is
    compared each time.

    Raises:
      UserError: if there is no such model or revision, it may not be read, the network fails, or a file is damaged.
    """
    config_file = _fetch(model, CONFIG)
    commit = model.revision if config_file is None else config_file.parent.name  # the same for all files
    if config_file is not None and "architecture" not in read_json(config_file):  # timm's config says all
        _fetch(model, PROCESSOR, commit)
    for name in WEIGHTS:
        path = _fetch(model, name, commit)
        if path is None:
            continue
        parts = [_fetch(model, part, commit) for part in index_files(path)] if name.endswith(INDEX_SUFFIX) else [path]
        for part in parts:
            if part is None:
                raise UserError(f"{model} lacks a file that its {name} names")
            _check_digest(part)
        return path.parent
    if _is_offline():
        raise UserError(_not_cached(model, "HF_HUB_OFFLINE is set"))
    raise UserError(f"{model} holds none of {', '.join(WEIGHTS)}, the files of which weights are read")


def cached_hub_model(model: HubModel) -> Path | None:
    """Returns the folder in the hub's cache that holds the model, None if none does; no server is asked."""
    from huggingface_hub import errors, try_to_load_from_cache

    paths = (try_to_load_from_cache(model.name, name, revision=model.revision) for name in WEIGHTS)
    with contextlib.suppress(errors.HFValidationError):  # a name that no model can have
        return next((Path(path).parent for path in paths if isinstance(path, str)), None)
    return None


def _fetch(model: HubModel, name: str, commit: str | None = None) -> Path | None:
    """Returns the path in the cache of one of the model's files, of a commit if that is known; None if it has no such
    file.
    """
    from huggingface_hub import constants, errors, hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    revision = commit or model.revision
    if name == CONFIG and not _is_offline() and cached_hub_model(model) is None:
        _check_server(model)
        logger.info(f"downloading {model} from {constants.ENDPOINT} to {constants.HF_HUB_CACHE}")
    try:
        return Path(
            hf_hub_download(model.name, name, revision=revision, library_name="resnet_jax", library_version=__version__)
        )
    except errors.LocalEntryNotFoundError as error:
        if _is_offline():
            if name == CONFIG and cached_hub_model(model) is None:
                raise UserError(_not_cached(model, "HF_HUB_OFFLINE is set")) from None
            return None
        raise UserError(_not_cached(model, f"{constants.ENDPOINT} does not answer")) from error
    except errors.EntryNotFoundError:
        return None
    except errors.GatedRepoError as error:
        raise UserError(f"{model} is gated: accept its conditions on its page of the hub, then {_LOG_IN}") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{model} is neither a file here nor a model on the hub that may be read: check the name; for "
                        f"a private one, {_LOG_IN}") from error  # fmt: skip
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{model.name} has no revision {model.revision!r}: give a branch, tag or commit") from error
    except Exception as error:  # of the hub, the HTTP library, whichever that is, the disk, names that are none
        answer = error.response if isinstance(error, errors.HfHubHTTPError) else None
        if answer is not None and answer.status_code == 401:
            raise UserError(f"the token is refused for {model}: correct or unset HF_TOKEN, or {_LOG_IN}") from error
        raise UserError(f"{model}: {name} cannot be downloaded ({first_line(error)}): try again") from error


def _check_server(model: HubModel) -> None:
    """Raises UserError (a ValueError) within seconds if no server answers, which the client tries for half a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
    except Exception as error:
        raise UserError(_not_cached(model, f"{constants.ENDPOINT} does not answer ({first_line(error)})")) from error


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _not_cached(model: HubModel, why: str) -> str:
    from huggingface_hub import constants

    return (
        f"{model} is neither a file here nor in the cache {constants.HF_HUB_CACHE}, and {why}: connect to the network "
        "once, or copy that cache from a machine that has the model"
    )


def _check_digest(path: Path) -> None:
    """Raises UserError (a ValueError) unless the content is what the cache calls it, where it calls it by SHA-256."""
    expected = path.resolve().name
    if not _SHA256.fullmatch(expected):
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        raise UserError(f"{path} is damaged: its SHA-256 must be {expected} and is {digest}; delete {path.resolve()}")
