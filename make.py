"""What `make` does, for machines that have make and for those that have not.

    python make.py COMMAND [ARGUMENT ...]

The standard library is enough to run this file: it makes the environment in which
everything else runs, so each command works as the first one on a fresh copy of the book.
"""

import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "complete"  # written last; without it the environment is not one
OLDEST, NEWEST = (3, 11), (3, 13)
HTML = ROOT / "_build" / "html"
BUILD = ("-c", "from jupyter_book.cli.main import main; main()", "build", ".")
BUILD += ("-W", "-n", "--keep-going")  # a warning, a reference that leads nowhere: an error


# The environment ----------------------------------------------------------------------


def wanted():
    """What .venv must match: a hash of the pins, the library's own needs, and its place."""
    package = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[tool.ruff]")[0]
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    return hashlib.sha256((pins + package + str(ROOT)).encode()).hexdigest()


def refuse_wrong_python(version=None):
    """Stop with a sentence unless this Python is one that the pins were chosen for."""
    version = version or sys.version_info[:3]
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        sys.exit(
            "The book runs on Python {}.{} to {}.{}: got {} ({}).\n"
            "Name another one: make book PYTHON=python3.12, or python3.12 make.py book.".format(
                *OLDEST, *NEWEST, ".".join(map(str, version)), sys.executable
            )
        )


def environment():
    """Make .venv anew unless it is complete and matches the pins: whole, or not at all."""
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == wanted():
        return
    refuse_wrong_python()
    print("Setting up .venv, which takes some minutes and is done once.", flush=True)
    base = getattr(sys, "_base_executable", None) or sys.executable
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check"]
    # matplotlib reads the fonts once, slowly, and says so: not in a chapter's output.
    warm = [str(PYTHON), "-c", "import matplotlib.font_manager"]
    try:
        subprocess.run([base, "-m", "venv", "--clear", str(VENV)], check=True)
        subprocess.run([*pip, "install", "-r", "requirements.txt"], cwd=str(ROOT), check=True)
        subprocess.run(warm, check=True)
        STAMP.write_text(wanted())
    except BaseException as reason:
        for _ in range(50):  # what is being stopped may still be writing
            shutil.rmtree(str(VENV), ignore_errors=True)
            if not VENV.exists():
                break
            time.sleep(0.1)
        if isinstance(reason, (subprocess.CalledProcessError, OSError)):
            sys.exit(
                "The set-up failed, and .venv was removed: the reason stands above.\n"
                "Often it is the network, or, on Debian and Ubuntu, that the package "
                "python3-venv is missing. Then type the same command again."
            )
        raise


def run(*command, **variables):
    """Run a command in the environment, from the root; its exit status."""
    env = {
        **os.environ,
        "PATH": str(BIN) + os.pathsep + os.environ.get("PATH", ""),
        "VIRTUAL_ENV": str(VENV),
        "PYTHONUTF8": "1",
        **variables,
    }
    return subprocess.run([str(PYTHON), *command], cwd=str(ROOT), env=env).returncode


def build(*options):
    """Build the book; the exit status."""
    status = run(*BUILD, *options)
    if status:
        # Sphinx would not read the faulty pages again, and pass the second time.
        shutil.rmtree(str(ROOT / "_build" / ".doctrees"), ignore_errors=True)
    return status


# The commands -------------------------------------------------------------------------


def book():
    """build the book, from the outputs that stand in the notebooks"""
    environment()
    status = build()
    if not status:
        print("\nThe first page: " + (HTML / "index.html").as_uri())
    return status


def pdf():
    """make a PDF of the whole book; an installed Chromium or Chrome prints it"""
    environment()
    return build("--builder", "custom", "--custom-builder", "pdf")


def epub():
    """make an EPUB of the whole book; Chromium or Chrome draws the cover"""
    environment()
    return build("--builder", "custom", "--custom-builder", "epub")


def serve(port="8000"):
    """build the book and serve it on this machine; serve 8080 takes another port"""
    status = book()
    if status:
        return status
    print("Serving http://localhost:{}/ until Ctrl-C.".format(port), flush=True)
    status = run("-m", "http.server", port, "--bind", "127.0.0.1", "--directory", str(HTML))
    if status:
        print("Is port {} taken? Try another: make serve ARGS=8080".format(port))
    return status


def test(*stages):
    """check everything: lint, tests, each notebook executed and compared, the build"""
    environment()
    return run("-m", "tools.check", *stages, **OFFLINE, **REPEATABLE)


def lab(*arguments):
    """open JupyterLab on the chapters"""
    environment()
    root = ["--allow-root"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    return run("-m", "jupyterlab", "chapters", *root, *arguments)


def notebooks(*names):
    """run the chapters again, in place; notebooks 01 12 takes only some"""
    environment()
    return run("-m", "tools.notebooks", *names, **OFFLINE, **REPEATABLE)


def assignments(*arguments):
    """make a course of the exercises in course/; assignments 01 12 takes only some"""
    environment()
    return run("-m", "grading.course", *arguments)


def grade(*arguments):
    """grade a folder of submissions: make grade SUBMISSIONS=folder"""
    if not arguments:
        sys.exit("Say which folder: make grade SUBMISSIONS=folder, or make.py grade FOLDER.")
    environment()
    folder, *others = arguments  # from where it was typed, not from the root
    folder = folder if folder.startswith("-") else os.path.abspath(folder)
    return run("-m", "grading.grade", folder, *others, **OFFLINE)


def cards(*arguments):
    """make a deck for Anki of the question bank"""
    environment()
    return run("-m", "tools.cards", *arguments)


def bench(*arguments):
    """measure speed and memory against peers; bench ARGS="--help" says how"""
    environment()
    return run("-m", "bench", *arguments, **OFFLINE)


def clean():
    """remove what was built; the environment stays"""
    built = {"_build", ".pytest_cache", ".ruff_cache", ".hypothesis"}
    built |= {"__pycache__", ".ipynb_checkpoints", "gpt2lib.egg-info"}
    for folder, inside, _ in os.walk(str(ROOT)):
        for name in built & set(inside):
            shutil.rmtree(os.path.join(folder, name))
        inside[:] = [name for name in inside if name not in built | {".venv", ".git"}]
    return 0


def help():
    """say what there is"""
    print("make COMMAND, or python make.py COMMAND:\n")
    for name, command in COMMANDS.items():
        print("  {:12} {}".format(name, command.__doc__))
    print("\nThe first one sets up .venv by itself.")
    return 0


OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
# SOURCE_DATE_EPOCH: the date inside matplotlib's SVG.
REPEATABLE = {"SOURCE_DATE_EPOCH": "0", "PYTHONHASHSEED": "0"}
COMMANDS = (
    book,
    serve,
    pdf,
    epub,
    test,
    lab,
    notebooks,
    assignments,
    grade,
    cards,
    bench,
    clean,
    help,
)
COMMANDS = {f.__name__: f for f in COMMANDS}


def main(arguments):
    """Run one command by name; its exit status."""
    name = arguments[0] if arguments else "help"
    if name not in COMMANDS:
        sys.exit("There is no command {!r}: {}.".format(name, ", ".join(COMMANDS)))
    for ending in ("SIGTERM", "SIGHUP"):  # let the set-up clean up after itself
        if hasattr(signal, ending):
            signal.signal(getattr(signal, ending), lambda number, frame: sys.exit(128 + number))
    try:
        return COMMANDS[name](*arguments[1:])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
