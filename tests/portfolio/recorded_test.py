"""`auto` on recorded games: as well as it once did, and as well as it says."""

import numpy as np
import pytest

import spex_jax as spex
from spex_jax.fourier import score
from tests.models import checkpoints

# R² on test masks from 512 samples (experiments/README.md, idle at c255866).
_STORED = {
  "cancer30": 0.997, "heads40": 0.959, "sentiment55": 0.907,
  "hierarchy100": 1.0, "retrain100": 0.940,
}  # fmt: skip


@pytest.mark.slow_where("cancer30", "heads40", "sentiment55", "retrain100")
@pytest.mark.parametrize("name", _STORED)
def test_recorded_games_are_answered_as_well_as_before(name):
  path = checkpoints.shared().parent / "games" / f"{name}.npz"
  with np.load(path) as game:
    n = int(game["n"])
    masks, test = (
      np.unpackbits(game[key], axis=1, count=n).astype(bool)
      for key in ("masks", "test_masks")
    )
    values, wanted = game["values"], game["test_values"]
  found = spex.decode(masks[:512], values[:512])
  reached = float(score.r2(wanted, np.asarray(found.fourier(test))))
  assert reached > _STORED[name] - 0.02
  # What is stated is of the samples: four of its errors, and their rounding.
  assert abs(reached - found.faithfulness) < 4 * found.faithfulness_std + 1e-3
