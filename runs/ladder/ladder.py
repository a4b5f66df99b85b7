"""The recorded ladder of the chapter on scaling: models of many sizes, each at many budgets.

    python runs/ladder/ladder.py               on Storyworld: writes storyworld.csv beside it
    python runs/ladder/ladder.py python        on the source of the running Python: python.csv

Each run trains from nothing, in less than one pass over its text, with a schedule of its own
length. (A story that the end of a window cuts off is read again, whole, at the start of another.)
FLOPs by gpt2lib.scaling.flops. Written is a line as each run ends. On Storyworld: by how much the
loss on whole held-out stories is above their exact floor, in nats a token, and how much of that is
paid for names, for things, for colours, and for all other words. On Python, whose floor nobody
knows: the loss on held-out windows. Called again, it goes on where it stopped.
"""

import csv
import sys
import time
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch

from gpt2lib import data, evaluate, grammar, scaling
from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.model import GPT
from gpt2lib.storyworld import World
from gpt2lib.tokenizer import train_bpe
from gpt2lib.train import train

WIDTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128)  # channels; all models have 2 blocks, 4 heads
BUDGETS = [2e10 * 2**k for k in range(7)]  # FLOPs
ROWS, T = 2, 192  # a batch
KINDS = {"names": grammar.NAMES, "things": grammar.THINGS, "colours": grammar.COLOURS}
COLUMNS = ("budget", "n_embd", "n_params", "n_matrices", "tokens", "steps", "flops", "above",
           *KINDS, "others", "seconds")  # fmt: skip


def widths(budget: float) -> tuple[int, ...]:
    """Six widths around where the best one was found to lie, in trials."""
    at = (BUDGETS.index(budget) + 1) // 2
    return WIDTHS[at : at + 6]


class Stories:
    """Stories to learn from, as tokens; stories to measure on; what the oracle pays for these."""

    def __init__(self, n_stories: int):
        world = World(seed=0)
        stories, held_out = world.stories(n_stories, seed=1), world.stories(100, seed=2)
        self.tokenizer = train_bpe(stories[:2000], 1024)
        self.tokens, measured = (
            np.array(list(chain(*data.token_stream(some, self.tokenizer))))
            for some in (stories, held_out)
        )
        self.rows = list(data.whole_documents(measured, self.tokenizer.eot, 50, 256))
        self.floor = [list(world.surprisal(story)) for story in held_out]

    def batches(self, n_rows: int, seed: int = 1337, tokens=None):
        tokens = self.tokens if tokens is None else tokens
        return data.batches(tokens, n_rows, T, seed=seed, align="document", eot=self.tokenizer.eot)

    def above(self, model: GPT) -> dict[str, float]:
        """Nats a token above the floor: in all, and what is paid for each kind of word."""
        paid = [row for both in self.rows for row in evaluate.token_losses(model, *both).tolist()]
        excess, n = dict.fromkeys([*KINDS, "others"], 0.0), 0
        for oracle, row in zip(self.floor, paid):
            for (piece, least), nats in zip(oracle, row):
                kind = next((k for k, words in KINDS.items() if piece.strip() in words), "others")
                excess[kind] += nats - least
                n += 1
        mean = {kind: total / n for kind, total in excess.items()}
        return {"above": sum(mean.values())} | mean


class Source:
    """The source of the running Python, for comparison; its floor is not known."""

    def __init__(self):
        corpus = data.corpus("python")
        train_texts = list(corpus.documents("train"))
        self.tokenizer = train_bpe(train_texts[:500], 1024)
        self.tokens, measured = (
            np.concatenate(list(data.token_stream(texts, self.tokenizer)))
            for texts in (train_texts, islice(corpus.documents("valid"), 60))
        )
        self.rows = list(islice(data.batches(measured, 16, T, seed=2), 16))

    def batches(self, n_rows: int, seed: int = 1337, tokens=None):
        return data.batches(self.tokens if tokens is None else tokens, n_rows, T, seed=seed)

    def above(self, model: GPT) -> dict[str, float]:
        return {"above": evaluate.loss(model, self.rows)}


def run(language, n_embd: int, budget: float, seed: int = 1337, tokens=None) -> dict:
    """Train one model for so many FLOPs; a line of the table."""
    torch.manual_seed(seed)
    config = GPTConfig(2, 4, n_embd, 256, language.tokenizer.n_vocab)
    model = GPT(config)
    a_step = scaling.flops(config, ROWS, T).step
    steps = round(budget / a_step)
    recipe = TrainConfig(
        steps=steps, batch_size=ROWS, warmup=min(50, steps // 10), precision="float32"
    )
    began = time.perf_counter()
    for _ in train(model, language.batches(ROWS, seed, tokens), recipe):
        pass
    seconds = time.perf_counter() - began
    sizes = scaling.params(config)
    values = budget, n_embd, sum(sizes), sizes.matrices, steps * ROWS * T, steps, steps * a_step
    above = {kind: round(nats, 5) for kind, nats in language.above(model).items()}
    return dict(zip(COLUMNS, values)) | above | {"seconds": round(seconds, 1)}


def main(name: str = "storyworld") -> None:
    torch.set_num_threads(1)
    path, done = Path(__file__).with_name(f"{name}.csv"), set()
    if path.exists():
        with path.open(newline="") as file:
            done = {(float(row["budget"]), int(row["n_embd"])) for row in csv.DictReader(file)}
    language = Stories(60_000) if name == "storyworld" else Source()
    with path.open("a", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not done:
            table.writeheader()
        for budget in BUDGETS:
            for n_embd in widths(budget):
                if (budget, n_embd) not in done:
                    table.writerow(run(language, n_embd, budget))
                    file.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
