"""Run notebooks in place, so that a second run gives the same bytes.

    python make.py notebooks [NAME ...]

A name is a path, or how a chapter's file begins (01); with none, all chapters.
A notebook in which a cell fails, or that is interrupted, stays as it was.
"""

import pathlib
import sys
import time

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from gpt2lib.files import whole

CHAPTERS = pathlib.Path(__file__).resolve().parents[1] / "chapters"
SECONDS = 1200  # that one cell may take, on a machine that does other things too


def find(name: str) -> list[pathlib.Path]:
    """The notebooks that a name on the command line means."""
    path = pathlib.Path(name)
    found = [path] if path.suffix == ".ipynb" else sorted(CHAPTERS.glob(f"{name}*.ipynb"))
    if not all(p.is_file() for p in found) or not found:
        there = ", ".join(p.stem for p in sorted(CHAPTERS.glob("*.ipynb")))
        sys.exit(f"No notebook is called {name!r}: there are {there or 'none'}.")
    return found


def execute(notebook, folder: pathlib.Path, on_cell=None):
    """Run every cell, in a kernel that starts in the folder; the notebook changes in place."""
    NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--log-level=ERROR"],  # else each kernel warns of its open sockets
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        on_cell_start=on_cell,
    ).execute()


def settle(notebook) -> str:
    """The text of an executed notebook, less what differs from run to run or by machine."""
    notebook.metadata.pop("widgets", None)
    python3 = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata.update(kernelspec=python3, language_info={"name": "python"})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/svg+xml" in data:  # one drawing of a figure is enough
                data.pop("image/png", None)
    return nbformat.writes(notebook) + "\n"


def failure(code: list, number: int, error: Exception) -> str:
    """Which cell failed, its source, and what it said."""
    if isinstance(error, CellExecutionError):
        said = f"{error.ename}: {error.evalue}"
    elif isinstance(error, CellTimeoutError):
        said = f"It took longer than {SECONDS} seconds."
    else:
        said = "The kernel died: is there enough memory?"
    source = "\n".join("    " + line for line in code[number - 1].source.splitlines())
    return f"cell {number} of {len(code)} failed:\n\n{source}\n\n{said}"


def renew(path: pathlib.Path) -> bool:
    """Run one notebook and report on a line; whether it ran through."""
    old = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(old, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    running = 0
    again = "\r" if sys.stdout.isatty() else ""  # a terminal writes the line over
    line = f"{again}{path.stem:28}"

    def progress(cell, **_):
        nonlocal running
        if cell.cell_type == "code":
            running += 1
            cell.execution_count = None
            if again:
                print(f"{line} cell {running} of {len(code)}", end="", flush=True)

    begin = time.perf_counter()
    try:
        execute(notebook, path.parent, progress)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print(f"{line} {failure(code, running, error)}\n\nLeft as it was: {path}")
        return False
    new = settle(notebook)
    if new != old:
        with whole(path) as file:
            file.write(new.encode())
    seconds = time.perf_counter() - begin
    outcome = "unchanged" if new == old else "changed"
    print(f"{line} {len(code):3} cells {seconds:5.0f} s  {outcome}", flush=True)
    return True


def main(names: list[str]) -> int:
    """Run the named notebooks, or all chapters; 0 if every one ran through."""
    paths = [path for name in names or [""] for path in find(name)]
    return 0 if all([renew(path) for path in paths]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
