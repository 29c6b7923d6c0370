"""Measures all that a GPU decides, part by part, in less than nine minutes: one command on a machine that has one.

    python benchmarks/gpu.py --to build/gpu --cifar10 CIFAR10_FOLDER_OR_TAR

Each part runs in a process group of its own that ends when its time is up; what it found until then stays, and the
others run all the same. Time that a part leaves goes to those after it. DIR/results.json and DIR/results.md are written
as results come, DIR/log.txt has what the parts printed. --parts chooses some of them; --tiny runs everything small, on
whatever there is, to see that it runs. Exits with 1 if a part failed, 2 if there is no GPU, else with 0.

The parts are in gpu_speed.py and gpu_truth.py; what the machine must have beside the project is in gpu-wheels.txt.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from gpu_part import ROOT, OutOfTimeError, Part, read_rows

POLL_SECONDS = 0.5
SECONDS_TO_END = 5.0  # that a part has from the first signal to the last


class Plan(NamedTuple):
    """A part's title, its share of the time, and the function that measures: its module's and its own name."""

    title: str
    share: float
    function: str


PARTS = {
    "card": Plan("The card", 10, "gpu_speed.describe_machine"),
    "a": Plan("Tests that wait for a GPU", 50, "gpu_truth.run_gpu_tests"),
    "b": Plan("Training against torch", 170, "gpu_speed.compare_training"),
    "c": Plan("Inference against torch", 60, "gpu_speed.compare_inference"),
    "d": Plan("The recipe cifar10", 110, "gpu_truth.train_cifar10"),
    "e": Plan("Killed and continued", 30, "gpu_truth.kill_and_continue"),
    "f": Plan("The same losses", 30, "gpu_truth.compare_losses"),
    "g": Plan("Flags", 40, "gpu_speed.compare_flags"),
    "h": Plan("Where a step's time goes", 20, "gpu_speed.trace_kernels"),
    "i": Plan("Reading images", 15, "gpu_speed.compare_input"),
}


class Results:
    """The results so far, in DIR/results.json and DIR/results.md."""

    def __init__(self, folder: Path, options: dict[str, Any]):
        self._folder = folder
        self._all: dict[str, Any] = {"options": options, "parts": {}}

    def update(self, name: str, status: str, seconds: float, rows: list[dict[str, Any]]) -> None:
        """Writes what is known of a part."""
        title = PARTS[name].title
        self._all["parts"][name] = {"title": title, "status": status, "seconds": round(seconds, 1), "rows": rows}
        (self._folder / "results.json").write_text(json.dumps(self._all, indent=1) + "\n")
        (self._folder / "results.md").write_text(to_markdown(self._all["parts"]))


def to_markdown(parts: dict[str, Any]) -> str:
    """Returns the page of all parts: of each a table for every kind of row, which its first column names."""
    lines = []
    for name, part in parts.items():
        lines += [f"## {name}. {part['title']}", "", f"{part['status']}, {part['seconds']:.0f} s", ""]
        for kind in dict.fromkeys(next(iter(row)) for row in part["rows"]):
            rows = [row for row in part["rows"] if next(iter(row)) == kind]
            columns = list(dict.fromkeys(column for row in rows for column in row))
            lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
            lines += [f"| {' | '.join(_cell(row.get(column)) for column in columns)} |" for row in rows]
            lines.append("")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "/").replace("\n", " ")


def run_part(name: str, seconds: float, options: argparse.Namespace, results: Results) -> bool:
    """Runs one part in a process of its own for at most so many seconds; returns whether it came to its end."""
    with tempfile.TemporaryDirectory(prefix="resnet_jax-gpu-") as scratch:
        rows_file = Path(scratch) / "rows.jsonl"
        # The part itself ends a little before, so that what it does last is not cut off.
        command = [sys.executable, __file__, "--measure", PARTS[name].function, "--rows", str(rows_file)]
        command += ["--seconds", str(max(1.0, seconds - SECONDS_TO_END)), *(["--tiny"] if options.tiny else [])]
        command += ["--cifar10", options.cifar10] if options.cifar10 else []
        started = time.monotonic()
        with (options.to / "log.txt").open("a") as log:
            print(f"--- {name}. {PARTS[name].title}: at most {seconds:.0f} s", file=log, flush=True)
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=_environment(options.cache),
                start_new_session=True,
            )  # fmt: skip
            try:
                num_rows = -1
                while process.poll() is None and time.monotonic() - started < seconds:
                    rows = read_rows(rows_file)
                    if len(rows) != num_rows:
                        num_rows = len(rows)
                        results.update(name, "running", time.monotonic() - started, rows)
                    time.sleep(POLL_SECONDS)
                in_time = process.poll() is not None
            finally:
                _end_group(process)
        if not in_time:
            status = "cut off"
        else:
            status = "done" if process.returncode == 0 else f"failed: {last_line(options.to / 'log.txt')}"
        results.update(name, status, time.monotonic() - started, read_rows(rows_file))
        return process.returncode == 0 and in_time


def _end_group(process: subprocess.Popen) -> None:
    """Ends what is left of the process and of those that it started."""
    for end in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, end)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + SECONDS_TO_END
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    process.wait()


def last_line(path: Path) -> str:
    """Returns the last line of a log that is not empty: of a traceback, the error."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else ""


def _environment(cache: str) -> dict[str, str]:
    """For all parts: torch needs the memory that JAX does not use; programs are compiled once for all of them."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": cache,
    }


def measure_part(options: argparse.Namespace) -> None:
    """Measures one part in this process, to its end or to that of its time."""
    part = Part(options.rows, options.seconds, options.tiny, options.cifar10 and Path(options.cifar10))
    module, function = options.measure.split(".")
    try:
        getattr(import_module(module), function)(part)
    except OutOfTimeError:
        part.row(failed="no time was left for more")


def has_gpu() -> bool:
    """Returns whether JAX finds a GPU, asked in a process of its own: this one must not hold its memory."""
    program = "import sys, jax; sys.exit(jax.default_backend() != 'gpu')"
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return subprocess.run([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL).returncode == 0


def seconds_of(name: str, names: Iterable[str], left: float) -> float:
    """Returns a part's share of the time that is left for it and the parts after it."""
    return left * PARTS[name].share / sum(PARTS[other].share for other in names)


def main() -> int:
    """Runs the parts, or one of them where it is called for that."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=Path("build/gpu"), metavar="DIR", help="default: build/gpu")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of: %(default)s")
    parser.add_argument("--minutes", type=float, default=8.5, help="for all parts together (default: %(default)s)")
    parser.add_argument("--cifar10", help="a folder or tar of JPEGs, train/<class>/ and test/<class>/; for part d")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, also without a GPU")
    parser.add_argument("--measure", metavar="FUNCTION", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.cifar10 = options.cifar10 and os.path.abspath(options.cifar10)
    if options.measure:
        measure_part(options)
        return 0
    names = [name for name in options.parts.split(",") if name]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"--parts {unknown[0]} must be some of {','.join(PARTS)}")
    if options.cifar10 and not Path(options.cifar10).exists():
        parser.error(f"--cifar10 {options.cifar10} does not exist: name a folder or tar of JPEGs")
    if not options.tiny and not has_gpu():
        parser.error("JAX finds no GPU here (pip install 'resnet-family-jax[cuda13]'); --tiny runs without one")
    started = time.monotonic()
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "log.txt").write_text("")
    results = Results(options.to, {"tiny": options.tiny, "minutes": options.minutes, "parts": names})
    num_failed = 0
    with tempfile.TemporaryDirectory(prefix="resnet_jax-gpu-cache-") as options.cache:
        for i, name in enumerate(names):
            left = 60 * options.minutes - (time.monotonic() - started)
            seconds = seconds_of(name, names[i:], left)
            print(f"{name}. {PARTS[name].title}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
            num_failed += not run_part(name, seconds, options, results)
    print((options.to / "results.md").read_text())
    return int(num_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
