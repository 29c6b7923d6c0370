"""Trees of small images for tests: folders, tars, tables."""

import io
import tarfile

from PIL import Image


def image_bytes(value=0, kind="PNG", size=(6, 5)):
    file = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(file, kind)
    return file.getvalue()


def make_tree(root, files):
    """Write `files`, {path: bytes, text, or None for an image whose grey level tells its place}, under `root`."""
    for number, (path, content) in enumerate(files.items()):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            content = image_bytes(number, "JPEG" if path.lower().endswith((".jpg", ".jpeg", ".jfif")) else "PNG")
        (root / path).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def images(*paths):
    return dict.fromkeys(paths)


def tar_of(entries):
    """The bytes of a tar of {name: bytes}."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()
