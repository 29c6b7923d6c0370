"""The dry run of the train command: what it prints."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.cli.printing import print_table
from resnet_jax.formatting import format_bytes

SPLITS = {"train": "training", "validation": "validation", "test": "test"}


def run_dry(config: ConfigDict, workdir: Path, as_json: bool) -> int:
    """Print what a run of `config` in `workdir` would take, as a table or one JSON object."""
    from resnet_jax.preflight.dry_run import dry_run

    result = dry_run(config, workdir)
    if as_json:
        print(json.dumps(result))
        return EXIT_DONE
    print_table([*_network(result), *_memory(result), *_length(result), *_time(result)])
    return EXIT_DONE


def _network(result: dict[str, Any]) -> list[tuple[str, str]]:
    frozen = "" if result["trainable"] == result["parameters"] else f", {result['trainable']:,} of them trained"
    return [
        ("model", f"{result['model']}, images {' x '.join(map(str, result['image_shape']))}"),
        *((name, " x ".join(map(str, shape))) for name, shape in result["shapes"].items()),
        ("parameters", f"{result['parameters']:,}{frozen}"),
        ("MACs", f"{result['macs']:,} an image, forward"),
    ]


def _memory(result: dict[str, Any]) -> list[tuple[str, str]]:
    memory, program = result["memory"], result["memory"]["program"]
    kinds = ("parameters", "statistics", "average", "optimizer", "gradients", "activations", "images")
    estimated = sum(memory[kind] for kind in kinds)
    parts = ", ".join(f"{kind} {format_bytes(memory[kind])}" for kind in kinds if memory[kind])
    rows = [("memory, estimated", f"{format_bytes(estimated)} a device: {parts}")]
    if program is not None:
        parts = ", ".join(
            f"{name} {format_bytes(program[kind])}"
            for name, kind in (("arguments", "argument"), ("outputs", "output"), ("temporaries", "temp"))
        )
        shared = f", {format_bytes(program['alias'])} of which are shared" if program["alias"] else ""
        rows.append(("memory, compiled", f"{format_bytes(program['total'])} a device: {parts}{shared}"))
    return [*rows, ("checkpoint", format_bytes(memory["checkpoint"]))]


def _length(result: dict[str, Any]) -> list[tuple[str, str]]:
    counts = ", ".join(f"{result['images'][split]:,} {name}" for split, name in SPLITS.items())
    epochs = result["num_steps"] / result["steps_per_epoch"]
    done, due, every = result["continues_after"], result["due"], result["every"]
    rows = [
        ("images", f"{counts}; {result['num_classes']} classes"),
        ("steps", f"{result['num_steps']:,}: {epochs:.4g} epochs of {result['steps_per_epoch']:,}"),
    ]
    if done == result["num_steps"]:
        rows.append(("continues", "nothing is left: this run is finished"))
    elif done:
        rows.append(("continues", f"after step {done:,}"))
    for name, kind in (("validations", "validation"), ("tests", "test"), ("checkpoints", "checkpoint")):
        if every[kind] is None:
            rows.append((name, f"none: there are no {kind} images"))
        else:
            rhythm = f"every {every[kind]:,} steps, and at the end" if every[kind] else "at the end"
            rows.append((name, f"{due[kind]:,}, {rhythm}"))
    return rows


def _time(result: dict[str, Any]) -> list[tuple[str, str]]:
    seconds, num_timed = result["seconds"], result["num_timed"]
    evaluations = ", ".join(f"{format_seconds(taken)} {split}" for split, taken in seconds["evaluation"].items())
    rate = result["batch_size"] / seconds["step"]
    rows = [
        ("compiling", format_seconds(seconds["compile"])),
        ("a step", f"{1000 * seconds['step']:.1f} ms, {rate:.1f} images/s (of {num_timed} steps)"),
    ]
    if evaluations:
        rows.append(("an evaluation", evaluations))
    what = "compiling, steps and evaluations, without saving"
    if result["on_features"]:
        what = "compiling, and the frozen network's features; the steps on them, of the head alone, take little"
    return [*rows, ("in all", f"{format_seconds(seconds['compile'] + seconds['rest'])}: {what}")]


def format_seconds(seconds: float) -> str:
    """A duration as people say it: "0.4 s", "75 s", "12 min", "3 h 20 min", "2 d 5 h"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
