"""A run's folder: refused when it is another's, and a log that survives crashes."""

import errno
import json
import os
import re
import stat

import pytest

from resnet_jax.errors import RunError, UserError
from resnet_jax.training import workdir as module
from resnet_jax.training.workdir import LOCK_FILE, MetricsLog, lock_workdir, write_text

FIELDS = {"seed": 0, "augment.flip": True, "mean": [0.5, 0.5], "num_epochs": 3}
STORED = {"seed": 0, "augment": {"flip": True}, "mean": [0.5, 0.5], "num_epochs": 3}


def check_workdir(workdir, fields, may_change, defaults=None):
    module.check_workdir(workdir, fields, may_change, defaults or {})


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(STORED))
    return tmp_path


def test_new_empty_and_own_folders_are_accepted(tmp_path, workdir):
    check_workdir(tmp_path / "new", FIELDS, ())
    (tmp_path / "empty").mkdir()
    check_workdir(tmp_path / "empty", FIELDS, ())
    check_workdir(workdir, FIELDS, ())
    check_workdir(workdir, {**FIELDS, "num_epochs": 9}, ("num_epochs",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "holds another run: config.seed is 0 there and 1 here; choose another --workdir"),
        ({"augment.flip": False}, "config.augment.flip is True there and False here"),
        ({"num_epochs": 4}, "config.num_epochs is 3 there and 4 here"),
    ],
)
def test_another_runs_folder_is_refused(workdir, change, message):
    with pytest.raises(ValueError, match=message):
        check_workdir(workdir, {**FIELDS, **change}, ())


def test_run_that_lacks_a_field_has_its_default(workdir):
    check_workdir(workdir, {**FIELDS, "new": 0}, (), {"new": 0})
    with pytest.raises(ValueError, match=r"config.new is 0 there and 1 here"):
        check_workdir(workdir, {**FIELDS, "new": 1}, (), {"new": 0})


def test_what_a_start_leaves_that_was_killed_before_its_first_step_is_no_obstacle(tmp_path):
    (tmp_path / LOCK_FILE).touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "best").mkdir()
    check_workdir(tmp_path, FIELDS, ())


def test_foreign_folders_and_files_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"is no run's: it holds 'thesis.tex' but no config.json"):
        check_workdir(tmp_path, FIELDS, ())
    with pytest.raises(ValueError, match=r"thesis.tex is a file"):
        check_workdir(tmp_path / "thesis.tex", FIELDS, ())


def test_leftover_of_a_first_start_that_was_killed_at_once_is_no_obstacle(tmp_path):
    (tmp_path / ".lock").write_text("")
    (tmp_path / "config.json.partial").write_text("{")
    check_workdir(tmp_path, FIELDS, ())


def test_checkpoints_of_another_user_are_refused_before_anything_is_trained(workdir, monkeypatch):
    (workdir / "best").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != workdir / "best" and access(path, mode))
    with pytest.raises(UserError, match=r"/best cannot be written to: choose another --workdir"):
        check_workdir(workdir, FIELDS, (), {})


def test_folders_that_cannot_be_made_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file"):
        check_workdir(tmp_path / "file" / "run", FIELDS, ())
    with pytest.raises(ValueError, match="cannot be written to"), lock_workdir(tmp_path / "file" / "run"):
        pass


def test_second_holder_of_a_workdir_is_refused(tmp_path):
    with lock_workdir(tmp_path), pytest.raises(ValueError, match="in use by another run"), lock_workdir(tmp_path):
        pass
    with lock_workdir(tmp_path):
        pass


def test_log_drops_a_line_cut_off_and_what_comes_after_a_step(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.append({"step": step, "epoch": 0.5, "train_loss": 0.1 * step})
    with log.path.open("a") as file:
        file.write('{"step": 4, "tra')
    log = MetricsLog(tmp_path)
    assert [record["step"] for record in log.records] == [1, 2, 3]
    log.forget_after(2)
    lines = log.path.read_text().splitlines()
    assert [json.loads(line)["train_loss"] for line in lines] == [0.1, 0.2]


def test_log_gives_an_evaluation_back(tmp_path):
    log = MetricsLog(tmp_path)
    result = {"loss": 0.1 + 0.2, "accuracy": 2 / 3, "count": 3, "ema_loss": 0.5}
    log.append({"step": 2, "epoch": 0.5, "train_loss": 1.0, "train_accuracy": 0.5})
    log.append({"step": 2, "epoch": 0.5, **{f"val_{name}": value for name, value in result.items()}})
    log = MetricsLog(tmp_path)
    assert log.evaluation(2, "val") == result
    assert log.evaluation(2, "test") is None
    assert log.evaluation(1, "val") is None


def test_log_leaves_out_damaged_lines_and_keeps_the_others(tmp_path, capsys):
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3, 4):
        log.append({"step": step, "epoch": 0.5})
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(lines[0] + b"\xff" + lines[1] + lines[2].replace(b"step", b"stfp") + lines[3])
    assert [record["step"] for record in MetricsLog(tmp_path).records] == [1, 4]
    assert f"warning: {log.path}: 2 damaged lines are left out" in capsys.readouterr().err


def test_log_is_copied_to_a_name_that_is_free(tmp_path):
    log = MetricsLog(tmp_path)
    log.append({"step": 1, "epoch": 0.5})
    (tmp_path / "metrics-1.jsonl").write_text("older")
    assert log.keep_copy() == tmp_path / "metrics-2.jsonl"
    assert (tmp_path / "metrics-2.jsonl").read_bytes() == log.path.read_bytes()
    assert (tmp_path / "metrics-1.jsonl").read_text() == "older"


def test_workdir_that_is_made_is_the_users_alone(tmp_path, capsys):
    before = os.umask(0)
    try:
        with lock_workdir(tmp_path / "runs" / "one"):
            assert stat.S_IMODE((tmp_path / "runs" / "one").stat().st_mode) == 0o700
        assert capsys.readouterr().err == ""
        (tmp_path / "open").mkdir(mode=0o777)
        with lock_workdir(tmp_path / "open"):
            pass
        assert "warning: everybody may write in workdir" in capsys.readouterr().err
    finally:
        os.umask(before)


def test_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_text(path, "one")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"config.json could not be written: No space left on device"):
        write_text(path, "two")
    assert path.read_text() == "one"
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_files_are_replaced_whole(tmp_path):
    path = tmp_path / "config.json"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert [re.sub("partial.*", "", file.name) for file in tmp_path.iterdir()] == ["config.json"]
