"""The commands: gpt2lib data, tokenizer, pretrain; sample, evaluate, export, info.

Each is a dataclass whose fields are its flags; calling it runs it and gives the exit status.
Those of the first kind, which make a model, stand in gpt2lib.making.
"""

import codecs
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from tyro.conf import Positional, arg, subcommand

import gpt2lib
from gpt2lib import checkpoint, corpora, pretrained, report, run
from gpt2lib.config import TrainConfig
from gpt2lib.generate import stream
from gpt2lib.making import Count, Data, Pretrain, TrainTokenizer
from gpt2lib.model import GPT
from gpt2lib.packing import packed
from gpt2lib.tokenizer import Tokenizer
from gpt2lib.train import TrainingDiverged, uses_bf16

Share = Annotated[float | None, arg(metavar="FLOAT")]
MODEL = arg(help="The folder of a run, one in Hugging Face's layout, or a release such as gpt2.")


@dataclass(frozen=True)
class Sample:
    """Let a model write, token by token.

    Example: gpt2lib sample out/storyworld --prompt "Once there was a" --n 3
             gpt2lib sample out/shakespeare --prompt "ROMEO:" --temperature 0.8 --top-k 50
             gpt2lib sample gpt2 --prompt "The meaning of life is" --weights bf16
    """

    model: Annotated[Positional[str], MODEL] = "out/storyworld"
    prompt: str = ""  # what to go on from; a new text if empty
    n: int = 1  # how many texts
    max_new_tokens: int = 250  # a text also ends where the model ends it
    temperature: float = 1.0  # 0 takes the likeliest token; under 1 plays safe, over 1 dares
    top_k: Count = None  # draw from so many likeliest tokens only
    top_p: Share = None  # draw from the likeliest tokens that add up to this
    weights: Literal["float32", "bf16", "int8"] = "float32"  # the smaller, the faster and rougher
    seed: int = 1337
    device: str = "auto"

    def __call__(self) -> int:
        device = run.device(self.device)
        model, tokenizer, opening = _opened(self.model)
        model = packed(model.to(device), self.weights)
        ids = opening + tokenizer.encode(self.prompt)
        generator = torch.Generator(device).manual_seed(self.seed)
        filters = (self.temperature, self.top_k, self.top_p, generator)
        for i in range(self.n):
            print("\n---\n\n" * bool(i) + self.prompt, end="", flush=True)
            idx = torch.tensor([ids], device=device)
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            for (token,) in stream(model, idx, self.max_new_tokens, *filters):
                if token == tokenizer.eot:
                    break
                text = decoder.decode(tokenizer.decode_bytes([token.item()]))
                print(text, end="", flush=True)
            print()
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Measure a model on texts that it has not seen.

    Example: gpt2lib evaluate out/shakespeare --on my.txt
             gpt2lib evaluate gpt2 --on wikitext2 lambada --stride 512

    A text gets its loss by token, by word and by byte; lambada the share of last words guessed.
    """

    model: Annotated[Positional[str], MODEL] = "out/storyworld"
    on: tuple[str, ...] = ("wikitext2", "lambada")  # corpora by name, or paths
    stride: Count = None  # tokens from one window to the next; if not given, the model's block_size
    limit: Count = None  # only about so many passages or windows; if not given, all
    device: str = "auto"

    def __call__(self) -> int:
        model, tokenizer, _ = _opened(self.model)
        model = model.to(run.device(self.device))
        for name in self.on:
            for line in report.benchmark(model, tokenizer, name, self.stride, self.limit):
                print(line, flush=True)
        return 0


@dataclass(frozen=True)
class Export:
    """Write a run's best model as transformers, its hub and llama.cpp read one.

    Example: gpt2lib export out/storyworld my-gpt
    then in Python: transformers.AutoModelForCausalLM.from_pretrained("my-gpt")
    """

    model: Annotated[Positional[str], MODEL]
    out: Positional[Path]  # a new folder

    def __call__(self) -> int:
        model, tokenizer, _ = _opened(self.model)
        pretrained.save(model, self.out, tokenizer)
        print(
            f"{model.config.n_params():,} parameters and {tokenizer.n_vocab:,} tokens: {self.out}"
        )
        return 0


def _opened(name: str) -> tuple[GPT, Tokenizer, list[int]]:
    """A model on the CPU, its tokenizer, and the ids with which a new text of its kind begins."""
    folder = Path(name)
    if not (folder / "data.json").exists():
        if not folder.exists() and name not in pretrained.RELEASES:
            releases = ", ".join(pretrained.RELEASES)
            raise FileNotFoundError(
                f"{name} holds no run, and is none of {releases}. Make one: gpt2lib pretrain"
            )
        tokenizer = pretrained.load_tokenizer(name)
        return pretrained.load(name), tokenizer, [tokenizer.eot]
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    if (best := folder / "best.ckpt").exists():
        state = checkpoint.load(best, tokenizer.fingerprint)
    else:
        state, *_ = checkpoint.newest(folder, tokenizer.fingerprint)
    return checkpoint.model(state), tokenizer, state["extra"].get("opening", [tokenizer.eot])


@dataclass(frozen=True)
class Info:
    """Say what is here, and whether the device computes what a CPU does.

    Example: gpt2lib info
             gpt2lib info --device mps
    """

    device: str = "auto"

    def __call__(self) -> int:
        device = run.device(self.device)
        name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
        print(f"gpt2lib    {gpt2lib.__version__}, Python {platform.python_version()}")
        print("versions  ", ", ".join(f"{p} {version(p)}" for p in ("torch", "numpy", "tiktoken")))
        print(f"device     {device} ({name}), {torch.get_num_threads()} threads")
        dtype = "bf16, weights in float32" if uses_bf16(device, TrainConfig()) else "float32"
        print(f"training   in {dtype}")
        print(f"cache      {corpora.cache_folder()}")
        print("corpora    storyworld (generated)\n           python (the sources of this Python)")
        print("           python+packages (those of its packages too)")
        for corpus, source in corpora.DOWNLOADS.items():
            here = (corpora.cache_folder() / source.file).exists()
            state = "in the cache" if here else f"to be downloaded from {source.address}"
            print(f"           {corpus} ({state})")
        for corpus, (address, _) in corpora.STREAMED.items():
            print(f"           {corpus} (streamed from https://huggingface.co/datasets/{address})")
        error, right = run.self_check(device)
        print(
            f"self-check logits and gradients on {device} differ from float64 by {error:.0e}, ",
            end="",
        )
        print("as rounding does" if right else "MORE THAN ROUNDING: do not trust this device")
        return 0 if right else 1


def command(args: list[str]):
    """The command that the words of a command line ask for, not yet run.

    Raises SystemExit for words that no command knows, which are told; ValueError for settings
    that cannot be.
    """
    recipe = TrainConfig.paper() if "--paper" in args else TrainConfig()
    pretrain = subcommand("pretrain", default=Pretrain(train=recipe))
    commands = (
        Annotated[Data, subcommand("data")]
        | Annotated[TrainTokenizer, subcommand("tokenizer")]
        | Annotated[Pretrain, pretrain]
        | Annotated[Sample, subcommand("sample")]
        | Annotated[Evaluate, subcommand("evaluate")]
        | Annotated[Export, subcommand("export")]
        | Annotated[Info, subcommand("info")]
    )
    return tyro.cli(commands, args=args, prog="gpt2lib", description=gpt2lib.__doc__)


def main(args: list[str] | None = None) -> None:
    """Run a command; a mistake that has a sentence is told in it, and ends with status 2."""
    try:
        sys.exit(command(sys.argv[1:] if args is None else args)())
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"gpt2lib: {error}", file=sys.stderr)
        sys.exit(2)
    except (TrainingDiverged, run.Unsaved) as error:
        print(f"gpt2lib: {error} What was saved before stands.", file=sys.stderr)
        if isinstance(error, TrainingDiverged):
            print("The same command comes to this again: change the settings.", file=sys.stderr)
        sys.exit(1)
