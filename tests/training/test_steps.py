"""The training step against torch.optim's real runs, and what one step promises."""

from functools import cache, partial

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import create_model
from resnet_jax.errors import UserError
from resnet_jax.models import ResNet, batch_statistics
from resnet_jax.ops import onednn_layers
from resnet_jax.training import (
    accumulate,
    adam,
    adamw,
    begin_accumulation,
    clip_gradient_norm,
    create_train_state,
    eval_step,
    finish_accumulation,
    lamb,
    lars,
    make_schedule,
    rmsprop,
    sgd,
    train_step,
)
from resnet_jax.training.losses import Loss, binary_cross_entropy, masked_mean, softmax_cross_entropy
from resnet_jax.training.train_state import Averaging

TINY = ResNet(stage_sizes=(1, 1), num_filters=4, stem="cifar", num_classes=3)
BATCH = {
    "image": jax.random.normal(jax.random.key(1), (6, 8, 8, 3)),
    "label": jnp.array([0, 1, 2, 0, 1, 2]),
}


step = jax.jit(train_step)
SGD = sgd(0.1, weight_decay=1e-2)  # one for all, so that they share a compiled step


@cache
def tiny_variables():
    return jax.jit(lambda key: TINY.init(key, BATCH["image"], train=False))(jax.random.key(0))


def tiny_state(tx=SGD, **options):
    return create_train_state(TINY, tiny_variables(), tx, **options)


OPTIMIZERS = {"sgd": sgd, "lars": lars, "lamb": lamb, "adamw": adamw, "adam": adam, "rmsprop": rmsprop}


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
    if "second_momentum" in facts:
        decay["second_momentum"] = facts["second_momentum"]
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


@pytest.fixture
def passes_of_statistics(request, monkeypatch):
    """How batch norm takes them: the CPU in two passes, other devices in one."""
    traced = []
    if request.param == "in one pass":
        in_one_pass = batch_statistics.in_one_pass
        monkeypatch.setattr(onednn_layers, "can_normalize", lambda *_: False)
        monkeypatch.setattr(batch_statistics, "in_two_passes", lambda x: traced.append(x) or in_one_pass(x))
    yield
    assert bool(traced) == (request.param == "in one pass")


# How the statistics are computed is no affair of the optimizer's, of the loss or of the average.
IN_ONE_PASS = [(name, "in one pass") for name in ("train-sgd", "train-nesterov-smoothing")]
OTHERS = [
    (name, "as on the CPU")
    for name in (
        "train-nesterov-smoothing", "train-lamb-bce", "train-lars-mixup", "train-ema-clip", "train-adamw", "train-adam",
        "train-rmsprop",
    )
]  # fmt: skip


def golden_runs(*slow):
    """Parametrizes by the run's name and how it takes batch statistics; all but the first of them are slow."""
    cases = [("train-sgd", "as on the CPU"), *(pytest.param(*case, marks=pytest.mark.slow) for case in slow)]
    return pytest.mark.parametrize(("name", "passes_of_statistics"), cases, indirect=["passes_of_statistics"])


@golden_runs(*OTHERS, *IN_ONE_PASS)
@pytest.mark.usefixtures("passes_of_statistics")
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


@pytest.mark.numerics
@golden_runs(OTHERS[0], *IN_ONE_PASS)
@pytest.mark.usefixtures("passes_of_statistics")
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

    first = losses(0)
    assert first == losses(0)
    assert first != losses(1)
    assert first[0] != first[1]


def test_a_gradient_that_is_not_finite_shows_in_its_norm():
    batch = {**BATCH, "image": BATCH["image"].at[0].set(jnp.inf)}
    _, metrics = step(tiny_state(), batch)
    assert not np.isfinite(metrics["gradient_norm"])


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


def test_binary_loss_by_hand():
    logits = jnp.log(jnp.array([[3.0, 1.0]]))  # probabilities 3/4, 1/2
    expected = -(np.log(0.75) + np.log(0.5)) / 2
    assert float(binary_cross_entropy(logits, jnp.array([0]))[0]) == pytest.approx(expected, rel=1e-6)
    soft = jnp.array([[0.7, 0.3]])
    by_hand = -(0.7 * np.log(0.75) + 0.3 * np.log(0.25) + np.log(0.5)) / 2
    assert float(binary_cross_entropy(logits, soft)[0]) == pytest.approx(by_hand, rel=1e-6)
    # Above the threshold both classes are there. Smoothing 0.2 then makes 0.9 of 1, and 0.1 of 0.
    first = -(0.9 * np.log(0.75) + 0.1 * np.log(0.25))
    assert float(binary_cross_entropy(logits, soft, 0.2, 0.2)[0]) == pytest.approx((first - np.log(0.5)) / 2, rel=1e-6)
    other = jnp.log(jnp.array([[3.0, 3.0]]))
    second = -(0.1 * np.log(0.75) + 0.9 * np.log(0.25))
    assert float(binary_cross_entropy(other, soft, 0.2, 0.2)[0]) == pytest.approx(first, rel=1e-6)
    assert float(binary_cross_entropy(other, soft, 0.2, 0.5)[0]) == pytest.approx((first + second) / 2, rel=1e-6)
    assert float(binary_cross_entropy(jnp.array([[500.0, -500.0]]), jnp.array([1]))[0]) == 500.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "hinge"}, "loss='hinge' must be one of softmax, sigmoid"),
        ({"label_smoothing": 1.0}, r"label_smoothing=1.0 must be in \[0, 1\)"),
        ({"target_threshold": 0.2}, "target_threshold=0.2 belongs to loss='sigmoid'"),
    ],
)
def test_losses_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Loss(**arguments)


def test_average_copies_while_it_warms_up_and_moves_every_so_many_steps():
    averaging = Averaging(0.75, every_steps=2, warmup_steps=3)
    average, seen = jnp.array(-1.0), []
    for number in range(8):
        average = averaging(average, jnp.array(float(number)), number)
        seen.append(float(average))
    # It is updated after steps 0, 2, 4 and 6. The first three copy (before step 4, the last update was still in the
    # warm-up, as in torchvision); the last moves: 0.75 * 4 + 0.25 * 6.
    assert seen == [0.0, 0.0, 2.0, 2.0, 4.0, 4.0, 4.5, 4.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema_decay": 1.0}, r"ema_decay=1.0 must be in \[0, 1\)"),
        ({"ema_decay": 0.9, "ema_every_steps": 0}, "ema_every_steps=0 must be at least 1"),
        ({"ema_decay": 0.9, "ema_warmup_steps": -1}, "ema_warmup_steps=-1 must be at least 0"),
        ({"on_nonfinite": "ignore"}, "on_nonfinite='ignore' must be one of stop, skip"),
    ],
)
def test_impossible_train_states_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_state(**options)


def test_state_without_an_average_has_none_to_evaluate():
    with pytest.raises(ValueError, match="create it with ema_decay"):
        tiny_state().averaged()


def test_skipped_update_leaves_all_but_the_step_and_its_learning_rate():
    rates = jnp.array([0.1, 0.2, 0.4])
    state = tiny_state(sgd(lambda count: rates[count]), on_nonfinite="skip", ema_decay=0.5)
    first, _ = step(state, BATCH)
    skipped, metrics = step(first, {**BATCH, "image": BATCH["image"].at[0].set(jnp.nan)})
    assert not np.isfinite(metrics["gradient_norm"])
    assert int(skipped.step) == 2
    for name in ("params", "batch_stats", "ema_params", "ema_batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, getattr(skipped, name), getattr(first, name))
    traces = [optax.tree.get(each.opt_state, "trace") for each in (skipped, first)]
    jax.tree.map(np.testing.assert_array_equal, *traces)
    third, _ = step(skipped, BATCH)  # at the third learning rate
    second, _ = step(first, BATCH)  # at the second
    for start, double, single in zip(*(jax.tree.leaves(each.params) for each in (first, third, second)), strict=True):
        np.testing.assert_allclose(double - start, 2 * (single - start), rtol=1e-4, atol=1e-6)


def test_parts_of_a_batch_add_up_to_it_where_batch_norm_is_frozen():
    with jax.enable_x64(True):
        model = TINY.clone(batch_norm="frozen", dtype="float64")
        images = jnp.asarray(BATCH["image"], jnp.float64)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tiny_state().variables)
        tx = sgd(0.1, weight_decay=1e-2)
        whole, parts = (create_train_state(model, variables, tx) for _ in range(2))
        add, finish = jax.jit(accumulate), jax.jit(finish_accumulation)
        for _ in range(2):
            whole, metrics = step(whole, {**BATCH, "image": images})
            accumulated = begin_accumulation(parts)
            for rows in (slice(0, 2), slice(2, 4), slice(4, 6)):
                accumulated = add(parts, accumulated, {"image": images[rows], "label": BATCH["label"][rows]})
            parts, of_parts = finish(parts, accumulated)
            for name, value in metrics.items():
                assert float(of_parts[name]) == pytest.approx(float(value), abs=1e-12)
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_rows", [2, 3, 6])  # fewer than the classes, as many, more
def test_labels_may_be_distributions_in_evaluation_too(num_rows):
    rows = {name: array[:num_rows] for name, array in BATCH.items()}
    distributions = {**rows, "label": jax.nn.one_hot(rows["label"], 3)}
    sums, others = (jax.jit(eval_step)(tiny_state(), batch) for batch in (rows, distributions))
    assert int(others["count"]) == num_rows
    assert int(others["correct"]) == int(sums["correct"])
    assert float(others["loss_sum"]) == pytest.approx(float(sums["loss_sum"]), rel=1e-5)


@pytest.mark.parametrize("label", [3, -1])
def test_labels_out_of_range_are_refused_and_under_jit_make_the_loss_nan(label):
    wrong = {**BATCH, "label": BATCH["label"].at[4].set(label)}
    for a_step in (train_step, eval_step):
        with pytest.raises(UserError, match=f"label {label} of row 4 must be from 0 to 2"):
            a_step(tiny_state(), wrong)
    _, metrics = step(tiny_state(), wrong)
    assert np.isnan(metrics["loss"])
    for loss in (softmax_cross_entropy, binary_cross_entropy):
        losses = loss(jnp.zeros((6, 3)), wrong["label"], label_smoothing=0.1)
        assert np.isnan(losses).tolist() == [False] * 4 + [True, False]


def test_labels_of_rows_that_do_not_count_may_be_anything():
    mask = jnp.array([1, 1, 1, 1, 0, 1])
    _, right = step(tiny_state(), {**BATCH, "mask": mask})
    _, padded = step(tiny_state(), {**BATCH, "label": BATCH["label"].at[4].set(-1), "mask": mask})
    assert float(padded["loss"]) == float(right["loss"])
    assert float(padded["gradient_norm"]) == pytest.approx(float(right["gradient_norm"]), rel=1e-6)
