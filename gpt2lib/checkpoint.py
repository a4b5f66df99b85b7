"""A run on disk: saved whole or not at all, verified when read, resumed to the same next loss.

A checkpoint is one file: a line that names the format, the SHA-256 of what follows, and
then what torch.save wrote: tensors, numbers and text, which are never unpickled as code.
"""

import hashlib
import io
import json
import os
import pickle
from dataclasses import asdict
from pathlib import Path

import torch

from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.model import GPT

MAGIC = b"gpt2lib checkpoint 1\n"
HEADER = len(MAGIC) + hashlib.sha256().digest_size


def save(
    path: str | Path,
    *,
    model: GPT,
    optimizers: list[torch.optim.Optimizer] = (),
    step: int = 0,
    train_config: TrainConfig | None = None,
    tokenizer_fingerprint: str = "",
    extra: dict | None = None,
) -> None:
    """Write a checkpoint so that a kill at any instant leaves the old file or the new one.

    step counts the updates made; extra is anything that JSON can hold. The state of torch's
    random numbers is kept too.
    Built in the chapter on pretraining.
    """
    path = Path(path)
    state = {
        "model_config": asdict(model.config),
        "train_config": train_config and asdict(train_config),
        "weights": model.state_dict(),
        "optimizers": [opt.state_dict() for opt in optimizers],
        "step": step,
        "rng": _rng_state(next(model.parameters()).device),
        "tokenizer_fingerprint": tokenizer_fingerprint,
        "extra": json.dumps(extra or {}),
    }
    new = path.with_name(path.name + ".new")
    try:
        with open(new, "wb") as file:
            file.write(bytes(HEADER))
            hashing = _Hashing(file)
            torch.save(state, hashing)
            file.seek(0)
            file.write(MAGIC + hashing.hash.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def load(path: str | Path) -> dict:
    """Read a checkpoint, on the CPU: the keywords of save, and "model_config", "weights", "rng".

    Raises ValueError if one bit of the file is not as it was written, or it holds anything
    but tensors, numbers and text; FileNotFoundError if there is no file.
    """
    with open(path, "rb") as file:
        head = file.read(HEADER)
        if not head.startswith(MAGIC) or len(head) < HEADER:
            raise ValueError(f"{path} is not a checkpoint of gpt2lib, or its beginning is lost.")
        if hashlib.file_digest(file, "sha256").digest() != head[len(MAGIC) :]:
            raise ValueError(
                f"{path} is not as it was written: its checksum differs. Take an older checkpoint."
            )
        file.seek(HEADER)
        try:
            state = torch.load(io.BytesIO(file.read()), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path} holds what no checkpoint holds: {error}") from None
    state["model_config"] = GPTConfig(**state["model_config"])
    if state["train_config"]:
        state["train_config"] = TrainConfig(**state["train_config"])
    state["extra"] = json.loads(state["extra"])
    return state


def restore(checkpoint: dict, model: GPT, optimizers: list[torch.optim.Optimizer] = ()) -> int:
    """Put a checkpoint into model, optimizers and torch's random numbers; return its step.

    Raises ValueError if the model has another shape, or the optimizers are others.
    """
    if checkpoint["model_config"] != model.config:
        raise ValueError(
            f"the checkpoint is of {checkpoint['model_config']}, the model is {model.config}."
        )
    model.load_state_dict(checkpoint["weights"])
    for opt, state in zip(optimizers, checkpoint["optimizers"], strict=True):
        opt.load_state_dict(state)
    for device, state in checkpoint["rng"].items():
        _set_rng_state(device, state)
    return checkpoint["step"]


class _Hashing(io.RawIOBase):
    """A file to write to that keeps the SHA-256 of what was written."""

    def __init__(self, file):
        self.file, self.hash = file, hashlib.sha256()

    def write(self, data) -> int:
        self.hash.update(data)
        return self.file.write(data)


def _rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def _set_rng_state(device: str, state: torch.Tensor) -> None:
    if device == "cpu":
        torch.set_rng_state(state)
    elif device == "cuda" and torch.cuda.is_available():
        torch.cuda.set_rng_state(state)
    elif device == "mps" and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a loss of power, where the system has a call for it."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
