"""Where a step's time goes: a trace for TensorBoard or Perfetto, and its costliest operations."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import jax

from resnet_jax.benchmark.work import Work
from resnet_jax.errors import UserError

NUM_STEPS = 3
NUM_OPERATIONS = 20


def profile(work: Work, folder: Path) -> list[dict[str, Any]]:
    """Traces three steps into `folder`; the costliest operations of one: "operation", "place", "count", "milliseconds".

    "place" is where in the model an operation of the compiled program came from, "" where XLA does not say; "share" is
    of the time that all operations together took.

    Raises:
      UserError: if XLA records no operations.
    """
    with jax.profiler.trace(str(folder)):
        for _ in range(NUM_STEPS):
            jax.block_until_ready(work.step())
    latest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    nanoseconds: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for plane in jax.profiler.ProfileData.from_file(str(latest)).planes:
        for line in plane.lines:
            for event in line.events:
                operation = dict(event.stats).get("hlo_op")
                if operation is not None:
                    nanoseconds[operation] += event.duration_ns
                    counts[operation] += 1
    if not nanoseconds:
        raise UserError(f"the trace in {folder} has no operations of XLA; look at it in TensorBoard")
    places = _places(work.compiled.as_text())
    total = sum(nanoseconds.values())
    return [
        {
            "milliseconds": spent / NUM_STEPS / 1e6,
            "share": spent / total,
            "count": counts[operation] / NUM_STEPS,
            "operation": operation,
            "place": places.get(operation, ""),
        }
        for operation, spent in nanoseconds.most_common(NUM_OPERATIONS)
    ]


def _places(program: str) -> dict[str, str]:
    """Returns the `op_name` of each instruction of an HLO text, without the names of the functions around it."""
    named = re.findall(r"%?([\w.-]+) = .*?op_name=\"([^\"]*)\"", program)
    return {instruction: "/".join(name.split("/")[1:]) for instruction, name in named}
