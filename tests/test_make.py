"""The commands: the environment is whole or absent, and the checks all run and are counted."""

import os
import pathlib
import subprocess
import sys

import nbformat
import pytest

import make
from tools import check, notebooks

new = nbformat.v4


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A copy of the book with no environment; yields the commands that its set-up ran."""
    ran = []

    def pretend(command, **_):
        ran.append(command)
        make.PYTHON.parent.mkdir(parents=True, exist_ok=True)
        make.PYTHON.touch()

    monkeypatch.setattr(make, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(make, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    monkeypatch.setattr(make, "STAMP", tmp_path / ".venv" / "complete")
    monkeypatch.setattr(subprocess, "run", pretend)
    return ran


def test_other_pythons_are_refused_with_a_sentence():
    for version in ((3, 10, 14), (3, 14, 0), (2, 7, 18)):
        with pytest.raises(SystemExit, match=r"runs on Python 3.11 to 3.13: got"):
            make.refuse_wrong_python(version)
    for version in ((3, 11, 0), (3, 12, 4), (3, 13, 9)):
        make.refuse_wrong_python(version)


def test_the_environment_is_made_once(bare):
    make.environment()
    first = len(bare)
    make.environment()
    assert first > 0 and len(bare) == first


def test_an_environment_that_was_not_completed_is_made_again(bare):
    make.environment()
    first = len(bare)
    make.STAMP.unlink()
    make.environment()
    assert len(bare) == 2 * first
    assert any("--clear" in command for command in bare[first:])


def test_changed_pins_make_the_environment_anew(bare, monkeypatch):
    make.environment()
    first = len(bare)
    monkeypatch.setattr(make, "wanted", lambda: "other pins")
    make.environment()
    assert len(bare) == 2 * first


@pytest.mark.parametrize(
    "reason, raised",
    [
        (subprocess.CalledProcessError(1, "pip"), SystemExit),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["failed", "interrupted"],
)
def test_a_broken_set_up_leaves_nothing_behind(bare, monkeypatch, reason, raised):
    def break_in_pip(command, **_):
        make.PYTHON.parent.mkdir(parents=True, exist_ok=True)
        if "pip" in command:
            raise reason

    monkeypatch.setattr(subprocess, "run", break_in_pip)
    with pytest.raises(raised):
        make.environment()
    assert not make.VENV.exists()


def test_a_failed_stage_stops_no_other_and_is_counted(monkeypatch, capfd):
    pretended = {
        "first": ("-c", "print('one')"),
        "second": ("-c", "raise SystemExit(3)"),
        "third": ("-c", "print('three')"),
    }
    monkeypatch.setattr(check, "stages", lambda: pretended)
    assert check.main([]) == 1
    said = capfd.readouterr().out
    assert "three" in said
    assert "second      FAILED" in said
    assert said.endswith("\n2 passed, 1 failed\n")
    assert check.main(["first", "third"]) == 0


def test_every_test_file_belongs_to_a_stage():
    files = {f"tests/{path.name}" for path in pathlib.Path(__file__).parent.glob("test_*.py")}
    known = check.stages()
    assert files <= set().union(*known.values())
    with pytest.raises(SystemExit, match="There is no stage nosuch"):
        check.main(["nosuch"])


def written(path, *sources):
    """A notebook of these cells, written to the path."""
    cells = [new.new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources)]
    path.write_text(nbformat.writes(new.new_notebook(cells=cells)), encoding="utf-8")
    return path


def test_a_second_run_gives_the_same_bytes(tmp_path, capsys):
    shown = "import sys\nprint(1)\nprint('two', file=sys.stderr)\nprint(3)"
    path = written(tmp_path / "a.ipynb", shown, "x = 2\nx + 2")
    assert notebooks.main([str(path)]) == 0
    first = path.read_bytes()
    assert notebooks.main([str(path)]) == 0
    assert path.read_bytes() == first
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.execution_count for cell in cells] == [1, 2]
    assert cells[1].outputs[0].data["text/plain"] == "4"
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == [
        "changed",
        "unchanged",
    ]


def test_a_notebook_in_which_a_cell_fails_stays_as_it_was(tmp_path, capsys):
    path = written(tmp_path / "a.ipynb", "print(1)", "x = 0\n1 / x", "print(3)")
    before = path.read_bytes()
    assert notebooks.main([str(path)]) == 1
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.ipynb"]
    said = capsys.readouterr().out
    assert "cell 2 of 3 failed" in said and "1 / x" in said and "ZeroDivisionError" in said


def test_a_name_that_no_notebook_has_is_answered():
    with pytest.raises(SystemExit, match="No notebook is called 'nosuch'"):
        notebooks.main(["nosuch"])


def test_help_is_the_default_and_names_every_command():
    said = subprocess.run([sys.executable, make.__file__], capture_output=True, text=True).stdout
    assert all(f"  {name} " in said for name in make.COMMANDS)


def test_the_folder_to_grade_is_named_and_lies_where_the_teacher_typed_it(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(make, "environment", lambda: None)
    monkeypatch.setattr(make, "run", lambda *command, **_: ran.append(command))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="Say which folder"):
        make.grade()
    make.grade("class", "--timeout", "9")
    assert ran == [("-m", "grading.grade", str(tmp_path / "class"), "--timeout", "9")]
