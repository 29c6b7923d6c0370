"""Checks evaluate's numbers beyond loss and accuracy against hand-computed ones, and the report that it writes."""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from PIL import Image
from state_dicts import SMALL, small

from resnet_jax import save_weights
from resnet_jax.cli.main import main
from resnet_jax.data.transforms.preprocess import Preprocess
from resnet_jax.distributed.mesh import make_mesh, replicated
from resnet_jax.distributed.preemption import PreemptionGuard
from resnet_jax.inference import report as report_module
from resnet_jax.inference.classification_metrics import ClassificationMetrics
from resnet_jax.inference.evaluate import evaluate_weights
from resnet_jax.inference.report_figures import _largest_in, _short, draw_calibration, draw_confusion
from resnet_jax.plotting import figures
from resnet_jax.plotting.contact_sheet import READABLE, draw_sheet
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.train_step import eval_step, per_example_eval_step
from resnet_jax.weights.info import WeightsInfo

# Its logits are the images' first row, whose channels are the same.
STATE = SimpleNamespace(apply_fn=lambda variables, images, train: images[:, 0, :, 0], variables={})
LOGITS = np.log(
    [
        [0.7, 0.1, 0.2],  # right, first
        [0.2, 0.5, 0.3],  # label 2: wrong, second
        [0.4, 0.4, 0.2],  # label 0: right, as the earlier of two
        [0.4, 0.4, 0.2],  # label 1: wrong, the later of two
        [0.1, 0.3, 0.6],  # masked
    ]
).astype(np.float32)
LABELS, MASK = np.array([0, 2, 0, 1, 2], np.int32), np.array([1, 1, 1, 1, 0], np.float32)
NAMES = ("ant", "bee", "cat")


def as_images(logits):
    return jnp.repeat(jnp.asarray(logits)[:, None, :, None], 3, axis=-1)  # (B, 1, K, 3)


def classification(label, predicted, confidence, names=NAMES, rank=None):
    label, predicted = np.array(label, np.int32), np.array(predicted, np.int32)
    rank = (label != predicted).astype(np.int32) if rank is None else np.array(rank, np.int32)
    confidence = np.array(confidence, np.float32)
    return ClassificationMetrics(np.arange(len(label)), label, predicted, confidence, rank, -np.log(confidence), names)


def test_each_row_is_judged_and_the_sums_are_those_of_eval_step():
    batch = {"image": as_images(LOGITS), "label": LABELS, "mask": MASK}
    judged = per_example_eval_step(STATE, batch)
    rows = judged.pop("rows")
    for name, value in eval_step(STATE, batch).items():
        assert judged[name] == value
    assert (int(judged["correct"]), int(judged["count"])) == (2, 4)
    assert rows["predicted"].tolist() == [0, 1, 0, 0, 2]
    assert rows["rank"].tolist() == [0, 1, 0, 1, 0]
    assert rows["counted"].tolist() == [True, True, True, True, False]
    np.testing.assert_allclose(rows["confidence"], [0.7, 0.5, 0.4, 0.4, 0.6], rtol=1e-6)
    np.testing.assert_allclose(rows["loss"], -np.log([0.7, 0.3, 0.4, 0.4, 0.6]), rtol=1e-6)


def test_views_are_averaged_before_a_row_is_judged():
    views = jnp.stack([as_images(LOGITS), as_images(np.zeros_like(LOGITS))], axis=1)
    rows = per_example_eval_step(STATE, {"image": views, "label": LABELS})["rows"]
    half = np.sqrt([0.7, 0.1, 0.2])
    assert float(rows["confidence"][0]) == pytest.approx(half[0] / half.sum(), rel=1e-5)
    assert rows["counted"].all()


@pytest.mark.parametrize(("batch_size", "num_devices"), [(5, 1), (2, 1), (4, 4), (8, 8)])
def test_rows_of_padded_and_sharded_batches_are_every_image_once_in_order(batch_size, num_devices):
    mesh = make_mesh(jax.devices()[:num_devices])
    random = np.random.RandomState(0)
    logits, labels = random.normal(size=(13, 3)).astype(np.float32), random.randint(0, 3, 13).astype(np.int32)
    bad = 6  # as if it could not be read

    class Batches:
        def __len__(self):
            return -(-13 // batch_size)

        def __getitem__(self, position):
            places = position * batch_size + np.arange(batch_size)
            within = np.minimum(places, 12)
            mask = (places < 13) & (within != bad)
            return {"image": np.asarray(as_images(logits))[within], "label": labels[within], "mask": mask * 1.0}

    rows = []
    judge_fn = jax.jit(lambda state, batch: per_example_eval_step(STATE, batch), out_shardings=replicated(mesh))
    result = evaluate(judge_fn, 0, Batches(), mesh, PreemptionGuard(1), rows.append)
    judged = ClassificationMetrics.of_rows(rows, NAMES)
    assert result["count"] == 12
    assert judged.index.tolist() == [i for i in range(13) if i != bad]
    np.testing.assert_array_equal(judged.label, labels[judged.index])
    np.testing.assert_array_equal(judged.predicted, logits[judged.index].argmax(axis=1))
    assert np.mean(judged.rank == 0) == pytest.approx(result["accuracy"])


def test_calibration_error_is_the_gap_in_each_bin_weighted_by_its_images():
    # Bins are a fifteenth wide: 0.9 and 0.92 are in (13/15, 14/15], 1.0 in the last, 0.375 in (5/15, 6/15].
    judged = classification([0, 1, 1, 2], [0, 0, 1, 2], [0.9, 0.92, 1.0, 0.375])
    filled = {round(15 * bin["to"]): bin for bin in judged.calibration if bin["count"]}
    assert {place: bin["count"] for place, bin in filled.items()} == {14: 2, 15: 1, 6: 1}
    assert filled[14]["confidence"] == pytest.approx(0.91)
    assert filled[14]["accuracy"] == 0.5
    assert judged.calibration_error == pytest.approx((2 * abs(0.91 - 0.5) + 0 + (1 - 0.375)) / 4)


def test_classes_tell_recall_precision_and_what_they_are_taken_for():
    names = ("ant", "bee", "cat", "dog")
    judged = classification([0, 0, 0, 0, 1, 1, 2], [0, 0, 1, 2, 1, 2, 1], [0.5] * 7, names)
    ant, bee, cat, dog = judged.classes()
    assert ant == {"class": "ant", "count": 4, "correct": 2, "accuracy": 0.5, "precision": 1.0, "confusion": "bee"}
    assert (bee["accuracy"], bee["precision"], bee["confusion"]) == (0.5, pytest.approx(1 / 3), "cat")
    assert (cat["accuracy"], cat["precision"], cat["confusion"]) == (0.0, 0.0, "bee")
    assert dog == {"class": "dog", "count": 0, "correct": 0, "accuracy": None, "precision": None, "confusion": None}
    assert judged.confusion.tolist() == [[2, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    more = classification([2, 2, 0, 1, 1], [1, 1, 1, 0, 1], [0.5] * 5)
    assert more.confused_pairs() == [(2, 1, 2), (0, 1, 1), (1, 0, 1)]


def test_mistakes_are_the_most_confident_first():
    judged = classification([0, 0, 1, 1, 2], [1, 0, 0, 2, 0], [0.5, 0.99, 0.9, 0.7, 0.9])
    assert judged.mistakes(10).tolist() == [2, 4, 3, 0]
    assert judged.mistakes(2).tolist() == [2, 4]


def test_top5_accuracy_counts_ranks_below_five_and_needs_more_classes_than_that():
    six = tuple("abcdef")
    assert classification([0, 1, 2, 3], [0, 0, 0, 0], [0.5] * 4, six, rank=[0, 4, 5, 1]).top5_accuracy == 0.75
    assert classification([0], [0], [0.5], six[:5]).top5_accuracy is None
    assert "top5_accuracy" not in classification([0], [0], [0.5]).summary({"loss": 1.0, "accuracy": 1.0, "count": 1})


def test_a_single_confusion_is_seen_in_a_matrix_that_is_drawn_in_blocks():
    shares = np.zeros((1000, 1000))
    shares[777, 3] = 0.25
    drawn = _largest_in(shares, 4)
    assert drawn.shape == (250, 250)
    assert np.argwhere(drawn == 0.25).tolist() == [[194, 0]]
    assert _largest_in(np.eye(7), 2).shape == (4, 4)


@pytest.mark.parametrize("num_classes", [2, 30, 300])
def test_figures_are_drawn_of_any_number_of_classes(tmp_path, num_classes):
    names = tuple(f"$\\frac{{\n {i} is the number of a class with a long name$" for i in range(num_classes))
    right = classification([0, 1], [0, 1], [0.9, 1.0], names)
    wrong = classification([0, 1, 1], [1, 0, 1], [0.9, 1.0, 0.2], names)
    pictures = []
    for i, judged in enumerate((right, wrong)):
        for draw in (draw_confusion, draw_calibration):
            draw(judged, tmp_path / f"{i}.png", "title")
            pictures.append(np.array(Image.open(tmp_path / f"{i}.png").convert("L")))
    assert np.any(pictures[0] != pictures[2])
    assert np.any(pictures[1] != pictures[3])
    assert all(picture[0, 0] == 255 for picture in pictures)
    assert all((picture < 128).any() for picture in pictures)


def test_class_names_stay_on_one_line_in_figures():
    assert _short("a\nb\tc", 22) == "a?b?c"


@pytest.mark.parametrize("there", [True, False])
def test_letters_that_the_font_lacks_are_drawn_by_one_that_is_there(tmp_path, monkeypatch, there):
    monkeypatch.setattr(figures, "FALLBACK_FAMILIES", ("Nobody's", *["STIXGeneral"] * there))
    figure = figures.new_figure((2, 2), "\u2a58")
    monkeypatch.setattr(type(figure), "savefig", lambda self, path, **_: path.write_bytes(b""))
    figures.save_figure(figure, tmp_path / "x.png")
    families = figure._suptitle.get_fontfamily()
    assert families == [*matplotlib.rcParams["font.family"], *["STIXGeneral"] * there]


@pytest.fixture(scope="module")
def network():
    """A network of five classes for images of 16 pixels, and its variables, drawn in one program."""
    model = small()
    images = np.zeros((1, 16, 16, 3), np.float32)
    return model, jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))


@pytest.fixture
def weights(network, tmp_path):
    """Its weights, and eleven images in four of its classes, some of which it gets wrong."""
    names = ("ant", "bee", "cat", "dog", "eel")
    info = WeightsInfo("resnet18", dict(SMALL), names, Preprocess(20, 16, "bilinear", (0.5,) * 3, (0.3,) * 3))
    save_weights(tmp_path / "w.safetensors", *network, info=info)
    folder, random = tmp_path / "data", np.random.RandomState(0)
    for i in range(11):
        path = folder / names[i % 4] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.randint(0, 256, (24, 30, 3), np.uint8)).save(path)
    return tmp_path / "w.safetensors", folder


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_report_holds_what_is_printed_and_what_lies_behind_it(weights, tmp_path, capsys):
    source, folder = weights
    report = tmp_path / "new" / "report"
    words = ["evaluate", "--weights", str(source), "--data", str(folder), "--batch_size", "4", "--report", str(report)]
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"] == str(report)
    assert [row["class"] for row in printed["classes"]] == ["ant", "bee", "cat", "dog", "eel"]
    assert [row["count"] for row in printed["classes"]] == [3, 3, 3, 2, 0]
    assert printed["classes"][4]["accuracy"] is None
    assert 0.0 <= printed["calibration_error"] <= 1.0
    assert "top5_accuracy" not in printed

    stored = json.loads((report / "report.json").read_text())
    for key in ("loss", "accuracy", "count", "calibration_error", "weights", "data"):
        assert stored[key] == printed[key]
    assert [row["accuracy"] for row in stored["classes"]] == [row["accuracy"] for row in printed["classes"]]
    classes, confusion = rows(report / "classes.csv"), rows(report / "confusion.csv")
    assert [row["class"] for row in classes] == [row["class"] for row in printed["classes"]]
    num_right = sum(int(row["correct"]) for row in classes)
    assert num_right / 11 == pytest.approx(printed["accuracy"])
    assert sum(int(row[row["class"]]) for row in confusion) == num_right
    assert sum(int(row[name]) for row in confusion for name in row if name != "class") == 11

    assert len(stored["mistakes"]) == 11 - num_right > 0
    worst = stored["mistakes"][0]
    assert worst["image"].startswith(str(folder / worst["class"]))
    assert worst["confidence"] == max(mistake["confidence"] for mistake in stored["mistakes"])
    preprocess = Preprocess(20, 16, "bilinear", (0.5,) * 3, (0.3,) * 3)
    top = 2 * READABLE.line + READABLE.gap  # below the title
    sheet = np.array(Image.open(report / "mistakes.png"))[top : top + 224 : 14, READABLE.gap : READABLE.gap + 224 : 14]
    np.testing.assert_array_equal(sheet, preprocess.pixels(Image.open(worst["image"])))
    assert {path.name for path in report.iterdir()} == {
        "calibration.png", "classes.csv", "confusion.csv", "confusion.png", "mistakes.csv", "mistakes.png",
        "report.json",
    }  # fmt: skip
    listed = [{**row, "confidence": float(row["confidence"])} for row in rows(report / "mistakes.csv")]
    assert listed == stored["mistakes"]

    # The same with ten views, of which the sheet shows the centre; files are replaced.
    evaluate_weights(source, str(folder), batch_size=8, ten_crop=True, report=report)
    stored = json.loads((report / "report.json").read_text())
    sheet = np.array(Image.open(report / "mistakes.png"))[top : top + 224 : 14, READABLE.gap : READABLE.gap + 224 : 14]
    np.testing.assert_array_equal(sheet, preprocess.pixels(Image.open(stored["mistakes"][0]["image"])))


def test_mistakes_are_captioned_by_file_class_and_prediction(weights, tmp_path, monkeypatch):
    source, folder = weights
    drawn = []
    monkeypatch.setattr(
        report_module, "draw_sheet", lambda cells, *more: drawn.extend(cells) or draw_sheet(cells, *more)
    )
    evaluate_weights(source, str(folder), batch_size=8, report=tmp_path / "report")
    mistakes = json.loads((tmp_path / "report/report.json").read_text())["mistakes"]
    assert [[line.text for line in cell.lines] for cell in drawn] == [
        [Path(one["image"]).name, f"class: {one['class']}", f"predicted: {one['predicted']}"] for one in mistakes
    ]
    assert drawn[0].lines[2].right == f"{100 * mistakes[0]['confidence']:.0f} %"


def test_a_table_tells_each_of_few_classes_and_a_line_where_to_find_many(weights, capsys):
    source, folder = weights
    assert main(["evaluate", "--weights", str(source), "--data", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("class "))
    assert lines[header].split() == ["class", "count", "accuracy", "precision"]
    assert [line.split()[:2] for line in lines[header + 1 :]] == [
        ["ant", "3"], ["bee", "3"], ["cat", "3"], ["dog", "2"], ["eel", "0"]
    ]  # fmt: skip
    assert any(line.startswith("calibration error") and line.endswith(" %") for line in lines[:header])


def test_report_that_cannot_be_written_is_refused_before_images_are_read(weights, tmp_path, capsys):
    source, folder = weights
    (tmp_path / "file").write_text("")
    for image in folder.rglob("*.png"):
        image.write_bytes(b"no image")
    for target, reason in (("file", "it is a file; give the name of a folder"), ("file/report", "Not a directory")):
        words = ["evaluate", "--weights", str(source), "--data", str(folder), "--report", str(tmp_path / target)]
        assert main(words) == 2
        assert capsys.readouterr().err == f"error: {tmp_path / target} cannot be written into: {reason}\n"
    assert (tmp_path / "file").read_text() == ""
    assert main([*words[:-1], str(tmp_path / "new")]) == 2
    assert "cannot be read as an image" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/mistakes.png").write_bytes(b"foreign")
    assert main([*words[:-1], str(tmp_path / "photos")]) == 2
    assert capsys.readouterr().err == (
        f"error: --report {tmp_path}/photos holds other files and no report.json: name a new or an empty folder\n"
    )


def test_judging_rows_leaves_loss_and_accuracy_as_they_were(network, weights):
    source, folder = weights
    result = evaluate_weights(source, str(folder), batch_size=8)
    preprocess = Preprocess(20, 16, "bilinear", (0.5,) * 3, (0.3,) * 3)
    model, variables = network
    paths = sorted(folder.rglob("*.png"))
    inputs = np.stack([preprocess(Image.open(path)) for path in paths])
    logits = np.asarray(jax.jit(lambda x: model.apply(variables, x, train=False))(inputs), np.float64)
    labels = np.array([("ant", "bee", "cat", "dog").index(path.parent.name) for path in paths])
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(11), labels]
    assert result["loss"] == pytest.approx(losses.mean(), rel=1e-4)
    assert result["accuracy"] == np.mean(logits.argmax(axis=1) == labels)
    confidence = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).max(axis=1)
    bins = [math.ceil(15 * value) for value in confidence]
    right = logits.argmax(axis=1) == labels
    gaps = [abs(np.sum((confidence - right)[np.array(bins) == place])) for place in set(bins)]
    assert result["calibration_error"] == pytest.approx(sum(gaps) / 11, rel=1e-4)
