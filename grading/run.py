"""Run a student's notebook, as a preprocessor of nbgrader's, and give each test its verdict."""

import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Bool, Float, Integer, List

from grading.kernel import kernel

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Run(NbGraderPreprocessor):
    """Run every cell; a test has passed if it says so itself, with a word made for that one time.

    A cell that ends its kernel, or does not end, is left out of the next attempt: another kernel
    runs the cells that define something again, and the tests that are still to be run.
    """

    timeout = Float(60.0, help="Seconds for a cell.").tag(config=True)
    whole = Float(600.0, help="Seconds for a notebook, after which what is left fails.").tag(
        config=True
    )
    memory = Integer(4 * 2**30, help="Bytes of address space, where limits exist.").tag(config=True)
    sandbox = Bool(True, help="Run in bubblewrap.").tag(config=True)
    hidden = List([], help="Folders that a sandbox does not show.").tag(config=True)

    def preprocess(self, nb, resources):
        folder = Path(resources["metadata"]["path"])
        files = [p for p in folder.iterdir() if p.is_file() and p.suffix != ".ipynb"]
        cells = [cell for cell in nb.cells if cell.cell_type == "code"]
        for cell in cells:
            cell.outputs = []
        left_out, end = set(), time.monotonic() + self.whole
        while True:
            with kernel(files, list(map(Path, self.hidden)), self.memory, self.sandbox) as (km, on):
                fatal = self._attempt(nb, cells, left_out, end, km, on)
            if fatal is None:
                return nb, resources
            left_out.add(fatal)

    def _attempt(self, nb, cells, left_out, end, km, on) -> int | None:
        """Run what is to be run in one kernel; the number of the cell that ended it, if one did."""
        client = NotebookClient(nb, km=km, timeout=self.timeout, allow_errors=True)
        with client.setup_kernel(cleanup_kc=True, **on):
            for i, cell in enumerate(cells):
                if i in left_out or (_is_test(cell) and cell.metadata.get("tested")):
                    continue
                if time.monotonic() > end:
                    _fail(cell, "TimeLimit", f"The notebook took more than {self.whole:.0f} s.")
                    left_out.add(i)
                    continue
                try:
                    _run_cell(client.execute_cell, cell, nb.cells.index(cell))
                except CellTimeoutError:
                    _fail(cell, "TimeLimit", f"It did not end within {self.timeout:g} seconds.")
                    return i
                except DeadKernelError:
                    _fail(cell, "KernelDied", "It ended the program in which it ran.")
                    return i
                if "MemoryError" in str(cell.outputs):  # it is still held: the next cell would fail
                    return i
        return None


def _run_cell(execute: Callable, cell: NotebookNode, index: int) -> None:
    """Run one cell. Of a test, what it printed goes, and its error is its verdict."""
    if not _is_test(cell):
        execute(cell, index, store_history=False)
        return
    source, word = cell.source, secrets.token_hex(8)
    cell.source = (
        "__import__('sys').modules['grading_guard'].verify()\n" + source + f"\nprint({word!r})"
    )
    try:
        execute(cell, index, store_history=False)
    finally:
        cell.source = source
    cell.metadata["tested"] = True
    errors = [o for o in cell.outputs if o.output_type == "error"]
    printed = "".join(o.get("text", "") for o in cell.outputs if o.output_type == "stream")
    if errors:
        _fail(cell, errors[0].ename, COLOURS.sub("", errors[0].evalue))
    elif word not in printed:
        _fail(cell, "NotRun", "The test did not come to its end.")
    else:
        cell.outputs = []


def _fail(cell: NotebookNode, name: str, text: str) -> None:
    cell.outputs = [new_output("error", ename=name, evalue=text, traceback=[f"{name}: {text}"])]


def _is_test(cell: NotebookNode) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("grade"))
