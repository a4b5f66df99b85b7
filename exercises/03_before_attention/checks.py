"""Checks for the exercises of chapter 3, and the wrong answers that they are proved against.

    T time   C channels in   Co channels out   k kernel size   V vocabulary

Each check draws its cases from a seed, first looks whether the answer is one of the mistakes
that are often made, then tests properties, then values, then gradients.
"""

import math

import torch
from torch import nn

from gpt2lib.answers import call, close, gradients, is_tensor, names_none_of

# 1 Counting -----------------------------------------------------------------------------


def _ngram_probs(ids, context, V, alpha, turned=False, denominator=None, wraps=False, skip=0):
    """Smoothed n-gram probabilities, with a mistake of choice."""
    ids, context = list(ids), list(context)[::-1] if turned else list(context)
    n, counts = len(context), torch.zeros(V, dtype=torch.float64)
    last = len(ids) if wraps else len(ids) - n
    for t in range(last):
        if [ids[(t + j) % len(ids)] for j in range(n)] == context:
            counts[ids[(t + n + skip) % len(ids)]] += 1
    total = counts.sum() + (alpha * V if denominator is None else denominator)
    return (counts + alpha) / total


def check_my_ngram_probs(my_ngram_probs, seed=0):
    """p(next | context) from counts in one text, with alpha added to each count."""
    g = torch.Generator().manual_seed(seed)
    V, alpha = 5, 0.5
    context = torch.randperm(4, generator=g)[:2].tolist()  # two different ones of the first four
    ids = torch.randint(V, (300,), generator=g).tolist()
    for at in (20, 23, 60, 90, 150):
        ids[at : at + 3] = [*context, 1]
    ids[0], ids[-2:] = 3, context  # at the end nothing follows
    ids[40:45] = [context[1], context[0], 2, 0, 4]
    p = call(my_ngram_probs, ids, context, V, alpha, hint="ids and context are lists of ids.")
    is_tensor(p, (V,), torch.float64, "One probability for each of the V tokens.")
    a = (ids, context, V, alpha)
    names_none_of(
        p,
        {
            "Nothing is added to the counts: what was never seen gets probability 0, and one "
            "such word makes a whole text impossible. Add alpha to each count.": _ngram_probs(
                ids, context, V, 0.0
            ),
            "Alpha is added to each count and once to their sum: the V probabilities then sum to "
            "more than 1. How often was it added above the line?": _ngram_probs(
                *a, denominator=alpha
            ),
            "Alpha is added above the line and not below: the probabilities sum to more than 1.": (
                _ngram_probs(*a, denominator=0.0)
            ),
            "The context is matched backwards: its first id is the one further back.": (
                _ngram_probs(*a, turned=True)
            ),
            "The text is taken for a ring: after its last ids comes its first. A context at the "
            "very end has no next token.": _ngram_probs(*a, wraps=True),
            "The token counted is one too far on: the next token stands directly after the "
            "context, at t + n.": _ngram_probs(*a, skip=1, wraps=False),
            "Only how often each token comes is counted, whatever stands before it: where is the "
            "context compared?": _ngram_probs(ids, [], V, alpha),
        },
    )
    assert close(p, _ngram_probs(*a)), (
        f"The probabilities are off by up to {(p - _ngram_probs(*a)).abs().max():.2g}. Count by "
        "hand in a text of ten ids."
    )
    unseen = call(my_ngram_probs, [0, 1, 2], [2, 0], V, alpha)
    assert close(unseen, torch.full((V,), 1 / V, dtype=torch.float64)), (
        "After a context that was never seen all V tokens are equally likely."
    )
    twos = [3, 3, 3, 3, 1], [3, 3], V, alpha
    assert close(call(my_ngram_probs, *twos), _ngram_probs(*twos)), (
        "In 3 3 3 3 1 the pair 3 3 is followed twice by 3 and once by 1: occurrences may overlap."
    )


def _ngram_skips_ahead(ids, context, V, alpha):
    counts, n, t = torch.zeros(V, dtype=torch.float64), len(context), 0
    while t < len(ids) - n:
        if list(ids[t : t + n]) == list(context):
            counts[ids[t + n]] += 1
            t += n - 1
        t += 1
    return (counts + alpha) / (counts.sum() + alpha * V)


def _ngram_too_far(ids, context, V, alpha):
    return _ngram_probs(ids, context, V, alpha, skip=1)


# 2 Causal convolution -------------------------------------------------------------------


def _conv(x, weight, dilation, ahead=0, turned=False, pad="zeros"):
    """A causal, dilated convolution, with a mistake of choice."""
    k, reach = len(weight), (len(weight) - 1) * dilation
    weight = weight.flip(0) if turned else weight
    front = x[:1].expand(reach, -1) if pad == "edge" else x.new_zeros(reach, x.shape[1])
    if pad == "ring":
        front = x[len(x) - reach :]
    past = torch.cat([front, x, x.new_zeros(ahead, x.shape[1])])
    T = len(x)
    begins = [reach - j * dilation + ahead for j in range(k)]
    return sum(past[b : b + T] @ weight[j] for j, b in enumerate(begins))


def check_my_causal_conv(my_causal_conv, seed=0):
    """y_t = Σ_j x_(t − j·d) W_j, with zeros before the beginning: (T, C) → (T, Co)."""
    g = torch.Generator().manual_seed(seed)
    T, C, Co, k, d = 11, 3, 5, 3, 2

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x, weight = draw(C, T).T, draw(k, C, Co)  # x is not contiguous
    y = call(my_causal_conv, x, weight, d)
    is_tensor(y, (T, Co), torch.float64, "As many outputs as tokens: zeros stand in front.")
    names_none_of(
        y,
        {
            "The window is centred: each output sees tokens that come after it. All the zeros "
            "belong in front.": _conv(x, weight, d, ahead=d),
            "The kernel is turned round: weight[0] reads the newest token, weight[j] the one j "
            "steps back.": _conv(x, weight, d, turned=True),
            "The dilation is not used: the k tokens should stand d apart.": _conv(x, weight, 1),
            "Before the first token its own copy is read: nothing stands there, so zeros.": _conv(
                x, weight, d, pad="edge"
            ),
            "At the beginning the end of the text is read, as if it were a ring: is it roll, or a "
            "negative index? That is the future.": _conv(x, weight, d, pad="ring"),
        },
    )
    for t in range(T):
        other = x.clone()
        other[t] = draw(C)
        moved = (call(my_causal_conv, other, weight, d) - y).abs().amax(-1) > 1e-9
        assert not moved[:t].any(), (
            f"Changing token {t} changes output {int(moved.int().argmax())} before it: the "
            "future gets in."
        )
    assert close(y, _conv(x, weight, d)), (
        f"The output is off by up to {(y - _conv(x, weight, d)).abs().max():.2g}. Compute y[0] "
        "and y[2] by hand, with d = 2."
    )
    for size, step in ((1, 1), (2, 5), (4, 1), (3, 7)):
        w = draw(size, C, Co)
        assert close(call(my_causal_conv, x, w, step), _conv(x, w, step)), (
            f"With kernel size {size} and dilation {step}, on {T} tokens, it is wrong: a window "
            "may also be wider than the text."
        )
    mine = gradients(lambda x, w: my_causal_conv(x, w, d), (x, weight))
    true = gradients(lambda x, w: _conv(x, w, d), (x, weight))
    assert all(close(a, b) for a, b in zip(mine, true)), (
        "The output is right and a gradient is not: is a part of the sum detached?"
    )


# 3 Receptive field ----------------------------------------------------------------------


def check_my_receptive_field(my_receptive_field, seed=0):
    """How many tokens an output can depend on, for any kernels and dilations."""
    g = torch.Generator().manual_seed(seed)
    for n in (1, 2, 4):
        kernels = torch.randint(2, 6, (n,), generator=g).tolist()
        dilations = torch.randint(2, 9, (n,), generator=g).tolist()
        found = call(my_receptive_field, kernels, dilations, hint="Both are lists of int.")
        assert type(found) is int, f"It returned a {type(found).__name__}: one int is expected."
        right = 1 + sum((k - 1) * d for k, d in zip(kernels, dilations))
        case = f"Kernels {kernels}, dilations {dilations}: "
        mistakes = {
            "the newest token itself is missing: add 1.": right - 1,
            "the newest token of each layer is counted anew: a kernel of k reaches (k − 1)·d "
            "further back, not k·d.": 1 + sum(k * d for k, d in zip(kernels, dilations)),
            "the dilations are not used.": 1 + sum(k - 1 for k in kernels),
            "the layers are multiplied: each layer adds its reach to that of those below.": (
                math.prod((k - 1) * d + 1 for k, d in zip(kernels, dilations))
            ),
            "only the last layer is counted: those below it reach further back as well.": (
                1 + (kernels[-1] - 1) * dilations[-1]
            ),
        }
        for sentence, wrong in mistakes.items():
            assert found != wrong or wrong == right, case + sentence
        assert found == right, case + f"{right}, not {found}. Draw two layers, and count."
    assert call(my_receptive_field, [], []) == 1, (
        "Without any layer an output sees its own token, and nothing else."
    )


# 4 A step of an LSTM --------------------------------------------------------------------


def _lstm_step(x, h, c, w_x, w_h, bias, order="ifgo", g_gate=False, shown="new", squash=True):
    """One step of an LSTM, with a mistake of choice."""
    gates = dict(zip(order, (x @ w_x + h @ w_h + bias).chunk(4, dim=-1)))
    i, f, o = (gates[name].sigmoid() for name in "ifo")
    new = gates["g"].sigmoid() if g_gate else gates["g"].tanh()
    new_c = f * c + i * new
    source = new_c if shown == "new" else c
    return o * (source.tanh() if squash else source), new_c


def check_my_lstm_step(my_lstm_step, seed=0):
    """One step for a batch: (B, C), (B, H), (B, H) → the new h and c, (B, H) each."""
    g = torch.Generator().manual_seed(seed)
    B, C, H = 2, 5, 3

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    a = draw(B, C), draw(B, H), draw(B, H), draw(C, 4 * H), draw(H, 4 * H), draw(4 * H)
    x, h, c, w_x, w_h, bias = a
    found = call(my_lstm_step, *a)
    assert type(found) is tuple and len(found) == 2, (
        f"It returned a {type(found).__name__}: two tensors are expected, the new h and the new c."
    )
    new_h, new_c = found
    for y in found:
        is_tensor(y, (B, H), torch.float64, "One number a text and cell.")
    i, f, g_, _ = (x @ w_x + h @ w_h + bias).chunk(4, dim=-1)
    i, f, g_ = i.sigmoid(), f.sigmoid(), g_.tanh()
    names_none_of(
        new_c,
        {
            "The gates of forgetting and of input have changed places: the order is i, f, g, o.": (
                _lstm_step(*a, order="figo")[1]
            ),
            "g and o have changed places: the order is i, f, g, o.": (
                _lstm_step(*a, order="ifog")[1]
            ),
            "What comes in, g, went through a sigmoid: it may be negative too, so it is a tanh.": (
                _lstm_step(*a, g_gate=True)[1]
            ),
            "The old cell is not in the new one: what is kept is f ⊙ c.": i * g_,
            "The input gate is not used: what comes in is i ⊙ g.": f * c + g_,
            "The forget gate is not used: nothing is ever forgotten.": c + i * g_,
            "It was returned as (c, h): h comes first.": _lstm_step(*a)[0],
            "The bias is missing: it is added to both products before the gates.": _lstm_step(
                x, h, c, w_x, w_h, 0 * bias
            )[1],
            "The state h does not come in: its product with w_h is missing.": (
                _lstm_step(x, 0 * h, c, w_x, w_h, bias)[1]
            ),
        },
    )
    names_none_of(
        new_h,
        {
            "What is shown is the old cell: first make the new c, then h from it.": (
                _lstm_step(*a, shown="old")[0]
            ),
            "The cell is shown as it is: h is o ⊙ tanh(c).": _lstm_step(*a, squash=False)[0],
        },
    )
    theirs = nn.LSTMCell(C, H, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight_ih.copy_(w_x.T)
        theirs.weight_hh.copy_(w_h.T)
        theirs.bias_ih.copy_(bias)
        theirs.bias_hh.zero_()
        right = theirs(x, (h, c))
    assert close(new_h, right[0]) and close(new_c, right[1]), (
        "It differs from PyTorch's LSTMCell. Take B = C = H = 1, and compute it by hand."
    )
    mine = gradients(lambda *a: torch.cat(my_lstm_step(*a)), a)
    true = gradients(lambda *a: torch.cat(_lstm_step(*a)), a)
    assert all(close(p, q) for p, q in zip(mine, true)), (
        "The values are right and a gradient is not: is the old state detached? Then nothing is "
        "learned over more than one step."
    )


def _lstm_detached(x, h, c, w_x, w_h, bias):
    return _lstm_step(x, h.detach(), c.detach(), w_x, w_h, bias)


def _lstm_without_old(x, h, c, w_x, w_h, bias):
    return _lstm_step(x, h, 0 * c, w_x, w_h, bias)


def _lstm_turned(*a):
    return _lstm_step(*a)[::-1]


# 5 Horizon ------------------------------------------------------------------------------


def check_my_horizon(my_horizon, seed=0):
    """The least number of steps after which less than a share of the gradient is left."""
    g = torch.Generator().manual_seed(seed)
    cases = [(0.5, 0.3), (0.9, 0.01), (0.99, 0.5), (0.7310585786300049, 0.001)]
    cases += [tuple(pair) for pair in torch.rand(4, 2, generator=g, dtype=torch.float64).tolist()]
    for f, share in cases:
        f = min(max(f, 0.05), 0.98)
        n = call(my_horizon, f, share, hint="Both are numbers between 0 and 1.")
        assert type(n) is int, f"It returned a {type(n).__name__}: a number of steps is an int."
        right = 0
        while f**right >= share:
            right += 1
        case = f"f = {f:.4g}, share = {share:.4g}: "
        assert n != right - 1, (
            case + f"after {right - 1} steps {f ** (right - 1):.4g} is left, which is not yet less "
            "than the share. Is it floor where the next whole number was meant?"
        )
        assert n != right + 1, (
            case + f"already after {right} steps only {f**right:.4g} is left. Is it one too many?"
        )
        assert n != math.ceil((1 - share) / (1 - f)) or n == right, (
            case + "each step takes away the same *amount*: but it takes the same share of what is "
            "left, f times f times f …"
        )
        assert n == right, (
            case + f"{right} steps, not {n}: f to the power n must be less than the share. Which "
            "logarithm is divided by which?"
        )
    exact = call(my_horizon, 0.5, 0.25)
    assert exact == 3, (
        f"f = 0.5, share = 0.25: after 2 steps exactly a quarter is left, not less: got {exact}."
    )


def _horizon(f, share):
    return math.floor(math.log(share) / math.log(f)) + 1


WRONG = {
    "my_ngram_probs": {
        "no smoothing": (
            lambda ids, c, V, a: _ngram_probs(ids, c, V, 0.0),
            "Nothing is added",
        ),
        "alpha once in the sum": (
            lambda ids, c, V, a: _ngram_probs(ids, c, V, a, denominator=a),
            "once to their sum",
        ),
        "alpha above the line alone": (
            lambda ids, c, V, a: _ngram_probs(ids, c, V, a, denominator=0.0),
            "and not below",
        ),
        "context backwards": (lambda *a: _ngram_probs(*a, turned=True), "matched backwards"),
        "the text as a ring": (lambda *a: _ngram_probs(*a, wraps=True), "for a ring"),
        "one token too far": (_ngram_too_far, "one too far on"),
        "no context": (lambda ids, c, V, a: _ngram_probs(ids, [], V, a), "whatever stands before"),
        "skips what overlaps": (_ngram_skips_ahead, "may overlap"),
    },
    "my_causal_conv": {
        "centred": (lambda x, w, d: _conv(x, w, d, ahead=d), "is centred"),
        "kernel turned round": (lambda x, w, d: _conv(x, w, d, turned=True), "turned round"),
        "no dilation": (lambda x, w, d: _conv(x, w, 1), "dilation is not used"),
        "repeats the first token": (lambda x, w, d: _conv(x, w, d, pad="edge"), "its own copy"),
        "reads the end at the beginning": (lambda x, w, d: _conv(x, w, d, pad="ring"), "a ring"),
        "drops the first outputs": (
            lambda x, w, d: _conv(x, w, d)[(len(w) - 1) * d :],
            "The shape is",
        ),
        "detaches the older tokens": (
            lambda x, w, d: _conv(x.detach(), w, d) + (x - x.detach()) @ w[0],
            "a gradient is not",
        ),
    },
    "my_receptive_field": {
        "without the newest": (
            lambda ks, ds: sum((k - 1) * d for k, d in zip(ks, ds)),
            "newest token itself",
        ),
        "k for k − 1": (lambda ks, ds: 1 + sum(k * d for k, d in zip(ks, ds)), "not k·d"),
        "no dilations": (lambda ks, ds: 1 + sum(k - 1 for k in ks), "dilations are not used"),
        "multiplies": (
            lambda ks, ds: math.prod((k - 1) * d + 1 for k, d in zip(ks, ds)),
            "are multiplied",
        ),
        "the last layer alone": (
            lambda ks, ds: 1 + (ks[-1] - 1) * ds[-1] if ks else 1,
            "only the last layer",
        ),
    },
    "my_lstm_step": {
        "f before i": (lambda *a: _lstm_step(*a, order="figo"), "forgetting and of input"),
        "o before g": (lambda *a: _lstm_step(*a, order="ifog"), "g and o have"),
        "sigmoid for g": (lambda *a: _lstm_step(*a, g_gate=True), "through a sigmoid"),
        "forgets the old cell": (_lstm_without_old, "old cell is not in"),
        "shows the old cell": (lambda *a: _lstm_step(*a, shown="old"), "shown is the old"),
        "shows it unsquashed": (lambda *a: _lstm_step(*a, squash=False), "shown as it is"),
        "returns c first": (_lstm_turned, "h comes first"),
        "no bias": (
            lambda x, h, c, w, u, b: _lstm_step(x, h, c, w, u, 0 * b),
            "bias is missing",
        ),
        "no state": (
            lambda x, h, c, w, u, b: _lstm_step(x, 0 * h, c, w, u, b),
            "does not come in",
        ),
        "detaches the state": (_lstm_detached, "old state detached"),
    },
    "my_horizon": {
        "one too few": (lambda f, s: _horizon(f, s) - 1, "not yet less"),
        "one too many": (lambda f, s: _horizon(f, s) + 1, "one too many"),
        "takes away amounts": (
            lambda f, s: math.ceil((1 - s) / (1 - f)),
            "the same *amount*",
        ),
        "logarithms turned round": (
            lambda f, s: math.floor(math.log(f) / math.log(s)) + 100,
            "Which logarithm",
        ),
        "rounds up what is exact": (
            lambda f, s: math.ceil(math.log(s) / math.log(f)),
            "exactly a quarter",
        ),
        "a float": (lambda f, s: float(_horizon(f, s)), "an int"),
    },
}
