"""A network in a file, timed in ONNX Runtime or OpenVINO, in a separate process: -m resnet_jax.benchmark.onnx_side.

Nothing that computes is imported here but the runtime. It answers as torch_side.py does.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from resnet_jax.runtime import peak_memory


def load_onnxruntime(spec: dict[str, Any]) -> tuple[Callable[[np.ndarray], Any], str]:
    """Returns the function that infers by ONNX Runtime, and its version."""
    import onnxruntime

    session = onnxruntime.InferenceSession(spec["path"], providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images}), onnxruntime.__version__


def load_openvino(spec: dict[str, Any]) -> tuple[Callable[[np.ndarray], Any], str]:
    """Returns the function that infers by OpenVINO in the precision of spec["dtype"], and its version."""
    import openvino

    core = openvino.Core()
    model = core.read_model(spec["path"])
    model.reshape(spec["input_shape"])  # a batch of any size is slower
    precision = {"float32": "f32", "bfloat16": "bf16"}[spec["dtype"]]
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda images: request.infer({0: images}), openvino.__version__


RUNTIMES = {"onnxruntime": load_onnxruntime, "openvino": load_openvino}


def main() -> None:
    """Answers the benchmark's lines until there are no more."""
    spec = json.loads(sys.stdin.readline())
    infer, version = RUNTIMES[spec["runtime"]](spec)
    images = np.random.default_rng(1).standard_normal(spec["input_shape"], np.float32)

    def measure(num_steps: int) -> float:
        started = time.perf_counter()
        for _ in range(num_steps):
            infer(images)
        return (time.perf_counter() - started) / num_steps

    measure(3)
    print(json.dumps({"version": version, "variant": spec["dtype"]}), flush=True)
    for line in sys.stdin:
        if line.strip() == "go":
            print(json.dumps({"seconds": measure(spec["num_steps"]), "peak_memory": peak_memory()}), flush=True)


if __name__ == "__main__":
    main()
