"""What comes out of grading: grades.csv, a page of feedback a student, and a page of the class."""

import csv
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat

from grading.course import NOTEBOOK, ROOT, STUB, TEMPLATES
from grading.submissions import Submission

ENDS = ("TimeLimit", "KernelDied", "NotRun")  # grading.run's own errors
ENDED = {  # what ended an answer -> a piece of what is said then
    "does not end": "did not end within",
    "prints without end": "characters were printed",
    "ends its program": "ended the program",
    "replaces what tests use": "was replaced, so no test",
}
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Answer:
    """One exercise of one student, graded."""

    student: str
    chapter: str
    exercise: str
    title: str
    points: float
    most: float
    source: str  # what the student wrote; "" if nothing
    said: str  # why not all points: what the test, or the answer's own cell, said
    mistake: str  # "" if solved; the name of a known wrong answer; or "not written", "other"


def answers(course: Path, one: Submission) -> list[Answer]:
    """The answers of a submission as they were graded, one an exercise of its chapter."""
    if not one.chapter:
        return []
    release = nbformat.read(course / "release" / one.chapter / NOTEBOOK, 4)
    path = course / "autograded" / one.student / one.chapter / NOTEBOOK
    if one.notebook is None or not path.exists():
        graded, why = {}, "; ".join(one.remarks) or "not graded"
    else:
        graded, why = _by_id(nbformat.read(path, 4)), ""
    return [
        _answer(one, cell.metadata.exercise.name, cell.source, _by_id(release), graded, why)
        for cell in release.cells
        if "exercise" in cell.metadata
    ]


def _by_id(notebook) -> dict:
    ids = ((c.metadata.get("nbgrader", {}).get("grade_id"), c) for c in notebook.cells)
    return {grade_id: cell for grade_id, cell in ids if grade_id}


def _answer(one, name, statement, release, graded, why) -> Answer:
    most = float(release[f"test_{name}"].metadata.nbgrader.points)
    title = re.match(r"## (.+)", statement)[1]
    test, own = graded.get(f"test_{name}"), graded.get(name)
    written = own is not None and STUB not in own.source
    said = why or _error(test)
    if not said:
        return Answer(one.student, one.chapter, name, title, most, most, own.source, "", "")
    if not why and written and _error(own):  # its own cell fails: that says more than the test
        said = _error(own)
    mistake = "not written" if not written else mistake_of(one.chapter, name, said)
    source = own.source if written else ""
    return Answer(one.student, one.chapter, name, title, 0.0, most, source, said, mistake)


def _error(cell) -> str:
    """The error that a cell ended with, as a sentence; "" if it did not."""
    for output in cell.outputs if cell is not None else ():
        if output.output_type == "error":
            text = COLOURS.sub("", output.evalue)
            ours = output.ename in ("AssertionError", *ENDS)
            return text if ours else f"{output.ename}: {text}"
    return ""


@cache
def _wrong(chapter: str) -> dict:
    """The named wrong answers of a chapter: {exercise: {name: (answer, piece of its sentence)}}."""
    path = ROOT / "exercises" / chapter / "checks.py"
    spec = importlib.util.spec_from_file_location(f"_checks_{chapter}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.WRONG


def mistake_of(chapter: str, exercise: str, said: str) -> str:
    """The name of the wrong answer that hears this sentence; or of what ended it; or "other"."""
    known = {name: piece for name, (_, piece) in _wrong(chapter).get(exercise, {}).items()}
    for name, piece in {**known, **ENDED}.items():
        if piece in said:
            return name
    error = re.match(r"(?:It stopped with )?(\w+(?:Error|Exit)):", said)
    return error[1] if error else "other"


def write(folder: Path, graded: list[list[Answer]], found: list[Submission]) -> Path:
    """Write all results into folder, in place of those of an earlier grading, and return it."""
    (folder / "feedback").mkdir(parents=True, exist_ok=True)
    for old in (folder / "feedback").glob("*.html"):
        old.unlink()
    flat = [answer for one in graded for answer in one]
    _write_csv(folder / "grades.csv", flat, found)
    page = TEMPLATES.get_template("feedback.html")
    for student in sorted({one.student for one in found}):
        own = [one for one in found if one.student == student]
        text = page.render(student=student, chapters=list(_chapters(own, flat)))
        (folder / "feedback" / f"{student}.html").write_text(text, encoding="utf-8")
    text = TEMPLATES.get_template("class.html").render(**_of_class(flat, found))
    (folder / "class.html").write_text(text, encoding="utf-8")
    return folder


def _write_csv(path: Path, flat: list[Answer], found: list[Submission]) -> None:
    remarks = {(one.student, one.chapter): "; ".join(one.remarks) for one in found}
    nothing = [one for one in found if not one.chapter]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["student", "chapter", "exercise", "points", "of", "mistake", "remarks"])
        for a in flat:
            left = (a.student, a.chapter, a.exercise, f"{a.points:g}", f"{a.most:g}")
            rows.writerow([*map(_safe, left), _safe(a.mistake), _safe(remarks[left[:2]])])
        for one in nothing:
            rows.writerow([_safe(one.student), "", "", "0", "0", "", _safe("; ".join(one.remarks))])


def _safe(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t" and text else text


def _chapters(own: list[Submission], flat: list[Answer]) -> Iterator[dict]:
    for one in own:
        if one.chapter:
            some = [a for a in flat if (a.student, a.chapter) == (one.student, one.chapter)]
            yield {"name": one.chapter, "answers": some, **_points(some), "remarks": _kind(one)}
        else:
            yield {"name": "nothing", "answers": [], **_points([]), "remarks": one.remarks}


def _kind(one: Submission) -> list[str]:
    """The remarks that are for the student; what the teacher may want to look at is not."""
    return [remark for remark in one.remarks if not remark.startswith("look: ")]


def _points(some: list[Answer]) -> dict:
    return {"points": sum(a.points for a in some), "most": sum(a.most for a in some)}


def _of_class(flat: list[Answer], found: list[Submission]) -> dict:
    """The class: who has how many points, and which exercise goes wrong in which way."""
    chapters = sorted({a.chapter for a in flat})
    students = [
        {
            "name": name,
            "cells": [
                _points([a for a in flat if (a.student, a.chapter) == (name, chapter)])
                for chapter in chapters
            ],
            **_points([a for a in flat if a.student == name]),
        }
        for name in sorted({one.student for one in found})
    ]
    exercises = []
    for key in dict.fromkeys((a.chapter, a.exercise, a.title) for a in flat):
        some = [a for a in flat if (a.chapter, a.exercise, a.title) == key]
        mistakes = Counter(a.mistake for a in some if a.mistake).most_common()
        solved = sum(not a.mistake for a in some)
        exercises.append(
            {
                "chapter": key[0],
                "name": key[1],
                "title": key[2],
                "solved": solved,
                "of": len(some),
                "mistakes": mistakes,
            }
        )
    remarks = [(one.student, one.chapter, remark) for one in found for remark in one.remarks]
    return {
        "chapters": chapters,
        "students": students,
        "exercises": exercises,
        "remarks": remarks,
    }
