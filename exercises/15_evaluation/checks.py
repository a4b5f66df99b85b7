"""Checks for the exercises of chapter 15, and the wrong answers that they are proved against.

Each check draws its cases from a seed, names the mistake that fits all of them, and compares with
gpt2lib.evaluate and gpt2lib.tasks where these have the same.
"""

import math
from collections import Counter

import numpy as np

from gpt2lib import tasks
from gpt2lib.answers import call


def _floats(y, n, what):
    assert type(y) in (tuple, list) and len(y) == n, (
        f"It returned a {type(y).__name__}, not {n} numbers: {what}."
    )
    for part in y:
        _number(part, what)


def _number(y, what):
    assert type(y) in (int, float), (
        f"It returned a {type(y).__name__}, not a number: {what} was due. Is the return missing, "
        "or is it numpy's? float() makes one of it."
    )


def _same(found, right, tol=1e-9):
    """Whether two lists of cases agree; a case is a number or several."""
    found, right = np.array(found, float), np.array(right, float)
    return found.shape == right.shape and np.allclose(found, right, rtol=tol, atol=tol)


def _names(found, mistakes, cases):
    for sentence, wrong in mistakes.values():
        assert not _same(found, [wrong(*case) for case in cases]), sentence


# 1 Perplexities -------------------------------------------------------------------------


def _perplexities(nats, text, *, words=None, size=None, bits=1, mean=0, root=1):
    n_words = len(text.split()) if words is None else words(text)
    n_bytes = len(text.encode()) if size is None else size(text)
    total = sum(nats) / (len(nats) if mean else 1)
    by_word = math.exp(total / n_words) if root else total / n_words
    return by_word, total / n_bytes / (math.log(2) if bits else 1)


PERPLEXITY_MISTAKES = {
    "by token": (
        "The perplexity is by token: the total is to be shared out among the words of the text.",
        lambda nats, text: _perplexities(nats, text, words=lambda _: len(nats)),
    ),
    "mean": (
        "The losses were averaged first, and then divided again: the total of all tokens is what "
        "is shared out.",
        lambda nats, text: _perplexities(nats, text, mean=1),
    ),
    "nats": (
        "The second number is in nats a byte: a bit is ln 2 nats, so divide by it.",
        lambda nats, text: _perplexities(nats, text, bits=0),
    ),
    "characters": (
        "Characters were counted for bytes: é is one character and two bytes in UTF-8.",
        lambda nats, text: _perplexities(nats, text, size=len),
    ),
    "no exp": (
        "The first number is the loss by word itself: its exponential is the perplexity.",
        lambda nats, text: _perplexities(nats, text, root=0),
    ),
    "blanks": (
        "Words were counted by cutting at each single blank: two blanks or a newline make words "
        "of nothing. split() without an argument does not.",
        lambda nats, text: _perplexities(nats, text, words=lambda t: len(t.split(" "))),
    ),
}


def check_my_perplexities(my_perplexities, seed=0):
    """Perplexity by word and bits a byte, of texts with odd blanks and letters."""
    rng = np.random.default_rng(seed)
    texts = ["Où est  le café ?\nLà-bas .", "a\n\nb c déjà", "Ünder the  oak\nsat Zoë ."]
    cases = [(rng.uniform(0.1, 3, int(rng.integers(8, 20))).tolist(), text) for text in texts]
    found = [call(my_perplexities, list(nats), text) for nats, text in cases]
    for y in found:
        _floats(y, 2, "perplexity by word, bits a byte")
    _names(found, PERPLEXITY_MISTAKES, cases)
    right = [_perplexities(*case) for case in cases]
    assert _same(found, right), (
        f"It gives {found[0]} where {right[0]} was due: the total of the losses, once over the "
        "words and exponentiated, once over the bytes and ln 2."
    )


def _perplexities_with(name):
    return lambda nats, text: PERPLEXITY_MISTAKES[name][1](nats, text)


# 2 Windows ------------------------------------------------------------------------------


def _windows(n, block_size, stride, *, kind=""):
    out, begin, counted = [], 0, 0
    while counted < n:
        end = min(begin + block_size, n)
        out.append((begin, end, begin if kind == "all" else counted))
        if kind == "one off":
            out[-1] = (begin, end, counted + bool(begin))
        if kind == "last part" and begin:
            out[-1] = (begin, end, end - 1)
        counted = end
        begin += block_size if kind == "no stride" else stride
    if kind == "short dropped":
        out = [w for w in out if w[1] - w[0] == block_size] or out[:1]
    if kind == "on to the end":
        while begin < n:
            out.append((begin, n, n))
            begin += stride
    return out


WINDOW_MISTAKES = {
    "all": "Targets are counted twice: in a window that overlaps the one before, only what that "
    "one did not reach is new.",
    "no stride": "The windows stand side by side: the next one begins stride further, and not a "
    "block_size.",
    "short dropped": "The end of the text is missing: the last window may be shorter than the "
    "others, and its targets count.",
    "one off": "Between two windows one target is skipped: the first that counts is the one at "
    "which the window before ended.",
    "last part": "Only the last target of each window counts: then with a stride above 1 targets "
    "are skipped.",
    "on to the end": "There are windows in which nothing is new: stop when all targets are "
    "counted.",
}


def check_my_windows(my_windows, seed=0):
    """Each target counted once, each window as long as it may be."""
    rng = np.random.default_rng(seed)
    cases = [(int(rng.integers(21, 40)), 8, int(rng.integers(3, 6))), (23, 8, 2), (6, 8, 3)]
    cases.append((24, 8, 8))
    found = [call(my_windows, *case) for case in cases]
    for y in found:
        assert type(y) is list and all(type(w) in (tuple, list) and len(w) == 3 for w in y), (
            f"It returned a {type(y).__name__}, not a list of (begin, end, first counted): is the "
            "return missing, or is it a generator? list() makes a list of it."
        )
    found = [[tuple(map(int, w)) for w in y] for y in found]
    for kind, sentence in WINDOW_MISTAKES.items():
        assert found != [_windows(*case, kind=kind) for case in cases], sentence
    for case, y in zip(cases, found):
        assert y == _windows(*case), (
            f"For n, block_size, stride = {case} it gives {y}, where {_windows(*case)} was due."
        )


def _windows_with(kind):
    return lambda *case: _windows(*case, kind=kind)


# 3 F1 -----------------------------------------------------------------------------------


def _bag(text, *, case=1, marks=1, articles=1):
    text = text.lower() if case else text
    text = "".join(c for c in text if c.isalnum() or c.isspace()) if marks else text
    drop = {"a", "an", "the"} if articles else set()
    return [word for word in text.split() if word not in drop]


def _f1(made, right, *, kind=""):
    how = {kind: 0} if kind in ("case", "marks", "articles") else {}
    a, b = _bag(made, **how), _bag(right, **how)
    if kind == "set":
        a, b = sorted(set(a)), sorted(set(b))
    common = (Counter(a) & Counter(b)).total()
    if kind == "repeats":
        common = sum(word in b for word in a)
    if not common:
        return 0.0
    precision, recall = common / len(a), common / len(b)
    if kind == "precision":
        return precision
    if kind == "recall":
        return recall
    if kind == "mean":
        return (precision + recall) / 2
    return 2 * precision * recall / (precision + recall)


F1_MISTAKES = {
    "set": "A word that stands there twice counts once: words are a bag here, and not a set.",
    "repeats": "A word that is repeated in the answer is found each time, though the right answer "
    "has it once: take away what has been matched.",
    "precision": "It is the precision alone, common words over those that were said: a short "
    "answer that leaves much out would be perfect.",
    "recall": "It is the recall alone, common words over those of the right answer: an answer that "
    "says everything would be perfect.",
    "mean": "Precision and recall were averaged as they are: F1 is their harmonic mean, "
    "2PR / (P + R).",
    "case": "Capitals make words differ: put both in lower case first.",
    "marks": "Punctuation sticks to words, and makes them differ: take it away first.",
    "articles": "Articles count as words: a, an and the are left out on both sides.",
}


def check_my_f1(my_f1, seed=0):
    """Words in common, with repeats, capitals, marks and articles."""
    rng = np.random.default_rng(seed)
    names = ["Mia", "Tom", "Ruth", "Otto"]
    x, y, z = (names[i] for i in rng.permutation(4)[:3])
    cases = [
        (f"the {x}, and {x} and {y}", f"{x} and {y}."),
        (f"{x} met {y}", f"{x} and a fox met {y} and {y}"),
        (f"A red bell is with {x.lower()}", f"The red red bell, with {x}!"),
        (f"{z}", f"{z} has it, the key"),
        (f"an {x} an old {z} said so", f"{x} {z}"),
    ]
    found = [call(my_f1, *case) for case in cases]
    for got in found:
        _number(got, "an F1")
    for kind, sentence in F1_MISTAKES.items():
        assert not _same(found, [_f1(*case, kind=kind) for case in cases]), sentence
    for case, got in zip(cases, found):
        right = tasks.f1(*case)
        assert math.isclose(got, right, abs_tol=1e-9), (
            f"For {case} it gives {got:.3f}, where {right:.3f} was due: count the words in common, "
            "each as often as both have it."
        )
    assert call(my_f1, f"{x}", f"{y}") == 0, (
        "Where no word is in common F1 should be 0: is there a division by zero, or a default?"
    )


def _f1_with(kind):
    return lambda made, right: float(_f1(made, right, kind=kind))


def _f1_without_zero(made, right):
    return _f1(made, right) or 1.0


# 4 The bootstrap ------------------------------------------------------------------------


def _interval(values, draws, level, *, kind=""):
    values, draws = np.asarray(values), np.asarray(draws)
    means = values[draws].mean(1)
    left = (1 - level) / 2
    if kind == "one tail":
        left = 1 - level
    if kind == "values":
        means = values
    if kind == "over draws":
        means = values[draws].mean(0)
    if kind == "ends":
        return float(means.min()), float(means.max())
    if kind == "sums":
        means = values[draws].sum(1)
    if kind == "normal":
        error = values.std() / len(values) ** 0.5
        return float(values.mean() - 1.96 * error), float(values.mean() + 1.96 * error)
    return tuple(float(q) for q in np.quantile(means, (left, 1 - left)))


INTERVAL_MISTAKES = {
    "one tail": "All that is left out is left out on either side: a level of 0.9 leaves out 0.05 "
    "below and 0.05 above.",
    "values": "These are percentiles of the values themselves: the interval is that of the mean, "
    "so take a mean of each drawn sample first.",
    "over draws": "Means were taken over the samples and not within each: a row of draws is one "
    "sample.",
    "ends": "These are the least and the greatest mean of all: the interval leaves out the ends.",
    "sums": "These are percentiles of sums: the mean of each sample is asked for.",
    "normal": "This is the formula with 1.96 standard errors, which does not look at the draws: "
    "here the percentiles of drawn means are asked for.",
}


def check_my_interval(my_interval, seed=0):
    """Percentiles of the means of given samples."""
    rng = np.random.default_rng(seed)
    cases = []
    for level in (0.95, 0.8):
        values = rng.exponential(size=12)
        cases.append((values, rng.integers(12, size=(40, 12)), level))
    found = [call(my_interval, v.copy(), d.copy(), level) for v, d, level in cases]
    for y in found:
        _floats(y, 2, "low and high")
    for kind, sentence in INTERVAL_MISTAKES.items():
        assert not _same(found, [_interval(*case, kind=kind) for case in cases]), sentence
    right = [_interval(*case) for case in cases]
    assert not _same([y[::-1] for y in found], right), (
        "High came before low: the lower end of the interval comes first."
    )
    assert _same(found, right), (
        f"It gives {found[0]} where {right[0]} was due: the mean of each row of draws, then "
        "np.quantile at (1 − level) / 2 and at one less that."
    )


def _interval_with(kind):
    return lambda *case: _interval(*case, kind=kind)


# 5 Choosing -----------------------------------------------------------------------------


def _choices(endings, *, kind=""):
    totals = [sum(nats) for nats, _ in endings]
    tokens = [total / len(nats) for total, (nats, _) in zip(totals, endings)]
    sizes = [len(text.encode()) for _, text in endings]
    if kind == "characters":
        sizes = [len(text) for _, text in endings]
    if kind == "words":
        sizes = [len(text.split()) for _, text in endings]
    if kind == "times":
        sizes = [1 / size for size in sizes]
    by_byte = [total / size for total, size in zip(totals, sizes)]
    pick = np.argmin if kind == "least" else np.argmax
    out = tuple(int(pick(by)) for by in (totals, tokens, by_byte))
    if kind == "first token":
        firsts = int(np.argmax([nats[0] for nats, _ in endings]))
        return firsts, *out[1:]
    if kind == "order":
        return out[1], out[0], out[2]
    return out


CHOICE_MISTAKES = {
    "least": "It takes the least likely ending: log-probabilities are below 0, and the greatest is "
    "the one nearest to 0.",
    "characters": "Characters were counted for bytes: ü is one character and two bytes in UTF-8.",
    "words": "The third choice divides by words: bytes were asked for.",
    "times": "The third choice multiplies by the length, and should divide by it.",
    "first token": "The first choice looks at the first token of each ending alone: the sum of all "
    "its tokens was asked for.",
    "order": "The choices are in another order: by the sum, by token, by byte.",
}


def check_my_choices(my_choices, seed=0):
    """Three choices among endings of different lengths."""
    rng = np.random.default_rng(seed)
    words = ["ja", "übermütig", "éé éé éé", "a b c d e", "no", "naïveté", "ok then", "ñandúñandú"]
    cases = []
    for _ in range(30):
        endings = []
        for i in rng.permutation(len(words))[:4]:
            n = int(rng.integers(1, 6))
            endings.append(((-rng.uniform(0.2, 3, n)).tolist(), words[i]))
        cases.append((endings,))
    found = [call(my_choices, [(list(a), b) for a, b in case[0]]) for case in cases]
    for y in found:
        _floats(y, 3, "an index by the sum, by token, by byte")
    for kind, sentence in CHOICE_MISTAKES.items():
        assert not _same(found, [_choices(*case, kind=kind) for case in cases]), sentence
    right = [_choices(*case) for case in cases]
    off = [i for i, (a, b) in enumerate(zip(found, right)) if tuple(a) != b]
    assert not off, (
        f"It chooses {tuple(found[off[0]])} where {right[off[0]]} was due: sums of ln p, over "
        "nothing, over the number of tokens, over the number of bytes."
    )


def _choices_with(kind):
    return lambda endings: _choices(endings, kind=kind)


# 6 Overlap ------------------------------------------------------------------------------


def _runs(words, n, *, kind=""):
    stop = len(words) - n + (0 if kind == "last" else 1)
    step = n if kind == "apart" else 1
    return [tuple(words[i : i + n]) for i in range(0, max(0, stop), step)]


def _overlap(test, training, n, *, kind=""):
    if kind == "joined":
        joined = [word for text in training for word in text]
        known = set(_runs(joined, n))
    else:
        known = {run for text in training for run in _runs(text, n)}
    runs = _runs(test, n, kind=kind)
    if kind == "words":
        known, runs = {w for t in training for w in t}, test
    if kind == "sets":
        known, runs = {frozenset(run) for run in known}, [frozenset(run) for run in runs]
    if kind == "distinct":
        runs = list(set(runs))
    hits = sum(run in known for run in runs)
    if kind == "of training":
        return hits / len(known)
    if kind == "any":
        return float(hits > 0)
    return hits / len(runs)


OVERLAP_MISTAKES = {
    "words": "It looks for single words: runs of n words in a row were asked for.",
    "sets": "The order within a run does not matter to it, and should: a run is a tuple.",
    "last": "The last run of the text is missing: there are len(words) − n + 1 of them.",
    "apart": "The runs stand side by side: they overlap, one begins at each word.",
    "of training": "The share is of the training text's runs: of the test's runs it was asked for.",
    "any": "It only says whether there is an overlap: the share of runs was asked for.",
    "joined": "Training texts were joined into one, so that runs arise that stand in none of them.",
    "distinct": "Runs that stand in the test twice count once: each place of the test counts.",
}


def check_my_overlap(my_overlap, seed=0):
    """The share of a test's runs of n words that stand in a training text."""
    rng = np.random.default_rng(seed)
    cases = []
    for n in (2, 3):
        training = [[f"w{i}" for i in rng.integers(12, size=14)] for _ in range(4)]
        test = [f"w{i}" for i in rng.integers(12, size=9)] + training[0][-2:] + training[1][:2]
        test += ["fox", *test[:5], *training[0][-1:], *training[1][: n - 1], "owl"]
        test += training[2][3:8]
        cases.append((test, training, n))
    found = [call(my_overlap, list(t), [list(x) for x in tr], n) for t, tr, n in cases]
    for y in found:
        _number(y, "a share")
    for kind, sentence in OVERLAP_MISTAKES.items():
        assert not _same(found, [_overlap(*case, kind=kind) for case in cases]), sentence
    right = [_overlap(*case) for case in cases]
    assert _same(found, right), (
        f"It gives {found[0]:.3f} where {right[0]:.3f} was due: all runs of n words of each "
        "training text in a set, and how many of the test's runs are in it."
    )


def _overlap_with(kind):
    return lambda *case: _overlap(*case, kind=kind)


WRONG = {  # exercise: {the mistake: (wrong answer, a piece of the sentence that must reject it)}
    "my_perplexities": {
        "by token": (_perplexities_with("by token"), "The perplexity is by token"),
        "mean first": (_perplexities_with("mean"), "The losses were averaged first"),
        "nats a byte": (_perplexities_with("nats"), "is in nats a byte"),
        "characters": (_perplexities_with("characters"), "Characters were counted"),
        "no exponential": (_perplexities_with("no exp"), "the loss by word itself"),
        "single blanks": (_perplexities_with("blanks"), "cutting at each single blank"),
    },
    "my_windows": {
        "counted twice": (_windows_with("all"), "Targets are counted twice"),
        "side by side": (_windows_with("no stride"), "The windows stand side by side"),
        "end missing": (_windows_with("short dropped"), "The end of the text is missing"),
        "one skipped": (_windows_with("one off"), "one target is skipped"),
        "last alone": (_windows_with("last part"), "Only the last target"),
        "too many": (_windows_with("on to the end"), "in which nothing is new"),
    },
    "my_f1": {
        "sets": (_f1_with("set"), "a bag here, and not a set"),
        "repeats found": (_f1_with("repeats"), "is found each time"),
        "precision": (_f1_with("precision"), "the precision alone"),
        "recall": (_f1_with("recall"), "the recall alone"),
        "plain mean": (_f1_with("mean"), "averaged as they are"),
        "capitals": (_f1_with("case"), "Capitals make words differ"),
        "marks": (_f1_with("marks"), "Punctuation sticks"),
        "articles": (_f1_with("articles"), "Articles count as words"),
        "no zero": (_f1_without_zero, "F1 should be 0"),
    },
    "my_interval": {
        "one tail": (_interval_with("one tail"), "left out on either side"),
        "of the values": (_interval_with("values"), "of the values themselves"),
        "over samples": (_interval_with("over draws"), "not within each"),
        "the ends": (_interval_with("ends"), "the least and the greatest"),
        "sums": (_interval_with("sums"), "percentiles of sums"),
        "by formula": (_interval_with("normal"), "1.96 standard errors"),
        "high first": (lambda *case: _interval(*case)[::-1], "High came before low"),
    },
    "my_choices": {
        "the least likely": (_choices_with("least"), "the least likely ending"),
        "characters": (_choices_with("characters"), "Characters were counted"),
        "words": (_choices_with("words"), "divides by words"),
        "multiplied": (_choices_with("times"), "multiplies by the length"),
        "first token": (_choices_with("first token"), "first token of each ending"),
        "order": (_choices_with("order"), "in another order"),
    },
    "my_overlap": {
        "words": (_overlap_with("words"), "looks for single words"),
        "without order": (_overlap_with("sets"), "The order within a run"),
        "last run": (_overlap_with("last"), "The last run of the text"),
        "side by side": (_overlap_with("apart"), "The runs stand side by side"),
        "of the training text": (_overlap_with("of training"), "of the training text's runs"),
        "yes or no": (_overlap_with("any"), "whether there is an overlap"),
        "joined": (_overlap_with("joined"), "joined into one"),
        "distinct": (_overlap_with("distinct"), "count once: each place"),
    },
}
