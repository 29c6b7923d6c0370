"""Small ILSVRC2012 tars of one's own, as image-net.org hands them out, for TFDS's imagenet2012 builder."""

import io

import numpy as np
from image_trees import tar_of
from PIL import Image

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


def random_jpegs(num_images, seed=0):
    """JPEG files of random pixels and of different sizes."""
    rng = np.random.RandomState(seed)
    files = []
    for _ in range(num_images):
        file = io.BytesIO()
        Image.fromarray(rng.randint(0, 256, (*rng.randint(8, 24, 2), 3)).astype(np.uint8)).save(file, "JPEG")
        files.append(file.getvalue())
    return files


def write(folder, train, validation):
    """Write both tars: train is {"<wnid>_<i>.JPEG": bytes}, validation the images 1 to N."""
    folder.mkdir(parents=True)
    by_class = {}
    for name, content in train.items():
        by_class.setdefault(name.split("_")[0], {})[name] = content
    (folder / TRAIN).write_bytes(tar_of({f"{wnid}.tar": tar_of(files) for wnid, files in by_class.items()}))
    (folder / VALIDATION).write_bytes(tar_of(dict(zip(validation_names(len(validation)), validation, strict=True))))


def validation_names(num_images):
    """Return the names of the first images in the validation tar."""
    return [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, num_images + 1)]
