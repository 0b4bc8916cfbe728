"""Where files are kept: a directory of a file system, or an object store.

A file is written whole or not at all, and `create` lets the first writer win.
On a file system it is written under another name, fsynced, and linked to its
own; an object store (`gs://`, `s3://`, whatever fsspec opens) creates it on
the condition that there is none.

Names are relative, with slashes, and stay inside: what a damaged or a planted
file names is refused where it is absolute, has `..`, or leads away by a link.
"""

import contextlib
import errno
import inspect
import os
import pathlib
import re
import stat
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from spex_jax import base

_SEGMENT = 1 << 18  # Bytes of a log that an object store gets at once, ...
_PAUSE = 10.0  # ... and seconds between two times that it does.
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
# As `base.draft` names what is being written.
_DRAFT = re.compile(r"\..+\.\d+\.(?:[0-9a-f]{8}\.)?tmp")


class Log(Protocol):
  """A file of one writer that grows."""

  def write(self, data: bytes) -> None:
    """Appends whole lines."""
    ...

  def close(self) -> None:
    """What was written is there."""
    ...


class Folder(Protocol):
  """A folder of files.

  Attributes:
    path: the path of it, as messages name it.
  """

  path: Any

  def exists(self) -> bool:
    """Whether there is a folder, or anything in it."""
    ...

  def is_empty(self) -> bool:
    """Whether no file is in it, or in its folders."""
    return not self.names(deep=True)

  def create(self, name: str, data: bytes) -> bool:
    """Writes a file whole; False if the name is taken.

    Raises:
      OSError: no room, no permission; nothing is written.
    """
    ...

  def replace(self, name: str, data: bytes) -> None:
    """Writes a file whole, whatever was there.

    Raises:
      OSError: no room, no permission; what was there stays.
    """
    ...

  def read(self, name: str) -> bytes:
    """A file's contents; none of what is no file (a folder, a device, a pipe).

    No file of ours is empty, so that whoever reads one finds it damaged.

    Raises:
      FileNotFoundError: no such file.
    """
    ...

  def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
    """The contents of those files that are there."""
    ...

  def sizes(self, folder: str = "", *, deep: bool = False) -> dict[str, int]:
    """Bytes of every file of a folder, by its name in it.

    Args:
      folder: "" for the whole; one that is not there has no files.
      deep: whether the files of its folders count, too; names have slashes.
        Links to other folders are not followed, and are names like files.
    """
    ...

  def names(self, folder: str = "", *, deep: bool = False) -> set[str]:
    """As `sizes`, without looking at the files."""
    ...

  def move(self, name: str, to: str) -> None:
    """Renames a file; one that is not there is no error."""
    ...

  def remove(self, name: str) -> None:
    """Removes a file; one that is not there is no error."""
    ...

  def modified(self, name: str) -> float:
    """When a file was written, in seconds since 1970."""
    ...

  def rest(self) -> list[str]:
    """Names of what killed writers left."""
    ...

  def log(self, name: str) -> Log:
    """A new file of one writer, in parts where it cannot grow."""
    ...


def opened(path: "str | os.PathLike | Folder") -> Folder:
  """The folder at a path or URL; it need not exist yet.

  Raises:
    ImportError: a URL whose file system is not installed.
    ValueError: a URL of an unknown kind, or of one without conditional create.
  """
  if not isinstance(path, str | os.PathLike):
    return path
  text = os.fspath(path)
  scheme, colon, rest = text.partition("://")
  if not colon:
    return Directory(pathlib.Path(path))
  if scheme == "file":
    return Directory(pathlib.Path(urllib.parse.unquote(rest)))
  import fsspec  # Slow to import.

  try:
    system, root = fsspec.core.url_to_fs(text)
  except ValueError as error:
    raise ValueError(
      f"{text}: {error}. Give a directory, or a URL as gs://BUCKET/RUN or "
      "s3://BUCKET/RUN."
    ) from error
  except ImportError as error:
    raise ImportError(
      f"{text} needs another package: {error}. For gs:// that is gcsfs, for "
      "s3:// it is s3fs."
    ) from error
  return ObjectStore(system, root, text)


class Directory:
  """A directory of a file system with hard links."""

  def __init__(self, path: pathlib.Path):
    """At `path`."""
    self.path = path

  def exists(self) -> bool:
    """See `Folder`."""
    if self.path.exists() and not self.path.is_dir():
      raise ValueError(f"{self.path} is a file; give a directory.")
    if self.path.is_symlink() and not self.path.exists():
      raise ValueError(f"{self.path} is a link to nowhere.")
    return self.path.is_dir()

  def is_empty(self) -> bool:
    """See `Folder`."""
    return not any(True for _ in self._entries("", deep=True))

  def create(self, name: str, data: bytes) -> bool:
    """See `Folder`."""
    place = self._place(name)
    with _written(place, data) as temporary:
      try:
        os.link(temporary, place)
      except FileExistsError:
        return False
      except OSError as error:
        if error.errno in _NO_LINKS:
          raise OSError(
            error.errno,
            f"{self.path}: this file system has no hard links, by which the "
            "first writer wins; mount another, or name an object store by its "
            "URL",
          ) from error
        raise
    base.sync(place.parent)
    return True

  def replace(self, name: str, data: bytes) -> None:
    """See `Folder`."""
    place = self._place(name)
    with _written(place, data) as temporary:
      try:
        temporary.replace(place)
      except IsADirectoryError as error:
        raise ValueError(
          f"{place} is a folder where a file belongs: remove it."
        ) from error
    base.sync(place.parent)

  def read(self, name: str) -> bytes:
    """See `Folder`."""
    path = self.path / _inside(name)
    try:
      # A pipe that nobody writes to would else be waited for.
      descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
      if error.errno in (errno.ELOOP, errno.ENXIO):
        return b""
      if error.errno == errno.ENOTDIR:
        raise FileNotFoundError(*error.args, str(path)) from error
      raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
      os.close(descriptor)
      return b""
    with open(descriptor, "rb") as file:
      return file.read()

  def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
    """See `Folder`."""
    found = {}
    for name in names:
      with contextlib.suppress(FileNotFoundError):
        found[name] = self.read(name)
    return found

  def sizes(self, folder: str = "", *, deep: bool = False) -> dict[str, int]:
    """See `Folder`."""
    found: dict[str, int] = {}
    for name, entry in self._entries(folder, deep):
      try:
        found[name] = entry.stat().st_size
      except FileNotFoundError:
        continue
      except OSError as error:  # A link to itself.
        if error.errno != errno.ELOOP:
          raise
        found[name] = 0
    return found

  def names(self, folder: str = "", *, deep: bool = False) -> set[str]:
    """See `Folder`."""
    return {name for name, _ in self._entries(folder, deep)}

  def move(self, name: str, to: str) -> None:
    """See `Folder`."""
    place = self._place(to)
    self._check_own(name)
    self._check_own(to)
    with contextlib.suppress(FileNotFoundError):
      (self.path / name).rename(place)
      base.sync((self.path / name).parent)

  def remove(self, name: str) -> None:
    """See `Folder`."""
    self._check_own(name)
    (self.path / name).unlink(missing_ok=True)

  def modified(self, name: str) -> float:
    """See `Folder`; of a link, not of what it leads to."""
    return (self.path / _inside(name)).lstat().st_mtime

  def rest(self) -> list[str]:
    """See `Folder`."""
    found = self._entries("", deep=True, drafts=True)
    return sorted(name for name, _ in found)

  def log(self, name: str) -> Log:
    """See `Folder`."""
    return _Growing(self._place(name))

  def _entries(
    self, folder: str, deep: bool, drafts: bool = False
  ) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """What is there; or, of files that are being written, all."""
    waiting = [""]
    while waiting:
      inner = waiting.pop()
      with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(self.path / folder / inner):
          name = f"{inner}{entry.name}"
          if entry.name.startswith("."):
            if drafts and _DRAFT.fullmatch(entry.name):
              yield name, entry
          elif not entry.is_dir(follow_symlinks=False):
            if not drafts:
              yield name, entry
          elif deep:
            waiting.append(f"{name}/")

  def _place(self, name: str) -> pathlib.Path:
    """Where a file is written; its folder is made.

    Raises:
      ValueError: a folder that cannot be, in /proc or under a file, say.
    """
    place = self.path / _inside(name)
    try:
      place.parent.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
      raise ValueError(
        f"{place.parent} cannot be made ({error.strerror}): a file is in its "
        "way, or no folders are made there. Choose another directory."
      ) from error
    return place

  def _check_own(self, name: str) -> None:
    """Refuses what a link within the folder would have us move or remove."""
    place = self.path / _inside(name)
    if not place.parent.resolve().is_relative_to(self.path.resolve()):
      raise ValueError(
        f"{place} lies outside {self.path}, by a link: remove the link."
      )


class ObjectStore(Folder):
  """Keys with a common beginning, in whatever fsspec opens.

  Its own retries and credentials are fsspec's.
  """

  def __init__(self, system: Any, root: str, url: str):
    """Of a file system of fsspec, below `root`.

    Raises:
      ValueError: one that cannot create on a condition.
    """
    self.path, self._fs, self._root = url.rstrip("/"), system, root.rstrip("/")
    writer = getattr(system, "_pipe_file", system.pipe_file)
    if "mode" not in inspect.signature(writer).parameters:
      raise ValueError(
        f"{url}: the installed file system for it has no conditional create, "
        "so that two writers could overwrite each other. gs:// (gcsfs) and "
        "s3:// (s3fs) have it."
      )

  def exists(self) -> bool:
    """See `Folder`."""
    return bool(self._list(""))

  def create(self, name: str, data: bytes) -> bool:
    """See `Folder`."""
    try:
      self._fs.pipe_file(self._key(name), data, mode="create")
    except FileExistsError:
      return False
    return True

  def replace(self, name: str, data: bytes) -> None:
    """See `Folder`."""
    self._fs.pipe_file(self._key(name), data)

  def read(self, name: str) -> bytes:
    """See `Folder`."""
    return self._fs.cat_file(self._key(name))

  def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
    """See `Folder`."""
    keys = {self._key(name): name for name in names}
    if not keys:
      return {}
    # By many requests at once where the file system can.
    read = self._fs.cat(list(keys), on_error="return")
    found = {}
    for key, data in read.items():
      if isinstance(data, FileNotFoundError):
        continue
      if isinstance(data, BaseException):
        raise data
      found[keys[key]] = data
    return found

  def sizes(self, folder: str = "", *, deep: bool = False) -> dict[str, int]:
    """See `Folder`."""
    start = len(self._key(folder).rstrip("/")) + 1
    return {
      entry["name"].rstrip("/")[start:]: int(entry["size"] or 0)
      for entry in self._list(folder, deep)
      if entry["type"] == "file"
    }

  def names(self, folder: str = "", *, deep: bool = False) -> set[str]:
    """See `Folder`."""
    return set(self.sizes(folder, deep=deep))

  def move(self, name: str, to: str) -> None:
    """See `Folder`; a copy, and then the end of the first."""
    with contextlib.suppress(FileNotFoundError):
      self._fs.cp_file(self._key(name), self._key(to))
    self.remove(name)

  def remove(self, name: str) -> None:
    """See `Folder`."""
    with contextlib.suppress(FileNotFoundError):
      self._fs.rm_file(self._key(name))

  def modified(self, name: str) -> float:
    """See `Folder`."""
    return self._fs.modified(self._key(name)).timestamp()

  def rest(self) -> list[str]:
    """Nothing: an object is there whole, or not."""
    return []

  def log(self, name: str) -> Log:
    """See `Folder`."""
    return _Segments(self, name)

  def _key(self, name: str) -> str:
    return f"{self._root}/{_inside(name)}" if name else self._root

  def _list(self, folder: str, deep: bool = False) -> list[dict[str, Any]]:
    key = self._key(folder)
    self._fs.invalidate_cache()  # Others write, too.
    try:
      if deep:
        return list(self._fs.find(key, detail=True).values())
      return self._fs.ls(key, detail=True)
    except FileNotFoundError:
      return []


class _Growing:
  """A file that lines are appended to."""

  def __init__(self, place: pathlib.Path):
    # Without a buffer, which a full disk would leave unwritten.
    self._file = place.open("ab", buffering=0)

  def write(self, data: bytes) -> None:
    while data:
      data = data[self._file.write(data) :]

  def close(self) -> None:
    self._file.close()


class _Segments:
  """Objects that grow up to a size, `name.jsonl` and then `name.0001.jsonl`.

  A kill loses lines of the last seconds.
  """

  def __init__(self, folder: ObjectStore, name: str):
    self._folder, self._name = folder, name
    self._segment, self._data = 0, bytearray()
    self._written, self._sent = 0, -_PAUSE

  def write(self, data: bytes) -> None:
    self._data += data
    if time.monotonic() - self._sent >= _PAUSE:
      self._send()

  def close(self) -> None:
    self._send()

  def _send(self) -> None:
    if len(self._data) == self._written:
      return
    stem, dot, suffix = self._name.rpartition(".")
    number = f".{self._segment:04d}" if self._segment else ""
    self._folder.replace(f"{stem}{number}{dot}{suffix}", bytes(self._data))
    self._written, self._sent = len(self._data), time.monotonic()
    if self._written >= _SEGMENT:
      self._segment, self._written = self._segment + 1, 0
      self._data.clear()


def _inside(name: str) -> str:
  """A name that stays in its folder.

  Raises:
    ValueError: any other.
  """
  if name.startswith("/") or "\0" in name or ".." in name.split("/"):
    raise ValueError(f"{name!r} is no name of a file inside a folder.")
  return name


@contextlib.contextmanager
def _written(place: pathlib.Path, data: bytes):
  """The data on the disk under another name, which ends with the block."""
  temporary = base.draft(place)
  try:
    with temporary.open("xb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    yield temporary
  finally:
    temporary.unlink(missing_ok=True)
