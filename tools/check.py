"""Check everything, stage after stage, and end with one table.

    python make.py test [STAGE ...]

A stage that fails does not stop the next ones. Exit status 1 if any of them failed.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import time

from make import BUILD

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILT = "_build/test"  # not where `make book` builds: nothing may come from an earlier build
PYTEST = ("-m", "pytest", "-q", "--tb=short")

# Tests that are a stage of their own; every other file in tests/ is a unit test.
GUARDS = ("tests/test_notebooks.py", "tests/test_prose.py")
EXERCISES = ("tests/test_exercises.py",)
PAGES = (
    "tests/test_links.py",
    "tests/test_pages.py",
    "tests/test_playground.py",
    "tests/test_paper.py",
)


def stages() -> dict[str, tuple[str, ...]]:
    """What to run, in order: the name of each stage and its arguments to Python."""
    there = {f"tests/{path.name}" for path in (ROOT / "tests").glob("test_*.py")}
    units = sorted(there.difference(GUARDS, EXERCISES, PAGES))
    return {
        "lint": ("-m", "ruff", "check"),
        "format": ("-m", "ruff", "format", "--check"),
        "units": (*PYTEST, "-n", "2", "--dist", "loadfile", *units),
        "guards": (*PYTEST, *GUARDS),
        "exercises": (*PYTEST, *EXERCISES),
        "chapters": (*PYTEST, "-W", "default", "-p", "no:cacheprovider", "--durations=5",
                     "--nbval", "--nbval-current-env", "--nbval-cell-timeout=1200",
                     "--nbval-sanitize-with=tests/sanitize.cfg", "chapters"),
        "book": (*BUILD, "--path-output", BUILT),
        "pages": (*PYTEST, "-n", "2", "--dist", "loadfile", *PAGES),
    }  # fmt: skip


def run(name: str, arguments: tuple[str, ...]) -> tuple[bool, float]:
    """Run one stage; whether it passed, and how many seconds it took."""
    print(f"\n=== {name} {'=' * (75 - len(name))}", flush=True)
    env = dict(os.environ)
    if name == "units":  # two processes on two cores: one thread each
        env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if name == "pages":
        env["BOOK_HTML"] = f"{BUILT}/_build/html"
    if name == "book":
        shutil.rmtree(ROOT / BUILT, ignore_errors=True)
    begin = time.perf_counter()
    status = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env).returncode
    return status == 0, time.perf_counter() - begin


def main(names: list[str]) -> int:
    """Run the named stages, or all; print the table; 0 if all passed."""
    known = stages()
    if unknown := set(names) - set(known):
        sys.exit(f"There is no stage {', '.join(sorted(unknown))}: {', '.join(known)}.")
    results = {name: run(name, known[name]) for name in known if name in names or not names}
    print(f"\n{'stage':12}{'result':10}{'seconds':>8}")
    for name, (passed, seconds) in results.items():
        print(f"{name:12}{'passed' if passed else 'FAILED':10}{seconds:8.0f}")
    print(f"{'':22}{sum(seconds for _, seconds in results.values()):8.0f}")
    failed = sum(not passed for passed, _ in results.values())
    print(f"\n{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
