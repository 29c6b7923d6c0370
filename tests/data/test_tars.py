"""Tars: their listing is kept, tars inside of tars are read in place."""

import os

import pytest
from image_trees import image_bytes, tar_of

from resnet_jax.data import scan
from resnet_jax.data.scan import _list_tar as list_tar
from resnet_jax.errors import UserError


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of what is kept, for tars of any size."""
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(scan, "INDEXED_BYTES", 0)
    return tmp_path / "home/tars"


def entries(tar):
    """{path: bytes} of the listing, read at the places that it says."""
    data = tar.read_bytes()
    return {m.path: data[m.offset : m.offset + m.size] for m in list_tar(tar) if not m.is_folder}


def test_listing_is_kept_until_the_tar_changes(tmp_path, kept, monkeypatch):
    tar = tmp_path / "a.tar"
    tar.write_bytes(tar_of({"1.jpg": b"one", "1.cls": b"7", "odd\n.txt": b"x"}))
    first = list_tar(tar)
    assert [path.suffix for path in sorted(kept.glob("*.jsonl"))] == [".jsonl"]
    with monkeypatch.context() as patched:
        patched.setattr(scan, "list_tar", lambda *_: pytest.fail("the tar was listed again"))
        assert list_tar(tar) == first
    assert [member.text for member in first[:2]] == [None, "7"]
    tar.write_bytes(tar_of({"2.jpg": b"two"}))
    os.utime(tar, ns=(0, 10**18))
    assert entries(tar) == {"2.jpg": b"two"}


def test_where_nothing_can_be_kept_the_tar_is_read_all_the_same(tmp_path, kept, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "file"))
    tar = tmp_path / "a.tar"
    tar.write_bytes(tar_of({"1.jpg": b"one"}))
    assert entries(tar) == {"1.jpg": b"one"}


def test_damaged_tar_is_refused_and_nothing_kept_of_it(tmp_path, kept):
    tar = tmp_path / "a.tar"
    tar.write_bytes(tar_of({"1.jpg": b"one" * 1000})[:-9000])
    with pytest.raises(UserError, match=r"a\.tar (is damaged or cut|cannot be read as a tar)"):
        list_tar(tar)
    assert not list(kept.glob("*.jsonl"))


def test_tars_in_a_tar_are_folders_of_their_names(tmp_path):
    inner = {name: tar_of({f"{name}_1.JPEG": image_bytes(i), f"{name}_2.JPEG": b"x"}) for i, name in enumerate("ab")}
    tar = tmp_path / "train.tar"
    tar.write_bytes(tar_of({f"{name}.tar": data for name, data in inner.items()}))
    found = entries(tar)
    assert sorted(found) == ["a/a_1.JPEG", "a/a_2.JPEG", "b/b_1.JPEG", "b/b_2.JPEG"]
    assert (found["b/b_1.JPEG"], found["a/a_2.JPEG"]) == (image_bytes(1), b"x")
    tar.write_bytes(tar_of({"a.tar": inner["a"][:700]}))
    with pytest.raises(UserError, match=r"train\.tar"):
        list_tar(tar)
