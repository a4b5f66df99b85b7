"""Corpora are the same each time, wherever they come from, and say what to do where they cannot."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gpt2lib import bpe, corpora, data, run
from gpt2lib.corpora import Corpus, cache_folder, corpus
from gpt2lib.storyworld import World
from gpt2lib.tokenizer import EOT, Tokenizer


def test_each_tenth_document_is_for_validation():
    texts = [f"text {i}" for i in range(25)]
    c = Corpus("numbers", lambda: iter(["", *texts]))  # an empty one does not count
    assert list(c.documents()) == texts
    assert list(c.documents("valid")) == ["text 9", "text 19"]
    assert list(c.documents("train")) == [t for t in texts if t not in ("text 9", "text 19")]


@pytest.mark.parametrize("n", [1, 2, 9])
def test_of_few_documents_the_last_tenth_of_each_is_for_validation(n):
    texts = ["abcdefghij" * 10 + str(i) for i in range(n)]
    c = Corpus("few", lambda: texts)
    train, valid = list(c.documents("train")), list(c.documents("valid"))
    assert [a + b for a, b in zip(train, valid, strict=True)] == texts == list(c.documents())
    assert {len(t) for t in train} == {int(101 * 0.9)}


def test_a_part_without_text_is_no_document():
    c = Corpus("short", lambda: ["a", "b" * 10])
    assert list(c.documents("train")) == ["b" * 9] and list(c.documents("valid")) == ["a", "b"]


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
    first = next(corpus("python+packages").documents())
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


def test_packages_are_asked_for_by_name(tmp_path, monkeypatch):
    for name in ("stdlib", "purelib"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text(f"{name} = 1\n")
    paths = {"stdlib": "stdlib", "purelib": "purelib", "platlib": "purelib"}
    where = lambda name: str(tmp_path / paths[name])  # noqa: E731
    monkeypatch.setattr(corpora.sysconfig, "get_path", where)
    assert list(corpus("python").documents()) == ["stdlib = 1\n"]
    assert list(corpus("python+packages").documents()) == ["stdlib = 1\n", "purelib = 1\n"]


@pytest.mark.parametrize("n", [1, 2, 9, 10, 25])
@pytest.mark.parametrize("split", ["all", "train", "valid"])
def test_files_in_pieces_are_the_documents_that_their_texts_are(n, split, tmp_path, monkeypatch):
    monkeypatch.setattr(bpe, "_PIECE", 7)
    texts = [f"Füür {i} – a text,  with\r\nblanks \n" * (9 + i % 4) for i in range(n)]
    for i, text in enumerate(texts):
        (tmp_path / f"{i:02}.txt").write_bytes(text.encode())
    (tmp_path / "10a.txt").write_bytes(b"")  # an empty file is no document
    if n >= 10 and split != "all":
        texts = [text for i, text in enumerate(texts) if (i % 10 == 9) == (split == "valid")]
    elif split != "all":
        cuts = [int(0.9 * len(text)) for text in texts]
        texts = [t[:c] if split == "train" else t[c:] for t, c in zip(texts, cuts)]
    documents = [list(pieces) for pieces in corpus(tmp_path).in_pieces(split)]
    assert ["".join(p) for p in documents] == texts == list(corpus(tmp_path).documents(split))
    assert any(len(pieces) > 2 for pieces in documents) and all(map(all, documents))


def test_each_line_of_jsonl_is_a_document(tmp_path):
    lines = ['{"text": "eins\\nzwei", "id": 1}', '{"text": "dräi"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("vier")
    assert list(corpus(tmp_path).documents()) == ["eins\nzwei", "dräi", "vier"]


@pytest.mark.parametrize(
    "line", ["", "{", "[1]", '{"texts": ""}', '{"text": 3}', "\xff", "[" * 9999]
)
def test_a_line_that_is_not_json_with_a_text_is_named(line, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(ValueError, match=r"each line of .*a\.jsonl must be .*: line 2 is"):
        list(corpus(tmp_path / "a.jsonl").documents())


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
    with pytest.raises(ValueError, match=r"storyworld, python, .*shakespeare, .* or the path"):
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


def test_evaluation_sets_are_corpora_and_files(remote, monkeypatch):
    text = '{"text": "one"}\n{"text": "two"}\n'
    (remote / "web.jsonl").write_bytes(text.encode())
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    source = corpora._Download("near.jsonl", (remote / "web.jsonl").as_uri(), sha256)
    monkeypatch.setitem(corpora.DOWNLOADS, "lambada", source)
    assert corpora.download("lambada").read_bytes() == text.encode()
    assert list(corpus("lambada").documents()) == ["one", "two"]
    with pytest.raises(ValueError, match=r"can be downloaded is shakespeare, .*got 'lambda'"):
        corpora.download("lambda")


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.skipif(not SHARED.exists(), reason="the files are not on this machine")
@pytest.mark.parametrize("name", ["shakespeare", "wikitext2", "wikitext2-valid", "lambada"])
def test_the_checksums_are_those_of_the_files(name, monkeypatch):
    monkeypatch.setenv("GPT2LIB_CACHE", str(SHARED))
    n = {"shakespeare": 1, "wikitext2": 1, "wikitext2-valid": 1, "lambada": 5153}[name]
    assert len(list(corpus(name).documents())) == n


def test_the_cache_folder_is_the_platforms_unless_told(monkeypatch, tmp_path):
    monkeypatch.setenv("GPT2LIB_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("GPT2LIB_CACHE")
    assert cache_folder().name == "gpt2lib"


# ------------------------------------------------------------------ streamed


@pytest.fixture
def fineweb(tmp_path, monkeypatch):
    """Two parquet files in the cache folder: thirty rows, one without text."""
    from datasets import Dataset

    texts = [f"page {i}" if i != 17 else "" for i in range(30)]
    for i in (0, 15):
        part = Dataset.from_dict({"text": texts[i : i + 15], "url": ["http"] * 15})
        part.to_parquet(tmp_path / "fineweb-edu" / "sample" / f"{i:03}.parquet")
    monkeypatch.setenv("GPT2LIB_CACHE", str(tmp_path))
    return [text for text in texts if text]


def test_a_streamed_corpus_is_read_from_its_files_where_they_are(fineweb):
    c = replace(corpus("fineweb-edu"), held_out=10)
    assert list(c.documents()) == list(c.documents()) == fineweb
    assert list(c.documents("valid")) == fineweb[:10]
    assert list(c.documents("train")) == fineweb[10:]
    assert next(iter(c.rows("train"))) == {"text": "page 10"}
    with pytest.raises(ValueError, match="split must be"):
        c.documents("test")


def test_a_streamed_corpus_becomes_the_tokens_of_a_run(fineweb, tmp_path, monkeypatch):
    c = replace(corpus("fineweb-edu"), held_out=10)
    monkeypatch.setattr(corpora, "corpus", lambda *_, **__: c)
    ask = (tmp_path, "fineweb-edu", "train", 270, 0)
    (tmp_path / "train.bin.json").write_text("{}")  # of a run that is given up
    (tmp_path / "train.bin.part").write_text("")
    with pytest.raises(ValueError, match="was begun as"):
        run.prepare(*ask, None, overwrite=False)
    assert run.prepare(*ask, None, overwrite=True)
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    for split in ("train", "valid"):
        texts = tokenizer.decode(data.read_shard(tmp_path / f"{split}.bin", tokenizer))
        assert texts.split(EOT) == ["", *c.documents(split), ""]
    assert not run.prepare(*ask, None, overwrite=False)
    with pytest.raises(ValueError, match="Choose another folder"):
        run.prepare(*ask, 5, overwrite=False)


@pytest.mark.parametrize("name", ["fineweb-edu", "openwebtext"])
def test_without_network_a_streamed_corpus_says_what_to_do(name, tmp_path, monkeypatch):
    import datasets

    def offline(*asked, **_):
        assert asked == corpora.STREAMED[name]
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    monkeypatch.setenv("GPT2LIB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        corpus(name).documents()
    address = f"https://huggingface.co/datasets/{corpora.STREAMED[name][0]} "
    for part in (repr(name), address, "no network", str(tmp_path / name), "'storyworld'"):
        assert part in str(error.value)


def test_without_the_package_that_streams_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "gpt2lib\[streamed\]"'):
        corpus("openwebtext").documents()
