"""The preview command: a batch as the network sees it, with its labels, in one picture."""

import math
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from resnet_jax.config import load_config
from resnet_jax.data.batches import EvalBatches, TrainBatches
from resnet_jax.data.sources import SPLITS
from resnet_jax.errors import UserError, choose
from resnet_jax.training.images import Normalization, augmenter, load_images, make_normalization, normalizer

SMALLEST_SIDE = 112  # smaller images are enlarged pixel by pixel
MARGIN, CAPTION = 4, 16  # pixels
SHARE_SHOWN = 0.01  # of a mixed target


def preview(
    config_name: str,
    overrides: Sequence[str],
    target: Path,
    *,
    split: str = "train",
    step: int = 0,
    num_images: int = 32,
) -> dict[str, object]:
    """{"picture", "split", "step", "images", "size"}: a picture of the first images of a batch, written to `target`.

    The batch is that of `step` (from 0) of the config's run, augmented and normalised as there, and shown with the
    normalisation undone; of "validation" and "test" it is the step'th batch of the evaluation. Mixed images are
    labelled with both classes and their shares. Raises UserError (a ValueError) for a config that makes no batch, a
    split or batch that there is not, and a target that is no image file.
    """
    choose("split", split, SPLITS)
    if Image.registered_extensions().get(target.suffix.lower()) not in Image.SAVE:
        raise UserError(f"--to {target} must be an image file, for example batch.png")
    if step < 0 or num_images < 1:
        raise UserError(f"step={step} must be at least 0 and num_images={num_images} at least 1")
    config = load_config(config_name, overrides)
    splits = load_images(config)
    source = getattr(splits, split)
    if source is None:
        raise UserError(f"{config.dataset} has no {split} images")
    normalization = make_normalization(config, splits.train)
    if split == "train":
        batch = TrainBatches(source, config.batch_size, config.seed, num_repeats=config.repeated_augmentation)[step]
        prepare = jax.jit(augmenter(config, normalization, source.num_classes))
        prepared = jax.device_get(prepare(batch, step))
        images, labels = prepared["image"], prepared["label"]
    else:
        batches = EvalBatches(source, config.batch_size)
        if step >= len(batches):
            raise UserError(f"step={step} must be less than the {len(batches)} batches of the {split} images")
        batch = batches[step]
        shown = batch["mask"] > 0
        normalized = normalizer(normalization, config.dtype)
        images, labels = normalized(jnp.asarray(batch["image"][shown])), batch["label"][shown]
    pixels = _displayed(np.asarray(images[:num_images]), normalization)
    captions = [_caption(label, source.class_names) for label in labels[:num_images]]
    sheet = draw_sheet(pixels, captions)
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target)
    size = f"{pixels.shape[2]}x{pixels.shape[1]}"
    return {"picture": str(target), "split": split, "step": step, "images": len(pixels), "size": size}


def draw_sheet(images: np.ndarray, captions: Sequence[str]) -> Image.Image:
    """A contact sheet of `images` (N, H, W, 3) uint8, about as wide as high, each with its caption below."""
    count, height, width = images.shape[:3]
    scale = max(1, -(-SMALLEST_SIDE // min(height, width)))
    cell_width, cell_height = width * scale + MARGIN, height * scale + MARGIN + CAPTION
    columns = max(1, min(count, round(math.sqrt(count * cell_height / cell_width))))
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * cell_width + MARGIN, rows * cell_height + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION - 4)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = MARGIN + i % columns * cell_width, MARGIN + i // columns * cell_height
        enlarged = Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (left, top))
        while caption and draw.textlength(caption, font) > width * scale:
            caption = caption.removesuffix("…")[:-1] + "…" if len(caption) > 1 else ""
        draw.text((left, top + height * scale), caption, "black", font)
    return sheet


def _displayed(images: np.ndarray, normalization: Normalization) -> np.ndarray:
    scaled = images * normalization.std + normalization.mean
    return np.clip(np.round(scaled * 255), 0, 255).astype(np.uint8)


def _caption(label: np.ndarray, class_names: Sequence[str]) -> str:
    if label.ndim == 0:
        return class_names[int(label)]
    shares = sorted(zip(label.tolist(), class_names, strict=True), reverse=True)
    shown = [(share, name) for share, name in shares if share >= SHARE_SHOWN]
    return " + ".join(f"{share:.2f} {name}" for share, name in shown) if len(shown) > 1 else shown[0][1]
