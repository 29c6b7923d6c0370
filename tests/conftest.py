"""The suite runs on the CPU, on 8 simulated devices, with one folder of compiled programs for all its processes."""

import os
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# RESNET_JAX_TEST_PLATFORM=cuda: for the tests marked `gpu`, which compare a GPU with the CPU.
PLATFORM = os.environ.get("RESNET_JAX_TEST_PLATFORM", "cpu")
os.environ["JAX_PLATFORMS"] = PLATFORM if PLATFORM == "cpu" else f"{PLATFORM},cpu"
# Most programs here run a few times: compiling them takes longer than running them.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1"
if version("jaxlib").startswith("0.10."):  # which alone lets choose the older, quicker way to emit fused loops
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
if FLAGS not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
# Training processes that the tests start would compile the same few programs again and again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="resnet_jax-test-cache-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

sys.path.insert(0, str(Path(__file__).parent))
try:
    version("resnet-family-jax")
except PackageNotFoundError:  # a checkout that is not installed: this process and those that tests start find it so
    CHECKOUT = str(Path(__file__).parent.parent)
    sys.path.insert(1, CHECKOUT)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (CHECKOUT, os.environ.get("PYTHONPATH"))))

from resnet_jax.cli.log_handler import install_log_handler  # noqa: E402 - after the environment is set

install_log_handler()  # as the commands do, so that tests of functions see the same lines
