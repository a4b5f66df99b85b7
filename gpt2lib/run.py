"""A pretraining run is a folder, so that it can be killed, resumed, looked at and sampled from.

    config.json       what was asked for
    data.json         what the tokens were made of; beside it tokenizer.json, train.bin, valid.bin
    log.jsonl         a line an update (loss, lr, …), a line an evaluation (valid_loss)
    step-000400.ckpt  to resume from, the keep_last newest of them
    best.ckpt         the weights with the lowest valid_loss; best-000400.ckpt and so on, the
                      keep_best lowest, if these are more than one
    sample.txt        what the model says;  loss.svg  how it learned

What happens when:

    kill -9, a crash           the same command goes on from the newest whole checkpoint, and on
                               one CPU process comes to the same bits
    a checkpoint is damaged    it is passed over, and named; if all are, nothing is begun
    … or of another run        another tokenizer, shape, recipe or train.bin: refused
    tokens are missing         refused; gpt2lib data --overwrite makes them again, and the run
                               goes on if they are the same
    the disk is full           the older checkpoints stand, the run goes on and tries again at the
                               next evaluation; status 1 if the last cannot be saved
    the folder is read-only    refused before anything is done
    loss or gradient NaN, inf  the weights do not move, nothing is saved, status 1; to go on comes
                               to the same update, so begin anew with gentler settings
    the loss jumps             the clipped update is made, the log marks it, the command says so
    two processes, one folder  the second is refused
    one of torchrun's ends     torchrun ends the others; with --max-restarts all go on from the
                               newest whole checkpoint

Built in the chapter on pretraining.
"""

import copy
import math
import signal
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from gpt2lib import checkpoint, corpora, data, evaluate, optim, processes
from gpt2lib import tokenizer as tokenizers
from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.files import Log, read_json, write_json
from gpt2lib.model import GPT
from gpt2lib.tokenizer import Tokenizer
from gpt2lib.train import TrainingDiverged, train

PREPARED = ("tokenizer.json", "train.bin", "valid.bin")
MADE_BY_TRAINING = "step-*.ckpt best*.ckpt log.jsonl sample.txt loss.svg config.json".split()


# ------------------------------------------------------------------ tokens


def make_tokenizer(corpus: corpora.Corpus, tokenizer: str, vocab_size: int) -> Tokenizer:
    """A vocabulary trained on the corpus ("train"), GPT-2's own ("gpt2"), or one from a path."""
    if tokenizer == "gpt2":
        return tokenizers.gpt2()
    if tokenizer == "train":
        documents = islice(corpus.in_pieces("train"), 100_000)  # enough, where there are more
        return tokenizers.train_bpe(chain.from_iterable(documents), vocab_size)
    return Tokenizer.load(tokenizer)


def prepare(
    folder: Path,
    corpus: str,
    tokenizer: str,
    vocab_size: int,
    stories: int,
    limit: int | None,
    overwrite: bool,
) -> bool:
    """Turn a corpus into tokenizer.json, train.bin and valid.bin in folder, unless they are there.

    limit: of a corpus that is streamed, about so many tokens; what a stop left of it is gone on
    with. Returns whether there was anything to do. Raises ValueError if what is there was made of
    something else and may not be overwritten, FileNotFoundError if a part of it is gone.
    """
    wanted = {"corpus": corpus, "tokenizer": tokenizer}
    wanted |= {"vocab_size": vocab_size} if tokenizer == "train" else {}
    wanted |= {"stories": stories} if corpus == "storyworld" else {}
    wanted |= {"limit": limit} if corpus in corpora.STREAMED else {}
    note = folder / "data.json"
    if note.exists() and not overwrite:
        if (found := read_json(note)) != wanted:
            raise ValueError(
                f"{folder} holds tokens of {found}, not of {wanted}. "
                "Choose another folder with --out, or replace them with --overwrite."
            )
        if missing := [name for name in PREPARED if not (folder / name).exists()]:
            raise FileNotFoundError(
                f"{folder} lacks {', '.join(missing)}. Put back what is missing, or write all of "
                "it again from the corpus: gpt2lib data with --overwrite."
            )
        return False
    text = corpora.corpus(corpus, stories=stories)
    made = make_tokenizer(text, tokenizer, vocab_size)
    note.unlink(missing_ok=True)
    made.save(folder / "tokenizer.json")
    for path in folder.glob("*.bin.*") if overwrite else ():
        path.unlink()  # what was begun
    for split in ("valid", "train"):
        path = folder / f"{split}.bin"
        if isinstance(text, data.Streamed):
            with tqdm(desc=path.name, unit=" tokens", unit_scale=True) as bar:
                for n in data.stream_shard(path, text, split, made, limit=limit):
                    bar.update(n - bar.n)
        else:
            data.write_shard(path, data.token_stream(text.in_pieces(split), made), made)
    write_json(note, wanted)  # last: it says that the others are whole
    return True


def byte_sizes(tokenizer: Tokenizer) -> np.ndarray:
    """How many bytes of text each token stands for: (V,); special tokens stand for none."""
    return np.array([len(t) for t in tokenizer.tokens] + [0] * len(tokenizer.special_tokens))


# ------------------------------------------------------------------ the run


class Unsaved(RuntimeError):
    """The last checkpoint of a run could not be written. Those before it stand."""


class Run:
    """A run at its beginning, or with resume where its newest whole checkpoint left it.

    folder: as prepare made it. corpus: its name. shape: that of the model, but for the size of
    the vocabulary, which is the tokenizer's. Everything random follows config.seed. Without
    resume an older run in the folder is removed, once it is sure that this one can begin.
    Of many processes (torchrun) each makes one, and calls the same methods; process 0 writes.
    shard: whether each holds its shard of the model, or a replica.
    notes: sentences on the checkpoint that was taken, and on those that had to be passed over.
    Raises ValueError, and changes nothing, if none is whole, or if it is not of these tokens,
    this shape and this config; or if the rows of a batch cannot be shared evenly.
    """

    def __init__(
        self,
        folder: Path,
        corpus: str,
        shape: GPTConfig,
        config: TrainConfig,
        device,
        resume: bool,
        keep_last: int = 2,
        keep_best: int = 1,
        shard: bool = False,
    ):
        self.folder, self.corpus, self.config, self.device = folder, corpus, config, device
        self.keep_last, self.keep_best = keep_last, keep_best
        self.batch_size = processes.rows(config.batch_size)  # of this process
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
        if shard:
            processes.shard(self.model, device)
        self.optimizers = optim.optimizers(self.model, config)
        if corpus == "storyworld":
            self.held_out = data.whole_documents(valid, eot, 16, shape.block_size)
        else:
            self.held_out = evaluate.windows(valid, 16, shape.block_size)
        self.step, self.best = 0, []  # best: the keep_best lowest [valid_loss, step]
        self.notes = []
        self.crc = zlib.crc32(valid, zlib.crc32(self.tokens))
        if resume and checkpoint.numbered(folder):
            self._resume()
        self.writes = processes.rank() == 0
        if self.writes:
            for name in ["*.part", *(() if resume else MADE_BY_TRAINING)]:  # .part: left by a kill
                for path in folder.glob(name):
                    path.unlink()
        self.log = Log(folder / "log.jsonl", self.step, self.writes)
        self.recent = deque(self.log.curve("loss")[1], maxlen=50)

    def _resume(self) -> None:
        state, path, damaged = checkpoint.newest(self.folder, self.tokenizer.fingerprint)
        for name, then, now in (
            ("train.bin or valid.bin", state["extra"].get("crc"), self.crc),
            ("config.json", state["train_config"], self.config),
        ):
            if then != now:
                raise ValueError(
                    f"{path} was trained with another {name} than the one beside it. "
                    "Put that one there, or begin anew with --overwrite."
                )
        self.step = checkpoint.restore(state, self.model, self.optimizers)
        self.best = state["extra"]["best"]
        self.notes = [*(f"passed over: {reason}" for reason in damaged), f"going on from {path}"]

    def updates(
        self, align: str, rows: list, every: int, stop: Callable[[], int] = int
    ) -> Iterator[dict]:
        """Train from here to the last update, or the first after which stop() is not 0.

        Evaluates on the held-out rows and keeps a checkpoint after `every` updates, and at the
        end. Yields a dict an update: the fields of its Record; "spike", if its loss stands out;
        "valid_loss"; "unsaved", the OSError, if the disk did not take the checkpoint: then the
        older ones stand, and the next is tried; if there is none, Unsaved is raised.
        """
        if align == "auto":
            align = "document" if self.corpus == "storyworld" else "any"
        batches = data.batches(
            self.tokens,
            self.batch_size,
            self.model.config.block_size,
            seed=self.config.seed,
            start=self.step * self.config.accumulation,
            align=align,
            eot=self.tokenizer.eot,
            part=(processes.rank(), processes.world_size()),
            device=self.device,
        )
        args = {"optimizers": self.optimizers, "first": self.step}
        for record in train(self.model, batches, self.config, **args):
            self.step = record.step
            over = spike(self.recent, record.loss)
            entry = record._asdict() | ({"spike": over} if over else {})
            self.log.write(entry)
            self.recent.append(record.loss)
            stopped, last = stop(), self.step == self.config.steps
            due = last or self.step % every == 0
            try:
                if due:
                    entry = entry | {"valid_loss": self.evaluate(rows)}
                if due or stopped:
                    self.keep()
            except OSError as error:
                if last or stopped:
                    raise Unsaved(
                        f"update {self.step} could not be saved: {error}. Make room, and the same "
                        "command goes on from the newest checkpoint."
                    ) from error
                entry = entry | {"unsaved": error}
            yield entry
            if stopped:
                return

    def evaluate(self, rows: list) -> float:
        """The loss on held-out rows, logged; the weights are kept if they are among the best.

        Raises TrainingDiverged if it is not finite: then they are not worth keeping.
        """
        nats = processes.highest(evaluate.loss(self.model, rows))  # each read all the rows
        if not math.isfinite(nats):
            raise TrainingDiverged(
                f"the held-out loss must stay finite: after update {self.step} it is {nats}. "
                "Try half the learning rate, a longer warm-up, or clip=1."
            )
        self.log.write({"step": self.step, "valid_loss": nats})
        best = sorted([*self.best, [nats, self.step]])[: self.keep_best]
        if best[0][1] == self.step:
            self.save("best.ckpt")
        if [nats, self.step] in best and self.keep_best > 1:
            self.save(f"best-{self.step:06}.ckpt")
        self.best = best
        return nats

    def keep(self) -> None:
        """Write a checkpoint to resume from; once it is whole, remove those not to be kept.

        Raises OSError, and has removed nothing, if it cannot be written.
        """
        with processes.failing_together():
            self.log.flush()
        self.save(f"step-{self.step:06}.ckpt", self.optimizers)
        steps = [step for step in checkpoint.numbered(self.folder) if step <= self.step]
        kept = {"step": steps[: self.keep_last], "best": [step for _, step in self.best]}
        for kind, steps in kept.items():
            for step, path in checkpoint.numbered(self.folder, kind).items():
                if step not in steps and self.writes:
                    path.unlink()

    def save(self, name: str, optimizers=()) -> None:
        """Write the weights to a checkpoint, and the optimizers, if it is to resume from."""
        with processes.failing_together():
            checkpoint.save(
                self.folder / name,
                model=self.model,
                optimizers=optimizers,
                step=self.step,
                train_config=self.config,
                tokenizer_fingerprint=self.tokenizer.fingerprint,
                extra={"best": self.best, "opening": self.opening, "crc": self.crc},
            )

    def unshard(self) -> None:
        """Give process 0 the whole model, which it then runs without the others."""
        if processes.is_sharded(self.model):
            weights, _ = processes.gathered(self.model, ())
            if self.writes:
                state = {"model_config": self.model.config, "weights": weights}
                self.model = checkpoint.model(state).to(self.device)


def spike(recent: Sequence[float], loss: float) -> float:
    """How far a loss lies over the mean of the recent ones, in nats, if it stands out; else 0.

    It stands out at more than 6 of their standard deviations and a tenth of a nat, once there
    are 20 of them: a curve that falls or is noisy raises no alarm.
    """
    over = loss - float(np.mean(recent or [loss]))
    return over if len(recent) >= 20 and over > max(6 * np.std(recent), 0.1) else 0.0


# ------------------------------------------------------------------ machine and small files


def device(name: str) -> torch.device:
    """The device by its name; auto takes what is fastest here. Each process has its own GPU."""
    if name == "auto":
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if name == "cuda":
        name = f"cuda:{processes.local_rank()}"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} is not to be had here: {reason}") from None


def self_check(device: torch.device) -> tuple[float, bool]:
    """How far logits and gradients of a small GPT on a device are from the CPU's in float64.

    Relative to the largest of them; and whether that is no more than rounding explains. Kernels
    of some devices have been wrong without a word.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exact = GPT(GPTConfig.named("tiny", n_embd=64)).double()
        for p in exact.parameters():
            torch.nn.init.normal_(p, std=0.1)
        idx = torch.randint(exact.config.vocab_size, (3, exact.config.block_size))
    here, found = copy.deepcopy(exact).float().to(device), []
    for model in (exact, here):
        ids = idx.to(model.wte.weight.device)
        model.loss(ids, ids).backward()
        parts = [model(ids), *(p.grad for p in model.parameters())]
        found.append([part.detach().cpu().double() for part in parts])
    error = max(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(*found))
    return error, error < 1e-3  # float32 comes to some 1e-6, TF32 to some 1e-4


@contextmanager
def stop_asked() -> Iterator[Callable[[], int]]:
    """Within it the first Ctrl-C (or kill) is noted, and the update at hand ends whole.

    Gives a function that returns the signal, 0 if none came to any process, each of which must
    ask. A second Ctrl-C stops at once.
    """
    came = []

    def note(number, _frame):
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: processes.highest(came[0] if came else 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
