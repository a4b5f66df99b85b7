"""A model made ready to generate: its weights laid out as the processor reads them fastest.

    C channels in   V channels out

One new token is one row through each matrix, so it takes as long as reading all weights once.
What helps is to read fewer bytes (bf16, int8), in the order in which they lie (oneDNN's).

Built in the chapter on generation.
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from gpt2lib.model import GPT


def packed(model: GPT, weights: Literal["float32", "bf16", "int8"] = "float32") -> GPT:
    """A copy of model for generation alone; model stays as it is.

    "float32": the same logits but for rounding. "bf16": weights and activations in bfloat16.
    "int8": each matrix in whole numbers, −127 to 127, with a scale a row; each row that goes
    through it is rounded the same way; all else in float32.
    On a CPU the matrices are also reordered, once. Elsewhere only "float32" and "bf16" are to be
    had, and nothing is reordered. Raises ValueError for what is not to be had.
    """
    cpu = model.wte.weight.device.type == "cpu"
    if weights not in ("float32", "bf16", "int8") or (weights == "int8" and not cpu):
        raise ValueError(
            f"weights are 'float32', 'bf16' or, on a CPU, 'int8': got {weights!r} for a model on "
            f"{model.wte.weight.device}."
        )
    ready = copy.deepcopy(model).requires_grad_(False).eval()
    ready = ready.to(torch.bfloat16) if weights == "bf16" else ready.float()
    pack = Int8Linear if weights == "int8" else PackedLinear
    if weights == "int8" or (cpu and torch.backends.mkldnn.is_available()):
        for block in ready.h:
            for layer in (block.attn, block.mlp):
                layer.c_proj = pack(layer.c_proj.weight, layer.c_proj.bias)
            block.attn.c_attn = pack(block.attn.c_attn.weight, block.attn.c_attn.bias)
            block.mlp.c_fc = pack(block.mlp.c_fc.weight, block.mlp.c_fc.bias)
        ready.head = pack(ready.wte.weight, None).forward  # in place of the method
    return ready


class PackedLinear(nn.Module):
    """x @ weight.T + bias, the weight reordered once by oneDNN: (…, C) → (…, V)."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class Int8Linear(nn.Module):
    """x @ weight.T + bias in whole numbers: (…, C) → (…, V).

    Each row w of weight is stored as round(w / s), s = max |w| / 127, and so is each row of x when
    it comes; the exact product of the two, times both scales, is the output.
    Source: Dettmers et al. 2022, 3.1 (a scale a row).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.weight, scale = _int8(weight.detach())
        self.scale = scale.flatten()
        self.bias = 0 if bias is None else bias

    def forward(self, x: Tensor) -> Tensor:
        whole, scale = _int8(x.flatten(0, -2))
        y = torch._int_mm(whole, self.weight.mT) * (scale * self.scale) + self.bias
        return y.unflatten(0, x.shape[:-1])


def _int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers (N, C) and scales (N, 1), whose product is x but for half a scale."""
    scale = torch.linalg.vector_norm(x, float("inf"), -1, keepdim=True).clamp(min=1e-30) / 127
    return (x / scale).round().to(torch.int8), scale
