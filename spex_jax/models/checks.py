"""Names and shapes of interventions, checked: errors name what is wrong."""

import difflib
import fnmatch
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base


def match(
  sites: Sequence[str], patterns: Sequence[str], what: str = "capture"
) -> frozenset[str]:
  """The sites that any of the patterns names; `what` they are given as.

  Raises:
    ValueError: a pattern that names none, or a bare string of patterns.
  """
  if isinstance(patterns, str):
    raise ValueError(f"{what} takes patterns; write ({patterns!r},).")
  found: set[str] = set()
  for pattern in patterns:
    hits = fnmatch.filter(sites, pattern)
    if not hits:
      raise ValueError(
        f"{what}={pattern!r} names no site."
        + _close([pattern], sites)
        + f" Sites are {list(sites)}."
      )
    found.update(hits)
  return frozenset(found)


def check_known(what: str, names: Iterable[str], known: Sequence[str]) -> None:
  """Refuses names that are not known, with those that come close.

  Raises:
    ValueError: a name that is not known.
  """
  unknown = sorted({*names} - {*known})
  if unknown:
    raise ValueError(
      f"No such {what}: {unknown}."
      + _close(unknown, known)
      + f" {what.capitalize()}s are {list(known)}."
    )


def check_edge(what: str, edit: base.Array, want: tuple[int, int]) -> None:
  """Refuses an edit of edges that is not `[B or 1, P or 1, *want]`.

  Raises:
    ValueError: another shape.
  """
  got = np.shape(edit)
  if len(got) != 4 or got[2:] != want:
    raise ValueError(
      f"Edit `{what}` has shape {got}; it must be [B or 1, P or 1, {want[0]}, "
      f"{want[1]}]."
    )


def _close(unknown: Iterable[str], sites: Sequence[str]) -> str:
  """A question after the sites that come close to the unknown ones, or ""."""
  close: list[str] = []
  for name in sorted(unknown):
    close += difflib.get_close_matches(name, sites, n=3, cutoff=0.6)
  guess = " or ".join(dict.fromkeys(close))
  return f" Did you mean {guess}?" if guess else ""


def check_fits(
  site: str, what: str, edit: base.Array, x: jax.Array
) -> jax.Array:
  """The edit, if it is broadcast to the activation `x`; else refuses it.

  Raises:
    ValueError: an edit that is not broadcast to the activation.
  """
  edit = jnp.asarray(edit)
  fits = edit.ndim == x.ndim and all(
    a in (1, b) for a, b in zip(edit.shape, x.shape)
  )
  if not fits:
    raise ValueError(
      f"Edit `{what}` at site {site!r} has shape {edit.shape}; the "
      f"activation has {x.shape}. Give every axis, 1 where broadcast."
    )
  return edit
