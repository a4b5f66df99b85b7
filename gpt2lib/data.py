"""Corpora, token shards, batches: text on its way into the model.

    B batch_size   T block_size   N tokens in a shard

The convention that all of this module keeps: a token eot stands before each document, and one
more after the last, so tokens = eot d d d eot d d eot. The model reads eot as "something begins".

Built in the chapter on speed.
"""

import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, islice, pairwise
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
from torch import Tensor

from gpt2lib.bpe import in_pieces
from gpt2lib.corpora import Corpus as Corpus
from gpt2lib.corpora import Streamed as Streamed
from gpt2lib.corpora import cache_folder as cache_folder
from gpt2lib.corpora import corpus as corpus
from gpt2lib.files import read_json, whole, write_json
from gpt2lib.tokenizer import Tokenizer

# ------------------------------------------------------------------ shards

_MAGIC = b"gpt2lib shard 1\n"
_HEADER = struct.Struct("<16s32sQII")  # magic, fingerprint, N, n_vocab, CRC-32: 64 bytes
_GROUP = 2**18  # characters that a thread encodes at a time


def token_stream(
    documents: Iterable[str | Iterable[str]], tokenizer: Tokenizer
) -> Iterator[np.ndarray]:
    """The ids of a corpus, in arrays one after the other: eot and a document …, at last one eot.

    A document is a str, or its pieces one after the other, as Corpus.in_pieces gives them, and
    may then be larger than memory. Encoded on several threads, some millions of characters ahead.
    """
    yield from _encoded(documents, tokenizer)
    yield np.array([tokenizer.eot], np.uint32)


def _encoded(documents: Iterable, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    groups = _groups(documents)
    with ThreadPoolExecutor() as pool:
        while some := list(islice(groups, 16)):
            yield from pool.map(partial(_ids, tokenizer), some)


def _groups(documents: Iterable) -> Iterator[list[str | None]]:
    """Documents in groups of some _GROUP characters; None stands where one begins."""
    group, n = [], 0
    for document in documents:
        group.append(None)
        for piece in in_pieces(document) if isinstance(document, str) else document:
            group.append(piece)
            n += len(piece)
            if n >= _GROUP:
                yield group
                group, n = [], 0
    if group:
        yield group


def _ids(tokenizer: Tokenizer, group: list[str | None]) -> np.ndarray:
    eot = np.array([tokenizer.eot], np.uint32)
    return np.concatenate([eot if t is None else tokenizer.encode_array(t) for t in group])


def write_shard(path: str | Path, ids: Iterable, tokenizer: Tokenizer) -> int:
    """Write ids to a file of uint16 with a header that names the tokenizer; returns N.

    ids: one list or array, or an iterable of such, written as they come, so the corpus may be
    larger than memory: write_shard(path, token_stream(corpus.in_pieces("train"), tok), tok).
    The file appears when it is whole. Raises ValueError for an id outside the vocabulary, or a
    vocabulary of more than 65,536.
    """
    flat = isinstance(ids, np.ndarray) or (isinstance(ids, list) and ids and np.ndim(ids[0]) == 0)
    with whole(path) as file:
        shard = _Shard(file, tokenizer)
        for chunk in [ids] if flat else ids:
            shard.write(chunk)
        shard.finish()
    return shard.n


def stream_shard(
    path: str | Path,
    corpus: Streamed,
    split: Literal["train", "valid"],
    tokenizer: Tokenizer,
    *,
    limit: int | None = None,
    every: int = 2**24,
) -> Iterator[int]:
    """Write a corpus that is streamed to a shard, so that a stop at any instant costs little.

    One shard, however large: whoever reads it maps one array, and windows may lie anywhere in it.
    Yields how many tokens are safe on the disk, each time that `every` more are. Until the shard
    is whole it is called <name>.part, and <name>.json says how far the corpus was read; called
    again, this goes on there. In the end the file is that of one go, byte for byte.
    limit: the shard ends with the documents in which it reaches so many tokens.
    Raises ValueError if something else was begun under this name, or the part has changed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part, note = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.json")
    about = {"corpus": corpus.name, "split": split, "tokenizer": tokenizer.fingerprint}
    rows, begun = corpus.rows(split), {"n": 0, "crc": 0}
    if part.exists() and note.exists():
        begun = _begun(part, note, about)
        rows.load_state_dict(begun["rows"])
    with part.open("r+b" if begun["n"] else "wb") as file:
        shard = _Shard(file, tokenizer, begun["n"], begun["crc"])
        texts, safe = (row["text"] for row in rows if row["text"]), shard.n
        while (limit is None or shard.n < limit) and (some := list(islice(texts, 1024))):
            for ids in _encoded(some, tokenizer):
                shard.write(ids)
            if shard.n >= safe + every:
                shard.flush()
                safe = shard.n
                write_json(note, about | {"n": safe, "crc": shard.crc, "rows": rows.state_dict()})
                yield safe
        if not shard.n:
            raise ValueError(f"the corpus {corpus.name!r} has no text for the split {split!r}.")
        shard.write([tokenizer.eot])
        shard.finish()
        shard.flush()
    part.replace(path)
    note.unlink(missing_ok=True)
    yield shard.n


def _begun(part: Path, note: Path, about: dict) -> dict:
    """What the note says of the part, if that is so and what was asked for was begun."""
    begun = read_json(note)
    anew = f"Choose another name, or remove {part} and {note} to begin anew."
    if about != {key: begun.get(key) for key in about}:
        raise ValueError(f"{part} was begun as {begun}, not as {about}. {anew}")
    end = _HEADER.size + 2 * begun["n"]
    if part.stat().st_size < end or begun["crc"] != zlib.crc32(_mapped(part, begun["n"])):
        raise ValueError(f"{part} has changed since {note} was written. {anew}")
    return begun


class _Shard:
    """A shard while it is written, from its beginning or after n tokens with the checksum crc."""

    def __init__(self, file: IO[bytes], tokenizer: Tokenizer, n: int = 0, crc: int = 0):
        self.n_vocab = tokenizer.n_vocab
        if self.n_vocab > 2**16:
            raise ValueError(
                f"a shard holds ids below 65,536: this tokenizer has {self.n_vocab:,} tokens."
            )
        self.file, self.tokenizer, self.n, self.crc = file, tokenizer, n, crc
        file.truncate(_HEADER.size + 2 * n)
        file.seek(0, os.SEEK_END)

    def write(self, ids) -> None:
        ids = np.asarray(ids)
        if ids.size == 0:
            return
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise ValueError(f"ids are whole numbers in a row: got {ids!r:.80}.")
        if not 0 <= ids.min() <= ids.max() < self.n_vocab:
            raise ValueError(
                f"token ids must be 0 to n_vocab-1={self.n_vocab - 1}: got {ids.min()} to "
                f"{ids.max()}. Were they made by another tokenizer?"
            )
        data = ids.astype("<u2").tobytes()
        self.n, self.crc = self.n + len(ids), zlib.crc32(data, self.crc)
        self.file.write(data)

    def flush(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())

    def finish(self) -> None:
        fingerprint = bytes.fromhex(self.tokenizer.fingerprint)
        header = _HEADER.pack(_MAGIC, fingerprint, self.n, self.n_vocab, 0)
        self.file.seek(0)
        self.file.write(header[:-4] + struct.pack("<I", zlib.crc32(header, self.crc)))


def read_shard(path: str | Path, tokenizer: Tokenizer) -> np.memmap:
    """The ids in a shard, (N,) of uint16, mapped from the disk.

    Raises ValueError if the file is not a shard, is truncated or changed, or was written with
    another tokenizer. The checksum takes a second for some 2.5 GB.
    """
    path = Path(path)
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        size = os.fstat(file.fileno()).st_size
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise ValueError(f"{path} is not a token shard: it must begin with {_MAGIC!r}.")
    _, fingerprint, n, n_vocab, crc = _HEADER.unpack(header)
    if size != _HEADER.size + 2 * n:
        raise ValueError(
            f"{path} is truncated: {n:,} tokens take {_HEADER.size + 2 * n:,} bytes, it has "
            f"{size:,}. Write it again from its corpus."
        )
    if (fingerprint.hex(), n_vocab) != (tokenizer.fingerprint, tokenizer.n_vocab):
        raise ValueError(
            f"{path} was written with another tokenizer, {fingerprint.hex()[:12]} of {n_vocab:,} "
            f"tokens; this one is {tokenizer.fingerprint[:12]} of {tokenizer.n_vocab:,}. "
            "Load that one, or write the shard again with this one."
        )
    if n == 0:
        raise ValueError(f"{path} has no tokens in it.")
    tokens = _mapped(path, n)
    if zlib.crc32(header[:-4] + bytes(4), zlib.crc32(tokens)) != crc:
        raise ValueError(f"{path} has changed since it was written: its checksum differs.")
    return tokens


def _mapped(path: Path, n: int) -> np.memmap:
    return np.memmap(path, "<u2", "r", offset=_HEADER.size, shape=(n,))


# ------------------------------------------------------------------ batches


def batches(
    tokens: np.ndarray,
    batch_size: int,
    block_size: int,
    *,
    seed: int = 0,
    start: int = 0,
    align: Literal["any", "document"] = "any",
    eot: int | None = None,
    part: tuple[int, int] = (0, 1),
    device: str | torch.device = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, from batch number start on: idx and targets, (B, T) of int64 each.

    targets are idx one token later. Batch i depends on seed and i alone, so start=i goes on
    exactly where a run that made i batches stopped. An epoch visits each of its windows once,
    in random order; the next epoch cuts the tokens at other places.

    align="any": windows lie side by side from a random offset below T to the end of the tokens.
    align="document": windows begin at eot, each at the document that the one before it cut, so
    an epoch shows every document whole that fits in T; one that does not is continued in the
    next window. The walk begins at a random document, and the last goes on with the first.

    part=(rank, world_size): the global batch has world_size · B rows, and this process takes
    its B of them, so the order of data does not depend on the number of processes.
    Raises ValueError if the tokens are fewer than T + 1.
    """
    rank, world_size = part
    if align not in ("any", "document"):
        raise ValueError(f"align must be 'any' or 'document': got {align!r}.")
    if min(batch_size, block_size) < 1 or min(seed, start) < 0 or not 0 <= rank < world_size:
        raise ValueError(
            "batch_size and block_size are at least 1, seed and start at least 0, rank below "
            f"world_size: got {batch_size=}, {block_size=}, {seed=}, {start=}, {part=}."
        )
    if len(tokens) <= block_size:
        raise ValueError(
            f"{getattr(tokens, 'filename', 'the corpus')} must have at least block_size + 1 = "
            f"{block_size + 1} tokens: it has {len(tokens)}. Use a smaller block_size or more text."
        )
    if align == "document":
        bounds = _bounds(tokens, eot)
        ring = np.asarray(tokens)[:-1]  # the eot at the end is the one at the beginning
        twice = memoryview(np.concatenate([bounds, bounds[1:] + len(ring)]))
        cut = partial(_cut_at_documents, twice, block_size)
    else:
        ring = np.asarray(tokens)
        cut = partial(_cut_anywhere, len(tokens), block_size)
    rows = batch_size * world_size
    return _batches(ring, rows, block_size, cut, seed, start, rank, batch_size, device)


def _batches(ring, rows, T, cut, seed, start, rank, B, device) -> Iterator[tuple[Tensor, Tensor]]:
    skip, windows = start * rows, np.empty(0, np.int64)
    epochs = count()
    while True:
        while len(windows) < rows:
            rng = np.random.default_rng((seed, next(epochs)))
            epoch = cut(rng)
            if skip >= len(epoch):
                skip -= len(epoch)
                continue
            windows = np.concatenate([windows, rng.permutation(epoch)[skip:]])
            skip = 0
        mine, windows = windows[rank * B : (rank + 1) * B], windows[rows:]
        places = mine[:, None] + np.arange(T + 1)  # (B, T + 1)
        both = torch.from_numpy(ring.take(places, mode="wrap").astype(np.int64))
        if torch.device(device).type == "cuda":
            both = both.pin_memory()
        both = both.to(device, non_blocking=True)
        yield both[:, :-1].contiguous(), both[:, 1:].contiguous()


def _cut_anywhere(n: int, T: int, rng: np.random.Generator) -> np.ndarray:
    """Where the windows of an epoch begin; the last target is at most token n − 1."""
    return np.arange(rng.integers(min(T, n - T)), n - T, T)


def _cut_at_documents(bounds: memoryview, T: int, rng: np.random.Generator) -> np.ndarray:
    """Where the windows of an epoch begin. bounds: the places of eot, twice around the ring."""
    half = len(bounds) // 2
    at = bounds[rng.integers(half)]
    end, starts = at + bounds[half], []
    while at < end:
        starts.append(at)
        document = bounds[bisect_right(bounds, at + T) - 1]  # the one that this window cuts
        at = document if document > at else at + T
    return np.array(starts)


def whole_documents(
    tokens: np.ndarray,
    eot: int,
    batch_size: int,
    block_size: int,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every document once, a row each: idx and targets, (B, T) of int64, T the longest among B.

    A row reads eot and the document, and predicts the document and eot; after that idx is eot
    and targets −1. So the loss is that of whole documents, to hold against an exact floor.
    The last batch may have fewer rows. Raises ValueError if a document does not fit block_size.
    """
    tokens = np.asarray(tokens)
    bounds = _bounds(tokens, eot)
    lengths = np.diff(bounds)  # eot included
    if lengths.max() > block_size:
        raise ValueError(
            f"a document must fit block_size={block_size}: number {lengths.argmax()} has "
            f"{lengths.max()} tokens with its eot. Use a larger block_size, or batches."
        )
    return _rows(tokens, pairwise(bounds.tolist()), eot, batch_size, device)


def _rows(tokens, spans, eot, batch_size, device) -> Iterator[tuple[Tensor, Tensor]]:
    while some := list(islice(spans, batch_size)):
        T = max(end - begin for begin, end in some)
        idx = torch.full((len(some), T), eot)
        targets = torch.full((len(some), T), -1)
        for row, (begin, end) in enumerate(some):
            document = torch.from_numpy(tokens[begin : end + 1].astype(np.int64))
            idx[row, : end - begin] = document[:-1]
            targets[row, : end - begin] = document[1:]
        yield idx.to(device), targets.to(device)


def _bounds(tokens: np.ndarray, eot: int | None) -> np.ndarray:
    """The places of eot, which must stand before the first document and after the last."""
    if len(tokens) < 2 or eot is None or not tokens[0] == tokens[-1] == eot:
        raise ValueError(
            f"documents are parted by eot={eot}, which must be the first and the last token: got "
            f"{len(tokens)} tokens, {tokens[:1]} to {tokens[-1:]}. token_stream writes them so."
        )
    step = 2**24
    places = (np.flatnonzero(tokens[i : i + step] == eot) + i for i in range(0, len(tokens), step))
    return np.concatenate(list(places))
