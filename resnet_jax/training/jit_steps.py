"""A run's train state and its compiled functions: the update, the evaluation, the recomputed statistics."""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from resnet_jax.data.prefetch import prefetch
from resnet_jax.distributed.mesh import data_sharding, replicated, shard_batch
from resnet_jax.distributed.preemption import PreemptionGuard
from resnet_jax.distributed.sync import broadcast_from_process_0
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shapes import variable_shapes
from resnet_jax.training.images import Normalization, augmenter, normalizer
from resnet_jax.training.precise_batch_norm import precise_batch_stats
from resnet_jax.training.train_state import TrainState, create_train_state
from resnet_jax.training.train_step import (
    Accumulated,
    accumulate,
    begin_accumulation,
    eval_step,
    finish_accumulation,
    multi_label_eval_step,
    per_example_eval_step,
    train_step,
)
from resnet_jax.training.whitening import whitening_filters

if TYPE_CHECKING:
    from resnet_jax.training.experiment import Experiment, Options

Array = jax.Array
TrainStep = Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]]
EvalStep = Callable[[TrainState, dict[str, Array]], dict[str, Any]]
Watch = Callable[[Callable[..., Any], Mesh, tuple[int, ...]], Callable[..., Any]]


def _unwatched(function: Callable[..., Any], mesh: Mesh, donated: tuple[int, ...]) -> Callable[..., Any]:
    del mesh, donated
    return function


def init_train_state(
    model: ResNet,
    tx: optax.GradientTransformation,
    options: "Options",
    mesh: Mesh,
    steps_per_epoch: int = 1,
    *,
    class_weights: tuple[float, ...] = (),
    multi_label: bool = False,
    shapes_only: bool = False,
    begin_with: Mapping[str, Any] | None = None,
    stem_filters: np.ndarray | None = None,
) -> TrainState:
    """Returns the train state at step 0, drawn from the options' seed and replicated on the mesh; with shapes_only its
    shapes, as they lie there.

    Args:
      steps_per_epoch, class_weights, multi_label: where it is to be trained.
      begin_with: variables instead of drawn ones; but with config.finetune.head other than "keep" the last layer is
        drawn all the same.
      stem_filters: (h, w, C, K), instead of the first K drawn ones of the first convolution.
    """

    of_state, seed = options.state, options.batches.seed

    def state_of(variables: Any) -> TrainState:
        return create_train_state(
            model,
            variables,
            tx,
            label_smoothing=of_state.label_smoothing,
            loss=of_state.loss,
            target_threshold=of_state.target_threshold,
            class_weights=class_weights,
            multi_label=multi_label,
            ema_decay=of_state.ema_decay or None,
            ema_every_steps=of_state.ema_every_steps,
            ema_warmup_steps=round(of_state.ema_warmup_epochs * steps_per_epoch),
            on_nonfinite=of_state.on_nonfinite,
            seed=seed,
        )

    if shapes_only:
        shapes = jax.eval_shape(state_of, variable_shapes(model, options.images.channels))
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)), shapes
        )

    def create(key: Array, given: Mapping[str, Any]) -> TrainState:
        variables = model.init(key, jnp.zeros((1, 32, 32, options.images.channels)), train=False)
        if not given:
            return state_of(variables)
        if "stem_filters" in given:
            kernel = variables["params"]["conv1"]["kernel"]
            kernel = kernel.at[..., : given["stem_filters"].shape[-1]].set(given["stem_filters"])
            conv1 = {**variables["params"]["conv1"], "kernel": kernel}
            return state_of({**variables, "params": {**variables["params"], "conv1": conv1}})
        params, (new, _) = dict(given["params"]), model.head_layers[-1]
        if options.finetune.head != "keep":
            params[new] = variables["params"][new]
        return state_of({**given, "params": params})

    # It runs once: optimised fully, each kernel's random numbers would take seconds to compile and nothing to draw.
    compiler_options = {"xla_backend_optimization_level": 1}
    compiled = jax.jit(create, out_shardings=replicated(mesh), compiler_options=compiler_options)
    given = {} if stem_filters is None else {"stem_filters": stem_filters}
    return compiled(jax.random.key(seed), begin_with or given)


def init_run_state(
    experiment: "Experiment", *, shapes_only: bool = False, begin_with: Mapping[str, Any] | None = None
) -> TrainState:
    """Returns the experiment's train state at step 0, as `init_train_state`."""
    options, stem_filters = experiment.options, None
    if options.state.stem_init == "whitening" and not shapes_only and begin_with is None:
        kernel = variable_shapes(experiment.model, options.images.channels)["params"]["conv1"]["kernel"]
        source, normalization = experiment.batches.source, experiment.normalization
        found = broadcast_from_process_0(  # another processor might round them otherwise
            lambda: whitening_filters(source, normalization, kernel.shape[:2], kernel.shape[-1]).tolist()
        )
        stem_filters = np.asarray(found, np.float32)
    return init_train_state(
        experiment.model,
        experiment.tx,
        experiment.options,
        experiment.mesh,
        experiment.steps_per_epoch,
        class_weights=experiment.class_weights,
        multi_label=experiment.multi_label,
        shapes_only=shapes_only,
        begin_with=begin_with,
        stem_filters=stem_filters,
    )


def load_train_batch(experiment: "Experiment", step: int) -> dict[str, Any]:
    """Returns the batch of step `step`, from 0, on the mesh."""
    return shard_batch(experiment.batches[step], experiment.mesh, experiment.batches.num_parts)


def jit_train_step(experiment: "Experiment", watch: Watch = _unwatched) -> TrainStep:
    """Returns (state, batch of `TrainBatches` on the mesh) -> (state, metrics): augmentation and update in one program.

    The state is donated: its buffers are the new state's. Metrics are `train_step`'s and "learning_rate". With
    config.accumulation_steps > 1 three programs, of which one runs for each part of the batch.

    Args:
      watch: of an `PreemptionGuard`, around the program that ends the step.
    """
    prepare = _preparation(experiment)
    num_parts = experiment.batches.num_parts
    whole, rows = replicated(experiment.mesh), data_sharding(experiment.mesh, num_parts)

    def with_learning_rate(
        state: TrainState, result: tuple[TrainState, dict[str, Array]]
    ) -> tuple[TrainState, dict[str, Array]]:
        new_state, metrics = result
        return new_state, {**metrics, "learning_rate": jnp.asarray(experiment.schedule(state.step))}

    def step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        return with_learning_rate(state, train_step(state, prepare(batch, state.step, 0)))

    def add(state: TrainState, accumulated: Accumulated, batch: dict[str, Array]) -> Accumulated:
        return accumulate(state, accumulated, prepare(batch, state.step, accumulated.num_parts))

    def finish(state: TrainState, accumulated: Accumulated) -> tuple[TrainState, dict[str, Array]]:
        return with_learning_rate(state, finish_accumulation(state, accumulated))

    if num_parts == 1:
        step_fn = jax.jit(step, donate_argnums=0, in_shardings=(whole, rows), out_shardings=(whole, whole))
        return watch(step_fn, experiment.mesh, (0,))
    begin_fn = jax.jit(begin_accumulation, out_shardings=whole)
    add_fn = jax.jit(add, donate_argnums=1, in_shardings=(whole, whole, rows), out_shardings=whole)
    finish_jit = jax.jit(finish, donate_argnums=0, out_shardings=(whole, whole))
    finish_fn = watch(finish_jit, experiment.mesh, (0,))

    def step_by_parts(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        accumulated = begin_fn(state)
        for _ in range(num_parts):
            accumulated = add_fn(state, accumulated, batch)
        return finish_fn(state, accumulated)

    return step_by_parts


def make_eval_state_fn(experiment: "Experiment", preemption: PreemptionGuard) -> Callable[[TrainState], TrainState]:
    """Returns (state) -> the state that evaluates the model: with config.precise_bn_batches, the training batches that
    come next give new statistics to the model and to the moving average; without, it is the state itself.
    """
    num_batches, mesh, batches = experiment.options.state.precise_bn_batches, experiment.mesh, experiment.batches
    if not num_batches:
        return lambda state: state
    num_parts = batches.num_parts
    prepare = jax.jit(_preparation(experiment))

    def images(first: int) -> Generator[Array, None, None]:
        """Yields of config.precise_bn_batches batches from step `first` on, in the parts in which they are trained
        on.
        """
        places = range(first, first + num_batches)
        with closing(prefetch(lambda k: shard_batch(batches[k], mesh, num_parts), places)) as sharded:
            for k, batch in zip(places, preemption.defer_errors_of(sharded, len(places)), strict=True):
                for part in range(num_parts):
                    yield prepare(batch, jnp.asarray(k), jnp.asarray(part))["image"]

    def judged(state: TrainState) -> TrainState:
        def recomputed(variables: dict[str, Any]) -> Any:
            with closing(images(int(state.step))) as batches_of_images:
                statistics = precise_batch_stats(experiment.model, variables, batches_of_images, batches.seed)
            preemption.sync_deferred_errors()  # an image that one process cannot read
            return statistics

        state = state.replace(batch_stats=recomputed(state.variables))
        if state.averaging is None:
            return state
        return state.replace(ema_batch_stats=recomputed(state.averaged().variables))

    return judged


def jit_eval_step(
    normalization: Normalization | None, dtype: str, mesh: Mesh, eval_step: Callable[..., Any] = eval_step,
    *, apply: Callable[..., Array] | None = None, flip: bool = False,
) -> EvalStep:  # fmt: skip
    """Returns (state, batch of `EvalBatches` on the mesh) -> sums: normalisation and `eval_step` in one program.

    Args:
      normalization: None for pooled features instead of images.
      apply: instead of the state's apply_fn; it goes with the result, as JAX keeps what a state holds beside arrays.
      flip: the logits are the mean of each image's and its mirror's.
    """
    normalized = normalizer(normalization, dtype) if normalization else lambda features: features

    def step(state: TrainState, batch: dict[str, Array]) -> dict[str, Any]:
        images = batch["image"]
        if flip:  # before a mean image is subtracted
            images = jnp.stack([images, images[:, :, ::-1]], axis=1)  # (B, 2, H, W, C)
        return eval_step(state.replace(apply_fn=apply) if apply else state, {**batch, "image": normalized(images)})

    whole, rows = replicated(mesh), data_sharding(mesh)
    return jax.jit(step, in_shardings=(whole, rows), out_shardings=whole)


def jit_per_example_eval_step(
    normalization: Normalization, dtype: str, mesh: Mesh, apply: Callable[..., Array] | None = None,
    *, multi_label: bool = False, flip: bool = False,
) -> EvalStep:  # fmt: skip
    """Does as `jit_eval_step`, of `per_example_eval_step`: sums, and rows that every process has of all of them.

    Args:
      multi_label: images have several labels: `multi_label_eval_step`.
      apply, flip: as for `jit_eval_step`.
    """
    of_rows = multi_label_eval_step if multi_label else per_example_eval_step
    return jit_eval_step(normalization, dtype, mesh, of_rows, apply=apply, flip=flip)


def jit_run_eval_step(experiment: "Experiment") -> EvalStep:
    """Returns the step that evaluates a run of `experiment`, on images or on their features."""
    normalization = None if experiment.from_features else experiment.normalization
    of_labels = multi_label_eval_step if experiment.multi_label else eval_step
    return jit_eval_step(normalization, experiment.options.model.dtype, experiment.mesh, of_labels)


def jit_features(
    model: ResNet, normalization: Normalization, dtype: str, mesh: Mesh
) -> Callable[[Any, dict[str, Array]], dict[str, Array]]:
    """Returns (variables of `model`, batch of `EvalBatches` on the mesh) -> "image" (B, C), its pooled features,
    "label" and "mask" of all rows, for every process.
    """
    headless, normalized = model.clone(num_classes=None, base_classes=None), normalizer(normalization, dtype)

    def features(variables: Any, batch: dict[str, Array]) -> dict[str, Array]:
        pooled = jnp.asarray(headless.apply(variables, normalized(batch["image"]), train=False))
        return {**batch, "image": pooled}

    whole, rows = replicated(mesh), data_sharding(mesh)
    return jax.jit(features, in_shardings=(whole, rows), out_shardings=whole)


def _preparation(experiment: "Experiment") -> Callable[..., dict[str, Array]]:
    """Returns (batch of `TrainBatches` on the mesh, step, part) -> batch of `train_step`, of that part."""
    prepare: Callable[[dict[str, Array], Array], dict[str, Array]]
    if experiment.from_features:
        prepare = lambda batch, step: {name: batch[name] for name in ("image", "label")}  # noqa: E731
    else:
        options, num_classes = experiment.options, len(experiment.class_names)
        normalization, dtype = experiment.normalization, options.model.dtype
        prepare = augmenter(options.augment, options.batches, normalization, num_classes, dtype)
    num_parts = experiment.batches.num_parts

    def prepare_part(batch: dict[str, Array], step: Array, part: Array | int) -> dict[str, Array]:
        if num_parts == 1:
            return prepare(batch, step)
        rows = {name: parts[part] for name, parts in batch.items()}
        return prepare(rows, step * num_parts + part)  # each part is mixed by a separate draw

    return prepare_part
