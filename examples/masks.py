"""A small feature pyramid on a dilated ResNet learns the masks of shapes that it draws itself.

    python examples/masks.py [--num_steps 300] [--to masks.png]

A disc, a square and a triangle on noise, 64x64 pixels, and each pixel is one of them or background. The backbone is a
headless ResNet-18 of 16 filters at output stride 8, whose stages a feature pyramid joins from coarse to fine (Lin et
al. 2016, arXiv:1612.03144). Prints the loss and, of 64 new images, the intersection over union of each shape.
"""

import argparse
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax
from draw_shapes import CLASSES, SIDE, draw_shape, paint
from PIL import Image, ImageDraw, ImageFont

import resnet_jax
from resnet_jax.models import BatchNorm
from resnet_jax.training import make_schedule, sgd

NUM_CLASSES = 1 + len(CLASSES)  # 0 is the background
BATCH_SIZE, NUM_CHANNELS, NUM_TEST = 16, 32, 64
COLORS = np.array([[230, 230, 230], [214, 96, 77], [67, 147, 195], [90, 174, 97]], np.uint8)  # background first
NUM_SHOWN, CELL, MARGIN = 8, 128, 24  # pixels


class MaskNetwork(nn.Module):
    """(B, H, W, 3) -> logits (B, H, W, NUM_CLASSES)."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        backbone = resnet_jax.create_model("resnet18", num_classes=None, num_filters=16, output_stride=8)
        stages = backbone(images, train=train, features=True)  # (B, H / 4, W / 4, 16) to (B, H / 8, W / 8, 128)
        pyramid = None
        for name in ("stage4", "stage3", "stage2", "stage1"):
            lateral = nn.Conv(NUM_CHANNELS, (1, 1), name=f"lateral_{name}")(stages[name])
            if pyramid is not None:
                lateral += jax.image.resize(pyramid, lateral.shape, "nearest")
            pyramid = lateral
        pyramid = nn.Conv(NUM_CHANNELS, (3, 3), use_bias=False, name="smooth")(pyramid)
        pyramid = nn.relu(BatchNorm(name="norm")(pyramid, train=train))
        logits = nn.Conv(NUM_CLASSES, (1, 1), name="classify")(pyramid)  # (B, H / 4, W / 4, NUM_CLASSES)
        return jax.image.resize(logits, (*images.shape[:3], NUM_CLASSES), "bilinear")


def draw(num_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(images (B, SIDE, SIDE, 3) uint8, masks (B, SIDE, SIDE) int32), where later shapes hide earlier ones."""
    random = np.random.default_rng(seed)
    images = np.zeros((num_images, SIDE, SIDE, 3), np.uint8)
    masks = np.zeros((num_images, SIDE, SIDE), np.int32)
    for image, mask in zip(images, masks, strict=True):
        shapes = [draw_shape(name, random) for name in CLASSES]
        for k in random.permutation(len(CLASSES)):
            mask[shapes[k]] = 1 + k
        image[:] = paint([mask == label for label in range(1, NUM_CLASSES)], random)
    return images, masks


def normalize(images: np.ndarray) -> np.ndarray:
    """The images as float32 around 0."""
    return (images.astype(np.float32) - 128) / 64


def draw_answers(images: np.ndarray, masks: np.ndarray, answered: np.ndarray) -> Image.Image:
    """A picture of a few images, their masks and the answers, a named row each, with the colours' names below."""
    names = ("image", "mask", "predicted")
    picture = Image.new("RGB", (NUM_SHOWN * CELL, len(names) * (CELL + MARGIN) + MARGIN), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for i, (name, row) in enumerate(zip(names, (images, COLORS[masks], COLORS[answered]), strict=True)):
        top = i * (CELL + MARGIN)
        pen.text((4, top + 2), name, "black", font)
        strip = Image.fromarray(np.concatenate(list(row[:NUM_SHOWN]), axis=1))
        picture.paste(strip.resize((NUM_SHOWN * CELL, CELL), Image.Resampling.NEAREST), (0, top + MARGIN))
    for i, (name, color) in enumerate(zip(("background", *CLASSES), COLORS.tolist(), strict=True)):
        left, top = 4 + i * CELL, picture.height - MARGIN + 4
        pen.rectangle((left, top, left + 14, top + 14), tuple(color), "black")
        pen.text((left + 20, top - 2), name, "black", font)
    return picture


def main() -> None:
    """Train, judge, and draw where the command line asks for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_steps", type=int, default=300)
    parser.add_argument("--to", type=Path, help="a picture of new images, their masks and what the network answers")
    arguments = parser.parse_args()
    if arguments.num_steps < 1:
        parser.error(f"--num_steps={arguments.num_steps} must be at least 1")
    if arguments.to and not (arguments.to.absolute().parent.is_dir() and arguments.to.suffix == ".png"):
        parser.error(f"--to {arguments.to} must be a .png in a folder that exists")

    network = MaskNetwork()
    images, masks = draw(NUM_TEST, seed=0)
    variables = jax.jit(lambda key: network.init(key, normalize(images[:1]), train=False))(jax.random.key(0))
    schedule = make_schedule("cosine", 0.2, num_steps=arguments.num_steps)
    tx = sgd(schedule, momentum=0.9, nesterov=True, weight_decay=1e-4)

    @jax.jit
    def step(variables, opt_state, images, masks):
        def loss_fn(params):
            logits, updated = network.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, masks).mean()
            return loss, updated["batch_stats"]

        params = variables["params"]
        (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return {"params": optax.apply_updates(params, updates), "batch_stats": batch_stats}, opt_state, loss

    opt_state = tx.init(variables["params"])
    for k in range(1, arguments.num_steps + 1):
        drawn, drawn_masks = draw(BATCH_SIZE, seed=k)
        variables, opt_state, loss = step(variables, opt_state, normalize(drawn), drawn_masks)
        if k % 25 == 0 or k == arguments.num_steps:
            print(f"step {k}  loss {float(loss):.4f}", flush=True)

    answer = jax.jit(lambda variables, images: network.apply(variables, images, train=False).argmax(-1))
    answered = np.asarray(answer(variables, normalize(images)))
    for label, name in enumerate(CLASSES, start=1):
        both = (answered == label) & (masks == label)
        either = (answered == label) | (masks == label)
        print(f"{name}: intersection over union {both.sum() / either.sum():.3f}")
    if arguments.to:
        draw_answers(images, masks, answered).save(arguments.to)
        print(f"images, their masks and the answers: {arguments.to}")


if __name__ == "__main__":
    main()
