"""The graders are graded.

For every folder of exercises: its notebook is a source that nbgrader can read; the solutions
pass; each named wrong answer is rejected, with a sentence of its own; so is an answer that
claims to equal everything; a stub hears that it is not written yet. The last tests break a
small sound folder on purpose and see that each of these notices.
"""

import contextlib
import copy
import importlib.util
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = sorted(path.parent for path in ROOT.glob("exercises/*/problems.ipynb"))
SEEDS = (0, 1, 2)  # the first is what the learner's check runs with
REGION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION$", re.DOTALL | re.MULTILINE)
HIDDEN = re.compile(r"\A### BEGIN HIDDEN TESTS\n.+\n### END HIDDEN TESTS\Z", re.DOTALL)
FOLDS = re.compile(r"<details><summary>(.+?)</summary>\n\n.+?\n\n</details>", re.DOTALL)


# Reading a folder ---------------------------------------------------------------------


def names(notebook):
    """The names of the exercises, in order."""
    cells = notebook.cells
    return [cell.metadata.exercise["name"] for cell in cells if "exercise" in cell.metadata]


def cell_of(notebook, grade_id):
    """The source of the cell that nbgrader knows by this id."""
    cells = [
        c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == grade_id
    ]
    return cells[0].source


def solutions(notebook, stub=False):
    """What the solutions define, by name; of stubs, what the student's version defines."""
    space = {}
    for cell in notebook.cells:
        kind = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "code" and (kind.get("solution") or sets_up(cell)):
            left = r'\1raise NotImplementedError("not written yet")'
            exec(REGION.sub(left, cell.source) if stub else cell.source, space)
    return space


def sets_up(cell):
    """Is it a code cell that only imports, for all exercises?"""
    return not cell.metadata.get("nbgrader") and "from checks import" not in cell.source


@contextlib.contextmanager
def checks_of(folder):
    """The folder's checks.py, also under the name by which the notebook imports it."""
    spec = importlib.util.spec_from_file_location("checks", folder / "checks.py")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get("checks")
    sys.modules["checks"] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.modules.pop("checks")
        if before is not None:
            sys.modules["checks"] = before


def read(folder):
    return nbformat.read(folder / "problems.ipynb", 4)


def verdict(check, answer, seed=0):
    """What a check says to an answer: "" if it passes, its sentence if it rejects."""
    try:
        check(answer, seed)
    except AssertionError as error:
        return str(error) or "(no sentence)"
    except NotImplementedError:
        raise
    except Exception as error:
        return f"the check stumbles: {error!r}"
    return ""


class Chameleon:
    """Claims to be whatever it is asked to be: equal, true, callable, a tensor's result."""

    __hash__ = None

    def __init__(self, differs=False):
        self.differs = differs  # its answer to !=, which is as little to be trusted

    def _me(self, *args, **kwargs):
        return self

    def _yes(self, other=None):
        return True

    __call__ = __getitem__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _me
    __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = __neg__ = __abs__ = __invert__ = _me
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __contains__ = _yes

    def __ne__(self, other):
        return self.differs

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __iter__(self):
        return iter((self, self))

    def __len__(self):
        return 1

    def __float__(self):
        return 0.0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return cls()


# What can be wrong with a folder, a sentence each ---------------------------------------


def notebook_faults(notebook):
    """Where the notebook is not the source that nbgrader and the book can read."""
    ids = [c.metadata.nbgrader.grade_id for c in notebook.cells if "nbgrader" in c.metadata]
    faults = [f"two cells have the grade_id {i}" for i in set(ids) if ids.count(i) > 1]
    if not 4 <= len(names(notebook)) <= 6:
        faults.append(f"has {len(names(notebook))} exercises, not 4 to 6")
    if any(c.get("outputs") or c.get("execution_count") for c in notebook.cells):
        faults.append("carries outputs")
    for at, cell in enumerate(notebook.cells):
        if "exercise" in cell.metadata:
            faults += exercise_faults(cell, *notebook.cells[at + 1 : at + 4])
    return faults


def exercise_faults(statement, solution, check, test):
    """Where the four cells of one exercise break the format."""
    about = statement.metadata.exercise
    name = about["name"]
    faults = []
    if not re.fullmatch(r"[mM]y_?\w+", name):
        faults.append("its name does not begin with my")
    if any(about.get(k) not in range(1, 6) for k in ("difficulty", "importance")):
        faults.append("difficulty and importance run from 1 to 5")
    if about.get("minutes") not in range(1, 241):
        faults.append("says no minutes")
    if not re.match(r"## \S", statement.source):
        faults.append("its statement does not begin with a title")
    if FOLDS.findall(statement.source) != ["Hint", "Pseudocode"]:
        faults.append("its statement does not end with a hint and pseudocode")
    kinds = [cell.metadata.get("nbgrader", {}) for cell in (solution, check, test)]
    common = {"schema_version": 3, "task": False}
    wanted = {"grade": False, "grade_id": name, "locked": False, "solution": True, **common}
    if kinds[0] != wanted or len(REGION.findall(solution.source)) != 1:
        faults.append("has no solution cell with one region")
    if f"check_{name}({name})" not in check.source or kinds[1]:
        faults.append("has no plain cell with its check")
    wanted = {"grade": True, "grade_id": f"test_{name}", "locked": True, "solution": False}
    points = kinds[2].get("points", 0)
    if kinds[2] != {**wanted, **common, "points": points} or not points > 0:
        faults.append("has no graded cell with points")
    if not HIDDEN.match(test.source) or "seed" not in test.source:
        faults.append("has no hidden tests with fresh seeds")
    return [f"{name} {fault}" for fault in faults]


def solution_faults(folder):
    """Where a solution does not pass its check, on any seed, or its hidden tests."""
    notebook, faults = read(folder), []
    with checks_of(folder) as checks:
        space = solutions(notebook)
        for name in names(notebook):
            check = getattr(checks, f"check_{name}")
            said = [verdict(check, space[name], seed) for seed in SEEDS]
            faults += [f"{name}: the solution is rejected: {s}" for s in said if s]
            try:
                exec(cell_of(notebook, f"test_{name}"), dict(space))
            except AssertionError as error:
                faults.append(f"{name}: the solution fails the hidden tests: {error}")
    return faults


def wrong_answer_faults(folder):
    """Where a wrong answer passes, or hears a sentence that is not about it."""
    faults = []
    with checks_of(folder) as checks:
        if set(checks.WRONG) != set(names(read(folder))):
            return ["WRONG does not name exactly the exercises"]
        written = {name.removeprefix("check_") for name in vars(checks) if name[:6] == "check_"}
        if written != set(names(read(folder))):
            return [f"a check without an exercise: {sorted(written - set(names(read(folder))))}"]
        for name, answers in checks.WRONG.items():
            if len(answers) < 4:
                faults.append(f"{name} has only {len(answers)} wrong answers")
            for mistake, (answer, piece) in answers.items():
                others = [p for m, (_, p) in answers.items() if m != mistake]
                for seed in SEEDS:
                    said = verdict(getattr(checks, f"check_{name}"), answer, seed)
                    fault = sentence_fault(said, piece, others)
                    faults += [f"{name}, {mistake}, seed {seed}: {fault}"] if fault else []
    return faults


def sentence_fault(said, piece, others):
    """What is wrong with the sentence that a wrong answer hears, or None."""
    if not said:
        return "passes"
    if piece not in said:
        return f"is rejected, but not for that reason: {said}"
    if any(other in said for other in others):
        return f"hears a sentence that also fits another mistake: {said}"
    return f"hears too little: {said}" if len(said) < 40 else None


def chameleon_faults(folder):
    """Which checks accept an answer that only claims to be equal, or stumble over it."""
    faults = []
    with checks_of(folder) as checks:
        for name in names(read(folder)):
            for differs in (False, True):
                said = verdict(getattr(checks, f"check_{name}"), Chameleon(differs))
                if not said:
                    faults.append(f"{name} accepts an object that equals everything")
                elif "the check stumbles" in said:
                    faults.append(f"{name}, given a wrong type: {said}")
    return faults


def stub_faults(folder):
    """Which checks do not say to a stub that it is not written yet."""
    notebook, faults = read(folder), []
    with checks_of(folder) as checks:
        space = solutions(notebook, stub=True)
        for name in names(notebook):
            try:
                said = verdict(getattr(checks, f"check_{name}"), space[name]) or "accepted"
            except NotImplementedError as error:
                said = str(error)
            if "not written yet" not in said:
                faults.append(f"{name}: the stub hears: {said}")
    return faults


# The folders of the book -----------------------------------------------------------------

each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


@each_folder
def test_the_notebook_is_a_source_that_nbgrader_can_read(folder):
    nbformat.validate(read(folder))
    assert notebook_faults(read(folder)) == []


@each_folder
def test_the_solutions_pass_on_every_seed(folder):
    assert solution_faults(folder) == []


@each_folder
def test_each_wrong_answer_hears_its_own_sentence(folder):
    assert wrong_answer_faults(folder) == []


@each_folder
def test_an_object_that_equals_everything_is_rejected(folder):
    assert chameleon_faults(folder) == []


@each_folder
def test_a_stub_hears_that_it_is_not_written(folder):
    assert stub_faults(folder) == []


def test_no_name_is_used_twice_in_the_book():
    all_names = [name for folder in FOLDERS for name in names(read(folder))]
    assert sorted(set(all_names)) == sorted(all_names)


# The page that shows it ---------------------------------------------------------------------

KILLS = ROOT / "exercises" / "kills.yml"
ABOUT = """# What each check says to each wrong answer that it knows. Made by the test:
#   KILLS=write make test ARGS=exercises
"""
EIGHT = {  # wrong answers that are easily let through -> where ours rejects them
    "clipping that zeroes small gradients": ("my_clip", "zeroes small gradients"),
    "clipping that always rescales": ("my_clip", "always rescales"),
    "scores scaled by the width of the values": (
        "my_self_attention",
        "scales by the width of the values",
    ),
    "a softmax that ignores its axis": ("my_softmax", "sums along the last axis whatever dim is"),
    "ids that are floats": ("my_get_batch", "float ids"),
    "Adam's epsilon inside the root": ("my_adamw", "epsilon inside the root"),
    "merges learned across special tokens": ("my_count_words", "across special tokens"),
    "positions that are ignored": ("my_gpt", "no positions"),
}


def kills():
    """{chapter: {exercise: {wrong answer: the sentence that it hears}}}."""
    table = {}
    for folder in FOLDERS:
        with checks_of(folder) as checks:
            table[folder.name] = {
                name: {
                    mistake: verdict(getattr(checks, f"check_{name}"), answer)
                    for mistake, (answer, _) in answers.items()
                }
                for name, answers in checks.WRONG.items()
            }
    return table


def without_digits(table):
    """The table with each number as #: the last digits are another machine's business."""
    text = yaml.safe_dump(table, allow_unicode=True, width=10**6)
    return re.sub(r"[-+]?(?:\d[\d.,]*(?:e[-+]?\d+)?|\binf\b|\bnan\b)", "#", text)


def test_the_kill_table_is_what_the_checks_say():
    found = kills()
    if os.environ.get("KILLS") == "write":
        text = yaml.safe_dump(found, allow_unicode=True, sort_keys=False, width=10**6)
        KILLS.write_text(ABOUT + text, encoding="utf-8")
    recorded = yaml.safe_load(KILLS.read_text(encoding="utf-8"))
    assert without_digits(found) == without_digits(recorded)


def test_the_eight_wrong_answers_are_rejected():
    table = yaml.safe_load(KILLS.read_text(encoding="utf-8"))
    told = {name: answers for chapter in table.values() for name, answers in chapter.items()}
    assert len(EIGHT) == 8
    for what, (exercise, mistake) in EIGHT.items():
        assert told[exercise][mistake], what


def test_there_are_enough_exercises_and_wrong_answers():
    table = yaml.safe_load(KILLS.read_text(encoding="utf-8"))
    told = [answers for chapter in table.values() for answers in chapter.values()]
    assert len(table) == 17 and len(told) >= 72
    assert min(map(len, told)) >= 4


# These tests, tested ----------------------------------------------------------------------

CHECKS = """
def check_my_{n}(my_{n}, seed=0):
    x = seed + {n} + 5
    y = my_{n}(x)
    assert isinstance(y, int), "What came back is no whole number: is the return missing?"
    assert y != x, "Nothing was added to the number: is the sum thrown away? Look at the return."
    assert y > x, "The result is smaller than the input: is the sign wrong? Look at the operator."
    assert y != 2 * x, "The number was doubled: was it added to itself? Look at the sum."
    assert y == x + {n}, f"The result is off by {{y - x - {n}}}: is the constant right? Look at it."
"""
WRONG = '''
    "my_{n}": {{
        "adds nothing": (lambda x: x, "the sum thrown away"),
        "subtracts": (lambda x: x - {n}, "the sign wrong"),
        "adds itself": (lambda x: 2 * x, "was it added to itself"),
        "adds too much": (lambda x: x + {n} + 1, "the constant right"),
    }},
'''  # fmt: skip


def sound_cells(n):
    """Statement, solution, check and test of one small exercise: add n."""
    name = f"my_{n}"
    folds = "\n".join(
        f"<details><summary>{title}</summary>\n\ntext\n\n</details>"
        for title in ("Hint", "Pseudocode")
    )
    about = {"name": name, "difficulty": 1, "importance": 1, "minutes": 5}
    kind = {"grade": False, "grade_id": name, "locked": False, "solution": True}
    kind |= {"schema_version": 3, "task": False}
    test = kind | {"grade": True, "grade_id": f"test_{name}", "locked": True, "solution": False}
    body = f"    ### BEGIN SOLUTION\n    return x + {n}\n    ### END SOLUTION"
    hidden = (
        f"from checks import check_{name}\n\nfor seed in (5, 6):\n    check_{name}({name}, seed)"
    )
    return [
        new_markdown_cell(f"## Add {n}\n\nDo.\n\n{folds}", metadata={"exercise": about}),
        new_code_cell(f"def {name}(x):\n{body}", metadata={"nbgrader": kind}),
        new_code_cell(f"from checks import check_{name}\n\ncheck_{name}({name})"),
        new_code_cell(
            f"### BEGIN HIDDEN TESTS\n{hidden}\n### END HIDDEN TESTS",
            metadata={"nbgrader": test | {"points": 2}},
        ),
    ]


@pytest.fixture
def sound(tmp_path):
    """A function that writes a small folder, after changing its notebook or its checks."""

    def write(change=lambda notebook: None, swap=("", "")):
        cells = [cell for n in (1, 2, 3, 4) for cell in sound_cells(n)]
        notebook = new_notebook(cells=[new_code_cell("import math"), *cells])
        change(notebook)
        wrong = "".join(WRONG.format(n=n) for n in (1, 2, 3, 4))
        checks = "".join(CHECKS.format(n=n) for n in (1, 2, 3, 4)) + f"\nWRONG = {{{wrong}}}\n"
        assert swap[0] in checks
        (tmp_path / "checks.py").write_text(checks.replace(*swap, 1), encoding="utf-8")
        nbformat.write(copy.deepcopy(notebook), tmp_path / "problems.ipynb")
        return tmp_path

    return write


def test_a_sound_folder_has_no_faults(sound):
    folder = sound()
    assert notebook_faults(read(folder)) == []
    for faults in (solution_faults, wrong_answer_faults, chameleon_faults, stub_faults):
        assert faults(folder) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda nb: nb.cells[2].metadata.nbgrader.update(grade_id="my_2"), "two cells"),
        (lambda nb: nb.cells.__delitem__(slice(1, 5)), "3 exercises"),
        (lambda nb: nb.cells[4].metadata.nbgrader.update(points=0), "graded cell with points"),
        (lambda nb: nb.cells[4].metadata.nbgrader.pop("points"), "graded cell with points"),
        (lambda nb: nb.cells[2].update(source="def my_1(x):\n    return x + 1"), "one region"),
        (lambda nb: nb.cells[4].update(source="check_my_1(my_1, seed=9)"), "hidden tests"),
        (lambda nb: nb.cells[3].update(source="pass"), "plain cell with its check"),
        (lambda nb: nb.cells[1].update(source="## Add\n\nDo."), "hint and pseudocode"),
        (lambda nb: nb.cells[1].metadata.exercise.update(difficulty=6), "from 1 to 5"),
        (lambda nb: nb.cells[0].update(execution_count=1), "carries outputs"),
    ],
)
def test_a_notebook_that_breaks_the_format_is_noticed(sound, change, fault):
    assert fault in " ".join(notebook_faults(read(sound(change))))


@pytest.mark.parametrize(
    ("faults", "old", "new", "fault"),
    [
        (solution_faults, "y == x + 1,", "y == x + 7,", "is rejected"),
        (solution_faults, "y == x + 1,", "seed < 5,", "hidden tests"),
        (wrong_answer_faults, "assert y > x", "assert y", "not for that reason"),
        (wrong_answer_faults, "y == x + 1,", "y,", "passes"),
        (wrong_answer_faults, "y == x + 1,", "y == x + 1 or seed == 2,", "seed 2: passes"),
        (wrong_answer_faults, "sign wrong? L", "sign wrong? the constant right? L", "also fits"),
        (wrong_answer_faults, '"subtracts": (lambda x: x - 1, "the sign wrong"),', "", "only 3"),
        (wrong_answer_faults, '"my_1": {', '"my_9": {', "exactly the exercises"),
        (wrong_answer_faults, "\nWRONG = {", "\ncheck_my_9 = 0\nWRONG = {", "without an exercise"),
        (chameleon_faults, "isinstance(y, int)", "y", "equals everything"),
        (chameleon_faults, "isinstance(y, int)", "{}[y]", "stumbles"),
        (stub_faults, "y = my_1(x)", "y = x + 1", "accepted"),
    ],
)
def test_a_check_that_fails_its_duty_is_noticed(sound, faults, old, new, fault):
    assert fault in " ".join(faults(sound(swap=(old, new))))
