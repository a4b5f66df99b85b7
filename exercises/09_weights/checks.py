"""Checks for the exercises of chapter 9, and the wrong answers that they are proved against.

    C channels (= n_embd)   V vocabulary

Each check draws its cases from a seed, first looks whether the answer is one of the mistakes
that are often made, then compares it with what safetensors, or the library, does.
"""

import json

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F

from gpt2lib.answers import call, close, is_tensor, names_none_of

KINDS = {"F32": torch.float32, "F16": torch.float16, "I64": torch.int64}

# 1 A file -------------------------------------------------------------------------------


def _read(raw, order="little", shift=True, meta=False, shaped=True, kinds=KINDS, turned=False):
    """The tensors in a file, with a mistake of choice."""
    start = 8 + int.from_bytes(raw[:8], order)
    header = json.loads(raw[8:start])
    if not meta:
        header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            tensors[name] = entry
            continue
        begin, end = (at + (start if shift else 0) for at in entry["data_offsets"])
        kind = kinds[entry["dtype"]]
        size = torch.empty((), dtype=kind).element_size()
        whole = begin + (end - begin) // size * size
        flat = torch.frombuffer(bytearray(raw[begin:whole]), dtype=kind)
        shape = entry["shape"][::-1] if turned else entry["shape"]
        tensors[name] = flat.view(shape) if shaped else flat
    return tensors


def check_my_read_safetensors(my_read_safetensors, seed=0):
    """A length, a header, bytes; held against the library that wrote them."""
    g = torch.Generator().manual_seed(seed)
    written = {
        "h.0.b": torch.randn(3, generator=g),
        "h.0.w": torch.randn(2, 5, generator=g),
        "ids": torch.randint(1, 99, (2, 2, 3), generator=g),
        "short": torch.randn(4, 2, generator=g).half(),
    }
    raw = safetensors.torch.save(written, metadata={"format": "pt"})
    found = call(
        my_read_safetensors, raw, hint="The first eight bytes are a whole number, little end first."
    )
    assert type(found) is dict, f"It returned a {type(found).__name__}, not a dict of tensors."
    assert "__metadata__" not in found, (
        "__metadata__ is among the tensors: it is a note of the writer's, and has no bytes."
    )
    assert set(found) == set(written), f"The names are {sorted(found)}: {sorted(written)} are due."
    for name, right in written.items():
        kind = type(found[name])
        assert kind is torch.Tensor, f"{name} came as a {kind.__name__}: a torch.Tensor was due."
        assert found[name].dtype == right.dtype, (
            f"{name} came as {found[name].dtype}: the header says what its bytes are, here "
            f"{right.dtype}."
        )
    for name, right in written.items():
        y = found[name]
        assert y.shape != (right.numel(),) or right.dim() == 1, (
            f"{name} came as one row of numbers: the header gives its shape, {tuple(right.shape)}."
        )
        assert y.shape == right.shape, (
            f"{name} has the shape {tuple(y.shape)}, and the header says {tuple(right.shape)}: is "
            "it read from the last axis to the first?"
        )
        assert torch.equal(y, right), (
            f"The numbers of {name} are not those that were written: do the offsets count from "
            "the end of the header, not from the beginning of the file?"
        )


# 2 Names and layouts --------------------------------------------------------------------

TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def _from_release(stored, prefix=True, turn=None, masks=False, head=False):
    out = {}
    for name, t in stored.items():
        name = name.removeprefix("transformer.") if prefix else name
        if name.endswith((".attn.bias", ".attn.masked_bias")) and not masks:
            continue
        if name == "lm_head.weight" and not head:
            continue
        choice = name.endswith(TRANSPOSED) if turn is None else turn(name, t)
        out[name] = t.T if choice else t
    return out


def check_my_from_release(my_from_release, seed=0):
    """A release's tensors by our names and in our layout; held against transformers' shapes."""
    g = torch.Generator().manual_seed(seed)
    C, V, T = 6, 11, 9

    def draw(*shape):
        return torch.randn(*shape, generator=g)

    stored = {"wte.weight": draw(V, C), "wpe.weight": draw(T, C)}
    for n in range(2):
        block = {
            "ln_1.weight": draw(C),
            "ln_1.bias": draw(C),
            "attn.bias": torch.ones(1, 1, T, T).tril().bool(),  # the causal mask
            "attn.masked_bias": torch.tensor(-1e4),
            "attn.c_attn.weight": draw(C, 3 * C),
            "attn.c_attn.bias": draw(3 * C),
            "attn.c_proj.weight": draw(C, C),
            "attn.c_proj.bias": draw(C),
            "ln_2.weight": draw(C),
            "ln_2.bias": draw(C),
            "mlp.c_fc.weight": draw(C, 4 * C),
            "mlp.c_fc.bias": draw(4 * C),
            "mlp.c_proj.weight": draw(4 * C, C),
            "mlp.c_proj.bias": draw(C),
        }
        stored |= {f"h.{n}.{name}": t for name, t in block.items()}
    stored |= {"ln_f.weight": draw(C), "ln_f.bias": draw(C)}
    stored = {f"transformer.{name}": t for name, t in stored.items()}
    stored["lm_head.weight"] = stored["transformer.wte.weight"]
    before = {name: t.clone() for name, t in stored.items()}
    found = call(my_from_release, stored, hint="stored is a dict of tensors.")
    assert type(found) is dict, f"It returned a {type(found).__name__}: a dict is expected."
    same = before.keys() == stored.keys()
    assert same and all(torch.equal(stored[n], t) for n, t in before.items()), (
        "The dict that came in has changed: build a new one."
    )
    right = _from_release(stored)
    assert not any(name.startswith("transformer.") for name in found), (
        "Names still begin with transformer.: ours do not. Does removeprefix help?"
    )
    assert not any(name.endswith((".attn.bias", ".attn.masked_bias")) for name in found), (
        "The causal masks are still there: attn.bias and attn.masked_bias are no weights, though "
        "attn.c_attn.bias is one."
    )
    assert "lm_head.weight" not in found, (
        "The head is there as a tensor of its own: it is the token table, which we keep once."
    )
    assert found.keys() == right.keys(), (
        f"Missing: {sorted(right.keys() - found.keys())[:3]}; too many: "
        f"{sorted(found.keys() - right.keys())[:3]}."
    )
    for name, t in right.items():
        y = found[name]
        assert type(y) is torch.Tensor, f"{name} is a {type(y).__name__}: a tensor was due."
        square = name.endswith("attn.c_proj.weight") and torch.equal(y, t.T)
        assert not square, (
            f"{name} is not transposed: it is square, so its shape does not tell. Go by the name."
        )
        table = "wte wpe".split()
        assert not (name.split(".")[0] in table and y.shape == t.T.shape), (
            f"{name} was transposed: a table is read row by row, and stored as we have it."
        )
        assert y.shape == t.shape, (
            f"{name} has the shape {tuple(y.shape)}, and nn.Linear keeps it as {tuple(t.shape)}, "
            "(out, in)."
        )
        assert torch.equal(y, t), (
            f"The numbers of {name} are in another order: transpose a matrix with .T; view and "
            "reshape keep the order in memory."
        )


# 3 Three in one -------------------------------------------------------------------------


def _split_qkv(w, b, dim=1, turn=True, order=(0, 1, 2), strided=False):
    C = len(w)
    if strided:
        ws, bs = [w[:, i::3] for i in range(3)], [b[i::3] for i in range(3)]
    else:
        ws, bs = w.reshape(C, 3 * C).split(C, dim=1), b.split(C)
    if dim == 0:
        ws = w.reshape(3 * C, C).split(C, dim=0)
    return [(ws[i].T if turn else ws[i], bs[i]) for i in order]


def check_my_split_qkv(my_split_qkv, seed=0):
    """Queries, keys and values out of one fused matrix; each as nn.Linear has it."""
    g = torch.Generator().manual_seed(seed)
    B, T, C = 2, 4, 6

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    w, b, x = draw(C, 3 * C), draw(3 * C), draw(B, T, C)
    found = call(my_split_qkv, w, b, hint="w is (C, 3C), b is (3C).")
    pairs = type(found) in (tuple, list) and len(found) == 3
    assert pairs and all(type(p) in (tuple, list) and len(p) == 2 for p in found), (
        "Three pairs are expected, a weight and a bias for each of queries, keys and values."
    )
    right = _split_qkv(w, b)
    fused = (x @ w + b).split(C, dim=-1)
    for name, (weight, bias), (good, good_bias), made in zip(
        ("queries", "keys", "values"), found, right, fused
    ):
        is_tensor(weight, (C, C), torch.float64, f"The weight of the {name} is C by C.")
        is_tensor(bias, (C,), torch.float64, f"The bias of the {name}: a third of b.")
        names_none_of(
            weight,
            {
                f"The weight of the {name} is (in, out) still: nn.Linear keeps it transposed.": (
                    good.T
                ),
                f"The weight of the {name} is made of every third column: the three lie one after "
                "the other, C columns each.": _split_qkv(w, b, strided=True)[
                    ("queries", "keys", "values").index(name)
                ][0],
            },
        )
        others = [pair[0] for pair in right if pair[0] is not good]
        assert not any(close(weight, other) for other in others), (
            f"What came as {name} is another of the three: the order is queries, keys, values."
        )
        assert close(weight, good), (
            f"The weight of the {name} is cut along the wrong axis: in w, rows are what comes in, "
            "columns what goes out."
        )
        assert close(bias, good_bias), f"The bias of the {name} is not its third of b."
        assert torch.allclose(F.linear(x, weight, bias), made), "F.linear gives something else."


# 4 Where it begins ----------------------------------------------------------------------


def _first_difference(ours, theirs, tolerance, how="relative", pick="first", none=None):
    hits = []
    for n, (a, b) in enumerate(zip(ours, theirs)):
        if how == "signed":
            off = (a - b).max() / b.abs().max()
        elif how == "absolute":
            off = (a - b).abs().max()
        elif how == "mean":
            off = (a - b).abs().mean() / b.abs().max()
        else:
            off = (a - b).abs().max() / b.abs().max()
        if off > tolerance or (how != "blind" and bool(off.isnan())):
            hits.append((n, float(off)))
    if not hits:
        return none
    if pick == "worst":
        return max(hits, key=lambda hit: hit[1])[0]
    return hits[-1][0] if pick == "last" else hits[0][0]


def check_my_first_difference(my_first_difference, seed=0):
    """The first layer that differs by more than rounding, or None."""
    g = torch.Generator().manual_seed(seed)
    L, tolerance = 7, 1e-4

    def case(scale, changes):
        theirs = [scale * torch.randn(3, 4, generator=g, dtype=torch.float64) for _ in range(L)]
        ours = [t.clone() for t in theirs]
        for layer, change in changes.items():
            t = ours[layer]
            top = theirs[layer].abs().max()
            at = tuple(int(torch.randint(n, (), generator=g)) for n in t.shape)
            t[at] = float("nan") if change is None else t[at] + change * top
        return ours, theirs

    at = int(torch.randint(1, 4, (), generator=g))
    cases = [
        ("Nothing differs: None is expected, for there is no such layer. ", 1.0, {}, None),
        ("All numbers are below tolerance, and so are the differences, but they are not small "
         "beside what is compared: divide by the largest of theirs. ", 1e-6, {at: 0.5}, at),
        ("Numbers are large, and differ by rounding only: a difference counts relative to the "
         "largest of theirs. ", 1e6, {at: 1e-8}, None),
        ("Ours is smaller than theirs in one place: is the size of the difference taken, whatever "
         "its sign? ", 1.0, {at: -0.5}, at),
        ("A nan is in it, which is larger than nothing and equal to nothing: a comparison with "
         "it is False. Ask for isnan. ", 1.0, {at: None}, at),
        ("The first layer that is off was asked for, and the search goes on to the last. ",
         1.0, {at: 0.5, at + 2: 0.2}, at),
        ("The first layer that is off was asked for, not the one that is off most. ",
         1.0, {at: 0.01, at + 1: 0.5, at + 2: 0.1}, at),
        ("One number in many is off: a mean makes it small. Take the largest difference. ",
         1.0, {at: 3e-4}, at),
    ]  # fmt: skip
    for sentence, scale, changes, right in cases:
        ours, theirs = case(scale, changes)
        found = call(my_first_difference, ours, theirs, tolerance, hint="Both are lists.")
        assert found is None or type(found) is int, (
            f"It returned a {type(found).__name__}: a whole number or None is expected."
        )
        assert found == right, f"{sentence}{right} was expected, {found} came."


# 5 New tokens ---------------------------------------------------------------------------


def check_my_new_tokens(my_new_tokens, seed=0):
    """A larger table: old rows as they were, new ones their mean."""
    g = torch.Generator().manual_seed(seed)
    V, C, n = 7, 5, 3
    wte = torch.randn(C, V, generator=g, dtype=torch.float64).T + 0.5
    before = wte.clone()
    y = call(my_new_tokens, wte, n, hint="wte is (V, C), n is an int.")
    assert torch.equal(wte, before), "The table that came in has changed: make a new one."
    is_tensor(y, (V + n, C), torch.float64, "n rows more, below the old ones.")
    assert not torch.equal(y[n:], wte), (
        "The new rows come first: then every old id means another token. They belong at the end."
    )
    assert torch.equal(y[:V], wte), (
        "The rows of the old tokens are not what they were: their ids and vectors must stay."
    )
    new, mean = y[V:], wte.mean(0)
    assert new.any(), (
        "The new rows are zeros: their logits are 0, which may be far above all the others."
    )
    assert not close(new, wte[-1].expand(n, C)), (
        "The new rows are copies of the last one: the model could not tell them from it."
    )
    assert not close(new, wte.mean().expand(n, C)), (
        "One number fills the new rows: the mean was taken over the whole table, not over its rows."
    )
    assert not torch.allclose(new[0], mean) or torch.allclose(new[-1], mean), (
        "Only one new row is the mean: all of them are to be."
    )
    assert close(new, mean.expand(n, C)), (
        "The new rows are not the mean of the old: with random ones, some logit is large by chance."
    )
    x = torch.randn(200, C, generator=g, dtype=torch.float64)
    logits = x @ y.T
    assert (logits[:, V:] <= logits[:, :V].max(1, keepdim=True).values + 1e-9).all(), (
        "A new token is likelier than all old ones somewhere."
    )


def _new_tokens(wte, n, rows):
    return torch.cat([wte, rows.expand(n, wte.shape[1])])


def _in_place(wte, n):
    wte -= 0.1
    return _new_tokens(wte, n, wte.mean(0))


WRONG = {
    "my_read_safetensors": {
        "big end first": (lambda raw: _read(raw, order="big"), "little end first"),
        "from the beginning": (lambda raw: _read(raw, shift=False), "end of the header"),
        "metadata": (lambda raw: _read(raw, meta=True), "note of the writer"),
        "flat": (lambda raw: _read(raw, shaped=False), "one row of numbers"),
        "always float32": (
            lambda raw: _read(raw, shaped=False, kinds=dict.fromkeys(KINDS, torch.float32)),
            "what its bytes are",
        ),
        "axes turned round": (lambda raw: _read(raw, turned=True), "last axis to the first"),
        "arrays": (
            lambda raw: {name: np.asarray(t) for name, t in _read(raw).items()},
            "a torch.Tensor was due",
        ),
    },
    "my_from_release": {
        "keeps the prefix": (
            lambda s: {f"transformer.{n}": t for n, t in _from_release(s).items()},
            "still begin",
        ),
        "keeps the masks": (lambda s: _from_release(s, masks=True), "causal masks"),
        "keeps the head": (lambda s: _from_release(s, head=True), "tensor of its own"),
        "turns by shape": (
            lambda s: _from_release(
                s, turn=lambda n, t: n.endswith(TRANSPOSED) and t.shape[0] != t.shape[1]
            ),
            "it is square",
        ),
        "turns nothing": (lambda s: _from_release(s, turn=lambda n, t: False), "(out, in)"),
        "turns all matrices": (
            lambda s: _from_release(s, turn=lambda n, t: t.dim() == 2),
            "stored as we have it",
        ),
        "views": (
            lambda s: {
                n: t.T.reshape(t.shape) if n.endswith(TRANSPOSED) else t
                for n, t in _from_release(s).items()
            },
            "another order",
        ),
        "drops biases": (
            lambda s: {n: t for n, t in _from_release(s).items() if not n.endswith("c_attn.bias")},
            "Missing:",
        ),
        "in place": (lambda s: [s.pop("lm_head.weight"), _from_release(s)][1], "build a new one"),
    },
    "my_split_qkv": {
        "not turned": (lambda w, b: _split_qkv(w, b, turn=False), "(in, out) still"),
        "every third": (lambda w, b: _split_qkv(w, b, strided=True), "every third column"),
        "keys first": (lambda w, b: _split_qkv(w, b, order=(1, 0, 2)), "another of the three"),
        "along the rows": (lambda w, b: _split_qkv(w, b, dim=0), "wrong axis"),
        "one bias for all": (
            lambda w, b: [(a, b[: len(w)].flip(0)) for a, _ in _split_qkv(w, b)],
            "not its third",
        ),
        "whole biases": (lambda w, b: [(a, b) for a, _ in _split_qkv(w, b)], "a third of b"),
    },
    "my_first_difference": {
        "0 for none": (lambda *a: _first_difference(*a, none=-1), "there is no such layer"),
        "absolute": (lambda *a: _first_difference(*a, how="absolute"), "beside what is compared"),
        "signed": (lambda *a: _first_difference(*a, how="signed"), "whatever its sign"),
        "blind to nan": (lambda *a: _first_difference(*a, how="blind"), "Ask for isnan"),
        "the worst": (lambda *a: _first_difference(*a, pick="worst"), "is off most"),
        "the last": (lambda *a: _first_difference(*a, pick="last"), "the search goes on"),
        "the mean": (lambda *a: _first_difference(*a, how="mean"), "a mean makes it small"),
    },
    "my_new_tokens": {
        "zeros": (
            lambda w, n: _new_tokens(w, n, torch.zeros_like(w[0])),
            "new rows are zeros",
        ),
        "the last row": (lambda w, n: _new_tokens(w, n, w[-1]), "copies of the last"),
        "one number": (lambda w, n: _new_tokens(w, n, w.mean()), "over the whole table"),
        "random": (
            lambda w, n: torch.cat([w, torch.randn(n, w.shape[1], dtype=w.dtype)]),
            "large by chance",
        ),
        "in front": (
            lambda w, n: torch.cat([w.mean(0).expand(n, -1), w]),
            "every old id",
        ),
        "one row": (
            lambda w, n: torch.cat([w, w.mean(0)[None], torch.ones(n - 1, w.shape[1]).double()]),
            "all of them are to be",
        ),
        "in place": (_in_place, "has changed"),
        "one short": (lambda w, n: _new_tokens(w, n - 1, w.mean(0)), "n rows more"),
    },
}
