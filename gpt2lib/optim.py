"""Which weights decay, which optimizer moves them, and how fast, step by step."""

import math

import torch
from torch import nn

from gpt2lib.config import TrainConfig


def param_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for AdamW: matrices and tables decay, biases and LayerNorms do not.

    The first have two axes, the others one.
    Built in the chapter on training. Source: Brown et al. 2020, appendix B, for the 0.1 usual here.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]


def optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a run; each group keeps its peak learning rate as group["peak_lr"].

    "adamw": one AdamW. "muon": Muon on the matrices of the blocks, whose updates it makes
    orthogonal, and AdamW on tables, biases and LayerNorms.
    Built in the chapter on training. Source: Loshchilov and Hutter 2019; Jordan et al. 2024.
    """
    adamw_groups, muon_params = param_groups(model, config.weight_decay), []
    if config.optimizer == "muon":
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        decayed = adamw_groups[0]["params"]
        muon_params = [p for p in decayed if id(p) not in tables]
        adamw_groups[0]["params"] = [p for p in decayed if id(p) in tables]
    opts = [torch.optim.AdamW(adamw_groups, lr=config.lr, betas=config.betas, fused=True)]
    if muon_params:
        settings = {"lr": config.muon_lr, "momentum": config.muon_momentum}
        opts.append(torch.optim.Muon(muon_params, weight_decay=config.weight_decay, **settings))
    for opt in opts:
        for group in opt.param_groups:
            group["peak_lr"] = group["lr"]
    return opts


def learning_rate(
    step: int,
    steps: int,
    peak: float,
    warmup: int = 0,
    floor: float = 0.0,
    schedule: str = "cosine",
) -> float:
    """The learning rate of update number step, 0 ≤ step < steps.

    Rises in a line to peak over the first warmup steps, then falls to floor·peak, along
    half a cosine or in a line.
    Built in the chapter on training. Source: Loshchilov and Hutter 2017, equation 5.
    """
    if schedule not in ("cosine", "linear"):
        raise ValueError(f"schedule must be 'cosine' or 'linear': got {schedule!r}.")
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, steps - warmup))  # 0 … 1
    left = (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else 1 - done
    return peak * (floor + (1 - floor) * left)
