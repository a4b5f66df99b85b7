"""Checks for the exercises of chapter 6, and the wrong answers that they are proved against.

A word is a row of parts, each a string of bytes; a text is a str.

Each check draws its cases from a seed, first looks whether the answer is one of the mistakes
that are often made, then compares it with the library, or with the text itself.
"""

import random
from collections import Counter
from itertools import pairwise

import regex

from gpt2lib.answers import call
from gpt2lib.bpe import count_words, learn
from gpt2lib.tokenizer import gpt2

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ASCII = PATTERN.replace(r" ?\p{L}+", " ?[a-zA-Z]+").replace(r"\p{L}", "a-zA-Z")
EOT = "<|endoftext|>"


def _letters(text):
    return tuple(bytes([b]) for b in text.encode())


# 1 One merge ----------------------------------------------------------------------------


def _merge(parts, pair):
    out = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)


def _merge_once(parts, pair):
    for i, both in enumerate(pairwise(parts)):
        if both == pair:
            return (*parts[:i], pair[0] + pair[1], *parts[i + 2 :])
    return tuple(parts)


def _merge_backwards(parts, pair):
    turned = _merge([part[::-1] for part in parts[::-1]], (pair[1][::-1], pair[0][::-1]))
    return tuple(part[::-1] for part in turned[::-1])


def _merge_overlapping(parts, pair):
    out = []
    for i, part in enumerate(parts):
        if (part, parts[i + 1] if i + 1 < len(parts) else b"") == pair:
            out.append(pair[0] + pair[1])
        elif not (i and (parts[i - 1], part) == pair):
            out.append(part)
    return tuple(out)


def _merge_by_bytes(parts, pair):
    """Merges neighbours that come to the same bytes, however they are cut."""
    out = []
    for part in parts:
        if out and out[-1] + part == pair[0] + pair[1]:
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)


def check_my_merge(my_merge, seed=0):
    """Every occurrence of the pair, from left to right, each part used once."""
    draw = random.Random(seed)
    a, b, c = (x.encode() for x in draw.sample("abcdefgh", 3))
    cases = [
        ((c, a, b, c), (a, b), (c, a + b, c)),
        ((a, b, c, a, b, a), (a, b), (a + b, c, a + b, a)),
        ((a, a, a, b), (a, a), (a + a, a, b)),
        ((a, a, a, a, a), (a, a), (a + a, a + a, a)),
        ((a, b + c, a + b, c), (a, b + c), (a + b + c, a + b, c)),
        ((b, a), (a, b), (b, a)),
        ((a,), (a, b), (a,)),
    ]
    for parts, pair, right in cases:
        y = call(my_merge, parts, pair, hint="parts is a tuple of bytes, pair a tuple of two.")
        case = f"{parts} with {pair}: "
        assert type(y) is tuple and all(type(part) is bytes for part in y), (
            f"{case}a tuple of bytes is expected, and a {type(y).__name__} came."
        )
        mistakes = {
            "only the first occurrence is merged: all of them are to be.": _merge_once,
            "it merges from the right: in a row of three equal parts the first two are one.": (
                _merge_backwards
            ),
            "a part is used twice, in two merges at once: step over both parts of a pair.": (
                _merge_overlapping
            ),
            "it merges whatever comes to the same bytes: the parts must be those of the pair.": (
                _merge_by_bytes
            ),
        }
        for sentence, wrong in mistakes.items():
            assert not y == wrong(parts, pair) != right, case + sentence
        assert b"".join(y) == b"".join(parts), (
            f"{case}the bytes have changed to {b''.join(y)!r}: a merge loses none and adds none."
        )
        assert y == right, f"{case}{right} was expected, {y} came."


# 2 Words --------------------------------------------------------------------------------


def _count(text, special, pattern=PATTERN, keep=False, across=False, drop=""):
    parts = [text] if across else text.split(special)
    words = Counter()
    for part in parts:
        words.update(word.encode() for word in regex.findall(pattern, part))
    if keep:
        words[special.encode()] += text.count(special)
    for blank in drop:
        del words[blank.encode()]
    return words


def check_my_count_words(my_count_words, seed=0):
    """Words as GPT-2's pattern cuts them; nothing across a special token, and not the token."""
    draw = random.Random(seed)
    name, thing = draw.choice(("Mia", "Tom", "Ada")), draw.choice(("kite", "drum", "key"))
    text = (
        f"{name} isn't here.{EOT}{name} has 2 {thing}s, and  a {thing}\n{EOT} {thing}: naïve ok"
        f"{EOT}{EOT}end"
    )
    found = call(my_count_words, text, EOT, hint="Both are text.")
    assert isinstance(found, dict), f"It returned a {type(found).__name__}: a Counter is expected."
    right = _count(text, EOT)
    case = f"In {text!r}: "
    assert not any(type(word) is str for word in found), (
        "Words are counted as text: bytes are merged, so encode each word."
    )
    mistakes = {
        "the special token is cut into words like any text: <|, endoftext, |>. Split there first, "
        "so that no merge is learned from it.": _count(text, EOT, across=True),
        "the special token itself is counted as a word: it is no text, and nothing is to be "
        "learned from it.": _count(text, EOT, keep=True),
        "words are cut at blanks, and lose them: each keeps the space before it, and stops are "
        "words of their own.": _count(text, EOT, pattern=r"\S+"),
        "the space before a word is lost: the pattern has an optional one before letters, digits "
        "and the rest.": _count(text, EOT, pattern=PATTERN.replace(" ?", "")),
        "only letters from a to z count as such: ï in naïve is a letter too, \\p{L}.": _count(
            text, EOT, pattern=ASCII
        ),
        "blanks on their own are thrown away: they are part of the text.": _count(
            text, EOT, drop=" \n"
        ),
    }
    for sentence, wrong in mistakes.items():
        assert not dict(found) == wrong != right, case + sentence
    odd = {word for word in {*found, *right} if found.get(word, 0) != right[word]}
    assert not odd, (
        f"{case}{sorted(odd)[0]!r} was counted {found.get(sorted(odd)[0], 0)} times in place of "
        f"{right[sorted(odd)[0]]}."
    )
    assert count_words([text], [EOT]) == Counter(found), "The library counts otherwise."


# 3 Learning -----------------------------------------------------------------------------


def _learn(words, n, tie="greater", weigh=True, recount=True, pick="count", inner=True):
    spelled = {word: tuple(bytes([b]) for b in word) for word in words}
    learned, counts = [], None
    for _ in range(n):
        if counts is None or recount:
            counts = Counter()
            for word, parts in spelled.items():
                pairs = list(pairwise(parts)) if inner else list(pairwise(parts))[:1]
                for pair in pairs:
                    counts[pair] += words[word] if weigh else 1
        else:
            counts.pop(learned[-1], None)
        if not counts:
            break
        if pick == "length":
            best = max(counts, key=lambda p: (len(p[0] + p[1]), counts[p], p))
        elif tie == "greater":
            best = max(counts, key=lambda p: (counts[p], p))
        elif tie == "less":
            best = min(counts, key=lambda p: (-counts[p], p))
        else:
            best = max(counts, key=counts.get)  # the first seen
        learned.append(best)
        spelled = {word: _merge(parts, best) for word, parts in spelled.items()}
    return learned


def check_my_merges(my_merges, seed=0):
    """The merges in the order in which they are learned; held against the library."""
    draw = random.Random(seed)
    n, odd = 10, None
    slips = {
        "Each word counts once: a pair stands as often in the text as the words that it is in.": {
            "weigh": False
        },
        "Of pairs with equal counts the smaller was taken: the greater pair goes first.": {
            "tie": "less"
        },
        "Of pairs with equal counts the first seen was taken: then the order of the dict decides. "
        "The greater pair goes first.": {"tie": "first"},
        "The counts are those of the beginning: after a merge some pairs are gone and new ones "
        "have come. Count again.": {"recount": False},
        "The longest pair was taken, not the most frequent.": {"pick": "length"},
        "Only the first two parts of each word are counted.": {"inner": False},
    }
    fits = dict.fromkeys(slips, True)
    for _ in range(5):
        letters, words = draw.sample("abcdefgh", 4), {}
        while len(words) < 14:
            word = "".join(draw.choices(letters, weights=(5, 3, 2, 1), k=draw.randint(2, 6)))
            words[word.encode()] = draw.randint(1, 5)
        found = call(my_merges, dict(words), n, hint="words is a dict from bytes to counts.")
        assert type(found) is list and all(type(p) is tuple and len(p) == 2 for p in found), (
            f"A list of pairs is expected, and a {type(found).__name__} came; a pair is a tuple of "
            "two strings of bytes."
        )
        right = _learn(words, n)
        for sentence, slip in slips.items():
            fits[sentence] &= found == _learn(words, n, **slip)
        odd = odd or (None if found == right else (words, right, found))
    for sentence, fit in fits.items():
        assert not (odd and fit), sentence
    assert not odd, "From {} come the merges {}, and you have {}.".format(*odd)
    tokens = [a + b for a, b in found]
    assert tokens == learn(Counter(words), 256 + n)[256:], "The library learns otherwise."
    few = call(my_merges, {b"ab": 3}, 5, hint="What if no pair is left?")
    assert few == [(b"a", b"b")], "When no pair is left, stop: there is nothing more to merge."


# 4 Encoding -----------------------------------------------------------------------------


def _encode(word, ranks, how="rank"):
    parts = tuple(bytes([b]) for b in word)
    if how == "longest":
        out, i = [], 0
        while i < len(word):
            j = max(j for j in range(i + 1, len(word) + 1) if word[i:j] in ranks)
            out.append(ranks[word[i:j]])
            i = j
        return out
    while pairs := [p for p in pairwise(parts) if p[0] + p[1] in ranks]:
        if how == "first":
            parts = _merge_once(parts, pairs[0])
            continue
        if how == "highest":
            best = max(pairs, key=lambda p: ranks[p[0] + p[1]])
        else:
            best = min(pairs, key=lambda p: ranks[p[0] + p[1]])
        parts = _merge(parts, best)
        if how == "once":
            break
    if how == "bytes":
        return [ranks[bytes([b])] for b in word]
    return [ranks[part] for part in parts]


def check_my_encode(my_encode, seed=0):
    """Merge by rank, the lowest first; held against tiktoken on GPT-2's own ranks."""
    draw = random.Random(seed)
    tokenizer = gpt2()
    ranks = {token: i for i, token in enumerate(tokenizer.tokens)}
    words = [" something", "unbelievable", " strawberries", " Привет", "🦊", "a"]
    words += ["supercalifragilistic", " SolidGoldMagikarp"]
    words += ["".join(draw.choices("abcdeinorst", k=draw.randint(6, 14))) for _ in range(40)]
    plain = [token.decode() for token in tokenizer.tokens if token.strip().isalpha()]
    words += draw.sample([token for token in plain if len(token) > 9], 40)
    draw.shuffle(words)
    hears = {
        "longest": "It takes the longest token that fits, from the left: BPE merges pairs by rank, "
        "and does not look at length.",
        "first": "It merges the leftmost pair that is a token: of all of them, the one with the "
        "lowest rank comes first.",
        "highest": "It merges the pair with the highest rank: the lowest was learned first, and "
        "comes first.",
        "once": "It stops after one merge: go on until no two neighbours make a token.",
        "bytes": "It merges nothing: those are the ids of the bytes.",
    }
    fits = {how: True for how in hears}
    wrong = None
    for word in words:
        y = call(my_encode, word.encode(), ranks, hint="word is bytes, ranks a dict.")
        assert type(y) is list and all(type(i) is int for i in y), (
            f"A list of whole numbers is expected, and a {type(y).__name__} came: are they tokens "
            "still, not yet ids?"
        )
        right = tokenizer.encode(word)
        for how in hears:
            fits[how] &= y == _encode(word.encode(), ranks, how)
        wrong = wrong or (None if y == right else (word, y, right))
    for how, sentence in hears.items():
        assert not (wrong and fits[how]), sentence
    assert not wrong, "{!r} became {}, and tiktoken has {}. Write down each merge.".format(*wrong)


# 5 A stream -----------------------------------------------------------------------------


def _readable(tokens, how="right"):
    out, kept = [], b""
    for token in tokens:
        if how == "replace":
            out.append(token.decode(errors="replace"))
            continue
        if how == "ignore":
            out.append(token.decode(errors="ignore"))
            continue
        kept += token
        try:
            out.append(kept.decode())
            kept = b""
        except UnicodeDecodeError as error:
            if how == "whole":
                out.append("")
                continue
            out.append(kept[: error.start].decode())
            kept = kept[error.start :]
            if how == "forgets":
                kept = b""
    if how == "end":
        return [""] * (len(tokens) - 1) + [b"".join(tokens).decode(errors="replace")]
    if kept and how != "loses":
        out.append(kept.decode(errors="replace"))
    return out


def check_my_readable(my_readable, seed=0):
    """What can be shown after each token: all complete characters, and no part of one."""
    draw = random.Random(seed)
    tokenizer = gpt2()
    texts = ["a 🦊 in the 木 forest", "naïve Привет, мир", "हिन्दी text", "plain words only"]
    draw.shuffle(texts)
    for text in texts:
        tokens = [tokenizer.tokens[i] for i in tokenizer.encode(text)]
        # one token that holds the end of one character, a letter and the beginning of another
        raw = "é木x🦊".encode()
        tokens += [raw[:1], raw[1:4], raw[4:8], raw[8:]]
        shown = call(my_readable, list(tokens), hint="tokens is a list of bytes.")
        shown = list(shown) if hasattr(shown, "__next__") else shown
        assert type(shown) is list and all(type(piece) is str for piece in shown), (
            f"A list of text is expected, and a {type(shown).__name__} came."
        )
        assert shown != _readable(tokens, "end"), (
            "Everything comes at the end: show after each token what is complete by then."
        )
        assert not any("\ufffd" in piece for piece in shown), (
            "A � was shown: part of a character was decoded. Keep its bytes until the rest comes."
        )
        together = "".join(shown)
        assert len(together) == len(text + "é木x🦊") or shown != _readable(tokens, "ignore"), (
            "Characters that are cut by a token are gone: bytes that are not yet a character must "
            "be kept, not ignored."
        )
        assert together == text + "é木x🦊", (
            f"{text + 'é木x🦊'!r} came out as {together!r}: what was kept back was lost."
        )
        right = _readable(tokens)
        assert len(shown) == len(tokens), (
            f"{len(tokens)} tokens gave {len(shown)} pieces: one for each token is expected, empty "
            "if nothing is complete."
        )
        late = next((i for i, piece in enumerate(shown) if piece != right[i]), None)
        assert late is None, (
            f"After token {late} of {tokens!r} {right[late]!r} can be shown, and {shown[late]!r} "
            "was: characters before a part of one need not wait."
        )
    cut = call(my_readable, [b"ok", "é".encode()[:1]])
    cut = list(cut) if hasattr(cut, "__next__") else cut
    assert cut == ["ok", "", "\ufffd"], (
        "A text that ends within a character: what is left at the end is shown as one more piece, "
        f"with � for it. Here {cut!r} came."
    )


WRONG = {
    "my_merge": {
        "the first only": (_merge_once, "only the first"),
        "from the right": (_merge_backwards, "from the right"),
        "overlapping": (_merge_overlapping, "used twice"),
        "by bytes": (_merge_by_bytes, "comes to the same bytes"),
        "a list": (lambda parts, pair: list(_merge(parts, pair)), "a tuple of bytes"),
        "loses the second": (
            lambda parts, pair: tuple(p[:1] if len(p) > 1 else p for p in _merge(parts, pair)),
            "the bytes have changed",
        ),
    },
    "my_count_words": {
        "across special tokens": (lambda t, s: _count(t, s, across=True), "like any text"),
        "counts the special token": (lambda t, s: _count(t, s, keep=True), "itself is counted"),
        "by blanks": (lambda t, s: _count(t, s, pattern=r"\S+"), "cut at blanks"),
        "no space before": (
            lambda t, s: _count(t, s, pattern=PATTERN.replace(" ?", "")),
            "optional one before",
        ),
        "a to z": (lambda t, s: _count(t, s, pattern=ASCII), "a letter too"),
        "drops blanks": (lambda t, s: _count(t, s, drop=" \n"), "on their own"),
        "as text": (
            lambda t, s: Counter({w.decode(): n for w, n in _count(t, s).items()}),
            "encode each word",
        ),
    },
    "my_merges": {
        "each word once": (lambda w, n: _learn(w, n, weigh=False), "counts once"),
        "the smaller": (lambda w, n: _learn(w, n, tie="less"), "the smaller was taken"),
        "the first seen": (lambda w, n: _learn(w, n, tie="first"), "first seen"),
        "never counts again": (lambda w, n: _learn(w, n, recount=False), "Count again"),
        "the longest": (lambda w, n: _learn(w, n, pick="length"), "longest pair"),
        "the first pair of a word": (lambda w, n: _learn(w, n, inner=False), "first two parts"),
        "tokens": (lambda w, n: [a + b for a, b in _learn(w, n)], "A list of pairs"),
    },
    "my_encode": {
        "the longest": (lambda w, r: _encode(w, r, "longest"), "from the left"),
        "the first pair": (lambda w, r: _encode(w, r, "first"), "leftmost"),
        "the highest rank": (lambda w, r: _encode(w, r, "highest"), "the highest rank"),
        "one merge": (lambda w, r: _encode(w, r, "once"), "after one merge"),
        "no merge": (lambda w, r: _encode(w, r, "bytes"), "merges nothing"),
        "tokens": (lambda w, r: [bytes([b]) for b in w], "not yet ids"),
    },
    "my_readable": {
        "token by token": (lambda t: _readable(t, "replace"), "was decoded"),
        "ignores": (lambda t: _readable(t, "ignore"), "not ignored"),
        "at the end": (lambda t: _readable(t, "end"), "Everything comes"),
        "waits for all": (lambda t: _readable(t, "whole"), "need not wait"),
        "forgets": (lambda t: _readable(t, "forgets"), "was lost"),
        "loses the rest": (lambda t: _readable(t, "loses"), "ends within a character"),
        "only what is not empty": (
            lambda t: [piece for piece in _readable(t) if piece],
            "one for each token",
        ),
    },
}
