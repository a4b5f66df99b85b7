"""Slides for each part of the book, made from its chapters when the HTML is built.

slides/part_1.html …: of each chapter its question and what it is good for, the predictions, the
figures with their claims, what it is tempting to think, what to remember, and a question of the
quiz, in the chapter's order. Arrow keys turn; printing gives one slide a page.
"""

import base64
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import book_quiz
import nbformat
import yaml
from book_formulas import typeset
from book_text import html as text_html
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

BOX = re.compile(
    r"^(`{3,}|:{3,})\{admonition\} (?P<title>.+)\n:class: (?P<kind>[\w-]+)\n(?P<body>.*?)^\1$",
    re.MULTILINE | re.DOTALL,
)
html = partial(text_html, formula=typeset)
KINDS = {"predict": "Predict", "misconception": "", "remember": "", "chapter-card": ""}


def slides(folder: Path, chapter: str) -> Iterator[dict]:
    """The slides of a chapter: kind, above, title, body, alt."""
    notebook = nbformat.read(folder / "chapters" / f"{chapter}.ipynb", 4)
    name = re.search(r"^# (.+)", notebook.cells[0].source, re.MULTILINE)[1]
    above = f"{int(chapter[:2])} · {name}"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            yield from (_box(found, above) for found in BOX.finditer(cell.source))
        elif figure := cell.metadata.get("mystnb", {}).get("figure"):
            alt = cell.metadata.mystnb.get("image", {}).get("alt", "")
            for output in cell.outputs:
                if svg := output.get("data", {}).get("image/svg+xml"):
                    text = base64.b64encode(svg.encode()).decode()
                    yield _slide("figure", above, html(figure["caption"]), text, alt)
    quiz = book_quiz.read(folder / "questions" / f"{chapter}.yml")[0]
    options = "".join(f"<li>{html(option['text'])}</li>" for option in quiz["options"])
    yield _slide("quiz", above, html(quiz["question"]), f"<ol>{options}</ol>")


def _box(found, above):
    kind, title, body = found["kind"], found["title"], html(found["body"], block=True)
    kind = "title" if kind == "chapter-card" else kind
    return _slide(kind, above, html(title), body)


def _slide(kind, above, title, body, alt=""):
    return {
        "kind": kind,
        "above": above,
        "title": Markup(title),
        "body": Markup(body),
        "alt": alt,
    }


def parts(folder: Path) -> list[tuple[str, list[str]]]:
    """The parts of the book that have chapters: title, names of the chapters."""
    contents = yaml.safe_load((folder / "_toc.yml").read_text(encoding="utf-8"))
    listed = [
        (part["caption"], [Path(page["file"]).name for page in part["chapters"]])
        for part in contents["parts"]
    ]
    return [(title, names) for title, names in listed if all(n[:2].isdigit() for n in names)]


def write(app, exception):
    if exception or app.builder.name != "html":
        return
    source, target = Path(app.srcdir), Path(app.outdir) / "slides"
    if not (source / "_toc.yml").is_file():
        return
    target.mkdir(exist_ok=True)
    loader = FileSystemLoader(Path(__file__).parent)
    page = Environment(loader=loader, undefined=StrictUndefined, autoescape=True).get_template(
        "slides.html"
    )
    for number, (title, chapters) in enumerate(parts(source), 1):
        shown = [slide for chapter in chapters for slide in slides(source, chapter)]
        text = page.render(title=title, slides=shown)
        (target / f"part_{number}.html").write_text(text, encoding="utf-8")


def setup(app):
    app.connect("build-finished", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
