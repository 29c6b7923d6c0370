"""Every code block of the documentation runs, in order, and prints what the page shows."""

import os
import subprocess
import sys

import pytest
from pages import ROOT, PageError, compare, read_blocks, run_page

WITH_A_HUB = {"own_classes.ipynb"}  # by test_own_classes.py
PAGES = sorted(
    [*ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.ipynb"), *ROOT.glob("*.md")], key=lambda path: path.as_posix()
)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if read_blocks(page) and page.name not in WITH_A_HUB],
    ids=lambda page: str(page.relative_to(ROOT)),
)
@pytest.mark.slow
def test_page_does_what_it_says(page):
    process = subprocess.run(
        [sys.executable, ROOT / "tests" / "pages.py", page],
        env={**os.environ, "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1"), "MPLBACKEND": "Agg"},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("```python\n1 / 0\n```\n", "page.md, line 2: .*ZeroDivisionError"),
        ("```bash\nfalse\n```\n", "page.md, line 2: .*exit code 1"),
        ("```bash\npython train.py --config nothing\n```\n", "exit code 2"),
        ("<!-- test: fails 2 -->\n```bash\nfalse\n```\n", "exit code 1"),
        ("<!-- test: fails 2 -->\n```bash\npython train.py --config nothing\n```\n```text\nfine\n```\n", "nothing"),
        ("text\n\n```ruby\n```\n", "page.md, line 4: a block of 'ruby' is not among"),
        ("```python\nprint('one')\n```\n\n```text\ntwo\n```\n", "page.md, line 6: the page shows\ntwo"),
        ("```python\nraise SystemExit(0)\n```\n", "page.md, line 2: .*SystemExit"),
        ("- item\n\n  ```python\n  1 / 0\n  ```\n", "a fence that would not be run"),
        ("<!-- test: wiht SMALL -->\n```bash\ntrue\n```\n", "a note that is not understood"),
        ("<!-- test: with SMALL -->\n\n```bash\ntrue\n```\n", "a note that is not understood"),
        ("```text\nnothing before\n```\n", "no block before it"),
        ("<!-- test: needs nothing_of_this_name -->\n```python\nbroken(\n```\n```python\n1 / 0\n```\n", "line 6"),
    ],
)
def test_page_that_is_wrong_is_told_by_its_line(text, reason, tmp_path):
    with pytest.raises(PageError, match=f"(?s){reason}"):
        run_page(write(tmp_path / "page.md", text))


def test_comments_cut_a_page_short(tmp_path, capfd):
    text = "<!-- test: instead echo quick -->\n```bash\nsleep 1000\n```\n\n```text\nslow\n```\n"
    page = write(tmp_path / "page.md", text)
    run_page(page)
    (block, _) = read_blocks(page)
    assert (block.language, block.line, block.notes) == ("bash", 3, {"instead": "echo quick"})


@pytest.mark.parametrize(
    ("shown", "printed", "agree"),
    [
        ("loss 0.25, step 3", "loss 1.75,\n  step 3\n", True),
        ("loss 0.25, step 3", "loss 0.25, step 4", False),
        ("a ... d", "a b\nc d", True),
        ("a ... d", "a b c", False),
        ("epoch 1 …", "epoch 1 of 2", True),
        ("difference 4.4e-05", "difference 1e-7", True),
    ],
)
def test_words_and_integers_must_agree_and_other_numbers_may_differ(shown, printed, agree):
    if agree:
        compare(shown, printed, "here")
    else:
        with pytest.raises(PageError, match="here: the page shows"):
            compare(shown, printed, "here")
