"""Checkpoints of kinds that are not read: one line says what each is and what to do."""

import pytest
from state_dicts import small

from resnet_jax import load_weights
from resnet_jax.cli.main import main
from resnet_jax.errors import UserError
from resnet_jax.weights.formats.refusals import TABLE_END

KERAS = r"a TensorFlow checkpoint; load it into the network in Keras and save that as \.weights\.h5"
SAVED_MODEL = r"a TensorFlow SavedModel; load it in Keras and save it with model\.save_weights"
SHARDS = r"torch\.distributed\.checkpoint, in shards: make one file of it with python -m torch\.distributed\."


def refusal(path):
    with pytest.raises(UserError) as error:
        load_weights(path, small())
    assert "\n" not in str(error.value)
    return error


@pytest.mark.parametrize(
    ("files", "asked", "line"),
    [
        ({".metadata": b"\x80\x04", "__0_0.distcp": bytes(9)}, "", SHARDS),
        ({".metadata": b"\x80\x04", "__0_0.distcp": bytes(9)}, "__0_0.distcp", SHARDS),
        ({"saved_model.pb": b"\x08\x01\x12\xff"}, "", SAVED_MODEL),
        ({"saved_model.pb": b"\x08\x01\x12\xff"}, "saved_model.pb", SAVED_MODEL),
        ({"m.ckpt-1.index": bytes(50) + TABLE_END, "m.ckpt-1.data-00000-of-00001": bytes(9)}, "", KERAS),
        ({"m.ckpt-1.index": bytes(50) + TABLE_END}, "m.ckpt-1.index", KERAS),
        ({"m.ckpt-1.index": bytes(50) + TABLE_END}, "m.ckpt-1", KERAS),
        ({"m.ckpt-1.data-00000-of-00001": bytes(9)}, "m.ckpt-1.data-00000-of-00001", KERAS),
        ({"checkpoint": b'model_checkpoint_path: "m.ckpt-1"\n'}, "checkpoint", "names a TensorFlow checkpoint"),
        ({"m.onnx": b"\x08\x0a:" + bytes(99)}, "m.onnx", "an ONNX model.*the weights that it was exported from"),
        ({"m": b"\x08\x0a\x12\x07pytorch\x1a" + bytes(99)}, "m", "an ONNX model"),
    ],
)
def test_a_checkpoint_of_another_kind_is_named(tmp_path, files, asked, line):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / asked).match(line)


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    (tmp_path / ".metadata").write_bytes(b"\x80\x04")
    (tmp_path / "__0_0.distcp").write_bytes(bytes(9))
    code = main(["convert", "--model", "resnet18", "--from", str(tmp_path), "--to", str(tmp_path / "out")])
    assert code == 2
    assert "dcp_to_torch" in capsys.readouterr().err


def test_shards_that_torch_wrote_are_named(tmp_path):
    torch = pytest.importorskip("torch")
    import torch.distributed.checkpoint as shards

    shards.save({"conv1.weight": torch.zeros(2)}, checkpoint_id=tmp_path / "saved")
    assert refusal(tmp_path / "saved").match(SHARDS)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_float8_says_what_to_do(tmp_path, suffix):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    state = {"conv1.weight": torch.zeros(8, 3, 7, 7).to(torch.float8_e4m3fn), "bn1.weight": torch.zeros(8)}
    path = tmp_path / f"weights.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    assert refusal(path).match(r"conv1\.weight is a tensor of dtype .*convert the file to bfloat16 first")
