"""From a model of text to one that does as asked: classes, answers, few weights, preferences.

B batch   T time   C channels (= n_embd)   V vocabulary   r rank
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gpt2lib.model import GPT


class Classifier(nn.Module):
    """A GPT with a second head, which reads a row's class at its last token: (B, T) → (B, classes).

    Rows end in any number of pad tokens, which are not read: a row's last token is the last that
    is not pad. GPT-2 has no token for this alone; "<|endoftext|>" serves.
    gpt2lib.train trains it on batches (idx, labels), labels (B,) of int64, −1 where unknown.
    Built in the chapter on fine-tuning. Source: Radford et al. 2018, equation 3.
    """

    def __init__(self, gpt: GPT, n_classes: int, pad: int):
        super().__init__()
        self.gpt = gpt
        self.head = nn.Linear(gpt.config.n_embd, n_classes, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)
        self.head.to(gpt.wte.weight)  # its device and dtype
        self.pad = pad

    def forward(self, idx: Tensor) -> Tensor:
        x = self.gpt.hidden(idx)  # (B, T, C)
        real = idx != self.pad
        if not real.any(1).all():
            raise ValueError(f"each row needs a token other than its pad, {self.pad}.")
        at = torch.arange(idx.shape[1], device=idx.device)
        last = (real * at).amax(1)  # (B,)
        return self.head(x[torch.arange(len(x), device=x.device), last])

    def loss(self, idx: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy in nats a row, over the rows whose label is not −1."""
        if labels.shape != idx.shape[:1]:
            raise ValueError(
                f"each row needs one label: got {tuple(labels.shape)} for {len(idx)} rows."
            )
        total = F.cross_entropy(_wide(self(idx)), labels, ignore_index=-1, reduction="sum")
        return total / (labels != -1).sum().clamp(min=1)


def answer_batch(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], eot: int
) -> tuple[Tensor, Tensor]:
    """Pairs (prompt, answer) of token ids as a batch whose loss counts the answers alone.

    Each row is prompt, answer, eot, so that the model learns to stop; then eot to the longest
    row's length. Returns idx and targets, (B, T) of int64: the target is the next token where
    that is of the answer or its eot, and −1 elsewhere.
    Raises ValueError for an empty prompt, whose answer would have nothing to follow.
    Built in the chapter on fine-tuning.
    """
    idx, targets = [], []
    for prompt, answer in pairs:
        if not len(prompt):
            raise ValueError("each prompt needs a token for its answer to follow: eot will do.")
        idx.append(torch.tensor([*prompt, *answer]))
        targets.append(torch.tensor([*[-1] * (len(prompt) - 1), *answer, eot]))
    return pad_sequence(idx, True, eot), pad_sequence(targets, True, -1)


class LoRALinear(nn.Module):
    """A frozen Linear and beside it two thin matrices that learn: W x + b + (α / r) B A x.

    A is (r, in), B (out, r): r · (in + out) weights to train instead of in · out. B begins at 0,
    so at first nothing is changed. Dropout is on x, on its way into A.
    Built by hand in the chapter on fine-tuning. Source: Hu et al. 2021, equation 3; A begins as
    in their code, microsoft/LoRA, loralib/layers.py.
    """

    def __init__(self, linear: nn.Linear, r: int, alpha: float, dropout: float = 0.0):
        super().__init__()
        if r < 1:
            raise ValueError(f"the rank r must be at least 1: got {r}.")
        self.linear = linear.requires_grad_(False)
        self.lora_A = nn.Parameter(linear.weight.new_empty(r, linear.in_features))
        self.lora_B = nn.Parameter(linear.weight.new_zeros(linear.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)  # uniform within ±1/√in
        self.scale = alpha / r
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(F.dropout(x, self.dropout, self.training), self.lora_A)  # (..., r)
        return self.linear(x) + self.scale * F.linear(low, self.lora_B)


def add_lora(
    model: nn.Module,
    r: int,
    alpha: float,
    targets: Sequence[str] = ("c_attn",),
    dropout: float = 0.0,
) -> None:
    """Freeze model, and put a LoRALinear in place of each Linear that has one of these names.

    A name may be an ending: "c_proj" means both of a block, "mlp.c_proj" the MLP's. Of a
    Classifier give the gpt, so that its head still learns. Raises ValueError if a name fits none.
    Built in the chapter on fine-tuning.
    """
    linears = [f".{name}" for name, module in model.named_modules() if type(module) is nn.Linear]
    ends = tuple(f".{target}" for target in targets)
    for end in ends:
        if not any(name.endswith(end) for name in linears):
            raise ValueError(f"no Linear has a name that ends in {end[1:]!r}: try 'c_attn'.")
    model.requires_grad_(False)
    for name in linears:
        if name.endswith(ends):
            linear = model.get_submodule(name[1:])
            model.set_submodule(name[1:], LoRALinear(linear, r, alpha, dropout))


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Fold each LoRALinear into a Linear of its old name: W + (α / r) B A in place of W.

    Afterwards every weight is trainable again.
    Built in the chapter on fine-tuning. Source: Hu et al. 2021, 4.1.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALinear):
            module.linear.weight += module.scale * module.lora_B @ module.lora_A
            model.set_submodule(name, module.linear)
    model.requires_grad_(True)


def sequence_logprob(model: nn.Module, idx: Tensor, targets: Tensor) -> Tensor:
    """The log-probability of each row's targets together, in nats, for going backward: (B,).

    idx, targets: (B, T) of int64, −1 where nothing is counted, as answer_batch gives them.
    Built in the chapter on fine-tuning.
    """
    logits = _wide(model(idx))  # (B, T, V)
    return -F.cross_entropy(logits.mT, targets, ignore_index=-1, reduction="none").sum(1)


def dpo_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1
) -> Tensor:
    """Prefer the chosen answers to the rejected ones, more than the reference model does.

    −log σ(β · ((chosen − ref_chosen) − (rejected − ref_rejected))), the mean over pairs; a scalar.
    All (B,): sequence_logprob by the model that is trained, and by the reference, without gradient.
    The larger β, the closer the model stays to the reference.
    Built by hand in the chapter on fine-tuning. Source: Rafailov et al. 2023, equation 7.
    """
    margin = (chosen - ref_chosen) - (rejected - ref_rejected)
    return -F.logsigmoid(beta * margin).mean()


def _wide(logits: Tensor) -> Tensor:
    """In float32 at least: bfloat16 loses a sum."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
