"""Looking inside: every activation by its name, seen or changed while the model runs.

    B batch   T time   C channels (= n_embd)   H heads   D = C / H   V vocabulary   L layers

A name is that of the module that puts the activation out: "wte", "h.3.attn", "h.3.mlp",
"h.3" (the stream after block 3), "ln_f". Some have no module of their own:

    "embed"                                   the stream before block 0    (B, T, C)
    "h.3.attn.q", "h.3.attn.k", "h.3.attn.v"  queries, keys, values        (B, T, H, D)
    "h.3.attn.heads"                          the heads' averages          (B, T, H, D)
    "h.3.mlp.neurons"                         after the GELU               (B, T, 4C)

Hooks do all of it, and stay no longer than asked: the model's own code knows nothing of them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor

from gpt2lib.attention import attention, causal_mask
from gpt2lib.model import GPT, evaluating


@contextmanager
def changed(model: GPT, changes: dict[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Within it each named activation is what its function makes of it: old → new.

    A function returns a new tensor of the same shape, and what runs later reads that; or it
    returns the very tensor it got, having only looked.
    Raises ValueError for a name that the model does not have, or another shape.
    Built in the chapter on looking inside.
    """
    places = _places(model)
    with ExitStack() as hooks:
        for name, change in changes.items():
            if name not in places:
                raise ValueError(
                    f"no activation is called {name!r}: activations(model, idx) has all for keys."
                )
            hooks.enter_context(_hook(name, *places[name], change))
        yield


def activations(model: GPT, idx: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Run model(idx), without dropout and gradients, and keep what passes under these names.

    idx: (B, T). Without names: all there are. The dict has them in the order they arose.
    Built in the chapter on looking inside.
    """
    seen, names = {}, _places(model) if names is None else names
    with evaluating(model), changed(model, {n: partial(seen.setdefault, n) for n in names}):
        model(idx)
    return seen


def patched(
    model: GPT, values: dict[str, Tensor], positions: int | slice | list[int] = slice(None)
) -> AbstractContextManager[None]:
    """Within it the named activations have these values, at all positions or at those given.

    values: as activations gives them for another prompt. Where that changes the answer to the
    other prompt's, the answer passes through here.
    Built in the chapter on looking inside. Source: Meng et al. 2022, 2.1.
    """

    def put(name: str, old: Tensor) -> Tensor:
        new, value = old.clone(), _of_shape(values[name], old, name)
        new[:, positions] = value[:, positions]
        return new

    return changed(model, {name: partial(put, name) for name in values})


def ablated(
    model: GPT, heads: Iterable[tuple[int, int]], to: str = "zero"
) -> AbstractContextManager[None]:
    """Within it the model runs without these heads, given as (layer, head) from 0.

    What a head brings becomes 0, or with to="mean" its mean over the batch and all positions,
    so that only what varies is lost. (That mean sees later tokens too: take a large batch.)
    Raises ValueError for a head that the model does not have.
    Built in the chapter on looking inside. Source: Michel et al. 2019, for 0.
    """
    if to not in ("zero", "mean"):
        raise ValueError(f"to must be 'zero' or 'mean': got {to!r}.")
    L, H, chosen = model.config.n_layer, model.config.n_head, {}
    for layer, head in heads:
        if not (0 <= layer < L and 0 <= head < H):
            raise ValueError(
                f"a head is (layer, head), up to ({L - 1}, {H - 1}): got ({layer}, {head})."
            )
        chosen.setdefault(f"h.{layer}.attn.heads", []).append(head)

    def without(which: list[int], old: Tensor) -> Tensor:
        new = old.clone()  # (B, T, H, D)
        new[:, :, which] = old[:, :, which].mean((0, 1)) if to == "mean" else 0.0
        return new

    return changed(model, {name: partial(without, which) for name, which in chosen.items()})


def attention_maps(model: GPT, idx: Tensor) -> Tensor:
    """Who looks at whom, in each head of each layer: (B, T) → (L, B, H, T, T), rows sum to 1.

    The model's fused kernel never stores these: attention() makes them anew from q, k and v.
    Built in the chapter on looking inside.
    """
    L, mask = model.config.n_layer, causal_mask(idx.shape[1], idx.device)
    seen = activations(model, idx, [f"h.{i}.attn.{part}" for i in range(L) for part in "qkv"])
    maps = []
    for i in range(L):
        q, k, v = (seen[f"h.{i}.attn.{part}"].transpose(1, 2) for part in "qkv")  # (B, H, T, D)
        maps.append(attention(q, k, v, mask)[1])
    return torch.stack(maps)


def logit_lens(model: GPT, idx: Tensor) -> Tensor:
    """What the model would say if it stopped early: logits, (B, T) → (L + 1, B, T, V).

    Entry l is the last LayerNorm and the head on the stream before block l; entry L, after
    the last block, is model(idx).
    Built in the chapter on looking inside. Source: nostalgebraist 2020.
    """
    streams = activations(model, idx, ["embed", *(f"h.{i}" for i in range(model.config.n_layer))])
    with evaluating(model):
        return torch.stack([model.head(model.ln_f(x)) for x in streams.values()])


def induction_scores(maps: Tensor, period: int) -> Tensor:
    """The mean weight on the token after the last time this one came: (L, B, H, T, T) → (L, H).

    maps: of random tokens that repeat after period positions. From the second round on, position
    t had its token at t − period, so what counts is the weight on t − period + 1.
    Built in the chapter on looking inside. Source: Olsson et al. 2022, prefix matching.
    """
    T = maps.shape[-1]
    if not 1 <= period < T:
        raise ValueError(f"the tokens must come round: got period={period} in {T} positions.")
    return maps[..., period:, :].diagonal(1, -2, -1).mean((1, -1))


def _places(model: GPT) -> dict[str, tuple]:
    """Where to find each name: its module, whether at the input, and the view of what is meant."""
    H, places = model.config.n_head, {"embed": (model.h[0], True, _whole)}

    def by_head(x: Tensor, part: int = 0, parts: int = 1) -> Tensor:
        return x.unflatten(-1, (parts, H, -1))[..., part, :, :]  # (B, T, H, D)

    for name, module in model.named_modules():
        if name not in ("", "h", "wpe"):  # these are never called
            places[name] = (module, False, _whole)
    for i, block in enumerate(model.h):
        for part, letter in enumerate("qkv"):
            view = partial(by_head, part=part, parts=3)
            places[f"h.{i}.attn.{letter}"] = (block.attn.c_attn, False, view)
        places[f"h.{i}.attn.heads"] = (block.attn.c_proj, True, by_head)
        places[f"h.{i}.mlp.neurons"] = (block.mlp.c_proj, True, _whole)
    return places


def _whole(x: Tensor) -> Tensor:
    return x


def _hook(name: str, module, at_input: bool, view, change):
    def new(old: Tensor) -> Tensor:
        x = view(old)
        y = _of_shape(change(x), x, name)
        if y is not x:
            old = old.clone()
            view(old).copy_(y)
        return old

    if at_input:  # whatever else the module is given goes through
        return module.register_forward_pre_hook(lambda _, args: (new(args[0]), *args[1:]))
    return module.register_forward_hook(lambda _, args, out: new(out))


def _of_shape(new: Tensor, old: Tensor, name: str) -> Tensor:
    if new.shape != old.shape:
        raise ValueError(
            f"{name} must keep its shape: it is {tuple(old.shape)}, got {tuple(new.shape)}."
        )
    return new
