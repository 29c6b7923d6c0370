"""Training on a folder of images: from the first start over a break to the best model, and bad input in one line."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from processes import records, run

from resnet_jax import load_preprocess
from resnet_jax.cli.main import main

WORDS = [
    "--config", "folder", "--config.model=resnet20", "--config.model_args.stage_sizes=(1,1)",
    "--config.model_args.num_filters=4", "--config.image_size=16", "--config.batch_size=8", "--config.num_epochs=3",
    "--config.warmup_epochs=0", "--config.log_every_steps=1", "--config.learning_rate=0.02",
    "--config.augment.policy=trivialaugment", "--config.schedule=constant",
]  # fmt: skip
CROP = "--config.augment.crop_scale=(0.5,1)"
CROPPED = [*WORDS, CROP]


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """40 images of two classes that a look at the colour tells apart, of many sizes."""
    root = tmp_path_factory.mktemp("pets")
    rng = np.random.default_rng(0)
    for i in range(40):
        name, colour = (("cat", (200, 60, 40)), ("dog", (40, 90, 200)))[i % 2]
        (root / name).mkdir(exist_ok=True)
        noise = rng.integers(-30, 30, (*rng.integers(14, 40, 2), 3))
        Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(root / name / f"{i}.jpg")
    return root


@pytest.fixture(scope="module")
def unbroken(pets, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    code, output, errors = run("train", *CROPPED, f"--config.data_dir={pets}", "--workdir", workdir)
    assert code == 0, errors
    return workdir, output


def test_held_out_images_judge_the_run_and_the_best_model_is_kept(unbroken):
    workdir, output = unbroken
    log = records(workdir)
    judged = [record for record in log if "val_accuracy" in record]
    assert [record["step"] for record in judged] == [4, 8, 12]  # 36 // 8 steps an epoch
    assert {record["val_count"] for record in judged} == {4}
    assert not any("test_accuracy" in record for record in log)  # there are no test images
    best = max(judged, key=lambda record: record["val_accuracy"])
    assert [path.name for path in (workdir / "best").iterdir()] == [str(best["step"])]
    assert "best val accuracy" in output


@pytest.mark.slow
def test_run_on_other_threads_and_broken_off_in_an_epoch_ends_the_same(pets, unbroken, tmp_path):
    words = ["train", *CROPPED, f"--config.data_dir={pets}", "--workdir", tmp_path, "--config.decode_threads=3"]
    assert run(*words, "--config.checkpoint_every_steps=6", "--config.num_steps=6")[0] == 0
    # As if the run to its end had been killed there: what the shorter one does at its end is taken back.
    log = tmp_path / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if not ('"val' in line and '"step": 6,' in line)))
    code, output, errors = run(*words)
    assert code == 0, errors
    assert "continuing" in errors
    assert records(tmp_path) == records(unbroken[0])
    assert output.split("sha256")[1].split()[0] == unbroken[1].split("sha256")[1].split()[0]


def test_images_held_out_of_a_changed_folder_are_refused(pets, unbroken, tmp_path, capsys):
    assert main(["evaluate", "--workdir", str(unbroken[0])]) == 0
    shutil.copytree(pets, tmp_path / "pets")
    shutil.copy(pets / "cat/0.jpg", tmp_path / "pets/cat/another.jpg")
    assert main(["evaluate", "--workdir", str(unbroken[0]), "--data_dir", str(tmp_path / "pets")]) == 2
    assert (
        "the training images of folder are not those of the run, which was trained on most of"
        in capsys.readouterr().err
    )


def test_other_validation_images_are_said_when_a_run_goes_on(pets, tmp_path, capsys):
    for split in ("train", "val", "test"):
        shutil.copytree(pets, tmp_path / "pets" / split)
    words = (CROP, "--config.num_epochs=1")
    assert train(tmp_path / "pets", tmp_path / "run", *words) == 0
    assert train(tmp_path / "pets", tmp_path / "run", *words) == 0
    assert "validation images are" not in capsys.readouterr().err
    (tmp_path / "pets/val/cat/0.jpg").unlink()
    shutil.rmtree(tmp_path / "pets/test")
    assert train(tmp_path / "pets", tmp_path / "run", *words) == 0
    errors = capsys.readouterr().err
    assert "the validation images are others than before, or have other labels" in errors
    assert "the test images of earlier starts are gone" in errors


def test_folder_that_has_changed_since_the_run_began_is_refused(pets, unbroken, tmp_path, capsys):
    shutil.copytree(pets, tmp_path / "pets")
    shutil.copytree(unbroken[0], tmp_path / "run")
    (tmp_path / "pets/cat/0.jpg").unlink()
    assert train(tmp_path / "pets", tmp_path / "run", CROP, "--config.num_epochs=4") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "began with other training images, 36 of 2 classes; now there are 35 of 2: bring them back" in line
    # As many, but another: its neighbour of the same class under a new name.
    shutil.copy(pets / "cat/2.jpg", tmp_path / "pets/cat/99.jpg")
    assert train(tmp_path / "pets", tmp_path / "run", CROP, "--config.num_epochs=4") == 2
    assert "began with other training images" in capsys.readouterr().err


def test_run_is_evaluated_on_its_held_out_images_and_on_a_folder(pets, unbroken, capsys):
    workdir = unbroken[0]
    final = [record for record in records(workdir) if "val_accuracy" in record][-1]
    assert main(["evaluate", "--workdir", str(workdir), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["data"], result["count"]) == ("folder:validation", 4)
    assert result["loss"] == pytest.approx(final["val_loss"], rel=1e-5)
    assert main(["evaluate", "--workdir", str(workdir), "--data", str(pets), "--ten_crop", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 40


def test_exported_weights_carry_the_runs_preprocessing(unbroken, tmp_path, capsys):
    assert main(["convert", "--from", str(unbroken[0]), "--to", str(tmp_path / "pets.safetensors"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["preprocess"]["resize"], report["preprocess"]["crop"]) == (18, 16)  # 16 * 256 / 224 = 18.3
    assert load_preprocess(unbroken[0]) == load_preprocess(tmp_path / "pets.safetensors")


def damaged(pets, root):
    """A copy of the folder in which two images are damaged."""
    for image in pets.rglob("*.jpg"):
        copy = root / image.relative_to(pets)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(image.read_bytes() if image.stem not in ("3", "10") else image.read_bytes()[:100])
    return root


def train(folder, workdir, *words):
    return main(["train", *WORDS, f"--config.data_dir={folder}", "--workdir", str(workdir), *words])


def test_damaged_image_stops_the_run_by_name(pets, tmp_path, capsys):
    assert train(damaged(pets, tmp_path / "pets"), tmp_path / "run", "--config.num_epochs=1") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"error: {tmp_path}/pets/")
    assert last.endswith("replace or remove it, or let the run skip it: --config.max_bad_images=1")


def test_damaged_images_are_skipped_if_the_config_says_so(pets, tmp_path, capsys):
    folder = damaged(pets, tmp_path / "pets")
    assert train(folder, tmp_path / "run", "--config.num_epochs=1", "--config.max_bad_images=2") == 0
    errors = capsys.readouterr().err
    assert 1 <= errors.count("warning: skipped (") <= 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.data_dir=nowhere"], "error: nowhere cannot be read as a folder of images: No such file or"),
        (["--config.augment.crop_ratio=(2,1)"], "error: config.augment: crop_ratio=(2.0, 1.0) must be two growing"),
        (
            ["--config.augment.resampler=cv"],
            "error: config.augment: resampler=",
        ),
        (["--config.augment.policy_num_ops=0"], "error: config.augment.policy_num_ops=0 must be positive"),
        (
            ["--config.augment.policy=randaugment", "--config.augment.policy_magnitude=9.7"],
            "error: config.augment: policy",
        ),
        (
            ["--config.augment.cutout_size=17"],
            "error: config.augment.cutout_size=17 must be at most the image size, 16",
        ),
        (["--config.resize=15"], "error: config.resize=15 must be at least the crop, 16"),
        (["--config.image_size=100000"], "error: config.image_size=100000 must be a number of pixels from 0 to 8192"),
        (
            ["--config.repeated_augmentation=9"],
            "error: config.repeated_augmentation=9 must be at most the batch size, 8",
        ),
        (
            ["--config.augment.mixup=0.2", "--config.repeated_augmentation=8"],
            "error: config.augment.mixup and cutmix need more images at a time than config.repeated_augmentation=8",
        ),
        (["--config.num_classes=3"], "error: config.num_classes=3 must be 2, the classes of folder, or 0"),
        (["--config.batch_size=64"], "error: batch_size=64 must be from 1 to the 36 training images"),
        (["--config.normalize=pixel"], "error: config.normalize='pixel' needs a set of small images of one size"),
        (["--config.augment.policy_magnitude=40", "--config.augment.policy=randaugment"], "error: config.augment: mag"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(pets, tmp_path, capsys, words, message):
    assert train(pets, tmp_path / "run", *words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(message)
    assert not (tmp_path / "run").exists()


def test_preview_shows_the_batch_with_its_labels(pets, tmp_path, capsys):
    words = [*WORDS, f"--config.data_dir={pets}", "--to", str(tmp_path / "sheets/batch.png")]
    assert main(["preview", *words, "--step", "5", "--num_images", "6"]) == 0
    assert capsys.readouterr().out.split() == [
        "picture", str(tmp_path / "sheets/batch.png"), "split", "train", "step", "5", "images", "6", "size", "16x16",
    ]  # fmt: skip
    with Image.open(tmp_path / "sheets/batch.png") as sheet:
        assert sheet.size[0] > 2 * 112
    assert main(["preview", *words, "--split", "validation", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"] == "validation"
    assert main(["preview", *words, "--split", "test"]) == 2
    assert "folder has no test images" in capsys.readouterr().err
    for name in ("batch.txt", "batch.psd"):
        assert main(["preview", *words, "--to", name]) == 2
        assert "must be an image file" in capsys.readouterr().err


def test_preview_of_fewer_images_than_a_batch_shows_them(pets, tmp_path, capsys):
    words = ["--num_images", "6", "--config.batch_size=64", "--to", str(tmp_path / "batch.png")]
    assert main(["preview", *WORDS, f"--config.data_dir={pets}", *words]) == 0
    output, errors = capsys.readouterr()
    assert ["images", "6"] in [line.split() for line in output.splitlines()]
    assert errors.splitlines() == ["warning: a run needs config.batch_size=64 training images, and there are 36"]


def test_policy_works_on_images_that_are_cropped_as_in_evaluation(pets, tmp_path):
    words = ["--config.augment.random_resized_crop=false", "--to", str(tmp_path / "batch.png")]
    assert main(["preview", *WORDS, f"--config.data_dir={pets}", *words]) == 0


def test_classes_that_are_not_the_runs_are_refused_in_evaluation(pets, unbroken, tmp_path, capsys):
    shutil.copytree(pets, tmp_path / "pets")
    (tmp_path / "pets/cat").rename(tmp_path / "pets/emu")
    assert main(["evaluate", "--workdir", str(unbroken[0]), "--data_dir", str(tmp_path / "pets")]) == 2
    assert "has the classes dog, emu …, the run in" in capsys.readouterr().err


def test_validation_images_that_are_all_bad_are_one_line(pets, tmp_path, capsys):
    shutil.copytree(pets, tmp_path / "pets/train")
    for name in ("cat", "dog"):
        (tmp_path / "pets/val" / name).mkdir(parents=True)
        (tmp_path / "pets/val" / name / "1.jpg").write_bytes(b"no image")
    words = ["--config.num_epochs=1", "--config.max_bad_images=10"]
    assert train(tmp_path / "pets", tmp_path / "run", *words) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == "error: not one image of the evaluation can be read"


def test_run_is_evaluated_on_the_validation_images_that_are_all_a_folder_has(pets, unbroken, tmp_path, capsys):
    shutil.copytree(pets, tmp_path / "pets/val")
    assert main(["evaluate", "--workdir", str(unbroken[0]), "--data_dir", str(tmp_path / "pets"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["data"], result["count"]) == ("folder:validation", 40)


def test_evaluation_may_be_bicubic_where_no_random_crop_is(pets, tmp_path):
    words = [
        "--config.augment.random_resized_crop=0",
        "--config.interpolation=bicubic",
        "--to",
        str(tmp_path / "b.png"),
    ]
    assert main(["preview", *WORDS, f"--config.data_dir={pets}", *words]) == 0
