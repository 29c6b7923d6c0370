"""Windows, simulated: the commands without the modules and signals that it lacks. No Windows has run them."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from processes import TINY, records

from resnet_jax.filesystem import _LOCKED_BYTE


@pytest.mark.slow
def test_a_run_trains_resumes_evaluates_and_predicts_without_what_windows_lacks(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    (tmp_path / "used").mkdir()
    train = " ".join([*TINY, "--config.warmup_epochs=0", "--config.schedule=constant", "--workdir"])
    words = (
        f"{train} run --config.num_steps=10 then {train} run --config.num_steps=20 then evaluate --workdir run then "
        f"predict image.png --workdir run then doctor --config digits --workdir new then {train} used"
    )
    with (tmp_path / "used" / ".lock").open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX, 1, _LOCKED_BYTE)  # as msvcrt.locking does it there
        result = subprocess.run(
            [sys.executable, Path(__file__).with_name("like_windows.py"), *words.split()],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            # Nor is text UTF-8 there unless one says so: here it is ASCII.
            env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        )  # fmt: skip
    assert "exit codes: 0 0 0 0 0 2" in result.stdout, result.stderr
    assert "continuing run after step 10" in result.stderr
    assert "workdir used is in use by another run" in result.stderr
    assert max(record["step"] for record in records(tmp_path / "run")) == 20
    assert "Traceback" not in result.stderr
