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

    Each token is drawn from filter_logits' distribution. Past block_size the model reads
    the last block_size tokens.
    Built by hand in the chapter on generation. Source: Holtzman et al. 2020 for top_p.
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
    """Yield the new tokens as they are drawn: (B,) of int64, max_new_tokens times."""
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

    First divided by the temperature; then the top_k greatest are kept; then of these the
    fewest whose probabilities add up to top_p, at least one. The others become −∞. Among equal
    logits the lower id goes first. temperature=0 keeps the greatest alone.
    Raises ValueError for a temperature under 0, a top_k under 1, or a top_p outside (0, 1].
    """
    _check(temperature, top_k, top_p)
    logits = logits.float()
    if temperature == 0:
        top_k, top_p = 1, None
    else:
        logits = logits / temperature
    if top_k is None and top_p is None:
        return logits
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        ranked[..., top_k:] = float("-inf")
    if top_p is not None and top_p < 1:
        probs = ranked.softmax(-1)
        before = probs.cumsum(-1) - probs  # what the better ones add up to
        ranked[(before >= top_p)] = float("-inf")
    return torch.empty_like(logits).scatter_(-1, order, ranked)


def _check(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(
            f"temperature is at least 0: got {temperature}. 0 takes the likeliest token, "
            "1 samples from the model as it is."
        )
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k keeps at least 1 token: got {top_k}. None keeps all.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is a probability above 0, up to 1: got {top_p}.")
