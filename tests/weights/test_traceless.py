"""Weights whose own name contradicts the network that they go into."""

import logging
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet_jax import create_model, load_weights, save_weights
from resnet_jax.weights.traceless import contradiction, named_network

SMALL = {"stage_sizes": (1, 1, 1, 1), "num_filters": 8, "num_classes": 3}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnetaa50_a1h-4cf422b3.pth", "resnetaa50"),
        ("resnet50-0676ba61.pth", "resnet50"),
        ("resnet50d_ra2-464e36ba.pth", "resnet50d"),
        ("ResNet50.safetensors", "resnet50"),
        ("resnext50_32x4d_a1h.pth", "resnext50_32x4d"),
        ("resnet50x.pth", None),
        ("my_resnet50.pth", None),
        ("model.safetensors", None),
    ],
)
def test_networks_are_read_off_the_names_of_files(name, expected):
    assert named_network(Path("some") / name) == expected


def test_folders_of_the_hubs_cache_have_the_name_of_their_model():
    folder = Path("hub/models--timm--resnetblur50.bt_in1k/snapshots/0123")
    assert named_network(folder) == "resnetblur50"
    assert contradiction(folder, create_model("resnetblur50")) is None
    assert "anti_alias='blur'" in contradiction(folder, create_model("resnet50"))


def test_the_same_tensors_in_another_network_are_said(tmp_path, caplog):
    model = create_model("resnet18", **SMALL)
    variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False)
    logging.getLogger("resnet_jax").propagate = True
    for name, lines in (("resnet18.safetensors", 0), ("resnetblur18.safetensors", 1)):
        save_weights(tmp_path / name, model, variables)
        caplog.clear()
        load_weights(tmp_path / name, model)
        said = [record.getMessage() for record in caplog.records if "is called like" in record.getMessage()]
        assert len({*said}) == lines
    assert "is called like resnetblur18, whose anti_alias='blur'" in said[0]
    caplog.clear()
    load_weights(tmp_path / "resnetblur18.safetensors", create_model("resnetblur18", **SMALL))
    assert not [record for record in caplog.records if "is called like" in record.getMessage()]
