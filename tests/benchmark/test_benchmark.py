"""The benchmark's figures; that they come out, not how large they are."""

import json
import re
import sys
from types import SimpleNamespace

import jax
import pytest
import reading_images as data
import saving
import training_loop
from PIL import Image

from resnet_jax.benchmark import benchmark, peers
from resnet_jax.benchmark.side_process import SideProcess
from resnet_jax.benchmark.work import Work, check_torch_has, torch_spec
from resnet_jax.cli.main import main
from resnet_jax.errors import UserError


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.slow
def test_benchmark_measures_and_profiles(tmp_path, inference):
    result = benchmark(
        "resnet20", 2, 16, inference=inference, num_steps=1, num_pairs=2, profile_folder=tmp_path / "trace"
    )
    assert result["mode"] == ("inference" if inference else "training")
    assert result["macs"] == (40_551_040 - 640) // 4 + 640  # a quarter of the pixels, the same head
    for name in ("images_per_second", "milliseconds", "compile_seconds", "program_memory", "peak_memory"):
        assert result[name] > 0
    assert 0 < result["share_of_matmul_peak"] < 1
    rows = result["operations"]
    assert sum(row["share"] for row in rows) <= 1.0001
    assert any("layer1" in row["place"] for row in rows)
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


def test_saving_is_measured(capsys):
    assert saving.main(["--model", "resnet20", "--saves", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bytes"] == 4 * (2 * 269_722 + 2 * 688 + 1)  # parameters, momentum, statistics, the step
    assert all(result[name] > 0 for name in ("save", "blocked", "first_blocked", "hash", "restore"))
    assert result["blocked_share"] == result["blocked"] / result["save"]
    with pytest.raises(UserError, match="num_saves=0 must be at least 1"):
        saving.measure_saving("resnet20", 0)


def test_training_step_of_the_block_is_measured():
    assert benchmark("resnext_block", 1, 8, num_steps=1, num_pairs=1)["images_per_second"] > 0


def test_images_that_are_no_squares_are_measured(capsys):
    words = ["benchmark", "--model", "resnet20", "--batch_size", "1", "--image_size", "8x16", "--steps", "1"]
    assert main([*words, "--pairs", "1", "--inference", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["image_size"] == [8, 16]
    assert result["macs"] == (40_551_040 - 640) // 8 + 640  # an eighth of the pixels, the same head
    assert torch_spec("resnet20", 1, (8, 16), "float32", inference=True)["input_shape"] == (1, 8, 16, 3)
    with pytest.raises(UserError, match=r"image_size=\(8, 0\) must be at least 1"):
        benchmark("resnet20", 1, (8, 0))


def test_ratio_is_torchs_time_by_ours_pair_by_pair(monkeypatch):
    ours, torchs = iter([9.0, 2.0, 1.0, 4.0]), iter([4.0, 4.0, 4.0])
    monkeypatch.setattr(Work, "seconds_per_step", lambda self, num_steps: next(ours))
    torch = SimpleNamespace(version="x", variant="y", seconds=[4.0, 4.0, 4.0], peak_memory=1)
    torch.wait_until_warm = torch.close = lambda: None
    torch.seconds_per_step = lambda: next(torchs)
    monkeypatch.setattr(peers, "is_installed", lambda module: True)
    monkeypatch.setattr(peers, "torch_process", lambda spec, variants: torch)
    result = benchmark("resnet20", 1, 8, inference=True, against="torch", num_steps=1, num_pairs=3)
    assert result["ratios"] == [2.0, 4.0, 1.0]
    assert result["ratio"] == 2.0
    assert result["milliseconds"] == 2000.0


def test_torchs_network_has_as_many_parameters_as_ours():
    pytest.importorskip("torch", reason="torch is not installed; the benchmark's other side needs it")
    from resnet_jax.benchmark.torch_side import Network

    work = Work.of("resnet20", 1, 32, "float32", inference=False)
    network = Network(torch_spec("resnet20", 1, 32, "float32", inference=False)["model_args"])
    ours = sum(leaf.size for leaf in jax.tree.leaves(work.state.params))
    assert sum(parameter.numel() for parameter in network.parameters()) == ours == 269_722


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch_size", "0"], "batch_size=0 must be at least 1"),
        (["--image_size", "-1"], "image_size=-1 must be at least 1"),
        (["--model", "resnext_block", "--dtype", "float31"], "float32"),
        (["--model", "resnet21"], "did you mean"),
        (["--against", "tensorflow"], "torch"),
        (["--against", "onnxruntime"], "--against onnxruntime infers only: give --inference"),
        (["--against", "onnxruntime", "--inference", "--dtype", "bfloat16"], "does not compute in bfloat16"),
        (["--model", "resnext_block", "--inference"], "training only"),
        (["--model", "seresnet18", "--against", "torch"], "has no squeeze_excite=True, which seresnet18 has"),
        (["--model", "resnet50_gn", "--against", "torch"], "has no norm_layer='group', which resnet50_gn has"),
        (["--model", "resnetblur50", "--against", "torch"], "has no anti_alias='blur'"),
        (["--profile", __file__], "it is a file"),
        (["--model", "wrn16_8", "--against", "torch"], "has no block_cls='preact_basic'"),
    ],
)
def test_bad_input_is_told_in_one_line(options, message, capsys):
    assert main(["benchmark", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet20", "plain20", "cifar_resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"]
)
def test_these_networks_are_torchs_too(name):
    check_torch_has(name)


def test_a_process_that_ends_while_it_waits_is_said(tmp_path):
    module = tmp_path / "side.py"
    module.write_text("import json\nprint(json.dumps({'version': '1', 'variant': ''}), flush=True)\n")
    process = SideProcess([str(module)], {})
    process.wait_until_warm()
    process._process.wait()
    with pytest.raises(UserError, match="ended with exit code 0"):
        process.measure()
    process.close()


def test_missing_torch_is_told_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="pip install torch"):
        benchmark("resnet20", 1, 8, against="torch", num_pairs=1)


@pytest.mark.slow
def test_others_are_measured_in_turn(capsys):
    words = ["benchmark", "--batch_size", "1", "--image_size", "16", "--pairs", "2", "--steps", "1", "--inference"]
    assert main([*words, "--against", "onnxruntime,xla"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"^onnxruntime +\d+\.\d+ +\d+\.\d+ ", output, re.M)
    assert re.search(r"^xla +\d+\.\d+ +\d+\.\d+ ", output, re.M)
    assert main([*words, "--against", "onnxruntime", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["onnxruntime"]["ratio"] == result["ratio"] > 0
    assert len(result["ratios"]) == 2


def test_json_is_one_object(capsys):
    assert main(["benchmark", "--batch_size", "1", "--image_size", "8", "--pairs", "1", "--steps", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "resnet20"


def test_each_way_to_read_images_is_measured(tmp_path, monkeypatch):
    for i in range(3):
        Image.new("RGB", (40 + i, 30)).save(tmp_path / f"{i}.jpg")
    monkeypatch.setattr(data, "is_installed", lambda module: False)  # TensorFlow takes seconds to import
    result = data.measure_data(tmp_path, image_size=16, batch_size=4, num_pairs=2, num_batches=1, cores=(1,))
    assert (result["images"], result["image_size"], result["batch_size"]) == (3, 16, 4)
    rates = result["cores_1"]
    assert set(rates) == {"ours", "decode", "pillow", "ratio_to_decode", "ratio_to_pillow"}
    assert min(rates.values()) > 0


def test_ratios_to_other_ways_are_medians_of_pairs(monkeypatch):
    rates = {"ours": iter([2.0, 8.0, 3.0]), "decode": iter([4.0, 4.0, 3.0])}

    class Process:
        def __init__(self, module, spec):
            self.rates = rates[spec["way"]]

        def wait_until_warm(self):
            pass

        def measure(self):
            return {"rate": next(self.rates)}

        def close(self):
            pass

    monkeypatch.setattr(data, "SideProcess", Process)
    result = data._compare(["ours", "decode"], {}, 3)
    assert result == {"ours": 3.0, "decode": 4.0, "ratio_to_decode": 1.0}  # of 0.5, 2 and 1


def test_benchmark_of_data_needs_jpegs(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        data.main([str(tmp_path)])
    assert f"error: {tmp_path} holds no JPEGs" in capsys.readouterr().err


def test_training_loop_is_compared_with_its_bare_step(capsys):
    assert (
        training_loop.main(["--batch_size", "64", "--image_size", "8", "--steps", "2", "--pairs", "1", "--json"]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert min(result["bare"], result["loop"], result["ratio"], result["batch_share"]) > 0


def test_side_process_that_ends_is_told_with_its_module():
    with pytest.raises(UserError, match=r"reading_images_side.py ended with exit code 1"):
        SideProcess([str(data.SIDE)], {"cores": 1, "way": "none"}).measure()
