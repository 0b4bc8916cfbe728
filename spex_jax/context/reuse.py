"""Removal without computing twice: what kept sources share is run once.

Under removal a mask is the run of its kept tokens alone. In the order of these
tokens masks are a trie: two that keep the same first sources have the same keys
and values there. Kept tokens are run in blocks of Q behind a cache, each
distinct block once for all rows that begin with it, and of a row only as many
blocks as it has: nothing is padded to the whole prompt. The last tokens, the
response and at most Q - 1 before it, are run for each row by itself.

Values are those of the whole rows, but for the order of sums in float32.

Memory: caches of G rows, S slots each, and what a program of M rows needs
beside; more rows are run in groups of G, and share within their group.

Shapes: n sources, P tokens of the prompt and response, B masks, G caches, M
rows of a program, Q tokens of a block, S slots, L tokens of the response.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.ablate import (
  absent,
  answers,
  batching,
  evaluate,
  program,
  repeats,
)
from spex_jax.ablate import text as text_lib
from spex_jax.models import attention, generate, sites, transformer
from spex_jax.models import tokens as tokens_lib

# Q and M. Short blocks share more; few rows, as first blocks are few;
# so many tokens that a program on a CPU, of 64, is not spent on reading the
# parameters. A program copies the caches of its rows, so behind long ones it is
# one row: a token of SmolLM2-135M takes 5.8 ms of a core behind 1,120 slots by
# 1 x 64, 7.8 by 2 x 32 and 8.5 by 4 x 16, and 6.9 in a whole row.
_BLOCK, _ROWS = 16, 32
_CPU_TOKENS, _CPU_LONG = 64, 512
_CPU_LIMIT = 1 << 30  # Bytes of caches.
_SHARE = 0.5  # Elsewhere of what is free: programs need memory beside.
Score = Callable[[jax.Array, jax.Array], jax.Array]


def fits(net: sites.Network, whole: text_lib.Prompt, count: int) -> bool:
  """Whether the rows of a prompt can be run behind caches.

  Of a causal model whose positions hold the padding of the last block, where a
  token that nobody owns stands before the response.
  """
  if not isinstance(net.module, transformer.Decoder):
    return False
  free = whole.players.owner[:-count] == whole.n
  room = _slots(whole, count, _block(whole)) <= net.config.max_positions
  return bool(free.any()) and room


def limit_of(memory_limit: int | None) -> int:
  """Bytes that caches may take: those given, or what this machine has."""
  devices = jax.devices()[:1]
  if memory_limit is None and devices[0].platform != "cpu":
    free = batching.memory_limit(devices)
    memory_limit = None if free is None else int(_SHARE * free)
  return _CPU_LIMIT if memory_limit is None else memory_limit


def cache_bytes(
  net: sites.Network, whole: text_lib.Prompt, count: int, dtype: Any
) -> int:
  """Of one row, where blocks have the size that they have by default."""
  slots = _slots(whole, count, _block(whole))
  return _bytes(lambda: generate.empty_caches(net.config, 1, slots, dtype))


def evaluator(
  net: sites.Network,
  whole: text_lib.Prompt,
  count: int,
  score: Score,
  *,
  params: Any,
  tokenizer: tokens_lib.Tokenizer,
  budget: int,
  batch_size: int | None = None,
  block: int | None = None,
  dtype: Any = None,
  memory_limit: int | None = None,
  remember_bytes: int = 0,
  progress: evaluate.Progress | None = None,
) -> evaluate.Evaluator:
  """A value function of removal whose rows share what they begin with.

  Args:
    net: a causal language model for which `fits`.
    whole: tokens of prompt and response, and the source of each.
    count: tokens of the response, at the end.
    score: logits `[M, L, V]` and tokens int `[M, L]` to `[M, T]`.
    params: the parameters of the network.
    tokenizer: the tokenizer of the model.
    budget: how many masks will be asked: no more caches are held.
    batch_size: rows of a program, M; None for 32, on a CPU as many as make 64
      tokens.
    block: tokens of a block, Q; None for 16, on a CPU for 64 where there are
      more than 512.
    dtype: that floating parameters are cast to; None leaves them.
    memory_limit: bytes of the caches; by default half of what an accelerator
      has free, 1 GiB on a CPU.
    remember_bytes: as for `evaluate.compiled`.
    progress: called after each group.

  Returns:
    An evaluator, bool `[B, n]` to float64 `[B, T]`, whose `stats` say the
    memory once it is prepared.

  Raises:
    MemoryError: not even one cache and those of a program fit the limit.
    ValueError: see `absent.inputs`.
  """
  block = block or _block(whole)
  rows = batch_size or (max(1, _CPU_TOKENS // block) if _on_cpu() else _ROWS)
  floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
  params = jax.tree.map(
    lambda x: jnp.asarray(x, dtype if floating(x) else None), params
  )
  sizes = _Sizes(
    sites.Model(net), score, count, block, min(rows, budget), 1,
    _slots(whole, count, block), jax.tree.leaves(params)[0].dtype,
  )  # fmt: skip
  one = _bytes(sizes.caches)
  limit = limit_of(memory_limit)
  if limit < one:
    raise MemoryError(
      f"A cache of {sizes.slots} tokens takes {one:,} bytes, and {limit:,} are "
      "allowed: raise memory_limit, or leave sources out."
    )
  # Groups of one size: a last one of few rows would share little.
  groups = -(-budget // min(limit // one, budget))
  sizes = dataclasses.replace(sizes, group=-(-budget // groups))
  trie = _Trie(whole, tokenizer, sizes, params)
  stores = [repeats.Recent(remember_bytes)] if remember_bytes else []

  def prepare(stats: evaluate.Stats) -> None:
    if stats.batch_shape is None:
      begin = time.perf_counter()
      stats.memory_bytes = trie.run.memory_bytes
      stats.compile_seconds += time.perf_counter() - begin
      stats.device = f"1 x {jax.devices()[0].device_kind}"
      stats.batch_shape = (sizes.group, whole.n)
      stats.device_batch, stats.microbatch = sizes.group, sizes.rows

  def run(found: answers.Answers, stats: evaluate.Stats) -> None:
    prepare(stats)
    begin = time.perf_counter()
    for which, values in trie.groups(found.masks):
      found.add(values, which)
      stats.batches += 1
    stats.run_seconds += time.perf_counter() - begin

  return evaluate.Evaluator(
    whole.n, run, evaluate.Stats(), progress, stores, prepare
  )


@dataclasses.dataclass(frozen=True)
class _Sizes:
  """What decides two programs; one prompt's are another's of these sizes."""

  held: sites.Model
  score: Score
  count: int  # L.
  block: int  # Q.
  rows: int  # M.
  group: int  # G.
  slots: int  # S.
  dtype: Any

  def caches(self) -> tuple[attention.Cache, ...]:
    """Of zeros, an array each, so that they can be given away."""
    made = generate.empty_caches(
      self.held.net.config, self.group, self.slots, self.dtype
    )
    return jax.tree.map(jnp.zeros_like, made)


class _Programs(NamedTuple):
  step: Callable[..., Any]
  end: Callable[..., jax.Array]
  memory_bytes: int | None


_compiled: dict[tuple[Any, ...], _Programs] = {}
_MOST_COMPILED = 8


def _programs(sizes: _Sizes, params: Any) -> _Programs:
  """Both programs, compiled once for all prompts of these sizes."""
  leaves, structure = jax.tree.flatten(params)
  key = (sizes, structure, *((x.shape, x.dtype) for x in leaves))
  if key not in _compiled:
    if len(_compiled) >= _MOST_COMPILED:
      _compiled.pop(next(iter(_compiled)))
    caches = jax.eval_shape(sizes.caches)
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
    m, last = sizes.rows, sizes.count + sizes.block
    step, end = (
      jax.jit(functools.partial(_step, sizes), donate_argnums=1)
      .lower(params, caches, of(m), of(m, sizes.block), of(), of(sizes.group))
      .compile(),
      jax.jit(functools.partial(_end, sizes))
      .lower(params, caches, of(m), of(m, last), of(m), of(m))
      .compile(),
    )
    memory = [program.memory(each, 1) for each in (step, end)]
    most = max((each for each in memory if each is not None), default=None)
    _compiled[key] = _Programs(step, end, most)
  return _compiled[key]


def _step(sizes, params, caches, rows, ids, start, takes):
  """Runs a block of some rows, and gives its keys and values to all theirs.

  Args:
    sizes: static.
    params: the parameters of the network.
    caches: the caches of G rows.
    rows: int `[M]`, whose caches the block stands behind.
    ids: int `[M, Q]`.
    start: int `[]`, its first slot.
    takes: int `[G]`, which of the M each row begins with; M for none.
  """
  chex.assert_shape([rows, ids], [(sizes.rows,), (sizes.rows, sizes.block)])
  chex.assert_shape(takes, (sizes.group,))
  behind = jax.tree.map(lambda x: x[rows], caches)
  starts = jnp.broadcast_to(start, rows.shape)
  # Its logits are not asked for, so they are not computed.
  new = generate.extend(
    sizes.held.net, params, ids, starts, behind, logits_at=jnp.zeros_like(rows)
  ).caches
  cut = lambda x: jax.lax.dynamic_slice_in_dim(x, start, sizes.block, axis=1)
  mine = (takes < sizes.rows)[:, None, None, None]

  def put(old, made):
    theirs = cut(made)[jnp.minimum(takes, sizes.rows - 1)]
    found = jnp.where(mine, theirs, cut(old))
    return jax.lax.dynamic_update_slice_in_dim(old, found, start, axis=1)

  return jax.tree.map(put, caches, new)


def _end(sizes, params, caches, rows, ids, starts, lengths):
  """What is read of the last tokens of some rows: `[M, T]`.

  Args:
    sizes: static.
    params: the parameters of the network.
    caches: the caches of G rows.
    rows: int `[M]`.
    ids: int `[M, L + Q]`, padded behind.
    starts: int `[M]`, slots.
    lengths: int `[M]`, of the tokens.
  """
  chex.assert_shape(ids, (sizes.rows, sizes.count + sizes.block))
  behind = jax.tree.map(lambda x: x[rows], caches)
  at = lengths[:, None] + jnp.arange(-sizes.count - 1, 0)[None]
  logits = generate.extend(
    sizes.held.net, params, ids, starts, behind, logits_at=at[:, :-1]
  ).logits
  return sizes.score(logits, jnp.take_along_axis(ids, at[:, 1:], axis=1))


class _Trie:
  """The plan of a prompt: which rows run which blocks."""

  def __init__(self, whole, tokenizer, sizes, params):
    self.sizes, self.params = sizes, params
    self.ids = whole.encoding.ids
    see = absent.inputs(whole, tokenizer, "remove")
    self._places = jax.jit(jax.vmap(see.places))
    self._run: _Programs | None = None

  @property
  def run(self) -> _Programs:
    if self._run is None:
      self._run = _programs(self.sizes, self.params)
    return self._run

  def groups(self, masks):
    """Rows of masks, ascending, and their values, group after group."""
    kept = self._kept(masks)
    order = sorted(range(len(masks)), key=lambda row: kept[row].tobytes())
    kept = kept[order]
    caches = self.sizes.caches()  # What a group leaves is overwritten.
    for start in range(0, len(order), self.sizes.group):
      own = [
        np.flatnonzero(row) for row in kept[start : start + self.sizes.group]
      ]
      caches = self._blocks(caches, own)
      values = self._ends(caches, own)
      which = np.array(order[start : start + self.sizes.group])
      ascending = np.argsort(which)
      yield which[ascending], values[ascending]

  def _kept(self, masks):
    """The tokens that are left under each mask: bool `[B, P]`."""
    size = 1 << max(len(masks) - 1, 0).bit_length()
    padded = np.concatenate([masks, np.repeat(masks[:1], size - len(masks), 0)])
    return np.asarray(self._places(padded))[: len(masks)] < len(self.ids)

  def _blocks(self, caches, own):
    """Runs what stands before the ends of a group's rows."""
    full = [self._full(tokens) for tokens in own]
    shared = [0, *(_common(*pair) for pair in itertools.pairwise(own))]
    for level in range(max(full)):
      stop = (level + 1) * self.sizes.block
      new: list[int] = []  # Rows that are the first with their block.
      same = False  # Whether the last of them begins as this row does.
      takes = np.full(self.sizes.group, -1)
      for row in range(len(own)):
        same &= shared[row] >= stop
        if full[row] <= level:
          continue
        if not same:
          new.append(row)
          same = True
        takes[row] = len(new) - 1
      for first in range(0, len(new), self.sizes.rows):
        some = np.array(new[first : first + self.sizes.rows])
        ids = [
          self.ids[own[row][stop - self.sizes.block : stop]] for row in some
        ]
        mine = takes - first
        mine = np.where((mine < 0) | (mine >= len(some)), self.sizes.rows, mine)
        caches = self.run.step(
          self.params, caches, *self._padded(some, np.stack(ids)),
          np.int32(stop - self.sizes.block), mine.astype(np.int32),
        )  # fmt: skip
    return caches

  def _ends(self, caches, own):
    """Values of a group's rows: `[<= G, T]`."""
    waiting = []
    for first in range(0, len(own), self.sizes.rows):
      some = np.arange(first, min(first + self.sizes.rows, len(own)))
      starts = [self._full(own[row]) * self.sizes.block for row in some]
      ends = [self.ids[own[row][start:]] for row, start in zip(some, starts)]
      ids = np.zeros((len(some), self.sizes.count + self.sizes.block), np.int32)
      for row, end in enumerate(ends):
        ids[row, : len(end)] = end
      lengths = np.array([len(end) for end in ends])
      out = self.run.end(
        self.params, caches,
        *self._padded(some, ids, np.array(starts), lengths),
      )  # fmt: skip
      waiting.append((out, len(some)))
    return np.concatenate([np.asarray(out)[:size] for out, size in waiting])

  def _padded(self, *arrays):
    """M rows of each, int32: the first one again behind them."""
    size = self.sizes.rows - len(arrays[0])
    return [
      np.concatenate([x, np.repeat(x[:1], size, axis=0)]).astype(np.int32)
      for x in arrays
    ]

  def _full(self, tokens):
    """Blocks before the end of a row."""
    return (len(tokens) - self.sizes.count - 1) // self.sizes.block


def _on_cpu() -> bool:
  return jax.devices()[0].platform == "cpu"


def _block(whole: text_lib.Prompt) -> int:
  """Tokens of a block, by default."""
  is_long = _on_cpu() and whole.num_tokens > _CPU_LONG
  return _CPU_TOKENS if is_long else _BLOCK


def _common(some: np.ndarray, other: np.ndarray) -> int:
  """How many leading numbers are the same."""
  size = min(len(some), len(other))
  differs = some[:size] != other[:size]
  return int(differs.argmax()) if differs.any() else size


def _bytes(caches) -> int:
  shapes = jax.tree.leaves(jax.eval_shape(caches))
  return sum(x.size * x.dtype.itemsize for x in shapes)


def _slots(whole: text_lib.Prompt, count: int, block: int) -> int:
  """Of a cache that takes all tokens and the padding of the end.

  Rounded up to two blocks, so that prompts share programs.
  """
  full = (whole.num_tokens - count - 1) // block
  need = (full + 1) * block + count
  return -(-need // (2 * block)) * 2 * block
