"""gpt2lib.seq2seq against torch.nn's Transformer, formulas in loops, and exhaustive search."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gpt2lib.attention import attention
from gpt2lib.seq2seq import CrossAttention, Transformer, TransformerConfig, sinusoids, translate

torch.set_num_threads(1)
SIZES = {"n_layer": 2, "n_head": 3, "n_embd": 12, "vocab_size": 17}


def transformer(seed=0, dtype=torch.float64, std=None, **changes):
    torch.manual_seed(seed)
    model = Transformer(TransformerConfig(**SIZES | {"dropout": 0.0} | changes)).to(dtype)
    for p in model.parameters() if std else ():  # biases and LayerNorms too
        nn.init.normal_(p, std=std)
    return model


def ids(B=3, T=7, V=17, seed=1, padded=()):
    """Random ids; padded names (row, place) without a token."""
    out = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))
    for b, t in padded:
        out[b, t] = -1
    return out


SOURCE = ids(T=5, padded=[(0, 3), (0, 4), (2, 1), (2, 4)])
TARGET = ids(T=7, seed=2, padded=[(1, 5), (1, 6), (2, 2)])
TARGETS = ids(T=7, seed=3, padded=[(0, 6), (1, 4), (1, 5), (1, 6), (2, 1), (2, 2)])


# The model ----------------------------------------------------------------------------


class Theirs(nn.Module):
    """torch.nn's layers, post-LN and without the final norms that the paper lacks."""

    def __init__(self):
        super().__init__()
        layer = {"d_model": 12, "nhead": 3, "dim_feedforward": 48, "dropout": 0.0}
        layer |= {"activation": "relu", "batch_first": True, "norm_first": False}
        encoder, decoder = nn.TransformerEncoderLayer(**layer), nn.TransformerDecoderLayer(**layer)
        self.encoder = nn.TransformerEncoder(encoder, 2, norm=None, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, 2, norm=None)
        self.table = nn.Parameter(torch.empty(17, 12))

    def forward(self, source, target):
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1]).isinf()
        memory = self.encoder(self.embed(source), src_key_padding_mask=source < 0)
        x = self.decoder(
            self.embed(target),
            memory,
            tgt_mask=causal,
            tgt_key_padding_mask=target < 0,
            memory_key_padding_mask=source < 0,
        )
        return x @ self.table.mT

    def embed(self, ids):
        places = [
            [wave(t / 10000 ** (2 * i / 12)) for i in range(6) for wave in (math.sin, math.cos)]
            for t in range(ids.shape[1])
        ]
        return self.table[ids.clamp(min=0)] * math.sqrt(12) + torch.tensor(places).double()


def renamed(ours):
    """Our tensors under torch's names."""
    names = {"wte.weight": "table"}
    for side in ("encoder", "decoder"):
        for at, layer in itertools.product((0, 1), ("weight", "bias")):
            inner = {"mlp.0": "linear1", "mlp.2": "linear2", "ln_1": "norm1", "ln_2": "norm2"}
            if side == "decoder":
                inner |= {"ln_cross": "norm2", "ln_2": "norm3"}
            for a, b in inner.items():
                names[f"{side}.{at}.{a}.{layer}"] = f"{side}.layers.{at}.{b}.{layer}"
            for a, b in {"attn": "self_attn", "cross": "multihead_attn"}.items():
                names[f"{side}.{at}.{a}.c_proj.weight"] = f"{side}.layers.{at}.{b}.out_proj.weight"
    out = {names[name]: t for name, t in ours.items() if name in names}
    for name in ours:
        if name.endswith("c_q.weight"):
            stem = name.removesuffix("c_q.weight")
            side, at, which, _ = name.split(".", 3)
            which = {"attn": "self_attn", "cross": "multihead_attn"}[which]
            out[f"{side}.layers.{at}.{which}.in_proj_weight"] = torch.cat(
                [ours[f"{stem}c_{x}.weight"] for x in "qkv"]
            )
    return out


@pytest.fixture(scope="module")
def both():
    ours, theirs = transformer(std=0.4), Theirs().double()
    state = renamed(ours.state_dict())
    assert sum(t.numel() for t in state.values()) == sum(p.numel() for p in ours.parameters())
    missing = [name for name in theirs.state_dict() if name not in state]
    assert all(name.endswith(("in_proj_bias", "out_proj.bias")) for name in missing)
    theirs.load_state_dict(
        state | {name: torch.zeros_like(theirs.state_dict()[name]) for name in missing}
    )
    return ours, theirs


def test_logits_loss_and_gradients_equal_those_of_torch_nn(both):
    ours, theirs = both
    real = TARGET >= 0
    torch.testing.assert_close(
        ours(SOURCE, TARGET)[real], theirs(SOURCE, TARGET)[real], rtol=1e-10, atol=1e-10
    )
    for model in both:
        model.zero_grad()
    loss = ours.loss(SOURCE, TARGET, TARGETS)
    loss.backward()
    expected = F.cross_entropy(
        theirs(SOURCE, TARGET).flatten(0, 1),
        TARGETS.flatten(),
        ignore_index=-1,
        label_smoothing=0.1,
    )
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, grad in renamed({name: p.grad for name, p in ours.named_parameters()}).items():
        torch.testing.assert_close(grad, gradients[name], rtol=1e-9, atol=1e-10)


def test_sinusoids_are_the_papers_formula():
    table = sinusoids(50, 10)
    assert table.shape == (50, 10) and table.dtype == torch.float64
    for pos, i in itertools.product(range(50), range(5)):
        angle = pos / 10000 ** (2 * i / 10)
        assert table[pos, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-12)
        assert table[pos, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-12)


def test_attention_is_the_mean_over_what_may_be_seen_head_by_head():
    torch.manual_seed(0)
    layer = CrossAttention(12, 3).double()
    x, memory = torch.randn(2, 4, 12).double(), torch.randn(2, 5, 12).double()
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]]).bool()[:, None, None]
    q, k, v = (layer.c_q(x), layer.c_k(memory), layer.c_v(memory))
    outs, weights = zip(
        *(attention(*(y[..., 4 * h : 4 * h + 4] for y in (q, k, v)), mask[:, 0]) for h in range(3))
    )
    torch.testing.assert_close(layer(x, memory, mask), layer.c_proj(torch.cat(outs, -1)))
    torch.testing.assert_close(layer.weights(x, memory, mask), torch.stack(weights, 1))


def test_the_alignment_is_that_of_torch_nn(both):
    ours, theirs = both
    seen, expected = [], []
    for layer in theirs.decoder.layers:
        layer.multihead_attn.register_forward_pre_hook(
            lambda _m, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
        )
    theirs(SOURCE, TARGET)
    for layer, (args, kwargs) in zip(theirs.decoder.layers, list(seen), strict=True):
        expected.append(layer.multihead_attn(*args, **kwargs | {"need_weights": True})[1])
    real = TARGET >= 0
    torch.testing.assert_close(
        ours.alignment(SOURCE, TARGET)[:, real], torch.stack(expected)[:, real]
    )


def test_the_alignment_of_a_row_is_a_distribution_over_its_tokens():
    weights = transformer(std=0.4).alignment(SOURCE, TARGET)
    assert weights.shape == (2, 3, 7, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 7, dtype=torch.float64))
    seen = (SOURCE >= 0)[None, :, None].expand_as(weights)
    assert (weights[~seen] == 0).all() and (weights[seen] > 0).all()


def test_the_future_cannot_change_the_past():
    model, target = transformer(), ids(seed=2)
    before = model(SOURCE, target)
    for t in range(1, 7):
        changed = target.clone()
        changed[:, t] = (changed[:, t] + 1) % 17
        after = model(SOURCE, changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-12)
        assert (after[:, t] != before[:, t]).any(-1).all()


def test_the_encoder_reads_both_ways_and_the_decoder_reads_all_of_it():
    model, source, target = transformer(), ids(T=5), ids(seed=2)
    memory, logits = model.encode(source)[0], model(source, target)
    for s in range(5):
        changed = source.clone()
        changed[:, s] = (changed[:, s] + 1) % 17
        assert (model.encode(changed)[0] != memory).any(-1).all()
        assert (model(changed, target) != logits).any(-1).all()


def test_order_matters_in_source_and_target():
    model, source, target = transformer(), ids(T=4), ids(T=4, seed=2)
    before, order = model(source, target)[:, -1], [1, 0, 2, 3]
    assert not torch.allclose(model(source[:, order], target)[:, -1], before, atol=1e-6)
    assert not torch.allclose(model(source, target[:, order])[:, -1], before, atol=1e-6)


def test_padding_never_leaks():
    model = transformer()
    for b, (source, target) in enumerate(zip(SOURCE[:2], TARGET[:2])):  # rows padded at the end
        source, target = source[source >= 0][None], target[target >= 0][None]
        alone = model(source, target)[0]
        together = model(SOURCE, TARGET)[b, : target.shape[1]]
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)


def test_no_gradient_flows_from_where_there_is_no_token():
    model = transformer()
    read = []
    model.drop.register_forward_hook(
        lambda _m, _args, y: (y.retain_grad(), read.append(y)) and None
    )
    model.loss(SOURCE, TARGET, TARGETS).backward()
    for ids_, x in zip((SOURCE, TARGET), read, strict=True):
        assert (x.grad[ids_ < 0] == 0).all()
    assert (read[0].grad[SOURCE >= 0] != 0).any(-1).all()


# The loss -----------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_mixes_the_truth_with_a_guess_among_all(smoothing):
    model = transformer(std=0.4)
    p = model(SOURCE, TARGET).softmax(-1).tolist()
    total, asked = 0.0, (TARGETS >= 0).nonzero().tolist()
    for b, t in asked:
        for v in range(17):
            share = smoothing / 17 + (1 - smoothing) * (v == TARGETS[b, t].item())
            total -= share * math.log(p[b][t][v])
    loss = model.loss(SOURCE, TARGET, TARGETS, label_smoothing=smoothing)
    assert loss.item() == pytest.approx(total / len(asked), rel=1e-12)


def test_the_usual_smoothing_is_a_tenth_and_no_targets_cost_nothing():
    model = transformer()
    expected = model.loss(SOURCE, TARGET, TARGETS, label_smoothing=0.1)
    assert model.loss(SOURCE, TARGET, TARGETS).item() == expected.item()
    nothing = model.loss(SOURCE, TARGET, torch.full_like(TARGET, -1))
    nothing.backward()
    assert nothing.item() == 0


def test_in_bf16_the_loss_is_nearly_the_same_and_in_float32():
    model = transformer(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(SOURCE, TARGET, TARGETS)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(model.loss(SOURCE, TARGET, TARGETS).item(), rel=0.02)
    assert model.bfloat16().loss(SOURCE, TARGET, TARGETS).dtype == torch.float32


def test_weights_begin_so_that_a_token_enters_with_variance_one():
    model = transformer(n_embd=96, vocab_size=500)
    assert (96**0.5 * model.wte.weight).std().item() == pytest.approx(1, rel=0.02)


def test_dropout_acts_on_the_embedding_and_on_each_addition_in_training_alone():
    model = transformer(n_embd=96, dropout=0.5)
    zeros = []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _m, _a, y: zeros.append((y == 0).double().mean()))
    model(SOURCE, TARGET)
    assert len(zeros) == 2 + 2 * 2 + 2 * 3  # both embeddings, the sub-layers of 2 + 2 blocks
    assert all(share == pytest.approx(0.5, abs=0.05) for share in zeros)
    model.eval()
    plain = transformer(n_embd=96)
    assert torch.equal(model(SOURCE, TARGET), plain(SOURCE, TARGET))


# Translation --------------------------------------------------------------------------

BOS, EOS = 0, 1
SAID = ids(B=8, V=7, padded=[(0, 5), (0, 6), (3, 6)])


def speaker(seed=27, **changes):
    """A model with nothing learned, whose translations of SAID differ in length."""
    model = transformer(seed, **{"n_layer": 1, "vocab_size": 7} | changes)
    for p in model.parameters():
        if p.dim() == 2:
            nn.init.normal_(p, std=0.6)
    return model


def log_prob(model, source, row):
    """The log-probability of a translation, summed token by token."""
    logs = model(source, torch.tensor([[BOS, *row[:-1]]]))[0].log_softmax(-1).tolist()
    return sum(at[token] for at, token in zip(logs, row, strict=True))


def tokens(row):
    return [v for v in row.tolist() if v >= 0]


def worth(model, source, row, alpha):
    """Wu et al. 2016, equation 14, without coverage."""
    return log_prob(model, source, row) / ((5 + len(row)) ** alpha / 6**alpha)


def test_one_beam_is_greedy():
    model, source = speaker(), SAID
    out, scores = translate(model, source, BOS, EOS, 9)
    ended = 0
    for b, row in enumerate(source):
        said = [BOS]
        while len(said) <= 9 and EOS not in said[1:]:
            said.append(model(row[None], torch.tensor([said]))[0, -1].argmax().item())
        assert tokens(out[b]) == said[1:]
        ended += said[-1] == EOS
        expected = worth(model, row[None], said[1:], 0.6)
        assert scores[b].item() == pytest.approx(expected, abs=1e-4)
    assert 0 < ended < 8  # the test sees both ways to end


def test_a_row_stops_at_eos_and_what_follows_is_no_token():
    model, source = speaker(), SAID
    for beams in (1, 3):
        out, _ = translate(model, source, BOS, EOS, 9, beams)
        assert out.dtype == torch.int64
        for row in out.tolist():
            if EOS in row:
                end = row.index(EOS) + 1
                assert row[end:] == [-1] * (len(row) - end)
            else:
                assert len(row) == 9 and -1 not in row
        lengths = (out >= 0).sum(1)
        assert out.shape[1] == lengths.max() and lengths.min() < lengths.max()


def test_decoding_ends_with_the_last_row():
    model, steps = speaker(), []
    source = SAID[(translate(model, SAID, BOS, EOS, 9)[0] == EOS).any(1)]
    model.decoder[0].register_forward_hook(lambda *_: steps.append(1))
    out, _ = translate(model, source, BOS, EOS, 9)
    assert len(steps) == out.shape[1] == 6


def all_translations(V, longest):
    """Every translation: ended by eos, or cut at the longest."""
    words = [v for v in range(V) if v != EOS]
    for n in range(longest):
        for row in itertools.product(words, repeat=n):
            yield [*row, EOS]
    yield from ([*row] for row in itertools.product(words, repeat=longest))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_beam_that_is_wide_enough_finds_the_best_of_all(alpha):
    best_lengths, greedy_differs = set(), False
    for seed in range(6):
        model = speaker(seed, vocab_size=4)
        source = ids(B=2, T=3, V=4, seed=seed, padded=[(0, 2)])
        out, scores = translate(model, source, BOS, EOS, 3, beams=40, length_penalty=alpha)
        greedy, _ = translate(model, source, BOS, EOS, 3, length_penalty=alpha)
        for b in range(2):
            row = source[b : b + 1]
            ranked = sorted((worth(model, row, y, alpha), y) for y in all_translations(4, 3))
            assert tokens(out[b]) == ranked[-1][1]
            assert scores[b].item() == pytest.approx(ranked[-1][0], abs=1e-5)
            best_lengths.add(len(ranked[-1][1]))
            greedy_differs |= tokens(greedy[b]) != ranked[-1][1]
    assert len(best_lengths) > 1 and greedy_differs


def beam_by_hand(model, source, beams, longest, alpha):
    """Beam search over lists, one row at a time."""
    beam = [(0.0, 0.0, [])]
    for _ in range(longest):
        new = []
        for score, logp, row in beam:
            if EOS in row:
                new.append((score, logp, row))
                continue
            step = model(source, torch.tensor([[BOS, *row]]))[0, -1].log_softmax(-1).tolist()
            for v, s in enumerate(step):
                lp = ((5 + len(row) + 1) / 6) ** alpha
                new.append(((logp + s) / lp, logp + s, [*row, v]))
        beam = sorted(new, reverse=True)[:beams]
    return beam[0]


@pytest.mark.parametrize("beams, alpha", [(2, 0.6), (3, 0.0), (4, 1.5)])
def test_a_narrow_beam_keeps_the_best_of_each_step(beams, alpha):
    model, source = speaker(), SAID
    out, scores = translate(model, source, BOS, EOS, 6, beams, alpha)
    for b in range(8):
        score, _, row = beam_by_hand(model, source[b : b + 1], beams, 6, alpha)
        assert tokens(out[b]) == row
        assert scores[b].item() == pytest.approx(score, abs=1e-5)


def test_rows_are_translated_as_if_alone():
    model, source = speaker(), SAID
    out, scores = translate(model, source, BOS, EOS, 6, beams=3)
    for b in range(8):
        row = source[b : b + 1]
        alone, score = translate(model, row[row >= 0][None], BOS, EOS, 6, beams=3)
        assert tokens(alone[0]) == tokens(out[b])
        assert score.item() == pytest.approx(scores[b].item(), abs=1e-5)


def test_one_id_may_begin_and_end():
    model, source = speaker(), SAID
    out, _ = translate(model, source, EOS, EOS, 9)
    first = model(source, torch.full((8, 1), EOS))[:, -1].argmax(-1)
    assert torch.equal(out[:, 0], first) and out.shape[1] > 1


def test_translating_stops_dropout_and_gradients_and_leaves_the_model_as_it_was():
    model, source = speaker(dropout=0.5), SAID
    out, scores = translate(model, source, BOS, EOS, 5, beams=2)
    again, same = translate(speaker(), source, BOS, EOS, 5, beams=2)
    assert torch.equal(out, again) and torch.equal(scores, same) and not scores.requires_grad
    assert model.training and model.encoder[0].drop.training
    model.eval()
    translate(model, source, BOS, EOS, 1)
    assert not model.training


def reversals(seed, B=64, longest=5, V=10):
    """Source and target: digits 2 to 9 in 2 to longest places, and the same from the back."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(2, V, (B, longest), generator=generator)
    lengths = torch.randint(2, longest + 1, (B,), generator=generator)
    source[torch.arange(longest) >= lengths[:, None]] = -1
    target = torch.full((B, longest + 2), -1)
    for b, n in enumerate(lengths.tolist()):
        target[b, : n + 2] = torch.tensor([BOS, *source[b, :n].flip(0).tolist(), EOS])
    return source, target


def test_a_small_model_learns_to_reverse_and_looks_where_it_must():
    model = transformer(dtype=torch.float32, n_layer=1, n_head=2, n_embd=32, vocab_size=10)
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(300):
        source, target = reversals(step)
        opt.zero_grad()
        model.loss(source, target[:, :-1].clone(), target[:, 1:].clone()).backward()
        opt.step()
    source, target = reversals(10_000)
    for beams in (1, 3):
        out, _ = translate(model, source, BOS, EOS, 8, beams)
        same = [tokens(a) == tokens(b)[1:] for a, b in zip(out, target)]
        assert sum(same) / 64 > 0.9
    source, target = source[source[:, -1] >= 0], target[source[:, -1] >= 0]
    looked = model.alignment(source, target[:, :-1].clone())[-1][:, :5].mean(0).argmax(-1)
    assert looked.tolist() == [4, 3, 2, 1, 0]


# At the door --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"n_layer": 0}, "n_layer must be a whole number of at least 1: got 0"),
        ({"n_head": 1.0}, "n_head must be a whole"),
        ({"n_embd": 12, "n_head": 5}, "n_embd must be a multiple of n_head: got n_embd=12"),
        ({"vocab_size": True}, "vocab_size"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        TransformerConfig(**SIZES | changes)


def test_the_usual_sizes_are_those_of_the_papers_base_model():
    with torch.device("meta"):
        n = sum(p.numel() for p in Transformer(TransformerConfig()).parameters())
    assert round(n / 1e6) == 63  # the paper says 65 million, "about 37000" tokens


def test_an_odd_width_has_no_sinusoids():
    with pytest.raises(ValueError, match="C must be even: got 7"):
        sinusoids(3, 7)


@pytest.mark.parametrize(
    "bad, words",
    [
        (torch.zeros(2, 0, dtype=torch.int64), r"\(B, T\) of int64: got \(2, 0\)"),
        (torch.zeros(2, dtype=torch.int64), r"\(B, T\) of int64: got \(2,\)"),
        (torch.zeros(2, 3), "int64: got .* of torch.float32"),
        (torch.tensor([[3, 17], [1, 1]]), "0 to vocab_size−1=16, or −1 for none: got 1 to 17"),
        (torch.tensor([[3, -100], [1, 1]]), "got -100 to 3"),
        (torch.tensor([[3, 4], [-1, 4]]), "must begin with a token"),
    ],
)
def test_ids_that_cannot_be_read_are_refused_at_the_door(bad, words):
    model, good = transformer(), torch.ones(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"source.*{words}"):
        model(bad, good)
    with pytest.raises(ValueError, match=f"target.*{words}"):
        model(good, bad)


@pytest.mark.parametrize(
    "targets, words",
    [
        (torch.zeros(2, 4, dtype=torch.int64), "one target"),
        (torch.zeros(2, 3), "int64"),
        (torch.full((2, 3), 17), "got 17 to 17"),
        (torch.full((2, 3), -100), "got -100 to -100"),
    ],
)
def test_targets_that_cannot_be_predicted_are_refused(targets, words):
    good = torch.ones(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=words):
        transformer().loss(good, good, targets)


@pytest.mark.parametrize("n, beams", [(0, 1), (3, 0)])
def test_no_tokens_or_no_beams_are_refused(n, beams):
    with pytest.raises(ValueError, match=f"at least 1: got {beams}, {n}"):
        translate(transformer(), ids(), BOS, EOS, n, beams)
