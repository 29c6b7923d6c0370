"""The suite runs on the CPU, on 8 simulated devices, with one folder of compiled programs for all its runs."""

import gc
import os
import sys
import zlib
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
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

sys.path.insert(0, str(Path(__file__).parent))
try:
    version("resnet-family-jax")
except PackageNotFoundError:  # a checkout that is not installed: this process and those that tests start find it so
    CHECKOUT = str(Path(__file__).parent.parent)
    sys.path.insert(1, CHECKOUT)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (CHECKOUT, os.environ.get("PYTHONPATH"))))

import jax  # noqa: E402 - after the environment is set
import pytest  # noqa: E402

from resnet_jax import runtime  # noqa: E402
from resnet_jax.distributed.log_handler import install_log_handler  # noqa: E402


def keep_programs():
    """Keep compiled programs for the processes that tests start, which compile the same few, and for later runs.

    The folder stands beside the commands' own and is bounded as theirs. Tests kill processes: what one of these was
    writing is removed, as JAX would warn of it for ever.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:  # the user's choice, or set by the process that started this
        return
    folder = runtime.home() / "compiled-by-tests" / runtime.cache_folder().name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    runtime.remove_oldest(folder.parent, runtime.MOST_CACHED_BYTES)
    for path in folder.glob("*-cache"):
        remove_if_cut_short(path)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def remove_if_cut_short(path):
    try:
        zlib.decompress(path.read_bytes())
    except zlib.error as error:
        if "incomplete or truncated stream" in str(error):  # not where JAX compresses in another way
            path.unlink(missing_ok=True)
    except FileNotFoundError:  # another run removes it as well
        pass


keep_programs()
install_log_handler()  # as the commands do, so that tests of functions see the same lines


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drop what a file has traced and compiled; what it leaves besides, the garbage collector passes over.

    Otherwise a process grows to gigabytes of objects, which the collector looks through again and again.
    """
    yield
    jax.clear_caches()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)  # where xdist is not loaded
def pytest_xdist_make_scheduler(config, log):
    """Hand whole files to the processes, so that what a file sets up once is set up once, but each page by itself."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return nodeid if "::test_page_does_what_it_says[" in nodeid else super()._split_scope(nodeid)

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None
