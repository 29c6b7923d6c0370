"""The preview command: a batch as the network sees it, with its labels, in one picture."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.batches import EvalBatches, TrainBatches
from resnet_jax.data.sources import SPLITS
from resnet_jax.distributed.processes import warn_once
from resnet_jax.errors import UserError, check_choice
from resnet_jax.plotting.contact_sheet import Cell, Line, check_picture, draw_sheet, save_picture
from resnet_jax.training.experiment import Options, load_images
from resnet_jax.training.images import Normalization, augmenter, make_normalization, normalizer

SHARE_SHOWN = 0.01  # of a mixed target


def preview(
    options: Options,
    target: Path,
    *,
    split: str = "train",
    step: int = 0,
    num_images: int = 32,
) -> dict[str, object]:
    """Returns {"picture", "split", "step", "images", "size"}: a picture of the first images of a batch, written to
    `target`.

    The batch is the one of `step` (from 0) in the options' run, augmented and normalised as there, and shown with the
    normalisation undone. Of "validation" and "test" it is the step'th batch of the evaluation. Mixed images are
    labelled with both classes and their shares.

    Raises:
      UserError: for options that make no batch, a split or batch that there is not, and a target that is no image
        file.
    """
    check_choice("split", split, SPLITS)
    check_picture(target)
    if step < 0 or num_images < 1:
        raise UserError(f"step={step} must be at least 0 and num_images={num_images} at least 1")
    images_of, batching, dtype = options.images, options.batches, options.model.dtype
    splits = load_images(options)
    source = getattr(splits, split)
    if source is None:
        raise UserError(f"{images_of.dataset} has no {split} images")
    normalization = make_normalization(images_of, splits.train)
    if split == "train":
        size = min(batching.batch_size, len(source))
        if size < batching.batch_size:
            warn_once(f"a run needs config.batch_size={batching.batch_size} training images, and there are {size}")
        num_parts = batching.accumulation_steps if size == batching.batch_size else 1  # each is mixed by itself
        batches_of = {"num_parts": num_parts, "num_repeats": batching.repeated_augmentation}
        batch = TrainBatches(source, size, batching.seed, sampling=batching.sampling, **batches_of)[step]
        prepare = jax.jit(augmenter(options.augment, batching, normalization, source.num_classes, dtype))
        arrays = {name: np.split(array, num_parts) for name, array in batch.items()}
        parts = [{name: of_parts[i] for name, of_parts in arrays.items()} for i in range(num_parts)]
        prepared = [jax.device_get(prepare(part, step * num_parts + i)) for i, part in enumerate(parts)]
        images, labels = (np.concatenate([part[name] for part in prepared]) for name in ("image", "label"))
    else:
        batches = EvalBatches(source, batching.batch_size)
        if step >= len(batches):
            raise UserError(f"step={step} must be less than the {len(batches)} batches of the {split} images")
        batch = batches[step]
        shown = batch["mask"] > 0
        if not shown.any():
            raise UserError(f"no image of step={step} of the {split} images can be read: choose another --step")
        normalized = normalizer(normalization, dtype)
        images, labels = np.asarray(normalized(jnp.asarray(batch["image"][shown]))), batch["label"][shown]
    pixels = _displayed(images[:num_images], normalization)
    captions = [_caption(label, source.class_names, multi_label=source.multi_label) for label in labels[:num_images]]
    cells = [Cell(image, (Line(caption),)) for image, caption in zip(pixels, captions, strict=True)]
    save_picture(draw_sheet(cells), target)
    shape = f"{pixels.shape[2]}x{pixels.shape[1]}"
    return {"picture": str(target), "split": split, "step": step, "images": len(pixels), "size": shape}


def _displayed(images: np.ndarray, normalization: Normalization) -> np.ndarray:
    scaled = images * normalization.std + normalization.mean
    return np.clip(np.round(scaled * 255), 0, 255).astype(np.uint8)


def _caption(label: np.ndarray, class_names: Sequence[str], *, multi_label: bool) -> str:
    if label.ndim == 0:
        return class_names[int(label)]
    shares = sorted(zip(label.tolist(), class_names, strict=True), reverse=True)
    shown = [(share, name) for share, name in shares if share >= SHARE_SHOWN]
    if multi_label and all(share == 1 for share, _ in shown):
        return " + ".join(sorted(name for _, name in shown)) or "no label"
    return " + ".join(f"{share:.2f} {name}" for share, name in shown) if len(shown) > 1 else shown[0][1]
