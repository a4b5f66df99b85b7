"""Checks for the exercises of chapter 5, and the wrong answers that they are proved against.

    B batch   S source time   T target time   C channels   V vocabulary   K beams

Each check draws its cases from a seed, first looks whether the answer is one of the mistakes
that are often made, then compares values, then gradients.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from gpt2lib.answers import call, close, gradients, is_tensor, names_none_of

# 1 Masks --------------------------------------------------------------------------------


def _masks(source, target, causal=True, strict=False, ahead=False, pads=True, rows=False):
    """(B, 1, S), (B, T, T), (B, 1, S); with a mistake of choice."""
    T = target.shape[1]
    order = torch.ones(T, T, dtype=torch.bool)
    if causal:
        order = order.triu(1 if strict else 0) if ahead else order.tril(-1 if strict else 0)
    here = target >= 0
    seen = here[:, :, None] if rows else here[:, None]
    own = order & seen if pads else order.expand(len(target), T, T)
    return (source >= 0)[:, None], own, (source >= 0)[:, None]


def check_my_masks(my_masks, seed=0):
    """Who may look where: in the encoder, in the decoder at itself, and from it at the source."""
    g = torch.Generator().manual_seed(seed)
    S, T = 6, 5
    source, target = torch.randint(9, (3, S), generator=g), torch.randint(9, (3, T), generator=g)
    source[0, 4:], source[2, 2:], target[1, 3:], target[2, 4:] = -1, -1, -1, -1
    before = source.clone(), target.clone()
    found = call(my_masks, source, target, hint="Both are ids, −1 where there is no token.")
    assert torch.equal(before[0], source) and torch.equal(before[1], target), (
        "The ids that came in have changed: something works in place on them."
    )
    assert type(found) in (tuple, list) and len(found) == 3, (
        "Three masks are expected: encoder, decoder at itself, decoder at the source."
    )
    encoder, own, cross = found
    for name, mask, shape in (
        ("the encoder", encoder, (3, 1, S)),
        ("the decoder at itself", own, (3, T, T)),
        ("the decoder at the source", cross, (3, 1, S)),
    ):
        is_tensor(mask, shape, torch.bool, f"The mask of {name}: a row a query, a column a key.")
    right = _masks(source, target)
    assert not torch.equal(encoder, ~right[0]), (
        "True where there is no token: in a mask True means that looking is allowed."
    )
    mistakes = {
        "The decoder may look ahead: then it reads the word that it is to predict.": _masks(
            source, target, causal=False
        ),
        "The decoder looks at what comes after, and not before: the triangle is the upper one.": (
            _masks(source, target, ahead=True)
        ),
        "A word may not look at itself: the first one would have nowhere to look.": _masks(
            source, target, strict=True
        ),
        "Padding of the target can be seen by the decoder: only the order is in its mask.": _masks(
            source, target, pads=False
        ),
        "The target's padding is masked as a query, in rows: what may not be seen are keys, in "
        "columns; a row without any key has no softmax.": _masks(source, target, rows=True),
    }
    for sentence, wrong in mistakes.items():
        assert not torch.equal(own, wrong[1]), sentence
    assert torch.equal(encoder, right[0]), (
        "The mask of the encoder is wrong: every word may look at every word of the source, and "
        "not at padding."
    )
    assert not (torch.equal(cross, (target >= 0)[:, None]) or not torch.equal(cross, right[2])), (
        "From the decoder, what is looked at is the source: its padding is what must be hidden."
    )
    assert torch.equal(own, right[1]), "The decoder's mask of itself is wrong somewhere."


def _no_cross(source, target):
    encoder, own, _ = _masks(source, target)
    return encoder, own, torch.ones_like(encoder)


# 2 A block of the decoder ---------------------------------------------------------------


def _block(x, memory, attn, cross, mlp, ln_1, ln_cross, ln_2):
    x = ln_1(x + attn(x, x))
    x = ln_cross(x + cross(x, memory))
    return ln_2(x + mlp(x))


def _pre(x, memory, attn, cross, mlp, ln_1, ln_cross, ln_2):
    y = ln_1(x)
    x = x + attn(y, y)
    x = x + cross(ln_cross(x), memory)
    return x + mlp(ln_2(x))


def _cross_first(x, memory, attn, cross, mlp, ln_1, ln_cross, ln_2):
    x = ln_cross(x + cross(x, memory))
    x = ln_1(x + attn(x, x))
    return ln_2(x + mlp(x))


def _asks_memory(x, memory, attn, cross, mlp, ln_1, ln_cross, ln_2):
    x = ln_1(x + attn(x, x))
    x = ln_cross(x + cross(memory, x)[:, : x.shape[1]])
    return ln_2(x + mlp(x))


def _replaces(x, memory, attn, cross, mlp, ln_1, ln_cross, ln_2):
    x = ln_1(attn(x, x))
    x = ln_cross(cross(x, memory))
    return ln_2(mlp(x))


def _without_cross(x, memory, attn, cross, mlp, ln_1, ln_cross, ln_2):
    x = ln_1(x + attn(x, x))
    return ln_2(x + mlp(x))


def _looks_at_itself(x, memory, attn, cross, mlp, ln_1, ln_cross, ln_2):
    x = ln_1(x + attn(x, x))
    x = ln_cross(x + cross(x, x))
    return ln_2(x + mlp(x))


def _norms_swapped(x, memory, attn, cross, mlp, ln_1, ln_cross, ln_2):
    return _block(x, memory, attn, cross, mlp, ln_1, ln_2, ln_cross)


def check_my_decoder_block(my_decoder_block, seed=0):
    """Self-attention, cross-attention, MLP; each added, then normalised."""
    torch.manual_seed(seed)
    B, T, S, C = 2, 4, 7, 6

    class Look(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(C, C) for _ in range(3))

        def forward(self, x, memory):
            weights = (self.q(x) @ self.k(memory).mT).softmax(-1)
            return weights @ self.v(memory)

    parts = [Look(), Look(), nn.Sequential(nn.Linear(C, 9), nn.ReLU(), nn.Linear(9, C))]
    parts += [nn.LayerNorm(C) for _ in range(3)]
    for part in parts:
        part.double()
        for p in part.parameters():
            nn.init.normal_(p)
    x, memory = torch.randn(B, T, C).double(), torch.randn(B, S, C).double()
    before, a = x.clone(), (x, memory, *parts)
    with torch.no_grad():
        y = call(my_decoder_block, *a)
        assert torch.equal(x, before), "The x that came in has changed: x += … works in place."
        is_tensor(y, (B, T, C), torch.float64, "One vector for each word that has been written.")
        mistakes = {
            "The LayerNorms stand before the parts: that is pre-LN, GPT-2's. In 2017 they come "
            "after each addition.": _pre,
            "The look at the source comes first: first the decoder looks at itself.": _cross_first,
            "The source asks, and the decoder answers: queries come from what is written.": (
                _asks_memory
            ),
            "Nothing is added: each part's answer replaces the stream.": _replaces,
            "The source is never looked at: cross-attention is missing.": _without_cross,
            "In cross-attention it looks at itself once more: keys and values come from memory.": (
                _looks_at_itself
            ),
            "ln_cross and ln_2 have changed places: each belongs to the part before it.": (
                _norms_swapped
            ),
        }
        names_none_of(y, {sentence: wrong(*a) for sentence, wrong in mistakes.items()})
        right = _block(*a)
        assert close(y, right), f"The output is off by up to {(y - right).abs().max():.2g}."
    mine = gradients(lambda x, m: my_decoder_block(x, m, *parts), (x, memory))
    true = gradients(lambda x, m: _block(x, m, *parts), (x, memory))
    assert all(close(p, q) for p, q in zip(mine, true)), (
        "The values are right and the gradient is not: the encoder learns through memory. Is it "
        "detached?"
    )


# 3 The smoothed loss --------------------------------------------------------------------


def _loss(logits, targets, eps, spread="all", pads=False, reduce="mean", swap=False, plain=False):
    V = logits.shape[-1]
    logp = logits.log_softmax(-1)
    kept = targets >= 0
    truth = logp.gather(-1, targets.clamp(min=0)[:, None])[:, 0]
    others = logp.mean(-1) if spread == "all" else (logp.sum(-1) - truth) / (V - 1)
    a, b = (eps, 1 - eps) if swap else (1 - eps, 0.0 if plain else eps)
    each = -(a * truth + b * others)
    if reduce == "sum":
        return each[kept].sum()
    if reduce == "all":
        return each[kept].sum() / len(targets)
    return each.mean() if pads else each[kept].mean()


def check_my_smoothed_loss(my_smoothed_loss, seed=0):
    """The mean over what there is to predict; held against PyTorch's."""
    g = torch.Generator().manual_seed(seed)
    N, V, eps = 9, 6, 0.15
    logits = 2 * torch.randn(N, V, generator=g, dtype=torch.float64)
    targets = torch.randint(V, (N,), generator=g)
    targets[torch.randperm(N, generator=g)[:3]] = -1
    y = call(my_smoothed_loss, logits, targets, eps)
    is_tensor(y, (), torch.float64, "A mean is one number: a tensor without axes.")
    a = (logits, targets, eps)
    names_none_of(
        y,
        {
            "That is the loss without smoothing: ε is not used anywhere.": _loss(
                logits, targets, 0.0
            ),
            "ε is spread over the other words only: the paper's share goes to all V, the right "
            "one too.": _loss(*a, spread="others"),
            "Places with −1 count as well: there is nothing to predict.": _loss(*a, pads=True),
            "The sum is divided by all places: only those with a target count.": _loss(
                *a, reduce="all"
            ),
            "The losses are summed up: the mean was asked for.": _loss(*a, reduce="sum"),
            "ε and 1 − ε have changed places: the truth keeps the larger share.": _loss(
                *a, swap=True
            ),
            "The share of the truth is taken down, and given to nobody.": _loss(*a, plain=True),
        },
    )
    right = F.cross_entropy(logits, targets, ignore_index=-1, label_smoothing=eps)
    assert close(y, right), f"It is {y:.4f}, and PyTorch has {right:.4f}. Take a single place."
    (mine,) = gradients(lambda z: my_smoothed_loss(z, targets, eps)[None], [logits])
    (true,) = gradients(
        lambda z: F.cross_entropy(z, targets, ignore_index=-1, label_smoothing=eps)[None], [logits]
    )
    assert close(mine, true), "The value is right and the gradient is not: is a part detached?"
    far = call(my_smoothed_loss, logits * 500, targets, eps)
    assert far.isfinite(), "Large logits give inf or nan: use log_softmax, not the log of softmax."


def _log_of_softmax(logits, targets, eps):
    p = logits.softmax(-1)
    truth = p.gather(-1, targets.clamp(min=0)[:, None])[:, 0].log()
    return (-(1 - eps) * truth - eps * p.log().mean(-1))[targets >= 0].mean()


# 4 Its floor ----------------------------------------------------------------------------


def _floor(V, eps, others=None, truth=None):
    others = eps / V if others is None else others
    truth = 1 - eps + eps / V if truth is None else truth
    return -truth * math.log(truth) - (V - 1) * others * math.log(others)


def check_my_smoothed_floor(my_smoothed_floor, seed=0):
    """The entropy of the smoothed truth, held against a loss that cannot fall any further."""
    for V, eps in ((5, 0.2), (93, 0.1), (1000, 0.05)):
        found = call(my_smoothed_floor, V, eps, hint="V is an int, eps a float.")
        assert type(found) is float, f"It returned a {type(found).__name__}: a float is expected."
        right, case = _floor(V, eps), f"V = {V}, ε = {eps}: "
        mistakes = {
            "0 would be the floor without smoothing.": 0.0,
            "that is the cost of the truth alone: the others have their shares too.": -math.log(
                1 - eps + eps / V
            ),
            "the truth's share is 1 − ε and what it gets of ε besides: ε / V more.": -(1 - eps)
            * math.log(1 - eps)
            - (V - 1) * eps / V * math.log(eps / V),
            "ε is shared by V words, not by V − 1.": _floor(V, eps, eps / (V - 1), 1 - eps),
            "that is in bits: losses are in nats.": right / math.log(2),
            "one of the others is counted: there are V − 1.": _floor(
                2, eps, eps / V, 1 - eps + eps / V
            ),
            "the sign is wrong: an entropy is never negative.": -right,
        }
        for sentence, wrong in mistakes.items():
            assert not abs(found - wrong) < 1e-9, case + sentence
        logits = torch.zeros(1, V, dtype=torch.float64)
        logits[0, 0] = math.log((1 - eps + eps / V) / (eps / V))  # the best there are
        best = F.cross_entropy(logits, torch.tensor([0]), label_smoothing=eps).item()
        assert abs(found - best) < 1e-9, f"{case}{best:.4f} can be reached, and {found:.4f} came."


# 5 A beam -------------------------------------------------------------------------------


def _beam(step, K, most, alpha, ended="stay", norm=True):
    def score(beam):
        length = len(beam[0])
        return beam[1] / ((5 + length) / 6) ** alpha if norm else beam[1]

    beams = [([], 0.0)]
    for _ in range(most):
        grown = []
        for words, logp in beams:
            if words[-1:] == [1] and ended != "go on":
                if ended == "stay":
                    grown.append((words, logp))
                continue
            grown += [([*words, i], logp + p) for i, p in enumerate(step(words))]
        if not grown:
            break
        beams = sorted(grown, key=score, reverse=True)[:K]
    return max(beams, key=score)[0] if beams else []


def check_my_beam(my_beam, seed=0):
    """The best sentence by lists of beginnings; held against the search through all."""
    V, most, alpha = 5, 4, 0.6
    hears = {
        "It is greedy: only one beginning is kept, whatever K.": lambda s, K: _beam(
            s, 1, most, alpha
        ),
        "The length is not taken into account: the score divides by ((5 + |Y|) / 6)^α.": (
            lambda s, K: _beam(s, K, most, alpha, norm=False)
        ),
        "Sentences go on after their end: one that ends in 1 keeps its place and its "
        "score.": lambda s, K: _beam(s, K, most, alpha, ended="go on"),
        "Sentences that have ended lose their place: they compete with the others, to the "
        "last.": lambda s, K: _beam(s, K, most, alpha, ended="lost"),
    }
    fits, odd = dict.fromkeys(hears, True), None
    for case in range(60):
        g = torch.Generator().manual_seed(1000 * seed + case)
        table = 1.5 * torch.randn(V + 1, V + 1, V, generator=g, dtype=torch.float64)
        table = table.log_softmax(-1)

        def step(words, table=table):
            a, b = ([V, V, *words])[-2:]
            return table[a, b].tolist()

        K = (1, 2, 3, 40)[case % 4]
        y = call(my_beam, step, K, most, alpha, hint="step takes a list of words.")
        assert type(y) is list and all(type(i) is int for i in y), (
            f"A list of words, whole numbers, is expected, and a {type(y).__name__} came."
        )
        assert len(y) <= most, f"{len(y)} words came, and {most} were the most."
        right = _beam(step, K, most, alpha)
        for sentence, wrong in hears.items():
            fits[sentence] &= y == wrong(step, K)
        odd = odd or (None if y == right else (K, right, y))
        if K == 40 and y == right:
            assert y == _best(step, V, most, alpha), "The check is at fault: this is a bug in it."
    for sentence, fit in fits.items():
        assert not (odd and fit), sentence
    assert not odd, "With {} beams {} is the best, and {} came. Print the beams.".format(*odd)


def _best(step, V, most, alpha):
    """The best of all sentences, one by one."""
    best = None
    for length in range(1, most + 1):
        for words in itertools.product(range(V), repeat=length):
            if 1 in words[:-1] or (words[-1] != 1 and length < most):
                continue
            logp = sum(step(list(words[:i]))[w] for i, w in enumerate(words))
            score = logp / ((5 + length) / 6) ** alpha
            if best is None or score > best[0]:
                best = (score, list(words))
    return best[1]


WRONG = {
    "my_masks": {
        "looks ahead": (lambda s, t: _masks(s, t, causal=False), "may look ahead"),
        "the upper triangle": (lambda s, t: _masks(s, t, ahead=True), "triangle is the upper"),
        "not at itself": (lambda s, t: _masks(s, t, strict=True), "look at itself:"),
        "sees padding": (lambda s, t: _masks(s, t, pads=False), "can be seen by the decoder"),
        "masks queries": (lambda s, t: _masks(s, t, rows=True), "masked as a query"),
        "inverted": (lambda s, t: tuple(~m for m in _masks(s, t)), "True where there is no"),
        "no mask at the source": (_no_cross, "its padding is what"),
        "float": (lambda s, t: tuple(m.float() for m in _masks(s, t)), "torch.bool"),
    },
    "my_decoder_block": {
        "pre-LN": (_pre, "pre-LN"),
        "cross first": (_cross_first, "comes first: first"),
        "the source asks": (_asks_memory, "The source asks"),
        "no residual": (_replaces, "Nothing is added"),
        "no cross-attention": (_without_cross, "is never looked at"),
        "looks at itself": (_looks_at_itself, "once more"),
        "norms exchanged": (_norms_swapped, "changed places: each"),
        "detaches the memory": (
            lambda x, m, *parts: _block(x, m.detach(), *parts),
            "learns through",
        ),
    },
    "my_smoothed_loss": {
        "no smoothing": (lambda z, t, e: _loss(z, t, 0.0), "without smoothing"),
        "over the others": (lambda *a: _loss(*a, spread="others"), "other words only"),
        "counts padding": (lambda *a: _loss(*a, pads=True), "count as well"),
        "divides by all": (lambda *a: _loss(*a, reduce="all"), "divided by all places"),
        "sums": (lambda *a: _loss(*a, reduce="sum"), "are summed up"),
        "exchanged": (lambda *a: _loss(*a, swap=True), "1 − ε have changed"),
        "given to nobody": (lambda *a: _loss(*a, plain=True), "given to nobody"),
        "log of softmax": (_log_of_softmax, "inf or nan"),
    },
    "my_smoothed_floor": {
        "zero": (lambda V, e: 0.0, "0 would be"),
        "the truth alone": (lambda V, e: -math.log(1 - e + e / V), "truth alone"),
        "1 − ε": (
            lambda V, e: -(1 - e) * math.log(1 - e) - (V - 1) * e / V * math.log(e / V),
            "of ε besides",
        ),
        "by V − 1": (lambda V, e: _floor(V, e, e / (V - 1), 1 - e), "shared by V"),
        "bits": (lambda V, e: _floor(V, e) / math.log(2), "in bits"),
        "one of the others": (
            lambda V, e: _floor(2, e, e / V, 1 - e + e / V),
            "one of the others",
        ),
        "negative": (lambda V, e: -_floor(V, e), "never negative"),
    },
    "my_beam": {
        "greedy": (lambda s, K, m, a: _beam(s, 1, m, a), "It is greedy"),
        "no length": (lambda s, K, m, a: _beam(s, K, m, a, norm=False), "length is not taken"),
        "goes on": (lambda s, K, m, a: _beam(s, K, m, a, ended="go on"), "after their end"),
        "loses what ended": (
            lambda s, K, m, a: _beam(s, K, m, a, ended="lost"),
            "lose their place",
        ),
        "with its score": (lambda s, K, m, a: (_beam(s, K, m, a), 0.0), "A list of words"),
    },
}
