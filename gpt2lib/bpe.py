"""Learning a vocabulary: byte-level byte-pair encoding.

Text is first cut into words by PATTERN, which keeps letters, digits and the rest apart and a
space with what follows it. Each word is then a string of bytes; the most frequent pair of
neighbours becomes a token of its own, again and again.

Built by hand in the chapter on tokens. Source: Sennrich et al. 2016; Radford et al. 2019, 2.2.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, pairwise
from pathlib import Path

import regex  # the standard library's re has no \p{L}

# GPT-2's, in a form that cuts the same and runs faster here. Source: openai/gpt-2, src/encoder.py.
# A character new in Unicode may be a letter to regex and not yet to tiktoken: its words are then
# learned whole and encoded in parts, which costs some tokens and loses nothing.
PATTERN = r""" ?\p{L}+|'(?:[sdmt]|ll|ve|re)| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s++$|\s+(?!\S)|\s"""
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = PRINTABLE + [b for b in range(256) if b not in PRINTABLE]  # id -> byte, in OpenAI's order
_INVERTED = bytes(range(255, -1, -1))
_PIECE = 2**18  # characters at a time


def count_words(texts: Iterable[str | Path], special_tokens: Sequence[str]) -> Counter[bytes]:
    """How often each word stands in texts and files, special tokens left out."""
    words, cut = Counter(), regex.compile(PATTERN)
    special = regex.compile("|".join(map(regex.escape, special_tokens)) or "(?!)")
    for piece in chain.from_iterable(map(in_pieces, texts)):
        for part in special.split(piece):
            words.update(cut.findall(part))
    return Counter({utf8(word): n for word, n in words.items()})


def utf8(text: str) -> bytes:
    """The bytes of a text. Raises ValueError for half a character (a lone surrogate)."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text must be whole characters: got a lone surrogate, {text[error.start]!r}, at "
            f"position {error.start}. text.encode('utf-8', 'replace').decode() puts '?' there."
        ) from None


def in_pieces(text: str | Path) -> Iterator[str]:
    """A text, or a UTF-8 file (a Path) without the mark at its beginning, in pieces.

    A piece ends before a blank, where PATTERN cuts in any case: so words are counted, and ids
    found, piece by piece, in little memory. What has no blank in it is one piece.
    Raises ValueError if the file is not UTF-8.
    """
    if isinstance(text, str):
        yield from _cut(text[i : i + _PIECE] for i in range(0, len(text), _PIECE))
        return
    with text.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from _cut(iter(partial(file.read, _PIECE), ""))
        except UnicodeDecodeError as error:
            raise ValueError(f"{text} is not UTF-8 text: {error}.") from None


def _cut(parts: Iterable[str]) -> Iterator[str]:
    """The same text as parts, in pieces that end before a blank."""
    rest = ""
    for part in parts:
        known = max(0, len(rest) - 1)  # up to here there is no place to cut
        rest += part
        if len(part) < _PIECE:  # the last one
            break
        if cut := regex.search(r"(?r)(?<=\S)(?=\s)", rest, pos=known):
            yield rest[: cut.start()]
            rest = rest[cut.start() :]
    if rest:
        yield rest


def learn(words: Counter[bytes], n_tokens: int) -> list[bytes]:
    """Tokens in order of id: the single bytes, then each merge.

    Of pairs with equal counts the greater pair of byte strings goes first. The same bytes are
    merged in the same way wherever they stand alone, so no token arises twice. Stops short of
    n_tokens when every word is one token.
    """
    tokens = [bytes([b]) for b in BYTES]
    sort_keys = {chr(i): _descending(token) for i, token in enumerate(tokens)}
    to_ids = bytes(map(BYTES.index, range(256)))
    spelled = [word.translate(to_ids).decode("latin-1") for word in words]  # a character an id
    times = list(words.values())
    places = defaultdict(list)  # of each pair: the number of its word, for every time it arises
    for w, word in enumerate(spelled):
        for pair in map(str.__add__, word, word[1:]):
            places[pair].append(w)
    counts = {pair: sum(map(times.__getitem__, where)) for pair, where in places.items()}
    queue = _Queue(counts, sort_keys)
    for pair in counts:
        queue.put(pair)

    while len(tokens) < n_tokens and (pair := queue.pop()):
        new = chr(len(tokens))
        tokens.append(tokens[ord(pair[0])] + tokens[ord(pair[1])])
        sort_keys[new] = _descending(tokens[-1])
        found = _merge(pair, new, places.pop(pair), spelled, times, counts)
        for p, where in found.items():
            places[p] = where
            counts[p] = sum(map(times.__getitem__, where))
            queue.put(p)
    return tokens


class _Queue:
    """Pairs, the most frequent first; of those with equal counts, the greatest.

    A pair gets all its occurrences in the moment when the later of its two tokens is made;
    after that it only loses some. So a pair need not be found when its count falls: it is put
    back where it belongs when it comes up. Pairs wait in levels by count, and only the topmost
    level is in order.
    """

    def __init__(self, counts: dict[str, int], sort_keys: dict[str, str]):
        self.counts, self.sort_keys = counts, sort_keys
        self.levels, self.waiting = {}, []  # pairs by count; minus the counts, as a heap
        self.top, self.level = 0, []  # the topmost level: its count; its pairs, as a heap

    def put(self, pair: str) -> None:
        n = self.counts[pair]
        if n == self.top:
            key = self.sort_keys[pair[0]] + self.sort_keys[pair[1]]
            heapq.heappush(self.level, (key, pair))
        elif n in self.levels:
            self.levels[n].append(pair)
        elif n:
            self.levels[n] = [pair]
            heapq.heappush(self.waiting, -n)

    def pop(self) -> str | None:
        while self.level or self.waiting:
            if not self.level:
                self.top = -heapq.heappop(self.waiting)
                for pair in self.levels.pop(self.top):
                    self.put(pair)
                continue
            _, pair = heapq.heappop(self.level)
            if self.counts[pair] == self.top:
                return pair
            self.put(pair)
        return None


def _merge(pair, new, where, spelled, times, counts) -> dict[str, list[int]]:
    """Replace pair by new in the words numbered in where; take what is lost from the counts.

    Returns the pairs that arise, each with the number of its word for every time it does.
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
                found[x + new].append(w)
            y = word[i + 1 : i + 2]
            if y and y != new:
                counts[b + y] -= n
                found[new + y].append(w)
            i = word.find(new, i + 1)
    del counts[pair]
    return found


def _descending(token: bytes) -> str:
    """A key that sorts tokens, and joined keys pairs of tokens, from the greatest to the least."""
    return token.translate(_INVERTED).decode("latin-1") + "Ā"  # after every other character


def merges(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The pair that each token joins: what its bytes come to by the tokens before it.

    A single byte joins none. Raises ValueError for a token that two before it do not make.
    """
    ranks, pairs = {}, []
    for token in tokens:
        parts = [bytes([b]) for b in token]
        while joined := [a + b for a, b in pairwise(parts)]:
            best = min(joined, key=lambda t: ranks.get(t, len(tokens)))
            if best not in ranks:
                break
            i = joined.index(best)
            parts[i : i + 2] = [best]
        if len(parts) > 2:
            raise ValueError(
                f"each token must join two before it: {token!r:.80} is {len(parts)} parts, "
                f"{parts!r:.80}, so Hugging Face's format cannot hold it."
            )
        if len(parts) == 2:
            pairs.append(tuple(parts))
        ranks[token] = len(ranks)
    return pairs
