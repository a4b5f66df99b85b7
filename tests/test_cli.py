"""gpt2lib.cli and gpt2lib.run: a run can be made, stopped, killed, resumed, sampled from."""

import dataclasses
import hashlib
import json
import math
import re
import shlex
import signal
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch
from torch.distributed.run import get_args_parser

from gpt2lib import checkpoint, cli, corpora, pretrained, report, run
from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.making import Data, Pretrain
from gpt2lib.storyworld import World
from gpt2lib.tokenizer import Tokenizer

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[1]
TINY = (
    *("pretrain", "--stories", "60", "--size", "tiny", "--block-size", "256", "--batch-size", "2"),
    *("--steps", "12", "--warmup", "2", "--eval-every", "4", "--eval-batches", "1"),
    *("--samples", "1", "--device", "cpu", "--dropout", "0.1"),
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


def losses(folder):
    """What the log tells that does not depend on time: {step: (loss, grad_norm)}, {step: valid}."""
    entries = [json.loads(line) for line in Path(folder, "log.jsonl").read_text().splitlines()]
    trained = {e["step"]: (e["loss"], e["lr"], e["grad_norm"]) for e in entries if "loss" in e}
    valid = {e["step"]: e["valid_loss"] for e in entries if "valid_loss" in e}
    assert len(entries) == len(trained) + len(valid), "a step is logged twice"
    return trained, valid


def weights(folder, name=None):
    if name:
        return checkpoint.load(Path(folder, name))["weights"]
    return checkpoint.newest(folder)[0]["weights"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# The commands that the pages show -----------------------------------------------------


def shown(page):
    """The command lines in a page's blocks of code, and whole ones in its spans, by words."""
    lines, opening = re.findall(r"`([^`\n]+)`", page), None
    lines = [span for span in lines if len(span.split()) > 2]  # `gpt2lib data` names a command
    for line in page.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            opening = line if opening is None else None
        elif opening and re.fullmatch(r"```\w*", opening):
            lines.append(line)
    start = re.compile(r"(\$ )?([\w./]+/)?(gpt2lib|torchrun .*-m gpt2lib) [a-z]")
    return [shlex.split(line, comments=True) for line in lines if start.match(line)]


def asked(words):
    """What a command line asks for: gpt2lib …, or torchrun … -m gpt2lib …; nothing is run."""
    program, *args = words[words[0] == "$" :]
    if Path(program).name == "torchrun":
        started = get_args_parser().parse_args(args)
        assert started.module and started.training_script == "gpt2lib", words
        args = started.training_script_args
    return cli.command(args)


def text_of(path):
    """A page in Markdown, or the Markdown of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return text


def test_every_command_that_a_page_shows_is_one_that_the_program_knows():
    found = {}
    for path in [*ROOT.glob("*.md"), *ROOT.glob("chapters/*.ipynb")]:
        found[path.name] = [asked(words) for words in shown(text_of(path))]
    assert found["README.md"] and found["index.md"] and len(found["runbook.ipynb"]) > 12


def test_the_runs_of_the_runbook_find_their_tokens_and_make_the_batch_that_they_should():
    commands = [asked(words) for words in shown(text_of(ROOT / "chapters/runbook.ipynb"))]
    made = {(c.corpus, c.tokenizer, c.out, c.limit) for c in commands if isinstance(c, Data)}
    runs = [c for c in commands if isinstance(c, Pretrain) and c.size in ("gpt2", "gpt2-xl")]
    assert len(runs) >= 4
    for ask in runs:
        tokens = ask.train.batch_size * ask.train.accumulation * ask.shape().block_size
        assert tokens == {"gpt2": 2**19, "gpt2-xl": 2**20}[ask.size]
        tables = (ask.data.corpus, ask.data.tokenizer, ask.data.out, ask.data.limit)
        assert ask.paper and ask.train.optimizer == "adamw" and tables in made


@pytest.mark.parametrize(
    "line",
    [
        "gpt2lib pretrain --szie gpt2",
        "gpt2lib pretrian",
        "gpt2lib pretrain --steps many",
        "torchrun --nproc-per-node 2 -m gpt2lib pretrain --shrad",
        "torchrun --nproc-per-nodes 2 -m gpt2lib pretrain",
    ],
)
def test_a_command_that_the_program_does_not_know_is_noticed(line, capsys):
    (words,) = shown(f"```{{note}}\nNow\n```\n\n```bash\n{line}\n```\n")
    with pytest.raises(SystemExit) as stopped:
        asked(words)
    assert stopped.value.code == 2


# Running them ---------------------------------------------------------------------------


def test_a_run_ends_with_its_loss_over_the_floor_a_sample_and_a_picture(capsys):
    assert gpt2lib(*TINY) == 0
    folder = Path("out/storyworld")
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "data.json", "tokenizer.json", "train.bin", "valid.bin", "log.jsonl"),
        *("step-000008.ckpt", "step-000012.ckpt", "best.ckpt", "sample.txt", "loss.svg"),
    }
    said = capsys.readouterr().out
    for word in ("the floor", "bigram", "unigram", "bits a byte", "% of 1 samples", "loss.svg"):
        assert word in said
    trained, valid = losses(folder)
    assert list(trained) == list(range(1, 13)) and list(valid) == [4, 8, 12]
    assert trained[12][0] < trained[1][0]
    state = checkpoint.load(folder / "best.ckpt")
    assert state["step"] == min(valid, key=valid.get) and not state["optimizers"]
    assert (folder / "loss.svg").read_text().startswith("<?xml")


def test_the_floor_that_is_told_is_that_of_the_stories_held_out(monkeypatch):
    assert gpt2lib(*TINY) == 0
    tokenizer = Tokenizer.load("out/storyworld/tokenizer.json")
    shape = GPTConfig.named("tiny", block_size=256, dropout=0.1)
    config = TrainConfig(steps=12, batch_size=2, warmup=2)
    made = run.Run(Path("out/storyworld"), "storyworld", shape, config, "cpu", resume=True)
    rows = list(made.held_out)
    found = report.losses(made, rows)
    stories = World(0).stories(60)[9::10]
    assert found["floor"] == World(0).floor(tokenizer, stories).nats_per_token
    assert found["tokens"] == sum(len(ids) + 1 for ids in tokenizer.encode_batch(stories))
    assert found["floor"] < found["bigram"] < found["unigram"]
    monkeypatch.setattr(report, "COUNTED", 2)  # of a large corpus only so many are counted
    fewer = report.losses(made, rows)
    assert fewer["unigram"] > found["unigram"] and fewer["bigram"] > found["bigram"]


def test_validity_counts_whole_stories_and_how_far_the_others_go():
    good = World(0).stories(1, seed=5)[0]
    assert report.validity([good]) == (1, 1)
    assert report.validity(["Nonsense."]) == (0, 0)
    share, far = report.validity([good, good[: len(good) // 2], "Nonsense."])
    assert share == pytest.approx(1 / 3) and 0.6 < far < 0.67


def test_the_best_weights_are_kept_not_the_latest(monkeypatch):
    nats = iter([3.0, 2.0, 4.0, 1.0])  # three evaluations, and the report
    monkeypatch.setattr(run.evaluate, "loss", lambda *_: next(nats))
    assert gpt2lib(*TINY) == 0
    assert checkpoint.load("out/storyworld/best.ckpt")["step"] == 8
    assert checkpoint.newest("out/storyworld")[0]["step"] == 12


def test_samples_open_as_documents_do_where_there_are_many(capsys):
    Path("my.txt").write_text("The cat sat on the mat.\n" * 200, encoding="utf-8")
    assert gpt2lib("data", "--corpus", "my.txt", "--vocab-size", 270) == 0
    assert gpt2lib("data", "--stories", 60) == 0
    shape = GPTConfig.named("tiny", block_size=256)
    for name in ("my", "storyworld"):
        made = run.Run(Path("out", name), name, shape, TrainConfig(), "cpu", resume=False)
        eot, line = [made.tokenizer.eot], made.tokenizer.encode("\n")
        assert made.opening == (eot if name == "storyworld" else line)


def test_the_same_command_twice_gives_the_same_weights():
    assert gpt2lib(*TINY) == 0
    assert gpt2lib(*TINY, "--out", "again") == 0
    assert equal(weights("out/storyworld"), weights("again"))
    assert losses("out/storyworld") == losses("again")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_resume_and_the_resumed_run_is_the_uninterrupted_one(
    capsys, monkeypatch, number
):
    assert gpt2lib(*TINY, "--out", "whole", "--accumulation", 2) == 0
    write = run.Log.write

    def interrupting(log, entry):
        write(log, entry)
        if entry["step"] == 6 and "loss" in entry:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(run.Log, "write", interrupting)
        assert gpt2lib(*TINY, "--out", "cut", "--accumulation", 2) == 128 + number
    said = capsys.readouterr().out
    assert "after update 6, saved" in said and "gpt2lib pretrain --resume cut" in said
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    torch.manual_seed(0)  # a new process starts from other random numbers
    assert gpt2lib("pretrain", "--resume", "cut") == 0
    assert losses("cut") == losses("whole")
    assert equal(weights("cut"), weights("whole"))
    assert equal(weights("cut", "best.ckpt"), weights("whole", "best.ckpt"))
    assert Path("cut/sample.txt").read_text() == Path("whole/sample.txt").read_text()


def test_a_run_killed_before_its_first_checkpoint_begins_again(monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "evaluate", killed)
        with pytest.raises(Killed):
            cli.main(list(TINY))
    Path("out/storyworld/step-000004.ckpt.123.part").write_text("half")
    with Path("out/storyworld/log.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')
    assert gpt2lib("pretrain", "--resume", "out/storyworld") == 0
    assert not list(Path("out/storyworld").glob("*.part"))
    assert list(losses("out/storyworld")[0]) == list(range(1, 13))


def test_a_finished_run_that_is_resumed_tells_its_results_again(capsys):
    assert gpt2lib(*TINY) == 0
    before, _ = capsys.readouterr().out, (saved := weights("out/storyworld"))
    assert gpt2lib("pretrain", "--resume", "out/storyworld") == 0
    after = capsys.readouterr().out
    assert before[before.index("held-out stories") :] == after[after.index("held-out stories") :]
    assert equal(saved, weights("out/storyworld"))


def test_a_run_is_not_overwritten_unasked(capsys):
    assert gpt2lib(*TINY) == 0
    saved = weights("out/storyworld")
    assert gpt2lib(*TINY, "--seed", 2) == 2
    said = capsys.readouterr().err
    assert "--resume out/storyworld" in said and "--out" in said and "--overwrite" in said
    for change in (
        ("--size", "huge"),
        ("--block-size", 16),
        ("--corpus", "none", "--out", "out/storyworld"),
    ):
        assert gpt2lib(*TINY, "--overwrite", *change) == 2  # nor by a run that cannot begin
    assert equal(saved, weights("out/storyworld"))
    assert gpt2lib(*TINY, "--seed", 2, "--overwrite") == 0
    assert not equal(saved, weights("out/storyworld"))
    assert list(losses("out/storyworld")[0]) == list(range(1, 13))


def test_pretrain_goes_on_from_what_data_prepared(capsys):
    assert gpt2lib("data", "--stories", 60) == 0
    shard = Path("out/storyworld/train.bin")
    before = shard.stat().st_mtime_ns
    said = capsys.readouterr().out
    assert "train" in said and "valid" in said and "bytes a token" in said
    assert gpt2lib(*TINY) == 0
    assert shard.stat().st_mtime_ns == before
    assert gpt2lib(*TINY, "--overwrite", "--vocab-size", 600) == 0
    assert Tokenizer.load("out/storyworld/tokenizer.json").n_vocab == 600
    assert gpt2lib("data", "--stories", 61) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_your_own_file_is_a_corpus_with_its_loss_in_bits_a_byte(capsys):
    Path("my.txt").write_text("The cat sat on the mat. A dog ran.\n" * 200, encoding="utf-8")
    assert gpt2lib(*TINY, "--corpus", "my.txt", "--vocab-size", 270, "--block-size", 16) == 0
    said = capsys.readouterr().out
    assert "bits a byte" in said and "floor" not in said
    assert Path("out/my/loss.svg").exists()
    assert gpt2lib("sample", "out/my", "--prompt", "The", "--max-new-tokens", 5) == 0
    assert capsys.readouterr().out.startswith("The")


def test_samples_repeat_with_their_seed_and_follow_their_prompt(capsys):
    assert gpt2lib(*TINY) == 0
    texts = []
    for seed in (1, 1, 2):
        capsys.readouterr()
        args = ("sample", "--prompt", "Once there", "--n", 2, "--max-new-tokens", 9, "--seed", seed)
        assert gpt2lib(*args) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].count("Once there") == 2
    assert gpt2lib("sample", "--temperature", 0, "--top-k", 3, "--top-p", 0.5) == 0


def test_a_tokenizer_is_trained_saved_and_shown(capsys):
    Path("my.txt").write_text("The cat sat on the mat. " * 100, encoding="utf-8")
    args = ("tokenizer", "--corpus", "my.txt", "--vocab-size", 270, "--out", "t.json")
    assert gpt2lib(*args) == 0
    assert Tokenizer.load("t.json").n_vocab <= 270
    assert gpt2lib("tokenizer", "--load", "t.json", "--show", "The cat") == 0
    assert "The· cat" in capsys.readouterr().out
    assert gpt2lib("data", "--corpus", "my.txt", "--tokenizer", "t.json") == 0
    assert Tokenizer.load("out/my/tokenizer.json").tokens == Tokenizer.load("t.json").tokens


def test_paper_changes_the_defaults_and_flags_change_the_paper():
    assert gpt2lib(*TINY, "--paper", "--lr", "0.5") == 0
    config = checkpoint.newest("out/storyworld")[0]["train_config"]
    assert (config.optimizer, config.schedule, config.lr) == ("adamw", "cosine", 0.5)


def test_a_run_is_exported_and_the_export_is_the_model_of_the_run(capsys):
    assert gpt2lib(*TINY) == 0
    assert gpt2lib("export", "out/storyworld", "my-gpt") == 0
    model, (tokenizer, best) = pretrained.load("my-gpt"), best_of("out/storyworld")
    assert equal(model.state_dict(), best["weights"])
    assert pretrained.load_tokenizer("my-gpt").fingerprint == tokenizer.fingerprint
    capsys.readouterr()
    texts = []
    for name in ("out/storyworld", "my-gpt"):
        assert gpt2lib("sample", name, "--prompt", "Once", "--max-new-tokens", 9) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert gpt2lib("export", "out/storyworld", "my-gpt") == 2  # nothing is overwritten
    assert "holds something" in capsys.readouterr().err


def best_of(folder):
    tokenizer = Tokenizer.load(Path(folder, "tokenizer.json"))
    return tokenizer, checkpoint.load(Path(folder, "best.ckpt"), tokenizer.fingerprint)


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_a_model_writes_with_smaller_weights(capsys, weights):
    assert gpt2lib(*TINY) == 0
    capsys.readouterr()
    args = ("sample", "--prompt", "Once", "--max-new-tokens", 9, "--weights", weights)
    assert gpt2lib(*args) == 0
    assert capsys.readouterr().out.startswith("Once")


def test_a_text_is_told_by_token_by_word_and_by_byte(capsys):
    assert gpt2lib(*TINY) == 0
    text = "The cat sat .\n" * 50
    Path("my.txt").write_text(text, encoding="utf-8")
    capsys.readouterr()
    assert gpt2lib("evaluate", "out/storyworld", "--on", "my.txt", "--stride", 100) == 0
    said = capsys.readouterr().out
    tokenizer, best = best_of("out/storyworld")
    ids = torch.tensor([tokenizer.eot, *tokenizer.encode(text)])
    n, total, model = len(ids) - 1, 0.0, checkpoint.model(best).eval()
    assert 256 < n
    for i in range(1, n + 1):  # each token from all that its window has before it
        begin = 0 if i <= 256 else -(-(i - 256) // 100) * 100
        total -= model(ids[None, begin:i])[0, -1].log_softmax(-1)[ids[i]].item()
    assert f"my.txt: {n:,} tokens, 250 words, {len(text)} bytes" in said
    assert f"{total / n:.3f} nats a token" in said
    by_word = float(re.search(r"by word: perplexity ([\d.]+)", said)[1])
    assert by_word == pytest.approx(math.exp(total / 250), rel=1e-4)
    assert f"{total / math.log(2) / len(text):.3f} bits a byte" in said


def test_lambada_is_told_with_and_without_stop_words(capsys, tmp_path, monkeypatch):
    assert gpt2lib(*TINY) == 0
    text = "\n".join(json.dumps({"text": f"Mia saw a {word}"}) for word in ("cat", "dog", "fox"))
    path = tmp_path / "lambada_test.jsonl"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("GPT2LIB_CACHE", str(tmp_path))
    digest = hashlib.sha256(text.encode()).hexdigest()
    source = dataclasses.replace(corpora.DOWNLOADS["lambada"], sha256=digest)
    monkeypatch.setitem(corpora.DOWNLOADS, "lambada", source)
    capsys.readouterr()
    assert gpt2lib("evaluate", "--on", "lambada", "--limit", 2) == 0
    said = capsys.readouterr().out
    assert "2 passages" in said and "passed over" in said and "perplexity of a last word" in said


def test_a_device_that_computes_something_else_is_told(capsys, monkeypatch):
    assert gpt2lib("info") == 0
    assert "as rounding does" in capsys.readouterr().out
    exact = torch.nn.functional.gelu

    def wrong(x, approximate):
        return exact(x, approximate=approximate) * (1.01 if x.dtype == torch.float32 else 1)

    monkeypatch.setattr(torch.nn.functional, "gelu", wrong)
    assert gpt2lib("info") == 1
    assert "MORE THAN ROUNDING" in capsys.readouterr().out


def test_info_tells_what_is_here(capsys, monkeypatch):
    monkeypatch.setenv("GPT2LIB_CACHE", "some-cache")
    assert gpt2lib("info") == 0
    said = capsys.readouterr().out
    for word in ("torch", "device", "training", "some-cache", "storyworld", "shakespeare"):
        assert word in said


@pytest.mark.parametrize(
    "args, words",
    [
        (("pretrain", "--corpus", "nowhere.txt"), "no such path"),
        (("pretrain", "--resume", "nowhere"), "holds no run"),
        (("pretrain", "--resume", "nowhere", "--steps", "5"), "give it alone"),
        (("pretrain", "--stories", "60", "--size", "huge"), "choose from"),
        (("pretrain", "--stories", "60", "--device", "abacus"), "'abacus' is not to be had"),
        (("pretrain", "--stories", "60", "--block-size", "16"), "must fit block_size=16"),
        (("pretrain", "--stories", "60", "--vocab-size", "7"), "vocab_size must be at least 257"),
        (("pretrain", "--steps", "0"), "steps must be a whole number"),
        (("pretrain", "--eval-every", "0"), "eval_every must be at least 1"),
        (("sample", "nowhere"), "holds no run"),
        (("tokenizer", "--load", "nowhere.json"), "nowhere.json"),
    ],
)
def test_a_mistake_is_told_in_a_sentence_with_status_2(args, words, capsys):
    assert gpt2lib(*args) == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert words in said and "Traceback" not in said


def test_without_network_and_cache_a_corpus_says_what_to_do(capsys, monkeypatch):
    def offline(*_args, **_keywords):
        raise OSError("no network")

    monkeypatch.setenv("GPT2LIB_CACHE", "empty")
    monkeypatch.setattr("gpt2lib.corpora.urlopen", offline)
    assert gpt2lib("pretrain", "--corpus", "shakespeare") == 2
    said = capsys.readouterr().err
    assert "https://" in said and "empty" in said and "storyworld" in said


def test_a_changed_tokenizer_is_not_mistaken_for_the_runs_own(capsys):
    assert gpt2lib(*TINY) == 0
    Path("my.txt").write_text("The cat sat on the mat. " * 100, encoding="utf-8")
    args = ("--corpus", "my.txt", "--vocab-size", 260, "--out", "out/storyworld/tokenizer.json")
    assert gpt2lib("tokenizer", *args) == 0
    assert gpt2lib("sample") == 2
    assert "another tokenizer" in capsys.readouterr().err


def test_settings_that_are_not_a_runs_are_refused(capsys):
    assert gpt2lib(*TINY) == 0
    path = Path("out/storyworld/config.json")
    for content in ("", "[]", "{", '{"data": {}}', '{"data": {}, "train": {"depth": 3}}'):
        path.write_text(content)
        assert gpt2lib("pretrain", "--resume", "out/storyworld") == 2
        assert "config.json" in capsys.readouterr().err


def test_a_run_that_diverges_says_so_with_status_1(capsys):
    assert gpt2lib(*TINY, "--lr", "1e30", "--clip", "0", "--precision", "float32") == 1
    assert "Try half the learning rate" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["data", "tokenizer", "pretrain", "sample", "evaluate", "export", "info"]
)
def test_help_teaches_by_an_example(command, capsys):
    assert gpt2lib(command, "--help") == 0
    assert f"Example: gpt2lib {command}" in capsys.readouterr().out
