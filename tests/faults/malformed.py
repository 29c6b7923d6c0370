"""Damaged and hostile input to everything that reads: one line or a right result, no hang, nothing written elsewhere.

Each reader works in a process of its own, with a time limit an input and an audit of all that it opens for writing.
"""

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

READERS = ("images", "weights", "configs", "archives", "checkpoints")
SECONDS_PER_INPUT = 20
MEMORY = 8 * 2**30
# What changes the file system by a path, of Python's audit events; the path is the first argument.
WRITING_EVENTS = (
    "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
    "shutil.rmtree", "shutil.copyfile", "shutil.move", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn",
)  # fmt: skip


def campaign(folder, num_inputs, deadline, seed):
    """The report on so many inputs, divided among the readers."""
    counts, failures = {}, []
    for reader in READERS:
        scratch = folder / f"malformed-{reader}"
        scratch.mkdir()
        share = -(-num_inputs // len(READERS))
        seconds = max(deadline - time.monotonic(), 1.0) / (len(READERS) - len(counts))
        words = [sys.executable, __file__, reader, str(share), str(seconds), str(seed), str(scratch)]
        process = subprocess.run(words, capture_output=True, text=True, check=False)
        try:
            result = json.loads(process.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            failures.append(f"{reader}: ended with {process.returncode}\n{process.stderr[-2000:]}")
            continue
        counts[reader] = result["refused"], result["read"]
        failures += [f"{reader}: {failure}" for failure in result["failures"]]
    total = sum(map(sum, counts.values()))
    shares = ", ".join(f"{name} {refused + read:,}" for name, (refused, read) in counts.items())
    return {
        "fault": "malformed input",
        "tried": f"{total:,} inputs: {shares}",
        "count": total,
        "result": f"{sum(refused for refused, _ in counts.values()):,} refused in one line, the others read; no hang, "
        "no file outside",
        "failures": failures,
    }


def edited(data, numbers, others):
    """`data` with one to four random changes."""
    data = bytearray(data)
    for _ in range(numbers.randint(1, 4)):
        at = numbers.randrange(len(data) + 1)
        kind = numbers.choice(["flip", "bytes", "delete", "insert", "cut", "splice", "number"])
        if kind == "flip" and data:
            data[at % len(data)] ^= 1 << numbers.randrange(8)
        elif kind == "bytes":
            data[at : at + 4] = numbers.randbytes(4)
        elif kind == "delete":
            del data[at : at + numbers.randint(1, 64)]
        elif kind == "insert":
            data[at:at] = numbers.randbytes(numbers.randint(1, 16))
        elif kind == "cut":
            del data[at:]
        elif kind == "splice":
            other = numbers.choice(others)
            start = numbers.randrange(len(other) + 1)
            data[at:at] = other[start : start + numbers.randint(1, 300)]
        else:
            number = numbers.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1])
            data[at : at + 4] = number.to_bytes(4, numbers.choice(["little", "big"]))
    return bytes(data)


def images(scratch):
    """(sound inputs, what reads one): image files of seven kinds, read as evaluation and as training do."""
    import io

    import numpy as np
    from PIL import Image

    from resnet_jax.data.decoding import EncodedImage
    from resnet_jax.data.transforms.keyed_random import KeyedRandom
    from resnet_jax.data.transforms.preprocess import Preprocess
    from resnet_jax.data.transforms.training import RandomResizedCrop

    Image.MAX_IMAGE_PIXELS = 2**22  # what passes is decoded, here thousands of times
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)
    photo = Image.open(Path(__file__).parent.parent / "golden" / "china.jpg").resize((96, 64))
    sound = []
    for image, kind, options in (
        (photo, "JPEG", {}), (photo, "JPEG", {"progressive": True}), (photo.convert("CMYK"), "JPEG", {}),
        (photo, "PNG", {}), (photo, "BMP", {}), (photo, "WEBP", {}), (photo, "TIFF", {"compression": "tiff_lzw"}),
        (Image.fromarray(pixels).convert("P"), "PNG", {}), (Image.fromarray(pixels), "PPM", {}),
    ):  # fmt: skip
        file = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(file, kind, **({"exif": exif, **options} if kind in ("JPEG", "PNG", "WEBP") else options))
        sound.append(file.getvalue())
    preprocess, crop = Preprocess(64, 48, "bilinear", (0.5,) * 3, (0.5,) * 3), RandomResizedCrop(48)

    def read(data, number):
        image = EncodedImage(data, f"image {number}", apply_exif_orientation=number % 2 == 0)
        if number % 3:
            assert preprocess.pixels(Image.fromarray(image.pixels())).shape == (48, 48, 3)
        else:
            assert crop(image, KeyedRandom(0, 0, number)).shape == (48, 48, 3)

    return sound, read


def weights(scratch):
    """(sound inputs, what reads one): the weight files of torch and safetensors, into the model they are of."""
    from resnet_jax import create_model, load_weights
    from resnet_jax.weights.read_info import read_info

    golden = Path(__file__).parent.parent / "golden"
    names = ("digits-resnet20.pth", "digits-resnet20-wrapped-legacy.th", "digits-resnet20-fp16.pth",
             "digits-resnet20.safetensors")  # fmt: skip
    sound = [(golden / name).read_bytes() for name in names]
    model, path = create_model("resnet20"), scratch / "weights"

    def read(data, number):
        path.write_bytes(data)
        load_weights(path, model)
        read_info(path)

    return sound, read


def configs(scratch):
    """(sound inputs, what reads one): a run's config.json, overrides, and config files, which are programs."""
    from resnet_jax.config import config_from_dict, configs_dir, load_config, to_json
    from resnet_jax.training.workdir import read_config

    words = "--config.learning_rate=0.05 --config.mean=(0.5,0,1) --config.model_args.shortcut=B"
    files = [configs_dir() / f"{name}.py" for name in ("digits", "imagenet_v2", "cifar10_wrn")]
    sound = [to_json(load_config("digits")).encode(), words.encode(), *(file.read_bytes() for file in files)]

    def read(data, number):
        if b"def get" in data or b"ml_collections" in data:
            # A program, which is trusted and run: damaged, it raises whatever it does, which is told in a line too.
            path = scratch / "config.py"
            path.write_bytes(data)
            load_config(str(path))
        elif b"--config" in data[:20]:
            load_config("digits", data.decode(errors="surrogateescape").split())
        else:
            (scratch / "config.json").write_bytes(data)
            config_from_dict(read_config(scratch))

    return sound, read


def archives(scratch):
    """(sound inputs, what reads one): tars of images, also such that would lead out of their folder if unpacked."""
    import io
    import tarfile

    import numpy as np

    from resnet_jax.data.image_set_reader import open_image_set
    from resnet_jax.data.options import DatasetOptions

    photo = (Path(__file__).parent.parent / "golden" / "flower.jpg").read_bytes()[:4000]

    def tar(names, links=()):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(photo)
                archive.addfile(member, io.BytesIO(photo))
            for name, target in links:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = tarfile.SYMTYPE, target
                archive.addfile(member)
        return file.getvalue()

    sound = [
        tar(["train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "val/b/4.jpg"]),
        tar(["a/1.jpg", "b/2.jpg"], [("b/3.jpg", "2.jpg")]),
        tar(["../../escape/1.jpg", "/tmp/escape/2.jpg", "a/../../b/3.jpg", "b/4.jpg"]),
        tar(["a/1.jpg", "b/2.jpg"], [("b/3.jpg", "/etc/passwd"), ("a/4.jpg", "../../../etc/passwd")]),
    ]
    path = scratch / "images.tar"

    def read(data, number):
        path.write_bytes(data)
        tree = open_image_set(path)
        split = next(iter(tree.splits), None)
        source = DatasetOptions().source(tree.images(split) if split else tree.images())
        for i in range(len(source)):
            encoded, label = source.encoded.read(i)
            assert 0 <= label < source.num_classes
            assert isinstance(encoded, bytes)
        assert np.all(source.indices == np.arange(len(source)))

    return sound, read


def checkpoints(scratch):
    """(sound inputs, what reads one): the manifest and the log of a run."""
    import numpy as np

    from resnet_jax.checkpoint.manifest import leaf_digests, read_manifest, write_manifest
    from resnet_jax.training.workdir import MetricsLog

    folder = scratch / "step"
    folder.mkdir()
    write_manifest(folder, {"step": 3, "position": {"loss": 0.5}}, {"variables": leaf_digests({"a": np.zeros(3)})})
    log = "".join(json.dumps({"step": i, "epoch": i / 10, "train_loss": 1.5}) + "\n" for i in range(20))
    sound = [log.encode(), (folder / "manifest.json").read_bytes()]
    kept = read_manifest(folder)

    def read(data, number):
        if number % 2:
            (folder / "manifest.json").write_bytes(data)
            assert read_manifest(folder) == kept  # the digest lets nothing else pass
        else:
            (scratch / "metrics.jsonl").write_bytes(data)
            found = MetricsLog(scratch)
            found.forget_after(10)
            assert all(record["step"] <= 10 for record in found.records)
            assert all(isinstance(json.loads(line), dict) for line in found.path.read_text().splitlines())

    return sound, read


class TooLongError(BaseException):
    """An input takes too long; nothing that reads it may catch this."""


def inside(reader, num_inputs, seconds, seed, scratch):
    """Feed the reader; its counts and failures."""
    from resnet_jax.errors import UserError

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.chdir(scratch)
    sound, read = {"images": images, "weights": weights, "configs": configs, "archives": archives,
                   "checkpoints": checkpoints}[reader](scratch)  # fmt: skip
    for number, data in enumerate(sound):  # imports what it needs, and proves that they are sound
        with contextlib.suppress(UserError if reader == "archives" and number >= 2 else ()):
            read(data, number)
    outside = []
    watch_writes(scratch, outside)
    failures, refused, done = [], 0, 0
    numbers = random.Random(f"{seed} {reader}")

    def too_long(signum, frame):
        raise TooLongError

    signal.signal(signal.SIGALRM, too_long)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - warnings, thousands of them
    end = time.monotonic() + seconds
    while done < num_inputs and time.monotonic() < end and len(failures) < 20:
        which = done % len(sound)
        data = edited(sound[which], numbers, sound)
        signal.alarm(SECONDS_PER_INPUT)
        try:
            read(data, done)
        except UserError as error:
            refused += 1
            if "\n" in str(error) or len(str(error)) > 2000:
                failures.append(f"input {done}: {str(error)!r} is no line")
        except TooLongError:
            failures.append(f"input {done}: more than {SECONDS_PER_INPUT} s")
        except BaseException as error:
            frames = [
                f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
            ]
            failures.append(f"input {done}: {type(error).__name__}: {error} ({' '.join(frames[-4:])})")
        finally:
            signal.alarm(0)
        if failures and "input" in failures[-1]:
            (scratch / f"failed-{done}").write_bytes(data)
        done += 1
    failures += [f"wrote outside: {event}" for event in outside[:5]]
    return {"refused": refused, "read": done - refused, "failures": failures}


def watch_writes(scratch, outside):
    """Note in `outside` whatever this process writes, makes or removes elsewhere than in `scratch`, or starts."""
    inside_of = os.path.realpath(scratch) + os.sep

    def audit(event, arguments):
        if event == "open":
            path, mode, flags = arguments
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
            if not writes or path == os.devnull or not isinstance(path, str | bytes):
                return
        elif event in WRITING_EVENTS:
            path = arguments[0]
        else:
            return
        place = os.path.realpath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else str(path)
        if not (place + os.sep).startswith(inside_of):
            outside.append(f"{event} {place}")

    sys.addaudithook(audit)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    os.environ["JAX_PLATFORMS"] = "cpu"
    reader, num_inputs, seconds, seed, scratch = sys.argv[1:]
    print(json.dumps(inside(reader, int(num_inputs), float(seconds), seed, Path(scratch))))
