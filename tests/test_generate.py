"""gpt2lib.generate: samples follow their law, filters keep what they say."""

import itertools
import math

import pytest
import torch

from gpt2lib.config import GPTConfig
from gpt2lib.generate import filter_logits, generate, left_padded, stream
from gpt2lib.model import GPT

torch.set_num_threads(1)
INF = math.inf


def gpt(V=7, seed=0):
    torch.manual_seed(seed)
    model = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=6, vocab_size=V))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.6)
    return model


def kept(logits, **filters):
    return torch.isfinite(filter_logits(logits, **filters)).nonzero()[:, -1].tolist()


def law(logits, temperature, top_k, top_p):
    """The distribution by plain Python: sort, cut, cut, normalise."""
    weights = {v: math.exp(z / temperature) for v, z in enumerate(logits)}
    ranked = sorted(weights, key=lambda v: (-weights[v], v))[:top_k]
    total, nucleus, reached = sum(weights[v] for v in ranked), [], 0.0
    for v in ranked:
        nucleus.append(v)
        reached += weights[v] / total
        if top_p is not None and reached >= top_p:
            break
    total = sum(weights[v] for v in nucleus)
    return [weights[v] / total if v in nucleus else 0.0 for v in weights]


SETTINGS = list(
    itertools.product((1.0, 0.7, 2.5), (None, 1, 3, 7, 99), (None, 0.05, 0.6, 0.99, 1.0))
)


@pytest.mark.parametrize("temperature, top_k, top_p", SETTINGS)
def test_the_filters_make_the_law_that_they_say(temperature, top_k, top_p):
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    p = filter_logits(logits, temperature, top_k, top_p).softmax(-1)
    for row, z in zip(p.tolist(), logits.tolist()):
        assert row == pytest.approx(law(z, temperature, top_k, top_p), abs=1e-5)


@pytest.mark.parametrize(
    "temperature, top_k, top_p",
    [(1.0, None, None), (0.8, 4, None), (1.3, None, 0.8), (1.0, 5, 0.9)],
)
def test_samples_follow_the_law_of_the_model(temperature, top_k, top_p):
    model, N = gpt(), 4000
    prompt = torch.tensor([[3, 1]])
    p = law(model(prompt)[0, -1].tolist(), temperature, top_k, top_p)
    generator = torch.Generator().manual_seed(2)
    out = generate(model, prompt.repeat(N, 1), 1, temperature, top_k, top_p, generator)
    counts = torch.bincount(out[:, -1], minlength=7).tolist()
    assert all(n == 0 for n, share in zip(counts, p) if share == 0)
    chi2 = sum((n - N * share) ** 2 / (N * share) for n, share in zip(counts, p) if share)
    assert chi2 < 22.5  # 6 degrees of freedom at most: passed by chance once in a thousand


def test_the_second_token_is_drawn_given_the_first():
    model, N = gpt(), 6000
    generator = torch.Generator().manual_seed(3)
    out = generate(model, torch.zeros(N, 1, dtype=torch.int64), 2, generator=generator)
    for first in range(7):
        rows = out[out[:, 1] == first]
        p = model(torch.tensor([[0, first]]))[0, -1].softmax(-1).tolist()
        counts = torch.bincount(rows[:, 2], minlength=7).tolist()
        n = len(rows)
        assert sum((c - n * q) ** 2 / (n * q) for c, q in zip(counts, p)) < 30


def test_top_p_keeps_the_fewest_that_reach_it():
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    assert kept(logits[None], top_p=0.5) == [0]
    assert kept(logits[None], top_p=0.51) == [0, 1]
    assert kept(logits[None], top_p=0.74) == [0, 1]
    assert kept(logits[None], top_p=0.76) == [0, 1, 2]
    assert kept(logits[None], top_p=1.0) == [0, 1, 2, 3]


def test_top_p_always_keeps_one_and_of_equals_the_lower():
    assert kept(torch.tensor([[0.0, 9.0, 0.0]]), top_p=1e-9) == [1]
    assert kept(torch.zeros(1, 4), top_p=1e-9) == [0]
    assert kept(torch.zeros(1, 4), top_p=0.5) == [0, 1]


def test_top_k_keeps_exactly_k_and_of_equals_the_lower():
    logits = torch.tensor([[1.0, 5.0, 5.0, 5.0, 2.0]])
    assert kept(logits, top_k=1) == [1]
    assert kept(logits, top_k=2) == [1, 2]
    assert kept(logits, top_k=4) == [1, 2, 3, 4]
    assert kept(logits, top_k=5) == kept(logits, top_k=99) == [0, 1, 2, 3, 4]


def test_top_p_counts_after_top_k():
    logits = torch.tensor([[0.4, 0.2, 0.2, 0.2]]).log()
    assert kept(logits, top_k=2, top_p=0.66) == [0]  # 2/3 of what top_k left
    assert kept(logits, top_p=0.65) == [0, 1, 2]


def test_top_p_one_keeps_even_the_unlikeliest():
    assert kept(torch.tensor([[0.0, -40.0]]), top_p=1.0) == [0, 1]


def test_a_small_temperature_is_nearly_greedy_and_cannot_overflow():
    logits = torch.tensor([[300.0, 299.0, -300.0]])
    for temperature in (1e-3, 1e-30, 1e-45):
        assert filter_logits(logits, temperature).softmax(-1).tolist() == [[1, 0, 0]]


def test_temperature_zero_takes_the_likeliest():
    model, idx = gpt(), torch.tensor([[1, 2], [3, 4]])
    out = generate(model, idx, 8, temperature=0)
    assert torch.equal(out, generate(model, idx, 8, temperature=0, top_p=0.5, top_k=3))
    for t in range(2, 10):
        best = model(out[:, max(0, t - 6) : t])[:, -1].argmax(-1)
        assert torch.equal(out[:, t], best)


def uncached(model, idx, n, **filters):
    """The same by reading the last block anew for every token."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(n):
        logits = model(idx[:, -model.config.block_size :])[:, -1]
        probs = filter_logits(logits, **filters).softmax(-1)
        ids = torch.multinomial(probs, 1, generator=generator)
        idx = torch.cat([idx, ids], dim=1)
    return idx


@pytest.mark.parametrize("T", [1, 4, 6, 11])
@pytest.mark.parametrize("temperature", [0, 1])
def test_what_is_kept_is_what_would_be_read_anew(T, temperature):
    model, idx = gpt(), torch.randint(7, (2, T), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    out = generate(model, idx, 9, temperature, generator=generator)
    assert torch.equal(out, uncached(model, idx, 9, temperature=temperature))


@pytest.mark.parametrize("T", [1, 4, 6, 11])
def test_each_token_is_read_once_until_the_block_is_full(T):
    model, read = gpt(), []
    model.h[0].register_forward_pre_hook(lambda _block, args: read.append(args[0].shape[1]))
    generate(model, torch.zeros(2, T, dtype=torch.int64), 5)
    once = max(0, 6 - T)  # tokens after the prompt that still fit the block of 6
    assert read == [min(T, 6)] + [1] * min(4, once) + [6] * (4 - min(4, once))


def test_prompts_of_different_lengths_go_on_as_each_would_alone():
    model = gpt().double()
    prompts = [[3], [1, 2, 3, 4], [5, 5], [6, 0, 1, 2, 3]]
    idx, pads = left_padded(prompts, filler=4)
    assert pads.tolist() == [4, 1, 3, 0] and idx.shape == (4, 5)
    for n in (1, 8):  # 8 slide past the block
        out = generate(model, idx, n, temperature=0, pads=pads)
        for row, prompt in zip(out, prompts):
            alone = generate(model, torch.tensor([prompt]), n, temperature=0)
            assert row[5:].tolist() == alone[0, len(prompt) :].tolist()


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="begin a new text with eot"):
        left_padded([[1], []])


def test_a_stream_is_what_generate_returns_and_comes_one_at_a_time():
    model, idx = gpt(), torch.tensor([[1, 2], [3, 4]])
    made = generate(model, idx, 5, generator=torch.Generator().manual_seed(4))
    new = stream(model, idx, 5, generator=torch.Generator().manual_seed(4))
    first = next(new)
    assert first.shape == (2,) and first.dtype == torch.int64
    assert torch.equal(torch.stack([first, *new], dim=1), made[:, 2:])


def test_the_same_generator_gives_the_same_text_and_another_another():
    model, idx = gpt(), torch.zeros(1, 1, dtype=torch.int64)
    texts = [
        generate(model, idx, 40, generator=torch.Generator().manual_seed(s)) for s in (5, 5, 6)
    ]
    assert torch.equal(texts[0], texts[1]) and not torch.equal(texts[0], texts[2])


def test_generation_leaves_the_model_in_training_and_its_ids_can_be_learned_from():
    model = gpt()
    idx = generate(model, torch.zeros(1, 1, dtype=torch.int64), 3)
    assert model.training
    model.loss(idx, idx).backward()


def test_nothing_new_is_the_prompt():
    idx = torch.zeros(2, 3, dtype=torch.int64)
    assert torch.equal(generate(gpt(), idx, 0), idx)


@pytest.mark.parametrize(
    "filters, words",
    [
        ({"temperature": -0.1}, "temperature must be at least 0 and finite: got -0.1"),
        ({"temperature": INF}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1: got 0.0"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
    ],
)
def test_settings_out_of_range_are_refused(filters, words):
    with pytest.raises(ValueError, match=words):
        generate(gpt(), torch.zeros(1, 1, dtype=torch.int64), 1, **filters)
