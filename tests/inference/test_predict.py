"""The predict command: what it says of which images, in which form, with how many programs."""

import csv
import io
import json
import os
import shutil
import sys
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image
from processes import TINY
from state_dicts import SMALL, small

import resnet_jax.inference.predict as prediction
from resnet_jax import save_weights
from resnet_jax.cli.main import main
from resnet_jax.cli.parser import parse
from resnet_jax.cli.predict import _cell
from resnet_jax.config import load_config
from resnet_jax.data.decoding import BadImageError
from resnet_jax.data.image_files import ImageFile, find_images
from resnet_jax.data.sources import load_digits
from resnet_jax.data.transforms.adjustment import Adjustment
from resnet_jax.data.transforms.preprocess import PREPROCESS, Preprocess
from resnet_jax.errors import UserError
from resnet_jax.inference.evaluate import evaluate_run
from resnet_jax.inference.gradcam import explain, overlay
from resnet_jax.inference.predict import Failure, _num_rows, predict
from resnet_jax.inference.predictor import open_run, open_weights, restore_run
from resnet_jax.plotting.contact_sheet import READABLE
from resnet_jax.training.experiment import options_of
from resnet_jax.training.run import train
from resnet_jax.weights.info import WeightsInfo

NAMES = ("ant", "bee", "cat", "dog", "eel")
CROP = Preprocess(24, 16, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
COMPILED = "/jax/core/compile/backend_compile_duration"


def initialized(model):
    """Its variables, drawn in one program."""
    return jax.jit(lambda key: model.init(key, np.zeros((1, 16, 16, 3), np.float32), train=False))(jax.random.key(1))


@pytest.fixture(scope="module")
def network():
    """A small network and its variables."""
    model = small()
    return model, initialized(model)


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    """Its weights as a file that tells all."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    info = WeightsInfo("resnet18", dict(SMALL), NAMES, CROP, "test")
    save_weights(path, *network, info=info)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven images of different sizes, five of them here, one below, one hidden."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.RandomState(0)
    (folder / "below").mkdir()
    for i, name in enumerate(["b.png", "a.PNG", "c.bmp", "below/d.png", "e.webp", "f.ppm", ".hidden.png"]):
        image = Image.fromarray(random.randint(0, 256, (30 + i, 40 - i, 3), np.uint8))
        image.save(folder / name, **({"lossless": True} if name.endswith("webp") else {}))
    (folder / "notes.txt").write_text("no image")
    return folder


@partial(jax.jit, static_argnums=0)
def logits_of(model, variables, inputs):
    return model.apply(variables, inputs, train=False)


def probabilities(network, paths, preprocess=CROP):
    """By the plain way: each image by itself."""
    model, variables = network
    inputs = np.stack([preprocess(Image.open(path)) for path in paths])
    return np.asarray(jax.nn.softmax(logits_of(model, variables, inputs)))


def run(capsys, *words):
    """(exit code, standard output, standard error) of the command."""
    code = main(["predict", *map(str, words)])
    return code, *capsys.readouterr()


def give(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_classes_are_the_networks_and_the_most_probable_come_first(network, weights, folder, capsys):
    paths = [folder / name for name in ("a.PNG", "b.png")]
    expected = probabilities(network, paths)
    code, output, errors = run(capsys, *paths, "--weights", weights, "--json", "--top", 3)
    assert (code, errors) == (0, "")
    result = json.loads(output)
    assert (result["model"], result["weights"], result["failed"]) == ("resnet18", str(weights), [])
    assert [image["file"] for image in result["images"]] == [str(path) for path in paths]
    for image, row in zip(result["images"], expected, strict=True):
        labels = np.argsort(-row)[:3].tolist()
        assert [prediction["label"] for prediction in image["predictions"]] == labels
        assert [prediction["class"] for prediction in image["predictions"]] == [NAMES[label] for label in labels]
        shares = [prediction["probability"] for prediction in image["predictions"]]
        assert shares == pytest.approx(row[labels].tolist(), rel=1e-4)


def test_text_and_csv_say_the_same(network, weights, folder, capsys):
    path = folder / "b.png"
    row = probabilities(network, [path])[0]
    order = np.argsort(-row)
    code, output, errors = run(capsys, path, "--weights", weights, "--top", 99)  # more than there are
    assert (code, errors) == (0, "")
    assert output.splitlines() == [str(path), *(f"  {100 * row[k]:6.2f} %  {NAMES[k]}" for k in order)]
    code, output, _ = run(capsys, path, "--weights", weights, "--csv", "--top", 2)
    header, *rows = csv.reader(io.StringIO(output))
    assert header == ["file", "rank", "label", "class", "probability"]
    assert [cells[:4] for cells in rows] == [[str(path), str(i + 1), str(k), NAMES[k]] for i, k in enumerate(order[:2])]
    assert [float(cells[4]) for cells in rows] == pytest.approx(row[order[:2]].tolist(), rel=1e-4)


def test_flip_averages_the_logits_of_image_and_mirror(network, weights, folder, tmp_path, capsys):
    model, variables = network
    pixels = CROP.pixels(Image.open(folder / "b.png"))
    Image.fromarray(pixels).save(tmp_path / "16.png")
    Image.fromarray(pixels[:, ::-1]).save(tmp_path / "mirror.png")
    whole = Preprocess(None, None, "bilinear", CROP.mean, CROP.std)
    inputs = np.stack([whole(Image.open(tmp_path / name)) for name in ("16.png", "mirror.png")])
    logits = np.asarray(logits_of(model, variables, inputs))
    expected = np.asarray(jax.nn.softmax(logits.mean(axis=0)))
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    output = run(capsys, folder / "b.png", "--weights", weights, "--json", "--flip")[1]
    predictions = json.loads(output)["images"][0]["predictions"]
    assert {p["label"]: p["probability"] for p in predictions} == pytest.approx(dict(enumerate(expected)), rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"flip": True, "gradcam": True}])
def test_the_network_is_compiled_once_whatever_the_number_of_images(weights, folder, options):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **more: compiled.append(more["fun_name"]) if event == COMPILED else None
    )
    trained = open_weights(weights)
    image = ImageFile("b.png", (folder / "b.png").read_bytes())
    assert trained.state.variables  # read, and on the devices
    for count in (1, 5, 33, 70):
        compiled.clear()
        results = list(predict(trained, [image] * count, batch_size=32, **options))
        assert compiled == ["jit(predict_step)"]
        assert len(results) == count
        first = results[0].probabilities
        assert all(np.allclose(result.probabilities, first, rtol=1e-5) for result in results)


@pytest.mark.parametrize(
    ("num_images", "batch_size", "num_devices", "num_rows"),
    [(1, 32, 1, 1), (5, 32, 1, 8), (17, 32, 1, 32), (33, 32, 1, 32), (7, 6, 1, 6), (3, 32, 8, 8), (99, 12, 8, 16)],
)
def test_few_images_are_padded_to_a_power_of_two_and_all_to_the_devices(num_images, batch_size, num_devices, num_rows):
    assert _num_rows(num_images, batch_size, num_devices) == num_rows


def test_batches_and_bad_images_change_no_answer_and_no_order(network, weights, folder):
    trained = open_weights(weights)
    good = find_images([str(folder)], bytes)
    bad = [ImageFile("bad", b"\xff\xd8\xff\xe0 damaged"), ImageFile(str(folder / "nothing.png"))]
    images = [bad[0], *good, *bad, *good, bad[1]] * 2
    alone = dict(
        zip([image.name for image in good], probabilities(network, [image.name for image in good]), strict=True)
    )
    for batch_size in (8, 9):
        results = list(predict(trained, images, batch_size=batch_size))
        assert [result.file for result in results] == [image.name for image in images]
        assert [isinstance(result, Failure) for result in results] == [image in bad for image in images]
        for result in results:
            if not isinstance(result, Failure):
                np.testing.assert_allclose(result.probabilities, alone[result.file][result.labels], rtol=1e-4)


def test_bad_images_are_told_as_they_are_met_and_the_others_answered(weights, folder, tmp_path, capsys):
    Image.open(folder / "b.png").save(tmp_path / "good.jpg")
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    words = [tmp_path, tmp_path / "not there.png", folder / "notes.txt", "--weights", weights]
    code, output, errors = run(capsys, *words, "--json")
    result = json.loads(output)
    assert code == 2
    assert [image["file"] for image in result["images"]] == [str(tmp_path / "good.jpg")]
    failed = {failure["file"]: failure["reason"] for failure in result["failed"]}
    assert list(failed) == [
        *(str(tmp_path / name) for name in ("cut.jpg", "empty.png", "not there.png")), str(folder / "notes.txt")
    ]  # fmt: skip
    assert failed[str(tmp_path / "not there.png")] == "No such file or directory"
    assert failed[str(tmp_path / "empty.png")] == "it is empty"
    assert failed[str(folder / "notes.txt")] == "no known format"
    assert errors.splitlines() == [f"{file} cannot be read as an image: {reason}" for file, reason in failed.items()]
    code, output, errors = run(capsys, folder / "notes.txt", "--weights", weights, "--csv")
    assert (code, output, len(errors.splitlines())) == (2, "file,rank,label,class,probability\n", 1)


def test_json_and_csv_hold_the_oddest_file_names(weights, folder, tmp_path, capsys):
    odd = tmp_path / 'a "b", c\nd'
    odd.mkdir()
    os.link(folder / "b.png", odd / "ü.png")
    (odd / os.fsdecode(b"\xff.png")).write_bytes((folder / "b.png").read_bytes())
    code, output, _ = run(capsys, odd, "--weights", weights, "--json")
    names = [str(odd / "ü.png"), str(odd / os.fsdecode(b"\xff.png"))]
    assert code == 0
    assert sorted(image["file"] for image in json.loads(output)["images"]) == sorted(names)
    code, output, _ = run(capsys, odd / "ü.png", "--weights", weights, "--csv", "--top", 1)
    assert [row["file"] for row in csv.DictReader(io.StringIO(output))] == names[:1]
    code, output, _ = run(capsys, odd, "--weights", weights, "--top", 1)
    assert len(output.splitlines()) == 4


def test_folders_are_searched_below_in_the_order_of_names_without_what_is_hidden(folder):
    found = [os.path.relpath(image.name, folder) for image in find_images([str(folder)], bytes)]
    assert found == ["a.PNG", "b.png", "below/d.png", "c.bmp", "e.webp", "f.ppm"]


def test_standard_input_is_an_image_or_a_list_of_paths(weights, folder, monkeypatch, capsys):
    answers = []
    data = (folder / "b.png").read_bytes()
    for given in (data, f"{folder / 'b.png'}\r\n\n{folder / 'below'}\n".encode()):
        give(monkeypatch, given)
        code, output, errors = run(capsys, "-", "--weights", weights, "--json", "--top", 1)
        assert (code, errors) == (0, "")
        answers.append(json.loads(output)["images"])
    assert [image["file"] for image in answers[0]] == ["-"]
    assert [image["file"] for image in answers[1]] == [str(folder / "b.png"), str(folder / "below" / "d.png")]
    assert answers[0][0]["predictions"] == answers[1][0]["predictions"]
    give(monkeypatch, data[:40])
    code, output, errors = run(capsys, "-", "--weights", weights, "--json")
    assert code == 2
    assert errors.startswith("- cannot be read as an image: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there are no images to judge: name some"),
        (["{empty}"], "there are no images in {empty}: name image files, or folders of them"),
        (["-", "-"], "standard input, -, is named twice"),
        (["x.png", "--top", "0"], "top=0 and batch_size=32 must be at least 1"),
        (["x.png", "--batch_size", "0"], "top=5 and batch_size=0 must be at least 1"),
        (["x.png", "--gradcam"], "--gradcam is drawn on the sheet: name its file with --to"),
        (["x.png", "--to", "{empty}"], "--to {empty} is a folder"),
        (["x.png", "--to", "/proc/new/sheet.png"], "cannot be written"),
        (["x.png", "--to", "sheet.txt"], "--to sheet.txt must be an image file"),
        (["x.png", "--json", "--csv"], "not allowed with argument"),
        (["x.png", "--csv", "answers.csv"], "--csv prints the table, which goes into a file by > answers.csv"),
        (["x.png", "--preprocess", "CIFA"], "did you mean 'CIFAR'?"),
        (["x.png", "--no_average"], "--no_average belongs to --workdir"),
        (["x.png", "--workdir", "runs/x"], "give either --workdir, a run's folder, or --weights"),
    ],
)
def test_bad_usage_is_one_line(weights, tmp_path, capsys, words, message):
    words = [word.format(empty=tmp_path) for word in words]
    code, output, errors = run(capsys, *words, "--weights", weights)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert message.format(empty=tmp_path) in errors


def test_preprocess_brings_the_class_names_and_without_names_classes_are_numbered(tmp_path, folder, capsys):
    model = small(num_classes=10)
    save_weights(tmp_path / "w.safetensors", model, initialized(model), info=WeightsInfo())
    words = [
        folder / "b.png",
        "--weights",
        tmp_path / "w.safetensors",
        "--model",
        "resnet18",
        "--json",
        "--num_classes",
    ]
    words += [10, "--model_args", "stage_sizes=(2,1)", "num_filters=8"]
    _, output, errors = run(capsys, *words, "--preprocess", "CIFAR")
    assert "names no classes: its 10 are taken for CIFAR-10's, airplane, automobile, " in errors
    named = json.loads(output)["images"][0]["predictions"]
    assert {p["label"]: p["class"] for p in named}[named[0]["label"]] != f"class {named[0]['label']}"
    mean, std = PREPROCESS["CIFAR"].mean, PREPROCESS["CIFAR"].std
    _, output, _ = run(capsys, *words, "--mean", *mean, "--std", *std)
    numbered = json.loads(output)["images"][0]["predictions"]
    assert [p["class"] for p in numbered] == [f"class {p['label']}" for p in named]
    assert [p["probability"] for p in numbered] == [p["probability"] for p in named]


def test_images_of_any_size_are_brought_to_the_one_that_the_network_was_trained_with(weights, tmp_path):
    trained = open_weights(weights, adjustment=Adjustment(mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0)))
    assert trained.pixels(Image.new("RGB", (100, 50))).shape == (16, 16, 3)
    whole = Preprocess(None, None, "bilinear", CROP.mean, CROP.std)
    uncropped = open_weights(weights)
    object.__setattr__(uncropped, "preprocess", whole)
    object.__setattr__(uncropped, "image_size", 32)
    random = np.random.RandomState(0)
    small_image = random.randint(0, 256, (8, 8, 3), np.uint8)
    enlarged = uncropped.pixels(Image.fromarray(small_image))  # as training does it: pixel by pixel
    np.testing.assert_array_equal(enlarged, small_image.repeat(4, axis=0).repeat(4, axis=1))
    other = Image.fromarray(random.randint(0, 256, (48, 60, 3), np.uint8))
    np.testing.assert_array_equal(
        uncropped.pixels(other), Preprocess(32, 32, "bilinear", CROP.mean, CROP.std).pixels(other)
    )


def test_sheet_shows_the_first_images_with_their_classes_and_maps(network, weights, folder, tmp_path, capsys):
    paths = [folder / "a.PNG", folder / "b.png"]
    words = [*paths, "--weights", weights, "--to", tmp_path / "new" / "sheet.png"]
    assert run(capsys, *words)[0] == 0
    plain = np.array(Image.open(tmp_path / "new" / "sheet.png"))
    scale, gap = 224 // 16, READABLE.gap
    shown = plain[gap : gap + 224 : scale, gap : gap + 224 : scale]
    np.testing.assert_array_equal(shown, CROP.pixels(Image.open(paths[0])))
    assert run(capsys, *words, "--gradcam")[0] == 0
    mapped = np.array(Image.open(tmp_path / "new" / "sheet.png"))
    np.testing.assert_array_equal(mapped[gap : gap + 224 : scale, gap : gap + 224 : scale], shown)
    result = next(iter(predict(open_weights(weights), [ImageFile(str(paths[0]))], gradcam=True)))
    model, variables = network
    maps = jax.jit(explain, static_argnums=0)(model, variables, CROP(Image.open(paths[0]))[None, None])[1]
    expected = np.asarray(jax.image.resize(maps, (1, 16, 16), "bilinear"))[0]
    assert expected.std() > 0.05
    np.testing.assert_allclose(result.heat, expected, atol=1e-3)
    beside = mapped[gap : gap + 224 : scale, gap + 224 : gap + 448 : scale]
    np.testing.assert_array_equal(beside, overlay(shown, result.heat))


def test_images_beyond_the_sheet_are_told(weights, folder, tmp_path, capsys):
    code, _, errors = run(capsys, *[folder / "b.png"] * 61, "--weights", weights, "--to", tmp_path / "sheet.jpg")
    assert (code, errors) == (0, f"{tmp_path}/sheet.jpg shows the first 60 of 61 images\n")


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A short run on digits that subtracts their mean image and keeps a moving average."""
    config = load_config("digits", [word for word in TINY if word.startswith("--config.")])
    changes = {"num_steps": 2, "batch_size": 1288, "schedule": "constant", "normalize": "pixel", "ema_decay": 0.5}
    for name, value in changes.items():
        config[name] = value
    config.warmup_epochs = 0.0
    workdir = tmp_path_factory.mktemp("run") / "run"
    train(options_of(config), workdir, "run")
    return workdir


@pytest.mark.parametrize("average", [True, False])
def test_run_answers_as_its_evaluation_does(digits_run, average):
    digits = load_digits("test")
    trained = open_run(digits_run, average=average)
    assert trained.normalization.mean.shape == (8, 8, 3)
    files = []
    for image in digits.images:
        data = io.BytesIO()
        Image.fromarray(image).save(data, "PNG")
        files.append(ImageFile("", data.getvalue()))
    results = list(predict(trained, files, top=10, batch_size=360))
    if average:
        accuracy = np.mean([result.labels[0] for result in results] == digits.labels)
        assert accuracy == pytest.approx(evaluate_run(digits_run)["accuracy"], abs=1 / 360)
    inputs = (digits.images[:40] / 255 - trained.normalization.mean) / trained.normalization.std
    state = restore_run(digits_run).state
    variables = state.averaged().variables if average else state.variables
    logits = logits_of(trained.model, variables, np.asarray(inputs, np.float32))
    expected = np.asarray(jax.nn.softmax(logits))
    assert expected.std(axis=0).max() > 1e-3
    for result, row in zip(results[:40], expected, strict=True):
        np.testing.assert_allclose(result.probabilities, row[result.labels], rtol=1e-4)


def test_run_is_named_in_the_answer_with_its_classes(digits_run, tmp_path, capsys):
    Image.fromarray(load_digits("test").images[0]).save(tmp_path / "0.png")
    code, output, _ = run(capsys, tmp_path / "0.png", "--workdir", digits_run, "--checkpoint", "best", "--json")
    result = json.loads(output)
    assert (code, result["workdir"], result["checkpoint"], result["average"]) == (0, str(digits_run), "best", True)
    assert all(p["class"] == str(p["label"]) for p in result["images"][0]["predictions"])
    for words in (["--model", "resnet18"], ["--preprocess", "CIFAR"]):
        code, _, errors = run(capsys, tmp_path / "0.png", "--workdir", digits_run, *words)
        assert (code, errors) == (2, f"error: {words[0]} belongs to --weights; a run tells its own\n")


def test_images_are_rotated_as_exif_says_where_the_run_did_so(weights, tmp_path, capsys):
    pixels = np.random.RandomState(0).randint(0, 256, (40, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "upright.png")
    files = [ImageFile(str(tmp_path / name)) for name in ("turned.png", "turned.png", "upright.png")]
    trained = open_weights(weights)
    for apply_exif_orientation in (False, True):
        turned, _, other = predict(replace(trained, apply_exif_orientation=apply_exif_orientation), files)
        assert np.array_equal(turned.pixels, other.pixels) is apply_exif_orientation
        assert capsys.readouterr().err.count("asks by EXIF to be rotated") == (not apply_exif_orientation)
    upright, turned = (Image.open(tmp_path / name) for name in ("upright.png", "turned.png"))
    rotating = replace(trained, apply_exif_orientation=True)
    np.testing.assert_array_equal(rotating.pixels(turned), trained.pixels(upright))
    assert not np.array_equal(trained.pixels(turned), trained.pixels(upright))


def test_that_photos_are_rotated_travels_with_weights(network, tmp_path):
    model, variables = network
    info = WeightsInfo("resnet18", dict(SMALL), NAMES, CROP, exif_rotation=True)
    assert WeightsInfo.from_json("it", info.to_json()).exif_rotation
    assert "exif_rotation" not in json.loads(replace(info, exif_rotation=False).to_json())
    save_weights(tmp_path / "w.safetensors", model, variables, info=info)
    assert open_weights(tmp_path / "w.safetensors").apply_exif_orientation


def test_a_file_may_be_called_as_a_home_is(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.link(folder / "b.png", "~nobody-of-that-name.png")
    here, absent = find_images(["~nobody-of-that-name.png", "~nobody-else.png"], bytes)
    assert here.read() == (folder / "b.png").read_bytes()
    with pytest.raises(BadImageError, match="home directory"):
        absent.read()


def test_weights_that_are_not_finite_end_with_code_1(network, folder, tmp_path, capsys):
    model, variables = network
    broken = jax.tree.map(lambda leaf: leaf * np.nan, variables)
    save_weights(tmp_path / "w.safetensors", model, broken, info=WeightsInfo("resnet18", dict(SMALL), NAMES, CROP))
    code, output, errors = run(capsys, folder / "b.png", "--weights", tmp_path / "w.safetensors", "--json")
    assert (code, output) == (1, "")
    assert errors.startswith(f"error: {folder}/b.png: the logits are not finite")


def test_images_may_stand_before_and_behind_the_options(weights, folder, capsys):
    a, b = str(folder / "a.PNG"), str(folder / "b.png")
    for words in ([a, "--weights", str(weights), b], ["--weights", str(weights), a, b]):
        assert main(["predict", *words, "--top", "1", "--json"]) == 0
        assert [image["file"] for image in json.loads(capsys.readouterr().out)["images"]] == [a, b]


def test_odd_entries_of_a_folder_are_named_and_its_images_answered(folder, tmp_path):
    os.link(folder / "b.png", tmp_path / "b.png")
    Image.open(folder / "b.png").convert("P").save(tmp_path / "c.gif")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "self.png").symlink_to("self.png")
    images = find_images([str(tmp_path), str(tmp_path / "pipe.png"), "https://example.org/cat.jpg"], bytes)
    reasons = {}
    for image in images:
        try:
            assert image.read()
        except BadImageError as error:
            reasons[error.name] = error.reason
    assert len(images) == 6
    assert reasons == {
        f"{tmp_path}/pipe.png": "not a regular file",  # named by itself, after the folder's own
        f"{tmp_path}/self.png": "it is a link that leads to itself",
        "https://example.org/cat.jpg": "it is an address: download it first",
    }
    assert images[2].fault == "it is neither a file nor a folder"


def test_closed_standard_streams_are_no_traceback(weights, folder, monkeypatch, capsys):
    for name in ("stdin", "stdout"):
        monkeypatch.setattr(sys, name, None)
    code = main(["predict", "-", "--weights", str(weights)])
    assert (code, capsys.readouterr().err.count("\n")) == (2, 1)
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["predict", str(folder / "b.png"), "--weights", str(weights), "--csv"]) == 0


def test_sheet_names_the_first_class_however_improbable(weights):
    result = next(predict(open_weights(weights), [ImageFile("x", fault="y")]))
    assert isinstance(result, Failure)
    pixels = np.zeros((16, 16, 3), np.uint8)
    cell = _cell(
        prediction.Prediction("a/b.png", np.arange(2), np.array([0.004, 0.003]), pixels, None),
        [{"class": "ant", "probability": 0.004}, {"class": "bee", "probability": 0.003}],
    )
    assert [line[:2] for line in cell.lines] == [("b.png", ""), ("ant", "<1 %")]


def test_words_that_are_neither_arguments_nor_the_fourth_number_are_images(tmp_path):
    words = ["predict", "a", "--model_args", "x=1", "y=2", "b", "c", "--mean", ".1", ".2", ".3", "d"]
    arguments = parse([*words, "--std", "(0.1, 0.2, 0.3)", "e", "--model_args", "z=3", "--flip", "f"])
    assert arguments.images == ["a", "b", "c", "d", "e", "f"]
    assert arguments.model_args == ["x=1", "y=2", "z=3"]
    assert (arguments.mean, arguments.std) == ((0.1, 0.2, 0.3), (0.1, 0.2, 0.3))
    assert parse(["predict", "a", "--model_args", "stride"]).model_args == ["stride"]  # which is refused
    with pytest.raises(UserError, match="must be numbers, one for each channel"):
        parse(["convert", "--to", "x", "--mean", "grey"])
    assert parse(["convert", "--to", "x", "--mean", ".1", ".2", ".3", ".4"]).mean == (0.1, 0.2, 0.3, 0.4)
    arguments = parse(["predict", "--mean", "0.5", "a", "--std", "0.25", "b"])
    assert (arguments.images, arguments.mean, arguments.std) == (["a", "b"], (0.5,), (0.25,))


@pytest.mark.parametrize("apply_exif_orientation", [False, True])
def test_rotation_is_told_in_one_line_without_a_field_that_cannot_be_set(
    weights, tmp_path, capsys, apply_exif_orientation
):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 40)).save(tmp_path / "a\nb.png", exif=exif)
    list(
        predict(
            replace(open_weights(weights), apply_exif_orientation=apply_exif_orientation),
            [ImageFile(str(tmp_path / "a\nb.png"))],
        )
    )
    errors = capsys.readouterr().err
    assert errors.count("\n") == (not apply_exif_orientation)
    assert "config" not in errors


def test_run_is_restored_without_compiling_anything(digits_run):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **more: compiled.append(more["fun_name"]) if event == COMPILED else None
    )
    state = restore_run(digits_run).state
    assert compiled == []
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    assert int(state.step) == 0


def test_damaged_checkpoint_is_told_with_what_to_do(digits_run, tmp_path, capsys):
    shutil.copytree(digits_run, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/manifest.json"):
        path.unlink()
    words = [tmp_path / "x.png", "--workdir", tmp_path / "run"]
    code, _, errors = run(capsys, *words)
    assert (code, errors.splitlines()[-1].partition("; ")[2]) == (
        2, "give --checkpoint best, or train on, which sets the damaged one aside"
    )  # fmt: skip
    shutil.rmtree(tmp_path / "run" / "best")
    errors = run(capsys, *words)[2].splitlines()
    assert errors[-1].endswith("; bring it back from a copy, or train anew in another --workdir")


def test_a_sheet_replaces_no_photo(weights, folder, tmp_path, capsys):
    photos = tmp_path / "photos"
    shutil.copytree(folder, photos)
    first, second = sorted(path for path in photos.iterdir() if path.suffix == ".png")[:2]
    before = first.read_bytes()
    for words in ([first, "--to", first], [second, "--to", first], [photos, "--to", first]):
        code, output, errors = run(capsys, *words, "--weights", weights)
        assert (code, output) == (2, ""), words
        assert "name another file for the sheet" in errors
    assert first.read_bytes() == before
    for _ in range(2):  # a sheet beside the images may be drawn anew
        for ending in ("png", "jpg", "webp"):
            assert run(capsys, second, "--to", photos / f"sheet.{ending}", "--weights", weights)[0] == 0


def test_csv_quotes_a_carriage_return(weights, folder, tmp_path, capsys):
    odd = tmp_path / "a\rb.png"
    shutil.copy(next(path for path in folder.iterdir() if path.suffix == ".png"), odd)
    _, output, _ = run(capsys, odd, "--weights", weights, "--csv", "--top", "1")
    (row,) = csv.DictReader(io.StringIO(output, newline=""))
    assert row["file"] == str(odd)
    assert output.count("\r") == 1
