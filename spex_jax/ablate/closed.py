"""Models behind a service: calls retried, paced, and kept on disk.

A closed model is a host callable that may fail for a while, that allows so
many calls a second, and whose every answer costs money. `evaluate.host` takes
a `Retry`, a rate and a `File`; none of them knows what the callable does.

The file holds one line per mask and is only ever appended to:

  <16 hex digits: start of the SHA-256 of the rest> {"k": <32 hex>, "v": value}

`k` is the BLAKE2b hash of the model's and its settings' description, n, and
the packed mask (`masks.packing`), so that one file may serve many settings. A
run killed half-way leaves at most one unfinished line, which the next run
removes; any other line that its checksum contradicts is damage, and refused.

A file may be of one function alone: its first line is then `{"about": {...}}`,
and a few lines have their mask, `"m"`, as well: anchors, which the function is
asked again before its kept values are believed.

Shapes: n players, b masks in a call, T targets.
"""

import dataclasses
import errno
import hashlib
import io
import json
import os
import pathlib
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.masks import packing

# No space, over quota, or past a limit on the size of files.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_ANCHORS = 4
# Files of this process that are open, by their full names.
_OPEN: "weakref.WeakValueDictionary[str, File]" = weakref.WeakValueDictionary()

HostFn = Callable[[np.ndarray], base.Values]


@dataclasses.dataclass(frozen=True)
class Retry:
  """Which failures to try again after, and how long to wait.

  The wait doubles from `first_seconds` up to `most_seconds`; an exception
  whose attribute `retry_after` holds a longer one in seconds is obeyed, up to
  `most_asked`: one that asks for more is raised, since nobody waits for a year.
  There is no jitter: calls are made one after the other, by one process.

  Attributes:
    on: exceptions to try again after; others are raised at once.
    attempts: calls at most, the first included.
    first_seconds: how long to wait before the second call.
    most_seconds: longest wait that doubling leads to.
    most_asked: longest wait that an exception may ask for.
    sleep: waits so many seconds; a test replaces it.
  """

  on: tuple[type[Exception], ...]
  attempts: int = 5
  first_seconds: float = 1.0
  most_seconds: float = 60.0
  most_asked: float = 600.0
  sleep: Callable[[float], None] = time.sleep

  def __post_init__(self):
    if not self.on:
      raise ValueError("Retry needs the exceptions to try again after.")
    waits = (self.first_seconds, self.most_seconds, self.most_asked)
    if self.attempts < 1 or not all(0 <= wait < np.inf for wait in waits):
      raise ValueError(
        f"Retry needs attempts >= 1 and waits >= 0; got {self.attempts}, "
        f"{', '.join(map(str, waits))}."
      )

  def wrap(
    self, fn: HostFn, again: Callable[[Exception], None] = lambda error: None
  ) -> HostFn:
    """`fn`, called again after the named failures.

    The last failure is raised as it is, with a note of how often was tried.

    Args:
      fn: masks bool `[b, n]` to values, which may fail.
      again: called with each failure that is followed by another attempt.
    """

    def call(masks):
      wait = self.first_seconds
      for attempt in range(1, self.attempts + 1):
        try:
          return fn(masks.copy())  # It may write into them.
        except self.on as error:
          asked = getattr(error, "retry_after", None) or 0.0
          if attempt == self.attempts:
            error.add_note(f"Gave up after {attempt} attempts.")
            raise
          if not asked <= self.most_asked:
            error.add_note(
              f"It asks for {asked:,g} s; most_asked={self.most_asked:g}."
            )
            raise
          again(error)
        self.sleep(max(min(wait, self.most_seconds), asked))
        wait *= 2
      raise AssertionError("The last attempt returns or raises.")

    return call


class Paced:
  """A callable that starts at most so many calls a second, evenly spaced."""

  def __init__(
    self,
    fn: HostFn,
    calls_per_second: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
  ):
    """Wraps `fn`; `clock` and `sleep` are replaced by a test.

    Raises:
      ValueError: a rate that is not positive.
    """
    if not calls_per_second > 0:
      raise ValueError(
        f"calls_per_second must be positive; got {calls_per_second}."
      )
    self._fn, self._gap = fn, 1 / calls_per_second
    self._clock, self._sleep = clock, sleep
    self._next = -np.inf

  def __call__(self, masks: np.ndarray) -> base.Values:
    wait = self._next - self._clock()
    if wait > 0:
      self._sleep(wait)
    self._next = max(self._clock(), self._next) + self._gap
    return self._fn(masks)


class File:
  """Answers by mask in a file, checksummed, for one model and its settings.

  A `repeats.Store`. The file is locked while it is open, where the system can
  do that (not on Windows). In this process, one that was opened outside of
  `with` is taken over, as by a notebook's cell that runs again.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    config: str,
    *,
    about: Mapping[str, Any] | None = None,
  ):
    """Opens or creates the file, and reads what it holds.

    Args:
      path: the path of the file; its folder must exist.
      config: everything that the values depend on besides the mask: the
        model's name and version, the prompt, the settings. Answers of another
        `config` in the same file are left alone and not seen.
      about: whose values these are, as JSON, where the file is for them alone.

    Raises:
      ValueError: a damaged line, by its number; a file that is open
        elsewhere, or of something else than `about`.
      OSError: no permission, no such folder.
    """
    self.path = pathlib.Path(path)
    self._config = config.encode()
    self._full = False
    self._values: dict[bytes, np.ndarray] = {}
    self._anchors: list[tuple[np.ndarray, np.ndarray]] = []
    self._about, self._held = about, False
    # Unbuffered: after a failure nothing lingers that would be written later.
    self._file = io.FileIO(self.path, "ab")
    name = str(self.path.resolve())
    before = _OPEN.get(name)
    if before is not None and not before._held:
      before.close()
    try:
      self._lock()
      self._end = 0
      found = self._read()
      if about is not None and found is None:
        self._append(_line({"about": about}))
      elif about is not None:
        _compare(found, about, self.path)
    except BaseException:
      self._file.close()
      raise
    _OPEN[name] = self

  def __enter__(self):
    self._held = True
    return self

  def __exit__(self, *unused):
    self.close()

  def __len__(self) -> int:
    return len(self._values)

  def close(self) -> None:
    """Closes the file; nothing is lost without it."""
    self._held = False
    self._file.close()

  def anchors(self, n: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Masks `[A, n]`, values `[A]` or `[A, T]`, to ask again; None without."""
    if not self._anchors:
      return None
    masks, values = map(np.stack, zip(*self._anchors))
    return packing.unpack(masks, n), values

  def get(self, masks: np.ndarray) -> list[np.ndarray | None]:
    return [self._values.get(key) for key in self._keys(masks)]

  def put(self, masks: np.ndarray, values: np.ndarray) -> None:
    """Appends the values; on the disk when it returns.

    A full disk loses no answer of this run: the file is cut back to its last
    whole line, a `RuntimeWarning` says so once, and the run goes on without
    writing.

    Raises:
      OSError: any failure other than a disk that is full.
      ValueError: a file that was closed, or opened again since.
    """
    if self._file.closed:
      raise ValueError(
        f"{self.path} was closed, or opened again by a later evaluator: use "
        "that one."
      )
    keys = self._keys(masks)
    self._values.update((k, np.array(v)) for k, v in zip(keys, values))
    if self._full:
      return
    lines = []
    for key, packed, value in zip(keys, packing.pack(masks), values):
      entry = {"k": key.hex(), "v": np.asarray(value).tolist()}
      if self._about is not None and self._tells(value):
        entry["m"] = packed.tobytes().hex()
        self._anchors.append((packed, np.array(value, np.float64)))
      lines.append(_line(entry))
    self._append(b"".join(lines))

  def _append(self, text: bytes) -> None:
    try:
      done = 0
      while done < len(text):  # A write may stop short, a full disk's does.
        done += self._file.write(text[done:])
      os.fsync(self._file.fileno())
    except OSError as error:
      self._file.truncate(self._end)
      if error.errno not in _FULL:
        raise
      self._full = True
      warnings.warn(
        f"{self.path} cannot grow ({error.strerror}): it keeps the "
        f"{self._end:,} bytes that it had, and further answers are not saved. "
        "Make room and start again.",
        RuntimeWarning,
        stacklevel=3,
      )
    else:
      self._end += len(text)

  def _tells(self, value: np.ndarray) -> bool:
    """Whether a value is worth an anchor: of the first, or unlike all others.

    A function of two values would else be taken for another one too easily.
    """
    others = [found for _, found in self._anchors]
    known = any(np.array_equal(value, found) for found in others)
    return len(others) < _ANCHORS and (len(others) < 2 or not known)

  def _keys(self, masks: np.ndarray) -> list[bytes]:
    # The length comes first, so that no two pairs run into the same bytes.
    prefix = b"%d:%s:%d:" % (len(self._config), self._config, masks.shape[1])
    start = hashlib.blake2b(prefix, digest_size=16)
    keys = []
    for row in packing.pack(masks):
      digest = start.copy()
      digest.update(row.tobytes())
      keys.append(digest.digest())
    return keys

  def _read(self) -> dict[str, Any] | None:
    """Fills `_values`; cuts an unfinished line off; returns `about`, if any."""
    about = None
    with self.path.open("rb") as file:
      for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
          if _is_whole(line[:-1]):  # Its end is another byte.
            raise _damaged(f"{self.path}, line {number}")
          if line.strip(b"\0") and not _begun(line):  # A power cut leaves 0s.
            raise ValueError(f"{self.path} is no file of kept values.")
          self._file.truncate(self._end)  # A run was killed while it wrote.
          break
        entry = _parse(line, f"{self.path}, line {number}")
        self._end += len(line)
        if "about" in entry:
          about = about or entry["about"]
          continue
        value = np.array(entry["v"], np.float64)
        self._values[bytes.fromhex(entry["k"])] = value
        if "m" in entry:
          packed = np.frombuffer(bytes.fromhex(entry["m"]), np.uint8)
          self._anchors.append((packed, value))
    return about

  def _lock(self) -> None:
    try:
      import fcntl
    except ImportError:  # Windows: two runs must not share a file there.
      return
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(
        f"{self.path} is open in another evaluator; give each a file of its "
        "own, or close the other."
      ) from None


def _line(entry: Mapping[str, Any]) -> bytes:
  # repr of a float64, which JSON writes, reads back as the same number.
  body = json.dumps(entry).encode()
  return _digest(body) + b" " + body + b"\n"


def _parse(line: bytes, where: str) -> dict[str, Any]:
  digest, _, body = line[:-1].partition(b" ")
  if _digest(body) != digest:
    raise _damaged(where)
  return json.loads(body)


def _begun(line: bytes) -> bool:
  """Whether a line without its end may be one of ours."""
  digest, body = line[:16], line[16:]
  hexadecimal = all(byte in b"0123456789abcdef" for byte in digest)
  return hexadecimal and b' {"'.startswith(body[:3])


def _compare(
  found: Mapping[str, Any] | None, about: Mapping[str, Any], path: pathlib.Path
) -> None:
  """Refuses a file of something else, by what is different."""
  found = found or {}
  for name, value in about.items():
    if found.get(name) != value:
      raise ValueError(
        f"{path} keeps values of another function: its {name} is "
        f"{found.get(name)!r}, and now it is {value!r}. Give this one a file "
        "of its own, or delete that one."
      )


def _damaged(where: str) -> ValueError:
  return ValueError(
    f"{where} is damaged: its checksum contradicts it. Delete the line to "
    "have its mask asked again."
  )


def _is_whole(line: bytes) -> bool:
  digest, _, body = line.partition(b" ")
  return _digest(body) == digest


def _digest(body: bytes) -> bytes:
  return hashlib.sha256(body).hexdigest()[:16].encode()
