"""Configs: every field checked, overrides read as the field's type, errors of one line."""

import dataclasses
import json

import numpy as np
import pytest

from resnet_jax.config import (
    OPEN_FIELDS,
    SECTIONS,
    checked_config,
    config_from_dict,
    configs_dir,
    default_config,
    field_of_other_name,
    flatten,
    load_config,
    to_json,
)
from resnet_jax.errors import UserError
from resnet_jax.training.workdir import read_config

NAMES = sorted(path.stem for path in configs_dir().glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_every_config_loads_locked_and_survives_json(name):
    config = load_config(name)
    assert config.is_locked
    assert config_from_dict(json.loads(to_json(config))).to_dict() == config.to_dict()
    assert load_config(str(configs_dir() / f"{name}.py")).to_dict() == config.to_dict()


def test_overrides_take_the_fields_type():
    words = [
        "--config.learning_rate=1", "--config.nesterov=false", "--config.num_epochs", "3", "--config.mean=(0,0,0.5)",
        "--config.schedule=step", "--config.decay_steps=(5, 9)",
        "--config.model_args.shortcut=B", "--config.model_args.stage_sizes=(1,2)",
        "--config.augment.flip=True", "--config.dataset=cifar10", "--config.data_dir=/a=b",
    ]  # fmt: skip
    config = load_config("digits", words)
    assert type(config.learning_rate) is float
    assert config.nesterov is False
    assert config.num_epochs == 3
    assert config.mean == (0.0, 0.0, 0.5)
    assert config.decay_steps == (5, 9)
    assert config.model_args.to_dict() == {"shortcut": "B", "stage_sizes": (1, 2)}
    assert config.augment.flip is True
    assert config.data_dir == "/a=b"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config.learning_rat=1", "config.learning_rat is no field of the config; did you mean 'learning_rate'"),
        ("--config.augment.flp=1", "config.augment.flp is no field of the config; did you mean 'augment.flip'"),
        ("--config.augment=none", "config.augment is no field"),
        ("--config.learning_rate=fast", "config.learning_rate='fast' must be a number"),
        ("--config.num_epochs=2.5", "config.num_epochs='2.5' must be a whole number"),
        ("--config.nesterov=maybe", "config.nesterov='maybe' must be true or false"),
        ("--config.mean=(a,b,c)", r"config.mean='\(a,b,c\)' must be numbers like \(1, 2\)"),
        ("--config.mean=()", r"config.mean=\(\) must be at least one number"),
        ("--config.std=(1,0,1)", "config.std=.* must hold positive numbers"),
        ("--config.batch_size=-1", "config.batch_size=-1 must be positive"),
        ("--config.validation_fraction=1", r"config.validation_fraction=1.0 must be in \[0, 1\)"),
        ("--config.learning_rate=nan", "config.learning_rate=nan must be finite"),
        ("--config.warmup_epochs=inf", "config.warmup_epochs=inf must be finite"),
        ("--config.optimizer=adagrad", "config.optimizer='adagrad' must be one of sgd, lars, lamb"),
        ("--config.seed", "--config.seed needs a value"),
        ("--confg.seed=1", "'--confg.seed=1' is not understood here"),
    ],
)
def test_wrong_overrides_are_told_in_one_line(word, message):
    with pytest.raises(ValueError, match=message) as error:
        load_config("digits", [word])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("config.learning_rat = 1.0", "'learning_rat' is no field of the config; did you mean 'learning_rate'"),
        ("config.learning_rate = 'fast'", "TypeError"),
        ("undefined", "NameError: name 'undefined' is not defined"),
        ("config.std = ('a', 'b', 'c')", r"config.std=\('a', 'b', 'c'\) must hold numbers"),
        ("config.learning_rate = None", "config.learning_rate=None must have a value"),
        ("config = 3", "must return an ml_collections.ConfigDict"),
        (
            "import ml_collections; config = ml_collections.ConfigDict()",
            "the field '.*' is missing; start from default_config",
        ),
        ("this is no python", "SyntaxError"),
    ],
)
def test_wrong_config_files_are_told_in_one_line(tmp_path, body, message):
    path = tmp_path / "mine.py"
    path.write_text(
        "from resnet_jax.config import default_config\n\n"
        f"def get_config():\n    config = default_config()\n    {body}\n    return config\n"
    )
    with pytest.raises(ValueError, match=message) as error:
        load_config(str(path))
    assert "\n" not in str(error.value)
    assert "None" in body or "std" in body or str(path) in str(error.value)


def test_duration_given_on_the_command_line_unsets_the_configs_other_one():
    config = load_config("cifar10", ["--config.num_epochs=3", "--config.decay_epochs=(1,2)"])
    assert (config.num_epochs, config.num_steps) == (3, 0)
    assert (config.decay_epochs, config.decay_steps) == ((1, 2), ())
    assert load_config("digits", ["--config.warmup_steps=5"]).warmup_epochs == 0.0
    assert load_config("digits", ["--config.num_steps=5"]).num_epochs == 0
    for words, expected in ((("num_steps=5", "num_epochs=2"), (2, 0)), (("num_epochs=2", "num_steps=5"), (0, 5))):
        config = load_config("digits", [f"--config.{word}" for word in words])  # the last one counts
        assert (config.num_epochs, config.num_steps) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": "fast"}, "config.json: config.learning_rate='fast' has another type"),
        ({"batch_size": 64.5}, "config.json: config.batch_size=64.5 has another type"),
        ({"mean": ["a", "b", "c"]}, "config.mean=.* must hold numbers"),
        ({"model_args": 3}, "config.json"),
        ({"momentun": 1}, "'momentun' is no field"),
    ],
)
def test_edited_config_json_is_refused_in_one_line(change, message):
    values = {**json.loads(to_json(load_config("digits"))), **change}
    with pytest.raises(ValueError, match=message) as error:
        config_from_dict(values)
    assert "\n" not in str(error.value)


def test_unknown_configs_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"neither a file nor one of cifar10, .*; did you mean 'digits'"):
        load_config("digit")


def test_stored_config_whose_names_no_field_can_have_is_one_line():
    values = json.loads(to_json(load_config("digits")))
    with pytest.raises(
        UserError, match=r"config.json holds no config: ValueError: .* the key a.b contains one"
    ) as error:
        config_from_dict({**values, "a.b": 1})
    assert "\n" not in str(error.value)


def test_config_json_that_is_no_config_is_one_line(tmp_path):
    for text, message in (("[" * 100_000, "is not readable as JSON"), ("[]", "must hold one JSON object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=message) as error:
            read_config(tmp_path)
        assert "\n" not in str(error.value)


def test_other_programs_names_are_known_however_they_are_written():
    for name in ("batch_size", "--Train-Batch-Size", "train-batch-size"):
        assert field_of_other_name(name) == ("" if name == "batch_size" else "batch_size")
    assert field_of_other_name("lr") == field_of_other_name("--LR") == "learning_rate"


def test_every_field_is_unpacked_into_one_dataclass():
    unpacked = [
        prefix + field.name
        for prefix, sections in SECTIONS.items()
        for section in sections
        for field in dataclasses.fields(section)
    ]
    assert sorted(unpacked) == sorted([*flatten(default_config()), *OPEN_FIELDS])


def test_numbers_are_never_rounded_without_a_word():
    config = load_config("imagenet", ["--config.decay_epochs=(22.5,45)"])
    assert config.decay_epochs == (22.5, 45)
    assert load_config("cifar10", ["--config.decay_steps=(1000,2000)"]).decay_steps == (1000, 2000)
    for word in ("decay_steps=(1000.5,2000)", "decay_steps=(1e999,)"):
        with pytest.raises(UserError, match="must be numbers like"):
            load_config("cifar10", [f"--config.{word}"])
    with pytest.raises(UserError, match="must be numbers like"):
        load_config("imagenet", ["--config.decay_epochs=(1e999,)"])


def test_a_networks_arguments_are_read_as_other_fields_are():
    assert load_config("cifar10_preact1001", ["--config.model_args.remat=false"]).model_args.remat is False
    with pytest.raises(UserError, match=r"config\.model_args\.stage_sizes='2' is of another type than the config's"):
        load_config("cifar10_fast", ["--config.model_args.stage_sizes=2"])


def test_numbers_of_numpy_become_pythons():
    config = load_config("digits")
    config.model_args.num_filters = np.int64(8)
    config.learning_rate_factors.fc = np.float32(0.5)
    config.learning_rate = np.float64(0.25)
    config.mean = tuple(np.full(3, 0.5, np.float32))
    values = json.loads(to_json(checked_config(config)))
    assert (values["model_args"]["num_filters"], values["learning_rate_factors"]["fc"]) == (8, 0.5)
    assert type(config.learning_rate) is float
    assert values["mean"] == [0.5, 0.5, 0.5]
