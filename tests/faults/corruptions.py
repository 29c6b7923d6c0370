"""A run's newest checkpoint damaged at random: noticed, or restored bit for bit; and training goes on either way."""

import contextlib
import io
import random
import shutil
import time

from runs import WORDS, digest, load_config, open_latest, template

from resnet_jax.checkpoint.folder import open_best
from resnet_jax.distributed.log_handler import install_log_handler
from resnet_jax.training.checkpointer import restore_state
from resnet_jax.training.experiment import build_experiment, options_of
from resnet_jax.training.resume import restore_last
from resnet_jax.training.run import train

NUM_STEPS = 30
# Each is tried equally often. "swap" exchanges two files of the step, "older" takes those of the step before.
KINDS = (
    "flip",
    "flips",
    "cut",
    "empty",
    "longer",
    "remove",
    "swap",
    "older",
    "remove item",
    "older item",
    "no manifest",
)


def damage(step, before, kind, numbers):
    """Damage the folder `step`, beside which `before` lies; what was done."""
    files = sorted(path for path in step.rglob("*") if path.is_file())
    file = numbers.choice(files)
    if kind == "no manifest":
        file = step / "manifest.json"
    data = bytearray(file.read_bytes())
    at = numbers.randrange(max(len(data), 1))
    other = before / file.relative_to(step)
    if kind in ("flip", "flips") and data:
        for _ in range(1 if kind == "flip" else numbers.randint(2, 40)):
            data[numbers.randrange(len(data))] ^= 1 << numbers.randrange(8)
        file.write_bytes(data)
    elif kind == "cut":
        file.write_bytes(data[:at])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "longer":
        file.write_bytes(data + numbers.randbytes(numbers.randint(1, 500)))
    elif kind == "swap":
        second = numbers.choice(files)
        data = second.read_bytes()
        second.write_bytes(file.read_bytes())
        file.write_bytes(data)
    elif kind == "older":
        if not other.exists():  # files of arrays have names of their own
            other = numbers.choice([path for path in before.rglob("*") if path.is_file()])
        shutil.copyfile(other, file)
    elif kind in ("remove item", "older item"):
        item = numbers.choice(sorted(path for path in step.iterdir() if path.is_dir()))
        shutil.rmtree(item)
        if kind == "older item":
            shutil.copytree(before / item.name, item)
        file = item
    else:
        file.unlink()
    return f"{kind} {file.relative_to(step)}"


def campaign(folder, num_corruptions, deadline, seed):
    """The report on so many corruptions, or as many as there are before the deadline."""
    install_log_handler()  # what it says is read off standard error, as a command's
    words = [word for word in WORDS if word.startswith("--config.") and "num_steps" not in word]
    config = load_config("digits", words)
    config.log_every_steps, config.checkpoint_every_steps = 7, 10
    config.warmup_epochs, config.schedule = 0.0, "constant"
    workdir, unbroken = folder / "sound", folder / "unbroken"
    build = lambda: build_experiment(options_of(config), template_devices())  # noqa: E731
    with contextlib.redirect_stderr(io.StringIO()):
        config.num_steps = NUM_STEPS + 3
        train(options_of(config), unbroken, "run")
        expected = open_latest(unbroken).position(NUM_STEPS + 3)
        final = digest(restore_state(open_latest(unbroken), template(), NUM_STEPS + 3))
        config.num_steps = NUM_STEPS
        train(options_of(config), workdir, "run")
    sound = open_latest(workdir)
    steps = sound.steps()
    states = {step: digest(restore_state(sound, template(), step)) for step in steps}
    positions = {step: sound.position(step) for step in steps}
    experiment = build()
    numbers = random.Random(seed)
    counts = {"detected": 0, "harmless": 0}
    continued, failures = 0, []
    for number in range(num_corruptions):
        if time.monotonic() > deadline:
            break
        damaged = folder / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(workdir, damaged)
        before, latest = (damaged / "checkpoints" / str(step) for step in steps)
        what = f"{number}: {damage(latest, before, KINDS[number % len(KINDS)], numbers)}"
        continues = number % 20 == 0
        if continues:
            shutil.copytree(damaged, folder / "continued", dirs_exist_ok=False)
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            state, manifest = restore_last(template(), open_latest(damaged), open_best(damaged), experiment)
        step = int(state.step)
        warned = f"{latest}" in errors.getvalue()
        counts["detected" if warned else "harmless"] += 1
        if warned != (step == steps[0]):
            failures.append(f"{what}: step {step} restored, told: {errors.getvalue()!r}")
        if errors.getvalue().count("\n") > 1:
            failures.append(f"{what}: more than a line: {errors.getvalue()!r}")
        if digest(state) != states[step] or manifest["position"] != positions[step]:
            failures.append(f"{what}: step {step} restored, which is not what was saved")
        if continues:
            config.num_steps = NUM_STEPS + 3
            with contextlib.redirect_stderr(io.StringIO()):
                train(options_of(config), folder / "continued", "run")
            ended = open_latest(folder / "continued")
            same = digest(restore_state(ended, template(), NUM_STEPS + 3)) == final
            if not same or ended.position(NUM_STEPS + 3) != expected:
                failures.append(f"{what}: the continued run is not what the unbroken one is")
            shutil.rmtree(folder / "continued")
            continued += 1
    total = sum(counts.values())
    return {
        "fault": "a checkpoint's files altered, cut, removed, swapped",
        "tried": f"{total} corruptions of {len(KINDS)} kinds",
        "count": total,
        "result": f"{counts['detected']} noticed, the step before restored; {counts['harmless']} changed nothing that "
        f"is read, all bit for bit; {continued} of the runs continued to the unbroken run's end",
        "failures": failures,
    }


def template_devices():
    """The device that `template` lies on."""
    import jax

    return jax.devices()[:1]
