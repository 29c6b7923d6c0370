"""Addresses in object storage: `s3://bucket/prefix`, `gs://bucket/prefix`."""

import os
import re
from pathlib import Path

from resnet_jax.errors import UserError, truncate

SCHEMES = ("s3", "gs")


def is_address(text: str | Path) -> bool:
    """Returns whether `text` is the address of something in a bucket."""
    return str(text).partition("://")[0] in SCHEMES and "://" in str(text)


def check_address(text: str, *, may_be_bucket: bool = False) -> str:
    """Returns an address without a slash at its end.

    Raises:
      UserError: unless it names a bucket and something in it, in letters that every store takes as they are.
    """
    scheme, _, rest = text.partition("://")
    bucket, _, prefix = rest.strip("/").partition("/")
    parts = prefix.split("/")
    if bucket and not prefix and may_be_bucket:
        return f"{scheme}://{bucket}"
    if not bucket or any(part in ("", ".", "..") for part in parts):
        raise UserError(f"{text} must name a bucket and a folder in it, as in {scheme}://bucket/runs/name")
    if re.search(r"[^\w./ =+@,:-]", prefix):
        raise UserError(
            f"{text} must be of letters, digits and . _ - / = + @ , : alone: stores differ in what others are"
        )
    return f"{scheme}://{bucket}/{prefix}"


def check_key(address: str, key: str) -> str:
    """Returns the key of an object below an address, which is to be a file's path in a folder here.

    Raises:
      UserError: if that path would lead elsewhere.
    """
    parts = key.split("/")
    is_odd = any(part in ("", ".", "..") or "\\" in part or (os.name == "nt" and ":" in part) for part in parts)
    if is_odd or os.path.isabs(key):
        raise UserError(f"{address} holds {truncate(key)!r}, which is no path of a file in a folder: remove it there")
    return key
