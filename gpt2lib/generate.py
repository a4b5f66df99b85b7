"""From a distribution over the next token to text.

B batch   T time   V vocabulary
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gpt2lib.model import evaluating


def generate(
    model: nn.Module,
    idx: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue each row of idx by max_new_tokens: (B, T) → (B, T + max_new_tokens).

    Each token is drawn from the distribution of filter_logits, by generator if given; with
    temperature=0 it is the likeliest. Past block_size the model reads the last block_size
    tokens. Raises ValueError as filter_logits does.
    Built by hand in the chapter on generation.
    """
    new = stream(model, idx, max_new_tokens, temperature, top_k, top_p, generator)
    return torch.cat([idx, *(ids[:, None] for ids in new)], dim=1)


def stream(
    model: nn.Module,
    idx: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Like generate, but yield each row's new token as soon as it is drawn: (B,) of int64."""
    for _ in range(max_new_tokens):
        with evaluating(model):
            logits = model(idx[:, -model.config.block_size :])[:, -1]  # (B, V)
        probs = filter_logits(logits, temperature, top_k, top_p).softmax(-1)
        ids = torch.multinomial(probs, 1, generator=generator)  # (B, 1)
        idx = torch.cat([idx, ids], dim=1)
        yield ids[:, 0]


def filter_logits(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Logits of the distribution that is sampled from: (..., V) → (..., V) of float32.

    First divided by the temperature; then the top_k greatest stay; then of these the fewest
    whose probabilities reach top_p. The others become −∞. Among equal logits lower ids stay.
    temperature=0 leaves only the greatest.
    Raises ValueError for a temperature under 0, a top_k under 1 or a top_p outside (0, 1].
    Built by hand in the chapter on generation. Source: Fan et al. 2018 for top_k, Holtzman
    et al. 2020 for top_p.
    """
    _check(temperature, top_k, top_p)
    logits = logits.float()
    logits = logits - logits.amax(-1, keepdim=True)  # so that a small temperature cannot overflow
    if temperature == 0:
        return _keep_top_k(logits, 1)
    logits = logits / temperature
    if top_k is not None:
        logits = _keep_top_k(logits, top_k)
    if top_p is not None and top_p < 1:
        logits = _keep_top_p(logits, top_p)
    return logits


def _keep_top_k(logits: Tensor, k: int) -> Tensor:
    least = logits.topk(min(k, logits.shape[-1])).values[..., -1:]  # the k-th greatest
    above, equal = logits > least, logits == least
    room = k - above.sum(-1, keepdim=True)
    keep = above | (equal & (equal.cumsum(-1) <= room))
    return logits.masked_fill(~keep, float("-inf"))


def _keep_top_p(logits: Tensor, p: float) -> Tensor:
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    probs = ranked.softmax(-1)
    before = probs.cumsum(-1) - probs  # what the better ones add up to; 0 for the best
    ranked = ranked.masked_fill(before >= p, float("-inf"))
    return torch.empty_like(logits).scatter(-1, order, ranked)


def _check(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(
            f"temperature must be at least 0 and finite: got {temperature}. 0 takes the "
            "likeliest token, 1 samples from the model as it is."
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, or None to keep all: got {top_k}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1: got {top_p}. 1 keeps all.")
