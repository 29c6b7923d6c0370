"""Measures the cost of checking on the device that loss and gradient are finite: a step with and without, in turn."""

import statistics
import time

import jax
import jax.numpy as jnp
import optax
from runs import load_config

from resnet_jax.distributed.mesh import shard_batch
from resnet_jax.training.experiment import build_experiment, options_of
from resnet_jax.training.jit_steps import init_run_state, jit_train_step

NUM_STEPS = 4  # in each measurement


def campaign(folder, num_pairs, deadline, seed):
    """The report on ResNet-20, 128 images of 32 pixels, for both values of config.on_nonfinite."""
    del folder, seed
    ratios = {"stop": [], "skip": []}
    runs = {name: seconds_per_step(name) for name in ("none", *ratios)}
    while len(ratios["stop"]) < num_pairs and (len(ratios["stop"]) < 2 or time.monotonic() < deadline):
        bare = runs["none"]()
        for name, values in ratios.items():
            values.append(runs[name]() / bare)
    texts = [
        f"“{name}” {statistics.median(values):.3f} ({min(values):.2f} to {max(values):.2f})"
        for name, values in ratios.items()
    ]
    return {
        "fault": "loss or gradient not finite: what looking for it costs, ResNet-20, 128 images of 32 pixels",
        "tried": f"{len(ratios['stop'])} pairs of {NUM_STEPS} steps in turn",
        "count": len(ratios["stop"]),
        "result": f"a step takes, of one that does not look, {' and '.join(texts)}",
        "failures": [],
    }


def seconds_per_step(on_nonfinite):
    """A function that trains on for some steps and returns their seconds; "none": without looking at all."""
    words = ["--config.image_size=32", "--config.batch_size=128", "--config.augment.crop_padding=4"]
    if on_nonfinite != "none":
        words.append(f"--config.on_nonfinite={on_nonfinite}")
    experiment = build_experiment(options_of(load_config("digits", words)), jax.devices()[:1])
    train_fn, state = jit_train_step(experiment), init_run_state(experiment)
    batch = shard_batch(experiment.batches[0], experiment.mesh)
    norm = optax.tree.norm
    if on_nonfinite == "none":
        optax.tree.norm = lambda gradients: jnp.zeros(())
    try:
        state, _ = jax.block_until_ready(train_fn(state, batch))
    finally:
        optax.tree.norm = norm

    def run():
        nonlocal state
        started = time.perf_counter()
        for _ in range(NUM_STEPS):
            state, _ = train_fn(state, batch)
        jax.block_until_ready(state)
        return (time.perf_counter() - started) / NUM_STEPS

    return run
