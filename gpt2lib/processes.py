"""One run on many processes, which torchrun starts: each knows its rank, 0 to world_size − 1.

    torchrun --nproc-per-node 2 -m gpt2lib pretrain …

Each process has a part of the rows of every batch. Either it has the whole model too, a replica
(DDP), or only its shard of each weight, gradient and moment (FSDP2). The exchange is PyTorch's.
Without torchrun nothing here starts or exchanges anything: rank 0 of 1.

Built in the chapter on pretraining. Source: Li et al. 2020 (DDP); Zhao et al. 2023 (FSDP).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Within it this process exchanges tensors on its device with the others torchrun started.

    Raises ValueError for a device between which PyTorch exchanges nothing.
    """
    if "LOCAL_RANK" not in os.environ:  # torchrun sets it
        yield
        return
    if device.type not in BACKENDS:
        raise ValueError(f"many processes train on cpu or cuda: got {device}. Give --device cpu.")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(BACKENDS[device.type], **_meeting_place())
    yield
    dist.destroy_process_group()  # not after an error: the others may wait for this process


def _meeting_place() -> dict:
    """Where the processes find each other, as init_process_group takes it; {} for its own way.

    torchrun keeps one table of addresses through all restarts (--max-restarts), so a new process
    may find there the address of one that has ended: each attempt gets a corner of its own. On
    several machines they count attempts differently; there TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    does it. Source: pytorch/pytorch, issue 135712.
    """
    env = os.environ
    if (
        env["LOCAL_WORLD_SIZE"] != env["WORLD_SIZE"]
        or env["TORCHELASTIC_USE_AGENT_STORE"] != "True"
    ):
        return {}
    table = dist.TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False)
    corner = dist.PrefixStore(f"attempt {env['TORCHELASTIC_RESTART_COUNT']}", table)
    return {"store": corner, "rank": int(env["RANK"]), "world_size": int(env["WORLD_SIZE"])}


def local_rank() -> int:
    """The number of this process on its machine, and of its GPU there."""
    return int(os.environ.get("LOCAL_RANK", 0))


def rank() -> int:
    """The number of this process; process 0 prints and saves."""
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _joined() else 1


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def rows(batch_size: int) -> int:
    """How many of a batch's rows are each process's; ValueError if they cannot be shared evenly."""
    if batch_size % world_size():
        raise ValueError(
            f"batch_size counts the rows of all processes, so it must be a multiple of their "
            f"number: got batch_size={batch_size} on {world_size()} processes."
        )
    return batch_size // world_size()


@contextmanager
def rank_0_first() -> Iterator[None]:
    """Process 0 goes through the block before the others, who find what it made."""
    if rank() > 0:
        dist.barrier()
    yield
    if rank() == 0 and world_size() > 1:
        dist.barrier()


def summed(x: Tensor) -> Tensor:
    """The sum of x over the processes, in each of them."""
    x = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def highest(number: float) -> float:
    """The highest of the processes' numbers, in each of them: so that all decide alike."""
    if world_size() > 1:
        where = "cuda" if dist.get_backend() == "nccl" else "cpu"
        x = torch.tensor(number, dtype=torch.float64, device=where)
        dist.all_reduce(x, dist.ReduceOp.MAX)
        number = type(number)(x)
    return number


@contextmanager
def failing_together() -> Iterator[None]:
    """An OSError that one process meets within it is raised in all, when all have come through."""
    failed = None
    try:
        yield
    except OSError as error:
        failed = error
    if highest(int(failed is not None)):
        raise failed or OSError("another process could not write")


def reseed(seed: int, step: int) -> None:
    """Give each process random numbers of its own for a step: those of dropout.

    They depend on seed, step and rank alone, so a run that goes on draws what it would have.
    One process alone is left to its stream, which checkpoints keep.
    """
    if world_size() > 1:
        torch.manual_seed((seed * 2**24 + step) * world_size() + rank())


# ------------------------------------------------------------------ the model


class _Loss(nn.Module):
    """model.loss as a forward pass, which is what DDP wraps."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        return self.model.loss(idx, targets)


class _Replica(DistributedDataParallel):
    """A replica of the model, with a loss whose gradient becomes the mean over the replicas."""

    def loss(self, idx: Tensor, targets: Tensor) -> Tensor:
        return self(idx, targets)

    def set_requires_gradient_sync(self, on: bool) -> None:  # FSDP2's name for it
        self.require_backward_grad_sync = on


def spread(model: nn.Module) -> nn.Module:
    """What to call loss of: the model, or on many processes a replica around it.

    All begin with the weights of process 0. The loss of each is that of its own rows, and the
    gradient, after backward, the mean over the processes.
    """
    if world_size() == 1 or is_sharded(model):
        return model
    return _Replica(_Loss(model))


def exchange(model: nn.Module, now: bool) -> None:
    """Whether the next backward pass exchanges gradients: the last of an update must.

    model: as spread gives it. Between exchanges each process keeps its whole gradient.
    """
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(now)


def shard(model: nn.Module, device: torch.device) -> None:
    """Leave each process its shard of every weight (FSDP2); a block is whole while it computes.

    To be done before the optimizers are made, whose moments are then sharded too. From then on
    all processes must take part in a forward pass. model has its blocks in model.h.
    Raises ValueError without torchrun.
    """
    if not _joined():
        raise ValueError(
            "a model is sharded among processes: start them with torchrun --nproc-per-node N -m "
            "gpt2lib pretrain --shard …, or leave --shard out."
        )
    from torch.distributed.device_mesh import init_device_mesh  # here: it takes a second
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (world_size(),))
    for block in model.h:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "loss")


def is_sharded(model: nn.Module) -> bool:
    """Whether shard was called on the model."""
    return hasattr(model, "unshard")  # what FSDP2 gives a module


def whole(x: Tensor) -> Tensor:
    """The whole of a tensor of which each process may hold a shard. All must ask."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def shard_like(x: Tensor, other: Tensor) -> Tensor:
    """The shard of a whole tensor x that goes with this process's shard of other; x, if whole."""
    if not hasattr(other, "full_tensor"):
        return x
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x, other.device_mesh, other.placements, src_data_rank=None)


# ------------------------------------------------------------------ its state, for checkpoints


def gathered(model: nn.Module, opts: Sequence[Optimizer]) -> tuple[dict, list[dict]]:
    """The state_dict of the model, and those of its optimizers, as one process alone has them.

    Shards are put together in process 0, on the CPU; the others get empty ones. All must ask.
    """
    if not is_sharded(model):
        return model.state_dict(), [opt.state_dict() for opt in opts]
    from torch.distributed.checkpoint import state_dict as shards

    asked = shards.StateDictOptions(full_state_dict=True, cpu_offload=True)
    states = []
    for opt in opts:
        state = shards.get_optimizer_state_dict(model, opt, options=asked)
        number = {name: i for i, name in enumerate(_names(model, opt))}
        states.append(_renamed(state, number) if state else {})
    return shards.get_model_state_dict(model, options=asked), states


def scatter(
    model: nn.Module, opts: Sequence[Optimizer], weights: dict, states: Sequence[dict]
) -> None:
    """Load what gathered gave process 0; by now every process has it, and keeps its shards."""
    if not is_sharded(model):
        model.load_state_dict(weights)
        for opt, state in zip(opts, states):
            opt.load_state_dict(state)
        return
    from torch.distributed.checkpoint import state_dict as shards

    asked = shards.StateDictOptions(full_state_dict=True)
    shards.set_model_state_dict(model, weights, options=asked)
    for opt, state in zip(opts, states):
        named = _renamed(state, dict(enumerate(_names(model, opt))))
        shards.set_optimizer_state_dict(model, opt, named, options=asked)


def _names(model: nn.Module, opt: Optimizer) -> list[str]:
    """The names of an optimizer's parameters, in the order in which its state_dict numbers them."""
    names = {p: name for name, p in model.named_parameters()}
    return [names[p] for group in opt.param_groups for p in group["params"]]


def _renamed(state: dict, names: dict) -> dict:
    """An optimizer's state in which parameter p is called names[p]."""
    groups = [g | {"params": [names[p] for p in g["params"]]} for g in state["param_groups"]]
    return {"state": {names[p]: s for p, s in state["state"].items()}, "param_groups": groups}
