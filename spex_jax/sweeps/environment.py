"""What values may depend on besides a sweep: code, versions, the device."""

import contextlib
import functools
import hashlib
import os
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

_PACKAGES = (
  "jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu", "numpy",
  "scipy", "flax", "optax", "scikit-learn", "pyarrow",
)  # fmt: skip
# Of JAX: what changes random bits or roundings.
_SETTINGS = (
  "jax_default_prng_impl", "jax_threefry_partitionable", "jax_enable_x64",
  "jax_default_matmul_precision",
)  # fmt: skip
# Of XLA: how many devices there are, and where it writes, changes nothing.
_HARMLESS = ("--xla_force_host_platform_device_count", "--xla_dump")


def facts(sources: Mapping[str, str] | None = None) -> dict[str, Any]:
  """What values may depend on: code, versions, and the kind of device.

  Code is known by the contents of its files: a commit that changes none of
  them is the same code, and a checkout with changes is another.

  Args:
    sources: of code besides this package, by names of its own.
  """
  import importlib.metadata

  import jax

  versions = {"python": platform.python_version()}
  for package in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[package] = importlib.metadata.version(package)
  return {
    "code": {"sources": _digest(), **(sources or {})},
    "versions": versions,
    "flags": _flags(),
    "device": _device(jax.devices()[0].device_kind),
  }


def of_process() -> dict[str, Any]:
  """What values do not depend on: how many devices, and which commit."""
  import jax

  return {"devices": jax.local_device_count(), "commit": _commit()}


def _flags() -> dict[str, Any]:
  """Settings of JAX and XLA that values depend on."""
  import jax

  words = os.environ.get("XLA_FLAGS", "").split()
  return {name: getattr(jax.config, name) for name in _SETTINGS} | {
    "xla": sorted(word for word in words if not word.startswith(_HARMLESS))
  }


def _device(kind: str) -> str:
  """The kind; of a CPU with the widest vectors, on which last digits depend."""
  if kind != "cpu":
    return kind
  with contextlib.suppress(OSError):
    words = set(pathlib.Path("/proc/cpuinfo").read_text().split())
    for name in ("avx512f", "avx2", "sve", "asimd"):
      if name in words:
        return f"cpu {platform.machine()} {name}"
  return f"cpu {platform.machine()}"


@functools.cache
def _digest() -> str:
  """Of every file of this package, by name."""
  root = pathlib.Path(__file__).resolve().parents[1]
  total = hashlib.sha256()
  for place in sorted(root.rglob("*.py")):
    total.update(place.relative_to(root).as_posix().encode() + b"\0")
    total.update(hashlib.sha256(place.read_bytes()).digest())
  return total.hexdigest()


def _commit() -> str | None:
  """The commit of the code, where it is a checkout; with a star if changed."""
  import subprocess

  root = pathlib.Path(__file__).resolve().parents[2]
  if not (root / ".git").exists():
    return None
  ask = lambda *words: subprocess.run(
    ["git", "-C", str(root), *words], capture_output=True, text=True
  )
  try:
    found = ask("rev-parse", "HEAD")
    changed = ask("status", "--porcelain", "--untracked-files=no", "spex_jax")
  except FileNotFoundError:  # No git.
    return None
  if found.returncode:
    return None
  return found.stdout.strip() + "*" * bool(changed.stdout.strip())
