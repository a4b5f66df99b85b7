"""A run on disk: saved whole or not at all, verified when read, resumed to the same next loss.

A checkpoint is one file: a line that names the format, the SHA-256 of all that follows, and
what torch.save wrote. It holds tensors, numbers and text; nothing in it is run when it is read.
A run keeps several in its folder, numbered by step: step-000400.ckpt.
"""

import hashlib
import io
import json
import pickle
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch.optim import Optimizer

from gpt2lib import processes
from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.files import whole
from gpt2lib.model import GPT

MAGIC = b"gpt2lib checkpoint 1\n"
HEADER = len(MAGIC) + hashlib.sha256().digest_size  # bytes before what torch.save wrote
FOREIGN = (  # what reading a file that save did not write may raise
    *(pickle.UnpicklingError, RuntimeError, EOFError),
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
)


class Damaged(ValueError):
    """A file is not, or no longer, a checkpoint as save wrote it."""


def save(
    path: str | Path,
    *,
    model: GPT,
    optimizers: Sequence[Optimizer] = (),
    step: int = 0,
    train_config: TrainConfig | None = None,
    tokenizer_fingerprint: str = "",
    extra: dict | None = None,
) -> None:
    """Write a checkpoint so that a kill at any instant leaves the old file or the new one.

    step counts the updates made; extra is anything that JSON can hold. The state of torch's
    random numbers goes in too. A failure (a full disk, say) leaves the old file and raises.
    Of many processes all must call it; process 0 writes, all of the model and the optimizers.
    Built in the chapter on pretraining.
    """
    weights, states = processes.gathered(model, optimizers)
    if processes.rank() > 0:
        return
    state = {
        "model_config": asdict(model.config),
        "train_config": train_config and asdict(train_config),
        "weights": weights,
        "optimizers": states,
        "step": step,
        "random": _random_state(next(model.parameters()).device),
        "tokenizer_fingerprint": tokenizer_fingerprint,
        "extra": json.dumps(extra or {}),
    }
    with whole(path) as file:
        file.write(bytes(HEADER))
        payload = _Hashing(file)
        torch.save(state, payload)
        if payload.failed:
            raise payload.failed
        file.seek(0)
        file.write(MAGIC + payload.hash.digest())


def load(path: str | Path, tokenizer_fingerprint: str | None = None) -> dict:
    """Read a checkpoint onto the CPU: {"model_config": GPTConfig, "train_config": TrainConfig
    or None, "weights", "optimizers", "step", "random", "tokenizer_fingerprint", "extra"}.

    Raises Damaged, a ValueError, if one bit of the file is not as it was written, or if it holds
    anything but tensors, numbers and text; ValueError if a fingerprint is asked for and it has
    another; FileNotFoundError if there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}.")
    with open(path, "rb") as file:
        head = file.read(HEADER)
        if len(head) < HEADER or not head.startswith(MAGIC):
            raise Damaged(f"{path} is not a checkpoint of gpt2lib, or its beginning is lost.")
        if hashlib.file_digest(file, "sha256").digest() != head[len(MAGIC) :]:
            raise Damaged(
                f"{path} is not as it was written: its SHA-256 differs. "
                "Copy it again, or take another checkpoint."
            )
        try:
            state = torch.load(_From(file, HEADER), map_location="cpu", weights_only=True)
            state = _checked(state)
        except FOREIGN as error:
            reason = str(error).partition("\n")[0]
            raise Damaged(f"{path} holds what no checkpoint of gpt2lib does: {reason}") from None
    if tokenizer_fingerprint not in (None, state["tokenizer_fingerprint"]):
        raise ValueError(
            f"{path} was trained with another tokenizer ({state['tokenizer_fingerprint'][:12]}) "
            f"than the one beside it ({tokenizer_fingerprint[:12]}). Put that one there."
        )
    return state


def numbered(folder: str | Path, kind: str = "step") -> dict[int, Path]:
    """{400: step-000400.ckpt, …}: the numbered checkpoints in a folder, the newest first."""
    found = {
        int(match[1]): path
        for path in Path(folder).glob(f"{kind}-*.ckpt")
        if (match := re.fullmatch(rf"{kind}-(\d+)\.ckpt", path.name))
    }
    return dict(sorted(found.items(), reverse=True))


def newest(
    folder: str | Path, tokenizer_fingerprint: str | None = None
) -> tuple[dict, Path, list[str]]:
    """The newest whole checkpoint of a folder: its state as load gives it, its path, and what is
    wrong with each newer one that had to be passed over.

    Raises ValueError if there are some and none is whole, FileNotFoundError if there is none.
    """
    damaged = []
    for path in numbered(folder).values():
        try:
            return load(path, tokenizer_fingerprint), path, damaged
        except Damaged as error:
            damaged.append(str(error))
    if not damaged:
        raise FileNotFoundError(f"there is no checkpoint in {folder}.")
    raise ValueError(
        f"no checkpoint in {folder} is whole: {' '.join(damaged)} "
        "Copy one of them back, or begin anew with --overwrite."
    )


def restore(checkpoint: dict, model: GPT, optimizers: Sequence[Optimizer] = ()) -> int:
    """Put a checkpoint into model, optimizers and torch's random numbers; return its step.

    Raises ValueError, and changes nothing, if the model has another shape or the optimizers
    are of another number than those saved.
    """
    if checkpoint["model_config"] != model.config:
        raise ValueError(
            "a checkpoint goes into a model of its own shape: it is of "
            f"{checkpoint['model_config']}, the model is {model.config}."
        )
    if optimizers and len(optimizers) != len(checkpoint["optimizers"]):
        raise ValueError(
            f"the checkpoint has the state of {len(checkpoint['optimizers'])} optimizers: "
            f"got {len(optimizers)}. Make them by optim.optimizers with its train_config."
        )
    processes.scatter(model, optimizers, checkpoint["weights"], checkpoint["optimizers"])
    _set_random_state(checkpoint["random"])
    return checkpoint["step"]


def model(checkpoint: dict) -> GPT:
    """The model of a checkpoint, on the CPU, its weights the checkpoint's own tensors."""
    with torch.device("meta"):  # so that no weights are drawn only to be thrown away
        gpt = GPT(checkpoint["model_config"])
    gpt.load_state_dict(checkpoint["weights"], assign=True)
    return gpt


def _checked(state: dict) -> dict:
    """The same state, its parts of the types that load promises."""
    config = GPTConfig(**state["model_config"])
    train_config = state["train_config"] and TrainConfig(**state["train_config"])
    extra = json.loads(state["extra"])
    n = sum(p.numel() for p in state["weights"].values())
    if n != config.n_params():
        raise ValueError(f"{n} parameters, where its {config} has {config.n_params()}.")
    return state | {"model_config": config, "train_config": train_config, "extra": extra}


class _Hashing(io.RawIOBase):
    """Writes to a file, and keeps the SHA-256 of what was written, and the first failure.

    A failure is not raised within torch.save, which would hide it behind a RuntimeError.
    """

    def __init__(self, file):
        self.file, self.hash, self.failed = file, hashlib.sha256(), None

    def write(self, data) -> int:
        self.hash.update(data)
        try:
            if not self.failed:
                self.file.write(data)
        except OSError as error:
            self.failed = error
        return len(data)


class _From(io.RawIOBase):
    """Reads a file as if it began at byte start: torch.load wants its archive at 0."""

    def __init__(self, file, start: int):
        self.file, self.start = file, start
        self.seek(0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        shift = self.start if whence == io.SEEK_SET else 0
        return self.file.seek(offset + shift, whence) - self.start

    def tell(self) -> int:
        return self.file.tell() - self.start

    def readinto(self, buffer) -> int:
        return self.file.readinto(buffer)

    def readable(self) -> bool:
        return True


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of the random numbers that training draws: the CPU's, and the device's."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def _set_random_state(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    for kind, state in states.items():
        if kind != "cpu" and torch.get_device_module(kind).is_available():
            torch.get_device_module(kind).set_rng_state(state)
