"""A pretraining run is a folder, so that it can be killed, resumed, looked at and sampled from.

    config.json    what was asked for
    data.json      what the tokens were made of; beside it tokenizer.json, train.bin, valid.bin
    log.jsonl      a line an update (loss, lr, …), a line an evaluation (valid_loss)
    last.ckpt      to resume from;  best.ckpt  the weights with the lowest valid_loss
    sample.txt     what the model says;  loss.svg  how it learned

Built in the chapter on pretraining.
"""

import json
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gpt2lib import checkpoint, corpora, data, evaluate, optim, viz
from gpt2lib import tokenizer as tokenizers
from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.files import whole
from gpt2lib.generate import stream
from gpt2lib.model import GPT
from gpt2lib.storyworld import World, pieces
from gpt2lib.tokenizer import Tokenizer
from gpt2lib.train import Record, train

MADE_BY_TRAINING = "config.json log.jsonl last.ckpt best.ckpt sample.txt loss.svg".split()


# ------------------------------------------------------------------ tokens


def make_tokenizer(corpus: corpora.Corpus, tokenizer: str, vocab_size: int) -> Tokenizer:
    """A vocabulary trained on the corpus ("train"), GPT-2's own ("gpt2"), or one from a path."""
    if tokenizer == "gpt2":
        return tokenizers.gpt2()
    if tokenizer == "train":
        return tokenizers.train_bpe(corpus.documents("train"), vocab_size)
    return Tokenizer.load(tokenizer)


def prepare(
    folder: Path, corpus: str, tokenizer: str, vocab_size: int, stories: int, overwrite: bool
) -> bool:
    """Turn a corpus into tokenizer.json, train.bin and valid.bin in folder, unless they are there.

    Returns whether there was anything to do. Raises ValueError if what is there was made of
    something else and may not be overwritten.
    """
    wanted = {"corpus": corpus, "tokenizer": tokenizer}
    wanted |= {"vocab_size": vocab_size} if tokenizer == "train" else {}
    wanted |= {"stories": stories} if corpus == "storyworld" else {}
    note = folder / "data.json"
    if note.exists() and not overwrite:
        if (found := read_json(note)) != wanted:
            raise ValueError(
                f"{folder} holds tokens of {found}, not of {wanted}. "
                "Choose another folder with --out, or replace them with --overwrite."
            )
        return False
    text = corpora.corpus(corpus, stories=stories)
    made = make_tokenizer(text, tokenizer, vocab_size)
    note.unlink(missing_ok=True)
    made.save(folder / "tokenizer.json")
    for split in ("train", "valid"):
        ids = data.token_stream(text.documents(split), made)
        data.write_shard(folder / f"{split}.bin", ids, made)
    write_json(note, wanted)  # last: it says that the others are whole
    return True


def byte_sizes(tokenizer: Tokenizer) -> np.ndarray:
    """How many bytes of text each token stands for: (V,); special tokens stand for none."""
    return np.array([len(t) for t in tokenizer.tokens] + [0] * len(tokenizer.special_tokens))


# ------------------------------------------------------------------ the run


class Run:
    """A run at its beginning, or with resume where its last checkpoint left it.

    folder: as prepare made it. corpus: its name. shape: that of the model, but for the size of
    the vocabulary, which is the tokenizer's. Everything random follows config.seed. Without
    resume an older run in the folder is removed, once it is sure that this one can begin.
    """

    def __init__(
        self, folder: Path, corpus: str, shape: GPTConfig, config: TrainConfig, device, resume: bool
    ):
        self.folder, self.corpus, self.config, self.device = folder, corpus, config, device
        self.tokenizer = Tokenizer.load(folder / "tokenizer.json")
        self.tokens, valid = (
            data.read_shard(folder / f"{split}.bin", self.tokenizer) for split in ("train", "valid")
        )
        eot = self.tokenizer.eot
        # A corpus of one document does not teach how a document begins; a line will do.
        many = (self.tokens[:1_000_000] == eot).sum() > 2
        self.opening = [eot] if many else self.tokenizer.encode("\n")

        torch.manual_seed(config.seed)
        shape = replace(shape, vocab_size=self.tokenizer.n_vocab)
        self.model = GPT(shape).to(device)
        self.optimizers = optim.optimizers(self.model, config)
        if corpus == "storyworld":
            self.held_out = data.whole_documents(valid, eot, 16, shape.block_size)
        else:
            self.held_out = evaluate.windows(valid, 16, shape.block_size)
        self.step, self.best = 0, math.inf
        if resume and (folder / "last.ckpt").exists():
            state = load_checkpoint(folder / "last.ckpt", self.tokenizer)
            self.step = checkpoint.restore(state, self.model, self.optimizers)
            self.best = state["extra"].get("best", math.inf)
        for name in ["*.part", *(() if resume else MADE_BY_TRAINING)]:  # .part: left by a kill
            for path in folder.glob(name):
                path.unlink()
        self.log = Log(folder / "log.jsonl", self.step)

    def updates(self, align: str) -> Iterator[Record]:
        """Train from here to the last step; the caller saves when it likes."""
        batches = data.batches(
            self.tokens,
            self.config.batch_size,
            self.model.config.block_size,
            seed=self.config.seed,
            start=self.step * self.config.accumulation,
            align=align,
            eot=self.tokenizer.eot,
            device=self.device,
        )
        args = {"optimizers": self.optimizers, "first": self.step}
        for record in train(self.model, batches, self.config, **args):
            self.step = record.step
            self.log.write(record._asdict())
            yield record

    def evaluate(self, rows: list) -> float:
        """The loss on held-out rows, logged; the weights are kept if they are the best so far."""
        nats = evaluate.loss(self.model, rows)
        self.log.write({"step": self.step, "valid_loss": nats})
        if nats < self.best:
            self.best = nats
            self.save("best.ckpt", optimizers=())
        return nats

    def save(self, name: str, optimizers) -> None:
        """Write a checkpoint; last.ckpt, with the optimizers, is the one to resume from."""
        checkpoint.save(
            self.folder / name,
            model=self.model,
            optimizers=optimizers,
            step=self.step,
            train_config=self.config,
            tokenizer_fingerprint=self.tokenizer.fingerprint,
            extra={"best": self.best, "opening": self.opening},
        )

    def report(self, rows: list) -> dict[str, float]:
        """The loss on held-out rows, nats a token, and what stands beside it on the same rows.

        "loss", "unigram", "bigram", "bits_per_byte", "tokens" (how many were predicted); for
        Storyworld "floor", the exact loss of the perfect model on these stories.
        """
        targets = [row[row != -1].cpu().numpy() for _, batch in rows for row in batch]
        asked, n_vocab = np.concatenate(targets), self.tokenizer.n_vocab
        nats = evaluate.loss(self.model, rows)
        size = byte_sizes(self.tokenizer)[asked].sum()
        found = {
            "loss": nats,
            "bits_per_byte": evaluate.bits_per_byte(nats, len(asked), size),
            "tokens": len(asked),
            "unigram": evaluate.unigram_loss(self.tokens, rows, n_vocab),
            "bigram": evaluate.bigram_loss(self.tokens, rows, n_vocab),
        }
        if self.corpus == "storyworld":
            stories = [self.tokenizer.decode(ids[:-1]) for ids in targets]  # without the last eot
            found["floor"] = World().floor(self.tokenizer, stories).nats_per_token
        return found

    def samples(self, n: int) -> list[str]:
        """n texts of at most block_size tokens, each to its eot; drawn at temperature 1."""
        idx = torch.tensor([self.opening] * n, device=self.device)
        generator = torch.Generator(self.device).manual_seed(self.config.seed)
        room = self.model.config.block_size - len(self.opening)
        columns, open_ = [], torch.ones(n, dtype=torch.bool, device=self.device)
        for ids in stream(self.model, idx, room, generator=generator):
            columns.append(ids)
            open_ &= ids != self.tokenizer.eot
            if not open_.any():
                break
        rows, eot = torch.stack(columns, dim=1).tolist(), self.tokenizer.eot  # (n, T)
        return [self.tokenizer.decode(row[: [*row, eot].index(eot)]) for row in rows]

    def validity(self, texts: list[str]) -> tuple[float, float]:
        """Of Storyworld: the share of texts that the world could have said, and how far on
        average, as a share of its words and stops, a text goes before it cannot.
        """
        world, far = World(), []
        for text in texts:
            said = world.surprisal(text)  # stops where the world cannot say it
            possible = len(said) - (said[-1][1] == math.inf)
            far.append(possible / (len(pieces(text)) + 1))
        return world.validity(texts), sum(far) / len(far)

    def picture(self, found: dict[str, float]) -> Path:
        """Draw the losses of the log against the floor and the bigram: loss.svg, on white."""
        steps, losses = map(np.array, self.log.curve("loss"))
        each = max(1, len(steps) // 100)  # averaged, so that single batches do not hide the curve
        n = len(steps) // each * each
        smooth = losses[:n].reshape(-1, each).mean(1)
        beside = {"floor": found.get("floor"), "baselines": {"bigram": found["bigram"]}}
        ax = viz.loss_curve(steps[each - 1 : n : each], smooth, label="training", **beside)
        ax.set_ylim(top=max(1.6 * found["bigram"], 1.1 * smooth[-1]))  # the first steps fall fast
        viz.loss_curve(*self.log.curve("valid_loss"), ax=ax, label="held out")
        ax.figure.savefig(self.folder / "loss.svg", facecolor="white")
        return self.folder / "loss.svg"


def load_checkpoint(path: Path, tokenizer: Tokenizer) -> dict:
    """A checkpoint of a model that reads this tokenizer's ids; ValueError if it reads another's."""
    state = checkpoint.load(path)
    if state["tokenizer_fingerprint"] != tokenizer.fingerprint:
        raise ValueError(
            f"{path} was trained with another tokenizer ({state['tokenizer_fingerprint'][:12]}) "
            f"than the tokenizer.json beside it ({tokenizer.fingerprint[:12]}). Put that one there."
        )
    return state


# ------------------------------------------------------------------ machine and small files


def device(name: str) -> torch.device:
    """The device by its name; auto takes what is fastest here."""
    if name == "auto":
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        name = "cuda" if cuda else "mps" if mps else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} is not to be had here: {reason}") from None


@contextmanager
def stop_asked() -> Iterator[Callable[[], int]]:
    """Within it the first Ctrl-C (or kill) is noted, and the update at hand ends whole.

    Gives a function that returns the signal, 0 if none came. A second Ctrl-C stops at once.
    """
    came = []

    def note(number, _frame):
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came[0] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Log:
    """log.jsonl: each entry is a line, and on its way to the disk as soon as it is written."""

    def __init__(self, path: Path, step: int):
        """Open for appending after step updates; what a killed run wrote beyond is dropped."""
        self.entries = [entry for entry in _entries(path) if entry["step"] <= step]
        with whole(path) as file:
            file.writelines(json.dumps(entry).encode() + b"\n" for entry in self.entries)
        self.path = path

    def write(self, entry: dict) -> None:
        """Append one line."""
        self.entries.append(entry)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of the entries that have the key."""
        pairs = [(entry["step"], entry[key]) for entry in self.entries if key in entry]
        return [step for step, _ in pairs], [value for _, value in pairs]


def _entries(path: Path) -> Iterator[dict]:
    if path.exists():
        for line in path.read_text().splitlines():
            with suppress(json.JSONDecodeError):  # a kill may have cut the last line
                yield json.loads(line)


def write_json(path: Path, content: dict) -> None:
    """Write a dict to a file that is whole or absent."""
    with whole(path) as file:
        file.write(json.dumps(content, indent=2, default=str).encode() + b"\n")


def read_json(path: Path) -> dict:
    """Read what write_json wrote. Raises ValueError if it is not a JSON object."""
    with suppress(json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            return content
    raise ValueError(f"{path} is not what a run writes there. Copy it again, or start a new run.")
