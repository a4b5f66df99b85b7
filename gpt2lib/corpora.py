"""Corpora by name: generated, found here, downloaded by checksum, streamed, or at a path.

A document is a str. Built in the chapter on speed.
"""

import hashlib
import json
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

from gpt2lib.bpe import in_pieces
from gpt2lib.files import whole

Split = Literal["all", "train", "valid"]


@dataclass(frozen=True)
class Corpus:
    """A named collection of documents.

    read() gives all of them, afresh at each call, each as a str or as the Path of a file, which
    may be larger than memory.
    """

    name: str
    read: Callable[[], Iterable[str | Path]]

    def documents(self, split: Split = "all") -> Iterator[str]:
        """The documents of a split, in a fixed order.

        Each tenth document is for validation. Of fewer than ten documents, it is the last tenth
        of each, by characters: of Tiny Shakespeare the part that nanoGPT holds out too.
        Raises ValueError if the corpus has no text.
        """
        return map("".join, self.in_pieces(split))

    def in_pieces(self, split: Split = "all") -> Iterator[Iterator[str]]:
        """The same documents, each in pieces as bpe.in_pieces cuts them, to be taken in order."""
        if split not in ("all", "train", "valid"):
            raise ValueError(f"split must be 'all', 'train' or 'valid': got {split!r}.")
        return self._in_pieces(split)

    def _in_pieces(self, split: Split) -> Iterator[Iterator[str]]:
        documents = (text for text in self.read() if any(in_pieces(text)))
        first = list(islice(documents, 10))
        if not first:
            raise ValueError(f"the corpus {self.name!r} has no text in it.")
        if len(first) == 10:
            for i, text in enumerate(chain(first, documents)):
                if split == "all" or (i % 10 == 9) == (split == "valid"):
                    yield in_pieces(text)
            return
        for text in first:
            n = sum(map(len, in_pieces(text)))
            cut = int(n * 0.9)
            begin, end = {"all": (0, n), "train": (0, cut), "valid": (cut, n)}[split]
            if begin < end:
                yield _between(begin, end, in_pieces(text))


@dataclass(frozen=True)
class Streamed(Corpus):
    """A corpus that is read over the network, document by document, and never kept as text.

    read() gives a data set of `datasets` whose rows have a "text". The first held_out documents
    are for validation, so that one need not read all of it to find them.
    """

    held_out: int = 10_000  # some ten million tokens

    def rows(self, split: Split = "all"):
        """The data set of a split: rows {"text": …}, with state_dict to stop and go on."""
        rows = self.read()
        if split == "all":
            return rows
        return rows.take(self.held_out) if split == "valid" else rows.skip(self.held_out)

    def _in_pieces(self, split: Split) -> Iterator[Iterator[str]]:
        return (in_pieces(row["text"]) for row in self.rows(split) if row["text"])


@dataclass(frozen=True)
class _Download:
    file: str
    address: str
    sha256: str


_WIKITEXT2 = (
    "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/"
)
DOWNLOADS = {
    "shakespeare": _Download(
        "tinyshakespeare.txt",
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "wikitext2": _Download(
        "wikitext2-test.txt",
        f"{_WIKITEXT2}test.txt",
        "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    ),
    "wikitext2-valid": _Download(
        "wikitext2-valid.txt",
        f"{_WIKITEXT2}valid.txt",
        "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    ),
    "lambada": _Download(
        "lambada_test.jsonl",
        "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
        "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
    ),
}
STREAMED = {  # name: data set on the Hugging Face hub, its part
    "fineweb-edu": ("HuggingFaceFW/fineweb-edu", "sample-10BT"),
    "openwebtext": ("Skylion007/openwebtext", None),
}


def corpus(name: str | Path, *, stories: int = 20_000, seed: int = 0) -> Corpus:
    """A corpus by its name, or the text at a path.

    "storyworld": so many stories of World(seed), the book's own language; nothing to download.
    "python": the sources of the Python that is running, its standard library without tests;
    "python+packages": those of the installed packages too.
    "shakespeare": Tiny Shakespeare, 1,115,394 characters, from the cache folder or downloaded.
    "wikitext2", "wikitext2-valid", "lambada": to evaluate on; downloaded likewise.
    "fineweb-edu", "openwebtext": some ten billion tokens of the web each, streamed.
    A path: a UTF-8 file is one document, but of a .jsonl file the "text" of each line is one;
    a folder, all files in it but hidden ones.
    Raises ValueError for a name that is neither, FileNotFoundError where a download fails.
    """
    if name == "storyworld":
        return Corpus(name, cache(partial(_stories, stories, seed)))
    if name in ("python", "python+packages"):
        return Corpus(name, partial(_python_sources, name == "python+packages"))
    if name in DOWNLOADS:
        return Corpus(name, partial(_files, download(name)))
    if name in STREAMED:
        return Streamed(name, partial(_streamed, name))
    path = Path(name)
    if not str(name) or not path.exists():
        names = ", ".join(["storyworld", "python", "python+packages", *DOWNLOADS, *STREAMED])
        raise ValueError(
            f"a corpus is one of {names}, or the path of a text file or a folder: "
            f"got {str(name)!r}, and there is no such path."
        )
    return Corpus(path.resolve().name, partial(_files, path))


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


def _files(path: Path) -> Iterator[str | Path]:
    files = [path]
    if path.is_dir():
        names = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
        files = [path / n for n in names if not any(part.startswith(".") for part in n.parts)]
    for file in files:
        if file.suffix == ".jsonl":
            yield from _json_lines(file)
        else:
            yield file


def _json_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for n, line in enumerate(file, 1):
            try:
                yield "" + json.loads(line)["text"]
            except (LookupError, TypeError, ValueError, RecursionError) as error:
                raise ValueError(
                    f'each line of {path} must be like {{"text": "…"}}: line {n} is {line!r:.80}.'
                ) from error


def _between(begin: int, end: int, pieces: Iterable[str]) -> Iterator[str]:
    """Characters begin to end of what the pieces are in a row."""
    for piece in pieces:
        if part := piece[max(0, begin) : max(0, end)]:
            yield part
        begin, end = begin - len(piece), end - len(piece)


def _streamed(name: str):
    """The rows of a corpus of the hub, or of its parquet files where they are in the cache folder.

    There they stand in a folder that has the corpus's name.
    """
    try:
        from datasets import load_dataset  # here, since it is large and nothing else needs it
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f'the corpus {name!r} is streamed by a package: pip install "gpt2lib[streamed]"'
        ) from None
    folder = cache_folder() / name
    files = sorted(map(str, folder.rglob("*.parquet")))
    dataset, part = STREAMED[name]
    try:
        if files:
            rows = load_dataset("parquet", data_files=files, split="train", streaming=True)
        else:
            rows = load_dataset(dataset, part, split="train", streaming=True)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"the corpus {name!r} could not be read from https://huggingface.co/datasets/{dataset} "
            f"({error}). Put its parquet files there yourself, in {folder}, "
            "or take the corpus 'storyworld', which needs no download."
        ) from error
    return rows.select_columns("text")


def download(name: str) -> Path:
    """The path of a file of DOWNLOADS in the cache folder, fetched if need be, its SHA-256 checked.

    Raises ValueError for another name or a file that was changed, FileNotFoundError where there
    is no network.
    """
    if name not in DOWNLOADS:
        raise ValueError(f"what can be downloaded is {', '.join(DOWNLOADS)}: got {name!r}.")
    source = DOWNLOADS[name]
    instead = "take the corpus 'storyworld', which needs no download."
    path = cache_folder() / source.file
    return fetched(f"the corpus {name!r}", path, source.address, source.sha256, instead)


def fetched(what: str, path: Path, address: str, sha256: str, instead: str) -> Path:
    """The path of a file, fetched from its address unless it is there; its SHA-256 checked.

    Raises ValueError if the file is another, FileNotFoundError where it cannot be fetched; that
    says where to put the file by hand, and what to do instead.
    """
    if path.exists():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(
                f"{path} is not {what}: its SHA-256 is {found}, not {sha256}. "
                f"Remove it, and it is downloaded again from {address}."
            )
        return path
    try:
        with urlopen(address, timeout=30) as response, whole(path) as file:
            size, digest = int(response.headers.get("Content-Length") or 0), hashlib.sha256()
            with tqdm(desc=what, total=size or None, unit="B", unit_scale=True) as bar:
                while chunk := response.read(2**20):
                    digest.update(chunk)
                    bar.update(file.write(chunk))
            if digest.hexdigest() != sha256:
                raise OSError(f"what came has the SHA-256 {digest.hexdigest()}")
    except (OSError, HTTPException) as error:
        raise FileNotFoundError(
            f"{what} could not be fetched from {address} ({error}). Put the file there "
            f"yourself, as {path} (SHA-256 {sha256}), or {instead}"
        ) from error
    return path
