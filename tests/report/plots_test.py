"""Figures hold what they were given, without a display."""

import subprocess
import sys

import numpy as np
import pytest

from spex_jax.ablate import features
from spex_jax.indices import interactions as interactions_lib
from spex_jax.report import plots


def _found(n=16, names=None, sets=None, units="logit"):
  sets = sets or [
    ((0,), 1.0),
    ((5,), -2.0),
    ((0, 5), 0.75),
    ((1, 6, 15), -0.5),
    ((2, 3), 0.25),
  ]
  return interactions_lib.Interactions.from_sets(
    n, sets, index="FBII", order=3, names=names, units=units
  )


def test_image_shows_first_order_values_at_their_patches():
  players = features.patches((1, 8, 8), 2)
  figure = plots.image(
    np.random.default_rng(0).random((8, 8)),
    players.owner[0],
    _found(names=players.names),
    title="a $5 note",
  )
  heat = figure.axes[1].images[0]
  expected = np.zeros((8, 8))
  expected[:2, :2] = 1.0  # Player 0: r0c0.
  expected[2:4, 2:4] = -2.0  # Player 5: r1c1.
  np.testing.assert_array_equal(heat.get_array(), expected)
  assert heat.get_clim() == (-2.0, 2.0)  # White is 0.
  # One frame per player of any larger set, and the sets in the legend.
  frames = [patch.get_xy() for patch in figure.axes[2].patches]
  corners = {(0, 0), (1, 1), (0, 1), (1, 2), (3, 3), (0, 2), (0, 3)}
  expected = {(2 * col - 0.5, 2 * row - 0.5) for row, col in corners}
  assert len(frames) == len(expected) and {*frames} == expected
  legend = figure.axes[2].get_legend()
  labels = [text.get_text() for text in legend.get_texts()]
  assert labels[0] == "+0.75  r0c0, r1c1"
  assert labels[1] == "-0.5  r0c1, r1c2, r3c3"
  figure.canvas.draw()


def test_ticks_are_the_numbers_in_the_names_of_patches():
  players = features.patches((1, 6, 8), 2)
  sets = [((players.names.index("r2c3"),), 1.0)]
  found = _found(12, names=players.names, sets=sets)
  figure = plots.image(np.zeros((6, 8)), players.owner[0], found)
  for axes in figure.axes[:3]:
    assert axes.get_xticks().tolist() == [0.5, 2.5, 4.5, 6.5]
    assert axes.get_yticks().tolist() == [0.5, 2.5, 4.5]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["0", "1", "2", "3"]
  # Row 2, column 3.
  assert figure.axes[1].images[0].get_array()[5, 7] == 1.0


def test_marks_of_one_player_in_several_sets_are_apart():
  players = features.patches((1, 2, 2), 1)
  sets = [((0, 1), 3.0), ((0, 2), 2.0), ((0, 3), 1.0)]
  figure = plots.image(
    np.zeros((2, 2)), players.owner[0], _found(4, players.names, sets)
  )
  lines = figure.axes[2].lines
  marks = [line.get_xydata()[0] for line in lines if line.get_marker() == "o"]
  assert len(marks) == 3
  assert len({tuple(np.round(mark, 6)) for mark in marks}) == 3
  assert np.abs(marks).max() < 0.5  # All in player 0's own pixel.


def test_shapes_that_are_no_grid_have_no_ticks():
  owner = np.array([[0, 0], [1, 0]])
  found = _found(2, sets=[((0,), 1.0)])
  figure = plots.image(np.zeros((2, 2)), owner, found)
  assert len(figure.axes[0].get_xticks()) == 0


def test_image_without_larger_sets_or_any():
  owner = np.zeros((3, 3), int)
  for sets in ([((0,), 1.0)], [((0,), 0.0)]):
    figure = plots.image(np.zeros((3, 3)), owner, _found(1, sets=sets))
    assert figure.axes[2].get_legend() is None
    figure.canvas.draw()


@pytest.mark.slow
def test_pixels_that_nobody_owns_stay_white():
  players = features.Players(("a",), np.array([[0, 1]]))
  found = _found(1, sets=[((0,), 3.0)])
  figure = plots.image(np.zeros((1, 2)), players.owner, found)
  heat = figure.axes[1].images[0].get_array()
  np.testing.assert_array_equal(heat, [[3.0, 0.0]])


def test_a_heatmap_lies_over_a_photograph():
  players = features.Players(("a",), np.array([[0, 1]]))
  found = _found(1, sets=[((0,), 3.0)])
  photograph = np.linspace(0, 1, 6).reshape(1, 2, 3)
  below, heat = plots.image(photograph, players.owner, found).axes[1].images
  np.testing.assert_allclose(below.get_array(), photograph.mean(axis=2))
  np.testing.assert_array_equal(heat.get_array(), [[3.0, 0.0]])
  assert 0 < heat.get_alpha() < 1


def test_bars_are_the_strongest_sets_in_order():
  figure = plots.bars(_found(), top=3)
  axes = figure.axes[0]
  assert [bar.get_width() for bar in axes.patches] == [-2.0, 1.0, 0.75]
  labels = [label.get_text() for label in axes.get_yticklabels()]
  assert labels == ["5", "0", "0 &\n5"]
  assert axes.get_xlabel() == "FBII (logit)"


def test_network_links_pairs_and_tints_larger_sets():
  figure = plots.network(_found())
  axes = figure.axes[0]
  assert len(axes.lines) == 2  # Pairs {0, 5} and {2, 3}.
  assert len(axes.patches) == 1  # The triple.
  assert {text.get_text() for text in axes.texts} == {
    "0",
    "1",
    "2",
    "3",
    "5",
    "6",
    "15",
  }
  assert axes.get_title() == "FBII (logit)"
  legend = [text.get_text() for text in axes.get_legend().get_texts()]
  assert legend == ["positive", "negative"]
  titled = plots.network(_found(), title="a $5 note").axes[0].get_title()
  assert titled == "a \\$5 note\nFBII (logit)"
  figure.canvas.draw()


@pytest.mark.parametrize("draw", [plots.bars, plots.network])
def test_empty_and_hostile_labels_draw(draw, tmp_path):
  empty = interactions_lib.Interactions(
    n=2, players=np.zeros((0, 0)), values=np.zeros(0), index="FBII", order=1
  )
  plots.save(draw(empty), tmp_path / "empty.png")
  names = ("$\\frac{", "<b>&\n\x1b[31m", "x^2_$")
  sets = [((0, 1), 1.0), ((2,), -1.0)]
  plots.save(
    draw(_found(3, names, sets, units="$"), title="$x"), tmp_path / "odd.png"
  )
  for path in tmp_path.iterdir():
    assert path.read_bytes().startswith(b"\x89PNG")
  assert len(list(tmp_path.iterdir())) == 2  # No temporary left.


def test_a_failed_save_keeps_the_old_file(tmp_path):
  path = tmp_path / "figure.png"
  path.write_text("old")

  class Broken:
    def savefig(self, where, **kwargs):
      where.write_text("half")
      raise OSError("no room")

  with pytest.raises(OSError, match="no room"):
    plots.save(Broken(), path)
  assert path.read_text() == "old"
  assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.slow
def test_importing_draws_in_no_matplotlib():
  code = (
    "import sys; from spex_jax.report import plots, progress, tables;"
    "assert 'matplotlib' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
