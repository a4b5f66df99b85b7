"""How one position looks at the others.

    B batch   T time   C channels (= n_embd)   H heads   D = C / H

Masks are bool: True where looking is allowed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def causal_mask(T: int, device=None) -> Tensor:
    """Who may look at whom when nobody may see the future: (T, T) of bool.

    Row i is True in columns 0 to i, so position i sees itself and what came before.
    Built by hand in the chapter on self-attention.
    """
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Average the values, weighted by how well each query matches each key.

    softmax(q kᵀ / √D) v, with forbidden scores at −∞ before the softmax.

    q: (..., T, D). k: (..., S, D). v: (..., S, Dv). mask: (T, S) of bool, or anything
    that broadcasts to (..., T, S); True where looking is allowed.
    Returns the averages (..., T, Dv) and the weights (..., T, S), whose rows sum to 1.
    Raises ValueError if the shapes do not fit, the mask is not bool, or a row may look nowhere.
    This is the form for seeing; MultiHeadAttention runs PyTorch's fused one.
    Built by hand in the chapter on self-attention. Source: Vaswani et al. 2017, equation 1.
    """
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"queries and keys must have the same width D: got q {tuple(q.shape)}, "
            f"k {tuple(k.shape)}."
        )
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"each key needs one value: got k {tuple(k.shape)}, v {tuple(v.shape)}.")
    scores = q @ k.mT / q.shape[-1] ** 0.5  # (..., T, S)
    if mask is not None:
        if mask.dtype != torch.bool:
            raise ValueError(
                f"a mask is bool, True where looking is allowed: got {mask.dtype}. "
                "For a mask of 0s and 1s, pass mask.bool()."
            )
        if not mask.any(-1).all():
            raise ValueError("each row of the mask must allow at least one position.")
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1)  # (..., T, S)
    return weights @ v, weights


class MultiHeadAttention(nn.Module):
    """Causal self-attention in n_head heads of width D = n_embd / n_head, side by side.

    forward: x (B, T, C) → (B, T, C). With a cache, x is what comes after the tokens in it, and
    looks at those too. mask: (B, 1, T, S) of bool, or what broadcasts to it, where looking is
    allowed among all S tokens so far; the causal mask if there is none.
    One matrix makes the queries, keys and values of all heads; PyTorch's fused kernel
    averages without ever storing the (T, T) weights; one matrix mixes the heads.
    Built by hand in the chapter on multi-head attention. Source: Vaswani et al. 2017, 3.2.2.
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float = 0.0):
        super().__init__()
        if n_embd % n_head:
            raise ValueError(
                f"n_embd must be a multiple of n_head: got n_embd={n_embd}, n_head={n_head}."
            )
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)
        self.n_head = n_head
        self.dropout = dropout

    def forward(
        self, x: Tensor, cache: "KVCache | None" = None, mask: Tensor | None = None
    ) -> Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if cache is not None:
            k, v = cache.extend(k, v)  # (B, H, S, D)
        S = k.shape[2]
        if mask is None and 1 < T < S:  # one token may look at all
            mask = causal_mask(S, x.device)[-T:]
        p = self.dropout if self.training else 0.0
        y = fused_attention(q, k, v, mask, causal=mask is None and T == S, dropout=p)
        y = y.transpose(1, 2).reshape(B, T, C)
        return F.dropout(self.c_proj(y), p)


class KVCache:
    """The keys and values of what one layer has read, so that no token is read twice.

    Room for size tokens is taken at the first, and filled in place: keys and values are
    (B, H, size, D), of which the first length positions count; on a CPU in float32, which its
    kernel reads several times faster than bf16.
    Built by hand in the chapter on generation.
    """

    def __init__(self, size: int):
        self.size, self.length = size, 0
        self.keys = self.values = torch.empty(0)

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, T, D); return all so far, views of (B, H, S, D).

        Raises ValueError if there is no room for them, or a gradient would be lost in it.
        """
        if k.requires_grad:
            raise ValueError("a cache keeps no gradient: read with it in model.evaluating(model).")
        B, H, T, D = k.shape
        begin, end = self.length, self.length + T
        if end > self.size:
            raise ValueError(
                f"the cache has room for {self.size} tokens: got {end}. "
                "Make a larger one, or begin anew with the last tokens."
            )
        if not begin:
            dtype = torch.promote_types(k.dtype, torch.float32) if k.is_cpu else k.dtype
            self.keys, self.values = (k.new_empty(B, H, self.size, D, dtype=dtype) for _ in "kv")
        self.keys[:, :, begin:end] = k
        self.values[:, :, begin:end] = v
        self.length = end
        return (self.keys[:, :, :end], self.values[:, :, :end]) if begin else (k, v)


def fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """The averages of attention(q, k, v, mask) by PyTorch's fused kernel, without the weights.

    q: (B, H, T, D). k, v: (B, H, S, D). mask: bool, broadcasting to (B, H, T, S); True where
    looking is allowed. causal=True stands for the causal mask where T = S. Returns (B, H, T, D).
    """
    dtype, (T, S) = q.dtype, (q.shape[2], k.shape[2])
    if q.device.type == "cpu" and dtype == torch.bfloat16 and (T == 1 or S <= 512):
        if causal and T > 1 and not dropout:
            return _causal_by_matrices(q, k, v)
        k, v = k.float(), v.float()
    with torch.autocast(q.device.type, enabled=False):
        q = q.to(k.dtype)
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal)
    return y.to(dtype)


def _causal_by_matrices(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention in three matrix operations, the mask added within the first.

    On a CPU in bf16 two or three times as fast as the fused kernel at short T, backward above
    all; at T of about 1,024 the two meet, and keeping the weights begins to cost memory.
    """
    B, H, T, D = q.shape
    q, k, v = (x.reshape(B * H, T, D) for x in (q, k, v))
    mask = q.new_full((T, T), float("-inf")).triu(1)  # −∞ above the diagonal, to be added
    with torch.autocast(q.device.type, enabled=False):
        scores = torch.baddbmm(mask, q, k.mT, alpha=D**-0.5)  # (B·H, T, T)
        return (scores.softmax(-1) @ v).view(B, H, T, D)
