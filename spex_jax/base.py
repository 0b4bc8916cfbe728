"""The types that join the two halves of `spex_jax`, and its one convention.

  mask       bool[n], True = the player is kept; a batch is `Masks`, bool[B, n]
  character  chi_S(m) = (-1)^(sum_{i in S} m_i)
  Fourier    f(m) = sum_S F(S) chi_S(m),   F(S) = E_m[f(m) chi_S(m)]
  Moebius    f(m) = sum_{S subset of kept} M(S)

The halves meet at a function of masks, which has two faces: `ValueFn`, all that
a decoder sees and what any host callable is; and `Game`, what networks give,
which is differentiable between the masks. A game restricted to {0, 1} and
compiled (`ablate.evaluate.compiled`) is a value function. Left of the joint
nothing knows a Fourier coefficient; right of it nothing knows a model.

Shapes: n players, B masks in a batch, T targets.
"""

import dataclasses
import hashlib
import json
import operator
import os
import pathlib
import secrets
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray
Masks: TypeAlias = Array  # bool[B, n], True = kept.
Values: TypeAlias = Array  # float[B], or float[B, T] for T targets.
ValueFn: TypeAlias = Callable[[Masks], Values]
Key: TypeAlias = jax.Array  # A typed key of `jax.random.key`, consumed once.

# Share of the largest |value| below which differences are rounding.
ROUNDING = 8 * float(np.finfo(np.float64).eps)
_HASHED = 64  # Entries of an array that its hash reads.


class ByValue:
  """What makes dataclasses that hold arrays compare, hash and copy by value.

  Equal are objects of one class whose fields are equal: arrays in shape and
  every entry (NaN is NaN), whatever their dtypes. Fields of `compare=False`
  are left out. Copies and pickles keep arrays that were read-only so. For
  dataclasses of `eq=False`, which keep these methods.
  """

  def __eq__(self, other: object) -> bool:
    return type(self) is type(other) and _same(*map(_compared, (self, other)))

  def __hash__(self) -> int:
    return hash((type(self).__name__, _key(_compared(self))))

  def __getstate__(self) -> dict[str, Any]:
    fixed = [
      name
      for name, value in vars(self).items()
      if isinstance(value, np.ndarray) and not value.flags.writeable
    ]
    return vars(self) | {"_read_only": fixed}

  def __setstate__(self, state: dict[str, Any]) -> None:
    fields = dict(state)
    fixed = fields.pop("_read_only", ())
    vars(self).update(fields)
    for name in fixed:
      fields[name].flags.writeable = False


@dataclasses.dataclass(frozen=True, eq=False)
class Game:
  """A differentiable value of players that are kept to a degree.

  `value` is pure, traceable and unbatched; parameters and inputs reach it as
  arguments, so that they can be differentiated, sharded and replaced.

  Attributes:
    value: strengths, float `[n]` (1 is kept, 0 absent, and between them a
      mixture), and what `given` returns, to a real number or `[T]` of them.
    names: the names of the n players, distinct.
    units: the units of the values; "" where they are not said.
    shared: pytree of arrays that all strengths share: parameters and inputs.
    absent: what an absent player is, in words.
    head: what no strength touches, so that it is computed once: traceable,
      `shared` to a state. None for nothing.
  """

  value: Callable[[Array, Any], jax.Array]
  names: tuple[str, ...]
  units: str = ""
  shared: Any = None
  absent: str = ""
  head: Callable[[Any], Any] | None = None

  @property
  def n(self) -> int:
    return len(self.names)

  def given(self, shared: Any) -> Any:
    """What `value` is given: `shared`, behind the state if there is a head."""
    return shared if self.head is None else (self.head(shared), shared)

  def __call__(self, strengths: Array) -> jax.Array:
    """The value at strengths `[n]`, with `shared` as it is."""
    return self.value(strengths, self.given(self.shared))


class NotFiniteError(ValueError):
  """Values with NaN or infinity."""


def ask(value_fn: ValueFn, masks: Masks) -> Values:
  """What a user's function answers for masks, which it may write into."""
  return value_fn(masks.copy())


def check_unmasked(array: Any, what: str) -> None:
  """Refuses NumPy's masked arrays that mask anything: `asarray` would take it.

  Raises:
    ValueError: masked entries, counted, and `what` they are.
  """
  if isinstance(array, np.ma.MaskedArray):
    count = int(np.ma.count_masked(array))
    if count:
      raise ValueError(
        f"{what} come as a NumPy masked array with {count} of {array.size} "
        "entries masked: they have no value. Leave these rows out, or fill "
        "them (.filled)."
      )


def origin(values: np.ndarray) -> np.ndarray:
  """What to subtract from values `[B, T]` before sums of them: `[T]`.

  The value nearest to 0 where all are within a factor of two of one another:
  then no difference rounds (Sterbenz 1974), and what they all share costs no
  digit of what tells them apart. Else 0: there is nothing to gain.
  """
  low, high = values.min(axis=0), values.max(axis=0)
  above = (low > 0) & (high / 2 <= low)
  below = (high < 0) & (low / 2 >= high)
  return np.where(above, low, np.where(below, high, 0.0))


def is_constant(values: np.ndarray) -> np.ndarray:
  """bool `[T]`: whether values `[B, T]` differ by rounding at most."""
  half = values / 2  # No range overflows.
  return np.ptp(half, axis=0) <= ROUNDING * np.abs(half).max(axis=0)


def check_masks(masks: Masks, n: int | None = None) -> np.ndarray:
  """Returns masks as a host `bool[B, n]`, or says what is wrong with them.

  Args:
    masks: `[B, n]` boolean, or integers and floats that are all 0 or 1.
    n: the number of players expected, or None for any.

  Raises:
    ValueError: not two-dimensional, another number of players, or an entry
      that is neither 0 nor 1, or one that a masked array masks.
  """
  check_unmasked(masks, "Masks")
  array = np.asarray(masks)
  if array.ndim != 2:
    raise ValueError(
      f"Masks must be [B, n], one row per mask; got shape {array.shape}."
      + (" Use masks[None] for a single mask." if array.ndim == 1 else "")
    )
  if n is not None and array.shape[1] != n:
    raise ValueError(f"Masks have {array.shape[1]} players; expected n={n}.")
  if array.dtype != np.bool_:
    kept = array == 1
    if not np.all(kept | (array == 0)):
      raise ValueError(
        f"Masks must hold booleans, or only 0 and 1 (1 = kept); dtype "
        f"{array.dtype} holds other values."
      )
    array = kept
  return array


def check_integer(value: Any, what: str) -> int:
  """Returns `value` as an int; `what` names it in the message.

  Raises:
    TypeError: no integer. Floats that happen to be whole and booleans are none.
  """
  if not isinstance(value, bool | np.bool_):
    try:
      return operator.index(value)
    except TypeError:
      pass  # Said below, by name.
  raise TypeError(f"{what} must be an integer; got {value!r}.")


def check_names(names: Iterable[Any] | None, n: int) -> tuple[str, ...] | None:
  """Returns n names of players as text, or None for none.

  Args:
    names: anything in an order; what it holds becomes text.
    n: the number of players.

  Raises:
    TypeError: one string, a set, an array of other axes, nothing to list.
    ValueError: another number of names.
  """
  if names is None:
    return None
  unordered = isinstance(names, str | bytes | set | frozenset | Mapping)
  flat = getattr(names, "ndim", 1) == 1
  if unordered or not flat or not isinstance(names, Iterable):
    raise TypeError(f"names must be a list of {n} strings; got {names!r}.")
  out = tuple(map(str, names))
  if len(out) != n:
    raise ValueError(f"Need {n} names, one per player; got {len(out)}.")
  return out


def check_players(players: Array, n: int) -> np.ndarray:
  """Returns sets of players as int64 `[K, D]`, ascending in each row.

  Args:
    players: integers `[K, D]`, padded with n, in any order within a row.
    n: the number of players.

  Raises:
    TypeError: players or an n that are no integers (booleans are none).
    ValueError: not two-dimensional, n below 0, players outside 0..n, or a set
      that names one twice.
  """
  n = check_integer(n, "The number of players n")
  if n < 0:
    raise ValueError(f"The number of players n must be at least 0; got {n}.")
  array = np.asarray(players)
  if array.ndim != 2:
    raise ValueError(
      f"Sets of players must be [K, D], one row per set, padded with {n}; got "
      f"shape {array.shape}."
    )
  if array.size:
    if array.dtype.kind not in "iu":
      raise TypeError(
        f"Players must be integers; got {array.dtype}. For masks (bool [K, n]) "
        "use SparseFourier.from_supports."
      )
    outside = (array < 0) | (array > n)
    if outside.any():
      raise ValueError(
        f"Players must lie in 0..{n - 1} (padding is {n}); got "
        f"{array[outside][0]}."
      )
  rows = np.sort(array.astype(np.int64), axis=1)
  twice = (rows[:, 1:] == rows[:, :-1]) & (rows[:, 1:] < n)
  if twice.any():
    row = rows[twice.any(axis=1)][0]
    raise ValueError(f"The set {row[row < n].tolist()} names a player twice.")
  return rows


def check_values(values: Values, num_masks: int) -> np.ndarray:
  """Returns values as a host float64 `[B]` or `[B, T]`, all finite.

  Integers and booleans are accepted and cast.

  Args:
    values: what a value function answered for `num_masks` masks.
    num_masks: B.

  Raises:
    TypeError: values that are not real numbers (complex, strings, objects).
    ValueError: another shape than `[B]` or `[B, T]`, B = 0; integers that
      float64 does not tell apart; or
      `NotFiniteError`, NaN or infinities: the message counts them and names the
      first mask that has one; or entries that a masked array masks.
  """
  check_unmasked(values, "Values")
  array = np.asarray(values)
  if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
    raise TypeError(
      f"The value function must return real numbers; got {array.dtype}."
    )
  if (
    array.ndim not in (1, 2) or len(array) != num_masks or 0 in array.shape[1:]
  ):
    raise ValueError(
      f"The value function must return one value per mask, shape "
      f"({num_masks},), or ({num_masks}, T) for T targets; got {array.shape}."
    )
  if not num_masks:
    raise ValueError("Need the value of at least one mask; got none.")
  wide = array.astype(np.float64)
  whole = array.dtype.kind in "iu" and np.abs(wide).max() >= 2.0**53
  if (whole or array.dtype.itemsize > 8) and np.isfinite(wide).all():
    lost = float(np.abs((array - array.min()) - (wide - wide.min())).max())
    if lost > 1e-6 * np.ptp(wide):
      raise ValueError(
        f"Values lose up to {lost:.2g} in float64: subtract what they share."
      )
  finite = np.isfinite(wide).reshape(num_masks, -1).all(axis=1)
  if not finite.all():
    bad = np.flatnonzero(~finite)
    raise NotFiniteError(
      f"The value function returned NaN or infinity for {len(bad)} of "
      f"{num_masks} masks (first at row {bad[0]}). Nothing can be decoded "
      "from them; mend the value function."
    )
  return wide


def write_json(path: str | os.PathLike, body: dict[str, Any]) -> None:
  """Writes `body` and the SHA-256 of its contents; whole or not at all.

  Raises:
    OSError: no room, no permission: the old file, if any, is left as it was.
    ValueError: NaN or infinity in `body`; something at `path` that is no file.
  """
  path = pathlib.Path(path)
  data = to_json(body)
  check_replaceable(path)
  temporary = draft(path)
  try:
    with temporary.open("xb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def read_json(
  path: str | os.PathLike, *, must_have_checksum: bool = False
) -> dict[str, Any]:
  """Reads an object that `write_json` wrote, without its checksum.

  Raises:
    ValueError: as `from_json`.
  """
  data = pathlib.Path(path).read_bytes()
  return from_json(data, path, must_have_checksum=must_have_checksum)


def json_lines(text: str, path: str | os.PathLike) -> Iterator[tuple[int, Any]]:
  """Numbers, from 1, and values of lines of JSON; those that are empty are not.

  Raises:
    ValueError: a line that is no JSON.
  """
  # Not `splitlines`: texts may hold what it takes for the end of a line.
  for number, line in enumerate(text.split("\n"), 1):
    if line.strip():
      try:
        yield number, json.loads(line)
      except (ValueError, RecursionError) as error:
        where = f"{path}, line {number}"
        raise ValueError(f"{where}, is no JSON: {error}.") from None


def to_json(body: dict[str, Any]) -> bytes:
  """A file of `body` and the SHA-256 of its contents.

  Raises:
    ValueError: NaN or infinity in `body`.
  """
  text = json.dumps(body | {"sha256": _digest(body)}, allow_nan=False)
  return text.encode() + b"\n"


def from_json(
  data: bytes, path: Any, *, must_have_checksum: bool = False
) -> dict[str, Any]:
  """The object of a file that `to_json` made, without its checksum.

  Args:
    data: the data of the file.
    path: its name, for messages.
    must_have_checksum: whether a file without one is refused: damage may hide
      the checksum itself.

  Raises:
    ValueError: not a JSON object, or contents that the checksum contradicts;
      with `must_have_checksum` any other bytes than `to_json` writes, too.
  """
  try:
    body = json.loads(data)
  except RecursionError as error:
    raise ValueError(f"{path} is not JSON: it is nested too deep.") from error
  except ValueError as error:
    raise ValueError(f"{path} is not JSON: {error}.") from error
  if not isinstance(body, dict):
    raise ValueError(f"{path} must hold a JSON object.")
  stored = body.pop("sha256", None)
  if stored is None and must_have_checksum:
    raise ValueError(f"{path} is damaged: it has no sha256.")
  try:
    # The same contents in other bytes (a 5 for a last 4 that rounds alike, an
    # E for an e) are a fault of the disk all the same.
    sound = not must_have_checksum or to_json(body) == data
    sound = sound and (stored is None or stored == _digest(body))
  except ValueError:  # NaN: none of ours.
    sound = False
  if not sound:
    raise ValueError(f"{path} is damaged: its contents contradict its sha256.")
  return body


def memory() -> int:
  """Bytes of this machine."""
  try:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  except (AttributeError, ValueError, OSError):  # Not told.
    return 1 << 36


def printable(text: str) -> str:
  """Escapes what could break a line or steer a terminal."""
  return "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
  )


def check_replaceable(path: pathlib.Path) -> None:
  """Raises ValueError where a folder, link, device, pipe or socket is there."""
  try:
    mode = path.lstat().st_mode
  except FileNotFoundError:
    return
  if not stat.S_ISREG(mode):
    what = {
      stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "pipe",
      stat.S_IFSOCK: "socket",
    }.get(stat.S_IFMT(mode), "device")  # fmt: skip
    raise ValueError(f"{path} is a {what}: it is not replaced by a file.")


def draft(path: pathlib.Path) -> pathlib.Path:
  """Where a file is written before it gets its name; no other writer's.

  Process numbers alone coincide between hosts and between containers.
  """
  return path.with_name(
    f".{path.name}.{socket.gethostname()}.{os.getpid()}."
    f"{secrets.token_hex(4)}.tmp"
  )


def sync(path: str | os.PathLike) -> None:
  """Returns once a file, or the names in a folder, are on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _compared(value: Any) -> dict[str, Any]:
  return {
    field.name: getattr(value, field.name)
    for field in dataclasses.fields(value)
    if field.compare
  }


def _same(a: Any, b: Any) -> bool:
  if isinstance(a, Mapping) and isinstance(b, Mapping):
    return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
  if isinstance(a, Array) or isinstance(b, Array):
    a, b = np.asarray(a), np.asarray(b)
    floats = a.dtype.kind in "fc" and b.dtype.kind in "fc"
    return np.array_equal(a, b, equal_nan=floats)
  if isinstance(a, tuple | list) and isinstance(b, tuple | list):
    return len(a) == len(b) and all(map(_same, a, b))
  return bool(a == b) or (a != a and b != b)


def _key(value: Any) -> Any:
  """Hashable, and equal for what `_same` calls equal."""
  if isinstance(value, Mapping):
    return frozenset((k, _key(v)) for k, v in value.items())
  if isinstance(value, Array):
    value = np.asarray(value)
    entries = value.ravel()[:_HASHED].tolist()
    return (value.shape, _key(entries)) if value.ndim else _key(entries[0])
  if isinstance(value, tuple | list):
    return tuple(map(_key, value))
  return None if value != value else value


def _digest(body: dict[str, Any]) -> str:
  text = json.dumps(body, sort_keys=True, allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()
