"""The rate that a range test proposes, on curves made by hand."""

import math

import numpy as np
import pytest

from resnet_jax.errors import RunError, UserError
from resnet_jax.preflight.learning_rate import LossCurve, propose_learning_rate

NUM_STEPS = 200
RATES = np.geomspace(1e-5, 10.0, NUM_STEPS)


def curve_of(losses, rates=RATES):
    curve = LossCurve()
    for rate, loss in zip(rates, losses, strict=False):
        curve.add(float(rate), float(loss))
        if curve.has_diverged:
            break
    return curve


def valley(begin=1e-3, turn=0.1, high=2.3, low=0.5, steep=3.0):
    """From `high` down to `low` between the rates `begin` and `turn`, and up from there, by the rate's logarithm."""
    fall = np.interp(np.log(RATES), np.log([begin, turn]), [high, low])
    return fall + steep * np.maximum(np.log(RATES / turn), 0.0)


def proposed(losses, *, warmup_steps=20, optimizer="sgd"):
    return propose_learning_rate(curve_of(losses), warmup_steps=warmup_steps, optimizer=optimizer)


def test_average_is_that_of_the_losses_so_far_without_bias():
    curve = curve_of([2.0, 1.0, 4.0])
    by_hand = [2.0, (0.9 * 2 + 1) / 1.9, (0.81 * 2 + 0.9 + 4) / 2.71]
    assert curve.averages == pytest.approx(by_hand)
    assert not curve.has_diverged


def test_rate_is_that_at_which_the_loss_turns():
    result = proposed(valley(turn=0.1))
    assert 0.1 <= result.learning_rate <= 0.2
    assert 0.1 <= result.lowest_rate < result.turn_rate
    assert result.learning_rate == float(f"{result.turn_rate:.2g}")
    assert result.lowest_loss == pytest.approx(min(curve_of(valley()).averages))
    assert proposed(valley(turn=0.01, begin=1e-4)).learning_rate == pytest.approx(result.learning_rate / 10, rel=0.1)


@pytest.mark.parametrize(("warmup_steps", "times"), [(0, 0.5), (9, 0.5), (10, 1.0), (99, 1.0), (100, 2.0), (9999, 2.0)])
def test_run_without_a_warmup_gets_half_and_one_with_a_long_one_twice_as_much(warmup_steps, times):
    result = proposed(valley(steep=0.5), warmup_steps=warmup_steps)
    assert result.learning_rate == pytest.approx(times * result.turn_rate, rel=0.06)  # two digits
    assert result.turn_rate == proposed(valley(steep=0.5)).turn_rate


def test_long_warmup_does_not_lead_to_where_the_loss_diverged():
    steep = proposed(valley(steep=30.0), warmup_steps=100)
    assert steep.learning_rate == float(f"{steep.turn_rate:.2g}")


@pytest.mark.parametrize(
    ("optimizer", "low", "high"),
    [("adamw", 0.09, 0.12), ("lars", 0.09, 0.12), ("lion", 0.01, 0.02)],  # the average comes ten steps later
)
def test_steps_as_long_as_the_rate_give_the_end_of_the_fall_and_lions_its_middle(optimizer, low, high):
    result = proposed(valley(begin=1e-3, turn=0.1), optimizer=optimizer)
    assert low <= result.learning_rate <= high
    assert result.turn_rate == proposed(valley()).turn_rate
    assert proposed(valley(), optimizer=optimizer, warmup_steps=0) == result


@pytest.mark.parametrize("seed", range(20))
def test_noise_moves_the_rate_little(seed):
    noise = np.random.default_rng(seed).normal(0.0, 0.15, NUM_STEPS)
    assert 0.08 <= proposed(valley() + noise).learning_rate <= 0.25


def test_a_second_valley_behind_a_hill_is_not_gone_to():
    hill = 2.0 * np.exp(-0.5 * (np.log(RATES / 0.25) / 0.4) ** 2)
    second = np.where(RATES > 0.1, -0.2, 0.0)
    losses = valley(turn=0.1, steep=0.0) + hill + second
    assert np.argmin(losses) > 170
    assert proposed(losses).learning_rate < 0.2


@pytest.mark.parametrize("end", [math.nan, math.inf])
def test_loss_that_is_suddenly_not_finite_ends_the_curve_and_the_rate_is_below(end):
    losses = valley(turn=10.0)
    losses[150:] = end
    curve = curve_of(losses)
    assert len(curve.losses) == 151
    assert curve.has_diverged
    result = propose_learning_rate(curve, warmup_steps=20, optimizer="sgd")
    assert RATES[149] / 3 < result.learning_rate < RATES[149]
    assert result.turn_rate is None


def test_loss_that_never_diverges_gives_the_rate_where_it_ceases_to_fall():
    losses = valley(turn=0.1, steep=0.0) + 1e-3 * np.maximum(np.log(RATES / 0.2), 0.0)
    curve = curve_of(losses)
    assert not curve.has_diverged
    assert len(curve.losses) == NUM_STEPS
    result = propose_learning_rate(curve, warmup_steps=20, optimizer="sgd")
    assert 0.1 <= result.learning_rate <= 0.3  # the average comes ten steps later
    assert result.turn_rate is None


def test_rate_is_not_far_beyond_the_lowest_of_a_long_plateau():
    losses = valley(turn=0.01, begin=1e-4, steep=0.0)
    losses = losses + 0.02 * np.maximum(np.log(RATES / 0.02), 0.0)
    result = proposed(losses)
    assert result.turn_rate > 4 * result.lowest_rate
    assert result.learning_rate == float(f"{4 * result.lowest_rate:.2g}")


def test_fall_of_a_tenth_is_seen_where_the_loss_can_rise_little_above_it():
    """The loss of a thousand classes: from 6.9 to 6.5 in so few steps, and back to 6.9, which is chance."""
    losses = np.minimum(valley(high=6.9, low=6.5, steep=0.5), 6.9)
    assert 0.1 <= proposed(losses).learning_rate <= 0.4


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        (np.full(NUM_STEPS, 2.3), UserError, "the loss did not fall up to a rate of 10: end with a higher one"),
        (2.3 + 0.3 * np.sin(np.arange(NUM_STEPS)), UserError, "the loss did not fall up to a rate of 10"),
        (valley(turn=1e-5, begin=1e-6, low=2.3), UserError, "did not fall before it diverged at a rate of 0.00018"),
        (valley(turn=20.0), UserError, "the loss still falls at a rate of 10: end with a higher one"),
        (np.full(NUM_STEPS, math.nan), RunError, "the loss is not finite at the first step"),
        (np.array([2.3, math.nan]), UserError, "did not fall before it diverged at a rate of 1.1e-05"),
    ],
    ids=["flat", "swinging", "rising", "falling", "nan", "nan after the first"],
)
def test_curve_without_a_turn_says_what_to_do(losses, error, message):
    with pytest.raises(error, match=message):
        proposed(losses)
