"""A run in a notebook shows one bar that moves, its lines on standard output, in a real kernel."""

import pytest
from processes import TINY

CODE = f"""
import resnet_jax
config = resnet_jax.load_config("digits", {[word for word in TINY if word.startswith("--config.")]!r})
config.num_epochs = 3
result = resnet_jax.train(config, "run")
"""


@pytest.mark.slow
def test_a_notebook_shows_a_bar_below_the_cell(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="comes with the extra 'docs'")
    nbclient = pytest.importorskip("nbclient", reason="comes with the extra 'docs'")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = notebook.cells[0].outputs
    (bar,) = [output for output in outputs if output.output_type == "display_data"]  # each update replaces the last
    assert '<progress value="60" max="60"' in bar.data["text/html"]
    assert "epoch 3/3  step 60/60" in bar.data["text/plain"]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert "epoch 3  step 60  test_loss" in printed
    assert "epoch 1/3" not in printed  # the bar says that
    assert not [output for output in outputs if output.get("name") == "stderr"]
