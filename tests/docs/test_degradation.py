"""examples/degradation.py: which runs it makes, what stops it, and its picture."""

import degradation as example
import pytest
from degradation import PICTURE_FILE, degradation, draw_degradation

from resnet_jax.errors import UserError
from resnet_jax.training.loop import RunResult

LOG = [
    {"step": 1, "epoch": 0.5, "train_loss": 2.0, "train_accuracy": 0.25},
    {"step": 2, "epoch": 1.0, "train_accuracy": 0.5, "test_accuracy": 0.4},
]


@pytest.fixture
def trained(monkeypatch):
    """The (name, model, steps, workdir) of each run, which ends at once; those named in `interrupts` by a signal."""
    runs, interrupts = [], set()

    def train(options, workdir, name):
        runs.append((name, options.model.model, options.periods.num_steps, workdir))
        return RunResult(2, 2, LOG, "", "SIGTERM" if name in interrupts else "")

    monkeypatch.setattr(example, "train", train)
    return runs, interrupts


def test_plain_and_residual_networks_of_every_depth_are_trained_alike_and_drawn(trained, tmp_path):
    runs, _ = trained
    results = degradation("degradation", ["--config.num_steps=2"], (20, 56), tmp_path)
    names = ["plain20", "resnet20", "plain56", "resnet56"]
    assert runs == [(name, name, 2, tmp_path / name) for name in names]
    assert list(results) == names
    assert (tmp_path / PICTURE_FILE).read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_run_ends_the_series_without_a_picture(trained, tmp_path):
    runs, interrupts = trained
    interrupts.add("resnet20")
    results = degradation("degradation", [], (20, 56), tmp_path)
    assert [run[0] for run in runs] == list(results) == ["plain20", "resnet20"]
    assert not (tmp_path / PICTURE_FILE).exists()


@pytest.mark.parametrize(
    ("overrides", "depths", "message"),
    [
        ([], (20, 57), "model='plain57' must be one of"),
        (["--config.model=resnet20"], (20,), "--config.model is set by --depths"),
        (["--config.batch_size=0"], (20,), "batch_size"),
    ],
)
def test_bad_depths_and_fields_are_refused_before_anything_is_trained(trained, tmp_path, overrides, depths, message):
    runs, _ = trained
    with pytest.raises(UserError, match=message):
        degradation("degradation", overrides, depths, tmp_path)
    assert runs == []


def test_each_network_has_a_line_of_training_and_of_test_error(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(example, "save_figure", lambda figure, path: figures.append(figure))
    draw_degradation({"plain20": LOG, "resnet20": LOG}, tmp_path)
    for axes in figures[0].axes:
        lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
        assert lines == {"20 layers, training": [[0.5, 75.0], [1.0, 50.0]], "20 layers, test": [[1.0, 60.0]]}
