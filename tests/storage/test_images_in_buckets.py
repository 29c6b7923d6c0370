"""Images read from a bucket: the same as from a disk, in few requests, and with what is on the disk bounded."""

import io
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cifar_archive
import numpy as np
import pytest
from bucket_server import BUCKET
from image_trees import image_bytes, make_tree, tar_of
from processes import run

from resnet_jax.data.image_set_reader import open_image_set
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.sources import load_source
from resnet_jax.data.tfds.records import manual_dir
from resnet_jax.data.tfds.tfrecord import TfRecords, masked_crc32c
from resnet_jax.errors import RunError, UserError
from resnet_jax.storage import image_folder, ranged_files
from resnet_jax.storage.image_folder import local_folder
from resnet_jax.storage.ranged_files import BLOCK_BYTES, open_file, read_at


def parquet_file(values):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": image_bytes(value), "path": None} for value in values]
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    file = io.BytesIO()
    table = arrow.table({"image": arrow.array(images, kind), "label": ["cat" if v % 2 else "dog" for v in values]})
    parquet.write_table(table, file)
    return file.getvalue()


SETS = {
    "tars of classes": lambda: {
        "train.tar": tar_of({f"{name}/{i}.png": image_bytes(i) for name in ("cat", "dog") for i in range(4)}),
        "val.tar": tar_of({f"{name}/{i}.png": image_bytes(i + 9) for name in ("cat", "dog") for i in range(2)}),
    },
    "WebDataset": lambda: {
        f"train-{number:06}.tar": tar_of(
            {
                name: content
                for i in range(5)
                for name, content in ((f"{i}.png", image_bytes(number * 5 + i)), (f"{i}.cls", str(i % 2).encode()))
            }
        )
        for number in range(3)
    },
    "Parquet": lambda: {"data/train-0.parquet": parquet_file(range(8)), "data/test-0.parquet": parquet_file(range(4))},
    "a table": lambda: {
        "labels.csv": "file,label\n" + "".join(f"images/{i}.png,{'cat' if i % 2 else 'dog'}\n" for i in range(6)),
        **{f"images/{i}.png": image_bytes(i) for i in range(6)},
    },
}


@pytest.fixture
def place(request, bucket, monkeypatch, tmp_path):
    """A folder in the bucket that is not there yet, seen by a process that knows nothing of it."""
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    ranged_files.folders.clear()
    return f"images/{abs(hash(request.node.name)):x}{tmp_path.name}"


def put(bucket, place, files):
    for path, content in files.items():
        bucket.put(f"{place}/{path}", content.encode() if isinstance(content, str) else content)


def everything(root):
    """Each split's class names and all its images' bytes and labels, read by several threads."""
    found = open_image_set(root)
    result = {}
    for split in found.splits or [None]:
        images = found.images(split)
        with ThreadPoolExecutor(4) as pool:
            read = [*pool.map(images.read, range(len(images)))]
        result[split] = images.class_names, images.digest(), read
    return result


@pytest.mark.parametrize("gigabytes", ["1", "0"])
@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize("kind", SETS)
def test_a_set_in_a_bucket_is_the_set_on_a_disk(bucket, place, tmp_path, monkeypatch, kind, scheme, gigabytes):
    monkeypatch.setenv("RESNET_JAX_IMAGES_GB", gigabytes)
    files = SETS[kind]()
    put(bucket, place, files)
    if kind == "Parquet" and gigabytes == "0":
        with pytest.raises(UserError, match=r"copied out of Parquet files, and .* does not fit"):
            everything(local_folder(f"{scheme}://{BUCKET}/{place}"))
        return
    expected = everything(make_tree(tmp_path / "disk", files))
    faults = [None, None, (503, "SlowDown"), None, "drop"]
    bucket.fault = lambda method, path, number: faults[number % len(faults)]
    assert everything(local_folder(f"{scheme}://{BUCKET}/{place}")) == expected
    blocks = [*(tmp_path / "home/images/.blocks").glob("*/*")]
    assert bool(blocks) == (gigabytes == "1")


def test_what_has_been_read_is_read_from_the_disk(bucket, place):
    data = np.random.RandomState(0).bytes(3 * BLOCK_BYTES + 100)
    put(bucket, place, {"a.tar": data})
    path = local_folder(f"s3://{BUCKET}/{place}") / "a.tar"
    bucket.requests.clear()
    assert read_at(path, BLOCK_BYTES - 10, 20) == data[BLOCK_BYTES - 10 : BLOCK_BYTES + 10]
    assert len(bucket.requests) == 2
    assert read_at(path, 5, BLOCK_BYTES) == data[5 : BLOCK_BYTES + 5]
    assert len(bucket.requests) == 2
    assert read_at(path, 3 * BLOCK_BYTES, 1000) == data[3 * BLOCK_BYTES :]
    assert read_at(path) == data
    assert len(bucket.requests) == 4
    with open_file(path) as file:
        assert file.read() == data
        file.seek(-50, io.SEEK_END)
        assert file.read(10) == data[-50:-40]
        assert file.read(100) == data[-40:]
    assert len(bucket.requests) == 4


def test_an_object_that_changes_is_read_anew(bucket, place):
    address = f"s3://{BUCKET}/{place}"
    put(bucket, place, {"a.tar": b"1" * 1000, "labels.csv": "old", "gone.csv": ""})
    assert read_at(local_folder(address) / "a.tar") == b"1" * 1000
    put(bucket, place, {"a.tar": b"2" * 999, "labels.csv": "new text"})
    bucket.delete(f"{place}/gone.csv")
    ranged_files.folders.clear()  # a later start
    root = local_folder(address)
    assert read_at(root / "a.tar") == b"2" * 999
    assert (root / "labels.csv").read_text() == "new text"
    assert not (root / "gone.csv").exists()


def test_tfrecords_are_read_by_ranges(bucket, place):
    records = [bytes([i]) * (i + 1) for i in range(50)]

    def framed(data):
        length = struct.pack("<Q", len(data))
        crc = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
        return length + crc[0] + data + crc[1]

    name = "set/1.0.0/set-train.tfrecord-00000-of-00001"
    put(bucket, place, {name: b"".join(map(framed, records)), "other/1.0.0/a.tfrecord-00000-of-00001": b""})
    root = local_folder(f"s3://{BUCKET}/{place}", "set")
    assert not (root / "other").exists()
    examples = TfRecords([root / name], [50])
    assert examples.__getitems__([49, 0, 7]) == [records[49], records[0], records[7]]


def test_what_cannot_be_read_from_a_bucket_is_said(bucket, place, monkeypatch):
    address = f"s3://{BUCKET}/{place}"
    with pytest.raises(UserError, match=f"{address} holds nothing"):
        local_folder(address)
    put(bucket, place, {"a.zip": b"12345", "b.tar": b""})
    monkeypatch.setattr(image_folder, "MOST_WHOLE_BYTES", 4)
    with pytest.raises(UserError, match=r"a.zip is larger than .*: move it elsewhere"):
        local_folder(address)
    monkeypatch.setattr(image_folder, "MOST_OBJECTS", 1)
    with pytest.raises(UserError, match="more than 1 objects: pack the images into tars"):
        local_folder(address)
    monkeypatch.setenv("RESNET_JAX_IMAGES_GB", "much")
    monkeypatch.setattr(image_folder, "MOST_OBJECTS", 10)
    with pytest.raises(UserError, match="must be a number of gigabytes"):
        local_folder(address)


@pytest.mark.slow
@pytest.mark.slow
def test_a_set_that_tfds_prepared_is_read_from_a_bucket_by_its_own_reader(bucket, place, tmp_path):
    pytest.importorskip("tensorflow", reason="preparing TFDS data needs the extra 'prepare'")
    rng = np.random.RandomState(0)
    train, test = ((rng.randint(0, 256, (n, 32, 32, 3)).astype(np.uint8), rng.randint(0, 10, n)) for n in (50, 20))
    data_dir = tmp_path / "prepared"
    cifar_archive.write(manual_dir(str(data_dir)) / cifar_archive.FILE_NAME, train, test)
    cifar_archive.prepare(data_dir)
    files = {
        path.relative_to(data_dir).as_posix(): path for path in (data_dir / "cifar10").rglob("*") if path.is_file()
    }
    assert any("array_record" in name for name in files)
    put(bucket, place, {name: path.read_bytes() for name, path in files.items()})
    for split, num in (("train", 50), ("test", 20)):
        here = load_source("cifar10", split, DatasetOptions(str(data_dir)))
        there = load_source("cifar10", split, DatasetOptions(f"s3://{BUCKET}/{place}"))
        assert len(there) == num
        np.testing.assert_array_equal(there.images, here.images)
        np.testing.assert_array_equal(there.labels, here.labels)


def test_training_on_a_buckets_images_is_training_on_a_disks(bucket, place, tmp_path):
    files = {
        f"train-{number:06}.tar": tar_of(
            {
                name: content
                for i in range(20)
                for name, content in (
                    (f"{i}.png", image_bytes(number * 80 + 4 * i, size=(16, 16))), (f"{i}.cls", str(i % 2).encode()),
                )
            }
        )
        for number in range(3)
    }  # fmt: skip
    put(bucket, place, files)
    make_tree(tmp_path / "disk", files)
    address = f"s3://{BUCKET}/{place}"
    digests = []
    for data_dir in (tmp_path / "disk", address):
        words = [
            "train", "--config", "folder", f"--config.data_dir={data_dir}", "--config.num_epochs=2",
            "--config.batch_size=10", "--config.model=resnet20", "--config.model_args.stage_sizes=(1,)",
            "--config.image_size=16", "--config.resize=16", "--config.validation_fraction=0.2",
        ]  # fmt: skip
        code, output, errors = run(*words, "--workdir", tmp_path / f"run{len(digests)}")
        assert code == 0, errors
        digests.append(output.partition("sha256")[2].split()[0])
    assert digests[0] == digests[1]
    assert Path(tmp_path / "home/images/s3").is_dir()
    assert run("doctor", *words[1:], "--workdir", tmp_path / "new")[0] == 0
    shard = f"{address}/train-000000.tar"
    code, output, errors = run("evaluate", "--workdir", tmp_path / "run1", "--data", shard, "--json")
    assert code == 0, errors
    assert '"count": 20' in output


def test_markers_of_folders_and_classes_that_have_gone_are_no_folders(bucket, place):
    address = f"s3://{BUCKET}/{place}"
    put(
        bucket,
        place,
        {"cat/": b"", "cat/1.png": image_bytes(1), "dog/2.png": image_bytes(2), "owl/3.png": image_bytes(3)},
    )
    assert open_image_set(local_folder(address)).images().class_names == ("cat", "dog", "owl")
    bucket.delete(f"{place}/owl/3.png")
    ranged_files.folders.clear()
    assert open_image_set(local_folder(address)).images().class_names == ("cat", "dog")


def test_an_object_that_is_replaced_while_it_is_read_is_said(bucket, place):
    put(bucket, place, {"a.tar": b"1" * (BLOCK_BYTES + 10)})
    path = local_folder(f"s3://{BUCKET}/{place}") / "a.tar"
    assert read_at(path, 0, 10) == b"1" * 10
    put(bucket, place, {"a.tar": b"2" * (BLOCK_BYTES + 10)})
    with pytest.raises(RunError, match="has changed since this start: start again"):
        read_at(path, BLOCK_BYTES, 10)


def test_what_is_kept_of_all_sets_stays_within_the_bound(bucket, place, monkeypatch, tmp_path):
    monkeypatch.setenv("RESNET_JAX_IMAGES_GB", str(5.5 * BLOCK_BYTES / 1e9))
    for name in ("one", "two", "three"):
        put(bucket, place, {f"{name}/a.tar": name.encode() * BLOCK_BYTES})
        read_at(local_folder(f"s3://{BUCKET}/{place}/{name}") / "a.tar")
        kept = sum(path.stat().st_size for path in (tmp_path / "home/images/.blocks").glob("*/*"))
        assert kept <= 5.5 * BLOCK_BYTES


def test_a_store_that_fails_is_no_damaged_image(bucket, place, monkeypatch):
    put(bucket, place, {"a/1.png": image_bytes(1), "b/2.png": image_bytes(2)})
    images = open_image_set(local_folder(f"s3://{BUCKET}/{place}")).images()
    monkeypatch.setattr(next(iter(ranged_files.folders.values())).store, "patience", 0.0)
    for fault in ((400, "ExpiredToken"), (500, "InternalError")):
        bucket.fault = lambda method, path, number, fault=fault: fault
        with pytest.raises(RunError, match=fault[1]):
            images.read(0)
