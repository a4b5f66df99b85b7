"""What Colab and Binder open, and the workflows that publish it and the book."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import book_launch
import nbformat
import pytest
import yaml

import make
from tools import launch

ROOT = Path(__file__).resolve().parents[1]

URL, REVISION = "https://example.org/owner/name", "0123abc"
CHAPTERS = sorted(path.name for path in ROOT.glob("chapters/*.ipynb"))
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in ROOT.glob(".github/workflows/*.yml")
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch") / "new"
    launch.write(URL, REVISION, folder)
    return folder


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_gets_one_cell_and_stays_else_as_it_is(folder, name):
    there = nbformat.read(folder / "chapters" / name, 4)
    here = nbformat.read(ROOT / "chapters" / name, 4)
    nbformat.validate(there)
    first = there.cells.pop(0)
    assert f"{URL} {REVISION}" in first.source and first.outputs == []
    assert there == here and here.cells[0].id != first.id


@pytest.mark.parametrize("name", CHAPTERS)
def test_what_a_chapter_reads_is_in_the_folder(folder, name):
    notebook = nbformat.read(folder / "chapters" / name, 4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    read = [*re.findall(r'"(\.\./[\w./-]+)', code), "matplotlibrc"]
    assert [path for path in read if not (folder / "chapters" / path).exists()] == []


def test_binder_installs_the_pins_of_all_that_is_needed(folder):
    lines = (folder / ".binder/requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.partition("==")[0]: line for line in lines if "==" in line}
    assert {"torch", "matplotlib", "transformers"} <= set(pins) and "sphinx" not in pins
    of_the_book = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert [pin for pin in pins.values() if f"\n{pin} " not in of_the_book] == []
    assert lines[-1] == "-e .[chapters]" and (folder / "pyproject.toml").is_file()


def test_a_folder_that_is_there_is_not_written_over(tmp_path):
    with pytest.raises(SystemExit, match="is there already"):
        launch.main([URL, REVISION, str(tmp_path)])


# The cell -------------------------------------------------------------------------------


@pytest.fixture
def colab(tmp_path):
    """Run the cell in a fresh process; where it ends, and what it asked of pip."""
    if shutil.which("git") is None:
        pytest.skip("there is no git on this machine")
    book, fake, work = (tmp_path / name for name in ("book", "fake", "content"))
    for path in (book / "chapters", fake / "pip", work):
        path.mkdir(parents=True)
    (book / "chapters/chapter.txt").touch()
    me = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "All"]):
        subprocess.run(["git", "-C", str(book), *words], check=True)
    head = ["git", "-C", str(book), "rev-parse", "HEAD"]
    revision = subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()
    cell = launch.prepared(nbformat.v4.new_notebook(), book.as_uri(), revision).cells[0].source
    asked = tmp_path / "asked"
    (fake / "pip/__init__.py").touch()
    (fake / "pip/__main__.py").write_text(
        f"import sys\nwith open({str(asked)!r}, 'a') as file: print(*sys.argv[1:], file=file)\n"
    )

    def run(installed: bool):
        hide = "" if installed else "import sys; sys.modules['gpt2lib'] = None\n"
        script = work / "cell.ipy"
        script.write_text(f"{hide}{cell}\nimport os; print('ends in', os.getcwd())\n")
        command = [sys.executable, "-m", "IPython", str(script)]
        env = {**os.environ, "PYTHONPATH": str(fake), "IPYTHONDIR": str(tmp_path / "ipython")}
        done = subprocess.run(
            command, cwd=work, env=env, capture_output=True, text=True, check=True
        )
        end = Path(re.search("ends in (.+)", done.stdout)[1])
        return str(end.relative_to(work.resolve())), asked.read_text() if asked.exists() else ""

    return run


def test_where_the_library_is_missing_the_cell_fetches_the_book_and_installs_it(colab):
    assert colab(installed=False) == ("book/chapters", "install -q ./book[chapters]\n")


def test_where_the_library_is_there_the_cell_does_nothing(colab):
    assert colab(installed=True) == (".", "")


def test_when_the_kernel_starts_anew_the_cell_only_goes_back_to_the_chapters(colab):
    colab(installed=False)
    assert colab(installed=True) == ("book/chapters", "install -q ./book[chapters]\n")


# Publishing -----------------------------------------------------------------------------


def steps(workflow):
    """The steps of a workflow."""
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def steps_text(name):
    """The commands of a workflow."""
    return "\n".join(step.get("run", "") for step in steps(WORKFLOWS[name]))


def test_every_command_of_a_workflow_exists():
    called = "\n".join(map(steps_text, WORKFLOWS))
    commands = re.findall(r"make\.py (\S+)", called)
    modules = re.findall(r"-m (\S+)", called)
    assert commands and set(commands) <= set(make.COMMANDS)
    assert modules and all(map(find_spec, modules))


def inputs(workflow, name):
    """What the steps of a workflow give to their actions, by the value of one input."""
    given = [step.get("with", {}) for step in steps(WORKFLOWS[workflow])]
    return {each[name]: each for each in given if name in each}


def test_the_pages_and_the_previews_share_a_branch_and_leave_each_other_alone():
    ((branch, preview),) = inputs("preview", "preview-branch").items()
    pages = inputs("publish", "branch")[branch]
    assert pages["clean-exclude"].strip("/") == preview["umbrella-dir"]
    assert pages["force"] is False


def test_the_buttons_open_the_branch_that_is_pushed():
    pushed = inputs("publish", "branch")[book_launch.LAUNCH["repository_branch"]]
    (written,) = re.findall(r"tools\.launch (.+)", steps_text("publish"))
    assert written == f'"$BOOK_REPOSITORY" "$GITHUB_SHA" {pushed["folder"]}'


def test_an_address_is_known_only_where_the_publisher_says_it(monkeypatch):
    def configured():
        config = SimpleNamespace(html_theme_options={"use_repository_button": False})
        book_launch.read_addresses(None, config)
        return config.html_baseurl, config.html_theme_options

    for name in ("BOOK_URL", "BOOK_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    assert configured() == ("", {"use_repository_button": False})
    for name, value in WORKFLOWS["publish"]["jobs"]["publish"]["env"].items():
        monkeypatch.setenv(name, value)
    address, options = configured()
    assert "github.io" in address and "github.repository" in options["repository_url"]
    assert options["use_repository_button"] and options["launch_buttons"]
