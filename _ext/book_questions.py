"""The question bank: the {questions}, {interview} and {self-test} directives.

questions/NN_name.yml has the chapter's quiz (see book_quiz) and, as a list under "bank", questions
without options, in the order of the chapter:

    - id: why-the-scale        # for good: a reader's card is known by it
      question: Why are the scores divided by $\\sqrt{D}$?
      link: why-scale          # a label in the chapter: the section that answers
      cell: scores-std         # a code cell of that section, which shows it
      difficulty: 2            # 1 to 5
      short: …                 # for a card
      long: …                  # as one would answer; an empty line begins a paragraph
      wrong: …                 # what one often hears
      why: …                   # why that is wrong

Texts are MyST markdown. {questions} 01_name 02_name shows the questions of chapters, answers
folded; {ref}`question-why-the-scale` leads to one. {interview} 01_name lists a chapter's with
links to their answers. {self-test} holds the quizzes of all chapters: quiz.js draws ten of them.
"""

import json
from pathlib import Path

import book_quiz
import yaml
from book_nodes import make_fold
from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

FIELDS = ("id", "question", "link", "cell", "difficulty", "short", "long", "wrong", "why")


def read(path: Path) -> list[dict]:
    """The bank of one chapter. Raises ValueError where the file breaks the format."""
    whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    bank = whole.get("bank") if isinstance(whole, dict) else None
    if not isinstance(bank, list) or not bank:
        raise ValueError(f"{path.name}: there is no list of questions under bank.")
    for i, question in enumerate(bank, 1):
        if not isinstance(question, dict) or tuple(question) != FIELDS:
            raise ValueError(f"{path.name}, {i}: a question has, in this order, {FIELDS}.")
        if question["difficulty"] not in range(1, 6):
            raise ValueError(f"{path.name}, {question['id']}: difficulty runs from 1 to 5.")
        if not all(isinstance(question[k], str) and question[k].strip() for k in FIELDS[5:]):
            raise ValueError(f"{path.name}, {question['id']}: an answer is missing.")
    return bank


def read_all(srcdir: str | Path) -> dict[str, list[dict]]:
    """The whole bank, by chapter, in the book's order."""
    return {path.stem: read(path) for path in sorted(Path(srcdir).glob("questions/*.yml"))}


def cell_label(chapter: str, cell: str) -> str:
    return f"cell-{chapter}-{cell}"


class _Directive(SphinxDirective):
    """What the three have in common."""

    def _read(self, chapter, read=read):
        path = Path(self.env.srcdir) / "questions" / f"{chapter}.yml"
        if not path.is_file():
            raise self.error(f"there is no questions/{path.name}.")
        self.env.note_dependency(str(path))
        try:
            return read(path)
        except ValueError as error:
            raise self.error(str(error)) from None

    def _inline(self, text):
        return self.state.inline_text(text.strip(), self.lineno)[0]

    def _blocks(self, text):
        box = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), "questions"), 0, box)
        return box.children

    def _link(self, label, text):
        link = addnodes.pending_xref(
            "", refdomain="std", reftype="ref", refexplicit=True, refwarn=True
        )
        link["reftarget"], link["refdoc"] = label.lower(), self.env.docname
        link += nodes.inline("", "", *self._inline(text))
        return link


class Questions(_Directive):
    """{questions} chapter …: the bank of these chapters, answers folded."""

    required_arguments = 1
    optional_arguments = 99

    def run(self):
        return [node for chapter in self.arguments for node in self._chapter(chapter)]

    def _chapter(self, chapter):
        number = int(chapter[:2])
        heading = addnodes.pending_xref(
            "", refdomain="std", reftype="doc", refexplicit=False, refwarn=True
        )
        heading["reftarget"], heading["refdoc"] = f"/chapters/{chapter}", self.env.docname
        heading += nodes.inline("", chapter)
        yield nodes.paragraph("", "", heading, classes=["bank-chapter"])
        for i, question in enumerate(self._read(chapter), 1):
            yield self._fold(chapter, f"{number}.{i}", question)

    def _fold(self, chapter, number, question):
        label = f"question-{question['id']}"
        target = nodes.make_id(label)
        domain = self.env.get_domain("std")
        domain.note_hyperlink_target(label, self.env.docname, target, f"Question {number}")
        title = [nodes.inline("", f"{number} ", classes=["problem-number"])]
        title += self._inline(question["question"])
        short = nodes.paragraph("", "", *self._inline(question["short"]), classes=["bank-short"])
        hears = [nodes.strong("", "One often hears: "), nodes.Text("“")]
        hears += [*self._inline(question["wrong"]), nodes.Text("” ")]
        hears += self._inline(question["why"])
        where = [nodes.Text(f"Difficulty {question['difficulty']} of 5 · ")]
        where += [self._link(question["link"], "the section"), nodes.Text(" · ")]
        where += [self._link(cell_label(chapter, question["cell"]), "the cell that shows it")]
        content = [short, *self._blocks(question["long"])]
        content += [nodes.paragraph("", "", *hears, classes=["bank-wrong"])]
        content += [nodes.paragraph("", "", *where, classes=["problem-facts"])]
        fold = make_fold(title, content, "question")
        fold["ids"].append(target)
        return fold


class Interview(_Directive):
    """{interview} chapter: its questions, with links to their answers."""

    required_arguments = 1

    def run(self):
        items = []
        for question in self._read(self.arguments[0]):
            link = self._link(f"question-{question['id']}", "answer")
            section = self._link(question["link"], "section")
            marks = [nodes.Text(" ("), section, nodes.Text(", "), link, nodes.Text(")")]
            text = [*self._inline(question["question"]), *marks]
            items.append(nodes.list_item("", nodes.paragraph("", "", *text)))
        return [nodes.bullet_list("", *items, classes=["interview"])]


class SelfTest(book_quiz.Quiz):
    """{self-test}: the quizzes of all chapters, of which quiz.js draws ten."""

    required_arguments = 0

    def run(self):
        paths = sorted(Path(self.env.srcdir).glob("questions/*.yml"))
        items = []
        for path in paths:
            self.env.note_dependency(str(path))
            items += [nodes.list_item("", *self._question(q)) for q in book_quiz.read(path)]
        return [nodes.container("", nodes.enumerated_list("", *items), classes=["quiz", "draw"])]


def mark_cells(app, doctree):
    """Give the cells that the bank names an anchor."""
    folder, _, chapter = app.env.docname.rpartition("/")
    bank = Path(app.srcdir) / "questions" / f"{chapter}.yml"
    notebook = Path(app.srcdir) / folder / f"{chapter}.ipynb"
    if folder != "chapters" or not bank.is_file() or not notebook.is_file():
        return
    app.env.note_dependency(str(bank))
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    named = {question["cell"] for question in read(bank)}
    for node in doctree.findall(nodes.container):
        if node.get("nb_element") == "cell_code":
            cell = cells[node["cell_index"]]["id"]
            if cell in named:
                label = cell_label(chapter, cell)
                node["ids"].append(nodes.make_id(label))
                app.env.get_domain("std").note_hyperlink_target(
                    label, app.env.docname, nodes.make_id(label), "the cell"
                )


def setup(app):
    app.setup_extension("book_nodes")
    app.add_directive("questions", Questions)
    app.add_directive("interview", Interview)
    app.add_directive("self-test", SelfTest)
    app.connect("doctree-read", mark_cells)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
