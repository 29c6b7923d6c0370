"""A disk that fills up while a run saves: it stops with the reason, and its last good step is the next start's first.

The disk is a small file system in memory, mounted for this process alone, which takes the rights of a user namespace
(unshare, of util-linux) or of root; without them the fault cannot be made and the report says so.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

DISK_MEGABYTES = 24
INSIDE = "RESNET_JAX_FULL_DISK"


def campaign(folder, num_fillings, deadline, seed):
    """The report on so many fillings of a disk, made in a process that has a disk of its own."""
    disk, result = folder / "disk", folder / "full_disk.json"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size={DISK_MEGABYTES}m tmpfs "$1" && shift && exec "$@"'
    words = [sys.executable, __file__, str(disk), str(num_fillings), str(deadline), str(seed), str(result)]
    report = {"fault": "a disk that fills up during a run", "tried": "nothing", "count": 0, "failures": []}
    if not shutil.which("unshare"):
        return {**report, "result": "not tried: there is no unshare here"}
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(disk), *words]
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, INSIDE: "1"}, check=False)
    if result.exists():
        return json.loads(result.read_text())
    if "unshare" in process.stderr or "mount:" in process.stderr:
        return {**report, "result": f"not tried: {process.stderr.strip().splitlines()[-1]}"}
    return {**report, "result": "failed", "failures": [process.stderr[-2000:]]}


def inside(disk, num_fillings, deadline, seed):
    """Run as `campaign` does, where `disk` is a small file system."""
    from runs import ENVIRONMENT, NUM_STEPS, WORDS, end, finish, latest_step, start, whole

    numbers = random.Random(seed)
    unbroken, workdir, filler = disk.parent / "unbroken-disk", disk / "run", disk / "filler"
    finish(unbroken)
    expected = whole(unbroken)
    failures, told, codes, count = [], [], [], 0
    while count < num_fillings and (not count or time.monotonic() < deadline):
        before = latest_step(workdir)
        process = start(*WORDS, "--workdir", workdir, environment=ENVIRONMENT)
        target = min(numbers.randint(before, before + 80), NUM_STEPS - 25)
        while latest_step(workdir) <= target and process.poll() is None:
            time.sleep(0.002)
        free = shutil.disk_usage(disk).free
        leave = numbers.choice([0, 4096, numbers.randint(0, 300_000)])  # some saves fail in their middle
        try:
            with filler.open("wb", buffering=0) as file:
                file.write(bytes(max(free - leave, 0)))
        except OSError:  # the run itself was faster
            pass
        code, _, errors = end(process)
        if code and count % 2:  # a start on the full disk
            again, _, errors_again = end(start(*WORDS, "--workdir", workdir, environment=ENVIRONMENT))
            if again != 1 or errors_again.count("error: ") != 1 or "Traceback" in errors_again:
                failures.append(f"start on the full disk: exit code {again}\n{errors_again[-2000:]}")
        filler.unlink()
        last = errors.strip().splitlines()[-1]
        what = f"filled after step {target}, {leave} bytes left: exit code {code}, {last!r}"
        if code == 0:  # it had ended before
            shutil.rmtree(workdir)
            continue
        count += 1
        codes.append(code)
        told.append(last)
        reasons = [line for line in errors.splitlines() if line.startswith("error: ")]
        if code != 1 or len(reasons) != 1 or ("No space left" not in reasons[0] and "Errno 28" not in reasons[0]):
            failures.append(f"{what}\n{errors[-2000:]}")
        if latest_step(workdir) < before:
            failures.append(f"{what}: step {before} was lost")
    finish(workdir)
    if whole(workdir) != expected:
        failures.append("the run that went on is not what the unbroken one is")
    return {
        "fault": "a disk that fills up during a run",
        "tried": f"{count} times, with none to 300 kB left, and {count // 2} starts on the full disk",
        "count": count,
        "result": f"exit code 1 and the reason each time, for example “{_short(told)}”; the run then went on from its "
        "last step to the unbroken run's end",
        "failures": failures,
    }


def _short(lines):
    line = min(lines, key=len, default="")
    return line.replace(str(Path(sys.argv[1]) if len(sys.argv) > 1 else ""), "")


if __name__ == "__main__":
    assert os.environ.get(INSIDE), "campaign() starts this"
    disk, num_fillings, deadline, seed, result = sys.argv[1:]
    report = inside(Path(disk), int(num_fillings), float(deadline), seed)
    Path(result).write_text(json.dumps(report))
