"""A hash by which images, their labels and their order are compared."""

import hashlib


def digest_of(*parts: str | bytes) -> str:
    """Returns the SHA-256 of `parts`, each marked off from the next."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
