"""How fast training images are read: our input pipeline against a bare decode, Pillow's way and tf.data's.

python benchmarks/reading_images.py DIR [--image_size 224]
"""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_jax.benchmark.peers import is_installed
from resnet_jax.benchmark.side_process import SideProcess
from resnet_jax.cli.printing import print_result, print_table
from resnet_jax.errors import UserError

SIDE = Path(__file__).with_name("reading_images_side.py")
SUFFIXES = (".jpg", ".jpeg")


def measure_data(
    folder: Path,
    image_size: int | None = None,
    batch_size: int = 128,
    num_pairs: int = 7,
    num_batches: int = 6,
    cores: Sequence[int] = (1, 2),
) -> dict[str, Any]:
    """Images a second of each way to bring random crops of the folder's JPEGs to the device, by the number of cores.

    All are measured in turn, each in a process of its own that is bound to the cores: "ours", the whole input pipeline
    with its threads, to the device; "decode", a full decode by simplejpeg alone; "pillow", as torchvision does it in
    worker processes: decode, crop, antialiased resize; "tf_data", decode_and_crop_jpeg and a plain resize, where
    TensorFlow is installed. A measurement is `num_batches` batches; num_pairs of each.

    Returns {"images", "image_size", "batch_size", "cores_1": {...}, "cores_2": {...}}, where each of these has the
    medians in images/s and "ratio_to_decode", "ratio_to_pillow", "ratio_to_tf_data": ours by theirs, the median of the
    ratios measured side by side. Raises UserError (a ValueError) if the folder holds no JPEGs.
    """
    image_size = 224 if image_size is None else image_size
    for name, value in (("image_size", image_size), ("batch_size", batch_size), ("num_pairs", num_pairs)):
        if value < 1:
            raise UserError(f"{name}={value} must be at least 1")
    files = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"{folder} holds no JPEGs")
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("processes are bound to cores, which this system cannot: run it on Linux")
    ways = ["ours", "decode", "pillow", *(["tf_data"] if is_installed("tensorflow") else [])]
    result: dict[str, Any] = {"images": len(files), "image_size": image_size, "batch_size": batch_size}
    for num_cores in cores:
        if num_cores <= (os.cpu_count() or 1):
            spec = {
                "files": files, "image_size": image_size, "batch_size": batch_size, "num_batches": num_batches,
                "cores": num_cores,
            }  # fmt: skip
            result[f"cores_{num_cores}"] = _compare(ways, spec, num_pairs)
    return result


def _compare(ways: list[str], spec: dict[str, Any], num_pairs: int) -> dict[str, Any]:
    processes = {way: SideProcess([str(SIDE)], {**spec, "way": way}) for way in ways}
    for process in processes.values():
        process.wait_until_warm()
    rounds = [{way: process.measure()["rate"] for way, process in processes.items()} for _ in range(num_pairs)]
    for process in processes.values():
        process.close()
    rates = {way: statistics.median(rates[way] for rates in rounds) for way in ways}
    ratios = {
        f"ratio_to_{way}": statistics.median(rates["ours"] / rates[way] for rates in rounds)
        for way in ways
        if way != "ours"
    }
    return {**rates, **ratios}


def print_rates(result: dict[str, Any]) -> None:
    """Prints the rates by cores."""
    rows = [(key.replace("_", " "), str(value)) for key, value in result.items() if not isinstance(value, dict)]
    for key, rates in result.items():
        if isinstance(rates, dict):
            cells = [f"{name} {rate:.0f}/s" for name, rate in rates.items() if not name.startswith("ratio")]
            ratios = [f"{name} {ratio:.2f}" for name, ratio in rates.items() if name.startswith("ratio")]
            rows.append((key.replace("_", " "), "  ".join([*cells, *ratios]).replace("_", " ")))
    print_table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of JPEGs")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=7, help="measurements of each (default: 7)")
    parser.add_argument("--batches", type=int, default=6, help="in a measurement (default: 6)")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    try:
        result = measure_data(
            arguments.folder, arguments.image_size, arguments.batch_size, arguments.pairs, arguments.batches,
            arguments.cores,
        )  # fmt: skip
    except UserError as error:
        parser.error(str(error))
    if arguments.json:
        return print_result(result, as_json=True)
    print_rates(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
