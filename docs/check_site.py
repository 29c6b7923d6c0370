"""Checks the finished site: every link within it leads somewhere, and its first page is small.

    python docs/check_site.py build/site

Addresses of other sites are written to addresses.txt beside it, not fetched. Prints what is wrong, and fails then.
"""

import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

MOST_BYTES = 200_000  # of the first page with its styles, scripts and pictures


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
    num_bytes = sum(path.stat().st_size for path in first)
    if num_bytes > MOST_BYTES:
        wrong.append(f"index.html takes {num_bytes:,} bytes with what it needs, more than {MOST_BYTES:,}")
    (site / "addresses.txt").write_text("\n".join(sorted(outside)) + "\n")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    print(f"{len(pages)} pages, {num_bytes:,} bytes for the first; {len(outside)} addresses of other sites")
    return min(len(wrong), 1)


if __name__ == "__main__":
    sys.exit(main())
