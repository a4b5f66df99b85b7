"""Checks for the exercises of chapter 11, and the wrong answers that they are proved against.

    L blocks   C channels   H heads   V vocabulary   B texts   T tokens   N parameters

Each check draws its cases from a seed, names the mistake that fits all of them, and compares with
gpt2lib or with PyTorch where these have the same.
"""

import math

import numpy as np
import torch

from gpt2lib import scaling
from gpt2lib.answers import call, is_tensor
from gpt2lib.config import GPTConfig


def _number(y, what):
    assert type(y) in (int, float), (
        f"It returned a {type(y).__name__}, not a number: {what} was due. Is the return missing, "
        "or is it numpy's? float() makes one of it."
    )


def _same(found, right, tol=1e-9):
    return np.allclose(np.array(found, float), np.array(right, float), rtol=tol, atol=0)


def _names(found, mistakes, cases):
    """Name the mistake that fits all cases."""
    for sentence, wrong in mistakes.values():
        assert not _same(found, [wrong(*case) for case in cases]), sentence


# 1 FLOPs for a byte ---------------------------------------------------------------------


def _intensity(m, k, n, size, *, unit=2, inputs=1, weights=1, outputs=1):
    return unit * m * k * n / (size * (inputs * m * k + weights * k * n + outputs * m * n))


INTENSITY_MISTAKES = {
    "half": (
        "It is half of what was due: an addition and a multiplication are two FLOPs.",
        lambda *case: _intensity(*case, unit=1),
    ),
    "no output": (
        "The result is missing among the bytes: (m, n) numbers are written, too.",
        lambda *case: _intensity(*case, outputs=0),
    ),
    "weights alone": (
        "Only the second matrix was counted among the bytes: with many rows what goes in and what "
        "comes out weigh as well.",
        lambda *case: _intensity(*case, inputs=0, outputs=0),
    ),
    "no weights": (
        "The second matrix is missing among the bytes: with one row it is nearly all of them.",
        lambda *case: _intensity(*case, weights=0),
    ),
    "numbers": (
        "These are FLOPs for a number, and not for a byte: a number has `size` of them.",
        lambda m, k, n, size: _intensity(m, k, n, 1),
    ),
    "bits": (
        "These are FLOPs for a bit: a byte was asked for, and size is in bytes already.",
        lambda m, k, n, size: _intensity(m, k, n, 8 * size),
    ),
    "upside down": (
        "It is upside down: these are bytes for a FLOP, and FLOPs for a byte were due.",
        lambda *case: 1 / _intensity(*case),
    ),
    "fetched for each": (
        "Each FLOP's two numbers were counted as fetched anew: a product that is done well takes "
        "each matrix through memory once.",
        lambda m, k, n, size: 2 * m * k * n / (size * (2 * m * k * n + m * n)),
    ),
}


def check_my_intensity(my_intensity, seed=0):
    """FLOPs a byte of products of several shapes and formats."""
    rng = np.random.default_rng(seed)
    cases = [
        (m, int(rng.integers(20, 90)), int(rng.integers(100, 200)), size)
        for m, size in ((1, 4), (int(rng.integers(300, 500)), 2), (7, 1))
    ]
    found = [call(my_intensity, *case) for case in cases]
    for y in found:
        _number(y, "FLOPs a byte")
    _names(found, INTENSITY_MISTAKES, cases)
    for case, y in zip(cases, found):
        right = _intensity(*case)
        assert _same(y, right), (
            f"For (m, k, n, size) = {case} it gives {y:.5g}, and {right:.5g} was due: write down "
            "the FLOPs, then the numbers of all three matrices, then the bytes."
        )


def _intensity_with(name):
    def wrong(*case):
        return INTENSITY_MISTAKES[name][1](*case)

    return wrong


# 2 Under the roof -----------------------------------------------------------------------


def _roofline(flops, moved, peak, bandwidth):
    compute, memory = flops / peak, moved / bandwidth
    return max(compute, memory), "compute" if compute >= memory else "memory"


ROOFLINE_MISTAKES = {
    "sum": (
        "The two times were added: the bound supposes that bytes come while others are computed "
        "with, so the longer one counts.",
        lambda f, b, p, w: (f / p + b / w, _roofline(f, b, p, w)[1]),
    ),
    "min": (
        "It took the shorter of the two times: both must be over, so it takes the longer one.",
        lambda f, b, p, w: (min(f / p, b / w), _roofline(f, b, p, w)[1]),
    ),
    "compute alone": (
        "It looks at arithmetic alone: where there are few FLOPs for a byte, the bytes take "
        "longer.",
        lambda f, b, p, w: (f / p, "compute"),
    ),
    "memory alone": (
        "It looks at memory alone: where there are many FLOPs for a byte, arithmetic takes longer.",
        lambda f, b, p, w: (b / w, "memory"),
    ),
    "names": (
        "The time is right, and the names are exchanged: bound by memory is what waits for bytes.",
        lambda f, b, p, w: (
            _roofline(f, b, p, w)[0],
            "memory" if _roofline(f, b, p, w)[1] == "compute" else "compute",
        ),
    ),
    "rate": (
        "It returned FLOPs a second, the height of the roof: seconds were due. Divide.",
        lambda f, b, p, w: (min(p, w * f / b), _roofline(f, b, p, w)[1]),
    ),
    "ridge": (
        "The time is right, but the name does not fit: compare FLOPs a byte with the ridge, "
        "peak / bandwidth, and not with bandwidth / peak.",
        lambda f, b, p, w: (
            _roofline(f, b, p, w)[0],
            "compute" if f / b >= w / p else "memory",
        ),
    ),
}


def check_my_roofline(my_roofline, seed=0):
    """The least time and what bounds it, on both sides of the ridge."""
    rng = np.random.default_rng(seed)
    cases = []
    for factor in (0.1, 0.6, 2.0, 30.0):
        peak, bandwidth, moved = 10 ** rng.uniform(11, 14), 10 ** rng.uniform(9, 10.5), 1e9
        cases.append((factor * moved * peak / bandwidth, moved, peak, bandwidth))
    found = [call(my_roofline, *case) for case in cases]
    for y in found:
        assert type(y) in (tuple, list) and len(y) == 2, (
            f"It returned a {type(y).__name__}, where a pair was due: seconds, and a name."
        )
        _number(y[0], "a time in seconds")
        assert type(y[1]) is str and y[1] in ("compute", "memory"), (
            f"The second thing it returned is {y[1]!r:.40}: 'compute' or 'memory' was due."
        )
    times, names = [y[0] for y in found], [y[1] for y in found]
    for sentence, wrong in ROOFLINE_MISTAKES.values():
        would = [wrong(*case) for case in cases]
        fits = _same(times, [y[0] for y in would]) and names == [y[1] for y in would]
        assert not fits, sentence
    for case, y in zip(cases, found):
        right = _roofline(*case)
        assert _same(y[0], right[0]) and y[1] == right[1], (
            f"At {case[0] / case[1]:.3g} FLOPs a byte, with the ridge at {case[2] / case[3]:.3g}, "
            f"it gives {y[0]:.4g} s and {y[1]!r}; {right[0]:.4g} s and {right[1]!r} were due: a "
            "time for the FLOPs, a time for the bytes, the longer one."
        )


def _roofline_with(name):
    def wrong(*case):
        return ROOFLINE_MISTAKES[name][1](*case)

    return wrong


# 3 The share of the peak ----------------------------------------------------------------


def _mfu(L, C, V, T, rate, peak, *, passes=3, squares=1, head=1, backward=0):
    block = 2 * 12 * C**2 + squares * 4 * T * C
    return (passes + backward) * (L * block + head * 2 * C * V) * rate / peak


def _six_n(L, C, V, T, rate, peak):
    return 6 * GPTConfig(L, 1, C, T, V).n_params() * rate / peak


MFU_MISTAKES = {
    "forward": (
        "It is a third of what was due: training also goes back, with two products for each one.",
        lambda *case: _mfu(*case, passes=1),
    ),
    "recomputed": (
        "The way forward was counted twice, as if with checkpoints: MFU counts what the model "
        "needs, and not what a program repeats.",
        lambda *case: _mfu(*case, passes=4),
    ),
    "no squares": (
        "The two products inside attention are missing: 4 T C FLOPs for each token and block, "
        "forward.",
        lambda *case: _mfu(*case, squares=0),
    ),
    "no head": (
        "The head is missing: 2 C V FLOPs for each token, forward.",
        lambda *case: _mfu(*case, head=0),
    ),
    "six N": (
        "It is 6 N a token: a good approximation, but the table of positions does no product, and "
        "attention's squares are left out. Count the products.",
        _six_n,
    ),
    "upside down": (
        "It is upside down: the peak belongs below. A slow run has a small MFU.",
        lambda *case: 1 / _mfu(*case),
    ),
    "a text": (
        "It is T times too much: the rate is in tokens, and the FLOPs are those of a whole text.",
        lambda *case: case[3] * _mfu(*case),
    ),
    "per cent": (
        "It is a hundred times what was due: a share was asked for, 0.4 and not 40.",
        lambda *case: 100 * _mfu(*case),
    ),
}


def check_my_mfu(my_mfu, seed=0):
    """The share of the peak for several models; held against the library's."""
    rng = np.random.default_rng(seed)
    cases = [
        (int(rng.integers(2, 7)), 4 * int(rng.integers(3, 9)), int(rng.integers(50, 99)), t,
         rng.uniform(1e3, 1e5), 10 ** rng.uniform(11, 13))
        for t in (9, 33, 70)
    ]  # fmt: skip
    found = [call(my_mfu, *case) for case in cases]
    for y in found:
        _number(y, "a share of the peak")
    _names(found, MFU_MISTAKES, cases)
    for (L, C, V, T, rate, peak), y in zip(cases, found):
        right = scaling.mfu(GPTConfig(L, 1, C, T, V), rate, peak)
        assert _same(y, right), (
            f"For L={L}, C={C}, V={V}, T={T} it gives {y:.5g}, and {right:.5g} was due: FLOPs of a "
            "training step for one token, times tokens a second, over the peak."
        )


def _mfu_with(name):
    def wrong(*case):
        return MFU_MISTAKES[name][1](*case)

    return wrong


# 4 Rounded to bf16 ----------------------------------------------------------------------


def _bits(x):
    return x.contiguous().view(torch.int32)


def _floats(bits):
    return bits.view(torch.float32)


def _masked(bits, kept):
    """The upper bits alone: 9 of sign and exponent, and so many of the fraction."""
    return _floats(bits & ~((1 << (23 - kept)) - 1))


def _nearest(x, kept=7):
    bits, low = _bits(x), 23 - kept
    return _masked(bits + (1 << (low - 1)) - 1 + ((bits >> low) & 1), kept)


BF16_MISTAKES = {
    "cut": (
        "It cuts the lower bits off without rounding: every number comes out no larger than it "
        "was, and errs by up to a whole step.",
        lambda x: _masked(_bits(x), 7),
    ),
    "away": (
        "Numbers halfway between two are rounded away from zero always: of the two, the one whose "
        "last bit is 0 was due.",
        lambda x: _masked(_bits(x) + 0x8000, 7),
    ),
    "down": (
        "Numbers halfway between two are rounded towards zero always: of the two, the one whose "
        "last bit is 0 was due. Is the last bit that stays added?",
        lambda x: _masked(_bits(x) + 0x7FFF, 7),
    ),
    "odd": (
        "Numbers halfway between two go to the one whose last bit is 1: it should be 0. Is the "
        "last bit added the wrong way round?",
        lambda x: _masked(_bits(x) + 0x8000 - ((_bits(x) >> 16) & 1), 7),
    ),
    "eight bits": (
        "It keeps 8 bits of the fraction where bf16 has 7: the eighth bit of precision is the "
        "leading one, which is not stored.",
        lambda x: _nearest(x, 8),
    ),
    "up": (
        "It always goes on to the next number away from zero, even where the nearest is the one "
        "below.",
        lambda x: _masked(_bits(x) + 0xFFFF, 7),
    ),
    "grid": (
        "It rounds to multiples of 1/128, whatever the size of a number: the steps of a floating-"
        "point format grow with the number.",
        lambda x: torch.round(x * 128) / 128,
    ),
    "float16": (
        "These are numbers of float16, with 10 bits of fraction and a small range: bf16 has "
        "float32's exponent.",
        lambda x: x.half().float(),
    ),
}


def check_my_bf16(my_bf16, seed=0):
    """Rounding of ordinary, tiny, huge, negative and halfway numbers; held against PyTorch's."""
    g = torch.Generator().manual_seed(seed)
    plain = torch.randn(40, 6, generator=g) * 10.0 ** torch.arange(-15, 15, 5)
    steps = torch.randint(0, 128, (60,), generator=g)
    halfway = (1 + (steps + 0.5) / 128) * 2.0 ** torch.randint(-9, 9, (60,), generator=g)
    halfway[::2] *= -1
    x = torch.cat([plain.flatten(), halfway, torch.tensor([0.0, -0.0, 1.0, -2.0])])
    right = x.bfloat16().float()
    y = call(my_bf16, x.clone())
    is_tensor(y, tuple(x.shape), torch.float32, "Each number is rounded by itself.")
    for sentence, wrong in BF16_MISTAKES.values():
        assert not torch.equal(y, wrong(x)), sentence
    bad = (y != right).nonzero()
    assert len(bad) == 0, (
        f"{len(bad)} of {len(x)} numbers are wrong: {x[bad[0]].item():.9g} became "
        f"{y[bad[0]].item():.9g} where {right[bad[0]].item():.9g} was due. Add half a step less "
        "one and the last bit that stays, then cut."
    )
    two = x[:12].reshape(3, 4).T  # not contiguous
    again = call(my_bf16, two)
    is_tensor(again, (4, 3), torch.float32, "The shape that came in is the shape to give back.")
    assert torch.equal(again, two.bfloat16().float()), (
        "A transposed tensor comes out wrong: are its numbers read in the order of memory?"
    )


def _bf16_with(name):
    def wrong(x):
        return BF16_MISTAKES[name][1](x)

    return wrong


# 5 What training takes ------------------------------------------------------------------


def _training(N, L, C, H, V, B, T, *, size=4, means=2, tables=3, texts=1, heads=1, both=0, turn=1,
              width=16, end=1):  # fmt: skip
    B = B if texts else 1
    stay = (1 + means) * N
    kept = B * T * (L * (width * C + heads * H + 4) + 2 * C + 2) + tables * B * T * V
    if both:
        return size * (stay + kept + N)
    return size * (stay + max(turn * kept, end * N))


TRAINING_MISTAKES = {
    "half": (
        "It is half of what was due: a number of float32 has 4 bytes.",
        lambda *case: _training(*case, size=2),
    ),
    "numbers": (
        "These are numbers, and bytes were asked for: in float32 each has 4.",
        lambda *case: _training(*case, size=1),
    ),
    "one mean": (
        "AdamW keeps two means for each parameter, of gradients and of their squares: one of them "
        "is missing.",
        lambda *case: _training(*case, means=1),
    ),
    "no means": (
        "What AdamW keeps is missing: two numbers for each parameter, from the first step on.",
        lambda *case: _training(*case, means=0),
    ),
    "both": (
        "Everything was added up: the gradients of the weights come while the activations go, so "
        "the larger of the two moments counts.",
        lambda *case: _training(*case, both=1),
    ),
    "turn": (
        "It looks at the turn alone: with a small batch the end of the way back, when all "
        "gradients are there, takes more.",
        lambda *case: _training(*case, end=0),
    ),
    "end": (
        "It looks at the end of the way back alone: with a large batch the activations and logits "
        "at the turn take more.",
        lambda *case: _training(*case, turn=0),
    ),
    "one table": (
        "Of the tables of B·T·V numbers only one is counted: the logits, their log-softmax and the "
        "gradient are there at once.",
        lambda *case: _training(*case, tables=1),
    ),
    "no logits": (
        "The tables of logits are missing: with a large vocabulary they are most of it.",
        lambda *case: _training(*case, tables=0),
    ),
    "one text": (
        "The number of texts does not matter to it, and it should: activations and logits are "
        "there for each.",
        lambda *case: _training(*case, texts=0),
    ),
}


def check_my_training_bytes(my_training_bytes, seed=0):
    """The peak of a step, where the turn decides and where the end does."""
    rng = np.random.default_rng(seed)
    cases = []
    for L, B, T in ((3, 6, 40), (5, 1, 1), (2, 3, 25)):
        H, D, V = int(rng.integers(2, 5)), int(rng.integers(8, 17)), int(rng.integers(60, 200))
        N = GPTConfig(L, H, H * D, 64, V).n_params()
        cases.append((N, L, H * D, H, V, B, T))
    found = [call(my_training_bytes, *case) for case in cases]
    for y in found:
        _number(y, "a number of bytes")
    _names(found, TRAINING_MISTAKES, cases)
    for case, y in zip(cases, found):
        right = _training(*case)
        assert math.isclose(y, right, rel_tol=1e-12), (
            f"For (N, L, C, H, V, B, T) = {case} it gives {y:,}, and {right:,} was due: "
            "what stays, and on it the larger of gradients, or activations with three tables."
        )


def _training_with(name):
    def wrong(*case):
        return TRAINING_MISTAKES[name][1](*case)

    return wrong


WRONG = {  # exercise: {the mistake: (wrong answer, a piece of the sentence that must reject it)}
    "my_intensity": {
        "multiplications alone": (_intensity_with("half"), "It is half of what"),
        "without the result": (_intensity_with("no output"), "The result is missing"),
        "weights alone": (_intensity_with("weights alone"), "Only the second matrix"),
        "without the weights": (_intensity_with("no weights"), "The second matrix is missing"),
        "for a number": (_intensity_with("numbers"), "FLOPs for a number"),
        "for a bit": (_intensity_with("bits"), "FLOPs for a bit"),
        "upside down": (_intensity_with("upside down"), "bytes for a FLOP"),
        "fetched for each product": (_intensity_with("fetched for each"), "as fetched anew"),
    },
    "my_roofline": {
        "the sum": (_roofline_with("sum"), "The two times were added"),
        "the shorter": (_roofline_with("min"), "the shorter of the two"),
        "arithmetic alone": (_roofline_with("compute alone"), "looks at arithmetic alone"),
        "memory alone": (_roofline_with("memory alone"), "looks at memory alone"),
        "names exchanged": (_roofline_with("names"), "the names are exchanged"),
        "the rate": (_roofline_with("rate"), "It returned FLOPs a second"),
        "the ridge upside down": (_roofline_with("ridge"), "the name does not fit"),
    },
    "my_mfu": {
        "forward alone": (_mfu_with("forward"), "It is a third of what"),
        "repeated work": (_mfu_with("recomputed"), "as if with checkpoints"),
        "no attention": (_mfu_with("no squares"), "inside attention are missing"),
        "no head": (_mfu_with("no head"), "The head is missing"),
        "6 N": (_mfu_with("six N"), "It is 6 N a token"),
        "upside down": (_mfu_with("upside down"), "the peak belongs below"),
        "FLOPs of a text": (_mfu_with("a text"), "T times too much"),
        "per cent": (_mfu_with("per cent"), "a hundred times"),
    },
    "my_bf16": {
        "cut off": (_bf16_with("cut"), "cuts the lower bits off"),
        "half away from zero": (_bf16_with("away"), "rounded away from zero always"),
        "half towards zero": (_bf16_with("down"), "rounded towards zero always"),
        "half to odd": (_bf16_with("odd"), "whose last bit is 1"),
        "8 bits of fraction": (_bf16_with("eight bits"), "It keeps 8 bits"),
        "always up": (_bf16_with("up"), "always goes on to the next"),
        "multiples of 1/128": (_bf16_with("grid"), "multiples of 1/128"),
        "float16": (_bf16_with("float16"), "numbers of float16"),
        "of dtype bf16": (lambda x: x.bfloat16(), "The dtype is"),
    },
    "my_training_bytes": {
        "two bytes": (_training_with("half"), "It is half of what"),
        "numbers": (_training_with("numbers"), "These are numbers, and bytes"),
        "one mean": (_training_with("one mean"), "one of them is missing"),
        "no means": (_training_with("no means"), "What AdamW keeps is missing"),
        "all added up": (_training_with("both"), "Everything was added up"),
        "the turn alone": (_training_with("turn"), "looks at the turn alone"),
        "the end alone": (_training_with("end"), "the end of the way back alone"),
        "one table of logits": (_training_with("one table"), "only one is counted"),
        "no logits": (_training_with("no logits"), "tables of logits are missing"),
        "one text": (_training_with("one text"), "The number of texts does not"),
    },
}
