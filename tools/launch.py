"""Write the folder that is pushed as the branch `launch`, which Colab and Binder open.

    python -m tools.launch URL REVISION FOLDER

In it stand the chapters and what they read, at the same places as here. Each chapter has a cell
before its first: where gpt2lib is not installed, as in Colab, it fetches REVISION from URL and
installs the library from it. Binder installs it beforehand, from .binder/, and the cell does
nothing there.
"""

import pathlib
import re
import shlex
import shutil
import sys
import tomllib

import nbformat

ROOT = pathlib.Path(__file__).resolve().parents[1]
TAKEN = ("chapters", "gpt2lib", "runs", "pyproject.toml", "README.md", "LICENSE", "LICENSE-text.md")
LEFT = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.egg-info")
PYTHON = "python-3.12"
# PyTorch without what graphics cards need, which Binder has not.
INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"

CELL = """\
# Where gpt2lib is not installed, as in Colab: fetch the book and install it.
from importlib.util import find_spec
from pathlib import Path

if not find_spec("gpt2lib"):
    !git init -q book && git -C book fetch -q --depth 1 {url} {revision}
    !git -C book checkout -q FETCH_HEAD
    %pip install -q "./book[chapters]"
if Path("book/chapters").is_dir():
    %cd -q book/chapters"""


def prepared(notebook, url: str, revision: str):
    """The notebook with the cell that installs what it needs, before its first cell."""
    source = CELL.format(url=shlex.quote(url), revision=shlex.quote(revision))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(source, id="install"))
    return notebook


def requirements() -> str:
    """What Binder installs: the library, and the book's pins of what it and the chapters need."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    needs = [*project["dependencies"], *project["optional-dependencies"]["chapters"]]
    needs = {re.match(r"[\w-]+", need)[0] for need in needs}
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("#")[0].strip() for line in lines if line.split("==")[0] in needs]
    return "\n".join([INDEX, *pins, "-e .[chapters]", ""])


def write(url: str, revision: str, folder: pathlib.Path) -> None:
    """Write the folder, which must not be there yet."""
    folder.mkdir(parents=True)
    for name in TAKEN:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=LEFT)
        else:
            shutil.copy(ROOT / name, folder / name)
    for path in (folder / "chapters").glob("*.ipynb"):
        notebook = prepared(nbformat.read(path, 4), url, revision)
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    binder = folder / ".binder"
    binder.mkdir()
    (binder / "requirements.txt").write_text(requirements(), encoding="utf-8")
    (binder / "runtime.txt").write_text(PYTHON + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write the folder that the command line names."""
    if len(arguments) != 3:
        sys.exit("Say from where, which revision and where to: URL REVISION FOLDER.")
    url, revision, folder = arguments
    if pathlib.Path(folder).exists():
        sys.exit(f"{folder} is there already: name a new folder.")
    write(url, revision, pathlib.Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
