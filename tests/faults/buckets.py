"""Runs in a bucket whose store fails at random, or which are killed in the middle of a save.

It answers with trouble, cuts answers or gives them late, pauses, goes away, refuses. Each run ends as the unbroken one
on a disk, bit for bit, and what is in the bucket is whole.
"""

import json
import random
import signal
import time

from runs import ENVIRONMENT, end, start, whole
from runs import WORDS as LONG_WORDS  # before what lies above this folder: runs puts that on the path

from bucket_server import BUCKET, BucketServer  # isort: skip

# A save of some fifty objects every 15 steps.
WORDS = [*LONG_WORDS, "--config.num_steps=120", "--config.checkpoint_every_steps=15"]
HUNG_SECONDS = 120
PATIENCE_SECONDS = 4
# How often each is drawn.
KINDS = {
    "kill": 4, "stop": 2, "away": 3, "away for long": 2, "500": 2, "503": 2, "cut": 2, "late": 2, "slow": 2,
    "expired": 2, "two runs": 2, "old listing": 1,
}  # fmt: skip


class Trouble:
    """A fault that the store shows from a number of requests on, drawn at random."""

    def __init__(self, bucket, kind, numbers):
        self.bucket, self.kind, self.numbers = bucket, kind, numbers
        self.begins = len(bucket.requests) + numbers.randrange(5, 300)
        self.left = numbers.randrange(1, 12)
        self.has_begun = False

    def __call__(self, method, path, number):
        if self.kind == "old listing":
            self.has_begun = True
            return self.kind
        if number < self.begins:
            return None
        self.has_begun = True
        if self.kind == "expired":
            return 400, "ExpiredToken"
        if self.kind == "away for long":
            return "drop"
        if self.left <= 0:
            return None
        self.left -= 1
        answers = {"500": (500, "InternalError"), "503": (503, "SlowDown"), "cut": "drop", "late": "late answer"}
        return self.numbers.uniform(0.1, 1.0) if self.kind == "slow" else answers.get(self.kind)


def campaign(folder, count, deadline, seed):
    """The report of so many faults, or fewer if the deadline (of time.monotonic) comes first."""
    numbers, failures, tried = random.Random(f"buckets {seed}"), [], dict.fromkeys(KINDS, 0)
    code, _, errors = end(start(*WORDS, "--workdir", folder / "unbroken", environment=ENVIRONMENT))
    assert code == 0, errors
    expected = whole(folder / "unbroken")
    with BucketServer() as bucket:
        environment = {
            **ENVIRONMENT,
            **bucket.environment(
                RESNET_JAX_STORAGE_SECONDS=str(PATIENCE_SECONDS), RESNET_JAX_LEASE_SECONDS="3",
                RESNET_JAX_HOME=str(folder / "home"),
            ),
        }  # fmt: skip
        run = 0
        while sum(tried.values()) < count and time.monotonic() < deadline and not failures:
            run += 1
            address = f"s3://{BUCKET}/campaign/run-{run}"
            for _ in range(6):
                if sum(tried.values()) >= count or time.monotonic() > deadline or failures:
                    break
                kind = numbers.choices([*KINDS], [*KINDS.values()])[0]
                tried[kind] += 1
                code, said = one_start(bucket, environment, address, kind, numbers, folder)
                bucket.fault = lambda method, path, number: None
                if said:
                    failures.append(f"{address}, {kind}: {said}")
                if code == 0:
                    break
            if not failures:
                failures += check_end(bucket, environment, address, expected, folder)
    described = ", ".join(f"{number} {kind}" for kind, number in tried.items() if number)
    return {
        "fault": "faults of a bucket's store", "count": sum(tried.values()),
        "tried": f"{sum(tried.values())} in {run} runs ({described})",
        "result": "every run ended bit for bit as the unbroken one on a disk, nothing was lost, none hung",
        "failures": failures,
    }  # fmt: skip


def one_start(bucket, environment, address, kind, numbers, folder):
    """(the exit code, what was wrong) of a start during which the store fails so, or the process is killed."""
    trouble = Trouble(bucket, kind, numbers)
    process = start(*WORDS, "--workdir", address, environment=environment)
    others = []
    if kind in ("kill", "stop", "away", "two runs"):
        trouble.kind = ""
    bucket.fault = trouble
    end = time.monotonic() + HUNG_SECONDS
    while process.poll() is None and not trouble.has_begun and time.monotonic() < end:
        time.sleep(0.005)
    if kind == "kill":
        process.kill()
    elif kind == "stop":
        process.send_signal(signal.SIGTERM)
    elif kind == "away" and process.poll() is None:
        bucket.stop()
        time.sleep(numbers.uniform(0.2, PATIENCE_SECONDS / 2))
        bucket.start()
    elif kind == "two runs" and process.poll() is None:
        second = {**environment, "RESNET_JAX_HOME": str(folder / "second")}
        others.append(start(*WORDS, "--workdir", address, environment=second))
    try:
        _, errors = process.communicate(timeout=HUNG_SECONDS)
        for other in others:
            other_errors = other.communicate(timeout=HUNG_SECONDS)[1]
            if other.returncode not in (0, 2) or "Traceback" in other_errors:
                return other.returncode, f"the second run ended with {other.returncode}: {other_errors[-1500:]}"
    except Exception as error:
        for one in (process, *others):
            one.kill()
        return None, f"hung: {error}"
    code = process.returncode
    # 2 or 1 also where it comes before the run has begun. SIGTERM ends a process that downloads the run, or uploads its
    # last files: there is nothing to save.
    allowed = {"kill": (0, -9), "stop": (0, 75, -15), "expired": (0, 1, 2), "two runs": (0, 2)}
    if code not in allowed.get(kind, (0, 1)) or "Traceback" in errors:
        return code, f"code {code}: {errors[-1500:]}"
    if kind != "two runs" and "was taken over" in errors:
        return code, f"nobody else was there: {errors[-1500:]}"
    return code, ""


def check_end(bucket, environment, address, expected, folder):
    """Return what is wrong when the run has been continued to its end."""
    process = start(*WORDS, "--workdir", address, environment=environment)
    try:
        _, errors = process.communicate(timeout=2 * HUNG_SECONDS)
    except Exception as error:
        process.kill()
        return [f"{address} does not end: {error}"]
    if process.returncode:
        return [f"{address} ends with {process.returncode}: {errors[-1500:]}"]
    prefix = address.removeprefix(f"s3://{BUCKET}/")
    target = folder / prefix.replace("/", "-")
    keys = {key.removeprefix(f"{prefix}/") for key in bucket.keys(prefix)}
    index = json.loads(bucket.get(f"{prefix}/index.json"))
    wrong = []
    if keys != {*index["files"], "index.json"} or index["holder"] is not None:
        wrong.append(f"{address} holds {sorted(keys ^ {*index['files'], 'index.json'})} beside its index, or is held")
    for key in keys:
        (target / key).parent.mkdir(parents=True, exist_ok=True)
        (target / key).write_bytes(bucket.get(f"{prefix}/{key}"))
    if whole(target) != expected:
        wrong.append(f"{address} is not what the unbroken run is")
    return wrong
