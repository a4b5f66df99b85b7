"""gpt2lib.attention against PyTorch's own, and against a loop over queries in float64."""

import pytest
import torch
import torch.nn.functional as F

from gpt2lib.attention import MultiHeadAttention, attention, causal_mask, fused_attention

torch.set_num_threads(1)
B, H, T, D = 2, 3, 7, 5


def qkv(dtype=torch.float64, seed=0, t=T):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, B, H, t, D, dtype=dtype, generator=generator).unbind()


def attention_by_loop(q, k, v, mask):
    """One query at a time, over the keys it may see, with exp and a sum."""
    y = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    weights = torch.zeros(*q.shape[:-1], k.shape[-2], dtype=q.dtype)
    for at in torch.cartesian_prod(*map(torch.arange, q.shape[:-1])).tolist():
        *outer, t = at
        seen = mask[t].nonzero().flatten().tolist()
        e = [torch.exp((q[*outer, t] * k[*outer, s]).sum() / D**0.5) for s in seen]
        for s, weight in zip(seen, e):
            weights[*outer, t, s] = weight / sum(e)
            y[*outer, t] += weight / sum(e) * v[*outer, s]
    return y, weights


def test_the_mask_lets_each_position_see_itself_and_the_past():
    mask = causal_mask(4)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[i >= j for j in range(4)] for i in range(4)]


def test_attention_equals_a_loop_over_queries():
    q, k, v = qkv()
    for mask in (causal_mask(T), torch.eye(T).bool() | (torch.rand(T, T) > 0.5)):
        y, weights = attention(q, k, v, mask)
        expected_y, expected_weights = attention_by_loop(q, k, v, mask)
        torch.testing.assert_close(y, expected_y)
        torch.testing.assert_close(weights, expected_weights)


def test_attention_equals_pytorchs_own():
    q, k, v = qkv()
    torch.testing.assert_close(attention(q, k, v)[0], F.scaled_dot_product_attention(q, k, v))
    torch.testing.assert_close(
        attention(q, k, v, causal_mask(T))[0],
        F.scaled_dot_product_attention(q, k, v, is_causal=True),
    )


def test_queries_may_look_at_other_keys_than_their_own_positions():
    q, _, _ = qkv()
    _, k, _ = qkv(t=4)
    v = torch.randn(B, H, 4, 2, dtype=torch.float64)
    y, weights = attention(q, k, v)
    assert y.shape == (B, H, T, 2) and weights.shape == (B, H, T, 4)
    torch.testing.assert_close(y, F.scaled_dot_product_attention(q, k, v))


def test_the_weights_of_each_query_sum_to_one_and_see_no_future():
    _, weights = attention(*qkv(), causal_mask(T))
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, H, T, dtype=torch.float64))
    assert (weights >= 0).all()
    assert (weights.triu(1) == 0).all()


def test_gradients_of_attention_are_right_in_float64():
    q, k, v = (x[:1, :1, :4].contiguous().requires_grad_() for x in qkv())
    mask = causal_mask(4)
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, mask)[0], (q, k, v))
    assert torch.autograd.gradcheck(fused_attention, (q, k, v))


def test_the_fused_path_sees_what_the_seeing_path_sees():
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        q, k, v = qkv(dtype)
        fused = fused_attention(q, k, v, causal=True)
        seen, _ = attention(q.double(), k.double(), v.double(), causal_mask(T))
        assert fused.dtype == dtype
        torch.testing.assert_close(fused.double(), seen, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("T", [1, 2, 64, 513], ids=str)
def test_in_bf16_each_route_has_nearly_the_gradients_of_float64(T):
    q, k, v = (x.requires_grad_() for x in qkv(torch.bfloat16, t=T))
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    grad = torch.randn(B, H, T, D, generator=torch.Generator().manual_seed(1))
    fused_attention(q, k, v, causal=True).backward(grad.bfloat16())
    attention(*exact, causal_mask(T))[0].backward(grad.double())
    for x, y in zip((q, k, v), exact):
        assert (x.grad - y.grad).norm() <= 0.02 * y.grad.norm() + 1e-9


def test_the_heads_attend_side_by_side_then_mix():
    torch.manual_seed(0)
    attn = MultiHeadAttention(n_embd=H * D, n_head=H).double()
    x = torch.randn(B, T, H * D, dtype=torch.float64)
    q, k, v = (x @ attn.c_attn.weight.mT + attn.c_attn.bias).split(H * D, dim=-1)
    heads = []
    for h in range(H):
        at = slice(h * D, (h + 1) * D)
        heads.append(attention(q[..., at], k[..., at], v[..., at], causal_mask(T))[0])
    expected = torch.cat(heads, dim=-1) @ attn.c_proj.weight.mT + attn.c_proj.bias
    torch.testing.assert_close(attn(x), expected)


def test_the_future_cannot_change_the_past():
    torch.manual_seed(0)
    attn = MultiHeadAttention(n_embd=H * D, n_head=H)
    x = torch.randn(B, T, H * D)
    before = attn(x)
    for t in range(1, T):
        changed = x.clone()
        changed[:, t] += 1
        after = attn(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.allclose(after[:, t:], before[:, t:])


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    attn = MultiHeadAttention(n_embd=H * D, n_head=H, dropout=0.5)
    x = torch.randn(B, T, H * D)
    assert not torch.equal(attn(x), attn(x))
    attn.eval()
    assert torch.equal(attn(x), attn(x))


@pytest.mark.parametrize(
    "q, k, v, mask, words",
    [
        ((4, 5), (4, 6), (4, 6), None, r"same width D: got q \(4, 5\), k \(4, 6\)"),
        ((4, 5), (4, 5), (3, 5), None, "each key needs one value"),
        ((4, 5), (4, 5), (4, 5), torch.ones(4, 4), r"pass mask.bool\(\)"),
        ((4, 5), (4, 5), (4, 5), torch.zeros(4, 4, dtype=torch.bool), "at least one position"),
    ],
)
def test_shapes_and_masks_that_do_not_fit_are_refused(q, k, v, mask, words):
    with pytest.raises(ValueError, match=words):
        attention(torch.zeros(q), torch.zeros(k), torch.zeros(v), mask)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="n_embd=10, n_head=3"):
        MultiHeadAttention(10, 3)
