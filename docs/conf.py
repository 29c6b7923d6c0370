"""How Sphinx makes the site: `make docs`. The pages are Markdown (MyST), the API is read off the docstrings."""

import inspect
import re
from functools import partial
from pathlib import Path

import flax.linen as nn
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

import resnet_jax

for lazy in resnet_jax.__all__:  # imported when asked for, which Sphinx does not
    setattr(resnet_jax, lazy, getattr(resnet_jax, lazy))

project = "resnet_jax"
author = "The resnet_jax authors"
project_copyright = "The resnet_jax authors, Apache-2.0"
version = release = resnet_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"resnet_jax {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the suite runs the notebook; what it shows is what it printed (make notebook)

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88

napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "code"


FIELDS = set(re.findall(r"^### ([\w.]+)$", (Path(__file__).parent / "config.md").read_text(), re.M))


def escape(app: Sphinx, what: str, name: str, it: object, options: object, lines: list[str]) -> None:
    """Has reStructuredText see nothing of its own in a docstring but `code` and napoleon's sections."""
    for k, line in enumerate(lines):
        parts = re.split(r"(`[^`]+`)", line)
        lines[k] = "".join(
            part if part.startswith("`") else re.sub(r"([*|\\]|_(?=\W|$))", r"\\\1", part) for part in parts
        )


def short_signature(
    app: Sphinx, what: str, name: str, it: object, options: object, signature: str, returns: str
) -> tuple[str, str | None] | None:
    """Of a Flax module its arguments and their defaults, without those that Flax adds to each."""
    if not (isinstance(it, type) and issubclass(it, nn.Module)):
        return None
    arguments = []
    for argument in inspect.signature(it).parameters.values():
        default = getattr(argument.default, "__name__", None) or repr(argument.default)
        if argument.name not in ("parent", "name"):
            arguments.append(argument.name + ("" if argument.default is argument.empty else f"={default}"))
    return f"({', '.join(arguments)})", None


def skip_fields(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """A module's arguments stand in its signature and docstring; their default values have docstrings of their own."""
    return True if what == "class" and not getattr(member, "__module__", "").startswith("resnet_jax") else None


def mend_links(app: Sphinx, page: str, content: list[str]) -> None:
    """Have links from here to the files at the top lead to the pages that include them, and theirs to here to pages."""
    up = "../" * page.count("/")
    top = r"\]\((?:\.\./)*(SECURITY|CONTRIBUTING|CHANGELOG)\.md"
    content[0] = re.sub(top, lambda link: f"]({up}project/{link[1].lower()}.md", content[0])
    content[0] = content[0].replace("](docs/", f"]({up}")


def show_math(translator: nodes.NodeVisitor, node: nodes.Element, *, as_block: bool) -> None:
    """Mathematics as MathML, which browsers show without any script."""
    translator.body.append(tex2mathml(node.astext(), as_block=as_block))
    raise nodes.SkipNode


def prepare_body(html: str, config_page: str) -> str:
    """Returns a page's body for phones and the keyboard alone, with a link at each field of the config.

    Each cell of a wide table has its column's name, as phones show such tables as cards. Code can be reached by the Tab
    key, then scrolled by the arrows.
    """
    body = BeautifulSoup(html, "html.parser")
    for code in body.select("code.literal"):
        named = re.fullmatch(r"(?:--)?(config\.)?([\w.]+)(?:=.*)?", code.get_text())
        if named is None or named[2] not in FIELDS or code.find_parent(["a", "h1", "h2", "h3"]):
            continue
        if named[1] or re.search("[._]", named[2]):  # a word alone, as `mean`, may mean something else
            code.wrap(body.new_tag("a", href=f"{config_page}#{re.sub('[._]', '-', named[2])}"))
    for code in body.find_all("pre"):
        code["tabindex"] = "0"
    for table in body.select("table.docutils"):
        names = [cell.get_text(" ", strip=True) for cell in table.select("thead tr:last-child th")]
        if len(names) < 3:
            continue
        table["class"] = [*table["class"], "cards"]
        for row in table.select("tbody tr"):
            for name, cell in zip(names, row.find_all("td", recursive=False), strict=False):
                if cell.get_text(strip=True) or cell.img:  # an empty one is left out of the card
                    cell["data-label"] = f"{name}:" if name else ""
    return str(body)


def finish_page(
    app: Sphinx, page: str, template: str, context: dict[str, object], doctree: nodes.document | None
) -> None:
    """Prepare tables for phones, and leave the style of notebooks to these."""
    if isinstance(context.get("body"), str):
        config_page = "" if page == "config" else context["pathto"]("config")
        context["body"] = prepare_body(context["body"], config_page)
    if not str(app.env.doc2path(page, base=False)).endswith(".ipynb"):
        context["css_files"] = [
            one for one in context["css_files"] if "mystnb" not in str(getattr(one, "filename", one))
        ]


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("html-page-context", finish_page)
    app.connect("autodoc-process-docstring", escape, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", short_signature)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("source-read", mend_links)
    app.connect("include-read", lambda app, path, page, content: mend_links(app, "project/…", content))
    app.add_html_math_renderer("mathml", *((partial(show_math, as_block=as_block), None) for as_block in (False, True)))
