"""Learning a vocabulary: byte-level byte-pair encoding.

Text is first cut into words by PATTERN, which keeps letters, digits and the rest apart and a
space with what follows it. Each word is then a string of bytes; the most frequent pair of
neighbours becomes a token of its own, again and again.

Built by hand in the chapter on tokens. Source: Sennrich et al. 2016; Radford et al. 2019, 2.2.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import regex  # the standard library's re has no \p{L}

# GPT-2's, in a form that cuts the same and runs faster here. Source: openai/gpt-2, src/encoder.py.
# A character new in Unicode may be a letter to regex and not yet to tiktoken: its words are then
# learned whole and encoded in parts, which costs some tokens and loses nothing.
PATTERN = r""" ?\p{L}+|'(?:[sdmt]|ll|ve|re)| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s++$|\s+(?!\S)|\s"""
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = PRINTABLE + [b for b in range(256) if b not in PRINTABLE]  # id -> byte, in OpenAI's order
_INVERTED = bytes(range(255, -1, -1))
_PIECE = 2**22  # characters of a file at a time


def count_words(texts: Iterable[str | Path], special_tokens: Sequence[str]) -> Counter[bytes]:
    """How often each word stands in texts and files, special tokens left out."""
    words, cut = Counter(), regex.compile(PATTERN)
    special = regex.compile("|".join(map(regex.escape, special_tokens)) or "(?!)")
    for item in texts:
        for text in [item] if isinstance(item, str) else _pieces(Path(item)):
            for part in special.split(text):
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


def _pieces(path: Path) -> Iterator[str]:
    """A file's text in pieces that end before a blank, where PATTERN cuts in any case."""
    rest = ""
    with path.open(encoding="utf-8", newline="") as file:
        try:
            while read := file.read(_PIECE):
                rest += read
                if cut := regex.search(r"(?r)(?<=\S)(?=\s)", rest):
                    yield rest[: cut.start()]
                    rest = rest[cut.start() :]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error}.") from None
    yield rest


def learn(words: Counter[bytes], n_tokens: int) -> list[bytes]:
    """Tokens in order of id: the single bytes, then each merge.

    Of pairs with equal counts the greater pair of byte strings goes first. The same bytes are
    merged in the same way wherever they stand alone, so no token arises twice. Stops short of
    n_tokens when every word is one token.

    A word is kept as a string of ids, a character each. A pair gets all its occurrences in the
    moment when the later of its two tokens is made; after that it can only lose some. So one
    entry a pair in the heap is enough: if it is out of date when it comes up, the pair's count
    has fallen, and it goes back with today's.
    """
    tokens = [bytes([b]) for b in BYTES]
    sort_keys = {chr(i): _descending(token) for i, token in enumerate(tokens)}
    to_ids = bytes(map(BYTES.index, range(256)))
    spelled = [word.translate(to_ids).decode("latin-1") for word in words]
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
        new = chr(len(tokens))
        tokens.append(tokens[ord(pair[0])] + tokens[ord(pair[1])])
        sort_keys[new] = _descending(tokens[-1])
        found = _merge(pair, new, places.pop(pair), spelled, times, counts)
        places.update(found)
        for p, where in found.items():
            counts[p] = n = sum(map(times.__getitem__, where))
            heapq.heappush(heap, (-n, sort_keys[p[0]] + sort_keys[p[1]], p))
    return tokens


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
