"""A kernel for one notebook of a student: in a sandbox where the machine has bubblewrap.

In the sandbox there is no network, the machine can only be read, and of the book, of the course, of
what other students handed in and of the teacher's home nothing is there. Only the kernel runs
inside; nbgrader, which holds the gradebook, stays outside.
"""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager

from grading.course import ROOT

GUARD = Path(__file__).with_name("guard.py")
STARTUP = """import sys
sys.path[:0] = [{folder!r}, {work!r}]
import grading_guard
sys.path.remove({folder!r})
del sys, grading_guard
"""


@functools.cache
def has_sandbox() -> bool:
    """Can this machine run bubblewrap? It may be missing, or forbidden, as in some containers."""
    if shutil.which("bwrap") is None:
        return False
    return subprocess.run([*_bubblewrap((), ()), "true"], capture_output=True).returncode == 0


def _bubblewrap(hidden: tuple[Path, ...], shown: tuple[Path, ...], folder: str | None = None):
    """The command that makes the sandbox: folders hidden, of these some shown, folder writable."""
    command = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    command += ["--unshare-net", "--unshare-pid", "--unshare-ipc", "--die-with-parent"]
    command += ["--unsetenv", "JPY_PARENT_PID"]  # by which a kernel notices that it is an orphan
    for path in (Path(tempfile.gettempdir()), *hidden):
        command += ["--tmpfs", str(path)]
    for path in shown:
        command += ["--ro-bind", str(path), str(path)]
    return [*command, "--bind", folder, folder] if folder else command


@contextlib.contextmanager
def kernel(
    files: list[Path], hidden: list[Path], memory: int, sandbox: bool
) -> Iterator[tuple[AsyncKernelManager, dict]]:
    """A manager whose kernel has not started, and what to start it with.

    files: copied to the folder in which the kernel works. hidden: what it must not see.
    memory: bytes of address space. The folder is gone at the end, with all that was written.
    """
    with tempfile.TemporaryDirectory(prefix="gk") as folder:  # short: sockets' paths are limited
        root = Path(folder)
        for name in ("work", "guard", "home", "ipython/profile_default/startup", "spec/grading"):
            (root / name).mkdir(parents=True)
        for path in files:
            shutil.copy(path, root / "work" / path.name)
        shutil.copy(GUARD, root / "guard" / "grading_guard.py")
        startup = STARTUP.format(folder=str(root / "guard"), work=str(root / "work"))
        (root / "ipython/profile_default/startup/00.py").write_text(startup, encoding="utf-8")
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        if sandbox:
            shown = (ROOT / "gpt2lib", Path(sys.prefix), Path(sys.base_prefix))
            there = tuple(p.resolve() for p in (Path.home(), ROOT, *hidden) if p.exists())
            command = [*_bubblewrap(there, shown, folder), *command]
        spec = {"argv": command, "display_name": "grading", "language": "python"}
        spec["interrupt_mode"] = "message"  # a signal would reach the sandbox, not the kernel
        (root / "spec/grading/kernel.json").write_text(json.dumps(spec))
        manager = AsyncKernelManager(
            kernel_name="grading",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(root / "spec")]),
            connection_file=str(root / "kernel.json"),
        )
        if os.name != "nt":  # sockets that are files cross the border of the sandbox
            manager.transport, manager.ip = "ipc", str(root / "s")
        yield (
            manager,
            {
                "env": _environment(root, memory),
                "cwd": str(root / "work"),
                "stdout": subprocess.DEVNULL,
                "stderr": subprocess.DEVNULL,
            },
        )


def _environment(root: Path, memory: int) -> dict[str, str]:
    """What a kernel may know of the environment: none of the teacher's variables."""
    kept = ("PATH", "LANG", "SYSTEMROOT", "LD_LIBRARY_PATH")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    home = str(root / "home")
    return env | {
        "HOME": home,
        "TMPDIR": home,
        "MPLCONFIGDIR": home,
        "GPT2LIB_CACHE": home,
        "IPYTHONDIR": str(root / "ipython"),
        "JUPYTER_RUNTIME_DIR": home,
        "PYTHONUTF8": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "GRADING_MEMORY": str(memory),
    }
