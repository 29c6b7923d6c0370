"""Writes docs/results.md, what the recipes reached, from docs/results.json; and adds finished runs to that.

    python docs/make_results_page.py                                            makes the page
    python docs/make_results_page.py --images "10,000 images of …" --add RUN…   adds runs
    python docs/make_results_page.py --images "10,000 images of …" --torch FILE…

FILE holds what benchmarks/torch_recipes.py printed for one seed. A run takes the place of one of the same command,
images, seed and processor.
"""

import argparse
import json
import shlex
import statistics
from pathlib import Path
from typing import Any

from resnet_jax.comparison.groups import group_runs
from resnet_jax.comparison.runs import find_runs, read_run
from resnet_jax.runtime import processor_name
from resnet_jax.training.starts import read_starts

DOCS = Path(__file__).resolve().parent
DATA, PAGE = DOCS / "results.json", DOCS / "results.md"
# Where the run lies and its seed are no part of the recipe.
LEFT_OUT = ("--workdir", "--config.seed", "--config.data_dir")
SAME = ("command", "images", "seed", "processor")
COLUMNS = (
    "| command | accuracy | seeds | minutes a run | processor | config |",
    "|---|---|---|---|---|---|",
)
HEAD = """# What the recipes reached

Every row is of runs that ended here. Accuracy is of the test images, after the last step, as mean ± standard deviation
over the seeds. Minutes are of whole runs, evaluations and checkpoints included. Torch's are of its steps alone, with
all images in memory. A run of several starts was broken off and continued. Those, and runs on one core, shared the
machine with other work.
`compare` prints the same digest for your run if it has the same config.

JPEG copies are CIFAR-10's images as Pillow saves them by default (quality 75), prepared as a TFDS set. Published
weights that reach 91.8 % on the original test images reach 81.0 % on these.

`python docs/make_results_page.py` makes this page from [the runs' numbers](results.json).
"""


def entry(workdir: Path, images: str) -> dict[str, Any]:
    """Returns a finished run as the page needs it.

    Raises ValueError for a run that has not ended, or without a test accuracy.
    """
    run = read_run(workdir)
    if not run.is_finished or "test_accuracy" not in run.numbers:
        raise ValueError(f"{workdir}: not a run that has ended and been tested")
    [group] = group_runs([run])
    return {
        "command": recipe_of(run.command),
        "images": images,
        "seed": run.fields["seed"],
        "processor": group.machine,
        "accuracy": run.numbers["test_accuracy"],
        "minutes": round(run.numbers["minutes"], 1),
        "starts": len(read_starts(workdir)),
        "steps": run.step,
        "config": group.config,
        "source": group.source,
    }


def recipe_of(command: str) -> str:
    """Returns a command without the words that are a run's own, as `LEFT_OUT`."""
    words, kept = shlex.split(command), []
    while words:
        word = words.pop(0)
        if word.partition("=")[0] in LEFT_OUT:
            if "=" not in word:
                words.pop(0)
        else:
            kept.append(word)
    return shlex.join(kept)


def torch_entry(path: Path, images: str, processor: str) -> dict[str, Any]:
    """Returns what torch reached, by the last line that `benchmarks/torch_recipes.py` printed."""
    last = json.loads([line for line in path.read_text().splitlines() if line.startswith("{")][-1])
    return {
        "command": f"python benchmarks/torch_recipes.py FOLDER --recipe {last['recipe']}",
        "images": images,
        "seed": last["seed"],
        "processor": processor,
        "accuracy": last["accuracy"],
        "minutes": last["minutes"],
        "epochs": last["epochs"],
        "torch": last["torch"],
    }


def merged(known: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the known runs with the new ones in the place of their like, or behind them."""
    by_identity = {tuple(run[name] for name in SAME): run for run in [*known, *new]}
    return list(by_identity.values())


def page(runs: list[dict[str, Any]]) -> str:
    """Returns the page."""
    groups: dict[str, dict[tuple[str, ...], list[dict[str, Any]]]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        of_images = groups.setdefault(run["images"], {})
        of_images.setdefault((run["command"], run["processor"], _config(run)), []).append(run)
    lines = [HEAD]
    for images in dict.fromkeys(run["images"] for run in runs):
        lines += [f"## {images}", "", *COLUMNS]
        lines += [*map(_row, groups[images].values()), ""]
    return "\n".join(lines)


def _row(group: list[dict[str, Any]]) -> str:
    first = group[0]
    accuracies = [100 * run["accuracy"] for run in group]
    spread = f" ± {statistics.stdev(accuracies):.2f}" if len(group) > 1 else ""
    cells = [
        f"`{first['command']}`",
        f"{statistics.mean(accuracies):.2f}{spread} %",
        ", ".join(str(run["seed"]) for run in group),
        ", ".join(map(_minutes, group)),
        first["processor"],
        _config(first),
    ]
    return f"| {' | '.join(cells)} |"


def _config(run: dict[str, Any]) -> str:
    return f"torch {run['torch']}" if "torch" in run else f"`{run['config']}`"


def _minutes(run: dict[str, Any]) -> str:
    if "epochs" in run:
        return f"{run['minutes']:.0f} ({run['epochs']:.1f} epochs)"
    return f"{run['minutes']:.0f}" + (f" in {run['starts']} starts" if run["starts"] > 1 else "")


def main() -> None:
    """Adds what the command line names, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--add", type=Path, nargs="+", default=[], metavar="RUN")
    parser.add_argument("--torch", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--images", help="on which the accuracy is, and how many: the heading")
    arguments = parser.parse_args()
    runs = json.loads(DATA.read_text())
    if (arguments.add or arguments.torch) and not arguments.images:
        parser.error("--add and --torch need --images")
    new = [entry(workdir, arguments.images) for workdir in find_runs(arguments.add)] if arguments.add else []
    if arguments.torch:
        new += [torch_entry(path, arguments.images, processor_name()) for path in arguments.torch]
    runs = merged(runs, new)
    DATA.write_text(json.dumps(runs, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(runs))


if __name__ == "__main__":
    main()
