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
from typing import Any, TypeAlias

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base

# Which positions are kept: so many of the last ones, those of int `[k]`, or for
# every row its own, int `[B, k]`.
Positions: TypeAlias = int | base.Array


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
class Edges:
  """Which edges of the residual stream are cut, and what runs there instead.

  A reader sees the stream plus the sum over the writers u before it of
  `cut[u] * (ref[u] - z[u])`, where z[u] is what u writes in this run.

  Attributes:
    cut: reader to `[B|1, P|1, R, W']`: 1 where an edge is cut, 0 where it is
      whole, anything between to differentiate; R rows of the reader (its heads
      or 1) and W' writers before it (`Network.readers`). A reader that is not
      named is whole.
    ref: `[B|1, P|1, W, d]`, what each of `Network.writers` writes in another
      run (`Network.contributions`), or zeros.
  """

  cut: Mapping[str, base.Array]
  ref: base.Array


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

  def __init__(
    self,
    edits: Edits | None = None,
    captured: frozenset[str] = frozenset(),
    edges: Edges | None = None,
  ):
    self._edits = Edits() if edits is None else edits
    self._captured = captured
    self._edges = edges
    self._kept: tuple[Positions, int] | None = None
    self._writes: list[jax.Array] = []
    self._passed: set[str] = set()
    self.activations: dict[str, jax.Array] = {}

  def __call__(self, site: str, x: jax.Array, axis: int = 1) -> jax.Array:
    """The activation `x` of `site`, edited; recorded if captured.

    `axis` is that of positions; see `keep`.
    """
    self._passed.add(site)
    edits = self._edits
    if site in edits.replace:
      where, value = edits.replace[site]
      where = self._fit(site, "replace (where)", where, x, axis)
      value = self._fit(site, "replace (value)", value, x, axis)
      x = jnp.where(where, value.astype(x.dtype), x)
    if site in edits.scale:
      scale = self._fit(site, "scale", edits.scale[site], x, axis)
      x = x * scale.astype(x.dtype)
    if site in edits.add:
      add = self._fit(site, "add", edits.add[site], x, axis)
      x = x + add.astype(x.dtype)
    if site in self._captured:
      self.activations[site] = x
    return x

  def keep(self, positions: "Positions", length: int) -> None:
    """From here on some activations hold these of `length` positions alone.

    Edits may still be given for all of them: the kept ones are taken.
    """
    self._kept = positions, length

  def _fit(self, site, what, edit, x, axis):
    """An edit that fits `x`, at the positions that it still has."""
    edit = jnp.asarray(edit)
    if self._kept is not None and edit.ndim == x.ndim:
      positions, length = self._kept
      if edit.shape[axis] == length != x.shape[axis]:
        edit = take(edit, positions, axis)
    return _check(site, what, edit, x)

  def edits(self, site: str) -> bool:
    """Whether `site` is edited."""
    return site in self._edits.sites

  def wants(self, site: str) -> bool:
    """Whether `site` is edited or captured; others need not be computed."""
    return site in self._captured or self.edits(site)

  @property
  def cuts(self) -> bool:
    """Whether edges are given: then writers write and readers read."""
    return self._edges is not None

  def write(self, z: jax.Array) -> None:
    """Notes what the next writers add to the stream, `[B, P, k, d]`."""
    if self.cuts:
      self._writes.append(z)

  def read(self, reader: str, x: jax.Array, rows: int) -> jax.Array:
    """What a reader sees of the stream `x` `[B, P, d]`: `[B, P, rows, d]`.

    Raises:
      ValueError: a `cut` or `ref` that does not fit.
    """
    seen = jnp.broadcast_to(x[:, :, None], (*x.shape[:2], rows, x.shape[2]))
    if self._edges is None or reader not in self._edges.cut:
      return seen
    cut = jnp.asarray(self._edges.cut[reader]).astype(x.dtype)
    z = jnp.concatenate(self._writes, axis=2)
    ref = jnp.asarray(self._edges.ref).astype(x.dtype)
    batch, length, num, width = z.shape
    for what, got, want in (
      ("cut", cut.shape, (rows, num)),
      ("ref", ref.shape, (ref.shape[2] if ref.ndim == 4 else num, width)),
    ):
      fits = len(got) == 4 and got[2:] == want and ref.shape[2] >= num
      if not fits or got[0] not in (1, batch) or got[1] not in (1, length):
        raise ValueError(
          f"Edges: `{what}` at reader {reader!r} has shape {got}; it must be "
          f"[{batch} or 1, {length} or 1, {want[0]}, {want[1]}]."
        )
    return seen + jnp.einsum("bprw,bpwd->bprd", cut, ref[:, :, :num] - z)

  def finish(self) -> None:
    """Fails for an edit at a site that the forward did not pass.

    Raises:
      ValueError: naming the sites.
    """
    missed = sorted(self._edits.sites - self._passed)
    if missed:
      raise ValueError(
        f"Nothing passed through the edited sites {missed} in this run: an "
        "input of a block is not computed where the heads' inputs are split "
        "(`edges`, or edits at q_in, k_in or v_in); edit those instead."
      )


@dataclasses.dataclass(frozen=True)
class Network:
  """The pure face that every network of `models` shows.

  Attributes:
    module: Flax linen module; `__call__(tap, **inputs) -> (logits, hidden)`.
    config: its settings, a frozen dataclass.
    sites: the names of its sites, in the order of computation.
    example: name to a `jax.ShapeDtypeStruct` of each input, for `init`.
    no_edges: why `edges` cannot be given, for the error message; "" if they
      can.
    optional: names of inputs that may be left out.
    params: those of a checkpoint, or None.
    tokenizer: of its text, or None.
    writers: what writes to the residual stream, in order: W names.
    writer_sites: the sites whose activations, `[B, P, d]` or `[B, P, k, d]`,
      are what the writers write, in the same order.
    readers: reader to its rows and the writers before it, `(R, W')`.
  """

  module: nn.Module
  config: Any
  sites: tuple[str, ...]
  example: Mapping[str, jax.ShapeDtypeStruct]
  no_edges: str = ""
  optional: tuple[str, ...] = ()
  params: Any = dataclasses.field(default=None, repr=False, compare=False)
  tokenizer: Any = dataclasses.field(default=None, repr=False, compare=False)
  writers: tuple[str, ...] = ()
  writer_sites: tuple[str, ...] = ()
  readers: Mapping[str, tuple[int, int]] = dataclasses.field(
    default_factory=dict
  )

  def init(self, key: base.Key) -> Any:
    """Fresh parameters; `key` is consumed."""
    inputs: dict[str, Any] = {
      name: jnp.zeros(spec.shape, spec.dtype)
      for name, spec in self.example.items()
    }
    return self.module.init(key, Tap(), **inputs)["params"]

  def apply(
    self,
    params: Any,
    edits: Edits | None = None,
    edges: Edges | None = None,
    capture: Sequence[str] = (),
    **inputs: Any,
  ) -> Output:
    """Runs the network; pure and jittable.

    Args:
      params: what `init` returned, perhaps trained.
      edits: traced, or None.
      edges: None traces the plain forward; else see `Edges`. Not for every
        network.
      capture: static; patterns of site names (`*` and `?` as in `fnmatch`).
      **inputs: batched arrays, by their usual names.

    Raises:
      ValueError: an edited site, reader or capture pattern that names none,
        an edit or cut that does not fit, or edges given to a network that
        has none.
      TypeError: an input missing or not known, or edges of another type.
    """
    self._check_edges(edges)
    self._check_inputs(edits, inputs)
    tap = Tap(edits, match(self.sites, capture), edges)
    forward: Any = self.module.apply
    logits, hidden = forward({"params": params}, tap, **inputs)
    tap.finish()
    return Output(logits=logits, hidden=hidden, activations=tap.activations)

  @property
  def resumes(self) -> bool:
    """Whether `enter` and `resume` can be called."""
    return hasattr(self.module, "resume")

  def enter(
    self,
    params: Any,
    block: int,
    edits: Edits | None = None,
    **inputs: Any,
  ) -> jax.Array:
    """What enters a block: the stream `[B, P, d]` before `blocks.N`.

    Runs the embedding and the blocks before it, and nothing else.

    Args:
      params: as for `apply`.
      block: N, from 0 to the number of blocks.
      edits: of sites before block N, or None.
      **inputs: as for `apply`.

    Raises:
      TypeError: a network whose blocks cannot be run apart.
      ValueError: as `apply`, or a block that it does not have.
    """
    self._check_block(block)
    self._check_inputs(edits, inputs)
    tap = Tap(edits)
    forward: Any = self.module.apply
    x = forward({"params": params}, tap, block, method="enter", **inputs)
    tap.finish()
    return x

  def resume(
    self,
    params: Any,
    block: int,
    x: base.Array,
    edits: Edits | None = None,
    capture: Sequence[str] = (),
    **inputs: Any,
  ) -> Output:
    """The rest of a forward, from a block on: the other half of `enter`.

    Args:
      params: as for `apply`.
      block: N, the first one to run.
      x: `[B, P, d]`, what enters it.
      edits: of sites from `blocks.N.resid_pre` on, or None.
      capture: as for `apply`; of sites that are passed.
      **inputs: as for `apply`, the same that `enter` was given.

    Returns:
      As `apply`; `hidden` begins with what enters block N.

    Raises:
      TypeError, ValueError: as `enter`.
    """
    self._check_block(block)
    self._check_inputs(edits, inputs)
    tap = Tap(edits, match(self.sites, capture))
    forward: Any = self.module.apply
    logits, hidden = forward(
      {"params": params}, tap, jnp.asarray(x), block, method="resume", **inputs
    )
    tap.finish()
    return Output(logits=logits, hidden=hidden, activations=tap.activations)

  def contributions(
    self, params: Any, edits: Edits | None = None, **inputs: Any
  ) -> jax.Array:
    """What each writer adds to the residual stream: `[B, P, W, d]`.

    The `ref` of `Edges`, from a plain forward on `inputs`.

    Raises:
      ValueError: a network without edges; see also `apply`.
    """
    if self.no_edges:
      raise ValueError(f"No writers here: {self.no_edges}")
    if "logits_to_keep" in inputs:
      raise ValueError(
        "Writers are wanted at every position: leave out logits_to_keep."
      )
    out = self.apply(params, edits, capture=self.writer_sites, **inputs)
    parts = [out.activations[site] for site in self.writer_sites]
    parts = [z[:, :, None] if z.ndim == 3 else z for z in parts]
    return jnp.concatenate(parts, axis=2)

  def _check_inputs(self, edits: Edits | None, inputs: Any) -> None:
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

  def _check_block(self, block: int) -> None:
    if not self.resumes:
      raise TypeError(
        f"{type(self.module).__name__} has no stack of blocks that could be "
        "entered between two of them; use `apply`."
      )
    num_blocks = self.config.num_blocks
    if not 0 <= base.check_integer(block, "A block") <= num_blocks:
      raise ValueError(f"A block must lie in 0..{num_blocks}; got {block}.")

  def _check_edges(self, edges: Any) -> None:
    if edges is None:
      return
    if self.no_edges:
      raise ValueError(f"`edges` must be None here: {self.no_edges}")
    if not isinstance(edges, Edges):
      raise TypeError(f"edges must be sites.Edges; got {type(edges).__name__}.")
    unknown = edges.cut.keys() - self.readers.keys()
    if unknown:
      raise ValueError(
        f"No such reader: {sorted(unknown)}."
        + _close(unknown, list(self.readers))
        + f" Readers are {list(self.readers)}."
      )


def take(x: base.Array, positions: Positions, axis: int = 1) -> jax.Array:
  """Some positions of `x`, whose axis 0 is the batch and `axis` positions.

  NaN, or True, for one that `x` does not have; from -1 they count backwards.
  """
  if isinstance(positions, int):
    size = np.shape(x)[axis]
    return jax.lax.slice_in_dim(x, size - positions, size, axis=axis)
  x = jnp.asarray(x)
  if positions.ndim == 1:
    return jnp.take(x, positions, axis=axis, mode="fill")
  rows = jnp.broadcast_to(x, (len(positions), *x.shape[1:]))
  one = lambda row, at: jnp.take(row, at, axis=axis - 1, mode="fill")
  return jax.vmap(one)(rows, positions)


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
