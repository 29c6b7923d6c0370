"""Class weights and losses of several labels an image, against torch's numbers, and over several devices."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.data.transforms.augment import mix
from resnet_jax.distributed.mesh import data_sharding, make_mesh, replicated
from resnet_jax.errors import UserError
from resnet_jax.models import ResNet
from resnet_jax.training import accumulate, begin_accumulation, create_train_state, finish_accumulation, sgd, train_step
from resnet_jax.training.losses import Loss, masked_mean, multi_label_cross_entropy
from resnet_jax.training.train_step import eval_step, multi_label_eval_step

LOGITS = jnp.asarray(np.random.RandomState(0).normal(size=(6, 3)), jnp.float32)
LABELS, WEIGHTS = jnp.array([0, 1, 2, 0, 0, 1]), (0.5, 2.0, 4.0)
SEVERAL = jnp.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]], jnp.uint8)
# torch 2.14, float64: CrossEntropyLoss(weight=WEIGHTS) of reduction "mean" without and with label_smoothing=0.1, and of
# reduction "none"; MultiLabelSoftMarginLoss.
WEIGHTED, SMOOTHED = 1.0923463640608355, 1.1952128539618134
WEIGHTED_ROWS = (0.2687257919, 1.8411351322, 6.2911950551, 0.7636416290, 0.4067594864, 0.8058333639)
GRADIENT = (-0.021882356245157154, 0.007861438290828221, 0.014020917954328934)  # of the first row's logits
SOFT_MARGIN = 0.9202760086493623


def mean(loss, labels, logits=LOGITS, mask=None):
    return masked_mean(loss(logits, labels), mask, (), loss.row_weights(logits, labels))


def test_weighted_losses_are_torchs():
    loss = Loss(class_weights=WEIGHTS)
    assert float(mean(loss, LABELS)) == pytest.approx(WEIGHTED, rel=1e-6)
    assert float(mean(Loss("softmax", 0.1, class_weights=WEIGHTS), LABELS)) == pytest.approx(SMOOTHED, rel=1e-6)
    np.testing.assert_allclose(loss(LOGITS, LABELS), WEIGHTED_ROWS, rtol=1e-6)
    gradient = jax.grad(lambda logits: mean(loss, LABELS, logits))(LOGITS)
    np.testing.assert_allclose(gradient[0], GRADIENT, rtol=1e-5)
    # One-hot targets, as where no image is mixed with another.
    assert float(mean(loss, jax.nn.one_hot(LABELS, 3))) == pytest.approx(WEIGHTED, rel=1e-6)


def test_rows_that_are_masked_have_no_weight():
    loss, mask = Loss(class_weights=WEIGHTS), jnp.array([1, 1, 0, 1, 1, 1])
    kept = np.array(WEIGHTED_ROWS)[[0, 1, 3, 4, 5]].sum() / (3 * 0.5 + 2 * 2.0)
    assert float(mean(loss, LABELS, mask=mask)) == pytest.approx(kept, rel=1e-6)
    assert np.isnan(loss(LOGITS, LABELS.at[1].set(3))[1])
    assert np.isnan(Loss("sigmoid", class_weights=WEIGHTS)(LOGITS, LABELS.at[1].set(-1))[1])


def test_weights_of_the_binary_loss_are_those_of_the_rows_classes():
    plain, weighted = Loss("sigmoid"), Loss("sigmoid", class_weights=WEIGHTS)
    weights = np.array(WEIGHTS)[np.asarray(LABELS)]
    expected = np.sum(np.asarray(plain(LOGITS, LABELS)) * weights) / weights.sum()
    assert float(mean(weighted, LABELS)) == pytest.approx(expected, rel=1e-6)


def test_alike_weights_change_nothing():
    for name in ("softmax", "sigmoid"):
        alike = mean(Loss(name, 0.1, class_weights=(3.0, 3.0, 3.0)), LABELS)
        assert float(alike) == pytest.approx(float(mean(Loss(name, 0.1), LABELS)), rel=1e-6)


def test_multi_label_loss_is_torchs_and_by_hand():
    loss = Loss("sigmoid", multi_label=True)
    assert float(mean(loss, SEVERAL)) == pytest.approx(SOFT_MARGIN, rel=1e-6)
    # Probabilities 3/4 and 1/2, the first there and the second not. Smoothing makes 0.9 of 1, and 0.1 of 0.
    logits, labels = jnp.log(jnp.array([[3.0, 1.0]])), jnp.array([[1, 0]], jnp.uint8)
    first, second = -np.log(0.75), -np.log(0.5)
    assert float(loss(logits, labels)[0]) == pytest.approx((first + second) / 2, rel=1e-6)
    smoothed = -(0.9 * np.log(0.75) + 0.1 * np.log(0.25))
    assert float(multi_label_cross_entropy(logits, labels, 0.2)[0]) == pytest.approx((smoothed + second) / 2, rel=1e-6)
    weighted = Loss("sigmoid", class_weights=(3.0, 1.0), multi_label=True)
    assert float(weighted(logits, labels)[0]) == pytest.approx((3 * first + second) / 4, rel=1e-6)
    assert float(loss.accuracy(logits, labels)[0]) == 1.0  # 1/2 is not above 1/2
    assert float(loss.accuracy(logits, 1 - labels)[0]) == 0.0


def test_mixed_labels_are_between_and_a_threshold_makes_them_whole():
    images, targets = jnp.zeros((2, 4, 4, 3)), jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    _, mixed = mix(jax.random.key(0), images, targets, mixup=1.0)
    share = float(mixed[0, 0])
    assert 0.0 < share < 1.0
    np.testing.assert_allclose(mixed, [[share, 1 - share, 1.0], [1 - share, share, 1.0]], rtol=1e-6)
    whole = multi_label_cross_entropy(LOGITS[:2], mixed, 0.0, 0.01)
    np.testing.assert_array_equal(whole, multi_label_cross_entropy(LOGITS[:2], jnp.ones((2, 3))))


def test_several_labels_need_the_sigmoid_loss():
    with pytest.raises(UserError, match="loss='softmax' must be 'sigmoid' where an image may have several labels"):
        Loss(multi_label=True)


IMAGES = jax.random.normal(jax.random.key(1), (16, 8, 8, 3))
MANY = jnp.asarray(np.random.RandomState(1).randint(0, 3, 16))
MANY_SEVERAL = jnp.asarray(np.random.RandomState(2).randint(0, 2, (16, 3)), jnp.uint8)


@cache
def network(batch_norm):
    """A small model and its variables, drawn in one program."""
    model = ResNet(stage_sizes=(1,), num_filters=4, stem="cifar", num_classes=3, batch_norm=batch_norm)
    return model, jax.jit(lambda key: model.init(key, IMAGES, train=False))(jax.random.key(0))


def stepped(num_devices, batch_norm, labels, **options):
    """The metrics of two updates on so many devices, and of an evaluation after them."""
    state = create_train_state(*network(batch_norm), sgd(0.1), **options)
    mesh = make_mesh(jax.devices()[:num_devices])
    whole, rows = replicated(mesh), data_sharding(mesh)
    batch = jax.device_put({"image": IMAGES, "label": labels}, rows)
    state = jax.device_put(state, whole)
    step = jax.jit(train_step, in_shardings=(whole, rows), out_shardings=(whole, whole))
    losses = []
    for _ in range(2):
        state, metrics = step(state, batch)
        losses.append({name: float(value) for name, value in metrics.items()})
    evaluate = multi_label_eval_step if labels.ndim == 2 else eval_step
    mask = jax.device_put(jnp.arange(16) < 13, rows)
    sums = jax.jit(evaluate, in_shardings=(whole, rows), out_shardings=whole)(state, {**batch, "mask": mask})
    logits = np.asarray(sums.pop("rows")["logit"]) if labels.ndim == 2 else None
    return losses, {name: float(value) for name, value in sums.items()}, logits


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (MANY, {"class_weights": WEIGHTS, "label_smoothing": 0.1}),
        (MANY_SEVERAL, {"loss": "sigmoid", "multi_label": True, "class_weights": WEIGHTS}),
    ],
    ids=["weighted", "several labels"],
)
def test_devices_share_a_weighted_batch_as_one_device_takes_it(labels, options):
    losses, sums, logits = stepped(1, "global", labels, **options)
    for num_devices in (2, 8):
        others, other_sums, other_logits = stepped(num_devices, "global", labels, **options)
        for one, other in zip(losses, others, strict=True):
            assert other == pytest.approx(one, rel=1e-4)
        assert other_sums == pytest.approx(sums, rel=1e-3)
        if logits is not None:
            np.testing.assert_allclose(other_logits, logits, rtol=1e-3, atol=1e-4)


def test_weights_are_summed_over_the_devices_where_each_normalises_its_own_images():
    whole, sharded, by_halves = (
        stepped(n, batch_norm, MANY, class_weights=WEIGHTS)[0]
        for n, batch_norm in ((1, "global"), (2, "local"), (1, "ghost:8"))
    )
    for one, other in zip(sharded, by_halves, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert sharded[0]["loss"] != pytest.approx(whole[0]["loss"], rel=1e-4)  # their statistics are others


@pytest.mark.parametrize("weights", [(), WEIGHTS], ids=["alike", "by class"])
@pytest.mark.parametrize("num_counted", [16, 11, 6])  # the second part has 8, 3 and no rows that count
def test_parts_of_a_batch_add_up_to_it_with_masks_and_class_weights(weights, num_counted):
    state = create_train_state(*network("frozen"), sgd(0.1), class_weights=weights)
    batch = {"image": IMAGES[:16], "label": MANY[:16], "mask": (jnp.arange(16) < num_counted).astype(jnp.float32)}
    accumulated = begin_accumulation(state)
    for rows in (slice(0, 8), slice(8, 16)):
        part = {name: array[rows] for name, array in batch.items()}
        accumulated = jax.jit(accumulate)(state, accumulated, part)
    parts, of_parts = finish_accumulation(state, accumulated)
    whole, metrics = jax.jit(train_step)(state, batch)
    for name, value in metrics.items():
        assert float(of_parts[name]) == pytest.approx(float(value), rel=1e-4)
    for one, other in zip(jax.tree.leaves(parts.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
