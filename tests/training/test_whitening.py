"""Filters out of the training images: what they give is uncorrelated, and a run begins with them."""

import jax
import numpy as np
import pytest
from processes import TINY

import resnet_jax
from resnet_jax.config import load_config
from resnet_jax.data.sources import load_source
from resnet_jax.errors import UserError
from resnet_jax.training import jit_steps
from resnet_jax.training.experiment import build_experiment, options_of
from resnet_jax.training.images import Normalization
from resnet_jax.training.jit_steps import init_run_state
from resnet_jax.training.whitening import whitening_filters


def test_filters_give_uncorrelated_numbers_of_falling_variance():
    digits = load_source("digits", "train")
    filters = whitening_filters(digits, Normalization(np.full(3, 0.3), np.full(3, 0.4)), (3, 3), 12)
    assert filters.shape == (3, 3, 3, 12)
    np.testing.assert_allclose((filters**2).sum((0, 1, 2)), 2.0, rtol=1e-5)
    np.testing.assert_array_equal(filters[..., :6], -filters[..., 6:])
    images = (digits.images.astype(np.float32) / 255 - 0.3) / 0.4
    outputs = jax.lax.conv_general_dilated(
        images, filters[..., :6], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    covariance = np.cov(np.asarray(outputs).reshape(-1, 6), rowvar=False)
    variances = np.diag(covariance)
    assert (np.diff(variances) < 0).all()
    assert np.abs(covariance - np.diag(variances)).max() < 0.02 * variances[0]  # of the 2,000 images that were read


def test_grey_images_have_no_more_components_than_they_vary_in():
    filters = whitening_filters(
        load_source("digits", "train"), Normalization(np.zeros(3), np.ones(3)), (3, 3), 64
    )  # the three channels are one
    assert filters.shape == (3, 3, 3, 18)


@pytest.mark.parametrize("words", [(), ("--config.ema_decay=0.9",)])
def test_a_run_begins_with_them_and_the_other_filters_are_as_drawn(words):
    fields = ["--config.model_args.stage_sizes=(1,)", "--config.model_args.num_filters=20", *words]
    drawn, whitened = (
        init_run_state(build_experiment(options_of(load_config("digits", [*fields, f"--config.stem_init={init}"]))))
        for init in ("random", "whitening")
    )
    for name in ("params", *(("ema_params",) if words else ())):
        before, after = (getattr(state, name)["conv1"]["kernel"] for state in (drawn, whitened))
        np.testing.assert_array_equal(after[..., 18:], before[..., 18:])
        np.testing.assert_array_equal(after[..., :9], -after[..., 9:18])
        jax.tree.map(np.testing.assert_array_equal, getattr(drawn, name)["layer1"], getattr(whitened, name)["layer1"])


def test_a_continued_run_reads_no_images_for_them(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(jit_steps, "whitening_filters", lambda *args: read.append(args) or whitening_filters(*args))
    fields = [word for word in TINY if word.startswith("--config.")]
    fields += ["--config.stem_init=whitening", "--config.warmup_epochs=0.0"]
    for num_steps in (2, 4):
        config = resnet_jax.load_config("digits", [*fields, f"--config.num_steps={num_steps}"])
        result = resnet_jax.train(config, tmp_path / "run")
    assert result.step == 4
    assert len(read) == 1


def test_a_stem_that_cannot_be_whitened_is_refused():
    config = load_config("digits", ["--config.stem_init=whitening", "--config.model=resnet18d"])
    with pytest.raises(UserError, match=r"config.stem_init='whitening' needs a stem of one convolution, and 'deep'"):
        build_experiment(options_of(config))
    standardized = ["--config.stem_init=whitening", "--config.model_args.weight_standardization=true"]
    with pytest.raises(UserError, match=r"config.stem_init='whitening' is undone by weight_standardization"):
        build_experiment(options_of(load_config("digits", standardized)))
