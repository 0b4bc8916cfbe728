"""Figures and tables of training examples."""

import numpy as np
import pytest

from spex_jax.report import example_plots, plots
from spex_jax.report import tables as report_tables

_NAMES = ("cat $1", "dog", "eel")


def _point(std=0.5):
  return example_plots.Point(
    "point 0",
    helpful=[example_plots.Shown((0,), 2.0, std)],
    harmful=[example_plots.Shown((1,), -1.0, std)],
    synergy=[example_plots.Shown((0, 2), 0.25)],
    redundancy=[],
  )


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
def test_images_stand_where_the_heads_say(shape, tmp_path):
  train = np.random.default_rng(0).random((3, *shape))
  figure = example_plots.images(
    [_point(), _point()],
    [train[0], train[1]],
    train,
    _NAMES,
    units="logit",
    top=2,
  )
  axes = np.array(figure.axes).reshape(2, 9)
  filled = [[bool(ax.images) for ax in row] for row in axes]
  # Point; one of two helpful; one of two harmful; a pair; no redundancy.
  assert (
    filled == [[True, True, False, True, False, True, True, False, False]] * 2
  )
  np.testing.assert_allclose(axes[0, 1].images[0].get_array(), train[0])
  np.testing.assert_allclose(axes[1, 3].images[0].get_array(), train[1])
  np.testing.assert_allclose(axes[0, 6].images[0].get_array(), train[2])
  assert axes[0, 1].get_title() == "cat \\$1\n+2 ± 0.98"
  assert axes[0, 5].get_title().endswith("+0.25")
  plots.save(figure, tmp_path / "figure.png")
  assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_bars_hold_every_value_with_its_sign():
  figure = example_plots.bars([_point(), _point(None)], _NAMES, units="nat")
  assert len(figure.axes) == 2
  for axes in figure.axes:
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [2.0, -1.0, 0.25]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["cat \\$1", "dog", "cat \\$1 &\neel"]


def test_a_table_has_intervals_where_they_are_known(capsys):
  show = report_tables.printer()
  show(example_plots.table(_point(), _NAMES, "logit"))
  known = capsys.readouterr().out
  assert "[+1.02, +2.98]" in known and "cat $1 & eel" in known
  show(example_plots.table(_point(None), _NAMES, "logit"))
  unknown = capsys.readouterr().out
  assert "95 %" not in unknown and "harmful" in unknown
