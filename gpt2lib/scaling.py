"""What size, for how much compute? Parameters and FLOPs by formula, and laws fitted to losses.

    B batch   T time   C channels   L layers   V vocabulary   N parameters   D tokens trained on

FLOPs are floating-point operations, of the matrix products alone: an addition and a
multiplication are two.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from gpt2lib.config import GPTConfig
from gpt2lib.evaluate import Interval

HUBER = 1e-3  # an error of ln y past this counts by its size. Source: Hoffmann et al. 2022, 3.3


class Params(NamedTuple):
    """Where the parameters sit; together they are config.n_params()."""

    tables: int  # of tokens, which is the head too, and of positions
    matrices: int  # of the blocks: Kaplan's N
    vectors: int  # biases and LayerNorms


def params(config: GPTConfig) -> Params:
    """V·C + T·C in tables, L·12·C² in matrices, L·13·C + 2·C in vectors.

    Built by hand in the chapter on scaling. Source: Kaplan et al. 2020, table 1, for 12·L·C².
    """
    L, C = config.n_layer, config.n_embd
    tables = (config.vocab_size + config.block_size) * C
    return Params(tables, 12 * L * C**2, 13 * L * C + 2 * C)


class Flops(NamedTuple):
    """FLOPs of one batch. The backward pass has two products for each of the forward pass."""

    forward: int
    backward: int

    @property
    def step(self) -> int:
        return self.forward + self.backward


def flops(config: GPTConfig, B: int = 1, T: int | None = None, causal: bool = False) -> Flops:
    """FLOPs of a batch of B sequences of T tokens; T=None means block_size.

    Forward, a token: L·(24·C² + 4·T·C) + 2·C·V, from the blocks' matrices, from q kᵀ and
    weights · v, and from the head. By this usual count, also PaLM's, attention computes the whole
    T·T square; causal=True counts only the pairs that the mask allows, T·(T + 1) / 2.
    flops(config).step / config.block_size is a training step's share for a token.
    Raises ValueError unless 1 ≤ T ≤ block_size.
    Built by hand in the chapter on scaling. Source: Chowdhery et al. 2022, appendix B.
    """
    T = config.block_size if T is None else T
    if not 1 <= T <= config.block_size:
        raise ValueError(f"T must be 1 to block_size={config.block_size}: got {T}.")
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    pairs = T * (T + 1) // 2 if causal else T * T
    forward = B * (L * (24 * C**2 * T + 4 * C * pairs) + 2 * C * V * T)
    return Flops(forward, 2 * forward)


def six_n(n_params: int, n_tokens: float = 1) -> float:
    """The usual approximation of training compute, C ≈ 6·N·D, in FLOPs.

    Two for each parameter and token forward, four backward. It leaves out q kᵀ and weights · v;
    with Kaplan's N = params(config).matrices also the head.
    Source: Kaplan et al. 2020, 2.1.
    """
    return 6 * n_params * n_tokens


def mfu(config: GPTConfig, tokens_per_second: float, peak_flops: float) -> float:
    """Model FLOPs utilisation: the share of the hardware's peak that training makes use of.

    peak_flops: FLOPs a second at the precision in use, from the data sheet (without sparsity).
    Counts the whole square of attention, and no work done twice.
    Built by hand in the chapter on speed. Source: Chowdhery et al. 2022, appendix B.
    """
    return flops(config).step / config.block_size * tokens_per_second / peak_flops


class PowerLaw(NamedTuple):
    """y = a · x^b; law(x) gives y. a and b come with their intervals: law.b.value, law.b.low."""

    a: Interval
    b: Interval

    def __call__(self, x):
        return self.a.value * np.asarray(x, dtype=float) ** self.b.value


def power_law(x: Sequence[float], y: Sequence[float], level: float = 0.95) -> PowerLaw:
    """Fit y = a · x^b by least squares on ln y = ln a + b · ln x.

    The intervals are Student's, exact where the errors of ln y are independent and normal.
    Raises ValueError for fewer than three points, or one that is not above 0.
    Built by hand in the chapter on scaling.
    """
    x, y = _points(x, y, least=3)
    line = scipy.stats.linregress(np.log(x), np.log(y))
    ends = scipy.stats.t.ppf((1 + level) / 2, len(x) - 2) * np.array([0, -1, 1])
    a = np.exp(line.intercept + ends * line.intercept_stderr)
    return PowerLaw(Interval(*a.tolist()), Interval(*(line.slope + ends * line.stderr).tolist()))


class FloorLaw(NamedTuple):
    """y = E + a · x^−b, which falls towards E; law(x) gives y. Each with its interval."""

    E: Interval
    a: Interval
    b: Interval

    def __call__(self, x):
        return self.E.value + self.a.value * np.asarray(x, dtype=float) ** -self.b.value


def floor_law(
    x: Sequence[float], y: Sequence[float], level: float = 0.95, resamples: int = 200, seed: int = 0
) -> FloorLaw:
    """Fit y = E + a · x^−b, E ≥ 0 unknown, by the Huber loss of the errors of ln y.

    Past HUBER an error counts by its size, no longer by its square, so that one run gone wrong
    cannot pull the law to itself. Intervals by bootstrap: the errors, made larger by
    √(n / (n − 3)) as three fitted numbers have shrunk them, are drawn with replacement and put on
    the law, it is fitted again, and the percentiles of all fits are taken.
    Raises ValueError for fewer than five points, or one that is not above 0.
    Built by hand in the chapter on scaling. Source: Hoffmann et al. 2022, 3.3, for the loss;
    Efron and Tibshirani 1993, chapter 9, for the bootstrap.
    """
    x, y = _points(x, y, least=5)
    middle = np.log(x).mean()  # without it ln a and b would be all but one direction
    log_x, log_y, n = np.log(x) - middle, np.log(y), len(x)
    half = np.log(y.min() / 2)  # of E, and of a · x^−b in the middle: any start leads there
    best = _fit_floor(log_x, log_y, (half, half, 0.3))
    fitted = _log_floor(best, log_x)
    errors = (log_y - fitted) * (n / (n - 3)) ** 0.5
    rng = np.random.default_rng(seed)
    again = [_fit_floor(log_x, fitted + rng.choice(errors, n), best) for _ in range(resamples)]

    thetas = np.array([best, *again])
    thetas[:, 1] += thetas[:, 2] * middle
    thetas[:, :2] = np.exp(thetas[:, :2])  # E, a, b
    low, high = np.quantile(thetas[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return FloorLaw(*(Interval(*ends) for ends in np.stack([thetas[0], low, high], 1).tolist()))


class IsoFlop(NamedTuple):
    """The best size for each budget, and the law through them: n_best ≈ law(budgets)."""

    budgets: np.ndarray  # FLOPs, rising
    n_best: np.ndarray  # parameters, at the parabola's lowest point
    losses: np.ndarray  # there
    law: PowerLaw


def isoflop(
    budgets: Sequence[float],
    n_params: Sequence[float],
    losses: Sequence[float],
    level: float = 0.95,
) -> IsoFlop:
    """Of runs of several sizes at each of several budgets: how the best size grows with compute.

    The three rows have an entry for each run; runs of one budget give the same number there.
    For each budget a parabola is fitted to the loss over ln N; its lowest point is the best size;
    a power law goes through those.
    Raises ValueError for fewer than three budgets, three sizes in one, or a lowest point that
    is not between the sizes tried.
    Built by hand in the chapter on scaling. Source: Hoffmann et al. 2022, 3.2.
    """
    budgets, n_params, losses = (
        np.asarray(row, dtype=float) for row in (budgets, n_params, losses)
    )
    best = []
    for budget in np.unique(budgets):
        log_n = np.log(n_params[budgets == budget])
        if len(np.unique(log_n)) < 3:
            raise ValueError(f"a parabola needs three sizes: budget {budget:.3g} has {len(log_n)}.")
        middle = log_n.mean()
        c2, c1, c0 = np.polyfit(log_n - middle, losses[budgets == budget], 2)
        if c2 <= 0 or not log_n.min() <= (at := middle - c1 / (2 * c2)) <= log_n.max():
            raise ValueError(
                f"the lowest loss must lie between the sizes tried: at budget {budget:.3g} it does "
                f"not lie between {np.exp(log_n.min()):.3g} and {np.exp(log_n.max()):.3g}. Try "
                "sizes further out."
            )
        best.append((budget, np.exp(at), c0 - c1**2 / (4 * c2)))
    found, n_best, lowest = np.array(best).T
    return IsoFlop(found, n_best, lowest, power_law(found, n_best, level))


def _points(x: Sequence[float], y: Sequence[float], least: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.ndim != 1 or x.shape != y.shape or len(x) < least or not (x > 0).all() & (y > 0).all():
        raise ValueError(
            f"a fit needs {least} points or more, x and y above 0: got x {x.shape}, y {y.shape}, "
            f"least {x.min(initial=np.inf):.3g} and {y.min(initial=np.inf):.3g}."
        )
    return x, y


def _log_floor(theta: np.ndarray, log_x: np.ndarray) -> np.ndarray:
    """ln (E + a · x^−b) for theta = ln E, ln a, b."""
    return np.logaddexp(theta[0], theta[1] - theta[2] * log_x)


def _fit_floor(log_x: np.ndarray, log_y: np.ndarray, start) -> np.ndarray:
    def huber(theta):
        """The loss, in units of HUBER, and its gradient."""
        fitted = _log_floor(theta, log_x)
        errors = fitted - log_y
        share = np.exp(theta[1] - theta[2] * log_x - fitted)  # of a · x^−b in y
        slopes = np.stack([1 - share, share, -share * log_x])  # (3, n)
        loss = scipy.special.huber(HUBER, errors).sum() / HUBER
        return loss, slopes @ errors.clip(-HUBER, HUBER) / HUBER

    return scipy.optimize.minimize(huber, start, jac=True, method="BFGS").x
