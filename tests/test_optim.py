"""gpt2lib.optim against AdamW and Muon by hand, and the learning rate against a formula."""

import math

import pytest
import torch

from gpt2lib import optim
from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.model import GPT
from gpt2lib.optim import learning_rate, optimizers, param_groups

torch.set_num_threads(1)


def gpt(dtype=torch.float32):
    torch.manual_seed(0)
    return GPT(GPTConfig.named("tiny")).to(dtype)


def gradients(model, step):
    """The same pseudo-random gradients each time they are asked for."""
    generator = torch.Generator().manual_seed(step)
    for name, p in model.named_parameters():
        yield name, p, torch.randn(p.shape, dtype=p.dtype, generator=generator)


def test_matrices_and_tables_decay_biases_and_layernorms_do_not():
    model = gpt()
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, kept = param_groups(model, 0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    for name in (names[id(p)] for p in decayed["params"]):
        assert (
            name in ("wte.weight", "wpe.weight")
            or name.endswith(("attn.weight", "fc.weight"))
            or name.endswith("c_proj.weight")
        )
    for name in (names[id(p)] for p in kept["params"]):
        assert name.endswith("bias") or "ln_" in name
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_frozen_parameters_are_left_out():
    model = gpt()
    model.wte.weight.requires_grad_(False)
    groups = param_groups(model, 0.1)
    assert not any(p is model.wte.weight for group in groups for p in group["params"])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_each_parameter_has_one_optimizer_and_each_group_its_peak(kind):
    model = gpt()
    opts = optimizers(model, TrainConfig(optimizer=kind, lr=1e-3, muon_lr=0.05))
    groups = [group for opt in opts for group in opt.param_groups]
    owned = [id(p) for group in groups for p in group["params"]]
    assert sorted(owned) == sorted(map(id, model.parameters()))
    assert {g["peak_lr"] for g in groups} == ({1e-3} if kind == "adamw" else {1e-3, 0.05})
    if kind == "muon":
        muons = {id(p) for p in opts[1].param_groups[0]["params"]}
        matrices = {id(p) for name, p in model.h.named_parameters() if p.dim() == 2}
        assert muons == matrices
        slower = optimizers(model, TrainConfig(muon_momentum=0.8))[1]
        assert [o.param_groups[0]["momentum"] for o in (opts[1], slower)] == [0.95, 0.8]


def test_adamw_is_adamw_by_hand_for_a_hundred_steps():
    config = TrainConfig.paper(lr=2e-3, betas=(0.8, 0.9), weight_decay=0.3)
    model = gpt(torch.float64)
    (opt,) = optimizers(model, config)
    w = {name: p.detach().clone() for name, p in model.named_parameters()}
    m = {name: torch.zeros_like(p) for name, p in w.items()}
    v = {name: torch.zeros_like(p) for name, p in w.items()}
    for t in range(1, 101):
        for name, p, g in gradients(model, t):
            p.grad = g
            m[name] = 0.8 * m[name] + 0.2 * g  # Loshchilov and Hutter 2019, algorithm 2
            v[name] = 0.9 * v[name] + 0.1 * g**2
            step = (m[name] / (1 - 0.8**t)) / ((v[name] / (1 - 0.9**t)).sqrt() + 1e-8)
            decay = 0.3 if p.dim() == 2 else 0.0
            w[name] = w[name] - 2e-3 * (step + decay * w[name])
        opt.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), w[name])


def test_a_step_of_muon_moves_every_direction_of_a_matrix_about_equally():
    model = gpt()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _, p, g in gradients(model, 1):
        p.grad = g
    muon = optimizers(model, TrainConfig(weight_decay=0.0, muon_lr=0.1))[1]
    muon.step()
    for name, p in model.h.named_parameters(prefix="h"):
        if p.dim() == 2:
            sizes = torch.linalg.svdvals(before[name] - p.detach())
            assert sizes.max() < 3 * sizes.min()


@pytest.mark.parametrize("at_once", [1, 2**22])
def test_muon_is_pytorchs(monkeypatch, at_once):
    monkeypatch.setattr(optim, "MATRICES_AT_ONCE", at_once)
    config = TrainConfig(weight_decay=0.5, muon_lr=0.1, muon_momentum=0.8)
    found = []
    for kind in (optim.Muon, torch.optim.Muon):
        monkeypatch.setattr(optim, "Muon", kind)
        model = gpt()
        muon = optimizers(model, config)[1]
        for _ in range(3):
            for _, p, g in gradients(model, 1):
                p.grad = g
            muon.step()
        found.append((dict(model.named_parameters()), muon.state_dict()))
    (ours, our_state), (theirs, their_state) = found
    for name, p in ours.items():
        torch.testing.assert_close(p, theirs[name], rtol=0, atol=3e-3)  # bfloat16 of 0.3 or less
    assert our_state["param_groups"] == their_state["param_groups"]
    torch.testing.assert_close(our_state["state"], their_state["state"])


def test_muon_calls_the_closure_that_makes_its_gradients():
    p = torch.nn.Parameter(torch.eye(3))
    muon = optim.Muon([p], lr=0.1, weight_decay=0.0, momentum=0.9)

    def closure():
        loss = p.square().sum()
        loss.backward()
        return loss

    assert muon.step(closure) == 3
    assert not torch.equal(p, torch.eye(3))


def rate_by_formula(step, steps, peak, warmup, floor, schedule):
    """Two straight or bent pieces, each by its two ends."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    t = (step - warmup) / (steps - warmup)
    low = floor * peak
    if schedule == "linear":
        return peak + t * (low - peak)
    return (peak + low) / 2 + (peak - low) / 2 * math.cos(t * math.pi)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps, warmup, floor", [(100, 10, 0.1), (100, 0, 0.0), (7, 6, 0.5)])
def test_the_learning_rate_follows_its_formula(schedule, steps, warmup, floor):
    for step in range(steps):
        rate = learning_rate(step, steps, 3e-3, warmup, floor, schedule)
        assert rate == pytest.approx(rate_by_formula(step, steps, 3e-3, warmup, floor, schedule))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_learning_rate_rises_to_its_peak_falls_to_its_floor_and_is_never_zero(schedule):
    rates = [learning_rate(s, 1000, 1.0, 100, 0.1, schedule) for s in range(1000)]
    assert rates[100] == 1.0 == max(rates)  # after a warm-up of exactly 100 updates
    assert rates[:101] == sorted(rates[:101]) and rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[0] == pytest.approx(1 / 101)
    assert 0.1 < rates[-1] < 0.102
    assert min(learning_rate(s, 50, 1.0, 5, 0.0, schedule) for s in range(50)) > 0
    middle = learning_rate(550, 1000, 1.0, 100, 0.1, schedule)
    assert middle == pytest.approx(0.55)


def test_a_run_shorter_than_its_warm_up_only_rises():
    rates = [learning_rate(s, 5, 1.0, 10) for s in range(5)]
    assert rates == sorted(rates) and rates[-1] < 1


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'cosine' or 'linear': got 'step'"):
        learning_rate(0, 10, 1.0, schedule="step")
