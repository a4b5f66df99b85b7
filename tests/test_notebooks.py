"""The committed notebooks, read and not run: what nbval does not see.

nbval passes a notebook whose outputs were all removed, one whose cells were run in another
order, and one with widgets that no page can draw.
"""

import ast
import copy
import pathlib
import re

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager

ROOT = pathlib.Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
PARAMETERS = sorted((ROOT / "params").glob("*_full.yml"))
# The beginnings of paths that exist on one machine only; /tmp and its like change by run.
MACHINE = re.compile(r"(?<![\w.$])(/(root|home|Users|mnt|tmp|var/folders)/\w|[A-Z]:\\Users)")


def code_cells(notebook):
    """The code cells, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def python(cell):
    """A cell's syntax tree, IPython's % and ! lines made into Python."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


def shows(cell):
    """Whether a cell must have an output: at its top level it prints, or shows a figure."""
    calls = [
        statement.value
        for statement in python(cell).body
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    ]
    return any(ast.unparse(call.func) in {"print", "plt.show", "display"} for call in calls)


def assigned(cell):
    """The names that a cell gives a value to, at its top level."""
    targets = []
    for statement in python(cell).body:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets.append(statement.target)
    return {target.id for target in targets if isinstance(target, ast.Name)}


def complaints(notebook):
    """What is wrong with a committed notebook, a sentence each."""
    code = code_cells(notebook)
    found = []
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("was not run from top to bottom: the counts are not 1, 2, 3, …")
    if not any(cell.outputs for cell in code):
        found.append("has no outputs")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("asks for another kernel than python3")
    if "widgets" in notebook.metadata:
        found.append("stores the state of widgets")
    for number, cell in enumerate(code, 1):
        found += [f"cell {number} {what}" for what in complaints_about_cell(cell)]
    return found


def complaints_about_cell(cell):
    """What is wrong with one code cell."""
    tags = cell.metadata.get("tags", [])
    found = []
    if cell.source.rstrip().endswith(";"):
        found.append("ends in ';', which nbval cannot compare: end with plt.show()")
    if shows(cell) and not cell.outputs:
        found.append("shows something, but has no output")
    for output in cell.outputs:
        if output.output_type == "error" and "raises-exception" not in tags:
            found.append(f"ends in {output.ename}: {output.evalue}")
        data = dict(output.get("data", {}))
        if any("widget" in kind for kind in data):
            found.append("shows a widget, which no page can draw")
        data.pop("image/png", None)  # letters at random
        if MACHINE.search(str([output.get("text", ""), *data.values()])):
            found.append("names a path of this machine in its output")
    return found


def unknown_parameters(notebook, parameters):
    """The parameters that the notebook's cell tagged `parameters` does not set."""
    tagged = [c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", [])]
    return set(parameters) - set().union(*map(assigned, tagged))


def a_good_notebook():
    """A notebook of two cells, as `make notebooks` leaves one."""
    new = nbformat.v4
    printed = [new.new_output("stream", name="stdout", text="3\n")]
    parameters = new.new_code_cell("steps = 3", execution_count=1)
    parameters.metadata.tags = ["parameters"]
    cells = [parameters, new.new_code_cell("print(steps)", execution_count=2, outputs=printed)]
    kernel = {"name": "python3", "display_name": "Python 3"}
    return new.new_notebook(cells=cells, metadata={"kernelspec": kernel})


# The chapters -------------------------------------------------------------------------


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_stands_as_it_ran(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert complaints(notebook) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_written_as_make_notebooks_writes_it(path):
    text = path.read_text(encoding="utf-8")
    assert nbformat.writes(nbformat.reads(text, as_version=4)) + "\n" == text


@pytest.mark.parametrize("path", PARAMETERS, ids=lambda path: path.stem)
def test_the_larger_run_sets_only_what_the_chapter_reads(path):
    (chapter,) = (ROOT / "chapters").glob(path.stem.removesuffix("_full") + "_*.ipynb")
    parameters = yaml.safe_load(path.read_text(encoding="utf-8"))
    notebook = nbformat.read(chapter, as_version=4)
    assert parameters and unknown_parameters(notebook, parameters) == set()


def test_there_are_chapters():
    assert CHAPTERS


# The guards ---------------------------------------------------------------------------


def test_the_guards_let_a_good_notebook_pass():
    assert complaints(a_good_notebook()) == []
    assert unknown_parameters(a_good_notebook(), {"steps": 9}) == set()


def outputs_removed(notebook):
    for cell in notebook.cells:
        cell.outputs = []


def never_run(notebook):
    for cell in notebook.cells:
        cell.execution_count = None


def run_in_another_order(notebook):
    notebook.cells[0].execution_count = 3


def one_output_removed(notebook):
    shown = copy.deepcopy(notebook.cells[1])
    shown.execution_count = 3
    shown.outputs = []
    notebook.cells.append(shown)


def another_kernel(notebook):
    notebook.metadata.kernelspec.name = "mine"


def widget_state(notebook):
    notebook.metadata.widgets = {}


def a_widget(notebook):
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    notebook.cells[1].outputs.append(nbformat.v4.new_output("display_data", data))


def a_semicolon(notebook):
    notebook.cells[1].source += ";"


def an_error(notebook):
    failed = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    notebook.cells[1].outputs.append(failed)


def a_path_of_this_machine(notebook):
    notebook.cells[1].outputs[0].text = "saved in /" + "home/ada/run\n"


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (outputs_removed, "has no outputs"),
        (never_run, "was not run from top to bottom"),
        (run_in_another_order, "was not run from top to bottom"),
        (one_output_removed, "cell 3 shows something, but has no output"),
        (another_kernel, "asks for another kernel"),
        (widget_state, "stores the state of widgets"),
        (a_widget, "cell 2 shows a widget"),
        (a_semicolon, "cell 2 ends in ';'"),
        (an_error, "cell 2 ends in ValueError: no"),
        (a_path_of_this_machine, "cell 2 names a path"),
    ],
)
def test_a_spoilt_notebook_is_noticed(spoil, sentence):
    notebook = a_good_notebook()
    spoil(notebook)
    assert any(sentence in complaint for complaint in complaints(notebook))


def test_an_error_that_a_chapter_shows_on_purpose_passes():
    notebook = a_good_notebook()
    an_error(notebook)
    notebook.cells[1].metadata.tags = ["raises-exception"]
    assert complaints(notebook) == []


def test_a_parameter_that_the_chapter_does_not_read_is_noticed():
    assert unknown_parameters(a_good_notebook(), {"step": 9}) == {"step"}
