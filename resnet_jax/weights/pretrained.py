"""torchvision's published weights by name and tag: which file, downloaded once, checked every time."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from resnet_jax.errors import UserError, suggestion
from resnet_jax.filesystem import lock, try_lock, unlock
from resnet_jax.runtime import home
from resnet_jax.storage.run_files import read_run
from resnet_jax.weights.download import download, forget_partial, partial_of
from resnet_jax.weights.formats.refusals import refuse_missing
from resnet_jax.weights.hub import cached_hub_model, fetch_hub_model, may_be_hub_model, parse_hub_model

logger = logging.getLogger(__name__)

# (name, tag) -> file, from torchvision/models/resnet.py; its last eight hex digits begin the file's SHA-256.
PRETRAINED = {
    ("resnet18", "IMAGENET1K_V1"): "resnet18-f37072fd.pth",
    ("resnet34", "IMAGENET1K_V1"): "resnet34-b627a593.pth",
    ("resnet50", "IMAGENET1K_V1"): "resnet50-0676ba61.pth",
    ("resnet50", "IMAGENET1K_V2"): "resnet50-11ad3fa6.pth",
    ("resnet101", "IMAGENET1K_V1"): "resnet101-63fe2227.pth",
    ("resnet101", "IMAGENET1K_V2"): "resnet101-cd907fc2.pth",
    ("resnet152", "IMAGENET1K_V1"): "resnet152-394f9c45.pth",
    ("resnet152", "IMAGENET1K_V2"): "resnet152-f82ba261.pth",
    ("resnext50_32x4d", "IMAGENET1K_V1"): "resnext50_32x4d-7cdf4587.pth",
    ("resnext50_32x4d", "IMAGENET1K_V2"): "resnext50_32x4d-1a0047aa.pth",
    ("resnext101_32x8d", "IMAGENET1K_V1"): "resnext101_32x8d-8ba56ff5.pth",
    ("resnext101_32x8d", "IMAGENET1K_V2"): "resnext101_32x8d-110c445d.pth",
    ("resnext101_64x4d", "IMAGENET1K_V1"): "resnext101_64x4d-173b62eb.pth",
    ("wide_resnet50_2", "IMAGENET1K_V1"): "wide_resnet50_2-95faca4d.pth",
    ("wide_resnet50_2", "IMAGENET1K_V2"): "wide_resnet50_2-9ba9bcbe.pth",
    ("wide_resnet101_2", "IMAGENET1K_V1"): "wide_resnet101_2-32ee1156.pth",
    ("wide_resnet101_2", "IMAGENET1K_V2"): "wide_resnet101_2-d733dc28.pth",
}
TAGS = frozenset(tag for _, tag in PRETRAINED)
# The one file whose tag is not the name of the preprocessing it is evaluated with: it is resized to 232, as V2 are.
OTHER_RECIPES = {"resnext101_64x4d-173b62eb.pth": "IMAGENET1K_V2"}

BASE_URL = "https://download.pytorch.org/models"
URL_VARIABLE = "RESNET_JAX_PRETRAINED_URL"


def recipe_of(file_name: str) -> str:
    """Returns the preprocessing, by its name in `PREPROCESS`, with which a published file is evaluated."""
    tags = {file: OTHER_RECIPES.get(file, tag) for (_, tag), file in PRETRAINED.items()}
    return tags[file_name]


def fetch_pretrained(name: str, tag: str = "IMAGENET1K_V1") -> Path:
    """Returns the published file of a model, in the cache `home()/"pretrained"`; downloaded if it is not there.

    RESNET_JAX_PRETRAINED_URL, http:// or https://, replaces https://download.pytorch.org/models. The file's SHA-256 is
    compared with its name each time. A download that breaks off is continued, now or by the next call; processes that
    want the same file wait for one another.

    Raises:
      UserError: for an unknown name or tag, a damaged file, a full or read-only disk, and within seconds if the
        network does not answer; then the message says which file to put where.
    """
    path = published_path(name, tag)
    url = f"{_base_url()}/{path.name}"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _lock(path):
                if not path.exists():  # else another process has brought it meanwhile
                    _download_checked(url, path)
                    return path
        digest = _sha256(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written or read ({error.strerror or error}): make room or give access there, "
            "or set RESNET_JAX_HOME to another folder"
        ) from error
    if not digest.startswith(_promised(path)):
        raise UserError(
            f"{path} is damaged or another file: its SHA-256 must begin with {_promised(path)} and is {digest}; "
            f"delete it or replace it by {url}"
        )
    return path


def find_weights(text: str, name: str | None, *, download: bool = True) -> Path:
    """Returns where weights lie that are named by a path, by a tag in TAGS as the published ones of the model `name`,
    or by the owner/name of a model on the hub.

    These are downloaded if need be; download=False only returns where they would lie. What is there is a path.

    Raises as `fetch_pretrained` and `fetch_hub_model` do, and for an empty path.
    """
    if text not in TAGS:
        path = read_run(text)
        hub_model = None if path.exists() else parse_hub_model(text)
        if hub_model is None:
            if download and not path.exists() and may_be_hub_model(text):
                refuse_missing(path)
                raise UserError(
                    f"{path} does not exist: give the path of a torch or safetensors file, or hf-hub:{text} for a "
                    "model of the hub"
                )
            return path
        return fetch_hub_model(hub_model) if download else cached_hub_model(hub_model) or path
    if name is None:
        raise UserError(f"{text} is published of many networks: name the model too (--model resnet50)")
    return fetch_pretrained(name, text) if download else published_path(name, text)


def published_path(name: str, tag: str) -> Path:
    """Returns where the published file of a model lies, or would lie.

    Raises:
      UserError: if there is no such.
    """
    return home() / "pretrained" / _file_name(name, tag)


def _download_checked(url: str, path: Path) -> None:
    """Brings `path`, which appears complete and right or not at all."""
    download(url, path)
    digest = _sha256(partial_of(path))
    if not digest.startswith(_promised(path)):
        forget_partial(path)
        raise UserError(
            f"{url} sent another file than {path.name}: its SHA-256 must begin with {_promised(path)} and is {digest}; "
            f"try again, or put the right file at {path}"
        )
    partial_of(path).replace(path)
    forget_partial(path)


def _file_name(name: str, tag: str) -> str:
    names = list(dict.fromkeys(known for known, _ in PRETRAINED))
    if name not in names:
        raise UserError(
            f"{name!r} has no published weights; there are some of {', '.join(names)}{suggestion(name, names)}"
        )
    tags = [known for other, known in PRETRAINED if other == name]
    if tag not in tags:
        raise UserError(f"{name} has no weights {tag!r}: tag must be one of {', '.join(tags)}{suggestion(tag, tags)}")
    return PRETRAINED[name, tag]


def _base_url() -> str:
    url = os.environ.get(URL_VARIABLE) or BASE_URL
    try:
        valid = urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"{URL_VARIABLE}={url!r} must be an http:// or https:// address, of the folder of the files")
    return url.rstrip("/")


def _promised(path: Path) -> str:
    """Returns the digits with which the SHA-256 of a published file begins."""
    return path.stem.rpartition("-")[2]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds the download of `path`, after whoever holds it now; the operating system frees it whatever happens."""
    with path.with_name(path.name + ".lock").open("w") as file:
        if not try_lock(file):
            logger.info(f"waiting for another process that downloads {path}")
            lock(file)
        try:
            yield
        finally:
            unlock(file)
