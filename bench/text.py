"""The tokenizer against tokenizers (Rust) and tiktoken, and what a batch costs beside a step."""

from functools import partial

import numpy as np

from bench.race import Contender, race
from bench.step import SHAPES, our_step
from gpt2lib import corpora, data, tokenizer

TIMES = 10  # Tiny Shakespeare this often: 11 MB to encode


def text() -> str:
    """Tiny Shakespeare."""
    return "".join(corpora.corpus("shakespeare").documents())


def our_trainer(vocab_size: int):
    """gpt2lib.tokenizer.train_bpe."""
    return partial(_silent, tokenizer.train_bpe, text(), vocab_size)


def their_trainer(vocab_size: int):
    """tokenizers' byte-level BPE, from memory, its progress bar off."""
    import tokenizers

    whole = text()

    def train():
        made = tokenizers.ByteLevelBPETokenizer()
        made.train_from_iterator([whole], vocab_size, show_progress=False)

    return train


def our_encoder():
    """gpt2lib, GPT-2's vocabulary, one thread."""
    return partial(_silent, tokenizer.gpt2().encode, text() * TIMES)


def tiktoken_encoder():
    """tiktoken itself, with the same vocabulary."""
    return partial(_silent, tokenizer.gpt2().encoding.encode_ordinary, text() * TIMES)


def their_encoder():
    """tokenizers with the same vocabulary, as transformers uses it."""
    import tempfile

    import tokenizers

    from gpt2lib import pretrained
    from gpt2lib.config import GPTConfig
    from gpt2lib.model import GPT

    gpt2 = tokenizer.gpt2()
    shape = GPTConfig.named("tiny", vocab_size=gpt2.n_vocab)
    with tempfile.TemporaryDirectory() as folder:
        pretrained.save(GPT(shape), folder, gpt2)
        made = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    return partial(_silent, made.encode, text())


def loader():
    """Batches of shape a from memory."""
    B, config = SHAPES["a"]
    tokens = np.random.default_rng(0).integers(config.vocab_size, size=10**6).astype(np.uint16)
    batches = data.batches(tokens, B, config.block_size)
    return partial(_silent, next, batches)


def measure(rounds: int) -> dict:
    """Seconds of training, MB a second of encoding, the loader's share of a step."""
    found, size = {}, len(text()) / 1e6
    for vocab_size in (1024, 8192):
        theirs = Contender("tokenizers", partial(their_trainer, vocab_size))
        results = race([theirs, Contender("gpt2lib", partial(our_trainer, vocab_size))], rounds)
        found[f"train {vocab_size}"] = [
            {"name": r.name, "s": r.median, "against tokenizers": r.times_as_fast_as(results[0])}
            for r in results
        ]
    encoders = {"tiktoken": tiktoken_encoder, "gpt2lib": our_encoder, "tokenizers": their_encoder}
    results = race([Contender(name, make) for name, make in encoders.items()], rounds)
    found["encode"] = [
        {"name": r.name, "MB/s": size * (1 if r.name == "tokenizers" else TIMES) / r.median}
        for r in results
    ]
    pair = [Contender("loader", loader), Contender("step", partial(our_step, "a", "cpu", "bf16"))]
    batch, step = race(pair, rounds)
    share = 1 / batch.times_as_fast_as(step) if batch.median else 0
    found["loader, shape a"] = [{"name": "a batch", "µs": 1e6 * batch.median, "of a step": share}]
    return found


def _silent(function, *args) -> None:
    """Call, and send nothing back."""
    function(*args)
