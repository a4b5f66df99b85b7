"""MyST markdown as plain HTML, for what is not a page: cards and slides."""

import re
from collections.abc import Callable
from html import escape

from markdown_it import MarkdownIt

ROLE = re.compile(r"\{([\w:-]+)\}`([^`<]*?)\s*(?:<[^>`]*>)?`")
MATH = re.compile(r"(?<![\\$])\$([^$]+)\$")
DROPPED = ("cite", "numref", "ref")


def as_tex(tex: str) -> str:
    """A formula as it stands, for what has MathJax of its own."""
    return rf"\({escape(tex, quote=False)}\)"


def html(text: str, block: bool = False, formula: Callable[[str], str] = as_tex) -> str:
    """Texts with roles and $formulas$: roles become words, formulas what formula makes of them.

    block: paragraphs and lists, too; without it all is one line.
    """
    formulas = []

    def keep(found):
        formulas.append(found[1])
        return f"@@{len(formulas) - 1}@@"

    text = ROLE.sub(lambda m: "" if m[1].split(":")[0] in DROPPED else m[2], text)
    text = MATH.sub(keep, text if block else " ".join(text.split()))
    text = MarkdownIt().render(text) if block else MarkdownIt().renderInline(text)
    text = re.sub(r" +([.,;:])", r"\1", re.sub(r" *\(\s*\)", "", text))  # where a role was dropped

    return re.sub(r"@@(\d+)@@", lambda found: formula(formulas[int(found[1])]), text)
