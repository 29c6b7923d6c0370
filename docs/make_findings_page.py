"""Writes docs/findings.md, the list of what surprised us about others' libraries, from the scripts that show it.

    python docs/make_findings_page.py

Each script of findings/ begins with a comment on what one would expect and what happens, and installs pinned packages.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "findings.md"
NAMES = {
    "cpu": "CPU", "datasets": "Datasets:", "flax": "Flax", "jax": "JAX", "nan": "NaN", "onednn": "oneDNN",
    "pillow": "Pillow:", "relu": "ReLU", "resnet": "ResNet", "torch": "PyTorch", "transformers": "Transformers:",
    "xla": "XLA",
}  # fmt: skip
HEAD = """# What surprised us in other libraries

These public libraries behave in ways that we would have guessed wrong. Each script installs pinned packages into a
temporary folder and runs them without this project. It prints the behaviour, and fails once the behaviour changes:

<!-- test: instead true -->
```bash
bash findings/jax_export_needs_flatbuffers.sh
```

`python docs/make_findings_page.py` makes this page from the scripts.
"""


def entry(path: Path) -> str:
    """Returns a script's part of the page: its title, its packages and its comment.

    Raises ValueError for a script without a comment, or that pins no package.
    """
    script = path.read_text()
    comment = re.match(r"#!.*\n((?:# .*\n)+)", script)
    packages = re.findall(r'"([a-z][\w.-]*==[\w.+]+)"', script)
    if comment is None or not packages:
        raise ValueError(f"{path.name}: a comment on the behaviour and pinned packages are missing")
    text = " ".join(line.removeprefix("# ").strip() for line in comment[1].splitlines())
    words = [NAMES.get(word, word) for word in path.stem.split("_")]
    versions = ", ".join(one.replace("==", " ") for one in dict.fromkeys(packages))
    return f"## {' '.join(words)}\n\n{text}\n\nSeen in {versions}: [the script](../findings/{path.name}).\n"


def page() -> str:
    """Returns the page."""
    return "\n".join([HEAD, *map(entry, sorted((ROOT / "findings").glob("*.sh")))])


if __name__ == "__main__":
    PAGE.write_text(page())
