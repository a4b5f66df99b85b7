"""gpt2lib.model against transformers' GPT-2, PyTorch's modules and the published counts."""

import math
import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt2lib import model as model_module
from gpt2lib.config import GPTConfig
from gpt2lib.model import GPT, MLP, Block, evaluating

torch.set_num_threads(1)
TINY = GPTConfig(n_layer=2, n_head=3, n_embd=24, block_size=16, vocab_size=61)


def gpt(config=TINY, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return GPT(config).to(dtype)


def ids(B=3, T=11, V=61, seed=1):
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def theirs():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        **{"n_layer": 2, "n_head": 3, "n_embd": 24, "n_positions": 16, "vocab_size": 61},
        **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    )
    torch.manual_seed(3)
    net = transformers.GPT2LMHeadModel(config).double()
    for p in net.parameters():  # biases and LayerNorms too, so that none can be left out
        torch.nn.init.normal_(p, std=0.3)
    return net


def renamed(theirs):
    """Tensors under our names: no prefix, no tied head, Conv1D turned to Linear."""
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {
        name.removeprefix("transformer."): t.mT if name.endswith(turned) else t
        for name, t in theirs.items()
        if name != "lm_head.weight"
    }


def test_names_and_shapes_are_those_of_the_released_file(theirs):
    ours = {name: w.shape for name, w in gpt().state_dict().items()}
    assert ours == {name: w.shape for name, w in renamed(theirs.state_dict()).items()}
    assert {"wte.weight", "wpe.weight", "h.0.attn.c_attn.weight", "h.1.mlp.c_proj.bias"} < set(ours)
    assert "ln_f.bias" in ours and not any("head" in name for name in ours)


def test_logits_loss_and_gradients_equal_those_of_transformers(theirs):
    ours = gpt(dtype=torch.float64)
    ours.load_state_dict(renamed(theirs.state_dict()))
    idx = ids(T=16)
    theirs.zero_grad()
    logits = theirs(idx).logits
    torch.testing.assert_close(ours(idx), logits)
    targets = ids(T=16, seed=2)
    ours.loss(idx, targets).backward()
    F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    gradients = renamed({name: p.grad for name, p in theirs.named_parameters()})
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name])


def test_a_block_is_two_additions_to_the_stream():
    torch.manual_seed(0)
    block = Block(TINY).double()
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    for ln in (block.ln_1, block.ln_2):
        torch.nn.init.normal_(ln.weight)
    middle = x + block.attn(F.layer_norm(x, (24,), block.ln_1.weight, block.ln_1.bias, 1e-5))
    normed = F.layer_norm(middle, (24,), block.ln_2.weight, block.ln_2.bias, 1e-5)
    torch.testing.assert_close(block(x), middle + block.mlp(normed))


def test_the_mlp_is_the_tanh_gelu_of_the_paper():
    torch.manual_seed(0)
    mlp = MLP(4).double()
    x = 3 * torch.randn(2, 5, 4, dtype=torch.float64)
    inner = x @ mlp.c_fc.weight.mT + mlp.c_fc.bias  # Hendrycks and Gimpel 2016, the tanh form:
    bent = torch.tanh((2 / math.pi) ** 0.5 * (inner + 0.044715 * inner**3))
    expected = 0.5 * inner * (1 + bent) @ mlp.c_proj.weight.mT + mlp.c_proj.bias
    torch.testing.assert_close(mlp(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # as torch.compile does
def test_compiled_the_loss_and_its_gradients_are_the_same():
    model, idx, targets = gpt(dtype=torch.float64), ids(), ids(seed=2)
    for p in model.parameters():  # far from 0, where all forms of GELU are one
        torch.nn.init.normal_(p, std=0.5)
    found = []
    for loss_of in (model.loss, torch.compile(model.loss, backend="aot_eager")):
        model.zero_grad()
        loss = loss_of(idx, targets)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "tiny", "small"])
def test_the_models_count_their_parameters_as_the_formula_does(name):
    config = GPTConfig.named(name)
    with torch.device("meta"):
        model = GPT(config)
    assert sum(p.numel() for p in model.parameters()) == config.n_params()


def test_at_init_every_token_is_about_equally_likely():
    config = GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=64, vocab_size=1000)
    loss = gpt(config).loss(ids(8, 64, 1000), ids(8, 64, 1000, seed=2)).item()
    assert abs(loss - math.log(1000)) < 0.05


def test_weights_begin_as_the_paper_has_them():
    config = GPTConfig(n_layer=4, n_head=4, n_embd=128, block_size=128, vocab_size=512)
    for name, p in gpt(config).named_parameters():
        if name.endswith("c_proj.weight"):
            std = 0.02 / 8**0.5  # 2 additions to the stream in each of 4 blocks
        elif p.dim() == 2:
            std = 0.01 if name == "wpe.weight" else 0.02
        else:
            assert (p == float("ln" in name and name.endswith("weight"))).all(), name
            continue
        assert p.std().item() == pytest.approx(std, rel=0.03), name
        assert abs(p.mean().item()) < 4 * std / p.numel() ** 0.5, name


def test_the_future_cannot_change_the_past():
    model, idx = gpt(), ids()
    before = model(idx)
    for t in range(1, idx.shape[1]):
        changed = idx.clone()
        changed[:, t] = (changed[:, t] + 1) % 61
        after = model(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])


def test_the_past_does_change_the_future():
    model, idx = gpt(), ids()
    changed = idx.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 61
    assert (model(changed)[:, -1] != model(idx)[:, -1]).any(-1).all()


@pytest.mark.parametrize("chunks", [[11], [1] * 11, [4, 3, 4], [1, 9, 1], [10, 1]], ids=str)
@pytest.mark.parametrize("pads", [None, [0, 3, 10]], ids=str)
def test_reading_in_pieces_with_a_cache_is_reading_at_once(chunks, pads):
    model, idx = gpt(dtype=torch.float64), ids()
    pads = None if pads is None else torch.tensor(pads)
    whole, cache = model.hidden(idx, pads=pads), model.new_cache(11)
    with evaluating(model):
        pieces = [model.hidden(piece, cache, pads) for piece in idx.split(chunks, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
        assert [layer.length for layer in cache] == [11, 11]
        with pytest.raises(ValueError, match="room for 11 tokens: got 12"):
            model(idx[:, :1], cache)
    with pytest.raises(ValueError, match="keeps no gradient"):
        model(idx, model.new_cache())


def test_filler_at_the_left_changes_nothing_for_what_follows_it():
    model, idx = gpt(dtype=torch.float64), ids()
    x = model.hidden(idx, pads=torch.tensor([0, 3, 10]))
    for row, n in enumerate((0, 3, 10)):
        alone = model.hidden(idx[row : row + 1, n:])
        torch.testing.assert_close(x[row : row + 1, n:], alone)
    other = torch.where(torch.arange(11) < 3, idx.roll(1, 0), idx)  # other filler
    torch.testing.assert_close(model.hidden(other, pads=torch.tensor([3] * 3))[1, 3:], x[1, 3:])


@pytest.mark.parametrize("T", [11, 600])
def test_in_bf16_a_cache_reads_nearly_the_same(T):
    model, idx = gpt(replace(TINY, block_size=600)), ids(T=T)
    with evaluating(model), torch.autocast("cpu", torch.bfloat16):
        whole, cache = model(idx), model.new_cache()
        pieces = [model(piece, cache) for piece in idx.split([5, 1, T - 7, 1], dim=1)]
    assert cache[0].keys.dtype == torch.float32 and cache[0].keys.shape == (3, 3, 600, 8)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0.05, atol=0.02)


def test_a_sequence_may_not_outgrow_the_block_with_a_cache_either():
    model, cache = gpt(), gpt().new_cache(99)
    with evaluating(model), pytest.raises(ValueError, match="1 to block_size=16 tokens: got 17"):
        model(ids(T=16), cache)
        model(ids(T=1), cache)


def test_order_matters():
    model, idx = gpt(), ids()
    swapped = idx[:, [1, 0, *range(2, 11)]]
    assert not torch.allclose(model(idx)[:, -1], model(swapped)[:, -1], atol=1e-6)


def test_examples_in_a_batch_do_not_see_each_other():
    model, idx = gpt(dtype=torch.float64), ids()
    for b in range(3):
        torch.testing.assert_close(model(idx)[b], model(idx[b : b + 1])[0])


def test_the_loss_is_the_mean_surprisal_of_the_counted_targets():
    model, idx, targets = gpt(dtype=torch.float64), ids(), ids(seed=2)
    targets[0, 3:] = -1
    p = model(idx).softmax(-1).tolist()
    nats = [-math.log(p[b][t][targets[b, t]]) for b, t in (targets >= 0).nonzero().tolist()]
    assert model.loss(idx, targets).item() == pytest.approx(sum(nats) / len(nats))


def test_a_batch_without_targets_costs_nothing_and_teaches_nothing():
    model, idx = gpt(), ids()
    loss = model.loss(idx, torch.full_like(idx, -1))
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)


class Products(TorchDispatchMode):
    """Counts the matrix products in which the vocabulary takes part."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.out):
            self.n += any(61 in t.shape for t in args)
        return func(*args, **(kwargs or {}))


def test_what_is_frozen_costs_the_head_nothing_and_the_rest_learns_the_same():
    model, targets = gpt(dtype=torch.float64), ids(seed=2)
    F.cross_entropy(model(ids()).mT, targets).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for table, n in ((True, 3), (False, 2)):
        model.wte.requires_grad_(table)
        with Products() as products:
            model.loss(ids(), targets).backward()
        assert products.n == n
        for name, p in model.named_parameters():
            if p.requires_grad:
                torch.testing.assert_close(p.grad, expected[name])
        model.zero_grad()
    assert model.wte.weight.grad is None
    with evaluating(model), Products() as products:
        model.loss(ids(), targets)
    assert products.n == 1


def test_a_loss_goes_backward_once():
    loss = gpt().loss(ids(), ids(seed=2))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward once"):
        loss.backward()


@pytest.mark.parametrize("logits_at_once", [61 * 32, 61 * 7, 61, 1])
def test_the_loss_in_chunks_is_the_plain_loss_and_so_are_its_gradients(monkeypatch, logits_at_once):
    model, idx, targets = gpt(dtype=torch.float64), ids(), ids(seed=2)
    targets[1, 2:9] = -1
    plain = model.loss(idx, targets)
    plain.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    monkeypatch.setattr(model_module, "LOGITS_AT_ONCE", logits_at_once)
    chunked = model.loss(idx, targets)
    chunked.backward()
    torch.testing.assert_close(chunked, plain)
    for p, expected in zip(model.parameters(), gradients):
        torch.testing.assert_close(p.grad, expected)


def test_in_bf16_the_loss_in_chunks_is_the_plain_loss_nearly(monkeypatch):
    model, idx, targets = gpt(), ids(), ids(seed=2)
    gradients = []
    for logits_at_once in (2**23, 61 * 7):
        monkeypatch.setattr(model_module, "LOGITS_AT_ONCE", logits_at_once)
        monkeypatch.setattr(model_module, "ROWS_AT_ONCE", 2**12 if not gradients else 7)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(idx, targets)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(math.log(61), abs=0.1)
        gradients.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=0.05, atol=1e-3)


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes, in numbers."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return out


def test_the_logits_of_the_whole_batch_never_exist_at_once(monkeypatch):
    monkeypatch.setattr(model_module, "LOGITS_AT_ONCE", 8 * 1000)
    config = GPTConfig(n_layer=1, n_head=1, n_embd=4, block_size=64, vocab_size=1000)
    model, idx = gpt(config), ids(4, 64, 1000)
    kept = []
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with Largest() as largest:
        with keep:
            loss = model.loss(idx, idx)
        loss.backward()
    assert largest.numel == 8 * 1000  # 8 rows of logits; the widest layer has 4096
    assert not any(t.numel() >= 8 * 1000 for t in kept)  # nor are they kept for going backward


def test_no_chunk_of_logits_lives_on_beside_the_next(monkeypatch):
    monkeypatch.setattr(model_module, "LOGITS_AT_ONCE", 61 * 7)
    slopes, cross_entropy = [], model_module._cross_entropy

    def watched(*args):
        assert [ref() for ref in slopes if ref() is not None] == []
        loss, slope = cross_entropy(*args)
        slopes.append(weakref.ref(slope))
        return loss, slope

    monkeypatch.setattr(model_module, "_cross_entropy", watched)
    gpt().loss(ids(), ids(seed=2)).backward()
    assert len(slopes) > 1


class Memories(TorchDispatchMode):
    """The memories in which any operation leaves a tensor of this shape."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape, self.found = shape, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.shape == self.shape:
                self.found.add(t.untyped_storage().data_ptr())
        return out


def test_the_token_tables_gradient_is_made_where_it_stays():
    model = gpt()
    with Memories(model.wte.weight.shape) as tables:
        model.loss(ids(), ids(seed=2)).backward()
    gradient = model.wte.weight.grad.untyped_storage().data_ptr()
    assert tables.found == {model.wte.weight.untyped_storage().data_ptr(), gradient}


@pytest.mark.parametrize(
    "idx, words",
    [
        (torch.zeros(2, 17, dtype=torch.int64), "1 to block_size=16 tokens: got 17"),
        (torch.zeros(2, 0, dtype=torch.int64), "1 to block_size=16 tokens: got 0"),
        (torch.zeros(2, 3), "int64: got .* of torch.float32"),
        (torch.zeros(2, 3, dtype=torch.int32), "int64"),
        (torch.zeros(3, dtype=torch.int64), r"\(B, T\) of int64: got \(3,\)"),
        (torch.tensor([[5, 61]]), "0 to vocab_size−1=60: got 5 to 61"),
        (torch.tensor([[5, -1]]), "0 to vocab_size−1=60: got -1 to 5"),
    ],
)
def test_ids_that_cannot_be_read_are_refused_at_the_door(idx, words):
    with pytest.raises(ValueError, match=words):
        gpt()(idx)


@pytest.mark.parametrize(
    "targets, words",
    [
        (torch.zeros(2, 4, dtype=torch.int64), "one target"),
        (torch.zeros(2, 3), "int64"),
        (torch.full((2, 3), 61), "got 61 to 61"),
        (torch.full((2, 3), -100), "got -100 to -100"),
    ],
)
def test_targets_that_cannot_be_predicted_are_refused(targets, words):
    with pytest.raises(ValueError, match=words):
        gpt().loss(torch.zeros(2, 3, dtype=torch.int64), targets)


def test_evaluating_stops_dropout_and_gradients_and_leaves_the_model_as_it_was():
    model = gpt(GPTConfig.named("tiny", dropout=0.5))
    with pytest.raises(KeyError), evaluating(model):
        out = model(ids(V=257))
        assert torch.equal(out, model(ids(V=257))) and not out.requires_grad
        raise KeyError
    assert model.training and model.h[0].attn.training
    model.eval()
    with evaluating(model):
        pass
    assert not model.training


def test_dropout_acts_on_the_stream_in_training():
    model = gpt(GPTConfig.named("tiny", dropout=0.5))
    assert not torch.equal(model(ids(V=257)), model(ids(V=257)))
