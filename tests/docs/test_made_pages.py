"""The pages that scripts make: the config's fields as the program takes them, the findings, and the results."""

import importlib.util
import json
from pathlib import Path

import pytest

from resnet_jax.config import load_config
from resnet_jax.training.workdir import flatten_fields

DOCS = Path(__file__).parents[2] / "docs"


def load(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def maker():
    return load("make_config_page")


def test_the_page_of_findings_is_up_to_date():
    assert (DOCS / "findings.md").read_text() == load("make_findings_page").page(), (
        "run: python docs/make_findings_page.py"
    )


def test_a_finding_needs_a_comment_and_pinned_packages(tmp_path):
    (tmp_path / "one.sh").write_text("#!/bin/sh\n# Surprising.\npip install torch\n")
    with pytest.raises(ValueError, match=r"one\.sh: a comment on the behaviour and pinned packages are missing"):
        load("make_findings_page").entry(tmp_path / "one.sh")


def test_the_page_of_results_is_up_to_date():
    maker = load("make_results_page")
    assert maker.page(json.loads(maker.DATA.read_text())) == maker.PAGE.read_text(), (
        "run: python docs/make_results_page.py"
    )


def test_runs_of_one_recipe_make_a_row_of_the_results():
    maker = load("make_results_page")
    command = maker.recipe_of(
        "python train.py --config.data_dir=/d --config configs/digits.py --workdir run --config.seed 1 --config.l1=0.1"
    )
    assert command == "python train.py --config configs/digits.py --config.l1=0.1"
    runs = [
        {"command": command, "images": "digits", "seed": seed, "processor": "p", "accuracy": accuracy, "minutes": 1.4,
         "starts": starts, "steps": 5, "config": "0123abcd", "source": "0"}
        for seed, accuracy, starts in [(1, 0.5, 1), (0, 0.7, 2), (1, 0.6, 1)]
    ]  # fmt: skip
    known = maker.merged(runs[:1], runs[1:])
    assert len(known) == 2
    row = f"| `{command}` | 65.00 ± 7.07 % | 0, 1 | 1 in 2 starts, 1 | p | `0123abcd` |"
    assert row in maker.page(known).splitlines()


def test_the_page_is_up_to_date(maker):
    assert (DOCS / "config.md").read_text() == maker.page(), "run: python docs/make_config_page.py"


def test_every_field_is_on_the_page_once(maker):
    text = maker.page()
    names = [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]
    assert sorted(names) == sorted(
        {*flatten_fields(load_config("default").to_dict()), "model_args", "learning_rate_factors"}
    )


def test_a_fields_range_condition_and_recipes_are_named(maker):
    part = maker.page().partition("### augment.crop_padding_mode\n")[2].partition("\n### ")[0]
    assert "`'zeros'`" in part
    assert "Has an effect only with config.augment.crop_padding > 0." in part
    assert "Set by `cifar10_fast`" in part
    part = maker.page().partition("### label_smoothing\n")[2].partition("\n## ")[0]
    assert "must be in [0, 1)" in part
