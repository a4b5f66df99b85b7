"""What attention replaced: an LSTM and a causal convolution, as language models.

    B batch   T time   C channels (= n_embd)   L layers   k kernel_size   V vocabulary

Both have the face of GPT, so what trains, evaluates and samples a GPT does it with them too.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class _Sizes:
    n_layer: int = 2
    n_embd: int = 128
    block_size: int = 256  # the most that generation feeds it; no weight depends on it
    vocab_size: int = 1024
    dropout: float = 0.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if name != "dropout" and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1: got {value!r}.")

    def resized(self, n_params: int) -> Self:
        """The same with the n_embd that brings it nearest to n_params parameters.

        For comparisons at equal size: LSTMConfig().resized(GPTConfig.named("small").n_params()).
        """
        small, large = replace(self, n_embd=1), replace(self, n_embd=2)
        while large.n_params() < n_params:
            small, large = large, replace(large, n_embd=large.n_embd + 1)
        return min(small, large, key=lambda config: abs(config.n_params() - n_params))


@dataclass(frozen=True)
class LSTMConfig(_Sizes):
    """The shape of an LSTM: n_layer layers of n_embd cells, each reading the one below.

    Raises ValueError for a size under 1.
    Built in the chapter on what came before attention.
    """

    def n_params(self) -> int:
        """How many parameters the model has, by formula: V·C + L·(8·C² + 8·C)."""
        L, C, V = self.n_layer, self.n_embd, self.vocab_size
        return V * C + L * (8 * C**2 + 8 * C)


@dataclass(frozen=True)
class ConvConfig(_Sizes):
    """The shape of a causal convolution: layer i reads kernel_size tokens, 2ⁱ apart.

    Raises ValueError for a size under 1.
    Built in the chapter on what came before attention.
    """

    n_layer: int = 6
    kernel_size: int = 3

    def n_params(self) -> int:
        """How many parameters the model has, by formula: V·C + L·((k + 1)·C² + 4·C) + 2·C."""
        L, C, V, k = self.n_layer, self.n_embd, self.vocab_size, self.kernel_size
        return V * C + L * ((k + 1) * C**2 + 4 * C) + 2 * C

    @property
    def receptive_field(self) -> int:
        """How many tokens a prediction can depend on, the newest included: 1 + (k − 1)·(2ᴸ − 1).

        Layer i, from 0, looks (k − 1)·2ⁱ further back than the one below.
        """
        return 1 + (self.kernel_size - 1) * (2**self.n_layer - 1)


class _LanguageModel(nn.Module):
    """A table in front, begun as N(0, std²), again behind as head; between them hidden."""

    def __init__(self, config: _Sizes, std: float):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        nn.init.normal_(self.wte.weight, std=std)

    def forward(self, idx: Tensor) -> Tensor:
        self._check("idx", idx, least=0)
        x = self.hidden(self.drop(self.wte(idx)))  # (B, T, C)
        return F.linear(self.drop(x), self.wte.weight)  # (B, T, V)

    def loss(self, idx: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats a token; −1 in targets where there is nothing to predict."""
        self._check("targets", targets, least=-1)
        if targets.shape != idx.shape:
            raise ValueError(
                f"each position needs one target: got idx {tuple(idx.shape)}, "
                f"targets {tuple(targets.shape)}."
            )
        logits = self(idx).flatten(0, 1)  # (B·T, V)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = F.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction="sum")
        return total / (targets != -1).sum().clamp(min=1)

    def _check(self, name: str, ids: Tensor, least: int) -> None:
        if ids.dim() != 2 or not ids.numel() or ids.dtype != torch.int64:
            raise ValueError(
                f"{name} must be token ids, (B, T) of int64: got {tuple(ids.shape)} of {ids.dtype}."
            )
        if ids.min() < least or ids.max() >= self.config.vocab_size:
            raise ValueError(
                f"{name} must be {least} to vocab_size−1={self.config.vocab_size - 1}: got "
                f"{ids.min().item()} to {ids.max().item()}. Was the text encoded by another "
                "tokenizer?"
            )


class LSTM(_LanguageModel):
    """What it has read is in C numbers a layer: model(idx) gives logits, (B, T) → (B, T, V).

    i, f, o = σ(…), g = tanh(…), each linear in (x_t, h_{t−1});
    c_t = f·c_{t−1} + i·g;  h_t = o·tanh(c_t).

    idx of any length T. PyTorch's LSTM, with the forget gates' biases begun at 1.
    Built by hand in the chapter on what came before attention. Source: Hochreiter and
    Schmidhuber 1997; Gers et al. 2000 for the forget gate; Jozefowicz et al. 2015 for the 1.
    """

    def __init__(self, config: LSTMConfig):
        C, L = config.n_embd, config.n_layer
        super().__init__(config, std=C**-0.5)  # GPT's 0.02 is too faint where no LayerNorm reads it
        between = config.dropout if L > 1 else 0.0  # dropout goes between layers
        self.lstm = nn.LSTM(C, C, L, batch_first=True, dropout=between)
        for name, p in self.lstm.named_parameters():
            if name.startswith("bias_ih"):
                nn.init.ones_(p[C : 2 * C])  # the gates stand in the order i, f, g, o

    def hidden(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


class ConvBlock(nn.Module):
    """x + a convolution over x_t, x_{t−d}, …, x_{t−(k−1)d} with d = dilation: (B, T, C) → same.

    Before the first token stand zeros. One matrix reads the k tokens side by side, oldest
    first: that is a convolution, and a matrix is what Muon can move.
    Built by hand in the chapter on what came before attention. Source: van den Oord et al.
    2016, 2.1, for the causal, dilated convolution; He et al. 2016 for the addition.
    """

    def __init__(self, n_embd: int, kernel_size: int, dilation: int, dropout: float = 0.0):
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd)
        self.c_fc = nn.Linear(kernel_size * n_embd, n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)
        self.drop = nn.Dropout(dropout)
        self.dilation = dilation
        self.reach = (kernel_size - 1) * dilation

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        past = F.pad(self.ln_1(x), (0, 0, self.reach, 0))  # (B, reach + T, C)
        taps = [past[:, at : at + T] for at in range(0, self.reach + 1, self.dilation)]
        y = F.gelu(self.c_fc(torch.cat(taps, dim=-1)))  # (B, T, kC) → (B, T, C)
        return x + self.drop(self.c_proj(y))


class CausalConv(_LanguageModel):
    """Sees config.receptive_field tokens and no further: logits (B, T) → (B, T, V).

    idx of any length T. Dilations 1, 2, 4, …, so the field doubles with each layer.
    Built by hand in the chapter on what came before attention. Source: van den Oord et al. 2016.
    """

    def __init__(self, config: ConvConfig):
        super().__init__(config, std=0.02)  # as GPT
        sizes = config.n_embd, config.kernel_size
        self.h = nn.Sequential(
            *(ConvBlock(*sizes, 2**i, config.dropout) for i in range(config.n_layer))
        )
        self.ln_f = nn.LayerNorm(config.n_embd)

    def hidden(self, x: Tensor) -> Tensor:
        return self.ln_f(self.h(x))
