"""gpt2lib.evaluate against sums written out by hand."""

import math
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2lib import evaluate
from gpt2lib.config import GPTConfig
from gpt2lib.model import GPT
from gpt2lib.tokenizer import gpt2

torch.set_num_threads(1)
V = 11


def gpt(dropout=0.0):
    torch.manual_seed(0)
    config = GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=8, vocab_size=V, dropout=dropout)
    return GPT(config).double()


def rows():
    """Three batches of unequal size, the last with holes."""
    ids = torch.randint(V, (6, 8), generator=torch.Generator().manual_seed(1))
    targets = torch.randint(V, (6, 8), generator=torch.Generator().manual_seed(2))
    targets[3:, 5:] = -1
    targets[5] = -1
    return list(zip(ids.split([1, 3, 2]), targets.split([1, 3, 2])))


def nats(model, idx, targets):
    """−ln p of each counted target, read off the logits one by one."""
    p = model(idx).softmax(-1).tolist()
    places = (targets != -1).nonzero().tolist()
    return {(b, t): -math.log(p[b][t][targets[b, t]]) for b, t in places}


def test_the_loss_weighs_each_target_the_same():
    model = gpt()
    each = [v for idx, targets in rows() for v in nats(model, idx, targets).values()]
    assert evaluate.loss(model, rows()) == pytest.approx(sum(each) / len(each), rel=1e-6)


def test_the_loss_is_told_without_dropout_and_leaves_training_on():
    model = gpt(dropout=0.5)
    assert evaluate.loss(model, rows()) == evaluate.loss(model, iter(rows()))
    assert model.training and all(p.grad is None for p in model.parameters())


def test_token_losses_are_the_loss_target_by_target():
    model = gpt()
    for idx, targets in rows():
        losses = evaluate.token_losses(model, idx, targets)
        expected = torch.zeros(idx.shape, dtype=torch.float64)
        for (b, t), value in nats(model, idx, targets).items():
            expected[b, t] = value
        torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-6)
        assert not losses.requires_grad


@pytest.mark.parametrize("n", [2, 8, 9, 10, 33, 40, 41])
def test_windows_ask_for_each_token_but_the_first_once_in_order(n):
    tokens = np.arange(100, 100 + n).astype(np.uint16)
    batches = list(evaluate.windows(tokens, batch_size=2, block_size=8))
    assert all(i.shape == t.shape and len(i) <= 2 and i.shape[1] == 8 for i, t in batches)
    asked = torch.cat([targets[targets != -1] for _, targets in batches])
    read = torch.cat([idx[targets != -1] for idx, targets in batches])
    assert asked.tolist() == list(range(101, 100 + n))
    assert read.tolist() == list(range(100, 99 + n))


@pytest.mark.parametrize("n", [0, 1, 2, 8, 9, 10, 16, 17, 33, 41])
@pytest.mark.parametrize("stride", [1, 3, 5, 7, 8])
def test_sliding_windows_ask_for_each_token_but_the_first_once_in_order(n, stride):
    tokens = np.arange(100, 100 + n).astype(np.uint16)
    batches = list(evaluate.windows(tokens, batch_size=3, block_size=8, stride=stride))
    assert all(i.shape == t.shape and len(i) <= 3 and i.shape[1] == 8 for i, t in batches)
    asked = torch.cat([torch.tensor([]), *(targets[targets != -1] for _, targets in batches)])
    assert asked.tolist() == list(range(101, 100 + n))


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_past_the_first_window_each_target_sees_block_size_less_stride_and_one(stride):
    tokens = np.arange(100, 141).astype(np.uint16)
    rows = [
        row for batch in evaluate.windows(tokens, 2, 8, stride) for row in zip(*map(list, batch))
    ]
    for at, (idx, targets) in enumerate(rows):
        (places,) = (targets != -1).nonzero(as_tuple=True)
        assert len(places) and (at == 0 or places[0] == 8 - stride)
        assert idx[0] == 100 + at * stride
        assert torch.equal(targets[places], idx[places] + 1)  # the text counts up by one
        assert torch.equal(idx[: places[-1] + 1].diff(), torch.ones(places[-1], dtype=torch.int64))


def test_the_loss_of_sliding_windows_is_that_of_each_token_after_its_window():
    model = gpt().eval()
    tokens = np.random.default_rng(3).integers(0, V, 30).astype(np.uint16)
    total = 0.0
    for at in range(1, 30):
        window = 0 if at <= 8 else -(-(at - 8) // 3) * 3  # the first window that reaches it
        p = model(torch.tensor([tokens[window:at].tolist()]))[0, -1].softmax(-1)
        total -= math.log(p[int(tokens[at])].item())
    loss = evaluate.loss(model, evaluate.windows(tokens, 4, 8, stride=3))
    assert loss == pytest.approx(total / 29, rel=1e-6)


@pytest.mark.parametrize("stride", [0, 9, -1])
def test_a_stride_that_would_skip_tokens_is_refused(stride):
    with pytest.raises(ValueError, match=f"stride must be 1 to block_size=8.*got {stride}"):
        list(evaluate.windows(np.zeros(20, np.uint16), 2, 8, stride))


def test_perplexity_of_a_fair_die_is_six():
    assert evaluate.perplexity(math.log(6)) == pytest.approx(6)


def test_a_uniform_guess_of_bytes_costs_eight_bits_a_byte():
    assert evaluate.bits_per_byte(math.log(256), 100, 100) == pytest.approx(8)
    assert evaluate.bits_per_byte(math.log(4), 50, 200) == pytest.approx(0.5)


def test_the_unigram_is_the_smoothed_share_of_each_token():
    train = np.array([0, 0, 0, 1, 5], dtype=np.uint16)
    counts = Counter(train.tolist())
    targets = [v for _, t in rows() for v in t.flatten().tolist() if v != -1]
    each = [-math.log((counts[v] + 1) / (5 + V)) for v in targets]
    assert evaluate.unigram_loss(train, rows(), V) == pytest.approx(sum(each) / len(each))


@pytest.mark.parametrize("strength", [1.0, 7.5])
def test_the_bigram_falls_back_on_the_unigram(strength):
    train = np.random.default_rng(0).integers(0, V - 2, 300).astype(np.uint16)
    ones, pairs = Counter(train.tolist()), Counter(zip(train.tolist(), train[1:].tolist()))
    before = Counter(train[:-1].tolist())
    each = []
    for idx, targets in rows():
        for u, v in zip(idx.flatten().tolist(), targets.flatten().tolist()):
            if v != -1:
                p = (ones[v] + 1) / (300 + V)
                each.append(-math.log((pairs[u, v] + strength * p) / (before[u] + strength)))
    loss = evaluate.bigram_loss(train, rows(), V, strength)
    assert loss == pytest.approx(sum(each) / len(each))


def test_the_baselines_are_distributions():
    train = np.random.default_rng(0).integers(0, V, 50).astype(np.uint16)
    for u in range(V):
        each = torch.arange(V)[:, None]
        old = torch.full_like(each, u)
        pairs = [[(old[v : v + 1], each[v : v + 1])] for v in range(V)]
        for guess in (evaluate.unigram_loss, evaluate.bigram_loss):
            assert sum(math.exp(-guess(train, pair, V)) for pair in pairs) == pytest.approx(1)


def test_on_a_chain_the_bigram_beats_the_unigram():
    train = np.tile(np.arange(V, dtype=np.uint16), 40)
    idx = torch.arange(8)[None]
    batches = [(idx, idx + 1)]
    assert evaluate.bigram_loss(train, batches, V) < 0.1 < evaluate.unigram_loss(train, batches, V)


def test_large_vocabularies_need_no_square_table():
    train = np.array([50_000, 50_256, 50_000, 50_256], dtype=np.uint16)
    batches = [(torch.tensor([[50_000]]), torch.tensor([[50_256]]))]
    assert evaluate.bigram_loss(train, batches, 50_257) < 0.5


@pytest.mark.parametrize("batches", [[], [(torch.zeros(1, 2).long(), torch.full((1, 2), -1))]])
def test_a_loss_over_nothing_is_refused(batches):
    train = np.array([0, 1], dtype=np.uint16)
    for ask in (
        lambda: evaluate.loss(gpt(), batches),
        lambda: evaluate.unigram_loss(train, batches, V),
        lambda: evaluate.bigram_loss(train, batches, V),
    ):
        with pytest.raises(ValueError, match="at least one target"):
            ask()


# By the text's own units ------------------------------------------------------------------


def wikitext2(split):
    """(text, its published number of words). Source: Merity et al. 2017, table 1."""
    name, words = f"wikitext2-{split}.txt", {"valid": 217_646, "test": 245_569}
    for folder in (os.environ.get("GPT2LIB_CACHE"), Path(__file__).parents[2] / "shared" / "data"):
        if folder and (Path(folder) / name).exists():
            return (Path(folder) / name).read_text(encoding="utf-8"), words[split]
    pytest.skip(f"{name} is neither in $GPT2LIB_CACHE nor in ../shared/data")


def test_words_are_parted_by_blanks_and_each_line_ends_in_one_more():
    assert evaluate.n_words(" = <unk> = \n \n a , b \n") == 3 + 1 + 1 + 3 + 1
    assert evaluate.n_words("") == 0 and evaluate.n_words("no end") == 2


@pytest.mark.parametrize("split", ["valid", "test"])
def test_wikitext_has_the_published_number_of_words(split):
    text, words = wikitext2(split)
    assert evaluate.n_words(text) == words


def test_a_text_costs_the_same_in_every_unit():
    text, _ = wikitext2("valid")
    text = evaluate.detokenize_wikitext(text[:4_000])
    tokens = np.array([50_256, *gpt2().encode(text)], dtype=np.uint16)
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=64))
    n, words, size = len(tokens) - 1, evaluate.n_words(text), len(text.encode())
    batches = list(evaluate.windows(tokens, 8, 64, stride=48))
    nats = evaluate.loss(model, batches)
    total = sum(float(evaluate.token_losses(model, *batch).sum()) for batch in batches)
    a_word = evaluate.nats_per_unit(nats, n, words)
    assert nats * n == pytest.approx(total, rel=1e-5)
    assert a_word * words == pytest.approx(total, rel=1e-5)
    assert evaluate.bits_per_byte(nats, n, size) * math.log(2) * size == pytest.approx(
        total, rel=1e-5
    )
    # perplexity ^ count is 1 / p(text) in each unit
    assert words * math.log(evaluate.perplexity(a_word)) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    "raw, plain",
    [
        (" = Du Fu = \n", "= Du Fu =\n"),
        (" = = = Early years = = = \n \n", "=== Early years ===\n\n"),
        (" = = Me = = O is = = = \n", "== Me == O is ===\n"),
        (" a = = b \n", "a = = b\n"),
        (" 1 @,@ 000 to 2 @.@ 5 co @-@ op ", "1,000 to 2.5 co-op"),
        (" one , two ; three : four . Five ! Six ? ", "one, two; three: four. Five! Six?"),
        (" at 18 : 05 , 5 – 6 km , but 5 – a ", "at 18:05, 5–6 km, but 5 – a"),
        (" ( 24 in ) [ sic ] 50 % of $ 3 and # 2 ", "(24 in) [sic] 50% of $3 and #2"),
        (" ( ( a ) , b ) . ", "((a), b)."),
        (" US$ 3 , f( x ) and = $ 4 ", "US$ 3, f( x) and = $4"),
        (' he said " <unk> red " , " yes . " ', 'he said "<unk> red", "yes."'),
        (' ( " it " ) " a " b " ', '("it") "a" b "'),
        (
            " it 's , isn 't , we 're , I 'm , I 'll , I 've , I 'd ",
            "it's, isn't, we're, I'm, I'll, I've, I'd",
        ),
        (" he ... went .22 'state . ", "he... went .22 'state."),
        (" the dogs ' tails , ' so ' ", "the dogs ' tails, ' so '"),
    ],
)
def test_wikitext_is_written_as_wikipedia_is(raw, plain):
    assert evaluate.detokenize_wikitext(raw) == plain


@pytest.mark.parametrize("split", ["valid", "test"])
def test_no_two_lines_of_wikitext_become_one_and_only_blanks_and_at_signs_go(split):
    text, _ = wikitext2(split)
    plain = evaluate.detokenize_wikitext(text)
    assert re.sub("[ @]", "", plain) == re.sub("[ @]", "", text)
    lines, made = text.split("\n"), plain.split("\n")
    assert len(lines) == len(made)
    assert len(set(made)) == len({line.strip() for line in lines})
    assert evaluate.detokenize_wikitext(plain) == plain
    # fewer tokens, and each a likelier one
    assert 0.9 < len(gpt2().encode(plain)) / len(gpt2().encode(text)) < 0.95


def test_the_penn_treebank_gets_its_blanks_back():
    raw = " the company 's stock did n't gain $ N or c$ N or N % of <unk> \n its owners ' yes \n"
    plain = "the company's stock didn't gain $N or c$N or N% of <unk>\nits owners' yes\n"
    assert evaluate.detokenize_ptb(raw) == plain
    assert evaluate.detokenize_ptb(plain) == plain


# How sure -----------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_about_two_standard_errors_to_each_side():
    values = np.random.default_rng(0).normal(5, 2, 400)
    got = evaluate.interval(values)
    error = values.std() / 20
    assert got.value == pytest.approx(values.mean())
    assert got.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert got.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng, hits, tries = np.random.default_rng(0), 0, 60
    for seed in range(tries):
        got = evaluate.interval(rng.random(50) < 0.3, level=0.8, seed=seed)
        hits += got.low <= 0.3 <= got.high
    assert 0.65 < hits / tries < 0.95


def test_a_score_of_a_corpus_weighs_its_parts_by_their_size():
    nats, words = [30.0, 10.0, 80.0, 21.0], [10, 2, 20, 7]
    got = evaluate.interval(nats, words, level=0.9)
    assert got.value == pytest.approx(141 / 39) and got.low < got.value < got.high
    draws = np.random.default_rng(1).integers(0, 4, (20_000, 4))
    ratios = np.array(nats)[draws].sum(1) / np.array(words)[draws].sum(1)
    np.testing.assert_allclose(got[1:], np.quantile(ratios, [0.05, 0.95]), atol=0.02)


def test_the_interval_of_a_sure_thing_has_no_width():
    assert evaluate.interval([3.0, 6.0, 9.0], [1, 2, 3]) == (3, 3, 3)


def test_an_interval_is_the_same_for_the_same_seed():
    values = np.random.default_rng(0).exponential(size=30)
    one, same, other = (evaluate.interval(values, seed=seed) for seed in (1, 1, 2))
    assert one == same != other and one.value == other.value


@pytest.mark.parametrize("values, weights", [([1.0], None), ([[1.0, 2.0]], None), ([1, 2], [1])])
def test_an_interval_needs_two_values_and_a_weight_for_each(values, weights):
    with pytest.raises(ValueError, match="two values or more in a row"):
        evaluate.interval(values, weights)
