"""Corpora by name: generated, found on this machine, downloaded by checksum, or at a path.

A document is a str. Built in the chapter on speed.
"""

import hashlib
import os
import sysconfig
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from http.client import HTTPException
from itertools import chain, islice
from pathlib import Path
from typing import Literal
from urllib.request import urlopen

import platformdirs
from tqdm import tqdm

from gpt2lib.files import whole


@dataclass(frozen=True)
class Corpus:
    """A named collection of documents. read() gives all of them, afresh at each call."""

    name: str
    read: Callable[[], Iterable[str]]

    def documents(self, split: Literal["all", "train", "valid"] = "all") -> Iterator[str]:
        """The documents of a split, in a fixed order.

        Each tenth document is for validation. Of fewer than ten documents, it is the last tenth
        of each, by characters: of Tiny Shakespeare the part that nanoGPT holds out too.
        Raises ValueError if the corpus has no text.
        """
        if split not in ("all", "train", "valid"):
            raise ValueError(f"split must be 'all', 'train' or 'valid': got {split!r}.")
        return self._documents(split)

    def _documents(self, split: str) -> Iterator[str]:
        documents = (text for text in self.read() if text)
        first = list(islice(documents, 10))
        if not first:
            raise ValueError(f"the corpus {self.name!r} has no text in it.")
        if len(first) == 10:
            for i, text in enumerate(chain(first, documents)):
                if split == "all" or (i % 10 == 9) == (split == "valid"):
                    yield text
            return
        for text in first:
            cut = int(len(text) * 0.9)
            part = {"all": text, "train": text[:cut], "valid": text[cut:]}[split]
            if part:
                yield part


@dataclass(frozen=True)
class _Download:
    file: str
    address: str
    sha256: str


DOWNLOADS = {
    "shakespeare": _Download(
        "tinyshakespeare.txt",
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


def corpus(
    name: str | Path, *, stories: int = 20_000, seed: int = 0, packages: bool = False
) -> Corpus:
    """A corpus by its name, or the text at a path.

    "storyworld": so many stories of World(seed), the book's own language; nothing to download.
    "python": the sources of the Python that is running, its standard library without tests; with
    packages, those of the installed packages too.
    "shakespeare": Tiny Shakespeare, 1,115,394 characters, from the cache folder or downloaded.
    A path: a UTF-8 file is one document; a folder, all files in it but hidden ones.
    Raises ValueError for a name that is neither, FileNotFoundError where a download fails.
    """
    if name == "storyworld":
        return Corpus(name, cache(partial(_stories, stories, seed)))
    if name == "python":
        return Corpus(name, partial(_python_sources, packages))
    if name in DOWNLOADS:
        return Corpus(name, partial(_text_files, _fetch(name)))
    path = Path(name)
    if not str(name) or not path.exists():
        raise ValueError(
            f"a corpus is one of storyworld, python, {', '.join(DOWNLOADS)}, or the path of a text "
            f"file or a folder: got {str(name)!r}, and there is no such path."
        )
    return Corpus(path.resolve().name, partial(_text_files, path))


def cache_folder() -> Path:
    """Where downloads are kept: $GPT2LIB_CACHE, or the platform's folder for caches."""
    return Path(os.environ.get("GPT2LIB_CACHE") or platformdirs.user_cache_path("gpt2lib"))


def _stories(n: int, seed: int) -> list[str]:
    from gpt2lib.storyworld import World  # here, since nothing else needs it

    return World(seed).stories(n, seed)


def _python_sources(packages: bool) -> Iterator[str]:
    """Each different source file once, in the order of their paths."""
    names = ("stdlib", "purelib", "platlib") if packages else ("stdlib",)
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    seen = set()
    for root in dict.fromkeys(sysconfig.get_path(name) for name in names):
        for folder, subfolders, files in os.walk(root):
            subfolders[:] = sorted(set(subfolders) - skipped)
            for file in sorted(f for f in files if f.endswith(".py")):
                try:
                    with tokenize.open(os.path.join(folder, file)) as source:
                        text = source.read()
                    digest = hashlib.sha256(text.encode()).digest()
                except (SyntaxError, UnicodeError):  # not in the encoding that it declares
                    continue
                if digest not in seen:
                    seen.add(digest)
                    yield text


def _text_files(path: Path) -> Iterator[str]:
    files = [path]
    if path.is_dir():
        names = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
        files = [path / n for n in names if not any(part.startswith(".") for part in n.parts)]
    for file in files:
        try:
            yield file.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text: {error}.") from None


def _fetch(name: str) -> Path:
    """The path of a downloaded corpus in the cache folder, its SHA-256 checked."""
    source = DOWNLOADS[name]
    path = cache_folder() / source.file
    if path.exists():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != source.sha256:
            raise ValueError(
                f"{path} is not the corpus {name!r}: its SHA-256 is {found}, not {source.sha256}. "
                f"Remove it, and it is downloaded again from {source.address}."
            )
        return path
    try:
        with urlopen(source.address, timeout=30) as response, whole(path) as file:
            size, digest = int(response.headers.get("Content-Length") or 0), hashlib.sha256()
            with tqdm(desc=name, total=size or None, unit="B", unit_scale=True) as bar:
                while chunk := response.read(2**16):
                    digest.update(chunk)
                    bar.update(file.write(chunk))
            if digest.hexdigest() != source.sha256:
                raise OSError(f"what came has the SHA-256 {digest.hexdigest()}")
    except (OSError, HTTPException) as error:
        raise FileNotFoundError(
            f"the corpus {name!r} could not be fetched from {source.address} ({error}). "
            f"Put the file there yourself, as {path} (SHA-256 {source.sha256}), "
            "or take the corpus 'storyworld', which needs no download."
        ) from error
    return path
