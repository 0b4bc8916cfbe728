"""Named sites in a network, and the edits applied at them.

A network calls its `Tap` once at every site, in the order of computation. The
tap edits the activation, records it where it is asked for, and hands it on.
One mechanism serves five uses: `scale` for component ablation, `replace` for
patching, `add` (differentiated) for attribution patching, `cut` for circuits
and paths, and a `scale` kept for good in model editing.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.models import checks, cut_edges

# Which positions are kept: so many of the last ones, those of int `[k]`, or for
# every row its own, int `[B, k]`.
Positions: TypeAlias = int | base.Array


@flax.struct.dataclass
class Edits:
  """An intervention: what to do at which sites and edges.

  A pytree, so that interventions are traced, vmapped and differentiated. At a
  site every array has the full rank of the activation, with 1 where it is
  broadcast; the order is replace, scale, add.

  An edge leads from a writer of the residual stream to a reader of it. A reader
  sees the stream plus the sum over the writers u before it of
  `cut[u] * (ref[u] - z[u])`, where z[u] is what u writes in this run. A reader
  has the name of its site, where edits see what it reads.

  Attributes:
    replace: site to `(where, value)`: bool and float arrays; the activation
      becomes `value` where `where` holds.
    scale: site to what its activation is multiplied by.
    add: site to what is added to its activation.
    cut: reader to `[B|1, P|1, R, W']`: 1 where an edge is cut, 0 where it is
      whole, anything between to differentiate; R rows of the reader (its heads
      or 1) and W' writers before it (`Network.readers`). A reader that is not
      named is whole.
    ref: `[B|1, P|1, W, d]`, what each of `Network.writers` writes in another
      run (`Network.contributions`), or zeros; None where nothing is cut.
  """

  replace: Mapping[str, tuple[base.Array, base.Array]] = flax.struct.field(
    default_factory=dict
  )
  scale: Mapping[str, base.Array] = flax.struct.field(default_factory=dict)
  add: Mapping[str, base.Array] = flax.struct.field(default_factory=dict)
  cut: Mapping[str, base.Array] = flax.struct.field(default_factory=dict)
  ref: base.Array | None = None

  @property
  def sites(self) -> frozenset[str]:
    """The sites that are edited; readers are not among them."""
    return frozenset((*self.replace, *self.scale, *self.add))


@flax.struct.dataclass
class Output:
  """What every network returns.

  Attributes:
    logits: float, the output before any normalisation, such as `[B, K]`.
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
  ):
    self._edits = Edits() if edits is None else edits
    self._captured = captured
    self._kept: dict[int, Positions] = {}
    self._edges: cut_edges.Once | cut_edges.Differences | None = None
    cut, ref = self._edits.cut, self._edits.ref
    if cut and ref is not None:
      self._edges = cut_edges.tracker(cut, ref, self._taken)
    self._passed: set[str] = set()
    self.activations: dict[str, jax.Array] = {}

  def __call__(self, site: str, x: jax.Array, axis: int = 1) -> jax.Array:
    """The activation `x` of `site`, edited; recorded if captured.

    `axis` is that of positions; see `keep`.

    Raises:
      ValueError: an edit of another shape, or a `where` that is not bool.
    """
    self._passed.add(site)
    edits = self._edits
    if site in edits.replace:
      where, value = edits.replace[site]
      if jnp.result_type(where) != jnp.bool_:
        raise ValueError(
          f"Edit `replace (where)` at site {site!r} must be bool; got "
          f"{jnp.result_type(where)}. Write where > 0, or whatever is meant."
        )
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

  def keep(self, positions: Positions, length: int) -> None:
    """From here on some activations hold these of `length` positions alone.

    Edits may still be given for all of them: the kept ones are taken.
    """
    self._kept[length] = positions

  def _fit(self, site, what, edit, x, axis):
    """An edit that fits `x`, at the positions that it still has."""
    edit = jnp.asarray(edit)
    if self._kept and edit.ndim == x.ndim:
      edit = self._taken(edit, axis, x.shape[axis])
    return checks.check_fits(site, what, edit, x)

  def _taken(self, edit, axis, size):
    """Of an edit of more positions, those of an activation of `size`."""
    while edit.shape[axis] != size and edit.shape[axis] in self._kept:
      edit = take(edit, self._kept[edit.shape[axis]], axis)
    return edit

  def edits(self, site: str) -> bool:
    """Whether `site` is edited."""
    return site in self._edits.sites

  def wants(self, site: str) -> bool:
    """Whether `site` is edited or captured; others need not be computed."""
    return site in self._captured or self.edits(site)

  @property
  def splits(self) -> bool:
    """Whether a reader is cut that is still to come: then writers write."""
    return not self._edits.cut.keys() <= self._passed

  def write(self, z: cut_edges.Written) -> None:
    """Notes what the next writers add to the stream."""
    if self._edges is not None and self.splits:
      self._edges.write(z)

  def read(self, x: jax.Array, *readers: str) -> dict[str, jax.Array]:
    """What those of the readers that are cut see: `[R, B, P, d]` each.

    Args:
      x: `[B, P, d]`, the stream where they read it.
      *readers: the names of all readers at this point.

    Raises:
      ValueError: a `cut` that does not fit.
    """
    if self._edges is None:
      return {}
    self._passed.update(readers)
    return self._edges.read(readers, x)

  def finish(self) -> None:
    """Fails for what the forward did not pass: an edit, a cut, a capture.

    Raises:
      ValueError: naming the sites.
    """
    edited = {*self._edits.sites, *self._edits.cut}
    for what, wanted in (("edited", edited), ("captured", self._captured)):
      missed = sorted(wanted - self._passed)
      if missed:
        raise ValueError(
          f"Nothing passed through the {what} sites {missed} in this run; "
          "attn.in is not computed where heads' inputs are split (by `cut`, or "
          "an edit at q_in, k_in or v_in): take those."
        )


@dataclasses.dataclass(frozen=True)
class Network:
  """The pure face that every network of `models` shows.

  Attributes:
    module: Flax linen module; `__call__(tap, **inputs) -> (logits, hidden)`.
    config: the settings of the module, a frozen dataclass.
    sites: the names of its sites, in the order of computation.
    example: name to a `jax.ShapeDtypeStruct` of each input, for `init`.
    no_edges: why no edge can be cut, for the error message; "" if they can.
    optional: names of inputs that may be left out.
    params: those of a checkpoint, or None.
    tokenizer: the tokenizer of its text, or None.
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
    capture: Sequence[str] = (),
    **inputs: Any,
  ) -> Output:
    """Runs the network; pure and jittable.

    Args:
      params: the parameters: what `init` returned, perhaps trained.
      edits: the intervention, traced; None for the plain forward. Edges can
        be cut only where `no_edges` is "".
      capture: static; patterns of site names (`*` and `?` as in `fnmatch`).
      **inputs: batched arrays, by their usual names.

    Raises:
      ValueError: a capture pattern that names no site; see also `check`.
      TypeError: an input missing or not known; see also `check`.
    """
    self.check(edits)
    self._check_inputs(inputs)
    tap = Tap(edits, checks.match(self.sites, capture))
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
      params: the parameters, as for `apply`.
      block: N, from 0 to the number of blocks.
      edits: the edits of sites before block N, or None.
      **inputs: batched arrays by name, as for `apply`.

    Raises:
      TypeError: a network whose blocks cannot be run apart.
      ValueError: as `apply`, or a block that it does not have.
    """
    self._check_block(block)
    self.check(edits)
    self._check_inputs(inputs)
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
    *,
    written: base.Array | None = None,
    **inputs: Any,
  ) -> Output:
    """The rest of a forward, from a block on: the other half of `enter`.

    Edges into block N and later are cut as in a whole forward, at the cost of
    these blocks alone; `written` tells what was written before.

    Args:
      params: the parameters, as for `apply`.
      block: N, the first one to run.
      x: `[B, P, d]`, what enters it.
      edits: the edits of sites from `blocks.N.resid_pre` on, and readers; or
        None.
      capture: as for `apply`; a pattern of many names stands for those of
        them that are still to come.
      written: `[B, P, W', d]`, what the writers before block N write in the run
        that gave `x`, as `contributions` has it (what follows is ignored);
        needed where edges are cut.
      **inputs: as for `apply`, the same that `enter` was given.

    Returns:
      As `apply`; `hidden` begins with what enters block N.

    Raises:
      TypeError, ValueError: as `enter`.
    """
    self._check_block(block)
    self.check(edits)
    self._check_inputs(inputs)
    tap = Tap(edits, self._still(block, capture))
    if edits is not None and edits.cut:
      tap.write(self._written(block, written))
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

    The `ref` of `Edits`, from a forward on `inputs` under `edits`.

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
    return cut_edges.stacked([out.activations[s] for s in self.writer_sites])

  def given(self, params: Any = None) -> Any:
    """These parameters, or the network's own by default.

    Raises:
      ValueError: it has none.
    """
    params = self.params if params is None else params
    if params is None:
      raise ValueError("This network has no parameters: give `params`.")
    return params

  def check(self, edits: Edits | None) -> None:
    """Fails for an intervention that fits no run of this network.

    Raises:
      TypeError: `edits` of another type.
      ValueError: an unknown site or reader, a cut in a network without edges
        or without `ref`, or a `cut` or `ref` of a shape that fits no input.
    """
    if edits is None:
      return
    if not isinstance(edits, Edits):
      raise TypeError(f"edits must be sites.Edits; got {type(edits).__name__}.")
    checks.check_known("site", edits.sites, self.sites)
    if not edits.cut and edits.ref is None:
      return
    if self.no_edges:
      raise ValueError(f"No edge can be cut here: {self.no_edges}")
    checks.check_known("reader", edits.cut, tuple(self.readers))
    for reader, cut in edits.cut.items():
      checks.check_edge(f"cut[{reader!r}]", cut, self.readers[reader])
    if edits.ref is not None:
      checks.check_edge(
        "ref", edits.ref, (len(self.writers), self.config.width)
      )
    elif edits.cut:
      raise ValueError(
        f"Edges into {sorted(edits.cut)} are cut: give `ref`, what the writers "
        "write instead (`Network.contributions` of another run, or zeros)."
      )

  def _check_inputs(self, inputs: Any) -> None:
    needed = self.example.keys()
    if not needed <= inputs.keys() <= needed | set(self.optional):
      may = f" (and may have {sorted(self.optional)})" if self.optional else ""
      raise TypeError(
        f"Inputs must be {sorted(needed)}{may}; got {sorted(inputs)}."
      )

  def _still(self, block: int, capture: Sequence[str]) -> frozenset[str]:
    """The captured sites without those that a pattern names before a block."""
    found = checks.match(self.sites, capture)
    starts = tuple(f"blocks.{number}." for number in range(block))
    gone = {
      site for site in found if site.startswith(("embed", *starts))
    }.difference(capture)
    return found - gone or found

  def _written(self, block: int, written: base.Array | None) -> jax.Array:
    """Of what was written, that by the writers before a block."""
    heads = f"blocks.{block}.heads.0"
    num = [*self.writers, heads].index(heads)
    got = getattr(written, "shape", None)
    if written is None or got is None or len(got) != 4 or got[2] < num:
      raise ValueError(
        f"Edges are cut behind block {block}: `written` must be [B, P, {num}, "
        f"d], what the writers before it write (`contributions`); got {got}."
      )
    return jnp.asarray(written)[:, :, :num]

  def _check_block(self, block: int) -> None:
    if not self.resumes:
      raise TypeError(
        f"{type(self.module).__name__} has no stack of blocks that could be "
        "entered between two of them; use `apply`."
      )
    num_blocks = self.config.num_blocks
    if not 0 <= base.check_integer(block, "A block") <= num_blocks:
      raise ValueError(f"A block must lie in 0..{num_blocks}; got {block}.")


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


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """A network without parameters as a static argument of `jax.jit`.

  Two are equal where their modules are: then a program is traced once.

  Attributes:
    net: any network; what it holds as parameters is left out.
  """

  net: Network

  def __post_init__(self):
    bare = dataclasses.replace(self.net, params=None, tokenizer=None)
    object.__setattr__(self, "net", bare)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Model) and self.net.module == other.net.module

  def __hash__(self) -> int:
    return hash(self.net.module)
