"""GPT-2: MLP, Block, GPT, and how its weights begin.

    B batch   T time   C channels (= n_embd)   V vocabulary

Parameters carry the names of OpenAI's release (wte, wpe, h, ln_1, attn, c_attn, c_proj,
ln_2, mlp, c_fc, ln_f), so its weights load with no table of renames.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2lib.attention import KVCache, MultiHeadAttention, causal_mask
from gpt2lib.config import GPTConfig

EPS = 1e-5  # inside LayerNorm's root. Source: openai/gpt-2, src/model.py
LOGITS_AT_ONCE = 2**24  # the head and the loss go through in chunks of at most so many


class MLP(nn.Module):
    """Two matrices with a GELU between, on each position by itself: (B, T, C) → (B, T, C).

    Four times as wide inside. GELU in its tanh form, as OpenAI's code has it.
    Built by hand in the chapter on the Transformer block.
    """

    def __init__(self, n_embd: int, dropout: float = 0.0):
        super().__init__()
        self.c_fc = nn.Linear(n_embd, 4 * n_embd)
        self.c_proj = nn.Linear(4 * n_embd, n_embd)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.c_fc(x), approximate="tanh")  # (B, T, 4C)
        return F.dropout(self.c_proj(x), self.dropout, self.training)


class Block(nn.Module):
    """Attention, then MLP; each reads a normalised copy and adds its answer: (B, T, C) → (B, T, C).

    Built by hand in the chapter on the Transformer block. Source: Radford et al. 2019, 2.3.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=EPS)
        self.attn = MultiHeadAttention(config.n_embd, config.n_head, config.dropout)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=EPS)
        self.mlp = MLP(config.n_embd, config.dropout)

    def forward(
        self, x: Tensor, cache: KVCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache, mask)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """GPT-2. model(idx) gives logits, model.loss(idx, targets) the loss in nats a token.

    idx: (B, T) of int64, T ≤ block_size. Both raise ValueError for a sequence that is
    too long, an idx that is not int64, or an id outside the vocabulary.
    Built in the chapter on GPT-2. Source: Radford et al. 2019; openai/gpt-2, src/model.py.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=EPS)
        self.init_weights()

    def forward(self, idx: Tensor, cache: list[KVCache] | None = None) -> Tensor:
        """Logits of the next token after each position: (B, T) → (B, T, V)."""
        return self.head(self.hidden(idx, cache))

    def head(self, x: Tensor) -> Tensor:
        """Logits from the stream, by the table that the tokens came from: (…, C) → (…, V)."""
        return F.linear(x, self.wte.weight)

    def new_cache(self, size: int | None = None) -> list[KVCache]:
        """An empty cache for size tokens a row, block_size if None: model(idx, cache) fills it.

        Then model(more, cache) reads only more, and gives the logits after what it reads.
        """
        return [KVCache(size or self.config.block_size) for _ in self.h]

    def hidden(
        self, idx: Tensor, cache: list[KVCache] | None = None, pads: Tensor | None = None
    ) -> Tensor:
        """The stream after the last LayerNorm, which the head reads: (B, T) → (B, T, C).

        cache: what was read before idx, extended by it. pads: (B,) of int64, how many tokens at
        the left of each row are filler, seen by no other; the row's text begins after them, at
        position 0.
        """
        past = cache[0].length if cache else 0
        self._check(idx, past)
        at = slice(past, past + idx.shape[1])
        mask = None
        if pads is not None:
            at, mask = _padded(pads, at)
        try:
            x = self.wte(idx) + self.wpe.weight[at]  # (B, T, C)
        except IndexError:
            raise self._outside(idx) from None
        x = F.dropout(x, self.config.dropout, self.training)
        for block, kept in zip(self.h, cache or [None] * len(self.h)):
            x = block(x, kept, mask)
        return self.ln_f(x)

    def loss(self, idx: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats a token; a scalar to call backward on.

        idx, targets: (B, T) of int64; targets[b, t] is the token after idx[b, t], and −1
        where there is nothing to predict. With a large vocabulary the head and the loss go
        through in chunks: the float32 logits of the whole batch never exist at once.
        """
        if targets.shape != idx.shape or targets.dtype != torch.int64:
            raise ValueError(
                f"each position needs one target, an id of int64: got idx {tuple(idx.shape)}, "
                f"targets {tuple(targets.shape)} of {targets.dtype}."
            )
        if not targets.is_cuda and not -1 <= targets.min() <= targets.max() < len(self.wte.weight):
            raise self._outside(targets)
        x = self.hidden(idx).flatten(0, 1)  # (B·T, C)
        total = HeadLoss.apply(x, self.wte.weight, targets.flatten())
        return total / (targets != -1).sum().clamp(min=1)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw new weights: N(0, 0.02²); wpe N(0, 0.01²); residual projections N(0, 0.02²/2L).

        Biases 0, LayerNorms the identity. 2L counts the blocks' additions to the stream.
        Source: openai/gpt-2, src/model.py (0.02 and 0.01); Radford et al. 2019, 2.3 (1/√2L).
        """
        for name, p in self.named_parameters():
            if name.endswith("c_proj.weight"):
                p.normal_(std=0.02 / (2 * self.config.n_layer) ** 0.5)
            elif name == "wpe.weight":
                p.normal_(std=0.01)
            elif p.dim() == 2:
                p.normal_(std=0.02)
            elif name.endswith("bias"):
                p.zero_()
            else:
                p.fill_(1.0)

    def _check(self, idx: Tensor, past: int) -> None:
        if idx.dim() != 2 or idx.dtype != torch.int64:
            raise ValueError(
                f"idx must be token ids, (B, T) of int64: got {tuple(idx.shape)} of {idx.dtype}."
            )
        if not 1 <= idx.shape[1] <= self.config.block_size - past:
            raise ValueError(
                f"a sequence may have 1 to block_size={self.config.block_size} tokens: got "
                f"{past + idx.shape[1]}. Cut it, or build the model with a larger block_size."
            )
        # An index error inside a CUDA kernel comes late and poisons the process, so look
        # first; the look waits for the device, so not in training, where data.batches vouches.
        if idx.is_cuda and not self.training:
            if idx.min() < 0 or idx.max() >= self.config.vocab_size:
                raise self._outside(idx)

    def _outside(self, ids: Tensor) -> ValueError:
        return ValueError(
            f"token ids must be 0 to vocab_size−1={self.config.vocab_size - 1}: got "
            f"{ids.min().item()} to {ids.max().item()}. Was the text encoded by another tokenizer?"
        )


def _padded(pads: Tensor, at: slice) -> tuple[Tensor, Tensor]:
    """Positions (B, T) and mask (B, 1, T, S) of tokens number at, rows having pads to their left.

    Filler looks at itself alone, lest a row of weights be empty.
    """
    S = torch.arange(at.stop, device=pads.device)
    text = (S >= pads[:, None])[:, None]  # (B, 1, S)
    mask = causal_mask(at.stop, pads.device) & text | (S == S[:, None])
    return (S[at] - pads[:, None]).clamp(min=0), mask[:, None, at]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it dropout is off and no gradient is kept; afterwards the model is as it was."""
    training = model.training
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()


class HeadLoss(torch.autograd.Function):
    """The summed cross-entropy of logits x @ weight.T, chunk by chunk: (N, C), (V, C), (N,) → ().

    The gradient of a sum over rows is known as soon as a row's logits are, softmax less one at
    the target; so it is taken at once, and the float32 logits of one chunk are all that exist.
    Targets of −1 do not count.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Return the sum in float32 or better; keep the two gradients for backward."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        total, grad_x, grad_weight = 0.0, [], None
        with torch.autocast(kind, enabled=False):
            w = weight.to(dtype)
            rows = max(1, LOGITS_AT_ONCE // len(w))
            for some, ids in zip(x.to(dtype).split(rows), targets.split(rows), strict=True):
                logits = F.linear(some, w)  # (rows, V)
                logits = logits.to(torch.promote_types(dtype, torch.float32))  # bf16 loses a sum
                counted, at = ids != -1, ids.clamp(min=0)[:, None]
                norm = logits.logsumexp(-1)
                total = total + ((norm - logits.gather(1, at)[:, 0]) * counted).sum()
                if ctx.needs_input_grad[0]:
                    slope = logits.sub_(norm[:, None]).exp_()  # the softmax
                    slope.scatter_add_(1, at, -torch.ones_like(at, dtype=slope.dtype))
                    slope = slope.mul_(counted[:, None]).to(dtype)
                    grad_x.append((slope @ w).to(x.dtype))
                    if ctx.needs_input_grad[1]:
                        one = (slope.mT @ some).to(weight.dtype)
                        grad_weight = one if grad_weight is None else grad_weight.add_(one)
        ctx.kept = (torch.cat(grad_x) if grad_x else None, grad_weight)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Scale what forward kept, in place: a table of (V, C) is not copied for a factor."""
        if ctx.kept is None:
            raise RuntimeError("a loss goes backward once: take model.loss again.")
        kept, ctx.kept = ctx.kept, None
        return *(None if one is None else one.mul_(grad) for one in kept), None
