"""Seconds from SIGTERM to the exit of a run that trains a whole network, against those of a step and of a save."""

import json
import os
import random
import signal
import time

from runs import end, records, start

from resnet_jax.checkpoint.manifest import MANIFEST_FILE

WORDS = [
    "train", "--config", "digits", "--config.image_size=32", "--config.batch_size=128", "--config.num_steps=10000",
    "--config.log_every_steps=1", "--config.checkpoint_every_steps=0", "--config.eval_every_epochs=10000",
]  # fmt: skip


def campaign(folder, num_signals, deadline, seed):
    """The report on so many runs of ResNet-20, 128 images of 32 pixels a step, each stopped at a random moment."""
    numbers = random.Random(seed)
    taken, steps, saves, failures = [], [], [], []
    for number in range(num_signals):
        if time.monotonic() > deadline:
            break
        workdir = folder / f"latency-{number}"
        process = start(*WORDS, "--workdir", workdir)
        while len(records(workdir)) < 6 and process.poll() is None:
            time.sleep(0.01)
        time.sleep(numbers.uniform(0.0, 2.0))
        sent = time.time()
        process.send_signal(signal.SIGTERM)
        code, _, errors = end(process)
        taken.append(time.time() - sent)
        if code != 75:
            failures.append(f"exit code {code}\n{errors[-1000:]}")
            continue
        step = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
        rates = [record["images_per_second"] for record in rates_of(workdir)]
        steps.append(128 / rates[-1])
        # From the last record, which the loop writes before it saves, to the manifest, the last file of a checkpoint.
        log, manifest = (workdir / "metrics.jsonl", workdir / "checkpoints" / str(step) / MANIFEST_FILE)
        saves.append(os.stat(manifest).st_mtime - os.stat(log).st_mtime)
    median = lambda values: sorted(values)[len(values) // 2] if values else float("nan")  # noqa: E731
    return {
        "fault": "SIGTERM in the middle of training, ResNet-20, 128 images of 32 pixels",
        "tried": f"{len(taken)} times",
        "count": len(taken),
        "result": f"exit after {median(taken):.2f} s (median; at most {max(taken, default=0):.2f} s): a step takes "
        f"{median(steps):.2f} s, the save {median(saves):.2f} s, the rest is Python's own end",
        "failures": failures,
    }


def rates_of(workdir):
    """The records with their timings."""
    log = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [record for record in log if "images_per_second" in record]
