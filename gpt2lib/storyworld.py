"""Storyworld: a language whose entropy is known.

A small world tells stories in plain English and knows the exact probability of each. The
world is one program, grammar.Grammar.document, that yields a Choice wherever a document
could go on in several ways. It is run in two ways:

    telling  says one phrase of each Choice, drawn at random;
    reading  takes at each Choice the phrase that the text goes on with, and so finds the
             probability of the text, piece by piece.

A piece is what GPT-2's pattern splits off: a word with the space before it, a run of
punctuation, a newline; the end of a document is the empty piece.
"""

import re
from bisect import bisect
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from math import fsum, inf, log
from typing import NamedTuple

import numpy as np

from gpt2lib.grammar import COLOURS, PLACES, RANKED, THINGS, ZORB_VERBS, Choice, Grammar

END = ""  # the piece after the last


class Recall(NamedTuple):
    """A piece that something said earlier determines: text pieces [index − distance] → [index]."""

    index: int  # of the piece, in World.surprisal's list
    distance: int  # pieces since the fact was last told
    piece: str
    kind: str  # colour, place, holder, owner, job, who or what


class Task(NamedTuple):
    """The answer to continue a prompt with, as the world has it."""

    kind: str  # summary, question, dialogue or translation
    prompt: str
    answer: str


class Floor(NamedTuple):
    """The loss of the perfect model: nobody who predicts these stories does better on average."""

    nats_per_token: float
    bits_per_byte: float
    standard_error: float  # of nats_per_token; 0 where it is exact for the stories at hand


def pieces(text: str) -> list[str]:
    """Split as GPT-2's pattern does (on English text), losing nothing."""
    return re.findall(r"'s| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s", text)


@lru_cache(maxsize=2**14)
def _phrase(marked: str) -> tuple[list[str], list[tuple[str, ...]]]:
    """A phrase's pieces, and the facts that each of them tells."""
    split, facts = [], []
    for text, marks in re.findall(r"([^[]+)((?:\[[^]]*\])*)", marked):
        split += pieces(text)
        facts += [()] * (len(split) - len(facts))
        facts[-1] = tuple(re.findall(r"\[(.*?)\]", marks))
    return (split, facts) if split else ([END], [()])


class World:
    """A storyworld: World(0).story(np.random.default_rng(7)) tells a story.

    The seed fixes how common each word is and the invented language, Zorb, so that two
    worlds speak two languages with one grammar.
    Built by hand in the chapter on language models.
    """

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.seed = seed
        self.weight = {}  # how common each word is: 1/(rank + 2), the ranks shuffled
        for words in RANKED:
            ranks = rng.permutation(len(words)).tolist()
            self.weight |= {w: 1 / (r + 2) for w, r in zip(words, ranks, strict=True)}
        syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
        words = rng.choice(len(syllables) ** 2, size=64, replace=False).tolist()
        zorb = (syllables[i // len(syllables)] + syllables[i % len(syllables)] for i in words)
        self.zorb = dict(zip((*ZORB_VERBS, *THINGS, *COLOURS, *PLACES), zorb, strict=False))

    # ---------------------------------------------------------------- telling

    def story(self, rng: np.random.Generator) -> str:
        """One document: a story, then one of the tasks about it."""
        return "".join(phrase for phrase, _ in self._tell(rng))

    def stories(self, n: int, seed: int = 0) -> list[str]:
        """n documents; the same for the same world, n and seed."""
        rng = np.random.default_rng([self.seed, seed])
        return [self.story(rng) for _ in range(n)]

    def _tell(self, rng: np.random.Generator) -> Iterator[tuple[str, Choice]]:
        script = Grammar(self.weight, self.zorb).document()
        choice = next(script)
        while True:
            cumulative = list(accumulate(choice.probabilities))
            i = min(bisect(cumulative, rng.random()), len(cumulative) - 1)
            yield "".join(_phrase(choice.phrases[i])[0]), choice
            try:
                choice = script.send(choice.values[i])
            except StopIteration:
                return

    # ---------------------------------------------------------------- reading

    def surprisal(self, text: str) -> list[tuple[str, float]]:
        """−ln p of each piece given all before it, in nats; the last, empty piece is the end.

        Stops at the first piece that the world cannot say, with inf.
        """
        return [(piece, nats) for piece, nats, _, _ in self._read(text)]

    def log_prob(self, text: str) -> float:
        """ln p of a whole document, in nats: −inf where the world cannot say it."""
        return -fsum(nats for _, nats in self.surprisal(text))

    def recall_positions(self, text: str) -> list[Recall]:
        """Where a piece is certain because of something told earlier, and how long ago that was."""
        told, found = {}, []
        for i, (piece, _, facts, choice) in enumerate(self._read(text)):
            for mark in facts:
                fact = mark.removeprefix("now ")
                if fact in told and fact == mark and len(choice.phrases) == 1:
                    found.append(Recall(i, i - told[fact], piece, fact.split()[0]))
                told[fact] = i
        return found

    def tasks(self, text: str) -> list[Task]:
        """Every answer in the document, each with all that stands before it."""
        spans, at = [], 0
        for piece, _, _, choice in self._read(text):
            task = choice.task if choice and piece else None
            if task and spans and spans[-1][2] == at and spans[-1][0] == task:
                spans[-1][2] = at + len(piece)
            elif task:
                spans.append([task, at, at + len(piece)])
            at += len(piece)
        return [Task(kind, text[:start], text[start:end]) for kind, start, end in spans]

    def _read(self, text: str) -> Iterator[tuple[str, float, tuple, Choice | None]]:
        """(piece, nats, facts that it tells, the choice that it is part of), along the text."""
        script = Grammar(self.weight, self.zorb).document()
        choice = next(script)
        options = None
        for piece in [*pieces(text), END]:
            if choice is None:  # the document was over before the text
                yield piece, inf, (), None
                return
            if options is None:  # a new choice: every phrase is still open
                options, offset = range(len(choice.phrases)), 0
            read = [_phrase(phrase) for phrase in choice.phrases]  # (pieces, facts) of each
            open_ = [i for i in options if read[i][0][offset] == piece]
            before, after = (fsum(choice.probabilities[i] for i in o) for o in (options, open_))
            if not open_:
                yield piece, inf, (), choice
                return
            nats = 0.0 if len(open_) == len(options) else -log(after / before)
            facts = read[open_[0]][1][offset] if len(open_) == 1 else ()
            yield piece, nats, facts, choice
            options, offset = open_, offset + 1
            if len(read[open_[0]][0]) == offset:
                try:
                    choice = script.send(choice.values[open_[0]])
                except StopIteration:
                    choice = None
                options = None

    # ---------------------------------------------------------------- how well one can do

    def entropy(self, n: int = 2000, seed: int = 0) -> tuple[float, float]:
        """The entropy of a document in nats, and its standard error.

        The mean over n documents of the summed entropies of the choices met on the way: the
        same expectation as that of −ln p, with less spread.
        """
        _, nats = self._told(n, seed)
        return float(nats.mean()), float(nats.std(ddof=1) / n**0.5)

    def _told(self, n: int, seed: int) -> tuple[list[str], np.ndarray]:
        """The documents of stories(n, seed), and the summed entropies of each one's choices."""
        rng = np.random.default_rng([self.seed, seed])
        told = [list(self._tell(rng)) for _ in range(n)]
        texts = ["".join(phrase for phrase, _ in steps) for steps in told]
        return texts, np.array([fsum(choice.entropy() for _, choice in steps) for steps in told])

    def floor(self, tokenizer, stories: Sequence[str] | None = None, n: int = 2000) -> Floor:
        """The lowest loss that a model can have: a document's entropy over its length.

        stories: the exact loss of the perfect model on just these, to hold beside a model's
        loss on the same; without, the expectation, estimated from n documents.
        A document's tokens are counted with one for its end; bytes without.
        """
        if stories is None:
            stories, nats = self._told(n, seed=0)
        else:
            nats, n = np.array([-self.log_prob(text) for text in stories]), 0
        tokens = np.array([len(ids) + 1 for ids in tokenizer.encode_batch(stories)])
        n_bytes = sum(len(text.encode()) for text in stories)
        per_token = nats.sum() / tokens.sum()
        # The error of a ratio of two means, both taken over the same documents.
        error = (nats - per_token * tokens).std() / n**0.5 / tokens.mean() if n else 0.0
        return Floor(float(per_token), float(nats.sum() / n_bytes / log(2)), float(error))

    def validity(self, samples: Sequence[str]) -> float:
        """The share of the samples that the world could have said."""
        if not samples:
            raise ValueError("validity needs at least one sample: got none.")
        return sum(self.log_prob(text) > -inf for text in samples) / len(samples)
