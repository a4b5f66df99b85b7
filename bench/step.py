"""A training step: forward, backward, clip, AdamW. Speed as a multiple of the first peer's."""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from bench import machine, peers
from bench.race import Contender, race
from gpt2lib import optim, scaling
from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.train import keep_memory, train, uses_bf16

SHAPES = {  # batch size; n_layer, n_head, n_embd, block_size, vocab_size
    "a": (12, GPTConfig(4, 4, 128, 64, 65)),
    "b": (8, GPTConfig(6, 6, 384, 256, 65)),
    "c": (1, GPTConfig(12, 12, 768, 256, 50304)),
    "gpt2": (16, GPTConfig(12, 12, 768, 1024, 50304)),  # for a GPU
}


def contenders(shape: str, device: str, nanogpt: Path | None, compiled: bool) -> list[Contender]:
    """nanoGPT where there is a checkout, transformers, and ours, at each precision."""
    bf16 = ["bf16"] if uses_bf16(torch.device(device), TrainConfig()) else []
    found = []
    for precision in ["float32", *bf16]:
        at = (shape, device, precision)
        if nanogpt:
            found.append(Contender(f"nanoGPT {precision}", partial(nanogpt_step, nanogpt, *at)))
        found.append(Contender(f"transformers {precision}", partial(transformers_step, *at)))
        found.append(Contender(f"gpt2lib {precision}", partial(our_step, *at)))
    if compiled:
        best = (shape, device, ["float32", *bf16][-1])
        found.append(Contender(f"gpt2lib {best[2]} compiled", partial(our_step, *best, True)))
        if nanogpt:
            make = partial(nanogpt_step, nanogpt, *best, True)
            found.append(Contender(f"nanoGPT {best[2]} compiled", make))
    return found


def batch(shape: str, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids and targets, (B, T) each."""
    B, config = SHAPES[shape]
    ids = torch.randint(config.vocab_size, (B, config.block_size + 1), device=device)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def our_step(shape: str, device: str, precision: str, compiled: bool = False):
    """As `gpt2lib pretrain --optimizer adamw` does it."""
    keep_memory()
    config = TrainConfig.paper(steps=10**9, precision=precision, compile=compiled)
    model, data = peers.ours(SHAPES[shape][1]).to(device), batch(shape, device)
    updates = train(model, iter(lambda: data, None), config)

    def step():
        next(updates)
        machine.synchronize(device)

    return step


def nanogpt_step(checkout: Path, shape: str, device: str, precision: str, compiled: bool = False):
    """As nanoGPT's train.py does it."""
    model = peers.nanogpt(SHAPES[shape][1], checkout).to(device)
    opt = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), device)
    ask = torch.compile(model) if compiled else model
    return _step(model, opt, lambda idx, targets: ask(idx, targets)[1], shape, device, precision)


def transformers_step(shape: str, device: str, precision: str):
    """Its model, with the optimizer that gpt2lib takes."""
    model = peers.theirs(SHAPES[shape][1]).to(device)
    (opt,) = optim.optimizers(model, TrainConfig.paper())

    def loss(idx, targets):
        logits = model(idx, use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    return _step(model, opt, loss, shape, device, precision)


def _step(model, opt, loss_of, shape: str, device: str, precision: str):
    data, autocast = batch(shape, device), torch.autocast(device, torch.bfloat16)

    def step():
        with autocast if precision == "bf16" else torch.autocast(device, enabled=False):
            loss = loss_of(*data)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        machine.synchronize(device)

    return step


def measure(shape: str, device: str, nanogpt: Path | None, compiled: bool, rounds: int) -> dict:
    """Race, and tell each contender's time, its ratios, the share of the ceiling, and memory."""
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    peak, (B, config) = machine.ceilings(device), SHAPES[shape]
    results = race(contenders(shape, device, nanogpt, compiled), rounds)
    by_name = {r.name: r for r in results}
    rows = []
    for r in results:
        precision = r.name.split()[1]
        same = by_name.get(f"nanoGPT {precision}", by_name[f"transformers {precision}"])
        rows.append(
            {
                "name": r.name,
                "ms": 1000 * r.median,
                f"against {results[0].name}": r.times_as_fast_as(results[0]),
                "against like": r.times_as_fast_as(same),
                "MFU": scaling.flops(config, B).step / r.median / peak[precision],
                "peak MiB": r.peak_mib,
            }
        )
    return {"ceilings": peak, "rows": rows}
