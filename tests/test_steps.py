"""The training step against torch.optim's real runs, and what one step promises."""

from functools import partial

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import create_model
from resnet_jax.models import ResNet
from resnet_jax.training import (
    clip_gradient_norm,
    create_train_state,
    eval_step,
    lamb,
    lars,
    make_schedule,
    sgd,
    train_step,
)
from resnet_jax.training.metrics import masked_mean, softmax_cross_entropy

TINY = ResNet(stage_sizes=(1, 1), num_filters=4, stem="cifar", num_classes=3)
BATCH = {
    "image": jax.random.normal(jax.random.key(1), (6, 8, 8, 3)),
    "label": jnp.array([0, 1, 2, 0, 1, 2]),
}


step = jax.jit(train_step)


def tiny_state(tx=None, **options):
    variables = jax.jit(lambda key: TINY.init(key, BATCH["image"], train=False))(jax.random.key(0))
    return create_train_state(TINY, variables, tx or sgd(0.1, weight_decay=1e-2), **options)


OPTIMIZERS = {"sgd": sgd, "lars": lars, "lamb": lamb}


def golden_run(name, dtype):
    """Torch's facts and arrays of a training run, and ours: the losses and the train state after it."""
    facts, arrays = golden_files.load(name)
    names, _ = golden_files.load("torchvision-resnet18")
    state_dict = {**names["state_dict"], "fc.weight": [10, 512], "fc.bias": [10]}
    milestones = facts.get("lr_divided_by_10_after_steps", ())
    schedule = make_schedule(
        "step" if milestones else "constant", facts["learning_rate"], facts["steps"], decay_steps=milestones
    )
    decay = {"weight_decay": facts["weight_decay"], "decay_norm_and_bias": facts["decay_norm_and_bias"]}
    if "nesterov" in facts:
        decay["nesterov"] = facts["nesterov"]
    tx = OPTIMIZERS[facts.get("optimizer", "sgd")](schedule, facts["momentum"], **decay)
    if clip := facts.get("clip_gradient_norm"):
        tx = optax.chain(clip_gradient_norm(clip), tx)
    state = create_train_state(
        create_model(facts["model"], num_classes=facts["num_classes"], dtype=dtype),
        golden_files.variables(state_dict, dtype, facts["seed"]),
        tx,
        label_smoothing=facts.get("label_smoothing", 0.0),
        loss=facts.get("loss", "ce"),
        ema_decay=facts.get("ema_decay"),
    )
    losses = []
    for t in range(facts["steps"]):
        seed = facts["seed"] + t
        labels = np.random.RandomState(seed).randint(0, facts["num_classes"], facts["batch"])
        batch = {"image": golden_files.images(facts, dtype, seed=seed), "label": jnp.asarray(labels)}
        if share := facts.get("mixup_lambda"):
            targets = jax.nn.one_hot(labels, facts["num_classes"], dtype=dtype)
            batch = {
                "image": share * batch["image"] + (1 - share) * jnp.roll(batch["image"], 1, axis=0),
                "label": share * targets + (1 - share) * jnp.roll(targets, 1, axis=0),
            }
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return facts, arrays, losses, state


@pytest.mark.parametrize(
    "name", ["train-sgd", "train-nesterov-smoothing", "train-lamb-bce", "train-lars-mixup", "train-ema-clip"]
)
def test_losses_weights_statistics_averages_and_logits_equal_torchs(name):
    with jax.enable_x64(True):
        facts, arrays, losses, state = golden_run(name, "float64")
        np.testing.assert_allclose(losses, arrays.pop("losses"), rtol=0, atol=1e-7)
        if "eval_logits" in arrays:
            images = golden_files.images(facts, "float64", batch=4, seed=facts["seed"] + 99)
            logits = jax.jit(partial(state.apply_fn, train=False))(state.variables, images)
            np.testing.assert_allclose(logits, arrays.pop("eval_logits"), rtol=0, atol=1e-6)
    tensors = {name: array for name, array in arrays.items() if "." in name}
    assert len(tensors) >= (14 if facts.get("ema_decay") else 7)
    for torch_name, torch_array in tensors.items():
        variables = state.averaged().variables if torch_name.startswith("ema.") else state.variables
        collection, path, array = golden_files.to_jax(torch_name.removeprefix("ema."), torch_array)
        actual = golden_files.at(variables[collection], path)
        np.testing.assert_allclose(actual, array, rtol=0, atol=1e-6, err_msg=torch_name)


@pytest.mark.parametrize("name", ["train-sgd", "train-nesterov-smoothing"])
def test_float32_losses_drift_no_further_than_torchs_own(name):
    _, arrays, losses, _ = golden_run(name, "float32")
    drift = np.maximum.accumulate(np.abs(arrays["losses_torch_float32"] - arrays["losses"]))
    assert abs(losses[0] - arrays["losses"][0]) < 1e-5
    np.testing.assert_array_less(np.abs(losses - arrays["losses"]), 10 * drift + 1e-4)


def test_step_is_pure_and_counts():
    state = tiny_state()
    first, metrics = step(state, BATCH)
    again, same = step(state, BATCH)
    jax.tree.map(np.testing.assert_array_equal, (first, metrics), (again, same))
    assert int(state.step) == 0
    assert int(first.step) == 1


def test_masked_rows_count_neither_in_the_loss_nor_in_the_gradients():
    frozen = ResNet(stage_sizes=(1, 1), num_filters=4, stem="cifar", num_classes=3, batch_norm="frozen")
    state = tiny_state().replace(apply_fn=frozen.apply)  # so that the masked rows are not in the statistics either
    masked = {**BATCH, "mask": jnp.array([1.0, 1, 1, 1, 0, 0])}
    kept = jax.tree.map(lambda leaf: leaf[:4], BATCH)
    for actual, expected in zip(jax.tree.leaves(step(state, masked)), jax.tree.leaves(step(state, kept)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    sums = jax.jit(eval_step)(state, masked)
    assert int(sums["count"]) == 4
    for name, value in jax.jit(eval_step)(state, kept).items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-6)


def test_smoothed_loss_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    # Targets 0.9 + 0.1/3, 0.1/3, 0.1/3.
    expected = -(0.9 * np.log(0.5) + 0.1 / 3 * (np.log(0.5) + 2 * np.log(0.25)))
    assert float(softmax_cross_entropy(logits, jnp.array([0]), 0.1)[0]) == pytest.approx(expected, rel=1e-6)
    assert float(softmax_cross_entropy(logits, jnp.array([1]))[0]) == pytest.approx(np.log(4), rel=1e-6)
    assert float(masked_mean(jnp.array([1.0, 3.0, 8.0]), jnp.array([1, 1, 0]))) == 2.0


def test_metrics_are_those_before_the_update():
    state = tiny_state()
    _, metrics = step(state, BATCH)
    apply = jax.jit(partial(TINY.apply, train=True, mutable=["batch_stats"]))
    logits, _ = apply(state.variables, BATCH["image"])
    np.testing.assert_allclose(metrics["loss"], softmax_cross_entropy(logits, BATCH["label"]).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], (logits.argmax(-1) == BATCH["label"]).mean(), rtol=1e-6)


def test_dropout_key_follows_seed_and_step():
    model = ResNet(stage_sizes=(1, 1), num_filters=4, stem="cifar", num_classes=3, dropout=0.5)
    frozen = sgd(0.0)

    def losses(seed):
        state = tiny_state(frozen, seed=seed).replace(apply_fn=model.apply)
        result = []
        for _ in range(2):
            state, metrics = step(state, BATCH)
            result.append(float(metrics["loss"]))
        return result

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)
    assert losses(0)[0] != losses(0)[1]


def test_a_gradient_that_is_not_finite_shows_in_its_norm():
    batch = {**BATCH, "image": BATCH["image"].at[0].set(jnp.inf)}
    _, metrics = step(tiny_state(), batch)
    assert not np.isfinite(metrics["gradient_norm"])


def test_label_smoothing_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"label_smoothing=1.0 must be in \[0, 1\)"):
        tiny_state(label_smoothing=1.0)


def test_target_distributions_give_the_loss_of_their_labels_mixed():
    state = tiny_state(label_smoothing=0.1)
    one_hot = jax.nn.one_hot(BATCH["label"], 3)
    _, by_label = step(state, BATCH)
    _, by_target = step(state, {**BATCH, "label": one_hot})
    assert {k: float(v) for k, v in by_target.items()} == pytest.approx(
        {k: float(v) for k, v in by_label.items()}, rel=1e-5
    )
    other = jnp.roll(BATCH["label"], 1)
    _, mixed = step(state, {**BATCH, "label": 0.7 * one_hot + 0.3 * jax.nn.one_hot(other, 3)})
    _, by_other = step(state, {**BATCH, "label": other})
    assert float(mixed["loss"]) == pytest.approx(
        0.7 * float(by_label["loss"]) + 0.3 * float(by_other["loss"]), rel=1e-6
    )
    assert float(mixed["accuracy"]) == float(by_label["accuracy"])  # the larger share is the label


def test_logits_of_several_views_are_averaged():
    state = tiny_state()
    views = jnp.stack([BATCH["image"], BATCH["image"][:, :, ::-1]], axis=1)
    sums = jax.jit(eval_step)(state, {"image": views, "label": BATCH["label"]})
    logits = [TINY.apply(state.variables, views[:, v], train=False) for v in range(2)]
    losses = softmax_cross_entropy((logits[0] + logits[1]) / 2, BATCH["label"])
    assert float(sums["loss_sum"]) == pytest.approx(float(losses.sum()), rel=1e-5)
    assert int(sums["count"]) == 6
