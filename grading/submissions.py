"""Find what was handed in, and make of each submission a whole notebook, without running it.

A submission is read as data. Of its notebook only the answers are taken, and cells that the student
added; all else comes from the release. So a deleted cell, an edited test or lost marks spoil
nothing, and each is said in a remark.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from grading.course import NOTEBOOK, STUB

LARGEST = 20_000_000  # bytes of a notebook that is read


@dataclass
class Submission:
    """One chapter of one student. notebook is None where there is nothing to grade."""

    student: str
    chapter: str
    notebook: NotebookNode | None = None
    remarks: list[str] = field(default_factory=list)


def find(folder: Path, release: Path) -> list[Submission]:
    """All submissions in folder, by student and chapter, made whole with the release's notebooks.

    folder holds a folder a student, and that CHAPTER/problems.ipynb, as nbgrader has it, or
    CHAPTER.ipynb. Raises FileNotFoundError if there is no folder or no student in it.
    """
    chapters = sorted(path.parent.name for path in release.glob(f"*/{NOTEBOOK}"))
    students = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not students:
        raise FileNotFoundError(f"{folder} has no folder in it: one a student is expected.")
    return [one for student in students for one in _of_student(student, chapters, release)]


def _of_student(student: Path, chapters: list[str], release: Path) -> Iterator[Submission]:
    """The submissions of one student; a chapter that was not handed in is none."""
    found = False
    for chapter in chapters:
        paths = [student / chapter / NOTEBOOK, student / f"{chapter}.ipynb"]
        path = next((p for p in paths if p.is_file()), None)
        if path or (student / chapter).is_dir():
            found = True
            one = Submission(student.name, chapter)
            if path is None:
                there = ", ".join(sorted(p.name for p in (student / chapter).iterdir()))
                one.remarks.append(f"no {NOTEBOOK}; there is {there or 'nothing'}")
            else:
                master = nbformat.read(release / chapter / NOTEBOOK, 4)
                one.notebook, one.remarks = whole(master, path)
            yield one
    if not found:
        there = ", ".join(sorted(p.name for p in student.iterdir())[:5])
        yield Submission(student.name, "", None, [f"no chapter; there is {there or 'nothing'}"])


def whole(release: NotebookNode, path: Path) -> tuple[NotebookNode | None, list[str]]:
    """The release's notebook with the answers of the one at path, and what was odd about it.

    Cells that the student added stand before the answer that they stood before. Checks are left
    out: the hidden tests make the same ones. None if nothing can be read.
    """
    try:
        if path.stat().st_size > LARGEST:
            return None, [f"larger than {LARGEST // 1_000_000} MB"]
        theirs = nbformat.read(path, 4)
        cells = [c for c in theirs.cells if isinstance(c.source, str) and c.cell_type]
    except Exception as error:  # whatever it is, it is no notebook
        return None, [f"not a notebook: {str(error).splitlines()[0][:100] if str(error) else ''}"]
    remarks = []
    if not cells:
        remarks.append("empty")
    answers = {_id(c): c.source for c in release.cells if _is(c, "solution")}
    known = {c.source for c in release.cells}
    marked = [c for c in cells if _id(c) in answers and c.cell_type == "code"]
    at = {name: _answer(name, answers[name], marked, cells, remarks) for name in answers}
    _remark_on_tests(release, cells, remarks)
    before, added = {}, []  # of each answer the cells that were added before it
    for cell in cells:
        owner = next((name for name, found in at.items() if found is cell), None)
        if owner:
            before[owner], added = added, []
        elif cell.cell_type == "code" and cell.source not in known and not _is_test(cell):
            added.append(cell.source)
    if not any(found is not None and found.source != answers[n] for n, found in at.items()):
        remarks.append("no answer was written")
    merged = copy.deepcopy(release)
    merged.cells = list(_merged(merged.cells, at, before, added))
    remarks += _suspicions(merged)
    return merged, list(dict.fromkeys(remarks))


def _answer(name, stub, marked, cells, remarks):
    """The cell with the answer of this name: by its mark, or else by what it defines; or None."""
    found = [c for c in marked if _id(c) == name]
    if len(found) > 1:
        remarks.append(f"{name}: {len(found)} cells with its mark, of which the last counts")
        found = [c for c in found if c.source != stub] or found
    if not found:
        found = [c for c in cells if c.cell_type == "code" and name in _names(c.source)]
        remarks.append(
            f"{name}: its cell has no mark, and was found by its name"
            if found
            else f"{name}: its cell is missing"
        )
    return found[-1] if found else None


def _merged(cells, at, before, added):
    first = True
    for cell in cells:
        if _is(cell, "solution"):
            name = _id(cell)
            yield from map(nbformat.v4.new_code_cell, before.get(name, ()))
            if at[name] is not None:
                cell.source = at[name].source
        elif _is_check(cell):
            continue
        elif _is(cell, "grade") and first and added:  # added after the last answer
            yield from map(nbformat.v4.new_code_cell, added)
            first = False
        yield cell


def _remark_on_tests(release, cells, remarks):
    tests = {_id(c) for c in release.cells if _is(c, "grade")}
    missing = sorted(tests - {_id(c) for c in cells})
    if missing:
        some = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        remarks.append(f"{len(missing)} of {len(tests)} test cells are missing ({some}); put back")
    edited = [_id(c) for c in cells if _id(c) in tests and c.source.strip() and not _is_blank(c)]
    if edited:
        remarks.append(f"test cells were edited ({', '.join(edited[:3])}); put back")


def _id(cell) -> str | None:
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def _is(cell, kind: str) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get(kind))


def _is_test(cell) -> bool:
    return _is(cell, "grade") or _is_check(cell)


def _is_check(cell) -> bool:
    return cell.cell_type == "code" and cell.source.startswith("from checks import")


def _is_blank(cell) -> bool:
    """Nothing but comments, as nbgrader leaves a hidden test."""
    return all(line.startswith("#") for line in cell.source.splitlines() if line.strip())


def _names(source: str) -> set[str]:
    """The functions and classes that a cell defines at its top; none if it is not Python."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return set()
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def _suspicions(notebook: NotebookNode) -> Iterator[str]:
    """What a teacher may want to look at. It costs no points by itself."""
    for cell in notebook.cells:
        if cell.cell_type != "code" or _is(cell, "grade") or STUB in cell.source:
            continue
        try:
            nodes = list(ast.walk(ast.parse(cell.source)))
        except (SyntaxError, ValueError):
            continue
        modules = {
            (alias.asname or alias.name).partition(".")[0]
            for n in nodes
            if isinstance(n, ast.Import)
            for alias in n.names
        } | {"torch", "math", "checks"}
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id in modules:
                    yield f"look: replaces {node.value.id}.{node.attr}"
            if isinstance(node, ast.FunctionDef) and node.name == "__eq__":
                yield "look: defines what is equal (__eq__)"
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if NOTEBOOK in node.value or "### BEGIN" in node.value:
                    yield f"look: names {NOTEBOOK} or the marks of solutions"
            if isinstance(node, ast.Name) and node.id in ("get_ipython", "__import__", "exec"):
                yield f"look: uses {node.id}"
