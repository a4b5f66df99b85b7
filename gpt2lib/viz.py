"""The book's recurring pictures: an attention map, a loss curve, the surprisal along a text.

Each takes plain arrays, draws on ax (or on a new figure of the text's width) and returns the
ax, so that the caller can go on drawing. Ink is dark and the ground transparent: the pages
of the book invert figures in dark mode. Colours tell apart for colour-blind readers too.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

INK = "#1f2933"
FAINT = "#68737f"
BLUE, ORANGE, GREEN, PURPLE = COLOURS = "#0072b2", "#d55e00", "#00573f", "#a3478a"
# Source: Okabe and Ito 2008, green and purple darkened to be read as text on white.
WEIGHTS = LinearSegmentedColormap.from_list("weights", ["#0072b200", "#0072b2", "#00324f"])
WIDTH = 5.6  # inches: within the text on a screen, and still legible shrunk to a phone


def attention_map(weights, rows, columns=None, ax: Axes | None = None) -> Axes:
    """Draw attention weights: one row a query, one column a key; ink where the weight is.

    weights: (T, S), each row summing to 1. rows: the T words that look; columns: the S words
    looked at, the same as rows if not given. Up to 12 columns the numbers stand in the cells.
    Raises ValueError if there is not one word a row and a column.
    """
    weights = np.asarray(weights)
    columns = rows if columns is None else columns
    if weights.shape != (len(rows), len(columns)):
        raise ValueError(
            "an attention map has one word a row and one a column: got weights "
            f"{weights.shape}, {len(rows)} row words, {len(columns)} column words."
        )
    T, S = weights.shape
    ax = _ax(ax, WIDTH, min(WIDTH, 0.7 + (WIDTH - 1) * T / S * 0.62))
    # As vectors the cells stay sharp at any zoom; thousands of them would make a heavy page.
    ax.pcolormesh(weights, cmap=WEIGHTS, vmin=0, vmax=1, rasterized=weights.size > 4096)
    if S <= 12:
        for i, j in np.ndindex(T, S):
            if weights[i, j] >= 0.005:
                colour = "white" if weights[i, j] > 0.4 else INK
                text = f"{weights[i, j]:.2f}".lstrip("0")
                ax.text(j + 0.5, i + 0.5, text, color=colour, ha="center", va="center")
        ax.hlines(range(1, T), 0, S, color=FAINT, lw=0.3)
        ax.vlines(range(1, S), 0, T, color=FAINT, lw=0.3)
    ax.set_yticks(np.arange(T) + 0.5, rows)
    upright = max(map(len, map(str, columns))) * S > 60
    ax.set_xticks(np.arange(S) + 0.5, columns, rotation=90 if upright else 0)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.xaxis.labelpad = 8
    ax.tick_params(length=0, colors=INK)
    ax.spines[:].set_visible(False)
    ax.set(xlim=(0, S), ylim=(T, 0), xlabel="is looked at (key)", ylabel="looks (query)")
    return ax


def loss_curve(
    steps, losses, ax: Axes | None = None, floor=None, baselines=None, label="loss"
) -> Axes:
    """Draw a loss over the steps of training; call again on the same ax for a second curve.

    steps, losses: (N,), in updates and in nats a token. floor: the entropy of the language,
    which no model can pass; the ground under it is shaded. baselines: {name: nats a token}.
    Each line carries its name and its last value. Raises ValueError on unequal lengths.
    """
    steps, losses = np.asarray(steps), np.asarray(losses)
    if steps.shape != losses.shape or steps.ndim != 1 or not len(steps):
        raise ValueError(f"one loss a step: got steps {steps.shape}, losses {losses.shape}.")
    ax = _ax(ax, WIDTH, 3.6)
    colour = COLOURS[sum(line.get_gid() == "curve" for line in ax.lines) % len(COLOURS)]
    ax.plot(steps, losses, color=colour, lw=1.8, gid="curve")
    _name(ax, losses[-1], f"{label} {losses[-1]:.2f}", colour)
    for name, nats in (baselines or {}).items():
        ax.axhline(nats, color=FAINT, lw=1, ls="--")
        _name(ax, nats, f"{name} {nats:.2f}", FAINT)
    if floor is not None:
        ax.axhline(floor, color=INK, lw=1.2)
        ax.axhspan(floor - 100, floor, color=INK, alpha=0.08, lw=0)
        _name(ax, floor, f"floor {floor:.2f}", INK)
        top = max([*losses, *(baselines or {}).values()])
        ax.set_ylim(floor - 0.08 * (top - floor), top + 0.05 * (top - floor))
    ax.set(xlabel="step", ylabel="loss, nats a token", xlim=(0, None))
    _spread(ax)
    return ax


def surprisal(pieces, nats, ax: Axes | None = None, oracle=None, line=56) -> Axes:
    """Draw how surprised a model is by each piece of a text, as bars above the running text.

    pieces: N words or tokens. nats: (N,), −log p of each piece given all before it.
    oracle: (N,), the same from a predictor to compare with, drawn beside in orange.
    A line of text breaks after about `line` characters. Raises ValueError on unequal lengths.
    """
    pieces = [str(piece).replace("\n", "↵").strip() or "␣" for piece in pieces]
    series = [np.asarray(s, dtype=float) for s in (nats, oracle) if s is not None]
    if not pieces or any(s.shape != (len(pieces),) for s in series):
        shapes = ", ".join(str(s.shape) for s in series)
        raise ValueError(f"one number of nats a piece: got {len(pieces)} pieces, nats {shapes}.")
    x, row = _flow([max(len(piece), 2) + 1 for piece in pieces], line)
    tallest = max(1.0, max(s.max() for s in series))
    ground = -1.6 * tallest * row  # each line of text stands on its own ground
    ax = _ax(ax, WIDTH, 0.5 + 0.85 * (row[-1] + 1))
    for i, s in enumerate(series):
        shift = 0 if len(series) == 1 else 0.75 * (2 * i - 1)
        ax.bar(x + shift, s, width=1.4, bottom=ground, color=COLOURS[i])
    for piece, at, y in zip(pieces, x, ground, strict=True):
        ax.text(at, y - 0.07 * tallest, piece, color=INK, ha="center", va="top")
    tick = float(f"{tallest / 1.2:.0g}")
    levels = np.unique(ground)
    ax.hlines(levels, 0, line + 2, color=FAINT, lw=0.6)
    ax.set_yticks([*levels, *(levels + tick)], ["0"] * len(levels) + [f"{tick:g}"] * len(levels))
    ax.set(xlim=(0, line + 2), ylim=(levels[0] - 0.6 * tallest, 1.1 * tallest), xticks=[])
    ax.set_ylabel("surprisal, nats")
    ax.spines[:].set_visible(False)
    if oracle is not None:
        ax.text(0.99, 1.0, "oracle", color=ORANGE, transform=ax.transAxes, ha="right")
        ax.text(0.87, 1.0, "model", color=BLUE, transform=ax.transAxes, ha="right")
    return ax


def _ax(ax: Axes | None, width: float, height: float) -> Axes:
    """The given ax, or that of a new figure of so many inches; on a transparent ground."""
    if ax is None:
        ax = plt.figure(figsize=(width, height), layout="constrained").subplots()
    ax.figure.patch.set_alpha(0)
    ax.patch.set_alpha(0)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _name(ax: Axes, y: float, name: str, colour: str) -> None:
    """Write a line's name to the right of the plot, at the line's height."""
    at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    ax.annotate(name, (1, y), (6, 0), color=colour, va="center", gid="name", **at)


def _spread(ax: Axes, apart: float = 12) -> None:
    """Move the names at the right of the plot up until each is `apart` points over the next."""
    names = sorted((t for t in ax.texts if t.get_gid() == "name"), key=lambda t: t.xy[1])
    points = 72 / ax.figure.dpi
    last = -np.inf
    for t in names:
        at = points * ax.transData.transform((0, t.xy[1]))[1]
        last = max(at, last + apart)
        t.set_position((6, last - at))


def _flow(widths: list[int], line: int) -> tuple[np.ndarray, np.ndarray]:
    """Set words of these widths like a paragraph: the middle of each, and which line it is on."""
    x, row, left, at = [], [], 0.0, 0
    for width in widths:
        if left and left + width > line:
            left, at = 0.0, at + 1
        x.append(1 + left + width / 2)
        row.append(at)
        left += width
    return np.array(x), np.array(row)
