"""A part of a bucket: its objects read, written, removed, and replaced only where nobody else has replaced them.

The requests are obstore's (S3's and Google's own conditional writes, in one call). What a store answers is raised in
one line: UserError where the user has something to mend, RunError where it could not be reached while it was tried.
"""

import contextlib
import logging
import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from resnet_jax.errors import RunError, UserError, first_line
from resnet_jax.storage.address import check_address, check_key
from resnet_jax.storage.settings import environment_number

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Version = dict[str, Any]  # of an object, as its store distinguishes versions

# How long requests of a run that trains are tried again; of one that begins, or of a command.
PATIENCE_SECONDS, FIRST_PATIENCE_SECONDS = 600.0, 20.0
PATIENCE_VARIABLE = "RESNET_JAX_STORAGE_SECONDS"
_REQUEST_TIMEOUT, _CONNECT_TIMEOUT = timedelta(seconds=120), timedelta(seconds=5)
_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}  # of obstore, within each of our tries
_ENDPOINTS: dict[str, tuple[str, ...]] = {"s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3"), "gs": ()}
# S3's words of keys that are no good, which some stores say with a status of another meaning.
_REFUSALS = ("AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch",
             "TokenRefreshRequired")  # fmt: skip
_LONGEST_PAUSE_SECONDS = 15.0
_PART_BYTES = 8 * 2**20
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role",
    "gs": "GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS, or the machine's account",
}


@dataclass(frozen=True)
class StoredObject:
    """A listing's entry for an object: its key below the store's address, its size, and when it was written.

    etag: identifies its content.
    """

    key: str
    num_bytes: int
    modified: float  # seconds since 1970
    etag: str


def patience_seconds() -> float:
    """Returns for how long a run that trains tries again: RESNET_JAX_STORAGE_SECONDS, or ten minutes.

    Raises:
      UserError: if that is no positive number.
    """
    return environment_number(
        PATIENCE_VARIABLE, PATIENCE_SECONDS, "a number of seconds above 0", lambda seconds: seconds > 0
    )


class ObjectStore:
    """The objects whose keys begin with an address; keys are given from there on."""

    def __init__(self, address: str, patience: float = FIRST_PATIENCE_SECONDS, *, may_be_bucket: bool = False) -> None:
        """Opens nothing yet.

        Args:
          address: s3://bucket/prefix or gs://bucket/prefix.
          patience: for how many seconds a request is tried again where the store cannot be reached, or asks for
            patience itself.
          may_be_bucket: address may be of a whole bucket.

        Raises:
          UserError: for another address, and if obstore is not installed.
        """
        self.address, self.patience = check_address(address, may_be_bucket=may_be_bucket), patience
        self._scheme = address.partition("://")[0]
        self._has_answered = False
        for name in _ENDPOINTS[self._scheme]:
            endpoint = os.environ.get(name, "http://")
            if not endpoint.startswith(("http://", "https://")):
                raise UserError(f"{name}={endpoint!r} must begin with https:// or http://")
        try:
            import obstore
        except ImportError:
            raise UserError(f"{address} needs obstore: pip install 'resnet-family-jax[cloud]'") from None
        self._obstore: Any = obstore
        # Without encryption only where the user's own endpoint says http://.
        options: Any = {"timeout": _REQUEST_TIMEOUT, "connect_timeout": _CONNECT_TIMEOUT, "allow_http": True}
        try:
            self._store: Any = obstore.store.from_url(
                self.address, client_options=options, retry_config=_RETRIES, **self._credentials()
            )
        except obstore.exceptions.BaseError as error:
            raise UserError(f"{self.address}: {first_line(error)}") from None

    def get(self, key: str, patience: float | None = None) -> tuple[bytes, Version] | None:
        """Returns an object's bytes and version; None if it is not there. patience: instead of the store's."""

        def read() -> tuple[bytes, Version]:
            found = self._obstore.get(self._store, key)
            return bytes(found.bytes()), _version(found.meta)

        return self._try(key, read, patience, absent=None)

    def read_range(self, key: str, start: int, num_bytes: int, etag: str = "") -> bytes:
        """Returns so many bytes of an object from `start` on; fewer where it ends before.

        Raises:
          RunError: if it is not the one of that `etag` any more.
        """
        if etag:
            options = {"range": (start, start + num_bytes), "if_match": etag}
            try:
                return self._try(key, lambda: bytes(self._obstore.get(self._store, key, options=options).bytes()))
            except self._obstore.exceptions.PreconditionError:
                raise RunError(f"{self.address}/{key} has changed since this start: start again") from None
        return self._try(key, lambda: bytes(self._obstore.get_range(self._store, key, start=start, length=num_bytes)))

    def put(
        self, key: str, data: bytes | Path, patience: float | None = None, before: Callable[[], None] | None = None
    ) -> None:
        """Writes an object, whole or not at all: bytes, or a file's content.

        Args:
          before: is called before each attempt; an error of it is raised.
        """

        def write() -> None:
            if before:
                before()
            self._obstore.put(self._store, key, data, chunk_size=_PART_BYTES)

        self._try(key, write, patience)

    def replace(self, key: str, data: bytes, version: Version | None, patience: float | None = None) -> Version | None:
        """Writes an object if it still has `version`, None: if there is none; returns its new one, or None if another
        has been faster.

        Args:
          data: another content than every earlier one: S3's versions are digests of the content.
        """
        modes: Any = "create" if version is None else version
        refusals = (self._obstore.exceptions.AlreadyExistsError, self._obstore.exceptions.PreconditionError)

        def write() -> Version | None:
            try:
                return _version(self._obstore.put(self._store, key, data, mode=modes, use_multipart=False))
            except refusals:
                found = self.get(key, patience)  # an answer that was lost on its way: then the content is ours
                return found[1] if found is not None and found[0] == data else None

        return self._try(key, write, patience)

    def download(self, key: str, path: Path) -> bool:
        """Writes an object's bytes to a new file; returns whether there was one."""

        def read() -> bool:
            found = self._obstore.get(self._store, key)
            with path.open("wb") as file:
                for chunk in found.stream(min_chunk_size=_PART_BYTES):
                    file.write(chunk)
            return True

        return self._try(key, read, absent=False)

    def head(self, key: str) -> StoredObject | None:
        """Returns a listing's entry for an object; None if it is not there."""

        def read() -> StoredObject:
            meta = self._obstore.head(self._store, key)
            return _as_stored(key, meta)

        return self._try(key, read, absent=None)

    def list(self, inside: str = "", most: int = 2**62) -> list[StoredObject]:
        """Returns all objects, or those in a folder, at most one more than `most`; none that only marks a folder.

        Raises:
          UserError: for a key that is no path of a file.
        """

        def read() -> list[StoredObject]:
            found: list[StoredObject] = []
            for entries in self._obstore.list(self._store, inside or None):
                found += [_as_stored(check_key(self.address, entry["path"]), entry) for entry in entries]
                if len(found) > most:
                    break
            return found

        found = self._try(inside, read)
        folders = {parent for one in found for parent in _folders_of(one.key)}
        return [one for one in found if one.num_bytes or one.key not in folders]

    def delete(self, keys: Iterable[str], before: Callable[[], None] | None = None) -> None:
        """Removes objects; one that is not there is no error. before: as of `put`."""
        found = [*keys]

        def remove() -> None:
            if before:
                before()
            self._obstore.delete(self._store, found)

        if found:
            self._try(found[0], remove, absent=None)

    def _credentials(self) -> dict[str, Any]:
        """Returns what finds the user's keys where the environment does not hold them: AWS's profiles, by boto3."""
        if self._scheme != "s3" or "AWS_ACCESS_KEY_ID" in os.environ:
            return {}
        with contextlib.suppress(Exception):  # boto3 is not there, or has nothing to say
            from boto3 import Session
            from obstore.auth.boto3 import Boto3CredentialProvider

            session = Session()
            if session.get_credentials() is not None:
                return {"credential_provider": Boto3CredentialProvider(session)}
        return {}

    def _try(self, key: str, request: Callable[[], Result], patience: float | None = None, **absent: Any) -> Any:
        """Returns the result of a request, tried again while the store is not available.

        absent: {"absent": what is returned if there is no such object}.
        """
        patience = self.patience if patience is None else patience
        exceptions, end, pause = self._obstore.exceptions, time.monotonic() + patience, 0.5
        where, is_said = f"{self.address}/{key}".rstrip("/"), False
        while True:
            try:
                answer = request()
                self._has_answered = True
                return answer
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    bucket = "/".join(self.address.split("/")[:3])
                    raise UserError(f"{bucket} does not exist: make the bucket first") from None
                if "absent" in absent:
                    return absent["absent"]
                raise RunError(f"{where} has gone") from None
            except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
                raise self._refused(where, error) from None
            except exceptions.PreconditionError:
                raise
            except exceptions.InvalidPathError as error:
                raise UserError(f"{where}: {first_line(error)}") from None
            except exceptions.BaseError as error:
                if _code(error) in _REFUSALS:
                    raise self._refused(where, error) from None
                if _is_of_credentials(error) and not self._has_answered:
                    raise UserError(
                        f"{where}: no credentials are found ({_code(error)}): set {_CREDENTIALS[self._scheme]}"
                    ) from None
                if isinstance(error, exceptions.NotSupportedError) or time.monotonic() + pause > end:
                    raise RunError(f"{where} cannot be had: {_code(error)}") from None
                if not is_said and patience > FIRST_PATIENCE_SECONDS:
                    logger.warning(f"{where} cannot be had ({_code(error)}): trying again for {patience:.0f} s")
                    is_said = True
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _refused(self, where: str, error: BaseException) -> UserError | RunError:
        """Returns the error to raise: a user's mistake at the start, a run's end where the keys were good before."""
        return (RunError if self._has_answered else UserError)(
            f"{where}: the store refuses ({_code(error)}): check or renew the credentials, "
            f"{_CREDENTIALS[self._scheme]}, and what they may do"
        )


def _as_stored(key: str, meta: Any) -> StoredObject:
    return StoredObject(key, meta["size"], meta["last_modified"].timestamp(), meta["e_tag"] or "")


def _folders_of(key: str) -> list[str]:
    parts = key.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _version(meta: Any) -> Version:
    return {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}


def _is_of_credentials(error: BaseException) -> bool:
    """Returns whether no request was made because no key for it was found."""
    text = str(error)
    return any(words in text for words in ("169.254.169.254", "metadata.google.internal", "MissingCredential"))


def _code(error: BaseException) -> str:
    """Returns the store's own word of what was wrong, or the first line of what obstore says."""
    text = str(error)
    if "<Code>" in text:
        return text.partition("<Code>")[2].partition("</Code>")[0]
    line = first_line(error)
    for words in ("Server returned non-2xx status code: ", " - HTTP error: "):
        if words in line:
            return line.partition(words)[2].rstrip(": ") or line
    return line
