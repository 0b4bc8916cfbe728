"""Values of one request as they come: checked, told, kept, put in order.

Shapes: n players, B masks asked for, U of them run, T targets.
"""

from collections.abc import Callable, Sequence

import numpy as np

from spex_jax import base

Progress = Callable[[int, int], None]  # Masks done and asked for, this call.
Keep = Callable[[np.ndarray, np.ndarray], None]  # Masks and values of a batch.


class Answers:
  """The values of the masks that are run, batch after batch."""

  def __init__(
    self,
    masks: np.ndarray,
    rows: np.ndarray,
    counts: np.ndarray,
    num_asked: int,
    *,
    progress: Progress,
    keep: Sequence[Keep] = (),
  ):
    """Nothing is answered yet.

    Args:
      masks: bool `[U, n]`, the ones to run.
      rows: int `[U]`, ascending: where each first stands in the request.
      counts: int `[U]`, how often each stands there.
      num_asked: B; the others are known already.
      progress: called after each batch with the masks done and asked for.
      keep: each is called with the masks and values of each batch.
    """
    self.masks = masks
    self._rows, self._counts, self._asked = rows, counts, num_asked
    self._done = num_asked - int(counts.sum())
    self._values: np.ndarray | None = None
    self._progress, self._keep = progress, keep

  def add(self, values: base.Values, which: np.ndarray) -> None:
    """Takes the values of some of `masks`, in float64.

    Args:
      values: `[b]` or `[b, T]`.
      which: int `[b]`, ascending: the masks that they are of.

    Raises:
      ValueError: values of another shape, NaN or infinite (naming the first
        row of the request), or another number of targets than before.
      TypeError: values that are not real numbers.
    """
    values, count = np.asarray(values), len(which)
    if values.dtype.name == "bfloat16":
      values = values.astype(np.float64)
    if values.dtype.kind == "f" and values.shape[:1] == (count,):
      self._check_targets(values)
      finite = np.isfinite(values).reshape(count, -1).all(axis=1)
      if not finite.all() and values.ndim <= 2:
        # By their place in the request, where the masks run are a part.
        rows = self._rows[which]
        request = np.zeros(rows[-1] + 1)
        request[rows[~finite]] = np.nan
        base.check_values(request, len(request))
    values = base.check_values(values, count)
    self._check_targets(values)
    if self._values is None:
      self._values = np.empty((len(self.masks), *values.shape[1:]))
    for keep in self._keep:
      keep(self.masks[which], values)
    self._values[which] = values
    self._done += int(self._counts[which].sum())
    self._progress(self._done, self._asked)

  def values(self) -> np.ndarray:
    """All values, float64 `[U]` or `[U, T]`."""
    assert self._values is not None
    return self._values

  def _check_targets(self, values: np.ndarray) -> None:
    first = self._values
    if first is not None and values.shape[1:] != first.shape[1:]:
      raise ValueError(
        f"The value function returned {first.shape[1:]} targets per "
        f"mask for the first batch, and {values.shape[1:]} for a later one."
      )
