"""Sphinx's settings: Markdown by MyST, the theme Furo, and nothing from the network, neither to build nor to read."""

import re
from importlib.metadata import version as version_of

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

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


def escape(app, what, name, obj, options, lines):
    """Docstrings say (B, *shape): no emphasis, so the asterisks outside of code are escaped."""
    lines[:] = [re.sub(r"(`[^`]*`)|\*", lambda found: found[1] or r"\*", line) for line in lines]


def inline_math(translator, node):
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def block_math(translator, node):
    translator.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon's, at 500
    # Equations as MathML, which browsers draw themselves; Sphinx's default fetches a script when a page is read.
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
