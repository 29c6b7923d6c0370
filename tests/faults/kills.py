"""Runs killed at random moments, by SIGKILL and SIGTERM, also during saves, over one and two processes.

Each is started again until it ends, and must then be bit for bit what the unbroken run is.
"""

import random
import signal
import threading
import time

from runs import ENVIRONMENT, WORDS, finish, latest_step, start, start_many, whole

# A start that has not ended so long after its last signal hangs.
HUNG_SECONDS = 90
MOST_KILLS = 12  # of one run, which then goes on to its end
MOMENT = 0.5  # a kill comes within this share of the time that the unbroken run takes, start included
DURING_SAVE = 0.4  # of the kills wait for a save to begin


def compare(run, unbroken):
    """Return the differences between two results of `whole`, in words; empty if there are none."""
    (log, saved), (expected_log, expected_saved) = run, unbroken
    records = [pair for pair in zip(log, expected_log, strict=False) if pair[0] != pair[1]]
    steps = [name for name in {**saved, **expected_saved} if saved.get(name) != expected_saved.get(name)]
    texts = [f"record {one} instead of {other}" for one, other in records[:1]]
    texts += [f"{len(log)} records instead of {len(expected_log)}"] if len(log) != len(expected_log) else []
    return "; ".join([*texts, *(f"{name}: {saved.get(name)} for {expected_saved.get(name)}" for name in steps)])


class Campaign:
    """Counts of kills and of what they must not do, by number of processes."""

    def __init__(self, folder, num_processes, seed):
        self.folder, self.num_processes, self.seed = folder, num_processes, seed
        self.lock = threading.Lock()
        self.kills = {"SIGKILL": 0, "SIGTERM": 0}
        self.during_saves = self.runs = self.starts = 0
        self.failures = []
        self.longest_exit = self.longest_survival = 0.0
        unbroken = folder / "unbroken"
        begun = time.monotonic()
        finish(unbroken, num_processes)
        self.seconds = time.monotonic() - begun
        self.expected = whole(unbroken)

    @property
    def num_kills(self):
        return sum(self.kills.values())

    def run(self, num_kills, deadline, num_chains):
        """Kill until so many kills are done, or the deadline (of time.monotonic) has come."""

        def chain(number):
            numbers = random.Random(f"{self.seed} {number}")
            while self.num_kills < num_kills and time.monotonic() < deadline and not self.failures:
                with self.lock:
                    self.runs += 1
                    workdir = self.folder / f"run-{self.runs}"
                self.one_run(workdir, numbers, num_kills)

        threads = [threading.Thread(target=chain, args=(number,)) for number in range(num_chains)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def one_run(self, workdir, numbers, num_kills):
        for _ in range(MOST_KILLS):
            if self.num_kills >= num_kills or not self.one_start(workdir, numbers):
                break
        else:
            numbers = None
        try:
            finish(workdir, self.num_processes)
        except Exception as error:
            self.fail(f"{workdir} does not end: {error}")
            return
        if differences := compare(whole(workdir), self.expected):
            self.fail(f"{workdir} is not what the unbroken run is: {differences}")

    def one_start(self, workdir, numbers):
        """Start, wait, kill; whether the run is still to be continued."""
        before = latest_step(workdir)
        words = [*WORDS, "--workdir", workdir]
        if self.num_processes == 1:
            processes = [start(*words, environment=ENVIRONMENT)]
        else:
            processes = start_many(self.num_processes, *words, environment=ENVIRONMENT)
        with self.lock:
            self.starts += 1
        outputs = {}
        readers = [
            threading.Thread(target=lambda process=process: outputs.update({process: process.communicate()}))
            for process in processes
        ]
        for reader in readers:
            reader.start()
        saving = self.wait(processes, workdir, numbers)
        number = numbers.choice([signal.SIGKILL, signal.SIGTERM])
        one_alone = self.num_processes > 1 and (number == signal.SIGTERM or numbers.random() < 0.5)
        victims = [numbers.choice(processes)] if one_alone else processes
        alive = [process for process in victims if process.poll() is None]
        for process in alive:
            process.send_signal(number)
        sent = time.monotonic()
        with self.lock:
            self.kills[number.name] += len(alive) > 0
            self.during_saves += saving and len(alive) > 0
        for reader in readers:
            reader.join(max(sent + HUNG_SECONDS - time.monotonic(), 0.1))
        hung = [process for process in processes if process.poll() is None]
        for process in hung:
            process.kill()
        for reader in readers:
            reader.join()
        took = time.monotonic() - sent
        codes = [process.returncode for process in processes]
        told = "\n".join(outputs[process][1][-1500:] for process in processes)
        what = f"{workdir}, {number.name} to {len(alive)} of {self.num_processes}, codes {codes}"
        if hung:
            self.fail(f"{what}: hung\n{told}")
        if latest_step(workdir) < before:
            self.fail(f"{what}: step {before} was lost, {latest_step(workdir)} is the last")
        if number == signal.SIGTERM:
            self.check_saved(what, workdir, codes, told, alive)
            if codes[0] == 75:
                self.longest_exit = max(self.longest_exit, took)
        elif one_alone and len(alive) == 1:
            self.longest_survival = max(self.longest_survival, took)
        return set(codes) != {0} and not self.failures

    def wait(self, processes, workdir, numbers):
        """Wait for the moment to kill; whether it is one of a save."""
        until = time.monotonic() + numbers.uniform(0.0, MOMENT * self.seconds)
        for_save = numbers.random() < DURING_SAVE
        while time.monotonic() < until and processes[0].poll() is None:
            time.sleep(0.005)
        while for_save and processes[0].poll() is None:
            if any(workdir.glob("*/*.partial")):
                time.sleep(numbers.uniform(0.0, 0.06))
                return any(workdir.glob("*/*.partial"))
            if time.monotonic() > until + 2 * self.seconds:
                break
            time.sleep(0.001)
        return False

    def check_saved(self, what, workdir, codes, told, alive):
        """SIGTERM ends all with 75 and the step that they tell saved, unless it came before there was anything."""
        if not alive or set(codes) == {0}:  # had ended by itself
            return
        early = latest_step(workdir) == 0 or "saved step" not in told
        if set(codes) == {75}:
            if not early:
                saved = int(told.split("saved step ")[1].split()[0])
                if latest_step(workdir) != saved:
                    self.fail(f"{what}: told that step {saved} is saved, {latest_step(workdir)} is\n{told}")
        elif self.num_processes == 1 and codes == [-signal.SIGTERM]:
            pass  # before Python had come to our handler
        elif self.num_processes > 1 and -signal.SIGTERM in codes:
            pass  # likewise; the others gave up waiting for it
        else:
            self.fail(f"{what}: not 75\n{told}")

    def fail(self, text):
        with self.lock:
            self.failures.append(text)

    def report(self):
        name = "one process" if self.num_processes == 1 else f"{self.num_processes} processes"
        return {
            "fault": f"killed at random moments, {name}",
            "tried": f"{self.kills['SIGKILL']} SIGKILL, {self.kills['SIGTERM']} SIGTERM, {self.during_saves} of them "
            f"during a save, in {self.runs} runs",
            "count": self.num_kills,
            "result": f"every run bit for bit the unbroken one; longest exit after SIGTERM {self.longest_exit:.1f} s"
            + (f", of a survivor {self.longest_survival:.1f} s" if self.num_processes > 1 else ""),
            "failures": self.failures,
        }
