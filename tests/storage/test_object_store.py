"""Objects in a bucket: read, written and replaced under the faults of stores and networks."""

import time

import pytest
from bucket_server import BUCKET

from resnet_jax.errors import RunError, UserError
from resnet_jax.storage.address import check_address, is_address
from resnet_jax.storage.object_store import ObjectStore, StoredObject, patience_seconds


@pytest.fixture(params=["s3", "gs"])
def store(request, bucket):
    return ObjectStore(f"{request.param}://{BUCKET}/{request.node.name.replace('[', '-').strip(']')}", patience=5)


def once(fault, method="", key=""):
    """A server's rule: this fault for the first request of a method and a key, no more."""
    left = [fault]

    def rule(its_method, path, number):
        return left.pop() if left and method in its_method and key in path else None

    return rule


def test_objects_are_written_read_listed_and_removed(store, tmp_path):
    store.put("a.txt", b"0123456789")
    (tmp_path / "file").write_bytes(b"x" * 20_000_000)  # in several parts
    store.put("d/b.bin", tmp_path / "file")
    assert store.get("a.txt")[0] == b"0123456789"
    assert store.get("none") is None
    assert store.read_range("a.txt", 3, 4) == b"3456"
    assert store.read_range("a.txt", 8, 10) == b"89"
    found = {entry.key: entry for entry in store.list()}
    assert {key: entry.num_bytes for key, entry in found.items()} == {"a.txt": 10, "d/b.bin": 20_000_000}
    assert isinstance(found["a.txt"], StoredObject)
    assert abs(found["a.txt"].modified - time.time()) < 100
    assert store.download("d/b.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "file").read_bytes()
    assert not store.download("none", tmp_path / "none")
    store.delete(["a.txt", "none"])
    assert [entry.key for entry in store.list()] == ["d/b.bin"]


def test_an_object_is_replaced_only_where_nobody_else_has(store):
    first = store.replace("index", b"1", None)
    assert first is not None
    assert store.replace("index", b"other", None) is None  # there is one
    second = store.replace("index", b"2", first)
    assert second is not None
    assert store.replace("index", b"3", first) is None  # an old version
    assert store.get("index") == (b"2", second)


@pytest.mark.parametrize("fault", [(500, "InternalError"), (503, "SlowDown"), "drop", "late answer", 0.3])
def test_a_fault_that_passes_is_survived(store, bucket, fault):
    version = store.replace("index", b"1", None)
    bucket.fault = once(fault, "PUT")
    store.put("a", b"data")
    bucket.fault = once(fault, "GET")
    assert store.get("a")[0] == b"data"
    bucket.fault = once(fault, "PUT")  # of an answer that is lost, the write is done: nobody else was faster
    version = store.replace("index", b"2", version)
    assert version is not None
    assert store.get("index") == (b"2", version)


def test_what_comes_before_a_write_is_asked_again_before_each_attempt(store, bucket):
    def lost():
        raise RunError("taken over")

    answers = iter([lambda: None, lost])
    bucket.fault = lambda method, path, number: (503, "SlowDown") if method == "PUT" else None
    with pytest.raises(RunError, match="taken over"):
        store.put("a", b"data", before=lambda: next(answers)())
    bucket.fault = lambda method, path, number: None
    store.put("a", b"data", before=lambda: None)
    with pytest.raises(RunError, match="taken over"):
        store.delete(["a"], lost)
    assert store.get("a")[0] == b"data"


def test_a_store_that_stays_away_is_a_line_in_time(bucket):
    store = ObjectStore(f"s3://{BUCKET}/away", patience=1)
    bucket.stop()
    began = time.monotonic()
    try:
        with pytest.raises(RunError, match="s3://bucket/away/a cannot be had") as caught:
            store.put("a", b"1")
    finally:
        bucket.start()
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 60  # no figure: that it ends


REFUSALS = [(403, "AccessDenied"), (400, "ExpiredToken"), (403, "SignatureDoesNotMatch")]


@pytest.mark.parametrize(("status", "code"), REFUSALS)
def test_refused_credentials_are_named_at_once(bucket, status, code):
    bucket.fault = lambda method, path, number: (status, code)
    with pytest.raises(UserError, match=rf"store refuses \({code}\): check or renew the credentials") as caught:
        ObjectStore(f"s3://{BUCKET}/refused", patience=100).put("a", b"1")
    assert "\n" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_named(bucket):
    with pytest.raises(UserError, match="s3://no-such-bucket does not exist: make the bucket first"):
        ObjectStore("s3://no-such-bucket/run").put("a", b"1")


def test_addresses():
    assert check_address("s3://b/runs/one/") == "s3://b/runs/one"
    assert check_address("gs://b", may_be_bucket=True) == "gs://b"
    assert all(is_address(text) for text in ("s3://b/a", "gs://b"))
    assert not any(is_address(text) for text in ("/s3/b", "runs/s3", "http://b/a", "s3:/b/a"))
    for text in ("s3://", "s3://bucket", "s3:///a", "gs://b//a", "s3://b/../a", "s3://b/a#b", "s3://b/a?b"):
        with pytest.raises(UserError, match="must"):
            check_address(text)


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan"])
def test_patience_is_a_number_of_seconds(text, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_STORAGE_SECONDS", text)
    with pytest.raises(UserError, match="must be a number of seconds above 0"):
        patience_seconds()
