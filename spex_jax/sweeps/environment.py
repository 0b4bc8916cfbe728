"""What values may depend on besides a sweep: code, versions, the device."""

import contextlib
import pathlib
import platform
import sys
from typing import Any

_PACKAGES = ("jax", "jaxlib", "numpy", "flax", "optax", "scikit-learn")


def facts() -> dict[str, Any]:
  """What values may depend on besides a sweep: versions, and the device."""
  import importlib.metadata

  import jax

  versions = {"python": platform.python_version()}
  for package in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[package] = importlib.metadata.version(package)
  # A room imports no more than rooms; the package that it is of is there.
  package: Any = sys.modules[__name__.partition(".")[0]]
  return {
    "code": {"spex_jax": package.__version__, "commit": _commit()},
    "versions": versions,
    "device": jax.devices()[0].device_kind,
  }


def _commit() -> str | None:
  """The commit of the code, where it is a checkout; with a star if changed."""
  import subprocess

  root = pathlib.Path(__file__).resolve().parents[2]
  if not (root / ".git").exists():
    return None
  ask = lambda *words: subprocess.run(
    ["git", "-C", str(root), *words], capture_output=True, text=True
  )
  found = ask("rev-parse", "HEAD")
  if found.returncode:
    return None
  changed = ask("status", "--porcelain", "--untracked-files=no", "spex_jax")
  return found.stdout.strip() + "*" * bool(changed.stdout.strip())
