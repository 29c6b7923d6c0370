"""The paper model of many GPUs: its formula by hand, what it must never say, and its table."""

import json
import math

import pytest
from scaling import (
    BATCH_NORMS,
    NUM_GPUS,
    RECIPES,
    Network,
    Recipe,
    all_reduce_seconds,
    main,
    network,
    recipe_rows,
    scaling,
    step_times,
)  # fmt: skip

NET = Network(macs=4_000_000_000, activations=10_000_000, parameters=25_000_000, statistics=50_000, num_norms=50)


def test_an_all_reduce_by_hand():
    # In a node: 2 * 7/8 of 360 MB at 80 % of 450 GB/s, and 15 us.
    assert all_reduce_seconds(360e6, 8) == pytest.approx(1.75e-3 + 15e-6)
    # In four: also 2 * 3/4 of an eighth at 80 % of 50 GB/s, and 10 us for each of two doublings.
    assert all_reduce_seconds(360e6, 32) == pytest.approx(1.75e-3 + 1.6875e-3 + 35e-6)
    assert all_reduce_seconds(0.0, 32, count=3) == pytest.approx(105e-6)


def test_a_step_by_hand():
    times = step_times(NET, 64, 8)
    assert times["compute_ms"] == pytest.approx(1e3 * 64 * 10e6 * 2 * 16 / (3.35e12 * 0.6))  # memory: 10.2 against 3.1
    assert times["gradient_ms"] == pytest.approx(1e3 * (2 * 7 / 8 * 100e6 / 360e9) + 0.015)
    assert times["statistics_ms"] == pytest.approx(1e3 * (2 * 7 / 8 * 400e3 / 360e9) + 150 * 0.015)
    assert times["input_ms"] == pytest.approx(1e3 * 64 / (254 * 14)) == pytest.approx(17.997, abs=1e-3)
    assert times["step_ms"] == times["input_ms"]
    assert times["bound"] == "input"


def test_the_rest_of_the_gradients_all_reduce_waits():
    times = step_times(NET._replace(parameters=2_500_000_000), 64, 8, "local")
    hidden = times["compute_ms"] / 3  # half of the backward pass, two thirds of the whole
    assert times["statistics_ms"] == 0
    assert times["step_ms"] == pytest.approx(times["compute_ms"] + times["gradient_ms"] - hidden)
    assert times["bound"] == "network"


def test_small_batches_take_as_long_as_their_kernels():
    assert step_times(NET, 1, 8, "local")["compute_ms"] == pytest.approx(50 * 10 * 5e-3)
    assert step_times(NET, 1, 8, "local")["bound"] == "batch too small"


def test_resnet50s_counts():
    net = network("resnet50", 224)
    assert (net.parameters, net.statistics, net.num_norms) == (25_557_032, 53_120, 53)
    assert round(net.macs / 1e9, 3) == 4.089
    assert net.activations == 11_113_984 + 1000  # timm's 11.11 M, and the logits


def test_efficiency_never_rises_with_more_gpus():
    for recipe in RECIPES:
        for batch_norm in BATCH_NORMS:
            rows = [row for row in recipe_rows(recipe, batch_norm) if row["efficiency"]]
            efficiencies = [row["efficiency"] for row in rows]
            assert efficiencies == sorted(efficiencies, reverse=True)
            assert efficiencies[0] == 1.0
            for row in rows:
                assert row["step_ms"] > 0.999 * max(row["compute_ms"] + row["statistics_ms"], row["input_ms"])


def test_statistics_of_each_device_are_never_slower():
    for both in zip(scaling("global"), scaling("local"), strict=True):
        assert both[0]["scales_to"] <= both[1]["scales_to"]
    with pytest.raises(ValueError, match="batch_norm='frozen' must be one of global, local"):
        scaling("frozen")


def test_what_fits_no_gpu_has_no_times():
    rows = recipe_rows(Recipe("r", 32768, 224, 90))
    assert [row["bound"] for row in rows[:2]] == ["memory", "memory"]  # 4,096 and 2,048 images of 44 MB in 80 GB
    assert "step_ms" not in rows[0]
    assert rows[2]["efficiency"] == 1.0
    rows = recipe_rows(Recipe("r", 256, 224, 90))
    assert [row["bound"] for row in rows[-2:]] == ["batch too small"] * 2
    steps = 1_281_167 // 256 * 90
    assert rows[0]["hours"] == pytest.approx(steps * rows[0]["step_ms"] / 3_600_000)


def test_a_recipe_that_grows_keeps_its_images_per_gpu():
    rows = recipe_rows(Recipe("r", 256, 224, 100, grows=True))
    assert {row["images_per_gpu"] for row in rows} == {32.0}


def test_the_command_prints_every_recipe_and_count(capsys):
    assert main(["--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert set(results) == {"global", "local"}
    assert [row["num_gpus"] for recipe in results["global"] for row in recipe["rows"]] == [*NUM_GPUS] * 8
    assert math.log2(NUM_GPUS[-1] / NUM_GPUS[0]) == len(NUM_GPUS) - 1
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * 8 + 2 + 8 * 8
    assert lines[1].startswith("torchvision V1  global")
