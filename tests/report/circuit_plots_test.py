"""Figures of circuits: what they show is what they are given."""

import numpy as np
import pytest

from spex_jax.report import circuit_plots, plots


def test_faithfulness_by_size(tmp_path):
  sizes, curve = np.array([1, 10, 100]), np.array([0.1, 0.8, 1.0])
  random = np.array([[0.0, 0.1, 1.0], [-0.1, 0.0, 1.0]])
  figure = circuit_plots.curves(
    sizes, curve, random=random, connected=[1, 7, 100], chosen=(20, 0.9),
    title="a $b_",
  )  # fmt: skip
  (axes,) = figure.axes
  drawn = [line.get_xydata() for line in axes.lines]
  assert any(np.array_equal(d, np.stack([sizes, curve], 1)) for d in drawn)
  assert axes.get_xscale() == "log"
  assert {"1", "7", "100"} <= {text.get_text() for text in axes.texts}
  plots.save(figure, tmp_path / "a.png")
  assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_heatmap():
  values = np.array([[0.5, -1.0, 0.0], [0.0, 0.25, 0.0]])
  figure = circuit_plots.heatmap(
    values, ["0", "1"], ["a", "b", "c"], units="share"
  )
  image = figure.axes[0].images[0]
  np.testing.assert_array_equal(image.get_array(), values)
  assert image.get_clim() == (-1, 1)
  labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
  assert labels == ["a", "b", "c"]
  with pytest.raises(ValueError, match="1 rows' and 3 columns'"):
    circuit_plots.heatmap(values, ["0"], ["a", "b", "c"])
