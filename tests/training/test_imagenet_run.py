"""ImageNet through the real TFDS builder, from small tars to an evaluated run, without TensorFlow in training."""

from pathlib import Path

import imagenet_archive
import numpy as np
import pytest
from processes import records, run, without_tensorflow

from resnet_jax.data.options import DatasetOptions
from resnet_jax.data.sources import load_splits
from resnet_jax.data.tfds import records as tfds
from resnet_jax.data.tfds.prepare import manual_dir
from resnet_jax.weights.class_names import imagenet_wordnet_ids

pytest.importorskip("tensorflow", reason="preparing TFDS data needs the extra 'prepare'")

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet-sample"
NUM_VALIDATION = 11


@pytest.fixture(scope="module", params=["random", "real"])
def data_dir(request, tmp_path_factory):
    if request.param == "real":
        images = [path.read_bytes() for path in sorted(SAMPLE.glob("*.JPEG"))[:40]]
        if not images:
            pytest.skip("the ImageNet sample, ../shared/data/imagenet-sample, is not here")
    else:
        images = imagenet_archive.random_jpegs(40)
    train = {f"{imagenet_wordnet_ids()[i % 5 * 200]}_{i}.JPEG": image for i, image in enumerate(images)}
    folder = tmp_path_factory.mktemp("imagenet")
    imagenet_archive.write(manual_dir(str(folder)), train, images[:NUM_VALIDATION])
    load_splits("imagenet2012", DatasetOptions(str(folder)))  # prepares it
    return folder


def test_splits_have_the_labels_of_the_wordnet_ids(data_dir):
    splits = load_splits("imagenet2012", DatasetOptions(str(data_dir)))
    assert (len(splits.train), len(splits.validation), splits.test) == (40, NUM_VALIDATION, None)
    assert splits.train.class_names == imagenet_wordnet_ids()
    assert sorted(set(splits.train.read(np.arange(40)).label.tolist())) == [0, 200, 400, 600, 800]


@pytest.mark.slow
def test_resnet50_trains_and_evaluates_every_image_once_without_tensorflow(data_dir, tmp_path):
    code, output, errors = run(
        "train", "--config", "imagenet", f"--config.data_dir={data_dir}", "--workdir", tmp_path / "run",
        "--config.model_args.stage_sizes=(1,1)", "--config.model_args.num_filters=8",
        "--config.image_size=32", "--config.resize=36",
        "--config.batch_size=4", "--config.num_steps=3", "--config.log_every_steps=1", "--config.learning_rate=0.001",
        environment={"PYTHONPATH": without_tensorflow(tmp_path)},
    )  # fmt: skip
    assert code == 0, errors
    log = records(tmp_path / "run")
    assert [record["step"] for record in log] == [1, 2, 3, 3]
    assert (log[-1]["val_count"], "test_count" in log[-1]) == (NUM_VALIDATION, False)
    assert "best val accuracy" in output


def test_test_images_without_labels_are_left_out(data_dir, monkeypatch):
    def open_records(name, split, folder):
        if split == "test":
            raise tfds.NoLabelsError("label -1")
        return open_all(name, split, folder)

    open_all = tfds.open_records
    monkeypatch.setattr(tfds, "split_names", lambda name, folder: ("test", "train", "validation"))
    monkeypatch.setattr(tfds, "open_records", open_records)
    splits = load_splits("imagenet2012", DatasetOptions(str(data_dir)))
    assert (len(splits.validation), splits.test) == (NUM_VALIDATION, None)
