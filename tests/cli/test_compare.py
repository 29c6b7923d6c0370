"""Runs side by side: what differs, means over seeds, and what must be said of them."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from commands import refused
from ml_collections import ConfigDict
from PIL import Image
from run_folders import write_run

from resnet_jax.cli.main import main
from resnet_jax.comparison import runs as summaries
from resnet_jax.comparison.groups import group_runs
from resnet_jax.comparison.runs import NO_IMAGES, read_run
from resnet_jax.errors import RunError
from resnet_jax.plotting import comparison


@pytest.fixture
def runs(tmp_path):
    """Three seeds at a rate of 0.1, two at 0.2, and one at 0.2 that is not finished."""
    root = tmp_path / "runs"
    for seed, accuracy in enumerate((0.8, 0.9, 0.85)):
        write_run(root / f"a-{seed}", (0.5, accuracy, 0.7), test=accuracy - 0.1, seed=seed)
    for seed, accuracy in enumerate((0.6, 0.62)):
        write_run(root / f"b-{seed}", (0.5, 0.55, accuracy), test=accuracy, seed=seed, learning_rate=0.2)
    write_run(root / "c", (0.95,), learning_rate=0.2, seed=7)
    return root


@pytest.fixture
def another_users_run(runs, monkeypatch):
    """One of the runs, in whose folder nothing may be looked at."""
    is_file = Path.is_file

    def refuses(path, **options):
        if path.parent == runs / "b-0":
            raise PermissionError(13, "Permission denied")
        return is_file(path, **options)

    monkeypatch.setattr(Path, "is_file", refuses)
    return runs / "b-0"


def compared(capsys, *words):
    assert main(["compare", *map(str, words)]) == 0
    return capsys.readouterr()


def test_seeds_are_one_row_with_mean_and_deviation(runs, tmp_path, capsys):
    picture = tmp_path / "out" / "picture.png"
    output = compared(capsys, runs, "--to", picture).out.splitlines()
    header, _, *rows = output[: output.index("")]
    assert header.split()[:3] == ["run", "n", "learning_rate"]
    assert "seed" not in header
    (unfinished,) = [row for row in rows if "unfinished: step 10 of 30" in row]
    assert unfinished.split()[1] == "1"
    (first,) = [row for row in rows if "a-0 +2" in row]
    assert "85.00 ± 5.00 %" in first  # the best of each run: 80, 90 and 85
    assert "75.00 ± 5.00 %" in first  # the test images
    assert "70.00 ± 0.00 %" in first  # the last validation
    (second,) = [row for row in rows if "b-0 +1" in row]
    assert "61.00 ± 1.41 %" in second
    assert Image.open(picture).width > 600


def test_json_and_csv_have_every_run_and_number(runs, tmp_path, capsys):
    result = json.loads(compared(capsys, runs, "--json", "--to", tmp_path / "p.png").out)
    assert [group["n"] for group in result["groups"]] == [1, 3, 2]  # by the best validation
    group = result["groups"][1]
    assert group["mean"]["test_accuracy"] == pytest.approx(0.75)
    assert group["deviation"]["test_accuracy"] == pytest.approx(0.05)
    assert group["differs"] == {"learning_rate": 0.1}
    assert [run["seed"] for run in group["runs"]] == [0, 1, 2]
    assert group["note"] == "no checkpoint: its images are not known"
    rows = list(csv.DictReader(io.StringIO(compared(capsys, runs, "--csv", "--to", tmp_path / "p.png").out)))
    assert len(rows) == 6
    assert {(row["config"], row["note"]) for row in rows if "a-" in row["run"]} == {(group["config"], group["note"])}
    assert {row["finished"] for row in rows if row["run"].endswith("c")} == {"False"}
    assert next(row for row in rows if row["run"].endswith("b-1"))["test_accuracy"] == "0.62"


def test_rows_are_sorted_by_numbers_fields_and_names(runs, tmp_path, capsys):
    def order(sort):
        groups = json.loads(compared(capsys, runs, "--json", "--sort", sort, "--to", tmp_path / "p.png").out)["groups"]
        return [group["runs"][0]["run"].rpartition("/")[2] for group in groups]

    assert order("name") == ["a-0", "b-0", "c"]
    assert order("test_accuracy") == ["a-0", "b-0", "c"]  # the one without a test is last
    assert order("test_loss")[-1] == "c"
    assert order("learning_rate")[0] == "a-0"
    assert "did you mean 'test_accuracy'?" in refused(capsys, "compare", runs, "--sort", "test_acuracy")


def test_a_seed_whose_numbers_are_not_finite_is_shown_beside_the_others(tmp_path, capsys):
    for seed, loss in enumerate((1.0, math.nan, math.inf)):
        write_run(tmp_path / "runs" / f"{seed}", (0.5,) * 3, test=0.5, val_loss=loss, seed=seed)
    write_run(tmp_path / "runs" / "lost", (0.1,) * 3, test=0.1, val_loss=math.nan, learning_rate=9.0)
    output = compared(capsys, tmp_path / "runs", "--to", tmp_path / "p.png").out
    assert "50.00 ± 0.00 %" in output
    assert "-100" not in output
    text = compared(capsys, tmp_path / "runs", "--json", "--to", tmp_path / "p.png").out
    first, lost = json.loads(text, parse_constant=pytest.fail)["groups"]
    assert (first["mean"]["val_loss"], first["deviation"]["val_loss"]) == (None, None)
    assert "best" not in {*first["mean"], *lost["mean"]}
    assert first["runs"][0]["best"] == 0.5


def test_rows_that_versions_part_say_in_which(tmp_path):
    versions = [{"python": "3.11.7", "jax": "0.10.2", "numpy": number} for number in ("2.1", "2.2")]
    runs = [write_run(tmp_path / name, (0.5,) * 3, seed=seed) for seed, name in enumerate("ab")]
    groups = group_runs(
        [replace(read_run(run), versions=one, images={"data": "d"}) for run, one in zip(runs, versions, strict=True)]
    )
    assert [group.differs for group in groups] == [{"versions": {"numpy": number}} for number in ("2.1", "2.2")]
    unknown = replace(read_run(write_run(tmp_path / "c", (0.5,) * 3)), images={"data": "d"})
    groups = group_runs([unknown, *(run for group in groups for run in group.runs)])
    assert [group.differs["versions"] for group in groups] == [{"numpy": name} for name in ("?", "2.1", "2.2")]


def test_runs_of_other_test_images_stand_apart(tmp_path):
    runs = [read_run(write_run(tmp_path / name, (0.5,) * 3, test=0.5, seed=seed)) for seed, name in enumerate("abc")]
    images = [{"data": "d", "validation data": "v", "test data": test * 32} for test in "aab"]
    groups = group_runs([replace(run, images=one) for run, one in zip(runs, images, strict=True)])
    assert [(len(group.runs), group.differs) for group in groups] == [
        (2, {"test data": "aaaaaaaa"}), (1, {"test data": "bbbbbbbb"})
    ]  # fmt: skip
    images[0] = {"data": "d"}  # an older run, which does not say by which images it was judged
    images[2] = {**images[2], "test data": NO_IMAGES}
    groups = group_runs([replace(run, images=one) for run, one in zip(runs, images, strict=True)])
    assert [(len(group.runs), group.differs) for group in groups] == [
        (2, {"test data": "aaaaaaaa"}), (1, {"test data": "none"})
    ]  # fmt: skip


def test_curves_that_many_fields_part_have_the_names_of_runs(tmp_path, capsys, monkeypatch):
    def keep(curves, picture, title):
        labels.extend(curves)

    labels = []
    monkeypatch.setattr(comparison, "draw_comparison", keep)
    fields = {"batch_size": 64, "weight_decay": 0.0001, "clip_gradient_norm": 1.0, "learning_rate": 0.25}
    write_run(tmp_path / "a", (0.5,) * 3, **fields)
    write_run(tmp_path / "b", (0.5,) * 3, **{field: 2 * value for field, value in fields.items()})
    compared(capsys, tmp_path, "--to", tmp_path / "p.png")
    assert labels == [str(tmp_path / name) for name in "ab"]


def test_rows_are_sorted_by_a_field_that_some_runs_have(tmp_path, capsys):
    write_run(tmp_path / "runs" / "a", (0.5,) * 3)
    write_run(tmp_path / "runs" / "b", (0.5,) * 3, model_args=ConfigDict({"dropout": 0.3}))
    sort = ("--sort", "model_args.dropout", "--to", tmp_path / "p.png")
    output = compared(capsys, tmp_path / "runs", *sort).out.splitlines()
    assert output[2].split()[0].endswith("b")


def test_a_folder_that_cannot_be_read_leaves_the_others(runs, tmp_path, capsys, another_users_run):
    captured = compared(capsys, runs, "--json", "--to", tmp_path / "p.png")
    assert sorted(group["n"] for group in json.loads(captured.out)["groups"]) == [1, 1, 3]
    assert f"warning: {another_users_run} is left out: Permission denied" in captured.err


def test_another_users_run_leaves_the_others(runs, tmp_path, capsys, another_users_run):
    captured = compared(capsys, *sorted(runs.iterdir()), "--json", "--to", tmp_path / "p.png")
    assert sorted(group["n"] for group in json.loads(captured.out)["groups"]) == [1, 1, 3]
    assert f"warning: {another_users_run} is left out: Permission denied" in captured.err


def test_a_run_is_counted_once_by_whatever_names(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    (runs / "latest").symlink_to("a-2")
    words = ("a-0", runs / "a-0", "a-1/", "latest", runs / "a-2", "--json", "--to", tmp_path / "p.png")
    (group,) = json.loads(compared(capsys, *words).out)["groups"]
    assert [run["run"] for run in group["runs"]] == ["a-0", "a-1", "latest"]


def test_how_often_the_best_is_chosen_parts_runs_and_what_has_no_effect_does_not(tmp_path, capsys):
    write_run(tmp_path / "a", (0.5, 0.6, 0.7), num_steps=30, num_epochs=0)
    write_run(tmp_path / "b", (0.5, 0.6, 0.7), num_steps=30, num_epochs=9, seed=1)
    write_run(tmp_path / "c", (0.5, 0.6, 0.7), num_steps=30, num_epochs=0, eval_every_epochs=2)
    groups = json.loads(compared(capsys, tmp_path, "--json", "--to", tmp_path / "p.png").out)["groups"]
    assert {(group["n"], group["differs"]["eval_every_epochs"]) for group in groups} == {(2, 1), (1, 2)}


def test_images_that_may_be_others_are_said(tmp_path):
    places = [write_run(tmp_path / name, (0.5,) * 3, test=0.5, dataset="folder", data_dir=name) for name in "ab"]
    one, other = (replace(read_run(place), images={"data": "the same"}) for place in places)
    more = [{**record, "test_count": 12} if "test_count" in record else record for record in other.records]
    (group,) = group_runs([one, replace(other, records=more)])
    assert group.note == "seed 0 more than once, images in a, b, 10, 12 test images"
    (group,) = group_runs([one])
    assert group.note == ""
    (group,) = group_runs([replace(one, images={})])
    assert group.note == "no checkpoint: its images are not known"


def test_a_run_that_went_on_after_its_end_or_under_other_versions_is_said(runs):
    write_starts(runs / "a-0", *[(60, "EPYC, 2 cores", "aa")] * 2)
    run = replace(read_run(runs / "a-0"), images={"data": "d"})
    first, last = (replace(start, versions={"jax": "0.10.2"}) for start in run.starts)
    assert group_runs([replace(run, starts=(first, last))])[0].note == ""
    killed = replace(first, to_step=20, finished=False)
    assert group_runs([replace(run, starts=(killed, last))])[0].note == ""
    ended = replace(killed, finished=True, versions={"jax": "0.10.1"})
    (group,) = group_runs([replace(run, starts=(ended, last))])
    assert group.note == "went on after an end at step 20, 2 sets of versions"


def test_a_run_that_saved_between_two_records_got_as_far_as_it_saved(runs):
    write_starts(runs / "c", (60, "EPYC, 2 cores", "aa"))  # to step 30
    assert read_run(runs / "c").step == 30


def test_early_stopped_runs_are_finished_and_a_seed_that_is_there_twice_is_said(tmp_path, capsys):
    for name in ("one", "two"):
        write_run(tmp_path / name, (0.9, 0.8, 0.7), num_epochs=99, early_stopping_patience=2)
    output = compared(capsys, tmp_path / "one", tmp_path / "two", "--to", tmp_path / "p.png").out
    assert "unfinished" not in output
    assert "seed 0 more than once" in output


def write_starts(folder, *starts):
    """starts.json of a run, by (seconds, processor, source) of each start."""
    entries = [
        {
            "run_id": "0" * 8, "began": "2026-11-29T07:00:00+00:00", "seconds": seconds, "from_step": 0,
            "to_step": 30, "finished": True,
            "command": "python train.py", "processor": processor, "devices": "1 x cpu", "num_processes": 1,
            "versions": {}, "source": source,
        }
        for seconds, processor, source in starts
    ]  # fmt: skip
    (folder / "starts.json").write_text(json.dumps(entries))


def test_minutes_of_all_starts_machine_and_other_code_are_said(runs, tmp_path, capsys):
    for seed in range(3):
        write_starts(runs / f"a-{seed}", (60 + 60 * seed, "EPYC, 2 cores", "aa"), (60, "EPYC, 2 cores", "aa"))
    words = (runs / "a-0", runs / "a-1", runs / "a-2", "--to", tmp_path / "p.png")
    output = compared(capsys, *words).out
    assert "3.0 ± 1.0" in output  # 2, 3 and 4 minutes
    assert "machine: EPYC, 2 cores" in output
    assert "states of the code" not in output
    write_starts(runs / "a-2", (60, "Xeon, 8 cores", "bb"))
    output = compared(capsys, *words).out
    assert "2 states of the code" in output
    assert "machine: EPYC, 2 cores; Xeon, 8 cores" in output
    write_starts(runs / "b-0", (60, "Xeon, 8 cores", "bb"))
    groups = json.loads(compared(capsys, runs, "--json", "--to", tmp_path / "p.png").out)["groups"]
    assert {group["differs"]["machine"] for group in groups} == {
        "EPYC, 2 cores; Xeon, 8 cores", "Xeon, 8 cores", "?"
    }  # fmt: skip
    assert groups[1]["runs"][0]["command"] == "python train.py"


def test_a_configs_digest_is_of_what_decides_its_numbers(tmp_path, capsys):
    same = [{"seed": 1}, {"seed": 2}, {"log_every_steps": 7}, {"data_dir": "elsewhere"}]
    other = [{"learning_rate": 0.3}, {"num_epochs": 4}]
    for i, fields in enumerate(same + other):
        write_run(tmp_path / f"{i}", (0.5,) * fields.get("num_epochs", 3), **fields)
    result = json.loads(compared(capsys, tmp_path, "--json", "--to", tmp_path / "p.png").out)
    digests = {run["run"][-1]: group["config"] for group in result["groups"] for run in group["runs"]}
    assert digests["0"] == digests["1"] == digests["2"] == digests["3"]
    assert len({digests["0"], digests["4"], digests["5"]}) == 3


def test_what_is_no_run_is_left_out_with_a_word_or_refused(runs, tmp_path, capsys):
    (runs / "notes").mkdir()
    broken = write_run(runs / "broken", (0.5,))
    (broken / "config.json").write_text('{"model": 7}')
    captured = compared(capsys, *sorted(runs.iterdir()), "--to", tmp_path / "p.png")
    assert f"warning: {broken} is left out: config.json: config.model=7 has another type" in captured.err
    assert f"warning: {runs / 'notes'} holds no run: it is left out" in captured.err
    assert "a-0 +2" in captured.out
    assert "does not exist" in refused(capsys, "compare", tmp_path / "absent")
    assert "give the runs to compare" in refused(capsys, "compare")
    assert "must be a .png file" in refused(capsys, "compare", runs, "--to", tmp_path / "p.txt")
    assert "exclude each other" in refused(capsys, "compare", runs, "--csv", "--json")
    assert "is no option of compare; did you mean '--sort'?" in refused(capsys, "compare", runs, "--sorted", "best")


def test_the_table_needs_no_picture_and_no_devices(runs, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(comparison, "save_figure", fail)
    monkeypatch.setattr(jax, "process_index", fail)
    (runs / "notes").mkdir()
    captured = compared(capsys, runs / "notes", runs, "--to", tmp_path / "p.png")
    assert "a-0 +2" in captured.out
    assert f"warning: {tmp_path / 'p.png'} could not be written: No space left on device" in captured.err
    assert json.loads(compared(capsys, runs, "--json").out)["picture"] is None
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "compare.png").mkdir()
    captured = compared(capsys, runs)
    assert "a-0 +2" in captured.out
    assert "no curves are drawn (--to draws them elsewhere)" in captured.err


def test_a_run_that_cannot_be_read_whole_is_no_reason_to_leave_the_others(runs, tmp_path, capsys, monkeypatch):
    def fails(workdir):
        if workdir.name == "c":
            raise RunError(f"{workdir} cannot be read: Stale file handle")
        return read_run(workdir)

    monkeypatch.setattr(summaries, "read_run", fails)
    captured = compared(capsys, runs, "--json", "--to", tmp_path / "p.png")
    assert [group["n"] for group in json.loads(captured.out)["groups"]] == [3, 2]
    assert f"warning: {runs / 'c'} is left out: " in captured.err


def test_two_hundred_runs_are_read(tmp_path, capsys):
    for i in range(200):
        write_run(tmp_path / "runs" / f"{i:03}", (0.5,) * 3, test=0.5, learning_rate=1.0 + i // 4, seed=i % 4)
    result = json.loads(compared(capsys, tmp_path / "runs", "--json", "--to", tmp_path / "p.png").out)
    assert [group["n"] for group in result["groups"]] == [4] * 50
