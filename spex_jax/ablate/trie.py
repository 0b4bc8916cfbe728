"""Removal without computing twice: what rows begin with alike is run once.

Under removal a mask is the run of its kept tokens alone. In the order of these
tokens masks are a trie: two that keep the same first players have the same keys
and values there. The tokens of the trie are run depth first, Q at a time, each
once for all rows that begin with it. Behind a cache that holds the path to the
first of them, each sees the path and those of the Q that it follows; then those
on the path to the next token take their places in the cache. Nothing is padded
but the last Q of a call, and no cache but that of one path is held, so that any
number of masks share.

What stands before the logits is kept until a row has run to its end; then the
logits of some rows are computed at once.

Values are those of the whole rows, but for the order of sums in float32.

Shapes: n players, P tokens of the text, B masks, Q tokens of a step, S slots of
a path, K tokens at the end of the text that are predicted, L predictions of a
row, max(K, 1), E rows of logits, M rows that are held, d width.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
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
  readouts,
  repeats,
)
from spex_jax.ablate import text as text_lib
from spex_jax.models import attention, generate, rope, sites, transformer
from spex_jax.models import tokens as tokens_lib

# Q: so many that a step is not spent on reading the parameters, and few that a
# last one wastes. 32 masks of 232 tokens by SmolLM2-135M on two cores take 7 s
# by 64, 5.5 by 128, 5.6 by 192 and 6.4 by 256.
_BLOCK, _CPU_BLOCK = 1024, 128
_CALL = 1024  # Masks that are asked together: the more, the more they share.
_SLOTS = 128  # A path's are a multiple of it, so that prompts share programs.
_CPU_LIMIT = 1 << 30  # Bytes of a cache.
_SHARE = 0.5  # Elsewhere of what is free: programs need memory beside.
Score = Callable[[jax.Array, jax.Array], jax.Array]


def fits(net: sites.Network, whole: text_lib.Prompt, count: int) -> bool:
  """Whether the rows of a prompt can be run behind a cache.

  Of a causal model whose angles do not depend on the length of a text, where a
  token that nobody owns stands before the K tokens that are predicted.
  """
  if not isinstance(net.module, transformer.Decoder):
    return False
  free = whole.players.owner[: whole.num_tokens - count] == whole.n
  room = whole.num_tokens <= net.config.max_positions
  slots = _slots(whole) + _block()
  kept = not any(
    isinstance(each, rope.Rope)
    and each.by_length
    and slots > each.original_positions
    for each in (net.config.rotary, net.config.local_rotary)
  )
  return bool(free.any()) and room and kept


def limit_of(memory_limit: int | None) -> int:
  """Bytes that a cache may take: those given, or what this machine has."""
  devices = jax.devices()[:1]
  if memory_limit is None and devices[0].platform != "cpu":
    free = batching.memory_limit(devices)
    memory_limit = None if free is None else int(_SHARE * free)
  return _CPU_LIMIT if memory_limit is None else memory_limit


def cache_bytes(net: sites.Network, whole: text_lib.Prompt, dtype: Any) -> int:
  """Of the one that is held, where steps have the size of their default."""
  slots = _slots(whole) + _block()
  return _bytes(lambda: generate.empty_caches(net.config, 1, slots, dtype))


def affordable(
  net: sites.Network,
  whole: text_lib.Prompt,
  params: Any,
  *,
  dtype: Any = None,
  memory_limit: int | None = None,
) -> bool:
  """Whether a cache is worth choosing where nobody asked for one.

  It is on one device, as an evaluator of this module uses no more, and where
  the cache takes no more memory than it may. Whole rows need none.

  Args:
    net: a causal language model for which `fits`.
    whole: tokens of the text, and the player of each.
    params: the parameters of the network.
    dtype: that floating parameters are cast to; None leaves them.
    memory_limit: bytes that the cache may take; None as for `limit_of`.
  """
  if jax.device_count() > 1:
    return False
  dtype = dtype or jax.tree.leaves(params)[0].dtype
  return cache_bytes(net, whole, dtype) <= limit_of(memory_limit)


def score_of(read: readouts.Prediction) -> Score:
  """The score by which `evaluator` reads what a readout reads of whole rows.

  Args:
    read: of the K tokens at the end of the text, or of what comes next.

  Returns:
    Logits `[E, L, V]` and tokens int `[E, K]` to `[E]` or `[E, T]`.
  """

  def score(logits, predicted):
    ids = jnp.pad(predicted, ((0, 0), (1, 0)))  # And a token before them.
    return read.of(logits, {"input_ids": ids})

  return score


def evaluator(
  net: sites.Network,
  whole: text_lib.Prompt,
  count: int,
  score: Score,
  *,
  params: Any,
  tokenizer: tokens_lib.Tokenizer,
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
    whole: tokens of the text, and the player of each.
    count: K, tokens at the end of the text that are predicted, each from
      those before it; 0 to read what comes next.
    score: logits `[E, L, V]` and tokens `[E, K]` to `[E]` or `[E, T]`.
    params: the parameters of the network.
    tokenizer: the tokenizer of the model.
    batch_size: rows whose logits are computed at once, E; by default as many
      as have Q predictions, Q / L.
    block: tokens of a step, Q; None for 1,024, on a CPU for 128.
    dtype: that floating parameters are cast to; None leaves them.
    memory_limit: bytes of the cache; by default half of what an accelerator
      has free, 1 GiB on a CPU.
    remember_bytes: memory for values of earlier calls; 0 remembers none.
    progress: called after each E rows with the masks done and asked for.

  Returns:
    An evaluator, bool `[B, n]` to float64 `[B]` or `[B, T]`, whose `stats` say
    the memory once it is prepared.

  Raises:
    MemoryError: the cache exceeds the limit.
    ValueError: see `absent.inputs`.
  """
  block = block or _block()
  # Parameters as they are run, sizes, and whether the cache fits.
  floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
  params = jax.tree.map(
    lambda x: jnp.asarray(x, dtype if floating(x) else None), params
  )
  sizes = _Sizes(
    sites.Model(net), score, count, block,
    batch_size or -(-block // max(count, 1)), _slots(whole),
    jax.tree.leaves(params)[0].dtype,
  )  # fmt: skip
  need, limit = _bytes(sizes.caches), limit_of(memory_limit)
  if limit < need:
    raise MemoryError(
      f"A cache of {sizes.slots + block} tokens takes {need:,} bytes, and "
      f"{limit:,} are allowed: raise memory_limit, or leave players out."
    )
  # The evaluator: compiled when the first masks come, or when asked to.
  trie = _Trie(whole, tokenizer, sizes, params)
  stores = [repeats.Recent(remember_bytes)] if remember_bytes else []

  def prepare(stats: evaluate.Stats) -> None:
    if stats.batch_shape is None:
      begin = time.perf_counter()
      stats.memory_bytes = trie.run.memory_bytes
      stats.compile_seconds += time.perf_counter() - begin
      stats.device = f"1 x {jax.devices()[0].device_kind}"
      stats.batch_shape = (sizes.rows, whole.n)
      stats.device_batch, stats.microbatch = sizes.rows, sizes.rows

  def run(found: answers.Answers, stats: evaluate.Stats) -> None:
    prepare(stats)
    begin = time.perf_counter()
    for which, values in trie.values(found.masks):
      found.add(values, which)
      stats.batches += 1
    stats.run_seconds += time.perf_counter() - begin

  made = evaluate.Evaluator(
    whole.n, run, evaluate.Stats(), progress, stores, prepare
  )
  made.batch_size = _CALL
  return made


@dataclasses.dataclass(frozen=True)
class _Sizes:
  """What decides two programs; the score that of reading alone."""

  model: sites.Model
  score: Score | None
  count: int  # K.
  block: int  # Q.
  rows: int  # E.
  slots: int  # S.
  dtype: Any

  @property
  def reads(self) -> int:
    """L."""
    return max(self.count, 1)

  @property
  def held(self) -> int:
    """M: a step ends at most Q / L + 1 rows, and E are waited for."""
    return self.rows + self.block // self.reads + 2

  def caches(self) -> tuple[attention.Cache, ...]:
    """Of zeros, an array each, so that they can be given away."""
    made = generate.empty_caches(
      self.model.net.config, 1, self.slots + self.block, self.dtype
    )
    return jax.tree.map(jnp.zeros_like, made)

  def ends(self) -> jax.Array:
    """What stands before the logits of M rows: `[M L, d]`, zeros."""
    width = self.model.net.config.width
    return jnp.zeros((self.held * self.reads, width), self.dtype)


class _Programs(NamedTuple):
  step: Callable[..., Any]
  read: Callable[..., jax.Array]
  memory_bytes: int | None


_compiled: dict[tuple[Any, ...], Any] = {}
_MOST_COMPILED = 16


def _programs(sizes: _Sizes, params: Any) -> _Programs:
  """Both programs; steps are compiled once for all prompts of these sizes."""
  caches, ends = jax.eval_shape(sizes.caches), jax.eval_shape(sizes.ends)
  of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
  q, e = sizes.block, sizes.rows
  sees = jax.ShapeDtypeStruct((q, sizes.slots + q), jnp.bool_)
  told = (of(q), of(q), sees, of(q), of(q), of())
  step = _once(
    _step, dataclasses.replace(sizes, score=None), params, caches, ends, *told,
    donate_argnums=(1, 2),
  )  # fmt: skip
  read = _once(_read, sizes, params, ends, of(e), of(sizes.count))
  memory = [program.memory(each, 1) for each in (step, read)]
  most = max((each for each in memory if each is not None), default=None)
  return _Programs(step, read, most)


def _once(
  f: Callable[..., Any], sizes: _Sizes, params: Any, *given, **settings
):
  """`f` of these sizes and parameters, compiled the first time."""
  leaves, structure = jax.tree.flatten(params)
  key = (f, sizes, structure, *((x.shape, x.dtype) for x in leaves))
  if key not in _compiled:
    if len(_compiled) >= _MOST_COMPILED:
      _compiled.pop(next(iter(_compiled)))
    lowered = jax.jit(functools.partial(f, sizes), **settings).lower(
      params, *given
    )
    _compiled[key] = lowered.compile()
  return _compiled[key]


def _step(
  sizes, params, caches, ends, ids, places, sees, goes, path, start
):  # fmt: skip
  """Runs Q tokens of the trie.

  Args:
    sizes: static.
    params: the parameters of the network.
    caches: the path before the first of them, in slots 0..S-1.
    ends: what stands before the logits of the last rows, `[M L, d]`.
    ids: int `[Q]`.
    places: int `[Q]`, how deep each stands.
    sees: bool `[Q, S + Q]`, the slots and the tokens of these that each sees.
    goes: int `[Q]`, where in `ends` each is kept; M L for nowhere.
    path: int `[Q]`, the tokens of these that are on the path to the next one,
      padded behind.
    start: int `[]`, the slot of the first of them.
  """
  chex.assert_shape([ids, places, goes, path], (sizes.block,))
  chex.assert_shape(sees, (sizes.block, sizes.slots + sizes.block))
  out = generate.extend(
    sizes.model.net, params, ids[None], sizes.slots, caches,
    attention_mask=sees[None], position_ids=places[None],
    capture=("final_norm.in",),
  )  # fmt: skip

  def follow(cache):
    new = jnp.take(cache, sizes.slots + path, axis=1)
    return jax.lax.dynamic_update_slice_in_dim(cache, new, start, axis=1)

  found = out.activations["final_norm.in"][0]
  ends = ends.at[goes].set(found.astype(ends.dtype), mode="drop")
  return jax.tree.map(follow, out.caches), ends


def _read(sizes, params, ends, rows, predicted):
  """What is read of some rows: `[E]` or `[E, T]`.

  Args:
    sizes: static.
    params: the parameters of the network.
    ends: `[M L, d]`.
    rows: int `[E]`, of the M.
    predicted: int `[K]`.
  """
  chex.assert_shape([rows, predicted], [(sizes.rows,), (sizes.count,)])
  net = sizes.model.net
  x = ends.reshape(sizes.held, sizes.reads, -1)[rows]
  words = jnp.broadcast_to(predicted, (sizes.rows, sizes.count))
  ids = jnp.zeros(x.shape[:2], jnp.int32)  # Past the embedding: any will do.
  last = net.config.num_blocks
  return sizes.score(net.resume(params, last, x, input_ids=ids).logits, words)


class _Step(NamedTuple):
  """What `_step` is told of Q tokens, and how many rows they complete."""

  ids: np.ndarray
  places: np.ndarray
  sees: np.ndarray
  goes: np.ndarray
  path: np.ndarray
  start: np.int32
  done: int


class _Trie:
  """The rows of a prompt, as steps."""

  def __init__(self, whole, tokenizer, sizes, params):
    self.sizes, self.params = sizes, params
    self.ids = np.asarray(whole.encoding.ids, np.int32)
    see = absent.inputs(whole, tokenizer, "remove")
    self._places = jax.jit(jax.vmap(see.places))
    self._run: _Programs | None = None

  @property
  def run(self) -> _Programs:
    if self._run is None:
      self._run = _programs(self.sizes, self.params)
    return self._run

  def values(self, masks):
    """Rows of masks, and their values, some at a time."""
    # Ascending, a row that ends comes before those that go on with a player:
    # so the tokens before its end are computed with it.
    kept, which = np.unique(self._kept(masks), axis=0, return_inverse=True)
    which = which.ravel()
    order = np.argsort(which, kind="stable")
    bounds = np.searchsorted(which[order], np.arange(len(kept) + 1))
    caches, ends = self.sizes.caches(), self.sizes.ends()
    predicted = self.ids[len(self.ids) - self.sizes.count :]
    done, told = 0, 0
    for step in self._steps(kept):
      caches, ends = self.run.step(self.params, caches, ends, *step[:-1])
      done += step.done
      while done - told >= self.sizes.rows or told < done == len(kept):
        rows = np.arange(told, min(told + self.sizes.rows, done))
        some = np.resize(rows % self.sizes.held, self.sizes.rows)
        found = np.asarray(
          self.run.read(self.params, ends, some.astype(np.int32), predicted)
        )
        told += len(rows)
        of = [order[bounds[row] : bounds[row + 1]] for row in rows]
        back = np.repeat(np.arange(len(rows)), [len(each) for each in of])
        yield np.concatenate(of), found[back]

  def _kept(self, masks):
    """The tokens that are left under each mask: bool `[B, P]`."""
    size = 1 << max(len(masks) - 1, 0).bit_length()
    padded = np.concatenate([masks, np.repeat(masks[:1], size - len(masks), 0)])
    return np.asarray(self._places(padded))[: len(masks)] < len(self.ids)

  def _steps(self, kept) -> Iterator[_Step]:
    """The tokens of the trie, depth first, Q at a time."""
    sizes = self.sizes
    if sizes.count:  # Nothing is read at the last token.
      kept = kept[:, :-1]
    node = np.zeros(0, np.int64)  # Of the last row, the number of each token.
    before, total, room = np.zeros(0, np.int64), 0, sizes.block
    step = self._empty()
    for row, mask in enumerate(kept):
      own = np.flatnonzero(mask)
      shared = _common(before, own)
      node = np.concatenate(
        [node[:shared], total + np.arange(len(own) - shared)]
      )
      total, before, at = total + len(own) - shared, own, shared
      read = len(own) - sizes.reads  # Where the first prediction is made.
      while at < len(own):
        # A piece of this row, as long as there is room in the step.
        first, begin = sizes.block - room, total - len(own) + at
        stop = min(at + room, len(own))
        here = slice(first, first + stop - at)
        step.ids[here] = self.ids[own[at:stop]]
        step.places[here] = np.arange(at, stop)
        # The path in the cache is of the tokens before this step.
        fork = int(np.searchsorted(node[:at], begin - first))
        step.sees[here, :fork] = True
        inside = node[fork:at] - (begin - first)
        step.sees[here, sizes.slots + inside] = True
        step.sees[here, sizes.slots + first :][:, : stop - at] = np.tri(
          stop - at, dtype=bool
        )
        places = np.arange(max(at, read), stop)
        slot = row % sizes.held * sizes.reads
        step.goes[first + places - at] = slot + places - read
        room -= stop - at
        at = stop
        done = step.done + (at == len(own))
        step = step._replace(done=done)
        if not room or (row == len(kept) - 1 and at == len(own)):
          # Those of this step that the next one stands behind.
          path = node[fork:at] - (begin - first)
          step.path[: len(path)] = path
          yield step._replace(start=np.int32(fork))
          step, room = self._empty(), sizes.block

  def _empty(self) -> _Step:
    q, slots = self.sizes.block, self.sizes.slots
    zeros = lambda: np.zeros(q, np.int32)
    sees = np.zeros((q, slots + q), bool)
    nowhere = np.full(q, self.sizes.held * self.sizes.reads, np.int32)
    return _Step(zeros(), zeros(), sees, nowhere, zeros(), np.int32(0), 0)


def _block() -> int:
  """Tokens of a step, by default."""
  return _CPU_BLOCK if jax.devices()[0].platform == "cpu" else _BLOCK


def _common(some: np.ndarray, other: np.ndarray) -> int:
  """How many leading numbers are the same."""
  size = min(len(some), len(other))
  differs = some[:size] != other[:size]
  return int(differs.argmax()) if differs.any() else size


def _bytes(caches) -> int:
  shapes = jax.tree.leaves(jax.eval_shape(caches))
  return sum(x.size * x.dtype.itemsize for x in shapes)


def _slots(whole: text_lib.Prompt) -> int:
  """Of a path, which has all tokens at most."""
  return -(-whole.num_tokens // _SLOTS) * _SLOTS
