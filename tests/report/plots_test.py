"""Figures hold what they were given, without a display."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from spex_jax.ablate import features
from spex_jax.indices import interactions as interactions_lib
from spex_jax.report import forces, plots


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
  heat = figure.axes[2].images[0]
  expected = np.zeros((8, 8))
  expected[:2, :2] = 1.0  # Player 0: r0c0.
  expected[2:4, 2:4] = -2.0  # Player 5: r1c1.
  np.testing.assert_array_equal(heat.get_array(), expected)
  assert heat.get_clim() == (-2.0, 2.0)  # White is 0.
  # One frame per player of any larger set, and the sets in the legend.
  frames = [patch.get_xy() for patch in figure.axes[1].patches]
  corners = {(0, 0), (1, 1), (0, 1), (1, 2), (3, 3), (0, 2), (0, 3)}
  expected = {(2 * col - 0.5, 2 * row - 0.5) for row, col in corners}
  assert len(frames) == len(expected) and {*frames} == expected
  legend = figure.axes[1].get_legend()
  labels = [text.get_text() for text in legend.get_texts()]
  assert labels[0] == "+0.75  r0c0, r1c1"
  assert labels[1] == "-0.5  r0c1, r1c2, r3c3"
  # Signs are dashes, too.
  assert [line.get_linestyle() for line in legend.get_lines()][:2] == [
    "-",
    "--",
  ]
  figure.canvas.draw()
  # As large as one another, and as far apart.
  left, middle, right = (axes.get_position() for axes in figure.axes[:3])
  assert left.width == pytest.approx(right.width)
  assert middle.x0 - left.x1 == pytest.approx(right.x0 - middle.x1, abs=1e-3)


def test_ticks_are_the_numbers_in_the_names_of_patches():
  players = features.patches((1, 6, 8), 2)
  sets = [((players.names.index("r2c3"),), 1.0)]
  found = _found(12, names=players.names, sets=sets)
  figure = plots.image(np.zeros((6, 8)), players.owner[0], found)
  for axes in figure.axes[:2]:
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
  lines = figure.axes[1].lines
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
    assert len(figure.axes) == 3  # Two panels and a bar: none is empty.
    figure.canvas.draw()


@pytest.mark.slow
def test_pixels_that_nobody_owns_stay_white():
  players = features.Players(("a",), np.array([[0, 1]]))
  found = _found(1, sets=[((0,), 3.0)])
  figure = plots.image(np.zeros((1, 2)), players.owner, found)
  heat = figure.axes[1].images[0].get_array()
  np.testing.assert_array_equal(heat, [[3.0, 0.0]])


def test_colours_over_a_photograph_are_those_of_the_bar():
  owner = np.arange(2).repeat(32).reshape(8, 8)
  found = _found(2, sets=[((0,), 3.0)])
  photograph = np.random.default_rng(0).random((8, 8, 3))
  axes = plots.image(photograph, owner, found).axes[1]
  (heat,) = axes.images
  assert heat.get_alpha() is None  # Nothing is mixed in.
  np.testing.assert_array_equal(heat.get_array(), np.where(owner, 0.0, 3.0))
  assert axes.collections  # Lines of the photograph.


def test_bars_are_the_strongest_sets_in_order():
  figure = plots.bars(_found(), top=3)
  axes = figure.axes[0]
  assert [bar.get_width() for bar in axes.patches] == [-2.0, 1.0, 0.75]
  labels = [label.get_text() for label in axes.get_yticklabels()]
  assert labels == ["5", "0", "0 &\n5"]
  assert axes.get_xlabel() == "FBII (logit)"
  assert not axes.containers[1:]  # No errors are known.
  exact = dataclasses.replace(_found(), std=np.full(5, 0.5))
  (errors,) = [c for c in plots.bars(exact, top=3).axes[0].containers
               if type(c).__name__ == "ErrorbarContainer"]  # fmt: skip
  first = errors.lines[2][0].get_segments()[0]
  np.testing.assert_allclose(first[:, 0], [-2 - 0.98, -2 + 0.98])


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


def test_a_waterfall_ends_at_the_sum_of_all():
  axes = forces.waterfall(_found(), top=2).axes[0]
  starts = [bar.get_x() for bar in axes.patches]
  widths = [bar.get_width() for bar in axes.patches]
  assert widths == [-2.0, 1.0, 0.5] and starts == [0.0, -2.0, -1.0]
  labels = [label.get_text() for label in axes.get_yticklabels()]
  assert labels == ["none: +0", "5", "0", "3 other sets", "all together: -0.5"]


def test_a_force_meets_at_the_value():
  axes = forces.force(_found()).axes[0]
  total = sum(value for _, value in _found())
  up = [bar for bar in axes.patches if bar.get_x() < total - 1e-9]
  down = [bar for bar in axes.patches if bar.get_x() >= total - 1e-9]
  assert sum(bar.get_width() for bar in up) == pytest.approx(2.0)
  assert sum(bar.get_width() for bar in down) == pytest.approx(2.5)
  ends = [bar.get_x() + bar.get_width() for bar in up]
  assert max(ends) == pytest.approx(total)


def test_an_upset_has_a_row_of_every_member():
  found = _found(sets=[((1, 6, 15), -0.5), ((2, 3), 0.25)])
  above, dots = forces.upset(found).axes
  assert [bar.get_height() for bar in above.patches] == [-0.5, 0.25]
  assert [t.get_text() for t in dots.get_yticklabels()] == [
    "1", "2", "3", "6", "15",
  ]  # fmt: skip
  assert len(dots.lines[1].get_xdata()) == 3


def test_pairs_are_a_matrix():
  axes = forces.pairs(_found(), top=3).axes[0]
  # Players 0, 3 (or 2) and 5 have the largest sums.
  values = np.asarray(axes.images[0].get_array())
  np.testing.assert_array_equal(values, values.T)
  assert values[0, 0] == 1.0 and values[2, 2] == -2.0 and values[0, 2] == 0.75
  assert axes.get_title() == "(3 of 16 players)"


@pytest.mark.parametrize("kind", ["pdf", "svg"])
def test_fonts_are_within_files(kind, tmp_path):
  path = tmp_path / f"a.{kind}"
  plots.save(plots.bars(_found(), title="b"), path)
  text = path.read_bytes()
  assert (b"<text" not in text) if kind == "svg" else (b"/Type3" not in text)


@pytest.mark.parametrize(
  "draw",
  [plots.bars, plots.network, forces.waterfall, forces.force, forces.upset,
   forces.pairs],
)  # fmt: skip
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
