"""Checks that the files in launch/ fit the commands and the variables that `resnet_jax.distributed.detection` reads."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from resnet_jax.cli.exit_codes import EXIT_INTERRUPTED
from resnet_jax.cli.parser import make_parser
from resnet_jax.config import apply_overrides, load_config
from resnet_jax.distributed.detection import Processes, find_processes

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.s*"))
# Shows a job of this state, and otherwise prints how it was called.
SCONTROL = """case "$*" in
*show*) echo "JobId=7 JobName=resnet_jax UserId=ada(1000) JobState={state} Reason=None Requeue=1" ;;
*) echo scontrol "$@" ;;
esac
"""
# As of Slurm 22.05, with two tasks that have saved: the first one's 75 ends the other, unless srun is told not to.
SRUN = """case "$*" in
*--kill-on-bad-exit=0*) exit 75 ;;
*) exit 143 ;;
esac
"""


def write_program(path, code):
    """Writes a shell script that can be called."""
    path.write_text(f"#!/bin/sh\n{code}")
    path.chmod(0o755)


def run_slurm_script(folder, state, srun=SRUN):
    """(exit code, standard output) of launch/slurm.sbatch in a job of that state."""
    write_program(folder / "srun", srun)
    write_program(folder / "scontrol", SCONTROL.format(state=state))
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    result = subprocess.run(
        ["bash", LAUNCH / "slurm.sbatch"], env=environment, capture_output=True, text=True, check=False
    )
    return result.returncode, result.stdout


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((LAUNCH / "kubernetes_jobset.yaml").read_text())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_is_bash_and_hands_its_words_to_train(path, tmp_path):
    subprocess.run(["bash", "-n", path], check=True)
    # With python, srun and scontrol that only tell how they were called.
    for name, code in (("python", 75), ("srun", 75)):
        write_program(tmp_path / name, f'echo {name} "$@"\nexit {code}\n')
    write_program(tmp_path / "scontrol", SCONTROL.format(state="RUNNING"))
    words = ["--config", "digits", "--workdir", "a folder"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    result = subprocess.run(["bash", path, *words], env=environment, capture_output=True, text=True)
    assert result.returncode == EXIT_INTERRUPTED
    assert "python -m resnet_jax train --config digits --workdir a folder" in result.stdout
    assert ("scontrol requeue 7" in result.stdout) == (path.suffix == ".sbatch")


def test_slurm_job_whose_tasks_have_saved_is_requeued(tmp_path):
    assert run_slurm_script(tmp_path, "RUNNING") == (EXIT_INTERRUPTED, "scontrol requeue 7\n")


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "TIMEOUT", "PREEMPTED", "PENDING"])
def test_slurm_job_that_is_cancelled_or_over_does_not_come_back(tmp_path, state):
    assert run_slurm_script(tmp_path, state) == (EXIT_INTERRUPTED, "")


@pytest.mark.parametrize("code", [0, 1, 2, 134, 137])
def test_slurm_job_that_is_done_or_failed_is_not_requeued(tmp_path, code):
    assert run_slurm_script(tmp_path, "RUNNING", f"exit {code}\n") == (code, "")


def test_slurm_script_survives_a_signal_and_requeues_with_the_code_of_the_tasks(tmp_path):
    """Pre-emption signals the script as well as the tasks."""
    write_program(tmp_path / "srun", "trap 'sleep 0.3; exit 75' TERM\ntouch ready\nwhile :; do sleep 0.05; done\n")
    write_program(tmp_path / "scontrol", SCONTROL.format(state="RUNNING"))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    process = subprocess.Popen(
        ["bash", LAUNCH / "slurm.sbatch"], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == EXIT_INTERRUPTED
    assert output == "scontrol requeue 7\n"


def test_loop_that_the_scripts_tell_ends_where_the_run_does(tmp_path):
    for code, times in ((75, 3), (0, 1), (2, 1)):
        script = tmp_path / f"run-{code}"
        script.write_text(f"#!/bin/sh\necho run >> {tmp_path}/log-{code}\n"
                          f'test "$(wc -l < {tmp_path}/log-{code})" -ge 3 && exit 0\nexit {code}\n')  # fmt: skip
        script.chmod(0o755)
        for name in ("one_gpu.sh", "eight_gpus.sh"):
            (line,) = (line for line in (LAUNCH / name).read_text().splitlines() if line.startswith("#   until "))
            command, _, rest = line.removeprefix("#   until ").partition(";")
            assert command.startswith(f"launch/{name} --config imagenet --workdir")
            (tmp_path / f"log-{code}").unlink(missing_ok=True)
            subprocess.run(["bash", "-c", f"until {script};{rest}"], check=False)
            assert (tmp_path / f"log-{code}").read_text().count("run") == times


def test_there_are_scripts_for_one_gpu_eight_and_many_nodes():
    assert {path.name for path in SCRIPTS} == {"one_gpu.sh", "eight_gpus.sh", "slurm.sbatch"}


def test_slurm_warns_the_tasks_before_the_time_is_up():
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in (LAUNCH / "slurm.sbatch").read_text().splitlines()
        if line.startswith("#SBATCH")
    )
    assert options["signal"].startswith("TERM@")  # to the tasks; B:TERM@ would reach only the script
    assert "requeue" in options
    assert options["ntasks-per-node"] == options["gpus-per-node"] == "8"


def test_pods_of_the_jobset_find_each_other(jobset):
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert all(isinstance(value, str) for value in environment.values())
    host = f"{jobset['metadata']['name']}-{job['name']}-0-0.{jobset['spec']['network']['subdomain']}"
    port = container["ports"][0]["containerPort"]
    for index in range(spec["completions"]):
        found = find_processes(None, None, None, {**environment, "JOB_COMPLETION_INDEX": str(index)})
        assert found == Processes(f"{host}:{port}", spec["parallelism"], index)
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == 2
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"


def test_command_of_the_jobset_is_one_of_ours(jobset):
    (container,) = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    python, *words = [*container["command"], *container["args"]]
    assert [python, *words[:2]] == ["python", "-m", "resnet_jax"]
    arguments, overrides = make_parser().parse_known_args(words[2:])
    assert (arguments.command, arguments.workdir) == ("train", "/runs/imagenet")
    apply_overrides(load_config(arguments.config), overrides)


def test_jobset_starts_an_interrupted_run_again(jobset):
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": "train", "operator": "In", "values": [EXIT_INTERRUPTED]}
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy allows no other
    assert pod["terminationGracePeriodSeconds"] >= 60
    (restart,) = jobset["spec"]["failurePolicy"]["rules"]
    assert restart["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 8
