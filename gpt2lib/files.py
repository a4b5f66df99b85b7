"""Files that are whole or absent: a kill at any instant leaves the old one or the new one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


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
