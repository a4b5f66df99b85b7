"""Every number in the prose has a source.

Read are the markdown cells and figure captions of the chapters, and the pages in Markdown. A
number there must be

* inside a {fact}, and the same as in the ledger;
* or printed by a cell above it (0.19 is 0.1923, rounded), or a literal in the code above it;
* or a whole number up to 12, a year, or the number of a chapter, section, table or figure.

Code, formulas, links, labels and the options of directives are not prose. A number that is
only supposed ("let p be 0.25") is written as a formula.
"""

import io
import re
import tokenize
from decimal import Decimal
from pathlib import Path

import book_facts
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

ROOT = Path(__file__).resolve().parents[1]

CHAPTERS = sorted(ROOT.glob("chapters/*.ipynb"))
TOC = (ROOT / "_toc.yml").read_text(encoding="utf-8")
PAGES = sorted(path for path in ROOT.glob("*.md") if re.search(rf": {path.stem}$", TOC, re.M))

NOT_PROSE = {"code", "code-block", "code-cell", "drawing", "eval-rst", "facts-grid", "facts-table"}
NOT_PROSE |= {"bibliography", "image", "math", "problem", "problems-table", "kill-table", "quiz"}
NOT_PROSE |= {"interview", "playground", "questions", "self-test", "syllabus"}
FENCE = re.compile(r"^\s*(`{3,}|~{3,}|:{3,})\s*(?:\{([\w:-]+)\})?(.*)$")
FACT = re.compile(r"\{fact\}`([^`<]+?)\s*<([^>]+)>`")
# What is taken out before numbers are looked for. The order matters.
OUT = [
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"\$\$.*?\$\$|\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL),
    re.compile(r"(?<=\n\n)(?: {4,}\S.*(?:\n|$))+"),  # code by indentation
    re.compile(r"^\([\w:-]+\)=\s*$", re.MULTILINE),  # labels
    re.compile(r"\{[\w:-]+\}`[^`]*`"),  # roles
    re.compile(r"(`+).+?\1", re.DOTALL),  # code
    re.compile(r"(?<![\\$])\$[^$]+\$"),  # formulas
    re.compile(r"\]\([^)]*\)|<https?:[^>]*>|https?://\S+"),  # links
    re.compile(r"<[^>\n]+>"),  # tags
    re.compile(r"^\s*\d+\.(?=\s)", re.MULTILINE),  # list numbers
    re.compile(r"^#+\s+\d+ ·", re.MULTILINE),  # the chapter's number in its heading
    re.compile(r"\bPython 3\.\d+(?:(?:, | or | to | and )3\.\d+)*"),
    re.compile(
        r"\b(?:[Cc]hapter|[Ss]ection|[Ee]quation|[Tt]able|[Ff]igure|[Ff]ig|[Pp]age|[Ee]xercise|"
        r"[Qq]uestion|[Aa]ppendix|[Pp]art|[Ss]tep|[Vv]ersion)s?\.?\s+"
        r"\d[\d.]*(?:(?:, | and | or | to |–)\d[\d.]*)*"
    ),
]
COUNTED = "batches|bytes|characters|documents|lines|merges|minutes|pages|parameters|people|"
COUNTED += "positions|samples|seconds|sequences|steps|stories|tokens|updates|vectors|words"
YEAR = re.compile(rf"(?<![\d.,])(?:19[4-9]\d|20[0-3]\d)(?![\d.,]*\d|\s+(?:{COUNTED})\b)")
NUMBER = re.compile(
    r"(?<![\w.,/])(?<![A-Za-z]-)(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?:e([+-]?\d+))?"
    r"(\s?%|\s(?:thousand|million|billion|trillion)\b|[kMB]\b)?(?![\w]|\.\d)"
)
PRINTED = re.compile(r"(?<![\w.])[+-]?(\d{1,3}(?:,\d{3})+|\d+)?(\.\d*)?(?:[eE][+-]?\d+)?")
SCALE = {"%": Decimal("0.01"), "k": 10**3, "M": 10**6, "B": 10**9, **book_facts.SCALES}


def prose(markdown):
    """The markdown without code, formulas, options of directives, and other non-prose."""
    lines, fences = [], []  # of each open fence: its marker, and whether it is prose
    for line in markdown.splitlines():
        fence = FENCE.match(line)
        if fence and fences and set(fence[1]) == set(fences[-1][0]) and not line.strip(" `~:"):
            if len(fence[1]) >= len(fences[-1][0]):
                fences.pop()
                continue
        if fence and (fence[2] or not fences or fences[-1][1]):
            is_prose = bool(fence[2]) and fence[2] not in NOT_PROSE
            fences.append((fence[1], is_prose))
            line = fence[3] if is_prose else ""
        if all(is_prose for _, is_prose in fences):
            lines.append("" if re.match(r"^\s*:[\w-]+:", line) else line)
    text = "\n".join(lines)
    for pattern in OUT:
        text = pattern.sub(" ", text)
    if ":class: chapter-card" in markdown:  # the time it takes is said there, by estimate
        text = re.sub(r"\b\d+ minutes?\b", " ", text)
    return YEAR.sub(" ", text)


def fact_faults(markdown, facts):
    """The {fact}s that the ledger does not know, or that differ from it."""
    faults = []
    for shown, key in FACT.findall(markdown):
        if key not in facts:
            faults.append(f"{key} is not in the ledger")
        elif not book_facts.agrees(shown, facts[key]["value"]):
            faults.append(f"{key} is {facts[key]['value']}, not {shown}")
    return faults


def numbers(markdown):
    """The numbers of the prose: as written, value, scale, decimals."""
    for found in NUMBER.finditer(prose(markdown)):
        value = Decimal(found[1].replace(",", "") + (found[2] or "") + f"e{found[3] or 0}")
        scale = Decimal(SCALE[(found[4] or "").strip()]) if found[4] else Decimal(1)
        yield found[0].strip(), value, scale, len(found[2] or ".") - 1 - int(found[3] or 0)


def is_small(value, scale):
    return value <= 12 and value == int(value) and scale == 1


def says(value, scale, decimals, source):
    """Does the number of the prose say the source, exactly or rounded to its decimals?"""
    exact = abs(source) / scale
    if value == exact:
        return True
    digits = len(str(value).replace(".", "").lstrip("0"))
    if digits < 2 and not decimals:
        return False
    return exact.quantize(Decimal(1).scaleb(-decimals)) == value


def printed(cell):
    """The numbers that a code cell has printed, and those that stand in its code."""
    text = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        text += [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
    for found in PRINTED.finditer("\n".join(text)):
        if any(c.isdigit() for c in found[0]):
            yield Decimal(found[0].replace(",", ""))
            if found.string[found.end() :].lstrip(" ").startswith("%"):
                yield Decimal(found[0].replace(",", "")) / 100
    source = re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NUMBER and re.fullmatch(r"[\d_.]+(e[+-]?\d+)?", token.string):
            yield Decimal(token.string.replace("_", ""))


def faults(cells, facts):
    """The numbers of a notebook's prose that have no source, each with its sentence's start."""
    known, found = set(), []
    for cell in cells:
        text = cell.source
        if cell.cell_type == "code":
            known.update(printed(cell))
            text = cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")
        found += fact_faults(text, facts)
        for written, value, scale, decimals in numbers(text):
            if not is_small(value, scale):
                if not any(says(value, scale, decimals, source) for source in known):
                    found.append(f"{written}: in “{text.strip()[:60]}…”, no cell above prints it")
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_number_of_a_chapter_has_a_source(path):
    assert faults(nbformat.read(path, 4).cells, book_facts.load(ROOT)) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_number_of_a_page_has_a_source(path):
    page = new_markdown_cell(path.read_text(encoding="utf-8"))
    assert faults([page], book_facts.load(ROOT)) == []


# This reader, tested ------------------------------------------------------------------------

LEDGER = {"model.size": {"value": 124439808}, "model.accuracy": {"value": 63.24}}
CELL = new_code_cell(
    "steps = 1_500\nprint(loss)",
    outputs=[new_output("stream", text="loss 0.1923, of 4.8520; 4,321 words; 87% of them\n")],
)


@pytest.mark.parametrize(
    "text",
    [
        "We count {fact}`124,439,808 <model.size>`, or {fact}`124 million <model.size>`.",
        "The loss is 0.19, the most is 4.852, and 19 % or 19.2% of one; 4,321 words; 1,500 steps.",
        "Twelve is small: 12, and 7 heads.",
        "Of these 87%.",
        "The paper of 2017, chapters 3, 7 and 12, section 3.2, table 2.1, equation 14.",
        "GPT-2 in float32 on an H100 with `n = 768`, $D = 768$, and\n$$\n99.5\n$$\n",
        "```python\nx = 768\n```\n\n```{math}\n:label: eq-99\n768\n```",
        "(label-768)=\n## 768 is in a label, not here".replace("768 is", "It is"),
        ":::{admonition} Here\n:class: chapter-card\nTo read: 40 minutes.\n:::",
        "[a link](https://example.org/768) and {cite}`name2017` and {numref}`fig-768`.",
        "13. a numbered list",
        "Code:\n\n    x = 768\n    y = 99\n\nThe Transformer of 2017 uses it.",
        "With Python 3.11, 3.12 or 3.13.",
    ],
)
def test_a_number_with_a_source_is_let_through(text):
    assert faults([CELL, new_markdown_cell(text)], LEDGER) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The width is 768.", "768"),
        ("The loss is 0.18.", "0.18"),
        ("The loss is 0.193.", "0.193"),
        ("About 20 % of it.", "20 %"),
        ("Of these 88%.", "88%"),
        ("A model of 124M parameters.", "124M"),
        ("A model of 124 million.", "124 million"),
        ("It took 2000 steps.", "2000"),
        ("It took 1,501 steps.", "1,501"),
        ("{fact}`124,439,809 <model.size>`", "not 124,439,809"),
        ("{fact}`63.2 <model.size>`", "not 63.2"),
        ("{fact}`63.24 <model.acuracy>`", "not in the ledger"),
        (":::{admonition} With 44 words\n:class: predict\nText.\n:::", "44"),
        ("```{note}\nIt has 45 words.\n```", "45"),
        ("```{note}\n`````{tip}\nIt has 46 words.\n`````\n```", "46"),
        ("```python\nx = 1\n```\nIt has 47 words.", "47"),
        ("To read: 40 minutes.", "40"),
        ("| a | b |\n|---|---|\n| 1 | 48.5 |", "48.5"),
    ],
)
def test_a_number_without_a_source_is_found(text, fault):
    (found,) = faults([CELL, new_markdown_cell(text)], LEDGER)
    assert fault in found


def test_what_a_later_cell_prints_does_not_count():
    assert len(faults([new_markdown_cell("The loss is 0.19."), CELL], LEDGER)) == 1


def test_a_caption_may_say_what_its_own_cell_prints():
    cell = CELL.copy()
    cell.metadata = nbformat.from_dict({"mystnb": {"figure": {"caption": "It falls to 0.19."}}})
    assert faults([cell], LEDGER) == []
    cell.metadata.mystnb.figure.caption = "It falls to 0.18."
    assert len(faults([cell], LEDGER)) == 1
