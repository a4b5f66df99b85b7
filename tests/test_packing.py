"""gpt2lib.packing: the same model, laid out otherwise; rounded only as much as it says."""

import copy

import pytest
import torch

from gpt2lib.config import GPTConfig
from gpt2lib.generate import generate
from gpt2lib.model import GPT
from gpt2lib.packing import Int8Linear, PackedLinear, packed

torch.set_num_threads(1)
SHAPE = GPTConfig(n_layer=2, n_head=3, n_embd=48, block_size=24, vocab_size=61)


def gpt(dtype=torch.float32):
    torch.manual_seed(0)
    model = GPT(SHAPE)
    for p in model.parameters():  # biases and LayerNorms too
        torch.nn.init.normal_(p, std=0.2)
    return model.to(dtype)


def ids(B=3, T=11):
    return torch.randint(61, (B, T), generator=torch.Generator().manual_seed(1))


def distance(a, b):
    """How far a is from b, as a share of the size of b."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize(
    "weights, least, most", [("float32", 0, 1e-6), ("bf16", 1e-4, 0.03), ("int8", 1e-4, 0.05)]
)
def test_a_packed_model_gives_the_logits_of_the_model_but_for_rounding(weights, least, most):
    model = gpt().eval()
    with torch.no_grad():
        expected, logits = model(ids()), packed(model, weights)(ids())
    assert least <= distance(logits, expected) < most
    assert logits.shape == expected.shape


def test_every_matrix_is_packed_and_the_model_itself_is_left_alone():
    model = gpt()
    before = copy.deepcopy(model.state_dict())
    for weights, kind in (("float32", PackedLinear), ("int8", Int8Linear)):
        ready = packed(model, weights)
        assert sum(isinstance(m, kind) for m in ready.modules()) == 4 * SHAPE.n_layer
        assert not any(isinstance(m, torch.nn.Linear) for m in ready.modules())
        with torch.no_grad():
            ready.wte.weight.zero_()  # the head has its own
        x = torch.ones(1, 48)
        assert distance(ready.head(x), model.head(x).detach()) < 0.05
        assert not ready.training and not any(p.requires_grad for p in ready.parameters())
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], w) for name, w in model.state_dict().items())


def test_a_packed_model_writes_what_the_model_writes():
    model, idx = gpt(), ids(T=4)
    expected = generate(model, idx, 30, temperature=0)  # past the block
    assert torch.equal(generate(packed(model), idx, 30, temperature=0), expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3)], ids=str)
def test_int8_is_the_product_of_rounded_rows_times_their_scales(bias, shape):
    generator = torch.Generator().manual_seed(2)
    weight, x = torch.randn(7, 9, generator=generator), torch.randn(*shape, 9, generator=generator)
    b = torch.randn(7, generator=generator) if bias else None
    y = Int8Linear(weight, b)(x)
    assert y.shape == (*shape, 7)
    for row, out in zip(x.reshape(-1, 9).tolist(), y.reshape(-1, 7).tolist()):
        s = max(map(abs, row)) / 127
        for j, w in enumerate(weight.tolist()):
            t = max(map(abs, w)) / 127
            whole = sum(round(u / s) * round(v / t) for u, v in zip(row, w))
            assert out[j] == pytest.approx(whole * s * t + (b[j].item() if bias else 0), abs=1e-5)


def test_int8_rounds_each_row_by_itself():
    layer = Int8Linear(torch.randn(7, 9, generator=torch.Generator().manual_seed(3)), None)
    x = torch.randn(4, 9, generator=torch.Generator().manual_seed(4))
    x[1] *= 1000  # a row this large would drown the others if they shared a scale
    x[2] = 0
    together = layer(x)
    assert torch.equal(together, torch.cat([layer(row[None]) for row in x]))
    assert (together[2] == 0).all()


def test_what_is_not_to_be_had_is_refused():
    with pytest.raises(ValueError, match="got 'int4' for a model on cpu"):
        packed(gpt(), "int4")
    with pytest.raises(ValueError, match="got 'int8' for a model on meta"):
        packed(GPT(SHAPE).to("meta"), "int8")
