"""The reference of the config's fields is what the program goes by."""

import importlib.util
from pathlib import Path

import pytest

from resnet_jax.config import load_config
from resnet_jax.training.workdir import flatten_fields

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_config_page", DOCS / "make_config_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
