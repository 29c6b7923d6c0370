"""The bytes that a compiled program's kernels move, from text written by hand."""

import importlib.util
from pathlib import Path

import pytest

PROGRAM = """HloModule jit_step, is_scheduled=true

%fused_slice (param_0: bf16[4,8,8,2]) -> f32[4,1,1,2] {
  %param_0 = bf16[4,8,8,2]{3,2,1,0} parameter(0)
  %wide = f32[4,8,8,2]{3,2,1,0} convert(%param_0)
  ROOT %middle = f32[4,1,1,2]{3,2,1,0} slice(%wide), slice={[0:4], [4:5], [4:5], [0:2]}
}

%fused_reduce (param_0: f32[4,1,1,2], param_1: bf16[4,8,8,2]) -> (f32[4,2], f32[4,2]) {
  %param_0 = f32[4,1,1,2]{3,2,1,0} parameter(0)
  ROOT %both = (f32[4,2]{1,0}, f32[4,2]{1,0}) tuple(%one, %other)
}

ENTRY %main (x: bf16[4,8,8,2], k: bf16[2,1,1,2]) -> f32[4,2] {
  %x = bf16[4,8,8,2]{3,2,1,0} parameter(0)
  %k = bf16[2,1,1,2]{3,2,1,0} parameter(1)
  %conv = (bf16[4,8,8,2]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/conv1"}
  %y = bf16[4,8,8,2]{3,2,1,0} get-tuple-element(%conv), index=0
  %loop_slice_fusion = f32[4,1,1,2]{3,2,1,0} fusion(%y), kind=kLoop, calls=%fused_slice
  %sums = (f32[4,2]{1,0}, f32[4,2]{1,0}) fusion(%loop_slice_fusion, %y), kind=kInput, calls=%fused_reduce
  %sum = f32[4,2]{1,0} get-tuple-element(%sums), index=0
  ROOT %copy.1 = f32[4,2]{0,1} copy(%sum)
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[2] / "benchmarks" / "compiled_for_gpu.py"
    spec = importlib.util.spec_from_file_location("benchmarks_compiled_for_gpu", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_kernels_of_a_program_written_by_hand(script):
    maps, small = 2 * 4 * 8 * 8 * 2, 4 * 4 * 2
    assert [tuple(kernel) for kernel in script.kernels(PROGRAM)] == [
        ("conv", "convolutions", "jit(step)/conv1", maps + 8 + maps),
        ("loop_slice_fusion", "elementwise", "", small + small),  # of its operand what it slices
        ("sums", "reductions", "", small + maps + 2 * small),
        ("copy.1", "copies", "", 2 * small),
    ]
