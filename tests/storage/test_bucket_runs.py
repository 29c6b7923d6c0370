"""Runs in a bucket: the same as on a disk, and the same again whatever kills them or fails between."""

import hashlib
import json
import signal
import threading
import time

import jax
import numpy as np
import pytest
from bucket_server import BUCKET
from commands import refused
from processes import TINY, end, run, start, start_many

import resnet_jax
from resnet_jax.cli.main import main

RUN = [*TINY, "--config.num_epochs=4", "--config.checkpoint_every_steps=10"]
NUM_STEPS = 80


@pytest.fixture
def place(request, bucket):
    """The address of a run that is not there yet."""
    digest = hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    return f"s3://{BUCKET}/runs/{digest}-{time.time()}"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The digest of the parameters, and the records, of the run on a disk."""
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    code, output, errors = run(*RUN, "--workdir", workdir)
    assert code == 0, errors
    return digest_in(output), records_in((workdir / "metrics.jsonl").read_text())


def digest_in(output):
    return output.partition("sha256")[2].split()[0]


def records_in(text):
    records = [json.loads(line) for line in text.splitlines()]
    return [{name: value for name, value in record.items() if name != "images_per_second"} for record in records]


def stored(bucket, place, name):
    return bucket.get(f"{place.removeprefix(f's3://{BUCKET}/')}/{name}")


def index_of(bucket, place):
    data = stored(bucket, place, "index.json")
    return {"files": {}, "holder": None} if data is None else json.loads(data)


def wait_until(holds, process=None, seconds=120):
    limit = time.monotonic() + seconds
    while not holds():
        assert process is None or process.poll() is None, end(process)
        assert time.monotonic() < limit
        time.sleep(0.01)


def steps_of(bucket, place):
    names = index_of(bucket, place)["files"]
    return sorted({int(name.split("/")[1]) for name in names if name.startswith("checkpoints/")})


class Trap:
    """Holds the first request for a key that contains `part` until `release`; fault: what becomes of it and all later
    ones then.
    """

    def __init__(self, bucket, part, fault=None):
        self._part, self._fault = part, fault
        self.reached, self._free = threading.Event(), threading.Event()
        bucket.fault = self._rule

    def _rule(self, method, path, number):
        if self._part in path and method == "PUT" and not self.reached.is_set():
            self.reached.set()
            self._free.wait(60)
        return self._fault if self.reached.is_set() else None

    def release(self):
        self._free.set()


def assert_ends_as(unbroken, bucket, place, *words):
    code, output, errors = run(*RUN, "--workdir", place, *words)
    assert code == 0, errors
    assert digest_in(output) == unbroken[0]
    assert records_in(stored(bucket, place, "metrics.jsonl").decode()) == unbroken[1]
    index = index_of(bucket, place)
    assert index["holder"] is None
    prefix = place.removeprefix(f"s3://{BUCKET}/")
    assert {key.removeprefix(f"{prefix}/") for key in bucket.keys(prefix)} == {*index["files"], "index.json"}
    return errors


@pytest.mark.slow
def test_a_run_in_a_bucket_is_the_run_on_a_disk(unbroken, bucket, place, tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path))
    assert_ends_as(unbroken, bucket, place)
    names = index_of(bucket, place)["files"]
    assert {"config.json", "metrics.jsonl", "curves.png", "starts.json", "checkpoints.json"} <= set(names)
    assert steps_of(bucket, place) == [NUM_STEPS - 10, NUM_STEPS]
    assert [path for path in (tmp_path / "buckets").iterdir() if path.is_dir()] == []  # nothing is left on the disk
    assert_ends_as(unbroken, bucket, place)  # nothing is left to be done
    words = [*RUN, "--workdir", place, "--config.learning_rate=0.01"]
    code, _, errors = run(*words)
    assert code == 2
    assert f"workdir {place} holds another run: config.learning_rate" in errors


@pytest.mark.slow
@pytest.mark.parametrize("killed_by", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_goes_on_from_the_bucket(unbroken, bucket, place, killed_by):
    trap = Trap(bucket, "/checkpoints/40/")
    process = start(*RUN, "--workdir", place)
    wait_until(trap.reached.is_set, process)
    assert steps_of(bucket, place) == [20, 30]
    process.send_signal(killed_by)
    trap.release()
    code, _, errors = end(process)
    if killed_by == signal.SIGTERM:
        assert code == 75
        assert f"in {place}; the same command continues" in errors
    assert "continuing" in assert_ends_as(unbroken, bucket, place)


@pytest.mark.slow
def test_a_store_that_goes_away_for_a_while_is_waited_for(unbroken, bucket, place):
    trap = Trap(bucket, "/checkpoints/40/")
    process = start(*RUN, "--workdir", place)
    wait_until(trap.reached.is_set, process)
    bucket.stop()
    trap.release()
    time.sleep(5)
    bucket.start()
    code, output, errors = end(process)
    assert code == 0, errors
    assert digest_in(output) == unbroken[0]
    assert_ends_as(unbroken, bucket, place)


@pytest.mark.slow
def test_a_store_that_stays_away_ends_the_run_which_goes_on_here_or_there(unbroken, bucket, place):
    trap = Trap(bucket, "/checkpoints/40/", "drop")
    trap.release()
    process = start(*RUN, "--workdir", place, environment={"RESNET_JAX_STORAGE_SECONDS": "1"})
    code, _, errors = end(process)
    bucket.fault = lambda method, path, number: None
    assert code == 1
    assert "Traceback" not in errors
    assert "cannot be had" in errors
    kept = errors.partition("is kept: ")[2].partition(" is the run's folder")[0]
    code, output, errors = run(*RUN, "--workdir", kept)
    assert code == 0, errors
    assert digest_in(output) == unbroken[0]
    assert "continuing" in assert_ends_as(unbroken, bucket, place)


@pytest.mark.slow
def test_credentials_that_expire_end_the_run_in_a_line(unbroken, bucket, place):
    trap = Trap(bucket, "/checkpoints/40/", (400, "ExpiredToken"))
    trap.release()
    code, _, errors = run(*RUN, "--workdir", place)
    bucket.fault = lambda method, path, number: None
    assert code == 1
    assert "Traceback" not in errors
    assert "the store refuses (ExpiredToken): check or renew the credentials" in errors
    assert_ends_as(unbroken, bucket, place)


@pytest.mark.slow
def test_a_slow_and_faulty_store_changes_nothing(unbroken, bucket, place):
    faults = [None, 0.2, (500, "InternalError"), None, (503, "SlowDown"), "drop", None, "late answer", None]
    bucket.fault = lambda method, path, number: faults[number % len(faults)]
    assert_ends_as(unbroken, bucket, place)


@pytest.mark.slow
def test_the_second_of_two_runs_in_one_place_is_refused(unbroken, bucket, place, tmp_path):
    trap = Trap(bucket, "/checkpoints/40/")
    first = start(*RUN, "--workdir", place, environment={"RESNET_JAX_LEASE_SECONDS": "2"})
    wait_until(trap.reached.is_set, first)
    here = run(*RUN, "--workdir", place)
    there = run(*RUN, "--workdir", place, environment={"RESNET_JAX_HOME": str(tmp_path)})
    for code, _, errors in (here, there):
        assert code == 2, errors
        assert f"{place} is in use by another run" in errors
    trap.release()
    code, output, errors = end(first)
    assert code == 0, errors
    assert digest_in(output) == unbroken[0]


@pytest.mark.slow
def test_a_run_that_was_paused_too_long_writes_no_more(unbroken, bucket, place, tmp_path):
    trap = Trap(bucket, "/checkpoints/40/")
    first = start(*RUN, "--workdir", place)
    wait_until(trap.reached.is_set, first)
    first.send_signal(signal.SIGSTOP)
    trap.release()
    key = f"{place.removeprefix(f's3://{BUCKET}/')}/index.json"
    content = json.loads(bucket.get(key))
    content["holder"]["host"] = "elsewhere"  # as it looks from another machine
    bucket.put(key, json.dumps(content).encode())
    try:
        code, output, errors = run(*RUN, "--workdir", place, environment={"RESNET_JAX_HOME": str(tmp_path)})
    finally:
        first.send_signal(signal.SIGCONT)
    assert code == 0, errors
    assert digest_in(output) == unbroken[0]
    code, _, errors = end(first)
    assert code == 1
    assert "was taken over by another run" in errors
    assert "Traceback" not in errors
    assert_ends_as(unbroken, bucket, place)


@pytest.mark.slow
def test_two_processes_share_a_run_in_a_bucket(unbroken, bucket, place):
    trap = Trap(bucket, "/checkpoints/40/")
    processes = start_many(2, *RUN, "--workdir", place)
    wait_until(trap.reached.is_set, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    trap.release()
    ends = [end(process) for process in processes]
    assert [code for code, _, _ in ends] == [75, 75], ends
    ends = [end(process) for process in start_many(2, *RUN, "--workdir", place)]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert f"continuing {place} after step " in ends[0][2]
    assert len(records_in(stored(bucket, place, "metrics.jsonl").decode())) == len(unbroken[1])


@pytest.mark.slow
def test_what_was_lost_damaged_or_brought_by_hand_is_met_as_on_a_disk(unbroken, bucket, place):
    trap = Trap(bucket, "/checkpoints/50/")
    process = start(*RUN, "--workdir", place)
    wait_until(trap.reached.is_set, process)
    process.kill()
    trap.release()
    end(process)
    prefix = place.removeprefix(f"s3://{BUCKET}/")
    for key in bucket.keys(f"{prefix}/checkpoints/40/variables"):  # as a bucket's own rules remove old objects
        bucket.delete(key)
    bucket.put(f"{prefix}/checkpoints/50/variables/part", b"what a kill has left")
    errors = assert_ends_as(unbroken, bucket, place)
    assert f"{place}/checkpoints/40/variables is damaged" in errors
    assert "step 30" in errors


def test_runs_in_a_bucket_are_read_by_their_address(bucket, place, capsys, tmp_path):
    words = [*TINY, "--config.num_epochs=1", "--workdir", place]
    assert main([str(word) for word in words]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--workdir", place, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["workdir"], result["step"]) == (place, 20)
    assert main(["compare", place, f"{place}/", "--to", str(tmp_path / "curves.png"), "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert [one["run"] for one in group["runs"]] == [place]
    assert main(["convert", "--from", place, "--to", str(tmp_path / "out.safetensors")]) == 0
    bucket.put("weights/out.safetensors", (tmp_path / "out.safetensors").read_bytes())
    model = resnet_jax.create_model("resnet20", num_classes=10, stage_sizes=(1,), num_filters=4)
    ways = [place, f"s3://{BUCKET}/weights/out.safetensors", f"gs://{BUCKET}/weights/out.safetensors"]
    trees = [resnet_jax.load_weights(way, model) for way in ways]
    for tree in trees[1:]:
        jax.tree.map(np.testing.assert_array_equal, tree, trees[0])


def test_nothing_at_an_address_is_said(bucket, place, capsys):
    assert f"{place} holds no run and no weights" in refused(capsys, "evaluate", "--workdir", place)
    assert "is an address, and a path on this machine is needed here" in refused(
        capsys, "export", "--workdir", place, "--to", f"{place}/x.onnx"
    )
