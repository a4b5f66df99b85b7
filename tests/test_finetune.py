"""gpt2lib.finetune against transformers, sums by hand, and the papers' formulas."""

import itertools
import math

import pytest
import torch
from torch import nn

from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.finetune import (
    Classifier,
    LoRALinear,
    add_lora,
    answer_batch,
    dpo_loss,
    merge_lora,
    sequence_logprob,
)
from gpt2lib.model import GPT
from gpt2lib.train import train

torch.set_num_threads(1)
TINY = GPTConfig(n_layer=2, n_head=3, n_embd=24, block_size=16, vocab_size=61)
PAD = 60
ALL = ("c_attn", "c_proj", "c_fc")


def gpt(dtype=torch.float64, seed=0, std=0.3):
    """A GPT whose every weight matters, biases and LayerNorms too."""
    torch.manual_seed(seed)
    model = GPT(TINY).to(dtype)
    for p in model.parameters():
        nn.init.normal_(p, std=std)
    return model


def ids(B=3, T=11, V=60, seed=1):
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# Classification -----------------------------------------------------------------------


def rows(lengths=(3, 7, 5, 1)):
    idx = ids(len(lengths), 7)
    for row, n in zip(idx, lengths):
        row[n:] = PAD
    return idx, lengths


def test_a_rows_scores_are_read_at_its_last_token():
    model = Classifier(gpt(), 4, PAD)
    idx, lengths = rows()
    scores = model(idx)
    assert scores.shape == (4, 4)
    for row, n, got in zip(idx, lengths, scores):
        alone = model.gpt.hidden(row[None, :n])[0, -1]  # as if no row were longer
        torch.testing.assert_close(got, alone @ model.head.weight.mT)


def test_the_scores_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        **{"n_layer": 2, "n_head": 3, "n_embd": 24, "n_positions": 16, "vocab_size": 61},
        **{"num_labels": 5, "pad_token_id": PAD},
    )
    theirs = transformers.GPT2ForSequenceClassification(config).double().eval()
    ours = Classifier(gpt(), 5, PAD)
    renamed = {f"transformer.{name}": p for name, p in ours.gpt.state_dict().items()}
    for name, p in renamed.items():  # their Conv1D is a turned Linear
        if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            renamed[name] = p.mT
    theirs.load_state_dict(renamed | {"score.weight": ours.head.weight})
    idx, lengths = rows()
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    torch.testing.assert_close(ours(idx), theirs(idx, attention_mask=mask).logits)


def test_padding_cannot_change_a_rows_scores():
    model = Classifier(gpt(), 4, PAD)
    idx, _ = rows()
    longer = torch.cat([idx, torch.full((4, 6), PAD)], 1)
    torch.testing.assert_close(model(longer), model(idx))


def test_a_pad_inside_a_row_is_a_token_of_it():
    model = Classifier(gpt(), 4, PAD)
    inside = torch.tensor([[5, PAD, 7, PAD]])
    by_hand = model.gpt.hidden(inside)[:, 2] @ model.head.weight.mT
    torch.testing.assert_close(model(inside), by_hand)


def test_the_loss_is_the_mean_surprisal_of_the_labels_that_are_known():
    model = Classifier(gpt(), 4, PAD)
    idx, _ = rows()
    p = model(idx).softmax(-1).tolist()
    by_hand = -(math.log(p[0][2]) + math.log(p[2][0]) + math.log(p[3][3])) / 3
    assert model.loss(idx, torch.tensor([2, -1, 0, 3])).item() == pytest.approx(by_hand, rel=1e-12)
    assert model.loss(idx, torch.full((4,), -1)).item() == 0


def test_the_head_begins_small_and_everything_may_learn():
    torch.manual_seed(0)
    big = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=512, block_size=4, vocab_size=8))
    model = Classifier(big.to(torch.bfloat16), 64, 7)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert model.head.weight.dtype == torch.bfloat16
    assert all(p.requires_grad for p in model.parameters()) and model.head.bias is None
    loss = model.loss(torch.tensor([[1, 2]]), torch.tensor([3]))
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_classifier_learns_a_rule_in_a_hundred_steps(kind):
    def batches():
        """Is the first token under 30? The row's end is 1 to 8 tokens later."""
        for i in itertools.count():
            idx = ids(16, 8, seed=i)
            for row, n in zip(idx, ids(16, 1, 8, seed=i)):
                row[n + 1 :] = PAD
            yield idx, (idx[:, 0] < 30).long()

    torch.manual_seed(0)
    model = Classifier(GPT(TINY), 2, PAD)
    config = TrainConfig(steps=100, warmup=5, optimizer=kind, lr=1e-2, precision="float32")
    records = list(train(model, batches(), config))
    assert records[0].loss == pytest.approx(math.log(2), abs=0.1)
    assert records[0].tokens == 16
    idx, labels = next(itertools.islice(batches(), 1000, None))
    assert (model(idx).argmax(-1) == labels).all()


@pytest.mark.parametrize(
    "idx, labels, words",
    [
        (torch.full((2, 3), PAD), torch.zeros(2).long(), "other than its pad, 60"),
        (torch.tensor([[1, 2], [PAD, PAD]]), torch.zeros(2).long(), "other than its pad, 60"),
        (torch.zeros(2, 0).long(), torch.zeros(2).long(), "1 to block_size=16 tokens: got 0"),
        (torch.ones(2, 3).long(), torch.ones(2, 3).long(), r"one label: got \(2, 3\) for 2 rows"),
    ],
)
def test_rows_that_cannot_be_classified_are_refused(idx, labels, words):
    with pytest.raises(ValueError, match=words):
        Classifier(gpt(), 2, PAD).loss(idx, labels)


# Instructions -------------------------------------------------------------------------


def test_only_answers_and_their_end_are_targets():
    idx, targets = answer_batch([([1, 2, 3], [4, 5]), ([6], [7]), ([8, 9], [])], eot=PAD)
    assert idx.tolist() == [
        [1, 2, 3, 4, 5],
        [6, 7, PAD, PAD, PAD],
        [8, 9, PAD, PAD, PAD],
    ]
    assert targets.tolist() == [
        [-1, -1, 4, 5, PAD],
        [7, PAD, -1, -1, -1],
        [-1, PAD, -1, -1, -1],
    ]
    assert idx.dtype == targets.dtype == torch.int64


def test_the_loss_on_a_batch_is_the_surprisal_of_the_answers():
    model = gpt()
    pairs = [([1, 2, 3], [4, 5]), ([6, 7], [8, 9, 10, 11])]
    nats, n = 0.0, 0
    for prompt, answer in pairs:
        whole = [*prompt, *answer, PAD]
        for t in range(len(prompt), len(whole)):  # each token of the answer from all before it
            p = model(torch.tensor([whole[:t]]))[0, -1].softmax(-1)
            nats, n = nats - p[whole[t]].log().item(), n + 1
    assert n == 8
    assert model.loss(*answer_batch(pairs, eot=PAD)).item() == pytest.approx(nats / n, rel=1e-12)


def test_an_answer_needs_something_to_follow():
    with pytest.raises(ValueError, match="eot will do"):
        answer_batch([([1], [2]), ([], [3])], eot=PAD)


# LoRA ---------------------------------------------------------------------------------


def with_lora(model, r=2, alpha=6, **options):
    """LoRA whose B is no longer 0."""
    add_lora(model, r, alpha, **options)
    for name, p in model.named_parameters():
        if name.endswith("lora_B"):
            nn.init.normal_(p)
    return model


def test_at_first_lora_changes_nothing_bit_for_bit():
    model, idx = gpt(torch.float32), ids()
    before = model(idx)
    add_lora(model, 4, 8, ALL, dropout=0.5)
    assert torch.equal(model(idx), before)


def test_lora_adds_the_product_of_its_matrices():
    torch.manual_seed(0)
    linear = nn.Linear(5, 7).double()
    lora = LoRALinear(linear, r=2, alpha=6)
    nn.init.normal_(lora.lora_B)
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    W, b, A, B = linear.weight, linear.bias, lora.lora_A, lora.lora_B
    assert (A.shape, B.shape) == ((2, 5), (7, 2))
    assert [name for name, p in lora.named_parameters() if p.requires_grad] == ["lora_A", "lora_B"]
    torch.testing.assert_close(lora(x), x @ (W + 6 / 2 * B @ A).mT + b, rtol=1e-12, atol=1e-12)


def test_a_begins_uniform_within_one_by_the_root_of_its_width():
    torch.manual_seed(0)
    lora = LoRALinear(nn.Linear(400, 10), r=64, alpha=1)
    assert lora.lora_A.abs().max().item() == pytest.approx(1 / 20, rel=0.001)
    assert lora.lora_A.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.02)
    assert (lora.lora_B == 0).all()
    narrow = LoRALinear(nn.Linear(4, 4).to(torch.bfloat16), r=1, alpha=1)
    assert narrow.lora_A.dtype == narrow.lora_B.dtype == torch.bfloat16


def test_dropout_is_on_the_way_into_a_and_only_in_training():
    torch.manual_seed(0)
    lora = LoRALinear(nn.Linear(1, 1).double(), r=1, alpha=1, dropout=0.75)
    nn.init.ones_(lora.lora_B)
    x = torch.ones(4000, 1, dtype=torch.float64)
    plain, side = lora.linear(x), lora.lora_A.item()
    torch.testing.assert_close(lora.eval()(x) - plain, torch.full_like(x, side))
    noisy = (lora.train()(x) - plain) / side  # a quarter passes, four times as large
    assert set(noisy.round(decimals=6).flatten().tolist()) == {0.0, 4.0}
    assert noisy.mean().item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    "targets, matrices",
    [
        (("c_attn",), [(24, 72)]),
        (("c_attn", "mlp.c_proj"), [(24, 72), (96, 24)]),
        (("c_proj",), [(24, 24), (96, 24)]),
        (ALL, [(24, 72), (24, 24), (24, 96), (96, 24)]),
    ],
)
def test_only_r_times_in_plus_out_weights_a_matrix_may_learn(targets, matrices):
    model = gpt()
    add_lora(model, 3, 6, targets)
    learn = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in learn.values()) == 2 * sum(3 * (i + o) for i, o in matrices)
    assert len(learn) == 2 * 2 * len(matrices)
    assert all(name.endswith(("lora_A", "lora_B")) for name in learn)


def test_the_same_seed_draws_the_same_lora_from_the_first_layer_to_the_last():
    model = gpt()
    torch.manual_seed(5)
    add_lora(model, 2, 4, ("c_proj", "c_attn"))
    torch.manual_seed(5)
    for block in model.h:
        for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_proj):
            assert torch.equal(layer.lora_A, LoRALinear(layer.linear, 2, 4).lora_A)


@pytest.mark.parametrize("targets", [("c_attn",), ALL])
def test_merged_the_model_says_the_same_under_its_old_names(targets):
    model, idx = gpt(std=0.1), ids()
    names, plain = list(model.state_dict()), model(idx)
    with_lora(model, targets=targets)
    unmerged = model(idx)
    assert not torch.allclose(unmerged, plain, atol=0.01)
    merge_lora(model)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(idx), unmerged, rtol=0, atol=1e-12)
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_training_moves_lora_alone_and_the_frozen_stay_bit_for_bit(kind):
    model = gpt(torch.float32)
    add_lora(model, 2, 4, ALL)
    before = weights(model)
    config = TrainConfig(steps=20, warmup=0, optimizer=kind, lr=1e-2, precision="float32")
    idx, targets = ids(), ids(seed=2)
    records = list(train(model, itertools.repeat((idx, targets)), config))
    assert records[-1].loss < records[0].loss - 0.1
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != name.endswith(("lora_A", "lora_B")), name


def test_a_classifier_on_lora_still_trains_its_head():
    model = Classifier(gpt(torch.float32), 2, PAD)
    add_lora(model.gpt, 2, 4)
    before = weights(model)
    config = TrainConfig(steps=2, warmup=0, precision="float32")
    list(train(model, itertools.repeat((ids(), torch.tensor([0, 1, 1]))), config))
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    lora = {f"gpt.h.{i}.attn.c_attn.lora_{x}" for i in (0, 1) for x in "AB"}
    assert moved == {"head.weight"} | lora


def test_lora_that_fits_nothing_is_refused_and_freezes_nothing():
    model = gpt()
    for targets in (("c_attn", "attn"), ("proj",), "c_attn"):
        with pytest.raises(ValueError, match="no Linear has a name that ends in"):
            add_lora(model, 2, 4, targets)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="at least 1: got 0"):
        LoRALinear(nn.Linear(2, 2), 0, 1)


# Preferences --------------------------------------------------------------------------


def test_a_sequences_log_probability_is_the_sum_over_its_targets():
    model, idx, targets = gpt(), ids(), ids(seed=2)
    targets[0, 3:] = -1
    targets[2] = -1
    p = model(idx).softmax(-1).tolist()
    by_hand = [
        sum(math.log(p[b][t][v]) for t, v in enumerate(row) if v >= 0)
        for b, row in enumerate(targets.tolist())
    ]
    logprobs = sequence_logprob(model, idx, targets)
    assert logprobs.tolist() == pytest.approx(by_hand, rel=1e-12)
    assert sequence_logprob(gpt().to(torch.bfloat16), idx, targets).dtype == torch.float32


def test_the_dpo_loss_is_the_surprise_at_the_preference():
    torch.manual_seed(0)
    numbers = torch.randn(4, 5, dtype=torch.float64) * 3
    losses = []
    for chosen, rejected, ref_chosen, ref_rejected in numbers.mT.tolist():
        a, b = math.exp(0.5 * (chosen - ref_chosen)), math.exp(0.5 * (rejected - ref_rejected))
        losses.append(-math.log(a / (a + b)))  # Bradley and Terry's model of the preference
    assert dpo_loss(*numbers, beta=0.5).item() == pytest.approx(sum(losses) / 5, rel=1e-12)


def test_a_model_that_is_its_reference_has_no_preference():
    logprobs = torch.tensor([-3.0, -400.0])
    loss = dpo_loss(logprobs, logprobs - 7, logprobs, logprobs - 7)
    assert loss.item() == pytest.approx(math.log(2))
    one_better = dpo_loss(logprobs + 1, logprobs, logprobs, logprobs)  # at their default β of 0.1
    assert one_better.item() == pytest.approx(math.log(1 + math.exp(-0.1)))


def test_far_from_the_reference_the_dpo_loss_stays_finite():
    far = torch.tensor([-9e4])
    assert dpo_loss(far, 0 * far, 0 * far, 0 * far, beta=1.0).item() == pytest.approx(9e4)


def test_the_gradient_of_dpo_is_the_papers():
    policy, reference, beta = gpt(seed=0, std=0.2), gpt(seed=1, std=0.2), 0.3
    good = answer_batch([([1, 2], [3, 4]), ([5], [6])], PAD)
    bad = answer_batch([([1, 2], [7]), ([5], [8, 9, 10])], PAD)
    with torch.no_grad():
        ref_good, ref_bad = (sequence_logprob(reference, *some) for some in (good, bad))
    chosen, rejected = (sequence_logprob(policy, *some) for some in (good, bad))
    dpo_loss(chosen, rejected, ref_good, ref_bad, beta).backward(retain_graph=True)
    # Rafailov et al. 2023, section 4: −β E[σ(r̂_l − r̂_w) (∇ log π(y_w) − ∇ log π(y_l))]
    reward_w, reward_l = beta * (chosen - ref_good), beta * (rejected - ref_bad)
    weight = torch.sigmoid(reward_l - reward_w).detach()
    for name, p in policy.named_parameters():
        by_hand = 0
        for i in range(2):
            up = torch.autograd.grad(chosen[i], p, retain_graph=True)[0]
            down = torch.autograd.grad(rejected[i], p, retain_graph=True)[0]
            by_hand = by_hand - beta * weight[i] * (up - down) / 2
        torch.testing.assert_close(p.grad, by_hand, msg=name)
