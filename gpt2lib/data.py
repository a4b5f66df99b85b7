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
from functools import partial
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gpt2lib.corpora import Corpus as Corpus
from gpt2lib.corpora import cache_folder as cache_folder
from gpt2lib.corpora import corpus as corpus
from gpt2lib.files import whole
from gpt2lib.tokenizer import Tokenizer

# ------------------------------------------------------------------ shards

_MAGIC = b"gpt2lib shard 1\n"
_HEADER = struct.Struct("<16s32sQII")  # magic, fingerprint, N, n_vocab, CRC-32: 64 bytes


def token_stream(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """The ids of a corpus, a list a document: eot and the document; at last one eot more."""
    documents = iter(documents)
    while some := list(islice(documents, 64)):
        for ids in tokenizer.encode_batch(some):
            yield [tokenizer.eot, *ids]
    yield [tokenizer.eot]


def write_shard(path: str | Path, ids: Iterable, tokenizer: Tokenizer) -> int:
    """Write ids to a file of uint16 with a header that names the tokenizer; returns N.

    ids: one list or array, or an iterable of such, written as they come, so the corpus may be
    larger than memory: write_shard(path, token_stream(corpus.documents("train"), tok), tok).
    The file appears when it is whole. Raises ValueError for an id outside the vocabulary, or a
    vocabulary of more than 65,536.
    """
    n_vocab = tokenizer.n_vocab
    if n_vocab > 2**16:
        raise ValueError(f"a shard holds ids below 65,536: this tokenizer has {n_vocab:,} tokens.")
    flat = isinstance(ids, np.ndarray) or (isinstance(ids, list) and ids and np.ndim(ids[0]) == 0)
    n = crc = 0
    with whole(path) as file:
        file.write(bytes(_HEADER.size))
        for chunk in [ids] if flat else ids:
            chunk = np.asarray(chunk)
            if chunk.size == 0:
                continue
            if chunk.ndim != 1 or chunk.dtype.kind not in "iu":
                raise ValueError(f"ids are whole numbers in a row: got {chunk!r:.80}.")
            if not 0 <= chunk.min() <= chunk.max() < n_vocab:
                raise ValueError(
                    f"token ids must be 0 to n_vocab-1={n_vocab - 1}: got {chunk.min()} to "
                    f"{chunk.max()}. Were they made by another tokenizer?"
                )
            data = chunk.astype("<u2").tobytes()
            n, crc = n + len(chunk), zlib.crc32(data, crc)
            file.write(data)
        header = _HEADER.pack(_MAGIC, bytes.fromhex(tokenizer.fingerprint), n, n_vocab, 0)
        file.seek(0)
        file.write(header[:-4] + struct.pack("<I", zlib.crc32(header, crc)))
    return n


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
    if fingerprint.hex() != tokenizer.fingerprint:
        raise ValueError(
            f"{path} was written with another tokenizer, {fingerprint.hex()[:12]} of {n_vocab:,} "
            f"tokens; this one is {tokenizer.fingerprint[:12]} of {tokenizer.n_vocab:,}. "
            "Load that one, or write the shard again with this one."
        )
    if n == 0:
        raise ValueError(f"{path} has no tokens in it.")
    tokens = np.memmap(path, "<u2", "r", offset=_HEADER.size, shape=(n,))
    if zlib.crc32(header[:-4] + bytes(4), zlib.crc32(tokens)) != crc:
        raise ValueError(f"{path} has changed since it was written: its checksum differs.")
    return tokens


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
