"""Checks for the exercises of chapter 10, and the wrong answers that they are proved against.

    B windows of a batch   T tokens of a window   V vocabulary

Each check draws its cases from a seed. Models are small and in float64, so that the right answer
and what each frequent mistake would give are computed beside the learner's.
"""

import copy
import math
from itertools import islice, pairwise

import torch
import torch.nn.functional as F
from torch import nn

from gpt2lib.answers import call, close, is_tensor, names_none_of

# 1 AdamW --------------------------------------------------------------------------------


def _adamw(
    w, g, m, v, t, lr, beta1, beta2, eps, decay, *, corrected=1, late=0, kind="", inside=0, keep=1
):
    """One update, with a mistake of choice; w, m and v after it."""
    g_in = g + decay * w if kind == "L2" else g
    m = beta1 * m + (1 - beta1) * g_in
    v = beta2 * v + (1 - beta2) * (g_in.abs() if kind == "abs" else g_in**2)
    share1, share2 = (1 - beta ** (t + late) if corrected else 1.0 for beta in (beta1, beta2))
    m_hat, v_hat = m / share1, v / share2
    root = (v_hat + eps).sqrt() if inside else v_hat.sqrt() + eps
    if kind == "no root":
        root = v_hat + eps
    shrink = 1 - lr * decay
    if kind == "decay without lr":
        shrink = 1 - decay
    if kind == "L2":
        shrink = 1.0
    moved = w * shrink - lr * m_hat / root
    if kind == "decay after":
        moved = (w - lr * m_hat / root) * shrink
    return moved, *((m, v) if keep else (m_hat, v_hat))


ADAMW_MISTAKES = {  # name: (what is wrong, how)
    "uncorrected": (
        "The running means are used as they are: both begin at 0, and are too small at first. "
        "Divide them by 1 − β to the power of t.",
        {"corrected": 0},
    ),
    "counts from 0": (
        "The correction is that of another update: t counts from 1, and at the first update the "
        "powers are β₁ and β₂ themselves.",
        {"late": 1},
    ),
    "L2": (
        "The decay went into the gradient, and so it is divided by the gradient's size: that is "
        "Adam with an L2 term. In AdamW the weights shrink by themselves.",
        {"kind": "L2"},
    ),
    "abs": (
        "v is a mean of the gradient's size and not of its square: then the root taken of it has "
        "the wrong unit. What does v average?",
        {"kind": "abs"},
    ),
    "no root": (
        "The step divides by the mean square itself: is the square root missing? A gradient twice "
        "as large should give the same step.",
        {"kind": "no root"},
    ),
    "eps inside": (
        "The epsilon stands inside the root, where its effect is its own root: at eps = 1e-8 as "
        "much as 1e-4. PyTorch adds it outside.",
        {"inside": 1},
    ),
    "decay without lr": (
        "The weights shrink by the decay itself and not by lr · decay: then they would be gone in "
        "a few steps, whatever the schedule says.",
        {"kind": "decay without lr"},
    ),
    "decay after": (
        "The decay also shrinks the step that was just made: shrink the old weights first, then "
        "subtract the step.",
        {"kind": "decay after"},
    ),
}


def check_my_adamw(my_adamw, seed=0):
    """One update after several; the weights, and the means as they go on to the next."""
    g = torch.Generator().manual_seed(seed)
    w, gradient, m = (torch.randn(3, 4, generator=g, dtype=torch.float64) for _ in range(3))
    v = 0.1 + torch.rand(3, 4, generator=g, dtype=torch.float64)
    rest = (3, 0.02, 0.8, 0.9, 1e-3, 0.3)
    came_in = [x.clone() for x in (w, gradient, m, v)]
    y = call(my_adamw, w, gradient, m, v, *rest)
    assert type(y) in (tuple, list) and len(y) == 3, (
        f"It returned {type(y).__name__}, not three tensors: the new w, m and v."
    )
    for part in y:
        is_tensor(part, (3, 4), torch.float64, "Each is as large as the weights.")
    assert all(map(torch.equal, (w, gradient, m, v), came_in)), (
        "A tensor that came in was changed: an operation in place, such as mul_ or *=, is at work. "
        "Make new tensors, as the same ones are needed again here."
    )
    names_none_of(
        y[0],
        {
            sentence: _adamw(w, gradient, m, v, *rest, **how)[0]
            for sentence, how in ADAMW_MISTAKES.values()
        },
    )
    right = _adamw(w, gradient, m, v, *rest)
    assert close(y[0], right[0]), (
        "The weights are not those of AdamW. Go through the three lines: means, corrections, "
        "weights; and look which β belongs to which mean."
    )
    hat = _adamw(w, gradient, m, v, *rest, keep=0)
    assert not close(y[1], hat[1]) and not close(y[2], hat[2]), (
        "The means that are returned are the corrected ones: the next update would correct them "
        "once more. Return m and v as they run on."
    )
    assert close(y[1], right[1]) and close(y[2], right[2]), (
        "The weights are right, but not the running means that go on: are they returned in the "
        "order w, m, v, and are they the new ones?"
    )


def _adamw_with(**how):
    def wrong(*inputs):
        return _adamw(*inputs, **how)

    return wrong


def _adamw_in_place(w, g, m, v, *rest):
    new = _adamw(w, g, m, v, *rest)
    for old, value in zip((w, m, v), new):
        old.copy_(value)
    return w, m, v


# 2 Clipping -----------------------------------------------------------------------------


def _norm(gradients):
    return math.sqrt(sum((g**2).sum().item() for g in gradients))


CLIP_MISTAKES = {  # name: (what is wrong, which limits show it, what it makes of the gradients)
    "stretches": (
        "A gradient that was shorter than the limit has been stretched to it: clipping only ever "
        "shortens. What should the factor be there?",
        lambda gs, limit: [g * (limit / _norm(gs)) for g in gs],
    ),
    "zeroes": (
        "A gradient that was shorter than the limit has become 0: a short gradient is a good one, "
        "and stays as it is.",
        lambda gs, limit: [g * (limit / _norm(gs) if _norm(gs) > limit else 0.0) for g in gs],
    ),
    "each by itself": (
        "Each tensor was clipped by its own length, which turns the gradient as a whole into "
        "another direction. Take one length over all.",
        lambda gs, limit: [g * min(1.0, limit / g.norm().item()) for g in gs],
    ),
    "entries": (
        "Each number was cut by itself: that changes the direction. All have to be multiplied by "
        "the same factor.",
        lambda gs, limit: [g.clamp(-limit, limit) for g in gs],
    ),
    "sum of lengths": (
        "The length of all is taken as the sum of the tensors' lengths: lengths add up by their "
        "squares, as in Pythagoras.",
        lambda gs, limit: [g * min(1.0, limit / sum(h.norm().item() for h in gs)) for g in gs],
    ),
    "untouched": (
        "A gradient longer than the limit went through as it was: was a new tensor made, and the "
        "old one left? It has to be changed in place.",
        lambda gs, limit: [g.clone() for g in gs],
    ),
}


def check_my_clip(my_clip, seed=0):
    """Above the limit scaled down to it, below it left alone; the length before is returned."""
    g = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(n, generator=g, dtype=torch.float64) for n in ((2, 3), (5,), (4, 1))]
    norm = _norm(gradients)
    longest = max(part.norm().item() for part in gradients)
    limits = (2 * norm, 0.25 * norm, (norm + longest) / 2)
    found, returned = [], []
    for limit in limits:
        mine = [part.clone() for part in gradients]
        returned.append(call(my_clip, mine, limit))
        found.append(_flat(mine))
    for sentence, made in CLIP_MISTAKES.values():
        wrong = [_flat(made(gradients, limit)) for limit in limits]
        assert not all(map(close, found, wrong)), sentence
    right = [_flat([part * min(1.0, limit / norm) for part in gradients]) for limit in limits]
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(found, right)), (
        "The gradients are not what they should be: above the limit all are multiplied by limit / "
        "norm, below it by 1."
    )
    for y, limit in zip(returned, limits):
        assert type(y) is float, (
            f"It returned a {type(y).__name__}, not a float: is the return missing, or .item()?"
        )
        after = min(norm, limit)
        assert math.isclose(norm, after) or not math.isclose(y, after, rel_tol=1e-5), (
            "It returned the length after clipping, which is known anyway; the one before is the "
            "one that tells of trouble."
        )
        assert math.isclose(y, norm, rel_tol=1e-5), f"It returned {y:.4f}, but {norm:.4f} was due."
    zeros = [torch.zeros(3, dtype=torch.float64)]
    call(my_clip, zeros, 1.0, hint="The gradient was 0 throughout. What is divided by its length?")
    assert not zeros[0].isnan().any(), (
        "A gradient of zeros became NaN: 0 / 0. When the length is 0 there is nothing to do."
    )


def _flat(parts):
    return torch.cat([part.flatten() for part in parts])


def _clip_with(name):
    def wrong(gradients, limit):
        norm, made = _norm(gradients), CLIP_MISTAKES[name][1](gradients, limit)
        for g, value in zip(gradients, made):
            g.copy_(value)
        return norm

    return wrong


def _clip_returns_after(gradients, limit):
    norm = _norm(gradients)
    for g in gradients:
        g.mul_(min(1.0, limit / max(norm, 1e-9)))
    return min(norm, limit)


def _clip_zero_by_zero(gradients, limit):
    norm = _norm(gradients)
    for g in gradients:
        g.mul_((limit / torch.tensor(norm)).clamp(max=1.0) if norm else math.nan)
    return norm


# 3 The learning rate --------------------------------------------------------------------


def check_my_learning_rate(my_learning_rate, seed=0):
    """Up in a line, down along half a cosine, to a fraction of the peak."""
    g = torch.Generator().manual_seed(seed)
    peak = 0.1 + torch.rand((), generator=g).item()
    steps, warmup = 40 + seed % 7, 10
    floor = 0.3

    def rates(steps, peak, warmup, floor):
        rates = [call(my_learning_rate, step, steps, peak, warmup, floor, hint=(
            "Is something divided by warmup, or by steps − warmup, when that is 0?"
        )) for step in range(steps)]  # fmt: skip
        for rate in rates:
            assert type(rate) in (float, int), (
                f"It returned a {type(rate).__name__}, not a number: is a return missing?"
            )
        return rates

    y = rates(steps, peak, warmup, floor)
    assert y[0] > 0, (
        "The rate of the first update is 0, so that update is made for nothing: with warmup = 10, "
        "update 0 should have 1/11 of the peak."
    )
    assert max(y) <= peak * (1 + 1e-9), (
        f"The rate rises to {max(y) / peak:.2f} times the peak: is the floor added on top? Let the "
        "cosine span what lies between floor and peak."
    )
    assert math.isclose(y[warmup], peak), (
        f"When the warm-up is over the rate is {y[warmup] / peak:.3f} of the peak, not the peak: "
        "does the cosine begin at update 0? It begins where the warm-up ends."
    )
    ramp = [peak * (step + 1) / (warmup + 1) for step in range(warmup)]
    assert all(map(math.isclose, y, ramp)), (
        "The warm-up is not the line peak · (step + 1) / (warmup + 1). Compute by hand what update "
        "0 and update 9 should have when warmup = 10."
    )
    down = y[warmup:]
    assert all(a > b for a, b in pairwise(down)), (
        "After the warm-up the rate does not fall at every step: does it go round a whole cosine, "
        "or rest on the floor? Half a cosine, from 1 to −1, should end at the floor."
    )
    part = [(step - warmup) / (steps - warmup) for step in range(warmup, steps)]
    line = [peak * (1 - (1 - floor) * p) for p in part]
    assert not all(map(math.isclose, down, line)), (
        "The rate falls in a line. A line is a good schedule, but a cosine was asked for."
    )
    assert not all(
        math.isclose(r, peak * (1 + math.cos(math.pi * p)) / 2) for r, p in zip(down, part)
    ), (
        "The rate falls to 0 and not to the floor. What share of the way from peak to floor·peak "
        "is left at each step?"
    )
    mixed = [floor + (peak - floor) * (1 + math.cos(math.pi * p)) / 2 for p in part]
    assert not all(map(math.isclose, down, mixed)), (
        f"The rate falls towards {floor} itself: floor is a fraction of the peak. What does 0.1 "
        "mean when the peak is 0.0006?"
    )
    right = [peak * (floor + (1 - floor) * (1 + math.cos(math.pi * p)) / 2) for p in part]
    assert all(map(math.isclose, down, right)), (
        "On the way down the rate is not floor·peak plus the cosine's share of the rest. Half-way "
        "down it should be the mean of peak and floor·peak."
    )
    assert math.isclose(rates(20, 1.0, 0, 0.1)[0], 1.0), (
        "Without a warm-up, the first update should have the peak."
    )


def _cosine(done):
    return (1 + math.cos(math.pi * done)) / 2


def _rate(step, steps, peak, warmup, floor):
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * (floor + (1 - floor) * _cosine((step - warmup) / (steps - warmup)))


def _rate_begins_at_zero(step, steps, peak, warmup, floor):
    return peak * step / warmup if step < warmup else _rate(step, steps, peak, warmup, floor)


def _rate_cosine_from_the_start(step, steps, peak, warmup, floor):
    if step < warmup:
        return _rate(step, steps, peak, warmup, floor)
    return _rate(step, steps, peak, 0, floor)


def _rate_floor_on_top(step, steps, peak, warmup, floor):
    if step < warmup:
        return _rate(step, steps, peak, warmup, floor)
    return peak * (floor + _cosine((step - warmup) / (steps - warmup)))


def _rate_rests_on_the_floor(step, steps, peak, warmup, floor):
    return max(floor * peak, _rate(step, steps, peak, warmup, 0.0)) if step >= warmup else (
        _rate(step, steps, peak, warmup, floor))  # fmt: skip


def _rate_to_zero(step, steps, peak, warmup, floor):
    return _rate(step, steps, peak, warmup, 0.0)


def _rate_absolute_floor(step, steps, peak, warmup, floor):
    if step < warmup:
        return _rate(step, steps, peak, warmup, floor)
    return floor + (peak - floor) * _cosine((step - warmup) / (steps - warmup))


def _rate_in_a_line(step, steps, peak, warmup, floor):
    if step < warmup:
        return _rate(step, steps, peak, warmup, floor)
    return peak * (1 - (1 - floor) * (step - warmup) / (steps - warmup))


# 4 Groups -------------------------------------------------------------------------------


class _Parts(nn.Module):
    """A table that is the head too, a frozen matrix, a LayerNorm, biases."""

    def __init__(self, n):
        super().__init__()
        self.wte = nn.Embedding(n + 4, n)
        self.ln = nn.LayerNorm(n)
        self.up = nn.Linear(n, 2 * n)
        self.frozen = nn.Linear(2 * n, n).requires_grad_(False)
        self.kernel = nn.Conv1d(n, n, 3)
        self.head = nn.Linear(n, n + 4, bias=False)
        self.head.weight = self.wte.weight


def check_my_param_groups(my_param_groups, seed=0):
    """Two axes or more decay, others do not; nothing frozen, nothing twice, nothing left out."""
    model, decay = _Parts(3 + seed % 4), 0.1 + seed % 5 / 10
    y = call(my_param_groups, model, decay)
    assert type(y) is list and len(y) == 2 and all(type(group) is dict for group in y), (
        f"It returned {type(y).__name__}, not a list of two dicts, as torch.optim.AdamW takes it."
    )
    rates, inside = {}, []
    for group in y:
        assert {"params", "weight_decay"} <= group.keys(), (
            "A group is a dict with the keys params and weight_decay: one of them is missing."
        )
        for p in (params := list(group["params"])):
            rates[id(p)] = group["weight_decay"]
        inside += params
    known = {id(p): name for name, p in model.named_parameters()}
    frozen = [p for p in inside if not p.requires_grad]
    assert not frozen, (
        "A frozen parameter is in a group: it has no gradient, and decay would still shrink it in "
        "some optimizers. Look at requires_grad."
    )
    assert len(inside) == len(rates), (
        "A parameter is there twice, the table that is also the head: it would be moved twice. "
        "model.parameters() gives each one once; a walk over modules does not."
    )
    missing = [name for i, name in known.items() if i not in rates and "frozen" not in name]
    assert not missing, (
        f"Left out of both groups: {', '.join(missing)}. What is in no group is never trained."
    )
    wide = {known[id(p)]: rates[id(p)] for p in inside if p.dim() >= 2}
    thin = {known[id(p)]: rates[id(p)] for p in inside if p.dim() < 2}
    assert wide["wte.weight"] == decay, (
        "The table of tokens does not decay: the rule asked for goes by the number of axes alone, "
        "and a table has two."
    )
    spared = [name for name, rate in wide.items() if rate != decay]
    assert not spared, (
        f"{', '.join(spared)} has more than two axes and does not decay by {decay}: two axes *or "
        "more*, said the rule."
    )
    assert not all(thin.values()), (
        "Everything decays: a bias is pulled away from where it fits, and the gain of a LayerNorm "
        "away from 1. What has one axis is spared."
    )
    assert not any(thin.values()), (
        f"{', '.join(name for name, rate in thin.items() if rate)} has one axis and decays: a "
        "LayerNorm has a gain besides its bias, and it belongs near 1."
    )


def _groups_by(decays, params, decay):
    return [
        {"params": [p for p in params if decays(p)], "weight_decay": decay},
        {"params": [p for p in params if not decays(p)], "weight_decay": 0.0},
    ]


def _learning(model):
    return [p for p in model.parameters() if p.requires_grad]


def _groups_all_decay(model, decay):
    return _groups_by(lambda p: True, _learning(model), decay)


def _groups_by_bias(model, decay):
    biases = {id(p) for name, p in model.named_parameters() if name.endswith("bias")}
    return _groups_by(lambda p: id(p) not in biases, _learning(model), decay)


def _groups_tables_spared(model, decay):
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return _groups_by(lambda p: p.dim() > 1 and id(p) not in tables, _learning(model), decay)


def _groups_two_axes_exactly(model, decay):
    return _groups_by(lambda p: p.dim() == 2, _learning(model), decay)


def _groups_with_frozen(model, decay):
    return _groups_by(lambda p: p.dim() > 1, list(model.parameters()), decay)


def _groups_by_modules(model, decay):
    params = [p for m in model.modules() for p in m.parameters(recurse=False) if p.requires_grad]
    return _groups_by(lambda p: p.dim() > 1, params, decay)


def _groups_matrices_alone(model, decay):
    return [{**group, "params": group["params"] if group["weight_decay"] else []}
            for group in _groups_by(lambda p: p.dim() > 1, _learning(model), decay)]  # fmt: skip


# 5 Pretraining --------------------------------------------------------------------------


class _Reader(nn.Module):
    """A small model of text: (B, T) → (B, T, V), with a table, a gain and a bias."""

    def __init__(self, V, g):
        super().__init__()
        self.table = nn.Parameter(torch.randn(V, 4, generator=g, dtype=torch.float64))
        self.gain = nn.Parameter(1 + torch.rand(4, generator=g, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(V, generator=g, dtype=torch.float64))

    def forward(self, idx):
        x = self.table[idx]
        assert idx.dim() == 2, f"the model reads ids (B, T): got {tuple(idx.shape)}"
        past = x.cumsum(1) / torch.arange(1, idx.shape[1] + 1)[:, None]
        return (self.gain * (x + past)) @ self.table.T + self.bias


LOOP_MISTAKES = {
    "not shifted": (
        "The targets are the ids that are read: this model learns to repeat, its loss goes to 0, "
        "and it can predict nothing. Which part of the window is read, which part said?"
    ),
    "says what was": (
        "The shift goes the wrong way: from each token the model must say the one before it. What "
        "is read is all but the last."
    ),
    "not divided": (
        "The gradients of the windows are added up and not divided by their number, so they are "
        "too long, and the clipping strikes too early."
    ),
    "never cleared": (
        "The gradients of all updates so far add up: nothing clears them between two updates."
    ),
    "cleared inside": (
        "Only the last window of an update moves the weights: the gradients of the others were "
        "cleared before the step."
    ),
    "step inside": (
        "The optimizer steps after each window: these are several small updates, and not one that "
        "reads several windows."
    ),
    "not clipped": (
        "Long gradients go through unclipped: where is clip used, and is it before the step?"
    ),
    "always rescaled": (
        "Short gradients are stretched to the length clip: clipping only ever shortens."
    ),
    "constant rate": (
        "The learning rate is the peak in every update: it is set in group['lr'], before the step, "
        "in each group."
    ),
    "no warm-up": (
        "The learning rate starts at the peak, without the warm-up: the first updates should go "
        "up in a line."
    ),
    "falls to zero": (
        "The cosine falls to 0 and not to a tenth of the peak: what share of the way is left to it?"
    ),
    "everything decays": (
        "Gains and biases decay as well: make two groups, by the number of a parameter's axes."
    ),
    "nothing decays": (
        "Nothing decays: AdamW has its weight_decay from the groups that it is given."
    ),
    "default betas": (
        "The betas are PyTorch's own, 0.9 and 0.999: GPT-3's second one, asked for here, is 0.95."
    ),
    "new optimizer": (
        "The optimizer is made anew for each update, and forgets its running means. Make it once, "
        "before the loop."
    ),
}


def _pretrain(model, windows, steps, accumulation, peak, warmup, weight_decay, clip, mistake=None):
    """The loop, with a mistake of choice."""

    def made():
        params = list(model.parameters())
        least = {"everything decays": 0, "nothing decays": 99}.get(mistake, 2)
        betas = (0.9, 0.999 if mistake == "default betas" else 0.95)
        return torch.optim.AdamW(_groups_by(lambda p: p.dim() >= least, params, weight_decay),
                                 lr=peak, betas=betas)  # fmt: skip

    optimizer, losses = made(), []
    for step in range(steps):
        if mistake == "new optimizer":
            optimizer = made()
        floor = 0.0 if mistake == "falls to zero" else 0.1
        rate = _rate(step, steps, peak, 0 if mistake == "no warm-up" else warmup, floor)
        for group in optimizer.param_groups:
            group["lr"] = peak if mistake == "constant rate" else rate
        if mistake != "never cleared":
            optimizer.zero_grad()
        mean = 0.0
        for window in islice(windows, accumulation):
            if mistake == "cleared inside":
                optimizer.zero_grad()
            idx, targets = window[:, :-1], window[:, 1:]
            if mistake == "not shifted":
                targets = idx
            if mistake == "says what was":
                idx, targets = targets, idx
            loss = F.cross_entropy(model(idx).flatten(0, 1), targets.flatten())
            (loss if mistake == "not divided" else loss / accumulation).backward()
            mean += loss.item() / accumulation
            if mistake == "step inside":
                _clip(model, clip)
                optimizer.step()
                optimizer.zero_grad()
        if mistake != "step inside":
            if mistake != "not clipped":
                _clip(model, clip, stretch=mistake == "always rescaled")
            optimizer.step()
        losses.append(mean)
    return losses


def _clip(model, limit, stretch=False):
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
    if stretch or norm > limit:
        for p in model.parameters():
            p.grad *= limit / norm


def check_my_pretraining(my_pretraining, seed=0):
    """The weights after some updates are those of a sound loop, with short and long gradients."""
    g = torch.Generator().manual_seed(seed)
    V, accumulation, steps = 9, 3, 8
    start = _Reader(V, g)
    windows = torch.randint(V, (accumulation * (steps + 2), 2, 6), generator=g)
    cases = [(steps, accumulation, 0.05, 3, 0.4, clip) for clip in (0.3, 30.0)]

    def trained(loop, case, **how):
        model = copy.deepcopy(start)
        rest = iter(windows.clone())
        losses = call(loop, model, rest, *case, **how) if not how else loop(
            model, rest, *case, **how)  # fmt: skip
        return losses, _flat([p.detach() for p in model.parameters()]), len(list(rest))

    found = [trained(my_pretraining, case) for case in cases]
    for losses, weights, left in found:
        assert type(losses) is list and len(losses) == steps, (
            f"It should return a list of {steps} losses, one an update: got "
            f"{type(losses).__name__} of {len(losses) if hasattr(losses, '__len__') else 'none'}."
        )
        assert not close(weights, _flat([p.detach() for p in start.parameters()])), (
            "The weights have not moved: is there a backward, a step, and a copy of nothing?"
        )
        assert left == 2 * accumulation, (
            f"{len(windows) - left} windows were read for {steps} updates of {accumulation}: each "
            "update reads its own ones, in order, and none of them twice."
        )
    for mistake, sentence in LOOP_MISTAKES.items():
        wrong = [trained(_pretrain, case, mistake=mistake)[1] for case in cases]
        assert not all(close(a[1], b) for a, b in zip(found, wrong)), sentence
    right = [trained(_pretrain, case, mistake="none")[:2] for case in cases]
    for (losses, weights, _), (expected, due) in zip(found, right):
        assert torch.allclose(weights, due, rtol=1e-5, atol=1e-6), (
            "The weights are not those of a sound loop. Go through an update in order: rate, "
            "clear, for each window shift, loss, backward; then clip, step."
        )
        assert all(type(loss) is float for loss in losses), (
            "The losses are not floats: a tensor keeps the graph of its forward pass alive. Take "
            "the number, by .item()."
        )
        assert all(map(_near, losses, expected)), (
            f"The weights are right, but the first loss is {losses[0]:.4f} where the mean over the "
            f"windows of the update is {expected[0]:.4f}."
        )


def _near(a, b):
    return math.isclose(a, b, rel_tol=1e-5)


def _pretrain_with(mistake):
    def wrong(*inputs):
        return _pretrain(*inputs, mistake=mistake)

    return wrong


def _pretrain_one_window(model, windows, steps, accumulation, *rest):
    return _pretrain(model, windows, steps, 1, *rest)


def _pretrain_sums_losses(model, windows, steps, accumulation, *rest):
    losses = _pretrain(model, windows, steps, accumulation, *rest)
    return [loss * accumulation for loss in losses]


def _pretrain_keeps_tensors(*inputs):
    return [torch.tensor(loss) for loss in _pretrain(*inputs)]


# 6 A loop with bugs ---------------------------------------------------------------------


class Table(nn.Module):
    """A bigram model: the logits after token i are row i of a table."""

    def __init__(self, V, g):
        super().__init__()
        self.table = nn.Parameter(torch.randn(V, V, generator=g, dtype=torch.float64))

    def forward(self, idx):
        return self.table[idx]

    def loss(self, idx, targets):
        return F.cross_entropy(self(idx).flatten(0, 1), targets.flatten(), ignore_index=-1)


def _micro_batches(g, V, counts):
    """Batches with so many targets each; the rest of their targets is −1."""
    batches = []
    for count in counts:
        idx, targets = torch.randint(V, (2, 2, 6), generator=g)
        targets.view(-1)[torch.randperm(12, generator=g)[count:]] = -1
        batches.append((idx, targets))
    return batches


def check_my_mended_loop(my_mended_loop, seed=0):
    """The loop without its bugs: the weights and the losses of AdamW, batch after batch."""
    g = torch.Generator().manual_seed(seed)
    model = Table(7, g)
    batches = _micro_batches(g, 7, (7, 12, 9, 10, 8))
    steps, lr = 4, 0.05
    mine = copy.deepcopy(model)
    losses = call(my_mended_loop, mine, list(batches), steps, lr, hint=(
        "Some targets are −1, where there is nothing to predict: what does cross_entropy offer?"
    ))  # fmt: skip
    assert type(losses) is list and len(losses) == steps, (
        f"It should return a list of {steps} losses, one an update: got {type(losses).__name__}. "
        "Is the return missing, or inside the loop?"
    )
    for name, sentence in BUGS.items():
        _, theirs = _loop(copy.deepcopy(model), batches, steps, lr, {name})
        floats = [float(loss) for loss in losses]
        assert not torch.allclose(torch.tensor(floats), torch.tensor(theirs)), sentence
    assert all(type(loss) is float for loss in losses), (
        f"The losses are of {type(losses[0]).__name__}: each tensor keeps the whole graph of its "
        "forward pass, and memory fills up update by update. Take the number, by .item()."
    )
    right, expected = _loop(copy.deepcopy(model), batches, steps, lr, set())
    same = torch.allclose(torch.tensor(losses, dtype=torch.float64),
                          torch.tensor(expected, dtype=torch.float64))  # fmt: skip
    assert same and torch.allclose(mine.table, right.table), (
        "The losses or the weights are not those of a sound loop. Go through an update in order: "
        "next batch, loss of the targets, clear, backward, step."
    )


BUGS = {
    "same batch": (
        "Every update learns from the same batch: next(iter(batches)) begins anew each time. Make "
        "the iterator once, before the loop."
    ),
    "new optimizer": (
        "The optimizer forgets: a new one is made for each update, and its running means start "
        "from nothing. Where should it be made?"
    ),
    "copies": (
        "The loss compares the logits with what was read, not with what comes next: this model "
        "learns to repeat. Which of the two belongs into cross_entropy?"
    ),
    "never clears": (
        "The gradients of all updates so far add up: nothing clears them. What must happen "
        "between two backward passes?"
    ),
    "steps first": (
        "The optimizer steps before there is a gradient, so each update uses the batch before, or "
        "nothing. Which comes first, backward or step?"
    ),
}


def _loop(model, batches, steps, lr, bugs):
    """The loop with these bugs in it; the model and the losses."""
    optimizer, source, losses = torch.optim.AdamW(model.parameters(), lr=lr), iter(batches), []
    for idx, targets in islice(source, steps):
        if "same batch" in bugs:
            idx, targets = batches[0]
        if "new optimizer" in bugs:
            optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
        wanted = idx if "copies" in bugs else targets
        loss = F.cross_entropy(model(idx).flatten(0, 1), wanted.flatten(), ignore_index=-1)
        if "steps first" in bugs:
            optimizer.step()
        if "never clears" not in bugs:
            optimizer.zero_grad()
        loss.backward()
        if "steps first" not in bugs:
            optimizer.step()
        losses.append(loss.item())
    return model, losses


def _with_bug(name):
    def wrong(model, batches, steps, lr):
        return _loop(model, batches, steps, lr, {name})[1]

    return wrong


def _loop_keeps_the_graph(model, batches, steps, lr):
    return [torch.tensor(loss) for loss in _loop(model, batches, steps, lr, set())[1]]


def _loop_minds_minus_one(model, batches, steps, lr):
    idx, targets = batches[0]
    return [F.cross_entropy(model(idx).flatten(0, 1), targets.flatten()).item()] * steps


WRONG = {  # exercise: {the mistake: (wrong answer, a piece of the sentence that must reject it)}
    "my_adamw": {
        "not corrected": (_adamw_with(corrected=0), "Divide them by 1 − β"),
        "counts from 0": (_adamw_with(late=1), "that of another update"),
        "decay in the gradient": (_adamw_with(kind="L2"), "Adam with an L2 term"),
        "size, not square": (_adamw_with(kind="abs"), "has the wrong unit"),
        "no root": (_adamw_with(kind="no root"), "is the square root missing"),
        "epsilon inside the root": (_adamw_with(inside=1), "stands inside the root"),
        "decay without the rate": (_adamw_with(kind="decay without lr"), "by the decay itself"),
        "decays the step": (_adamw_with(kind="decay after"), "also shrinks the step"),
        "returns corrected means": (_adamw_with(keep=0), "correct them once more"),
        "changes what came in": (_adamw_in_place, "that came in was changed"),
    },
    "my_clip": {
        "always rescales": (_clip_with("stretches"), "has been stretched to it"),
        "zeroes small gradients": (_clip_with("zeroes"), "a short gradient is a good one"),
        "each tensor by itself": (_clip_with("each by itself"), "by its own length"),
        "each number by itself": (_clip_with("entries"), "Each number was cut"),
        "adds up lengths": (_clip_with("sum of lengths"), "as in Pythagoras"),
        "leaves all": (_clip_with("untouched"), "has to be changed in place"),
        "returns the length after": (_clip_returns_after, "length after clipping"),
        "zero by zero": (_clip_zero_by_zero, "became NaN"),
    },
    "my_learning_rate": {
        "begins at zero": (_rate_begins_at_zero, "made for nothing"),
        "cosine from update 0": (_rate_cosine_from_the_start, "It begins where the warm-up ends"),
        "floor on top": (_rate_floor_on_top, "is the floor added on top"),
        "rests on the floor": (_rate_rests_on_the_floor, "does not fall at every step"),
        "falls to zero": (_rate_to_zero, "falls to 0 and not to the floor"),
        "floor is a rate": (_rate_absolute_floor, "is a fraction of the peak"),
        "falls in a line": (_rate_in_a_line, "falls in a line"),
    },
    "my_param_groups": {
        "everything decays": (_groups_all_decay, "Everything decays: a bias"),
        "only biases are spared": (_groups_by_bias, "it belongs near 1"),
        "tables are spared": (_groups_tables_spared, "The table of tokens does not decay"),
        "exactly two axes": (_groups_two_axes_exactly, "more than two axes"),
        "frozen ones, too": (_groups_with_frozen, "A frozen parameter"),
        "the table twice": (_groups_by_modules, "is there twice"),
        "leaves vectors out": (_groups_matrices_alone, "Left out of both groups"),
    },
    "my_pretraining": {
        "not shifted": (_pretrain_with("not shifted"), "learns to repeat, its loss"),
        "shifted backwards": (_pretrain_with("says what was"), "goes the wrong way"),
        "not divided": (_pretrain_with("not divided"), "not divided by their number"),
        "never clears": (_pretrain_with("never cleared"), "all updates so far add up"),
        "clears inside": (_pretrain_with("cleared inside"), "Only the last window"),
        "steps inside": (_pretrain_with("step inside"), "steps after each window"),
        "does not clip": (_pretrain_with("not clipped"), "go through unclipped"),
        "always rescales": (_pretrain_with("always rescaled"), "stretched to the length clip"),
        "constant rate": (_pretrain_with("constant rate"), "is the peak in every update"),
        "no warm-up": (_pretrain_with("no warm-up"), "without the warm-up"),
        "falls to zero": (_pretrain_with("falls to zero"), "falls to 0 and not to a tenth"),
        "everything decays": (_pretrain_with("everything decays"), "Gains and biases decay"),
        "nothing decays": (_pretrain_with("nothing decays"), "Nothing decays"),
        "default betas": (_pretrain_with("default betas"), "PyTorch's own"),
        "a new optimizer each time": (_pretrain_with("new optimizer"), "forgets its running"),
        "one window an update": (_pretrain_one_window, "windows were read"),
        "losses not divided": (_pretrain_sums_losses, "where the mean over the windows"),
        "keeps the graph": (_pretrain_keeps_tensors, "The losses are not floats"),
    },
    "my_mended_loop": {
        "the same batch": (_with_bug("same batch"), "learns from the same batch"),
        "a new optimizer each time": (_with_bug("new optimizer"), "The optimizer forgets"),
        "learns to copy": (_with_bug("copies"), "learns to repeat"),
        "never clears": (_with_bug("never clears"), "of all updates so far add up"),
        "steps before backward": (_with_bug("steps first"), "before there is a gradient"),
        "keeps the graph": (_loop_keeps_the_graph, "keeps the whole graph"),
        "minds the −1": (_loop_minds_minus_one, "nothing to predict: what does"),
    },
}
