"""Checks for the exercises of chapter 4, and the wrong answers that they are proved against.

    B batch   T words   C channels (= n_embd)   L blocks (= n_layer)

Each check draws its cases from a seed, first looks whether the answer is one of the mistakes
that are often made, then tests properties, then values, then gradients.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from gpt2lib.answers import call, close, gradients, is_tensor, names_none_of
from gpt2lib.config import GPTConfig
from gpt2lib.model import Block

ROOT = math.sqrt(2 / math.pi)


# 1 LayerNorm ----------------------------------------------------------------------------


def _layer_norm(x, weight, bias, eps, dim=-1, inside=True, unbiased=False, centre=True, root=True):
    """LayerNorm, with a mistake of choice."""
    mean = x.mean(dim, keepdim=True)
    variance = x.var(dim, keepdim=True, unbiased=unbiased)
    if root:
        scale = (variance + eps).sqrt() if inside else variance.sqrt() + eps
    else:
        scale = variance + eps
    return (x - mean if centre else x) / scale * weight + bias


def check_my_layer_norm(my_layer_norm, seed=0):
    """Mean 0 and variance 1 over the channels of each word, then factor and offset."""
    g = torch.Generator().manual_seed(seed)
    B, T, C, eps = 3, 5, 4, 0.1

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x = 2 * draw(T, B, C).transpose(0, 1) + 1
    weight, bias = draw(C), draw(C)
    y = call(my_layer_norm, x, weight, bias, eps)
    is_tensor(y, (B, T, C), torch.float64, "LayerNorm keeps the shape: is keepdim=True missing?")
    a = (x, weight, bias, eps)
    one, zero = torch.ones(C, dtype=torch.float64), torch.zeros(C, dtype=torch.float64)
    names_none_of(
        y,
        {
            "Mean and variance run over the words of the text: then each word sees the others. "
            "They run over the channels, the last axis.": _layer_norm(*a, dim=1),
            "Mean and variance run over the batch: then texts see each other. They run over the "
            "channels, the last axis.": _layer_norm(*a, dim=0),
            "One mean and one variance for the whole tensor: each word has its own.": _layer_norm(
                *a, dim=(0, 1, 2)
            ),
            "eps is added to the standard deviation: it stands inside the root, with the "
            "variance.": _layer_norm(*a, inside=False),
            "The sum of squares is divided by C − 1: LayerNorm divides by C. Look at unbiased, "
            "or correction.": _layer_norm(*a, unbiased=True),
            "The mean is not taken away: the numerator is x less its mean.": _layer_norm(
                *a, centre=False
            ),
            "It divides by the variance: by its root, the standard deviation, is meant.": (
                _layer_norm(*a, root=False)
            ),
            "Factor and offset are not used: they come last, one of each a channel.": _layer_norm(
                x, one, zero, eps
            ),
        },
    )
    right = F.layer_norm(x, (C,), weight, bias, eps)
    assert close(y, right), (
        f"The output is off by up to {(y - right).abs().max():.2g}. Compute a word of two "
        "channels by hand."
    )
    flat = torch.full((1, C), 3.0, dtype=torch.float64)
    assert close(call(my_layer_norm, flat, one, zero, eps), torch.zeros_like(flat)), (
        "A word of all equal channels must become zeros: is eps in the denominator?"
    )
    mine = gradients(lambda *t: my_layer_norm(*t, eps), (x, weight, bias))
    true = gradients(lambda *t: F.layer_norm(t[0], (C,), t[1], t[2], eps), (x, weight, bias))
    assert all(close(p, q) for p, q in zip(mine, true)), (
        "The values are right and the gradient is not: mean and variance depend on x too. Is one "
        "of them detached?"
    )


def _layer_norm_detached(x, weight, bias, eps):
    mean = x.mean(-1, keepdim=True).detach()
    variance = x.var(-1, keepdim=True, unbiased=False).detach()
    return (x - mean) / (variance + eps).sqrt() * weight + bias


# 2 GELU ---------------------------------------------------------------------------------


def _gelu(x, cube=0.044715, root=ROOT, half=0.5, plus=1.0, inner=True):
    """The tanh form, with a mistake of choice."""
    u = root * (x + cube * x**3) if inner else root * x + cube * x**3
    return half * x * (plus + torch.tanh(u))


def check_my_gelu(my_gelu, seed=0):
    """GPT-2's tanh form, to the last digits; the gradient flows."""
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(3, 7, generator=g, dtype=torch.float64)
    y = call(my_gelu, x)
    is_tensor(y, (3, 7), torch.float64, "Each number by itself: the shape stays.")
    names_none_of(
        y,
        {
            "That is the exact GELU, by the error function: GPT-2 computes the tanh form, which "
            "differs in the fourth decimal.": F.gelu(x),
            "That is ReLU, which cuts at 0: GELU lets a little of the negative through.": x.relu(),
            "That is x times the sigmoid of x, called SiLU: a cousin.": F.silu(x),
            "That is x times the sigmoid of 1.702 x, a rougher approximation.": x
            * torch.sigmoid(1.702 * x),
            "The half in front is missing: for large x the result should be x, not 2x.": _gelu(
                x, half=1.0
            ),
            "The root is of π/2: √(2/π) is meant, about 0.798.": _gelu(
                x, root=math.sqrt(math.pi / 2)
            ),
            "The cube is missing: x + 0.044715 x³ stands in the tanh.": _gelu(x, cube=0.0),
            "The root multiplies x alone: it stands before the bracket, and multiplies the cube "
            "too.": _gelu(x, inner=False),
            "The 1 beside the tanh is missing: a large negative x would give −x/2 in place of 0.": (
                _gelu(x, plus=0.0)
            ),
        },
    )
    right = F.gelu(x, approximate="tanh")
    assert close(y, right), f"It is off by up to {(y - right).abs().max():.2g}."
    (mine,) = gradients(my_gelu, [x])
    (true,) = gradients(lambda x: F.gelu(x, approximate="tanh"), [x])
    assert close(mine, true), "The values are right and the gradient is not: is a part detached?"
    assert call(my_gelu, x.float()).dtype == torch.float32, (
        "float32 must stay float32: is a tensor of another dtype in the formula?"
    )


# 3 Block --------------------------------------------------------------------------------


def _block(x, ln_1, attn, ln_2, mlp):
    x = x + attn(ln_1(x))
    return x + mlp(ln_2(x))


def check_my_block(my_block, seed=0):
    """Attention, then MLP; each on a normalised copy, and added."""
    torch.manual_seed(seed)
    B, T, C = 2, 4, 6
    ln_1, ln_2 = nn.LayerNorm(C).double(), nn.LayerNorm(C).double()
    for norm in (ln_1, ln_2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    mixer, wide = nn.Linear(C, C).double(), nn.Linear(C, C).double()

    def attn(x):
        return mixer(x.cumsum(1).tanh())

    def mlp(x):
        return wide(x).tanh()

    x = torch.randn(B, T, C, dtype=torch.float64)
    before, a = x.clone(), (x, ln_1, attn, ln_2, mlp)
    with torch.no_grad():
        y = call(my_block, *a)
        assert torch.equal(x, before), (
            "The x that came in has changed: x += … works in place. Write x = x + …"
        )
        is_tensor(y, (B, T, C), torch.float64, "A block keeps the shape.")
        names_none_of(
            y,
            {
                "The LayerNorms stand on the stream, after the addition: that is post-LN, of "
                "2017. In GPT-2 they stand before attention and MLP.": _post(*a),
                "Nothing is added: each part's output replaces the stream.": mlp(
                    ln_2(attn(ln_1(x)))
                ),
                "MLP and attention read the same stream, side by side: in GPT-2 the MLP reads "
                "what attention has written.": x + attn(ln_1(x)) + mlp(ln_2(x)),
                "The MLP comes first: attention comes first.": _block(x, ln_2, mlp, ln_1, attn),
                "The normalised copy is carried on: what is added to must be the stream itself, "
                "not its LayerNorm.": _carries_norm(*a),
                "The second sum begins from the x that came in: what attention added is lost "
                "from the stream.": x + mlp(ln_2(x + attn(ln_1(x)))),
                "The two LayerNorms have changed places: ln_1 belongs to attention.": (
                    _block(x, ln_2, attn, ln_1, mlp)
                ),
                "Attention and MLP read the stream as it is: the LayerNorms are not used.": (
                    _block(x, lambda z: z, attn, lambda z: z, mlp)
                ),
            },
        )
        assert close(y, _block(*a)), (
            f"The output is off by up to {(y - _block(*a)).abs().max():.2g}. Write the two lines "
            "of the chapter."
        )


def _post(x, ln_1, attn, ln_2, mlp):
    x = ln_1(x + attn(x))
    return ln_2(x + mlp(x))


def _carries_norm(x, ln_1, attn, ln_2, mlp):
    x = ln_1(x)
    x = x + attn(x)
    x = ln_2(x)
    return x + mlp(x)


def _block_in_place(x, ln_1, attn, ln_2, mlp):
    x += attn(ln_1(x))
    x += mlp(ln_2(x))
    return x


# 4 The stream, predicted ----------------------------------------------------------------


def check_my_stream_std(my_stream_std, seed=0):
    """A formula, held against sums of independent random numbers."""
    g = torch.Generator().manual_seed(seed)
    for L, a in ((3, 0.5), (12, 0.25), (40, 0.8)):
        for scaled in (False, True):
            found = call(my_stream_std, L, a, scaled, hint="a is a variance, scaled a bool.")
            assert type(found) is float, (
                f"It returned a {type(found).__name__}: one float is expected."
            )
            right = math.sqrt(1 + (a if scaled else 2 * L * a))
            case = f"L = {L}, a = {a}, scaled = {scaled}: "
            mistakes = {
                "that is the variance: its root was asked for.": right**2,
                "one branch a block was counted: a block has two.": math.sqrt(1 + L * a),
                "what was in the stream at the beginning, of variance 1, is missing.": math.sqrt(
                    right**2 - 1
                ),
                "standard deviations were added up: of independent numbers the variances add.": (
                    1 + 2 * L * math.sqrt(a)
                ),
                "the scale divides the numbers by √(2L), and so their variance by 2L, not by "
                "its root.": math.sqrt(1 + 2 * L * a / math.sqrt(2 * L)),
                "scaled or not makes no difference in it.": math.sqrt(1 + 2 * L * a),
            }
            for sentence, wrong in mistakes.items():
                assert not abs(found - wrong) < 1e-9 < abs(right - wrong), case + sentence
            parts = torch.randn(2 * L, 20000, generator=g, dtype=torch.float64) * math.sqrt(a)
            stream = torch.randn(20000, generator=g, dtype=torch.float64)
            stream = stream + parts.sum(0) / (math.sqrt(2 * L) if scaled else 1)
            measured = stream.std().item()
            assert abs(found / measured - 1) < 0.03, (
                case + f"predicted {found:.3f}, measured {measured:.3f}. Begin with the variance."
            )


def _stream_std(L, a, scaled, branches=2, begin=1.0, power=1.0):
    count = branches * L
    return math.sqrt(begin + count * a / ((2 * L) ** power if scaled else 1))


# 5 Counting -----------------------------------------------------------------------------


def check_my_block_params(my_block_params, seed=0):
    """Parameters of a block, by part; held against the library's own."""
    g = torch.Generator().manual_seed(seed)
    for _ in range(3):
        C = 2 * int(torch.randint(3, 20, (), generator=g))
        found = call(my_block_params, C, hint="C is an int.")
        assert type(found) is tuple and len(found) == 3 and all(type(n) is int for n in found), (
            "Three whole numbers are expected, as a tuple: attention, MLP, both LayerNorms."
        )
        attention, mlp, norms = found
        case = f"C = {C}: "
        mistakes = {
            "the biases of attention are missing: 3C in c_attn and C in c_proj.": (
                attention == 4 * C * C
            ),
            "attention's output projection is missing: queries, keys and values are three "
            "matrices of four.": attention in (3 * C * C, 3 * C * C + 3 * C),
            "the MLP's biases are missing: 4C in the middle, C at the end.": mlp == 8 * C * C,
            "the MLP has only one of its two matrices.": mlp in (4 * C * C, 4 * C * C + 4 * C),
            "the MLP's biases are counted as if both were 4C wide: the second is C.": (
                mlp == 8 * C * C + 8 * C
            ),
            "a LayerNorm has a factor *and* an offset a channel, and there are two.": (
                norms in (C, 2 * C)
            ),
        }
        for sentence, made in mistakes.items():
            assert not made, case + sentence
        block = Block(GPTConfig(n_layer=1, n_head=2, n_embd=C, block_size=4, vocab_size=8))
        right = tuple(
            sum(p.numel() for part in parts for p in part.parameters())
            for parts in ([block.attn], [block.mlp], [block.ln_1, block.ln_2])
        )
        assert found == right, case + f"{right} are the library's, and you have {found}."


WRONG = {
    "my_layer_norm": {
        "over the words": (lambda *a: _layer_norm(*a, dim=-2), "words of the text"),
        "over the batch": (lambda *a: _layer_norm(*a, dim=0), "texts see each other"),
        "over everything": (lambda *a: _layer_norm(*a, dim=(0, 1, 2)), "the whole tensor"),
        "eps outside the root": (lambda *a: _layer_norm(*a, inside=False), "inside the root"),
        "divides by C − 1": (lambda *a: _layer_norm(*a, unbiased=True), "by C − 1"),
        "keeps the mean": (lambda *a: _layer_norm(*a, centre=False), "not taken away"),
        "divides by the variance": (lambda *a: _layer_norm(*a, root=False), "by the variance:"),
        "no factor and offset": (
            lambda x, w, b, e: _layer_norm(x, torch.ones_like(w), torch.zeros_like(b), e),
            "are not used",
        ),
        "detaches": (_layer_norm_detached, "gradient is not"),
    },
    "my_gelu": {
        "the exact form": (F.gelu, "exact GELU"),
        "ReLU": (F.relu, "That is ReLU"),
        "SiLU": (F.silu, "called SiLU"),
        "the sigmoid approximation": (lambda x: x * torch.sigmoid(1.702 * x), "1.702"),
        "no half": (lambda x: _gelu(x, half=1.0), "half in front"),
        "root turned round": (lambda x: _gelu(x, root=math.sqrt(math.pi / 2)), "of π/2"),
        "no cube": (lambda x: _gelu(x, cube=0.0), "cube is missing"),
        "root on x alone": (lambda x: _gelu(x, inner=False), "multiplies x alone"),
        "no 1": (lambda x: _gelu(x, plus=0.0), "The 1 beside"),
    },
    "my_block": {
        "post-LN": (_post, "post-LN"),
        "no residual": (lambda x, n, a, m, f: f(m(a(n(x)))), "Nothing is added"),
        "in parallel": (lambda x, n, a, m, f: x + a(n(x)) + f(m(x)), "side by side"),
        "MLP first": (lambda x, n, a, m, f: _block(x, m, f, n, a), "MLP comes first"),
        "carries the copy on": (_carries_norm, "normalised copy is carried"),
        "loses what attention added": (
            lambda x, n, a, m, f: x + f(m(x + a(n(x)))),
            "second sum begins",
        ),
        "norms exchanged": (lambda x, n, a, m, f: _block(x, m, a, n, f), "changed places"),
        "no norms": (lambda x, n, a, m, f: x + a(x) + f(x + a(x)), "are not used"),
        "in place": (_block_in_place, "works in place"),
    },
    "my_stream_std": {
        "the variance": (lambda L, a, s: _stream_std(L, a, s) ** 2, "its root was asked"),
        "one branch a block": (
            lambda L, a, s: _stream_std(L, a, s, branches=1),
            "one branch a block",
        ),
        "forgets the beginning": (lambda L, a, s: _stream_std(L, a, s, begin=0.0), "is missing"),
        "adds deviations": (
            lambda L, a, s: 1 + 2 * L * math.sqrt(a) / (math.sqrt(2 * L) if s else 1),
            "standard deviations were added",
        ),
        "scales the variance by the root": (
            lambda L, a, s: _stream_std(L, a, s, power=0.5),
            "so their variance",
        ),
        "ignores the scaling": (lambda L, a, s: _stream_std(L, a, False), "no difference"),
    },
    "my_block_params": {
        "no biases in attention": (
            lambda C: (4 * C * C, 8 * C * C + 5 * C, 4 * C),
            "biases of attention",
        ),
        "no output projection": (
            lambda C: (3 * C * C + 3 * C, 8 * C * C + 5 * C, 4 * C),
            "output projection is missing",
        ),
        "no biases in the MLP": (
            lambda C: (4 * C * C + 4 * C, 8 * C * C, 4 * C),
            "the MLP's biases are missing",
        ),
        "one matrix in the MLP": (
            lambda C: (4 * C * C + 4 * C, 4 * C * C + 4 * C, 4 * C),
            "only one of its two",
        ),
        "wide biases": (
            lambda C: (4 * C * C + 4 * C, 8 * C * C + 8 * C, 4 * C),
            "as if both were",
        ),
        "half a LayerNorm": (
            lambda C: (4 * C * C + 4 * C, 8 * C * C + 5 * C, 2 * C),
            "*and* an offset",
        ),
    },
}
