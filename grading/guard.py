"""What watches over a submission from inside its kernel, imported before the student's first cell.

Standard library and IPython only. It bounds memory, files and what a cell prints, and lets a test
count only if what tests rely on is still what it was.
"""

import contextlib
import importlib
import os
import sys

from IPython import get_ipython

MEMORY = int(os.environ.get("GRADING_MEMORY", 0))  # bytes of address space
FILES = 100_000_000  # bytes of one file
PRINTED = 100_000  # characters of one cell
WATCHED = (
    "builtins math random itertools torch torch.testing torch.nn torch.nn.functional "
    "torch.linalg numpy gpt2lib.answers checks"
).split()

CHANGING = {"input", "manual_seed"}  # IPython has its own; PyTorch wraps it when it first compiles
METHODS = {"run_cell", "run_cell_async", "run_ast_nodes", "run_code", "transform_cell"}
METHODS |= {"showtraceback", "_showtraceback", "should_run_async"}


def limit():
    """Bound memory and files, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, size in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, FILES)):
        if size:
            with contextlib.suppress(ValueError, OSError):  # not every system lets it be set
                resource.setrlimit(kind, (size, size))


class Bounded:
    """A stream that refuses to take more than PRINTED characters between two calls of renew."""

    def __init__(self, stream):
        self._stream, self._left = stream, PRINTED

    def write(self, text):
        if self._left < 0:
            raise RuntimeError(f"more than {PRINTED:,} characters were printed: is a loop endless?")
        self._left -= len(text)
        return self._stream.write(text)

    def renew(self):
        self._left = PRINTED

    def __getattr__(self, name):
        return getattr(self._stream, name)


def snapshot():
    """What the tests rely on: the functions and classes of some modules, {(module, name): it}."""
    found = {}
    for name in WATCHED:
        try:
            module = importlib.import_module(name)
        except ImportError:  # the exercises of this chapter have no use for it
            continue
        for key, value in list(vars(module).items()):
            if callable(value) and key not in CHANGING:
                found[name, key] = value
    return found


def tensor():
    """What a tensor can do, and how."""
    return {k: v for k, v in vars(sys.modules["torch"].Tensor).items() if callable(v)}


def shell():
    """IPython's hooks, by which a cell could be changed before it runs, or its error hidden."""
    ip = get_ipython()
    hooks = [*ip.input_transformers_cleanup, *ip.input_transformers_post, *ip.ast_transformers]
    hooks += ip.events.callbacks["pre_execute"] + ip.events.callbacks["pre_run_cell"]
    return [*hooks, *sorted(vars(ip).keys() & METHODS)]


def verify():
    """Raise RuntimeError if something that the tests rely on was replaced."""
    changed = [
        f"{name}.{key}"
        for (name, key), value in BEFORE.items()
        if vars(sys.modules.get(name)).get(key) is not value
    ]
    now = tensor()
    changed += [f"torch.Tensor.{k}" for k in {**TENSOR, **now} if now.get(k) is not TENSOR.get(k)]
    hooks = shell()
    if len(hooks) != len(SHELL) or any(a is not b for a, b in zip(hooks, SHELL)):
        changed.append("IPython")
    if type(sys.stdout) is not Bounded or type(sys.stderr) is not Bounded:
        changed.append("sys.stdout")
    if changed:
        raise RuntimeError(f"{changed[0]} was replaced, so no test can be trusted.")
    sys.stdout.renew()
    sys.stderr.renew()


limit()
for descriptor in (1, 2):  # what is written past Python's own streams goes nowhere
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
BEFORE, TENSOR, SHELL = snapshot(), tensor(), shell()
sys.stdout, sys.stderr = Bounded(sys.stdout), Bounded(sys.stderr)
