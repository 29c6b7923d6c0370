"""The pages that scripts make: the config's fields as the program takes them, and the findings."""

import importlib.util
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
