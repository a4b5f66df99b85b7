"""The training loop: a generator of records, one for each update of the weights.

    B batch   T time

The caller owns the for-loop, so a notebook, a command and a test each evaluate, save and
print as they like. The library prints nothing.
"""

import ctypes
import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gpt2lib import optim, processes
from gpt2lib.config import TrainConfig


class Record(NamedTuple):
    """What one update did. The loss is that of its batch, before the weights moved."""

    step: int  # updates made so far; the first record says 1
    loss: float  # nats a token
    lr: float  # AdamW's, at this update
    grad_norm: float  # before clipping
    tokens: int  # targets that this update learned from
    tokens_per_second: float


class TrainingDiverged(RuntimeError):
    """A loss or a gradient was not finite. The weights are those of the update before."""


def train(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    config: TrainConfig,
    *,
    optimizers: list[torch.optim.Optimizer] | None = None,
    first: int = 0,
) -> Iterator[Record]:
    """Train model where it is; yield a Record after each of config.steps updates.

    batches gives (idx, targets), (B, T) of int64, −1 where there is nothing to predict; an
    update reads config.accumulation of them, each token weighing the same. To go on with a
    run, pass its optimizers, first = the updates made, and batches that go on where it stopped.
    Among processes (torchrun) each gives the batches of its own rows; the Record is that of all.
    Raises TrainingDiverged before the weights move, if the loss or the gradient is not finite;
    ValueError if the batches end early.
    Built by hand in the chapter on training, run in full in the chapter on pretraining.
    """
    opts = optim.optimizers(model, config) if optimizers is None else optimizers
    params = [p for p in model.parameters() if p.requires_grad]
    device = params[0].device
    spread, n = processes.spread(model), processes.world_size()
    loss_of = torch.compile(spread.loss) if config.compile else spread.loss
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(device, config))
    batches = iter(batches)
    for step in range(first, config.steps):
        started = time.perf_counter()
        model.train()
        processes.reseed(config.seed, step)
        factor = _schedule(step, config)
        for group in (group for opt in opts for group in opt.param_groups):
            group["lr"] = group["peak_lr"] * factor

        micro = _take(batches, config.accumulation, step, device)
        counts = torch.stack([(targets != -1).sum() for _, targets in micro]).to(params[0].dtype)
        count = processes.summed(counts.sum())
        model.zero_grad()
        total = 0.0
        for i, share in enumerate(counts / count.clamp(min=1)):
            idx, targets = micro[i]
            processes.exchange(spread, now=i == len(micro) - 1)
            with autocast:
                loss = loss_of(idx, targets) * share
            (loss * n).backward()  # n, because the gradient becomes the mean over n processes
            total = total + loss.detach()
        total, norm = processes.summed(total), _grad_norm(params)

        # The one wait for the device in a step; the optimizers then run while Python goes on.
        loss, grad_norm, tokens = torch.stack([total, processes.whole(norm), count]).tolist()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise TrainingDiverged(_diverged(step, loss, grad_norm, config.lr * factor))
        if 0 < config.clip < grad_norm:
            nn.utils.clip_grads_with_norm_(params, config.clip, norm)
        for opt in opts:
            opt.step()
        rate = tokens / (time.perf_counter() - started)
        yield Record(step + 1, loss, config.lr * factor, grad_norm, int(tokens), rate)


def uses_bf16(device: torch.device, config: TrainConfig) -> bool:
    """Whether the forward pass runs in bfloat16; weights and optimizers stay in float32.

    "auto" takes bfloat16 where the hardware multiplies it: CUDA from Ampere on, and CPUs
    with AVX512-BF16 or AMX. Elsewhere it would be emulated, slower than float32.
    """
    if config.precision != "auto":
        return config.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    return False


def keep_memory() -> bool:
    """Have the C library keep freed memory for the next update, until this process ends.

    Otherwise glibc hands large tensors back to the kernel and gets them again as new pages, which
    are cleared first, at every update. Linux with glibc only; returns whether it was done.
    Source: mallopt(3).
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
        asked = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26}
        return sys.platform == "linux" and all(mallopt(*pair) for pair in asked.items())
    return False


def _schedule(step: int, config: TrainConfig) -> float:
    """The share of its peak that each learning rate has at this step."""
    return optim.learning_rate(
        step, config.steps, 1.0, config.warmup, config.lr_floor, config.schedule
    )


def _take(batches, n: int, step: int, device) -> list[tuple[Tensor, Tensor]]:
    """The next n batches, on the device."""
    micro = [(idx.to(device), targets.to(device)) for idx, targets in islice(batches, n)]
    if len(micro) < n:
        raise ValueError(
            f"training needs steps·accumulation batches: they ended in step {step + 1}. "
            "Give data.batches, which never ends, or fewer steps."
        )
    return micro


def _grad_norm(params: list[Tensor]) -> Tensor:
    """The norm of the gradient, all parameters as one vector."""
    return nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])


def _diverged(step: int, loss: float, grad_norm: float, lr: float) -> str:
    return (
        f"loss and gradient must stay finite: in step {step + 1}, at learning rate {lr:.3g}, "
        f"the loss is {loss} and the norm of the gradient {grad_norm}. The weights are those of "
        f"step {step}. Try half the learning rate, a longer warm-up, or clip=1."
    )
