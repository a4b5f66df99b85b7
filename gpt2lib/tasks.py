"""What can it do? Scores of LAMBADA, of multiple choice, and of text that a model wrote.

    B batch   T time   C channels   V vocabulary

Every task of choosing or completing is the same question, which logprobs answers: how
likely is this continuation after that context?
"""

import math
import re
import string
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from gpt2lib.model import GPT, evaluating
from gpt2lib.tokenizer import Tokenizer

# Source: Apache Lucene, EnglishAnalyzer.ENGLISH_STOP_WORDS_SET, the whole of it.
STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with".split()
)


class Scored(NamedTuple):
    """How a model takes a continuation, given its context."""

    logprob: float  # ln p of all its tokens together, in nats
    n_tokens: int
    greedy: bool  # whether each of its tokens is the likeliest after those before it


def logprobs(
    model: GPT, tokenizer: Tokenizer, pairs: Iterable[tuple[str, str]], batch_size: int = 16
) -> list[Scored]:
    """Score the second text of each pair as what follows the first.

    The two are encoded apart, so that no token lies across the border and each continuation is
    scored whole; let it begin with its blank, " word", and GPT-2's pattern would have cut there
    anyway. An empty context is the beginning of a document, eot. The model reads the last
    block_size tokens before the last one. Rows of a batch are filled up on the right, where
    causal attention never looks: a pair's score does not depend on the others.
    Raises ValueError for a continuation that is empty or longer than block_size.
    Built by hand in the chapter on evaluation.
    """
    ids = [(tokenizer.encode(old), tokenizer.encode(new)) for old, new in pairs]
    return _score(model, [(old or [tokenizer.eot], new) for old, new in ids], batch_size)


class Lambada(NamedTuple):
    """accuracy: the share of last words that the model guesses. perplexity: of a last word."""

    accuracy: float
    perplexity: float
    n: int


def lambada(
    model: GPT,
    tokenizer: Tokenizer,
    passages: Iterable[dict],
    stop_words: Collection[str] = (),
    last_token: bool = False,
    batch_size: int = 16,
) -> Lambada:
    """Guess the last word of each passage, {"text": …}, from all that is before it.

    The word is what follows the last blank, with that blank. It is guessed if each of its tokens
    is the likeliest one. Perplexity is exp of the mean of −ln p(word), all its tokens together.

    stop_words, for example STOP_WORDS, cannot be guesses: a token that is a blank and one of
    them, in lower case or capitalised, is passed over when the word's first token is guessed. It
    leaves the perplexity alone. The paper uses such a filter, since a stop word hardly ends a
    passage, but says neither how nor with which list: this is our reading of it.

    last_token=True asks only for the word's last token and gives away the others. The paper says
    "word", but its 45.99% for the small model is reported to be by token, where whole words give
    32.56%. Source: Paperno et al. 2016; Radford et al. 2019, 3.3; EleutherAI's
    lm-evaluation-harness, issues 356 and 2159, for the last two statements.
    Raises ValueError for a passage of fewer than two words. Built by hand in the chapter on
    evaluation.
    """
    pairs = []
    for passage in passages:
        before, _, word = passage["text"].rpartition(" ")
        if not before.strip() or not word:
            raise ValueError(
                "a passage needs a last word, right at its end, and one before it: got "
                f"{passage['text']!r:.80}. Strip blanks from the end."
            )
        old, new = tokenizer.encode(before), tokenizer.encode(" " + word)
        pairs.append((old + new[:-1], new[-1:]) if last_token else (old, new))
    forms = [" " + form for word in stop_words for form in (word, word.capitalize())]
    barred = [ids[0] for ids in map(tokenizer.encode, forms) if len(ids) == 1]
    scored = _score(model, pairs, batch_size, barred)
    nats = -sum(s.logprob for s in scored) / _some(len(scored))
    return Lambada(sum(s.greedy for s in scored) / len(scored), math.exp(nats), len(scored))


class MultipleChoice(NamedTuple):
    """The share of questions whose best ending, by each of three measures, is the right one."""

    accuracy: float  # by ln p of the ending
    per_token: float  # by ln p / its tokens
    per_byte: float  # by ln p / its bytes
    n: int


def multiple_choice(
    model: GPT, tokenizer: Tokenizer, questions: Iterable[dict], batch_size: int = 16
) -> MultipleChoice:
    """Choose among endings, HellaSwag's way: {"ctx": …, "endings": […], "label": index}.

    Each ending is scored after the context and a blank; the likeliest is chosen, of equals the
    first. ln p falls with every token, so a sum prefers short endings; hence also the mean by
    token (Brown et al. 2020, 2.4) and by byte, the blank not counted, which is fair between
    tokenizers (Gao 2021). The bare figure "HellaSwag accuracy" may be any of the three.
    Raises ValueError for a label that is no index of the endings.
    Source: Zellers et al. 2019. Built by hand in the chapter on evaluation.
    """
    questions = list(questions)
    pairs = [(q["ctx"], " " + ending) for q in questions for ending in q["endings"]]
    scored = iter(logprobs(model, tokenizer, pairs, batch_size))
    right = np.zeros(3)
    for q in questions:
        label, endings = int(q["label"]), q["endings"]
        if not 0 <= label < len(endings):
            raise ValueError(
                f"a label is an index, 0 to {len(endings) - 1} for these endings: got {label}."
            )
        rows = [(next(scored), len(ending.encode())) for ending in endings]
        by = [(s.logprob, s.logprob / s.n_tokens, s.logprob / size) for s, size in rows]
        right += np.argmax(by, axis=0) == label
    return MultipleChoice(*(right / _some(len(questions))).tolist(), len(questions))


class Rouge(NamedTuple):
    """F1 of words, of pairs of words, and of the longest common subsequence: 0 to 100."""

    rouge_1: float
    rouge_2: float
    rouge_l: float


def rouge(predictions: Sequence[str], references: Sequence[str]) -> Rouge:
    """How many words of each reference its prediction has, and the other way; the mean over pairs.

    By the package rouge-score, with stemming. The last is the summary-level ROUGE-L, in which
    a newline parts sentences, as in published figures on CNN/Daily Mail.
    Source: Lin 2004.
    """
    from rouge_score.rouge_scorer import RougeScorer  # here: a slow import that few need

    _check_paired(predictions, references)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)
    found = [scorer.score(ref, made) for made, ref in zip(predictions, references)]
    each = [[score.fmeasure for score in scores.values()] for scores in found]
    return Rouge(*(100 * np.mean(each, axis=0)).tolist())


def bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of the whole corpus, 0 to 100: runs of 1 to 4 tokens shared, less for brevity.

    By the package sacrebleu at its defaults (its tokenizer 13a, case counts), one reference each.
    Source: Papineni et al. 2002; Post 2018.
    """
    from sacrebleu import corpus_bleu  # here: only translation needs it

    _check_paired(predictions, references)
    return corpus_bleu(list(predictions), [list(references)]).score


def exact_match(prediction: str, *answers: str) -> bool:
    """Whether the prediction is one of the answers, but for case, punctuation and articles.

    Source: Rajpurkar et al. 2016, 6.1.
    """
    return _words(prediction) in [_words(answer) for answer in answers]


def f1(prediction: str, *answers: str) -> float:
    """How far the words agree with an answer's, 0 to 1; with the best one, where there are more.

    2 · words in common / (words of the one + of the other). Case, punctuation and articles do not
    count. If that leaves no word on either side, they agree.
    Source: Rajpurkar et al. 2016, 6.1; Rajpurkar et al. 2018 for the empty answer.
    """
    made, scores = _words(prediction), []
    for right in map(_words, answers):
        common = (Counter(made) & Counter(right)).total()
        scores.append(2 * common / (len(made) + len(right)) if made or right else 1.0)
    return max(scores)


def _words(text: str) -> list[str]:
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _score(
    model: GPT,
    pairs: list[tuple[list[int], list[int]]],
    batch_size: int,
    barred: Sequence[int] = (),
) -> list[Scored]:
    """Score pairs of ids, long ones first; an id in barred is never the likeliest first token."""
    for _, new in pairs:
        if not 1 <= len(new) <= model.config.block_size:
            raise ValueError(
                f"a continuation must have 1 to block_size={model.config.block_size} tokens: got "
                f"{len(new)}."
            )
    order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
    scored = {}
    for first in range(0, len(order), batch_size):
        some = order[first : first + batch_size]
        scored.update(zip(some, _score_batch(model, [pairs[i] for i in some], barred)))
    return [scored[i] for i in range(len(pairs))]


def _score_batch(model: GPT, pairs, barred: Sequence[int]) -> Iterable[Scored]:
    device = model.wte.weight.device
    rows = [(old + new)[-model.config.block_size - 1 :] for old, new in pairs]
    shape = len(rows), max(map(len, rows)) - 1
    idx, targets = torch.zeros(shape, dtype=torch.int64), torch.full(shape, -1)  # (B, T)
    for b, (row, (_, new)) in enumerate(zip(rows, pairs)):
        idx[b, : len(row) - 1] = torch.tensor(row[:-1])
        targets[b, len(row) - 1 - len(new) : len(row) - 1] = torch.tensor(new)
    idx, targets = idx.to(device), targets.to(device)
    asked = targets != -1
    with evaluating(model):
        x = model.hidden(idx)[asked]  # (N, C): the head, most of the work, reads no others
        logits = F.linear(x, model.wte.weight)  # (N, V)
    targets, counts = targets[asked], [len(new) for _, new in pairs]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # bfloat16 loses a sum
    nats = F.cross_entropy(logits, targets, reduction="none")  # (N,)
    for first in np.cumsum([0, *counts[:-1]]):
        logits[first, barred] = -torch.inf
    greedy = logits.argmax(-1) == targets
    for lost, hits in zip(nats.split(counts), greedy.split(counts)):
        yield Scored(-lost.sum().item(), len(hits), bool(hits.all()))


def _some(count: int) -> int:
    if not count:
        raise ValueError("a score needs at least one question: got none.")
    return count


def _check_paired(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references) or not len(predictions):
        raise ValueError(
            f"each prediction needs one reference, and a score one of each: got {len(predictions)} "
            f"predictions, {len(references)} references."
        )
