"""Checks for the exercises of chapter 13, and the wrong answers that they are proved against.

    L blocks   C channels   V vocabulary   B texts   T tokens   N parameters   D tokens in all

Each check draws its cases from a seed, names the mistake that fits all of them, and compares with
gpt2lib.scaling where that has the same.
"""

import math

import numpy as np

from gpt2lib import scaling
from gpt2lib.answers import call
from gpt2lib.config import GPTConfig


def _number(y, what):
    assert type(y) in (int, float), (
        f"It returned a {type(y).__name__}, not a number: {what} was due. Is the return missing, "
        "or is it numpy's? float() makes one of it."
    )


def _two(y, what):
    assert type(y) in (tuple, list) and len(y) == 2, (
        f"It returned a {type(y).__name__}, not two numbers: {what}."
    )
    for part in y:
        _number(part, what)


def _same(found, right, tol=1e-6):
    """Whether two lists of cases agree; a case is a number or several."""
    return np.allclose(np.array(found, float), np.array(right, float), rtol=tol, atol=0)


def _names(found, mistakes, cases, tol=1e-6):
    for sentence, wrong in mistakes.values():
        assert not _same(found, [wrong(*case) for case in cases], tol), sentence


# 1 The cost of a step -------------------------------------------------------------------


def _flops(L, C, V, B, T, *, unit=2, passes=3, squares=2, head=1, power=2, weights=12, texts=1):
    block = unit * weights * C**2 * T + unit * squares * T**power * C
    return passes * (B if texts else 1) * (L * block + head * unit * C * V * T)


FLOPS_MISTAKES = {
    "half": (
        "It is half of what was asked for: an addition and a multiplication are two FLOPs.",
        lambda *case: _flops(*case, unit=1),
    ),
    "forward": (
        "It is the forward pass alone: training also goes back, with two products for each one.",
        lambda *case: _flops(*case, passes=1),
    ),
    "back as forward": (
        "Going back is counted like going forward, but it has two products for each one: for the "
        "gradient of the input, and for that of the weights.",
        lambda *case: _flops(*case, passes=2),
    ),
    "no squares": (
        "The products inside attention are missing: queries with keys, and weights with values.",
        lambda *case: _flops(*case, squares=0),
    ),
    "one square": (
        "Of the two products inside attention one is missing: scores, and then averages.",
        lambda *case: _flops(*case, squares=1),
    ),
    "line": (
        "Attention's products grow with T and not with its square: each token looks at T others.",
        lambda *case: _flops(*case, power=1),
    ),
    "no head": (
        "The head is missing: a product of C by V at each token.",
        lambda *case: _flops(*case, head=0),
    ),
    "one MLP matrix": (
        "A block has 8 C² weights in it, where 12 C² were due: 4 in attention, and 4 in each of "
        "the MLP's two matrices.",
        lambda *case: _flops(*case, weights=8),
    ),
    "one text": (
        "The number of texts does not matter to it, and it should: B texts cost B times one.",
        lambda *case: _flops(*case, texts=0),
    ),
}


def check_my_step_flops(my_step_flops, seed=0):
    """FLOPs of a step for several shapes; held against the library's."""
    rng = np.random.default_rng(seed)
    cases = [
        (int(rng.integers(2, 7)), 4 * int(rng.integers(3, 9)), int(rng.integers(50, 99)), b, t)
        for b, t in ((3, 11), (2, 40), (5, 7))
    ]
    found = [call(my_step_flops, *case) for case in cases]
    for y in found:
        _number(y, "the FLOPs of a step")
    _names(found, FLOPS_MISTAKES, cases, 1e-12)
    for (L, C, V, B, T), y in zip(cases, found):
        config = GPTConfig(L, 1, C, T, V)
        right = scaling.flops(config, B, T).step
        assert y == right, (
            f"For L={L}, C={C}, V={V}, B={B}, T={T} it gives {y:,}, and {right:,} were due: write "
            "down the shapes of each product, and take 2·m·k·n of each."
        )


def _flops_with(name):
    def wrong(*case):
        return FLOPS_MISTAKES[name][1](*case)

    return wrong


# 2 A power law --------------------------------------------------------------------------


def _line(u, v):
    b, a = np.polyfit(u, v, 1)
    return float(a), float(b)


def _law(x, y):
    a, b = _line(np.log(x), np.log(y))
    return math.exp(a), b


def _ends(x, y):
    b = math.log(y[-1] / y[0]) / math.log(x[-1] / x[0])
    return float(y[0] / x[0] ** b), b


LAW_MISTAKES = {
    "raw": (
        "A line was fitted to the numbers themselves: a power law is a line in their logarithms.",
        lambda x, y: _line(x, y),
    ),
    "log a": (
        "The exponent is right, and a is still a logarithm: the line's intercept is ln a.",
        lambda x, y: _line(np.log(x), np.log(y)),
    ),
    "semilog": (
        "Only y went through the logarithm: that is an exponential law, and not a power law.",
        lambda x, y: (math.exp(_line(x, np.log(y))[0]), _line(x, np.log(y))[1]),
    ),
    "mixed": (
        "a is off and b is right, as when a logarithm to base 10 is undone by exp: undo each "
        "logarithm by its own inverse.",
        lambda x, y: (math.exp(_line(np.log10(x), np.log10(y))[0]), _law(x, y)[1]),
    ),
    "inverse": (
        "The roles are exchanged: x as a power of y was fitted. Which one is predicted?",
        lambda x, y: _law(y, x),
    ),
    "ends": (
        "The law goes through the first and the last point, whatever lies between: a fit uses all.",
        lambda x, y: _ends(x, y),
    ),
    "order": (
        "The two numbers are right and in the wrong order: a first, then the exponent b.",
        lambda x, y: _law(x, y)[::-1],
    ),
    "sign": (
        "The exponent has the wrong sign: y falls where x grows, so in y = a · x^b it is negative.",
        lambda x, y: (_law(x, y)[0], -_law(x, y)[1]),
    ),
}


def check_my_power_law(my_power_law, seed=0):
    """a and b through points that scatter; held against the library's."""
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(3):
        x = np.sort(rng.uniform(2, 500, 7))
        cases.append((x, 5 * x ** -rng.uniform(0.2, 0.6) * np.exp(rng.normal(0, 0.1, 7))))
    found = [call(my_power_law, x.copy(), y.copy()) for x, y in cases]
    for y in found:
        _two(y, "a and b")
    _names(found, LAW_MISTAKES, cases)
    right = [(law.a.value, law.b.value) for law in (scaling.power_law(*case) for case in cases)]
    assert _same(found, right), (
        f"It gives a = {found[0][0]:.4f} and b = {found[0][1]:.4f} where {right[0][0]:.4f} and "
        f"{right[0][1]:.4f} were due: least squares on ln y against ln x, then exp of the "
        "intercept."
    )


def _law_with(name):
    def wrong(x, y):
        return tuple(map(float, LAW_MISTAKES[name][1](x, y)))

    return wrong


# 3 The best size ------------------------------------------------------------------------


def _lowest(u, losses):
    p, q, r = np.polyfit(u, losses, 2)
    return -q / (2 * p), r - q**2 / (4 * p)


SIZE_MISTAKES = {
    "tried": (
        "It returned the best of the sizes that were tried: the lowest point of the parabola may "
        "lie between them.",
        lambda n, losses: n[np.argmin(losses)],
    ),
    "log": (
        "It returned the logarithm of the size: the parabola's axis is ln N, so undo it.",
        lambda n, losses: _lowest(np.log(n), losses)[0],
    ),
    "raw": (
        "The parabola was laid over N itself: sizes are apart by factors, so over ln N.",
        lambda n, losses: _lowest(n, losses)[0],
    ),
    "sign": (
        "The lowest point has the wrong sign: a parabola p·u² + q·u + r is lowest at −q / (2p).",
        lambda n, losses: np.exp(-_lowest(np.log(n), losses)[0]),
    ),
    "half": (
        "The lowest point is twice as far out as it should be, in ln N: it is at −q / (2p), and "
        "not at −q / p.",
        lambda n, losses: np.exp(2 * _lowest(np.log(n), losses)[0]),
    ),
    "loss": (
        "It returned the loss at the lowest point, and the size there was asked for.",
        lambda n, losses: _lowest(np.log(n), losses)[1],
    ),
}


def check_my_best_size(my_best_size, seed=0):
    """The bottom of a parabola over ln N, between the sizes tried."""
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(3):
        n = np.exp(np.sort(rng.uniform(1.0, 3.5, 6)) + np.linspace(0, 2, 6))
        u = np.log(n)
        at = rng.uniform(u[1], u[-2])
        cases.append((n, 1 + 0.2 * (u - at) ** 2 + rng.normal(0, 0.01, 6)))
    found = [call(my_best_size, n.copy(), losses.copy()) for n, losses in cases]
    for y in found:
        _number(y, "the best size")
    _names(found, SIZE_MISTAKES, cases)
    right = [float(np.exp(_lowest(np.log(n), losses)[0])) for n, losses in cases]
    assert _same(found, right), (
        f"It gives {found[0]:.4f} where {right[0]:.4f} was due: a parabola through all losses over "
        "ln N, its lowest point, and exp of that."
    )


def _size_with(name):
    def wrong(n, losses):
        return float(SIZE_MISTAKES[name][1](n, losses))

    return wrong


# 4 Size and text ------------------------------------------------------------------------


def _best(budget, A, alpha, B, beta, *, six=6, other=0, ratio=None):
    share = (alpha * A) / (beta * B) if ratio is None else ratio
    top = alpha if other else beta
    N = (share * (budget / six) ** top) ** (1 / (alpha + beta))
    return N, budget / (six * N)


OPTIMUM_MISTAKES = {
    "equal": (
        "Half of the exponent of the budget goes to each, whatever the law says: that is right "
        "only where both terms are alike. Take the derivative.",
        lambda c, A, a, B, b: ((c / 6) ** 0.5, (c / 6) ** 0.5),
    ),
    "exponents": (
        "The exponents are exchanged: N grows as the budget to the power β / (α + β), with the "
        "text's exponent on top.",
        lambda *case: _best(*case, other=1),
    ),
    "no six": (
        "The 6 of the compute is missing: 6 · N · D is the budget, and not N · D.",
        lambda *case: _best(*case, six=1),
    ),
    "upside down": (
        "The ratio of the two terms is upside down: where αA is large, parameters help much, and N "
        "should be larger.",
        lambda c, A, a, B, b: _best(c, A, a, B, b, ratio=(b * B) / (a * A)),
    ),
    "no slopes": (
        "The two terms are made equal, and not their slopes: a per cent more of N gains α times "
        "its term.",
        lambda c, A, a, B, b: _best(c, A, a, B, b, ratio=A / B),
    ),
    "no factors": (
        "A and B do not matter to it, and should: the more a term weighs, the more it pays to make "
        "it small.",
        lambda c, A, a, B, b: _best(c, A, a, B, b, ratio=a / b),
    ),
    "order": (
        "The two numbers are right and in the wrong order: parameters first, then tokens.",
        lambda *case: _best(*case)[::-1],
    ),
}


def check_my_optimum(my_optimum, seed=0):
    """The best N and D of a law: they spend the budget, and no neighbour is better."""
    rng = np.random.default_rng(seed)
    cases = [
        (10 ** rng.uniform(18, 22), rng.uniform(200, 600), rng.uniform(0.3, 0.4),
         rng.uniform(800, 2000), rng.uniform(0.2, 0.28))
        for _ in range(3)
    ]  # fmt: skip
    found = [call(my_optimum, *case) for case in cases]
    for y in found:
        _two(y, "N and D")
    _names(found, OPTIMUM_MISTAKES, cases)
    for (budget, A, a, B, b), (N, D) in zip(cases, found):
        spent = 6 * N * D
        assert math.isclose(spent, budget, rel_tol=1e-6), (
            f"N and D spend {spent:.3g} FLOPs by 6·N·D, and the budget is {budget:.3g}."
        )

        def loss(n, A=A, a=a, B=B, b=b, budget=budget):
            return A * n**-a + B * (budget / (6 * n)) ** -b

        assert loss(N) <= min(loss(N * 1.01), loss(N / 1.01)), (
            f"A size that differs by a per cent from {N:.4g} has a lower loss: is the derivative "
            "of both terms taken, with D = budget / (6 N)?"
        )


def _optimum_with(name):
    def wrong(*case):
        return tuple(map(float, OPTIMUM_MISTAKES[name][1](*case)))

    return wrong


# 5 How long -----------------------------------------------------------------------------


def _days(n, d, gpus, peak, mfu, *, six=6, seconds=86_400, devices=1, use=1):
    return six * n * d / ((gpus if devices else 1) * peak * mfu**use) / seconds


DAYS_MISTAKES = {
    "peak": (
        "It counts on the whole peak: no training reaches it. What does mfu say?",
        lambda *case: _days(*case, use=0),
    ),
    "mfu above": (
        "A lower mfu makes it faster: the share of the peak belongs below, beside the peak.",
        lambda *case: _days(*case, use=-1),
    ),
    "forward": (
        "It is a third of what was due: 2·N·D is the forward pass, and training is 6·N·D.",
        lambda *case: _days(*case, six=2),
    ),
    "hours": (
        "These are hours, and days were asked for: a day has 86,400 seconds.",
        lambda *case: _days(*case, seconds=3600),
    ),
    "seconds": (
        "These are seconds, and days were asked for: a day has 86,400 of them.",
        lambda *case: _days(*case, seconds=1),
    ),
    "one device": (
        "The number of devices does not matter to it: n_gpus of them work at the same time.",
        lambda *case: _days(*case, devices=0),
    ),
}


def check_my_days(my_days, seed=0):
    """Days of training by 6·N·D and the share of the peak."""
    rng = np.random.default_rng(seed)
    cases = [
        (int(rng.integers(1, 9)) * 10**8, int(rng.integers(2, 9)) * 10**9,
         int(rng.integers(2, 9)), 10 ** rng.uniform(14, 15), rng.uniform(0.2, 0.6))
        for _ in range(3)
    ]  # fmt: skip
    found = [call(my_days, *case) for case in cases]
    for y in found:
        _number(y, "the number of days")
    _names(found, DAYS_MISTAKES, cases)
    assert _same(found, [_days(*case) for case in cases]), (
        f"It gives {found[0]:.4g} days where {_days(*cases[0]):.4g} were due: FLOPs, over what all "
        "devices do in a second, over the seconds of a day."
    )


def _days_with(name):
    def wrong(*case):
        return float(DAYS_MISTAKES[name][1](*case))

    return wrong


WRONG = {  # exercise: {the mistake: (wrong answer, a piece of the sentence that must reject it)}
    "my_step_flops": {
        "multiplications alone": (_flops_with("half"), "It is half of what"),
        "forward alone": (_flops_with("forward"), "the forward pass alone"),
        "back as forward": (_flops_with("back as forward"), "counted like going forward"),
        "no attention": (_flops_with("no squares"), "inside attention are missing"),
        "one product of attention": (_flops_with("one square"), "attention one is missing"),
        "attention in a line": (_flops_with("line"), "not with its square"),
        "no head": (_flops_with("no head"), "The head is missing"),
        "one matrix of the MLP": (_flops_with("one MLP matrix"), "has 8 C² weights"),
        "one text": (_flops_with("one text"), "The number of texts does not"),
    },
    "my_power_law": {
        "a line in the numbers": (_law_with("raw"), "to the numbers themselves"),
        "a as a logarithm": (_law_with("log a"), "a is still a logarithm"),
        "an exponential": (_law_with("semilog"), "Only y went through"),
        "two bases": (_law_with("mixed"), "a logarithm to base 10"),
        "x of y": (_law_with("inverse"), "The roles are exchanged"),
        "through the ends": (_law_with("ends"), "the first and the last point"),
        "b before a": (_law_with("order"), "in the wrong order: a first"),
        "the wrong sign": (_law_with("sign"), "The exponent has the wrong sign"),
    },
    "my_best_size": {
        "the best tried": (_size_with("tried"), "the best of the sizes"),
        "the logarithm": (_size_with("log"), "It returned the logarithm"),
        "over N": (_size_with("raw"), "laid over N itself"),
        "the wrong sign": (_size_with("sign"), "lowest point has the wrong sign"),
        "without the half": (_size_with("half"), "twice as far out"),
        "the loss": (_size_with("loss"), "It returned the loss"),
    },
    "my_optimum": {
        "half to each": (_optimum_with("equal"), "Half of the exponent"),
        "exponents exchanged": (_optimum_with("exponents"), "The exponents are exchanged"),
        "without the 6": (_optimum_with("no six"), "The 6 of the compute"),
        "ratio upside down": (_optimum_with("upside down"), "is upside down"),
        "terms equal": (_optimum_with("no slopes"), "and not their slopes"),
        "factors ignored": (_optimum_with("no factors"), "A and B do not matter"),
        "D before N": (_optimum_with("order"), "order: parameters first"),
    },
    "my_days": {
        "at the peak": (_days_with("peak"), "on the whole peak"),
        "mfu above": (_days_with("mfu above"), "A lower mfu makes it faster"),
        "forward alone": (_days_with("forward"), "2·N·D is the forward"),
        "hours": (_days_with("hours"), "These are hours"),
        "seconds": (_days_with("seconds"), "These are seconds"),
        "one device": (_days_with("one device"), "The number of devices"),
    },
}
