"""What the storyteller knows: what it recalls, and how far its stories get.

    python runs/storyteller/score.py            prints the table of README.md, in a minute

A recall is a word that is certain because of something told earlier; see World.recall_positions.
"""

import math
from collections import defaultdict
from pathlib import Path

import torch

from gpt2lib import pretrained
from gpt2lib.generate import generate
from gpt2lib.model import GPT, evaluating
from gpt2lib.storyworld import World, pieces
from gpt2lib.tokenizer import Tokenizer

HERE = Path(__file__).parent
WORLD = World()
HELD_OUT_SEED = 99  # of stories that are not among those learned from, which have seed 0


def recalls(model: GPT, tokenizer: Tokenizer, stories: list[str]) -> dict[str, list[bool]]:
    """By kind: whether each determined word's first token is the likeliest."""
    hits = defaultdict(list)
    for text in stories:
        split, T = pieces(text), model.config.block_size
        for found in WORLD.recall_positions(text):
            before = tokenizer.encode("".join(split[: found.index]))
            if len(before) < T:
                right = tokenizer.encode(found.piece)[0]
                ids = torch.tensor([[tokenizer.eot, *before]])
                with evaluating(model):
                    said = model.head(model.hidden(ids)[0, -1]).argmax().item()
                hits[found.kind].append(said == right)
    return hits


def written(model: GPT, tokenizer: Tokenizer, n: int, seed: int = 1337, **dials) -> list[str]:
    """n stories of the model, each to its end or to the end of the window."""
    rng = torch.Generator().manual_seed(seed)
    begin = torch.full((n, 1), tokenizer.eot)
    ids = generate(model, begin, model.config.block_size - 1, generator=rng, **dials)
    rows = [[*row, tokenizer.eot] for row in ids[:, 1:].tolist()]
    return [tokenizer.decode(row[: row.index(tokenizer.eot)]) for row in rows]


def breaks(stories: list[str]) -> float:
    """Stories that say what the world never would, over the words until they do: a rate."""
    read = [WORLD.surprisal(text) for text in stories]
    broken = sum(nats[-1][1] == math.inf for nats in read)
    return broken / sum(len(nats) - 1 for nats in read)


if __name__ == "__main__":
    model, tokenizer = pretrained.load(HERE), pretrained.load_tokenizer(HERE)
    held_out = WORLD.stories(300, seed=HELD_OUT_SEED)
    for kind, hits in sorted(recalls(model, tokenizer, held_out).items()):
        print(f"{kind:8} {sum(hits) / len(hits):.2f} of {len(hits)}")
    stories = written(model, tokenizer, 200)
    print(f"valid stories {WORLD.validity(stories):.3f} of {len(stories)}")
    print(f"broken {100 * breaks(stories):.1f} times in 100 words")
