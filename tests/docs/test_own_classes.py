"""The notebook that fine-tunes a published network, on a small one from a hub on this machine."""

import subprocess
import sys

import pytest
from hub_server import Server, environment, published
from pages import ROOT

from resnet_jax.weights.safetensors_file import write_safetensors

NAME = "test_resnet.r160_in1k"


@pytest.mark.slow
def test_notebook_of_own_classes_does_what_it_says(tmp_path):
    configs, tensors = published("timm-test_resnet")
    write_safetensors(tmp_path / "model.safetensors", tensors, {})
    server = Server()
    server.files[f"timm/{NAME}"] = {
        **configs,
        "model.safetensors": (tmp_path / "model.safetensors").read_bytes(),
    }
    draw = [sys.executable, ROOT / "examples" / "draw_shapes.py", "shapes", "--num_images", "120"]
    subprocess.run(draw, cwd=tmp_path, check=True, capture_output=True)
    try:
        result = subprocess.run(
            [sys.executable, ROOT / "tests" / "pages.py", "--word_for_word", ROOT / "docs" / "own_classes.ipynb"],
            env={**environment(server, tmp_path / "cache"), "NETWORK": NAME, "MPLBACKEND": "Agg"},
            cwd=tmp_path, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert result.returncode == 0, result.stderr
    assert server.requests.count("GET model.safetensors") == 1
    assert (tmp_path / "own.safetensors").exists()
