"""What a kill at any instant leaves on the disk: files that are whole or absent, the old one or
the new one; a log that lacks its last line at most; a folder that one process at a time writes.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def whole(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes its name once all of it is on the disk.

    with whole("run.ckpt") as file: file.write(…). The bytes go to a neighbour, <name>.<pid>.part,
    which is flushed to the disk and then renamed; if the block raises, the neighbour is removed
    and what stood under the name before still stands. Makes missing folders.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # Windows cannot open a folder, and needs no such flush
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name itself
        finally:
            os.close(folder)


def write_json(path: Path, content: dict) -> None:
    """Write a dict to a file that is whole or absent."""
    with whole(path) as file:
        file.write(json.dumps(content, indent=2, default=str).encode() + b"\n")


def read_json(path: Path) -> dict:
    """Read what write_json wrote. Raises ValueError if it is not a JSON object."""
    with suppress(json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            return content
    raise ValueError(f"{path} is not what a run writes there. Copy it again, or start a new run.")


class Log:
    """log.jsonl: each entry is a line, and on its way to the disk as soon as it is written."""

    def __init__(self, path: Path, step: int, writes: bool = True):
        """Open for appending after step updates; what a killed run wrote beyond is dropped.

        writes=False only reads, and remembers: of many processes one writes.
        """
        self.path, self.writes = path, writes
        self.entries = [entry for entry in _entries(path) if entry["step"] <= step]
        if not writes:
            return
        with whole(path) as file:
            file.writelines(json.dumps(entry).encode() + b"\n" for entry in self.entries)
            self.size, self.waiting = file.tell(), b""

    def write(self, entry: dict) -> None:
        """Append one line; where the disk is full it waits in memory for the next."""
        self.entries.append(entry)
        if self.writes:
            self.waiting += json.dumps(entry).encode() + b"\n"
            with suppress(OSError):
                self.flush()

    def flush(self) -> None:
        """Write the lines that wait. Raises OSError if the disk is still full."""
        if not self.writes:
            return
        self.path.touch()  # somebody may have removed it: that is no reason to stop
        with self.path.open("r+b") as file:
            file.seek(self.size)  # over half a line, if the last attempt left one
            file.write(self.waiting)
        self.size, self.waiting = self.size + len(self.waiting), b""

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of the entries that have the key."""
        pairs = [(entry["step"], entry[key]) for entry in self.entries if key in entry]
        return [step for step, _ in pairs], [value for _, value in pairs]


def _entries(path: Path) -> Iterator[dict]:
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):  # a kill may have cut the last line
                yield {"step": (entry := json.loads(line))["step"]} | entry


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it no other process gets in that asks here. Makes the folder if it is missing.

    The lock is on the folder itself and dies with the process, so a kill leaves nothing behind.
    Windows and some network disks cannot lock a folder: there it lets everybody in.
    Raises ValueError if somebody is in it, or if nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written to: {error.strerror}. Choose another with --out."
        ) from None
    lock = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ValueError(
            f"{folder} is another process's, which is at work in it. Wait for it, or choose "
            "another folder with --out."
        ) from None
    except OSError:
        pass  # this disk cannot
    try:
        yield
    finally:
        if fcntl:
            os.close(lock)
        with suppress(OSError):
            folder.rmdir()  # if nothing was put there
