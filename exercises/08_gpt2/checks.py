"""Checks for the exercises of chapter 8, and the wrong answers that they are proved against.

    B batch   T time   C channels (= n_embd)   V vocabulary   L blocks (= n_layer)

Each check draws its cases from a seed, first looks whether the answer is one of the mistakes
that are often made, then compares it with the library's.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from gpt2lib.answers import call, close, gradients, is_tensor, names_none_of
from gpt2lib.config import GPTConfig
from gpt2lib.model import GPT

# 1 Assembling ---------------------------------------------------------------------------


def _gpt(idx, wte, wpe, blocks, ln_f, places=None, last=True):
    places = wpe[: idx.shape[1]] if places is None else places
    x = wte[idx] + places
    for block in blocks:
        x = block(x)
    return (ln_f(x) if last else x) @ wte.T


def _norm_first(idx, wte, wpe, blocks, ln_f):
    x = ln_f(wte[idx] + wpe[: idx.shape[1]])
    for block in blocks:
        x = block(x)
    return x @ wte.T


def _side_by_side(idx, wte, wpe, blocks, ln_f):
    x = wte[idx] + wpe[: idx.shape[1]]
    return ln_f(x + sum(block(x) - x for block in blocks)) @ wte.T


def _adds_twice(idx, wte, wpe, blocks, ln_f):
    x = wte[idx] + wpe[: idx.shape[1]]
    for block in blocks:
        x = x + block(x)
    return ln_f(x) @ wte.T


def check_my_gpt(my_gpt, seed=0):
    """From ids to logits, with parts that are given."""
    torch.manual_seed(seed)
    config = GPTConfig(n_layer=3, n_head=2, n_embd=6, block_size=9, vocab_size=11)
    model = GPT(config).double()
    for p in model.parameters():
        nn.init.normal_(p)
    B, T, V = 2, 5, config.vocab_size
    idx = torch.randint(6, (B, T))  # below block_size too, so that no mistake is out of range
    wte, wpe = model.wte.weight.detach(), model.wpe.weight.detach()
    blocks = list(model.h)
    a = (idx, wte, wpe, blocks, model.ln_f)
    with torch.no_grad():
        y = call(my_gpt, *a)
        assert type(y) is not torch.Tensor or y.shape != (B, V), (
            "Only one prediction a text came out: the model predicts after every position."
        )
        is_tensor(y, (B, T, V), torch.float64, "A score for each token of the vocabulary.")
        assert torch.equal(wte, model.wte.weight) and torch.equal(wpe, model.wpe.weight), (
            "A table has changed: x += … works in place. Write x = x + …"
        )
        right = _gpt(*a)
        names_none_of(
            y,
            {
                "Positions are not used: without wpe the model cannot tell order but by the "
                "mask.": _gpt(*a, places=torch.zeros_like(wpe[0])),
                "wpe is looked up by the tokens: its row is that of the place, 0 to T − 1.": _gpt(
                    *a, places=wpe[idx]
                ),
                "The first place is given row 1: places count from 0.": _gpt(
                    *a, places=wpe[1 : T + 1]
                ),
                "The last LayerNorm is missing: ln_f stands before the head.": _gpt(*a, last=False),
                "ln_f stands before the blocks: it comes after the last of them.": _norm_first(*a),
                "Probabilities came out: logits are the scores before the softmax.": right.softmax(
                    -1
                ),
                "Only the first block was run: each reads what the one before has made.": _gpt(
                    idx, wte, wpe, blocks[:1], model.ln_f
                ),
                "Every block reads the stream of the beginning: each must read what the one "
                "before it has made.": _side_by_side(*a),
                "A block's output is added to the stream: it is the stream already, as the sums "
                "are inside the block.": _adds_twice(*a),
                "The blocks run from the last to the first: blocks[0] comes first.": _gpt(
                    idx, wte, wpe, blocks[::-1], model.ln_f
                ),
            },
        )
        assert close(y, right) and close(y, model(idx)), (
            f"The logits are off by up to {(y - right).abs().max():.2g}. Print x after each part."
        )
        assert close(call(my_gpt, idx[:, :1], *a[1:]), right[:, :1]), (
            "A text of one token is a text too: something in the answer needs more of them."
        )
    mine = gradients(lambda *t: my_gpt(idx, *t, blocks, model.ln_f), (wte, wpe))
    true = gradients(lambda *t: _gpt(idx, *t, blocks, model.ln_f), (wte, wpe))
    assert all(close(a, b) for a, b in zip(mine, true)), (
        "The logits are right and the gradient is not: the table gets one from both ends. Is one "
        "of them detached?"
    )


# 2 Counting -----------------------------------------------------------------------------


def _n_params(n_layer, n_embd, block_size, vocab_size, tied=True, **slip):
    L, C, T, V = n_layer, n_embd, block_size, vocab_size
    block = slip.get("block", 12 * C * C + 13 * C)
    last, places = slip.get("last", 2 * C), slip.get("places", T * C)
    tables = slip.get("tables", V * C if tied else 2 * V * C)
    return tables + places + L * block + last


def _slips(L, C, T, V, tied):
    """Frequent mistakes: what to say, and what would come out."""
    a = (L, C, T, V, tied)
    return {
        "the head is counted though it is the token table: tied, both are one.": _n_params(
            *a, tables=2 * V * C
        ),
        "untied, the head is a second table, of as many numbers as wte.": _n_params(
            *a, tables=V * C
        ),
        "the position table is missing, one row of C for each of block_size places.": _n_params(
            *a, places=0
        ),
        "the last LayerNorm is missing, with its factor and its offset.": _n_params(*a, last=0),
        "the biases of the blocks' matrices are missing: 9C a block.": _n_params(
            *a, block=12 * C * C + 4 * C
        ),
        "the blocks' LayerNorms are missing: 4C a block.": _n_params(*a, block=12 * C * C + 9 * C),
        "biases and LayerNorms are missing everywhere: only matrices are counted.": _n_params(
            *a, block=12 * C * C, last=0
        ),
        "the output projection of attention is missing: a block has 12C² in its matrices.": (
            _n_params(*a, block=11 * C * C + 12 * C)
        ),
    }


def check_my_n_params(my_n_params, seed=0):
    """The count, tied and untied, held against the library's own models."""
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):
        L, C, T = (int(torch.randint(2, 9, (), generator=g)) for _ in range(3))
        C, T, V = 2 * C + 6, T + 1, int(torch.randint(40, 70, (), generator=g))
        with torch.device("meta"):
            model = GPT(GPTConfig(L, 2, C, T, V))
        built = sum(p.numel() for p in model.parameters())
        for tied in (True, False):
            found = call(my_n_params, L, C, T, V, tied, hint="All are ints, tied is a bool.")
            assert type(found) is int, (
                f"It returned a {type(found).__name__}: parameters are counted in whole numbers."
            )
            right = built if tied else built + V * C
            case = f"n_layer {L}, n_embd {C}, block_size {T}, vocab_size {V}, tied {tied}: "
            for sentence, wrong in _slips(L, C, T, V, tied).items():
                assert not found == wrong != right, case + sentence
            assert found == right, (
                f"{case}{right:,} was expected, {found:,} came. Count one part at a time: tables, "
                "one block, the last LayerNorm."
            )


# 3 A budget -----------------------------------------------------------------------------


def _largest_width(budget, n_layer, n_head, block_size, vocab_size, **how):
    strictly, multiple = how.get("strictly", False), how.get("multiple", True)
    step, best = n_head if multiple else 1, 0
    for C in range(step, 10_000, step):
        n = how.get("count", _n_params)(n_layer, C, block_size, vocab_size)
        if n > budget or (strictly and n == budget):
            break
        best = C
    return best + step if how.get("over") else best


def check_my_largest_width(my_largest_width, seed=0):
    """The largest width within a budget: the count, turned round."""
    g = torch.Generator().manual_seed(seed)
    for exact in (False, True):
        L, H, T = (int(torch.randint(3, 8, (), generator=g)) for _ in range(3))
        V, C = int(torch.randint(2000, 4000, (), generator=g)), 7 * H
        budget = _n_params(L, C, T, V) + (0 if exact else C + 1)  # room for a part of one more
        if not exact:
            budget += (_n_params(L, C + 2, T, V) - _n_params(L, C, T, V)) if H > 2 else 0
        found = call(my_largest_width, budget, L, H, T, V, hint="All are ints.")
        assert type(found) is int, f"It returned a {type(found).__name__}: a width is an int."
        case = f"budget {budget:,}, n_layer {L}, n_head {H}, block_size {T}, vocab_size {V}: "
        a, right = (budget, L, H, T, V), C
        mistakes = {
            "a model of exactly the budget is within it: look at the comparison.": _largest_width(
                *a, strictly=True
            ),
            "the heads cannot share that width evenly: it must be a multiple of n_head.": (
                _largest_width(*a, multiple=False)
            ),
            "that model is too large for the budget: the first width that is too much was "
            "returned, not the last that fits.": _largest_width(*a, over=True),
            "the tables are left out of the count, though they cost as well.": _largest_width(
                *a, count=lambda n, c, t, v: n * (12 * c * c + 13 * c) + 2 * c
            ),
            "twelve L C² is a good estimate, and not the count: the tables are large in a small "
            "model.": int((budget / (12 * L)) ** 0.5),
        }
        for sentence, wrong in mistakes.items():
            assert not found == wrong != right, case + sentence
        assert found == right, f"{case}{right} was expected, {found} came. Count that model."


# 4 Initialising -------------------------------------------------------------------------


def _first_std(name, n_layer, wpe=0.01, scaled=("c_proj.weight",), by=2, gain=0.0, bias=0.0):
    if name == "wpe.weight":
        return wpe
    if ".ln_" in name or name.startswith("ln_f"):
        return gain if name.endswith("weight") else bias
    if name.endswith("bias"):
        return bias
    return 0.02 / math.sqrt(by * n_layer) if name.endswith(scaled) else 0.02


def check_my_first_std(my_first_std, seed=0):
    """The standard deviation of each parameter before training; 0 where it is set, not drawn."""
    g = torch.Generator().manual_seed(seed)
    n_layer = int(torch.randint(3, 40, (), generator=g))
    at = int(torch.randint(n_layer, (), generator=g))
    block = [
        *("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias"),
        *("attn.c_proj.weight", "attn.c_proj.bias", "ln_2.weight", "ln_2.bias"),
        *("mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"),
    ]
    names = ["wte.weight", "wpe.weight", *(f"h.{at}.{part}" for part in block)]
    names += ["ln_f.weight", "ln_f.bias"]
    found = {}
    for name in names:
        found[name] = call(my_first_std, name, n_layer, hint="name is text, n_layer an int.")
        assert type(found[name]) in (int, float), (
            f"For {name} a {type(found[name]).__name__} came: one number is expected."
        )
    b = f"h.{at}."

    def same(name, number):
        return abs(found[name] - number) < 1e-12

    mistakes = {
        "the position table begins smaller than the token table, with 0.01.": same(
            "wpe.weight", 0.02
        ),
        "a LayerNorm's factors are set to 1, not drawn: their standard deviation is 0.": (
            same("ln_f.weight", 0.02) or same(b + "ln_1.weight", 0.02)
        ),
        "that is the value to which factors are set, not how much they differ: 0.": same(
            "ln_f.weight", 1
        ),
        "biases are set to 0, not drawn.": same(b + "mlp.c_fc.bias", 0.02),
        "no matrix is scaled: the last one of each branch, c_proj, begins smaller by the root of "
        "2L.": same(b + "attn.c_proj.weight", 0.02) and same(b + "mlp.c_proj.weight", 0.02),
        "attention's c_proj is scaled and the MLP's is not: both add to the stream.": (
            not same(b + "attn.c_proj.weight", 0.02) and same(b + "mlp.c_proj.weight", 0.02)
        ),
        "the root is of the blocks, L: a block adds to the stream twice, so it is of 2L.": same(
            b + "attn.c_proj.weight", 0.02 / math.sqrt(n_layer)
        ),
        "the scale is 1/(2L), without the root: of independent additions the variances add up.": (
            same(b + "attn.c_proj.weight", 0.02 / (2 * n_layer))
        ),
        "the matrices that a branch begins with are scaled too: only those that write to the "
        "stream are.": found[b + "attn.c_attn.weight"] < 0.0199,
    }
    for sentence, made in mistakes.items():
        assert not made, f"n_layer {n_layer}: {sentence}"
    for name in names:
        right = _first_std(name, n_layer)
        assert abs(found[name] - right) < 1e-12, (
            f"{name} begins with {right:.4g}, and {found[name]:.4g} came. Which rule is meant "
            "for it?"
        )


# 5 The first loss -----------------------------------------------------------------------


def check_my_first_loss(my_first_loss, seed=0):
    """A formula, held against the loss of random logits."""
    g = torch.Generator().manual_seed(seed)
    for V, C, std in ((500, 400, 0.02), (3000, 900, 0.025), (800, 150, 0.05)):
        found = call(my_first_loss, V, C, std, hint="V and C are ints, std a float.")
        assert type(found) is float, f"It returned a {type(found).__name__}: a float is expected."
        right = math.log(V) + C * std**2 / 2
        case = f"V = {V}, C = {C}, std = {std}: "
        mistakes = {
            "that is ln V alone: logits that scatter are bets, and cost something.": math.log(V),
            "the logits' variance counts half: the mean of e^z is e^(s²/2).": math.log(V)
            + C * std**2,
            "the standard deviation of the logits is added, not half their variance.": math.log(V)
            + math.sqrt(C) * std,
            "the scatter makes the loss larger: the sign is wrong.": math.log(V) - C * std**2 / 2,
            "that is in bits, by the logarithm to base 2: losses are in nats.": right / math.log(2),
            "std is not squared: C numbers of variance std² add up to C·std².": math.log(V)
            + C * std / 2,
            "the width is missing: a logit is a sum over C channels.": math.log(V) + std**2 / 2,
        }
        for sentence, wrong in mistakes.items():
            assert not abs(found - wrong) < 1e-9, case + sentence
        streams = torch.randn(200, C, generator=g, dtype=torch.float64)
        table = std * torch.randn(V, C, generator=g, dtype=torch.float64)
        logits = F.layer_norm(streams, (C,)) @ table.T
        measured = (logits.logsumexp(-1) - logits.mean(-1)).mean().item()
        assert abs(found - measured) < 0.02, (
            f"{case}predicted {found:.3f}, measured {measured:.3f}. Begin with the variance of a "
            "logit."
        )


# 6 The table's gradient -----------------------------------------------------------------


def _table_gradient(idx, grad_x, x, grad_logits, read=True, head=True, how="add"):
    V, C = grad_logits.shape[-1], x.shape[-1]
    total = torch.zeros(V, C, dtype=x.dtype)
    ids, rows = idx.flatten(), grad_x.reshape(-1, C)
    if read and how == "overwrite":
        total[ids] = rows
    elif read:
        total.index_add_(0, ids, rows)
    if how == "mean":
        total /= torch.bincount(ids, minlength=V).clamp(min=1)[:, None]
    if head:
        total = total + grad_logits.reshape(-1, V).T @ x.reshape(-1, C)
    return total / 2 if how == "half" else total


def check_my_table_gradient(my_table_gradient, seed=0):
    """What the table gets from both ends, held against autograd."""
    g = torch.Generator().manual_seed(seed)
    B, T, C, V = 2, 6, 3, 7
    idx = torch.randint(4, (B, T), generator=g)  # some ids twice, some never

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    grad_x, x, grad_logits = draw(T, B, C).transpose(0, 1), draw(B, T, C), draw(B, T, V)
    a = (idx, grad_x, x, grad_logits)
    kept = [t.clone() for t in a]
    y = call(my_table_gradient, *a)
    is_tensor(y, (V, C), torch.float64, "The gradient has the shape of the table.")
    assert all(torch.equal(t, before) for t, before in zip(a, kept)), (
        "A tensor that came in has changed: something works in place on it."
    )
    names_none_of(
        y,
        {
            "Only the head's part is there: the rows that were read get a gradient too.": (
                _table_gradient(*a, read=False)
            ),
            "Only the way in is there: from the head, every row gets a gradient.": (
                _table_gradient(*a, head=False)
            ),
            "A token that was read twice counts once: assigning to rows keeps the last one. Does "
            "index_add_ help?": _table_gradient(*a, how="overwrite"),
            "Rows that were read several times get the mean: gradients of several uses add up.": (
                _table_gradient(*a, how="mean")
            ),
            "Both ends are averaged: what is used twice gets the sum of its gradients.": (
                _table_gradient(*a, how="half")
            ),
        },
    )
    table = draw(V, C).requires_grad_()
    made = (F.embedding(idx, table) * grad_x).sum() + (F.linear(x, table) * grad_logits).sum()
    (right,) = torch.autograd.grad(made, table)
    assert close(y, right), (
        f"It is off by up to {(y - right).abs().max():.2g}. Take a batch of one text of one token."
    )


WRONG = {
    "my_gpt": {
        "no positions": (
            lambda i, e, p, b, n: _gpt(i, e, p, b, n, places=torch.zeros_like(p[0])),
            "Positions are not used",
        ),
        "positions by token": (
            lambda i, e, p, b, n: _gpt(i, e, p, b, n, places=p[i]),
            "looked up by the tokens",
        ),
        "positions from 1": (
            lambda i, e, p, b, n: _gpt(i, e, p, b, n, places=p[1 : i.shape[1] + 1]),
            "given row 1",
        ),
        "no last LayerNorm": (lambda *a: _gpt(*a, last=False), "ln_f stands before the head"),
        "LayerNorm first": (_norm_first, "before the blocks"),
        "softmax": (lambda *a: _gpt(*a).softmax(-1), "Probabilities came out"),
        "one block": (lambda i, e, p, b, n: _gpt(i, e, p, b[:1], n), "Only the first block"),
        "side by side": (_side_by_side, "stream of the beginning"),
        "adds the blocks": (_adds_twice, "is the stream already"),
        "backwards": (lambda i, e, p, b, n: _gpt(i, e, p, b[::-1], n), "from the last to"),
        "last position only": (lambda *a: _gpt(*a)[:, -1], "Only one prediction"),
        "detaches the table": (
            lambda i, e, p, b, n: _gpt(i, e.detach() + 0 * e, p, b, n),
            "gradient is not",
        ),
    },
    "my_n_params": {
        "the head twice": (
            lambda n, c, t, v, tied: _n_params(n, c, t, v, False),
            "head is counted though",
        ),
        "never untied": (lambda n, c, t, v, tied: _n_params(n, c, t, v), "a second table"),
        "no positions": (lambda *a: _n_params(*a, places=0), "position table is missing"),
        "no last LayerNorm": (lambda *a: _n_params(*a, last=0), "last LayerNorm is missing"),
        "no biases": (
            lambda n, c, t, v, tied: _n_params(n, c, t, v, tied, block=12 * c * c + 4 * c),
            "9C a block",
        ),
        "no LayerNorms in the blocks": (
            lambda n, c, t, v, tied: _n_params(n, c, t, v, tied, block=12 * c * c + 9 * c),
            "blocks' LayerNorms",
        ),
        "matrices only": (
            lambda n, c, t, v, tied: _n_params(n, c, t, v, tied, block=12 * c * c, last=0),
            "only matrices",
        ),
        "no output projection": (
            lambda n, c, t, v, tied: _n_params(n, c, t, v, tied, block=11 * c * c + 12 * c),
            "output projection",
        ),
        "a float": (lambda *a: float(_n_params(*a)), "in whole numbers"),
    },
    "my_largest_width": {
        "under the budget": (lambda *a: _largest_width(*a, strictly=True), "exactly the budget"),
        "uneven heads": (lambda *a: _largest_width(*a, multiple=False), "multiple of n_head"),
        "one too many": (lambda *a: _largest_width(*a, over=True), "too large for the budget"),
        "no tables": (
            lambda *a: _largest_width(
                *a, count=lambda n, c, t, v: n * (12 * c * c + 13 * c) + 2 * c
            ),
            "tables are left out",
        ),
        "the estimate": (lambda b, n, *_: int((b / (12 * n)) ** 0.5), "a good estimate"),
    },
    "my_first_std": {
        "wpe like wte": (lambda *a: _first_std(*a, wpe=0.02), "begins smaller than"),
        "draws LayerNorms": (lambda *a: _first_std(*a, gain=0.02), "set to 1, not drawn"),
        "the value of the factors": (lambda *a: _first_std(*a, gain=1.0), "how much they differ"),
        "draws biases": (lambda *a: _first_std(*a, bias=0.02), "biases are set to 0"),
        "scales nothing": (lambda *a: _first_std(*a, scaled=("none",)), "no matrix is scaled"),
        "forgets the MLP": (
            lambda *a: _first_std(*a, scaled=("attn.c_proj.weight",)),
            "the MLP's is not",
        ),
        "root of L": (lambda *a: _first_std(*a, by=1), "root is of the blocks"),
        "no root": (
            lambda name, n: _first_std(name, n, by=4 * n),
            "without the root",
        ),
        "scales what reads": (
            lambda *a: _first_std(*a, scaled=("c_proj.weight", "c_attn.weight", "c_fc.weight")),
            "a branch begins with",
        ),
    },
    "my_first_loss": {
        "ln V": (lambda V, C, s: math.log(V), "ln V alone"),
        "the whole variance": (lambda V, C, s: math.log(V) + C * s * s, "counts half"),
        "the deviation": (lambda V, C, s: math.log(V) + math.sqrt(C) * s, "is added, not half"),
        "the sign": (lambda V, C, s: math.log(V) - C * s * s / 2, "sign is wrong"),
        "bits": (lambda V, C, s: (math.log(V) + C * s * s / 2) / math.log(2), "to base 2"),
        "no square": (lambda V, C, s: math.log(V) + C * s / 2, "not squared"),
        "no width": (lambda V, C, s: math.log(V) + s * s / 2, "width is missing"),
    },
    "my_table_gradient": {
        "the head alone": (lambda *a: _table_gradient(*a, read=False), "Only the head's part"),
        "the way in alone": (lambda *a: _table_gradient(*a, head=False), "Only the way in"),
        "overwrites": (lambda *a: _table_gradient(*a, how="overwrite"), "counts once"),
        "means": (lambda *a: _table_gradient(*a, how="mean"), "get the mean"),
        "averages the ends": (lambda *a: _table_gradient(*a, how="half"), "Both ends are averaged"),
        "turned round": (lambda *a: _table_gradient(*a).T, "shape of the table"),
    },
}
