"""A run survives: kills at random instants, a full disk, damaged files, numbers that explode.

As a script it kills one run n times in a row and tells how it went:
python tests/test_unbreakable.py 25
"""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch

from gpt2lib import checkpoint, cli, run
from gpt2lib.files import Log, alone
from gpt2lib.run import spike

torch.set_num_threads(1)
ROOT = Path(cli.__file__).parents[1]
RUN = (
    *("pretrain", "--stories", "60", "--size", "tiny", "--block-size", "256", "--batch-size", "2"),
    *("--steps", "12", "--warmup", "2", "--eval-every", "4", "--eval-batches", "1"),
    *("--samples", "1", "--device", "cpu", "--dropout", "0.1", "--out", "run"),
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    plt.close("all")


def gpt2lib(*args):
    """Run a command in this process; its exit status."""
    with pytest.raises(SystemExit) as done:
        cli.main([str(arg) for arg in args])
    return done.value.code or 0


def entries(folder="run"):
    return [json.loads(line) for line in Path(folder, "log.jsonl").read_text().splitlines()]


def history(folder="run"):
    """The log without what depends on time; a step that is logged twice shows."""
    return [{k: v for k, v in e.items() if k != "tokens_per_second"} for e in entries(folder)]


def kept(folder="run", kind="step"):
    return sorted(checkpoint.numbered(folder, kind))


def all_bits(folder="run"):
    """Every tensor of the newest checkpoint: weights, optimizers, random numbers."""
    state, found = checkpoint.newest(folder)[0], []

    def collect(tree):
        if isinstance(tree, torch.Tensor):
            found.append(tree.numpy().tobytes())
        elif isinstance(tree, dict | list):
            for part in tree.values() if isinstance(tree, dict) else tree:
                collect(part)

    collect([state["weights"], state["optimizers"], state["random"]])
    return found, state["step"], state["extra"]


def contents(folder="run"):
    return {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.name != "loss.svg"}


class Killed(BaseException):
    pass


def killed_in(monkeypatch, step, *args, by=Killed):
    """Run until the update is logged, and go down as a kill would: nothing more is written."""
    write = Log.write

    def killing(log, entry):
        write(log, entry)
        if entry["step"] == step and "loss" in entry:
            raise by

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", killing)
        with pytest.raises(by):
            cli.main([*RUN, *args])


def flip(path, at=-1000):
    data = bytearray(Path(path).read_bytes())
    data[at] ^= 4
    Path(path).write_bytes(data)


# Kills ------------------------------------------------------------------------------------


def kill_again_and_again(folder, kills, steps, every, rng, most):
    """Start the same command again and again; kill it after at most so many updates, at a random
    instant; at last let it end. Gives for each kill the update it came after and whether it fell
    into the writing of a file, and what the last life said.
    """
    command = [sys.executable, "-m", "gpt2lib", *RUN, "--steps", str(steps), "--out", str(folder)]
    command += ["--eval-every", str(every)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    log, found = Path(folder, "log.jsonl"), []

    def lines():
        with suppress(FileNotFoundError):
            return log.read_bytes().splitlines()
        return []

    def stamp():
        with suppress(FileNotFoundError):
            return log.stat().st_mtime_ns
        return 0

    for _ in range(kills):
        before = stamp()
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        while process.poll() is None and stamp() == before:
            time.sleep(0.002)  # a new life writes the log anew
        enough = len(lines()) + rng.randint(0, most)
        while process.poll() is None and len(lines()) < enough:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
        logged = [int(match[1]) for line in lines() if (match := STEP.match(line))]
        found.append((max(logged, default=0), bool(list(log.parent.glob("*.part")))))
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return found, done.stdout


STEP = re.compile(rb'{"step": (\d+)')


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no kill -9")
def test_a_run_killed_at_random_instants_goes_on_by_itself_to_the_same_bits():
    assert gpt2lib(*RUN, "--steps", 60, "--out", "whole") == 0
    found, said = kill_again_and_again("cut", 3, 60, 4, random.Random(1), most=15)
    assert max(found)[0] > 4 and "going on from cut" in said
    assert all_bits("cut") == all_bits("whole")
    assert history("cut") == history("whole")
    assert contents("cut").keys() == contents("whole").keys()
    best = [checkpoint.load(Path(folder, "best.ckpt")) for folder in ("cut", "whole")]
    assert best[0]["step"] == best[1]["step"]
    assert all(torch.equal(w, best[1]["weights"][name]) for name, w in best[0]["weights"].items())
    assert contents("cut")["sample.txt"] == contents("whole")["sample.txt"]


@pytest.mark.parametrize("step", [1, 4, 6, 12])
def test_the_same_command_goes_on_where_a_kill_left_it(step, monkeypatch, capsys):
    assert gpt2lib(*RUN, "--out", "whole") == 0
    killed_in(monkeypatch, step)
    capsys.readouterr()
    torch.manual_seed(0)  # a new process starts from other random numbers
    assert gpt2lib(*RUN) == 0
    newest = (step - 1) // 4 * 4
    said = capsys.readouterr().out
    assert f"updates {newest + 1} to 12" in said
    assert (f"going on from run{os.sep}step-{newest:06}.ckpt" in said) == (newest > 0)
    assert all_bits() == all_bits("whole") and history() == history("whole")


def test_a_kill_between_best_and_its_checkpoint_is_no_harm(monkeypatch):
    assert gpt2lib(*RUN, "--keep-best", 2, "--out", "whole") == 0

    def killed(self):
        if self.step == 8:
            raise Killed
        return keep(self)

    keep = run.Run.keep
    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "keep", killed)
        with pytest.raises(Killed):
            cli.main([*RUN, "--keep-best", "2"])
    assert gpt2lib(*RUN, "--keep-best", 2) == 0
    assert all_bits() == all_bits("whole") and kept(kind="best") == kept("whole", "best")


def test_a_finished_run_is_not_trained_again_and_says_so(capsys):
    assert gpt2lib(*RUN) == 0
    first, before = capsys.readouterr().out, contents()
    assert gpt2lib(*RUN) == 0
    said = capsys.readouterr().out
    assert "the run is finished, all 12 updates" in said and "--overwrite" in said
    assert first[first.index("held-out") :] == said[said.index("held-out") :]
    assert contents() == before
    assert gpt2lib(*RUN, "--overwrite") == 0
    assert "updates 1 to 12" in capsys.readouterr().out


def test_another_run_in_the_folder_is_refused_by_the_flags_that_differ(capsys):
    assert gpt2lib(*RUN) == 0
    before = contents()
    assert gpt2lib(*RUN, "--lr", 0.5, "--dropout", 0.2, "--keep-last", 3) == 2
    said = capsys.readouterr().err
    assert "another --dropout, --keep-last, --lr." in said and "--resume run" in said
    assert contents() == before


# Which checkpoints are kept, and which is taken -------------------------------------------


def test_the_newest_keep_last_are_kept():
    for n, steps in ((1, [12]), (2, [9, 12]), (3, [6, 9, 12]), (9, [3, 6, 9, 12])):
        assert gpt2lib(*RUN, "--eval-every", 3, "--keep-last", n, "--overwrite") == 0
        assert kept() == steps
        for step, path in checkpoint.numbered("run").items():
            assert checkpoint.load(path)["step"] == step


def test_the_keep_best_lowest_are_kept(monkeypatch):
    for n, best in ((1, []), (2, [6, 12]), (3, [6, 9, 12])):
        nats = iter([4.0, 2.0, 3.0, 2.5, 1.0])  # four evaluations, and the report
        with monkeypatch.context() as patch:
            patch.setattr(run.evaluate, "loss", lambda *_, nats=nats: next(nats))
            assert gpt2lib(*RUN, "--eval-every", 3, "--keep-best", n, "--overwrite") == 0
        assert checkpoint.load("run/best.ckpt")["step"] == 6
        assert kept(kind="best") == best and kept() == [9, 12]
        for step, path in checkpoint.numbered("run", "best").items():
            state = checkpoint.load(path)
            assert state["step"] == step and not state["optimizers"]


def test_the_best_is_remembered_over_a_kill(monkeypatch):
    nats = iter([2.0, 3.0, 3.0, 2.5, 1.0])  # evaluated at 4 and 8, killed, at 8 again and at 12
    monkeypatch.setattr(run.evaluate, "loss", lambda *_: next(nats))
    keep = run.Run.keep

    def killed(self):
        if self.step == 8:
            raise Killed
        return keep(self)

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "keep", killed)
        with pytest.raises(Killed):
            cli.main(list(RUN))
    assert gpt2lib(*RUN) == 0
    assert checkpoint.load("run/best.ckpt")["step"] == 4


def test_an_older_checkpoint_is_removed_only_when_the_newer_is_whole(monkeypatch):
    killed_in(monkeypatch, 8, "--keep-last", "1")
    assert kept() == [4]
    seen = []
    replace = Path.replace

    def watched(part, path):
        seen.append((Path(path).name, kept()))
        replace(part, path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", watched)
        assert gpt2lib(*RUN, "--keep-last", 1) == 0
    assert ("step-000008.ckpt", [4]) in seen and ("step-000012.ckpt", [8]) in seen
    assert kept() == [12]


def test_a_damaged_checkpoint_is_passed_over_and_named(monkeypatch, capsys):
    assert gpt2lib(*RUN, "--out", "whole") == 0
    killed_in(monkeypatch, 12, "--keep-last", "3")
    newest = Path("run/step-000008.ckpt")
    good = newest.read_bytes()
    for bad in (good[:-1], b"", good[:1000] + bytes([good[1000] ^ 1]) + good[1001:]):
        newest.write_bytes(bad)
        state, path, damaged = checkpoint.newest("run")
        assert state["step"] == 4 and path.name == "step-000004.ckpt"
        assert len(damaged) == 1 and "step-000008.ckpt is not" in damaged[0]
    capsys.readouterr()
    assert gpt2lib(*RUN, "--keep-last", 3) == 0
    said = capsys.readouterr().out
    assert f"passed over: run{os.sep}step-000008.ckpt is not as it was written" in said
    assert f"going on from run{os.sep}step-000004.ckpt" in said
    assert all_bits() == all_bits("whole") and history() == history("whole")
    assert checkpoint.load(newest)["step"] == 8  # made again


def test_a_damaged_checkpoint_from_later_does_not_push_out_the_one_just_written(monkeypatch):
    killed_in(monkeypatch, 12, "--keep-last", "2")
    flip("run/step-000008.ckpt")

    def interrupting(log, entry, write=Log.write):
        write(log, entry)
        if entry["step"] == 6:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", interrupting)
        assert gpt2lib("pretrain", "--resume", "run") == 128 + signal.SIGINT
    assert kept() == [4, 6]
    assert gpt2lib("pretrain", "--resume", "run") == 0
    assert kept() == [8, 12]


@pytest.mark.parametrize("command", [RUN, ("pretrain", "--resume", "run")], ids=["same", "resume"])
def test_where_all_checkpoints_are_damaged_nothing_is_begun(command, monkeypatch, capsys):
    killed_in(monkeypatch, 10)
    assert kept() == [4, 8]
    for path in checkpoint.numbered("run").values():
        flip(path)
    before = contents()
    assert gpt2lib(*command) == 2
    said = capsys.readouterr().err
    assert "no checkpoint in run is whole" in said and "--overwrite" in said
    assert "step-000004.ckpt" in said and "step-000008.ckpt" in said
    assert contents() == before


def test_checkpoints_without_their_settings_are_not_begun_over(monkeypatch, capsys):
    killed_in(monkeypatch, 6)
    Path("run/config.json").unlink()
    before = contents()
    assert gpt2lib(*RUN) == 2
    assert "there is no run" in capsys.readouterr().err
    assert contents() == before


def test_a_checkpoint_with_code_in_it_is_passed_over_and_the_code_is_not_run(monkeypatch, capsys):
    from test_checkpoint import Malicious, signed

    assert gpt2lib(*RUN, "--out", "whole") == 0
    killed_in(monkeypatch, 10)
    mark = Path("executed")
    torch.save({"weights": Malicious(mark), "step": 8}, "zip")
    for name in ("step-000008.ckpt", "best.ckpt"):
        Path("run", name).write_bytes(signed(Path("zip").read_bytes()))
    Path("run/step-000009.ckpt").write_bytes(Path("zip").read_bytes())
    capsys.readouterr()
    assert gpt2lib("sample", "run") == 2
    assert "best.ckpt holds what no checkpoint" in capsys.readouterr().err
    assert gpt2lib(*RUN) == 0
    said = capsys.readouterr().out
    assert "step-000009.ckpt is not a checkpoint of gpt2lib" in said
    assert "step-000008.ckpt holds what no checkpoint of gpt2lib does" in said
    assert not mark.exists()
    assert all_bits() == all_bits("whole")


def of_another(what):
    """Make the folder's newest checkpoint, or what it stands on, another's."""
    if what == "tokenizer":
        assert gpt2lib(*RUN, "--vocab-size", 600, "--out", "other") == 0
        Path("run/step-000008.ckpt").write_bytes(Path("other/step-000012.ckpt").read_bytes())
    if what == "shape":
        path = Path("run/config.json")
        path.write_text(path.read_text().replace('"dropout": 0.1', '"dropout": 0.2'))
    if what == "recipe":
        path = Path("run/config.json")
        path.write_text(path.read_text().replace('"lr": 0.006', '"lr": 0.106'))
    if what == "tokens":
        tokenizer = checkpoint_tokenizer("run")
        run.data.write_shard(
            "run/train.bin", [tokenizer.eot, *range(300), tokenizer.eot], tokenizer
        )


def checkpoint_tokenizer(folder):
    return run.Tokenizer.load(Path(folder, "tokenizer.json"))


@pytest.mark.parametrize(
    "what, words",
    [
        ("tokenizer", "was trained with another tokenizer"),
        ("shape", "a checkpoint goes into a model of its own shape"),
        ("recipe", "was trained with another config.json"),
        ("tokens", "was trained with another train.bin or valid.bin"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_all_stays(what, words, monkeypatch, capsys):
    killed_in(monkeypatch, 10)
    of_another(what)
    before = contents()
    capsys.readouterr()
    assert gpt2lib("pretrain", "--resume", "run") == 2
    assert words in capsys.readouterr().err
    assert contents() == before


def test_missing_tokens_are_refused_and_made_again_from_the_same_corpus(monkeypatch, capsys):
    assert gpt2lib(*RUN, "--out", "whole") == 0
    killed_in(monkeypatch, 10)
    Path("run/train.bin").unlink()
    capsys.readouterr()
    assert gpt2lib(*RUN) == 2
    assert "run lacks train.bin" in (said := capsys.readouterr().err) and "--overwrite" in said
    assert gpt2lib("data", "--stories", 60, "--out", "run", "--overwrite") == 0
    assert gpt2lib(*RUN) == 0
    assert all_bits() == all_bits("whole")


def test_a_broken_line_of_the_log_is_dropped_and_no_step_is_there_twice(monkeypatch):
    assert gpt2lib(*RUN, "--out", "whole") == 0
    for step in (2, 6, 7, 10):
        killed_in(monkeypatch, step)
        with Path("run/log.jsonl").open("ab") as log:
            log.write(b'5\n{}\n{"step": \xff\x00\n{"step": 11, "lo')
    assert gpt2lib(*RUN) == 0
    assert history() == history("whole")


# A disk that is full, a folder that is read-only ------------------------------------------


@pytest.fixture
def limit():
    """limit(n): from now on the system lets no file grow beyond n bytes, as on a full disk."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def set_limit(n=before[0]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (n, before[1]))

    yield set_limit
    set_limit()


def filling(monkeypatch, limit, when):
    """Before the update that when names a limit for is logged, the disk gets that limit."""

    def write(log, entry, write=Log.write):
        if entry["step"] in when and "loss" in entry:
            limit(*when[entry["step"]])
        write(log, entry)

    monkeypatch.setattr(Log, "write", write)


@pytest.mark.parametrize("room", [100, 40_000, 300_000])
def test_a_checkpoint_the_disk_has_no_room_for_is_tried_again(room, limit, monkeypatch, capsys):
    assert gpt2lib(*RUN, "--out", "whole") == 0
    with monkeypatch.context() as patch:
        filling(patch, limit, {7: (room,), 9: ()})
        assert gpt2lib(*RUN) == 0
    said = capsys.readouterr().out
    assert re.search(r"8  not saved: .*too large.*The older checkpoints stand", said)
    assert kept() == [4, 12] and all_bits()[0] == all_bits("whole")[0]
    assert [e["step"] for e in entries() if "loss" in e] == list(range(1, 13))


def test_a_last_checkpoint_without_room_is_an_error_and_the_same_command_mends_it(
    limit, monkeypatch, capsys
):
    assert gpt2lib(*RUN, "--out", "whole") == 0
    with monkeypatch.context() as patch:
        filling(patch, limit, {6: (5000,)})
        assert gpt2lib(*RUN, "--keep-last", 1) == 1
    limit()
    said = capsys.readouterr().err
    assert "update 12 could not be saved" in said and "What was saved before stands" in said
    assert kept() == [4] and not list(Path("run").glob("*.part"))
    assert gpt2lib(*RUN, "--keep-last", 1) == 0
    assert all_bits() == all_bits("whole") and history() == history("whole")


def test_ctrl_c_on_a_full_disk_says_that_nothing_was_saved(limit, monkeypatch, capsys):
    def interrupting(log, entry, write=Log.write):
        write(log, entry)
        if entry["step"] == 6:
            limit(5000)
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", interrupting)
        assert gpt2lib(*RUN) == 1
    limit()
    said = capsys.readouterr()
    assert "update 6 could not be saved" in said.err and "stopped after" not in said.out
    assert kept() == [4]


def test_a_log_on_a_full_disk_waits_and_loses_no_line(tmp_path, limit):
    log = Log(tmp_path / "log.jsonl", 0)
    log.write({"step": 1, "loss": 2.5})
    limit(log.size + 10)  # the next line is cut
    log.write({"step": 2, "loss": 2.25})
    log.write({"step": 3, "loss": 2.0})
    with pytest.raises(OSError):
        log.flush()
    assert len(log.path.read_bytes()) == log.size + 10
    limit()
    log.write({"step": 4, "loss": 1.0})
    lines = [{"step": n, "loss": nats} for n, nats in enumerate((2.5, 2.25, 2.0, 1.0), 1)]
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == lines
    assert log.entries == lines == Log(log.path, 4).entries


def test_a_log_that_somebody_removed_stops_no_checkpoint(monkeypatch):
    killed_in(monkeypatch, 6)

    def removing(log, entry, write=Log.write):
        if entry["step"] == 6:
            log.path.unlink()
        write(log, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", removing)
        assert gpt2lib(*RUN) == 0
    assert kept() == [8, 12]


def test_results_the_disk_has_no_room_for_are_an_error_that_the_same_command_mends(limit, capsys):
    assert gpt2lib(*RUN) == 0
    limit(Path("run/log.jsonl").stat().st_size)  # the picture is larger
    assert gpt2lib(*RUN) == 1
    limit()
    assert "did not take sample.txt and loss.svg" in capsys.readouterr().err
    assert gpt2lib(*RUN) == 0
    assert Path("run/loss.svg").read_text().rstrip().endswith("</svg>")


def test_a_read_only_folder_is_refused_before_anything_is_done(monkeypatch, capsys):
    killed_in(monkeypatch, 6)
    before = contents()
    capsys.readouterr()
    for path in (Path(), *Path("run").iterdir()):
        path.chmod(0o755)
    Path("run").chmod(0o555)
    user = os.geteuid() if hasattr(os, "geteuid") else 1
    try:
        if not user:
            os.seteuid(65534)  # root may write anywhere: be nobody
        for command in (RUN, ("pretrain", "--resume", "run"), (*RUN, "--overwrite")):
            assert gpt2lib(*command) == 2
            assert "run cannot be written to: Permission denied" in capsys.readouterr().err
    finally:
        if not user:
            os.seteuid(0)
        Path("run").chmod(0o755)
    assert contents() == before


# Numbers that explode ---------------------------------------------------------------------


def poisoned(monkeypatch, step):
    """From this update on the gradient is NaN, on the way back only."""

    def batches(*args, start, batches=run.data.batches, **kwargs):
        for i, batch in enumerate(batches(*args, start=start, **kwargs), start + 1):
            for p in MODELS[-1].parameters():
                p._backward_hooks = None
            if i >= step:
                MODELS[-1].ln_f.bias.register_hook(lambda g: g * math.nan)
            yield batch

    class Model(run.GPT):
        def __init__(self, config):
            super().__init__(config)
            MODELS.append(self)

    monkeypatch.setattr(run, "GPT", Model)
    monkeypatch.setattr(run.data, "batches", batches)


MODELS = []


def test_a_gradient_that_is_not_a_number_stops_the_run_and_the_checkpoints_stand(
    monkeypatch, capsys
):
    assert gpt2lib(*RUN, "--out", "whole") == 0
    with monkeypatch.context() as patch:
        poisoned(patch, 10)
        for _ in range(2):  # to go on comes to the same update
            assert gpt2lib(*RUN) == 1
            said = capsys.readouterr().err
            assert "in step 10" in said and "gradient nan" in said
            assert "Try half the learning rate" in said and "What was saved before stands" in said
            assert "comes to this again" in said
            assert kept() == [4, 8]
    assert gpt2lib(*RUN) == 0  # nothing of it was kept
    assert all_bits() == all_bits("whole") and history() == history("whole")


def test_weights_whose_held_out_loss_is_not_finite_are_not_saved(monkeypatch, capsys):
    nats = iter([3.0, math.nan])
    monkeypatch.setattr(run.evaluate, "loss", lambda *_: next(nats))
    assert gpt2lib(*RUN) == 1
    said = capsys.readouterr().err
    assert "after update 8 it is nan" in said and "What was saved before stands" in said
    assert kept() == [4] and checkpoint.load("run/best.ckpt")["step"] == 4
    assert [e["step"] for e in entries() if "valid_loss" in e] == [4]


def test_a_loss_that_stands_out_is_a_spike_and_no_other():
    calm = [2.0 + 0.05 * (-1) ** i for i in range(50)]  # mean 2, deviation 0.05
    assert spike(calm, 2.31) == pytest.approx(0.31)
    assert spike(calm, 2.29) == 0  # under 6 deviations
    assert spike(calm, 1.0) == 0  # a fall is none
    assert spike([2.0] * 50, 2.09) == 0 and spike([2.0] * 50, 2.11) == pytest.approx(0.11)
    assert spike([2.0] * 19, 9.0) == 0 and spike([2.0] * 20, 9.0) == 7.0
    assert spike([], 9.0) == 0


def test_a_spike_is_told_logged_and_gone_on_from(monkeypatch, capsys):
    def batches(*args, start, batches=run.data.batches, **kwargs):
        for i, (idx, targets) in enumerate(batches(*args, start=start, **kwargs), start + 1):
            yield idx, (idx + 7) % 256 if i == 35 else targets  # one batch of nonsense

    more = ("--steps", "40", "--batch-size", "4", "--lr", "0.02")
    monkeypatch.setattr(run.data, "batches", batches)
    assert gpt2lib(*RUN, *more, "--out", "whole") == 0
    losses = [e["loss"] for e in entries("whole") if "loss" in e]
    (marked,) = [e for e in entries("whole") if "spike" in e]
    assert marked["step"] == 35
    assert marked["spike"] == pytest.approx(losses[34] - sum(losses[:34]) / 34)
    said = capsys.readouterr().out
    assert f"    35  loss spike: {marked['spike']:.3f} over the running mean" in said
    killed_in(monkeypatch, 34, *more)
    assert gpt2lib(*RUN, *more) == 0
    assert history() == history("whole")  # the running mean, too, goes on over a kill


# Two processes in one folder --------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from gpt2lib.files import alone
with alone(Path("run")):
    print("in", flush=True)
    time.sleep(100)
"""


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(capsys):
    pytest.importorskip("fcntl", reason="Windows cannot lock a folder")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "in\n"
        assert gpt2lib(*RUN) == 2 and gpt2lib(*RUN, "--overwrite") == 2
        assert gpt2lib("data", "--stories", 60, "--out", "run") == 2
        assert capsys.readouterr().err.count("another process") == 3
        assert not list(Path("run").iterdir())
        holder.kill()
    assert gpt2lib("data", "--stories", 60, "--out", "run") == 0
    with alone(Path("run")), pytest.raises(ValueError, match="another process"):
        with alone(Path("run")):
            pass


def test_a_command_that_cannot_begin_leaves_no_folder():
    assert gpt2lib("pretrain", "--corpus", "nowhere.txt") == 2
    assert not Path("out/nowhere").exists()


if __name__ == "__main__":
    kills = int(sys.argv[1])
    steps = 50 * kills
    os.chdir(tempfile.mkdtemp())
    started = time.perf_counter()
    with pytest.raises(SystemExit):
        cli.main([*RUN, "--steps", str(steps), "--eval-every", "10", "--out", "whole"])
    uninterrupted = time.perf_counter() - started
    found, _ = kill_again_and_again("cut", kills, steps, 10, random.Random(), most=50)
    print(f"\n{kills} kills, after updates", *(step for step, _ in found))
    print(f"{sum(part for _, part in found)} of them fell into the writing of a file")
    print(f"{uninterrupted:.0f} s uninterrupted, {time.perf_counter() - started:.0f} s in all")
    print("the same bits:", all_bits("cut") == all_bits("whole"))
    print("the same log:", history("cut") == history("whole"))
