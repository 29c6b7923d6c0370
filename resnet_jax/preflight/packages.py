"""Python and the packages: installed, and of versions that go together."""

import importlib.metadata
import platform
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from resnet_jax.preflight.finding import Finding, checked, error, ok, warning

DISTRIBUTION = "resnet-family-jax"
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
# The only features that need them. Without oneDNN convolutions are slower on the CPU, and nothing else changes.
_TFDS_PACKAGES = ("tensorflow-datasets", "importlib-resources", "array-record", "google-crc32c")
DISPENSABLE = {"onednn-cpu-gomp": "fast convolutions on a CPU", **dict.fromkeys(_TFDS_PACKAGES, "data sets of TFDS")}
# How the systems are tested, by name and processor as Python has them; the README has the same table.
TESTED_SYSTEMS = (("Linux", "x86_64"),)
TESTED = {
    ("Linux", "x86_64"): "every change is tested there",
    ("Linux", "aarch64"): "every dependency has a wheel or is pure Python, nothing has been run",
    ("Darwin", "arm64"): "every dependency has a wheel or is pure Python, nothing has been run",
    ("Windows", "amd64"): "simulated on Linux by taking away what Windows lacks, nothing has been run",
}
GPU_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")


def examine_packages() -> list[Finding]:
    """Examines Python, the packages and the system."""
    return [*checked("packages", check_packages), *checked("system", check_system), *checked("jax", check_jax)]


def check_system() -> Iterator[Finding]:
    """Yields how the operating system and the processor are tested."""
    system = platform.system(), platform.machine().lower()
    how = TESTED.get(system, "never tried")
    found = f"{' on '.join(filter(None, (platform.system(), platform.machine())))}: {how}"
    if system in TESTED_SYSTEMS:
        yield ok("system", found)
    else:
        yield warning("system", found, "train the digits first, which takes a minute, and report what fails")


def not_importable(reason: Exception) -> Finding:
    """Returns that something which the other checks need cannot be imported, as it says."""
    line = (str(reason).splitlines() or [type(reason).__name__])[0]
    return error("import", f"{line}: nothing else can be checked", f"pip install --upgrade {DISTRIBUTION}")


def check_packages() -> Iterator[Finding]:
    """Yields Python, and every declared dependency."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    declared = declaration()
    if declared is None:
        yield ok("python", platform.python_version())
        yield warning(
            "packages",
            f"{DISTRIBUTION} is not installed, nor is its pyproject.toml here: what it needs is not known",
            f"pip install {DISTRIBUTION}",
        )
        return
    pythons, lines = declared
    if SpecifierSet(pythons).contains(platform.python_version(), prereleases=True):
        yield ok("python", platform.python_version())
    else:
        yield error("python", f"{platform.python_version()} is not {pythons}", f"make the environment with {pythons}")
    requirements = [Requirement(line) for line in lines]
    wanted = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    faults = [(one, fault) for one in wanted if (fault := _fault(one.name, one.specifier))]
    if len(faults) < len(wanted):
        yield ok("packages", f"{len(wanted) - len(faults)} of {len(wanted)} declared ones installed and in range")
    for one, fault in faults:
        remedy = f"pip install '{one.name}{one.specifier}'"
        if one.name in DISPENSABLE:
            yield warning("packages", f"{fault}, which only {DISPENSABLE[one.name]} need", remedy)
        else:
            yield error("packages", fault, remedy)


def check_jax() -> Iterator[Finding]:
    """Yields JAX against jaxlib and the plugins for GPUs."""
    from packaging.requirements import Requirement

    jax_version, jaxlib_version = (importlib.metadata.version(name) for name in ("jax", "jaxlib"))
    requirements = [Requirement(line) for line in importlib.metadata.requires("jax") or []]
    ours = [one for one in requirements if one.name == "jaxlib" and one.marker is None]
    remedy = f"pip install 'jax=={jax_version}'"
    if all(one.specifier.contains(jaxlib_version, prereleases=True) for one in ours):
        yield ok("jax", f"jax {jax_version} with jaxlib {jaxlib_version}")
    else:
        yield error("jax", f"jax {jax_version} does not go with jaxlib {jaxlib_version}", remedy)
    for plugin in GPU_PLUGINS:
        version = _version(plugin)
        if version not in (None, jaxlib_version):
            cuda = plugin.split("-")[1]
            yield error(
                "jax",
                f"{plugin} {version} does not go with jaxlib {jaxlib_version}, and JAX does without the GPU",
                f"pip install --upgrade 'resnet-family-jax[{cuda}]'",
            )


def declaration() -> tuple[str, list[str]] | None:
    """Returns (range of Pythons, requirements) of the installed distribution, else of the checkout; None if it is
    neither.
    """
    try:
        metadata = importlib.metadata.metadata(DISTRIBUTION)
        return metadata["Requires-Python"] or "", importlib.metadata.requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        pass
    try:
        project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return None
    if project.get("name") != DISTRIBUTION:
        return None
    return project["requires-python"], project["dependencies"]


def _fault(name: str, specifier: Any) -> str:
    """Returns the fault of the package; empty if it is installed and in range."""
    version = _version(name)
    if version is None:
        return f"{name} is not installed"
    return "" if specifier.contains(version, prereleases=True) else f"{name} {version} is not {specifier}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except PackageNotFoundError:
        return None
