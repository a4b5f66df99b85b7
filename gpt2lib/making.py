"""The commands that make something: gpt2lib data, tokenizer, pretrain.

Each is a dataclass whose fields are its flags; calling it runs it and gives the exit status.
"""

import io
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from tqdm import tqdm
from tyro.conf import OmitArgPrefixes, arg

from gpt2lib import checkpoint, corpora, data, processes, report, run
from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.files import alone, read_json, write_json
from gpt2lib.tokenizer import Tokenizer
from gpt2lib.train import keep_memory, uses_bf16

Folder = Annotated[Path | None, arg(metavar="PATH")]
Text = Annotated[str | None, arg(metavar="STR")]
Count = Annotated[int | None, arg(metavar="INT")]
TOKENS = arg(help="What to read, as gpt2lib data prepares it.")
TOLD = {  # of an update, where it has this
    "valid_loss": "  {step:>6,}  training {loss:.3f}  held out {valid_loss:.3f}",
    "spike": "  {step:>6,}  loss spike: {spike:.3f} over the running mean",
    "unsaved": "  {step:>6,}  not saved: {unsaved}. The older checkpoints stand.",
}
RECIPE = arg(help="How to train: by default the fast recipe for a small model; see --paper.")


@dataclass(frozen=True)
class Data:
    """Turn a corpus into a tokenizer and token shards, where pretrain finds them.

    Example: gpt2lib data --corpus python --vocab-size 4096
    writes tokenizer.json, train.bin and valid.bin to out/python. Then:
    gpt2lib pretrain --corpus python --vocab-size 4096
    """

    corpus: str = "storyworld"  # a name that gpt2lib info lists, or the path of a file or folder
    out: Folder = None  # the folder to write to; if not given, out/<corpus>
    tokenizer: str = "train"  # train (a new one), gpt2 (GPT-2's own), or the path of a saved one
    vocab_size: int = 1024  # of a new tokenizer
    stories: int = 20_000  # how many stories of storyworld
    limit: Count = None  # of fineweb-edu or openwebtext: about so many tokens; if not given, all
    overwrite: bool = False  # replace what stands in the folder

    @property
    def folder(self) -> Path:
        """out, or out/<corpus> where none was named."""
        return self.out or Path("out") / Path(self.corpus).stem

    def prepare(self) -> tuple[Tokenizer, dict]:
        """Write what is not there yet; return the tokenizer, and the tokens by split."""
        about = (self.corpus, self.tokenizer, self.vocab_size, self.stories, self.limit)
        print(f"tokens of {self.corpus} in {self.folder}", flush=True)
        if not run.prepare(self.folder, *about, overwrite=self.overwrite):
            print("  were there already")
        tokenizer = Tokenizer.load(self.folder / "tokenizer.json")
        paths = {split: self.folder / f"{split}.bin" for split in ("train", "valid")}
        return tokenizer, {split: data.read_shard(p, tokenizer) for split, p in paths.items()}

    def __call__(self) -> int:
        with alone(self.folder):
            tokenizer, shards = self.prepare()
        for split, tokens in shards.items():
            mean = run.byte_sizes(tokenizer)[tokens[: 2**24]].mean()
            print(f"  {split}  {len(tokens):,} tokens, {mean:.2f} bytes a token")
        return 0


@dataclass(frozen=True)
class TrainTokenizer:
    """Train a tokenizer and save it, or look at one.

    Example: gpt2lib tokenizer --corpus shakespeare --vocab-size 2048 --out bard.json
    then     gpt2lib tokenizer --load bard.json --show "To be, or not to be"
    or       gpt2lib tokenizer --load gpt2 --show "the same by GPT-2's own"
    """

    corpus: str = "storyworld"  # what to train on: a corpus by name, or a path
    vocab_size: int = 1024
    out: Folder = None  # the file to save to
    load: Text = None  # look at this one, do not train: gpt2, or a path
    show: str = "Once there was a painter named Mia."  # a text to cut into tokens

    def __call__(self) -> int:
        if self.load:
            tokenizer = run.make_tokenizer(None, self.load, 0)
        else:
            text = corpora.corpus(self.corpus)
            tokenizer = run.make_tokenizer(text, "train", self.vocab_size)
            held_out = "".join(islice(text.documents("valid"), 1000))
            size, n = len(held_out.encode()), len(tokenizer.encode(held_out))
            print(f"{size / n:.2f} bytes a token on held-out text")
        print(f"{tokenizer.n_vocab:,} tokens, fingerprint {tokenizer.fingerprint[:12]}")
        longest = sorted(tokenizer.tokens, key=len, reverse=True)[:8]
        for name, tokens in (("longest", longest), ("first merges", tokenizer.tokens[256:268])):
            print(f"{name}:", *(repr(token.decode(errors="replace")) for token in tokens))
        ids = tokenizer.encode(self.show)
        print("·".join(tokenizer.decode([i]) for i in ids), ids, sep="\n")
        if self.out:
            tokenizer.save(self.out)
            print(f"saved to {self.out}")
        return 0


@dataclass(frozen=True)
class Pretrain:
    """Train a GPT from nothing. With no flags: on Storyworld, in about two minutes.

    Example: gpt2lib pretrain
             gpt2lib pretrain --corpus shakespeare --steps 2000
             gpt2lib pretrain --resume out/shakespeare     (after Ctrl-C, or a crash)
             gpt2lib sample out/shakespeare --prompt "ROMEO:"
             torchrun --nproc-per-node 2 -m gpt2lib pretrain      (the same run, on 2 processes)

    The run is a folder: settings, tokens, log, checkpoints, samples and a picture of the loss.
    The same command again goes on from its newest whole checkpoint, as --resume does.
    On Storyworld the loss is held against the exact floor that no model can pass.
    """

    data: Annotated[OmitArgPrefixes[Data], TOKENS] = field(default_factory=Data)
    resume: Folder = None  # go on with the run in this folder, by its own settings
    size: str = "small"  # tiny, small, storyteller, gpt2, gpt2-medium, gpt2-large or gpt2-xl
    block_size: Count = None  # the longest sequence, in tokens; if not given, the size's own
    dropout: float = 0.0
    align: Literal["auto", "any", "document"] = "auto"  # where training sequences begin
    device: str = "auto"  # auto: cuda, else mps, else cpu
    shard: bool = False  # with torchrun: share out the model (FSDP2); if not given, each has it all
    eval_every: int = 100  # updates from one evaluation and checkpoint to the next
    eval_batches: int = 50  # held-out batches in the last evaluation; before it, an eighth of them
    keep_last: int = 2  # checkpoints to resume from; the older are removed
    keep_best: int = 1  # best.ckpt, the lowest held-out loss; of 2 or more, best-<step>.ckpt too
    samples: int = 16  # texts to write at the end
    paper: bool = False  # by default the recipe of the GPT papers, not the fast one
    train: Annotated[OmitArgPrefixes[TrainConfig], RECIPE] = field(default_factory=TrainConfig)

    def __post_init__(self):
        for name in ("eval_every", "eval_batches", "samples", "keep_last", "keep_best"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: got {getattr(self, name)}.")
        self.shape()  # says so if it cannot be

    def shape(self) -> GPTConfig:
        """The shape of the model, with the size's own vocabulary."""
        changes = {"block_size": self.block_size} if self.block_size is not None else {}
        return GPTConfig.named(self.size, dropout=self.dropout, **changes)

    def __call__(self) -> int:
        if self.resume:
            if replace(self, resume=None, shard=False) != Pretrain():
                raise ValueError("--resume goes by the run's own settings: give it alone.")
            return _pretrain(replace(_saved(self.resume), shard=self.shard), resume=True)
        folder, anew = self.data.folder, self.data.overwrite
        there = (folder / "config.json").exists() or checkpoint.numbered(folder)
        if there and not anew:
            mine, found = _flags(self), _flags(_saved(folder))
            if other := ", ".join(flag for flag in mine if mine[flag] != found[flag]):
                raise ValueError(
                    f"{folder} holds a run with another {other}. Go on with it: gpt2lib pretrain "
                    f"--resume {folder}. Or start one beside it with --out, or --overwrite it."
                )
        return _pretrain(self, resume=bool(there) and not anew)


def _flags(ask: Pretrain) -> dict:
    """What was asked for, by flag; where the run is, how spread, whether a new one, aside."""
    flat = asdict(ask) | {"shard": False}
    flat |= flat.pop("data") | flat.pop("train") | {"out": None, "overwrite": False}
    return {f"--{name.replace('_', '-')}": value for name, value in flat.items()}


def _saved(folder: Path) -> Pretrain:
    """The settings of the run in a folder, which may have been moved since."""
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no run, or a part: there is no {path}.")
    saved = read_json(path)
    try:
        corpus = Data(**saved.pop("data") | {"out": folder, "overwrite": False})
        config = TrainConfig(**saved.pop("train"))
        return Pretrain(corpus, train=replace(config, betas=tuple(config.betas)), **saved)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not of this version of gpt2lib: {error}.") from None


def _pretrain(ask: Pretrain, resume: bool) -> int:
    """Begin a run or go on with one, to its end or the first Ctrl-C; gives the exit status."""
    folder, device, steps = ask.data.folder, run.device(ask.device), ask.train.steps
    if device.type == "cpu":
        keep_memory()
    with processes.joined(device), _process_0_in(folder):
        with processes.rank_0_first():
            ask.data.prepare()
        keep = (ask.keep_last, ask.keep_best, ask.shard)
        made = run.Run(folder, ask.data.corpus, ask.shape(), ask.train, device, resume, *keep)
        rows = list(islice(made.held_out, ask.eval_batches))
        if made.writes and not resume:
            write_json(folder / "config.json", asdict(ask))
        for note in made.notes:
            print(note)
        if made.step == steps:
            print(f"the run is finished, all {steps:,} updates; --overwrite makes it anew")
        elif stopped := _train(ask, made, rows[: max(1, len(rows) // 8)]):
            print(f"stopped after update {made.step:,}, saved. To go on, the same command, or:")
            print(f"  gpt2lib pretrain --resume {folder}")
            return 128 + stopped
        made.unshard()
        for line in report.tell(made, rows, ask.samples) if made.writes else ():
            print(line)
    return 0


def _process_0_in(folder: Path):
    """Process 0 alone writes in the folder, and prints; what the others print is dropped."""
    return alone(folder) if processes.rank() == 0 else redirect_stdout(io.StringIO())


def _train(ask: Pretrain, made: run.Run, rows: list) -> int:
    """Make the updates that are left and tell of them; gives the signal that stopped it, or 0."""
    shape, batch = made.model.config, ask.train.batch_size * ask.train.accumulation
    first, steps = made.step, ask.train.steps
    n = f"{processes.world_size()} × " if processes.world_size() > 1 else ""
    print(
        f"{shape.n_params():,} parameters on {n}{made.device} in "
        f"{'bf16' if uses_bf16(made.device, ask.train) else 'float32'}, updates {first + 1:,} to "
        f"{steps:,} of {batch} × {shape.block_size} tokens"
    )
    with run.stop_asked() as asked:
        updates = made.updates(ask.align, rows, ask.eval_every, asked)
        quiet = None if made.writes else True  # None: unless this is a terminal
        bar = tqdm(updates, "training", steps, initial=first, unit="step", disable=quiet)
        for found in bar:
            text = "loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s".format_map(found)
            bar.set_postfix_str(text, refresh=False)
            for key in (key for key in TOLD if key in found):
                bar.write(TOLD[key].format_map(found))
        return asked()
