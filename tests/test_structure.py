"""Data flows one way: what each room may import, read off the source, and what `import resnet_jax` must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import resnet_jax

PACKAGE = Path(resnet_jax.__file__).parent
# Who reads a config: what finds and checks it, what unpacks it, and what is given one. The commands hand it on.
READS_CONFIGS = {"config", "training/experiment.py", "training/api.py", "__init__.py"}


def imports(path):
    """The modules that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room_imports(room, *forbidden):
    files = sorted((PACKAGE / room).glob("*.py"))
    assert files
    return [
        f"{path.name} imports {module}"
        for path in files
        for module in imports(path)
        if module.startswith(tuple(f"resnet_jax.{other}" for other in forbidden))
    ]


def test_models_know_nothing_of_data_training_or_configs():
    assert room_imports("models", "data", "weights", "training", "config", "cli") == []


def test_data_knows_nothing_of_models_training_or_configs():
    assert room_imports("data", "models", "weights", "training", "config", "cli") == []


def test_weights_know_nothing_of_training_or_configs():
    assert room_imports("weights", "training", "config", "cli", "commands") == []


def test_no_command_imports_another():
    commands = {path.stem for path in (PACKAGE / "cli").glob("*.py") if "def add_command(" in path.read_text()}
    assert {"train", "sweep", "compare"} <= commands
    allowed = {"parser"}  # which has them all
    found = room_imports("cli", *(f"cli.{command}" for command in commands))
    assert [line for line in found if line.partition(".py ")[0] not in allowed] == []


def is_config(node):
    """Return whether an expression is called config, and is not JAX's own."""
    if isinstance(node, ast.Attribute):
        return node.attr == "config" and not (isinstance(node.value, ast.Name) and node.value.id == "jax")
    return isinstance(node, ast.Name) and node.id == "config"


def reads_a_config(path):
    nodes = ast.walk(ast.parse(path.read_text()))
    return any(module.startswith(("resnet_jax.config", "ml_collections")) for module in imports(path)) or any(
        isinstance(node, ast.Attribute | ast.Subscript) and is_config(node.value) for node in nodes
    )


def test_a_config_is_unpacked_once():
    readers = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if reads_a_config(path)]
    readers = [path for path in readers if path.parts[0] not in ("cli", "configs")]
    assert {"config" if path.parts[0] == "config" else path.as_posix() for path in readers} == READS_CONFIGS


def test_no_room_without_a_subject():
    names = {path.stem for path in PACKAGE.rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "common", "manager", "misc"}


def test_import_loads_neither_tensorflow_nor_orbax_nor_matplotlib():
    code = (
        "import sys, resnet_jax, resnet_jax.models; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'tensorflow', 'tensorflow_datasets', 'orbax', "
        "'matplotlib', 'tensorboardX', 'PIL', 'cv2', 'simplejpeg'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
