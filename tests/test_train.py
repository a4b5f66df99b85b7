"""gpt2lib.train: what an update is, that it repeats, and what stops it."""

import itertools
import math

import pytest
import torch
from torch import nn

from gpt2lib import optim
from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.model import GPT
from gpt2lib.train import TrainingDiverged, train, uses_bf16

torch.set_num_threads(1)
FLOAT32 = {"precision": "float32", "warmup": 2}


def gpt(dropout=0.0, dtype=torch.float32):
    torch.manual_seed(0)
    return GPT(GPTConfig.named("tiny", dropout=dropout)).to(dtype)


def batches(B=4, T=16, start=0):
    """Counting with jumps: endless, the i-th batch a function of i alone."""
    for i in itertools.count(start):
        generator = torch.Generator().manual_seed(i)
        ids = torch.randint(3, (B, T + 1), generator=generator).cumsum(1) % 257
        yield ids[:, :-1], ids[:, 1:].clone()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_lowers_the_loss():
    for kind in ("adamw", "muon"):
        config = TrainConfig(steps=40, optimizer=kind, lr=1e-2, **FLOAT32)
        losses = [record.loss for record in train(gpt(), batches(), config)]
        assert abs(losses[0] - math.log(257)) < 0.3
        assert losses[-1] < losses[0] - 0.8


def test_the_same_seed_gives_the_same_losses():
    config = TrainConfig(steps=6, accumulation=2, **FLOAT32)
    runs = [[r.loss for r in train(gpt(dropout=0.1), batches(), config)] for _ in range(2)]
    assert runs[0] == runs[1]


def test_a_record_tells_the_loss_before_its_update():
    model, (first, *_) = gpt(), itertools.islice(batches(), 2)
    expected = model.loss(*first).item()
    record = next(train(model, batches(), TrainConfig(steps=5, **FLOAT32)))
    assert record.loss == expected
    assert (record.step, record.tokens) == (1, 64)
    assert record.tokens_per_second > 0
    assert model.loss(*first).item() < expected


def test_each_group_moves_at_its_own_peak_times_the_schedule():
    config = TrainConfig(
        steps=8, lr=1e-3, muon_lr=0.05, warmup=3, lr_floor=0.2, precision="float32"
    )
    model = gpt()
    opts = optim.optimizers(model, config)
    for record in train(model, batches(), config, optimizers=opts):
        factor = optim.learning_rate(record.step - 1, 8, 1.0, 3, 0.2, "linear")
        rates = {g["lr"] for opt in opts for g in opt.param_groups}
        assert rates == {1e-3 * factor, 0.05 * factor}
        assert record.lr == 1e-3 * factor


def test_k_batches_of_b_make_the_update_of_one_batch_of_k_times_b():
    config = TrainConfig.paper(steps=3, precision="float32", warmup=0, lr=1e-2)
    whole, parts = gpt(dtype=torch.float64), gpt(dtype=torch.float64)
    large = [next(batches(B=12, start=i)) for i in range(3)]
    small = [pair for idx, targets in large for pair in zip(idx.split(4), targets.split(4))]
    a = list(train(whole, large, config))
    b = list(
        train(
            parts,
            small,
            TrainConfig.paper(steps=3, precision="float32", warmup=0, lr=1e-2, accumulation=3),
        )
    )
    for one, three in zip(a, b):
        assert three.loss == pytest.approx(one.loss, rel=1e-6)
        assert three.grad_norm == pytest.approx(one.grad_norm, rel=1e-6)
        assert three.tokens == one.tokens
    torch.testing.assert_close(weights(whole), weights(parts))


def test_in_accumulation_each_token_weighs_the_same():
    idx, targets = next(batches(B=12))
    targets[:4, 3:] = -1
    targets[4:8] = -1  # one of the parts has nothing to predict
    config = {"precision": "float32", "warmup": 0, "steps": 1}
    whole, parts = gpt(dtype=torch.float64), gpt(dtype=torch.float64)
    (one,) = train(whole, [(idx, targets)], TrainConfig.paper(**config))
    pairs = list(zip(idx.split(4), targets.split(4)))
    (three,) = train(parts, pairs, TrainConfig.paper(accumulation=3, **config))
    assert three.loss == pytest.approx(one.loss, rel=1e-6)
    assert three.grad_norm == pytest.approx(one.grad_norm, rel=1e-6)
    assert three.tokens == one.tokens == 4 * 3 + 4 * 16
    torch.testing.assert_close(weights(whole), weights(parts))


class Slope(nn.Module):
    """loss = slope · w: the gradient is the slope, whatever w is."""

    def __init__(self, slope):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.slope = torch.tensor(slope, dtype=torch.float64)

    def loss(self, idx, targets):
        return self.slope @ self.w


def one_update(slope, clip):
    """The change of w in one step of plain gradient descent at rate 1, and the record."""
    model = Slope(slope)
    opt = torch.optim.SGD(model.parameters(), lr=1.0)
    opt.param_groups[0]["peak_lr"] = 1.0
    config = TrainConfig(steps=1, warmup=0, clip=clip, precision="float32")
    ones = torch.ones(1, 1, dtype=torch.int64)
    (record,) = train(model, [(ones, ones)], config, optimizers=[opt])
    return -model.w.detach(), record.grad_norm


def test_a_gradient_over_the_limit_is_shortened_to_it_and_the_norm_before_is_told():
    change, norm = one_update([3.0, 4.0, 0.0], clip=1.0)
    torch.testing.assert_close(
        change, torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64), rtol=1e-5, atol=0
    )
    assert norm == pytest.approx(5.0)


def test_a_gradient_under_the_limit_is_left_alone():
    change, norm = one_update([0.3, 0.4, 0.0], clip=1.0)
    assert change.tolist() == [0.3, 0.4, 0.0]
    assert norm == pytest.approx(0.5)


def test_a_limit_of_zero_never_clips():
    change, norm = one_update([3.0, 4.0, 0.0], clip=0.0)
    assert change.tolist() == [3.0, 4.0, 0.0]
    assert norm == pytest.approx(5.0)


def test_gradients_do_not_carry_over_to_the_next_update():
    model = Slope([0.1, 0.0, 0.0])
    opt = torch.optim.SGD(model.parameters(), lr=1.0)
    opt.param_groups[0]["peak_lr"] = 1.0
    ones = torch.ones(1, 1, dtype=torch.int64)
    config = TrainConfig(steps=3, warmup=0, precision="float32", lr_floor=1.0)
    model.w.grad = torch.full_like(model.w, 7.0)  # left by someone else
    list(train(model, [(ones, ones)] * 3, config, optimizers=[opt]))
    torch.testing.assert_close(model.w.detach()[0].item(), -0.3)


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_before_the_weights_move(bad):
    model = gpt()
    run = train(model, batches(), TrainConfig(steps=9, lr=0.125, **FLOAT32))
    next(run), next(run)
    before = weights(model)
    if bad == "loss":
        model.ln_f.register_forward_hook(lambda _module, _x, y: y * math.nan)
    else:
        model.ln_f.bias.register_hook(lambda g: g * math.inf)
    with pytest.raises(TrainingDiverged, match=r"step 3, at learning rate 0.125.*Try half"):
        next(run)
    assert torch.equal(weights(model), before)
    assert issubclass(TrainingDiverged, RuntimeError)


def test_training_goes_on_from_where_it_stopped():
    config = TrainConfig(steps=8, **FLOAT32)
    model, whole = gpt(), gpt()
    expected = [r.loss for r in train(whole, batches(), config)]
    opts = optim.optimizers(model, config)
    head = list(itertools.islice(train(model, batches(), config, optimizers=opts), 3))
    rest = list(train(model, batches(start=3), config, optimizers=opts, first=3))
    assert [r.loss for r in head + rest] == expected
    assert [r.step for r in head + rest] == list(range(1, 9))
    assert torch.equal(weights(model), weights(whole))


def test_batches_that_end_early_are_named():
    with pytest.raises(ValueError, match="ended in step 3"):
        list(
            train(
                gpt(),
                itertools.islice(batches(), 5),
                TrainConfig(steps=9, accumulation=2, **FLOAT32),
            )
        )


def test_the_caller_may_evaluate_between_updates():
    model = gpt(dropout=0.1)
    for _ in train(model, batches(), TrainConfig(steps=3, **FLOAT32)):
        assert model.training
        model.eval()


def test_bf16_learns_nearly_as_float32_does_and_keeps_float32_weights():
    losses = {}
    for precision in ("float32", "bf16"):
        model = gpt()
        config = TrainConfig(steps=25, lr=1e-2, precision=precision, warmup=2)
        losses[precision] = [r.loss for r in train(model, batches(), config)]
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert losses["bf16"] != losses["float32"]
    assert losses["bf16"][-1] == pytest.approx(losses["float32"][-1], abs=0.1)


@pytest.mark.parametrize(
    "can, expected",
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx2": True}, False),
        ({}, False),
    ],
)
def test_precision_auto_takes_bf16_on_a_cpu_that_multiplies_it(monkeypatch, can, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
    cpu = torch.device("cpu")
    assert uses_bf16(cpu, TrainConfig()) is expected
    assert uses_bf16(cpu, TrainConfig(precision="bf16"))
    assert not uses_bf16(cpu, TrainConfig(precision="float32"))
    assert not uses_bf16(torch.device("mps"), TrainConfig())
