"""Checks a run's needs of memory and disk against numbers by hand and against what XLA reserves."""

import jax
import pytest
from step_cost import QUICK, lower_step, make_experiment, step_config

from resnet_jax.preflight import memory
from resnet_jax.preflight.memory import estimate_memory, state_bytes
from resnet_jax.training.jit_steps import init_run_state

TINY = {"stage_sizes": (1,), "num_filters": 4}
# conv1 3*3*3*4, two convolutions 3*3*4*4, three norms of 2*4, fc 4*10 + 10
NUM_PARAMETERS = 108 + 2 * 144 + 3 * 8 + 50


def experiment(model="resnet20", batch_size=8, image_size=8, num_devices=1, fields=None, **model_args):
    config = step_config(model, batch_size, image_size, "float32", fields or {})
    config.model_args.update(model_args)
    return make_experiment(config, num_devices)


def test_state_of_a_tiny_model_by_hand():
    tiny = experiment(**TINY)
    memory = estimate_memory(tiny)
    assert memory.parameters == memory.gradients == 4 * NUM_PARAMETERS == 1880
    assert memory.statistics == 4 * 3 * 8
    assert memory.optimizer == 1880 + 4  # the momentum, and the schedule's count
    assert memory.average == 0
    assert memory.images == 8 * 8 * 8 * 3 * (4 + 1)  # normalised, and as they come
    assert state_bytes(init_run_state(tiny, shapes_only=True)) == 1880 + 96 + 1884 + 4  # and the step
    averaging = estimate_memory(experiment(fields={"ema_decay": 0.9}, **TINY))
    assert averaging.average == 1880 + 96


def test_a_device_holds_its_share_of_images_and_activations_and_all_of_the_state():
    alone, shared = estimate_memory(experiment(**TINY)), estimate_memory(experiment(num_devices=4, **TINY))
    assert shared.images == alone.images / 4
    assert shared.activations == pytest.approx(alone.activations / 4, rel=0.05)  # the kernels' share does not shrink
    assert shared.parameters == alone.parameters


def test_remat_keeps_less_of_the_forward_pass():
    kept = estimate_memory(experiment(batch_size=64, image_size=16)).activations
    assert estimate_memory(experiment(batch_size=64, image_size=16, remat=True)).activations < kept / 3


def test_long_stages_are_counted_by_their_first_blocks_as_if_traced_whole(monkeypatch):
    for more in ({"remat": True}, {"stochastic_depth": 0.5}):
        long = experiment(stage_sizes=(1, 10), num_filters=4, **more)
        quick = estimate_memory(long)
        with monkeypatch.context() as patch:
            patch.setattr(memory, "LONG_STAGE", 99)
            assert quick == estimate_memory(long)
    blocks = []
    monkeypatch.setattr(memory, "_kept_bytes", lambda state, *_: blocks.append(len(jax.tree.leaves(state.params))) or 0)
    estimate_memory(long)
    assert max(blocks) < len(jax.tree.leaves(init_run_state(long, shapes_only=True).params)) / 2


def test_frozen_layers_keep_nothing_but_what_passes_through_them():
    fields = {"finetune.trainable": "head", "finetune.weights": "never read here"}
    memory = estimate_memory(experiment(fields=fields, **TINY))
    assert memory.gradients == 4 * 50
    assert memory.optimizer == 4 * 50 + 4
    assert memory.activations == 2 * 8 * 8 * 8 * 4 * 4  # into and out of a convolution of 4 channels


def test_estimate_is_within_a_tenth_of_what_xla_reserves():
    whole = experiment(batch_size=64, image_size=16)
    analysis = lower_step(whole).compile(compiler_options=QUICK).memory_analysis()
    reserved = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
    assert estimate_memory(whole).total == pytest.approx(reserved, rel=0.1)
