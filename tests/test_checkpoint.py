"""gpt2lib.checkpoint: whole or absent, verified, resumed bit for bit, never unpickled as code."""

import hashlib
import itertools
import math
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt2lib import checkpoint, optim
from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.model import GPT
from gpt2lib.train import train

torch.set_num_threads(1)
SHAPE = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=16, vocab_size=31, dropout=0.2)


def gpt(seed=0, config=SHAPE):
    torch.manual_seed(seed)
    return GPT(config)


def batches(start=0):
    for i in itertools.count(start):
        ids = torch.randint(31, (2, 17), generator=torch.Generator().manual_seed(i))
        yield ids[:, :-1], ids[:, 1:]


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run.ckpt"
    checkpoint.save(path, model=gpt(), step=3)
    return path


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_resumed_run_has_the_same_losses_bit_for_bit(tmp_path, kind, precision):
    config = TrainConfig(steps=9, optimizer=kind, precision=precision, warmup=2, accumulation=2)
    model = gpt()
    opts = optim.optimizers(model, config)
    expected = []
    for record in train(model, batches(), config, optimizers=opts):
        expected.append(record[:4])
        if record.step == 4:  # dropout is on: the random numbers must go on too
            checkpoint.save(
                tmp_path / "4", model=model, optimizers=opts, step=4, train_config=config
            )
    del opts
    torch.manual_seed(99)
    read = checkpoint.load(tmp_path / "4")
    assert read["train_config"] == config
    other = GPT(read["model_config"])
    opts = optim.optimizers(other, read["train_config"])
    step = checkpoint.restore(read, other, opts)
    losses = [r[:4] for r in train(other, batches(2 * step), config, optimizers=opts, first=step)]
    assert losses == expected[4:]
    for a, b in zip(model.parameters(), other.parameters()):
        assert torch.equal(a, b)


def test_all_that_was_saved_comes_back(tmp_path):
    model = gpt()
    extra = {"best": 1.5, "runs": [1, {"name": "ö"}], "none": None}
    checkpoint.save(tmp_path / "a", model=model, step=7, tokenizer_fingerprint="ab", extra=extra)
    read = checkpoint.load(tmp_path / "a")
    assert read["step"] == 7 and read["tokenizer_fingerprint"] == "ab" and read["extra"] == extra
    assert read["model_config"] == SHAPE and read["train_config"] is None
    assert read["optimizers"] == []
    again = checkpoint.model(read)
    assert again.config == SHAPE and again.training
    for (name, p), (other_name, q) in zip(model.named_parameters(), again.named_parameters()):
        assert name == other_name and torch.equal(p, q) and q.requires_grad


def test_saving_again_replaces_and_leaves_nothing_behind(saved):
    checkpoint.save(saved, model=gpt(1), step=4)
    assert checkpoint.load(saved)["step"] == 4
    assert list(saved.parent.iterdir()) == [saved]


def test_a_flipped_bit_anywhere_is_seen(saved):
    good = saved.read_bytes()
    rng = random.Random(0)
    everywhere = [*range(checkpoint.HEADER), *rng.sample(range(len(good)), 150), len(good) - 1]
    for at in everywhere:
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        saved.write_bytes(bad)
        with pytest.raises(ValueError, match=r"run\.ckpt is not (a checkpoint|as it was written)"):
            checkpoint.load(saved)


def test_a_file_cut_short_or_grown_is_seen(saved):
    good = saved.read_bytes()
    for bad in (*(good[:n] for n in (0, 1, 20, 21, 52, 53, 54, len(good) - 1)), good + b"\0"):
        saved.write_bytes(bad)
        with pytest.raises(ValueError, match=r"run\.ckpt is not"):
            checkpoint.load(saved)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(gpt().state_dict(), path)
    with pytest.raises(ValueError, match=r"weights\.pt is not a checkpoint of gpt2lib"):
        checkpoint.load(path)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        checkpoint.load(tmp_path / "nowhere")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def signed(payload: bytes) -> bytes:
    return checkpoint.MAGIC + hashlib.sha256(payload).digest() + payload


def test_code_in_a_checkpoint_is_never_run(tmp_path, saved):
    mark = tmp_path / "run"
    evil = Malicious(mark)
    pickle.loads(pickle.dumps(evil))
    assert mark.exists()  # so it would have run
    mark.unlink()

    torch.save({"weights": evil}, tmp_path / "zip")
    torch.save({"weights": evil}, tmp_path / "old", _use_new_zipfile_serialization=False)
    payloads = [(tmp_path / "zip").read_bytes(), (tmp_path / "old").read_bytes()]
    for payload in [*payloads, *(pickle.dumps({"weights": evil}, n) for n in (0, 2))]:
        saved.write_bytes(signed(payload))
        with pytest.raises(ValueError, match="holds what no checkpoint"):
            checkpoint.load(saved)
        assert not mark.exists()


@pytest.mark.parametrize(
    "change",
    [
        *(None, {"weights": {}}, {"weights": []}, {"weights": {"wte.weight": torch.ones(2)}}),
        *({"model_config": {"n_layer": 10**9}}, {"model_config": {"depth": 3}}),
        *({"model_config": None}, {"train_config": {"steps": 0}}, {"extra": "{"}, {"extra": 5}),
    ],
    ids=str,
)
def test_a_well_signed_file_that_is_no_checkpoint_is_refused(saved, change):
    with saved.open("rb") as file:
        file.seek(checkpoint.HEADER)
        payload = file.read()
    Path(saved.parent / "zip").write_bytes(payload)
    state = torch.load(saved.parent / "zip", weights_only=True)
    torch.save(change and state | change, saved.parent / "zip")
    saved.write_bytes(signed((saved.parent / "zip").read_bytes()))
    with pytest.raises(ValueError, match=r"run\.ckpt holds what no checkpoint of gpt2lib does"):
        checkpoint.load(saved)


def test_a_checkpoint_of_another_shape_changes_nothing(saved):
    other = gpt(config=GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=31))
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(ValueError, match=r"own shape: .*n_layer=2.* the model is .*n_layer=1"):
        checkpoint.restore(checkpoint.load(saved), other)
    assert all(torch.equal(p, q) for p, q in zip(before, other.parameters()))


def test_optimizers_of_another_number_are_refused(saved):
    model = gpt()
    with pytest.raises(ValueError, match="state of 0 optimizers: got 2"):
        checkpoint.restore(checkpoint.load(saved), model, optim.optimizers(model, TrainConfig()))


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(saved, model=gpt(1), step=4)
    with pytest.raises(TypeError, match="JSON"):
        checkpoint.save(saved, model=gpt(1), step=4, extra={"model": gpt()})
    assert checkpoint.load(saved)["step"] == 3
    assert list(saved.parent.iterdir()) == [saved]


def test_a_full_disk_is_told_as_what_it_is(saved):
    """torch.save hides a failed write behind a RuntimeError of its own."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (10, 5000, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            with pytest.raises(OSError, match="too large"):
                checkpoint.save(saved, model=gpt(1), step=4)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(saved)["step"] == 3
    assert list(saved.parent.iterdir()) == [saved]


def test_numbered_checkpoints_are_found_by_their_numbers_newest_first(tmp_path):
    names = ["step-000400.ckpt", "step-1000000.ckpt", "step-999999.ckpt", "best-000005.ckpt"]
    for name in [*names, "step-12.ckpt.part", "step-.ckpt", "step-9b.ckpt", "best.ckpt"]:
        Path(tmp_path, name).touch()
    assert list(checkpoint.numbered(tmp_path)) == [1_000_000, 999_999, 400]
    assert checkpoint.numbered(tmp_path, "best") == {5: tmp_path / "best-000005.ckpt"}
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        checkpoint.newest(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole: .*000400"):
        checkpoint.newest(tmp_path)


def test_the_newest_whole_checkpoint_is_taken_whichever_bit_of_the_newer_is_flipped(tmp_path):
    for step in (1, 2):
        path = tmp_path / f"step-{step:06}.ckpt"
        checkpoint.save(path, model=gpt(step), step=step, tokenizer_fingerprint="ab")
    state, taken, damaged = checkpoint.newest(tmp_path, "ab")
    assert (state["step"], taken, damaged) == (2, path, [])
    with pytest.raises(ValueError, match=r"000002\.ckpt was trained with another tokenizer \(ab\)"):
        checkpoint.newest(tmp_path, "cd")  # not damaged: it is not passed over in silence
    good, rng = path.read_bytes(), random.Random(1)
    for at in (0, checkpoint.HEADER, *rng.sample(range(len(good)), 20), len(good) - 1):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1 :])
        state, taken, damaged = checkpoint.newest(tmp_path, "ab")
        assert state["step"] == 1 and taken.name == "step-000001.ckpt"
        assert len(damaged) == 1 and str(path) in damaged[0]


KILLS = """
import os, random, signal, sys, time
import torch
from gpt2lib import checkpoint
from gpt2lib.config import GPTConfig
from gpt2lib.model import GPT

torch.set_num_threads(1)
path, kills = sys.argv[1], int(sys.argv[2])
rng = random.Random(0)
model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=128, block_size=64, vocab_size=512))

def save(step):
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(step)
    checkpoint.save(path, model=model, step=step)

start = time.perf_counter()
save(0)
seconds = time.perf_counter() - start
last = cut = 0
for _ in range(kills):
    child = os.fork()
    if not child:
        for step in range(last + 1, last + 10_000):
            save(step)
    time.sleep(rng.uniform(0, 4 * seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    read = checkpoint.load(path)
    if read["step"] < last or any((w != read["step"]).any() for w in read["weights"].values()):
        sys.exit(f"half a checkpoint after step {last}")
    last = read["step"]
    cut += len(os.listdir(os.path.dirname(path))) > 1
    for name in os.listdir(os.path.dirname(path)):
        if name != os.path.basename(path):
            os.remove(os.path.join(os.path.dirname(path), name))
print(last, cut)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows lacks")
def test_a_kill_at_any_instant_leaves_the_old_file_or_the_new_one(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", KILLS, str(tmp_path / "run.ckpt"), "15"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    last, cut = map(int, done.stdout.split())
    assert last > 0, "no save came through between the kills"
    assert cut > 0, "no kill fell into a save"


def test_the_random_numbers_go_on_where_they_were(saved):
    torch.manual_seed(5)
    checkpoint.save(saved, model=gpt(), step=1)
    expected = torch.rand(3)
    torch.manual_seed(6)
    checkpoint.restore(checkpoint.load(saved), gpt())
    assert torch.equal(torch.rand(3), expected) and math.isfinite(expected.sum())
