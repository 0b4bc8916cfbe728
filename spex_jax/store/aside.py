"""What lies in quarantine, though it is sound.

An earlier release put aside what a machine without memory or without a codec
could not read. What was put aside on purpose, to be asked again (`.note`), is
none of this.
"""

import contextlib
import hashlib
import re

from spex_jax.store import ledger, manifests

_PART = re.compile(r"((\d{8,})\.[0-9a-f]{8})\.(json|parquet|txt|note)")


def sound(book: ledger.Ledger) -> list[str]:
  """Names of the files of shards that fit their SHA-256, and are nowhere else.

  A shard that was made again, to the same bytes, is not among them.
  """
  parts: dict[str, tuple[int, set[str]]] = {}
  for name in book.folder.names(ledger.QUARANTINE):
    if match := _PART.fullmatch(name):
      parts.setdefault(match[1], (int(match[2]), set()))[1].add(match[3])
  found: list[str] = []
  for stem, (index, kinds) in sorted(parts.items()):
    place = f"{ledger.QUARANTINE}/{stem}"
    if "note" not in kinds and _is_sound(book, index, place):
      found += [f"{place}.{kind}" for kind in sorted(kinds)]
  return found


def _is_sound(book: ledger.Ledger, index: int, place: str) -> bool:
  """Whether this machine would lose rows with it."""
  try:
    data = book.folder.read(f"{place}.json")
    told = manifests.checked(data, place, index, None)["file_sha256"]
    rows = book.folder.read(f"{place}.parquet")
  except (FileNotFoundError, ledger.DamagedError):
    return False
  if hashlib.sha256(rows).hexdigest() != told:
    return False
  with contextlib.suppress(KeyError, ledger.DamagedError):
    return book.manifest(index)["file_sha256"] != told
  return True
