"""Checkpoints restore bit for bit; newest and best are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.models import ResNet
from resnet_jax.training import create_train_state, sgd
from resnet_jax.training.checkpoint import digest, open_best, open_newest

MODEL = ResNet(stage_sizes=(1,), num_filters=4, stem="cifar", num_classes=3)


def state_at(step, seed=0, tx=None):
    variables = jax.jit(lambda key: MODEL.init(key, jnp.zeros((1, 8, 8, 3)), train=False))(jax.random.key(seed))
    state = create_train_state(MODEL, variables, tx or sgd(lambda step: 0.1 / (1 + step)))
    momentum = jax.tree.map(lambda leaf: leaf + seed if leaf.dtype == jnp.float32 else leaf, state.opt_state)
    return state.replace(step=jnp.asarray(step, jnp.int32), opt_state=momentum)


def test_restored_state_and_position_are_bit_identical(tmp_path):
    state = state_at(7, seed=1)
    position = {"since_log": {"loss": 0.1 + 0.2, "steps": 3}}
    with open_newest(tmp_path) as checkpoints:
        checkpoints.save(state, position)
    with open_newest(tmp_path) as checkpoints:
        assert checkpoints.newest_step() == 7
        restored = checkpoints.restore(state_at(0), 7)
        assert checkpoints.position(7) == position
    assert digest(restored) == digest(state)
    assert digest(restored) != digest(state_at(7))


def test_saved_state_is_that_of_the_call_even_if_its_buffers_are_donated_at_once(tmp_path):
    state = state_at(1, seed=1)
    expected = digest(state.params)
    overwrite = jax.jit(
        lambda state: state.replace(params=jax.tree.map(lambda x: x * 0 + 9, state.params)), donate_argnums=0
    )
    with open_newest(tmp_path) as checkpoints:
        checkpoints.save(state, {})
        overwrite(state)
        checkpoints.wait()
        assert digest(checkpoints.restore(state_at(0), 1).params) == expected


def test_two_newest_and_one_best_are_kept(tmp_path):
    with open_newest(tmp_path) as newest, open_best(tmp_path) as best:
        for step in (1, 2, 3, 4):
            newest.save(state_at(step), {})
            best.save(state_at(step), {})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["4"]


def test_leftovers_of_a_killed_save_are_ignored_and_removed(tmp_path):
    with open_newest(tmp_path) as checkpoints:
        checkpoints.save(state_at(1), {})
    leftover = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    leftover.mkdir()
    (leftover / "part").write_text("")
    with open_newest(tmp_path) as checkpoints:
        assert checkpoints.newest_step() == 1
        checkpoints.save(state_at(2), {})
        checkpoints.wait()
        assert digest(checkpoints.restore(state_at(0), 2)) == digest(state_at(2))
    assert sorted(path.name for path in leftover.parent.iterdir()) == ["1", "2"]


def test_variables_restore_whatever_the_optimizer(tmp_path):
    state = state_at(3, seed=2)
    with open_newest(tmp_path) as checkpoints:
        checkpoints.save(state, {})
    with open_newest(tmp_path, read_only=True) as checkpoints:
        restored = checkpoints.restore_variables(state_at(0, tx=optax.adam(1e-3)), 3)
    assert digest(restored.variables) == digest(state.variables)


@pytest.mark.parametrize("change", [lambda x: x.astype(np.float64), lambda x: x.reshape(1, -1), lambda x: -x])
def test_digest_sees_types_shapes_and_bits(change):
    tree = {"a": np.zeros(3, np.float32)}
    assert digest(tree) == digest({"a": np.zeros(3, np.float32)})
    assert digest(tree) != digest({"a": change(tree["a"])})
    assert digest(tree) != digest({"b": tree["a"]})
