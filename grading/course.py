"""Make a course out of the exercises.

COURSE/
    release/            to hand out: README.md, the library as a wheel, and a folder a chapter
    source/             the exercises with their solutions, as nbgrader wants them
    gradebook.db        nbgrader's; what was graded before stays in it
    nbgrader_config.py  with which nbgrader's own commands work here too
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import tyro
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from nbgrader.apps.api import NbGraderAPI
from traitlets.config import Config
from tyro.conf import Positional

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    autoescape=select_autoescape(["html"]),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
NOTEBOOK = "problems.ipynb"
STUB = 'raise NotImplementedError("not written yet")'
FOR_TEACHERS = re.compile(r"This is the copy with the answers:.*?write your own there\.")
FOR_STUDENTS = (
    "Write each answer in its cell, in the place of the line that raises `NotImplementedError`; "
    "the text under the `def` says what to return."
)
WRONG_TOO = ", and the wrong answers that they are proved against"


def config(course: Path) -> Config:
    """nbgrader's configuration for a course."""
    c = Config()
    c.CourseDirectory.root = str(course)
    c.CourseDirectory.course_id = "gpt2"
    c.ClearSolutions.code_stub = {"python": STUB}
    c.NotebookExporter.preprocessors = ["nbconvert.preprocessors.TagRemovePreprocessor"]
    c.TagRemovePreprocessor.remove_cell_tags = {"discussion"}
    return c


def nbgrader(course: Path) -> NbGraderAPI:
    """nbgrader on a course. It starts a program of its own environment, which must be on PATH."""
    bin = str(Path(sys.executable).parent)
    if bin not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = bin + os.pathsep + os.environ.get("PATH", "")
    return NbGraderAPI(config=config(course))


def make(
    course: Path, exercises: Path = ROOT / "exercises", chapters: tuple[str, ...] = ()
) -> list[str]:
    """Make or renew the course; the chapters in it.

    chapters: only those whose names begin with one of these, all if there are none.
    Raises RuntimeError with nbgrader's report where a notebook is not in its format.
    """
    found = sorted(path.parent for path in exercises.glob(f"*/{NOTEBOOK}"))
    folders = [f for f in found if not chapters or f.name.startswith(chapters)]
    if not folders:
        raise RuntimeError(f"No exercises in {exercises} for {', '.join(chapters) or 'any'}.")
    api = nbgrader(course)
    for folder in folders:
        _write_source(folder, course / "source" / folder.name)
        result = api.generate_assignment(folder.name, force=True, create=True)
        if not result["success"]:
            raise RuntimeError(f"{folder.name}: {result['log']}{result['error'] or ''}")
    names = [folder.name for folder in folders]
    _write_config(course)
    _write_wheel(course / "release")
    readme = TEMPLATES.get_template("README.md").render(chapters=list(_contents(course, names)))
    (course / "release" / "README.md").write_text(readme, encoding="utf-8")
    return names


def _write_source(folder: Path, target: Path) -> None:
    """The exercises of a chapter, said to a student, with checks that tell no answers."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    notebook = nbformat.read(folder / NOTEBOOK, 4)
    notebook.cells[0].source = FOR_TEACHERS.sub(FOR_STUDENTS, notebook.cells[0].source)
    nbformat.write(notebook, target / NOTEBOOK)
    checks = (folder / "checks.py").read_text(encoding="utf-8")
    (target / "checks.py").write_text(without_wrong_answers(checks), encoding="utf-8")


def without_wrong_answers(checks: str) -> str:
    """The source of a checks.py with only what its check_… functions use.

    The named wrong answers go: most are the solution with one thing changed.
    """
    body = ast.parse(checks).body
    defines = [set(_defined(node)) for node in body]
    uses = [{n.id for n in ast.walk(node) if isinstance(n, ast.Name)} for node in body]
    kept = {i for i, names in enumerate(defines) if any(n.startswith("check_") for n in names)}
    while more := {
        i
        for i, names in enumerate(defines)
        if i not in kept and any(names & uses[user] for user in kept)
    }:
        kept |= more
    lines, end, left = checks.replace(WRONG_TOO, "").splitlines(), 0, []
    for i, node in enumerate(body):
        docstring = i == 0 and isinstance(node, ast.Expr)
        if i in kept or docstring:
            left += lines[end : node.end_lineno]
        end = node.end_lineno
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(left).strip() + "\n")


def _defined(node: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    else:  # of an assignment the left side alone: a comprehension's names are its own
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        names = (n for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
        yield from (n.id for n in names if isinstance(n.ctx, ast.Store))


def _write_config(course: Path) -> None:
    lines = [
        "# Written by `make assignments`: with it, nbgrader's own commands work in this folder.",
        "c = get_config()",
    ]
    for section, values in config(course).items():
        lines += [f"c.{section}.{name} = {value!r}" for name, value in values.items()]
    (course / "nbgrader_config.py").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_wheel(release: Path) -> None:
    """gpt2lib as one file that pip installs: all that a student needs."""
    for old in release.glob("gpt2lib-*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory() as copy:  # setuptools leaves a folder where it builds
        shutil.copytree(ROOT / "gpt2lib", Path(copy) / "gpt2lib")
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, copy)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
        pip += ["--no-deps", "--no-build-isolation", "--wheel-dir", str(release), copy]
        done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"gpt2lib could not be packed:\n{done.stderr}")


def _contents(course: Path, names: list[str]) -> Iterator[dict]:
    """Of each chapter what the student's README says: its title and its exercises."""
    for name in names:
        notebook = nbformat.read(course / "release" / name / NOTEBOOK, 4)
        points = {
            cell.metadata.nbgrader.grade_id.removeprefix("test_"): cell.metadata.nbgrader.points
            for cell in notebook.cells
            if cell.metadata.get("nbgrader", {}).get("grade")
        }
        exercises = [
            {
                "title": re.match(r"## (.+)", cell.source)[1],
                "points": points[cell.metadata.exercise.name],
                **cell.metadata.exercise,
            }
            for cell in notebook.cells
            if "exercise" in cell.metadata
        ]
        title = notebook.cells[0].source.splitlines()[0].removeprefix("# Exercises: ")
        yield {"name": name, "title": title, "exercises": exercises}


@dataclass(frozen=True)
class Assignments:
    """Make a course out of the exercises: what students get, and what grading needs."""

    chapters: Positional[tuple[str, ...]] = ()  # 01 12: only these; all if none is named
    course: Path = ROOT / "course"  # the folder to make, or to renew

    def __call__(self) -> None:
        try:
            names = make(self.course, chapters=self.chapters)
        except RuntimeError as error:
            sys.exit(str(error))
        print(f"{len(names)} chapters. Hand out {self.course / 'release'}; keep the rest.")


if __name__ == "__main__":
    tyro.cli(Assignments, prog="make.py assignments")()
