"""benchmarks/gpu.py without a GPU: parts that fail or hang cost the others nothing, and what was found stays."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import gpu
import gpu_speed
import gpu_truth
import pytest
from gpu_part import OutOfTimeError, Part
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

PARTS = """
import time

def well(part):
    with part.measured(name="first") as row:
        row["value"] = 1.5
    with part.measured(name="second") as row:
        row["value"] = 1 / 0

def fail(part):
    part.row(name="before")
    raise ValueError("it broke")

def hang(part):
    part.row(name="before")
    time.sleep(600)
"""


@pytest.fixture
def options(tmp_path, monkeypatch):
    (tmp_path / "some_parts.py").write_text(PARTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    plans = {name: gpu.Plan(f"It may {name}", 1, f"some_parts.{name}") for name in ("well", "fail", "hang")}
    monkeypatch.setattr(gpu, "PARTS", plans)
    return Namespace(to=tmp_path, tiny=True, cifar10=None, cache=str(tmp_path / "cache"))


def found(options, name, seconds):
    results = gpu.Results(options.to, {})
    in_time = gpu.run_part(name, seconds, options, results)
    return in_time, json.loads((options.to / "results.json").read_text())["parts"][name]


def test_a_measurement_that_fails_is_a_row_of_its_part(options):
    in_time, part = found(options, "well", 60.0)
    assert in_time
    assert part["status"] == "done"
    assert part["rows"] == [
        {"name": "first", "value": 1.5},
        {"name": "second", "failed": "ZeroDivisionError: division by zero"},
    ]
    page = (options.to / "results.md").read_text()
    assert "| name | value | failed |" in page
    assert "| second | - | ZeroDivisionError: division by zero |" in page


def test_a_part_that_fails_keeps_its_rows_and_says_why(options):
    in_time, part = found(options, "fail", 60.0)
    assert not in_time
    assert part["status"] == "failed: ValueError: it broke"
    assert part["rows"] == [{"name": "before"}]


def test_a_part_that_hangs_is_cut_off_with_what_it_found(options):
    in_time, part = found(options, "hang", 3.0)
    assert not in_time
    assert part["status"] == "cut off"
    assert part["rows"] == [{"name": "before"}]


def test_time_that_a_part_leaves_goes_to_those_after_it():
    names = list(gpu.PARTS)
    assert sum(gpu.seconds_of(name, names, 100.0) for name in names) == pytest.approx(100.0)
    assert gpu.seconds_of(names[-1], names[-1:], 70.0) == 70.0


def test_no_measurement_begins_without_time(tmp_path):
    part = Part(tmp_path / "rows.jsonl", seconds=0.0)
    with pytest.raises(OutOfTimeError), part.measured(name="late"):
        pytest.fail("it began")


def test_what_a_command_printed_before_its_time_was_up_is_there(tmp_path):
    part = Part(tmp_path / "rows.jsonl", seconds=3.0)
    process = part.run(["-u", "-c", "import time; print('before'); time.sleep(60)"])
    assert process.returncode < 0
    assert process.stdout == "before\n"


def test_every_part_is_there():
    modules = {"gpu_speed": gpu_speed, "gpu_truth": gpu_truth}
    for plan in gpu.PARTS.values():
        module, function = plan.function.split(".")
        assert callable(getattr(modules[module], function))
    assert list(gpu.PARTS) == ["card", *"abcdefghi"]


def test_kernels_that_overlap_count_once_and_gaps_are_waiting():
    trace = gpu_speed.Trace([("a", 0.0, 10.0), ("b", 5.0, 8.0), ("c", 15.0, 20.0)])
    assert trace.busy_ns() == 15.0
    assert trace.idle_share() == 0.25
    many = gpu_speed.Trace([(str(k), float(k), k + 0.5) for k in range(8)])
    assert [name for name, _, _ in many.middle().events] == ["2", "3", "4", "5"]


def test_cifar10_is_read_from_a_folder_and_from_a_tar(tmp_path):
    for split, count in (("train", 3), ("test", 1)):
        for image_class in ("cat", "ship"):
            for k in range(count):
                folder = tmp_path / "cifar" / split / image_class
                folder.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (k, 0, 0)).save(folder / f"{k}.png")
    subprocess.run(["tar", "-cJf", "cifar.tar.xz", "cifar"], cwd=tmp_path, check=True)
    for path in (tmp_path / "cifar", tmp_path / "cifar.tar.xz"):
        train, test = gpu_truth.read_jpegs(path)
        assert train.class_names == ("cat", "ship")
        assert train.images.shape == (6, 32, 32, 3)
        assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert test.labels.tolist() == [0, 1]


def test_without_a_gpu_it_ends_in_one_line():
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--parts", "card"]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode == 0:
        pytest.skip("there is a GPU")
    assert process.returncode == 2
    assert "--tiny runs without one" in process.stderr


@pytest.mark.slow
def test_the_card_is_described_in_tiny(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--tiny", "--parts", "card", "--to", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    rows = {row["what"]: row for row in json.loads((tmp_path / "results.json").read_text())["parts"]["card"]["rows"]}
    assert rows["memory, GB/s read and written"]["value"] > 0
