"""Checks for the exercises of chapter 17, and the wrong answers that they are proved against.

    B texts   T positions   C channels   H heads   D = C / H   V vocabulary   L blocks

Each check draws its cases from a seed, names the mistake that fits, and compares with gpt2lib.lens
where that has the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2lib.answers import call, close, is_tensor, names_none_of
from gpt2lib.lens import induction_scores


def _some(seed, *shape):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def _differ(mistakes, right):
    """Of the mistakes those that show in this case."""
    return {said: wrong for said, wrong in mistakes.items() if not close(wrong, right)}


# 1 Induction score ----------------------------------------------------------------------


def _line(weights, offset, first):
    """The mean of weights[t, t − offset] from t = first on: (B, H, T, T) to (H,)."""
    T = weights.shape[-1]
    t = torch.arange(first, T)
    return weights[..., t, t - offset].mean((0, -1))


SCORE_MISTAKES = {
    "copy": (
        "It is the weight on the earlier copy itself, t − period. Induction looks one further, at "
        "what came after it: t − period + 1.",
        lambda w, p: _line(w, p, p),
    ),
    "before": (
        "It is the weight on the token before the earlier copy, t − period − 1: what follows the "
        "copy is at t − period + 1.",
        lambda w, p: _line(w, p + 1, p + 1),
    ),
    "first round": (
        "The last position of the first round is counted too: there is no earlier copy yet. The "
        "whole diagonal is one entry too long; begin with t = period.",
        lambda w, p: _line(w, p - 1, p - 1),
    ),
    "transposed": (
        "Rows and columns are exchanged: the row is the token that looks, and above the diagonal "
        "all weights are 0. Look at which index is t.",
        lambda w, p: _line(w.mT, p - 1, p),
    ),
    "previous": (
        "It is the weight on the token just before: that is what the head in the block below "
        "does. This one looks a whole period back, less one.",
        lambda w, p: _line(w, 1, p),
    ),
    "sum": (
        "The weights were added up over the positions, and their mean was asked for: divide by "
        "the number of positions from the second round on.",
        lambda w, p: _line(w, p - 1, p) * (w.shape[-1] - p),
    ),
    "batch": (
        "The weights were added up over the texts, and their mean was asked for: is one axis "
        "summed?",
        lambda w, p: _line(w, p - 1, p) * w.shape[0],
    ),
    "all positions": (
        "The sum was divided by all T positions, but only those from the second round on were "
        "counted: T − period of them.",
        lambda w, p: _line(w, p - 1, p) * (w.shape[-1] - p) / w.shape[-1],
    ),
}


def check_my_induction_score(my_induction_score, seed=0):
    """One number a head, of maps with random weights; held against the library's."""
    for period, T in ((5, 14), (4, 8)):
        scores = 2 * _some(seed + period, 3, 2, T, T)
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))
        weights = scores.softmax(-1)
        y = call(my_induction_score, weights.clone(), period)
        is_tensor(y, (2,), torch.float64, "One number for each head: (H,).")
        right = induction_scores(weights[None], period)[0]
        mistakes = {said: wrong(weights, period) for said, wrong in SCORE_MISTAKES.values()}
        names_none_of(y, _differ(mistakes, right))
        assert close(y, right), (
            f"It gives {y[0]:.4f} for the first head where {right[0]:.4f} was due: the mean, over "
            "texts and over t from period on, of the weight of row t at column t − period + 1."
        )


def _score_with(name):
    return SCORE_MISTAKES[name][1]


# 2 Ablation -----------------------------------------------------------------------------


def _ablated(x, head, to, *, over=(0, 1), what="head"):
    y = x.clone()
    if what == "others":
        keep = [h for h in range(x.shape[2]) if h != head]
        y[:, :, keep] = x[:, :, keep].mean((0, 1)) if to == "mean" else 0.0
    elif what == "position":
        y[:, head] = x.mean((0, 1)) if to == "mean" else 0.0
    elif what == "channel":
        y[..., head] = x[..., head].mean() if to == "mean" else 0.0
    elif to == "mean":
        y[:, :, head] = x[:, :, head].mean(over, keepdim=True)
    else:
        y[:, :, head] = 0.0
    return y


def _mean_of_others(x, head, to):
    if to == "zero":
        return _ablated(x, head, to)
    y = x.clone()
    y[:, :, head] = x[:, :, [h for h in range(x.shape[2]) if h != head]].mean(2)
    return y


def _always(to):
    return lambda x, head, _: _ablated(x, head, to)


ABLATE_MISTAKES = {
    "others": (
        "This head stayed and the others went: the head named is the one to be replaced.",
        lambda x, h, to: _ablated(x, h, to, what="others"),
    ),
    "position": (
        "A position was replaced, and not a head: the axes are (B, T, H, D), so heads are axis 2.",
        lambda x, h, to: _ablated(x, h, to, what="position"),
    ),
    "channel": (
        "One channel of every head was replaced, and not all channels of one head: the axes are "
        "(B, T, H, D), so heads are axis 2.",
        lambda x, h, to: _ablated(x, h, to, what="channel"),
    ),
    "nothing": (
        "Nothing has changed: is the copy that was changed the one that is returned?",
        lambda x, h, to: x.clone(),
    ),
    "batch": (
        "The mean was taken over the texts alone, so each position has one of its own: take it "
        "over positions too.",
        lambda x, h, to: _ablated(x, h, to, over=(0,)),
    ),
    "positions": (
        "The mean was taken over the positions alone, so each text has one of its own, and that "
        "still tells which text it is: take it over the batch too.",
        lambda x, h, to: _ablated(x, h, to, over=(1,)),
    ),
    "one number": (
        "The mean is a single number: channels mean different things, so keep the D of them apart.",
        lambda x, h, to: _ablated(x, h, to, over=(0, 1, 2)),
    ),
    "mean of others": (
        "The mean is that of the other heads: what goes in is this head's own mean.",
        _mean_of_others,
    ),
    "always zero": (
        'With to="mean" the head became 0: look at the case that you return first.',
        _always("zero"),
    ),
    "always mean": (
        'With to="zero" the head became its mean: look at the case that you return first.',
        _always("mean"),
    ),
}


def check_my_ablate(my_ablate, seed=0):
    """One head of three replaced, both ways; what came in is left as it was."""
    x = _some(seed, 4, 5, 3, 6) + 1
    for head, to in ((1, "zero"), (2, "mean"), (0, "mean"), (0, "zero")):
        given = x.clone()
        y = call(my_ablate, given, head, to)
        is_tensor(y, (4, 5, 3, 6), torch.float64, "The shape stays: no head is cut out.")
        assert torch.equal(given, x), (
            "The tensor that came in was changed: the model may need it again. Make a clone first."
        )
        right = _ablated(x, head, to)
        mistakes = {said: wrong(x, head, to) for said, wrong in ABLATE_MISTAKES.values()}
        names_none_of(y, _differ(mistakes, right))
        assert close(y, right), (
            f"Head {head} replaced by its {to} should look otherwise: write down what is at "
            "y[:, :, head], and that all else is as it came."
        )


def _ablate_with(name):
    return ABLATE_MISTAKES[name][1]


def _ablate_in_place(x, head, to):
    x[:, :, head] = x[:, :, head].mean((0, 1)) if to == "mean" else 0.0
    return x


# 3 Patching -----------------------------------------------------------------------------


def _patched(into, source, positions, *, axis=1, how="put", shift=0):
    y = into.clone()
    at = [slice(None)] * into.dim()
    at[axis] = [p + shift for p in positions]
    at = tuple(at)
    if how == "add":
        y[at] = into[at] + source[at]
    elif how == "half":
        y[at] = (into[at] + source[at]) / 2
    else:
        y[at] = source[at]
    return y


def _in_line(into, source, positions):
    y = into.clone()
    y[:, positions] = source[:, : len(positions)]
    return y


PATCH_MISTAKES = {
    "roles": (
        "The two are exchanged: it is the source with rows of the other, and should be the other "
        "with rows of the source.",
        lambda a, b, p: _patched(b, a, p),
    ),
    "all": (
        "Every position has the source's value: only the positions given are to be replaced.",
        lambda a, b, p: b.clone(),
    ),
    "nothing": (
        "Nothing has changed: is the copy that was changed the one that is returned?",
        lambda a, b, p: a.clone(),
    ),
    "add": (
        "The source was added to what stood there: patching replaces it.",
        lambda a, b, p: _patched(a, b, p, how="add"),
    ),
    "half": (
        "Half of each stands there now: patching puts in the source's value, whole.",
        lambda a, b, p: _patched(a, b, p, how="half"),
    ),
    "batch": (
        "Texts were replaced, and not positions: the axes are (B, T, C), so positions are axis 1.",
        lambda a, b, p: _patched(a, b, p, axis=0),
    ),
    "channels": (
        "Channels were replaced, and not positions: the axes are (B, T, C), so positions are "
        "axis 1.",
        lambda a, b, p: _patched(a, b, p, axis=2),
    ),
    "in line": (
        "The values put in are those of the source's first positions: take them from the same "
        "positions as they go to.",
        _in_line,
    ),
    "shift": (
        "It is one position off: positions count from 0, as Python does.",
        lambda a, b, p: _patched(a, b, p, shift=-1),
    ),
}


def check_my_patch(my_patch, seed=0):
    """Some positions of one activation in another; both are left as they were."""
    into, source = _some(seed, 6, 6, 6), _some(seed + 1, 6, 6, 6)
    for positions in ([3], [2, 4], [-1]):
        a, b = into.clone(), source.clone()
        y = call(my_patch, a, b, list(positions))
        is_tensor(y, (6, 6, 6), torch.float64, "It is as large as what came in: (B, T, C).")
        assert torch.equal(a, into) and torch.equal(b, source), (
            "A tensor that came in was changed: the next patch needs it. Make a clone first."
        )
        right = _patched(into, source, positions)
        mistakes = {said: wrong(into, source, positions) for said, wrong in PATCH_MISTAKES.values()}
        names_none_of(y, _differ(mistakes, right))
        assert close(y, right), (
            f"With positions {positions} the result should look otherwise: write down what "
            "y[:, positions] is, and that all else is as it came."
        )


def _patch_with(name):
    return PATCH_MISTAKES[name][1]


def _patch_in_place(into, source, positions):
    into[:, positions] = source[:, positions]
    return into


# 4 The logit lens -----------------------------------------------------------------------

EPS = 1e-5


def _normed(x, unbiased=False, over=(-1,), centre=True):
    middle = x.mean(over, keepdim=True) if centre else 0.0
    spread = x.var(over, unbiased=unbiased, keepdim=True)
    return (x - middle) / (spread + EPS).sqrt()


def _last_scale(x):
    last = x[-1:]
    spread = (last.var(-1, unbiased=False, keepdim=True) + EPS).sqrt()
    return (x - x.mean(-1, keepdim=True)) / spread


LENS_MISTAKES = {
    "raw": (
        "The streams met the table as they are: the head reads what the last LayerNorm makes of "
        "them.",
        lambda x, w, b, table: x @ table.mT,
    ),
    "no weight": (
        "LayerNorm's own weight and bias are missing: it centres, scales, and then multiplies and "
        "adds what it has learned.",
        lambda x, w, b, table: _normed(x) @ table.mT,
    ),
    "no bias": (
        "LayerNorm's bias is missing: it is added before the head reads.",
        lambda x, w, b, table: (_normed(x) * w) @ table.mT,
    ),
    "bias first": (
        "The bias was added before the multiplication with the weight: first the weight, then the "
        "bias.",
        lambda x, w, b, table: ((_normed(x) + b) * w) @ table.mT,
    ),
    "no centre": (
        "The mean over the channels was not taken away: LayerNorm centres first, then scales.",
        lambda x, w, b, table: (_normed(x, centre=False) * w + b) @ table.mT,
    ),
    "unbiased": (
        "The variance was divided by C − 1: LayerNorm divides by C, so unbiased=False.",
        lambda x, w, b, table: (_normed(x, unbiased=True) * w + b) @ table.mT,
    ),
    "last scale": (
        "All streams were scaled by the last one's spread: each has a LayerNorm of its own "
        "numbers. (For a direct effect the scale is held fixed; not here.)",
        lambda x, w, b, table: (_last_scale(x) * w + b) @ table.mT,
    ),
    "over all": (
        "LayerNorm went over positions as well as channels: each position is normed by itself.",
        lambda x, w, b, table: (_normed(x, over=(-2, -1)) * w + b) @ table.mT,
    ),
    "softmax": (
        "These are probabilities, and logits were asked for: leave the softmax to the caller.",
        lambda x, w, b, table: ((_normed(x) * w + b) @ table.mT).softmax(-1),
    ),
}


def check_my_logit_lens(my_logit_lens, seed=0):
    """Logits from every stream; held against PyTorch's LayerNorm."""
    x = _some(seed, 4, 2, 5, 8) * torch.arange(1, 5).view(4, 1, 1, 1) + 0.5
    weight, bias, table = 1 + _some(seed + 1, 8), _some(seed + 2, 8), _some(seed + 3, 11, 8)
    y = call(my_logit_lens, x.clone(), weight, bias, table)
    is_tensor(
        y, (4, 2, 5, 11), torch.float64, "Logits from each stream at each position: (L+1, B, T, V)."
    )
    right = F.layer_norm(x, (8,), weight, bias, EPS) @ table.mT
    mistakes = {said: wrong(x, weight, bias, table) for said, wrong in LENS_MISTAKES.values()}
    names_none_of(y, _differ(mistakes, right))
    assert close(y, right), (
        "The logits differ from those of PyTorch's LayerNorm and a product with the table: write "
        "down the four steps, centre, scale, weight and bias, product, and compare each. "
        f"Is eps {EPS}?"
    )


def _lens_with(name):
    return LENS_MISTAKES[name][1]


# 5 Direct effect ------------------------------------------------------------------------


def _effect(heads, matrix, reader, *, rows=False, comb=False):
    H, D = heads.shape[1:]
    blocks = matrix.mT if rows else matrix
    split = blocks.unflatten(1, (D, H)).mT if comb else blocks.unflatten(1, (H, D))
    return torch.einsum("bhd,chd,c->bh", heads, split, reader)


EFFECT_MISTAKES = {
    "rows": (
        "The output matrix was cut by rows: a head's channels come *in*, and of a Linear's weight "
        "(out, in) those are columns.",
        lambda x, w, r: _effect(x, w, r, rows=True),
    ),
    "comb": (
        "Each head got every H-th column: its D columns lie side by side, from head · D on.",
        lambda x, w, r: _effect(x, w, r, comb=True),
    ),
    "first block": (
        "Every head went through the first head's columns: each has columns of its own.",
        lambda x, w, r: torch.einsum("bhd,cd,c->bh", x, w[:, : x.shape[-1]], r),
    ),
    "no matrix": (
        "The heads' averages met the reader without the output matrix: what a head brings to the "
        "stream is its average times its columns.",
        lambda x, w, r: torch.einsum("bhd,hd->bh", x, r.view(x.shape[1:])),
    ),
    "absolute": (
        "The sign is gone: a head that writes against the name is not one that writes for it.",
        lambda x, w, r: _effect(x, w, r).abs(),
    ),
    "shares": (
        "These are shares that sum to 1: logits were asked for, and the heads' logits may well "
        "have different signs.",
        lambda x, w, r: _effect(x, w, r) / _effect(x, w, r).sum(1, keepdim=True),
    ),
    "batch": (
        "Every text has the same numbers, their mean: leave the mean to the caller.",
        lambda x, w, r: _effect(x, w, r).mean(0, keepdim=True).expand(len(x), -1),
    ),
    "equal": (
        "Every head of a text has the same number, the mean of all: keep the heads apart.",
        lambda x, w, r: _effect(x, w, r).mean(1, keepdim=True).expand(-1, x.shape[1]),
    ),
}


def check_my_direct_effect(my_direct_effect, seed=0):
    """Each head's part of a logit; together they are what the layer writes."""
    heads, matrix, reader = _some(seed, 5, 3, 4), _some(seed + 1, 12, 12), _some(seed + 2, 12)
    y = call(my_direct_effect, heads.clone(), matrix.clone(), reader.clone())
    is_tensor(y, (5, 3), torch.float64, "One number for each text and head: (B, H).")
    right = _effect(heads, matrix, reader)
    mistakes = {said: wrong(heads, matrix, reader) for said, wrong in EFFECT_MISTAKES.values()}
    names_none_of(y, _differ(mistakes, right))
    layer = F.linear(heads.flatten(1), matrix) @ reader  # without a bias
    assert close(y.sum(1), layer), (
        "The heads' parts do not add up to what the layer writes: sum them for one text, and "
        "compare with all heads side by side, times the matrix, times the reader."
    )
    assert close(y, right), (
        "The heads' parts add up to what the layer writes, and are shared out wrongly among them: "
        "columns head · D to (head + 1) · D belong to a head."
    )


def _effect_with(name):
    return EFFECT_MISTAKES[name][1]


def _shared_out(heads: Tensor, matrix, reader):
    """Sums right, shared wrongly: the heads in reverse order."""
    return _effect(heads, matrix, reader).flip(1)


WRONG = {  # exercise: {the mistake: (wrong answer, a piece of the sentence that must reject it)}
    "my_induction_score": {
        "the copy itself": (_score_with("copy"), "the earlier copy itself"),
        "before the copy": (_score_with("before"), "before the earlier copy"),
        "the whole diagonal": (_score_with("first round"), "last position of the first round"),
        "transposed": (_score_with("transposed"), "Rows and columns are exchanged"),
        "the token before": (_score_with("previous"), "the token just before"),
        "sum over positions": (_score_with("sum"), "added up over the positions"),
        "sum over texts": (_score_with("batch"), "added up over the texts"),
        "divided by T": (_score_with("all positions"), "divided by all T positions"),
    },
    "my_ablate": {
        "the others": (_ablate_with("others"), "the others went"),
        "a position": (_ablate_with("position"), "A position was replaced"),
        "a channel": (_ablate_with("channel"), "One channel of every head"),
        "nothing": (_ablate_with("nothing"), "Nothing has changed"),
        "in place": (_ablate_in_place, "The tensor that came in was changed"),
        "mean over texts": (_ablate_with("batch"), "over the texts alone"),
        "mean over positions": (_ablate_with("positions"), "over the positions alone"),
        "mean over channels": (_ablate_with("one number"), "a single number"),
        "the others' mean": (_ablate_with("mean of others"), "that of the other heads"),
        "always zero": (_ablate_with("always zero"), "the head became 0"),
        "always the mean": (_ablate_with("always mean"), "the head became its mean"),
    },
    "my_patch": {
        "roles": (_patch_with("roles"), "The two are exchanged"),
        "everywhere": (_patch_with("all"), "Every position has"),
        "nowhere": (_patch_with("nothing"), "Nothing has changed"),
        "added": (_patch_with("add"), "was added"),
        "half": (_patch_with("half"), "Half of each"),
        "texts": (_patch_with("batch"), "Texts were replaced"),
        "channels": (_patch_with("channels"), "Channels were replaced"),
        "from the start": (_patch_with("in line"), "the source's first positions"),
        "from 1": (_patch_with("shift"), "one position off"),
        "in place": (_patch_in_place, "A tensor that came in was changed"),
    },
    "my_logit_lens": {
        "no LayerNorm": (_lens_with("raw"), "as they are"),
        "nothing learned": (_lens_with("no weight"), "own weight and bias are missing"),
        "no bias": (_lens_with("no bias"), "LayerNorm's bias is missing"),
        "bias first": (_lens_with("bias first"), "added before the multiplication"),
        "not centred": (_lens_with("no centre"), "was not taken away"),
        "C − 1": (_lens_with("unbiased"), "divided by C − 1"),
        "the last one's scale": (_lens_with("last scale"), "the last one's spread"),
        "over positions": (_lens_with("over all"), "over positions as well"),
        "probabilities": (_lens_with("softmax"), "These are probabilities"),
    },
    "my_direct_effect": {
        "rows": (_effect_with("rows"), "cut by rows"),
        "every H-th": (_effect_with("comb"), "every H-th column"),
        "the first head's": (_effect_with("first block"), "the first head's columns"),
        "no matrix": (_effect_with("no matrix"), "without the output matrix"),
        "no sign": (_effect_with("absolute"), "The sign is gone"),
        "shares": (_effect_with("shares"), "shares that sum to 1"),
        "mean over texts": (_effect_with("batch"), "Every text has the same"),
        "heads alike": (_effect_with("equal"), "Every head of a text"),
        "in reverse": (_shared_out, "shared out wrongly"),
    },
}
