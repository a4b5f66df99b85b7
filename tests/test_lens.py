"""gpt2lib.lens against forward passes by hand, and a model whose circuit is known."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gpt2lib.config import GPTConfig
from gpt2lib.lens import (
    ablated,
    activations,
    attention_maps,
    changed,
    induction_scores,
    logit_lens,
    patched,
)
from gpt2lib.model import GPT, evaluating

torch.set_num_threads(1)
TINY = GPTConfig(n_layer=2, n_head=3, n_embd=24, block_size=16, vocab_size=61)
LAYER = ("ln_1", "attn", "attn.c_attn", "attn.q", "attn.k", "attn.v", "attn.heads", "attn.c_proj")
LAYER += ("ln_2", "mlp", "mlp.c_fc", "mlp.neurons", "mlp.c_proj")
NAMES = {"wte", "embed", "h.0", "h.1", "ln_f", *(f"h.{i}.{name}" for i in (0, 1) for name in LAYER)}


def gpt(dtype=torch.float32, seed=0, std=0.3, config=TINY):
    """A GPT whose every weight matters, biases and LayerNorms too."""
    torch.manual_seed(seed)
    model = GPT(config).to(dtype)
    for p in model.parameters():
        nn.init.normal_(p, std=std)
    return model


def ids(B=4, T=11, V=61, seed=1):
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def bits(a, b):
    assert a.shape == b.shape and torch.equal(a, b)


# Seeing -------------------------------------------------------------------------------


def test_each_activation_has_its_name_and_shape():
    seen = activations(gpt(), ids())
    assert set(seen) == NAMES
    by_head = {f"h.{i}.attn.{part}" for i in (0, 1) for part in ("q", "k", "v", "heads")}
    for name, x in seen.items():
        if name in by_head:
            assert x.shape == (4, 11, 3, 8), name
        elif name.endswith("c_attn"):
            assert x.shape == (4, 11, 72), name
        else:
            wide = name.endswith(("c_fc", "neurons"))
            assert x.shape == (4, 11, 96 if wide else 24), name


def test_the_activations_are_those_of_a_forward_pass_by_hand():
    model, idx = gpt(torch.float64), ids()
    seen = activations(model, idx)
    expected = {"wte": model.wte.weight[idx], "embed": model.wte.weight[idx]}
    x = expected["embed"] = expected["embed"] + model.wpe.weight[:11]
    for i, block in enumerate(model.h):
        qkv = block.ln_1(x) @ block.attn.c_attn.weight.mT + block.attn.c_attn.bias
        split = [part.split(8, -1) for part in qkv.split(24, -1)]  # 3 lists of 3 heads
        for letter, heads in zip("qkv", split):
            expected[f"h.{i}.attn.{letter}"] = torch.stack(heads, 2)
        averages = [
            F.scaled_dot_product_attention(q, k, v, is_causal=True) for q, k, v in zip(*split)
        ]
        expected[f"h.{i}.attn.heads"] = torch.stack(averages, 2)
        mixed = torch.cat(averages, -1) @ block.attn.c_proj.weight.mT + block.attn.c_proj.bias
        expected[f"h.{i}.attn"] = expected[f"h.{i}.attn.c_proj"] = mixed
        inner = block.mlp.c_fc(block.ln_2(x + mixed))
        neurons = F.gelu(inner, approximate="tanh")
        expected |= {f"h.{i}.ln_1": block.ln_1(x), f"h.{i}.ln_2": block.ln_2(x + mixed)}
        expected |= {f"h.{i}.attn.c_attn": qkv, f"h.{i}.mlp.c_fc": inner}
        expected[f"h.{i}.mlp.neurons"] = neurons
        expected[f"h.{i}.mlp"] = expected[f"h.{i}.mlp.c_proj"] = block.mlp.c_proj(neurons)
        x = expected[f"h.{i}"] = x + mixed + expected[f"h.{i}.mlp"]
    expected["ln_f"] = model.ln_f(x)
    assert set(expected) == set(seen)
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_only_what_is_asked_for_is_kept_in_the_order_it_arose():
    model = gpt()
    assert list(activations(model, ids(), ["ln_f", "h.0", "embed"])) == ["embed", "h.0", "ln_f"]
    assert activations(model, ids(), []) == {}
    assert list(activations(model, ids(), iter(["h.1"]))) == ["h.1"]


def test_looking_has_no_dropout_no_gradient_and_leaves_the_model_as_it_was():
    model = gpt(config=GPTConfig.named("tiny", dropout=0.5))
    idx = ids(V=257)
    for look in (lambda m, i: activations(m, i)["ln_f"], attention_maps, logit_lens):
        assert not look(model, idx).requires_grad
        bits(look(model, idx), look(model, idx))
        assert model.training and model.h[0].training
    with evaluating(model):
        bits(activations(model, idx)["ln_f"], model.hidden(idx))


def test_attention_maps_are_causal_average_the_values_and_sum_to_1():
    model, idx = gpt(torch.float64), ids()
    maps = attention_maps(model, idx)
    assert maps.shape == (2, 4, 3, 11, 11)
    assert (maps.triu(1) == 0).all() and (maps.tril() > 0).sum() == 2 * 4 * 3 * 66
    torch.testing.assert_close(maps.sum(-1), torch.ones_like(maps[..., 0]))
    seen = activations(model, idx)
    for i in range(2):
        averages = torch.einsum("bhts,bshd->bthd", maps[i], seen[f"h.{i}.attn.v"])
        torch.testing.assert_close(averages, seen[f"h.{i}.attn.heads"])


def test_the_logit_lens_ends_in_the_models_logits_bit_for_bit():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        model, idx = gpt(dtype), ids()
        lens = logit_lens(model, idx)
        assert lens.shape == (3, 4, 11, 61)
        bits(lens[-1], model(idx))


def test_the_logit_lens_at_l_is_a_model_of_l_blocks():
    model, idx = gpt(config=GPTConfig(3, 3, 24, 16, 61)), ids()
    for n_layer in (1, 2):
        short = GPT(GPTConfig(n_layer, 3, 24, 16, 61))
        short.load_state_dict({name: model.state_dict()[name] for name in short.state_dict()})
        bits(logit_lens(model, idx)[n_layer], short(idx))
    x = model.wte.weight[idx] + model.wpe.weight[:11]
    bits(logit_lens(model, idx)[0], F.linear(model.ln_f(x), model.wte.weight))


# Changing -----------------------------------------------------------------------------


def test_who_changes_nothing_gets_the_same_logits_bit_for_bit():
    model, idx = gpt(), ids()
    plain, looked = model(idx), []

    def look(x):
        looked.append(x)
        return x

    with changed(model, dict.fromkeys(NAMES, look)):
        bits(model(idx), plain)
    assert len(looked) == len(NAMES)
    with changed(model, dict.fromkeys(NAMES, torch.clone)):
        bits(model(idx), plain)
    bits(model(idx), plain)


def test_what_runs_later_reads_the_changed_activation_and_what_ran_before_is_the_same():
    model, idx = gpt(), ids()
    plain, logits = activations(model, idx), model(idx)
    for name in NAMES:
        with changed(model, {name: lambda x: x.flip(1)}):
            seen = activations(model, idx)
            assert not torch.allclose(model(idx), logits)
        bits(seen[name], plain[name].flip(1))
        for before in list(plain)[: list(plain).index(name)]:
            if before != name[:-1] + "c_attn":  # of which q, k and v are parts
                bits(seen[before], plain[before])


def test_gradients_flow_through_a_change():
    model, idx = gpt(torch.float64), ids(B=1, T=3)
    s = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def scaled(name, s):
        with changed(model, {name: lambda x: x * s}):
            return model(idx)

    for name in ("h.0", "h.1.attn.heads", "h.0.attn.k", "embed"):
        assert torch.autograd.gradcheck(partial(scaled, name), (s,))


@pytest.mark.parametrize("layer", [0, 1])
def test_without_its_heads_a_layer_adds_only_its_bias(layer):
    model, idx = gpt(torch.float64), ids()
    x = model.wte.weight[idx] + model.wpe.weight[:11]
    for i, block in enumerate(model.h):
        x = x + (block.attn.c_proj.bias if i == layer else block.attn(block.ln_1(x)))
        x = x + block.mlp(block.ln_2(x))
    with ablated(model, [(layer, head) for head in range(3)]):
        torch.testing.assert_close(model(idx), model.ln_f(x) @ model.wte.weight.mT)


def test_without_one_head_the_others_of_its_layer_are_the_same_bit_for_bit():
    model, idx = gpt(torch.float64), ids()
    plain = activations(model, idx)
    with ablated(model, [(1, 2)]):
        seen = activations(model, idx)
    assert (seen["h.1.attn.heads"][:, :, 2] == 0).all()
    bits(seen["h.1.attn.heads"][:, :, :2], plain["h.1.attn.heads"][:, :, :2])
    bits(seen["h.0"], plain["h.0"])
    columns = model.h[1].attn.c_proj.weight[:, 16:]  # those that the third head writes with
    lost = plain["h.1.attn.heads"][:, :, 2] @ columns.mT
    torch.testing.assert_close(seen["h.1.attn"], plain["h.1.attn"] - lost)


def test_heads_of_several_layers_go_together():
    model, idx = gpt(), ids()
    with ablated(model, [(0, 1), (1, 0), (0, 2)]):
        seen, together = activations(model, idx), model(idx)
    gone = [[(seen[f"h.{i}.attn.heads"][:, :, j] == 0).all() for j in range(3)] for i in (0, 1)]
    assert gone == [[False, True, True], [True, False, False]]
    with ablated(model, [(0, 1)]), ablated(model, [(1, 0)]), ablated(model, [(0, 2)]):
        bits(model(idx), together)
    with ablated(model, []):
        bits(model(idx), gpt()(idx))


def test_mean_ablation_leaves_what_is_the_same_everywhere():
    model, idx = gpt(torch.float64), ids()
    plain = activations(model, idx)["h.0.attn.heads"]
    with ablated(model, [(0, 0), (0, 2)], to="mean"):
        seen = activations(model, idx)["h.0.attn.heads"]
    for head in (0, 2):
        rows = [plain[b, t, head] for b in range(4) for t in range(11)]
        torch.testing.assert_close(seen[:, :, head], (sum(rows) / 44).expand(4, 11, 8))
    bits(seen[:, :, 1], plain[:, :, 1])


@pytest.mark.parametrize("name", ["embed", "h.0", "h.1", "ln_f"])
def test_the_stream_of_another_prompt_brings_its_logits_exactly(name):
    model, a, b = gpt(), ids(seed=1), ids(seed=2)
    with patched(model, activations(model, a, [name])):
        bits(model(b), model(a))
    assert not torch.equal(model(b), model(a))


@pytest.mark.parametrize(
    "positions, meant",
    [(5, [5]), (-6, [5]), ([8, 5], [5, 8]), (slice(5, 8), [5, 6, 7]), (slice(-2, None), [9, 10])],
)
def test_a_patch_at_some_positions_is_the_stream_put_together_by_hand(positions, meant):
    model, a, b = gpt(), ids(seed=1), ids(seed=2)
    there, here = (activations(model, idx, ["h.0"])["h.0"] for idx in (a, b))
    x = torch.stack([(there if t in meant else here)[:, t] for t in range(11)], 1)
    with patched(model, {"h.0": there}, positions):
        logits = model(b)
    bits(logits, F.linear(model.ln_f(model.h[1](x)), model.wte.weight))
    bits(logits[:, :5], model(b)[:, :5])


def test_several_activations_can_be_patched_at_once():
    model, a, b = gpt(torch.float64), ids(seed=1), ids(seed=2)
    parts = activations(model, a, ["embed", "h.0.attn", "h.0.mlp", "h.1.attn", "h.1.mlp"])
    with patched(model, parts):
        torch.testing.assert_close(model(b), model(a))


def test_afterwards_no_hook_is_left_even_after_an_error():
    model, idx = gpt(), ids()
    plain = model(idx)
    values = activations(model, idx)
    attention_maps(model, idx), logit_lens(model, idx)
    assert n_hooks(model) == 0
    for change in (
        changed(model, dict.fromkeys(NAMES, torch.zeros_like)),
        ablated(model, [(0, 0)]),
        patched(model, values),
    ):
        with pytest.raises(KeyError), change:
            assert n_hooks(model) > 0
            raise KeyError
        assert n_hooks(model) == 0
    with pytest.raises(ValueError, match="no activation"):
        with changed(model, {"h.0": torch.zeros_like, "h.7": torch.zeros_like}):
            pass
    assert n_hooks(model) == 0
    with pytest.raises(ValueError, match="block_size"):
        activations(model, ids(T=17))
    assert n_hooks(model) == 0
    bits(model(idx), plain)


def test_what_else_a_module_is_given_goes_through(monkeypatch):
    model, x = gpt(), torch.randn(2, 3, 24)
    block, got = model.h[0], []
    plain = block(x + 1)

    def forward(x, cache, more=None):
        got.append((cache, more))
        return type(block).forward(block, x)

    monkeypatch.setattr(block, "forward", forward)
    with changed(model, {"embed": lambda x: x + 1, "h.0": lambda x: x * 2}):
        bits(block(x, "cache", more="more"), plain * 2)
    assert got == [("cache", "more")]


@pytest.mark.parametrize(
    "name", ["h.2.attn", "h", "wpe", "", "heads", "h.0.attn.w", "h.-1", "lm_head"]
)
def test_a_name_that_the_model_does_not_have_is_refused(name):
    model = gpt()
    with pytest.raises(ValueError, match=f"no activation is called '{name}'"):
        activations(model, ids(), [name])


def test_another_shape_is_refused():
    model, idx = gpt(), ids()
    for change in (
        changed(model, {"h.1.attn.heads": lambda x: x[:, :1]}),
        patched(model, {"h.1.attn.heads": activations(model, ids(T=1))["h.1.attn.heads"]}),
        patched(model, {"h.1.attn.heads": torch.zeros(4, 1, 3, 8)}, positions=0),
    ):
        with pytest.raises(ValueError, match=r"it is \(4, 11, 3, 8\), got \(4, 1, 3, 8\)"), change:
            model(idx)


@pytest.mark.parametrize("head", [(2, 0), (0, 3), (-1, 0), (0, -1)])
def test_a_head_that_the_model_does_not_have_is_refused(head):
    with pytest.raises(ValueError, match=r"up to \(1, 2\): got \(-?\d, -?\d\)"):
        ablated(gpt(), [(0, 0), head])
    with pytest.raises(ValueError, match="'zero' or 'mean': got 'median'"):
        ablated(gpt(), [(0, 0)], to="median")


# A known circuit ----------------------------------------------------------------------


def induction_gpt():
    """Two layers, weights by hand: who stood before me? then: what came after my last time?

    Channels 0 to 15 hold the token, 16 to 47 the position, 48 to 63 the token before.
    Head (0, 0) copies the token before; head (1, 1) looks where that is this token.
    """
    model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=64, block_size=32, vocab_size=16))
    token, position, before = torch.arange(16), 16 + torch.arange(32), 48 + torch.arange(16)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.fill_(float("ln_" in name and name.endswith("weight")))
        model.wte.weight[token, token] = 1
        model.wpe.weight[torch.arange(32), position] = 1
        first, second = (block.attn for block in model.h)
        row = torch.arange(32)
        first.c_attn.weight[row, position] = 4  # q: my position
        first.c_attn.weight[64 + row[1:], position[:-1]] = 4  # k: the position after mine
        first.c_attn.weight[128 + token, token] = 1  # v: my token
        first.c_proj.weight[before, token] = 0.2
        second.c_attn.weight[32 + token, token] = 4  # q: my token
        second.c_attn.weight[64 + 32 + token, before] = 4  # k: the token before
        second.c_attn.weight[128 + 32 + token, token] = 1  # v: my token
        second.c_proj.weight[token, 32 + token] = 5
    return model


def rounds(period=12, B=8):
    """Different tokens in random order, twice."""
    torch.manual_seed(0)
    once = torch.stack([torch.randperm(16)[:period] for _ in range(B)])
    return once.repeat(1, 2)


def test_an_induction_head_scores_high_and_the_others_low():
    model, idx = induction_gpt(), rounds()
    scores = induction_scores(attention_maps(model, idx), 12)
    assert scores.shape == (2, 2)
    # Position 0 stands before itself, which takes half the weight of one token in twelve.
    assert 0.9 < scores[1, 1] < 1
    assert scores.flatten()[:3].max() < 0.1
    previous = attention_maps(model, idx)[0, :, 0].diagonal(-1, -2, -1)
    assert previous.min() > 0.99
    untrained = GPT(model.config)
    assert induction_scores(attention_maps(untrained, idx), 12).max() < 0.1


def test_the_induction_score_is_the_mean_weight_by_hand():
    maps = torch.rand(2, 3, 4, 11, 11, dtype=torch.float64)
    for period in (1, 4, 10):
        for i, h in ((0, 0), (1, 3)):
            found = [
                maps[i, b, h, t, t - period + 1].item() for b in range(3) for t in range(period, 11)
            ]
            score = induction_scores(maps, period)[i, h].item()
            assert score == pytest.approx(sum(found) / len(found), rel=1e-12)
    for period in (0, 11):
        with pytest.raises(ValueError, match=f"come round: got period={period} in 11 positions"):
            induction_scores(maps, period)


def test_the_circuit_predicts_the_repeat_and_fails_without_either_head():
    model, idx = induction_gpt(), rounds()
    asked, answers = slice(13, -1), idx[:, 14:]

    def right():
        return (model(idx)[:, asked].argmax(-1) == answers).float().mean()

    assert right() == 1
    for head in ((0, 0), (1, 1)):
        for to in ("zero", "mean"):
            with ablated(model, [head], to=to):
                assert right() < 0.3
    with ablated(model, [(0, 1), (1, 0)]):
        assert right() == 1
    lens = logit_lens(model, idx)[:, :, asked].argmax(-1)
    assert [(layer == answers).float().mean() > 0.9 for layer in lens] == [False, False, True]
