"""How good is it? Loss, perplexity, bits a byte, and what counting alone would reach.

    B batch   T time   V vocabulary

A loss is in nats a token. Batches are pairs (idx, targets), (B, T) of int64, with −1 in
targets where there is nothing to predict.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2lib.model import evaluating

Batches = Iterable[tuple[Tensor, Tensor]]


def windows(
    tokens: np.ndarray, batch_size: int, block_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """All of a text in windows side by side: each token but the first is a target once.

    Finitely many batches of up to batch_size rows; the last row ends in −1 where the text does.
    A window does not see the one before it, so its first tokens are harder to guess.
    """
    rows = -(-(len(tokens) - 1) // block_size)
    for row in range(0, rows, batch_size):
        at = row * block_size
        some = tokens[at : at + batch_size * block_size + 1].astype(np.int64)
        shape = (-(-(len(some) - 1) // block_size), block_size)
        idx, targets = torch.zeros(shape, dtype=torch.int64), torch.full(shape, -1)
        idx.view(-1)[: len(some) - 1] = torch.from_numpy(some[:-1])
        targets.view(-1)[: len(some) - 1] = torch.from_numpy(some[1:])
        yield idx, targets


def loss(model: nn.Module, batches: Batches) -> float:
    """The mean loss over finitely many batches, each target weighing the same: nats a token.

    Raises ValueError if there is no target in them.
    """
    device = next(model.parameters()).device
    total, count = 0.0, 0
    with evaluating(model):
        for idx, targets in batches:
            n = int((targets != -1).sum())
            total += n * float(model.loss(idx.to(device), targets.to(device)))
            count += n
    return total / _some(count)


def token_losses(model: nn.Module, idx: Tensor, targets: Tensor) -> Tensor:
    """The loss of each target by itself, in nats: (B, T), 0 where the target is −1."""
    with evaluating(model):
        logits = model(idx).float()  # (B, T, V)
    return F.cross_entropy(logits.mT, targets, ignore_index=-1, reduction="none")


def perplexity(nats: float) -> float:
    """exp of the loss: the number of equally likely tokens that would be as hard to guess."""
    return math.exp(nats)


def bits_per_byte(nats_a_token: float, n_tokens: int, n_bytes: int) -> float:
    """The loss by the text's own unit, so that tokenizers can be compared: bits a byte.

    n_tokens targets stand for n_bytes of UTF-8.
    """
    return nats_a_token * n_tokens / n_bytes / math.log(2)


def unigram_loss(train_tokens: np.ndarray, batches: Batches, vocab_size: int) -> float:
    """The loss of guessing by frequency alone: p(v) = (count(v) + 1) / (N + V). Nats a token."""
    p = _unigram(train_tokens, vocab_size)
    return _mean_surprisal(lambda _, new: p[new], batches)


def bigram_loss(
    train_tokens: np.ndarray, batches: Batches, vocab_size: int, strength: float = 1.0
) -> float:
    """The loss of guessing from the token before, smoothed towards the unigram. Nats a token.

    p(v | u) = (count(u v) + s·p(v)) / (count(u) + s), with s = strength: a pair never seen
    falls back on how frequent v is.
    Source: MacKay and Peto 1995, the Dirichlet form.
    """
    p = _unigram(train_tokens, vocab_size)
    tokens = train_tokens.astype(np.int64)
    firsts = np.bincount(tokens[:-1], minlength=vocab_size)
    pairs, counts = np.unique(tokens[:-1] * vocab_size + tokens[1:], return_counts=True)

    def probability(old, new):
        wanted = old * vocab_size + new
        at = np.searchsorted(pairs, wanted).clip(max=len(pairs) - 1)
        seen = np.where(pairs[at] == wanted, counts[at], 0)
        return (seen + strength * p[new]) / (firsts[old] + strength)

    return _mean_surprisal(probability, batches)


def _unigram(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    counts = np.bincount(tokens, minlength=vocab_size)
    return (counts + 1) / (len(tokens) + vocab_size)


def _mean_surprisal(probability, batches: Batches) -> float:
    total, count = 0.0, 0
    for idx, targets in batches:
        old, new = idx.cpu().numpy(), targets.cpu().numpy()
        asked = new != -1
        total -= np.log(probability(old[asked], new[asked])).sum()
        count += int(asked.sum())
    return float(total) / _some(count)


def _some(count: int) -> int:
    if not count:
        raise ValueError("a loss needs at least one target: the batches hold none.")
    return count
