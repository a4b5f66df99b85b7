"""Which weights decay, which optimizer moves them, and how fast, step by step."""

import math
from collections import defaultdict

import torch
from torch import Tensor, nn

from gpt2lib import processes
from gpt2lib.config import TrainConfig

MATRICES_AT_ONCE = 2**22  # Muon takes matrices of one shape together, up to so many numbers


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
        opts.append(Muon(muon_params, weight_decay=config.weight_decay, **settings))
    for opt in opts:
        for group in opt.param_groups:
            group["peak_lr"] = group["lr"]
    return opts


class Muon(torch.optim.Muon):
    """torch.optim.Muon, the small matrices of one shape taken together: half its time on a CPU.

    The same state and updates, but for the rounding of bfloat16. What it could be told beyond
    these settings is as PyTorch has it by default.
    Source: Jordan et al. 2024.
    """

    def __init__(self, params, lr: float, weight_decay: float, momentum: float):
        super().__init__(params, lr=lr, weight_decay=weight_decay, momentum=momentum)

    @torch.no_grad()
    def step(self, closure=None) -> Tensor | None:
        """Move each matrix that has a gradient along its momentum, made orthogonal.

        closure, if given, is called first and computes the gradients; what it returns is returned.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            shapes = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[min(p.shape), max(p.shape)].append(p)  # a tall one is taken lying
            for (low, wide), params in shapes.items():
                n = max(1, MATRICES_AT_ONCE // (low * wide))
                for i in range(0, len(params), n):
                    self._move(params[i : i + n], group)
        return loss

    def _move(self, params: list[Tensor], group: dict) -> None:
        ahead = []
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)
            mean = self.state[p]["momentum_buffer"]
            mean.lerp_(p.grad, 1 - group["momentum"])
            update = p.grad.lerp(mean, group["momentum"])  # Nesterov's: the mean one step on
            ahead.append(_lying(processes.whole(update)).bfloat16())
        for p, update in zip(params, orthogonal(torch.stack(ahead)), strict=True):
            rows, columns = p.shape
            lr = group["lr"] * max(1, rows / columns) ** 0.5
            p.mul_(1 - group["lr"] * group["weight_decay"])
            update = update.mT if rows > columns else update
            p.add_(processes.shard_like(update, p), alpha=-lr)


def _lying(matrix: Tensor) -> Tensor:
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of each matrix near 1: (N, m, n), m ≤ n, → the same.

    Newton–Schulz: each step replaces every singular value s by a·s + b·s³ + c·s⁵, with nothing
    but matrix products. Five bring s to 0.7 to 1.2, if it was 0.003 of the matrix's norm or more.
    Source: Jordan et al. 2024, which chose a, b and c to raise small s fast.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    X = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        A = X @ X.mT  # (N, m, m)
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X


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
