"""TFDS sets record by record: the real imagenet2012 builder on small tars, and what can go wrong."""

import errno
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagenet_archive
import pytest

from resnet_jax.data.tfds.records import load_arrays, manual_dir, open_records, split_names
from resnet_jax.data.tfds.tfrecord import TfRecords, masked_crc32c
from resnet_jax.errors import RunError

pytest.importorskip("tensorflow", reason="preparing TFDS data needs the extra 'prepare'")
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.resource import get_dl_fname as download_name

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet-sample"
NUM_VALIDATION = 10


def builders_file(name):
    return tfds.core.tfds_path(f"datasets/imagenet2012/{name}").read_text().split()


def real_images():
    return {path.name: path.read_bytes() for path in SAMPLE.glob("*.JPEG")}


def leftovers(*, own):
    """Return the leftovers of a killed preparation: of this version of the set, or of others."""
    download = download_name(f"http://www.image-net.org/challenges/LSVRC/2012/nnoupb/{imagenet_archive.VALIDATION}")
    version, download = ("5.1.0", download) if own else ("5.0.0", "cifar-10.tar.gz")
    return [f"imagenet2012/incomplete.AB12CD_{version}", f"downloads/{download}.tmp.{'0' * 32}"]


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A folder with imagenet2012 prepared, its training files by name and its validation files."""
    data_dir = tmp_path_factory.mktemp("imagenet")
    names = [f"{wnid}_{i}.JPEG" for wnid in builders_file("labels.txt")[::170] for i in range(3)]
    train = dict(zip(names, imagenet_archive.random_jpegs(len(names)), strict=True)) | real_images()
    validation = imagenet_archive.random_jpegs(NUM_VALIDATION, seed=1)
    imagenet_archive.write(manual_dir(str(data_dir)), train, validation)
    for left in leftovers(own=True) + leftovers(own=False):
        (data_dir / left).mkdir(parents=True)
        (data_dir / left / "dataset_info.json").write_text("{}")
    assert split_names("imagenet2012", str(data_dir)) == ("train", "validation")
    return data_dir, train, validation


@pytest.fixture
def copied(imagenet, tmp_path):
    """The prepared set without its tars, to be changed."""
    shutil.copytree(imagenet[0] / "imagenet2012", tmp_path / "imagenet2012")
    return tmp_path


def file_name(records, i):
    return re.fullmatch(r"imagenet2012:\w+\[\d+\] \((.+)\)", records.name(i))[1]


def read_all(records):
    """{file name: (bytes, class name)}."""
    return {
        file_name(records, i): (encoded, records.class_names[label])
        for i, (encoded, label) in enumerate(map(records.read, range(len(records))))
    }


def test_training_files_come_back_byte_for_byte_with_their_class(imagenet):
    data_dir, train, _ = imagenet
    records = open_records("imagenet2012", "train", str(data_dir))
    assert records.fixed_shape is None
    assert read_all(records) == {name: (content, name.split("_")[0]) for name, content in train.items()}


def test_validation_images_have_the_labels_of_their_numbers(imagenet):
    data_dir, _, validation = imagenet
    labels = builders_file("validation_labels.txt")
    names = imagenet_archive.validation_names(NUM_VALIDATION)
    found = read_all(open_records("imagenet2012", "validation", str(data_dir)))
    assert found == dict(zip(names, zip(validation, labels, strict=False), strict=True))


def test_classes_are_the_thousand_wordnet_ids_in_order(imagenet):
    names = open_records("imagenet2012", "validation", str(imagenet[0])).class_names
    assert names == tuple(builders_file("labels.txt"))
    assert (len(names), names[0], names[-1], list(names)) == (1000, "n01440764", "n15075141", sorted(names))


def test_eight_threads_read_what_one_reads(imagenet):
    records = open_records("imagenet2012", "train", str(imagenet[0]))
    indices = list(range(len(records)))
    alone = open_records("imagenet2012", "train", str(imagenet[0]))
    expected = [alone.read(i) for i in indices]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(records.read, indices * 5)) == expected * 5
    assert records.read_many(indices) == expected


def test_reading_imports_no_tensorflow(imagenet):
    code = """
import sys
from resnet_jax.data.tfds.records import open_records
before = "tensorflow_datasets" in sys.modules
records = open_records("imagenet2012", "train", sys.argv[1])
records.read(0)
print(before, len(records), "tensorflow" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(imagenet[0])]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", str(len(imagenet[1])), "False"]
    assert result.stderr == ""


def test_only_what_a_killed_preparation_left_of_this_version_is_removed(imagenet):
    assert not any((imagenet[0] / left).exists() for left in leftovers(own=True))
    assert all((imagenet[0] / left).exists() for left in leftovers(own=False))


def test_version_may_be_named(imagenet):
    records = open_records("imagenet2012:5.*.*", "train", str(imagenet[0]))
    assert (len(records), records.name(0)[:27]) == (len(imagenet[1]), "imagenet2012:5.*.*:train[0]")


def test_opening_a_split_lets_its_shards_stay_open(imagenet):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1] - 10, limits[1]))
    try:
        open_records("imagenet2012", "train", str(imagenet[0]))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limits[1] - 9, limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_real_images_come_back_byte_for_byte(imagenet):
    if not SAMPLE.is_dir():
        pytest.skip("the ImageNet sample, ../shared/data/imagenet-sample, is not here")
    found = read_all(open_records("imagenet2012", "train", str(imagenet[0])))
    real = real_images()
    assert len(real) == 125
    assert {name: found[name] for name in real} == {name: (real[name], name.split("_")[0]) for name in real}


def test_other_versions_that_lie_prepared_are_told(copied):
    with pytest.raises(ValueError, match=r"ILSVRC2012_img_val\.tar into .*; prepared already: imagenet2012:5\.1\.0$"):
        open_records("imagenet2012:5.0.0", "train", str(copied))


def test_format_that_cannot_be_read_is_told_with_the_command_that_converts_it(copied):
    folder = copied / "imagenet2012" / "5.1.0"
    facts = folder / "dataset_info.json"
    facts.write_text(facts.read_text().replace('"fileFormat": "array_record"', '"fileFormat": "riegeli"'))
    command = (
        f"{sys.executable} -m tensorflow_datasets.scripts.convert_format --dataset_version_dir={folder} "
        "--out_file_format=array_record"
    )
    with pytest.raises(ValueError, match=f"{folder} is prepared as riegeli: convert it.*{re.escape(command)}"):
        open_records("imagenet2012", "train", str(copied))


WRITE_TFRECORD = """
import sys
from pathlib import Path
import tensorflow as tf
from resnet_jax.data.tfds.records import open_records

folder = Path(sys.argv[1]) / "imagenet2012/5.1.0"
for split in ("train", "validation"):
    records = open_records("imagenet2012", split, sys.argv[1])
    with tf.io.TFRecordWriter(str(folder / f"imagenet2012-{split}.tfrecord-00000-of-00001")) as writer:
        for i in range(len(records)):
            writer.write(records.examples[i])
for path in folder.glob("*array_record*"):
    path.unlink()
"""


@pytest.fixture(scope="module")
def as_tfrecord(imagenet, tmp_path_factory):
    """The set as TensorFlow writes it in TFDS's default format, and no other."""
    root = tmp_path_factory.mktemp("tfrecord")
    shutil.copytree(imagenet[0] / "imagenet2012", root / "imagenet2012")
    subprocess.run([sys.executable, "-c", WRITE_TFRECORD, str(root)], check=True, capture_output=True)
    facts = root / "imagenet2012/5.1.0/dataset_info.json"
    facts.write_text(facts.read_text().replace("array_record", "tfrecord"))
    return root


@pytest.fixture
def tfrecord_copy(as_tfrecord, tmp_path):
    shutil.copytree(as_tfrecord, tmp_path / "data")
    return tmp_path / "data"


def test_set_prepared_as_tfrecord_is_read_as_one_prepared_as_array_record(imagenet, as_tfrecord):
    for split in ("train", "validation"):
        records, others = (open_records("imagenet2012", split, str(root)) for root in (as_tfrecord, imagenet[0]))
        assert len(records) == len(others)
        indices = range(len(others))
        assert records.read_many(indices) == others.read_many(indices)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(records.read, indices)) == others.read_many(indices)
        assert [records.name(i) for i in indices] == [others.name(i) for i in indices]
        assert records.digest() == others.digest()


def test_a_fault_of_the_disk_leaves_no_image_out(as_tfrecord, monkeypatch):
    records = open_records("imagenet2012", "validation", str(as_tfrecord))

    def fails(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(RunError, match="cannot be read: Input/output error"):
        records.read(0)


def test_tfrecord_is_read_without_tensorflow(as_tfrecord):
    code = (
        "import sys; from resnet_jax.data.tfds.records import open_records; "
        "print(len(open_records('imagenet2012', 'train', sys.argv[1]).read(1)[0]), 'tensorflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(as_tfrecord)], capture_output=True, text=True, check=True)
    assert result.stdout.split()[1] == "False"


def test_reader_that_is_not_installed_is_named_by_the_sets_that_need_it(imagenet, as_tfrecord, monkeypatch):
    for module, needing, other in (
        ("array_record", imagenet[0], as_tfrecord),
        ("google_crc32c", as_tfrecord, imagenet[0]),
    ):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            assert len(open_records("imagenet2012", "validation", str(other))) == NUM_VALIDATION
            with pytest.raises(ValueError, match=f"{module}.*: pip install {module.replace('_', '-')}$"):
                open_records("imagenet2012", "validation", str(needing))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:], "record 0 is damaged"),
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "is damaged from record 0 of"),
        (lambda data: data[:-100], r"record \d+ is damaged"),
        (lambda data: data[: len(data) // 2], "is damaged from record"),
    ],
)
def test_damaged_tfrecord_is_named(tfrecord_copy, damage, message):
    (shard,) = tfrecord_copy.glob("imagenet2012/*/*train*")
    shard.write_bytes(damage(shard.read_bytes()))

    def read_all_of_it():
        records = open_records("imagenet2012", "train", str(tfrecord_copy))
        return [records.read(i) for i in range(len(records))]

    with pytest.raises(ValueError, match=message):
        read_all_of_it()


def test_records_of_several_shards_are_one_sequence(tmp_path):
    contents = [b"", b"one", bytes(300), b"three", b"four"]
    for path, part in ((tmp_path / "0", contents[:2]), (tmp_path / "1", []), (tmp_path / "2", contents[2:])):
        with path.open("wb") as file:
            for data in part:
                length = struct.pack("<Q", len(data))
                file.write(length + struct.pack("<I", masked_crc32c(length)))
                file.write(data + struct.pack("<I", masked_crc32c(data)))
    records = TfRecords([tmp_path / "0", tmp_path / "1", tmp_path / "2"], [2, 0, 3])
    assert len(records) == 5
    assert records.__getitems__([4, 0, 2, 1, 3]) == [contents[i] for i in (4, 0, 2, 1, 3)]
    with pytest.raises(IndexError):
        records[5]


def test_missing_shard_is_told_with_the_record(copied):
    for shard in copied.glob("imagenet2012/*/*train*"):
        shard.unlink()
    with pytest.raises(ValueError, match=r"^imagenet2012:train\[0\] cannot be read as an image \(.*No such file"):
        open_records("imagenet2012", "train", str(copied))


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("imagnet2012", "train", "TFDS has no set 'imagnet2012'; did you mean 'imagenet2012'?"),
        ("no_such_set_at_all", "train", "TFDS has no set 'no_such_set_at_all'"),
        ("cifar-10", "train", "'cifar-10' must be named as NAME, NAME/CONFIG or NAME:VERSION; did you mean 'cifar10'?"),
        ("cifar10_corrupted/fog1", "test", "'cifar10_corrupted' has no config 'fog1'; did you mean 'fog_1'?"),
        ("imagenet2012:1.0.0", "train", "'imagenet2012:1.0.0' cannot be used: Dataset imagenet2012 cannot be loaded"),
        ("imagenet2012", "val", "imagenet2012's split='val' must be one of train, validation"),
        ("ag_news_subset", "train", "'ag_news_subset' has the features 'description' (Text), 'label' (ClassLabel), 't"),
    ],
)
def test_what_cannot_be_opened_is_told_in_a_line(imagenet, name, split, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        open_records(name, split, str(imagenet[0]))
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_images_of_several_sizes_are_not_loaded_as_one_array(imagenet):
    with pytest.raises(ValueError, match="'imagenet2012' has images of different sizes, which cannot be held as one"):
        load_arrays("imagenet2012", "train", str(imagenet[0]))
