"""Trees of small images for tests: folders, tars, tables; and how they are understood."""

import io
import tarfile

import pytest
from PIL import Image

from resnet_jax.data.image_set_reader import open_image_set
from resnet_jax.errors import UserError


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


def understood(root, **how):
    """(the images of each class by split, what is said, ImageSet.describe's) of the set there; root is called ROOT."""
    described = open_image_set(root, **how).describe()
    counts = {split: tuple(part["classes"].values()) for split, part in described["splits"].items()}
    return counts, " | ".join(described["notes"]).replace(str(root), "ROOT"), described


def assert_refused(root, line, open_set=open_image_set):
    """The set is refused in one line with these words, in which root is called ROOT."""
    with pytest.raises(UserError) as info:
        open_set(root)
    assert line in str(info.value).replace(str(root), "ROOT")
    assert "\n" not in str(info.value)
