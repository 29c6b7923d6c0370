"""The doctor: each check finds the fault that is really made, tells its remedy, and changes nothing."""

import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from commands import refused
from PIL import Image

from resnet_jax import runtime as machine
from resnet_jax.checkpoint.folder import CheckpointFolder
from resnet_jax.cli.main import main
from resnet_jax.config import load_config, to_json
from resnet_jax.data.tfds import requirements as tfds_needs
from resnet_jax.data.tfds.requirements import prepared_sets
from resnet_jax.errors import UserError
from resnet_jax.models import create_model, variable_shapes
from resnet_jax.ops import onednn
from resnet_jax.preflight import devices, folders, packages, space
from resnet_jax.preflight import doctor as examination
from resnet_jax.preflight.doctor import examine
from resnet_jax.preflight.finding import ERROR, OK, WARNING, Finding, checked
from resnet_jax.preflight.finding import refused as refusal
from resnet_jax.training import resume
from resnet_jax.training.experiment import options_of
from resnet_jax.training.workdir import lock_workdir
from resnet_jax.weights import save_weights

TINY = ["--config.model_args.stage_sizes=(1,)", "--config.model_args.num_filters=4"]


def findings(config_name, *words, workdir):
    """By subject, the last finding on it."""
    return {one.subject: one for one in examine(options_of(load_config(config_name, [*TINY, *words])), workdir)}


@pytest.fixture
def digits(tmp_path):
    return lambda *words: findings("digits", *words, workdir=tmp_path / "runs/digits")


def test_doctor_of_a_sound_config_finds_no_error_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--config", "digits"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("error") for line in lines)
    assert any(line.split() == ["ok", "batch", "64", "images,", "8", "on", "each", "device"] for line in lines)
    assert any("1,293 training, 144 validation, 360 test images of 10 classes (0, 1, 2, 3, 4, …)" in x for x in lines)
    assert any("runs/digits holds no run yet" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_doctor_without_a_config_tells_of_the_machine_and_the_sets(capsys):
    assert main(["doctor", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    subjects = [check["subject"] for check in result["checks"]]
    assert subjects[:2] == ["python", "packages"]
    assert {"jax", "devices", "compiled", "home", "digits", "tfds"} <= set(subjects)
    assert result["errors"] == 0


def test_bad_config_and_options_without_one_are_told_in_a_line(capsys):
    assert "did you mean 'digits'" in refused(capsys, "doctor", "--config", "digit")
    assert "config.batch_size=-8 must be positive" in refused(
        capsys, "doctor", "--config", "digits", "--config.batch_size=-8"
    )
    assert "give --config as well" in refused(capsys, "doctor", "--workdir", "x")
    for command in ("doctor", "train"):
        assert "a path is empty" in refused(capsys, command, "--config", "digits", "--workdir", "")


def test_batch_that_the_devices_cannot_share_is_an_error_with_the_next_size(capsys, tmp_path):
    words = ["doctor", "--config", "digits", "--config.batch_size=60", "--workdir", str(tmp_path / "run")]
    assert main([*words, "--json"]) == 2
    result = json.loads(capsys.readouterr().out)
    errors = [check for check in result["checks"] if check["status"] == "error"]
    assert result["errors"] == len(errors) == 1
    assert errors[0]["subject"] == "batch"
    assert errors[0]["remedy"] == "--config.batch_size=64"


def test_config_that_makes_no_network_is_an_error_as_train_tells_it(digits):
    assert digits("--config.dtype=float64")["config"] == Finding(
        ERROR, "config", "dtype='float64' needs 64-bit jax", "set the environment variable JAX_ENABLE_X64=1"
    )
    assert "model='resnt20' is not known" in digits("--config.model=resnt20")["config"].found


# --- packages ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def versions(monkeypatch):
    """Has importlib.metadata tell these versions; None: not installed."""
    real = importlib.metadata.version
    faked = {}

    def version(name):
        if name in faked and faked[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return faked.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return faked


def test_packages_out_of_range_or_absent_are_told_with_what_to_install(versions, monkeypatch):
    needed = ["flax>=0.12", "optax>=0.2.8", "onednn-cpu-gomp==2023.2.*", "numpy>=2.0", 'pytest>=8; extra == "test"']
    monkeypatch.setattr(packages, "declaration", lambda: (">=3.11", needed))
    versions.update({"flax": "0.11.0", "optax": None, "onednn-cpu-gomp": None, "numpy": "2.1", "pytest": "1.0"})
    python, *found = packages.check_packages()
    assert python.status == OK
    assert found == [
        Finding(OK, "packages", "1 of 4 declared ones installed and in range"),
        Finding(ERROR, "packages", "flax 0.11.0 is not >=0.12", "pip install 'flax>=0.12'"),
        Finding(ERROR, "packages", "optax is not installed", "pip install 'optax>=0.2.8'"),
        Finding(
            WARNING,
            "packages",
            "onednn-cpu-gomp is not installed, which only fast convolutions on a CPU need",
            "pip install 'onednn-cpu-gomp==2023.2.*'",
        ),
    ]


@pytest.mark.parametrize(
    ("system", "machine", "status", "how"),
    [
        ("Linux", "x86_64", OK, "every change is tested there"),
        ("Windows", "AMD64", WARNING, "simulated on Linux"),
        ("Darwin", "arm64", WARNING, "nothing has been run"),
        ("Plan 9", "mips", WARNING, "never tried"),
    ],
)
def test_system_is_named_with_how_it_is_tested(monkeypatch, system, machine, status, how):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    (found,) = packages.check_system()
    assert found.status == status
    assert found.found.startswith(f"{system} on {machine}: ")
    assert how in found.found


def test_python_out_of_range_is_an_error(monkeypatch):
    monkeypatch.setattr(packages, "declaration", lambda: (">=4.0", []))
    assert next(packages.check_packages()).status == ERROR


def test_checkout_that_is_not_installed_tells_its_needs_by_its_pyproject(monkeypatch, tmp_path):
    def metadata(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", metadata)
    pythons, needed = packages.declaration()
    assert pythons.startswith(">=3.")
    assert any(line.startswith("flax>=") for line in needed)
    monkeypatch.setattr(packages, "PYPROJECT", tmp_path / "pyproject.toml")
    assert packages.declaration() is None
    assert [one.status for one in packages.check_packages()] == [OK, WARNING]


def test_jaxlib_and_plugins_that_do_not_go_with_jax_are_errors(versions):
    assert [one.status for one in packages.check_jax()] == [OK]
    versions["jax-cuda12-plugin"] = "0.1.0"
    assert [one.status for one in packages.check_jax()] == [OK, ERROR]
    versions["jaxlib"] = "0.1.0"
    assert [one.status for one in packages.check_jax()] == [ERROR]


@pytest.mark.parametrize("missing", ["ml_collections", "jax"])
def test_package_that_cannot_be_imported_leaves_the_others_told(missing):
    code = f"import runpy, sys; sys.modules[{missing!r}] = None; runpy.run_module('resnet_jax', run_name='__main__')"
    words = [sys.executable, "-c", code, "doctor", "--config", "digits"]
    result = subprocess.run(words, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].split()[:2] == ["ok", "python"]
    assert lines[-1].startswith("error    import ")
    assert missing in lines[-1]


def test_other_commands_name_the_doctor_where_jax_is_missing():
    code = "import runpy, sys; sys.modules['jax'] = None; runpy.run_module('resnet_jax', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code, "list"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith("python -m resnet_jax doctor, which lists what to install\n")
    assert result.stderr.count("\n") == 1


def test_train_py_too_is_refused_in_a_line_where_jax_is_missing():
    code = "import runpy, sys; sys.modules['jax'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    words = [sys.executable, "-c", code, Path(__file__).parents[2] / "train.py", "--config", "digits"]
    result = subprocess.run(words, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


# --- devices ----------------------------------------------------------------------------------------------------------


def test_gpu_that_jax_does_not_see_is_a_warning_with_the_reason(monkeypatch):
    monkeypatch.setattr(devices, "has_nvidia_gpu", lambda: True)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    hidden = next(one for one in devices.check_devices() if one.subject == "gpu")
    assert (hidden.status, hidden.remedy) == (WARNING, "unset JAX_PLATFORMS, which is cpu")
    monkeypatch.delenv("JAX_PLATFORMS")
    absent = next(one for one in devices.check_devices() if one.subject == "gpu")
    assert absent.remedy.startswith("pip install 'resnet-family-jax[cuda13]'")
    monkeypatch.setattr(devices, "has_nvidia_gpu", lambda: False)
    assert not any(one.subject == "gpu" for one in devices.check_devices())


def test_devices_that_jax_does_not_find_end_the_checks_that_need_them(monkeypatch, digits):
    def none():
        raise AssertionError

    monkeypatch.setattr(devices.jax, "devices", none)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    found = digits()
    assert found["devices"].status == ERROR
    assert found["devices"].remedy == "unset JAX_PLATFORMS, which is tpu"
    assert "memory" not in found
    assert found["data"].status == OK


def test_slow_convolutions_are_a_warning_where_the_fast_ones_could_be(monkeypatch):
    monkeypatch.setattr(onednn, "available", lambda: False)
    monkeypatch.setattr(devices.platform, "system", lambda: "Linux")
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    assert next(one for one in devices.check_devices() if one.subject == "convolutions").status == WARNING
    monkeypatch.setattr(devices.platform, "machine", lambda: "aarch64")
    assert next(one for one in devices.check_devices() if one.subject == "convolutions").status == OK


def test_memory_and_cores_are_those_that_a_container_leaves(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    assert machine.free_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    1000 kB\n")
    assert machine.free_memory() == 1_024_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert machine.free_memory() == 1_024_000
    (tmp_path / "memory.max").write_text("5000\n")
    assert machine.free_memory() == 4000
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.num_cores() == 0.5


# --- images -----------------------------------------------------------------------------------------------------------


def test_set_that_is_not_prepared_is_told_with_where_its_archive_goes(monkeypatch, tmp_path):
    pytest.importorskip("tensorflow_datasets", reason="it is not installed")
    words = [f"--config.data_dir={tmp_path / 'data'}"]
    manual = tmp_path / "data/downloads/manual"
    one = findings("cifar10", *words, workdir=tmp_path / "run")["data"]
    assert (one.status, one.found) == (WARNING, f"cifar10 is not prepared in {tmp_path / 'data'}")
    assert one.remedy.endswith(f"without a network put cifar-10-binary.tar.gz into {manual}")
    disk = findings("cifar10", *words, workdir=tmp_path / "run")["disk"].found
    assert disk.endswith(" KiB; the images, which are yet to be prepared, are not counted")
    found = findings("imagenet", *words, workdir=tmp_path / "run")
    assert found["data"].status == ERROR
    assert f"put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar into {manual}" in found["data"].remedy
    assert "of 1000 classes" in found["config"].found
    # How long the run would be is not known, and no warm-up too long for it.
    assert findings("cifar10", *words, "--config.warmup_steps=500", workdir=tmp_path / "run")["config"].status == OK
    monkeypatch.setattr(tfds_needs, "find_spec", lambda name: None)
    without = findings("cifar10", *words, workdir=tmp_path / "run")["data"]
    assert without.status == ERROR
    assert without.remedy.startswith("pip install 'resnet-family-jax[prepare]'")
    assert list(tmp_path.iterdir()) == []


def test_unknown_set_is_told_as_train_does(tmp_path):
    found = findings("digits", "--config.dataset=digit", workdir=tmp_path / "run")
    assert found["data"].status == ERROR
    assert "did you mean 'digits'" in found["data"].remedy


def test_prepared_sets_are_those_that_can_be_read(tmp_path):
    for place, content in (
        ("cifar10/3.0.2", '{"fileFormat": "array_record"}'),
        ("mnist/3.0.1", '{"fileFormat": "tfrecord"}'),
        ("imagenet_v2/topimages/3.0.0", '{"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}'),
        ("caltech101/3.0.1", '{"fileFormat": "riegeli"}'),
        ("broken/1.0.0", "{"),
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "dataset_info.json").write_text(content)
    assert prepared_sets(str(tmp_path)) == ["cifar10:3.0.2", "imagenet_v2/topimages:3.0.0", "mnist:3.0.1"]


def test_folder_is_judged_by_its_classes_and_a_decoded_image(tmp_path):
    root, words = tmp_path / "pets", ["--config.batch_size=8", "--config.validation_fraction=0.0"]
    absent = findings("folder", workdir=tmp_path / "run")["data"]
    assert (absent.status, absent.remedy) == (ERROR, "--config.data_dir=DIR, of DIR/<class>/<image>")
    words.append(f"--config.data_dir={root}")
    assert findings("folder", *words, workdir=tmp_path / "run")["data"].status == ERROR
    (root / "cat").mkdir(parents=True)
    assert "holds no images in class folders" in findings("folder", *words, workdir=tmp_path / "run")["data"].found
    for name in ("cat", "dog"):
        (root / name).mkdir(exist_ok=True)
        for i in range(8):
            Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(root / name / f"{i}.jpg")
    found = findings("folder", *words, workdir=tmp_path / "run")
    assert found["data"].found == f"{root}: 16 training images of 2 classes (cat, dog)"
    assert found["sample"].found == f"{root}/cat/0.jpg decoded, cropped to 224x224"
    assert found["validation"].status == WARNING
    (root / "cat/0.jpg").write_bytes((root / "cat/0.jpg").read_bytes()[:300])
    damaged = {one.status for one in examine(options_of(load_config("folder", [*TINY, *words])), tmp_path / "run")}
    assert ERROR in damaged


def test_weights_to_begin_from_must_be_there_and_of_the_network(digits, tmp_path):
    def found(*words):
        return digits(f"--config.finetune.weights={path}", *words)["weights"]

    path = tmp_path / "r20.safetensors"
    assert found() == Finding(
        ERROR, "weights", f"{path} does not exist", "give the path of a torch or safetensors file"
    )
    model = create_model("resnet20", stage_sizes=(1,), num_filters=4)
    save_weights(path, model, jax.tree.map(lambda array: np.zeros(array.shape, array.dtype), variable_shapes(model)))
    assert found().status == OK
    assert found("--config.model_args.num_filters=8").status == ERROR
    unprepared = found(f"--config.data_dir={tmp_path / 'data'}", "--config.dataset=cifar10")
    num_tensors = 3 + 3 * 4 + 2  # convolutions, norms, head
    assert unprepared.found == f"{path} can be read, and holds {num_tensors} tensors"


def test_classes_without_validation_images_are_a_warning(digits):
    found = digits("--config.validation_fraction=0.002")["classes"]
    assert found.status == WARNING
    assert found.found.startswith("no validation image of ")
    assert "classes" not in digits()


# --- space and folders ------------------------------------------------------------------------------------------------


def test_disk_must_hold_all_checkpoints_and_the_log(digits, monkeypatch):
    # By hand, in test_memory.py: 3,864 bytes a checkpoint; two newest, the best and one being written; 60 records.
    needed = 4 * 3864 + 60 * 1024
    for free, status in ((needed, OK), (needed - 1, ERROR)):
        monkeypatch.setattr(space.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        disk = digits()["disk"]
        assert disk.status == status
        assert "4 checkpoints of 3.8 KiB, the log 60.0 KiB" in disk.found


def test_memory_that_is_too_small_is_a_warning_with_the_fields_to_change(digits, monkeypatch):
    monkeypatch.setattr(space, "free_memory", lambda: 1000)
    assert digits()["memory"].status == WARNING
    assert "config.batch_size=64" in digits()["memory"].remedy
    monkeypatch.setattr(space, "free_memory", lambda: 2**40)
    assert digits()["memory"].status == OK
    monkeypatch.setattr(space, "free_memory", lambda: None)
    assert digits()["memory"].found.endswith("how much is free is not told")


def test_workdir_of_another_run_one_in_use_and_one_that_is_closed_are_errors(digits, tmp_path, monkeypatch):
    workdir = tmp_path / "runs/digits"
    workdir.mkdir(parents=True)
    assert digits()["workdir"].status == OK
    with lock_workdir(workdir):
        assert "is in use by another run" in digits()["workdir"].found
    (workdir / "config.json").write_text('{"seed": 5}')
    assert "holds another run" in digits()["workdir"].found
    shutil.rmtree(workdir)
    monkeypatch.setattr("resnet_jax.training.workdir.os.access", lambda path, mode: False)  # root may write anywhere
    assert digits()["workdir"].found == f"workdir {workdir} cannot be written to"


def test_workdir_tells_whether_the_run_goes_on_is_finished_or_past_the_end(digits, tmp_path, monkeypatch):
    words = ["--config.num_steps=20", "--config.warmup_epochs=0.0"]
    (tmp_path / "runs/digits/checkpoints/20").mkdir(parents=True)
    (tmp_path / "runs/digits/config.json").write_text(to_json(load_config("digits", [*TINY, *words])))
    damaged = digits(*words)["workdir"]
    assert (damaged.status, damaged.found) == (
        ERROR,
        f"{tmp_path}/runs/digits/checkpoints/20 is damaged: it has no manifest.json, and no other in "
        f"{tmp_path}/runs/digits is whole, and train would end",
    )
    assert (
        damaged.remedy
        == f"bring one back from a copy, choose another --workdir, or remove {tmp_path}/runs/digits to begin anew"
    )
    for name in ("check", "position"):  # as if it were whole
        monkeypatch.setattr(CheckpointFolder, name, lambda *arguments: None)
    monkeypatch.setattr(resume, "check_images", lambda *arguments: None)
    assert digits(*words)["workdir"].found.endswith("holds this run, which is finished")
    longer = digits("--config.num_steps=30", "--config.warmup_epochs=0.0")["workdir"]
    assert longer.found.endswith("holds this run, which goes on after step 20")
    shorter = digits("--config.num_steps=10", "--config.warmup_epochs=0.0")["workdir"]
    assert (shorter.status, shorter.found) == (
        ERROR, f"workdir {tmp_path}/runs/digits is at step 20, past the config's 10"
    )  # fmt: skip
    assert shorter.remedy.startswith("set config.num_epochs or config.num_steps higher")
    (tmp_path / "runs/digits/damaged").mkdir()
    (tmp_path / "runs/digits/checkpoints/20").rename(tmp_path / "runs/digits/damaged/checkpoints-20")
    quarantined = digits(*words)["workdir"]
    assert quarantined.status == ERROR
    assert quarantined.remedy == damaged.remedy


def test_cache_of_compiled_programs_is_told_with_its_faults(monkeypatch, tmp_path):
    def found():
        return next(one for one in examine(None, None) if one.subject == "compiled")

    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    assert found().found == f"0 files, 0 bytes, kept in {tmp_path / 'home/compiled'}"
    folder = next((tmp_path / "home/compiled").iterdir())
    (folder / "program").write_bytes(bytes(2048))
    assert "1 files, 2.0 KiB" in found().found
    folder.chmod(0o777)
    assert (found().status, found().remedy) == (WARNING, f"chmod go-w {folder}")
    monkeypatch.setenv("RESNET_JAX_COMPILATION_CACHE", "0")
    assert found().found == "programs are not kept: RESNET_JAX_COMPILATION_CACHE=0"
    monkeypatch.delenv("RESNET_JAX_COMPILATION_CACHE")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "file"))
    assert found().status == WARNING
    assert next(one for one in examine(None, None) if one.subject == "home").status == WARNING
    monkeypatch.setenv("RESNET_JAX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(folders, "cache_fault", lambda folder: "/x cannot be made: Read-only file system")
    home = next(one for one in examine(None, None) if one.subject == "home")
    assert home.found == "/x cannot be made: Read-only file system: downloaded weights are not kept"


def test_check_that_fails_unforeseen_is_an_error_among_the_others(monkeypatch):
    def broken():
        raise RuntimeError("of a kind\nthat nobody foresaw")

    monkeypatch.setattr(examination, "check_home", broken)
    found = {one.subject: one for one in examine(None, None)}
    assert found["home"].status == ERROR
    assert found["home"].found == "could not be checked (RuntimeError: of a kind)"
    assert found["tfds"].status == OK


def test_refusal_is_split_into_what_was_found_and_what_to_do():
    assert refusal("x", UserError("a is b: c; do d")) == Finding(ERROR, "x", "a is b: c", "do d")
    assert refusal("x", UserError("a is b"), "do d") == Finding(ERROR, "x", "a is b", "do d")
    assert [one.status for one in checked("x", lambda: [Finding(OK, "x", "y")])] == [OK]
