"""Shards are what was written, also after a kill; batches visit every window once."""

import io
import os
import random
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from itertools import count, islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2lib import bpe, data
from gpt2lib.data import (
    Streamed,
    batches,
    read_shard,
    token_stream,
    whole_documents,
    write_shard,
)
from gpt2lib.tokenizer import Tokenizer, train_bpe

TOKENIZER = train_bpe("the cat sat on the mat. the hat sat on the cat.", 280)
EOT = TOKENIZER.eot
ALIGNMENTS = ("any", "document")


# ------------------------------------------------------------------ shards


def test_eot_stands_before_each_document_and_after_the_last():
    cat, hat = map(TOKENIZER.encode, ("the cat", "the hat"))
    ids = np.concatenate(list(token_stream(["the cat", "the hat"], TOKENIZER)))
    assert ids.tolist() == [EOT, *cat, EOT, *hat, EOT]
    assert [i.tolist() for i in token_stream([], TOKENIZER)] == [[EOT]]


@pytest.mark.parametrize("size", [1, 3, 10, 1000])
def test_documents_in_pieces_have_the_ids_of_whole_ones(size, monkeypatch):
    texts = ["the cat sat\n\n on  the mat. " * n for n in (1, 0, 40, 3)]
    expected = [i for text in texts for i in (EOT, *TOKENIZER.encode(text))]
    monkeypatch.setattr(bpe, "_PIECE", size)
    monkeypatch.setattr(data, "_GROUP", size)
    for documents in (texts, iter(texts), map(bpe.in_pieces, texts), [iter([t]) for t in texts]):
        ids = list(token_stream(documents, TOKENIZER))
        assert np.concatenate(ids).tolist() == [*expected, EOT]
        assert len(ids) > 2


def test_a_document_is_not_read_before_its_turn(monkeypatch):
    monkeypatch.setattr(data, "_GROUP", 10)
    read = []
    documents = (read.append(i) or "the cat sat on the mat" for i in range(1000))
    next(token_stream(documents, TOKENIZER))
    assert len(read) < 30


def test_a_document_cannot_smuggle_in_an_eot():
    ids = [i for chunk in token_stream(["a<|endoftext|>b"], TOKENIZER) for i in chunk]
    assert [place for place, i in enumerate(ids) if i == EOT] == [0, len(ids) - 1]


@pytest.mark.parametrize(
    "ids",
    [
        [5, 0, EOT],
        np.array([5, 0, EOT], dtype=np.uint16),
        torch.tensor([5, 0, EOT]).numpy(),
        [[5], [], [0, EOT]],
        [np.array([5, 0]), torch.tensor([EOT])],
        ((i,) for i in (5, 0, EOT)),
    ],
    ids=["list", "array", "int64", "lists", "arrays", "stream"],
)
def test_a_shard_is_read_as_it_was_written(ids, tmp_path):
    assert write_shard(tmp_path / "s.bin", ids, TOKENIZER) == 3
    tokens = read_shard(tmp_path / "s.bin", TOKENIZER)
    assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint16
    assert tokens.tolist() == [5, 0, EOT]
    assert (tmp_path / "s.bin").stat().st_size == 64 + 2 * 3


def test_a_shard_is_written_as_its_stream_comes(tmp_path, monkeypatch):
    written = []

    class Spy(io.BytesIO):
        def write(self, b):
            written.append(len(b))
            return super().write(b)

    class Opened:
        def __enter__(self):
            return Spy()

        def __exit__(self, *error):
            pass

    def chunks():
        for i in range(3):
            assert len(written) == i  # each chunk before the next
            yield [i] * 1000

    monkeypatch.setattr(data, "whole", lambda path: Opened())
    write_shard(tmp_path / "s.bin", chunks(), TOKENIZER)
    assert written == [2000, 2000, 2000, 64]


def test_a_failure_in_the_middle_leaves_the_old_shard(tmp_path):
    path = tmp_path / "s.bin"
    write_shard(path, [1, 2, 3], TOKENIZER)

    def failing():
        yield [4]
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_shard(path, failing(), TOKENIZER)
    assert read_shard(path, TOKENIZER).tolist() == [1, 2, 3]
    assert [p.name for p in tmp_path.iterdir()] == ["s.bin"]


@pytest.mark.parametrize(
    "ids",
    [[EOT + 1], [-1], [2**40], [[1, 2], [3, EOT + 1]], [0.5], [[[1]]], (i for i in (1, 2)), ["a"]],
)
def test_what_is_not_an_id_is_not_written(ids, tmp_path):
    with pytest.raises(ValueError, match=r"ids (must be 0 to n_vocab-1=270|are whole numbers)"):
        write_shard(tmp_path / "s.bin", ids, TOKENIZER)
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_too_large_for_uint16_is_refused(tmp_path):
    single = [bytes([b]) for b in range(256)]
    double = [a + b for a in single for b in single]
    large = Tokenizer([*single, *double[: 2**16 - 256]])
    with pytest.raises(ValueError, match="ids below 65,536: this tokenizer has 65,537"):
        write_shard(tmp_path / "s.bin", [1], large)
    largest = Tokenizer([*single, *double[: 2**16 - 257]])
    write_shard(tmp_path / "s.bin", [2**16 - 1], largest)
    assert read_shard(tmp_path / "s.bin", largest).tolist() == [2**16 - 1]


def test_the_shard_of_another_tokenizer_is_refused(tmp_path):
    write_shard(tmp_path / "s.bin", [1, 2], TOKENIZER)
    with pytest.raises(ValueError, match=r"s\.bin was written with another tokenizer"):
        read_shard(tmp_path / "s.bin", Tokenizer(TOKENIZER.tokens, ["<|end|>"]))


def test_a_shard_without_tokens_is_refused(tmp_path):
    assert write_shard(tmp_path / "s.bin", [], TOKENIZER) == 0
    with pytest.raises(ValueError, match="no tokens"):
        read_shard(tmp_path / "s.bin", TOKENIZER)


def test_a_shard_cut_anywhere_or_grown_is_refused(tmp_path):
    path = tmp_path / "s.bin"
    write_shard(path, [1, 2, 3, 4], TOKENIZER)
    raw = path.read_bytes()
    for n in range(len(raw)):
        path.write_bytes(raw[:n])
        with pytest.raises(ValueError, match=r"s\.bin is (truncated|not a token shard)"):
            read_shard(path, TOKENIZER)
    path.write_bytes(raw + b"\0")
    with pytest.raises(ValueError, match="take 72 bytes, it has 73"):
        read_shard(path, TOKENIZER)


def test_a_shard_with_one_bit_flipped_anywhere_is_refused(tmp_path):
    path = tmp_path / "s.bin"
    write_shard(path, [1, 2, 3, 4], TOKENIZER)
    raw = path.read_bytes()
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"s\.bin"):
            read_shard(path, TOKENIZER)


def test_a_mutated_shard_is_refused(tmp_path):
    path, rng = tmp_path / "s.bin", random.Random(1337)
    write_shard(path, np.arange(1000) % 271, TOKENIZER)
    raw = path.read_bytes()
    for _ in range(300):
        changed = bytearray(raw)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(rng.choice([64, len(changed)]))
            changed[at : at + rng.randint(0, 9)] = rng.randbytes(rng.randint(0, 9))
        if changed != raw:
            path.write_bytes(changed)
            with pytest.raises(ValueError, match=r"s\.bin"):
                read_shard(path, TOKENIZER)


HEADERS = {  # magic, fingerprint, N, n_vocab
    "another format": {"magic": b"gpt2lib shard 2\n"},
    "no such vocabulary": {"fingerprint": bytes(32)},
    "one token more than there are": {"n": 1001},
    "one token less than there are": {"n": 999},
    "more tokens than a disk holds": {"n": 2**63},
    "so many that twice as many overflow": {"n": 2**64 - 1},
    "none": {"n": 0},
    "a smaller vocabulary": {"n_vocab": 270},
    "a larger vocabulary": {"n_vocab": 2**32 - 1},
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS.keys())
def test_a_header_with_a_right_checksum_and_a_wrong_claim_is_refused(change, tmp_path):
    tokens = (np.arange(1000) % 271).astype("<u2").tobytes()
    fingerprint = bytes.fromhex(TOKENIZER.fingerprint)
    right = {"magic": data._MAGIC, "fingerprint": fingerprint, "n": 1000, "n_vocab": 271}
    for fields in (right, right | change):
        header = data._HEADER.pack(*fields.values(), 0)
        crc = zlib.crc32(header, zlib.crc32(tokens))
        (tmp_path / "s.bin").write_bytes(header[:-4] + struct.pack("<I", crc) + tokens)
        if fields == right:
            assert len(read_shard(tmp_path / "s.bin", TOKENIZER)) == 1000
    with pytest.raises(ValueError, match=r"s\.bin"):
        read_shard(tmp_path / "s.bin", TOKENIZER)


# ------------------------------------------------------------------ shards of streamed corpora

PAGES = [f"the cat sat on the mat {i} times. " * (i % 5) for i in range(3000)]  # some are empty


@pytest.fixture(scope="module", params=["json", "parquet"])
def streamed(request, tmp_path_factory):
    """PAGES on the disk in three files, as the hub has them, and the shard they should become."""
    from datasets import Dataset, load_dataset

    folder = tmp_path_factory.mktemp(request.param)
    for i in range(0, 3000, 1000):
        part, name = Dataset.from_dict({"text": PAGES[i : i + 1000], "id": range(1000)}), f"{i:04}"
        if request.param == "json":
            part.to_json(folder / name)
        else:
            part.to_parquet(folder / name, batch_size=70)  # rows that stand together

    def read():
        files = sorted(map(str, folder.iterdir()))
        rows = load_dataset(request.param, data_files=files, split="train", streaming=True)
        return rows.select_columns("text")

    return Streamed("pages", read, held_out=100)


def shard_of(texts, folder):
    write_shard(folder / "expected", token_stream(filter(None, texts), TOKENIZER), TOKENIZER)
    return (folder / "expected").read_bytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_streamed_corpus_becomes_the_shard_of_its_documents(streamed, tmp_path):
    expected = {"valid": PAGES[:100], "train": PAGES[100:]}
    for split, texts in expected.items():
        *_, n = data.stream_shard(tmp_path / split, streamed, split, TOKENIZER, every=5000)
        assert (tmp_path / split).read_bytes() == shard_of(texts, tmp_path)
        assert n == len(read_shard(tmp_path / split, TOKENIZER))
    assert names(tmp_path) == ["expected", "train", "valid"]


def test_a_stream_stopped_anywhere_goes_on_without_losing_or_repeating(streamed, tmp_path):
    path, part = tmp_path / "train.bin", tmp_path / "train.bin.part"
    steps = []
    while not path.exists():
        writing = data.stream_shard(path, streamed, "train", TOKENIZER, every=5000)
        steps.append(next(writing))
        writing.close()
        if part.exists():
            assert part.stat().st_size == 64 + 2 * steps[-1]
            with part.open("ab") as file:
                file.write(b"what a kill left there")
    assert len(steps) > 2 and steps == sorted(set(steps))
    assert path.read_bytes() == shard_of(PAGES[100:], tmp_path)
    assert names(tmp_path) == ["expected", "train.bin"]


class Pages:
    """Rows as `datasets` streams them, for a child that is killed."""

    def __init__(self, texts):
        self.texts, self.at = texts, 0

    def __iter__(self):
        while self.at < len(self.texts):
            self.at += 1
            yield {"text": self.texts[self.at - 1]}

    def skip(self, n):
        return Pages(self.texts[n:])

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


@pytest.fixture
def pages():
    return Streamed("pages", lambda: Pages(PAGES), held_out=100)


def test_a_stream_may_end_early(pages, tmp_path):
    for limit in (1, 60_000):
        path = tmp_path / str(limit)
        *_, n = data.stream_shard(path, pages, "train", TOKENIZER, limit=limit, every=5000)
        k = 1024 if limit == 1 else 2048  # documents are counted in such groups
        assert path.read_bytes() == shard_of([p for p in PAGES[100:] if p][:k], tmp_path)
        assert n > limit


def test_a_stream_without_text_is_no_shard(tmp_path):
    empty = Streamed("empty", lambda: Pages(["", ""]), held_out=0)
    with pytest.raises(ValueError, match="'empty' has no text for the split 'train'"):
        list(data.stream_shard(tmp_path / "s.bin", empty, "train", TOKENIZER))
    assert not (tmp_path / "s.bin").exists()


@pytest.mark.parametrize("wrong", ["corpus", "split", "tokenizer"])
def test_what_was_begun_as_another_is_not_gone_on_with(wrong, pages, tmp_path):
    ask = {"corpus": pages, "split": "train", "tokenizer": TOKENIZER}
    next(data.stream_shard(tmp_path / "s.bin", *ask.values(), every=5000))
    other = Tokenizer(TOKENIZER.tokens, ["<|end|>"])
    others = {"corpus": replace(pages, name="books"), "split": "all", "tokenizer": other}
    with pytest.raises(ValueError, match=r"s\.bin\.part was begun as .* remove"):
        next(data.stream_shard(tmp_path / "s.bin", *(ask | {wrong: others[wrong]}).values()))


@pytest.mark.parametrize("damage", ["cut", "changed", "note"])
def test_a_part_that_was_changed_is_not_gone_on_with(damage, pages, tmp_path):
    n = next(data.stream_shard(tmp_path / "s.bin", pages, "train", TOKENIZER, every=5000))
    part, note = tmp_path / "s.bin.part", tmp_path / "s.bin.json"
    raw = bytearray(part.read_bytes())
    raw[64 + n] ^= 1
    part.write_bytes({"cut": raw[: n + 64], "changed": raw, "note": raw}[damage])
    if damage == "note":
        note.write_bytes(note.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"s\.bin\.(part has changed|json is not)"):
        next(data.stream_shard(tmp_path / "s.bin", pages, "train", TOKENIZER))


KILLS = """
import os, random, signal, sys
sys.path.insert(0, sys.argv[2])
import test_data
from gpt2lib import data, files

path, seen = sys.argv[1] + "/s.bin", 0
pages = data.Streamed("pages", lambda: test_data.Pages(test_data.PAGES), held_out=100)
traced = {data.stream_shard.__code__, files.whole.__wrapped__.__code__}
traced |= {f.__code__ for f in vars(data._Shard).values() if hasattr(f, "__code__")}

def write(last=None):  # killed at the line that is this many lines on
    def trace(frame, event, arg):
        global seen
        seen += frame.f_code in traced
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace if frame.f_code in traced else None

    sys.settrace(trace)
    for _ in data.stream_shard(path, pages, "train", test_data.TOKENIZER, every=9000):
        pass
    sys.settrace(None)
    with open(path, "rb") as file:
        return file.read()

expected, gone_on = write(), 0
lines = seen
places = random.Random(0).sample(range(1, lines), 16)
for last in [*places, *range(lines - 9, lines)]:
    os.remove(path)
    seen, child = 0, os.fork()
    if not child:
        write(last)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if os.path.exists(path):
        assert open(path, "rb").read() == expected
    gone_on += os.path.exists(path + ".json") and os.path.exists(path + ".part")
    assert write() == expected, last
    left = [name for name in os.listdir(sys.argv[1]) if not name.startswith("s.bin.json.")]
    assert left == ["s.bin"], left
print(lines, gone_on)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows lacks")
def test_a_kill_at_any_line_costs_little_and_changes_nothing(tmp_path):
    here = str(Path(__file__).parent)
    command = [sys.executable, "-W", "ignore", "-c", KILLS, str(tmp_path), here]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    lines, gone_on = map(int, done.stdout.split())
    assert lines > 100 and gone_on > 5


# ------------------------------------------------------------------ batches, align="any"


def take(n, tokens, batch_size, block_size, **kwargs):
    return list(islice(batches(tokens, batch_size, block_size, **kwargs), n))


def stack(taken):
    return torch.cat([torch.cat([idx, targets[:, -1:]], 1) for idx, targets in taken]).numpy()


@pytest.mark.parametrize("T", [1, 2, 3, 7])
def test_an_epoch_visits_every_window_once_and_none_past_the_end(T):
    for n in range(T + 1, 5 * T + 3):
        rows = stack(take(60, np.arange(n, dtype=np.uint16), 1, T, seed=n))
        assert (rows == rows[:, :1] + np.arange(T + 1)).all()
        starts, epochs = rows[:, 0].tolist(), 0
        while starts:
            offset = starts[0] % T
            window_starts = list(range(offset, n - T, T))  # the last one reads token n − 1
            epoch, starts = starts[: len(window_starts)], starts[len(window_starts) :]
            if len(epoch) == len(window_starts):
                assert sorted(epoch) == window_starts
                epochs += 1
        assert epochs >= 10


@pytest.mark.parametrize("T", [1, 2, 5])
def test_every_token_is_read_and_predicted_before_long(T):
    for n in range(T + 1, 4 * T + 3):
        taken = take(200, np.arange(n), 1, T)
        assert {i for idx, _ in taken for i in idx.flatten().tolist()} == set(range(n - 1))
        assert {i for _, t in taken for i in t.flatten().tolist()} == set(range(1, n))


def test_targets_are_the_ids_one_token_later():
    tokens = np.random.default_rng(0).integers(0, 2**16, 500).astype(np.uint16)
    for align in ALIGNMENTS:
        tokens[[0, 77, 300, -1]] = 7
        for idx, targets in take(20, tokens, 3, 16, align=align, eot=7):
            assert idx.shape == targets.shape == (3, 16)
            assert idx.dtype == targets.dtype == torch.int64
            assert idx.is_contiguous() and targets.is_contiguous()
            assert torch.equal(idx[:, 1:], targets[:, :-1])


def test_the_order_is_shuffled_anew_by_each_seed_and_in_each_epoch():
    tokens = np.arange(101)
    first = [row[0] for row in stack(take(40, tokens, 1, 5, seed=1)).tolist()]
    other = [row[0] for row in stack(take(40, tokens, 1, 5, seed=2)).tolist()]
    assert first != other and first[:19] != sorted(first[:19])
    assert [s // 5 for s in first[:19]] != [s // 5 for s in first[20:39]]


# ------------------------------------------------------------------ batches, both alignments


def documents_of(lengths, eot=0):
    """Tokens that are all different but eot: a document of length n has n − 1 more."""
    numbers = count(1)
    tokens = [i for n in lengths for i in (eot, *islice(numbers, n - 1))]
    return np.array([*tokens, eot], dtype=np.uint16)


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_starting_at_batch_i_goes_on_exactly_there(align, batch_size):
    tokens = documents_of([3, 8, 1, 5, 13, 2, 2, 9])
    kwargs = {"align": align, "eot": 0, "seed": 5}
    run = take(40, tokens, batch_size, 4, **kwargs)
    for start in range(35):
        resumed = take(5, tokens, batch_size, 4, start=start, **kwargs)
        for (a, b), (c, d) in zip(run[start:], resumed):
            assert torch.equal(a, c) and torch.equal(b, d)


@pytest.mark.parametrize("align", ALIGNMENTS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_the_ranks_tile_the_batch_that_one_process_would_see(align, world_size):
    tokens = documents_of([3, 8, 1, 5, 13, 2, 2, 9])
    kwargs = {"align": align, "eot": 0, "seed": 5, "start": 3}
    one = take(20, tokens, 6, 4, **kwargs)
    ranks = [
        take(20, tokens, 6 // world_size, 4, part=(rank, world_size), **kwargs)
        for rank in range(world_size)
    ]
    for i, (idx, targets) in enumerate(one):
        assert torch.equal(idx, torch.cat([rank[i][0] for rank in ranks]))
        assert torch.equal(targets, torch.cat([rank[i][1] for rank in ranks]))


def test_a_mapped_shard_gives_the_batches_of_its_array(tmp_path):
    ids = [i for chunk in token_stream(["the cat sat"] * 9, TOKENIZER) for i in chunk]
    write_shard(tmp_path / "s.bin", ids, TOKENIZER)
    tokens = read_shard(tmp_path / "s.bin", TOKENIZER)
    for align in ALIGNMENTS:
        kwargs = {"align": align, "eot": EOT}
        expected = stack(take(9, np.array(ids), 2, 5, **kwargs))
        assert (stack(take(9, tokens, 2, 5, **kwargs)) == expected).all()


@pytest.mark.parametrize("align", ALIGNMENTS)
def test_a_corpus_shorter_than_a_block_is_named(align, tmp_path):
    write_shard(tmp_path / "s.bin", [EOT, 1, 2, EOT], TOKENIZER)
    tokens = read_shard(tmp_path / "s.bin", TOKENIZER)
    with pytest.raises(ValueError, match=r"s\.bin must have .* 5 tokens: it has 4"):
        batches(tokens, 1, 4, align=align, eot=EOT)
    assert take(2, tokens, 1, 3, align=align, eot=EOT)[1][1].tolist() == [[1, 2, EOT]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"block_size": 0},
        {"seed": -1},
        {"start": -1},
        {"part": (2, 2)},
        {"part": (-1, 2)},
        {"align": "documents"},
        {"align": "document", "eot": None},
        {"align": "document", "eot": 1},
    ],
)
def test_wrong_settings_are_refused_before_the_first_batch(wrong):
    settings = {"batch_size": 2, "block_size": 2} | wrong
    with pytest.raises(ValueError):
        batches(documents_of([4, 4]), **settings)


# ------------------------------------------------------------------ batches, align="document"


def windows_from(first, bounds, T):
    """Where the windows of an epoch begin, by the rule: the document that was cut comes next."""
    n = bounds[-1]
    around = [*bounds, *(n + b for b in bounds[1:])]
    at, starts = bounds[first], []
    while at < bounds[first] + n:
        starts.append(at)
        cut = next(a for a, b in pairwise(around) if b > at + T or b == around[-1])
        at = cut if cut > at else at + T
    return starts


def split_into(parts, row):
    """row as a list of parts, each in any order; a last one may be unfinished."""
    if len(row) < max(map(len, parts)):
        return []
    for part in parts:
        if sorted(row[: len(part)]) == sorted(part):
            rest = split_into(parts, row[len(part) :])
            if rest is not None:
                return [part, *rest]
    return None


@pytest.mark.parametrize(
    "lengths",
    [[4] * 6, [3, 8, 1, 5, 13, 2, 2, 9], [2] * 20, [30], [5, 4, 5], [6, 1, 6, 1, 6], [12, 3, 24]],
)
@pytest.mark.parametrize("T", [2, 4, 6, 12])
def test_an_epoch_of_documents_shows_each_whole(lengths, T):
    tokens = documents_of(lengths)
    n, bounds = len(tokens) - 1, np.flatnonzero(tokens == 0).tolist()
    ring = np.concatenate([tokens[:-1]] * 3)
    place = {tuple(ring[p : p + T + 1].tolist()): p for p in range(n)}
    taken = stack(take(100, tokens, 1, T, align="document", eot=0)).tolist()
    walks = [[s % n for s in windows_from(d, bounds, T)] for d in range(len(lengths))]
    epochs = split_into(walks, [place[tuple(row)] for row in taken])
    assert len(epochs) > 2
    for epoch in epochs:
        for begin, end in pairwise(bounds):
            if end - begin <= T:  # it is read from its eot on, and the eot after it predicted
                assert any((begin - s) % n + end - begin <= T for s in epoch)
        assert {(s + t) % n for s in epoch for t in range(T)} == set(range(n))


def test_a_document_longer_than_a_block_is_continued():
    tokens = documents_of([10, 3])  # eot at 0, 10 and 13
    starts = {tuple(windows_from(d, [0, 10, 13], 4)) for d in (0, 1)}
    assert starts == {(0, 4, 8, 10), (10, 13, 17, 21)}
    rows = stack(take(40, tokens, 1, 4, align="document", eot=0)).tolist()
    assert [4, 5, 6, 7, 8] in rows and [0, 1, 2, 3, 4] in rows


def test_the_last_document_goes_on_with_the_first():
    tokens = documents_of([3, 3])  # eot 1 2 eot 3 4 eot
    rows = stack(take(20, tokens, 1, 4, align="document", eot=0)).tolist()
    assert {tuple(row) for row in rows} == {(0, 1, 2, 0, 3), (0, 3, 4, 0, 1)}


# ------------------------------------------------------------------ whole documents


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_whole_documents_are_read_from_eot_and_predicted_to_eot(batch_size):
    texts = ["the cat", "the hat sat on the mat.", "a", "b c", "on and on and on"]
    ids = [i for chunk in token_stream(texts, TOKENIZER) for i in chunk]
    seen = []
    for idx, targets in whole_documents(np.array(ids, np.uint16), EOT, batch_size, 64):
        assert idx.dtype == targets.dtype == torch.int64
        assert idx.shape == targets.shape and len(idx) <= batch_size
        assert (targets >= 0).sum(1).max() == idx.shape[1]  # no wider than the longest
        for row, target in zip(idx.tolist(), targets.tolist(), strict=True):
            document = [i for i in target if i >= 0]
            assert target == document + [-1] * (len(target) - len(document))
            assert row == [EOT, *document[:-1]] + [EOT] * (len(target) - len(document))
            assert document[-1] == EOT
            seen.append(TOKENIZER.decode(document[:-1]))
    assert seen == texts


def test_a_document_longer_than_the_block_is_not_cut_in_silence():
    tokens = documents_of([3, 5, 4])
    assert len(list(whole_documents(tokens, 0, 1, 5))) == 3
    with pytest.raises(ValueError, match="block_size=4: number 1 has 5 tokens"):
        whole_documents(tokens, 0, 1, 4)


@pytest.mark.parametrize("tokens", [[], [0], [1, 2, 0], [0, 1, 2]])
def test_tokens_without_eot_at_both_ends_are_refused(tokens):
    with pytest.raises(ValueError, match="first and the last token"):
        whole_documents(np.array(tokens, np.uint16), 0, 1, 8)
