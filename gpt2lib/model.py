"""GPT-2: MLP, Block, GPT, and how its weights begin.

    B batch   T time   C channels (= n_embd)   V vocabulary

Parameters carry the names of OpenAI's release (wte, wpe, h, ln_1, attn, c_attn, c_proj,
ln_2, mlp, c_fc, ln_f), so its weights load with no table of renames.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2lib.attention import KVCache, MultiHeadAttention, causal_mask
from gpt2lib.config import GPTConfig

EPS = 1e-5  # inside LayerNorm's root. Source: openai/gpt-2, src/model.py
LOGITS_AT_ONCE = 2**24  # the head and the loss go through in chunks of at most so many
ROWS_AT_ONCE = 2**12  # of the token table, when its gradient goes from bf16 to float32


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
        x = gelu(self.c_fc(x))  # (B, T, 4C)
        return F.dropout(self.c_proj(x), self.dropout, self.training)


def gelu(x: Tensor) -> Tensor:
    """x Φ(x), Φ being how much of a normal distribution lies under x, in its tanh form.

    ½ (1 + tanh(u)) with u = √(2/π) (x + 0.044715 x³), which is the sigmoid of 2u. A compiler
    for a CPU is given that, because it makes an exponential several times as fast as a tanh.
    Source: Hendrycks and Gimpel 2016; openai/gpt-2, src/model.py.
    """
    if x.is_cpu and torch.compiler.is_compiling():
        return x * torch.sigmoid((8 / math.pi) ** 0.5 * (x + 0.044715 * x**3))
    return F.gelu(x, approximate="tanh")


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
        return self._through(x, cache, mask)

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
        self._check(idx)
        try:
            x, table = Lookup.apply(idx, self.wte.weight)
        except IndexError:
            raise self._outside(idx) from None
        x = self._through(x + self.wpe.weight[: idx.shape[1]])  # (B, T, C)
        return HeadLoss.apply(x.flatten(0, 1), table, targets.flatten())

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

    def _through(
        self, x: Tensor, cache: list[KVCache] | None = None, mask: Tensor | None = None
    ) -> Tensor:
        x = F.dropout(x, self.config.dropout, self.training)
        for block, kept in zip(self.h, cache or [None] * len(self.h)):
            x = block(x, kept, mask)
        return self.ln_f(x)

    def _check(self, idx: Tensor, past: int = 0) -> None:
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


class Lookup(torch.autograd.Function):
    """Rows of a table, and the table for further use: (…), (V, C) → (…, C), (V, C).

    The further use gives the table a gradient of (V, C), to which backward adds that of the rows
    where it lies. Two gradients of a table would cost its memory twice, and a pass to add them.
    """

    @staticmethod
    def forward(ctx, idx: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Look up, and remember where."""
        ctx.save_for_backward(idx)
        return F.embedding(idx, table), table.view_as(table)

    @staticmethod
    def backward(ctx, rows: Tensor, table: Tensor) -> tuple[None, Tensor]:
        """Add the rows' gradient to the table's; that is HeadLoss's own, which nobody else has."""
        (idx,) = ctx.saved_tensors
        return None, table.index_add_(0, idx.flatten(), rows.flatten(0, -2))


class HeadLoss(torch.autograd.Function):
    """The mean cross-entropy of logits x @ weight.T, chunk by chunk: (N, C), (V, C), (N,) → ().

    The gradient of a row's loss is known as soon as its logits are, softmax less one at the
    target; so it is taken at once, and the float32 logits of one chunk are all that exist.
    Targets of −1 do not count.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Return the mean in float32 or better; keep the two gradients for backward."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        counted = (targets != -1).to(torch.promote_types(dtype, torch.float32))
        share = counted / counted.sum().clamp(min=1)  # (N,)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        mean = share.new_zeros(())
        with torch.autocast(kind, enabled=False):
            x, w = x.to(dtype), weight.to(dtype)
            rows = max(1, LOGITS_AT_ONCE // len(w))
            for n in range(0, len(x), rows):
                at = slice(n, n + rows)
                loss, slope = _cross_entropy(F.linear(x[at], w), targets[at], share[at])
                mean += loss
                if grad_x is not None:
                    grad_x[at] = slope @ w
                if grad_weight is not None:
                    _add_product(grad_weight, slope.mT, x[at], anew=n == 0)
                del slope  # or it lives on beside the next chunk's logits
        ctx.kept = (grad_x, grad_weight)
        return mean

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Scale what forward kept, in place, and not at all by 1: the table is (V, C)."""
        if ctx.kept is None:
            raise RuntimeError("a loss goes backward once: take model.loss again.")
        kept, ctx.kept = ctx.kept, None
        if torch.compiler.is_compiling() or not grad.is_cpu or grad != 1:
            kept = [None if one is None else one.mul_(grad) for one in kept]
        return *kept, None


def _cross_entropy(logits: Tensor, targets: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """The losses of rows of logits (N, V), summed by share (N,), and its gradient, (N, V).

    Both are taken in the precision of share, and the gradient given in that of logits.
    """
    dtype, at = logits.dtype, targets.clamp(min=0)[:, None]
    logits = logits.to(share.dtype)
    norm = logits.logsumexp(-1, keepdim=True)  # (N, 1)
    loss = (norm - logits.gather(1, at))[:, 0] @ share
    slope = logits.sub_(norm).exp_()  # the softmax
    slope.scatter_add_(1, at, -torch.ones_like(norm))
    return loss, slope.mul_(share[:, None]).to(dtype)


def _add_product(total: Tensor, a: Tensor, b: Tensor, anew: bool) -> None:
    """total += a @ b, or total = a @ b: (V, C), (V, N), (N, C). a and b may be in bf16."""
    if total.dtype == a.dtype:
        torch.addmm(total, a, b, beta=0 if anew else 1, out=total)
        return
    for to, some in zip(total.split(ROWS_AT_ONCE), a.split(ROWS_AT_ONCE), strict=True):
        to.copy_(some @ b) if anew else to.add_(some @ b)  # while it lies in the cache
