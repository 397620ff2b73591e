"""Sphinx's settings: Markdown by MyST, the theme Furo, and nothing from the network, neither to build nor to read."""

import re
from html import escape as escape_html
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from sphinx.addnodes import download_reference
from sphinx.util.osutil import relative_uri

project = "flowbind"
author = "the authors of flowbind"
release = version = version_of("flowbind")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = [
    "_build",
    "results",
    "write-a-modality",
    "your-own-files",
]  # included by pages, or no pages
default_role = "code"  # docstrings write `name`, as Markdown does
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"flowbind {release}"
html_math_renderer = "mathml"
html_show_copyright = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["flowbind.css"]

ROOT = Path(__file__).parents[1]
SHOWN = (".py", ".yaml", ".txt", ".toml", ".sh", ".json", ".md")  # files that get a page of their own
source_pages = {}  # by name of the page, the file


def escape(app, what, name, obj, options, lines):
    """Docstrings say (B, *shape): no emphasis, so the asterisks outside of code are escaped."""
    lines[:] = [re.sub(r"(`[^`]*`)|\*", lambda found: found[1] or r"\*", line) for line in lines]


def link_sources(app, doctree, page):
    """Links to files of the repository lead to pages that show them, where Sphinx would offer a download."""
    for node in list(doctree.findall(download_reference)):
        path = (ROOT / "docs" / page).parent.joinpath(node["reftarget"]).resolve()
        if path.suffix not in SHOWN or not path.is_relative_to(ROOT) or not path.is_file():
            continue

        name = f"_source/{path.relative_to(ROOT).as_posix()}"
        source_pages[name] = path
        here, there = (app.builder.get_target_uri(each) for each in (page, name))
        link = nodes.reference(refuri=relative_uri(here, there), internal=True)
        link.extend(node.children)
        node.replace_self(link)


def show_sources(app):
    """A page for each file that is linked, with numbered lines."""
    formatter = HtmlFormatter(linenos="inline", cssclass="highlight", lineanchors="L")
    for name, path in sorted(source_pages.items()):
        title = path.relative_to(ROOT).as_posix()
        lexer = get_lexer_for_filename(path.name)
        code = highlight(path.read_text(encoding="utf-8"), lexer, formatter)
        yield name, {"title": title, "body": f"<h1>{escape_html(title)}</h1>{code}"}, "page.html"


def inline_math(translator, node):
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def block_math(translator, node):
    translator.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon's, at 500
    app.connect("doctree-resolved", link_sources)
    app.connect("html-collect-pages", show_sources)
    # Equations as MathML, which browsers draw themselves; Sphinx's default fetches a script when a page is read.
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    return {"parallel_read_safe": False, "parallel_write_safe": False}
