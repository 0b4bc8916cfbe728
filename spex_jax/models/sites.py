"""Named sites in a network, and the edits applied at them.

A network calls its `Tap` once at every site, in the order of computation. The
tap edits the activation, records it where it is asked for, and hands it on.
One mechanism serves four uses: `scale` for component ablation, `replace` for
patching, `add` (differentiated) for attribution patching, and a `scale` kept
for good in model editing.
"""

import dataclasses
import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from spex_jax import base


@flax.struct.dataclass
class Edits:
  """What to do at which sites; a pytree, so edits are traced and vmapped.

  Every array has the full rank of its site's activation, with 1 where it is
  broadcast. At one site the order is replace, scale, add.

  Attributes:
    replace: site to `(where, value)`: bool and float arrays; the activation
      becomes `value` where `where` holds.
    scale: site to a factor.
    add: site to a summand.
  """

  replace: Mapping[str, tuple[base.Array, base.Array]] = flax.struct.field(
    default_factory=dict
  )
  scale: Mapping[str, base.Array] = flax.struct.field(default_factory=dict)
  add: Mapping[str, base.Array] = flax.struct.field(default_factory=dict)

  @property
  def sites(self) -> frozenset[str]:
    """The sites that are edited."""
    return frozenset((*self.replace, *self.scale, *self.add))


@flax.struct.dataclass
class Output:
  """What every network returns.

  Attributes:
    logits: the output before any normalisation.
    hidden: the activations between the layers, in order.
    activations: site to activation, after its edits, for the captured sites.
  """

  logits: jax.Array
  hidden: tuple[jax.Array, ...]
  activations: Mapping[str, jax.Array]


class Tap:
  """Edits and records activations during one forward trace."""

  def __init__(self, edits: Edits | None, captured: frozenset[str]):
    self._edits = Edits() if edits is None else edits
    self._captured = captured
    self.activations: dict[str, jax.Array] = {}

  def __call__(self, site: str, x: jax.Array) -> jax.Array:
    """The activation `x` of `site`, edited; recorded if captured."""
    edits = self._edits
    if site in edits.replace:
      where, value = edits.replace[site]
      where = _check(site, "replace (where)", where, x)
      value = _check(site, "replace (value)", value, x)
      x = jnp.where(where, value.astype(x.dtype), x)
    if site in edits.scale:
      x = x * _check(site, "scale", edits.scale[site], x).astype(x.dtype)
    if site in edits.add:
      x = x + _check(site, "add", edits.add[site], x).astype(x.dtype)
    if site in self._captured:
      self.activations[site] = x
    return x

  def edits(self, site: str) -> bool:
    """Whether `site` is edited."""
    return site in self._edits.sites

  def wants(self, site: str) -> bool:
    """Whether `site` is edited or captured; others need not be computed."""
    return site in self._captured or self.edits(site)


@dataclasses.dataclass(frozen=True)
class Network:
  """The pure face that every network of `models` shows.

  Attributes:
    module: Flax linen module; `__call__(tap, **inputs) -> (logits, hidden)`.
    config: its settings, a frozen dataclass.
    sites: the names of its sites, in the order of computation.
    example: name to a `jax.ShapeDtypeStruct` of each input, for `init`.
    no_edges: why `edges` cannot be given, for the error message.
    optional: names of inputs that may be left out.
  """

  module: nn.Module
  config: Any
  sites: tuple[str, ...]
  example: Mapping[str, jax.ShapeDtypeStruct]
  no_edges: str
  optional: tuple[str, ...] = ()

  def init(self, key: base.Key) -> Any:
    """Fresh parameters; `key` is consumed."""
    inputs: dict[str, Any] = {
      name: jnp.zeros(spec.shape, spec.dtype)
      for name, spec in self.example.items()
    }
    tap = Tap(None, frozenset())
    return self.module.init(key, tap, **inputs)["params"]

  def apply(
    self,
    params: Any,
    edits: Edits | None = None,
    edges: Any = None,
    capture: Sequence[str] = (),
    **inputs: Any,
  ) -> Output:
    """Runs the network; pure and jittable.

    Args:
      params: what `init` returned, perhaps trained.
      edits: traced, or None.
      edges: not for every network; None traces the plain forward.
      capture: static; patterns of site names (`*` and `?` as in `fnmatch`).
      **inputs: batched arrays, by their usual names.

    Raises:
      ValueError: an edited site or a capture pattern that names no site, an
        edit that does not fit its site, or edges given to a network that has
        none.
      TypeError: an input missing or not known.
    """
    if edges is not None:
      raise ValueError(f"`edges` must be None here: {self.no_edges}")
    needed = self.example.keys()
    if not needed <= inputs.keys() <= needed | set(self.optional):
      may = f" (and may have {sorted(self.optional)})" if self.optional else ""
      raise TypeError(
        f"Inputs must be {sorted(needed)}{may}; got {sorted(inputs)}."
      )
    unknown = (frozenset() if edits is None else edits.sites) - {*self.sites}
    if unknown:
      raise ValueError(
        f"No such site: {sorted(unknown)}."
        + _close(unknown, self.sites)
        + f" Sites are {list(self.sites)}."
      )
    tap = Tap(edits, match(self.sites, capture))
    forward: Any = self.module.apply
    logits, hidden = forward({"params": params}, tap, **inputs)
    return Output(logits=logits, hidden=hidden, activations=tap.activations)


def match(sites: Sequence[str], patterns: Sequence[str]) -> frozenset[str]:
  """The sites that any of the patterns names.

  Raises:
    ValueError: a pattern that names none, or a bare string of patterns.
  """
  if isinstance(patterns, str):
    raise ValueError(f"capture takes patterns; write ({patterns!r},).")
  found: set[str] = set()
  for pattern in patterns:
    hits = fnmatch.filter(sites, pattern)
    if not hits:
      raise ValueError(
        f"capture={pattern!r} names no site."
        + _close([pattern], sites)
        + f" Sites are {list(sites)}."
      )
    found.update(hits)
  return frozenset(found)


def _close(unknown: Iterable[str], sites: Sequence[str]) -> str:
  """A question after the sites that come close to the unknown ones, or ""."""
  close: list[str] = []
  for name in sorted(unknown):
    close += difflib.get_close_matches(name, sites, n=3, cutoff=0.6)
  guess = " or ".join(dict.fromkeys(close))
  return f" Did you mean {guess}?" if guess else ""


def _check(site: str, what: str, edit: base.Array, x: jax.Array) -> jax.Array:
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
