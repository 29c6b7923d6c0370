"""The run of a learning-rate range test: its rates, by layer, and on how many devices it is."""

import jax
import numpy as np
import pytest

from resnet_jax.config import load_config
from resnet_jax.preflight.learning_rate import propose_learning_rate
from resnet_jax.preflight.rising_rate import RANGES, num_warmup_steps, range_test, rate_range
from resnet_jax.training.experiment import build_experiment, options_of
from resnet_jax.training.optimizer import OPTIMIZERS
from resnet_jax.training.schedule import exponential

TINY = ["--config.model_args.stage_sizes=(1,)", "--config.image_size=8", "--config.augment.crop_padding=1"]


def tiny_options(*words):
    return options_of(load_config("digits", [*TINY, *words]))


def test_every_optimizer_has_a_range():
    assert set(RANGES) == set(OPTIMIZERS)
    assert rate_range("sgd", None, None, 50) == (1e-5, 10.0)
    assert rate_range("adamw", None, 0.5, 50) == (1e-6, 0.5)


def test_the_rate_that_grows_is_the_one_that_layers_have_factors_of():
    words = ["--config.learning_rate_factors.conv1=0.5", "--config.momentum=0", "--config.nesterov=False"]
    options = tiny_options(*words, "--config.weight_decay=0")
    tx = build_experiment(options, schedule=exponential(0.01, 1.0, 3)).tx
    params = {"conv1": {"kernel": np.ones(1, np.float32)}, "fc": {"kernel": np.ones(1, np.float32)}}
    state = tx.init(params)
    for rate in (0.01, 0.1, 1.0):
        updates, state = tx.update(params, state, params)
        assert updates["fc"]["kernel"] == pytest.approx(-rate)
        assert updates["conv1"]["kernel"] == pytest.approx(-rate / 2)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], 20),  # an epoch
        (["--config.warmup_epochs=0"], 0),
        (["--config.warmup_steps=9"], 9),
        (["--config.batch_size=512"], 2),
        (["--config.warmup_epochs=0", "--config.schedule=one_cycle"], 180),  # of 600
    ],
    ids=str,
)
def test_warmup_is_counted_in_steps(words, expected):
    assert num_warmup_steps(build_experiment(tiny_options(*words))) == expected


def test_what_is_wrong_with_the_configs_own_schedule_is_said_all_the_same():
    with pytest.raises(ValueError, match="the warm-up of 20 steps must be from 0 to the run's 5 steps"):
        range_test(tiny_options("--config.num_steps=5"), 1e-3, 10.0, 100)


def test_eight_devices_propose_what_one_does():
    tests = [range_test(tiny_options(), 1e-3, 10.0, 100, jax.devices()[:num_devices]) for num_devices in (1, 8)]
    rates = [propose_learning_rate(curve, warmup_steps=n, optimizer="sgd").learning_rate for curve, n in tests]
    assert rates[0] == pytest.approx(rates[1], rel=0.1)  # a step earlier or later, for what rounding makes of the loss
