"""Time to loss: Tiny Shakespeare by character, 4 layers, 4 heads, 128 wide, 64 long.

nanoGPT as its README trains it on a CPU (2,000 updates of 12 × 64, AdamW, no dropout), and
gpt2lib with Muon, at its defaults and at settings for so short a run. Each run is a process of
its own; the clock runs while it trains, and the loss on the whole validation text is asked after.
"""

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from bench import peers
from gpt2lib import corpora, data, evaluate, tokenizer
from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.optim import learning_rate, optimizers
from gpt2lib.train import keep_memory, train

SHAPE = GPTConfig.named("nano")
DEFAULT = TrainConfig(steps=350, batch_size=16)  # all else as it is where nothing is asked
SHORT = replace(DEFAULT, lr=3e-2, betas=(0.9, 0.99), muon_lr=5e-2, muon_momentum=0.85, warmup=5)


def text(split: str) -> np.ndarray:
    """Ids, one a character: every character of Tiny Shakespeare is one byte."""
    by_byte = tokenizer.train_bpe("", SHAPE.vocab_size)
    return np.array(by_byte.encode("".join(corpora.corpus("shakespeare").documents(split))))


def ours(seed: int, config: TrainConfig) -> tuple[float, float]:
    """gpt2lib pretrain --corpus shakespeare --vocab-size 257 --size nano, and config's flags."""
    keep_memory()
    tokens, config = text("train"), replace(config, seed=seed)
    torch.manual_seed(seed)
    model = peers.GPT(SHAPE)
    opts = optimizers(model, config)
    batches = data.batches(tokens, config.batch_size, SHAPE.block_size, seed=seed)
    begin = time.perf_counter()
    for _ in train(model, batches, config, optimizers=opts):
        pass
    seconds = time.perf_counter() - begin
    return seconds, evaluate.loss(model, evaluate.windows(text("valid"), 64, SHAPE.block_size))


def nanogpt(seed: int, checkout: Path) -> tuple[float, float]:
    """config/train_shakespeare_char.py with the flags of its README for a CPU, in float32."""
    T, tokens = SHAPE.block_size, torch.from_numpy(text("train"))
    model = peers.nanogpt(SHAPE, checkout, bias=False, seed=seed)
    opt = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    begin = time.perf_counter()
    for step in range(2000):
        opt.param_groups[0]["lr"] = opt.param_groups[1]["lr"] = learning_rate(
            step, 2000, 1e-3, warmup=100, floor=0.1
        )
        starts = torch.randint(len(tokens) - T, (12,))
        rows = torch.stack([tokens[i : i + T + 1] for i in starts])
        _, loss = model(rows[:, :-1], rows[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
    seconds, total, count = time.perf_counter() - begin, 0.0, 0
    model.eval()
    with torch.no_grad():
        for idx, targets in evaluate.windows(text("valid"), 64, T):
            logits, _ = model(idx, targets)
            total += F.cross_entropy(logits.mT, targets, ignore_index=-1, reduction="sum").item()
            count += (targets != -1).sum().item()
    return seconds, total / count


def measure(checkout: Path | None, seeds: int = 3) -> dict:
    """In turn, seed by seed; medians over the seeds, and the median of the ratios of time."""
    runs = {"gpt2lib default": (ours, DEFAULT), "gpt2lib short": (ours, SHORT)}
    if checkout:
        runs = {"nanoGPT float32": (nanogpt, checkout)} | runs
    found = {name: [] for name in runs}
    for seed in range(1, seeds + 1):
        for name, (learn, *rest) in runs.items():
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as one:
                found[name].append(one.submit(learn, seed, *rest).result())
    first, *_ = found.values()
    rows = []
    for name, pairs in found.items():
        seconds, losses = zip(*pairs)
        share = statistics.median(s / f for s, (f, _) in zip(seconds, first))
        row = {"name": name, "s": statistics.median(seconds), "of the first's time": share}
        rows.append(row | {"nats a character": statistics.median(losses), "each": losses})
    return {"seeds": seeds, "rows": rows}
