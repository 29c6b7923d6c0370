"""Takes networks to the real timm and transformers and back, and prints the largest differences of their logits.

    python benchmarks/round_trips.py      # needs torch, torchvision, timm and transformers

Each network has random weights. There: ours is written by `save_folder`, loaded by theirs, and both answer the same
images. Back: theirs writes its folder (timm's save_for_hf, transformers' save_pretrained), and ours loads it. All
answers are float64, of the float32 weights in the files.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import timm
import torch
import transformers
from timm.models import save_for_hf
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from resnet_jax import create_model, load_weights
from resnet_jax.weights import read_info
from resnet_jax.weights.info import WeightsInfo
from resnet_jax.weights.save_folder import save_folder

SIDE = 64  # pixels
SHORT = {"num_classes": 10}
TIMM = (
    "resnet18", "resnet10t", "resnet50", "resnext50_32x4d", "resnet26d", "seresnet18", "ecaresnet26t", "resnetaa34d",
    "resnetblur18", "resnetrs50", "resnetv2_18d", "resnetv2_50d_gn",
)  # fmt: skip
BASIC, BOTTLENECK = {"block_cls": "basic"}, {"block_cls": "bottleneck"}
TRANSFORMERS = {
    "resnet18": {}, "resnet26": {}, "resnet34": {}, "resnet50": {}, "resnet101": {}, "resnet152": {},
    "resnet50, stride first": {"stride_in": "1x1"},
    "resnet50, narrow": {"stage_filters": (16, 24, 40, 48)},
    "resnet50, stem": {"stem_filters": 24, "stage_sizes": (1, 1, 1, 1)},
    "resnet18, deep": {"stage_sizes": (1, 2, 3, 4)},
    "resnet18, three stages": {"stage_sizes": (1, 1, 2)},
    "resnet18, two classes": {"num_classes": 2},
}  # fmt: skip


def random_variables(model: object, seed: int) -> dict:
    """Returns variables of random numbers, the statistics among them."""
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.zeros((1, SIDE, SIDE, 3), np.float32), train=False)
    )
    random = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        if name == "kernel":
            return random.normal(0, (1.5 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape).astype(np.float32)
        if name in ("scale", "var"):
            return random.uniform(0.5, 1.0, leaf.shape).astype(np.float32)
        return random.normal(0, 0.1, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def ours(model: object, variables: dict, images: np.ndarray) -> np.ndarray:
    """Returns our logits in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), dict(variables))
        return np.asarray(jax.jit(lambda x: model.clone(dtype="float64").apply(wide, x, train=False))(images))


def theirs(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Returns the logits of a network of timm's or transformers' in float64."""
    with torch.no_grad():
        answer = model.double().eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return getattr(answer, "logits", answer).numpy()


def randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Returns the model with random statistics beside the random weights it has."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_var", "running_mean")):
            low, high = (0.5, 1.5) if name.endswith("var") else (-0.1, 0.1)
            tensor.uniform_(low, high, generator=generator)
        elif tensor.ndim == 1 and tensor.is_floating_point():
            tensor.uniform_(0.3, 0.9, generator=generator)
    return model


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the largest difference, by the largest logit."""
    return float(np.max(np.abs(one - other)) / np.max(np.abs(other)))


def there(
    name: str, arguments: dict, layout: str, load: Callable[[Path], torch.nn.Module], images: np.ndarray
) -> float:
    """Returns how far theirs answers otherwise than ours after our folder was loaded by it."""
    model = create_model(name, **arguments)
    variables = random_variables(model, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        save_folder(Path(folder, "model"), model, variables, layout, WeightsInfo(name, arguments))
        return difference(theirs(load(Path(folder, "model")), images), ours(model, variables, images))


def back(model: torch.nn.Module, save: Callable[[torch.nn.Module, Path], object], images: np.ndarray) -> float:
    """Returns how far ours answers otherwise than theirs after its folder was loaded by us."""
    with tempfile.TemporaryDirectory() as folder:
        save(randomize(model), Path(folder))
        again = read_info(folder).create_model()
        return difference(ours(again, load_weights(folder, again), images), theirs(model, images))


def main() -> None:
    """Prints a row a network."""
    transformers.utils.logging.set_verbosity_error()
    images = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3))
    print(f"timm {timm.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    print("| network | there | back |\n|---|---|---|")
    worst = 0.0
    for name in TIMM:
        out = there(name, SHORT, "timm", lambda path: timm.create_model(f"local-dir:{path}", pretrained=True), images)
        home = back(timm.create_model(name, **SHORT), lambda model, path: save_for_hf(model, path), images)
        print(f"| timm {name} | {out:.1e} | {home:.1e} |", flush=True)
        worst = max(worst, out, home)
    for title, changes in TRANSFORMERS.items():
        name, arguments = title.partition(",")[0], {**SHORT, **changes}
        config: list[ResNetConfig] = []

        def load(path: Path, config: list[ResNetConfig] = config) -> torch.nn.Module:
            model = AutoModelForImageClassification.from_pretrained(path)
            config.append(model.config)
            return model

        out = there(name, arguments, "transformers", load, images)
        model = ResNetForImageClassification(config[0])
        home = back(model, lambda model, path: model.save_pretrained(path), images)
        print(f"| transformers {title} | {out:.1e} | {home:.1e} |", flush=True)
        worst = max(worst, out, home)
    print(f"largest: {worst:.1e}")


if __name__ == "__main__":
    main()
