"""Runs on a real scheduler, or on two hosts, that are broken off again and again: called by slurm.sh and hosts.sh.

    python tests/cluster/campaign.py slurm|mpi|hosts FOLDER --faults 20 [--seed 0]
    python tests/cluster/campaign.py elastic|slow FOLDER

Each run is started again, or comes back by itself, until it ends, and must then have the parameters and the records of
the unbroken run, bit for bit. Prints what each kind of fault ended with and after how many seconds.
"""

import argparse
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NUM_STEPS = 1500
WORDS = [
    "--config", "digits", f"--config.num_steps={NUM_STEPS}", "--config.model_args.stage_sizes=(1,)",
    "--config.model_args.num_filters=4", "--config.image_size=8", "--config.augment.crop_padding=1",
    "--config.checkpoint_every_steps=100", "--config.eval_every_epochs=20", "--config.log_every_steps=20",
]  # fmt: skip
NUM_ELASTIC_STEPS = 300  # eight ranks on two cores take a second for three
START_SECONDS, HUNG_SECONDS, END_SECONDS = 150, 200, 400
LARGEST_DIFFERENCE = 1e-9  # of numbers in float64, by their size
MOST_FAULTS = 4  # of one run, which then goes on to its end


class BrokenPromiseError(Exception):
    """Something hung, was lost or came out otherwise."""


def last_step(workdir):
    """The last step in a run's log; 0 without one."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    return 0


def records(workdir):
    """A run's log without its timings."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def digest(text):
    """The digest that a finished run printed."""
    return (re.findall(r"parameters, sha256 +(\w+)", text) or [""])[-1]


def wait(what, holds, seconds):
    """Return when holds() does; BrokenPromiseError after so many seconds."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise BrokenPromiseError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.05)


def processes_of(rank_variable, rank):
    """The numbers of the processes that train as this rank."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
            if b"resnet_jax" in words and b"python" in words[0] and f"{rank_variable}={rank}".encode() in variables:
                found.append(int(folder.name))
    return found


class Launcher:
    """Processes that this script starts and that end by themselves: what Open MPI and two hosts have in common."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []

    def is_over(self):
        """Return whether all have ended."""
        return all(process.poll() is not None for process in self.processes)

    def finish(self):
        """The exit codes and what was printed."""
        outputs = [process.communicate()[0] for process in self.processes]
        return [process.returncode for process in self.processes], "\n".join(outputs)

    def popen(self, words, **environment):
        """Start one of them."""
        process = subprocess.Popen(
            [str(word) for word in words], env={**os.environ, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def stop(self):
        """End all, whatever they do."""
        for process in self.processes:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)


class OpenMpi(Launcher):
    """mpirun with four ranks on one host."""

    KINDS = ("USR1 to mpirun", "TERM to mpirun", "KILL of a rank", "KILL of mpirun")
    NUM_RANKS = 4

    def start(self, workdir):
        """Start, or continue."""
        self.processes = []
        train = [sys.executable, "-m", "resnet_jax", "train", *WORDS, "--workdir", workdir]
        self.popen(["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", self.NUM_RANKS, *train])

    def fault(self, kind, numbers):
        """Make it; nothing is to be undone."""
        (process,) = self.processes
        if kind == "KILL of a rank":
            ranks = processes_of("OMPI_COMM_WORLD_RANK", numbers.randrange(self.NUM_RANKS))
            for number in ranks:
                os.kill(number, signal.SIGKILL)
        else:
            os.kill(process.pid, getattr(signal, f"SIG{kind.split()[0]}"))
        return lambda: None

    def allowed(self, kind):
        """The exit codes that a fault may end with."""
        return {"USR1 to mpirun": {75}, "KILL of mpirun": {-9}}.get(kind, {1, 75, 137, 134})

    def is_over(self):
        """Also the ranks, of which none may be left."""
        return super().is_over() and not any(
            processes_of("OMPI_COMM_WORLD_RANK", rank) for rank in range(self.NUM_RANKS)
        )


class Hosts(Launcher):
    """Two network namespaces, h1 and h2, each a host with its own name and address; hosts.sh has made them."""

    KINDS = ("link down", "host paused", "one direction dropped", "KILL of a host's process", "TERM on one host")

    def start(self, workdir):
        """Start, or continue; the port is another each time, as that of the last start may still be held."""
        self.processes = []
        port = random.randrange(20000, 30000)
        for number, host in enumerate(("h1", "h2")):
            self.popen([
                self.folder / "on", host, sys.executable, "-m", "resnet_jax", "train", *WORDS, "--workdir", workdir,
                "--coordinator", f"h1:{port}", "--num_processes", 2, "--process_id", number,
            ])  # fmt: skip

    def fault(self, kind, numbers):
        """Make it; returns what undoes it."""
        host = numbers.choice(("h1", "h2"))
        victim = self.processes[int(host[1]) - 1]
        if kind == "link down":
            ip("-n", host, "link", "set", "eth0", "down")
            return lambda: ip("-n", host, "link", "set", "eth0", "up")
        if kind == "one direction dropped":
            words = ["nsenter", f"--net=/run/netns/{host}", "iptables"]
            rule = ["OUTPUT", "-o", "eth0", "-j", "DROP"]
            subprocess.run([*words, "-A", *rule], check=True)
            return lambda: subprocess.run([*words, "-D", *rule], check=True)
        if kind == "host paused":
            os.killpg(victim.pid, signal.SIGSTOP)
            return lambda: os.killpg(victim.pid, signal.SIGCONT)
        number = signal.SIGKILL if kind.startswith("KILL") else signal.SIGTERM
        os.killpg(victim.pid, number)
        return lambda: None

    def slow_down(self, rate):
        """Let either host send no faster than this; returns what undoes it."""
        for host in ("h1", "h2"):
            queue = ("burst", "16kbit", "latency", "2s")
            subprocess.run(
                ["tc", "-n", host, "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, *queue], check=True
            )
        return lambda: [
            subprocess.run(["tc", "-n", host, "qdisc", "del", "dev", "eth0", "root"], check=True)
            for host in ("h1", "h2")
        ]

    def allowed(self, kind):
        """The exit codes that a fault may end with."""
        return {75} if kind.startswith("TERM") else {1, 134, -6, -9, 137, 75}


def ip(*words):
    """Run ip."""
    subprocess.run(["ip", *words], check=True)


def printed(*words):
    """Return what a command prints."""
    return subprocess.run([*map(str, words)], check=True, capture_output=True, text=True).stdout.strip()


class Slurm:
    """A job of two nodes with two tasks each; slurm.sh has started the cluster."""

    KINDS = ("scancel --signal=TERM", "scontrol requeue", "scancel", "KILL of a task", "preempted", "node down")

    def __init__(self, folder):
        self.folder, self.job, self.workdir = folder, "", None

    def start(self, workdir):
        """Submit the job, unless it is there still."""
        self.workdir = workdir
        if self.job and self.field("JobState") in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "CONFIGURING"):
            return
        words = [
            "sbatch", "--parsable", f"--job-name={workdir.name}", "--partition=low", "--ntasks-per-node=2",
            "--gpus-per-node=0", "--cpus-per-task=1", "--time=30", f"--output={self.folder}/%j.log",
            ROOT / "launch/slurm.sbatch", *WORDS, "--workdir", workdir,
        ]  # fmt: skip
        self.job = subprocess.run(
            [str(word) for word in words], check=True, capture_output=True, text=True
        ).stdout.strip()

    def field(self, name):
        """A field of the job, as scontrol shows it."""
        shown = subprocess.run(
            ["scontrol", "--oneliner", "show", "job", self.job], capture_output=True, text=True
        ).stdout
        return (re.findall(rf"(?:^| ){name}=(\S*)", shown) or [""])[0]

    def is_over(self):
        """Return whether the job has ended, or waits to come back, and none of its tasks is left."""
        ended = self.field("JobState") not in ("RUNNING", "COMPLETING", "CONFIGURING")
        return ended and not any(processes_of("SLURM_PROCID", rank) for rank in range(4))

    def fault(self, kind, numbers):
        """Make it; returns what undoes it."""
        if kind == "KILL of a task":
            for number in processes_of("SLURM_PROCID", numbers.randrange(4)):
                os.kill(number, signal.SIGKILL)
        elif kind == "preempted":
            subprocess.run(
                ["sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 3"],
                check=True, capture_output=True,
            )  # fmt: skip
        elif kind == "node down":
            daemon = int((self.folder / "slurmd-n2.pid").read_text())
            os.kill(daemon, signal.SIGKILL)
            for rank in (2, 3):
                for number in processes_of("SLURM_PROCID", rank):
                    os.kill(number, signal.SIGKILL)
            return lambda: subprocess.run(["slurmd", "-N", "n2"], check=True)
        else:
            subprocess.run([*kind.split(), self.job], check=True)
        return lambda: None

    def allowed(self, kind):
        """All: the job's end says little of its tasks'."""
        return

    def finish(self):
        """The job's exit code, and its log."""
        log = self.folder / f"{self.job}.log"
        state = self.field("JobState")
        return [0 if state == "COMPLETED" else 75 if state in ("PENDING", "REQUEUED") else 1], (
            log.read_text() if log.exists() else ""
        )

    def stop(self):
        """Cancel it."""
        subprocess.run(["scancel", self.job], check=False)


PLACES = {"slurm": Slurm, "mpi": OpenMpi, "hosts": Hosts}


def run_to_end(place, workdir, num_steps=NUM_STEPS):
    """Return what an undisturbed run prints."""
    place.start(workdir)
    wait("the run's first record", lambda: last_step(workdir) > 0, START_SECONDS)
    wait("the run's end", lambda: place.is_over() and last_step(workdir) >= num_steps, END_SECONDS)
    codes, output = place.finish()
    if set(codes) != {0}:
        raise BrokenPromiseError(f"{workdir.name} ended with {codes}: {output[-2000:]}")
    return digest(output), records(workdir)


def break_off(place, workdir, kind, numbers, most_steps=NUM_STEPS // MOST_FAULTS - 100):
    """Seconds from a fault until all of a run's processes were over; it comes after so many steps at most."""
    goal = last_step(workdir) + numbers.randrange(20, most_steps)
    place.start(workdir)
    wait(f"step {goal} of {workdir.name}", lambda: last_step(workdir) >= goal, START_SECONDS)
    undo = place.fault(kind, numbers)
    began = time.monotonic()
    if kind == "host paused":  # its own process ends when it is let go
        wait("the other host's end", lambda: any(p.poll() is not None for p in place.processes), HUNG_SECONDS)
    else:
        wait(f"all to end after {kind}", place.is_over, HUNG_SECONDS)
    took = time.monotonic() - began
    undo()
    wait(f"all to end after {kind}", place.is_over, HUNG_SECONDS)
    codes, output = place.finish()
    allowed = place.allowed(kind)
    if allowed is not None and not {*codes} <= allowed:
        raise BrokenPromiseError(f"{workdir.name}, {kind}: codes {codes}: {output[-2000:]}")
    print(f"{workdir.name}, step {last_step(workdir)}: {kind}, over after {took:.1f} s, {codes}", flush=True)
    return took


def campaign(place, folder, faults, numbers):
    """Seconds by kind of fault, and the number of runs, each of which ended as the unbroken one."""
    seconds = {kind: [] for kind in place.KINDS}
    expected = run_to_end(place, folder / "unbroken")
    if not expected[0]:
        raise BrokenPromiseError("the unbroken run printed no digest")
    num_runs = 0
    while faults:
        num_runs += 1
        workdir = folder / f"run-{num_runs}"
        for kind in faults[:MOST_FAULTS]:
            seconds[kind].append(break_off(place, workdir, kind, numbers))
        faults = faults[MOST_FAULTS:]
        if run_to_end(place, workdir) != expected:
            raise BrokenPromiseError(f"{workdir.name} is not what the unbroken run is")
        print(f"{workdir.name} ended as the unbroken run, bit for bit", flush=True)
    return seconds, num_runs


def slow_link(place, folder, rate="512kbit", seconds=20.0):
    """A link that is slow for a while slows the run down; it ends by itself, as the unbroken one, bit for bit."""
    expected, workdir = run_to_end(place, folder / "at full speed"), folder / "slow"

    def steps_per_second():
        first, began = last_step(workdir), time.monotonic()
        wait("a record", lambda: last_step(workdir) > first, HUNG_SECONDS)  # from one record's time to another's
        first, began = last_step(workdir), time.monotonic()
        time.sleep(seconds / 4)
        wait("a record", lambda: last_step(workdir) > first, HUNG_SECONDS)
        return (last_step(workdir) - first) / (time.monotonic() - began)

    place.start(workdir)
    wait("the run's first record", lambda: last_step(workdir) > 0, START_SECONDS)
    fast, undo = steps_per_second(), place.slow_down(rate)
    slow = steps_per_second()
    time.sleep(seconds)
    undo()
    wait("the run's end", lambda: place.is_over() and last_step(workdir) >= NUM_STEPS, END_SECONDS)
    codes, output = place.finish()
    if {*codes} != {0} or (digest(output), records(workdir)) != expected:
        raise BrokenPromiseError(f"with a slow link the run ended with {codes}, otherwise: {output[-2000:]}")
    print(f"slow link: {rate} for a while, {fast:.1f} steps a second and then {slow:.1f}; it ended bit for bit")


def elastic(place, folder, numbers):
    """A run in float64 on four ranks, then two, then eight, is the run on one: records equal but for rounding."""
    os.environ["JAX_ENABLE_X64"] = "1"
    WORDS.extend(["--config.dtype=float64", f"--config.num_steps={NUM_ELASTIC_STEPS}"])
    place.NUM_RANKS = 1
    _, expected = run_to_end(place, folder / "one", NUM_ELASTIC_STEPS)
    workdir = folder / "elastic"
    for num_ranks in (4, 2):
        place.NUM_RANKS = num_ranks
        break_off(place, workdir, "USR1 to mpirun", numbers, most_steps=80)
        print(f"{num_ranks} ranks until step {last_step(workdir)}", flush=True)
    place.NUM_RANKS = 8
    _, found = run_to_end(place, workdir, NUM_ELASTIC_STEPS)
    largest = 0.0
    for one, other in zip(found, expected, strict=True):
        if one.keys() != other.keys():
            raise BrokenPromiseError(f"record {one} instead of {other}")
        for name, value in one.items():
            difference = abs(value - other[name]) / max(abs(other[name]), 1e-12)
            largest = max(largest, difference)
            if difference > LARGEST_DIFFERENCE:
                raise BrokenPromiseError(f"{name} of step {one['step']} is {value} instead of {other[name]}")
    print(f"elastic: 4, 2 and 8 ranks, {len(found)} records, of one rank's by {largest:.1e} at most")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place", choices=[*PLACES, "elastic", "slow"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    numbers = random.Random(f"{arguments.place} {arguments.seed}")
    place = {**PLACES, "elastic": OpenMpi, "slow": Hosts}[arguments.place](arguments.folder)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        if arguments.place == "elastic":
            elastic(place, arguments.folder, numbers)
            return 0
        if arguments.place == "slow":
            slow_link(place, arguments.folder)
            return 0
        order = [*place.KINDS] * (arguments.faults // len(place.KINDS) + 1)
        numbers.shuffle(order)
        seconds, num_runs = campaign(place, arguments.folder, order[: arguments.faults], numbers)
    except BrokenPromiseError as error:
        print(f"BROKEN: {error}")
        return 1
    finally:
        place.stop()
    for kind, taken in seconds.items():
        if taken:
            print(f"{kind}: {len(taken)}, over after {statistics.median(taken):.1f} s (at most {max(taken):.1f})")
    print(f"{arguments.place}: {sum(map(len, seconds.values()))} faults in {num_runs} runs, 0 lost, 0 hung")
    return 0


if __name__ == "__main__":
    sys.exit(main())
