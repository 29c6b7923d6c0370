"""`doctor --deep`: every image decoded, and what that shows."""

import json

import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli.main import main


def picture(seed, size=(40, 32), mode="RGB"):
    shape = (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).convert(mode)


@pytest.fixture
def pets(tmp_path):
    """Cats and dogs: a damaged one, a small one, one that is there twice, and a test image that was trained on."""
    root = tmp_path / "pets"
    for split, count in (("train", 6), ("test", 2)):
        for k, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                picture(100 * (split == "test") + 10 * k + i).save(root / split / name / f"{i}.png")
    (root / "train/cat/5.png").write_bytes((root / "train/cat/5.png").read_bytes()[:500])
    picture(50, (20, 16), "L").save(root / "train/cat/4.png")
    picture(0).save(root / "train/cat/again.bmp")
    picture(1).save(root / "train/dog/cat.png")
    picture(12).save(root / "test/dog/leak.png")
    return root


def deep(capsys, root, *words):
    code = main(["doctor", "--config", "folder", f"--config.data_dir={root}", "--config.image_size=32",
                 "--config.batch_size=8", "--workdir", f"{root}-run", "--deep", "--json", *words])  # fmt: skip
    checks = json.loads(capsys.readouterr().out)["checks"]
    return code, {
        (one["status"], one["subject"], one["found"].replace(str(root), "ROOT"))
        for one in checks
        if one["subject"].startswith("deep")
    }


def test_damage_sizes_duplicates_and_leaks_are_found(pets, capsys):
    code, found = deep(capsys, pets, "--config.validation_fraction=0")
    assert code == 2
    lines = {(status, subject): text for status, subject, text in found}
    assert "1 of 14 images cannot be read: ROOT/train/cat/5.png (" in lines["error", "deep training"]
    assert "40 pixels wide (median 40), 16 to 32 high (median 32); 12 RGB, 1 L" in lines["ok", "deep training"]
    warnings = [text for status, subject, text in found if (status, subject) == ("warning", "deep training")]
    assert sorted(text.split(":")[0] for text in warnings) == [
        "1 image smaller than the crop of 32x32 pixels, to be enlarged",
        "1 image there more than once",
        "1 image there with different labels",
    ]
    assert "1 test image among the training images" in lines["warning", "deep leaks"]
    assert "ROOT/test/dog/leak.png is ROOT/train/dog/2.png" in lines["warning", "deep leaks"]


def test_sound_images_are_said_to_be_so(pets, capsys):
    for path in ("cat/5.png", "cat/4.png", "cat/again.bmp", "dog/cat.png"):
        (pets / "train" / path).unlink()
    (pets / "test/dog/leak.png").unlink()
    code, found = deep(capsys, pets, "--config.validation_fraction=0.2")
    assert code == 0, found
    assert {status for status, _, _ in found} == {"ok"}
    assert "no image is in two of training, validation, test" in {text for _, _, text in found}


def test_classes_of_very_different_sizes_are_said(tmp_path, capsys):
    for i in range(12):
        (tmp_path / "pets/cat").mkdir(parents=True, exist_ok=True)
        picture(i).save(tmp_path / f"pets/cat/{i}.png")
    (tmp_path / "pets/dog").mkdir()
    picture(100).save(tmp_path / "pets/dog/1.png")
    _, found = deep(capsys, tmp_path / "pets", "--config.validation_fraction=0")
    assert any("classes are unbalanced: 12 images of cat, 1 of dog" in text for _, _, text in found)


def test_deep_needs_a_config(capsys):
    assert main(["doctor", "--deep"]) == 2
    assert "give --config as well" in capsys.readouterr().err + capsys.readouterr().out


def test_the_limit_that_is_proposed_is_for_all_splits_together(pets, capsys):
    (pets / "test/cat/0.png").write_bytes(b"")
    (pets / "test/cat/1.png").write_bytes(b"")
    main(["doctor", "--config", "folder", f"--config.data_dir={pets}", "--config.image_size=32",
          "--config.batch_size=8", "--workdir", f"{pets}-run", "--deep", "--json"])  # fmt: skip
    checks = json.loads(capsys.readouterr().out)["checks"]
    remedies = [one["remedy"] for one in checks if one["subject"].startswith("deep") and one["status"] == "error"]
    assert len(remedies) == 2
    assert all("--config.max_bad_images=3" in remedy for remedy in remedies)
