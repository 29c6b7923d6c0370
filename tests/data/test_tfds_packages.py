"""Checks that nothing but TFDS's sets imports, or needs, the packages of TFDS."""

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import TINY

from resnet_jax.data.tfds.builder import PACKAGES, import_for_tfds
from resnet_jax.errors import UserError
from resnet_jax.preflight.packages import DISPENSABLE

# Not needed to train on the digits or on a folder, to evaluate that and to predict with it.
NEEDLESS = sorted({*PACKAGES, "tensorflow", "torch", "onnx", "onnxruntime", "contextlib2"})
WITHOUT = f"""
import importlib.metadata, sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {NEEDLESS} else super().find_spec(name, path, target)

def files(name):  # oneDNN is no module: its library is looked for among its distribution's files
    if name.startswith("onednn"):
        raise importlib.metadata.PackageNotFoundError(name)
    return real_files(name)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
real_files, importlib.metadata.files = importlib.metadata.files, files
"""
COMMANDS = f"""
import sys
from resnet_jax.cli.main import main

for words in {{commands}}:
    assert main(words) == 0, words
print(sorted({{{{*{NEEDLESS}}}}} & {{{{*sys.modules}}}}))
"""


@pytest.fixture
def commands(tmp_path):
    """Trains on the digits and on a folder of images, evaluates both, predicts with one."""
    for i in range(16):
        path = tmp_path / "images" / ("train" if i < 8 else "val") / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.RandomState(i).randint(0, 255, (40, 48, 3), np.uint8)).save(path)
    digits, folder = str(tmp_path / "digits"), str(tmp_path / "folder")
    short = ["--config.num_steps=1", "--config.warmup_epochs=0"]
    of_folder = ["--config.dataset=folder", f"--config.data_dir={tmp_path / 'images'}", "--config.batch_size=8"]
    return [
        [*TINY, *short, "--workdir", digits],
        ["evaluate", "--workdir", digits],
        [*TINY, *short, *of_folder, "--config.validation_fraction=0.0", "--workdir", folder],
        ["evaluate", "--workdir", folder],
        ["predict", "--workdir", folder, str(tmp_path / "images/val/a/8.jpg")],
    ]


def run_code(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("", id="where all is installed", marks=pytest.mark.slow),
        pytest.param(WITHOUT, id="where none of it is"),
    ],
)
def test_digits_and_folders_need_nothing_of_tfds_tensorflow_torch_or_onnx(commands, before):
    result = run_code(before + COMMANDS.format(commands=commands))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


def test_set_of_tfds_without_it_is_told_with_what_to_install():
    commands = [["train", "--workdir", "x"], ["train", "--dry_run"], ["doctor"]]
    code = (
        f"from resnet_jax.cli.main import main\nprint([main([*words, '--config', 'cifar10']) for words in {commands}])"
    )
    result = run_code(f"{WITHOUT}\n{code}")
    assert result.stdout.splitlines()[-1] == "[2, 2, 2]", result.stderr
    lines = [line for line in (result.stdout + result.stderr).splitlines() if "dataset='cifar10'" in line]
    assert len(lines) == len(commands)
    for line in lines:
        assert line.startswith("error")
        assert line.endswith("pip install tensorflow-datasets importlib-resources array-record google-crc32c")


def test_misspelt_folder_needs_no_tfds(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"^dataset='foldr' must be one of .*; did you mean 'folder'"):
        import_for_tfds("tensorflow_datasets", "foldr")


def test_only_what_is_missing_is_named(monkeypatch):
    pytest.importorskip("tensorflow_datasets", reason="it is not installed")
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(UserError, match=r"^dataset='mnist' .*google_crc32c.*: pip install google-crc32c$"):
        import_for_tfds("google_crc32c", "mnist")


def test_what_a_module_of_tfds_imports_is_installed_with_its_package(monkeypatch, tmp_path):
    (tmp_path / "google_crc32c.py").write_text("import no_such_module_of_its_own")
    monkeypatch.delitem(sys.modules, "google_crc32c", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"no_such_module_of_its_own.*pip install .*google-crc32c$"):
        import_for_tfds("google_crc32c", "mnist")


def test_doctor_knows_what_can_be_done_without():
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert set(DISPENSABLE) == {"onednn-cpu-gomp", *PACKAGES.values()}
    declared = pyproject["project"]["dependencies"]
    assert all(any(line.startswith(name) for line in declared) for name in DISPENSABLE)
