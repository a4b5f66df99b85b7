"""What a run came to: its loss beside the floor and the baselines, texts that it writes, a picture.

Built in the chapter on pretraining.
"""

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from gpt2lib import corpora, evaluate, tasks, viz
from gpt2lib.generate import stream
from gpt2lib.model import GPT
from gpt2lib.run import Run, Unsaved, byte_sizes
from gpt2lib.storyworld import World, pieces
from gpt2lib.tokenizer import Tokenizer

COUNTED = 50_000_000  # tokens that the baselines count at most: a few GB of memory while they do


def tell(run: Run, rows: list, n_samples: int) -> Iterator[str]:
    """How good the model is, line by line, to be printed; writes sample.txt and loss.svg.

    Raises Unsaved if the disk did not take them.
    """
    found, folder = losses(run, rows), run.folder
    stories = "floor" in found
    yield f"{found['tokens']:,} tokens of held-out {'stories, whole' if stories else 'text'}:"
    yield f"  the model  {found['loss']:.3f} nats a token, {found['bits_per_byte']:.3f} bits a byte"
    if stories:
        yield f"  the floor  {found['floor']:.3f}, exactly: no model can be lower on these stories"
    yield f"  bigram     {found['bigram']:.3f}\n  unigram    {found['unigram']:.3f}"
    texts = samples(run, n_samples)
    if stories:
        valid, far = validity(texts)
        yield f"{valid:.0%} of {n_samples} samples are stories that the world could have told,"
        yield f"  and on average they hold for {far:.0%} of their length"
    yield f"\n{texts[0].strip()}\n"
    text = "\n\n---\n\n".join(texts) + "\n"
    try:
        (folder / "sample.txt").write_text(text, encoding="utf-8")
        yield f"{picture(run, found)}  {folder / 'sample.txt'}"
    except OSError as error:
        raise Unsaved(f"{folder} did not take sample.txt and loss.svg: {error}.") from error
    yield f"More of them: gpt2lib sample {folder} --n 3"


def benchmark(
    model: GPT, tokenizer: Tokenizer, name: str, stride: int | None, limit: int | None
) -> Iterator[str]:
    """What a model reaches on a corpus, line by line: LAMBADA's last words, or a text's loss.

    WikiText is detokenized first, its words counted before. limit: passages or windows.
    """
    documents = corpora.corpus(name).documents()
    if name == "lambada":
        passages = [{"text": text} for text in islice(documents, limit)]
        yield f"{name}: {len(passages):,} passages"
        for stops, how in (((), ""), (tasks.STOP_WORDS, ", stop words passed over")):
            found = tasks.lambada(model, tokenizer, passages, stops)
            yield f"  {found.accuracy:.2%} of the last words are guessed{how}"
        yield f"  {found.perplexity:.2f} perplexity of a last word"
        return
    text = "\n".join(documents)
    n_words, plain = evaluate.n_words(text), text
    if name.startswith("wikitext"):
        plain = evaluate.detokenize_wikitext(text)
    ids = np.array([tokenizer.eot, *tokenizer.encode(plain)])
    batches = evaluate.windows(ids, 8, model.config.block_size, stride)
    batches = list(islice(batches, limit and -(-limit // 8)))
    nats = evaluate.loss(model, tqdm(batches, name, unit="batch", disable=None))
    n = sum(int((targets != -1).sum()) for _, targets in batches)
    share = n / (len(ids) - 1)  # of the text that was read
    n_words, n_bytes = share * n_words, share * len(plain.encode())
    by_word = evaluate.perplexity(evaluate.nats_per_unit(nats, n, n_words))
    yield f"{name}: {n:,} tokens, {n_words:,.0f} words, {n_bytes:,.0f} bytes"
    yield f"  {nats:.3f} nats a token: perplexity {evaluate.perplexity(nats):.2f}"
    yield f"  by word: perplexity {by_word:.2f}"
    yield f"  {evaluate.bits_per_byte(nats, n, n_bytes):.3f} bits a byte"


def losses(run: Run, rows: list) -> dict[str, float]:
    """The loss on held-out rows, nats a token, and what stands beside it on the same rows.

    "loss", "bits_per_byte", "tokens" (how many were predicted); "unigram" and "bigram", which
    count the first 50 million tokens that the model learned from; for
    Storyworld "floor", the exact loss of the perfect model on these stories.
    """
    targets = [row[row != -1].cpu().numpy() for _, batch in rows for row in batch]
    asked, n_vocab = np.concatenate(targets), run.tokenizer.n_vocab
    nats = evaluate.loss(run.model, rows)
    counted = run.tokens[:COUNTED]
    size = byte_sizes(run.tokenizer)[asked].sum()
    found = {
        "loss": nats,
        "bits_per_byte": evaluate.bits_per_byte(nats, len(asked), size),
        "tokens": len(asked),
        "unigram": evaluate.unigram_loss(counted, rows, n_vocab),
        "bigram": evaluate.bigram_loss(counted, rows, n_vocab),
    }
    if run.corpus == "storyworld":
        stories = [run.tokenizer.decode(ids[:-1]) for ids in targets]  # without the last eot
        found["floor"] = World().floor(run.tokenizer, stories).nats_per_token
    return found


def samples(run: Run, n: int) -> list[str]:
    """n texts of at most block_size tokens, each to its eot; drawn at temperature 1."""
    idx = torch.tensor([run.opening] * n, device=run.device)
    generator = torch.Generator(run.device).manual_seed(run.config.seed)
    room = run.model.config.block_size - len(run.opening)
    eot, columns = run.tokenizer.eot, []
    open_ = torch.ones(n, dtype=torch.bool, device=run.device)
    for ids in stream(run.model, idx, room, generator=generator):
        columns.append(ids)
        open_ &= ids != eot
        if not open_.any():
            break
    rows = torch.stack(columns, dim=1).tolist()  # (n, T)
    return [run.tokenizer.decode(row[: [*row, eot].index(eot)]) for row in rows]


def validity(texts: list[str]) -> tuple[float, float]:
    """Of Storyworld: the share of texts that the world could have said, and how far on
    average, as a share of its words and stops, a text goes before it cannot.
    """
    world, far = World(), []
    for text in texts:
        said = world.surprisal(text)  # stops where the world cannot say it
        possible = len(said) - (said[-1][1] == math.inf)
        far.append(possible / (len(pieces(text)) + 1))
    return world.validity(texts), sum(far) / len(far)


def picture(run: Run, found: dict[str, float]) -> Path:
    """Draw the losses of the log against the floor and the bigram: loss.svg, on white."""
    steps, losses = map(np.array, run.log.curve("loss"))
    each = max(1, len(steps) // 100)  # averaged, so that single batches do not hide the curve
    n = len(steps) // each * each
    smooth = losses[:n].reshape(-1, each).mean(1)
    beside = {"floor": found.get("floor"), "baselines": {"bigram": found["bigram"]}}
    ax = viz.loss_curve(steps[each - 1 : n : each], smooth, label="training", **beside)
    ax.set_ylim(top=max(1.6 * found["bigram"], 1.1 * smooth[-1]))  # the first steps fall fast
    viz.loss_curve(*run.log.curve("valid_loss"), ax=ax, label="held out")
    ax.figure.savefig(run.folder / "loss.svg", facecolor="white")
    return run.folder / "loss.svg"
