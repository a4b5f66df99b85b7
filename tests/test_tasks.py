"""gpt2lib.tasks: each score against a loop over single tokens, or another package's."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from gpt2lib import tasks
from gpt2lib.config import GPTConfig
from gpt2lib.model import GPT
from gpt2lib.tokenizer import Tokenizer, gpt2

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer([*(bytes([b]) for b in range(256)), b" t", b"he", b" the", *more()])


def more():
    """Merges that make whole words into tokens."""
    return [b"Th", b"at", b" T", b" Th", b" The", b" c", b" cat", b" m", b" mat", b" s", b" sat"]


def gpt(tokenizer, block_size=12, seed=0):
    torch.manual_seed(seed)
    shape = dict(n_layer=2, n_head=2, n_embd=16, block_size=block_size, dropout=0.5)
    model = GPT(GPTConfig(vocab_size=tokenizer.n_vocab, **shape)).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


class Favourite(torch.nn.Module):
    """After each token, by far the likeliest next one is given by a table: {last id: scores}."""

    def __init__(self, tokenizer, after, block_size=64):
        super().__init__()
        V = tokenizer.n_vocab
        self.config = GPTConfig(1, 1, V, block_size, V)
        self.wte = torch.nn.Embedding.from_pretrained(torch.eye(V, dtype=torch.float64))
        self.table = torch.zeros(V, V, dtype=torch.float64)
        for last, scores in after.items():
            for token, score in scores.items():
                self.table[last, token] = score

    def hidden(self, idx):
        return self.table[idx]


@torch.no_grad()
def by_hand(model, old, new):
    """(ln p of new after old, whether all of it is likeliest), by a model call for each token."""
    model.eval()
    total, greedy = 0.0, True
    cut = max(0, len(old) + len(new) - 1 - model.config.block_size)
    for i, token in enumerate(new):
        p = model(torch.tensor([(old + new[:i])[cut:]]))[0, -1].softmax(-1)
        total += math.log(p[token])
        greedy = greedy and bool((p <= p[token]).all())
    model.train()
    return total, greedy


PAIRS = [
    ("the cat sat", " on"),
    ("", "The cat"),
    ("a", " the mat"),
    ("the cat sat on the mat and the cat sat", " on the mat"),
    ("x", "y"),
]


# Likelihood of a continuation ------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_a_continuation_is_scored_as_its_tokens_are_one_by_one(tokenizer, batch_size):
    model = gpt(tokenizer)
    for (old, new), got in zip(PAIRS, tasks.logprobs(model, tokenizer, PAIRS, batch_size)):
        new = tokenizer.encode(new)
        logprob, greedy = by_hand(model, tokenizer.encode(old) or [tokenizer.eot], new)
        assert got.logprob == pytest.approx(logprob, rel=1e-9)
        assert (got.n_tokens, got.greedy) == (len(new), greedy)


def test_a_pair_scores_the_same_whatever_is_beside_it(tokenizer):
    model = gpt(tokenizer)
    alone = [tasks.logprobs(model, tokenizer, [pair])[0] for pair in PAIRS]
    for some in (PAIRS, PAIRS[::-1]):
        together = tasks.logprobs(model, tokenizer, some)
        for pair, got in zip(some, together):
            one = alone[PAIRS.index(pair)]
            assert got.logprob == pytest.approx(one.logprob, rel=1e-12) and got[1:] == one[1:]


def test_scoring_is_without_dropout_and_leaves_training_on(tokenizer):
    model = gpt(tokenizer)
    first, second = (tasks.logprobs(model, tokenizer, PAIRS) for _ in range(2))
    assert first == second and model.training


def test_greedy_means_each_token_is_the_likeliest(tokenizer):
    t, h, a = b"tha"
    model = Favourite(tokenizer, {0: {t: 5}, t: {h: 5}, h: {a: 5}})
    pairs = [(chr(0), "tha"), (chr(0), "th"), (chr(0), "tht"), (chr(0), "aha"), (chr(0), "t")]
    assert [s.greedy for s in tasks.logprobs(model, tokenizer, pairs)] == [
        True,
        True,
        False,
        False,
        True,
    ]


def test_a_long_context_loses_its_beginning_only(tokenizer):
    model = gpt(tokenizer)
    long, cut = "zzzzqwertyuiopasdf", "wertyuiopasdf"  # block_size is 12, and the last is not read
    long, cut = (tasks.logprobs(model, tokenizer, [(old, "!")])[0] for old in (long, cut[-12:]))
    assert long.logprob == pytest.approx(cut.logprob, rel=1e-12)
    other = tasks.logprobs(model, tokenizer, [("ertyuiopasdf"[1:], "!")])[0]
    assert other.logprob != pytest.approx(cut.logprob, rel=1e-6)


def test_a_continuation_may_fill_the_block_but_no_more(tokenizer):
    model = gpt(tokenizer)
    (got,) = tasks.logprobs(model, tokenizer, [("ab", "x" * 12)])
    assert got.logprob == pytest.approx(by_hand(model, list(b"ab"), list(b"x" * 12))[0])
    for new in ("x" * 13, ""):
        with pytest.raises(ValueError, match=f"1 to block_size=12 tokens: got {len(new)}"):
            tasks.logprobs(model, tokenizer, [("ab", new)])


def test_all_continuations_of_one_token_are_a_distribution(tokenizer):
    model = gpt(tokenizer)
    every = tasks._score(model, [(list(b"ab"), [v]) for v in range(tokenizer.n_vocab)], 64)
    assert sum(math.exp(s.logprob) for s in every) == pytest.approx(1)
    assert sum(s.greedy for s in every) == 1


def test_with_its_blank_a_word_has_the_ids_it_has_in_the_text():
    for before, word in [
        ("I saw the", " cat"),
        ("He said,", ' "no'),
        ("a\n", " b"),
        ("it", " isn't"),
    ]:
        assert gpt2().encode(before) + gpt2().encode(word) == gpt2().encode(before + word)
    assert gpt2().encode("I saw the ") + gpt2().encode("cat") != gpt2().encode("I saw the cat")


# LAMBADA ----------------------------------------------------------------------------------


def test_lambada_counts_whole_words_and_their_perplexity(tokenizer):
    model = gpt(tokenizer, block_size=40)
    passages = [{"text": text} for text in ("the cat sat", "on the mat", "a b c", "x\nthe end")]
    got = tasks.lambada(model, tokenizer, passages)
    scored = [
        by_hand(model, *(tokenizer.encode(t) for t in pair))
        for pair in [("the cat", " sat"), ("on the", " mat"), ("a b", " c"), ("x\nthe", " end")]
    ]
    assert got.perplexity == pytest.approx(math.exp(-sum(lp for lp, _ in scored) / 4), rel=1e-9)
    assert got.accuracy == sum(g for _, g in scored) / 4 and got.n == 4


def test_lambada_asks_for_all_tokens_of_the_word_or_only_for_its_last(tokenizer):
    (s,) = tokenizer.encode(" s")
    model = Favourite(
        tokenizer, {ord("x"): {ord("!"): 9}, s: {ord("o"): 9}, ord("o"): {ord("n"): 9}}
    )
    passages = [{"text": "x son"}, {"text": "x so"}, {"text": "x sn"}]
    assert tasks.lambada(model, tokenizer, passages).accuracy == 0
    last = tasks.lambada(model, tokenizer, passages, last_token=True)
    assert last.accuracy == 2 / 3
    p = [math.exp(score) / (math.exp(9) + tokenizer.n_vocab - 1) for score in (9, 9, 0)]
    assert last.perplexity == pytest.approx(math.prod(p) ** (-1 / 3))


def test_the_stop_word_filter_passes_over_stop_words_and_takes_the_next_best(tokenizer):
    the, The, cat, t = (tokenizer.encode(w)[0] for w in (" the", " The", " cat", " t"))
    assert len(tokenizer.encode(" then")) == 2
    x, he, n = ord("x"), tokenizer.encode("he")[0], ord("n")
    model = Favourite(tokenizer, {x: {the: 9, The: 8, cat: 7, t: 6}, the: {n: 9}, t: {he: 9}})
    passages = [{"text": "x cat"}, {"text": "x the"}]
    plain = tasks.lambada(model, tokenizer, passages)
    filtered = tasks.lambada(model, tokenizer, passages, tasks.STOP_WORDS)
    assert (plain.accuracy, filtered.accuracy) == (0.5, 0.5)
    assert plain.perplexity == filtered.perplexity
    cat_alone, the_alone = ([p] for p in passages)
    for stop_words, hits in (((), (0, 1)), (tasks.STOP_WORDS, (1, 0)), (["The"], (0, 1))):
        got = [
            tasks.lambada(model, tokenizer, p, stop_words).accuracy for p in (cat_alone, the_alone)
        ]
        assert tuple(got) == hits
    # "then" begins with the token of a stop word here, and so cannot be guessed
    then = [{"text": "x then"}]
    assert tasks.lambada(model, tokenizer, then).accuracy == 1
    assert tasks.lambada(model, tokenizer, then, tasks.STOP_WORDS).accuracy == 0


def test_the_filter_concerns_the_first_token_of_each_row_alone(tokenizer):
    the, s = tokenizer.encode(" the")[0], tokenizer.encode(" s")[0]
    model = Favourite(tokenizer, {ord("x"): {s: 9}, s: {the: 9, ord("o"): 8}, ord("o"): {the: 9}})
    scored = tasks._score(model, [([ord("x")], [s, the]), ([s], [ord("o"), the])], 2, [the])
    assert [s.greedy for s in scored] == [True, True]


def test_the_stop_words_are_lucenes_thirty_three():
    assert len(tasks.STOP_WORDS) == 33 and {"the", "a", "with"} < tasks.STOP_WORDS


@pytest.mark.parametrize("text", ["word", " word", "a trailing blank ", ""])
def test_a_passage_without_a_last_word_is_refused(tokenizer, text):
    with pytest.raises(ValueError, match="needs a last word, right at its end"):
        tasks.lambada(gpt(tokenizer), tokenizer, [{"text": text}])


def lambada_file():
    for folder in (os.environ.get("GPT2LIB_CACHE"), Path(__file__).parents[2] / "shared" / "data"):
        if folder and (Path(folder) / "lambada_test.jsonl").exists():
            return Path(folder) / "lambada_test.jsonl"
    pytest.skip("lambada_test.jsonl is neither in $GPT2LIB_CACHE nor in ../shared/data")


def lambada_passages():
    return [json.loads(line) for line in lambada_file().read_text(encoding="utf-8").splitlines()]


def test_on_lambada_a_small_random_model_scores_as_one_token_after_the_other():
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=256)).double()
    passages = lambada_passages()[:50]
    got = tasks.lambada(model, gpt2(), passages, batch_size=7)
    total, hits = 0.0, 0
    for passage in passages:
        ids, word = gpt2().encode(passage["text"]), " " + passage["text"].split(" ")[-1]
        n = len(gpt2().encode(word))
        logprob, greedy = by_hand(model, ids[:-n], ids[-n:])
        total, hits = total + logprob, hits + greedy
    assert got.perplexity == pytest.approx(math.exp(-total / 50), rel=1e-9)
    assert (got.accuracy, got.n) == (hits / 50, 50)
    assert 1e4 < got.perplexity


def test_on_lambada_context_and_word_encode_apart_as_they_do_together():
    passages = lambada_passages()
    assert len(passages) == 5153
    texts = [passage["text"] for passage in passages]
    before, words = zip(*(text.rsplit(" ", 1) for text in texts))
    tokenizer = gpt2()
    for text, old, word in zip(texts, before, words):
        assert tokenizer.encode(text) == tokenizer.encode(old) + tokenizer.encode(" " + word)


# Multiple choice --------------------------------------------------------------------------


def test_multiple_choice_takes_the_best_ending_by_sum_by_token_and_by_byte(tokenizer):
    model = gpt(tokenizer, block_size=64)
    endings = ["the mat.", "a b c d e f", "cat", "éé"]
    questions = [{"ctx": "the cat sat on", "endings": endings, "label": i} for i in range(4)]
    questions.append({"ctx": "x", "endings": ["mat", "the the the the"], "label": "1"})
    right = [0, 0, 0]
    for q in questions:
        ids = [tokenizer.encode(" " + e) for e in q["endings"]]
        sums = [by_hand(model, tokenizer.encode(q["ctx"]), new)[0] for new in ids]
        sizes = [[1] * len(ids), map(len, ids), [len(e.encode()) for e in q["endings"]]]
        for k, size in enumerate(sizes):
            means = [s / n for s, n in zip(sums, size)]
            right[k] += means.index(max(means)) == int(q["label"])
    got = tasks.multiple_choice(model, tokenizer, questions, batch_size=3)
    assert got == (*(r / 5 for r in right), 5)


def test_the_three_measures_can_choose_three_endings(tokenizer):
    the, cat, sat, mat = (tokenizer.encode(w)[0] for w in (" the", " cat", " sat", " mat"))
    x, blank, a, b = b"x ab"
    sure = {" the": 0.5, " bbbb": 0.16, " cat sat mat": 0.1}  # probability after x
    certain = {x: {the: 0.5, blank: 0.4, cat: 0.1}, blank: {a: 0.6, b: 0.4}, b: {b: 1}}
    certain |= {cat: {sat: 1}, sat: {mat: 1}}
    model = Favourite(tokenizer, {})
    model.table[:] = -60
    for last, row in certain.items():
        for token, p in row.items():
            model.table[last, token] = math.log(p)
    scored = tasks.logprobs(model, tokenizer, [("x", ending) for ending in sure])
    assert [math.exp(s.logprob) for s in scored] == pytest.approx(list(sure.values()))
    assert [s.n_tokens for s in scored] == [1, 5, 3]
    for label, chosen in enumerate([(1, 0, 0), (0, 1, 0), (0, 0, 1)]):
        q = {"ctx": "x", "endings": [ending[1:] for ending in sure], "label": label}
        assert tasks.multiple_choice(model, tokenizer, [q]) == (*chosen, 1)


def test_an_ending_is_as_long_as_its_bytes_not_its_characters(tokenizer):
    first, second = "é".encode()
    model = Favourite(tokenizer, {ord("x"): {ord(" "): 99}, first: {second: 99}})
    model.table[ord(" ")] = -60
    model.table[ord(" "), ord("a")], model.table[ord(" "), first] = math.log(0.6), math.log(0.4)
    q = {"ctx": "x", "endings": ["a", "é"], "label": 1}  # a byte: ln 0.4 / 2 > ln 0.6
    assert tasks.multiple_choice(model, tokenizer, [q]) == (0, 0, 1, 1)


@pytest.mark.parametrize("label", [-1, 2, "7"])
def test_a_label_that_is_no_ending_is_refused(tokenizer, label):
    with pytest.raises(ValueError, match=f"an index, 0 to 1 for these endings: got {label}"):
        q = {"ctx": "x", "endings": ["a", "b"], "label": label}
        tasks.multiple_choice(gpt(tokenizer), tokenizer, [q])


def test_a_score_of_nothing_is_refused(tokenizer):
    model = gpt(tokenizer)
    for ask in (tasks.lambada, tasks.multiple_choice):
        with pytest.raises(ValueError, match="at least one question"):
            ask(model, tokenizer, [])
    for ask in (tasks.rouge, tasks.bleu):
        for pair in (([], []), (["a"], ["a", "b"])):
            with pytest.raises(ValueError, match="each prediction needs one reference"):
                ask(*pair)


# What a model wrote -----------------------------------------------------------------------


def test_rouge_counts_words_pairs_and_the_longest_common_subsequence():
    got = tasks.rouge(["the cat sat down"], ["the dog sat"])
    assert got.rouge_1 == pytest.approx(100 * 2 * 2 / (4 + 3))
    assert got.rouge_2 == 0
    assert got.rouge_l == pytest.approx(100 * 2 * 2 / (4 + 3))
    two = tasks.rouge(["a b c", "x"], ["c a b", "x y"])
    assert two.rouge_1 == pytest.approx((100 + 100 * 2 / 3) / 2)
    assert two.rouge_2 == pytest.approx((50 + 0) / 2)
    assert two.rouge_l == pytest.approx((100 * 2 / 3 + 100 * 2 / 3) / 2)


def test_rouge_l_takes_the_sentences_of_a_summary_in_any_order():
    made, reference = "a b c\nd e f", "d e f\na b c"
    assert tasks.rouge([made], [reference]).rouge_l == 100
    assert tasks.rouge([made.replace("\n", " ")], [reference.replace("\n", " ")]).rouge_l == 50


def test_rouge_l_goes_by_the_sentences_of_the_reference():
    assert tasks.rouge(["b\nb"], ["b b"]).rouge_l == 50  # both find the same b
    assert tasks.rouge(["b b"], ["b\nb"]).rouge_l == 100


def test_rouge_stems():
    assert tasks.rouge(["cats running"], ["cat run"]).rouge_1 == 100


def test_bleu_is_the_geometric_mean_of_precisions_less_for_brevity():
    reference = "the quick brown fox jumps over the dog"
    assert tasks.bleu([reference], [reference]) == pytest.approx(100)
    made = "the quick brown fox jumps over"
    assert tasks.bleu([made], [reference]) == pytest.approx(100 * math.exp(1 - 8 / 6))
    made = "the quick brown fox sees over the dog"
    parts = (7 / 8) * (5 / 7) * (3 / 6) * (1 / 5)
    assert tasks.bleu([made], [reference]) == pytest.approx(100 * parts**0.25)


def test_bleu_is_of_the_corpus_not_the_mean_of_its_sentences():
    made = ["the quick brown fox", "a b c d e f g x"]
    references = ["the quick brown fox", "a b c d e f g h"]
    parts = (11 / 12) * (9 / 10) * (7 / 8) * (5 / 6)
    assert tasks.bleu(made, references) == pytest.approx(100 * parts**0.25)


@pytest.mark.parametrize(
    "prediction, answers, exact, f1",
    [
        ("Paris", ["paris"], True, 1),
        ("the Paris.", ["Paris"], True, 1),
        ("An answer,  a THE thing!", ["answer thing"], True, 1),
        ("in Paris", ["Paris"], False, 2 / 3),
        ("red red blue", ["red blue blue"], False, 2 * 2 / 6),
        ("London", ["Paris"], False, 0),
        ("in Paris", ["London", "Paris, France", "in paris"], True, 1),
        ("in Paris", ["London", "Paris", "Paris, France"], False, 2 / 3),
        ("", [""], True, 1),
        ("the", ["a"], True, 1),
        ("", ["Paris"], False, 0),
        ("Paris", [""], False, 0),
        ("atheist", ["ist"], False, 0),
        ("blue red", ["red blue"], False, 1),
        ("u.s.", ["US"], True, 1),
    ],
)
def test_exact_match_and_f1_as_squad_defines_them(prediction, answers, exact, f1):
    assert tasks.exact_match(prediction, *answers) is exact
    assert tasks.f1(prediction, *answers) == pytest.approx(f1)
