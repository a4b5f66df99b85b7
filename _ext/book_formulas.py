"""Formulas are set when the book is built, by MathJax, as it would set them in a browser.

So a page shows its formulas at once, without a script and without JavaScript; and a formula that
MathJax cannot read is a warning of the build. MathJax is that of sphinx-mathjax-offline, and runs
in the engine that mini-racer brings. Each formula holds itself as MathML, too, for those who hear
the page. Beside the pages lie MathJax's fonts and its style sheet, cut down to the characters that
the pages use. The builders html and pdf have formulas so; others get the TeX, as Sphinx leaves it.
"""

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from html import unescape
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from py_mini_racer import JSEvalException, MiniRacer
from sphinx.ext import mathjax
from sphinx.util import logging

MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax"
BUILDERS = ("html", "pdf")
PARTS = ("startup", "core", "adaptors/liteDOM", "input/tex", "output/chtml",
         "output/chtml/fonts/tex", "a11y/assistive-mml")  # fmt: skip
CONFIGURATION = """
globalThis.setTimeout = () => {};  // MathJax waits for a page's fonts; here is no page
globalThis.MathJax = {
  startup: { typeset: false },
  tex: {
    packages: { "[-]": ["autoload", "noundefined", "require"] },  // what is unknown is an error
    formatError: (_, error) => { throw Error(error.message); },
  },
  chtml: { fontURL: ".", adaptiveCSS: false },
};
"""
START = """
MathJax.loader.preLoad("loader", ...parts);
MathJax.startup.defaultReady();
const { adaptor } = MathJax.startup;
const typeset = (tex, display) => adaptor.outerHTML(MathJax.tex2chtml(tex, { display }));
const translate = (tex, display) => MathJax.tex2mml(tex, { display });
const style = () => adaptor.textContent(MathJax.chtmlStylesheet());
"""
# What Sphinx's own visitors write: \\(…\\), \\[…\\], or an environment alone.
WRITTEN = re.compile(r"\\\((.*)\\\)|\\\[(.*)\\\]|(\\begin\{.*\\end\{\w+\*?\})", re.DOTALL)
# What does not fit on a phone scrolls; the theme makes such a place one that the keyboard reaches.
SCROLLING = '<div class="pst-scrollable-table-container math'
CHARACTER = re.compile(r"mjx-c[0-9A-F]+(?:[. ]TEX-\w+)?")  # with its font, if not the plain one
logger = logging.getLogger(__name__)


@cache
def engine() -> MiniRacer:
    """MathJax, started."""
    started = MiniRacer()
    started.eval(CONFIGURATION)
    for part in PARTS:
        started.eval((MATHJAX / f"{part}.js").read_text(encoding="utf-8"))
    started.eval(f"const parts = {[*PARTS]};" + START)
    return started


@cache
def typeset(tex: str, display: bool = False) -> str:
    """The HTML of a formula; a ValueError where MathJax cannot read it."""
    return _call("typeset", tex, display)


def mathml(tex: str, display: bool = False) -> str:
    """A formula as MathML; a ValueError where MathJax cannot read it."""
    return _call("translate", tex, display)


def _call(function: str, tex: str, display: bool) -> str:
    try:
        return engine().call(function, tex, display)
    except JSEvalException as error:
        raise ValueError(f"{str(error).splitlines()[0].partition('Error: ')[2]}: {tex}") from None


def characters(text: str) -> set[str]:
    """The characters that HTML holds or a rule is for, as in a rule: mjx-c3D, mjx-c1D465.TEX-I."""
    return {name.replace(" ", ".") for name in CHARACTER.findall(text)}


def style_sheet(used: set[str]) -> str:
    """MathJax's rules, without those for characters that are not used."""
    kept = [rule for rule in engine().call("style").split("\n\n") if characters(rule) <= used]
    return "\n".join(re.sub(r"\s*\n\s*", " ", rule).strip() for rule in kept)


def set_formula(visit: Callable, display: bool) -> Callable:
    """A visitor that writes what Sphinx's visitor does, with the TeX set."""

    def visit_and_set(self, node):
        start = len(self.body)
        with suppress(nodes.SkipNode):
            visit(self, node)
        if self.builder.name in BUILDERS:
            try:
                text = WRITTEN.sub(
                    lambda found: typeset(unescape(found[found.lastindex]), display),
                    "".join(self.body[start:]),
                )
            except ValueError as error:
                logger.warning("%s", error, location=node)
            else:
                self.body[start:] = [text.replace('<div class="math', SCROLLING, 1)]
        raise nodes.SkipNode

    return visit_and_set


def write_style(app, exception):
    """Put the style sheet and the fonts beside the pages."""
    if exception or app.builder.name not in BUILDERS:
        return
    target = Path(app.outdir) / "_static/formulas"
    shutil.copytree(MATHJAX / "output/chtml/fonts/woff-v2", target, dirs_exist_ok=True)
    pages = (page.read_text(encoding="utf-8") for page in Path(app.outdir).rglob("*.html"))
    used = set().union(*map(characters, pages))
    (target / "style.css").write_text(style_sheet(used), encoding="utf-8")


def setup(app):
    app.add_html_math_renderer(
        "formulas",
        (set_formula(mathjax.html_visit_math, display=False), None),
        (set_formula(mathjax.html_visit_displaymath, display=True), None),
    )
    app.add_css_file("formulas/style.css")
    app.connect(
        "build-finished", write_style, priority=800
    )  # when all is written, and before it is printed
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": False}
