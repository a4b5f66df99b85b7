"""Grade a folder of submissions: the results stand in COURSE/results/SUBMISSIONS.

    python make.py grade SUBMISSIONS

SUBMISSIONS/STUDENT/CHAPTER/problems.ipynb, or SUBMISSIONS/STUDENT/CHAPTER.ipynb. Nothing in
SUBMISSIONS is changed.
"""

import shutil
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import nbformat
import tyro
from nbgrader.preprocessors import CheckCellMetadata, SaveAutoGrades
from sqlalchemy.exc import SAWarning
from tyro.conf import Positional, arg

from grading import course as courses
from grading import results, submissions
from grading.course import NOTEBOOK, ROOT
from grading.kernel import has_sandbox
from grading.run import Run

NO_SANDBOX = (
    "No sandbox: bubblewrap (the program bwrap) is missing here, or may not run. Submissions can "
    "read what you can read, and write what you can write. Do you trust them?"
)


@dataclass(frozen=True)
class Grade:
    """Grade a folder of submissions, a folder a student."""

    submissions: Positional[Annotated[Path, arg(metavar="SUBMISSIONS")]]
    course: Path = ROOT / "course"  # made if it is not there
    timeout: float = 60  # seconds for one cell
    memory: float = 4  # GiB that a submission may take
    sandbox: bool = True  # --no-sandbox: run with your own rights, also where there is one

    def __call__(self) -> None:
        if not self.submissions.is_dir():
            sys.exit(f"There is no folder {self.submissions}.")
        if self.submissions.resolve().is_relative_to(self.course.resolve()):
            sys.exit(
                f"{self.submissions} is in the course, where grading writes: copy it elsewhere."
            )
        if not (self.course / "gradebook.db").exists():
            print(f"Making the course in {self.course}.")
            courses.make(self.course)
        try:
            found = submissions.find(self.submissions, self.course / "release")
        except FileNotFoundError as error:
            sys.exit(str(error))
        print(self._before(found))
        begin = time.perf_counter()
        api = courses.nbgrader(self.course)
        self._configure(api.config)
        graded = [self._grade(api, one) for one in found]
        folder = results.write(
            self.course / "results" / self.submissions.resolve().name, graded, found
        )
        print(f"\n{len(found)} submissions in {time.perf_counter() - begin:.0f} s: {folder}")

    def _before(self, found: list[submissions.Submission]) -> str:
        """What is odd about submissions, before any of them is run."""
        lines = [f"{len(found)} submissions of {len({one.student for one in found})} students."]
        lines += [f"  {one.student} {one.chapter}: {r}" for one in found for r in one.remarks]
        if not (self.sandbox and has_sandbox()):
            lines.append(NO_SANDBOX)
        return "\n".join(lines) + "\n"

    def _configure(self, config) -> None:
        """Let nbgrader run notebooks by our preprocessor."""
        config.Autograde.autograde_preprocessors = [Run, SaveAutoGrades, CheckCellMetadata]
        config.Run.timeout = self.timeout
        config.Run.memory = int(self.memory * 2**30)
        config.Run.sandbox = self.sandbox and has_sandbox()
        config.Run.hidden = [str(self.course.resolve()), str(self.submissions.resolve())]

    def _grade(self, api, one: submissions.Submission) -> list[results.Answer]:
        """The answers of one submission, graded; a line about it is printed."""
        begin = time.perf_counter()
        if one.notebook is not None:
            folder = self.course / "submitted" / one.student / one.chapter
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            nbformat.write(one.notebook, folder / NOTEBOOK)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SAWarning)  # of nbgrader's own tables
                result = api.autograde(one.chapter, one.student, force=True, create=True)
            if not result["success"]:
                report = (result["error"] or result["log"]).strip().splitlines()
                one.remarks.append(f"not graded: {report[-1] if report else 'no reason given'}")
        answers = results.answers(self.course, one)
        points, most = sum(a.points for a in answers), sum(a.most for a in answers)
        seconds = time.perf_counter() - begin
        line = f"{one.student:20} {one.chapter:24} {points:3g} of {most:3g}  {seconds:4.0f} s"
        failed = [remark for remark in one.remarks if remark.startswith("not graded")]
        print("  ".join([line, *failed]), flush=True)
        return answers


def main(arguments: list[str]) -> None:
    tyro.cli(Grade, args=arguments, prog="make.py grade")()


if __name__ == "__main__":
    main(sys.argv[1:])
