"""The collectives of a program, from text written by hand and from the training step on 8 simulated devices."""

import json
import os
import subprocess
import sys

import pytest
from collectives import Collective, collectives, total_by_kind
from step_cost import main, step_cost, step_macs

from resnet_jax.models.summary import summarize

PROGRAM = """HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%inner (x: bf16[2,3]) -> bf16[16,3] {
  %x = bf16[2,3]{1,0} parameter(0)
  ROOT %gathered = bf16[16,3]{1,0} all-gather(%x), channel_id=3, dimensions={0}
}

ENTRY %main (a: f32[2,3], b: f32[5]) -> f32[2,3] {
  %a = f32[2,3]{1,0:T(8,128)} parameter(0)
  %b = f32[5]{0} parameter(1)
  %flag = pred[7]{0} constant({...})
  %tuple.1 = (f32[2,3]{1,0}, /*index=1*/f32[5]{0}) all-reduce(%a, %b), channel_id=1, to_apply=%add, metadata={op_name="x/all-gather(%b)"}
  %start = f32[5]{0} all-reduce-start(%b), channel_id=2, to_apply=%add
  %done = f32[5]{0} all-reduce-done(%start)
  %call = ((bf16[2,3]), bf16[16,3]) async-start(%c), calls=%inner
  %shift = pred[7]{0} collective-permute(%flag), channel_id=4, source_target_pairs={{0,1}}
  %part = f32[1,3]{1,0} reduce-scatter(%a), channel_id=5, dimensions={0}, to_apply=%add
  ROOT %out = f32[2,3]{1,0} get-tuple-element(%tuple.1), index=0
}
"""  # noqa: E501


def test_collectives_of_a_program_written_by_hand():
    found = collectives(PROGRAM)
    assert found == [
        Collective("all-gather", 12, 1),  # its operand, not the result; the other %x was another computation's
        Collective("all-reduce", 44, 2),  # both of the tuple
        Collective("all-reduce", 20, 1),  # start and done are one
        Collective("collective-permute", 7, 1),
        Collective("reduce-scatter", 24, 1),
    ]
    assert total_by_kind(found)["all-reduce"] == {"count": 2, "bytes": 64}
    assert collectives("") == []


SMALL = {"model_args.stage_sizes": (1, 1), "model_args.num_filters": 8}
NUM_NORMS = 1 + 4 + 4  # the stem's; a block's three and its shortcut's


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_reduces_each_gradient_and_statistic_once(dtype):
    cost = step_cost("resnet50", 16, 32, dtype, fields=SMALL)
    # Gradients and batch statistics in float32, the sums of loss and correct rows: nothing else, nothing twice.
    assert cost["collective_bytes"] == 4 * (cost["parameters"] + cost["statistics"] + 2)
    assert cost["collective_bytes"] <= cost["allowed_bytes"]
    assert set(cost["collectives"]) == {"all-reduce"}
    # A norm's mean, its variance, which needs the mean, its backward sums; all gradients and metrics together.
    assert cost["collectives"]["all-reduce"]["count"] <= 3 * NUM_NORMS + 1


def test_mixed_images_cross_devices_row_by_row():
    fields = {"model_args.stage_sizes": (1,), "model_args.num_filters": 4, "augment.mixup": 0.2}
    found = step_cost("resnet20", 16, 16, fields=fields)["collectives"]
    assert set(found) == {"all-reduce", "collective-permute"}
    assert found["collective-permute"]["bytes"] == 4 * (16 * 16 * 3 + 10)  # one image and its target


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
def test_a_step_takes_three_forward_passes_but_for_the_images_gradient(name):
    forward, step = step_macs(name, 8, 224)
    assert forward == 8 * summarize(name)["macs"]
    assert step == 3 * forward - 8 * 112 * 112 * 64 * 7 * 7 * 3  # nobody asks for the stem's input gradient
    assert step / (3 * forward) > 0.95


def test_the_script_compiles_for_devices_that_are_not_there():
    words = [step_cost.__code__.co_filename, "--num_devices", "2", "--batch_size", "4", "--image_size", "8", "--json"]
    process = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": ""}
    )
    assert process.returncode == 0, process.stderr
    cost = json.loads(process.stdout)
    assert (cost["model"], cost["num_devices"], cost["parameters"]) == ("resnet20", 2, 269_722)
    assert cost["collective_bytes"] <= cost["allowed_bytes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_devices", "3"], "batch_size=128 must be divisible by num_devices=3"),
        (["--num_devices", "0"], "num_devices=0 must be at least 1"),
        (["--dtype", "float64"], "dtype='float64' must be one of float32, bfloat16"),
        (["--model", "resnet21"], "did you mean"),
    ],
)
def test_bad_input_is_told_in_one_line(options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert message in capsys.readouterr().err.splitlines()[-1]
