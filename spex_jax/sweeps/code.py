"""The code behind a function: its module, and what that imports from beside it.

Imports are read, not run, so that two processes agree whatever else they have
loaded. What is imported by a name that only a run makes up is not seen, nor are
files that are read, and variables of the environment: a sweep's `files` names
the first, and nothing freezes the second.
"""

import ast
import hashlib
import pathlib
from collections.abc import Iterable, Iterator

_INSTALLED = ("site-packages", "dist-packages")


def digest(module: str, file: pathlib.Path) -> str:
  """SHA-256 of a module's file and of all that it imports from its folder.

  Args:
    module: its dotted name; packages are looked for where its first part lies.
    file: the file of it.
  """
  root = file.parents[module.count(".") + (file.name == "__init__.py")]
  # Beside an installed module lie all others, whose versions are known.
  only = module.partition(".")[0] if root.name in _INSTALLED else None
  waiting, seen = [file], {file}
  while waiting:
    one = waiting.pop()
    for name in _imported(one, root):
      top = name.partition(".")[0]
      if top == "spex_jax" or (only is not None and top != only):
        continue
      for found in _files(root, name):
        if found not in seen:
          seen.add(found)
          waiting.append(found)
  total = hashlib.sha256()
  for one in sorted(seen):
    total.update(one.relative_to(root).as_posix().encode() + b"\0")
    total.update(hashlib.sha256(one.read_bytes()).digest())
  return total.hexdigest()


def files(paths: Iterable[str]) -> dict[str, str]:
  """SHA-256 of files that values are read from, by their paths.

  Raises:
    ValueError: one that cannot be read.
  """
  found = {}
  for path in paths:
    try:
      with open(path, "rb") as file:
        found[f"file {path}"] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
      raise ValueError(f"files: {path}: {error.strerror or error}.") from error
  return found


def _imported(file: pathlib.Path, root: pathlib.Path) -> Iterator[str]:
  """Dotted names that a file may import, anywhere in it."""
  try:
    tree = ast.parse(file.read_bytes())
  except (SyntaxError, ValueError):  # It is not run, either.
    return
  package = file.parent.relative_to(root).parts
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      above = package[: len(package) - node.level + 1] if node.level else ()
      start = ".".join([*above, *([node.module] if node.module else [])])
      if start:
        yield start
      for alias in node.names:
        yield f"{start}.{alias.name}" if start else alias.name


def _files(root: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
  """Of a module below a folder, and of the packages that it is in."""
  place = root
  for part in name.split("."):
    place = place / part
    for file in (place.with_name(f"{part}.py"), place / "__init__.py"):
      if file.is_file():
        yield file
