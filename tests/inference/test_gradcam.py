"""Grad-CAM against its formula, and the colours that show it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from state_dicts import plausible_variables, small

from resnet_jax.inference.gradcam import OPACITY, explain, overlay
from resnet_jax.models import fold_batch_norm

IMAGES = jnp.asarray(np.random.RandomState(0).normal(size=(3, 1, 32, 32, 3)), jnp.float32)


def trained(name="resnet18", **arguments):
    """A small network, and variables under which every batch norm does something."""
    model = small(name, **arguments)
    return model, plausible_variables(model)


@partial(jax.jit, static_argnums=0)
def explained(model, variables, images=IMAGES):
    """Return what `explain` returns, in one program."""
    return explain(model, variables, images)


@partial(jax.jit, static_argnums=0)
def computed(model, variables, images):
    """(logits, the last of two stages' output)."""
    logits = model.apply(variables, images, train=False)
    return logits, model.apply(variables, images, train=False, features=True)["stage2"]


def relative(maps):
    """Each map's positive part by its largest value."""
    maps = np.maximum(np.asarray(maps, np.float64), 0)
    return maps / maps.max(axis=(1, 2), keepdims=True)


def test_channels_weigh_as_the_heads_weights_behind_a_global_average():
    # The logit is fc.kernel[:, c] . mean over h * w places: its gradient is fc.kernel[:, c] / (h * w) everywhere.
    model, variables = trained()
    logits, maps = explained(model, variables)
    plain, output = computed(model, variables, IMAGES[:, 0])
    np.testing.assert_allclose(logits, plain, rtol=1e-5)
    labels = np.argmax(logits, axis=-1)
    weights = np.asarray(variables["params"]["fc"]["kernel"])[:, labels] / (output.shape[1] * output.shape[2])
    expected = relative(np.einsum("cb,bhwc->bhw", weights, output))
    assert expected.std() > 0.1
    np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_preactivation_networks_are_explained_through_their_last_norm():
    model, variables = trained("preact_resnet20", stage_sizes=(1, 1), num_filters=8)
    logits, maps = explained(model, variables)
    output = np.asarray(computed(model, variables, IMAGES[:, 0])[1], np.float64)
    params, statistics = variables["params"], variables["batch_stats"]["norm"]
    factor = np.asarray(params["norm"]["scale"]) / np.sqrt(np.asarray(statistics["var"], np.float64) + 1e-5)
    normalized = (output - np.asarray(statistics["mean"])) * factor + np.asarray(params["norm"]["bias"])
    kernel = np.asarray(params["fc"]["kernel"])[:, np.argmax(logits, axis=-1)].T  # (B, C)
    gradient = (normalized > 0) * factor * kernel[:, None, None] / (output.shape[1] * output.shape[2])
    expected = relative(np.einsum("bc,bhwc->bhw", gradient.mean(axis=(1, 2)), output))
    np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_folded_batch_norm_is_explained_alike():
    model, variables = trained("preact_resnet20", stage_sizes=(1, 1), num_filters=8)
    np.testing.assert_allclose(
        explained(*fold_batch_norm(model, variables))[1], explained(model, variables)[1], atol=1e-4
    )


def test_bfloat16_is_explained_as_float32_but_for_rounding():
    model, variables = trained()
    maps = explained(model.clone(dtype="bfloat16"), variables)[1]
    assert maps.dtype == jnp.float32
    np.testing.assert_allclose(maps, explained(model, variables)[1], atol=0.1)


def test_of_several_views_the_first_is_explained_for_the_class_of_all():
    model, variables = trained()
    views = jnp.concatenate([IMAGES, IMAGES[:, :, :, ::-1] * 3], axis=1)
    logits, maps = explained(model, variables, views)
    (one, output), (other, _) = (computed(model, variables, views[:, i]) for i in range(2))
    np.testing.assert_allclose(logits, (one + other) / 2, rtol=1e-5)
    weights = np.asarray(variables["params"]["fc"]["kernel"])[:, np.argmax(logits, axis=-1)]
    np.testing.assert_allclose(maps, relative(np.einsum("cb,bhwc->bhw", weights, output)), atol=1e-5)


def test_where_nothing_speaks_for_the_class_the_map_is_zero():
    model, variables = trained()
    params = {**variables["params"], "fc": jax.tree.map(lambda leaf: -jnp.ones_like(leaf), variables["params"]["fc"])}
    assert not np.any(explained(model, {**variables, "params": params})[1])


def test_overlay_is_the_grey_image_where_the_map_is_zero_and_its_colours_where_it_is_one():
    pixels = np.full((1, 2, 3), (200, 100, 50), np.uint8)
    shown = overlay(pixels, np.array([[0.0, 1.0]]))
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert shown[0, 0].tolist() == [round(grey)] * 3
    inferno = np.array([252, 255, 164])  # its last colour
    assert shown[0, 1].tolist() == pytest.approx((grey * (1 - OPACITY) + inferno * OPACITY).tolist(), abs=1)
