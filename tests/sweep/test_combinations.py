"""The parts of a sweep: values in a text, all their combinations, and names that stay as they are when values come."""

import pytest

from resnet_jax.errors import UserError
from resnet_jax.sweep.combinations import Setting, combine, run_names, split_values, unquote


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.05", ["0.05"]),
        ("0.05,0.1", ["0.05", "0.1"]),
        (" 1 , 2 ", ["1", "2"]),
        ("(10,20),(15,25)", ["(10,20)", "(15,25)"]),
        ("(0.1,1.0)", ["(0.1,1.0)"]),
        ("[(1,2),{3,4}],()", ["[(1,2),{3,4}]", "()"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("(')',1),2", ["(')',1)", "2"]),
        ("bob's,ann's", ["bob's", "ann's"]),
        ("a(b", ["a(b"]),
        ("'',x", ["''", "x"]),
    ],
)
def test_commas_outside_of_brackets_and_quotes_separate_values(text, values):
    assert split_values(text) == values


@pytest.mark.parametrize(
    ("text", "reason"),
    [("1,", "empty value"), (",1", "empty value"), ("(1,2", r"no closing \)"), ("'a,b", "no closing '")],
)
def test_text_that_is_cut_off_is_refused(text, reason):
    with pytest.raises(UserError, match=reason):
        split_values(text)


def test_quotes_around_a_word_are_no_part_of_it():
    assert [unquote(text) for text in ("'a,b'", '""', "'", "a'b'")] == ["a,b", "", "'", "a'b'"]


def names(**fields):
    """The names of all combinations; a __ stands for a dot."""
    settings = {
        name.replace("__", "."): [Setting(name.replace("__", "."), "", value) for value in values]
        for name, values in fields.items()
    }
    return run_names(combine(settings))


def test_names_hold_what_varies_and_the_seed_which_changes_fastest():
    assert names(learning_rate=[0.05, 1.0], momentum=[0.9], seed=[0, 1]) == [
        "learning_rate=0.05,seed=0",
        "learning_rate=0.05,seed=1",
        "learning_rate=1,seed=0",
        "learning_rate=1,seed=1",
    ]
    assert names(learning_rate=[0.05], seed=[3]) == ["seed=3"]
    assert names(decay_epochs=[(10, 20.5), ()], seed=[0])[0] == "decay_epochs=(10,20.5),seed=0"


def test_fields_are_named_by_their_last_part_unless_two_share_it():
    assert names(augment__crop_size=[8, 16], seed=[0])[0] == "crop_size=8,seed=0"
    both = names(model_args__dropout=[0.1, 0.2], head__dropout=[0.3, 0.4], seed=[0])
    assert both[0] == "model_args.dropout=0.1,head.dropout=0.3,seed=0"


def test_names_are_those_of_folders_and_never_the_same():
    one, other, capital, *_ = names(data_dir=["/a/b c", "_a_b_c", "_A_b_c"], seed=[0])
    assert one.startswith("data_dir=_a_b_c,seed=0-")
    assert other == "data_dir=_a_b_c,seed=0"
    assert len({one.lower(), other.lower(), capital.lower()}) == 3
    long, longer = names(data_dir=["x" * 300, "x" * 301], seed=[0])
    assert long != longer
    assert len(long) == len(longer) == 120
    long, longer = names(data_dir=["画像" * 100, "画像" * 101], seed=[0])
    assert long != longer
    assert 110 < len(long.encode()) <= 120


def test_values_that_come_later_change_no_name():
    before = names(data_dir=["a/b", "a_b"], seed=[0])
    after = names(data_dir=["a/b", "a_b", "a b"], seed=[0, 1])
    assert set(before) < set(after)
