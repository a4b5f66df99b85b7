"""How good is it? Loss, perplexity, bits a byte, and what counting alone would reach.

    B batch   T time   V vocabulary

A loss is in nats a token. Batches are pairs (idx, targets), (B, T) of int64, with −1 in
targets where there is nothing to predict.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2lib.model import evaluating

Batches = Iterable[tuple[Tensor, Tensor]]


def windows(
    tokens: np.ndarray, batch_size: int, block_size: int, stride: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """A text in windows, each stride tokens after the last: each token but the first, once.

    Finitely many batches of up to batch_size rows of block_size. A window asks only for what the
    one before it did not reach, so past the first window every target is guessed from at least
    block_size − stride + 1 tokens. stride=None means block_size: windows side by side, the
    fastest, where the first target of a window sees one token. At stride=1 each sees a full block.
    Raises ValueError unless 1 ≤ stride ≤ block_size.
    Built by hand in the chapter on evaluation.
    """
    stride = block_size if stride is None else stride
    if not 1 <= stride <= block_size:
        raise ValueError(
            f"stride must be 1 to block_size={block_size}, lest tokens be skipped: got {stride}."
        )
    n = len(tokens) - 1  # targets
    starts = np.arange(0, n if n <= block_size else n - block_size + stride, stride)[:, None]
    for row in range(0, len(starts), batch_size):
        some = starts[row : row + batch_size]
        at = some + np.arange(block_size)  # (B, T), places in the text
        new = (at < n) & ((some == 0) | (at >= some + block_size - stride))
        idx = tokens[at.clip(max=n)].astype(np.int64)
        targets = np.where(new, tokens[(at + 1).clip(max=n)].astype(np.int64), -1)
        yield torch.from_numpy(idx), torch.from_numpy(targets)


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


def nats_per_unit(nats_a_token: float, n_tokens: int, n_units: int) -> float:
    """The same total loss, shared out among the text's own units: nats a word, a character…

    n_tokens targets stand for n_units of the text. Tokenizers differ in how many tokens they
    make of a text, so only a loss by a unit of the text compares models that differ in them.
    The perplexity that papers report for WikiText and PTB is
    perplexity(nats_per_unit(loss, n_tokens, n_words(text))).
    Built by hand in the chapter on evaluation.
    """
    return nats_a_token * n_tokens / n_units


def perplexity(nats: float) -> float:
    """exp of the loss: the number of equally likely choices that would be as hard to guess.

    Choices of what the loss is by: of tokens for nats a token, of words for nats a word.
    """
    return math.exp(nats)


def bits_per_byte(nats_a_token: float, n_tokens: int, n_bytes: int) -> float:
    """The loss in bits a byte; with the number of characters for n_bytes, bits a character.

    n_tokens targets stand for n_bytes of UTF-8.
    """
    return nats_per_unit(nats_a_token, n_tokens, n_bytes) / math.log(2)


def n_words(text: str) -> int:
    """Words as WikiText and PTB count them: parted by blanks, <unk> too, and an end of each line.

    Count before the text is detokenized. WikiText-2's test set has 245,569.
    Source: Merity et al. 2017, table 1.
    """
    return len(text.split()) + text.count("\n")


_JOINED = r"[,.;:!?%)\]]|\.\.\.|'(?:s|t|m|d|re|ve|ll)"  # what follows without a blank
_WIKITEXT = (  # pattern, what stands for it; in this order
    (r" @([-,.])@ ", r"\1"),  # 1 @,@ 000 → 1,000
    (r"(?<=\d) ([:–]) (?=\d)", r"\1"),  # 18 : 05 → 18:05
    (rf" (?=(?:{_JOINED})(?!\S))", ""),  # lobster , isn 't → lobster, isn't
    (r"(?<!\S)([(\[$£€¥#]) ", r"\1"),  # ( 24 → (24
    (r'(?<![^\s(\[])" ([^"\n]+) "', r'"\1"'),  # " red " → "red"
    (r"(?m)^ | $", ""),
    (r"(?m)^=.*=$", lambda line: re.sub("(?<==) (?==)", "", line[0])),  # = = Life = = → == Life ==
)


def detokenize_wikitext(text: str) -> str:
    """WikiText as Wikipedia had it: blanks and marks that its makers added are taken out.

    " = = Life = = " becomes "== Life ==", "2 @.@ 5 % ( a " red " one ) , isn 't" becomes
    '2.5% (a "red" one), isn't'. Only blanks and @ go, and no two lines of WikiText-2 become one,
    so a loss can still be told by n_words of the original. <unk> stays. So do blanks that may have
    been there, as around ' and /. The GPT-2 paper gains 2.5 to 5 perplexity by such rules but does
    not list its own; these are ours. Source: Radford et al. 2019, 3.1.
    """
    for pattern, new in _WIKITEXT:
        text = re.sub(pattern, new, text)
    return text


def detokenize_ptb(text: str) -> str:
    """The Penn Treebank in its usual form (lower case, N for numbers) with blanks as in English.

    "the company 's stock did n't gain $ N" becomes "the company's stock didn't gain $N".
    <unk>, N and the lower case stay: what was lost cannot come back.
    Source: Mikolov et al. 2010, for the form; Radford et al. 2019, 3.1, for undoing it.
    """
    text = re.sub(r" (?=(?:n't|'(?:s|m|d|re|ve|ll)?|%)(?!\S))", "", text)
    return re.sub(r"(?m)(?<!\S)([a-z]*\$|#) |^ | $", r"\1", text)


class Interval(NamedTuple):
    """A number measured on a sample, and where it would likely be on another like it."""

    value: float
    low: float
    high: float


def interval(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Σ values / Σ weights with its bootstrap interval; without weights, the mean.

    values: one for each passage, story or question. For a score of a whole corpus give parts
    that are independent: the nats of each document and, as weights, its words; then low and high
    go through perplexity like the value itself. 9,999 samples are drawn with replacement; low and
    high are the percentiles that leave out (1 − level) / 2 on either side.
    Raises ValueError for fewer than two values.
    Built by hand in the chapter on evaluation. Source: Efron and Tibshirani 1993, chapter 13.
    """
    from scipy.stats import bootstrap  # here: it takes as long to import as torch

    values = np.asarray(values, dtype=float)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=float)
    if values.ndim != 1 or len(values) < 2 or values.shape != weights.shape:
        raise ValueError(
            f"an interval needs two values or more in a row, and a weight for each: got values "
            f"{values.shape}, weights {weights.shape}."
        )

    def score(values, weights, axis=-1):
        return values.sum(axis) / weights.sum(axis)

    found = bootstrap(
        (values, weights),
        score,
        paired=True,
        vectorized=True,
        confidence_level=level,
        method="percentile",
        batch=max(1, 2**22 // len(values)),  # of 9,999: bounds the memory
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(score(values, weights)), float(found.low), float(found.high))


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
