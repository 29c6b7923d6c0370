"""Learning rates by step, against hand-computed numbers and torch's."""

import numpy as np
import pytest

from resnet_jax.training.schedule import exponential, make_schedule

# torch.optim.lr_scheduler.OneCycleLR(max_lr=0.4, total_steps=20, cycle_momentum=False), torch 2.13.
TORCH_ONE_CYCLE = [
    0.016, 0.0526687371, 0.148668737, 0.267331263, 0.363331263, 0.4, 0.394985602, 0.380193853, 0.356366471,
    0.324698262, 0.286777201, 0.244504809, 0.2000008, 0.155496791, 0.113224399, 0.0753033384, 0.043635129,
    0.0198077472, 0.00501599751, 1.6e-06,
]  # fmt: skip


def rates(*arguments, steps, **options):
    schedule = make_schedule(*arguments, **options)
    return [float(schedule(step)) for step in steps]


def test_constant():
    assert rates("constant", 0.1, 10, steps=[0, 9]) == pytest.approx([0.1, 0.1])


def test_exponential_grows_by_the_same_factor_at_each_step():
    schedule = exponential(1e-3, 10.0, 5)
    assert [float(schedule(step)) for step in range(5)] == pytest.approx([1e-3, 1e-2, 0.1, 1.0, 10.0])


def test_step_decays_at_its_boundaries():
    actual = rates("step", 0.1, 64_000, steps=[31_999, 32_000, 47_999, 48_000], decay_steps=[32_000, 48_000])
    assert actual == pytest.approx([0.1, 0.01, 0.01, 0.001], rel=1e-6)


def test_boundaries_count_from_the_runs_start_also_with_a_warmup():
    options = {"decay_steps": [6], "decay_factor": 0.5, "warmup_steps": 4}
    actual = rates("step", 1.0, 10, steps=range(8), **options)
    assert actual == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.5])


def test_cosine_runs_from_the_warmups_end_to_zero():
    actual = rates("cosine", 0.2, 14, steps=[0, 2, 4, 9, 14], warmup_steps=4)
    assert actual == pytest.approx([0.0, 0.1, 0.2, 0.1, 0.0], abs=1e-7)


def test_warmup_may_start_above_zero_or_stay_low():
    linear = rates("constant", 1.0, 9, steps=[0, 1, 2, 3], warmup_steps=2, warmup_start_factor=0.5)
    assert linear == pytest.approx([0.5, 0.75, 1.0, 1.0])
    options = {"warmup_steps": 2, "warmup_start_factor": 0.1, "warmup_shape": "constant"}
    assert rates("constant", 1.0, 9, steps=[0, 1, 2], **options) == pytest.approx([0.1, 0.1, 1.0])


def test_one_cycle_is_torchs():
    np.testing.assert_allclose(rates("one_cycle", 0.4, 20, steps=range(20)), TORCH_ONE_CYCLE, rtol=1e-5, atol=2e-8)


def test_held_rates_change_by_epoch():
    by_step = rates("cosine", 1.0, 12, steps=[0, 4, 8])
    held = rates("cosine", 1.0, 12, steps=range(12), hold_steps=4)
    assert held == pytest.approx(np.repeat(by_step, 4).tolist())


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("cosin", 0.1, 10), {}, "schedule='cosin' must be one of .*did you mean 'cosine'"),
        (("cosine", -0.1, 10), {}, "learning_rate=-0.1 must be at least 0"),
        (("cosine", 0.1, 10), {"warmup_steps": 11}, "warm-up of 11 steps must be from 0 to the run's 10"),
        (("step", 0.1, 10), {}, "schedule='step' needs decay_steps or decay_epochs"),
        (("step", 0.1, 10), {"decay_steps": [5, 3]}, r"decay steps \(5, 3\) must increase"),
        (("step", 0.1, 10), {"decay_steps": [3], "warmup_steps": 3}, "come after the warm-up's 3"),
        (("one_cycle", 0.1, 10), {"warmup_steps": 3}, "warms up by itself"),
        (("constant", 0.1, 10), {"warmup_shape": "square"}, "warmup_shape='square' must be one of linear, constant"),
    ],
)
def test_impossible_schedules_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(*arguments, **options)
