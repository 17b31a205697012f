"""The course's web site: the notebooks as they were last run, and the API reference. Built by `make docs`; its source is the repository."""

import json
import re
from pathlib import Path

import ziamath
from docutils.nodes import SkipNode
from math_core import LatexError, LatexToMathML
from sphinx.util import logging

import p2p_helpers

project, html_title = "Prompt-to-Prompt, hands on", "Prompt-to-Prompt, hands on"
version = release = p2p_helpers.__version__
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/*",
    "teaching/*.md",
    "notebooks/**",
    "data/toyland/MODEL_CARD.md",
]
exclude_patterns = [".*", "**/.*"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
default_role = "py:obj"  # `name` in a docstring leads to its entry, where there is one
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_favicon = "static/favicon.svg"
html_show_copyright = False
pygments_dark_style = "a11y-dark"
html_static_path = [
    "static",
    str(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"),
]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_extra_path = ["root"]
html_copy_source = False
html_math_renderer = "mathml"

WIDGET = "application/vnd.jupyter.widget-view+json"

to_mathml = LatexToMathML(fancy_error=False).convert_with_local_state


def math(display):
    """How formulas are written: as MathML, which browsers draw themselves, with the font that comes along."""

    def visit(translator, node):
        try:
            translator.body.append(to_mathml(node.astext(), displaystyle=display))
        except LatexError as error:
            logging.getLogger(__name__).warning("%s in %s", error, node.astext(), location=node)
        raise SkipNode

    return visit, None


def prepare(app, docname, content):
    """Notebooks as myst-nb likes them, and on the landing page the README's table of them."""
    if app.env.doc2path(docname).suffix == ".ipynb":
        notebook = json.loads(content[0])
        for cell in notebook["cells"]:
            if "alt" in cell["metadata"]:
                cell["metadata"]["mystnb"] = {"image": {"alt": cell["metadata"]["alt"]}}
            for name, data in cell.get("attachments", {}).items():
                kind, picture = data.popitem()
                cell["source"] = "".join(cell["source"]).replace(
                    f"attachment:{name}", f"data:{kind};base64,{picture}"
                )
            if cell["cell_type"] == "code":  # a widget would need a kernel
                cell["outputs"] = [
                    output for output in cell["outputs"] if WIDGET not in output.get("data", {})
                ]
        content[0] = json.dumps(notebook)
    content[0] = content[0].replace(
        "](notebooks/solutions)", "](docs/solutions.md)"
    )  # a folder there, a page here
    if docname == root_doc:
        readme = (Path(app.srcdir) / "README.md").read_text(encoding="utf-8")
        table = re.search(r"^\| notebook .*?\n\n", readme, re.M | re.S).group().replace("](", "](/")
        content[0] = content[0].replace("<!-- the README's table of notebooks -->", table)


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", prepare)
    app.add_html_math_renderer("mathml", math(display=False), math(display=True))
