"""Preparing a TFDS set from archives that the user brings: missing ones, damaged ones, and a run that is stopped."""

import re
import signal
import subprocess
import sys
import time

import imagenet_archive
import pytest

from resnet_jax.data.tfds.records import manual_dir, open_records, split_names

pytest.importorskip("tensorflow", reason="preparing TFDS data needs the extra 'prepare'")


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        ((), "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar"),
        ((imagenet_archive.TRAIN,), "ILSVRC2012_img_val.tar"),
    ],
)
def test_missing_tars_are_named_with_their_folder_and_nothing_is_made(tmp_path, present, missing):
    data_dir = tmp_path / "data"
    for name in present:
        manual_dir(str(data_dir)).mkdir(parents=True)
        (manual_dir(str(data_dir)) / name).touch()
    before = sorted(tmp_path.rglob("*"))
    message = f"imagenet2012 is not prepared and cannot be downloaded: put {missing} into {manual_dir(str(data_dir))} "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        open_records("imagenet2012", "train", str(data_dir))
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_tar_is_told_in_a_line_and_leaves_no_half_prepared_set(tmp_path):
    imagenet_archive.write(manual_dir(str(tmp_path)), {"n01440764_1.JPEG": b"x" * 2000}, [b"y"])
    archive = manual_dir(str(tmp_path)) / imagenet_archive.TRAIN
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"^preparing imagenet2012 in \S+ failed: \w+: \S.*$"):
        split_names("imagenet2012", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]


def test_stopping_the_parent_ends_a_preparation_and_leaves_nothing_half_prepared(tmp_path):
    wnids = ("n01440764", "n01443537", "n01484850", "n01491361")
    names = [f"{wnid}_{i}.JPEG" for wnid in wnids for i in range(2500)]  # takes seconds
    imagenet_archive.write(manual_dir(str(tmp_path)), dict.fromkeys(names, b"x"), [b"y"])
    code = "import sys; from resnet_jax.data.tfds.records import split_names; split_names('imagenet2012', sys.argv[1])"
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL)
    wait_until(lambda: list(tmp_path.glob("imagenet2012/incomplete.*")))
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(30) == -signal.SIGTERM
    wait_until(lambda: not (tmp_path / "imagenet2012").exists())  # the child's last deed


def test_stopping_is_not_lost_where_exceptions_are_ignored(tmp_path):
    code = """
import sys, time
from pathlib import Path
from resnet_jax.data.tfds import prepare as tfds_prepare

class Slow:
    def __del__(self):  # Python ignores whatever is raised in here
        time.sleep(60)

def prepare(name, data_dir, url_infos, tidying):
    half = Path(name)
    half.touch()
    tidying.callback(half.unlink)
    Slow()

tfds_prepare._prepare = prepare
tfds_prepare.main()
"""
    half = tmp_path / "half"
    process = subprocess.Popen([sys.executable, "-c", code, str(half), ""], stdin=subprocess.PIPE)
    wait_until(half.exists)
    process.stdin.close()  # as when the parent ends
    assert process.wait(30) == 1
    assert not half.exists()


def wait_until(condition):
    deadline = time.monotonic() + 240  # a busy machine imports TensorFlow in a minute
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
