"""The callbacks of docs/experiments.md with the real packages, offline: what arrives, also after kills and a resume."""

import json
import os
import signal
import struct
import subprocess
import sys
from collections import Counter

import pausing
import pytest
from event_files import read_events
from pages import ROOT, read_blocks
from processes import TINY, records
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from resnet_jax.training.starts import read_starts

KILLED_AT = {60: signal.SIGKILL, 120: signal.SIGTERM, 160: signal.SIGKILL}
PROGRAM = """
import sys
import resnet_jax
{callback}
{pause}
config = resnet_jax.load_config("digits", sys.argv[1:])
result = resnet_jax.train(config, "run", [{name}(), Pause()])
sys.exit(75 if result.interrupted_by else 0)
"""
FIELDS = [
    *(word for word in TINY if word.startswith("--config.")), "--config.num_steps=200", "--config.log_every_steps=20",
]  # fmt: skip
OFFLINE = {
    "WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_TRACKING_URI": "file:mlruns",
}  # fmt: skip


def train_and_kill(folder, name, arrived=lambda: True):
    """Trains with a callback of docs/experiments.md in a process that is killed three times, and once more when it is
    finished; returns its records.
    """
    page = read_blocks(ROOT / "docs" / "experiments.md")
    (callback,) = [block.code for block in page if f"class {name}:" in block.code]
    code = PROGRAM.format(callback=callback, pause=pausing.PROGRAM.format(steps=set(KILLED_AT)), name=name)

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", code, *FIELDS], cwd=folder, env={**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    for step, number in KILLED_AT.items():
        code_of_end = pausing.kill_at(start(), folder / "run", step, number, arrived)
        assert code_of_end == (75 if number == signal.SIGTERM else -number)
    for _ in range(2):
        process = start()
        errors = process.communicate(timeout=240)[1]
        assert process.returncode == 0, errors
    return records(folder / "run")


def wandb_rows(path):
    """The rows that were logged, of a .wandb file: records cut into parts in blocks of 32 KiB, as LevelDB's log."""
    from wandb.proto import wandb_internal_pb2

    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        part = data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind == 0 or len(part) < length:  # of a process that was killed
            return
        record += part
        if kind in (1, 4):  # whole, or the last part
            message = wandb_internal_pb2.Record.FromString(record)
            if message.WhichOneof("record_type") == "history":
                items = message.history.item
                yield {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
            record = b""


@pytest.mark.slow
def test_weights_and_biases_gets_every_record_once(tmp_path):
    pytest.importorskip("wandb")

    def rows():
        return [row for file in files() for row in wandb_rows(file)]

    def files():
        return sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))

    def arrived():  # W&B writes from a process of its own, every 0.1 s
        return len(rows()) == len(records(tmp_path / "run"))

    expected = train_and_kill(tmp_path, "WandbCallback", arrived)
    assert len(files()) == len(KILLED_AT) + 2
    assert {file.name for file in files()} == {f"run-{read_starts(tmp_path / 'run')[0].run_id}.wandb"}  # one run
    assert [row["_step"] for row in rows()] == list(range(1, len(expected) + 1))
    own = ("_step", "_runtime", "_timestamp", "images_per_second")
    assert [{name: value for name, value in row.items() if name not in own} for row in rows()] == expected


@pytest.mark.slow
def test_mlflow_gets_every_record_once(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    expected = train_and_kill(tmp_path, "MLflowCallback")
    for name, value in {**OFFLINE, "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri()}.items():
        monkeypatch.setenv(name, value)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "0.1"
    for name in {name for record in expected for name in record}:
        history = client.get_metric_history(run.info.run_id, name)
        arrived = Counter((metric.step, metric.value) for metric in history)
        assert arrived == Counter((record["step"], record[name]) for record in expected if name in record), name


@pytest.mark.slow
def test_tensorboard_gets_the_hyperparameters_and_the_result_once(tmp_path):
    expected = train_and_kill(tmp_path, "HParamsCallback")
    events = [event for path in (tmp_path / "run").glob("events.out.tfevents.*") for event in read_events(path)]
    values = {}
    for event in events:
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                assert value.tag not in values
                values[value.tag] = HParamsPluginData.FromString(value.metadata.plugin_data.content)
    hparams = values["_hparams_/session_start_info"].session_start_info.hparams
    assert hparams["learning_rate"].number_value == 0.1
    assert hparams["augment.crop_padding"].number_value == 1
    assert [info.name.tag for info in values["_hparams_/experiment"].experiment.metric_infos] == ["accuracy/test"]
    (last,) = {v.simple_value for e in events for v in e.summary.value if v.tag == "accuracy/test"}
    assert last == pytest.approx(expected[-1]["test_accuracy"])
