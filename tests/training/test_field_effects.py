"""Every field of the config has an effect that can be seen, or is refused in a line that says what it needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax.cli.main import main
from resnet_jax.config import check_effects, configs_dir, default_config, flatten, load_config, to_json
from resnet_jax.config.effects import CONDITIONS, KnownImages, fields_without_effect
from resnet_jax.errors import NonFiniteError, UserError
from resnet_jax.training.experiment import build_experiment, load_images, options_of
from resnet_jax.training.images import augmenter
from resnet_jax.training.jit_steps import init_run_state
from resnet_jax.training.resume import check_run
from resnet_jax.training.run import train

TINY = ("model=resnet20", "model_args.stage_sizes=(1,)", "model_args.num_filters=4", "batch_size=8")
RUN = ("num_steps=4", "batch_size=64", "log_every_steps=2")
FOLDER = ("dataset=folder", "data_dir={images}", "batch_size=2", "image_size=8")
SPLITS, TABLE = (*FOLDER, "data_dir={splits}"), (*FOLDER, "data_dir={tables}")
CROP = ("augment.random_resized_crop=True", "augment.crop_size=4")
RANDAUGMENT = ("augment.policy=randaugment",)
STEP, WARMUP = ("schedule=step", "decay_steps=(20,)"), ("warmup_steps=8",)
HEAD = ("finetune.weights=some.pth", "finetune.trainable=head")
MIXED = ("loss=sigmoid", "augment.mixup=0.5", "augment.cutmix=0.5")
EMA, DIVERGING = ("ema_decay=0.9",), ("learning_rate=1e38", *RUN)

# field: (what it changes, another value than the default's, the fields that it needs, fields under which it has no
# effect: None where it always has one).
CASES = {
    "model": ("model", "plain20", (), None),
    "model_args": ("model", "shortcut", (), None),
    "num_classes": ("refusal", 7, (), None),
    "dtype": ("model", "bfloat16", (), None),
    "batch_norm": ("logits", "ghost:4", (), HEAD),
    "stem_init": ("log", "whitening", RUN, ("finetune.weights=some.pth",)),
    "precise_bn_batches": ("log", 2, RUN, None),
    "dataset": ("batches", "folder", (), None),
    "data_dir": ("batches", "{damaged}", FOLDER, ()),
    "split_folders.train": ("batches", "val", SPLITS, ()),
    "split_folders.validation": ("batches", "val", SPLITS, ()),
    "split_folders.test": ("batches", "val", SPLITS, ()),
    "table.file": ("batches", "deep/er/other.csv", TABLE, ()),
    "table.image_column": ("batches", "twin", TABLE, ()),
    "table.label_column": ("batches", "kind", TABLE, ()),
    "table.split_column": ("batches", "fold", TABLE, ()),
    "table.image_dir": ("batches", "j", TABLE, ()),
    "table.label_separator": ("batches", "a", TABLE, ()),
    "table.class_names": ("batches", "names.txt", TABLE, ()),
    "image_size": ("batches", 16, (), None),
    "fit": ("evaluation", "squash", FOLDER, ()),
    "resize": ("evaluation", 12, FOLDER, ()),
    "interpolation": ("evaluation", "bicubic", FOLDER, ()),
    "channels": ("batches", 1, ("mean=(0.5,)", "std=(0.5,)"), None),
    "exif_rotation": ("batches", True, FOLDER, ()),
    "high_bit_depth": ("evaluation", "scale", (*FOLDER, "data_dir={deep}"), ()),
    "max_pixels": ("evaluation", 10, FOLDER, ()),
    "max_bad_images": ("batches", 1, (*FOLDER, "data_dir={damaged}"), ()),
    "decode_threads": ("reading", 3, FOLDER, ()),
    "repeated_augmentation": ("batches", 2, (), None),
    "validation_fraction": ("batches", 0.25, FOLDER, (*FOLDER, "data_dir={splits}")),
    "validation_split": ("batches", "stratified", (*FOLDER, "validation_fraction=0.5"), FOLDER),
    "sampling": ("batches", "balanced", (), None),
    "normalize": ("prepared", "pixel", (), None),
    "mean": ("prepared", (0.4, 0.5, 0.5), (), ("normalize=pixel",)),
    "std": ("prepared", (0.4, 0.5, 0.5), (), None),
    "augment.crop_padding": ("prepared", 2, (), None),
    "augment.crop_padding_mode": ("prepared", "reflect", ("augment.crop_padding=2",), ()),
    "augment.flip": ("prepared", True, (), None),
    "augment.flip_alternates": ("prepared", True, ("augment.flip=True",), ("augment.flip=True", "sampling=balanced")),
    "augment.random_resized_crop": ("batches", True, (), None),
    "augment.crop_size": ("batches", 16, CROP, ()),
    "augment.crop_scale": ("batches", (0.5, 0.6), CROP, ()),
    "augment.crop_ratio": ("batches", (0.5, 0.6), CROP, ()),
    "augment.resampler": ("batches", "pillow", CROP, ()),
    "augment.antialias": ("batches", False, CROP, ()),
    "augment.color_jitter": ("batches", (0.5, 0.0, 0.0, 0.0), (), None),
    "augment.policy": ("batches", "trivialaugment", (), None),
    "augment.policy_num_ops": ("batches", 1, RANDAUGMENT, ("augment.policy=trivialaugment",)),
    "augment.policy_magnitude": ("batches", 20.0, RANDAUGMENT, ()),
    "augment.cutout_size": ("prepared", 4, (), None),
    "augment.random_erasing": ("prepared", 0.9, (), None),
    "augment.mixup": ("prepared", 0.5, (), None),
    "augment.cutmix": ("prepared", 0.5, (), None),
    "finetune.weights": ("refusal", "absent.pth", (), None),
    "finetune.head": ("model", "add", ("finetune.weights=some.pth",), ()),
    "finetune.trainable": ("model", "stage1", ("finetune.weights=some.pth",), None),
    "finetune.head_learning_rate": ("update", 0.5, (), ("learning_rate_factors.fc=0.5",)),
    "finetune.layer_decay": ("update", 0.5, (), HEAD),
    "batch_size": ("batches", 16, (), None),
    "accumulation_steps": ("due", 2, ("batch_size=16",), None),
    "num_epochs": ("due", 2, (), ("num_steps=10",)),
    "num_steps": ("due", 30, (), None),
    "stop_after_minutes": ("log", 1e-9, RUN, None),
    "seed": ("batches", 1, (), None),
    "optimizer": ("update", "lamb", (), None),
    "learning_rate": ("update", 0.2, (), None),
    "momentum": ("update", 0.5, (), None),
    "nesterov": ("update", True, (), ("optimizer=lamb",)),
    "second_momentum": ("update", 0.5, ("optimizer=adamw",), ()),
    "weight_decay": ("update", 0.1, (), None),
    "decay_norm_and_bias": ("update", False, (), ("weight_decay=0",)),
    "decay_bias": ("update", True, ("decay_norm_and_bias=False",), ()),
    "l1": ("update", 0.1, (), None),
    "trust_coefficient": ("update", 0.01, ("optimizer=lars",), ("optimizer=lars", "weight_decay=0")),
    "clip_gradient_norm": ("update", 2.0, (), ("optimizer=lamb",)),
    "learning_rate_factors": ("update", "fc", (), None),
    "loss": ("loss", "sigmoid", (), None),
    "target_threshold": ("loss", 0.3, MIXED, ("loss=sigmoid",)),
    "label_smoothing": ("loss", 0.1, (), None),
    "class_weights": ("loss", "balanced", (), None),
    "ema_decay": ("state", 0.9, (), None),
    "ema_every_steps": ("state", 2, EMA, ()),
    "ema_warmup_epochs": ("state", 1.0, EMA, ()),
    "schedule": ("rates", "polynomial", (), None),
    "schedule_by": ("rates", "epoch", (), ("schedule=constant",)),
    "decay_epochs": ("rates", (0.25,), ("schedule=step", "decay_steps=()"), ()),
    "decay_steps": ("rates", (30,), STEP, ()),
    "decay_factor": ("rates", 0.5, STEP, ()),
    "warmup_epochs": ("rates", 0.1, (), WARMUP),
    "warmup_steps": ("rates", 8, (), None),
    "warmup_start_factor": ("rates", 0.5, WARMUP, ()),
    "warmup_shape": ("rates", "constant", WARMUP, ()),
    "log_every_steps": ("log", 1, RUN, None),
    "early_stopping_patience": ("due", 1, ("validation_fraction=0.1",), ()),
    "eval_every_epochs": ("due", 2, ("validation_fraction=0.1",), ()),
    "test_every_epochs": ("due", 1, (), FOLDER),
    "checkpoint_every_steps": ("due", 5, (), None),
    "tensorboard_tags": ("log", "plain", RUN, None),
    "on_nonfinite": ("log", "skip", DIVERGING, None),
    "max_skipped_updates": ("log", 1, (*DIVERGING, "on_nonfinite=skip"), DIVERGING),
}  # fmt: skip
OPEN = {"model_args": ("shortcut", "B"), "learning_rate_factors": ("fc", 0.5)}
CONDITIONAL = sorted({field for condition in CONDITIONS for field in condition.fields})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of images by the names that CASES uses: eight good ones, one damaged among others, two
    splits, and four of 16 bits a channel."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for where in ("images", "damaged", "splits/train", "splits/val"):
        for name in ("cat", "dog"):
            folder = root / where / name
            folder.mkdir(parents=True)
            for i in range(4):
                exif = Image.Exif()
                exif[0x0112] = 6  # turned by a quarter
                picture = Image.fromarray(random.integers(0, 256, (20, 14, 3), np.uint8))
                picture.save(folder / f"{i}.jpg", exif=exif)
    (root / "damaged/cat/0.jpg").write_bytes(b"no image")
    tables = root / "tables"
    for where in ("i", "j", "deep/er"):
        (tables / where).mkdir(parents=True)
    rows = ["path,twin,label,kind,fold"]
    for i in range(8):
        for where in ("i", "j"):
            Image.fromarray(random.integers(0, 256, (20, 14, 3), np.uint8)).save(tables / where / f"{i}.png")
        label, kind, fold = (
            ("cat", "dog")[i % 2],
            ("old", "young")[i // 4],
            ("a val", "a train")[i // 4],
        )  # which no column of splits says by itself
        rows.append(f"i/{i}.png,j/{i}.png,{label},{kind},{fold}")
    (tables / "labels.csv").write_text("\n".join(rows) + "\n")
    (tables / "deep/er/other.csv").write_text("path,label\ni/1.png,cat\ni/3.png,cat\ni/2.png,dog\ni/0.png,dog\n")
    (tables / "names.txt").write_text("dog\ncat\n")
    for i in range(4):
        folder = root / "deep" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 2**16, (20, 14), np.uint16)).save(folder / f"{i}.png")
    return {name: root / name for name in ("images", "damaged", "splits", "tables", "deep")}


def config_with(words, folders):
    """The default config with these `field=value` words, of which the last of a field counts."""
    fields = dict(word.format(**folders).split("=", 1) for word in (*TINY, *words))
    return load_config("default", [f"--config.{field}={value}" for field, value in fields.items()])


def changed(config, field, value, folders):
    """The config with another value of the field, given by nobody."""
    config = config.copy_and_resolve_references()
    for name in OPEN:
        config[name].unlock()
    if field in OPEN:
        name, inner = OPEN[field]
        config[field][name] = inner
    else:
        value = value.format(**folders) if isinstance(value, str) else value
        config.update_from_flattened_dict({field: value})
    return config


def build(config):
    return build_experiment(options_of(config), jax.devices()[:1])


def batches_of(config):
    batches = build(config).batches
    return [batches[step] for step in range(3)]


def evaluation_of(config):
    return load_images(options_of(config)).train.read(np.arange(4)).image


def prepared_of(config):
    made = build(config)
    prepare = augmenter(made.options.augment, made.options.batches, made.normalization, 10, config.dtype)
    return prepare(made.batches[0], jnp.asarray(0))


def update_of(config):
    model = build(config).model
    params = {
        name: {
            "scale" if name == "bn1" else "kernel": jnp.full((2, 3) if name != "bn1" else (3,), 0.5),
            "bias": jnp.ones(3),
        }
        for name in ("conv1", "bn1", "layer1", "fc")
        if name not in model.frozen_layers
    }
    state, total = build(config).tx.init(params), params
    for k in range(2):
        gradients = jax.tree.map(lambda p, k=k: 2.0 * p + k, params)
        updates, state = build(config).tx.update(gradients, state, params)
        total = jax.tree.map(jnp.add, total, updates)
    return total


def loss_of(config):
    state = init_run_state(build(config), shapes_only=True)
    logits, labels = jnp.array([[0.3, -1.0, 2.0, *[0.0] * 7]]), jnp.array([[0.6, 0.4, *[0.0] * 8]])
    mixes = config.augment.mixup or config.augment.cutmix
    return state.loss(logits, labels if mixes else jnp.array([0]))


def state_of(config):
    state = init_run_state(build(config), shapes_only=True)
    return (str(state.averaging), state.on_nonfinite, state.seed)


def due_of(config):
    made = build(config)
    return (str(made.periods), made.batches.num_parts)


def logits_of(config):
    model, images = build(config).model, jax.random.normal(jax.random.key(0), (8, 8, 8, 3))
    variables = model.init(jax.random.key(1), images, train=False)
    return model.apply(variables, images, train=True, mutable=["batch_stats"])


def refusal_of(config):
    build(config)
    return config.finetune.weights


ASPECTS = {
    "batches": batches_of,
    "evaluation": evaluation_of,
    "prepared": prepared_of,
    "update": update_of,
    "loss": loss_of,
    "state": state_of,
    "due": due_of,
    "reading": lambda config: options_of(config).images.reading().threads.num_threads,
    "logits": logits_of,
    "refusal": refusal_of,
    "model": lambda config: repr(build(config).model),
    "rates": lambda config: [float(build(config).schedule(step)) for step in range(0, 179, 3)],
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """(aspect, config) -> what a run of the config shows of it; of runs of the same config one is made."""
    logs = {}

    def log(config):
        key = to_json(config)
        if key not in logs:
            try:
                workdir = tmp_path_factory.mktemp("runs") / "run"
                result = train(options_of(config), workdir, "run")
                records = [{k: v for k, v in one.items() if k != "images_per_second"} for one in result.records]
                tags = [b"loss/train" in path.read_bytes() for path in workdir.glob("events.*")]
                logs[key] = str((records, result.interrupted_by, result.digest, tags))
            except NonFiniteError as error:
                logs[key] = str(error)
        return logs[key]

    def see(aspect, config):
        try:
            return log(config) if aspect == "log" else ASPECTS[aspect](config)
        except UserError as error:
            return str(error)

    return see


def same(one, other):
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    return all(alike(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def alike(one, other):
    if isinstance(one, str) or isinstance(other, str):
        return type(one) is type(other) and one == other
    return np.shape(one) == np.shape(other) and np.allclose(one, other, rtol=1e-6, atol=0)


def test_every_field_has_a_case():
    assert set(CASES) == {*flatten(default_config()), *OPEN}
    assert {field for field, case in CASES.items() if case[3] is not None} == set(CONDITIONAL)


@pytest.mark.parametrize("field", CASES)
def test_changing_a_field_changes_what_it_is_said_to_change(field, folders, seen):
    aspect, value, needs, _ = CASES[field]
    config = config_with(needs, folders)
    assert field not in fields_without_effect(config, KnownImages.of_config(config))
    assert not same(seen(aspect, config), seen(aspect, changed(config, field, value, folders)))


@pytest.mark.parametrize("field", CONDITIONAL)
def test_fields_without_effect_change_nothing_and_are_refused_on_the_command_line(
    field, folders, seen, capsys, tmp_path
):
    aspect, value, _, without = CASES[field]
    config = config_with(without, folders)
    other = changed(config, field, value, folders)
    if field not in ("decode_threads", "finetune.head"):  # the time alone; refused in a file as well
        assert same(seen(aspect, config), seen(aspect, other))
    words = [f"--config.{word.format(**folders)}" for word in without if not word.startswith(f"{field}=")]
    if field in ("num_epochs", "warmup_epochs"):  # given on the command line, they count instead of the others
        return
    capsys.readouterr()
    written = value.format(**folders) if isinstance(value, str) else value
    assert (
        main(
            [
                "preview",
                "--config",
                "default",
                *words,
                f"--config.{field}={written}",
                "--to",
                str(tmp_path / "never.png"),
            ]
        )
        == 2
    )
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert line.startswith(f"error: config.{field}=")
    assert "has no effect in this run: it needs " in line


def test_fields_may_be_turned_off_where_they_are():
    words = ["--config.optimizer=lamb", "--config.nesterov=False", "--config.decay_steps=()", "--config.resize=0"]
    assert load_config("digits", words).optimizer == "lamb"
    with pytest.raises(UserError, match=r"config.augment.antialias=False has no effect"):
        load_config("digits", ["--config.augment.antialias=False"])


@pytest.mark.parametrize("name", sorted(path.stem for path in configs_dir().glob("*.py")))
def test_no_shipped_config_sets_a_field_without_effect(name):
    config = load_config(name)
    assert check_effects(config, KnownImages.of_config(config)) == ""


def test_fields_that_a_file_sets_without_effect_are_warned_of_once(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "from resnet_jax.config import load_config\n\n"
        "def get_config():\n"
        "    config = load_config('digits', ['--config.schedule=step', '--config.decay_steps=(9,)'])\n"
        "    config.schedule = 'cosine'\n    config.augment.crop_scale = (0.5, 1.0)\n"
        "    config.ema_every_steps = 7\n    return config\n"
    )
    for _ in range(2):
        load_images(options_of(load_config(str(path))))
    load_images(options_of(load_config("digits", ["--config.nesterov=False", "--config.augment.crop_padding=0"])))
    load_images(
        options_of(load_config("cifar10_wrn", ["--config.dataset=digits", "--config.schedule=cosine"]))
    )  # no mistake of its
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "warning: without effect in this run: config.augment.crop_scale=(0.5, 1.0) needs "
        "config.augment.random_resized_crop=True; config.decay_steps=(9,) needs config.schedule='step'; "
        "config.ema_every_steps=7 needs config.ema_decay > 0"
    )


def test_runs_begun_with_a_field_without_effect_continue_without_it(tmp_path):
    config = load_config("digits")
    config.decay_factor = 0.5
    (tmp_path / "config.json").write_text(to_json(config))
    check_run(tmp_path, options_of(load_config("digits")))
    with pytest.raises(UserError, match=r"config.momentum is 0.9 there and 0.8 here"):
        check_run(tmp_path, options_of(load_config("digits", ["--config.momentum=0.8"])))


def test_seeds_that_jax_would_cut_are_refused_in_new_runs_alone(tmp_path):
    config = load_config("digits", [f"--config.seed={2**32}"])
    with pytest.raises(UserError, match=r"config\.seed=4294967296 must be below 2\*\*32: of a larger one JAX takes"):
        check_run(tmp_path, options_of(config))
    (tmp_path / "config.json").write_text(to_json(config))
    check_run(tmp_path, options_of(config))


@pytest.mark.parametrize("values", [(0.01, 5.0), (5.0, 0.01)])
def test_field_that_has_an_effect_before_or_after_may_not_change(tmp_path, values):
    before, after = (load_config("digits", ["--config.optimizer=lamb"]) for _ in values)
    before.clip_gradient_norm, after.clip_gradient_norm = values
    (tmp_path / "config.json").write_text(to_json(before))
    with pytest.raises(UserError, match=rf"config.clip_gradient_norm is {values[0]} there and {values[1]} here"):
        check_run(tmp_path, options_of(after))
    after.clip_gradient_norm = 5.0
    before.clip_gradient_norm = 2.0  # neither clips before lamb does
    (tmp_path / "config.json").write_text(to_json(before))
    check_run(tmp_path, options_of(after))
