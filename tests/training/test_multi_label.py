"""A run on images of several labels: from drawn shapes to mean average precision, thresholds, reports, predictions."""

import csv
import json
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from resnet_jax.checkpoint.folder import open_best
from resnet_jax.cli.main import main
from resnet_jax.config import load_config, to_json
from resnet_jax.data.image_files import ImageFile
from resnet_jax.data.source import ArraySource
from resnet_jax.data.sources import Splits
from resnet_jax.distributed.mesh import make_mesh, replicated
from resnet_jax.errors import UserError
from resnet_jax.inference import evaluate as evaluate_module
from resnet_jax.inference import preview as preview_module
from resnet_jax.inference.predict import predict
from resnet_jax.inference.predictor import open_run, open_weights
from resnet_jax.preflight.dummy_data import dummy_data
from resnet_jax.preflight.memory import estimate_memory
from resnet_jax.training.evaluator import Evaluator
from resnet_jax.training.experiment import build_experiment, options_of
from resnet_jax.training.resume import check_run
from resnet_jax.training.run import train
from resnet_jax.weights.info import WeightsInfo

NAMES = ("bar", "cross", "disc", "ring", "comet")  # no image has the last
SIDE = 16
WORDS = [
    "model=resnet20", "model_args.stage_sizes=(1,1)", "model_args.num_filters=8", "loss=sigmoid", "batch_size=32",
    "image_size=16", "learning_rate=0.1", "nesterov=True", "schedule=step", "decay_epochs=(6.0,)", "num_epochs=8",
    "class_weights=(1.0,1.0,1.0,1.0,0.5)",
    "log_every_steps=10",
]  # fmt: skip


def shape(name, random):
    """Where a shape of 7 pixels lies, (SIDE, SIDE) bool."""
    y, x = np.mgrid[:7, :7] - 3
    radius = np.hypot(y, x)
    drawn = {
        "bar": abs(y) <= 1,
        "cross": abs(abs(y) - abs(x)) < 1,
        "disc": radius <= 3.2,
        "ring": abs(radius - 2.8) < 0.7,
    }
    top, left = random.randint(0, SIDE - 6, 2)
    placed = np.zeros((SIDE, SIDE), bool)
    placed[top : top + 7, left : left + 7] = drawn[name]
    return placed


def shapes(n, seed):
    """n images of two of the four shapes each, one over the other."""
    random = np.random.RandomState(seed)
    images, labels = random.randint(0, 60, (n, SIDE, SIDE, 3)), np.zeros((n, len(NAMES)), np.uint8)
    for image, label in zip(images, labels, strict=True):
        for k in random.choice(4, 2, replace=False):
            image[shape(NAMES[k], random)] = random.randint(140, 256, 3)
            label[k] = 1
    return ArraySource(images.astype(np.uint8), labels, NAMES)


SPLITS = Splits(shapes(768, 0), shapes(120, 1), shapes(120, 2))


def options(*words):
    return options_of(load_config("default", [f"--config.{word}" for word in (*WORDS, *words)]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("shapes") / "run"
    return workdir, train(options(), workdir, "run", SPLITS)


@pytest.fixture
def judged(run, monkeypatch):
    """The run's folder, and its test images where evaluate looks for them."""
    monkeypatch.setattr(evaluate_module, "load_judging_images", lambda *words: (SPLITS.test, "test", None))
    return run[0]


def test_mean_average_precision_of_two_shapes_in_an_image_rises_above_nine_tenths(run):
    workdir, result = run
    validations = [record for record in result.records if "val_map" in record]
    assert len(validations) == 8
    assert validations[0]["val_map"] < 0.8
    assert validations[-1]["val_map"] > 0.9
    assert validations[-1]["val_accuracy"] > 0.85  # of (image, label) pairs
    assert result.records[-1]["test_map"] > 0.9
    best = max(validations, key=lambda record: record["val_map"])
    (folder,) = (workdir / "best").iterdir()
    assert folder.name == str(best["step"])
    assert open_best(workdir).position(best["step"])["val_map"] == best["val_map"]
    assert (workdir / "curves.png").exists()


@pytest.mark.parametrize(
    ("metrics", "score"),
    [
        ({"loss": 1.0, "accuracy": 0.9, "map": 0.4}, 0.4),
        ({"loss": 1.0, "accuracy": 0.9, "map": 0.4, "ema_loss": 1.0, "ema_accuracy": 0.8, "ema_map": 0.3}, 0.3),
        ({"loss": 1.0, "accuracy": 0.9, "map": float("nan")}, -1.0),
        ({"loss": float("inf"), "accuracy": 0.9, "map": 0.4}, -1.0),
        ({"loss": 1.0, "accuracy": 0.9}, 0.9),
    ],
)
def test_best_is_chosen_by_mean_average_precision_where_there_is_one(metrics, score, monkeypatch):
    monkeypatch.setattr(Evaluator, "_evaluate", lambda *words: metrics)
    assert Evaluator.__new__(Evaluator).validate(1, lambda: None) == score


@pytest.mark.slow
def test_stopped_run_goes_on_to_the_same_end(run, tmp_path):
    train(options("num_steps=60"), tmp_path / "run", "run", SPLITS)
    again = train(options(), tmp_path / "run", "run", SPLITS)
    assert again.digest == run[1].digest


def test_evaluate_tells_each_label_at_a_threshold_and_reports_no_confusions(judged, tmp_path, capsys):
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.json").write_text("{}")
    (report / "confusion.png").write_bytes(b"of an earlier report")
    words = ["evaluate", "--workdir", str(judged), "--report", str(report)]
    assert main([*words, "--json"]) == 0
    output, errors = capsys.readouterr()
    result = json.loads(output)
    assert "no image has 1 of the 5 labels (comet): their average precision is undefined" in errors
    assert result["map"] > 0.9
    assert result["threshold"] == 0.5
    classes = {row["class"]: row for row in result["classes"]}
    assert result["map"] == pytest.approx(np.mean([classes[name]["average_precision"] for name in NAMES[:4]]))
    assert classes["comet"] == {
        "class": "comet", "count": 0, "average_precision": None, "precision": None, "recall": None, "f1": None
    }  # fmt: skip
    last = json.loads((judged / "metrics.jsonl").read_text().splitlines()[-1])
    assert result["map"] == pytest.approx(last["test_map"], abs=1e-6)
    assert result["accuracy"] == pytest.approx(last["test_accuracy"], abs=1e-6)
    assert {path.name for path in report.iterdir()} == {"report.json", "classes.csv", "average_precision.png"}
    with (report / "classes.csv").open(newline="") as file:
        assert [row["count"] for row in csv.DictReader(file)] == [str(row["count"]) for row in result["classes"]]
    assert main([*words, "--threshold", "0.9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("class "))
    assert lines[header].split() == ["class", "count", "average", "precision", "precision", "recall", "f1"]
    strict = json.loads((report / "report.json").read_text())
    assert all(one["recall"] <= classes[one["class"]]["recall"] for one in strict["classes"] if one["class"] != "comet")
    assert strict["map"] == result["map"]
    assert main([*words, "--threshold", "1.5"]) == 2
    assert "threshold=1.5 must be in (0, 1)" in capsys.readouterr().err


def test_images_of_one_label_and_several_are_not_taken_for_each_other(judged, monkeypatch, capsys):
    one = replace(SPLITS.test, labels=SPLITS.test.labels.argmax(axis=1).astype(np.int32))
    monkeypatch.setattr(evaluate_module, "load_judging_images", lambda *words: (one, "test", None))
    assert main(["evaluate", "--workdir", str(judged)]) == 2
    assert "the network is of several labels an image, and digits:test has one each" in capsys.readouterr().err


def test_predict_names_all_labels_above_the_threshold(run, tmp_path, capsys):
    workdir, _ = run
    for i, image in enumerate(SPLITS.test.images[:8]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    words = ["predict", str(tmp_path), "--workdir", str(workdir)]
    assert main([*words, "--json"]) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    right = 0
    for answer, label in zip(images, SPLITS.test.labels, strict=False):
        assert all(prediction["probability"] > 0.5 for prediction in answer["predictions"])
        right += {p["class"] for p in answer["predictions"]} == {NAMES[k] for k in np.flatnonzero(label)}
    assert right >= 4  # each is a pair of shapes
    assert main([*words, "--threshold", "0.0001", "--json"]) == 0
    many = json.loads(capsys.readouterr().out)["images"]
    assert sum(len(answer["predictions"]) for answer in many) > sum(len(answer["predictions"]) for answer in images)
    assert main([*words, "--threshold", "0.999999", "--top", "1", "--csv", "--to", str(tmp_path / "sheet.jpg")]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 8
    assert all(row["rank"] == "1" or row["class"] == "" for row in rows)
    assert main(["predict", str(tmp_path / "0.png"), "--workdir", str(workdir), "--threshold", "0.999999999"]) == 0
    assert "no label above the threshold" in capsys.readouterr().out
    assert main([*words, "--threshold", "0"]) == 2
    assert "threshold=0.0 must be in (0, 1)" in capsys.readouterr().err


def test_converted_weights_still_know_that_an_image_has_several_labels(run, tmp_path, capsys):
    Image.fromarray(SPLITS.test.images[0]).save(tmp_path / "0.png")
    for target in (tmp_path / "weights.safetensors", tmp_path / "weights"):
        assert main(["convert", "--from", str(run[0]), "--to", str(target)]) == 0
        capsys.readouterr()
        assert open_weights(target).multi_label
        assert (
            main(["predict", str(tmp_path / "0.png"), "--weights", str(target), "--threshold", "0.01", "--json"]) == 0
        )
        (answer,) = json.loads(capsys.readouterr().out)["images"]
        assert sum(one["probability"] for one in answer["predictions"]) > 1.2  # they are no shares of one
    assert '"multi_label"' not in WeightsInfo("resnet18").to_json()
    # Weights that do not tell are said to be so by the threshold.
    trained, files = open_weights(target), [ImageFile(str(tmp_path / "0.png"))]
    (told,), (untold,) = (
        list(predict(replace(trained, multi_label=known), files, threshold=0.2)) for known in (True, False)
    )
    np.testing.assert_array_equal(told.labels, untold.labels)


def test_threshold_of_a_network_of_one_label_is_refused(run):
    trained = replace(open_run(run[0]), multi_label=False)
    with pytest.raises(UserError, match=r"threshold=0.3 belongs to runs on images of several labels"):
        predict(trained, [], threshold=0.3)
    one = replace(SPLITS.test, labels=SPLITS.test.labels.argmax(axis=1).astype(np.int32))
    with pytest.raises(UserError, match=r"--threshold 0.3 belongs to images of several labels"):
        evaluate_module._evaluate(trained, one, "shapes", 24, 0.3, None)
    with pytest.raises(UserError, match=r"the run is of one label an image, and shapes has several each"):
        evaluate_module._evaluate(trained, SPLITS.test, "shapes", 24, None, None)


def test_preview_names_all_labels_of_an_image(tmp_path, monkeypatch):
    captions = []
    monkeypatch.setattr(preview_module, "load_images", lambda *words: SPLITS)
    monkeypatch.setattr(preview_module, "draw_sheet", lambda cells: captions.extend(c.lines[0].text for c in cells))
    monkeypatch.setattr(preview_module, "save_picture", lambda *words: None)
    preview_module.preview(options(), tmp_path / "a.png", split="test", num_images=3)
    expected = [" + ".join(NAMES[k] for k in np.flatnonzero(label)) for label in SPLITS.test.labels[:3]]
    assert captions == expected
    bare = replace(SPLITS, test=replace(SPLITS.test, labels=np.zeros_like(SPLITS.test.labels)))
    monkeypatch.setattr(preview_module, "load_images", lambda *words: bare)
    preview_module.preview(options(), tmp_path / "a.png", split="test", num_images=1)
    assert captions[3:] == ["no label"]
    preview_module.preview(options("augment.mixup=0.5"), tmp_path / "a.png", num_images=2)
    assert all(" + " in caption and "0." in caption for caption in captions[4:])


def test_memory_of_a_step_is_estimated_for_several_labels():
    made = build_experiment(options(), jax.devices()[:1], SPLITS)
    assert estimate_memory(made).activations > 0


def test_images_that_are_not_there_yet_need_no_weights_of_their_classes():
    missing = options_of(load_config("cifar10", ["--config.class_weights=balanced", "--config.batch_size=8"]))
    assert dummy_data(missing).class_weights == ()


def test_evaluation_is_the_same_on_any_number_of_devices(run):
    trained, results = open_run(run[0]), []
    for num_devices in (1, 2, 8):
        mesh = make_mesh(jax.devices()[:num_devices])
        one = replace(trained, mesh=mesh, load=partial(jax.device_put, trained.state, replicated(mesh)))
        result = evaluate_module._evaluate(one, SPLITS.test, "shapes", 32, None, None)  # 120 images fill no last batch
        results.append(result)
    for result in results[1:]:
        assert result["count"] == 120
        for key in ("loss", "map", "accuracy"):
            assert result[key] == pytest.approx(results[0][key], rel=1e-5)


def test_what_makes_no_sense_is_refused_by_field():
    with pytest.raises(UserError, match=r"config.loss='softmax' must be 'sigmoid' where an image may have several"):
        build_experiment(options("loss=softmax"), splits=SPLITS)
    with pytest.raises(UserError, match=r"config.sampling='balanced' needs images of one label each"):
        build_experiment(options("sampling=balanced"), splits=SPLITS)
    with pytest.raises(UserError, match=r"config.class_weights=\(1.0, 2.0\) must be 5 numbers, one a class"):
        build_experiment(options("class_weights=(1.0, 2.0)"), splits=SPLITS)
    with pytest.raises(
        UserError, match=r"config.class_weights='balanced' needs a training image of every class.*comet"
    ):
        build_experiment(options("class_weights=balanced"), splits=SPLITS)
    one = replace(SPLITS.test, labels=SPLITS.test.labels.argmax(axis=1).astype(np.int32))
    with pytest.raises(UserError, match="the training images have several labels each and the test images one label"):
        build_experiment(options(), splits=Splits(SPLITS.train, SPLITS.validation, one))
    bare = replace(SPLITS.test, labels=np.zeros_like(SPLITS.test.labels))
    with pytest.raises(UserError, match="not one validation image has a label"):
        build_experiment(options(), splits=Splits(SPLITS.train, bare, None))
    for text in ("ballanced", "(1.0, 0.0)", "()"):
        with pytest.raises(UserError, match=r"config.class_weights=.* must be 'none', 'balanced' or positive numbers"):
            options(f"class_weights={text}")


def test_head_alone_is_trained_on_features_with_all_labels(run, tmp_path):
    words = [f"finetune.weights={run[0]}", "finetune.head=replace", "finetune.trainable=head", "num_epochs=2"]
    words.append("decay_epochs=(1.0,)")
    result = train(options(*words), tmp_path / "head", "head", SPLITS)
    assert result.records[-1]["test_map"] > 0.8


def test_runs_begun_before_these_fields_were_there_continue(tmp_path):
    config = load_config("digits")
    values = json.loads(to_json(config))
    for field in ("class_weights", "sampling", "validation_split"):
        del values[field]
    (tmp_path / "config.json").write_text(json.dumps(values))
    check_run(tmp_path, options_of(config))
    with pytest.raises(UserError, match=r"config.sampling is 'shuffle' there and 'balanced' here"):
        check_run(tmp_path, options_of(load_config("digits", ["--config.sampling=balanced"])))
    weighted = options_of(load_config("digits", ["--config.class_weights=(1,1,1,1,1,1,1,1,1,2)"]))
    (tmp_path / "config.json").write_text(weighted.written)
    check_run(tmp_path, weighted)
