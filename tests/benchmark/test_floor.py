"""Checks the least cost of a step on a GPU: bytes of one block counted by hand, FLOPs as the program's own count."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from step_cost import step_macs

from resnet_jax.models import ResNet

PATH = Path(__file__).parents[2] / "benchmarks" / "floor.py"


@pytest.fixture(scope="module")
def account():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("benchmarks_floor", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    return module


def by_kind(kernels):
    totals = {}
    for kernel in kernels:
        totals[kernel.kind] = totals.get(kernel.kind, 0) + kernel.num_bytes
    return totals


def test_the_bytes_of_one_block_by_hand(account):
    """Two images of 8 x 8 pixels, 4 filters, float32: the stem's convolution, a block of two, the head of 3 classes."""
    model = ResNet(stage_sizes=(1,), num_filters=4, stem="cifar", num_classes=3)
    image, maps, pooled, logits = (4 * number for number in (2 * 64 * 3, 2 * 64 * 4, 2 * 4, 2 * 3))
    stem, kernel, head = (4 * number for number in (9 * 3 * 4, 9 * 4 * 4, 4 * 3))
    num_parameters = (stem + 2 * kernel + head) // 4 + 3 * 2 * 4 + 3
    assert by_kind(account.kernels_of(model, 2, 8)) == {
        "images": image // 4 + image,
        "convolutions": (image + stem + maps) + 2 * (maps + kernel + maps) + (pooled + head + logits),
        "statistics": 3 * maps,
        "normalise": 2 * (maps + maps),
        "pooling": maps + maps + pooled,  # of the sum of the last norm and the shortcut
        "norm sums": (maps + pooled) + 2 * (maps + maps),
        "norm gradients": (maps + pooled + maps) + 2 * (maps + maps + maps),
        # In the block's first the shortcut's share, the pooled features' cotangent, is added.
        "input gradients": (logits + head + pooled) + 2 * (maps + kernel + maps) + pooled,
        "kernel gradients": (image + stem + maps) + 2 * (maps + kernel + maps) + (pooled + head + logits),
        "optimizer": 20 * num_parameters,
    }
    assert by_kind(account.kernels_of(model, 2, 8, inference=True)) == {
        "images": image // 4 + image,
        "convolutions": (image + stem + maps) + 2 * (maps + kernel + maps) + maps + (pooled + head + logits),
        "pooling": maps + pooled,
    }


def test_a_projection_is_read_for_its_own_norm_and_looks_at_every_other_pixel(account):
    """A second stage: 8 filters at 4 x 4 pixels, so that its arrays are half as large."""
    one, two = (
        by_kind(account.kernels_of(ResNet(stage_sizes=sizes, num_filters=4, stem="cifar", num_classes=None), 2, 8))
        for sizes in ((1,), (1, 1))
    )
    maps, half, pooled = 4 * 2 * 64 * 4, 4 * 2 * 16 * 8, 4 * 2 * 4
    kernels = [4 * number for number in (9 * 4 * 8, 9 * 8 * 8, 4 * 8)]
    assert maps == 2 * half
    grown = {kind: two[kind] - one[kind] for kind in one}
    assert grown["statistics"] == 3 * half
    # The first at stride 2, the second, and the projection, which needs a quarter of what it is given.
    assert grown["convolutions"] == sum(kernels) + (maps + half) + (half + half) + (maps // 4 + half)
    # Before, the last sum was pooled and not written; now it is, and the new one, of two norms, is pooled.
    assert grown["normalise"] == (maps + maps + maps) + (half + half)
    assert grown["pooling"] == (half + half + 2 * pooled) - (maps + maps + pooled)
    # Of the sum that two convolutions read, what the projection gave is read and added; the shortcut of the first
    # stage's block now has the sum's cotangent as its share.
    inputs = (half + maps + maps) + (half + half) + (half + maps) + sum(kernels)
    assert grown["input gradients"] == inputs + maps - pooled


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnext50_32x4d", "seresnet50")),
        "resnet50d",
        "preact_resnet20",
    ],
)
def test_flops_are_those_of_the_program(account, name):
    result = account.floor(name, 4, 32, "float32", 1.0, 1.0)
    macs_forward, macs_step = step_macs(name, 4, 32)
    assert result["flops"] == 2 * macs_step
    if name != "preact_resnet20":
        assert account.floor(name, 4, 32, "float32", 1.0, 1.0, inference=True)["flops"] == 2 * macs_forward


def test_bytes_grow_with_the_batch_and_with_the_dtype(account):
    one, two, three = (account.floor("resnet50", size, 224, "bfloat16", 3e12, 1e15) for size in (32, 64, 96))
    assert one["bytes"] < two["bytes"] < three["bytes"]
    assert three["bytes"] - two["bytes"] == two["bytes"] - one["bytes"]
    wide = account.floor("resnet50", 32, 224, "float32", 3e12, 1e15)
    for kind in ("statistics", "normalise", "norm sums", "norm gradients"):
        assert wide["gigabytes"][kind] == pytest.approx(2 * one["gigabytes"][kind], rel=1e-3)  # pooled: float32 in both
    assert wide["flops"] == one["flops"]


def test_the_floor_is_the_larger_time_and_layer_by_layer_it_is_no_less(account):
    for peak in (1e12, 1e15):
        result = account.floor("resnet18", 8, 224, "bfloat16", 3e12, peak)
        assert result["bytes"] == pytest.approx(1e9 * sum(result["gigabytes"].values()))
        assert result["floor_ms"] == max(result["bytes_ms"], result["flops_ms"])
        assert result["floor_ms"] <= result["layerwise_ms"] <= result["bytes_ms"] + result["flops_ms"]
        assert result["images_per_second"] == pytest.approx(8e3 / result["floor_ms"])
        assert result["fused_statistics_ms"] < result["layerwise_ms"]


def test_the_script_prints_cards_and_models(account, capsys, monkeypatch):
    words = ["floor.py", "--model", "resnet18", "--batch_size", "8", "--card", "a100", "--dtype", "float32", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    assert account.main() == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["bandwidth"], result["peak"], result["image_size"]) == (2.04e12, 156e12, 224)
    monkeypatch.setattr(sys, "argv", [*words[:-1], "--bandwidth", "1e12", "--model", "resnet18", "resnet20"])
    assert account.main() == 0
    assert "resnet18          resnet20" in capsys.readouterr().out


def test_a_pre_activation_network_has_no_folded_floor(account):
    with pytest.raises(ValueError, match="pre-activation"):
        account.floor("preact_resnet20", 4, 32, "float32", 1.0, 1.0, inference=True)
