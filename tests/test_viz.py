import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from gpt2lib import viz


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def texts(ax):
    return [t.get_text() for t in ax.texts]


def labels(ticks):
    return [t.get_text() for t in ticks]


WEIGHTS = np.array([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0]])


def test_the_rows_of_an_attention_map_look_and_its_columns_are_looked_at():
    ax = viz.attention_map(WEIGHTS, ["a", "b"], ["x", "y", "z"])
    assert labels(ax.get_yticklabels()) == ["a", "b"]
    assert labels(ax.get_xticklabels()) == ["x", "y", "z"]
    assert "query" in ax.get_ylabel() and "key" in ax.get_xlabel()
    mesh = ax.collections[0]
    assert np.array_equal(np.asarray(mesh.get_array()).reshape(2, 3), WEIGHTS)


def test_the_first_row_of_an_attention_map_is_at_the_top():
    bottom, top = viz.attention_map(WEIGHTS, ["a", "b"], ["x", "y", "z"]).get_ylim()
    assert (bottom, top) == (2, 0)


def test_a_small_attention_map_tells_its_numbers_and_a_large_one_does_not():
    assert texts(viz.attention_map(WEIGHTS, ["a", "b"], ["x", "y", "z"])) == ["1.00", ".25", ".75"]
    assert not texts(viz.attention_map(np.eye(20), ["w"] * 20))


def test_a_weight_of_nothing_leaves_no_ink():
    assert viz.WEIGHTS(0.0)[3] == 0.0
    assert viz.WEIGHTS(1.0)[3] == 1.0


def test_an_attention_map_of_the_wrong_shape_is_refused_with_the_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3\), 2 row words, 2 column words"):
        viz.attention_map(WEIGHTS, ["a", "b"])


def test_a_loss_curve_names_its_floor_and_its_baselines_with_their_values():
    ax = viz.loss_curve(
        [1, 2, 3], [4.0, 2.0, 1.0], floor=0.5, baselines={"bigram": 1.66, "unigram": 4.26}
    )
    assert texts(ax) == ["loss 1.00", "bigram 1.66", "unigram 4.26", "floor 0.50"]
    bottom, top = ax.get_ylim()
    assert bottom < 0.5 and top > 4.26
    assert ax.get_xlabel() == "step" and "nats" in ax.get_ylabel()


def test_two_curves_on_one_ax_differ_in_colour():
    ax = viz.loss_curve([1, 2], [2.0, 1.0], label="training")
    viz.loss_curve([1, 2], [2.5, 1.5], ax=ax, label="validation")
    assert texts(ax) == ["training 1.00", "validation 1.50"]
    assert ax.lines[0].get_color() != ax.lines[1].get_color()


def test_names_of_lines_that_end_close_together_do_not_overlap():
    ax = viz.loss_curve([1, 2], [5.0, 0.53], floor=0.52, baselines={"a": 0.54, "b": 0.56})
    ax.figure.draw_without_rendering()
    boxes = sorted((t.get_window_extent() for t in ax.texts), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 2 for low, high in itertools.pairwise(boxes))


def test_a_loss_curve_needs_one_loss_a_step():
    with pytest.raises(ValueError, match="one loss a step"):
        viz.loss_curve([1, 2, 3], [1.0, 2.0])
    with pytest.raises(ValueError, match="one loss a step"):
        viz.loss_curve([], [])


def test_surprisal_draws_a_bar_a_piece_as_tall_as_the_surprise():
    ax = viz.surprisal(["Once", " there", " was\n"], [0.5, 2.0, 0.1])
    assert texts(ax) == ["Once", "there", "was↵"]
    assert [bar.get_height() for bar in ax.patches] == [0.5, 2.0, 0.1]


def test_surprisal_breaks_its_lines_like_a_paragraph():
    ax = viz.surprisal(["word"] * 20, np.ones(20), line=30)
    heights = [t.get_position()[1] for t in ax.texts]
    assert len(set(heights)) == 4  # six words of 4 letters and a space in 30 letters
    assert heights == sorted(heights, reverse=True)
    assert all(t.get_position()[0] <= 31 for t in ax.texts)


def test_the_oracle_stands_beside_the_model_and_both_are_named():
    ax = viz.surprisal(["a", "b"], [1.0, 2.0], oracle=[0.5, 1.5])
    assert {"model", "oracle"} <= set(texts(ax))
    bars = [(bar.get_x(), bar.get_height(), bar.get_facecolor()) for bar in ax.patches]
    assert [height for _, height, _ in bars] == [1.0, 2.0, 0.5, 1.5]
    assert bars[0][0] < bars[2][0] and bars[0][2] != bars[2][2]


def test_surprisal_of_unequal_lengths_is_refused():
    with pytest.raises(ValueError, match="3 pieces"):
        viz.surprisal(["a", "b", "c"], [1.0, 2.0])
    with pytest.raises(ValueError, match="one number of nats a piece"):
        viz.surprisal([], [])


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: viz.attention_map(WEIGHTS, ["a", "b"], ["x", "y", "z"], ax=ax),
        lambda ax: viz.loss_curve([1, 2], [2.0, 1.0], ax=ax, floor=0.5),
        lambda ax: viz.surprisal(["a"], [1.0], ax=ax),
    ],
)
def test_each_picture_draws_on_the_given_ax_on_transparent_ground(draw):
    figure, ax = plt.subplots()
    assert draw(ax) is ax
    assert figure.patch.get_alpha() == 0 and ax.patch.get_alpha() == 0
    figure.canvas.draw()
