"""Checks for the exercises of chapter 2, and the wrong answers that they are proved against.

    B batch   T words   C channels   H heads   D = C / H   Dv width of values

Each check draws its cases from a seed, first looks whether the answer is one of the mistakes
that are often made, then tests properties, then values, then gradients.
"""

import copy
import math

import torch
import torch.nn.functional as F

from gpt2lib.answers import call, close, gradients, is_tensor, names_none_of
from gpt2lib.attention import MultiHeadAttention

INFINITY = float("inf")


# 1 Split --------------------------------------------------------------------------------


def check_my_split_heads(my_split_heads, seed=0):
    """(B, T, C) → (B, H, T, D): head h has channels h·D to (h + 1)·D − 1 of every word."""
    g = torch.Generator().manual_seed(seed)
    B, T, H, D = 2, 5, 3, 4
    x = torch.randn(T, B, H * D, generator=g, dtype=torch.float64).transpose(0, 1)
    heads = call(my_split_heads, x, H)
    hint = "Texts, heads, words, channels of a head: in this order."
    is_tensor(heads, (B, H, T, D), torch.float64, hint)
    names_none_of(
        heads,
        {
            "The shape is right and the words are mixed up: head 0 has all channels of the first "
            "words. A view keeps the numbers in their order; which two axes must trade places?": (
                _split_by_view(x, H)
            ),
            "Head 0 has every H-th channel, not the first D: which of H and D comes first when "
            "the last axis is cut?": _split_every_hth(x, H),
            "Words and channels of each head have swapped places, and then a reshape hid it. "
            "Trade the axes of heads and words, no others.": _split_swaps_and_reshapes(x, H),
        },
    )
    for h in range(H):
        assert torch.equal(heads[:, h], x[:, :, h * D : (h + 1) * D]), (
            f"Head {h} should hold channels {h * D} to {(h + 1) * D - 1} of every word, and does "
            "not. Print a text whose entries are numbered."
        )
    one = call(my_split_heads, x, 1)
    assert close(one, x[:, None]), "With one head nothing is cut: only an axis of length 1 comes."


def _split_by_view(x, n_head):
    B, T, C = x.shape
    return x.reshape(B, n_head, T, C // n_head)


def _split_every_hth(x, n_head):
    B, T, C = x.shape
    return x.reshape(B, T, C // n_head, n_head).permute(0, 3, 1, 2)


def _split_swaps_and_reshapes(x, n_head):
    B, T, C = x.shape
    return x.mT.reshape(B, n_head, T, C // n_head)


def _split_without_transpose(x, n_head):
    B, T, C = x.shape
    return x.reshape(B, T, n_head, C // n_head)


def _split_heads_first(x, n_head):
    return torch.stack(x.chunk(n_head, dim=-1))


# 2 Multi-head attention -----------------------------------------------------------------


def _multi_head(
    x, w_qkv, w_o, n_head, width=None, causal=True, dim=-1, merge="right", order="qkv", cut=True
):
    """Causal multi-head attention, with a mistake of choice."""
    B, T, C = x.shape
    D = C // n_head
    if order == "by head":
        q, k, v = (x @ w_qkv).view(B, T, n_head, 3 * D).transpose(1, 2).chunk(3, dim=-1)
    else:
        q, k, v = (p.view(B, T, n_head, D).transpose(1, 2) for p in (x @ w_qkv).chunk(3, dim=-1))
        q, k = (k, q) if order == "kqv" else (q, k)
    scores = q @ k.mT / math.sqrt(D if width is None else width)
    if causal:
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -INFINITY)
    weights = scores.softmax(dim).nan_to_num(0.0)
    weights = weights if cut else weights.detach()
    y = weights @ v
    y = y.transpose(1, 2) if merge == "right" else y
    y = y.reshape(B, T, C)
    return y if w_o is None else y @ w_o


def _multi_head_mistakes(x, w_qkv, w_o, n_head):
    """What goes wrong, in a sentence, and the output that it gives."""
    a, C = (x, w_qkv, w_o, n_head), x.shape[-1]
    return {
        "There is one head as wide as x: is n_head used? Split queries, keys and values before "
        "the scores.": _multi_head(x, w_qkv, w_o, 1),
        "The scores are divided by the root of C, the width of all heads together. A score of "
        "one head is a sum of D terms.": _multi_head(*a, width=C),
        "The scores are never divided: where is √D?": _multi_head(*a, width=1),
        "Every word sees every other: no mask is at work. Set the scores of later words to −∞ "
        "before the softmax.": _multi_head(*a, causal=False),
        "The softmax runs over the heads: for each query and key they share out a weight of 1. "
        "It belongs over the keys, the last axis.": _multi_head(*a, dim=1),
        "The softmax runs over the queries: the columns sum to 1, not the rows. Look at the "
        "axis it is given.": _multi_head(*a, dim=-2),
        "The heads are merged without trading the axes back: the words are mixed up. Which axis "
        "must stand before the heads' channels?": _multi_head(*a, merge="wrong"),
        "The columns of w_qkv are read as q, k, v of head 0, then of head 1: but all queries "
        "come first, then all keys, then all values.": _multi_head(*a, order="by head"),
        "Queries and keys have swapped roles: the first third of w_qkv makes the queries.": (
            _multi_head(*a, order="kqv")
        ),
        "The heads are side by side, but w_o has not been applied to them.": (
            _multi_head(x, w_qkv, None, n_head)
        ),
    }


def check_my_multi_head_attention(my_multi_head_attention, seed=0):
    """Causal attention in H heads, for a batch: (B, T, C) → (B, T, C)."""
    g = torch.Generator().manual_seed(seed)
    B, T, H, D = 2, 5, 3, 4
    C = H * D

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x, w_qkv, w_o = draw(T, B, C).transpose(0, 1), draw(C, 3 * C), draw(C, C)
    y = call(my_multi_head_attention, x, w_qkv, w_o, H)
    is_tensor(y, (B, T, C), torch.float64, "Merged, the heads are as wide as x again.")
    assert not y.isnan().any(), (
        "There are nans: a row of scores that is −∞ throughout has no softmax. May each word "
        "look at least at itself?"
    )
    names_none_of(y, _multi_head_mistakes(x, w_qkv, w_o, H))
    for j in range(T):
        other = x.clone()
        other[:, j] = draw(B, C)
        moved = (call(my_multi_head_attention, other, w_qkv, w_o, H) - y).abs() > 1e-9
        moved = moved.any(-1).any(0)
        assert not moved[:j].any(), (
            f"Changing word {j} changes the output of word {int(moved.int().argmax())} before "
            "it: the future gets in. Look at the mask, and at how heads are split and merged."
        )
    other = x.clone()
    other[1] = draw(T, C)
    assert close(call(my_multi_head_attention, other, w_qkv, w_o, H)[0], y[0]), (
        "Changing text 1 changes the output for text 0: the batch is mixed. Look for an axis "
        "counted from the front, or a flattened batch."
    )
    right = _multi_head(x, w_qkv, w_o, H)
    assert close(y, right), (
        f"The output is off by up to {(y - right).abs().max():.2g}, though the future is hidden "
        "and the batch is not mixed. Compare with the loop over heads, for one text."
    )
    for n_head in (1, C):
        wide = call(my_multi_head_attention, x, w_qkv, w_o, n_head)
        assert close(wide, _multi_head(x, w_qkv, w_o, n_head)), (
            f"With {n_head} heads of width {C // n_head} it is wrong: is a width written into "
            "the function?"
        )
    mine = gradients(lambda *a: my_multi_head_attention(*a, H), (x, w_qkv, w_o))
    true = gradients(lambda *a: _multi_head(*a, H), (x, w_qkv, w_o))
    for name, a, b in zip(("x", "w_qkv", "w_o"), mine, true):
        assert close(a, b), (
            f"The output is right, but the gradient by {name} is not: is a part of the formula "
            "detached, or under no_grad? Then that part would never learn."
        )


# 3 Without one head ---------------------------------------------------------------------


def check_my_layer_without_head(my_layer_without_head, seed=0):
    """A copy of a layer in which one head adds nothing; the layer itself is as it was."""
    torch.manual_seed(seed)
    T, H, D = 5, 3, 4
    C = H * D
    layer = MultiHeadAttention(C, H).double()
    torch.nn.init.normal_(layer.c_attn.bias)
    torch.nn.init.normal_(layer.c_proj.bias)
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(2, T, C, dtype=torch.float64)
    hint = "nn.Linear keeps its matrix as (out, in): y = x @ weight.T + bias."
    for h in range(H):
        without = call(my_layer_without_head, layer, h, hint=hint)
        assert isinstance(without, MultiHeadAttention), (
            f"It returned a {type(without).__name__}: a layer is expected, MultiHeadAttention."
        )
        same = all(torch.equal(layer.state_dict()[k], v) for k, v in before.items())
        assert same and without is not layer, (
            "The layer that was given has changed: copy it first, with copy.deepcopy."
        )
        with torch.no_grad():
            y, right = without(x), _without_head(layer, x, h)
            mistakes = {
                "Nothing was taken out: the output is that of the whole layer.": layer(x),
                "D of the outputs are silenced, not what head h adds: in nn.Linear the rows of "
                "the weight make outputs, and its columns meet the inputs.": _edited(
                    layer, _zero_rows, h, x
                ),
                "Every H-th channel is silenced: head h has D channels side by side, from h·D.": (
                    _edited(layer, _zero_strided, h, x)
                ),
                "The head asks nothing now, but it still hears: with a query of zeros it listens "
                "to all words alike. Silence what it says, not what it asks.": _edited(
                    layer, _zero_queries, h, x
                ),
                "The values' matrix is silenced and their bias is not: the head still adds its "
                "bias at every word.": _edited(layer, _zero_value_weight, h, x),
                "The bias of c_proj is gone too: it belongs to no head, and stays.": _edited(
                    layer, _zero_bias_too, h, x
                ),
                "Another head was taken out: heads are counted from 0.": _without_head(
                    layer, x, (h + 1) % H
                ),
            }
        names_none_of(y, mistakes)
        assert close(y, right), (
            f"With head {h} taken out the output is off by up to {(y - right).abs().max():.2g}. "
            "It should be the whole output, less what this head writes."
        )


def _without_head(layer, x, h):
    """The oracle: the output less the head's term of the sum."""
    D = x.shape[-1] // layer.n_head
    q, k, v = layer.c_attn(x).chunk(3, dim=-1)
    mine = slice(h * D, (h + 1) * D)
    heard = F.scaled_dot_product_attention(q[..., mine], k[..., mine], v[..., mine], is_causal=True)
    return layer(x) - heard @ layer.c_proj.weight[:, mine].T


def _edited(layer, edit, h, x):
    return _edit(edit)(layer, h)(x)


def _edit(edit, keep=True):
    """An answer that edits a copy, or the layer itself: edit(layer, h, D) works in place."""

    def answer(layer, h):
        layer = copy.deepcopy(layer) if keep else layer
        with torch.no_grad():
            edit(layer, h, layer.c_proj.weight.shape[0] // layer.n_head)
        return layer

    return answer


def _zero_columns(layer, h, D):
    layer.c_proj.weight[:, h * D : (h + 1) * D] = 0


def _zero_rows(layer, h, D):
    layer.c_proj.weight[h * D : (h + 1) * D] = 0


def _zero_strided(layer, h, D):
    layer.c_proj.weight[:, h :: layer.n_head] = 0


def _zero_queries(layer, h, D):
    layer.c_attn.weight[h * D : (h + 1) * D] = 0
    layer.c_attn.bias[h * D : (h + 1) * D] = 0


def _zero_value_weight(layer, h, D):
    C = D * layer.n_head
    layer.c_attn.weight[2 * C + h * D : 2 * C + (h + 1) * D] = 0


def _zero_bias_too(layer, h, D):
    _zero_columns(layer, h, D)
    layer.c_proj.bias.zero_()


def _zero_next(layer, h, D):
    _zero_columns(layer, (h + 1) % layer.n_head, D)


# 4 Waves --------------------------------------------------------------------------------


def _waves(T, C, pair=2, swap=False, halves=False, start=0, base=10000.0):
    """Sinusoids with a mistake of choice, entry by entry."""
    table = torch.zeros(T, C, dtype=torch.float64)
    for t in range(T):
        for c in range(C):
            i = c % (C // 2) * 2 if halves else c - c % pair
            is_cosine = c >= C // 2 if halves else c % 2 == 1
            angle = (t + start) / base ** (i / C)
            table[t, c] = math.cos(angle) if is_cosine != swap else math.sin(angle)
    return table


def check_my_sinusoids(my_sinusoids, seed=0):
    """(T, C) of float64; sines in even channels, cosines in odd ones, one angle a pair."""
    g = torch.Generator().manual_seed(seed)
    T, C = int(torch.randint(5, 12, (), generator=g)), 2 * int(torch.randint(6, 9, (), generator=g))
    table = call(my_sinusoids, T, C)
    is_tensor(table, (T, C), torch.float64, "One row a place, one column a channel.")
    names_none_of(
        table,
        {
            "Sines fill the first half of the channels and cosines the second: here they take "
            "turns, sine, cosine, sine, cosine.": _waves(T, C, halves=True),
            "Each channel has an angle of its own: the two of a pair share one. The exponent is "
            "2i/C in channel 2i and in channel 2i + 1.": _waves(T, C, pair=1),
            "Sine and cosine have changed places: place 0 should be 0, 1, 0, 1, …": _waves(
                T, C, swap=True
            ),
            "The places begin at 1, and the first is 0: its row is sin 0, cos 0, sin 0, cos 0. "
            "Look at the argument of arange.": _waves(T, C, start=1),
            "The exponent is i/C where 2i/C was meant: the slowest wave should be nearly ten "
            "thousand times as slow as the first.": _waves_slow(T, C),
        },
    )
    right = _waves(T, C)
    assert close(table, right), (
        f"{int((~torch.isclose(table, right, atol=1e-9)).sum())} of {T * C} entries are wrong. "
        "Compute row 1 by hand: sin 1, cos 1, then the next angle."
    )
    long = call(my_sinusoids, 1024, C)
    distance = (long[:-7] * long[7:]).sum(-1)
    assert torch.allclose(distance, distance[:1].expand_as(distance)), (
        "The dot product of two places seven apart should be the same everywhere. Is an angle "
        "rounded, or computed in float32?"
    )


def _waves_slow(T, C):
    rates = 10000.0 ** -(torch.arange(C // 2, dtype=torch.float64) / C)
    angles = torch.arange(T)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


# 5 Costs --------------------------------------------------------------------------------


def check_my_attention_cost(my_attention_cost, seed=0):
    """Multiplications, numbers in the tables, and the length at which the parts are equal."""
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):
        H, D, T = (int(n) for n in torch.randint(2, 40, (3,), generator=g))
        T = T if T != D else T + 1
        C = H * D
        found = call(my_attention_cost, T, C, H)
        assert type(found) is tuple and len(found) == 3, (
            f"It returned a {type(found).__name__}; three numbers are expected, as a tuple."
        )
        assert all(type(n) is int for n in found), (
            f"They should be whole numbers, int: got {[type(n).__name__ for n in found]}. "
            "// divides without leaving the whole numbers."
        )
        work, table, even = found
        case = f"T={T}, C={C}, H={H}: "
        assert work != T * T * C, (
            case + "only the scores are counted: the averages of the values are as many again."
        )
        assert work != 2 * H * T * T * C, (
            case + "every head is counted as wide as C: a head has D = C/H channels."
        )
        assert work != T * (T + 1) * C, (
            case
            + "the hidden half is left out, but a product of matrices computes it all the same."
        )
        assert work != 2 * T * T * C + 4 * T * C * C, (
            case + "the four matrices are in it too: only scores and averages were asked for."
        )
        assert work == 2 * T * T * C, (
            case + f"{2 * T * T * C:,} multiplications, not {work:,}. For one head: a score takes "
            "D, there are T·T of them; and the averages?"
        )
        assert table != T * T, case + "each head has a table of its own: the H is missing."
        assert table != T * T * C, case + "a table has one number for two words, not one a channel."
        assert table == H * T * T, case + f"{H * T * T:,} weights, not {table:,}."
        assert even != C, (
            case + "at that length scores and averages are half of what the four matrices do. "
            "How many matrices (C, C) are there?"
        )
        assert even != 6 * C, (
            case + "that is for the whole block, with the MLP: here it is the four matrices of "
            "the attention layer, 4·T·C² in all."
        )
        assert even == 2 * C, (
            case + f"the two parts are equal at T = {2 * C}, not {even}: solve 2·T²·C = 4·T·C²."
        )


# 6 In pieces ----------------------------------------------------------------------------


def check_my_attention_in_pieces(my_attention_in_pieces, seed=0):
    """One query, keys and values that come once, in pieces: the average, exactly."""
    g = torch.Generator().manual_seed(seed)
    D, Dv, S = 4, 3, 11

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    for size, shift in ((1.0, 0.0), (3.0, 0.0), (1.0, 3000.0), (1.0, -3000.0)):
        query, keys, values = size * draw(D), draw(S, D), draw(S, Dv)
        keys = keys + shift * query / (query @ query)  # every score moves by shift / √D
        keys = keys[(keys @ query).argsort()]  # so that each piece brings a larger score
        right = F.scaled_dot_product_attention(query[None], keys, values)[0]
        cuts = (4, 5, 2)
        pieces = iter(list(zip(keys.split(cuts), values.split(cuts))))
        y = call(my_attention_in_pieces, query, pieces, hint="A piece is (n, D) and (n, Dv).")
        y = y.detach() if isinstance(y, torch.Tensor) else y
        is_tensor(y, (Dv,), torch.float64, "One average, as wide as the values.")
        assert shift <= 0 or y.isfinite().all(), (
            "Large scores overflow: e to the 1500 is more than a float can hold. Measure each "
            "score against the largest so far."
        )
        assert shift >= 0 or y.isfinite().all(), (
            "Scores that are all far below 0 give 0/0: the largest so far must begin at −∞, not "
            "at 0."
        )
        if not shift:
            split = list(zip(keys.split(cuts), values.split(cuts)))
            names_none_of(y, _piece_mistakes(query, split))
        assert torch.allclose(y, right, rtol=1e-8, atol=1e-8), (
            f"The average is off by up to {(y - right).abs().max():.2g}. Try two pieces of one "
            "key each, and do the sums by hand."
        )


def _in_pieces(query, pieces, fix_sum=True, fix_average=True, start=-INFINITY, scale=None):
    """Attention in pieces, with a mistake of choice."""
    scale = math.sqrt(len(query)) if scale is None else scale
    m, total, average = start, 0.0, 0.0
    for keys, values in pieces:
        scores = keys @ query / scale
        new_m = max(m, scores.max().item())
        correction = math.exp(m - new_m)
        e = (scores - new_m).exp()
        total = total * (correction if fix_sum else 1.0) + e.sum()
        average = average * (correction if fix_average else 1.0) + e @ values
        m = new_m
    return average / total


def _in_pieces_plain(query, pieces):
    total, average = 0.0, 0.0
    for keys, values in pieces:
        e = (keys @ query / math.sqrt(len(query))).exp()
        total, average = total + e.sum(), average + e @ values
    return average / total


def _in_pieces_mean(query, pieces):
    each = [F.scaled_dot_product_attention(query[None], k, v)[0] for k, v in pieces]
    return sum(each) / len(each)


def _in_pieces_last(query, pieces):
    for keys, values in pieces:
        y = F.scaled_dot_product_attention(query[None], keys, values)[0]
    return y


def _in_pieces_twice(query, pieces):
    largest = max((keys @ query).max().item() for keys, _ in pieces) / math.sqrt(len(query))
    return _in_pieces(query, pieces, start=largest)


def _piece_mistakes(query, pieces):
    """What goes wrong, in a sentence, and the average that it gives."""
    return {
        "When a larger score comes, the sum so far is not corrected: it was measured against the "
        "old maximum. Multiply it by e^(old − new).": _in_pieces(query, pieces, fix_sum=False),
        "The sum is corrected and the average so far is not: both were measured against the old "
        "maximum.": _in_pieces(query, pieces, fix_average=False),
        "Neither the sum nor the average so far is corrected when the maximum changes.": (
            _in_pieces(query, pieces, fix_sum=False, fix_average=False)
        ),
        "Each piece is averaged by itself, and then the averages: but a piece with larger scores "
        "must count more.": _in_pieces_mean(query, pieces),
        "Only the last piece is in the answer: what came before was overwritten.": (
            _in_pieces_last(query, pieces)
        ),
        "The scores are not divided by √D: in pieces or whole, a score is scaled.": (
            _in_pieces(query, pieces, scale=1.0)
        ),
    }


WRONG = {
    "my_split_heads": {
        "view alone": (_split_by_view, "words are mixed up"),
        "every H-th channel": (_split_every_hth, "every H-th channel"),
        "swaps words and channels": (_split_swaps_and_reshapes, "have swapped places"),
        "forgets to trade the axes": (_split_without_transpose, "The shape is (2, 5, 3, 4)"),
        "heads before the batch": (_split_heads_first, "The shape is (3, 2, 5, 4)"),
    },
    "my_multi_head_attention": {
        "one wide head": (lambda x, a, b, n: _multi_head(x, a, b, 1), "is n_head used"),
        "scales by all channels": (
            lambda *a: _multi_head(*a, width=a[0].shape[-1]),
            "root of C",
        ),
        "forgets the scale": (lambda *a: _multi_head(*a, width=1), "never divided"),
        "no mask": (lambda *a: _multi_head(*a, causal=False), "no mask is at work"),
        "softmax over the heads": (lambda *a: _multi_head(*a, dim=1), "over the heads"),
        "softmax over the queries": (lambda *a: _multi_head(*a, dim=-2), "over the queries"),
        "merges by reshape alone": (
            lambda *a: _multi_head(*a, merge="wrong"),
            "without trading the axes back",
        ),
        "reads q, k, v head by head": (
            lambda *a: _multi_head(*a, order="by head"),
            "all queries come first",
        ),
        "swaps queries and keys": (lambda *a: _multi_head(*a, order="kqv"), "swapped roles"),
        "forgets the projection": (
            lambda x, a, b, n: _multi_head(x, a, None, n),
            "w_o has not been applied",
        ),
        "detaches the weights": (lambda *a: _multi_head(*a, cut=False), "gradient by"),
    },
    "my_layer_without_head": {
        "returns the layer as it is": (lambda layer, h: copy.deepcopy(layer), "Nothing was taken"),
        "silences rows": (_edit(_zero_rows), "rows of the weight make outputs"),
        "silences every H-th channel": (_edit(_zero_strided), "Every H-th channel"),
        "silences the query": (_edit(_zero_queries), "still hears"),
        "forgets the bias of the values": (_edit(_zero_value_weight), "their bias is not"),
        "silences the bias of c_proj": (_edit(_zero_bias_too), "belongs to no head"),
        "takes out the next head": (_edit(_zero_next), "Another head"),
        "changes the layer itself": (_edit(_zero_columns, keep=False), "has changed"),
    },
    "my_sinusoids": {
        "sines first, then cosines": (lambda T, C: _waves(T, C, halves=True), "take turns"),
        "an angle a channel": (lambda T, C: _waves(T, C, pair=1), "angle of its own"),
        "cosine first": (lambda T, C: _waves(T, C, swap=True), "changed places"),
        "places from 1": (lambda T, C: _waves(T, C, start=1), "begin at 1"),
        "half the exponent": (_waves_slow, "exponent is i/C"),
        "float32": (lambda T, C: _waves(T, C).float(), "The dtype is"),
        "another base": (lambda T, C: _waves(T, C, base=1000.0), "entries are wrong"),
    },
    "my_attention_cost": {
        "forgets the averages": (lambda T, C, H: (T * T * C, H * T * T, 2 * C), "only the scores"),
        "heads as wide as C": (
            lambda T, C, H: (2 * H * T * T * C, H * T * T, 2 * C),
            "as wide as C",
        ),
        "counts the triangle": (
            lambda T, C, H: (T * (T + 1) * C, H * T * T, 2 * C),
            "hidden half",
        ),
        "counts the matrices": (
            lambda T, C, H: (2 * T * T * C + 4 * T * C * C, H * T * T, 2 * C),
            "four matrices are in it",
        ),
        "one table for all heads": (
            lambda T, C, H: (2 * T * T * C, T * T, 2 * C),
            "H is missing",
        ),
        "one weight a channel": (
            lambda T, C, H: (2 * T * T * C, T * T * C, 2 * C),
            "not one a channel",
        ),
        "two matrices": (lambda T, C, H: (2 * T * T * C, H * T * T, C), "How many matrices"),
        "the whole block": (lambda T, C, H: (2 * T * T * C, H * T * T, 6 * C), "whole block"),
        "floats": (lambda T, C, H: (2.0 * T * T * C, H * T * T, 2 * C), "whole numbers"),
    },
    "my_attention_in_pieces": {
        "the sum is not corrected": (
            lambda q, p: _in_pieces(q, p, fix_sum=False),
            "sum so far is not corrected",
        ),
        "the average is not corrected": (
            lambda q, p: _in_pieces(q, p, fix_average=False),
            "average so far is not",
        ),
        "nothing is corrected": (
            lambda q, p: _in_pieces(q, p, fix_sum=False, fix_average=False),
            "Neither the sum",
        ),
        "no maximum": (_in_pieces_plain, "overflow"),
        "the maximum begins at 0": (lambda q, p: _in_pieces(q, p, start=0.0), "not at 0"),
        "the mean of the pieces' averages": (_in_pieces_mean, "averaged by itself"),
        "the last piece alone": (_in_pieces_last, "Only the last piece"),
        "no scale": (lambda q, p: _in_pieces(q, p, scale=1.0), "not divided by √D"),
        "reads the pieces twice": (_in_pieces_twice, "It stopped with"),
    },
}
