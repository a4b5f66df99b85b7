"""gpt2lib.recurrent against loops from the equations, PyTorch's convolution and counts."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gpt2lib import evaluate
from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.generate import generate
from gpt2lib.recurrent import LSTM, CausalConv, ConvBlock, ConvConfig, LSTMConfig
from gpt2lib.train import train

torch.set_num_threads(1)
SIZES = {"n_embd": 12, "block_size": 16, "vocab_size": 31}
BOTH = pytest.mark.parametrize("kind", [LSTM, CausalConv])


def make(kind, seed=0, dtype=torch.float64, **changes):
    config = LSTMConfig if kind is LSTM else ConvConfig
    torch.manual_seed(seed)
    return kind(config(**SIZES | {"n_layer": 2} | changes)).to(dtype)


def ids(B=3, T=11, V=31, seed=1):
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


def counting(B=4, T=12, V=31):
    """Counting with jumps of 0 to 2: endless batches of (idx, targets)."""
    for i in itertools.count():
        steps = torch.randint(3, (B, T + 1), generator=torch.Generator().manual_seed(i))
        tokens = steps.cumsum(1) % V
        yield tokens[:, :-1], tokens[:, 1:].clone()


# LSTM ---------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def layer_by_hand(xs, w_ih, w_hh, b_ih, b_hh):
    """One layer over a list of inputs, in plain Python; the gates in the order i, f, g, o."""
    C = len(w_hh[0])
    h, c, hs = [0.0] * C, [0.0] * C, []
    for x in xs:
        row = [
            sum(w * v for w, v in zip(w_ih[n], x))
            + sum(w * v for w, v in zip(w_hh[n], h))
            + b_ih[n]
            + b_hh[n]
            for n in range(4 * C)
        ]
        new = []
        for n in range(C):
            i, f, g, o = row[n], row[C + n], row[2 * C + n], row[3 * C + n]
            c[n] = sigmoid(f) * c[n] + sigmoid(i) * math.tanh(g)
            new.append(sigmoid(o) * math.tanh(c[n]))
        h = new
        hs.append(h)
    return hs


def test_the_lstm_is_its_equations():
    model, idx = make(LSTM, n_embd=5), ids(2, 7)
    table = model.wte.weight.tolist()
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    for row, logits in zip(idx.tolist(), model(idx)):
        hs = [table[v] for v in row]
        for layer in range(2):
            hs = layer_by_hand(hs, *(getattr(model.lstm, f"{n}_l{layer}").tolist() for n in names))
        expected = [[sum(a * b for a, b in zip(h, w)) for w in table] for h in hs]
        torch.testing.assert_close(logits, torch.tensor(expected, dtype=torch.float64))


def test_the_forget_gates_and_no_others_begin_open():
    for name, p in make(LSTM, n_embd=400).lstm.named_parameters():
        i, f, g, o = p.chunk(4)
        ones = name.startswith("bias_ih")
        assert (f == 1).all() == ones
        assert all(part.abs().max() < 0.06 for part in (i, g, o))
        assert ones or f.abs().max() < 0.06


def test_the_lstm_remembers_from_the_first_token_to_beyond_its_block():
    model, idx = make(LSTM), ids(T=24)
    changed = idx.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 31
    assert (model(changed)[:, -1] != model(idx)[:, -1]).any(-1).all()


# Convolution --------------------------------------------------------------------------


@pytest.mark.parametrize("n_layer, kernel_size", [(1, 1), (1, 3), (2, 2), (3, 2), (2, 4), (3, 3)])
def test_the_receptive_field_is_exactly_what_it_says(n_layer, kernel_size):
    model = make(CausalConv, n_layer=n_layer, kernel_size=kernel_size)
    reach = model.config.receptive_field
    idx = ids(1, 2 * reach + 3)
    before = model(idx)
    for t in range(idx.shape[1]):
        changed = idx.clone()
        changed[0, t] = (changed[0, t] + 1) % 31
        moved = (model(changed) != before).any(-1)[0].nonzero().flatten().tolist()
        assert moved == list(range(t, min(t + reach, idx.shape[1])))


def test_the_receptive_field_doubles_with_each_layer():
    fields = [ConvConfig(n_layer=n, kernel_size=2).receptive_field for n in (1, 2, 3, 8)]
    assert fields == [2, 4, 8, 256]


@pytest.mark.parametrize("kernel_size, dilation", [(1, 1), (2, 1), (3, 4), (4, 2)])
def test_a_block_adds_pytorchs_convolution(kernel_size, dilation):
    torch.manual_seed(0)
    block = ConvBlock(6, kernel_size, dilation).double()
    for p in block.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    kernel = block.c_fc.weight.view(6, kernel_size, 6).mT  # (out, in, k)
    normed = F.layer_norm(x, (6,), block.ln_1.weight, block.ln_1.bias)
    past = F.pad(normed.mT, ((kernel_size - 1) * dilation, 0))
    y = F.gelu(F.conv1d(past, kernel, block.c_fc.bias, dilation=dilation)).mT
    torch.testing.assert_close(block(x), x + y @ block.c_proj.weight.mT + block.c_proj.bias)


def test_the_convolution_is_its_blocks_between_table_and_head():
    model, idx = make(CausalConv, n_layer=3), ids()
    torch.nn.init.normal_(model.ln_f.weight)
    x = model.wte.weight[idx]
    for block, dilation in zip(model.h, (1, 2, 4), strict=True):
        assert (block.dilation, block.reach) == (dilation, 2 * dilation)
        x = block(x)
    x = F.layer_norm(x, (12,), model.ln_f.weight, model.ln_f.bias)
    torch.testing.assert_close(model(idx), x @ model.wte.weight.mT)


# Both ---------------------------------------------------------------------------------


@BOTH
def test_the_future_cannot_change_the_past(kind):
    model, idx = make(kind), ids()
    before = model(idx)
    for t in range(1, 11):
        changed = idx.clone()
        changed[:, t] = (changed[:, t] + 1) % 31
        after = model(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])


@BOTH
def test_examples_in_a_batch_do_not_see_each_other(kind):
    model, idx = make(kind), ids()
    for b in range(3):
        torch.testing.assert_close(model(idx)[b], model(idx[b : b + 1])[0])


@BOTH
def test_order_matters(kind):
    model, idx = make(kind), ids(1, 4)
    assert not torch.allclose(model(idx)[:, -1], model(idx[:, [0, 2, 1, 3]])[:, -1], atol=1e-6)


@BOTH
def test_the_loss_is_the_mean_surprisal_of_the_counted_targets(kind):
    model, idx, targets = make(kind), ids(), ids(seed=2)
    targets[0, 3:] = -1
    p = model(idx).softmax(-1).tolist()
    nats = [-math.log(p[b][t][targets[b, t]]) for b, t in (targets >= 0).nonzero().tolist()]
    assert model.loss(idx, targets).item() == pytest.approx(sum(nats) / len(nats))
    assert model.loss(idx, torch.full_like(idx, -1)).item() == 0


@BOTH
def test_at_init_every_token_is_about_equally_likely(kind):
    model = make(kind, dtype=torch.float32, n_embd=64, vocab_size=1000)
    loss = model.loss(ids(8, 32, 1000), ids(8, 32, 1000, seed=2)).item()
    assert loss == pytest.approx(math.log(1000), abs=0.05)
    std = 64**-0.5 if kind is LSTM else 0.02
    assert model.wte.weight.std().item() == pytest.approx(std, rel=0.02)


@BOTH
@pytest.mark.parametrize("changes", [{}, {"n_layer": 5}, {"n_embd": 7, "vocab_size": 3}])
def test_the_models_count_their_parameters_as_the_formula_does(kind, changes):
    model = make(kind, **changes)
    assert sum(p.numel() for p in model.parameters()) == model.config.n_params()


def test_a_wider_kernel_is_counted():
    model = make(CausalConv, kernel_size=5)
    assert sum(p.numel() for p in model.parameters()) == model.config.n_params()


@pytest.mark.parametrize("config", [LSTMConfig(dropout=0.1), ConvConfig(kernel_size=2)])
@pytest.mark.parametrize("wanted", [30_000, 757_504, GPTConfig.named("gpt2").n_params()])
def test_a_resized_model_comes_as_near_as_a_width_can(config, wanted):
    new = config.resized(wanted)
    assert new.n_params() == pytest.approx(wanted, rel=0.03)
    assert replace(new, n_embd=config.n_embd) == config
    for C in (new.n_embd - 1, new.n_embd + 1):
        assert abs(replace(new, n_embd=C).n_params() - wanted) >= abs(new.n_params() - wanted)


def test_the_smallest_width_is_one():
    assert LSTMConfig().resized(1).n_embd == ConvConfig().resized(1).n_embd == 1


@BOTH
@pytest.mark.parametrize("recipe", [TrainConfig, TrainConfig.paper])
def test_what_trains_evaluates_and_samples_a_gpt_does_it_with_them(kind, recipe):
    model = make(kind, dtype=torch.float32, n_embd=32, dropout=0.05)
    held_out = [next(counting(B=32))]
    before = evaluate.loss(model, held_out)
    config = recipe(steps=60, lr=1e-2, warmup=5, precision="float32")
    records = list(train(model, counting(), config))
    assert len(records) == 60 and model.training
    after = evaluate.loss(model, held_out)
    assert after < before - 1 and after < records[0].loss - 1
    losses = evaluate.token_losses(model, *held_out[0])
    assert losses.mean().item() == pytest.approx(after, rel=1e-4)
    out = generate(model, ids(2, 20), 8, generator=torch.Generator().manual_seed(0))
    assert out.shape == (2, 28) and torch.equal(out[:, :20], ids(2, 20))


@BOTH
def test_bf16_computes_nearly_the_same_loss_in_float32(kind):
    model, idx = make(kind, dtype=torch.float32), ids()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(idx, ids(seed=2))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(model.loss(idx, ids(seed=2)).item(), rel=0.02)
    assert model.bfloat16().loss(idx, ids(seed=2)).dtype == torch.float32


@BOTH
@pytest.mark.parametrize("n_layer", [1, 2])
def test_dropout_acts_in_training_alone(kind, n_layer):
    model, idx = make(kind, n_layer=n_layer, dropout=0.5), ids()
    assert not torch.equal(model(idx), model(idx))
    model.eval()
    plain = make(kind, n_layer=n_layer)
    assert torch.equal(model(idx), plain(idx))


@BOTH
def test_dropout_acts_before_between_and_after_the_layers(kind):
    model = make(kind, n_embd=64, dropout=0.5)
    shares = []
    model.drop.register_forward_hook(lambda _m, _x, y: shares.append((y == 0).double().mean()))
    model(ids())
    assert shares == [pytest.approx(0.5, abs=0.05)] * 2
    layers = model.lstm if kind is LSTM else model.h[0]
    x = torch.ones(2, 5, 64, dtype=torch.float64)
    first, second = (layers(x)[0] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("changes", [{"n_embd": 0}, {"n_layer": 1.5}, {"vocab_size": True}])
def test_sizes_that_make_no_model_are_refused(changes):
    (name,) = changes
    for config in (LSTMConfig, ConvConfig):
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1"):
            config(**changes)
    with pytest.raises(ValueError, match=r"kernel_size must be .* got 0"):
        ConvConfig(kernel_size=0)


@BOTH
@pytest.mark.parametrize(
    "idx, words",
    [
        (torch.zeros(2, 0, dtype=torch.int64), r"\(B, T\) of int64: got \(2, 0\)"),
        (torch.zeros(3, dtype=torch.int64), r"\(B, T\) of int64: got \(3,\)"),
        (torch.zeros(2, 3), "int64: got .* of torch.float32"),
        (torch.tensor([[5, 31]]), "0 to vocab_size−1=30: got 5 to 31"),
        (torch.tensor([[5, -1]]), "0 to vocab_size−1=30: got -1 to 5"),
    ],
)
def test_ids_that_cannot_be_read_are_refused_at_the_door(kind, idx, words):
    with pytest.raises(ValueError, match=words):
        make(kind)(idx)


@BOTH
@pytest.mark.parametrize(
    "targets, words",
    [
        (torch.zeros(2, 4, dtype=torch.int64), "one target"),
        (torch.zeros(2, 3), "int64"),
        (torch.full((2, 3), 31), "got 31 to 31"),
        (torch.full((2, 3), -100), "-1 to vocab_size−1=30: got -100 to -100"),
    ],
)
def test_targets_that_cannot_be_predicted_are_refused(kind, targets, words):
    with pytest.raises(ValueError, match=words):
        make(kind).loss(torch.zeros(2, 3, dtype=torch.int64), targets)
