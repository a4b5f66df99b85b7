"""The Transformer of 2017: an encoder reads one sequence, a decoder writes another.

    B batch   S source time   T target time   C channels (= n_embd)   H heads   D = C / H
    V vocabulary   K beams

An id of −1 stands where a row has no token, in the source as in the target; nobody looks there.
Masks are bool: True where looking is allowed.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2lib.attention import attention, causal_mask, fused_attention


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a Transformer: n_layer blocks in the encoder, and as many in the decoder.

    One vocabulary serves both languages. The defaults are the paper's base model.
    Raises ValueError where the sizes do not fit together.
    Built in the chapter on the Transformer of 2017. Source: Vaswani et al. 2017, table 3, 5.1.
    """

    n_layer: int = 6
    n_head: int = 8
    n_embd: int = 512
    vocab_size: int = 37000
    dropout: float = 0.1

    def __post_init__(self):
        for name in ("n_layer", "n_head", "n_embd", "vocab_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1: got {value!r}.")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd must be a multiple of n_head: got n_embd={self.n_embd}, "
                f"n_head={self.n_head}. The base model uses 512 and 8."
            )


def sinusoids(T: int, C: int) -> Tensor:
    """Where each position is, told by waves: (T, C) of float64.

    Channels 2i and 2i + 1 of row t are sin(t / 10000^(2i/C)) and cos(t / 10000^(2i/C)).
    Raises ValueError if C is odd.
    Built by hand in the chapter on multi-head attention. Source: Vaswani et al. 2017, 3.5.
    """
    if C % 2:
        raise ValueError(f"each wave takes two channels, so C must be even: got {C}.")
    rates = 10000.0 ** -(torch.arange(0, C, 2, dtype=torch.float64) / C)  # (C/2,)
    angles = torch.arange(T)[:, None] * rates  # (T, C/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (T, C)


class CrossAttention(nn.Module):
    """Multi-head attention from x to memory; where memory is x, it is self-attention.

    forward: x (B, T, C), memory (B, S, C), mask broadcasting to (B, H, T, S) → (B, T, C).
    weights: the same → (B, H, T, S), how much each position of x looks at each of memory.
    No biases, as in the paper.
    Built by hand in the chapter on the Transformer of 2017. Source: Vaswani et al. 2017, 3.2.
    """

    def __init__(self, n_embd: int, n_head: int):
        super().__init__()
        self.c_q = nn.Linear(n_embd, n_embd, bias=False)
        self.c_k = nn.Linear(n_embd, n_embd, bias=False)
        self.c_v = nn.Linear(n_embd, n_embd, bias=False)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=False)
        self.n_head = n_head

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        y = fused_attention(*self._qkv(x, memory), mask)  # (B, H, T, D)
        return self.c_proj(y.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        return attention(*self._qkv(x, memory), mask)[1]

    def _qkv(self, x: Tensor, memory: Tensor) -> list[Tensor]:
        made = self.c_q(x), self.c_k(memory), self.c_v(memory)
        return [y.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for y in made]


class EncoderBlock(nn.Module):
    """Self-attention, then MLP; what each adds is normalised after the addition (post-LN).

    forward: x (B, S, C), mask (B, 1, 1, S) → (B, S, C). The MLP is 4 C wide, with a ReLU.
    Built by hand in the chapter on the Transformer of 2017. Source: Vaswani et al. 2017, 3.1, 3.3.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        C = config.n_embd
        self.attn = CrossAttention(C, config.n_head)
        self.ln_1 = nn.LayerNorm(C)
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C), nn.ReLU(), nn.Linear(4 * C, C))
        self.ln_2 = nn.LayerNorm(C)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.ln_1(x + self.drop(self.attn(x, x, mask)))
        return self.ln_2(x + self.drop(self.mlp(x)))


class DecoderBlock(EncoderBlock):
    """An encoder block that, between attention and MLP, looks at what the encoder read.

    forward: x (B, T, C), mask (B, 1, T, T), memory (B, S, C), seen (B, 1, 1, S) → (B, T, C).
    asking: x, mask → (B, T, C), the stream with which it turns to the memory.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.cross = CrossAttention(config.n_embd, config.n_head)
        self.ln_cross = nn.LayerNorm(config.n_embd)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        x = self.asking(x, mask)
        x = self.ln_cross(x + self.drop(self.cross(x, memory, seen)))
        return self.ln_2(x + self.drop(self.mlp(x)))

    def asking(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.ln_1(x + self.drop(self.attn(x, x, mask)))


class Transformer(nn.Module):
    """The encoder–decoder. model(source, target) gives logits of the token after each target.

    source: (B, S), target: (B, T), of int64, −1 where there is no token. The logits are
    (B, T, V). Raises ValueError for ids that are not int64 or outside the vocabulary, or a
    row that does not begin with a token. One table embeds both and is the head; it begins as
    N(0, 1/C), so that it enters with variance 1. Matrices begin as PyTorch has them: the paper
    does not say how.
    Built in the chapter on the Transformer of 2017. Source: Vaswani et al. 2017.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_layer))
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_layer))
        self.drop = nn.Dropout(config.dropout)
        nn.init.normal_(self.wte.weight, std=config.n_embd**-0.5)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.decode(target, *self.encode(source))

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Read the source: its memory (B, S, C), and where it may be seen (B, 1, 1, S)."""
        x = self._embed("source", source)
        seen = (source >= 0)[:, None, None]  # (B, 1, 1, S)
        for block in self.encoder:
            x = block(x, seen)
        return x, seen

    def decode(self, target: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        """Logits of the token after each position of target: (B, T) → (B, T, V)."""
        x, mask = self._embed("target", target), _backward_mask(target)
        for block in self.decoder:
            x = block(x, mask, memory, seen)
        return F.linear(x, self.wte.weight)

    def loss(
        self, source: Tensor, target: Tensor, targets: Tensor, label_smoothing: float = 0.1
    ) -> Tensor:
        """Mean cross-entropy in nats a token; a scalar to call backward on.

        targets[b, t] is the token after target[b, t], and −1 where there is nothing to
        predict. With label_smoothing = ε the truth counts 1 − ε, and a guess among all V
        tokens ε; a perfect model then has a loss above 0, so evaluate with ε = 0.
        Source: Szegedy et al. 2016, section 7; Vaswani et al. 2017, 5.4, for the 0.1.
        """
        self._check("targets", targets)
        if targets.shape != target.shape:
            raise ValueError(
                f"each position needs one target: got target {tuple(target.shape)}, "
                f"targets {tuple(targets.shape)}."
            )
        logits = self(source, target).flatten(0, 1)  # (B·T, V)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        how = {"ignore_index": -1, "reduction": "sum", "label_smoothing": label_smoothing}
        total = F.cross_entropy(logits, targets.flatten(), **how)
        return total / (targets != -1).sum().clamp(min=1)

    def alignment(self, source: Tensor, target: Tensor) -> Tensor:
        """Where each layer of the decoder looks in the source, averaged over heads: (L, B, T, S).

        Row t is of the prediction of the token after target[:, t]. Rows sum to 1.
        """
        memory, seen = self.encode(source)
        x, mask, layers = self._embed("target", target), _backward_mask(target), []
        for block in self.decoder:
            weights = block.cross.weights(block.asking(x, mask), memory, seen)  # (B, H, T, S)
            layers.append(weights.mean(1))
            x = block(x, mask, memory, seen)
        return torch.stack(layers)

    def _embed(self, name: str, ids: Tensor) -> Tensor:
        """√C · wte + sinusoids: (B, T) → (B, T, C)."""
        self._check(name, ids)
        if not (ids[:, 0] >= 0).all():
            raise ValueError(f"each row of {name} must begin with a token: put −1 after the last.")
        C, table = self.config.n_embd, self.wte.weight
        places = sinusoids(ids.shape[1], C).to(table.dtype).to(table.device)  # (T, C)
        return self.drop(C**0.5 * self.wte(ids.clamp(min=0)) + places)

    def _check(self, name: str, ids: Tensor) -> None:
        if ids.dim() != 2 or not ids.numel() or ids.dtype != torch.int64:
            raise ValueError(
                f"{name} must be token ids, (B, T) of int64: got {tuple(ids.shape)} of {ids.dtype}."
            )
        if ids.min() < -1 or ids.max() >= self.config.vocab_size:
            raise ValueError(
                f"ids in {name} must be 0 to vocab_size−1={self.config.vocab_size - 1}, or −1 for "
                f"none: got {ids.min().item()} to {ids.max().item()}."
            )


def _backward_mask(target: Tensor) -> Tensor:
    """Looking at tokens, and not ahead: (B, T) → (B, 1, T, T)."""
    return causal_mask(target.shape[1], target.device) & (target >= 0)[:, None, None]


@torch.no_grad()
def translate(
    model: Transformer,
    source: Tensor,
    bos: int,
    eos: int,
    max_new_tokens: int,
    beams: int = 1,
    length_penalty: float = 0.6,
) -> tuple[Tensor, Tensor]:
    """Write a target for each row of source by beam search; with beams=1, greedily.

    The decoder starts from bos. At each step the best K = beams continuations of each row
    stay, by score; those that ended in eos keep their place. The score of Y, its eos counted
    in its length |Y|, is log p(Y | source) · (6 / (5 + |Y|))^length_penalty; 0 ranks by
    probability alone.
    Returns the best of each row: ids (B, ≤ max_new_tokens), without bos, −1 after eos; and
    its score (B,). Raises ValueError for beams or max_new_tokens under 1.
    Built by hand in the chapter on the Transformer of 2017. Source: Wu et al. 2016, equation
    14; Vaswani et al. 2017, 6.1, for 4 beams and 0.6.
    """
    if beams < 1 or max_new_tokens < 1:
        raise ValueError(
            f"beams and max_new_tokens must be at least 1: got {beams}, {max_new_tokens}."
        )
    training = model.training
    model.eval()
    try:
        return _beam_search(model, source, bos, eos, max_new_tokens, beams, length_penalty)
    finally:
        model.train(training)


def _beam_search(model, source, bos, eos, max_new_tokens, K, alpha) -> tuple[Tensor, Tensor]:
    B, V = len(source), model.config.vocab_size
    memory, seen = (y.repeat_interleave(K, dim=0) for y in model.encode(source))  # (B·K, …)
    out = torch.full((B * K, 1), bos, device=source.device)
    logp = torch.full((B, K), float("-inf"), device=source.device)
    logp[:, 0] = 0.0  # the beams of a row begin alike: only one of them counts
    first = torch.arange(0, B * K, K, device=source.device)[:, None]  # (B, 1), each row's first
    for _ in range(max_new_tokens):
        ended = (out[:, 1:] == eos).any(1)  # (B·K,)
        if ended.all():
            break
        new = model.decode(out, memory, seen)[:, -1].float().log_softmax(-1)  # (B·K, V)
        new = F.pad(new, (0, 1), value=float("-inf"))  # (B·K, V+1), the last for no token
        new[ended] = float("-inf")
        new[ended, V] = 0.0
        total = logp.view(-1, 1) + new
        length = (out[:, 1:] >= 0).sum(1, keepdim=True) + ~ended[:, None]  # (B·K, 1)
        scores, at = (total * (6 / (5 + length)) ** alpha).view(B, -1).topk(K)  # (B, K)
        logp = total.view(B, -1).gather(1, at)
        ids = at % (V + 1)
        ids = ids.masked_fill(ids == V, -1)
        out = torch.cat([out[(first + at // (V + 1)).flatten()], ids.view(-1, 1)], dim=1)
    best = out[first[:, 0], 1:]  # topk sorts: each row's first is its best
    return best[:, (best >= 0).any(0)], scores[:, 0]
