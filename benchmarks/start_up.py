"""Seconds from a command to its first result, ours and torch's: training's first step, and `predict`'s first answer.

    python benchmarks/start_up.py [--rounds 5]      # needs torch and torchvision

ResNet-18's first step on 64 images of 64 pixels, and ResNet-50's answer for one photograph with weights from a file.
"cold" is the first start on a machine, with no compiled program kept; the others are medians of later starts, ours and
torch's in turn. torch's side is the shortest script that does the same; its files were read once before.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from resnet_jax.cli.printing import print_table

TORCH_TRAINS = """
import torch, torchvision
model = torchvision.models.resnet18(num_classes=10)
optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=5e-4)
images, labels = torch.randn(64, 3, 64, 64), torch.randint(10, (64,))
loss = torch.nn.functional.cross_entropy(model(images), labels)
loss.backward()
optimizer.step()
print(loss.item(), flush=True)
"""
TORCH_PREDICTS = """
import sys, torch, torchvision
from PIL import Image
model = torchvision.models.resnet50()
model.load_state_dict(torch.load(sys.argv[1]))
model.eval()
transform = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
with torch.inference_mode():
    probabilities = model(transform(Image.open(sys.argv[2]).convert("RGB"))[None]).softmax(1)
print(probabilities.topk(5), flush=True)
"""


def seconds_to_first_line(command: list[str], environment: dict[str, str], log: Path | None = None) -> float:
    """Returns the seconds from the start of `command` to the first line of its output, or of the file `log`."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        if log is None:
            assert process.stdout is not None
            process.stdout.readline()
            taken = time.perf_counter() - started
        else:
            while process.poll() is None and not (log.exists() and log.stat().st_size):
                time.sleep(0.005)
            taken = time.perf_counter() - started
        errors = process.communicate()[1].decode()
        if process.returncode:
            sys.exit(f"{' '.join(command[:4])} failed: {errors[-1000:]}")
    return taken


def measure(folder: Path, num_rounds: int) -> dict[str, dict[str, float]]:
    """Returns the seconds of each case, by what is started."""
    import torch
    import torchvision
    from PIL import Image

    weights, photo = folder / "resnet50.pth", folder / "photo.jpg"
    torch.save(torchvision.models.resnet50().state_dict(), weights)
    Image.effect_noise((500, 375), 60).convert("RGB").save(photo)
    environment = {"RESNET_JAX_HOME": str(folder / "home"), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"JAX_COMPILATION_CACHE_DIR": ""} if "JAX_COMPILATION_CACHE_DIR" in os.environ else {}
    train = [sys.executable, "-m", "resnet_jax", "train", "--config", "digits", "--config.model=resnet18"]
    train += [
        "--config.image_size=64",
        "--config.num_steps=1",
        "--config.warmup_epochs=0",
        "--config.log_every_steps=1",
    ]
    predict = [sys.executable, "-m", "resnet_jax", "predict", str(photo), "--weights", str(weights)]
    predict += ["--model", "resnet50", "--preprocess", "IMAGENET1K_V1", "--json"]
    runs = iter(range(10**6))

    def our_training() -> float:
        workdir = folder / f"run-{next(runs)}"
        return seconds_to_first_line([*train, "--workdir", str(workdir)], environment, workdir / "metrics.jsonl")

    cases = {
        "training's first step": (our_training, [sys.executable, "-c", TORCH_TRAINS]),
        "predict's first answer": (
            lambda: seconds_to_first_line(predict, environment),
            [sys.executable, "-c", TORCH_PREDICTS, str(weights), str(photo)],
        ),
    }
    found = {}
    for name, (ours, torchs) in cases.items():
        cold = ours()
        seconds_to_first_line(torchs, environment)
        pairs = [(ours(), seconds_to_first_line(torchs, environment)) for _ in range(num_rounds)]
        warm, of_torch = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(theirs / mine for mine, theirs in pairs)
        found[name] = {"cold": cold, "warm": warm, "torch": of_torch, "torch by ours, warm": ratio}
    return found


def main() -> int:
    """Prints the seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.rounds)
    if arguments.json:
        print(json.dumps(found))
        return 0
    for name, seconds in found.items():
        print_table([(name, ""), *((f"  {key}", f"{value:.2f}") for key, value in seconds.items())])
    return 0


if __name__ == "__main__":
    sys.exit(main())
