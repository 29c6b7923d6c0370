"""Checkpoints restore bit for bit or are refused; newest and best are kept."""

import errno
import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from state_dicts import plausible_variables

from resnet_jax.checkpoint.background_writer import BackgroundWriter
from resnet_jax.checkpoint.folder import digest, open_best, open_latest
from resnet_jax.errors import DamagedCheckpointError, Preempted, RunError, UserError
from resnet_jax.models import ResNet
from resnet_jax.training import create_train_state, sgd
from resnet_jax.training.checkpointer import restore_state, restore_variables, save_state

GOLDEN = Path(__file__).parents[1] / "golden"

MODEL = ResNet(stage_sizes=(1,), num_filters=4, stem="cifar", num_classes=3)


def state_at(step, seed=0, tx=None):
    state = create_train_state(MODEL, plausible_variables(MODEL, seed), tx or sgd(lambda step: 0.1 / (1 + step)))
    momentum = jax.tree.map(lambda leaf: leaf + seed if leaf.dtype == jnp.float32 else leaf, state.opt_state)
    return state.replace(step=jnp.asarray(step, jnp.int32), opt_state=momentum)


def save_all(folder, *states, **options):
    with BackgroundWriter() as saves:
        for state in states:
            save_state(folder, saves, state, {"position": {}}, **options)
        saves.wait()


def names(folder):
    return sorted(path.name for path in folder.directory.iterdir())


def alter(file, kind):
    """Damage a file in its middle."""
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    if kind == "flip":
        data[middle] ^= 1
        file.write_bytes(data)
    elif kind == "cut":
        file.write_bytes(data[:middle])
    elif kind == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()


def test_restored_state_and_position_are_bit_identical(tmp_path):
    state = state_at(7, seed=1)
    position = {"since_log": {"loss": 0.1 + 0.2, "steps": 3}, "class_names": ["ä", "\ud800"]}
    latest = open_latest(tmp_path)
    with BackgroundWriter() as saves:
        save_state(latest, saves, state, {"position": position, "seed": 3})
    latest = open_latest(tmp_path)
    assert latest.latest_step() == 7
    restored = restore_state(latest, state_at(0), 7)
    assert latest.position(7) == position
    assert latest.manifest(7)["seed"] == 3
    assert digest(restored) == digest(state)
    assert digest(restored) != digest(state_at(7))


def test_saved_state_is_that_of_the_call_even_if_its_buffers_are_donated_at_once(tmp_path):
    state = state_at(1, seed=1)
    expected = digest(state.params)
    overwrite = jax.jit(
        lambda state: state.replace(params=jax.tree.map(lambda x: x * 0 + 9, state.params)), donate_argnums=0
    )
    latest = open_latest(tmp_path)
    with BackgroundWriter() as saves:
        save_state(latest, saves, state, {})
        overwrite(state)
        assert jax.tree.leaves(state.params)[0].is_deleted()  # the copy does not keep it from being donated
        saves.wait()
        assert digest(restore_state(latest, state_at(0), 1).params) == expected


def test_saved_position_is_that_of_the_call_even_if_the_loop_counts_on(tmp_path):
    latest = open_latest(tmp_path)
    sums = {"loss": 1.5}
    with BackgroundWriter() as saves:
        save_state(latest, saves, state_at(1), {"position": {"since_log": sums}})
        sums["loss"] += 1.0
    assert latest.position(1) == {"since_log": {"loss": 1.5}}


def test_two_newest_and_one_best_are_kept(tmp_path):
    latest, best = open_latest(tmp_path), open_best(tmp_path)
    states = [state_at(step) for step in (1, 2, 3, 4)]
    save_all(latest, *states)
    save_all(best, *states)
    assert (names(latest), names(best)) == (["3", "4"], ["4"])
    save_all(best, state_at(2))  # better than what another start has found at a later step
    assert names(best) == ["2"]


def test_step_that_is_there_is_known_and_may_be_replaced(tmp_path):
    latest = open_latest(tmp_path)
    assert not latest.is_saved(1)
    save_all(latest, state_at(1, seed=1))
    assert latest.is_saved(1)
    latest = open_latest(tmp_path)
    assert latest.is_saved(1)
    assert not latest.is_saved(1, item="judged")
    save_all(latest, state_at(1, seed=2), eval_state=state_at(1))
    assert open_latest(tmp_path).is_saved(1, item="judged")
    assert digest(restore_state(latest, state_at(0), 1)) == digest(state_at(1, seed=2))
    assert names(latest) == ["1"]


def test_what_a_killed_run_leaves_is_ignored_and_removed(tmp_path):
    latest = open_latest(tmp_path)
    save_all(latest, state_at(1), state_at(2))
    for leftover in ("3.partial", "0.removed", "1.replaced"):
        (latest.directory / leftover).mkdir()
        (latest.directory / leftover / "part").write_text("")
    assert latest.steps() == [1, 2]
    latest.clean()
    assert names(latest) == ["1", "2"]


def test_step_that_was_to_be_replaced_when_the_run_was_killed_comes_back(tmp_path):
    latest = open_latest(tmp_path)
    save_all(latest, state_at(1, seed=1))
    (latest.directory / "1").rename(latest.directory / "1.replaced")
    latest.clean()
    assert digest(restore_state(latest, state_at(0), 1)) == digest(state_at(1, seed=1))


def test_variables_restore_whatever_the_optimizer(tmp_path):
    state = state_at(3, seed=2)
    latest = open_latest(tmp_path)
    save_all(latest, state)
    restored = restore_variables(latest, state_at(0, tx=optax.adam(1e-3)), 3)
    assert digest(restored.variables) == digest(state.variables)


def test_state_that_is_not_finite_is_not_saved(tmp_path):
    latest = open_latest(tmp_path)
    state = state_at(1)
    scale = state.params["bn1"]["scale"]
    bad = state.replace(params={**state.params, "bn1": {**state.params["bn1"], "scale": scale.at[0].set(jnp.nan)}})
    with BackgroundWriter() as saves:
        save_state(latest, saves, bad, {})
        with pytest.raises(RunError, match=r"1 could not be written: .*\['bn1'\]\['scale'\] is not finite"):
            saves.wait()
    assert latest.steps() == []


def test_fault_of_the_disk_is_no_damage(tmp_path, monkeypatch):
    """Nothing may be set aside that is there and cannot be read just now."""
    latest = open_latest(tmp_path)
    save_all(latest, state_at(1))
    read_bytes = Path.read_bytes

    def fail(path):
        if path.name == "manifest.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(RunError, match=r"manifest.json cannot be read: Input/output error"):
        restore_state(latest, state_at(0), 1)
    monkeypatch.undo()
    for error in (OSError(errno.EMFILE, "x"), MemoryError(), ValueError("… [os_error_code='5']")):

        def refuse(*words, error=error, **options):
            raise error

        monkeypatch.setattr("orbax.checkpoint.Checkpointer.restore", refuse)
        with pytest.raises(
            RunError, match=r"variables cannot be read: (Too many open files|there is not|Input/output)"
        ):
            restore_state(latest, state_at(0), 1)


def test_signal_while_a_checkpoint_is_read_is_no_damage(tmp_path, monkeypatch):
    latest = open_latest(tmp_path)
    save_all(latest, state_at(1))

    def signalled(*words, **options):
        raise Preempted("SIGTERM")

    monkeypatch.setattr("orbax.checkpoint.Checkpointer.restore", signalled)
    with pytest.raises(Preempted):
        restore_state(latest, state_at(0), 1)


def test_after_a_failed_save_nothing_more_is_written(tmp_path):
    """A later checkpoint would say that an earlier best is there."""
    best, latest = open_best(tmp_path), open_latest(tmp_path)
    best.directory.write_text("a file where the folder is to be")
    with BackgroundWriter() as saves:
        save_state(best, saves, state_at(1), {})
        save_state(latest, saves, state_at(1), {})
        with pytest.raises(RunError, match=r"checkpoint .*best/1 could not be written"):
            saves.wait()
        with pytest.raises(RunError, match="could not be written"):
            saves.raise_failure()
    assert latest.steps() == []


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    save_all(open_latest(folder), state_at(1, seed=1))
    return folder / "checkpoints" / "1"


@pytest.mark.parametrize("kind", ["flip", "cut", "empty", "remove"])
@pytest.mark.parametrize("place", ["manifest.json", "variables/manifest.ocdbt", "optimizer/d/*"])
def test_damage_is_detected_and_named(tmp_path, sound, place, kind):
    """`make faults` damages any file at any place."""
    latest = open_latest(tmp_path)
    shutil.copytree(sound, latest.directory / "1")
    file = max((latest.directory / "1").glob(place), key=lambda path: path.stat().st_size)
    alter(file, kind)
    with pytest.raises(DamagedCheckpointError, match=r"checkpoints/1.* is damaged: ") as caught:
        restore_state(latest, state_at(0), 1)
    assert "\n" not in str(caught.value)


def test_what_another_process_than_the_first_does_not_see_is_no_damage(tmp_path, monkeypatch):
    latest = open_latest(tmp_path)
    save_all(latest, state_at(1))
    (latest.directory / "1" / "manifest.json").unlink()
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(RunError, match=r"what process 0 may see is not seen here: .*1 is damaged: it has no manifest"):
        restore_state(latest, state_at(0), 1)


def test_arrays_of_another_step_are_detected(tmp_path):
    latest = open_latest(tmp_path)
    save_all(latest, state_at(1, seed=1), state_at(2, seed=2))
    one, two = (latest.directory / name for name in "12")
    (one / "variables").rename(tmp_path / "aside")
    (two / "variables").rename(one / "variables")
    (tmp_path / "aside").rename(two / "variables")
    for step in (1, 2):
        with pytest.raises(DamagedCheckpointError, match=r"variables is damaged: .* are not what was saved"):
            restore_state(latest, state_at(0), step)
    two.rename(latest.directory / "3")
    with pytest.raises(DamagedCheckpointError, match="3 is damaged: it holds step 2"):
        restore_state(latest, state_at(0), 3)


def test_other_models_are_refused_by_the_names_and_shapes_of_their_arrays(tmp_path):
    latest = open_latest(tmp_path)
    save_all(latest, state_at(1))
    with pytest.raises(UserError) as caught:
        restore_state(latest, state_at(0, tx=optax.adam(1e-3)), 1)
    assert "optimizer is of another model" in str(caught.value)
    wider = ResNet(stage_sizes=(1,), num_filters=8, stem="cifar", num_classes=3)
    template = create_train_state(wider, plausible_variables(wider), sgd(0.1))
    message = (
        r"variables is of another model: \['batch_stats'\]\['bn1'\]\['mean'\] is float32\[4\] there and "
        r"float32\[8\] in the model; .*; and \d+ more"
    )
    with pytest.raises(UserError, match=message) as caught:
        restore_state(latest, template, 1)
    assert not isinstance(caught.value, DamagedCheckpointError)  # there is no use in falling back


def test_other_formats_are_told_from_damage(tmp_path):
    latest = open_latest(tmp_path)
    save_all(latest, state_at(1))
    path = latest.directory / "1" / "manifest.json"
    line = path.read_text().splitlines()[0].replace('"format": 2', '"format": 3')
    path.write_text(f"{line}\n{hashlib.sha256(line.encode()).hexdigest()}\n")
    with pytest.raises(UserError, match="1 is of format 3, and this version reads 2: update resnet_jax") as caught:
        restore_state(latest, state_at(0), 1)
    assert not isinstance(caught.value, DamagedCheckpointError)
    path.write_text(path.read_text().replace("3", "4", 1))
    with pytest.raises(DamagedCheckpointError, match=r"1 is damaged: manifest.json is not what was saved"):
        restore_state(latest, state_at(0), 1)
    path.unlink()
    (latest.directory / "1" / "position").mkdir()
    with pytest.raises(UserError, match="is of the older format 1, without digests") as caught:
        restore_state(latest, state_at(0), 1)
    assert not isinstance(caught.value, DamagedCheckpointError)


def test_checkpoint_of_format_2_is_read_by_every_version_to_come(tmp_path):
    with tarfile.open(GOLDEN / "checkpoint-format-2.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    latest = open_latest(tmp_path)
    assert latest.steps() == [7]
    expected = json.loads((GOLDEN / "checkpoint-format-2.json").read_text())
    assert digest(restore_state(latest, state_at(0), 7)) == expected["sha256"]
    assert latest.position(7)["class_names"] == ["one", "two", "three"]
    assert latest.manifest(7)["seed"] == 5


@pytest.mark.parametrize("change", [lambda x: x.astype(np.float64), lambda x: x.reshape(1, -1), lambda x: -x])
def test_digest_sees_types_shapes_and_bits(change):
    tree = {"a": np.zeros(3, np.float32)}
    assert digest(tree) == digest({"a": np.zeros(3, np.float32)})
    assert digest(tree) != digest({"a": change(tree["a"])})
    assert digest(tree) != digest({"b": tree["a"]})
