"""Many processes train one network as one process does, and end together."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from processes import TINY, can_be_hosts, end, free_port, records, run, start, start_many, wait_for_step

from resnet_jax.checkpoint.folder import open_latest
from resnet_jax.cli.main import main
from resnet_jax.data.batches import epoch_order
from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.sources import load_source
from resnet_jax.distributed import processes as distributed
from resnet_jax.distributed.addresses import check_listening
from resnet_jax.distributed.agreement import own_facts, verdict
from resnet_jax.distributed.detection import Processes, find_processes, gpus_of
from resnet_jax.errors import UserError
from resnet_jax.runtime import missing_accelerator

# 20 steps an epoch; float64, so that sums in another order are no excuse.
WORDS = [
    *TINY, "--config.log_every_steps=1", "--config.checkpoint_every_steps=20", "--config.test_every_epochs=1",
    "--config.schedule=constant", "--config.warmup_epochs=0", "--config.dtype=float64", "--config.augment.flip=True",
]  # fmt: skip
NUM_STEPS = 60
# Compiled quickly rather than well, as everywhere in the suite.
FLAGS = "--xla_backend_optimization_level=1 --xla_force_host_platform_device_count"
ONE, TWO_BY_TWO = ({"environment": {"JAX_ENABLE_X64": "1", "XLA_FLAGS": f"{FLAGS}={n}"}} for n in (1, 2))
SOON = {"environment": {**TWO_BY_TWO["environment"], "RESNET_JAX_HEARTBEAT_SECONDS": "10"}}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "3"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}
LOCAL = {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "3", "JAX_NUM_PROCESSES": "4", "JAX_COORDINATOR_ADDRESS": "job-0.svc:8476"}


@pytest.fixture
def ends_them():
    """Takes processes that end with the test, however that ends."""
    processes = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one") / "run"
    code, _, errors = run(*WORDS, f"--config.num_steps={NUM_STEPS}", "--workdir", workdir, **ONE)
    assert code == 0, errors
    return workdir


def assert_same_records(workdir, unbroken, last_step):
    """The log up to `last_step` is that of the one process: counts exactly, all else to 1e-9."""
    one, many = ([r for r in records(folder) if r["step"] <= last_step] for folder in (unbroken, workdir))
    assert [sorted(record) for record in many] == [sorted(record) for record in one]
    assert [record["step"] for record in many if "train_loss" in record] == list(range(1, last_step + 1))
    for record, expected in zip(many, one, strict=True):
        assert record == pytest.approx(expected, rel=0, abs=1e-9)
        assert record.get("val_count", 144) == 144
        assert record.get("test_count", 360) == 360


@pytest.mark.parametrize("on", ["one host", "two hosts"])
def test_two_processes_train_as_one_does(unbroken, tmp_path, ends_them, on):
    """Devices of two hosts are two slices to JAX, which treats them otherwise than those of one."""
    if on == "two hosts" and not can_be_hosts():
        pytest.skip("needs Linux's unshare, to tell processes of one host apart as of two")
    workdir, hosts = tmp_path / "run", tmp_path if on == "two hosts" else None
    ends_them += start_many(2, *WORDS, "--config.num_steps=20", "--workdir", workdir, hosts=hosts, **TWO_BY_TWO)
    (code, output, errors), others = (end(process) for process in ends_them)
    assert code == 0, errors
    assert others[:2] == (0, ""), others[2]
    assert_same_records(workdir, unbroken, 20)
    losses = [record["train_loss"] for record in records(workdir) if "train_loss" in record]
    assert max(losses) - min(losses) > 0.01  # it does train: equality of constants would prove nothing
    assert "test accuracy" in output
    assert "Gloo" not in output
    assert "step 20/20" in errors
    assert "step 20/20" not in others[2]
    names = [path.name.split(".")[0] for path in workdir.iterdir()]
    assert names.count("events") == 1
    assert {"config", "metrics", "curves", "checkpoints", "best"} <= {*names}


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(unbroken, tmp_path, ends_them):
    reports = [tmp_path / "report", tmp_path / "report of one"]
    words = ["evaluate", "--workdir", unbroken, "--json", "--report"]
    ends_them += start_many(2, *words, reports[0], **TWO_BY_TWO)
    (code, output, errors), others = (end(process) for process in ends_them)
    assert (code, *others[:2]) == (0, 0, ""), errors
    expected = [record for record in records(unbroken) if "test_loss" in record][-1]
    result = json.loads(output)
    assert (result["step"], result["count"]) == (NUM_STEPS, 360)
    assert result["loss"] == pytest.approx(expected["test_loss"], rel=1e-9)
    # Every process had all rows, in the order of the images.
    assert run(*words, reports[1], **ONE)[0] == 0
    many, one = (json.loads((report / "report.json").read_text()) for report in reports)
    assert many["classes"] == one["classes"]
    assert [mistake["image"] for mistake in many["mistakes"]] == [mistake["image"] for mistake in one["mistakes"]]
    assert len(many["mistakes"]) > 1


@pytest.mark.slow
def test_two_processes_continue_what_one_began(unbroken, tmp_path, ends_them):
    workdir = tmp_path / "run"
    shutil.copytree(unbroken, workdir)
    for folder in ("checkpoints/60", "best"):  # as if it had been killed before the last save
        shutil.rmtree(workdir / folder)
    ends_them += start_many(2, *WORDS, f"--config.num_steps={NUM_STEPS}", "--workdir", workdir, **TWO_BY_TWO)
    results = [end(process) for process in ends_them]
    assert [code for code, *_ in results] == [0, 0], results
    assert "after step 40" in results[0][2]
    assert_same_records(workdir, unbroken, NUM_STEPS)


@pytest.mark.slow
def test_two_processes_train_a_head_on_the_features_that_one_computes(unbroken, tmp_path, ends_them):
    words = [*WORDS, "--config.num_steps=20", "--config.augment.flip=False", "--config.augment.crop_padding=0",
             f"--config.finetune.weights={unbroken}", "--config.finetune.trainable=head"]  # fmt: skip
    code, _, errors = run(*words, "--workdir", tmp_path / "one", **ONE)
    assert code == 0, errors
    assert "features of 1,797 images" in errors
    ends_them += start_many(2, *words, "--workdir", tmp_path / "two", **TWO_BY_TWO)
    results = [end(process) for process in ends_them]
    assert [code for code, *_ in results] == [0, 0], results
    assert ["features of 1,797 images" in errors for *_, errors in results] == [True, False]
    assert_same_records(tmp_path / "two", tmp_path / "one", 20)


@pytest.mark.slow
def test_signal_to_one_of_two_stops_both_at_one_step_and_one_process_continues(unbroken, tmp_path, ends_them):
    workdir = tmp_path / "run"
    ends_them += start_many(2, *WORDS, "--config.num_steps=10000", "--workdir", workdir, **TWO_BY_TWO)
    wait_for_step(ends_them[0], workdir, 3)
    ends_them[1].send_signal(signal.SIGTERM)
    results = [end(process) for process in ends_them]
    assert [code for code, *_ in results] == [75, 75], results
    assert "interrupted by SIGTERM: saved step" in results[0][2]
    saved = int(results[0][2].split("saved step ")[1].split()[0])
    assert max(record["step"] for record in records(workdir)) == saved
    last_step = saved + 5
    code, _, errors = run(*WORDS, f"--config.num_steps={last_step}", "--workdir", workdir, **ONE)
    assert code == 0, errors
    assert f"after step {saved}" in errors
    # its last evaluation, out of the unbroken run's turn, is left out
    assert_same_records(workdir, unbroken, min(last_step - 1, NUM_STEPS))


@pytest.mark.slow
def test_death_of_one_of_two_ends_the_other(tmp_path, ends_them):
    workdir = tmp_path / "run"
    # Mostly gloo tells of the death at once; where it does not, the missing heartbeat does.
    seldom = ["--config.eval_every_epochs=500", "--config.test_every_epochs=0", "--config.checkpoint_every_steps=10000"]
    ends_them += start_many(2, *WORDS, "--config.num_steps=10000", *seldom, "--workdir", workdir, **SOON)
    wait_for_step(ends_them[0], workdir, 3)
    ends_them[1].kill()
    code, output, _ = end(ends_them[0])
    assert code not in (0, 75)
    assert output == ""


def folder_of_images(folder, count=16):
    """Four classes of `count` images, as JPEG files, and four of four for validation."""
    numbers = np.random.default_rng(0)
    for split, num_images in (("train", count), ("val", 4)):
        for name in "abcd":
            (folder / split / name).mkdir(parents=True)
            for i in range(num_images):
                pixels = numbers.integers(0, 256, (12, 12, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.jpg")
    return folder


def folder_words(folder):
    return [*WORDS, "--config.dataset=folder", f"--config.data_dir={folder}", "--config.batch_size=16",
            "--config.test_every_epochs=0", "--config.checkpoint_every_steps=1", "--config.num_steps=400"]  # fmt: skip


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.slow
def test_image_that_is_damaged_for_one_of_two_stops_both_with_its_name_and_saves_nothing_of_it(
    tmp_path, ends_them, split
):
    images = folder_of_images(tmp_path / "images")
    workdir = tmp_path / "run"
    bad = images / split / "c" / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    ends_them += start_many(2, *folder_words(images), "--workdir", workdir, **TWO_BY_TWO)
    results = [end(process) for process in ends_them]
    assert [code for code, *_ in results] == [2, 2], results
    for _, output, errors in results:
        last = errors.splitlines()[-1]
        assert output == ""
        assert f"{bad} cannot be read as an image" in last
        assert last.startswith("process ")
    told = [errors.splitlines()[-1].count("process ") for *_, errors in results]
    assert sorted(told) in ([1, 2], [1, 1])  # one of them had it: the other says which; or both had it
    saved = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    bad.write_bytes(next((images / split / "d").iterdir()).read_bytes())
    code, _, errors = run(*folder_words(images), f"--config.num_steps={max(saved, default=0) + 1}",
                          "--workdir", workdir, **ONE)  # fmt: skip
    assert code == 0, errors
    log = records(workdir)
    assert [record["step"] for record in log if "train_loss" in record] == list(range(1, max(saved, default=0) + 2))


@pytest.mark.slow
def test_image_that_only_the_precise_statistics_meet_stops_both(tmp_path, ends_them):
    images = folder_of_images(tmp_path / "images", count=20)
    source = load_source("folder", "train", DatasetOptions(str(images)))
    (first_of_next, *_) = (i for i in epoch_order(0, 1, 80)[:16] if i in epoch_order(0, 0, 80)[64:])
    bad = Path(source.name(int(first_of_next)))
    bad.write_bytes(bad.read_bytes()[:200])
    words = [*folder_words(images), "--config.precise_bn_batches=1", "--config.checkpoint_every_steps=100"]
    ends_them += start_many(2, *words, "--workdir", tmp_path / "run", **TWO_BY_TWO)
    results = [end(process) for process in ends_them]
    assert [code for code, *_ in results] == [2, 2], results
    for *_, errors in results:
        assert f"{bad} cannot be read as an image" in errors.splitlines()[-1]
    assert max(record["step"] for record in records(tmp_path / "run")) == 4


@pytest.mark.slow
def test_bad_images_of_both_count_together(tmp_path, ends_them):
    images = folder_of_images(tmp_path / "images")
    names = [images / "train" / name / f"{i}.jpg" for name in "abcd" for i in (0, 5, 9)]
    for path in names:
        path.write_bytes(b"no image")
    words = [*folder_words(images), "--config.num_steps=8", "--config.checkpoint_every_steps=8"]
    ends_them += start_many(2, *words, "--config.max_bad_images=12", "--workdir", tmp_path / "enough", **TWO_BY_TWO)
    results = [end(process) for process in ends_them]
    assert [code for code, *_ in results] == [0, 0], results
    with_position = open_latest(tmp_path / "enough")
    assert with_position.position(8)["bad_images"] == sorted(str(path.relative_to(images)) for path in names)
    # A start that continues knows them, and one that may not have so many stops.
    code, _, errors = run(*words, "--config.num_steps=9", "--config.max_bad_images=12", "--workdir",
                          tmp_path / "enough", **ONE)  # fmt: skip
    assert code == 0, errors
    assert "skipped" not in errors
    found = [errors.count("warning: skipped") for *_, errors in results]
    assert min(found) > 0
    assert max(found) < 12
    ends_them += start_many(2, *words, "--config.max_bad_images=11", "--workdir", tmp_path / "less", **TWO_BY_TWO)
    results = [end(process) for process in ends_them[2:]]
    assert [code for code, *_ in results] == [2, 2], results
    for *_, errors in results:
        assert "12 images cannot be read, more than config.max_bad_images=11" in errors.splitlines()[-1]


@pytest.mark.slow
def test_failed_save_of_process_0_stops_both(tmp_path, ends_them):
    workdir = tmp_path / "run"
    ends_them += start_many(2, *WORDS, "--config.num_steps=10000", "--config.checkpoint_every_steps=10000",
                            "--config.eval_every_epochs=500", "--config.test_every_epochs=0", "--workdir", workdir,
                            **TWO_BY_TWO)  # fmt: skip
    wait_for_step(ends_them[0], workdir, 3)
    (workdir / "checkpoints").rmdir()
    (workdir / "checkpoints").write_text("a file where the folder was")
    ends_them[0].send_signal(signal.SIGTERM)
    results = [end(process) for process in ends_them]
    assert [code for code, *_ in results] == [1, 1], results
    first, second = (errors.splitlines()[-1] for *_, errors in results)
    assert first.startswith("process 0: error: checkpoint")
    assert "could not be written" in first
    assert second.startswith("process 1: error: process 0: checkpoint")


@pytest.mark.slow
def test_time_that_is_up_stops_both_at_one_step(tmp_path, ends_them):
    workdir = tmp_path / "run"
    words = [*WORDS, "--config.num_steps=10000", "--config.stop_after_minutes=0.01"]
    ends_them += start_many(2, *words, "--workdir", workdir, **TWO_BY_TWO)
    results = [end(process) for process in ends_them]
    assert [code for code, *_ in results] == [75, 75], results
    assert "interrupted by config.stop_after_minutes=0.01: saved step" in results[0][2]


AGREE = """
import json, os, sys
from resnet_jax.distributed import processes as distributed
from resnet_jax.errors import DamagedCheckpointError, Preempted, RunError, UserError
from resnet_jax.distributed.sync import assert_equal_across_processes, broadcast_from_process_0, sync_errors

address, number = sys.argv[1], int(sys.argv[2])
distributed.start_processes(address, 2, number)
if sys.argv[3] == "alone":
    distributed.FAILED_LEAVE_SECONDS = 1
seen = []

def fail(error, where):
    def function():
        if number == where:
            raise error
        return f"of {number}"
    return function

def attempt(decide, *arguments):
    try:
        seen.append(decide(*arguments))
    except (Exception, Preempted) as error:
        seen.append(f"{type(error).__name__}: {error}")

attempt(sync_errors, fail(UserError(), 2))
attempt(sync_errors, fail(UserError("no such " + "ü" * 3000), 1))
attempt(sync_errors, fail(KeyError("x"), 0))
attempt(sync_errors, fail(Preempted("SIGTERM"), 1))
attempt(broadcast_from_process_0, lambda: {"records": [0.1, None, "ü" * 1000]})
attempt(broadcast_from_process_0, lambda: None)
attempt(broadcast_from_process_0, fail(UserError("locked"), 0))
attempt(assert_equal_across_processes, "the images", "a")
attempt(assert_equal_across_processes, "the images", f"b{number}")
attempt(sync_errors, fail(UserError("caf\\udce9.jpg"), 1))
attempt(sync_errors, fail(OSError(13, "Permission denied", "/x"), 0))
attempt(sync_errors, fail(OSError(28, "No space left on device"), 1))
errors = DamagedCheckpointError("40 is damaged"), UserError("40 is of another model")
attempt(sync_errors, lambda: fail(errors[number], number)())
print(json.dumps(seen), file=sys.stderr)
print("result")
if sys.argv[3] == "together":
    sys.exit(distributed.leave(2))
if number == 1:
    print(distributed.prefix() + "error: alone", file=sys.stderr)
    sys.exit(distributed.leave(2))
try:
    sync_errors(lambda: None)
except RunError as error:
    print(f"RunError: {error}", file=sys.stderr)
sys.exit(distributed.leave(1))
"""


def start_scripts(code, ending):
    address = f"localhost:{free_port()}"
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, address, str(number), ending],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "XLA_FLAGS": ""},
        )
        for number in (0, 1)
    ]  # fmt: skip


def test_what_one_process_finds_wrong_all_refuse(ends_them):
    ends_them += start_scripts(AGREE, "together")
    results = [end(process) for process in ends_them]
    assert [code for code, *_ in results] == [2, 2], results
    assert [output for _, output, _ in results] == ["result\n", ""]
    first, second = (
        json.loads(next(line for line in errors.splitlines() if line.startswith('["of'))) for _, _, errors in results
    )
    assert (first.pop(0), second.pop(0)) == ("of 0", "of 1")
    assert first[0].startswith("UserError: process 1: no such üüü")
    assert second[0].startswith("UserError: no such üüü")
    assert (first[1], second[1]) == ("KeyError: 'x'", "RuntimeError: process 0: 'x'")
    assert first[2] == second[2] == "Preempted: SIGTERM"
    assert first[3] == second[3] == {"records": [0.1, None, "ü" * 1000]}
    assert first[4] is None
    assert second[4] is None
    assert (first[5], second[5]) == ("UserError: locked", "UserError: process 0: locked")
    assert first[6] is None
    assert first[7].startswith("UserError: process 1: the images are not those of process 0")
    assert second[7].startswith("UserError: the images are not those of process 0")
    assert first[8] == "UserError: process 1: caf\\udce9.jpg"
    assert second[8] == "UserError: caf\udce9.jpg"
    assert first[9] == "PermissionError: [Errno 13] Permission denied: '/x'"
    assert second[9] == "UserError: process 0: /x: Permission denied"
    assert first[10] == "RunError: process 1: No space left on device"
    # Where each has found something else, all do what the first one does.
    assert first[11] == "DamagedCheckpointError: 40 is damaged"
    assert second[11] == "DamagedCheckpointError: process 0: 40 is damaged"


@pytest.mark.slow
def test_process_that_fails_alone_tells_why_and_the_other_ends_too(ends_them):
    ends_them += start_scripts(AGREE, "alone")
    first, second = (end(process) for process in ends_them)
    assert second[0] == 2
    assert second[2].splitlines()[-1] == "process 1: error: alone"
    assert first[0] != 0
    # Mostly; where the coordinator's service is first, it ends the process itself.
    assert "RunError: another process has gone, or cannot be reached" in first[2] or first[0] < 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
def test_coordinator_listens_where_the_user_said_and_nowhere_else(ends_them):
    ends_them += start_scripts(LISTEN, "")
    results = [end(process) for process in ends_them]
    assert [code for code, *_ in results] == [0, 0], results
    addresses = set(json.loads(results[0][1]))
    assert addresses
    # 127.0.0.1, ::1 and ::ffff:127.0.0.1, as the kernel writes them
    assert addresses <= {"0100007F", "0" * 24 + "01000000", "0" * 16 + "FFFF00000100007F"}


LISTEN = """
import json, sys
from pathlib import Path
from resnet_jax.distributed import processes as distributed

address, number = sys.argv[1], int(sys.argv[2])
distributed.start_processes(address, 2, number)
port = f"{int(address.split(':')[1]):04X}"
rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
print(json.dumps([row[1].split(":")[0] for row in rows if row[3] == "0A" and row[1].split(":")[1] == port]))
sys.exit(distributed.leave(0))
"""


@pytest.mark.slow
def test_coordinator_that_nobody_reaches_is_told_in_a_line():
    code = (
        "import sys; from resnet_jax.cli.main import main; from resnet_jax.distributed import processes;"
        "processes.START_SECONDS = 1; sys.exit(main(['evaluate', '--workdir', 'x',"
        " '--coordinator', sys.argv[1], '--num_processes', '2', '--process_id', sys.argv[2]]))"
    )
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for number, message in (
            (
                0,
                f"process 0 cannot listen at localhost:{port}: Address already in use; choose another port",
            ),
            (1, f"process 1 did not reach localhost:{port} within 1 s: is process 0 running there?"),
        ):
            words = [sys.executable, "-c", code, f"localhost:{port}", str(number)]
            result = subprocess.run(words, capture_output=True, text=True, timeout=240)
            assert result.returncode == 2
            assert message in result.stderr.splitlines()[-1]
            assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--coordinator", "a:1"], "--num_processes and --process_id missing"),
        (["--num_processes", "2", "--process_id", "0"], "--coordinator missing"),
        (["--coordinator", "a", "--num_processes", "2", "--process_id", "0"], "--coordinator 'a' must be HOST:PORT"),
        (
            ["--coordinator", "a:0", "--num_processes", "2", "--process_id", "0"],
            "--coordinator 'a:0' must be HOST:PORT",
        ),
        (["--coordinator", "a:1", "--num_processes", "0", "--process_id", "0"], "--num_processes 0 must be at least 1"),
        (["--coordinator", "a:1", "--num_processes", "2", "--process_id", "2"], "--process_id 2 must be from 0 to 1"),
        (["--coordinator", "a:1", "--num_processes", "2", "--process_id", "x"], "invalid int value: 'x'"),
    ],
)
@pytest.mark.parametrize("command", [["train", "--config", "digits"], ["evaluate", "--workdir", "x"]])
def test_wrong_options_are_one_line(capsys, command, words, message):
    assert main([*command, *words]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert message in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        # The shell of an allocation of 4 tasks, in which no step runs; a step of one task in it; a step of 4.
        ({**SLURM, "SLURM_PROCID": "0"}, None),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "4"}, Processes(num_processes=4, detection="slurm")),
        (
            {
                **SLURM,
                "SLURM_STEP_NUM_TASKS": "5",
                "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
                "SLURM_NODEID": "1",
                "SLURM_LOCALID": "1",
            },
            Processes(num_processes=5, detection="slurm", local_rank=1, local_size=2),
        ),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:3"}, Processes(detection="ompi")),
        ({**OPEN_MPI, "JAX_COORDINATOR_ADDRESS": "a:1"}, Processes("a:1", 4, 3)),
        (
            {**OPEN_MPI, "JAX_COORDINATOR_ADDRESS": "a:1", **LOCAL},
            Processes("a:1", 4, 3, local_rank=1, local_size=2),
        ),
        # mpirun in an allocation of two nodes, whose daemons srun started
        (
            {**SLURM, "SLURM_STEP_NUM_TASKS": "2", **OPEN_MPI, "JAX_COORDINATOR_ADDRESS": "a:1"},
            Processes("a:1", 4, 3),
        ),
        (KUBERNETES, Processes("job-0.svc:8476", 4, 3)),
        ({**KUBERNETES, "JAX_NUM_PROCESSES": "1"}, None),
        ({"JOB_COMPLETION_INDEX": "3"}, None),  # an indexed Job of runs of their own
    ],
)
def test_environment_tells_whether_there_are_others(environment, expected):
    assert find_processes(None, None, None, environment) == expected
    assert find_processes("b:2", 2, 1, environment) == Processes("b:2", 2, 1)  # options come first
    assert find_processes(None, 1, None, environment) is None


@pytest.mark.parametrize(
    ("local", "num_gpus", "expected"),
    [
        ((0, 1), 8, [0, 1, 2, 3, 4, 5, 6, 7]),  # one task a host
        ((1, 2), 8, [4, 5, 6, 7]),
        ((5, 8), 8, [5]),
        ((1, 2), 1, [0]),  # --gpus-per-task=1
        ((1, 2), 0, None),
        ((0, 0), 8, None),  # nothing tells how many share the host
    ],
)
def test_a_hosts_gpus_are_divided_among_its_processes(local, num_gpus, expected):
    assert gpus_of(Processes(detection="slurm", local_rank=local[0], local_size=local[1]), num_gpus) == expected


def test_more_processes_than_gpus_are_refused():
    with pytest.raises(UserError, match="8 processes on this host see 4 GPUs: start at most one for each GPU"):
        gpus_of(Processes(detection="slurm", local_rank=1, local_size=8), 4)


def test_processes_of_other_versions_devices_and_flags_are_refused():
    facts = {**own_facts(), "programs": True}
    assert verdict([facts, facts]) == ("", True)
    assert verdict([facts, {**facts, "programs": False}]) == ("", False)
    for name, value in (("jax", "0.9.0"), ("devices", 7), ("code", "0"), ("XLA_FLAGS", "--xla_x=1"), ("new", 1)):
        message, _ = verdict([facts, facts, {**facts, name: value}])
        assert message.startswith(f"process 2 has {name} {value!r}, and process 0 ")


def start_two_of(words, name, values, ends_them):
    """Two processes, in whose environments one variable differs."""
    address = f"localhost:{free_port()}"
    for number, value in enumerate(values):
        options = ["--coordinator", address, "--num_processes", 2, "--process_id", number]
        ends_them.append(start(*words, *options, environment={**ONE["environment"], name: str(value)}))
    return [end(process) for process in ends_them]


def test_two_processes_of_other_flags_are_refused_in_a_line(tmp_path, ends_them):
    words = [*WORDS, "--config.num_steps=1", "--workdir", tmp_path / "run"]
    results = start_two_of(words, "JAX_DEFAULT_MATMUL_PRECISION", ("default", "highest"), ends_them)
    for number, (code, _, errors) in enumerate(results):
        assert code == 2, errors
        line = "process 1 has JAX_DEFAULT_MATMUL_PRECISION 'highest', and process 0 'default'"
        assert f"process {number}: error: {line}: start all processes with the same" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_programs_are_kept_if_all_processes_have_one_folder_for_them(tmp_path, ends_them):
    words = [*WORDS, "--config.num_steps=1", "--workdir", tmp_path / "run"]
    folders = (tmp_path / "one", tmp_path / "other")
    (code, _, errors), _ = start_two_of(words, "JAX_COMPILATION_CACHE_DIR", folders, ends_them)
    assert code == 0, errors
    assert "warning: compiled programs are not kept, as the processes' folders" in errors
    assert [*tmp_path.glob("o*/*-cache")] == []
    words[-1], ends_them[:] = tmp_path / "again", []
    (code, _, errors), _ = start_two_of(words, "JAX_COMPILATION_CACHE_DIR", (folders[0],) * 2, ends_them)
    assert (code, "compiled programs are not kept" in errors) == (0, False)
    assert [*folders[0].glob("*-cache")] != []
    assert [*folders[0].glob("probe-*")] == []


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (OPEN_MPI, "OMPI_COMM_WORLD_SIZE tells of several processes and JAX_COORDINATOR_ADDRESS is not set"),
        ({"JOB_COMPLETION_INDEX": "0", "JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS is not set"),
        ({**KUBERNETES, "JAX_NUM_PROCESSES": "four"}, "JAX_NUM_PROCESSES='four', which must be a whole number"),
        ({**KUBERNETES, "JOB_COMPLETION_INDEX": "4"}, "JOB_COMPLETION_INDEX 4 must be from 0 to 3"),
        ({**KUBERNETES, "JAX_COORDINATOR_ADDRESS": "job-0"}, "JAX_COORDINATOR_ADDRESS 'job-0' must be HOST:PORT"),
    ],
)
def test_environment_that_makes_no_sense_is_refused(environment, message):
    with pytest.raises(ValueError, match=message):
        find_processes(None, None, None, environment)


def test_jax_is_asked_what_a_cluster_tells(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *words, **more: calls.append((words, more)))
    monkeypatch.setattr(distributed, "_results_by_first_process", lambda: None)
    for name, value in {**SLURM, "SLURM_STEP_NUM_TASKS": "4"}.items():
        monkeypatch.setenv(name, value)
    before = jax.config.jax_enable_preemption_service
    try:
        assert distributed.start_processes(None, None, None)
    finally:
        jax.config.update("jax_enable_preemption_service", before)
    ((words, more),) = calls
    assert words == (None, 4, None, None)
    assert more["cluster_detection_method"] == "slurm"
    assert distributed.leave(75) == 75
    assert distributed.prefix() == ""


def test_process_that_is_alone_starts_nothing(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *words, **more: pytest.fail("it is alone"))
    assert not distributed.start_processes(None, None, None)
    assert not distributed.start_processes(None, 1, 0)


def test_the_first_pod_waits_for_its_own_name(monkeypatch):
    look_up, asked = socket.getaddrinfo, []

    def later(host, *arguments, **options):
        asked.append(host)
        if len(asked) < 3:
            raise socket.gaierror(-2, "Name or service not known")
        return look_up("localhost", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", later)
    monkeypatch.setattr("resnet_jax.distributed.addresses.time.sleep", lambda seconds: None)
    check_listening(f"pod-0.job:{free_port()}", patience=60.0)
    asked.clear()
    with pytest.raises(UserError, match="Name or service not known"):
        check_listening("pod-0.job:80")


def test_a_missing_accelerator_is_said(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert missing_accelerator("cpu") is None
    plugin = EntryPoint("cuda", "jax_cuda13_plugin", "jax_plugins")
    monkeypatch.setattr("resnet_jax.runtime.importlib.metadata.entry_points", lambda group: [plugin])
    assert missing_accelerator("cpu").startswith("no device of cuda is visible: all is computed on the CPU")
    assert missing_accelerator("gpu") is None
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert missing_accelerator("cpu") is None
