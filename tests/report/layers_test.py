"""The figure of components by layer."""

import numpy as np
import pytest

from spex_jax.indices import interactions
from spex_jax.report import layers, plots

_NAMES = ("a 0", "a 1", "b 0", "c 0", "c $1")


def _found(values):
  players, numbers = zip(*values.items()) if values else ((), ())
  width = max(map(len, players), default=1)
  rows = np.full((len(players), width), 5)
  for row, members in enumerate(players):
    rows[row, : len(members)] = members
  return interactions.Interactions(
    5, rows, np.array(numbers, float), "FBII", 2, names=_NAMES, units="nat"
  )


def test_cells_stand_where_their_layer_is(tmp_path):
  found = _found({(0,): 1.0, (3,): -2.0, (4,): 0.5, (0, 1): 3.0, (1, 4): -1.0})
  figure = layers.grid(found, ["a", "a", "b", "c", "c"], title="cost in $")
  axes = figure.axes[0]
  heat = np.ma.filled(axes.images[0].get_array(), np.nan)
  expected = [[1.0, 0.0], [0.0, np.nan], [-2.0, 0.5]]
  np.testing.assert_array_equal(heat, expected)
  assert [label.get_text() for label in axes.get_yticklabels()] == list("abc")
  texts = [text.get_text() for text in figure.legends[0].get_texts()]
  assert texts == ["+3  a 0, a 1", r"-1  a 1, c \$1"]
  assert len(axes.patches) == 2
  plots.save(figure, tmp_path / "grid.png")
  assert (tmp_path / "grid.png").stat().st_size > 1000


def test_no_two_sets_look_alike():
  pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
  found = _found({pair: 10.0 - k for k, pair in enumerate(pairs)})
  figure = layers.grid(found, list("aabcc"), top=8)
  looks = {
    (line.get_color(), line.get_linestyle())
    for line in figure.legends[0].get_lines()
  }
  assert len(looks) == 8 > len(plots.LINKS)


def test_no_values_and_bad_layers():
  figure = layers.grid(_found({}), list("aabcc"))
  assert not figure.legends
  with pytest.raises(ValueError, match="Need 5 layers; got 2"):
    layers.grid(_found({}), ["a", "b"])
