"""MyST markdown as plain HTML, for what is not a page: cards and slides."""

import re

from markdown_it import MarkdownIt

ROLE = re.compile(r"\{([\w:-]+)\}`([^`<]*?)\s*(?:<[^>`]*>)?`")
MATH = re.compile(r"(?<![\\$])\$([^$]+)\$")
DROPPED = ("cite", "numref", "ref")


def html(text: str, block: bool = False) -> str:
    """Texts with roles and $formulas$: roles become words, formulas are left to MathJax.

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

    def formula(found):
        tex = formulas[int(found[1])]
        return rf"\({tex.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}\)"

    return re.sub(r"@@(\d+)@@", formula, text)
