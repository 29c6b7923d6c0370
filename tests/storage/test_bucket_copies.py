"""The copy of a run in a bucket: whatever happens to it, the run that is in the bucket stays whole."""

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bucket_server import BUCKET

from resnet_jax.errors import RunError, UserError
from resnet_jax.storage.object_store import ObjectStore
from resnet_jax.storage.run_files import read_run
from resnet_jax.storage.run_index import RunLease, read_index
from resnet_jax.storage.workdir import open_workdir

FILES = {
    "config.json": b"{}",
    "metrics.jsonl": b"1\n",
    **{f"checkpoints/20/{name}": name.encode() * 50 for name in ("manifest.json", "variables/a", "variables/b")},
}


@pytest.fixture
def place(bucket, monkeypatch, tmp_path):
    """The address of a run of one checkpoint, which was begun and ended."""
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RESNET_JAX_STORAGE_SECONDS", "2")
    address = f"s3://{BUCKET}/copies/{time.time()}"
    with open_workdir(address) as place:
        for key, data in FILES.items():
            (place.path / key).parent.mkdir(parents=True, exist_ok=True)
            (place.path / key).write_bytes(data)
    assert stored(bucket, address) == FILES
    return address


def work_in(address, act):
    """Does something in the copy of a run, from its start to its end."""
    with open_workdir(address) as run:
        act(run)


def prefix(address):
    return address.removeprefix(f"s3://{BUCKET}/")


def stored(bucket, address):
    """All objects of the run but its index, which names just these and is held by nobody."""
    names = {key.removeprefix(f"{prefix(address)}/") for key in bucket.keys(prefix(address))} - {"index.json"}
    index = json.loads(bucket.get(f"{prefix(address)}/index.json"))
    assert index["holder"] is None
    assert set(index["files"]) <= names
    return {name: bucket.get(f"{prefix(address)}/{name}") for name in names}


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device"), RunError("gone")])
def test_a_start_that_fails_while_it_downloads_changes_nothing(bucket, place, monkeypatch, failure):
    download = ObjectStore.download

    def fail(store, key, path):
        if key == "checkpoints/20/variables/b":
            path.write_bytes(b"half")
            raise failure
        return download(store, key, path)

    monkeypatch.setattr(ObjectStore, "download", fail)
    with pytest.raises(type(failure)), open_workdir(place):
        pass
    monkeypatch.undo()
    assert stored(bucket, place) == FILES


def test_a_holder_that_downloads_for_long_says_that_it_lives(bucket, place, monkeypatch):
    download, beats = ObjectStore.download, []

    def slow(store, key, path):
        if key == "config.json":
            time.sleep(2)
            beats.append(json.loads(bucket.get(f"{prefix(place)}/index.json"))["written"])
        return download(store, key, path)

    monkeypatch.setenv("RESNET_JAX_LEASE_SECONDS", "1")
    monkeypatch.setattr(ObjectStore, "download", slow)
    with open_workdir(place):
        pass
    assert int(beats[0].split()[1]) >= 5  # two or three of the start, and one each quarter of a second


@pytest.mark.parametrize("key", ["/etc/passwd", "../x", "a/../../x", "a//b", "a\\b", "."])
def test_keys_that_lead_elsewhere_are_refused(bucket, place, key):
    name = f"{prefix(place)}/index.json"
    content = json.loads(bucket.get(name))
    content["files"][key] = 1
    bucket.put(name, json.dumps(content).encode())
    with pytest.raises(UserError, match="which is no path of a file in a folder"):
        read_run(place)
    with pytest.raises(UserError, match="which is no path of a file in a folder"), open_workdir(place):
        pass


def test_a_copy_that_is_removed_meanwhile_removes_nothing_in_the_bucket(bucket, place):
    def empty(run):
        shutil.rmtree(run.path)
        run.path.mkdir()
        (run.path / "new.txt").write_text("1")

    with pytest.raises(RunError, match="was removed or emptied while the run went on"):
        work_in(place, empty)
    assert stored_whatever(bucket, place) == FILES


def stored_whatever(bucket, address):
    names = {key.removeprefix(f"{prefix(address)}/") for key in bucket.keys(prefix(address))} - {"index.json"}
    return {name: bucket.get(f"{prefix(address)}/{name}") for name in names}


@pytest.mark.parametrize("can_be_moved", [True, False])
def test_a_copy_that_could_not_be_sent_is_kept(bucket, place, tmp_path, monkeypatch, can_be_moved):
    def fail(path, target):
        raise PermissionError(13, "Permission denied")

    def write(run):
        (run.path / "new.txt").write_text("1")
        bucket.fault = lambda method, path, number: "drop"
        if not can_be_moved:
            monkeypatch.setattr(Path, "rename", fail)

    with pytest.raises(RunError, match="what could not be brought there is kept: ") as caught:
        work_in(place, write)
    bucket.fault = lambda method, path, number: None
    said = str(caught.value).partition("is kept: ")[2]
    if can_be_moved:
        kept = said.partition(" is the run's")[0]
    else:
        kept = f"{said.partition('folder is in ')[2].partition(',')[0]}/{place.rpartition('/')[2]}"
    assert (tmp_path / "home/buckets") in (tmp_path / kept).parents
    with open(f"{kept}/new.txt") as file:
        assert file.read() == "1"
    assert stored_whatever(bucket, place) == FILES


def test_a_copy_is_kept_where_the_last_upload_is_interrupted(place, monkeypatch, tmp_path):
    def interrupt(store, key, data, patience=None, before=None):
        raise KeyboardInterrupt

    def write(run):
        (run.path / "new.txt").write_text("1")
        monkeypatch.setattr(ObjectStore, "put", interrupt)

    with pytest.raises(KeyboardInterrupt):
        work_in(place, write)
    assert [path.read_text() for path in (tmp_path / "home").glob("buckets/*-*-*/*/new.txt")] == ["1"]


def test_a_run_that_was_taken_over_ends_with_an_error_and_sends_nothing(bucket, place):
    def lose(run):
        (run.path / "config.json").write_text("changed")
        name = f"{prefix(place)}/index.json"
        content = json.loads(bucket.get(name))
        content["holder"]["id"] = content["written"] = "another's"
        bucket.put(name, json.dumps(content).encode())

    with pytest.raises(RunError, match="was taken over by another run"):
        work_in(place, lose)
    assert stored_whatever(bucket, place)["config.json"] == b"{}"


def test_users_own_objects_beside_checkpoints_stay(bucket, place):
    bucket.put(f"{prefix(place)}/best/export/model.onnx", b"mine")
    bucket.put(f"{prefix(place)}/checkpoints/30/variables/a", b"what a kill has left")
    with open_workdir(place):
        pass
    assert stored(bucket, place) == {**FILES, "best/export/model.onnx": b"mine"}


def test_a_whole_step_that_the_index_does_not_name_is_named_before_others_look(bucket, place):
    for name in ("manifest.json", "variables/a"):
        bucket.put(f"{prefix(place)}/checkpoints/30/{name}", b"1")
    with open_workdir(place) as run:
        assert (run.path / "checkpoints/30/variables/a").read_bytes() == b"1"
        assert "checkpoints/30/variables/a" in read_index(ObjectStore(place)).files


def test_a_process_of_another_container_is_not_taken_for_dead(monkeypatch, bucket):
    lease = RunLease(ObjectStore(f"s3://{BUCKET}/copies/{time.time()}"))
    holder = lease._me
    assert not holder.is_dead()
    assert replace(holder, process=2**22 + 1).is_dead()
    assert not replace(holder, process=2**22 + 1, namespace="pid:[1]").is_dead()
    assert replace(holder, started="1").is_dead()
    monkeypatch.setattr("resnet_jax.storage.holder._boot_id", lambda: "")  # no such thing here
    assert not replace(holder, process=2**22 + 1, boot="").is_dead()


def test_a_name_without_a_folder_is_refused(bucket):
    with pytest.raises(UserError, match=r"s3://my\.bucket must name a bucket and a folder in it"):
        read_run("s3://my.bucket")


def test_an_endpoint_without_a_scheme_is_refused(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(UserError, match="AWS_ENDPOINT_URL='localhost:9000' must begin with https:// or http://"):
        ObjectStore(f"s3://{BUCKET}/run")


def test_only_one_of_two_conditions_is_not_enough(bucket, monkeypatch):
    as_s3 = bucket.as_s3

    def without_match(headers):
        return {name: value for name, value in as_s3(headers).items() if name.lower() != "if-match"}

    monkeypatch.setattr(bucket, "as_s3", without_match)
    with pytest.raises(UserError, match="replaces objects without regard to their version"):
        RunLease(ObjectStore(f"s3://{BUCKET}/copies/{time.time()}")).acquire()


def test_the_copy_is_locked_against_another_start_here(place):
    failures = []

    def start():
        try:
            with open_workdir(place):
                pass
        except UserError as error:
            failures.append(str(error))

    with open_workdir(place):
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    assert len(failures) == 1
    assert "is in use by another run on this machine" in failures[0]
