"""gpt2lib.processes: many processes make the update that one would, and end and go on together.

Run by torchrun, this file is the processes: each writes what it found to <rank>.pt.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import pytest
import torch
import torch.distributed as dist

from gpt2lib import checkpoint, cli, optim, processes, run
from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.model import GPT
from gpt2lib.train import TrainingDiverged, train

torch.set_num_threads(1)
matplotlib.use("Agg")
pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not dist.is_available() or not dist.is_gloo_available(),
    reason="torchrun and gloo are not to be had here",
)
CPU = torch.device("cpu")
SHAPE = GPTConfig(n_layer=2, n_head=2, n_embd=20, block_size=8, vocab_size=31)
ADAMW = TrainConfig.paper(steps=10, lr=1e-2, warmup=2, accumulation=3, precision="float32")
MUON = TrainConfig(steps=4, warmup=2, accumulation=3, precision="float32")
PRETRAIN = (
    *("pretrain", "--stories", "60", "--size", "tiny", "--block-size", "256", "--batch-size", "2"),
    *("--paper", "--precision", "float32", "--steps", "12", "--warmup", "2", "--eval-every", "4"),
    *("--eval-batches", "1", "--samples", "1", "--device", "cpu"),
)
SEEDS = ((1, 1), (1, 2), (2, 1), (2, 2))  # seed and step
DROPOUT = TrainConfig.paper(steps=4, lr=1e-2, precision="float32")


def gpt(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    shape = GPTConfig(**{**vars(SHAPE), "dropout": dropout})
    return GPT(shape).double()


def batches(rank=0, world_size=1, start=0):
    """Four rows, of which each process gets its part; of the first two, often few are asked."""
    for i in itertools.count(start):
        generator = torch.Generator().manual_seed(i)
        ids = torch.randint(3, (4, 9), generator=generator).cumsum(1) % 31
        idx, targets = ids[:, :-1], ids[:, 1:].clone()
        targets[:2, i % 9 :] = -1  # in every ninth batch process 0 of 2 has nothing to predict
        n = 4 // world_size
        yield idx[rank * n : (rank + 1) * n], targets[rank * n : (rank + 1) * n]


def trained(model, config, opts=None, first=0, part=(0, 1), upto=None):
    """Train on this process's part of the batches: the records without their speed."""
    opts = optim.optimizers(model, config) if opts is None else opts
    parts = batches(*part, start=first * config.accumulation)
    run = train(model, parts, config, optimizers=opts, first=first)
    return [record[:5] for record in itertools.islice(run, upto)]


class InFloat64:
    """Muon orthogonalises in bfloat16, where the order of a sum shows; here it keeps float64."""

    def __enter__(self):
        self.before, torch.Tensor.bfloat16 = torch.Tensor.bfloat16, lambda x: x

    def __exit__(self, *_):
        torch.Tensor.bfloat16 = self.before


# ------------------------------------------------------------------ what each process does


def scenarios(folder):
    part = processes.rank(), processes.world_size()
    found = {"part": part, "rows": processes.rows(6)}
    mine = torch.tensor([1.0, part[0]])
    found["summed"] = processes.summed(mine).tolist(), mine.tolist()
    found["highest"] = processes.highest(part[0]), processes.highest(1 / (3 + part[0]))
    try:
        with processes.failing_together():
            if part[0] == 1:
                raise OSError("the disk of 1 is full")
    except OSError as error:
        found["failed"] = str(error)

    with processes.rank_0_first():
        if part[0] == 0:
            (folder / "made").write_text("by 0")
        found["first"] = (folder / "made").read_text()

    model = gpt(seed=part[0])  # process 0's weights are everyone's
    exchanges, exchange = [], processes.exchange
    processes.exchange = lambda spread, now: exchanges.append(now) or exchange(spread, now)
    found["ddp"] = trained(model, ADAMW, part=part), model.state_dict()
    found["exchanges"], processes.exchange = exchanges[:6], exchange
    with InFloat64():
        model = gpt()
        found["ddp muon"] = trained(model, MUON, part=part), model.state_dict()
    model = gpt(dropout=0.3)
    found["dropout"] = trained(model, DROPOUT, part=part)
    torch.manual_seed(5)
    model = gpt(dropout=0.3)
    opts = optim.optimizers(model, DROPOUT)
    head = trained(model, DROPOUT, opts, part=part, upto=2)
    torch.manual_seed(6)
    found["dropout resumed"] = head + trained(model, DROPOUT, opts, first=2, part=part)
    found["random"] = [processes.reseed(*of) or torch.rand(2).tolist() for of in SEEDS]

    spread = processes.spread(gpt())
    processes.exchange(spread, now=False)
    spread.loss(*next(batches(*part, start=4))).backward()
    found["kept"] = next(spread.parameters()).grad.clone()
    processes.exchange(spread, now=True)
    spread.loss(*next(batches(*part, start=4))).backward()
    found["exchanged"] = next(spread.parameters()).grad.clone()

    for name in ("loss", "gradient"):
        model = gpt()
        if part[0] == 1:
            break_down(model, name)
        try:
            trained(model, ADAMW, part=part)
        except TrainingDiverged as error:
            found[f"diverged {name}"] = str(error), model.state_dict()
    return found


def sharded_scenarios(folder):
    part = processes.rank(), processes.world_size()
    found = {}

    def sharded(seed=0):
        model = gpt(seed)
        processes.shard(model, CPU)
        return model

    model = sharded()
    found["held"] = sum(p.to_local().numel() for p in model.parameters())
    opts = optim.optimizers(model, ADAMW)
    records = trained(model, ADAMW, opts, part=part)
    found["fsdp"] = records, processes.gathered(model, opts)[0]
    found["moments"] = sum(
        x.to_local().numel() for s in opts[0].state.values() for x in s.values() if x.dim()
    )
    found["never clips"] = trained(sharded(), TrainConfig.paper(steps=1, clip=0.0), part=part)
    with InFloat64():
        model = sharded()
        opts = optim.optimizers(model, MUON)
        records = trained(model, MUON, opts, part=part)
        found["fsdp muon"] = records, processes.gathered(model, opts)[0]

    for kind, config in (("adamw", ADAMW), ("muon", MUON)):
        with InFloat64():
            model = sharded(seed=3)
            opts = optim.optimizers(model, config)
            read = checkpoint.load(folder / f"{kind}.ckpt")
            first = checkpoint.restore(read, model, opts)
            found[f"from one {kind}"] = trained(model, config, opts, first, part, upto=1)
            path = folder / f"{kind} by {part[0]}.ckpt"
            checkpoint.save(path, model=model, optimizers=opts, step=3)
    return found


def break_down(model, what):
    """Let a number be NaN or infinite in the second update."""
    calls = itertools.count()
    if what == "loss":
        bad = lambda _module, _x, y: y * (torch.nan if next(calls) >= 3 else 1)  # noqa: E731
        model.ln_f.register_forward_hook(bad)
    else:
        model.ln_f.bias.register_hook(lambda g: g * (torch.inf if next(calls) >= 3 else 1))


def compute(folder):
    warnings.simplefilter("error")
    with processes.joined(CPU):
        found = scenarios(folder) | sharded_scenarios(folder)
        torch.save(found, folder / f"{processes.rank()}.pt")


def suffer(ends, args):
    """gpt2lib, in whose n-th attempt process 1 ends in the n-th way, after the step given.

    ends: "int3 kill6" is Ctrl-C after update 3, and in the next attempt a kill after update 6.
    """
    ways, attempt = ends.split(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    way = ways[attempt] if attempt < len(ways) and os.environ["RANK"] == "1" else "none0"
    write = run.Log.write

    def write_and_end(log, entry):
        write(log, entry)
        if "loss" in entry and way.endswith(str(entry["step"])):
            if way.startswith("raise"):
                raise ValueError("process 1 has had enough")
            signal.raise_signal(signal.SIGKILL if way.startswith("kill") else signal.SIGINT)

    run.Log.write = write_and_end
    cli.main(args)


# ------------------------------------------------------------------ what the tests compare


def torchrun(*args):
    """Run torchrun on two processes of this machine, on a port that is free."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", *map(str, args)]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    agent = subprocess.Popen(command, env=os.environ | settings, **pipes)
    try:
        out, err = agent.communicate(timeout=900)  # a busy machine takes its time
    except subprocess.TimeoutExpired:
        agent.terminate()  # which ends the processes; a kill would leave them behind
        out, err = agent.communicate()
        raise AssertionError(f"torchrun did not end:\n{out}\n{err}") from None
    return subprocess.CompletedProcess(command, agent.returncode, out, err)


def alone(config, seed=0, upto=None):
    """One process: records, model and optimizers."""
    with InFloat64():
        model = gpt(seed)
        opts = optim.optimizers(model, config)
        return trained(model, config, opts, upto=upto), model, opts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes have written 0.pt and 1.pt, and what they made of our checkpoints."""
    folder = tmp_path_factory.mktemp("processes")
    for kind, config in (("adamw", ADAMW), ("muon", MUON)):
        _, model, opts = alone(config, upto=2)
        checkpoint.save(folder / f"{kind}.ckpt", model=model, optimizers=opts, step=2)
    done = torchrun(__file__, "compute", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def agree(records, expected):
    """Losses, rates and norms within 1e-6 (they are within rounding), tokens and steps exactly."""
    assert len(records) == len(expected) > 0
    for ours, theirs in zip(records, expected):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=0)
        assert (ours[0], ours[4]) == (theirs[0], theirs[4])


def equal(ours, theirs):
    """The weights of a state_dict, or of an optimizer's state."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-9)


def test_each_process_knows_its_rank_and_its_rows(found):
    assert [f["part"] for f in found] == [(0, 2), (1, 2)]
    assert [f["rows"] for f in found] == [3, 3]
    assert [f["summed"] for f in found] == [([2, 1], [1, 0]), ([2, 1], [1, 1])]
    assert [f["highest"] for f in found] == [(1, 1 / 3)] * 2
    assert type(found[0]["highest"][0]) is int


def test_a_write_that_fails_in_one_process_fails_in_all(found):
    assert [f["failed"] for f in found] == [
        "another process could not write",
        "the disk of 1 is full",
    ]
    with pytest.raises(OSError, match="full"), processes.failing_together():
        raise OSError("full")


def test_one_process_exchanges_nothing(monkeypatch):
    assert (processes.rank(), processes.world_size(), processes.rows(7)) == (0, 1, 7)
    model, x = gpt(), torch.ones(2)
    assert processes.spread(model) is model
    assert processes.summed(x).tolist() == processes.whole(x).tolist() == [1, 1]
    assert processes.highest(3) == 3
    with pytest.raises(ValueError, match="start them with torchrun"):
        processes.shard(model, CPU)
    state = torch.get_rng_state()
    processes.reseed(1, 2)
    assert torch.equal(torch.get_rng_state(), state)
    with processes.joined(CPU), processes.rank_0_first():
        assert not dist.is_initialized()


def test_rows_that_cannot_be_shared_evenly_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "world_size", lambda: 3)
    assert processes.rows(6) == 2
    with pytest.raises(ValueError, match=r"multiple .*: got batch_size=8 on 3 processes"):
        processes.rows(8)


def test_a_device_without_exchange_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert processes.local_rank() == 1
    with pytest.raises(ValueError, match="cpu or cuda: got mps"):
        with processes.joined(torch.device("mps")):
            pass


def test_process_0_goes_first(found):
    assert [f["first"] for f in found] == ["by 0", "by 0"]


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_make_the_updates_of_one(found, way):
    expected, model, _ = alone(ADAMW)
    for f in found:
        agree(f[way][0], expected)
    equal(found[0][way][1], model.state_dict())


@pytest.mark.parametrize("way", ["ddp muon", "fsdp muon"])
def test_muon_makes_the_same_update_of_replicas_and_of_shards(found, way):
    expected, model, _ = alone(MUON)
    for f in found:
        agree(f[way][0], expected)
    equal(found[0][way][1], model.state_dict())


def test_replicas_stay_alike(found):
    equal(found[0]["ddp"][1], found[1]["ddp"][1])


def test_shards_are_halves_of_weights_and_moments(found):
    n = SHAPE.n_params()
    for held in ("held", "moments"):
        parts = [f[held] for f in found]
        assert sum(parts) == n * (2 if held == "moments" else 1)
        assert max(parts) < 0.6 * sum(parts)


def test_the_norm_of_a_sharded_gradient_is_the_whole_ones_though_never_clipped(found):
    expected, _, _ = alone(TrainConfig.paper(steps=1, clip=0.0))
    for f in found:
        agree(f["never clips"], expected)


def test_gradients_are_exchanged_in_the_last_pass_of_an_update(found):
    for f in found:
        assert f["exchanges"] == [False, False, True] * 2
    assert not torch.allclose(found[0]["kept"], found[1]["kept"])
    assert torch.equal(found[0]["exchanged"], found[1]["exchanged"])
    mean = (found[0]["kept"] + found[1]["kept"]) / 2
    torch.testing.assert_close(found[0]["exchanged"], 2 * mean)


@pytest.mark.parametrize("kind, config", [("adamw", ADAMW), ("muon", MUON)])
def test_a_sharded_run_goes_on_from_one_process_and_one_process_from_it(
    folder, found, kind, config
):
    expected, model, opts = alone(config)
    for f in found:
        agree(f[f"from one {kind}"], expected[2:3])
    read = checkpoint.load(folder / f"{kind} by 0.ckpt")
    assert not (folder / f"{kind} by 1.ckpt").exists()
    with InFloat64():
        other = gpt(seed=4)
        other_opts = optim.optimizers(other, config)
        first = checkpoint.restore(read, other, other_opts)
        agree(trained(other, config, other_opts, first), expected[3:])
    equal(other.state_dict(), model.state_dict())
    for opt, other_opt in zip(opts, other_opts):
        for i, state in opt.state_dict()["state"].items():
            equal(other_opt.state_dict()["state"][i], state)


def test_dropout_differs_between_processes_and_repeats_when_a_run_goes_on(found):
    drawn = [numbers for f in found for numbers in f["random"]]
    assert all(a != b for a, b in itertools.combinations(drawn, 2))
    for f in found:
        assert f["dropout"] == f["dropout resumed"]
    assert found[0]["dropout"] == found[1]["dropout"]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_not_finite_in_one_process_stops_all_before_the_weights_move(found, what):
    _, model, _ = alone(ADAMW, upto=1)
    for f in found:
        said, weights = f[f"diverged {what}"]
        assert "in step 2" in said
        equal(weights, model.state_dict())


# ------------------------------------------------------------------ the command


def losses(folder):
    """The log's losses and held-out losses, by step; ValueError if a step is told twice."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    trained = {e["step"]: e["loss"] for e in entries if "loss" in e}
    valid = {e["step"]: e["valid_loss"] for e in entries if "valid_loss" in e}
    assert len(entries) == len(trained) + len(valid)
    return trained, valid


def gpt2lib(*args):
    """Run a command in this process; its exit status."""
    with pytest.raises(SystemExit) as done:
        cli.main([str(arg) for arg in args])
    return done.value.code


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The losses of one process that nothing happens to."""
    folder = tmp_path_factory.mktemp("one")
    assert gpt2lib(*PRETRAIN, "--out", folder) == 0
    return losses(folder)


def the_same(found, expected):
    for ours, theirs in zip(found, expected):
        assert list(ours) == list(theirs)
        assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=1e-4)


def test_a_job_whose_processes_end_goes_on_by_itself_to_the_losses_of_one(tmp_path, uninterrupted):
    ends = ("--max-restarts", "2", __file__, "suffer", "int3 kill6")
    done = torchrun(*ends, *PRETRAIN, "--shard", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    the_same(losses(tmp_path / "run"), uninterrupted)
    # Process 1 was told to stop: all did, after the same update, and saved. Only 0 speaks.
    assert done.stdout.count("stopped after update 3, saved") == 1
    assert done.stdout.count("step-000003.ckpt") == 1  # gone on from, once
    assert done.stdout.count("going on from") == 2
    for first in (1, 4, 5):  # the kill came after update 6, and 4 was saved
        assert done.stdout.count(f"on 2 × cpu in float32, updates {first} to 12") == 1
    assert done.stdout.count("More of them") == 1
    assert checkpoint.load(tmp_path / "run" / "step-000012.ckpt")["step"] == 12


def test_a_process_that_fails_ends_the_job_with_its_sentence_and_one_alone_goes_on(
    tmp_path, uninterrupted
):
    folder = tmp_path / "run"
    done = torchrun(__file__, "suffer", "raise6", *PRETRAIN, "--out", folder)
    assert done.returncode != 0
    assert "gpt2lib: process 1 has had enough" in done.stderr
    assert [*checkpoint.numbered(folder)] == [4]
    assert gpt2lib("pretrain", "--resume", folder) == 0
    the_same(losses(folder), uninterrupted)
    assert gpt2lib("pretrain", "--resume", folder, "--shard") == 2  # there is nobody to share with


if __name__ == "__main__":
    what, first, *rest = sys.argv[1:]
    if what == "compute":
        compute(Path(first))
    else:
        suffer(first, rest)
    sys.exit()
