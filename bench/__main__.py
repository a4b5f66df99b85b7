"""Measure gpt2lib against its peers, in one run on this machine.

    make bench ARGS="step --shapes a b --nanogpt ../nanoGPT"

Peers: transformers, tokenizers and tiktoken always; nanoGPT where --nanogpt names a checkout, of
which model.py is imported. Only the ratios mean something elsewhere, and only between equals:
each row says its precision. Nothing else should run meanwhile.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from bench import generation, learning, machine, step, text
from gpt2lib.run import device

PARTS = ("step", "generation", "learning", "text")


@dataclass(frozen=True)
class Bench:
    """Measure gpt2lib against its peers, in one run on this machine."""

    parts: Positional[tuple[Literal["step", "generation", "learning", "text"], ...]] = PARTS
    shapes: tuple[Literal["a", "b", "c", "gpt2"], ...] = ("a", "b", "c")  # of the steps
    nanogpt: Annotated[Path | None, arg(metavar="PATH")] = None  # a checkout of nanoGPT
    compile: bool = False  # also with torch.compile, which takes a while
    rounds: int = 7  # of each race
    seeds: int = 3  # of the learning
    device: str = "auto"
    out: Path = Path("out/bench.json")

    def __call__(self) -> None:
        on = device(self.device).type
        found = {"machine": machine.about(on)}
        print(json.dumps(found["machine"], indent=1))
        for name, measure in self.measures(on).items():
            found[name] = measure()
            show(name, found[name])
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text(json.dumps(found, indent=1) + "\n")
        print(f"\n{self.out}")

    def measures(self, on: str) -> dict:
        """What to call for each part, by its title."""
        asked = {}
        if "step" in self.parts:
            for shape in self.shapes:
                settings = (shape, on, self.nanogpt, self.compile, self.rounds)
                asked[f"step {shape}"] = lambda s=settings: step.measure(*s)
        if "generation" in self.parts:
            asked["generation"] = lambda: generation.measure(on, self.rounds)
        if "learning" in self.parts:
            asked["learning"] = lambda: learning.measure(self.nanogpt, self.seeds)
        if "text" in self.parts:
            asked["text"] = lambda: text.measure(self.rounds)
        return asked


def show(title: str, found: dict) -> None:
    """Print each list of rows as a table, and whatever else there is as a line."""
    print(f"\n{title}")
    for name, value in found.items():
        if not isinstance(value, list):
            print(f"  {name}: {value}")
            continue
        print(f"  {name}")
        heads = list(value[0])
        print("    " + f"{heads[0]:24}" + "".join(f"{head:>28}" for head in heads[1:]))
        for row in value:
            cells = [
                f"{row[h]:28.3f}" if isinstance(row[h], float) else f"{row[h]!s:>28}"
                for h in heads[1:]
            ]
            print("    " + f"{row['name']:24}" + "".join(cells))


if __name__ == "__main__":
    tyro.cli(Bench, prog="bench", description=__doc__)()
