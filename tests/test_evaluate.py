"""gpt2lib.evaluate against sums written out by hand."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from gpt2lib import evaluate
from gpt2lib.config import GPTConfig
from gpt2lib.model import GPT

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
