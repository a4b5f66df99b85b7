"""Checks for the exercises of chapter 1, and the wrong answers that they are proved against.

    B batch   T words that look   S words looked at   C, M channels   D width of q and k   Dv of v

Each check draws its cases from a seed, first looks whether the answer is one of the mistakes
that are often made, then tests properties, then values, then gradients.
"""

import math

import torch
import torch.nn.functional as F

from gpt2lib.answers import call, close, gradients, is_tensor, names_none_of

INFINITY = float("inf")


# 1 Softmax ------------------------------------------------------------------------------


def check_my_softmax(my_softmax, seed=0):
    """Positive, summing to 1 along dim, for scores of any size; the gradient flows."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 3, 5, generator=g, dtype=torch.float64)
    before = scores.clone()
    y = call(my_softmax, scores, -1)
    is_tensor(y, (2, 3, 5), torch.float64, "Softmax keeps the shape: is keepdim=True missing?")
    assert torch.equal(scores, before), (
        "The scores that you were given are different after the call: is there an in-place "
        "operation such as -= or exp_? Make a new tensor."
    )
    assert not y.isnan().any() and (y >= 0).all(), (
        "Some weights are below 0: are the scores divided by their sum as they are? "
        "Make them positive first: which function is positive everywhere?"
    )
    for dim in (1, 0, -1):
        sums = call(my_softmax, scores, dim).sum(dim)
        assert close(sums, torch.ones_like(sums)), (
            f"With dim={dim} the sums along axis {dim} are not 1: is dim used in every step? "
            "Look at the axis given to sum."
        )
    assert close(y, scores.softmax(-1)), (
        "The rows sum to 1, but the weights are wrong: ratios of weights are e to the "
        "difference of scores. Is the exponential the right one?"
    )
    assert not call(my_softmax, scores + 1000, -1).isnan().any(), (
        "Scores near 1000 give nan: exp overflows there. Only differences count, so take the "
        "largest score away first."
    )
    steps = torch.tensor([[0.0], [1000.0], [2000.0]], dtype=torch.float64)
    uneven = call(my_softmax, scores + steps, -1)
    assert not uneven.isnan().any() and close(uneven, y), (
        "A row whose scores lie far under another row's gives nan: is one maximum taken for "
        "the whole tensor? Take one a row, with keepdim=True."
    )
    masked = scores.masked_fill(torch.tensor([False, True, False, False, True]), -INFINITY)
    assert close(call(my_softmax, masked, -1), masked.softmax(-1)), (
        "A score of −∞ must get the weight 0 and leave the rest a softmax of the others. Look "
        "at what your steps make of it."
    )
    (mine,) = gradients(lambda s: my_softmax(s, 1), [scores])
    (right,) = gradients(lambda s: s.softmax(1), [scores])
    assert close(mine, right), (
        "The values are right and the gradient is wrong: is a part of the formula detached?"
    )
    assert call(my_softmax, scores.float(), -1).dtype == torch.float32, (
        "float32 scores must give float32 weights: is a dtype written into the function?"
    )


def _softmax_last_axis_always(scores, dim):
    return scores.softmax(-1)


def _softmax_no_maximum(scores, dim):
    e = scores.exp()
    return e / e.sum(dim, keepdim=True)


def _softmax_one_maximum(scores, dim):
    e = (scores - scores.max()).exp()
    return e / e.sum(dim, keepdim=True)


def _softmax_in_place(scores, dim):
    scores -= scores.amax(dim, keepdim=True)
    e = scores.exp()
    return e / e.sum(dim, keepdim=True)


def _softmax_plain_share(scores, dim):
    return scores / scores.sum(dim, keepdim=True)


def _softmax_base_two(scores, dim):
    e = torch.exp2(scores - scores.amax(dim, keepdim=True))
    return e / e.sum(dim, keepdim=True)


def _softmax_detached(scores, dim):
    return scores.detach().softmax(dim)


# 2 Causal mask --------------------------------------------------------------------------


def check_my_causal_mask(my_causal_mask, seed=0):
    """(T, S) of bool; the T rows are the last T of S positions and see all up to themselves."""
    g = torch.Generator().manual_seed(seed)
    S = int(torch.randint(6, 10, (), generator=g))
    for T in (S, S - 3, 1):
        mask = call(my_causal_mask, T, S)
        is_tensor(mask, (T, S), torch.bool, "One row a query, one column a key.")
        own = torch.arange(S - T, S)  # the position of each row
        if T == S:
            assert not torch.equal(mask, torch.ones(T, T).triu().bool()), (
                "Each row sees itself and what comes after: the triangle is the upper one. Is "
                "it triu where tril was meant, or a mask in which True means hidden?"
            )
            assert not mask.diagonal(1).any(), (
                "Row 0 sees column 1, the next word: the diagonal is shifted up. Look at the "
                "second argument of tril, or at < S + 1 for < S."
            )
            assert mask.diagonal().all(), (
                "Row 0 sees nothing at all: no word may look at itself. A softmax over nothing "
                "is nan. Is it < where ≤ was meant?"
            )
        assert mask[-1].all(), (
            f"With T={T} and S={S} the last row must see all {S} columns, and does not: the "
            "rows are counted from the first position, but they are the last T of S."
        )
        want = torch.stack([torch.arange(S) <= int(i) for i in own])
        assert torch.equal(mask, want), (
            f"With T={T} and S={S} the mask is wrong in {int((mask != want).sum())} places. "
            "Print it as .int(): row i is position S − T + i, and sees all columns up to that."
        )


def _mask_upper(T, S):
    return torch.ones(T, S).triu(S - T).bool()


def _mask_sees_next(T, S):
    return torch.ones(T, S, dtype=torch.bool).tril(S - T + 1)


def _mask_not_itself(T, S):
    return torch.ones(T, S, dtype=torch.bool).tril(S - T - 1)


def _mask_from_the_first(T, S):
    return torch.ones(T, S, dtype=torch.bool).tril()


def _mask_of_floats(T, S):
    return torch.ones(T, S).tril(S - T)


def _mask_square(T, S):
    return torch.ones(S, S, dtype=torch.bool).tril()


# 3 Self-attention -----------------------------------------------------------------------


def _right_self_attention(x, w_q, w_k, w_v, w_o):
    """PyTorch's own, as the oracle."""
    return F.scaled_dot_product_attention(x @ w_q, x @ w_k, x @ w_v, is_causal=True) @ w_o


def _self_attention(
    x, w_q, w_k, w_v, w_o, scale=None, dim=-1, diagonal=0, late=False, backward=False
):
    """Causal self-attention with a mistake of choice."""
    q, k, v = x @ w_q, x @ w_k, x @ w_v
    scores = q @ k.mT / (math.sqrt(q.shape[-1]) if scale is None else scale)
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(diagonal)
    mask = mask.mT if backward else mask
    if late:
        weights = scores.softmax(dim) * mask
    else:
        weights = scores.masked_fill(~mask, -INFINITY).softmax(dim)
    return weights @ v @ w_o


def _attention_mistakes(x, w_q, w_k, w_v, w_o):
    """What goes wrong, in a sentence, and the output that it gives."""
    weights = (x, w_q, w_k, w_v, w_o)
    (C, D), Dv, T = w_q.shape, w_v.shape[1], x.shape[1]
    return {
        "The output is that of scores that were never divided: they spread wider the larger D "
        "is. Where is the √D?": _self_attention(*weights, scale=1.0),
        "The scores are divided by D, and D's root was meant: their variance is D, but it is "
        "their standard deviation that must become 1.": _self_attention(*weights, scale=D),
        "The divisor is the root of the width of the values: a score is a sum over the width "
        "of queries and keys. Look at the tensor whose shape you ask.": _self_attention(
            *weights, scale=math.sqrt(Dv)
        ),
        "The divisor is √C, from the width of x: a score is a sum over the columns of w_q. "
        "Look at the tensor whose shape you ask.": _self_attention(*weights, scale=math.sqrt(C)),
        "The columns of the weights sum to 1, not the rows: is the softmax over the queries? "
        "Look at the axis it is given.": _self_attention(*weights, dim=-2),
        "Every word sees every other: no mask is at work. Before the softmax, set the scores of "
        "later words to −∞.": _self_attention(*weights, diagonal=T),
        "The weights are masked after the softmax: the future still stands in the denominator, "
        "and the rows sum to less than 1. Mask the scores.": _self_attention(*weights, late=True),
        "Each word sees one word ahead: the triangle is shifted. Look at the second argument of "
        "tril or triu.": _self_attention(*weights, diagonal=1),
        "Each word sees itself and the future, and not the past: the mask is upside down. Is it "
        "True where looking is allowed?": _self_attention(*weights, backward=True),
        "The keys are reshaped to (D, T) where they should be transposed: reshape leaves the "
        "numbers in their order and only moves the line breaks.": _attention_reshapes(*weights),
        "Queries and keys have swapped roles: row i must belong to the query of word i. Look at "
        "which of the two is transposed.": _self_attention(x, w_k, w_q, w_v, w_o),
    }


def check_my_self_attention(my_self_attention, seed=0):
    """Batched, masked, scaled, projected: (B, T, C) → (B, T, C), for any sizes."""
    g = torch.Generator().manual_seed(seed)
    B, T, C, D, Dv = 2, 5, 6, 3, 4

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x = draw(T, B, C).transpose(0, 1)  # not contiguous, as tensors in a model often are
    weights = draw(C, D), draw(C, D), draw(C, Dv), draw(Dv, C)
    y = call(
        my_self_attention,
        x,
        *weights,
        hint="In a batch only the last two axes of the keys trade places (k.mT): the batch stays "
        "in front.",
    )
    shape_hint = f"Width Dv={Dv} at the end would mean that w_o has not been applied."
    is_tensor(y, (B, T, C), torch.float64, shape_hint)
    assert not y.isnan().any(), (
        "There are nans: a row of scores that is −∞ throughout has no softmax. May each word "
        "look at least at itself?"
    )
    names_none_of(y, _attention_mistakes(x, *weights))
    for changed, watched in ((0, 1), (1, 0)):
        other = x.clone()
        other[changed] = draw(T, C)
        assert close(call(my_self_attention, other, *weights)[watched], y[watched]), (
            f"Changing example {changed} changes the output for example {watched}: the batch is "
            "mixed. Look for an axis counted from the front, or a flattened batch."
        )
    for j in range(T):
        other = x.clone()
        other[:, j] = draw(B, C)
        moved = ((call(my_self_attention, other, *weights) - y).abs() > 1e-9).any(-1).any(0)
        assert not moved[:j].any(), (
            f"Changing word {j} changes the output of word {int(moved.int().argmax())} before "
            "it: the future gets in. Look at the mask, and at what is shared between rows."
        )
    right = _right_self_attention(x, *weights)
    assert close(y, right), (
        f"The output is off by up to {(y - right).abs().max():.2g}, though the future is hidden "
        "and the batch is not mixed. Go through the formula on T = 2."
    )
    mine = gradients(my_self_attention, (x, *weights))
    true = gradients(_right_self_attention, (x, *weights))
    for name, a, b in zip(("x", "w_q", "w_k", "w_v", "w_o"), mine, true):
        assert close(a, b), (
            f"The output is right, but the gradient by {name} is not: is a part of the formula "
            "detached, or under no_grad? Then that part would never learn."
        )
    short = call(my_self_attention, x[:, :1].float(), *(w.float() for w in weights))
    is_tensor(short, (B, 1, C), torch.float32, "A text of one word is a text too.")


def _attention_counts_from_the_front(x, w_q, w_k, w_v, w_o):
    scores = torch.matmul(x @ w_q, (x @ w_k).transpose(0, 1))
    return torch.matmul(scores.softmax(dim=1), x @ w_v)


def _attention_no_projection(x, w_q, w_k, w_v, w_o):
    return F.scaled_dot_product_attention(x @ w_q, x @ w_k, x @ w_v, is_causal=True)


def _attention_detached(x, w_q, w_k, w_v, w_o):
    q, k, v = x @ w_q, x @ w_k, x @ w_v
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).detach()
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    return scores.masked_fill(~mask, -INFINITY).softmax(-1) @ v @ w_o


def _attention_flattens(x, *weights):
    B, T, C = x.shape
    return _right_self_attention(x.reshape(1, B * T, C), *weights).view(B, T, -1)


def _attention_reshapes(x, w_q, w_k, w_v, w_o):
    B, T, _ = x.shape
    q, k, v = x @ w_q, x @ w_k, x @ w_v
    scores = q @ k.reshape(B, -1, T) / math.sqrt(q.shape[-1])
    mask = torch.ones(T, T, dtype=torch.bool).tril()
    return scores.masked_fill(~mask, -INFINITY).softmax(-1) @ v @ w_o


# 4 Cross-attention ----------------------------------------------------------------------


def _right_cross_attention(x, memory, lengths, w_q, w_k, w_v):
    """PyTorch's own, as the oracle."""
    real = torch.arange(memory.shape[1]) < lengths[:, None]  # (B, S)
    return F.scaled_dot_product_attention(
        x @ w_q, memory @ w_k, memory @ w_v, attn_mask=real[:, None]
    )


def check_my_cross_attention(my_cross_attention, seed=0):
    """T words look at S others in another text, of which the last may be padding."""
    g = torch.Generator().manual_seed(seed)
    B, T, S, C, M, D, Dv = 3, 4, 7, 5, 6, 2, 8

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x, memory = draw(B, T, C), draw(B, S, M)
    weights = draw(C, D), draw(M, D), draw(M, Dv)
    lengths = torch.tensor([5, S, 3])
    hint = "Queries come from x (width C), keys and values from memory (width M)."
    y = call(my_cross_attention, x, memory, lengths, *weights, hint=hint)
    is_tensor(y, (B, T, Dv), torch.float64, "One output a word of x, as wide as the values.")
    right = _right_cross_attention(x, memory, lengths, *weights)
    empty = memory * (torch.arange(S) < lengths[:, None])[..., None]
    full = torch.full((B,), S)
    mistakes = {
        "All S words of memory are heard, the padding too: is lengths used?": (
            _right_cross_attention(x, memory, full, *weights)
        ),
        "The padding is set to zero, but is heard all the same: a score of 0 still makes a "
        "weight. Forbidden scores are −∞.": _right_cross_attention(x, empty, full, *weights),
        "One word of padding is heard in each text: positions run from 0 to lengths − 1. Is it "
        "≤ where < was meant?": _right_cross_attention(x, memory, lengths + 1, *weights),
        "All examples are cut at the length of the first: compare positions with "
        "lengths[:, None], one row an example.": _right_cross_attention(
            x, memory, lengths[:1].expand(B), *weights
        ),
        "The weights of padding are set to zero after the softmax, so that the rows sum to "
        "less than 1. Mask the scores.": _cross_late(x, memory, lengths, *weights),
        "The scores are not divided by √D: cross-attention is scaled as self-attention is.": (
            _right_cross_attention(x * math.sqrt(D), memory, lengths, *weights)
        ),
    }
    names_none_of(y, mistakes)
    other = memory.clone()
    other[2, 3:] = draw(S - 3, M)
    assert torch.allclose(call(my_cross_attention, x, other, lengths, *weights), y), (
        "Other numbers in the padding change the output: something still hears it. Look at "
        "which axis of the scores the mask lies along."
    )
    order = torch.randperm(S, generator=g)
    again = call(my_cross_attention, x, memory[:, order], full, *weights)
    assert torch.allclose(again, call(my_cross_attention, x, memory, full, *weights)), (
        "Without padding, the order of memory must not matter, and it does: is a causal mask "
        "left in? A word may look at all of the other text."
    )
    assert close(y, right), (
        f"The output is off by up to {(y - right).abs().max():.2g}. Queries come from x; keys "
        "and values from memory. Check each shape by hand."
    )
    inputs = (x, memory, *weights)
    mine = gradients(lambda x, m, *w: my_cross_attention(x, m, lengths, *w), inputs)
    true = gradients(lambda x, m, *w: _right_cross_attention(x, m, lengths, *w), inputs)
    assert all(close(a, b) for a, b in zip(mine, true)), (
        "The output is right and a gradient is not: is a part of the formula detached?"
    )


def _cross_late(x, memory, lengths, w_q, w_k, w_v):
    scores = (x @ w_q) @ (memory @ w_k).mT / math.sqrt(w_q.shape[1])
    real = torch.arange(memory.shape[1]) < lengths[:, None]
    return (scores.softmax(-1) * real[:, None]) @ (memory @ w_v)


def _cross_ignores_lengths(x, memory, lengths, *weights):
    return _right_cross_attention(x, memory, torch.full_like(lengths, memory.shape[1]), *weights)


def _cross_zeroes_memory(x, memory, lengths, *weights):
    real = torch.arange(memory.shape[1]) < lengths[:, None]
    return _cross_ignores_lengths(x, memory * real[..., None], lengths, *weights)


def _cross_one_too_many(x, memory, lengths, *weights):
    return _right_cross_attention(x, memory, lengths + 1, *weights)


def _cross_first_length(x, memory, lengths, *weights):
    return _right_cross_attention(x, memory, lengths[:1].expand(len(lengths)), *weights)


def _cross_unscaled(x, memory, lengths, w_q, w_k, w_v):
    return _right_cross_attention(x * math.sqrt(w_q.shape[1]), memory, lengths, w_q, w_k, w_v)


def _cross_causal(x, memory, lengths, w_q, w_k, w_v):
    scores = (x @ w_q) @ (memory @ w_k).mT / math.sqrt(w_q.shape[1])
    real = torch.arange(memory.shape[1]) < lengths[:, None]
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril() & real[:, None]
    return scores.masked_fill(~mask, -INFINITY).softmax(-1) @ (memory @ w_v)


def _cross_looks_from_memory(x, memory, lengths, w_q, w_k, w_v):
    return _right_cross_attention(memory, x, lengths, w_q, w_k, w_v)


# 5 Entropy, predicted -------------------------------------------------------------------


def _measured_entropy(T, D, divisor, g):
    """Mean entropy in nats of the weights of 4 · T random queries on T random keys each."""
    q, k = (torch.randn(4, T, D, generator=g, dtype=torch.float64) for _ in "qk")
    weights = (q @ k.mT / divisor).softmax(-1)
    return -torch.special.xlogy(weights, weights).sum(-1).mean().item()


def check_my_predicted_entropy(my_predicted_entropy, seed=0):
    """A formula, held against measurements at several lengths, widths and divisors."""
    g = torch.Generator().manual_seed(seed)
    for T, D, divisor in ((512, 64, 8.0), (256, 100, 20.0), (512, 64, 64.0), (384, 196, 16.0)):
        h = call(my_predicted_entropy, T, D, divisor)
        assert type(h) is float, (
            f"It returned a {type(h).__name__}, not a float: the prediction is one number of "
            "nats. math.log gives floats."
        )
        variance = D / divisor**2
        mistakes = {
            "That is in bits: the natural logarithm gives nats. Is it log2?": (
                (math.log(T) - variance / 2) / math.log(2)
            ),
            "That is the ceiling ln T, at which all weights are alike: but scores with any "
            "spread make some weights larger. What does their variance take away?": math.log(T),
            "The whole variance is taken away, and half of it is due: see the footnote on ln T "
            "and the variance.": math.log(T) - variance,
            "A sum of D products, divided by a number, has its variance divided by the number "
            "squared: the square is missing.": math.log(T) - D / divisor / 2,
            "That is right for the divisor √D alone: with another one the variance of the "
            "scores is not 1. Which is it?": math.log(T) - 0.5,
        }
        right = math.log(T) - variance / 2
        for sentence, wrong in mistakes.items():
            assert not abs(h - wrong) < 1e-9 < abs(right - wrong), sentence
        measured = _measured_entropy(T, D, divisor, g)
        assert abs(h - measured) < 0.03, (
            f"T={T}, D={D}, divisor {divisor:g}: predicted {h:.3f} nats, measured "
            f"{measured:.3f}. Start from the variance of one score."
        )


# 6 The witness --------------------------------------------------------------------------


def copied_attention(x, w_q, w_k, w_v):
    """Self-attention with its axes counted from the front, no scale and no mask."""
    query, key, value = x @ w_q, x @ w_k, x @ w_v
    scores = torch.matmul(query, key.transpose(0, 1))
    weights = F.softmax(scores, dim=1)
    return torch.matmul(weights, value)


def check_my_witness(my_witness, seed=0):
    """A batch on which copied_attention runs, and one example changes another's output."""
    found = call(my_witness)
    assert type(found) is tuple and len(found) == 3, (
        f"It returned a {type(found).__name__}; three things are expected, as a tuple: the batch, "
        "the number of the example that suffers, the number of the one that is changed."
    )
    x, i, j = found
    assert type(x) is torch.Tensor and type(i) is int and type(j) is int, (
        "The first of the three must be a tensor and the others ints: got "
        f"{', '.join(type(part).__name__ for part in found)}."
    )
    assert x.dim() == 3 and x.is_floating_point(), (
        f"A batch is (B, T, C) of floats: got {tuple(x.shape)} of {x.dtype}. For one text alone, "
        "(T, C), the copied code is right but for the scale and the mask."
    )
    assert 0 <= i < len(x) and 0 <= j < len(x), (
        f"There are {len(x)} examples, counted from 0: there is no pair {i} and {j}. Count the "
        "rows of your batch."
    )
    assert i != j, (
        f"Both numbers are {i}: that an example changes its own output is no leak. Name two "
        "different ones."
    )
    g = torch.Generator().manual_seed(seed)
    C = x.shape[-1]
    weights = [torch.randn(C, C, generator=g, dtype=x.dtype) for _ in "qkv"]
    try:
        y = copied_attention(x, *weights)
    except RuntimeError as e:
        raise AssertionError(
            f"On {tuple(x.shape)} the copied code raises an error ({e}): a bug that shows is "
            "no trap. For which sizes does the matrix product fit by accident?"
        ) from e
    other = x.clone()
    other[j] = torch.randn(other[j].shape, generator=g, dtype=x.dtype)
    moved = (copied_attention(other, *weights)[i] - y[i]).abs().max()
    assert moved > 1e-6, (
        f"Replacing example {j} leaves the output of example {i} as it was, so nothing leaks "
        "on this batch. Is it full of zeros? Draw it at random."
    )


def _witness_sizes_differ():
    return torch.randn(2, 5, 8), 0, 1


def _witness_same_example():
    return torch.randn(8, 8, 8), 3, 3


def _witness_one_text():
    return torch.randn(8, 8), 0, 3


def _witness_counts_from_one():
    return torch.randn(8, 8, 8), 1, 8


def _witness_zeros():
    return torch.zeros(8, 8, 8), 0, 3


def _witness_only_the_batch():
    return torch.randn(8, 8, 8)


WRONG = {
    "my_softmax": {
        "sums along the last axis whatever dim is": (_softmax_last_axis_always, "is dim used"),
        "takes no maximum away": (_softmax_no_maximum, "exp overflows"),
        "takes one maximum for the whole tensor": (_softmax_one_maximum, "one maximum"),
        "works in place": (_softmax_in_place, "in-place"),
        "divides the scores by their sum": (_softmax_plain_share, "below 0"),
        "uses 2 for e": (_softmax_base_two, "e to the difference"),
        "detaches": (_softmax_detached, "No gradient arrives"),
    },
    "my_causal_mask": {
        "upper triangle": (_mask_upper, "the upper one"),
        "sees the next word": (_mask_sees_next, "shifted up"),
        "does not see itself": (_mask_not_itself, "sees nothing at all"),
        "counts rows from the first position": (_mask_from_the_first, "from the first position"),
        "floats for bools": (_mask_of_floats, "The dtype is"),
        "square whatever T is": (_mask_square, "The shape is"),
    },
    "my_self_attention": {
        "forgets the scale": (lambda *a: _self_attention(*a, scale=1.0), "never divided"),
        "divides by D": (lambda *a: _self_attention(*a, scale=a[1].shape[1]), "D's root"),
        "scales by the width of the values": (
            lambda *a: _self_attention(*a, scale=math.sqrt(a[3].shape[1])),
            "width of the values",
        ),
        "scales by the width of x": (
            lambda *a: _self_attention(*a, scale=math.sqrt(a[1].shape[0])),
            "The divisor is √C",
        ),
        "softmax over the queries": (lambda *a: _self_attention(*a, dim=-2), "over the queries"),
        "no mask": (lambda *a: _self_attention(*a, diagonal=99), "no mask is at work"),
        "masks after the softmax": (lambda *a: _self_attention(*a, late=True), "denominator"),
        "sees one word ahead": (lambda *a: _self_attention(*a, diagonal=1), "is shifted"),
        "mask upside down": (lambda *a: _self_attention(*a, backward=True), "upside down"),
        "swaps queries and keys": (
            lambda x, w_q, w_k, w_v, w_o: _self_attention(x, w_k, w_q, w_v, w_o),
            "swapped roles",
        ),
        "transposes batch and time": (
            _attention_counts_from_the_front,
            "trade places",
        ),
        "no output projection": (_attention_no_projection, "w_o has not been applied"),
        "attends over the flattened batch": (_attention_flattens, "the batch is mixed"),
        "reshapes the keys": (_attention_reshapes, "only moves the line breaks"),
        "may not look at itself": (lambda *a: _self_attention(*a, diagonal=-1), "There are nans"),
        "detaches the scores": (_attention_detached, "under no_grad"),
    },
    "my_cross_attention": {
        "ignores the lengths": (_cross_ignores_lengths, "is lengths used"),
        "zeroes the padding in place of hiding it": (_cross_zeroes_memory, "heard all the same"),
        "hears one word of padding": (_cross_one_too_many, "One word of padding"),
        "one length for all": (_cross_first_length, "the length of the first"),
        "masks after the softmax": (_cross_late, "after the softmax"),
        "forgets the scale": (_cross_unscaled, "not divided by √D"),
        "leaves a causal mask in": (_cross_causal, "is a causal mask left in"),
        "queries from memory": (_cross_looks_from_memory, "Queries come from x (width C)"),
    },
    "my_predicted_entropy": {
        "only the ceiling": (lambda T, D, d: math.log(T), "the ceiling"),
        "in bits": (lambda T, D, d: math.log2(T) - D / d**2 / 2 / math.log(2), "in bits"),
        "takes the whole variance": (lambda T, D, d: math.log(T) - D / d**2, "whole variance"),
        "forgets the square": (lambda T, D, d: math.log(T) - D / d / 2, "the square is missing"),
        "right for √D alone": (lambda T, D, d: math.log(T) - 0.5, "for the divisor √D alone"),
    },
    "my_witness": {
        "sizes that differ": (_witness_sizes_differ, "raises an error"),
        "the same example twice": (_witness_same_example, "Both numbers are"),
        "one text, no batch": (_witness_one_text, "For one text alone"),
        "counts examples from 1": (_witness_counts_from_one, "counted from 0"),
        "a batch of zeros": (_witness_zeros, "nothing leaks"),
        "only the batch": (_witness_only_the_batch, "three things are expected"),
    },
}
