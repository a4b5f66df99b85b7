"""Corpora are the same each time, shards are what was written, batches visit every window once."""

import hashlib
import io
from itertools import count, islice, pairwise

import numpy as np
import pytest
import torch

from gpt2lib import corpora, data
from gpt2lib.data import (
    batches,
    cache_folder,
    corpus,
    read_shard,
    token_stream,
    whole_documents,
    write_shard,
)
from gpt2lib.storyworld import World
from gpt2lib.tokenizer import Tokenizer, train_bpe

TOKENIZER = train_bpe("the cat sat on the mat. the hat sat on the cat.", 280)
EOT = TOKENIZER.eot
ALIGNMENTS = ("any", "document")


# ------------------------------------------------------------------ corpora


def test_each_tenth_document_is_for_validation():
    texts = [f"text {i}" for i in range(25)]
    c = data.Corpus("numbers", lambda: iter(["", *texts]))  # an empty one does not count
    assert list(c.documents()) == texts
    assert list(c.documents("valid")) == ["text 9", "text 19"]
    assert list(c.documents("train")) == [t for t in texts if t not in ("text 9", "text 19")]


@pytest.mark.parametrize("n", [1, 2, 9])
def test_of_few_documents_the_last_tenth_of_each_is_for_validation(n):
    texts = ["abcdefghij" * 10 + str(i) for i in range(n)]
    c = data.Corpus("few", lambda: texts)
    train, valid = list(c.documents("train")), list(c.documents("valid"))
    assert [a + b for a, b in zip(train, valid, strict=True)] == texts == list(c.documents())
    assert {len(t) for t in train} == {int(101 * 0.9)}


def test_storyworld_is_told_without_a_file_and_the_same_each_time():
    c = corpus("storyworld", stories=30, seed=3)
    assert list(c.documents()) == World(3).stories(30, 3) == list(c.documents())
    assert len(list(c.documents("valid"))) == 3


def test_the_python_that_runs_is_a_corpus_without_repetitions():
    documents = list(corpus("python").documents())
    assert len(documents) > 200 and len(set(documents)) == len(documents)
    assert documents == list(corpus("python").documents())
    assert any("class JSONDecoder" in text for text in documents)
    with open(hashlib.__file__, encoding="utf-8") as file:
        assert file.read() in documents
    first = next(iter(corpus("python", packages=True).documents()))
    assert first == documents[0]


def test_a_source_in_an_encoding_it_does_not_declare_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "tests").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "tests" / "a.py").write_text("tests = 1\n")
    (tmp_path / "b" / "bad.py").write_bytes(b"x = '\xff'\n")
    (tmp_path / "b" / "odd.py").write_bytes(b"# coding: klingon\n")
    (tmp_path / "b" / "latin.py").write_bytes("# coding: latin-1\nx = 'é'\n".encode("latin-1"))
    (tmp_path / "b" / "same.py").write_bytes(b"y = 1\n")
    (tmp_path / "c.py").write_bytes(b"y = 1\n")
    monkeypatch.setattr(corpora.sysconfig, "get_path", lambda name: str(tmp_path))
    assert list(corpus("python").documents()) == ["y = 1\n", "# coding: latin-1\nx = 'é'\n"]


def test_a_file_is_a_document_and_a_folder_all_its_files_but_hidden_ones(tmp_path):
    (tmp_path / "b" / ".git").mkdir(parents=True)
    (tmp_path / "b" / "2.txt").write_bytes("\ufeffzwei\r\n".encode())
    (tmp_path / "b" / ".git" / "x").write_bytes(b"\xff")
    (tmp_path / ".hidden").write_bytes(b"\xff")
    (tmp_path / "a.md").write_text("eins")
    assert list(corpus(tmp_path / "a.md").documents()) == ["eins"]
    assert list(corpus(str(tmp_path)).documents()) == ["eins", "zwei\r\n"]
    assert corpus(tmp_path / "a.md").name == "a.md"


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"x\.bin is not UTF-8"):
        list(corpus(tmp_path).documents())


@pytest.mark.parametrize("name", ["no_such_thing", "", "shakespear"])
def test_a_name_that_means_nothing_is_answered_with_those_that_do(name):
    with pytest.raises(ValueError, match="storyworld, python, shakespeare, or the path"):
        corpus(name)


def test_an_empty_corpus_and_an_unknown_split_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match=r"'empty\.txt' has no text"):
        list(corpus(tmp_path / "empty.txt").documents())
    with pytest.raises(ValueError, match="split must be"):
        corpus("python").documents("test")


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A corpus to download, from a file that plays the web; the cache folder is empty."""
    (tmp_path / "web.txt").write_text("far away\n")
    sha256 = hashlib.sha256(b"far away\n").hexdigest()
    source = corpora._Download("near.txt", (tmp_path / "web.txt").as_uri(), sha256)
    monkeypatch.setitem(corpora.DOWNLOADS, "faraway", source)
    monkeypatch.setenv("GPT2LIB_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_download_is_kept_and_then_used_without_a_network(remote, capsys):
    assert list(corpus("faraway").documents()) == ["far away\n"]
    assert "faraway" in capsys.readouterr().err  # the progress bar
    (remote / "web.txt").unlink()
    assert list(corpus("faraway").documents()) == ["far away\n"]
    assert [p.name for p in (remote / "cache").iterdir()] == ["near.txt"]


def test_without_network_and_cache_it_says_what_to_do(remote):
    (remote / "web.txt").unlink()
    with pytest.raises(FileNotFoundError) as error:
        corpus("faraway")
    address, place = corpora.DOWNLOADS["faraway"].address, str(remote / "cache" / "near.txt")
    for part in ("'faraway'", address, place, "'storyworld'"):
        assert part in str(error.value)


def test_a_download_that_is_something_else_is_not_kept(remote):
    (remote / "web.txt").write_text("log in to the hotel's network\n")
    with pytest.raises(FileNotFoundError, match="what came has the SHA-256"):
        corpus("faraway")
    assert list((remote / "cache").iterdir()) == []


def test_a_wrong_file_in_the_cache_is_neither_used_nor_overwritten(remote):
    (remote / "cache").mkdir()
    (remote / "cache" / "near.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"near\.txt is not the corpus 'faraway'.*Remove it"):
        corpus("faraway")
    assert (remote / "cache" / "near.txt").read_text() == "mine"


def test_the_cache_folder_is_the_platforms_unless_told(monkeypatch, tmp_path):
    monkeypatch.setenv("GPT2LIB_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("GPT2LIB_CACHE")
    assert cache_folder().name == "gpt2lib"


# ------------------------------------------------------------------ shards


def test_eot_stands_before_each_document_and_after_the_last():
    ids = list(token_stream(["the cat", "the hat"], TOKENIZER))
    assert [i[0] for i in ids] == [EOT] * 3 and ids[-1] == [EOT]
    assert [TOKENIZER.decode(i[1:]) for i in ids] == ["the cat", "the hat", ""]


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
            assert len(written) == 1 + i  # the header's place, then each chunk before the next
            yield [i] * 1000

    monkeypatch.setattr(data, "whole", lambda path: Opened())
    write_shard(tmp_path / "s.bin", chunks(), TOKENIZER)
    assert written == [64, 2000, 2000, 2000, 64]


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
