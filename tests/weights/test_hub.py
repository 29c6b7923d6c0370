"""Models on a hub, through the real client against a server on this machine: what arrives, and what is said if not."""

import json
import subprocess
import sys

import numpy as np
import pytest
from golden import weights
from hub_server import FOLDERS, OLDER, TOKEN, Server, environment, published
from PIL import Image

from resnet_jax.weights.hub import HubModel, parse_hub_model
from resnet_jax.weights.safetensors_file import write_safetensors


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The files of a model of timm's and one of transformers', the latter also in two parts."""
    made = {}
    for name in ("timm-test_resnet", "transformers-basic"):
        folder = tmp_path_factory.mktemp(name)
        configs, tensors = published(name)
        write_safetensors(folder / "model.safetensors", tensors, {})
        made[name] = {**configs, "model.safetensors": (folder / "model.safetensors").read_bytes()}
        keys = {"a.safetensors": list(tensors)[::2], "b.safetensors": list(tensors)[1::2]}
        for file, part in keys.items():
            write_safetensors(folder / file, {key: tensors[key] for key in part}, {})
        index = json.dumps({"weight_map": {key: file for file, part in keys.items() for key in part}}).encode()
        made[f"{name} in parts"] = {
            **configs,
            **{file: (folder / file).read_bytes() for file in keys},
            "model.safetensors.index.json": index,
        }
    return made


@pytest.fixture
def server(models):
    server = Server()
    server.files = {
        "timm/test_resnet.r160_in1k": models["timm-test_resnet"],
        "owner/small-resnet": models["transformers-basic"],
        "owner/parts": models["transformers-basic in parts"],
        "owner/private": models["transformers-basic"],
        "owner/gated": models["transformers-basic"],
        "owner/empty": {"config.json": models["transformers-basic"]["config.json"]},
        "owner/elsewhere": {**models["transformers-basic"], "config.json": b'{"model_type": "vit"}'},
    }
    yield server
    server.shutdown()
    server.server_close()


LOAD = """
import sys
from resnet_jax.distributed.log_handler import install_log_handler
from resnet_jax.errors import UserError
from resnet_jax.weights import load_pretrained
install_log_handler()
try:
    variables = load_pretrained(sys.argv[1])
    print(float(abs(variables["params"]["fc"]["bias"]).sum()))
except UserError as error:
    print(error)
"""


def run(server, cache, words, **variables):
    """Return the output of a separate process whose hub is the server."""
    result = subprocess.run(
        [sys.executable, *words],
        env={**environment(server, cache), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in result.stderr, result.stderr
    return result


def load(server, cache, name, **environment):
    result = run(server, cache, ["-c", LOAD, name], **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def bias_sum(name):
    key = "fc.bias" if name.startswith("timm") else "classifier.1.bias"
    return float(np.abs(weights.tensor(key, tuple(FOLDERS[name]["shapes"][key])).astype(np.float32)).sum())


def test_first_call_downloads_and_the_second_needs_no_network(server, tmp_path):
    expected = bias_sum("timm-test_resnet")
    assert float(load(server, tmp_path, "timm/test_resnet.r160_in1k")) == pytest.approx(expected, rel=1e-6)
    assert server.requests == ["HEAD config.json", "GET config.json", "HEAD model.safetensors", "GET model.safetensors"]
    server.requests.clear()
    again = load(server, tmp_path, "test_resnet.r160_in1k", HF_HUB_OFFLINE="1")  # timm's own way to say it
    assert float(again) == pytest.approx(expected, rel=1e-6)
    assert server.requests == []


def test_what_is_in_the_cache_serves_where_the_server_is_ill(server, tmp_path):
    load(server, tmp_path, "owner/small-resnet")
    server.status = 503
    assert float(load(server, tmp_path, "owner/small-resnet")) == pytest.approx(
        bias_sum("transformers-basic"), rel=1e-6
    )


@pytest.mark.parametrize("name", ["owner/parts", f"owner/small-resnet@{OLDER}", "hf-hub:owner/small-resnet@main"])
def test_parts_and_revisions_are_found(server, tmp_path, name):
    assert float(load(server, tmp_path, name)) == pytest.approx(bias_sum("transformers-basic"), rel=1e-6)


REFUSED = {
    "unknown model": ("owner/nothing", {}, "is neither a file here nor a model on the hub that may be read"),
    "unknown revision": ("owner/small-resnet@v9", {}, "owner/small-resnet has no revision 'v9'"),
    "private": ("owner/private", {}, "log in by hf auth login, or set HF_TOKEN"),
    "gated": ("owner/gated", {}, "owner/gated is gated: accept its conditions"),
    "wrong token": ("owner/small-resnet", {"HF_TOKEN": "hf_wrong"}, "the token is refused for owner/small-resnet"),
    "no weights": ("owner/empty", {}, "owner/empty holds none of model.safetensors, "),
    "another network": ("owner/elsewhere", {}, "is of the kind 'vit' of transformers"),
    "offline": ("owner/small-resnet", {"HF_HUB_OFFLINE": "1"}, "and HF_HUB_OFFLINE is set: connect to the network"),
    "no server": ("owner/small-resnet", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 does not answer ("),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_had_is_said_in_a_line(server, tmp_path, kind):
    name, environment, message = REFUSED[kind]
    printed = load(server, tmp_path, name, **environment)
    assert message in printed
    assert "\n" not in printed


def test_a_token_opens_what_is_closed(server, tmp_path):
    printed = load(server, tmp_path, "owner/private", HF_TOKEN=TOKEN)
    assert float(printed) == pytest.approx(bias_sum("transformers-basic"), rel=1e-6)


def test_a_download_that_breaks_off_is_said_and_leaves_nothing_half(server, tmp_path):
    server.cut = 1000
    printed = load(server, tmp_path, "owner/small-resnet")
    assert "owner/small-resnet: model.safetensors cannot be downloaded" in printed
    assert "\n" not in printed
    server.cut = None
    assert float(load(server, tmp_path, "owner/small-resnet")) == pytest.approx(
        bias_sum("transformers-basic"), rel=1e-6
    )


def test_a_file_that_was_damaged_in_the_cache_is_noticed(server, tmp_path):
    load(server, tmp_path, "owner/small-resnet")
    (blob,) = {path.resolve() for path in tmp_path.rglob("model.safetensors")}
    data = bytearray(blob.read_bytes())
    data[-100] ^= 1
    blob.write_bytes(data)
    printed = load(server, tmp_path, "owner/small-resnet")
    assert f"is damaged: its SHA-256 must be {blob.name}" in printed
    assert f"delete {blob}" in printed


def test_commands_take_models_of_the_hub(server, tmp_path):
    Image.new("RGB", (200, 180), (200, 40, 90)).save(tmp_path / "photo.png")
    words = ["-m", "resnet_jax", "predict", str(tmp_path / "photo.png"), "--json", "--top", "3"]
    result = run(server, tmp_path / "hf", [*words, "--weights", "timm/test_resnet.r160_in1k"])
    assert result.returncode == 0, result.stderr
    assert "downloading timm/test_resnet.r160_in1k from" in result.stderr
    answer = json.loads(result.stdout)
    assert (answer["model"], answer["weights"]) == ("test_resnet", "timm/test_resnet.r160_in1k")
    words = ["-m", "resnet_jax", "convert", "--from", "owner/small-resnet", "--to", str(tmp_path / "ours"), "--json"]
    result = run(server, tmp_path / "hf", words)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["preprocess"]["resize"] == 248
    result = run(server, tmp_path / "hf", [*words, "--from", "owner/nothing"])
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("downloading owner/nothing from")


def test_names_of_models_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    assert parse_hub_model("timm/resnet50.a1_in1k") == HubModel("timm/resnet50.a1_in1k", None)
    assert parse_hub_model("microsoft/resnet-50@v1.0") == HubModel("microsoft/resnet-50", "v1.0")
    assert parse_hub_model("weights/resnet50") is None  # a folder of the owner's name is here
    assert parse_hub_model("hf-hub:weights/resnet50") == HubModel("weights/resnet50", None)
    for text in (
        "resnet50",
        "a/b/c",
        "elsewhere/model.pth",
        "elsewhere/model.safetensors",
        "./a/b",
        "/a/b",
        "~a/b",
        "a/",
    ):
        assert parse_hub_model(text) is None, text


@pytest.mark.parametrize("name", ["runs/a--b", "runs/a..b", "опыты/run1"])
def test_names_that_no_model_can_have_are_refused_in_a_line(server, tmp_path, name):
    words = ["-m", "resnet_jax", "convert", "--from", name, "--to", str(tmp_path / "x")]
    result = run(server, tmp_path, words)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
