"""Checks for the exercises of chapter 16, and the wrong answers that they are proved against.

    B batch   T time   C channels   V vocabulary   r rank

Each check draws its cases from a seed, names the mistake that fits, and compares with
gpt2lib.finetune.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2lib import finetune
from gpt2lib.answers import call, close, gradients, is_tensor, names_none_of


def _numbers(seed, *shape):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


# 1 A row --------------------------------------------------------------------------------


def _row(prompt, answer, eot, *, kind=""):
    ids = [*prompt, *answer, eot]
    if kind == "no end":
        ids = [*prompt, *answer]
    idx, targets = ids[:-1], ids[1:]
    masked = len(prompt) - 1
    if kind == "one more":
        masked += 1
    elif kind == "one less":
        masked -= 1
    elif kind == "all":
        masked = 0
    targets = [-1] * masked + targets[masked:]
    if kind == "unshifted":
        idx, targets = ids, [-1] * len(prompt) + ids[len(prompt) :]
    if kind == "zero":
        targets = [0 if t == -1 else t for t in targets]
    if kind == "answer masked":
        targets = ids[1 : len(prompt)] + [-1] * (len(ids) - len(prompt))
    if kind == "swapped":
        return targets, idx
    return idx, targets


ROW_MISTAKES = {
    "no end": "The end token is missing: the model never learns to stop. It is the last target.",
    "one more": "The first token of the answer is not asked for: it is predicted at the prompt's "
    "last token.",
    "one less": "The prompt's last token is asked for: only targets that lie in the answer count.",
    "all": "Nothing is left out: the targets within the prompt should be −1.",
    "unshifted": "Targets stand at their own places: at each place the target is the token after "
    "it, so that both lists are one shorter than the row.",
    "zero": "What does not count is marked with 0, and 0 is a token: −1 stands for nothing.",
    "answer masked": "The prompt is asked for and the answer is left out: the other way round.",
    "swapped": "The two lists came in the other order: idx first, then targets.",
}


def check_my_answer_row(my_answer_row, seed=0):
    """idx and targets of prompt, answer and end token, as lists."""
    g = torch.Generator().manual_seed(seed)
    cases = []
    for n, m in ((5, 3), (2, 4), (4, 1)):
        ids = (torch.randperm(40, generator=g)[: n + m] + 1).tolist()
        cases.append((ids[:n], ids[n:], 99))
    found = [call(my_answer_row, list(a), list(b), eot) for a, b, eot in cases]
    for y in found:
        assert type(y) in (tuple, list) and len(y) == 2 and all(type(x) is list for x in y), (
            f"It returned a {type(y).__name__}, not two lists of ids: idx and targets."
        )
        whole = all(type(i) is int for x in y for i in x)
        assert whole, "The lists should hold whole numbers: something else is among them."
    found = [tuple(y) for y in found]
    for kind, sentence in ROW_MISTAKES.items():
        assert found != [_row(*case, kind=kind) for case in cases], sentence
    for (a, b, eot), y in zip(cases, found):
        right = tuple(x[0].tolist() for x in finetune.answer_batch([(a, b)], eot))
        assert y == right, f"For prompt {a}, answer {b} it gives {y}, where {right} was due."


def _row_with(kind):
    return lambda *case: _row(*case, kind=kind)


# 2 LoRA ---------------------------------------------------------------------------------


def _lora(x, W, b, A, B, alpha, *, kind=""):
    r = A.shape[0]
    scale = {"no alpha": 1 / r, "no rank": alpha, "root": alpha / r**0.5, "upside down": r / alpha}
    low = x @ A.mT @ B.mT * scale.get(kind, alpha / r)
    if kind == "alone":
        return low
    if kind == "no bias":
        return x @ W.mT + low
    if kind == "bias scaled":
        return x @ W.mT + b * (1 + alpha / r) + low
    if kind == "on the output":
        return x @ W.mT + b + (x @ W.mT)[..., : A.shape[1]] @ A.mT @ B.mT * alpha / r
    if kind == "plain":
        return x @ W.mT + b
    return x @ W.mT + b + low


LORA_MISTAKES = {
    "no alpha": "α does not matter to it: the correction is multiplied by α / r.",
    "no rank": "The correction is multiplied by α and not divided by the rank: A has r rows.",
    "root": "The correction is divided by the root of the rank: here it is by the rank itself.",
    "upside down": "The factor is upside down: α / r, and not r / α.",
    "alone": "Only the correction came out: W x + b stays as it was, and it is added.",
    "no bias": "The bias is missing: it stays as it was.",
    "bias scaled": "The bias is counted more than once: the correction has none.",
    "on the output": "The correction reads the output of W: it stands beside W, and reads x.",
    "plain": "It is W x + b without a correction: A and B do not matter to it.",
}


def check_my_lora(my_lora, seed=0):
    """A matrix with its correction, and the gradients of A and B."""
    x, W, b = _numbers(seed, 2, 3, 5), _numbers(seed + 1, 7, 5), _numbers(seed + 2, 7)
    A, B, alpha = _numbers(seed + 3, 2, 5), _numbers(seed + 4, 7, 2), 6.0
    y = call(my_lora, x, W, b, A, B, alpha)
    is_tensor(y, (2, 3, 7), torch.float64, "W is (out, in), A (r, in), B (out, r).")
    wrong = {s: _lora(x, W, b, A, B, alpha, kind=kind) for kind, s in LORA_MISTAKES.items()}
    names_none_of(y, wrong)
    assert close(y, _lora(x, W, b, A, B, alpha)), (
        "The numbers are off: write the shapes of x Aᵀ, and of that times Bᵀ, beside each step."
    )
    mine = gradients(lambda a, c: my_lora(x, W, b, a, c, alpha), (A, B))
    right = gradients(lambda a, c: _lora(x, W, b, a, c, alpha), (A, B))
    assert all(close(a, c) for a, c in zip(mine, right)), (
        "The result is right, and the gradient of A or B is not: is one of them detached?"
    )


def _lora_with(kind):
    return lambda *a: _lora(*a, kind=kind)


def _lora_detached(x, W, b, A, B, alpha):
    return _lora(x, W, b, A.detach() + 0 * A, B, alpha)


# 3 The last token -----------------------------------------------------------------------


def _last(x, idx, pad, *, kind=""):
    real = idx != pad
    at = torch.arange(idx.shape[1])
    last = (real * at).amax(1)
    if kind == "last column":
        last = torch.full_like(last, idx.shape[1] - 1)
    elif kind == "count":
        last = real.sum(1) - 1
    elif kind == "first pad":
        last = torch.where(real.all(1), idx.shape[1], (~real).double().argmax(1)) - 1
        last = last.clamp(min=0)
    elif kind == "one on":
        last = (last + 1).clamp(max=idx.shape[1] - 1)
    elif kind == "first":
        last = torch.zeros_like(last)
    elif kind == "mean":
        return (x * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    elif kind == "same":
        last = last[:1].expand(len(x))
    return x[torch.arange(len(x)), last]


LAST_MISTAKES = {
    "last column": "It reads the last column, where most rows have filler: each ends elsewhere.",
    "count": "It counts the tokens that are not pad: a pad within the text, as at its beginning, "
    "then moves the place.",
    "first pad": "It stops at the first pad: one may stand at the beginning of a text, as the mark "
    "of a new document does.",
    "one on": "It reads the token after the last: an index counts from 0.",
    "first": "It reads the first token, which has seen nothing of the text.",
    "mean": "It takes the mean over the text: the last token alone has seen all of it.",
    "same": "All rows are read where the first one ends: each has an end of its own.",
}


def check_my_last_token(my_last_token, seed=0):
    """The stream where each row ends, with pads at the beginning too."""
    x, pad = _numbers(seed, 4, 7, 3), 9
    g = torch.Generator().manual_seed(seed)
    idx = torch.randint(9, (4, 7), generator=g)
    for row, end in enumerate((4, 7, 3, 6)):
        idx[row, end:] = pad
    idx[0, 0] = idx[1, 0] = pad  # the mark of a beginning
    idx[3, 2] = pad
    y = call(my_last_token, x, idx, pad)
    is_tensor(y, (4, 3), torch.float64, "One vector for each row.")
    names_none_of(y, {s: _last(x, idx, pad, kind=kind) for kind, s in LAST_MISTAKES.items()})
    assert close(y, _last(x, idx, pad)), (
        "A row is read elsewhere than at its last token that is not pad. Print the places."
    )


def _last_with(kind):
    return lambda *a: _last(*a, kind=kind)


# 4 The log-probability of an answer ------------------------------------------------------


def _logprob(logits, targets, *, kind=""):
    logp = logits.log_softmax(-2 if kind == "over time" else -1)
    each = logp.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    if kind == "logits":
        each = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    counted = targets != -1
    if kind == "all":
        counted = torch.ones_like(counted)
    if kind == "zero too":
        counted = targets > 0
    each = each * counted
    if kind == "mean":
        return each.sum(1) / counted.sum(1)
    if kind == "sign":
        return -each.sum(1)
    if kind == "probability":
        return each.sum(1).exp()
    if kind == "batch":
        return each.sum().expand(len(each))
    return each.sum(1)


LOGPROB_MISTAKES = {
    "logits": "Logits were added up, and they are no log-probabilities: log_softmax makes them so.",
    "over time": "The softmax runs over the places of the text: the vocabulary is dim=-1.",
    "all": "Targets of −1 count as if they were tokens: leave them out.",
    "zero too": "Targets of 0 were left out: 0 is a token, only −1 stands for nothing.",
    "mean": "It is the mean by token: the log-probability of an answer is the sum.",
    "sign": "It is the loss: a log-probability is below 0.",
    "probability": "It is the probability itself: of a long answer that is soon too small for a "
    "number, so its logarithm is asked for.",
    "batch": "The rows were added up together: one number for each row.",
}


def check_my_sequence_logprob(my_sequence_logprob, seed=0):
    """ln p of the targets of each row, and its gradient."""
    logits = 2 * _numbers(seed, 3, 6, 8)
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(1, 8, (3, 6), generator=g)
    targets[:, 3] = 0
    for row, (first, end) in enumerate(((2, 5), (1, 6), (3, 4))):
        targets[row, :first] = targets[row, end:] = -1
    y = call(my_sequence_logprob, logits, targets)
    is_tensor(y, (3,), torch.float64, "One number for each row.")
    wrong = {s: _logprob(logits, targets, kind=kind) for kind, s in LOGPROB_MISTAKES.items()}
    names_none_of(y, wrong)
    assert close(y, _logprob(logits, targets)), (
        f"The first row should have {_logprob(logits, targets)[0]:.4f}, and has {y[0]:.4f}: sum "
        "ln p of the targets that are not −1."
    )
    mine = gradients(lambda z: my_sequence_logprob(z, targets), (logits,))
    right = gradients(lambda z: _logprob(z, targets), (logits,))
    assert close(mine[0], right[0]), (
        "The numbers are right and the gradient is not: something on the way was detached."
    )


def _logprob_with(kind):
    return lambda *a: _logprob(*a, kind=kind)


# 5 DPO ----------------------------------------------------------------------------------


def _dpo(chosen, rejected, ref_chosen, ref_rejected, beta, *, kind=""):
    margin = (chosen - ref_chosen) - (rejected - ref_rejected)
    if kind == "no reference":
        margin = chosen - rejected
    elif kind == "sign":
        margin = -margin
    elif kind == "plus":
        margin = (chosen - ref_chosen) + (rejected - ref_rejected)
    elif kind == "chosen alone":
        margin = chosen - ref_chosen
    elif kind == "reference added":
        margin = (chosen + ref_chosen) - (rejected + ref_rejected)
    if kind == "beta below":
        return -F.logsigmoid(margin / beta).mean()
    if kind == "beta outside":
        return -beta * F.logsigmoid(margin).mean()
    if kind == "no log":
        return -torch.sigmoid(beta * margin).mean()
    if kind == "of the mean":
        return -F.logsigmoid(beta * margin.mean())
    if kind == "sum":
        return -F.logsigmoid(beta * margin).sum()
    return -F.logsigmoid(beta * margin).mean()


DPO_MISTAKES = {
    "no reference": "The reference does not matter to it: each log-probability is taken less that "
    "of the model before.",
    "sign": "It prefers the rejected answer: the margin has the wrong sign.",
    "plus": "Both sides are pushed up: the rejected side's move is subtracted.",
    "chosen alone": "The rejected answer does not matter to it: the margin has two sides.",
    "reference added": "The reference is added where it should be subtracted: a move is now less "
    "before.",
    "beta below": "The margin is divided by β: it is multiplied, so a large β asks for a small "
    "move.",
    "beta outside": "β stands outside the logarithm: it scales the margin, and not the loss.",
    "no log": "It is the sigmoid itself: the loss is −ln of it.",
    "of the mean": "The margins were averaged before the sigmoid: each pair has a loss of its own.",
    "sum": "The losses of the pairs were added: their mean is asked for.",
}


def check_my_dpo_loss(my_dpo_loss, seed=0):
    """The loss on pairs, its gradient, and margins so large that an exp overflows."""
    logs = [-5 * _numbers(seed + i, 4).abs() - 1 for i in range(4)]
    y = call(my_dpo_loss, *logs, 0.3)
    is_tensor(y, (), torch.float64, "One number, the mean over pairs.")
    names_none_of(y, {s: _dpo(*logs, 0.3, kind=kind) for kind, s in DPO_MISTAKES.items()})
    assert close(y, _dpo(*logs, 0.3)) and close(y, finetune.dpo_loss(*logs, 0.3)), (
        f"It gives {y:.5f} where {_dpo(*logs, 0.3):.5f} was due: −ln σ(β · margin), the mean."
    )
    far = [log + shift for log, shift in zip(logs, (-9e3, 0, 0, 0))]
    y = call(my_dpo_loss, *far, 0.3)
    assert type(y) is Tensor and math.isfinite(y) and close(y, _dpo(*far, 0.3)), (
        f"At a margin of −9,000 it gives {y}: an exponential is too large for a number. "
        "F.logsigmoid is made for that."
    )
    mine = gradients(lambda *a: my_dpo_loss(*a, *logs[2:], 0.3).reshape(1), logs[:2])
    right = gradients(lambda *a: _dpo(*a, *logs[2:], 0.3).reshape(1), logs[:2])
    assert all(close(a, b) for a, b in zip(mine, right)), (
        "The loss is right, and its gradient is not: is a side detached?"
    )


def _dpo_with(kind):
    return lambda *a: _dpo(*a, kind=kind)


def _dpo_own_exp(chosen, rejected, ref_chosen, ref_rejected, beta):
    margin = (chosen - ref_chosen) - (rejected - ref_rejected)
    return -(1 / (1 + (-beta * margin).exp())).log().mean()


WRONG = {  # exercise: {the mistake: (wrong answer, a piece of the sentence that must reject it)}
    "my_answer_row": {
        "no end": (_row_with("no end"), "The end token is missing"),
        "one masked too many": (_row_with("one more"), "first token of the answer is not asked"),
        "one masked too few": (_row_with("one less"), "The prompt's last token is asked"),
        "nothing masked": (_row_with("all"), "Nothing is left out"),
        "unshifted": (_row_with("unshifted"), "stand at their own places"),
        "zeros": (_row_with("zero"), "0 is a token: −1"),
        "the answer masked": (_row_with("answer masked"), "the answer is left out"),
        "swapped": (_row_with("swapped"), "in the other order"),
    },
    "my_lora": {
        "without alpha": (_lora_with("no alpha"), "α does not matter"),
        "without the rank": (_lora_with("no rank"), "not divided by the rank"),
        "root of the rank": (_lora_with("root"), "the root of the rank"),
        "upside down": (_lora_with("upside down"), "The factor is upside down"),
        "the correction alone": (_lora_with("alone"), "Only the correction"),
        "no bias": (_lora_with("no bias"), "The bias is missing"),
        "bias twice": (_lora_with("bias scaled"), "counted more than once"),
        "on the output": (_lora_with("on the output"), "reads the output of W"),
        "no correction": (_lora_with("plain"), "without a correction"),
        "detached": (_lora_detached, "the gradient of A or B"),
    },
    "my_last_token": {
        "last column": (_last_with("last column"), "It reads the last column"),
        "counted": (_last_with("count"), "It counts the tokens"),
        "first pad": (_last_with("first pad"), "It stops at the first pad"),
        "one further": (_last_with("one on"), "the token after the last"),
        "the first token": (_last_with("first"), "seen nothing of the text"),
        "the mean": (_last_with("mean"), "the mean over the text"),
        "the first row's end": (_last_with("same"), "where the first one ends"),
    },
    "my_sequence_logprob": {
        "logits": (_logprob_with("logits"), "Logits were added up"),
        "over the text": (_logprob_with("over time"), "over the places of the text"),
        "mask ignored": (_logprob_with("all"), "count as if they were tokens"),
        "0 left out": (_logprob_with("zero too"), "Targets of 0 were left out"),
        "mean": (_logprob_with("mean"), "the mean by token"),
        "loss": (_logprob_with("sign"), "It is the loss"),
        "probability": (_logprob_with("probability"), "the probability itself"),
        "of the batch": (_logprob_with("batch"), "The rows were added up"),
    },
    "my_dpo_loss": {
        "no reference": (_dpo_with("no reference"), "The reference does not matter"),
        "the wrong way": (_dpo_with("sign"), "prefers the rejected"),
        "both up": (_dpo_with("plus"), "Both sides are pushed up"),
        "the chosen alone": (_dpo_with("chosen alone"), "the margin has two sides"),
        "reference added": (_dpo_with("reference added"), "The reference is added"),
        "divided by beta": (_dpo_with("beta below"), "is divided by β"),
        "beta outside": (_dpo_with("beta outside"), "outside the logarithm"),
        "no logarithm": (_dpo_with("no log"), "the sigmoid itself"),
        "of the mean": (_dpo_with("of the mean"), "averaged before the sigmoid"),
        "sum": (_dpo_with("sum"), "The losses of the pairs were added"),
        "an exp of one's own": (_dpo_own_exp, "At a margin of"),
    },
}
