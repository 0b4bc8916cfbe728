"""Values of an item's first masks, as the sweep was begun with.

A task whose own differ has another model, other data or another device, which
no setting tells: weights that changed on the disk, say, or were trained anew.

Shapes: A anchors, T targets.
"""

import numpy as np

from spex_jax import base
from spex_jax.store import folders

_RTOL = 1e-3  # Of the spread of the values; last digits may differ.


class OtherValuesError(RuntimeError):
  """An item that is not what it was."""


def check(
  folder: folders.Folder, item: int, name: str, values: np.ndarray
) -> None:
  """Keeps the values of an item, or compares them with those kept.

  Args:
    folder: of the sweep.
    item: its number.
    name: of the item, for messages.
    values: float64 `[A, T]`.

  Raises:
    OtherValuesError: they differ.
  """
  if not np.isfinite(values).all():
    return
  place = f"anchors/{item:08d}.json"
  body = base.to_json({"values": values.tolist()})
  if folder.create(place, body):
    return
  try:
    kept = base.from_json(folder.read(place), place, must_have_checksum=True)
    before = np.asarray(kept["values"], np.float64)
  except (ValueError, KeyError):  # Damaged; the next task compares again.
    folder.replace(place, body)
    return
  # At least the rounding of float32 values.
  scale = max(
    float(np.ptp(before)), 1e-3 * float(np.abs(before).max(initial=0))
  )
  if before.shape == values.shape and np.allclose(
    values, before, rtol=0, atol=_RTOL * scale + 1e-12
  ):
    return
  most = "of another shape"
  if before.shape == values.shape:
    most = f"as much as {np.abs(values - before).max():.3g} away"
  raise OtherValuesError(
    f"Item {item} ({name}): the values of its first masks are {most} from "
    f"those that the sweep was begun with. Is its model, or its data, another "
    "(weights trained anew, a file that changed), or does it draw at random? "
    "Give back what it was, or choose another --workdir; anchors=0 in the "
    "configuration leaves this check out."
  )
