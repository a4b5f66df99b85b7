"""Tokens a second from GPT-2 small, one row, greedy: transformers' cached generation and ours."""

from functools import partial

import torch

from bench import machine, peers
from bench.race import Contender, race
from gpt2lib.config import GPTConfig
from gpt2lib.generate import generate
from gpt2lib.packing import packed

SMALL = GPTConfig.named("gpt2")
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
BYTES = {"float32": 4, "bf16": 2, "int8": 1}  # of a weight


def our_writer(weights: str, prompt: int, new: int, device: str):
    """Greedy, from a packed copy."""
    model = packed(peers.ours(SMALL).to(device), weights)
    idx = torch.zeros(1, prompt, dtype=torch.int64, device=device)

    def write():
        generate(model, idx, new, temperature=0)
        machine.synchronize(device)

    return write


def their_writer(weights: str, prompt: int, new: int, device: str):
    """model.generate with its default cache, told never to stop early."""
    model = peers.theirs(SMALL, DTYPES[weights]).to(device).eval()
    idx = torch.zeros(1, prompt, dtype=torch.int64, device=device)
    settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
    settings |= {"pad_token_id": 0, "attention_mask": torch.ones_like(idx)}

    def write():
        with torch.no_grad():
            model.generate(idx, **settings)
        machine.synchronize(device)

    return write


def measure(device: str, rounds: int) -> dict:
    """128 and 512 new tokens after 32, and the first token after 512."""
    peak, found = machine.ceilings(device), {}
    for prompt, new in ((32, 128), (32, 512), (512, 1)):
        at, int8 = (prompt, new, device), ["int8"] if device == "cpu" else []
        teams = [Contender(f"transformers {w}", partial(their_writer, w, *at)) for w in DTYPES]
        teams += [Contender(f"gpt2lib {w}", partial(our_writer, w, *at)) for w in [*DTYPES, *int8]]
        results = race(teams, rounds)
        rows = []
        for r in results:
            weights, speed = r.name.split()[1], new / r.median
            rows.append(
                {
                    "name": r.name,
                    "tokens/s": speed,
                    f"against {results[0].name}": r.times_as_fast_as(results[0]),
                    "of memory": speed * SMALL.n_params() * BYTES[weights] / peak["memory"],
                }
            )
        found[f"{new} new after {prompt}"] = rows
    return {"ceilings": peak, **found}
