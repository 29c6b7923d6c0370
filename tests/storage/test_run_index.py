"""Who writes a run in a bucket: one at a time, taken over from the dead, and nobody writes who was taken over from."""

import json
import subprocess
import sys
import threading
import time

import pytest
from bucket_server import BUCKET

from resnet_jax.errors import RunError, UserError
from resnet_jax.storage.object_store import ObjectStore
from resnet_jax.storage.run_index import INDEX_FILE, RunLease, lease_seconds, read_index


@pytest.fixture
def store(request, bucket):
    return ObjectStore(f"s3://{BUCKET}/{request.node.name.partition('[')[0]}{time.time()}", patience=5)


def as_of_elsewhere(bucket, store):
    """Has the index say that its holder is a process of another machine, about which nothing is known here."""
    key = f"{store.address.removeprefix('s3://').partition('/')[2]}/{INDEX_FILE}"
    content = json.loads(bucket.get(key))
    content["holder"] |= {"host": "elsewhere", "boot": "1"}
    bucket.put(key, json.dumps(content).encode())


def test_a_run_is_held_by_one_and_free_when_it_lets_go(store):
    first, second = RunLease(store), RunLease(store)
    assert first.acquire() == {}
    first.write({"config.json": 3})
    assert read_index(store).holder is not None
    beating = threading.Event()

    def beat():
        while not beating.wait(0.2):
            first.write()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match=r"is in use by another run \(process \d+ on .*\): wait for it"):
            second.acquire()
    finally:
        beating.set()
        thread.join()
    first.release()
    began = time.monotonic()
    assert second.acquire() == {"config.json": 3}
    assert time.monotonic() - began < lease_seconds()  # nobody to wait for


def test_a_holder_of_another_machine_that_says_nothing_is_taken_over_and_writes_no_more(store, bucket):
    first, second = RunLease(store), RunLease(store)
    first.acquire()
    first.write({"a": 1})
    as_of_elsewhere(bucket, store)
    began = time.monotonic()
    assert second.acquire() == {"a": 1}
    assert time.monotonic() - began >= lease_seconds()
    for _ in range(2):
        with pytest.raises(RunError, match="was taken over by another run"):
            first.write({"a": 2})
    first.release()
    assert first.is_lost
    index = read_index(store)
    assert index.files == {"a": 1}
    assert index.holder is not None


@pytest.mark.parametrize("act", [lambda lease: lease.write(), lambda lease: lease.write({"a": 2}), RunLease.release])
def test_a_write_that_arrived_without_an_answer_is_not_another_runs(store, bucket, act):
    lease = RunLease(store)
    lease.acquire()
    lease.write({"a": 1})
    bucket.fault = lambda method, path, number: "late answer" if method == "PUT" else "drop"
    with pytest.raises(RunError, match="cannot be had"):
        lease.write({"a": 1, "b": 1}, patience=0.0)
    bucket.fault = lambda method, path, number: None
    assert read_index(store).files == {"a": 1, "b": 1}
    act(lease)
    assert not lease.is_lost
    index = read_index(store)
    assert index.files == lease.files
    assert (index.holder is None) == (act is RunLease.release)


def test_a_dead_process_of_this_machine_is_not_waited_for(store):
    hold = f"""
from resnet_jax.storage.object_store import ObjectStore
from resnet_jax.storage.run_index import RunLease
RunLease(ObjectStore({store.address!r})).acquire()
"""
    subprocess.run([sys.executable, "-c", hold], check=True)
    assert read_index(store).holder is not None
    lease = RunLease(store)
    lease._seconds = 1000.0
    assert lease.acquire() == {}


def test_of_two_that_begin_at_once_one_has_the_run(store):
    leases, failures = [RunLease(store) for _ in range(4)], []

    def acquire(lease):
        try:
            lease.acquire()
        except UserError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=acquire, args=[lease]) for lease in leases]
    for thread in threads:
        thread.start()
    holders = set()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.1)
        index = read_index(store)
        if index is not None and index.holder is not None:
            holders.add(index.holder.id)
            if len(holders) == 1:  # it lives
                next(lease for lease in leases if lease._me.id == index.holder.id).write()
    assert len(holders) == 1
    assert len(failures) == 3
    assert all("is in use by another run" in failure for failure in failures)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 1}', "no JSON", '{"format": 1, "holder": {}, "files": {}}'])
def test_an_index_that_is_none_is_refused(store, text):
    store.put(INDEX_FILE, text.encode())
    with pytest.raises(UserError, match="is no index of a run: bring it back"):
        RunLease(store).acquire()


def test_an_index_of_a_later_version_is_refused(store):
    store.put(INDEX_FILE, b'{"format": 2}')
    with pytest.raises(UserError, match="is of format 2, and this version reads 1"):
        read_index(store)


def test_another_folder_is_no_runs(store):
    store.put("images/1.jpg", b"1")
    with pytest.raises(UserError, match=r"is no run's: it holds 'images/1.jpg' but no config.json"):
        RunLease(store).acquire()
    assert store.get(INDEX_FILE) is None


def test_a_run_that_was_copied_there_by_hand_is_taken_as_it_is(store):
    store.put("config.json", b"{}")
    store.put("checkpoints/5/manifest.json", b"12345")
    assert RunLease(store).acquire() == {"config.json": 2, "checkpoints/5/manifest.json": 5}


def test_a_store_without_conditional_writes_is_refused(store, bucket, monkeypatch):
    monkeypatch.setattr(bucket, "ignores_conditions", True)
    with pytest.raises(UserError, match="replaces objects without regard to their version"):
        RunLease(store).acquire()


@pytest.mark.parametrize("text", ["0", "0.5", "long"])
def test_the_lease_is_a_number_of_seconds(text, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_LEASE_SECONDS", text)
    with pytest.raises(UserError, match="must be a number of seconds, at least 1"):
        lease_seconds()
