"""Makes model-folders.json: configs as the real timm and transformers write them, and what their networks answer.

    python tests/golden/make_model_folders.py      # needs timm and transformers

The weights are those of weights.py by the file's names, the images its two of 64 pixels.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
import transformers
import weights
from PIL import Image
from safetensors import safe_open
from timm.data.transforms_factory import create_transform
from timm.models import save_for_hf

HERE = Path(__file__).parent
TIMM = {
    "test_resnet": {},
    "resnet10t": {"num_classes": 7},
    "resnet18d": {"num_classes": 0, "in_chans": 1},
    "resnetaa50": {"num_classes": 5, "cardinality": 2, "base_width": 32, "layers": (1, 1, 1, 1)},
    "resnetv2_18d": {"num_classes": 11},
    "seresnext26d_32x4d": {"num_classes": 3, "layers": (1, 1, 1, 1)},
}
SMALL = {"embedding_size": 8, "hidden_sizes": (16, 32, 48, 64), "depths": (1, 2, 1, 1), "num_labels": 5}
TRANSFORMERS = {
    "basic": {**SMALL, "layer_type": "basic"},
    "bottleneck": {**SMALL, "layer_type": "bottleneck", "embedding_size": 16},
    "v1": {**SMALL, "layer_type": "bottleneck", "downsample_in_bottleneck": True, "id2label": dict(enumerate("abcde"))},
    "several_labels": {**SMALL, "layer_type": "basic", "problem_type": "multi_label_classification", "num_channels": 1},
}
# pretrained_cfg of which timm's own transform is compared, pixel for pixel.
PREPROCESSES = (
    {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center"},
    {"input_size": [3, 224, 224], "test_input_size": [3, 288, 288], "crop_pct": 0.9, "test_crop_pct": 1.0},
    {"input_size": [3, 160, 160], "interpolation": "bilinear"},
    {"input_size": [3, 64, 64], "interpolation": "lanczos", "crop_pct": 0.875},
    {"input_size": [3, 64, 64], "interpolation": "hamming", "crop_pct": 0.7},
    {"input_size": [3, 64, 64], "interpolation": "box", "crop_pct": 0.6},
    {"input_size": [3, 64, 64], "interpolation": "nearest", "crop_pct": 0.5},
    {"input_size": [3, 96, 96], "crop_mode": "squash", "crop_pct": 1.0},
    {"input_size": [3, 96, 96], "crop_mode": "squash", "crop_pct": 0.9},
    {"input_size": [3, 96, 96], "crop_mode": "border", "crop_pct": 1.0, "mean": [0.5, 0.4, 0.3]},
    {"input_size": [3, 96, 96], "crop_mode": "border", "crop_pct": 0.8, "mean": [0.5, 0.4, 0.3]},
    {"input_size": [3, 96, 64], "crop_mode": "border", "crop_pct": 0.9},
    {"input_size": [3, 96, 64], "crop_mode": "squash", "crop_pct": 0.9},
    {"input_size": [3, 448, 448], "crop_pct": 0.875},
)


def filled(model: torch.nn.Module) -> torch.nn.Module:
    state = model.state_dict()
    model.load_state_dict(
        {k: torch.from_numpy(weights.tensor(k, tuple(v.shape))).to(v.dtype) for k, v in state.items()}
    )
    return model.double().eval()


def entry(folder: str, logits: torch.Tensor) -> dict:
    files = {p.name: json.loads(p.read_text()) for p in Path(folder).glob("*.json")}
    with safe_open(Path(folder, "model.safetensors"), "np") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return {"files": files, "shapes": shapes, "logits": logits.tolist()}


def images(num_channels: int) -> torch.Tensor:
    return torch.from_numpy(weights.images(2, 64))[:, :num_channels]


def timm_folder(name: str, arguments: dict) -> dict:
    model = filled(timm.create_model(name, **arguments))
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model.float(), folder, safe_serialization=True)
        return entry(folder, model.double()(images(arguments.get("in_chans", 3))))


def transformers_folder(arguments: dict) -> dict:
    config = transformers.ResNetConfig(**arguments)
    model = filled(transformers.ResNetForImageClassification(config))
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.9, resample=3)
    with tempfile.TemporaryDirectory() as folder:
        model.float().save_pretrained(folder)
        processor.save_pretrained(folder)
        return entry(folder, model.double()(images(config.num_channels)).logits)


def pixels(pretrained: dict) -> dict[str, str]:
    data = timm.data.resolve_data_config(pretrained_cfg=pretrained, use_test_size=True)
    transform = create_transform(**data, is_training=False, normalize=False)
    found = {}
    for name in ("china.jpg", "flower.jpg"):
        picture = Image.open(HERE / name).convert("RGB")
        for turned, one in ((name, picture), (f"{name}, turned", picture.transpose(Image.Transpose.ROTATE_90))):
            tensor = transform(one.crop((0, 0, one.width - 1, one.height - 2)))
            found[turned] = hashlib.sha256(np.ascontiguousarray(tensor.permute(1, 2, 0).numpy()).tobytes()).hexdigest()
    return found


if __name__ == "__main__":
    facts = {"timm": timm.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    facts["folders"] = {f"timm-{name}": timm_folder(name, arguments) for name, arguments in TIMM.items()}
    facts["folders"] |= {f"transformers-{name}": transformers_folder(one) for name, one in TRANSFORMERS.items()}
    facts["pixels"] = [{"pretrained_cfg": one, "sha256": pixels(one)} for one in PREPROCESSES]
    (HERE / "model-folders.json").write_text(json.dumps(facts) + "\n")
