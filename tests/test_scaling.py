"""gpt2lib.scaling: FLOPs as PyTorch counts them, and laws whose numbers are known."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gpt2lib import scaling
from gpt2lib.config import GPTConfig
from gpt2lib.model import GPT

torch.set_num_threads(1)

# Chinchilla's law of the loss. Source: Hoffmann et al. 2022, equation 10.
E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28
N = np.geomspace(1e6, 1e9, 12)
FLOOR = (E, A, ALPHA)

shapes = pytest.mark.parametrize(
    "config, batch, T",
    [
        (GPTConfig(2, 2, 32, 16, 50), 3, 16),
        (GPTConfig(1, 3, 24, 64, 999), 2, 64),
        (GPTConfig(3, 4, 64, 128, 257), 1, 40),
        (GPTConfig(2, 1, 16, 256, 20), 4, 256),
    ],
)


def counted(work):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def chinchilla(n_params, n_tokens):
    return E + A / n_params**ALPHA + B / n_tokens**BETA


def runs(sizes_of):
    """(budgets, n_params, losses) of Chinchilla's law; sizes_of(budget) is what was tried."""
    rows = [
        (C, n, chinchilla(n, C / (6 * n))) for C in np.geomspace(1e18, 1e21, 7) for n in sizes_of(C)
    ]
    return np.array(rows).T


def best_size(budget):
    """Where Chinchilla's law is lowest at C = 6ND. Source: Hoffmann et al. 2022, equation 4."""
    return (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (budget / 6) ** (
        BETA / (ALPHA + BETA)
    )


# Counting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_parameters_are_where_the_formula_says(name):
    config = GPTConfig.named(name)
    in_tables = in_matrices = in_vectors = 0
    for name, p in GPT(config).named_parameters():
        if name.startswith("wte") or name.startswith("wpe"):
            in_tables += p.numel()
        elif p.dim() == 2:
            in_matrices += p.numel()
        else:
            in_vectors += p.numel()
    assert scaling.params(config) == (in_tables, in_matrices, in_vectors)


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_the_three_parts_are_all_parameters(name):
    config = GPTConfig.named(name)
    assert sum(scaling.params(config)) == config.n_params()


@shapes
def test_flops_are_what_pytorch_counts(config, batch, T):
    model, idx = GPT(config), torch.zeros(batch, T, dtype=torch.int64)
    told = scaling.flops(config, batch, T)
    assert told.forward == counted(lambda: model(idx))
    assert told.step == counted(lambda: model.loss(idx, idx).backward())
    assert told.backward == 2 * told.forward == told.step - told.forward


@shapes
def test_the_causal_count_is_of_the_pairs_that_may_look(config, batch, T):
    square, causal = (scaling.flops(config, batch, T, causal=c).forward for c in (False, True))
    pairs = sum(1 for i in range(T) for j in range(T) if j > i)
    per_pair = 4 * config.n_embd  # q · k and weight · v: two products of C pairs of numbers
    assert square - causal == batch * config.n_layer * pairs * per_pair


def test_a_full_block_is_meant_where_no_length_is_given():
    config = GPTConfig.named("tiny")
    assert scaling.flops(config) == scaling.flops(config, 1, 64)


@pytest.mark.parametrize("T", [0, 65])
def test_a_sequence_that_the_model_cannot_read_has_no_count(T):
    with pytest.raises(ValueError, match=f"T must be 1 to block_size=64: got {T}"):
        scaling.flops(GPTConfig.named("tiny"), 1, T)


def test_six_n_is_the_count_without_attention_and_head():
    config = GPTConfig.named("gpt2")
    N, C, T = scaling.params(config).matrices, 768, 1024
    beside = 3 * (12 * 4 * T * C + 2 * C * 50257) * T
    assert scaling.six_n(N, T) == scaling.flops(config).step - beside
    assert scaling.six_n(config.n_params()) == pytest.approx(6 * 124_439_808)


def test_all_of_the_peak_is_a_utilisation_of_one():
    config = GPTConfig.named("gpt2")
    T, per_sequence = 1024, scaling.flops(config, 1).step
    assert scaling.mfu(config, tokens_per_second=T, peak_flops=per_sequence) == 1
    assert scaling.mfu(config, tokens_per_second=T / 4, peak_flops=per_sequence) == 0.25


# Fitting ----------------------------------------------------------------------------------


def test_a_power_law_without_noise_is_found_exactly():
    law = scaling.power_law(N, 3.5 * N**-0.076)
    assert law.a.value == pytest.approx(3.5) and law.b.value == pytest.approx(-0.076)
    assert law.a.high - law.a.low < 1e-6 and law.b.high - law.b.low < 1e-8
    np.testing.assert_allclose(law(N), 3.5 * N**-0.076)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_of_a_power_law_hold_the_truth_as_often_as_they_say(level):
    rng, tries = np.random.default_rng(0), 400
    x, hits = np.geomspace(1, 1e3, 6), np.zeros(2)
    for _ in range(tries):
        law = scaling.power_law(x, 2 * x**0.5 * np.exp(rng.normal(0, 0.1, len(x))), level)
        hits += [law.a.low <= 2 <= law.a.high, law.b.low <= 0.5 <= law.b.high]
    four_sigma = 4 * (level * (1 - level) / tries) ** 0.5
    assert abs(hits / tries - level).max() < four_sigma


def test_the_power_law_is_the_line_through_the_logarithms():
    x, y = np.array([1, 2, 4, 10.0]), np.array([1, 3, 5, 8.0])
    b, log_a = np.polyfit(np.log(x), np.log(y), 1)
    law = scaling.power_law(x, y)
    assert law.b.value == pytest.approx(b) and law.a.value == pytest.approx(np.exp(log_a))
    errors, x = np.log(y / law(x)), np.log(x)
    variance = (errors**2).sum() / 2 / ((x - x.mean()) ** 2).sum()  # of b; of ln a at x = 0
    t = 4.302653  # Student's 97.5% with 4 − 2 degrees of freedom
    assert law.b.high - b == pytest.approx(t * variance**0.5) == b - law.b.low
    assert np.log(law.a.high) - log_a == pytest.approx(t * (variance * (x**2).mean()) ** 0.5)
    assert np.log(law.a.high * law.a.low) == pytest.approx(2 * log_a)


@pytest.mark.parametrize("truth", [FLOOR, (2.57, 5e3, 0.5), (1.0, 20.0, 0.1)])
def test_a_law_with_a_floor_is_found_exactly_without_noise(truth):
    E, a, b = truth
    law = scaling.floor_law(N, E + a * N**-b, resamples=2)
    assert [part.value for part in law] == pytest.approx(truth, rel=1e-3)
    np.testing.assert_allclose(law(N), E + a * N**-b, rtol=1e-6)


def test_without_a_floor_none_is_found():
    assert scaling.floor_law(N, 50 * N**-0.2, resamples=2).E.value < 1e-3


def test_intervals_of_a_law_with_a_floor_hold_the_truth_about_as_often_as_they_say():
    rng, tries, hits = np.random.default_rng(0), 40, np.zeros(3)
    for seed in range(tries):
        y = (E + A * N**-ALPHA) * np.exp(rng.normal(0, 0.003, len(N)))
        law = scaling.floor_law(N, y, 0.8, resamples=40, seed=seed)
        hits += [part.low <= true <= part.high for part, true in zip(law, FLOOR)]
    assert (hits / tries > 0.6).all() and (hits / tries < 0.95).all()


def test_one_run_gone_wrong_does_not_pull_the_law_to_itself():
    y = E + A * N**-ALPHA
    y[5] *= 1.2
    assert scaling.floor_law(N, y, resamples=2).b.value == pytest.approx(ALPHA, rel=0.005)


def test_the_same_seed_gives_the_same_interval():
    y = (E + A * N**-ALPHA) * np.exp(np.random.default_rng(0).normal(0, 0.003, len(N)))
    laws = [scaling.floor_law(N, y, resamples=9, seed=seed) for seed in (1, 1, 2)]
    assert laws[0] == laws[1] != laws[2] and laws[0].E.value == laws[2].E.value


@pytest.mark.parametrize("fit, few", [(scaling.power_law, 2), (scaling.floor_law, 4)])
def test_too_few_points_or_impossible_ones_are_refused(fit, few):
    x = np.arange(1.0, 8)
    wrong = [
        (x[:few], x[:few]),
        (x, -x),
        (x, x[1:]),
        (x - 1, x),
        (x * np.nan, x),
        (x[:, None],) * 2,
    ]
    for points in wrong:
        with pytest.raises(ValueError, match=f"a fit needs {few + 1} points or more"):
            fit(*points)


# IsoFLOP ----------------------------------------------------------------------------------


def test_isoflop_finds_chinchillas_exponent():
    found = scaling.isoflop(*runs(lambda C: best_size(C) * np.geomspace(0.3, 3, 7)))
    assert found.law.b.value == pytest.approx(BETA / (ALPHA + BETA), abs=1e-6)
    assert found.law.b.value == pytest.approx(0.452, abs=5e-4)
    np.testing.assert_allclose(found.n_best, best_size(found.budgets), rtol=0.05)
    lowest = chinchilla(found.n_best, found.budgets / (6 * found.n_best))
    np.testing.assert_allclose(found.losses, lowest, rtol=1e-3)


def test_isoflop_comes_near_it_with_one_list_of_sizes_and_runs_in_any_order():
    every = runs(lambda C: np.geomspace(3e7, 3e10, 24))
    near = abs(np.log(every[1] / best_size(every[0]))) < np.log(8)
    every = every[:, near][:, np.random.default_rng(0).permutation(near.sum())]
    assert scaling.isoflop(*every).law.b.value == pytest.approx(0.452, abs=0.01)


def test_intervals_of_isoflop_hold_the_exponent_about_as_often_as_they_say():
    budgets, n_params, losses = runs(lambda C: best_size(C) * np.geomspace(0.3, 3, 7))
    rng, tries, hits = np.random.default_rng(1), 60, 0
    for _ in range(tries):
        noisy = losses * np.exp(rng.normal(0, 1e-3, len(losses)))
        found = scaling.isoflop(budgets, n_params, noisy, level=0.8)
        hits += found.law.b.low <= BETA / (ALPHA + BETA) <= found.law.b.high
    assert found.law == scaling.power_law(found.budgets, found.n_best, level=0.8)
    assert 0.65 < hits / tries < 0.95


def test_the_lowest_point_of_an_exact_parabola_is_exact():
    log_n = np.log([1e6, 3e6, 2e7])
    rows = [
        (C, n, 3 + 0.1 * (np.log(n) - np.log(4e6)) ** 2 - np.log10(C) / 100)
        for C in (1e15, 1e16, 1e17)
        for n in np.exp(log_n)
    ]
    found = scaling.isoflop(*np.array(rows).T)
    np.testing.assert_allclose(found.n_best, 4e6)
    np.testing.assert_allclose(found.losses, [2.85, 2.84, 2.83])
    assert found.budgets.tolist() == [1e15, 1e16, 1e17]


def test_isoflop_refuses_what_it_would_have_to_guess():
    sizes = np.geomspace(0.3, 3, 7)
    with pytest.raises(ValueError, match="between the sizes tried: at budget 1e\\+18"):
        scaling.isoflop(*runs(lambda C: 8 * best_size(C) * sizes))
    with pytest.raises(ValueError, match="between the sizes tried"):
        scaling.isoflop(*runs(lambda C: best_size(C) * sizes / 8))
    budgets, n_params, losses = runs(lambda C: best_size(C) * sizes)
    with pytest.raises(ValueError, match="between the sizes tried"):
        scaling.isoflop(budgets, n_params, -losses)
    with pytest.raises(ValueError, match="three sizes: budget 1e\\+18 has 2"):
        scaling.isoflop(*runs(lambda C: best_size(C) * sizes[:2]))
    with pytest.raises(ValueError, match="3 points or more"):
        few = budgets < 2e18
        scaling.isoflop(budgets[few], n_params[few], losses[few])
