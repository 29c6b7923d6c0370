"""The order of images, and batches by step."""

import numpy as np
import pytest

from resnet_jax.data.batches import EvalBatches, TrainBatches, epoch_order
from resnet_jax.data.source import ArraySource


def numbered(n):
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 2, 2, 3))
    return ArraySource(images, np.arange(n, dtype=np.int32), tuple(map(str, range(n))))


def test_epoch_order_is_the_same_everywhere_for_ever():
    # Runs are resumed by this order: it must never change. Computed once from Philox4x64-10.
    assert epoch_order(0, 0, 10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert epoch_order(7, 3, 10).tolist() == [2, 5, 9, 7, 3, 0, 6, 8, 4, 1]


def test_epoch_order_permutes_and_depends_on_seed_and_epoch():
    orders = [epoch_order(seed, epoch, 50).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_first_images_of_epochs_are_uniform():
    counts = np.bincount([epoch_order(5, epoch, 4)[0] for epoch in range(4000)], minlength=4)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000 * 0.75)


def test_batch_of_a_step_can_be_asked_for_directly():
    batches = TrainBatches(numbered(10), batch_size=3, seed=1)
    assert batches.steps_per_epoch == 3
    in_order = [batches[step]["label"].tolist() for step in range(9)]
    fresh = TrainBatches(numbered(10), batch_size=3, seed=1)
    assert [fresh[step]["label"].tolist() for step in (8, 0, 4)] == [in_order[8], in_order[0], in_order[4]]
    for epoch in range(3):
        images = [label for batch in in_order[3 * epoch : 3 * epoch + 3] for label in batch]
        assert images == epoch_order(1, epoch, 10)[:9].tolist()  # the tail is dropped


def test_batch_holds_the_images_of_its_labels_and_their_keys():
    batch = TrainBatches(numbered(10), batch_size=4, seed=0)[3]
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
    np.testing.assert_array_equal(batch["sample"], batch["label"])
    np.testing.assert_array_equal(batch["epoch"], [1, 1, 1, 1])
    assert batch["image"].dtype == np.uint8


def test_processes_share_a_batch_by_rows():
    whole = TrainBatches(numbered(10), batch_size=4, seed=0)
    parts = [TrainBatches(numbered(10), 4, 0, process_index=p, num_processes=2) for p in range(2)]
    for step in (0, 5):
        rows = np.concatenate([part[step]["label"] for part in parts])
        np.testing.assert_array_equal(rows, whole[step]["label"])


def test_processes_share_each_part_of_a_batch_by_rows():
    whole = TrainBatches(numbered(40), 16, 0)[1]["sample"].reshape(2, 8)  # two parts
    for process in range(4):
        rows = TrainBatches(numbered(40), 16, 0, process, 4, num_parts=2)[1]["sample"]
        np.testing.assert_array_equal(rows, whole[:, 2 * process : 2 * process + 2].ravel())
    with pytest.raises(ValueError, match="by the 4 processes times the 3 accumulation steps"):
        TrainBatches(numbered(40), 16, 0, 0, 4, num_parts=3)


@pytest.mark.parametrize("batch_size", [0, -4, 11])
def test_impossible_batch_sizes_are_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} must be from 1 to the 10 training images"):
        TrainBatches(numbered(10), batch_size, 0)


def test_batches_that_processes_cannot_share_are_refused():
    with pytest.raises(ValueError, match="batch_size=3 must be divisible by the 2 processes"):
        TrainBatches(numbered(10), 3, 0, 0, 2)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_evaluation_visits_every_image_once(num_processes):
    parts = [list(EvalBatches(numbered(10), 4, p, num_processes)) for p in range(num_processes)]
    assert [len(part) for part in parts] == [3] * num_processes
    seen = [
        label
        for part in parts
        for batch in part
        for label, mask in zip(batch["label"], batch["mask"], strict=True)
        if mask
    ]
    assert sorted(seen) == list(range(10))
    assert {batch["label"].shape for part in parts for batch in part} == {(4 // num_processes,)}


def test_repeated_augmentation_takes_each_image_so_often_in_succession():
    batches = TrainBatches(numbered(10), batch_size=4, seed=1, num_repeats=3)
    assert batches.steps_per_epoch == 2
    order = epoch_order(1, 0, 10)
    labels = np.concatenate([batches[step]["label"] for step in range(2)])
    samples = np.concatenate([batches[step]["sample"] for step in range(2)])
    assert labels.tolist() == [order[0]] * 3 + [order[1]] * 3 + [order[2]] * 2
    repeats = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    assert samples.tolist() == (labels + 10 * repeats).tolist()


def test_repetitions_are_the_same_on_any_number_of_processes():
    whole = TrainBatches(numbered(10), 8, 1, num_repeats=3)[1]
    parts = [TrainBatches(numbered(10), 8, 1, p, 4, num_repeats=3)[1] for p in range(4)]
    np.testing.assert_array_equal(np.concatenate([part["sample"] for part in parts]), whole["sample"])


def test_evaluation_batch_beyond_the_last_is_an_index_error():
    batches = EvalBatches(numbered(10), 4)
    assert len(batches) == 3
    for position in (-1, 3):
        with pytest.raises(IndexError):
            batches[position]
