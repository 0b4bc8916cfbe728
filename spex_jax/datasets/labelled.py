"""Labelled examples of any shape: by name, or from a file.

Shapes: N examples, C classes.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from spex_jax import base
from spex_jax.datasets import casts, images, labels, tabular

NAMES = ("digits", "breast_cancer", "iris", "wine")


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled(base.ByValue):
  """Examples and their classes, or a response.

  Attributes:
    x: float64 `[N, ...]`, finite; `[N, H, W]` or `[N, H, W, 3]` are images.
    y: int32 `[N]`, in 0..C-1; of a response float64, finite.
    classes: C names; none of a response.
    rows: int64 `[N]`, what number each example had where it came from.
  """

  x: np.ndarray
  y: np.ndarray
  classes: tuple[str, ...]
  rows: np.ndarray

  @property
  def num_examples(self) -> int:
    return len(self.x)

  @property
  def are_images(self) -> bool:
    return self.x.ndim == 3 or (self.x.ndim == 4 and self.x.shape[3] == 3)

  def take(self, rows: base.Array) -> "Labelled":
    """The examples of the given places."""
    rows = np.asarray(rows)
    return dataclasses.replace(
      self, x=self.x[rows], y=self.y[rows], rows=self.rows[rows]
    )

  def only(self, classes: Sequence[str]) -> "Labelled":
    """The examples of some classes, numbered in the order given.

    Raises:
      ValueError: a class that is not there, or one named twice.
    """
    names = [str(name) for name in classes]
    absent = [name for name in names if name not in self.classes]
    if absent or len(set(names)) != len(names):
      raise ValueError(
        f"classes={', '.join(names)}: choose distinct ones of "
        f"{', '.join(self.classes)}."
      )
    place = np.full(len(self.classes), -1, np.int32)
    place[[self.classes.index(name) for name in names]] = np.arange(len(names))
    kept = self.take(np.flatnonzero(place[self.y] >= 0))
    return dataclasses.replace(kept, y=place[kept.y], classes=tuple(names))


def from_arrays(
  x: base.Array,
  y: base.Array,
  classes: Sequence[str] = (),
  *,
  response: bool = False,
) -> Labelled:
  """Checked examples of your own arrays.

  Args:
    x: real `[N, ...]`, two axes or more.
    y: integers or texts `[N]`, see `labels.numbered`.
    classes: names; the distinct labels if empty.
    response: whether floats in `y` are taken as they are.

  Raises:
    TypeError: labels that are neither.
    ValueError: another rank, no example, one label for each missing, labels
      that are missing or none of `classes`, masked entries, or NaN and
      infinity (naming the first example).
  """
  x, y = casts.real(x, "x"), casts.unmasked(y, "y")
  if x.ndim < 2 or 0 in x.shape:
    raise ValueError(
      f"x must hold numbers [examples, ...]; got {x.dtype} of shape {x.shape}."
    )
  if y.shape != x.shape[:1]:
    raise ValueError(
      f"Need one label in y for each of {len(x)} examples in x; got shape "
      f"{y.shape}."
    )
  if response and y.dtype.kind == "f":
    y, names = y.astype(np.float64), ()
    if not np.isfinite(y).all():
      raise ValueError("y holds NaN or infinity; drop such examples first.")
  else:
    y, names = labels.numbered(y, classes)
  finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
  if not finite.all():
    raise ValueError(
      f"{(~finite).sum()} examples hold NaN or infinity (first: "
      f"{np.flatnonzero(~finite)[0]}); drop or impute them first."
    )
  return Labelled(x, y, names, np.arange(len(x)))


def load(
  source: str, *, response: bool = False
) -> tuple[Labelled, Labelled | None]:
  """Examples by name or file, and test examples where the file has its own.

  Args:
    source: one of `NAMES`; a `.npz` file with `x` `[N, ...]` and labels `y`
      `[N]`, perhaps `x_test` and `y_test`, and `classes`, names; or a `.csv`
      file, see `tabular.read`.
    response: whether floats as labels are taken as they are.

  Raises:
    FileNotFoundError: no such file.
    TypeError: labels that are no integers.
    ValueError: an unknown name, a file that lacks x or y, a response instead
      of classes, test examples of another shape, or what `from_arrays` refuses.
  """
  if source == "digits":
    found = images.digits()
    return from_arrays(found.pixels[:, 0], found.labels, found.classes), None
  path = pathlib.Path(source)
  if path.suffix == ".npz":
    return _npz(path, response)
  if path.suffix == ".csv":
    table = tabular.read(path)
  elif source in NAMES:
    table = tabular.load(source)
  else:
    raise ValueError(
      f"data={source!r}: choose from {', '.join(NAMES)}, or give a .npz or "
      ".csv file."
    )
  if not table.classes and not response:
    raise ValueError(
      f"{source} has a response; classes are needed ({labels.RESPONSE})."
    )
  y = table.targets if table.classes else np.asarray(table.targets, float)
  found = from_arrays(table.features, y, table.classes, response=response)
  return found, None


def _npz(
  path: pathlib.Path, response: bool
) -> tuple[Labelled, Labelled | None]:
  if not path.is_file():
    raise FileNotFoundError(f"{str(path)!r} is no file.")
  try:
    arrays = tabular.read_npz(path)
  except ValueError as error:
    raise ValueError(f"{path} holds {error}") from error
  if missing := [name for name in ("x", "y") if name not in arrays]:
    raise ValueError(
      f"{path} lacks {' and '.join(missing)}; it holds "
      f"{', '.join(arrays) or 'nothing'}."
    )
  if ("x_test" in arrays) != ("y_test" in arrays):
    raise ValueError(f"{path}: x_test and y_test go together; it has one.")
  classes = [str(name) for name in np.atleast_1d(arrays.get("classes", []))]
  try:
    floats = arrays["y"].dtype.kind == "f"
    if not classes and "y_test" in arrays and not floats:
      # Test examples may have a class that no training example has.
      own, names = labels.numbered(np.append(arrays["y"], arrays["y_test"]))
      size = len(arrays["y"])
      arrays["y"], arrays["y_test"] = own[:size], own[size:]
      classes = list(names)
    train = from_arrays(arrays["x"], arrays["y"], classes, response=response)
    if "x_test" not in arrays:
      return train, None
    y_test = arrays["y_test"].astype(float) if floats else arrays["y_test"]
    test = from_arrays(
      arrays["x_test"], y_test, train.classes, response=response
    )
  except (TypeError, ValueError) as error:
    raise type(error)(f"{path}: {error}") from error
  if test.x.shape[1:] != train.x.shape[1:]:
    raise ValueError(
      f"{path}: x_test has examples of shape {test.x.shape[1:]}, x of "
      f"{train.x.shape[1:]}."
    )
  return train, test
