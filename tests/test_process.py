"""Checks the settings of a command for its process: the cache of compiled programs, and malloc."""

import os
import subprocess
import sys

import pytest

from resnet_jax.runtime import remove_oldest

CODE = "from resnet_jax.runtime import enable_compilation_cache; print(enable_compilation_cache())"


def cache_folder(home, code=CODE, **more):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    result = subprocess.run(
        [sys.executable, "-c", code], env={**environment, "RESNET_JAX_HOME": str(home), **more},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return result.stdout.strip()


def test_compiled_programs_are_kept_in_a_folder_of_the_users_alone(tmp_path):
    folder = cache_folder(tmp_path, f"{CODE}; import jax; jax.jit(lambda x: x + 1)(1.0)")
    assert folder.startswith(str(tmp_path / "compiled"))
    assert "jaxlib" in folder
    assert os.listdir(folder)
    assert os.stat(folder).st_mode & 0o777 == 0o700


def test_cache_can_be_switched_off_and_is_jaxs_own_where_that_is_set(tmp_path):
    assert cache_folder(tmp_path, RESNET_JAX_COMPILATION_CACHE="0") == "None"
    assert cache_folder(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own")) == "None"
    assert list(tmp_path.iterdir()) == []


def test_the_folder_that_a_program_has_given_jax_stays(tmp_path):
    own = str(tmp_path / "own")
    setting = f"import jax; jax.config.update('jax_compilation_cache_dir', {own!r})"
    assert cache_folder(tmp_path, f"{setting}; {CODE}; print(jax.config.jax_compilation_cache_dir)") == f"None\n{own}"
    twice = cache_folder(tmp_path, f"{CODE}; print(enable_compilation_cache())").splitlines()
    assert twice[0] == twice[1] != "None"


def test_folder_that_others_can_write_is_not_trusted(tmp_path):
    folder = cache_folder(tmp_path)
    os.chmod(folder, 0o777)
    assert cache_folder(tmp_path) == "None"


def test_the_oldest_programs_are_removed_where_all_are_too_large(tmp_path):
    for age, name in enumerate(("new/newest", "new/middle", "old/oldest")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    remove_oldest(tmp_path, 300)
    assert len([*tmp_path.glob("*/*")]) == 3
    remove_oldest(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["middle", "newest"]
    code = f"import resnet_jax.runtime as process; process.MOST_CACHED_BYTES = 0; {CODE}"
    cache_folder(tmp_path / "home", f"{CODE}; import jax; jax.jit(lambda x: x + 1)(1.0)")
    assert [*(tmp_path / "home/compiled").rglob("*-cache")]
    cache_folder(tmp_path / "home", code)
    assert not [*(tmp_path / "home/compiled").rglob("*-cache")]


def test_folder_that_vanishes_while_the_oldest_are_sought_is_no_error(tmp_path, monkeypatch):
    scandir = os.scandir

    def vanishing(path):
        if os.fspath(path) == str(tmp_path / "gone"):
            raise FileNotFoundError(path)
        return scandir(path)

    for name in ("gone", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(bytes(100))
    monkeypatch.setattr(os, "scandir", vanishing)
    remove_oldest(tmp_path, 0)
    monkeypatch.undo()
    assert [path.parent.name for path in tmp_path.glob("*/*")] == ["gone"]


def test_no_cache_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert cache_folder(tmp_path / "file") == "None"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_kept():
    code = (
        "from resnet_jax.runtime import keep_freed_memory; keep_freed_memory()\n"
        "import resource, ctypes\n"
        "def fill():\n    block = ctypes.create_string_buffer(2**27); ctypes.memset(block, 1, 2**27); del block\n"
        "fill(); before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "fill(); print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 1000  # 32,768 pages of 4 KiB otherwise


def test_a_run_compiles_few_programs(tmp_path):
    code = (
        "import jax, sys\n"
        "from jax import monitoring\n"
        "compiled = []\n"
        "def listen(event, seconds, **more):\n"
        "    if event.endswith('backend_compile_duration'): compiled.append(event)\n"
        "monitoring.register_event_duration_secs_listener(listen)\n"
        "from resnet_jax.cli.main import main\n"
        f"main(['train', '--config', 'digits', '--workdir', {str(tmp_path / 'run')!r}, '--config.num_steps=30',\n"
        "      '--config.model_args.stage_sizes=(1, 1)', '--config.validation_fraction=0.1'])\n"
        "print('compiled', len(compiled))"
    )
    environment = {**os.environ, "XLA_FLAGS": ""}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    # the initial state, the step, the evaluation, the check before saving, and a handful for keys and transfers
    assert int(result.stdout.split()[-1]) <= 12, result.stdout


def test_odd_images_and_letters_are_no_warnings_of_several_lines():
    code = (
        "import io, resnet_jax.runtime as process; from PIL import Image; "
        "from resnet_jax.plotting.figures import new_figure; process.prepare_process(); data = io.BytesIO(); "
        "Image.new('L', (40, 40)).save(data, 'PNG'); Image.MAX_IMAGE_PIXELS = 1000; Image.open(data); "
        "new_figure((1, 1), chr(0xe123)).savefig(io.BytesIO())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == ""
