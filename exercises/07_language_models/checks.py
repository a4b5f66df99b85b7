"""Checks for the exercises of chapter 7, and the wrong answers that they are proved against."""

import math
import random
from collections import Counter
from itertools import pairwise, product

import torch

CLOSE = {"rtol": 1e-9, "atol": 1e-12}
BIT = math.log(2)  # nats


def _near(a, b):
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def _tensor(y, name, shape):
    """A tensor of this shape, or a sentence."""
    assert isinstance(y, torch.Tensor), (
        f"{name} returned {type(y).__name__}, not a tensor: is the return missing?"
    )
    assert y.is_floating_point(), f"{name} returned numbers of {y.dtype}: logarithms are floats."
    assert y.shape == shape, (
        f"{name} returned the shape {tuple(y.shape)} in place of {tuple(shape)}: "
        "write the shape of each step at the end of its line."
    )


def _float(y, name):
    """A number, or a sentence."""
    assert isinstance(y, int | float), (
        f"{name} returned {type(y).__name__}, not a number: is the return missing?"
    )


# ------------------------------------------------------------------ 1 · my_surprisals


def check_my_surprisals(my_surprisals, seed=0):
    """The surprisal of each token but the first, by the logits one place earlier."""
    g = torch.Generator().manual_seed(seed)
    T, V = 7, 11
    logits = 3 * torch.randn(T, V, generator=g, dtype=torch.float64)
    idx = torch.randint(V, (T,), generator=g)
    y = my_surprisals(logits.clone(), idx.clone())
    assert not isinstance(y, torch.Tensor) or y.shape != (T,), (
        f"{T} surprisals for {T} tokens is one too many: the first token has no logits before it, "
        "and the last logits have no token after them in idx. Which row was made up?"
    )
    _tensor(y, "my_surprisals", (T - 1,))
    rows = [row.tolist() for row in logits]
    totals = [math.log(sum(map(math.exp, row))) for row in rows]
    want = [totals[t] - rows[t][idx[t + 1]] for t in range(T - 1)]
    want = torch.tensor(want, dtype=torch.float64)
    same = torch.tensor([totals[t] - rows[t][idx[t]] for t in range(T)], dtype=torch.float64)
    best = torch.tensor([totals[t] - max(rows[t]) for t in range(T - 1)], dtype=torch.float64)
    for shifted in (same[1:], same[:-1]):
        assert not torch.allclose(y.double(), shifted, **CLOSE), (
            "Each token is scored by the logits of its own place, which have already read it: "
            "off by one. Logits at t predict the token at t + 1; look at both slices."
        )
    assert not torch.allclose(y.double(), -want, **CLOSE), (
        "The surprisals are negative: ln p is at most 0, and surprisal is −ln p. Look at the sign."
    )
    assert not torch.allclose(y.double(), want / math.log(2), **CLOSE), (
        "The numbers are too large by a factor of 1.44: these are bits. Is the logarithm natural?"
    )
    assert not torch.allclose(y.double(), best, **CLOSE), (
        "That is the surprisal of the likeliest token, whatever came: pick the column of the token "
        "in idx, not the maximum of the row."
    )
    assert torch.allclose(y.double(), want, rtol=1e-6), (
        f"The first surprisal should be {want[0]:.4f} nats and is {y[0]:.4f}: compute −ln softmax "
        "of one row by hand and compare."
    )
    large = my_surprisals(logits + 1000, idx)
    assert isinstance(large, torch.Tensor) and torch.allclose(large.double(), want, rtol=1e-6), (
        "With 1,000 added to all logits the answer changes to inf or nan, though no probability "
        "does: exp overflows. Take log_softmax, or subtract the largest logit first."
    )


def _same_place(logits, idx):
    return -logits[1:].log_softmax(-1).gather(-1, idx[1:, None])[:, 0]


def _wraps_around(logits, idx):
    return -logits.log_softmax(-1).gather(-1, idx.roll(-1)[:, None])[:, 0]


def _log_prob(logits, idx):
    return logits[:-1].log_softmax(-1).gather(-1, idx[1:, None])[:, 0]


def _in_bits(logits, idx):
    return -_log_prob(logits, idx) / math.log(2)


def _of_the_likeliest(logits, idx):
    return -logits[:-1].log_softmax(-1).max(-1).values


def _overflows(logits, idx):
    p = logits[:-1].exp() / logits[:-1].exp().sum(-1, keepdim=True)
    return -p.gather(-1, idx[1:, None])[:, 0].log()


# ------------------------------------------------------------------ 2 · my_cross_entropy


def check_my_cross_entropy(my_cross_entropy, seed=0):
    """The mean over the targets that count, its gradient, and large logits."""
    g = torch.Generator().manual_seed(seed)
    B, T, V = 3, 5, 7
    logits = torch.randn(B, T, V, generator=g, dtype=torch.float64)
    targets = torch.randint(V, (B, T), generator=g)
    y = my_cross_entropy(logits.clone(), targets.clone())
    _tensor(y, "my_cross_entropy", ())

    def nats(b, t):
        row = logits[b, t].tolist()
        return math.log(sum(map(math.exp, row))) - row[targets[b, t]]

    each = [[nats(b, t) for t in range(T)] for b in range(B)]
    want = sum(map(sum, each)) / (B * T)
    over_time = -logits.log_softmax(1).gather(-1, targets[..., None]).mean()
    assert not _near(y.item(), float(over_time)), (
        "The probabilities of one position do not sum to 1: the softmax runs along time, not along "
        "the vocabulary. Which axis of (B, T, V) is given to it?"
    )
    assert not _near(y.item(), want / math.log(2)), (
        "The loss is too large by a factor of 1.44: this is in bits. Is the logarithm natural?"
    )
    assert not _near(y.item(), want * B * T), (
        f"The loss is {B * T} times too large: a sum over the positions. "
        "Divide by the number of targets that count."
    )
    assert math.isclose(y.item(), want, rel_tol=1e-6), (
        f"Without any −1 the loss should be {want:.4f} nats and is {y.item():.4f}: compare one "
        "position with −ln softmax(logits)[target] by hand."
    )

    # Rows of different lengths: 5, 2 and 4 targets count.
    cut, counted = targets.clone(), [(b, t) for b, n in ((0, 5), (1, 2), (2, 4)) for t in range(n)]
    cut[1, 2:] = cut[2, 4:] = -1
    want = sum(each[b][t] for b, t in counted) / len(counted)
    logits.requires_grad_()
    y = my_cross_entropy(logits, cut.clone())
    _tensor(y, "my_cross_entropy", ())
    value, padded = y.item(), [(1, 2), (1, 3), (1, 4), (2, 4)]
    rows = [logits.detach()[b, t] for b, t in padded]
    last = [float(torch.logsumexp(row, -1) - row[-1]) for row in rows]
    assert not _near(value, (want * len(counted) + sum(last)) / (B * T)), (
        "A target of −1 was taken for the last token of the vocabulary, as Python counts from the "
        "end: positions with −1 must not be in the sum."
    )
    assert not _near(value, want * len(counted) / (B * T)), (
        f"The sum is right, but was divided by all {B * T} positions: padding makes the loss look "
        f"small. Only {len(counted)} targets count."
    )
    rows = [sum(each[b][:n]) / n for b, n in ((0, 5), (1, 2), (2, 4))]
    assert not _near(value, sum(rows) / B), (
        "Every row weighs the same, however many targets it has: a mean of means. "
        "Every target should weigh the same; sum over all rows before you divide."
    )
    assert math.isclose(value, want, rel_tol=1e-6), (
        f"With some targets −1 the loss should be {want:.4f} nats and is {value:.4f}: "
        "which positions are in the sum, and which in the count?"
    )
    assert y.grad_fn is not None, (
        "The loss has no gradient: was it computed from .item() or .tolist(), detached, or under "
        "no_grad? Every step from the logits must stay a tensor."
    )
    y.backward()
    grad = torch.zeros(B, T, V, dtype=torch.float64)
    for b, t in counted:
        grad[b, t] = logits[b, t].detach().softmax(-1)
        grad[b, t, cut[b, t]] -= 1
    assert logits.grad is not None and torch.allclose(
        logits.grad, grad / len(counted), rtol=1e-6
    ), (
        "The value is right and its gradient is not: it should be softmax − one-hot, over the "
        "count, and 0 where the target is −1. Is a part of the loss cut off from the logits?"
    )
    large = my_cross_entropy(logits.detach() + 1000, cut)
    assert isinstance(large, torch.Tensor) and math.isclose(large.item(), want, rel_tol=1e-6), (
        "With 1,000 added to all logits the loss is inf or nan, though no probability has changed: "
        "exp overflows. Use logsumexp, or subtract the largest logit of each position."
    )


def _picked(logits, targets):
    """ln p of each target; −1 picks the last token, as indexing does."""
    V = logits.shape[-1]
    return logits.log_softmax(-1).gather(-1, (targets % V)[..., None])[..., 0]


def _counts_padding(logits, targets):
    return -(_picked(logits, targets) * (targets != -1)).sum() / targets.numel()


def _minus_one_is_last(logits, targets):
    return -_picked(logits, targets).mean()


def _sums(logits, targets):
    return -(_picked(logits, targets) * (targets != -1)).sum()


def _mean_of_rows(logits, targets):
    counts = targets != -1
    return (-(_picked(logits, targets) * counts).sum(-1) / counts.sum(-1)).mean()


def _softmax_over_time(logits, targets):
    picked = logits.log_softmax(1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return -picked[targets != -1].mean()


def _loss_in_bits(logits, targets):
    return -_picked(logits, targets)[targets != -1].mean() / math.log(2)


def _loss_overflows(logits, targets):
    counts = targets != -1
    logits, targets = logits[counts], targets[counts]
    return (logits.exp().sum(-1).log() - logits.gather(-1, targets[:, None])[:, 0]).mean()


def _detached(logits, targets):
    return -_picked(logits.detach(), targets)[targets != -1].mean()


def _total_detached(logits, targets):
    """Takes the denominator of the softmax for a constant."""
    counts = targets != -1
    logits, targets = logits[counts], targets[counts]
    total = torch.logsumexp(logits, -1).detach()
    return (total - logits.gather(-1, targets[:, None])[:, 0]).mean()


# ------------------------------------------------------------------ 3 · my_denominators


def check_my_denominators(my_denominators, seed=0):
    """Perplexity a token and a word, and bits a byte, from the same surprisals."""
    rng = random.Random(seed)
    words = ["Mia", "café", "naïve", "kite", "lost", "—", "Zürich", "red"]
    text = "  ".join(rng.choices(words, k=4)) + "\n" + " ".join(["Señor", *rng.choices(words, k=5)])
    nats = [rng.uniform(0, 5) for _ in range(23)]
    y = my_denominators(list(nats), text)
    assert isinstance(y, tuple) and len(y) == 3, (
        f"my_denominators returned {type(y).__name__}: it should return three floats, "
        "perplexity a token, perplexity a word, bits a byte, in this order."
    )
    for number in y:
        _float(number, "my_denominators")
    a_token, a_word, bits = y
    total, n_words, n_bytes = sum(nats), len(text.split()), len(text.encode())
    assert not _near(a_token, sum(map(math.exp, nats)) / len(nats)), (
        "That is the mean of the tokens' perplexities, which a few bad tokens dominate: "
        "average the nats first, and take the exponential once."
    )
    assert not _near(a_token, 2 ** (total / len(nats))), (
        "2 to the power of nats: the surprisals are natural logarithms, so the base is e."
    )
    assert _near(a_token, math.exp(total / len(nats))), (
        f"Perplexity a token should be {math.exp(total / len(nats)):.4f} and is {a_token:.4f}: "
        "the exponential of the mean surprisal."
    )
    assert not _near(a_word, a_token), (
        "Perplexity a word equals perplexity a token, but there are more tokens than words: "
        "the nats of all tokens are shared out among the words."
    )
    assert not _near(a_word, math.exp(total / len(text.split(" ")))), (
        "The words were counted by single spaces: two spaces make an empty word, and a line break "
        "none. Look at what split does without an argument."
    )
    assert _near(a_word, math.exp(total / n_words)), (
        f"Perplexity a word should be {math.exp(total / n_words):.4f} and is {a_word:.4f}: "
        "all nats over the number of words, then the exponential."
    )
    assert not _near(bits, total / math.log(2) / len(text)), (
        "The bits were divided by characters: é takes two bytes in UTF-8, and — takes three. "
        "Encode the text before you count."
    )
    assert not _near(bits, total / n_bytes), (
        "That is nats a byte. One bit is ln 2 nats: divide by it once more."
    )
    assert not _near(bits, total / len(nats) / math.log(2)), (
        "That is bits a token: multiply by the tokens and divide by the bytes."
    )
    assert _near(bits, total / math.log(2) / n_bytes), (
        f"Bits a byte should be {total / math.log(2) / n_bytes:.4f} and is {bits:.4f}: "
        "all nats, over ln 2, over the bytes of the text in UTF-8."
    )


def _right_denominators(nats, text, a_token=None, words=None, size=None, bit=BIT):
    total = sum(nats)
    a_token = math.exp(total / len(nats)) if a_token is None else a_token
    words = len(text.split()) if words is None else words
    size = len(text.encode()) if size is None else size
    return a_token, math.exp(total / words), total / bit / size


def _mean_of_perplexities(nats, text):
    return _right_denominators(nats, text, a_token=sum(map(math.exp, nats)) / len(nats))


def _two_to_the_nats(nats, text):
    return _right_denominators(nats, text, a_token=2 ** (sum(nats) / len(nats)))


def _words_are_tokens(nats, text):
    return _right_denominators(nats, text, words=len(nats))


def _single_spaces(nats, text):
    return _right_denominators(nats, text, words=len(text.split(" ")))


def _characters(nats, text):
    return _right_denominators(nats, text, size=len(text))


def _nats_a_byte(nats, text):
    return _right_denominators(nats, text, bit=1.0)


def _bits_a_token(nats, text):
    return _right_denominators(nats, text, size=len(nats))


# ------------------------------------------------------------------ 4 · my_bigram


def check_my_bigram(my_bigram, seed=0):
    """Log-probabilities that sum to 1, smoothed by the strength that was asked for."""
    rng = random.Random(seed)
    V = 6
    ids = [*rng.choices(range(V - 2), k=40), 0, 1, 0, 1, V - 2]  # V−2 only at the end, V−1 never
    for strength in (1.0, 0.25):
        y = my_bigram(torch.tensor(ids), V, strength)
        _tensor(y, "my_bigram", (V, V))
        y = y.double()
        assert (y != -math.inf).all(), (
            "Some pairs have log-probability −inf: they were not seen, and one of them in a new "
            "text makes its loss infinite. Is the strength added to every count?"
        )
        assert not y.isnan().any(), (
            "There is a nan: what happens to a token that nothing was seen to follow? "
            "0/0 should have become 1/V."
        )
        assert not torch.allclose(y.sum(-1), torch.ones(V).double()), (
            "The rows themselves sum to 1: these are probabilities. Return their logarithms."
        )
        pairs = Counter(pairwise(ids))
        n = torch.tensor([[pairs[u, v] for v in range(V)] for u in range(V)]).double()
        want = ((n + strength) / (n.sum(-1, keepdim=True) + strength * V)).log()
        assert not torch.allclose(y, want.mT), (
            "The columns sum to 1, not the rows: row u should be the distribution of what follows "
            "u. Are the indices the wrong way round?"
        )
        once = (n > 0).double() + strength
        assert not torch.allclose(y, (once / once.sum(-1, keepdim=True)).log()), (
            "Every pair was counted at most once: counts[u, v] += 1 with tensors of indices writes "
            "each place once. Use index_put_ with accumulate=True, bincount, or a loop."
        )
        ones = torch.tensor([ids.count(u) for u in range(V)]).double()[:, None]
        assert not torch.allclose(y, ((n + strength) / (ones + strength * V)).log()), (
            "One row falls short of 1: the last token of the text has no follower. "
            "Count a token as the first of a pair, not everywhere."
        )
        too_much = ((n + strength) / n.sum(-1, keepdim=True)).log()[n.sum(-1) > 0]
        assert not torch.allclose(y[n.sum(-1) > 0], too_much), (
            "The rows sum to more than 1: what is added to each of the V counts of a row must be "
            "added to its total V times."
        )
        ones_added = ((n + 1) / (n.sum(-1, keepdim=True) + V)).log()
        assert strength == 1 or not torch.allclose(y, ones_added), (
            f"The answer for strength={strength} is that for strength 1: is the argument used?"
        )
        assert torch.allclose(y.exp().sum(-1), torch.ones(V).double()), (
            "The probabilities of a row do not sum to 1: what is each count divided by?"
        )
        assert torch.allclose(y, want, rtol=1e-5), (
            "The rows sum to 1, but the numbers are off: count the pairs of a text of three tokens "
            "by hand and compare."
        )


def _pair_counts(idx, V):
    counts = torch.zeros(V, V, dtype=torch.float64)
    for u, v in zip(idx.tolist(), idx.tolist()[1:]):
        counts[u, v] += 1
    return counts


def _no_smoothing(idx, V, strength):
    n = _pair_counts(idx, V)
    return (n / n.sum(-1, keepdim=True).clamp(min=1)).log()


def _probabilities(idx, V, strength):
    n = _pair_counts(idx, V) + strength
    return n / n.sum(-1, keepdim=True)


def _transposed(idx, V, strength):
    return _probabilities(idx, V, strength).mT.log()


def _counts_once(idx, V, strength):
    n = torch.zeros(V, V, dtype=torch.float64)
    n[idx[:-1], idx[1:]] += 1
    return ((n + strength) / (n + strength).sum(-1, keepdim=True)).log()


def _total_not_smoothed(idx, V, strength):
    n = _pair_counts(idx, V)
    total = n.sum(-1, keepdim=True)
    return torch.where(total > 0, (n + strength) / total, 1 / V).log()


def _counts_the_last(idx, V, strength):
    total = torch.bincount(idx, minlength=V)[:, None]
    return ((_pair_counts(idx, V) + strength) / (total + strength * V)).log()


def _ignores_strength(idx, V, strength):
    return _probabilities(idx, V, 1.0).log()


# ------------------------------------------------------------------ 5 · my_entropy


def _split(rng):
    """Two probabilities."""
    a = rng.uniform(0.1, 0.45)
    return a, 1 - a


def check_my_entropy(my_entropy, seed=0):
    """Grammars that decide nothing, choose, choose twice, and say a text in two ways."""
    rng = random.Random(seed)

    def ask(rules):
        y = my_entropy(rules)
        _float(y, "my_entropy")
        return y

    y = ask({"S": [(1.0, ("it", "END"))], "END": [(1.0, ("rains",))]})
    assert _near(y, 0.0), f"A grammar with a single text has entropy 0: got {y:.4f} nats."

    a, b = _split(rng)
    coin = {"S": [(1.0, ("Mia", "DOES"))], "DOES": [(a, ("sings",)), (b, ("sleeps",))]}
    want = _entropy_of([a, b])
    y = ask(coin)
    assert not _near(y, want / math.log(2)), (
        "The entropy is too large by a factor of 1.44: these are bits. Nats were asked for."
    )
    assert not _near(y, math.log(2)), (
        f"Two texts with {a:.2f} and {b:.2f} are not worth ln 2: the logarithm of the number of "
        "texts is right only if all are equally likely. Weigh each by its probability."
    )
    assert _near(y, want), (
        f"Two texts with probabilities {a:.2f} and {b:.2f} have {want:.4f} nats: got {y:.4f}. "
        "Is it −Σ p ln p, and is p the product of the choices?"
    )

    c, d = _split(rng)
    branch = {
        "S": [(c, ("Tom", "DOES", "and", "Mia", "DOES")), (d, ("nobody", "came"))],
        "DOES": coin["DOES"],
    }
    want = _entropy_of([c * x * z for x, z in product((a, b), repeat=2)] + [d])
    y = ask(branch)
    assert not _near(y, _entropy_of([c, d]) + _entropy_of([a, b])), (
        "The entropies of the rules were added up once each. A rule counts as often as it is "
        "used: here twice with the first sentence, and not at all with the second."
    )
    assert _near(y, want), (
        f"Where a rule is used twice in a text the entropy is {want:.4f} nats: got {y:.4f}. "
        "Both uses choose for themselves; list the texts on paper."
    )

    # "a b" + "c" and "a" + "b c" are one text said in two ways; "ab c" is another one.
    e, f = _split(rng)
    twice = {
        "S": [(e, ("AB", "c")), (f, ("a", "BC"))],
        "AB": [(0.5, ("a", "b")), (0.5, ("ab",))],
        "BC": [(c, ("b", "c")), (d, ("bc",))],
    }
    y = ask(twice)
    apart = [e / 2, e / 2, f * c, f * d]
    assert not _near(y, _entropy_of(apart)), (
        "A text that can be derived in two ways was counted as two texts: "
        "add up its probabilities before you take the logarithm."
    )
    assert not _near(y, 0.0), (
        "'a b c', 'ab c' and 'a bc' were taken for one text: without the space between them "
        "words run together. What joins the words?"
    )
    want = _entropy_of([e / 2 + f * c, e / 2, f * d])
    assert _near(y, want), (
        f"A grammar that says one text in two ways has {want:.4f} nats: got {y:.4f}. "
        "List its three texts with their probabilities."
    )


def _entropy_of(probabilities):
    return -math.fsum(p * math.log(p) for p in probabilities if p)


def _derivations(rules, symbols=("S",)):
    """Every derivation: (probability, words)."""
    for i, symbol in enumerate(symbols):
        if symbol in rules:
            for p, expansion in rules[symbol]:
                rest = (*symbols[:i], *expansion, *symbols[i + 1 :])
                for q, words in _derivations(rules, rest):
                    yield p * q, words
            return
    yield 1.0, symbols


def _texts(rules, space=" "):
    texts = Counter()
    for p, words in _derivations(rules):
        texts[space.join(words)] += p
    return texts


def _of_derivations(rules):
    return _entropy_of([p for p, _ in _derivations(rules)])


def _number_of_texts(rules):
    return math.log(len(_texts(rules)))


def _entropy_in_bits(rules):
    return _entropy_of(_texts(rules).values()) / math.log(2)


def _rules_once(rules):
    return math.fsum(_entropy_of([p for p, _ in rule]) for rule in rules.values())


def _no_space(rules):
    return abs(_entropy_of(_texts(rules, "").values()))


# ------------------------------------------------------------------ 6 · my_price_of_forgetting


def check_my_price_of_forgetting(my_price_of_forgetting, seed=0):
    """The prediction, held against a list of all texts."""
    rng = random.Random(seed)
    cases = [({"red": 0.5, "blue": 0.25, "green": 0.25}, 1)]
    weights = [rng.uniform(0.2, 2) for _ in range(5)]
    p = {word: w / sum(weights) for word, w in zip("red blue green black white".split(), weights)}
    cases += [(p, 1), (p, 3), ({"red": 1.0}, 4), (p, 0)]
    for p, mentions in cases:
        y = my_price_of_forgetting(dict(p), mentions)
        _float(y, "my_price_of_forgetting")
        measured = 0.0  # cross-entropy − entropy, text by text
        for word in p:
            true, model = p[word], p[word] ** (1 + mentions)
            measured += true * math.log2(true / model)
        entropy = -sum(x * math.log2(x) for x in p.values())
        if mentions == 1 and entropy:
            assert not _near(y, measured * math.log(2)), (
                f"Predicted {y:.4f}, measured {measured:.4f}: these are nats, and bits were asked."
            )
            assert not _near(y, math.log2(len(p))), (
                f"Predicted log2 {len(p)} = {y:.4f}, measured {measured:.4f}: the colours are not "
                "equally likely, and the model knows how likely each is."
            )
            assert not _near(y, 2 * measured), (
                "Predicted twice what was measured: at the first mention nothing has been "
                "forgotten, there the perfect model has to guess too."
            )
            assert not _near(y, 1 - max(p.values())), (
                f"Predicted {y:.4f}, how often the likeliest guess is wrong: a loss does not count "
                f"errors but surprisal. Measured: {measured:.4f} bits."
            )
        if mentions > 1 and entropy:
            assert not _near(y, entropy), (
                f"Predicted {y:.4f} for {mentions} later mentions, measured {measured:.4f}: "
                "the model forgets anew, and pays each time."
            )
        assert _near(y, measured), (
            f"With {len(p)} colours and {mentions} later mentions: predicted {y:.4f} bits, "
            f"measured {measured:.4f}. What does the model assign to a text, and what the world?"
        )


def _bits(p):
    return -sum(x * math.log2(x) for x in p.values())


def _price_in_nats(p, mentions):
    return mentions * _bits(p) * math.log(2)


def _price_if_uniform(p, mentions):
    return mentions * math.log2(len(p))


def _pays_at_first(p, mentions):
    return (mentions + 1) * _bits(p)


def _error_rate(p, mentions):
    return mentions * (1.0 - max(p.values()))


def _pays_once(p, mentions):
    return _bits(p) if mentions else 0.0


# ------------------------------------------------------------------ the wrong answers

WRONG = {  # exercise: {the mistake: (wrong answer, a piece of the sentence that must reject it)}
    "my_surprisals": {
        "scores a token by the logits of its own place": (_same_place, "off by one"),
        "wraps around at the end": (_wraps_around, "one too many"),
        "forgets the sign": (_log_prob, "Look at the sign"),
        "takes the logarithm to base 2": (_in_bits, "these are bits"),
        "takes the likeliest token": (_of_the_likeliest, "the likeliest token, whatever came"),
        "exponentiates large logits": (_overflows, "exp overflows"),
    },
    "my_cross_entropy": {
        "divides by the padding too": (_counts_padding, "padding makes the loss look"),
        "lets −1 pick the last token": (_minus_one_is_last, "the last token of the vocabulary"),
        "does not divide": (_sums, "a sum over the positions"),
        "averages the rows' averages": (_mean_of_rows, "a mean of means"),
        "softmax along time": (_softmax_over_time, "runs along time"),
        "takes the logarithm to base 2": (_loss_in_bits, "this is in bits"),
        "exponentiates large logits": (_loss_overflows, "exp overflows"),
        "detaches the loss": (_detached, "The loss has no gradient"),
        "takes the softmax's denominator for a constant": (_total_detached, "its gradient is not"),
    },
    "my_denominators": {
        "averages perplexities": (_mean_of_perplexities, "mean of the tokens' perplexities"),
        "takes nats for bits": (_two_to_the_nats, "2 to the power of nats"),
        "takes tokens for words": (_words_are_tokens, "more tokens than words"),
        "splits at single spaces": (_single_spaces, "two spaces make an empty word"),
        "takes characters for bytes": (_characters, "divided by characters"),
        "forgets ln 2": (_nats_a_byte, "That is nats a byte"),
        "takes tokens for bytes": (_bits_a_token, "That is bits a token"),
    },
    "my_bigram": {
        "does not smooth": (_no_smoothing, "log-probability −inf"),
        "returns probabilities": (_probabilities, "these are probabilities"),
        "normalises the columns": (_transposed, "the wrong way round"),
        "counts each pair once": (_counts_once, "accumulate=True"),
        "does not smooth the total": (_total_not_smoothed, "added to its total V times"),
        "counts the last token as a first": (_counts_the_last, "has no follower"),
        "ignores the strength": (_ignores_strength, "is the argument used"),
    },
    "my_entropy": {
        "counts derivations": (_of_derivations, "counted as two texts"),
        "takes the logarithm of the number of texts": (_number_of_texts, "not worth ln 2"),
        "takes the logarithm to base 2": (_entropy_in_bits, "these are bits"),
        "adds up the rules once each": (_rules_once, "added up once each"),
        "joins words without a space": (_no_space, "words run together"),
    },
    "my_price_of_forgetting": {
        "predicts in nats": (_price_in_nats, "these are nats"),
        "takes the colours for equally likely": (_price_if_uniform, "not equally likely"),
        "pays at the first mention too": (_pays_at_first, "at the first mention nothing"),
        "counts errors": (_error_rate, "a loss does not count errors"),
        "pays once": (_pays_once, "pays each time"),
    },
}
