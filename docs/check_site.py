"""Checks the finished site: its links lead somewhere, its pages have an outline, and the first of them is small.

    python docs/check_site.py build/site

Addresses of other sites are written to addresses.txt beside it, not fetched. Prints what is wrong, and fails then.
"""

import itertools
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

BY_THE_THEME = {"search.html"}  # whose heading is made by a script
MOST_BYTES = 200_000  # of the first page with its styles, scripts and pictures


def outline_faults(page: BeautifulSoup) -> list[str]:
    """Returns what keeps a page from being read by its outline, as screen readers do."""
    article = page.find("article") or page
    levels = [int(tag.name[1]) for tag in article.select("h1, h2, h3, h4, h5, h6")]
    faults = [f"{levels.count(1)} first headings, not one"] if levels.count(1) != 1 else []
    faults += [f"a heading of level {b} after one of level {a}" for a, b in itertools.pairwise(levels) if b > a + 1]
    faults += [f"a picture without a text: {image.get('src')}" for image in article.select("img:not([alt])")]
    return faults + ([] if page.html and page.html.get("lang") else ["no language"])


def main() -> int:
    """Prints every broken link; returns how many things are wrong, at most 1."""
    site = Path(sys.argv[1]).resolve()
    pages = {path: BeautifulSoup(path.read_text(), "html.parser") for path in sorted(site.rglob("*.html"))}
    anchors = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    wrong, outside, first = [], set(), {site / "index.html"}
    for path, page in pages.items():
        for tag in page.select("[href], [src]"):
            address = urlsplit(str(tag.get("href", tag.get("src"))))
            where = path.relative_to(site)
            if address.scheme or address.netloc:
                outside.add(address.geturl())
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            if not target.exists():
                wrong.append(f"{where}: {address.geturl()} does not exist")
            elif address.fragment and target in anchors and unquote(address.fragment) not in anchors[target]:
                wrong.append(f"{where}: {address.geturl()} has no such place")
            elif path == site / "index.html" and (tag.name in ("script", "img") or tag.get("rel") == ["stylesheet"]):
                first.add(target)
        if path.name not in BY_THE_THEME:
            wrong += [f"{path.relative_to(site)}: {fault}" for fault in outline_faults(page)]
    num_bytes = sum(path.stat().st_size for path in first)
    if num_bytes > MOST_BYTES:
        wrong.append(f"index.html takes {num_bytes:,} bytes with what it needs, more than {MOST_BYTES:,}")
    (site / "addresses.txt").write_text("\n".join(sorted(outside)) + "\n")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    print(f"{len(pages)} pages, {num_bytes:,} bytes for the first; {len(outside)} addresses of other sites")
    return min(len(wrong), 1)


if __name__ == "__main__":
    sys.exit(main())
