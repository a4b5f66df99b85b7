"""Exercises in the book: the {problem} and {problems-table} directives.

An exercise is written once, in exercises/NN_name/problems.ipynb, which is also what a
teacher hands out with nbgrader. Its cells, in order:

* markdown, metadata {"exercise": {"name": "my_attention", "difficulty": 1 to 5,
  "importance": 1 to 5, "minutes": n}}: "## Title", the statement, then
  <details><summary>Hint</summary> … </details> and the same with "Pseudocode";
* the solution (nbgrader: solution), its region between ### BEGIN SOLUTION and ### END SOLUTION;
* the public check; * the hidden tests (nbgrader: grade, points);
* markdown tagged "discussion", if there is one: what to learn from the solution. nbgrader
  keeps it from students with TagRemovePreprocessor in NotebookExporter.preprocessors.

{problem} 01_self_attention/my_attention shows statement, hint, pseudocode and solution, the
last three folded, as Exercise 1.n; {ref}`problem-my_attention` links to it.
{problems-table} lists all exercises. {kill-table} lists the wrong answers that their checks are
proved against, from exercises/kills.yml, which the test of the exercises writes. {syllabus} makes
a table of weeks, from lines "1: 01_self_attention …": the chapters, their exercises of importance
4 and 5, and the minutes that these take.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import yaml
from book_nodes import make_fold, make_table
from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

FOLD = re.compile(r"<details><summary>(.*?)</summary>\n(.*?)</details>", re.DOTALL)
MARKERS = re.compile(r"^\s*### (?:BEGIN|END) SOLUTION.*\n?", re.MULTILINE)


@dataclass
class Problem:
    """One exercise, as the notebook has it."""

    chapter: str  # 01_self_attention
    number: str  # 1.2
    name: str  # my_attention
    difficulty: int  # 1 to 5
    importance: int  # 1 to 5
    minutes: int
    title: str
    statement: str  # markdown
    folds: list[tuple[str, str]]  # (Hint, markdown), (Pseudocode, markdown)
    solution: str = ""  # Python
    discussion: str = ""  # markdown

    @property
    def label(self) -> str:
        return f"problem-{self.name}"

    @property
    def facts(self) -> str:
        return (
            f"difficulty {self.difficulty} of 5 · importance {self.importance} of 5 · "
            f"{self.minutes} minutes"
        )


def read(path: Path) -> list[Problem]:
    """The exercises of one problems.ipynb, in order.

    Raises ValueError where a statement lacks its "## Title" or its exercise metadata.
    """
    problems = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source, metadata = "".join(cell["source"]), cell["metadata"]
        if "exercise" in metadata:
            problems.append(_statement(path, len(problems) + 1, source, metadata["exercise"]))
        elif problems and metadata.get("nbgrader", {}).get("solution"):
            problems[-1].solution = MARKERS.sub("", source).strip()
        elif problems and "discussion" in metadata.get("tags", ()):
            problems[-1].discussion = source
    return problems


def read_all(srcdir: str | Path) -> list[Problem]:
    """The exercises of the whole book."""
    paths = sorted(Path(srcdir).glob("exercises/*/problems.ipynb"))
    return [problem for path in paths for problem in read(path)]


def _statement(path, position, source, exercise):
    title = re.match(r"## (.+)\n", source + "\n")
    if title is None:
        raise ValueError(f"{path.parent.name}: {exercise} must begin with '## Title'.")
    missing = {"name", "difficulty", "importance", "minutes"} - set(exercise)
    if missing:
        raise ValueError(f"{path.parent.name}: {exercise} lacks {', '.join(sorted(missing))}.")
    chapter = path.parent.name
    return Problem(
        chapter=chapter,
        number=f"{int(chapter[:2])}.{position}",
        title=title[1].strip(),
        statement=FOLD.sub("", source[title.end() :]).strip(),
        folds=[(m[1].strip(), m[2].strip()) for m in FOLD.finditer(source)],
        **exercise,
    )


class ProblemDirective(SphinxDirective):
    """{problem} chapter/name."""

    required_arguments = 1

    def run(self):
        chapter, _, name = self.arguments[0].partition("/")
        path = Path(self.env.srcdir) / "exercises" / chapter / "problems.ipynb"
        if not path.is_file():
            raise self.error(f"there is no exercises/{chapter}/problems.ipynb.")
        self.env.note_dependency(str(path))
        found = [problem for problem in read(path) if problem.name == name]
        if len(found) != 1:
            raise self.error(f"exercises/{chapter} has {len(found)} exercises named {name!r}.")
        return [self._show(found[0])]

    def _show(self, problem):
        self.env.get_domain("std").note_hyperlink_target(
            problem.label,
            self.env.docname,
            nodes.make_id(problem.label),
            f"Exercise {problem.number}",
        )
        number = nodes.inline("", f"Exercise {problem.number}", classes=["problem-number"])
        title = [number, nodes.Text(" · "), *self._inline(problem.title)]
        box = nodes.container(ids=[nodes.make_id(problem.label)], classes=["problem"])
        box += nodes.paragraph("", "", *title, classes=["problem-title"])
        box += nodes.paragraph("", problem.facts, classes=["problem-facts"])
        box += self._blocks(problem.statement)
        for title, text in problem.folds:
            box += make_fold([nodes.Text(title)], self._blocks(text))
        code = nodes.literal_block(problem.solution, problem.solution, language="python")
        solution = [code, *self._blocks(problem.discussion)]
        box += make_fold([nodes.Text("Solution")], solution, "solution")
        return box

    def _inline(self, text):
        return self.state.inline_text(text, self.lineno)[0]

    def _blocks(self, text):
        box = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), "problems.ipynb"), 0, box)
        return box.children


class ProblemsTable(SphinxDirective):
    """{problems-table}: every exercise, with a link to where it stands in its chapter."""

    def run(self):
        self.env.note_reread()  # a new folder changes no file that the page knows
        problems = read_all(self.env.srcdir)
        head = ["exercise", "", "difficulty", "importance", "minutes"]
        return [make_table(head, [self._row(problem) for problem in problems], "problems")]

    def _row(self, problem):
        link = addnodes.pending_xref(
            "", refdomain="std", reftype="ref", refexplicit=True, refwarn=True
        )
        link["reftarget"], link["refdoc"] = problem.label.lower(), self.env.docname
        link += nodes.inline("", "", *self.state.inline_text(problem.title, self.lineno)[0])
        numbers = (problem.difficulty, problem.importance, problem.minutes)
        return [nodes.Text(problem.number), link, *(nodes.Text(str(n)) for n in numbers)]


class KillTable(SphinxDirective):
    """{kill-table}: each known wrong answer and what it hears, folded by exercise."""

    def run(self):
        path = Path(self.env.srcdir) / "exercises" / "kills.yml"
        self.env.note_dependency(str(path))
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        problems = {problem.name: problem for problem in read_all(self.env.srcdir)}
        rejected = [answers for chapter in table.values() for answers in chapter.values()]
        count = f"{sum(map(len, rejected))} wrong answers to {len(rejected)} exercises."
        folds = [
            self._fold(problems[name], answers)
            for chapter in table.values()
            for name, answers in chapter.items()
        ]
        return [nodes.paragraph("", count), *folds]

    def _fold(self, problem, answers):
        title = nodes.inline("", "", *self.state.inline_text(problem.title, self.lineno)[0])
        number = nodes.inline("", f"Exercise {problem.number}", classes=["problem-number"])
        said = nodes.inline("", f" · {len(answers)}", classes=["problem-facts"])
        rows = [[nodes.Text(mistake), nodes.Text(answers[mistake])] for mistake in answers]
        content = make_table(["wrong answer", "what its check says"], rows, "kills")
        return make_fold([number, nodes.Text(" · "), title, said], [content], "kill")


class Syllabus(SphinxDirective):
    """{syllabus}: a line a week, with the names of its chapters."""

    has_content = True
    option_spec: ClassVar = {"least": int}  # the importance of an exercise that is assigned

    def run(self):
        self.env.note_reread()
        problems = read_all(self.env.srcdir)
        rows = [self._row(*line.split(":"), problems) for line in self.content if line.strip()]
        return [make_table(["week", "chapters", "assign", "minutes"], rows, "syllabus")]

    def _row(self, week, chapters, problems):
        names, least = chapters.split(), self.options.get("least", 4)
        assigned = [p for p in problems if p.chapter in names and p.importance >= least]
        if missing := set(names) - {p.chapter for p in problems}:
            raise self.error(f"there are no exercises for {', '.join(sorted(missing))}.")
        read, work = nodes.inline(), nodes.inline()
        for i, name in enumerate(names):
            link = addnodes.pending_xref(
                "", refdomain="std", reftype="doc", refexplicit=False, refwarn=True
            )
            link["reftarget"], link["refdoc"] = f"/chapters/{name}", self.env.docname
            link += nodes.inline("", name)
            read += [nodes.Text("; " if i else ""), link]
        for i, problem in enumerate(assigned):
            link = addnodes.pending_xref(
                "", refdomain="std", reftype="ref", refexplicit=True, refwarn=True
            )
            link["reftarget"], link["refdoc"] = problem.label.lower(), self.env.docname
            link += nodes.inline("", f"{problem.number}")
            work += [nodes.Text(", " if i else ""), link]
        minutes = sum(problem.minutes for problem in assigned)
        return [nodes.Text(week.strip()), read, work, nodes.Text(str(minutes))]


def setup(app):
    app.setup_extension("book_nodes")
    app.add_directive("syllabus", Syllabus)
    app.add_directive("kill-table", KillTable)
    app.add_directive("problem", ProblemDirective)
    app.add_directive("problems-table", ProblemsTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
