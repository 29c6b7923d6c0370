"""The architecture, read off the imports: what is at the root, which way imports run, and how deep they go."""

import ast
from functools import cache
from pathlib import Path

import resnet_jax

PACKAGE = Path(resnet_jax.__file__).parent
MOST_ROOT_FILES = 8
MOST_DEEP = 12
# What each subpackage may import; errors, formatting, filesystem and runtime all may.
BELOW = {
    "ops": set(),
    "models": {"ops"},
    "data": {"storage"},
    "distributed": set(),
    "storage": {"distributed"},
    "checkpoint": {"distributed"},
    "plotting": set(),
    "weights": {"checkpoint", "data", "models", "storage"},
    "training": {"checkpoint", "config", "data", "distributed", "models", "ops", "plotting", "storage", "weights"},
    "inference": {
        "checkpoint",
        "config",
        "data",
        "distributed",
        "models",
        "ops",
        "plotting",
        "storage",
        "training",
        "weights",
    },
    "preflight": {"checkpoint", "config", "data", "distributed", "models", "ops", "training", "weights"},
    "benchmark": {"inference", "models", "training"},
    "comparison": {"checkpoint", "distributed", "training"},
    "sweep": {"comparison", "distributed", "training"},
}
FOR_ALL = {"errors", "filesystem", "formatting", "ranges", "runtime"}


@cache
def modules():
    """{dotted name: its syntax tree} of the package, configs left out."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if "configs" not in parts:
            found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


def imports(module, *, at_the_top):
    """The package's modules that a module imports; at_the_top: when it is imported itself."""
    found = set()

    def visit(node, is_late):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            late = is_late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            if isinstance(child, ast.ImportFrom) and child.module and not (at_the_top and late):
                for alias in child.names:
                    names = (f"{child.module}.{alias.name}", child.module)
                    found.add(next((name for name in names if name in modules()), None))
            visit(child, late)

    visit(modules()[module], False)
    return found - {None, module}


def subject(module):
    return module.split(".")[1] if "." in module else ""


def test_the_root_is_small():
    files = [path.name for path in PACKAGE.iterdir() if path.is_file()]
    assert len(files) <= MOST_ROOT_FILES, sorted(files)


def test_no_import_runs_upward():
    upward = [
        f"{module} imports {other}"
        for module in modules()
        if subject(module) in BELOW
        for other in imports(module, at_the_top=False)
        if subject(other) not in BELOW[subject(module)] | FOR_ALL | {subject(module), ""}
    ]
    assert upward == []
    assert {subject(module) for module in modules()} - {"__main__", "cli", "config", ""} <= set(BELOW) | FOR_ALL


def test_no_command_imports_another():
    shared = {"cli", "cli.comparison_table", "cli.exit_codes", "cli.options", "cli.printing", "cli.usage"}
    names = {f"resnet_jax.{name}" for name in shared}
    commands = [m for m in modules() if subject(m) == "cli" and m not in names and not m.endswith((".main", ".parser"))]
    assert len(commands) >= 10
    for command in commands:
        others = {other for other in imports(command, at_the_top=False) if subject(other) == "cli"}
        assert others <= names, command


def test_imports_are_no_circle_and_not_deep():
    depths = {}

    def chain(module, above):
        assert module not in above, f"a circle: {' > '.join((*above, module))}"
        if module not in depths:
            others = (chain(other, (*above, module)) for other in imports(module, at_the_top=True))
            depths[module] = (module, *max(others, key=len, default=()))
        return depths[module]

    longest = max((chain(module, ()) for module in modules()), key=len)
    assert len(longest) <= MOST_DEEP, " > ".join(longest)
