"""The course: what students get, and a class of submissions that go wrong in every way, graded.

One grading of a whole class is made, once; the tests look at what came out of it.
"""

import ast
import copy
import csv
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from grading import course, submissions
from grading.grade import Grade
from grading.kernel import has_sandbox

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = "01_self_attention"
MASTER = nbformat.read(ROOT / "exercises" / CHAPTER / "problems.ipynb", 4)
MARKERS = re.compile(r"^ *### (?:BEGIN|END) SOLUTION\n?", re.MULTILINE)
LOOPS = "def my_softmax(scores, dim=-1):\n    while True:\n        pass"

in_sandbox = pytest.mark.skipif(not has_sandbox(), reason="no bubblewrap on this machine")


def solutions():
    cells = [c for c in MASTER.cells if c.metadata.get("nbgrader", {}).get("solution")]
    return {c.metadata.nbgrader.grade_id: MARKERS.sub("", c.source) for c in cells}


# The class ------------------------------------------------------------------------------

ANSWERS = {  # student -> what is not as in the solution
    "right": {},
    "one axis": {"my_softmax": "def my_softmax(s, dim=-1):\n    return torch.softmax(s, -1)"},
    "loops": {"my_softmax": LOOPS},
    "kills": {"my_causal_mask": "import os\ndef my_causal_mask(*_, **__):\n    os._exit(1)"},
    "leaves": {"my_causal_mask": "raise SystemExit"},
    "prints": {
        "my_softmax": "def my_softmax(s, dim=-1):\n    while True:\n        print('x' * 1000)"
    },
    "prints past Python": {
        "my_softmax": "import os\ndef my_softmax(s, dim=-1):\n    while True:\n"
        "        os.write(1, b'x' * 10000)"
    },
    "eats": {
        "my_softmax": "def my_softmax(s, dim=-1):\n    all = []\n    while True:\n"
        "        all.append(bytearray(10**8))"
    },
    "imports": {"my_softmax": "import no_such_module\ndef my_softmax(s, dim=-1):\n    return s"},
    "no Python": {"my_softmax": "def my_softmax(s, dim=-1)\n    return s"},
    "equals all": {
        "my_softmax": "class All:\n    def __eq__(self, other):\n        return True\n"
        "    __getattr__ = lambda self, name: self\n    __call__ = lambda self, *a, **k: self\n"
        "def my_softmax(s, dim=-1):\n    return All()"
    },
    "replaces": {
        "my_softmax": "torch.allclose = lambda *a, **k: True\n"
        "def my_softmax(s, dim=-1):\n    return s"
    },
    "replaces the check": {
        "my_softmax": "import checks\nchecks.check_my_softmax = lambda *a, **k: None\n"
        "def my_softmax(s, dim=-1):\n    return s"
    },
    "changes IPython": {
        "my_softmax": "get_ipython().input_transformers_cleanup.append(lambda lines: ['pass\\n'])\n"
        "def my_softmax(s, dim=-1):\n    return s"
    },
    "reads the master": {
        "my_softmax": "import gpt2lib, json, pathlib\n"
        "path = pathlib.Path(gpt2lib.__file__).parents[1] / 'exercises' / '01_self_attention'\n"
        "cells = json.loads((path / 'problems.ipynb').read_text())['cells']\n"
        "exec(next(''.join(c['source']) for c in cells if 'def my_softmax' in c['source'][0]))"
    },
    "asks the network": {
        "my_softmax": "import socket\nsocket.create_connection(('127.0.0.1', PORT), 2).close()\n"
        "def my_softmax(scores, dim=-1):\n    e = (scores - scores.amax(dim, True)).exp()\n"
        "    return e / e.sum(dim, True)"
    },
    "looks around": {
        "my_softmax": "import pathlib\nseen = [p for p in SECRETS if pathlib.Path(p).exists()]\n"
        "raise ValueError(f'sees {seen}')"
    },
    "writes": {  # only where it cannot
        "my_softmax": "import pathlib\nfor path in SECRETS:\n"
        "    pathlib.Path(path).parent.joinpath('spoiled').write_text('x')\n"
        "def my_softmax(s, dim=-1):\n    return s"
    },
    "=HYPERLINK(1)": {"my_softmax": "def my_softmax(s, dim=-1):\n    return s"},
}
BAD = {"my_softmax": "def my_softmax(s, dim=-1):\n    return s"}


def keep(notebook):
    """The notebook with all answers as they are."""


def drop(notebook):
    """Delete the first answer and the test of the second."""
    gone = ("my_softmax", "test_my_causal_mask")
    notebook.cells = [
        c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") not in gone
    ]


def edit_tests(notebook):
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):
            cell.source = "print('passed')"
            cell.metadata.nbgrader.points = 100
        elif cell.source.startswith("from checks import"):
            cell.source = "pass"


def strip(notebook):
    for cell in notebook.cells:
        cell.metadata.clear()


def double(notebook):
    at = [c.metadata.get("nbgrader", {}).get("grade_id") for c in notebook.cells].index(
        "my_softmax"
    )
    first = copy.deepcopy(notebook.cells[at])
    first.source = BAD["my_softmax"]
    first.id = "another"
    notebook.cells.insert(at, first)


def add_cells(notebook):
    """The answer uses a helper, in a cell that the student added."""
    at = [c.metadata.get("nbgrader", {}).get("grade_id") for c in notebook.cells].index(
        "my_softmax"
    )
    notebook.cells[at].source = "def my_softmax(scores, dim=-1):\n    return helper(scores, dim)"
    notebook.cells.insert(at, new_code_cell("helper = lambda s, dim: torch.softmax(s, dim)"))


CHANGES = {
    "untouched": None,
    "deletes": (drop, {}),
    "edits tests": (edit_tests, BAD),
    "strips": (strip, {}),
    "doubles": (double, {}),
    "adds": (add_cells, {}),
    **{student: (keep, answers) for student, answers in ANSWERS.items()},
}
if not has_sandbox():
    del CHANGES["writes"]
if sys.platform != "linux":  # elsewhere memory cannot be limited
    del CHANGES["eats"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A course of one chapter."""
    folder = tmp_path_factory.mktemp("course")
    assert course.make(folder, chapters=("01",)) == [CHAPTER]
    return folder


@pytest.fixture(scope="module")
def listening():
    """The port of a server on this machine, which nothing in a sandbox should reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def handed_in(made, tmp_path_factory, listening):
    """The folder of submissions."""
    folder = tmp_path_factory.mktemp("class") / "in"
    folder.mkdir()
    release = nbformat.read(made / "release" / CHAPTER / "problems.ipynb", 4)
    secrets = [made / "gradebook.db", folder / "right" / CHAPTER, ROOT / "make.py"]
    secrets.append(ROOT / "exercises")
    for student, change in CHANGES.items():
        notebook = copy.deepcopy(release)
        if change:
            for cell in notebook.cells:
                if cell.metadata.get("nbgrader", {}).get("solution"):
                    answers = {**solutions(), **change[1]}
                    cell.source = answers[cell.metadata.nbgrader.grade_id]
                    cell.source = cell.source.replace("PORT", str(listening))
                    cell.source = cell.source.replace("SECRETS", repr(list(map(str, secrets))))
            change[0](notebook)
        path = folder / student / CHAPTER / "problems.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
    (folder / "flat").mkdir()
    text = (folder / "right" / CHAPTER / "problems.ipynb").read_text(encoding="utf-8")
    (folder / "flat" / f"{CHAPTER}.ipynb").write_text(text, encoding="utf-8")
    others = {"empty file": "", "letter": "Dear teacher, my dog ate it.", "no cells": None}
    others["other JSON"] = json.dumps({"a": [1, 2]})
    others["cut short"] = text[: len(text) // 2]
    for student, content in others.items():
        path = folder / student / CHAPTER / "problems.ipynb"
        path.parent.mkdir(parents=True)
        if content is None:
            nbformat.write(nbformat.v4.new_notebook(), path)
        else:
            path.write_text(content, encoding="utf-8")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "answers.docx").write_bytes(b"PK")
    return folder


@pytest.fixture(scope="module")
def graded(made, handed_in):
    """Grade the class; its rows, {(student, exercise): row}."""
    before = {path: path.read_bytes() for path in handed_in.rglob("*") if path.is_file()}
    Grade(handed_in, course=made, timeout=10, memory=2)()
    assert before == {path: path.read_bytes() for path in handed_in.rglob("*") if path.is_file()}
    with (made / "results" / "in" / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["student"], row["exercise"]): row for row in rows}


def points(graded, student):
    return sum(float(row["points"]) for (name, _), row in graded.items() if name == student)


def remarks(graded, student):
    return {row["remarks"] for (name, _), row in graded.items() if name == student}


ALL = sum(
    c.metadata.nbgrader.points for c in MASTER.cells if c.metadata.get("nbgrader", {}).get("grade")
)
SOFTMAX, MASK = (
    next(
        c.metadata.nbgrader.points
        for c in MASTER.cells
        if c.metadata.get("nbgrader", {}).get("grade_id") == f"test_{name}"
    )
    for name in ("my_softmax", "my_causal_mask")
)


@pytest.mark.parametrize("student", ["right", "flat", "strips", "doubles", "adds"])
def test_right_answers_get_all_points(graded, student):
    assert points(graded, student) == ALL


@pytest.mark.parametrize(
    ("student", "loses", "mistake"),
    [
        ("one axis", SOFTMAX, "sums along the last axis whatever dim is"),
        ("loops", SOFTMAX, "does not end"),
        ("kills", MASK, "ends its program"),
        ("leaves", MASK, "SystemExit"),
        ("prints", SOFTMAX, "prints without end"),
        ("prints past Python", SOFTMAX, "does not end"),
        pytest.param(
            *("eats", SOFTMAX, "MemoryError"),
            marks=pytest.mark.skipif("eats" not in CHANGES, reason="memory cannot be limited"),
        ),
        ("imports", SOFTMAX, "ModuleNotFoundError"),
        ("no Python", SOFTMAX, "SyntaxError"),
        ("equals all", SOFTMAX, "other"),
        ("edits tests", SOFTMAX, ""),
        ("deletes", SOFTMAX, "not written"),
        ("=HYPERLINK(1)", SOFTMAX, ""),
    ],
)
def test_one_bad_answer_costs_its_own_points_and_no_others(graded, student, loses, mistake):
    student = f"'{student}" if student.startswith("=") else student  # no formula in a spreadsheet
    assert points(graded, student) == ALL - loses
    (bad,) = [row for (name, _), row in graded.items() if name == student and row["mistake"]]
    assert mistake in bad["mistake"]


@pytest.mark.parametrize("student", ["replaces", "replaces the check", "changes IPython"])
def test_what_tests_rely_on_cannot_be_replaced(graded, student):
    assert points(graded, student) == 0


@in_sandbox
@pytest.mark.parametrize("student", ["reads the master", "asks the network", "writes"])
def test_nothing_leads_out_of_the_sandbox(graded, handed_in, student):
    assert graded[student, "my_softmax"]["points"] == "0"
    assert points(graded, student) == ALL - SOFTMAX
    assert not list(ROOT.glob("spoiled")) and not list(handed_in.rglob("spoiled"))


@in_sandbox
def test_in_the_sandbox_neither_course_nor_others_nor_book_are_there(graded, made):
    page = (made / "results" / "in" / "feedback" / "looks around.html").read_text(encoding="utf-8")
    assert "sees []" in page


@pytest.mark.parametrize(
    ("student", "remark"),
    [
        ("untouched", "no answer was written"),
        ("deletes", "my_softmax: its cell is missing"),
        ("deletes", "1 of 6 test cells are missing (test_my_causal_mask); put back"),
        ("edits tests", "test cells were edited"),
        ("strips", "my_softmax: its cell has no mark, and was found by its name"),
        ("doubles", "my_softmax: 2 cells with its mark, of which the last counts"),
        ("replaces", "look: replaces torch.allclose"),
        ("replaces the check", "look: replaces checks.check_my_softmax"),
        ("changes IPython", "look: uses get_ipython"),
        ("equals all", "look: defines what is equal"),
        ("reads the master", "look: names problems.ipynb"),
        ("empty file", "not a notebook"),
        ("letter", "not a notebook"),
        ("other JSON", "not a notebook"),
        ("cut short", "not a notebook"),
        ("no cells", "empty"),
        ("elsewhere", "no chapter; there is answers.docx"),
    ],
)
def test_what_is_odd_is_said(graded, student, remark):
    (said,) = remarks(graded, student)
    assert remark in said


def test_of_a_right_answer_nothing_is_said(graded):
    assert remarks(graded, "right") == {""} == remarks(graded, "adds")


@pytest.mark.parametrize(
    "student", ["untouched", "empty file", "letter", "other JSON", "cut short", "no cells"]
)
def test_nothing_answered_is_no_points(graded, student):
    assert points(graded, student) == 0
    assert len([key for key in graded if key[0] == student]) == 6


def test_everybody_has_a_page_that_shows_no_test_and_loads_nothing(graded, made, handed_in):
    pages = sorted((made / "results" / "in" / "feedback").glob("*.html"))
    assert {p.stem for p in pages} == {p.name for p in handed_in.iterdir()}
    for page in [*pages, made / "results" / "in" / "class.html"]:
        text = page.read_text(encoding="utf-8")
        assert "HIDDEN TESTS" not in text and "for seed in" not in text
        assert not re.search(r"<(script|link|img|iframe)|url\(|@import|https?:", text)


def test_feedback_says_what_the_check_says(graded, made):
    folder = made / "results" / "in" / "feedback"
    text = (folder / "loops.html").read_text(encoding="utf-8")
    assert "It did not end within 10 seconds." in text and "while True" in text
    assert "Not written." in (folder / "untouched.html").read_text(encoding="utf-8")
    assert "ModuleNotFoundError" in (folder / "imports.html").read_text(encoding="utf-8")
    assert "SyntaxError" in (folder / "no Python.html").read_text(encoding="utf-8")
    assert "look: " not in (folder / "replaces.html").read_text(encoding="utf-8")


def test_the_page_of_the_class_counts_mistakes(graded, made):
    text = (made / "results" / "in" / "class.html").read_text(encoding="utf-8")
    assert re.search(r"\d+ × not written", text) and "1 × sums along the last axis" in text
    assert "letter, 01_self_attention: not a notebook" in text


def test_grading_again_gives_the_same(graded, made, tmp_path, handed_in):
    again = tmp_path / "again"
    (again / "kills").mkdir(parents=True)
    source = handed_in / "kills" / CHAPTER / "problems.ipynb"
    (again / "kills" / f"{CHAPTER}.ipynb").write_bytes(source.read_bytes())
    Grade(again, course=made, timeout=10)()
    with (made / "results" / "again" / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = {(row["student"], row["exercise"]): row for row in csv.DictReader(file)}
    assert len(rows) == 6
    assert all(row["points"] == graded[key]["points"] for key, row in rows.items())


# What students get ------------------------------------------------------------------------


def test_students_get_no_solution_no_hidden_test_and_no_wrong_answer(made):
    release = nbformat.read(made / "release" / CHAPTER / "problems.ipynb", 4)
    text = "\n".join(cell.source for cell in release.cells)
    assert "SOLUTION" not in text and "HIDDEN" not in text and "copy with the answers" not in text
    assert not any("discussion" in cell.metadata.get("tags", ()) for cell in release.cells)
    for name, solution in solutions().items():
        assert solution not in text, name
        assert name in text
    checks = (made / "release" / CHAPTER / "checks.py").read_text(encoding="utf-8")
    assert "WRONG" not in checks and "wrong answers" not in checks


def test_every_chapter_becomes_checks_that_work_without_the_wrong_answers():
    for folder in sorted((ROOT / "exercises").glob("*/")):
        source = (folder / "checks.py").read_text(encoding="utf-8")
        space = {"__name__": "checks"}
        exec(compile(course.without_wrong_answers(source), folder.name, "exec"), space)
        notebook = nbformat.read(folder / "problems.ipynb", 4)
        answers = {}
        for cell in notebook.cells:
            if cell.cell_type == "code" and "from checks import" not in cell.source:
                exec(cell.source, answers)
        for cell in notebook.cells:
            if "exercise" in cell.metadata:
                name = cell.metadata.exercise.name
                space[f"check_{name}"](answers[name])
        assert "WRONG" not in space and "copy with the answers" in notebook.cells[0].source


def test_every_answer_says_what_to_return():
    for path in sorted(ROOT.glob("exercises/*/problems.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            if cell.metadata.get("nbgrader", {}).get("solution"):
                (first,) = [
                    node
                    for node in ast.parse(cell.source).body
                    if getattr(node, "name", "") == cell.metadata.nbgrader.grade_id
                ]
                assert ast.get_docstring(first), f"{path.parent.name}: {first.name}"


def test_the_student_needs_nothing_but_the_wheel(made, tmp_path):
    """The release works where only gpt2lib is there, not this project."""
    (wheel,) = (made / "release").glob("gpt2lib-*.whl")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path / "lib"), str(wheel)], check=True)
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'lib')!r}); import checks, gpt2lib; "
    code += "print(gpt2lib.__file__)"
    at = made / "release" / CHAPTER
    done = subprocess.run([sys.executable, "-c", code], cwd=at, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout


# Errors -------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_graded_is_an_error(made, tmp_path):
    (made / "submitted").mkdir(exist_ok=True)
    with pytest.raises(SystemExit, match="There is no folder"):
        Grade(tmp_path / "none", course=made)()
    with pytest.raises(SystemExit, match="one a student is expected"):
        Grade(tmp_path, course=made)()
    with pytest.raises(SystemExit, match="copy it elsewhere"):
        Grade(made / "submitted", course=made)()


def test_chapters_that_are_not_there_are_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="No exercises"):
        course.make(tmp_path, chapters=("99",))


def test_a_huge_file_is_not_read(made, tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "LARGEST", 10)
    path = made / "release" / CHAPTER / "problems.ipynb"
    assert submissions.whole(nbformat.read(path, 4), path) == (None, ["larger than 0 MB"])


def test_without_a_sandbox_it_is_said(made, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    Grade(tmp_path, course=made, sandbox=False)()
    assert "No sandbox" in capsys.readouterr().out
