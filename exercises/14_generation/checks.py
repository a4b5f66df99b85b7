"""Checks for the exercises of chapter 14, and the wrong answers that they are proved against.

    B batch   H heads   T new tokens   P tokens in the cache   D channels of a head   V vocabulary

Each check draws its cases from a seed, names the mistake that fits, and compares with
gpt2lib.generate and gpt2lib.attention.
"""

import torch
from torch import Tensor

from gpt2lib.answers import call, close, is_tensor, names_none_of
from gpt2lib.attention import attention, causal_mask
from gpt2lib.generate import filter_logits

NOTHING = float("-inf")


def _logits(seed, *shape):
    g = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=g, dtype=torch.float64)


def _filtered(logits, **how):
    """The library's answer, which computes in float32, as a mask on these logits."""
    return logits.masked_fill(filter_logits(logits, **how) == NOTHING, NOTHING)


def _kept(y):
    return (y > NOTHING).sum(-1).tolist()


# 1 Temperature --------------------------------------------------------------------------


def _warm(logits, temperature):
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    return (logits / temperature).softmax(-1)


TEMPERATURE_MISTAKES = {
    "times": (
        "A high temperature makes it more certain, and should make it less: the logits are divided "
        "by the temperature, and not multiplied.",
        lambda x, t: (x * t).softmax(-1),
    ),
    "ignored": (
        "The temperature changes nothing: these are the probabilities at temperature 1.",
        lambda x, t: x.softmax(-1),
    ),
    "after": (
        "The temperature came after the softmax, which was then taken twice: divide the logits.",
        lambda x, t: (x.softmax(-1) / t).softmax(-1),
    ),
    "divided": (
        "Probabilities were divided by the temperature, so they do not add up to 1: divide the "
        "logits, before the softmax.",
        lambda x, t: x.softmax(-1) / t,
    ),
    "over rows": (
        "The columns add up to 1 and not the rows: the softmax runs over the texts of the batch, "
        "and should run over the vocabulary, dim=-1.",
        lambda x, t: (x / t).softmax(0),
    ),
    "logits": (
        "Logits came out, and probabilities were asked for: is the softmax missing?",
        lambda x, t: x / t,
    ),
}


def check_my_temperature(my_temperature, seed=0):
    """Probabilities at several temperatures, at a very low one and at 0."""
    x = _logits(seed, 3, 7)
    for temperature in (0.5, 1.7):
        y = call(my_temperature, x.clone(), temperature)
        is_tensor(y, (3, 7), torch.float64, "A probability for each token of the vocabulary.")
        named = {why: wrong(x, temperature) for why, wrong in TEMPERATURE_MISTAKES.values()}
        names_none_of(y, named)
        assert close(y, _warm(x, temperature)), (
            f"At temperature {temperature} the probabilities are off by up to "
            f"{(y - _warm(x, temperature)).abs().max():.2g}: softmax of logits / temperature."
        )
    low = call(my_temperature, x.clone(), 1e-3)
    assert close(low, _warm(x, 1e-3)), (
        "At a temperature of a thousandth it breaks down: an exponential grew too large. "
        "Tensor.softmax takes off the greatest logit first; exp of your own does not."
    )
    x[:, 5] = x[:, 2] = x.amax() + 1  # two are the likeliest
    zero = call(my_temperature, x.clone(), 0)
    is_tensor(zero, (3, 7), torch.float64, "A probability for each token of the vocabulary.")
    assert not zero.isnan().any(), (
        "At temperature 0 it divides by 0, and nan comes out: there all of the probability is on "
        "the likeliest token. Treat it as a case of its own."
    )
    assert not close(zero, (x == x.amax(-1, keepdim=True)).double() / 2), (
        "At temperature 0 the two likeliest tokens share: then the answer is still drawn. argmax "
        "takes one of them, the first."
    )
    assert close(zero, _warm(x, 0)), (
        "At temperature 0 the likeliest token should have the probability 1, and the others 0."
    )


def _warm_with(name):
    def wrong(x, t):
        return TEMPERATURE_MISTAKES[name][1](x, t) if t else _warm(x, t)

    return wrong


def _own_exp(x, t):
    if t == 0:
        return _warm(x, 0)
    y = (x / t).exp()
    return y / y.sum(-1, keepdim=True)


def _zero_shared(x, t):
    if t:
        return _warm(x, t)
    y = (x == x.amax(-1, keepdim=True)).double()
    return y / y.sum(-1, keepdim=True)


# 2 Top-k --------------------------------------------------------------------------------


def _top_k(x, k, *, least=0, ties=0, value=NOTHING, together=0, smallest=0):
    k = min(k, x.shape[-1])
    pool = x.flatten() if together else x
    line = pool.topk(k, largest=not smallest).values[..., -1:]
    keep = (x <= line if smallest else x >= line) if ties or together or smallest else None
    if keep is None:
        order = x.sort(dim=-1, descending=True, stable=True).indices
        keep = torch.zeros_like(x, dtype=torch.bool).scatter(-1, order[..., : k + least], True)
    return x.masked_fill(~keep, value)


TOP_K_MISTAKES = {
    "probability 0": (
        "The logits of the others became 0, which is no small logit: the softmax makes e⁰ of it. "
        "Minus infinity takes a token out.",
        {"value": 0.0},
    ),
    "smallest": (
        "The k least likely tokens stayed: is the sorting the other way round?",
        {"smallest": 1},
    ),
    "one more": ("One token too many stayed: an index starts at 0.", {"least": 1}),
    "one less": ("One token too few stayed: look at where the slice ends.", {"least": -1}),
    "together": (
        "The k greatest of the whole batch stayed, so that some texts have none: each row is a "
        "text, with its own k tokens.",
        {"together": 1},
    ),
}


def check_my_top_k(my_top_k, seed=0):
    """The k greatest logits of each row, and no more where some are equal."""
    x = _logits(seed, 3, 9)
    x[1] += 5  # one text is sure of itself
    for k in (2, 4):
        y = call(my_top_k, x.clone(), k)
        is_tensor(y, (3, 9), torch.float64, "The logits, some of them minus infinity.")
        assert not close(y, x.sort(dim=-1, descending=True).values.masked_fill(
            torch.arange(9) >= k, NOTHING)), (
            "The logits came out in the order of their size: then number 0 is no longer token 0. "
            "Leave each at its place."
        )  # fmt: skip
        assert not close(y, _top_k(x, k).softmax(-1)), (
            "Probabilities came out, and logits were asked for: whoever samples takes the softmax."
        )
        names_none_of(y, {why: _top_k(x, k, **how) for why, how in TOP_K_MISTAKES.values()})
        assert close(y, _filtered(x, top_k=k)), (
            f"With k = {k} the rows keep {_kept(y)} tokens, or others than the {k} greatest."
        )
    x[:, [1, 3, 4, 6]] = x.amax() + 1  # four are equal, and the greatest
    y = call(my_top_k, x.clone(), 3)
    assert not close(y, _top_k(x, 3, ties=1)), (
        "Where logits are equal more than k tokens stay: everything from the k-th greatest up. Of "
        "equal ones let the first stay."
    )
    assert close(y, _filtered(x, top_k=3)), (
        f"Where four logits are equal, k = 3 should keep the first three of them: got {_kept(y)}."
    )
    assert close(call(my_top_k, x.clone(), 50), x), (
        "If k is larger than the vocabulary, everything stays: something is cut off or stops."
    )


def _top_k_with(name):
    def wrong(x, k):
        how = TOP_K_MISTAKES[name][1]
        return _top_k(x, k, **how)

    return wrong


# 3 Top-p --------------------------------------------------------------------------------


def _top_p(x, p, *, kind=""):
    ranked, order = x.sort(dim=-1, descending=kind != "rising", stable=True)
    probs = ranked.softmax(-1)
    total = probs.cumsum(-1)
    cut = total - probs >= p
    if kind == "short":
        cut = total > p
    elif kind == "one more":
        cut = torch.cat([torch.zeros_like(cut[..., :1]), (total - probs >= p)[..., :-1]], -1)
    elif kind == "each":
        cut = probs < p
    elif kind == "rest":
        cut = total - probs >= 1 - p
    ranked = ranked.masked_fill(cut, NOTHING)
    if kind == "order":
        return ranked
    return torch.empty_like(x).scatter(-1, order, ranked)


TOP_P_MISTAKES = {
    "short": "The token with which the sum reaches p is gone: it belongs in, or the rest has less "
    "than p together.",
    "one more": "One token too many stays: those before it had reached p already.",
    "each": "Tokens were kept whose own probability is at least p: it is the sum that should reach "
    "p, counted from the likeliest down.",
    "rest": "It keeps what adds up to 1 − p: p is what stays, and not what goes.",
    "rising": "The sum was taken from the least likely up: sort with the likeliest first.",
    "order": "The logits came out in the order of their size: put each back to its token.",
}


def check_my_top_p(my_top_p, seed=0):
    """The fewest likeliest tokens that reach p together, row by row."""
    x = torch.cat([_logits(seed, 2, 8), 0.1 * _logits(seed + 50, 1, 8)])
    for p in (0.35, 0.8):
        y = call(my_top_p, x.clone(), p)
        is_tensor(y, (3, 8), torch.float64, "The logits, some of them minus infinity.")
        right = _filtered(x, top_p=p)
        assert not close(y, right.softmax(-1)), (
            "Probabilities came out, and logits were asked for: whoever samples takes the softmax."
        )
        names_none_of(y, {why: _top_p(x, p, kind=kind) for kind, why in TOP_P_MISTAKES.items()})
        first = _filtered(x[:1], top_p=p) > NOTHING
        alike = x.masked_fill(~first, NOTHING)
        assert close(alike, right) or not close(y, alike), (
            "All rows keep the tokens of the first: each text has its own."
        )
        assert close(y, right), (
            f"With p = {p} the rows keep {_kept(y)} tokens where {_kept(right)} were due. Print "
            "the running sum beside the sorted probabilities."
        )
    tiny = call(my_top_p, x.clone(), 1e-4)
    assert _kept(tiny) == [1, 1, 1], (
        f"With a tiny p the rows keep {_kept(tiny)} tokens: the likeliest must always stay."
    )
    assert close(call(my_top_p, x.clone(), 1.0), x), (
        "With p = 1 something is cut off: the running sum may end a little above or below 1, so "
        "compare what stands before a token."
    )


def _top_p_with(kind):
    def wrong(x, p):
        return _top_p(x, p, kind=kind)

    return wrong


def _first_row(x, p):
    return x.masked_fill(_top_p(x[:1], p) == NOTHING, NOTHING)


def _none_left(x, p):
    return _top_p(x, p, kind="short") if p < 0.01 else _top_p(x, p)


# 4 Drawing ------------------------------------------------------------------------------


def _draw(probs, u):
    """The first token whose running sum is above u."""
    return (probs.cumsum(-1) > u[:, None]).double().argmax(-1)


def _count(probs, u):
    return (probs.cumsum(-1) < u[:, None]).sum(-1)


DRAW_MISTAKES = {
    "greedy": (
        "It always takes the likeliest token, whatever u is: that is no draw.",
        lambda p, u: p.argmax(-1),
    ),
    "one further": (
        "Each draw is one token too far: the first whose running sum is above u is meant, and "
        "tokens count from 0.",
        lambda p, u: (_draw(p, u) + 1).clamp(max=p.shape[-1] - 1),
    ),
    "from the end": (
        "The running sum begins at the last token: any order would be a fair draw, but here it is "
        "that of the vocabulary.",
        lambda p, u: p.shape[-1] - 1 - _draw(p.flip(-1), u),
    ),
    "evenly": (
        "u was cut into V equal parts: then all tokens are equally likely, whatever the "
        "probabilities are.",
        lambda p, u: (u * p.shape[-1]).long(),
    ),
    "own probability": (
        "It takes the first token whose own probability is above u: compare the running sum.",
        lambda p, u: (p > u[:, None]).double().argmax(-1),
    ),
    "one number": (
        "All rows were drawn with the first row's u: each text has a number of its own.",
        lambda p, u: _draw(p, u[:1].expand(len(u))),
    ),
}


def check_my_draw(my_draw, seed=0):
    """The inverse of the running sum, at random numbers and at the edges."""
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(40, 6, generator=g, dtype=torch.float64)
    p[:, 2] = 0  # never to be drawn
    p = p / p.sum(-1, keepdim=True)
    u = torch.rand(40, generator=g, dtype=torch.float64)
    y = call(my_draw, p.clone(), u.clone())
    is_tensor(y, (40,), torch.int64, "One token id for each row.")
    for sentence, wrong in DRAW_MISTAKES.values():
        assert not torch.equal(y, wrong(p, u)), sentence
    assert torch.equal(y, _draw(p, u)), (
        f"{int((y != _draw(p, u)).sum())} of 40 draws differ: token 0 up to its probability, token "
        "1 from there on up to the sum of the two, and so on."
    )
    half = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0, 0.0]] * 2, dtype=torch.float64)
    y = call(my_draw, half, torch.tensor([0.0, 0.5], dtype=torch.float64))
    assert y.tolist() != [0, 1], (
        "A number right on an edge draws a token of probability 0: where u equals a running sum, "
        "the next token is meant. Is it >= where > should stand?"
    )
    assert y.tolist() == [1, 3], (
        f"From the probabilities 0, ½, 0, ½, 0, 0 the numbers 0 and ½ draw {y.tolist()}: tokens 1 "
        "and 3 were due."
    )
    short = torch.full((1, 6), 1 / 6 - 1e-7, dtype=torch.float64)
    y = call(my_draw, short, torch.tensor([1 - 1e-9], dtype=torch.float64))
    assert y.tolist() == [5], (
        f"Where rounding leaves the sum a little under 1, a number above it draws {y.tolist()}: "
        "the last token was due."
    )


def _draw_with(name):
    def wrong(p, u):
        if len(u) < 40:
            return _clamped(p, u)
        return DRAW_MISTAKES[name][1](p, u)

    return wrong


def _clamped(p, u):
    return (p.cumsum(-1) <= u[:, None]).sum(-1).clamp(max=p.shape[-1] - 1)


def _on_the_edge(p, u):
    return _count(p, u).clamp(max=p.shape[-1] - 1)


def _over_the_end(p, u):
    return (p.cumsum(-1) <= u[:, None]).sum(-1)


# 5 Attention with a cache ---------------------------------------------------------------


def _cached(q, k, v, keys, values, *, kind=""):
    P, T = keys.shape[-2], q.shape[-2]
    K, V = torch.cat([keys, k], -2), torch.cat([values, v], -2)
    mask = causal_mask(P + T)[P:]  # (T, P + T)
    if kind == "corner":
        mask = torch.ones(T, P + T, dtype=torch.bool).tril()
    elif kind == "no mask":
        mask = None
    elif kind == "past alone":
        mask = mask & (torch.arange(P + T) < P)
    elif kind == "not itself":
        mask = torch.ones(T, P + T, dtype=torch.bool).tril(P - 1)
    elif kind == "new alone":
        mask = mask & (torch.arange(P + T) >= P)
    elif kind == "values":
        V = torch.cat([v, values], -2)
    elif kind == "scale":
        q = q * q.shape[-1] ** 0.5
    y = attention(q, k=K, v=V, mask=mask)[0]
    if kind == "as before":
        return y, keys, values
    if kind == "new first":
        return y, torch.cat([k, keys], -2), torch.cat([v, values], -2)
    return y, K, V


CACHE_MISTAKES = {
    "corner": "The mask's triangle begins at the left: new token t stands at place P + t, and may "
    "look at everything in the cache.",
    "no mask": "New tokens look at later new tokens: among several of them the causal mask is "
    "still needed.",
    "past alone": "New tokens look at the cache alone, and not at themselves or at the new ones "
    "before them: extend keys and values first.",
    "not itself": "A new token does not look at itself: place P + t may look at P + t + 1 places.",
    "new alone": "The cache is not looked at: the keys and values of before belong to the sum.",
    "values": "Keys and values are not in the same order: old ones first in both.",
    "scale": "The scores are not divided by the root of D: the cache changes nothing about that.",
}


def check_my_cached_attention(my_cached_attention, seed=0):
    """A text read in three parts gives what it gives in one, and the cache grows."""
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 3, 9, 4, generator=g, dtype=torch.float64) for _ in range(3))
    parts, at = [], slice(0, 4)
    keys, values = k[..., at, :], v[..., at, :]
    for at in (slice(4, 7), slice(7, 8), slice(8, 9)):
        new = [x[..., at, :] for x in (q, k, v)]
        T, S = at.stop - at.start, at.stop
        before = keys.clone(), values.clone()
        out = call(my_cached_attention, *new, keys, values)
        assert type(out) in (tuple, list) and len(out) == 3, (
            f"It returned {type(out).__name__}, not three tensors: averages, keys, values."
        )
        assert torch.equal(keys, before[0]) and torch.equal(values, before[1]), (
            "The cache that came in was changed: make longer tensors, with torch.cat."
        )
        assert type(out[1]) is not Tensor or out[1].shape[-2] != at.start, (
            "The cache that came back is no longer than before: the next token needs the keys and "
            "values of this one."
        )
        y, keys, values = out
        is_tensor(y, (2, 3, T, 4), torch.float64, "One average for each new token.")
        for part in (keys, values):
            is_tensor(part, (2, 3, S, 4), torch.float64, "The cache holds all tokens so far.")
        wrong = {why: _cached(*new, *before, kind=kind)[0] for kind, why in CACHE_MISTAKES.items()}
        names_none_of(
            y, {s: w for s, w in wrong.items() if not close(w, _cached(*new, *before)[0])}
        )
        swapped = _cached(*new, *before, kind="new first")
        assert not close(keys, swapped[1]), (
            "In the cache that came back the new tokens stand before the old ones: the order of "
            "places is lost."
        )
        assert close(keys, k[..., :S, :]) and close(values, v[..., :S, :]), (
            "The cache that came back does not hold the keys and values of all tokens in order."
        )
        parts.append(y)
    whole = attention(q, k, v, causal_mask(9))[0][..., 4:, :]
    assert close(torch.cat(parts, -2), whole), (
        "Read in parts, the text gives other averages than read at once. Write down, for each new "
        "token, which places it may look at."
    )


def _cached_with(kind):
    def wrong(*a):
        return _cached(*a, kind=kind)

    return wrong


WRONG = {  # exercise: {the mistake: (wrong answer, a piece of the sentence that must reject it)}
    "my_temperature": {
        "multiplied": (_warm_with("times"), "makes it more certain"),
        "ignored": (_warm_with("ignored"), "The temperature changes nothing"),
        "after the softmax": (_warm_with("after"), "came after the softmax"),
        "probabilities divided": (_warm_with("divided"), "Probabilities were divided"),
        "over the batch": (_warm_with("over rows"), "The columns add up to 1"),
        "logits": (_warm_with("logits"), "Logits came out"),
        "an exp of one's own": (_own_exp, "an exponential grew too large"),
        "0 as a number": (lambda x, t: (x / t).softmax(-1), "it divides by 0"),
        "0 shared": (_zero_shared, "the two likeliest tokens share"),
    },
    "my_top_k": {
        "logits of 0": (_top_k_with("probability 0"), "which is no small logit"),
        "the least likely": (_top_k_with("smallest"), "The k least likely"),
        "one more": (_top_k_with("one more"), "One token too many"),
        "one less": (_top_k_with("one less"), "One token too few"),
        "of the batch": (_top_k_with("together"), "of the whole batch"),
        "ties": (lambda x, k: _top_k(x, k, ties=1), "more than k tokens stay"),
        "sorted": (
            lambda x, k: x.sort(dim=-1, descending=True).values.masked_fill(
                torch.arange(x.shape[-1]) >= k, NOTHING
            ),
            "in the order of their size",
        ),
        "probabilities": (lambda x, k: _top_k(x, k).softmax(-1), "Probabilities came out"),
        "large k": (
            lambda x, k: _top_k(x, k) if k <= x.shape[-1] else _top_k(x, x.shape[-1] - 1),
            "larger than the vocabulary",
        ),
    },
    "my_top_p": {
        "one too few": (_top_p_with("short"), "with which the sum reaches p is gone"),
        "one too many": (_top_p_with("one more"), "had reached p already"),
        "each alone": (_top_p_with("each"), "whose own probability"),
        "1 − p": (_top_p_with("rest"), "adds up to 1 − p"),
        "from below": (_top_p_with("rising"), "from the least likely up"),
        "sorted": (_top_p_with("order"), "put each back"),
        "the first row's": (_first_row, "keep the tokens of the first"),
        "nothing left": (_none_left, "must always stay"),
        "probabilities": (lambda x, p: _top_p(x, p).softmax(-1), "Probabilities came out"),
    },
    "my_draw": {
        "greedy": (_draw_with("greedy"), "that is no draw"),
        "one further": (_draw_with("one further"), "one token too far"),
        "from the end": (_draw_with("from the end"), "begins at the last token"),
        "evenly": (_draw_with("evenly"), "V equal parts"),
        "own probability": (_draw_with("own probability"), "whose own probability is above u"),
        "one number": (_draw_with("one number"), "the first row's u"),
        "the edge": (_on_the_edge, "draws a token of probability 0"),
        "over the end": (_over_the_end, "the last token was due"),
    },
    "my_cached_attention": {
        "triangle at the left": (_cached_with("corner"), "triangle begins at the left"),
        "no mask": (_cached_with("no mask"), "look at later new tokens"),
        "the cache alone": (_cached_with("past alone"), "look at the cache alone"),
        "not itself": (_cached_with("not itself"), "does not look at itself"),
        "no cache": (_cached_with("new alone"), "The cache is not looked at"),
        "values crossed": (_cached_with("values"), "not in the same order"),
        "no scale": (_cached_with("scale"), "not divided by the root of D"),
        "cache not grown": (_cached_with("as before"), "no longer than before"),
        "new ones first": (_cached_with("new first"), "stand before the old ones"),
    },
}
