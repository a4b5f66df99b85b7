"""From a distribution over the next token to text.

B batch   T time   V vocabulary
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from gpt2lib.attention import KVCache
from gpt2lib.model import GPT, evaluating


def generate(
    model: nn.Module,
    idx: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    pads: Tensor | None = None,
) -> Tensor:
    """Continue each row of idx by max_new_tokens: (B, T) → (B, T + max_new_tokens).

    Each token is drawn from the distribution of filter_logits, by generator if given; with
    temperature=0 it is the likeliest. Past block_size the model reads the last block_size
    tokens. A GPT keeps keys and values of what it has read, and reads each token once, until it
    must read the last block_size anew. pads: (B,) of int64, for prompts of different lengths:
    how many tokens at the left of each row are filler; see left_padded.
    Raises ValueError as filter_logits does.
    Built by hand in the chapter on generation.
    """
    new = stream(model, idx, max_new_tokens, temperature, top_k, top_p, generator, pads)
    return torch.cat([idx, *(ids[:, None] for ids in new)], dim=1)


def stream(
    model: nn.Module,
    idx: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    pads: Tensor | None = None,
) -> Iterator[Tensor]:
    """Like generate, but yield each row's new token as soon as it is drawn: (B,) of int64."""
    _check(temperature, top_k, top_p)
    cache = None
    for _ in range(max_new_tokens):
        with evaluating(model):
            logits, cache = _next_logits(model, idx, cache, max_new_tokens, pads)  # (B, V)
            if temperature == 0:
                ids = logits.float().argmax(-1, keepdim=True)  # (B, 1); slow in bf16
            else:
                probs = filter_logits(logits, temperature, top_k, top_p).softmax(-1)
                ids = torch.multinomial(probs, 1, generator=generator)
        idx = torch.cat([idx, ids], dim=1)
        yield ids[:, 0]


def left_padded(prompts: Sequence[Sequence[int]], filler: int = 0) -> tuple[Tensor, Tensor]:
    """Prompts of different lengths as one batch, each at the right: idx (B, T), pads (B,).

    Raises ValueError if one is empty.
    """
    if not all(map(len, prompts)):
        raise ValueError("each prompt needs at least one token: begin a new text with eot.")
    T = max(map(len, prompts))
    rows = [[filler] * (T - len(ids)) + list(ids) for ids in prompts]
    return torch.tensor(rows), torch.tensor([T - len(ids) for ids in prompts])


def _next_logits(
    model: nn.Module, idx: Tensor, cache: list[KVCache] | None, room: int, pads: Tensor | None
) -> tuple[Tensor, list[KVCache] | None]:
    """The logits after the last token of each row, (B, V), and the cache, if there is to be one.

    room: how many tokens a new cache needs room for beside those of idx.
    """
    T, block_size = idx.shape[1], model.config.block_size
    if not isinstance(model, GPT):
        return model(idx[:, -block_size:])[:, -1], None
    beyond = max(0, T - block_size)  # tokens that fell out of sight: positions shift, all is new
    if beyond or not cache:
        cache = None if beyond else model.new_cache(min(T + room, block_size))
        pads = None if pads is None else (pads - beyond).clamp(min=0)
        x = model.hidden(idx[:, beyond:], cache, pads)
    else:
        x = model.hidden(idx[:, cache[0].length :], cache, pads)
    return model.head(x[:, -1]), cache


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
