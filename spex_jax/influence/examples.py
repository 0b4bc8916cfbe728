"""Training examples as players: retrained without the absent ones, in batches.

A `Retrainer` is a `ValueFn` with T = test points: a mask says which examples,
or groups of them, take part; the values are outputs on the test points after
training on those. Thousands of trainings run as one compiled program
(`evaluate.compiled`): one `vmap` over masks, sharded over devices.

Randomness is a choice. With `common` random numbers, all masks of a seed index
share one initialisation and one order of examples, so that two masks differ by
their examples alone; orders and, with weight masks, batches are then the same
arrays for all masks, and the first layer of all trainings is one matrix
product. With `independent` seeds, each mask and seed index draws its own, and
values are noisy by design: `noise` measures how much. Keys derive from the
retrainer's key, the hash of the packed mask, and the seed index; never from
the place of a mask in a request.

Memory: see `replica_formula`.

Shapes: n players, N training examples, B masks, T test points.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import evaluate, features, program
from spex_jax.influence import subsets
from spex_jax.masks import packing
from spex_jax.training import learners, loop

Seeds = Literal["common", "independent"]
_KEY_BITS = 64
_CHECK_BYTES = 1 << 26  # Of masks as floats, where they are checked.


@dataclasses.dataclass(frozen=True)
class Runs:
  """Trainings of one seed index.

  Attributes:
    values: float64 `[B, T]`; NaN where a training diverged.
    diverged: bool `[B]`: its loss or an output was not finite.
  """

  values: np.ndarray
  diverged: np.ndarray


class Retrainer:
  """A `ValueFn`: bool `[B, n]` to float64 `[B, T]`, by retraining."""

  def __init__(
    self,
    learner: learners.Learner,
    data: Any,
    test: Any,
    *,
    key: base.Key,
    seeds: Seeds,
    num_seeds: int = 1,
    players: features.Players | None = None,
    degenerate: Literal["refuse", "train"] = "refuse",
    dtype: Literal["float32", "float64"] = "float32",
    batch_size: int | None = None,
    microbatch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    memory_limit: int | None = None,
    progress: evaluate.Progress | None = None,
  ):
    """Checks everything; nothing is trained yet.

    Args:
      learner: the learner to retrain.
      data: pytree of arrays with a leading axis N.
      test: pytree of arrays with a leading axis T.
      key: consumed; all initialisations and orders derive from it.
      seeds: `common` or `independent` random numbers; see above.
      num_seeds: seed indices that a call averages over.
      players: groups of examples, by `subsets.players_of` say; one player per
        example by default. Examples that nobody owns always take part.
      degenerate: whether masks that keep no example, or those of one class
        only, are an error, or trained like any other.
      dtype: the dtype of data, weights and solutions.
      batch_size: trainings in a call; None measures (`evaluate.compiled`).
      microbatch: trainings in one `vmap` on one device; None measures, or
        takes the batch. Values are the same bit for bit on any number of
        devices and with any `batch_size` at the same `microbatch`.
      devices: the devices to train on; all of this process by default.
      memory_limit: bytes a program may need, as in `evaluate.compiled`.
      progress: called after each batch.

    Raises:
      TypeError: labels that are no integers.
      ValueError: data with NaN or infinity, labels out of range, arrays or
        players of other lengths, or an unknown choice.
    """
    # Choices and data, checked and cast.
    if seeds not in ("common", "independent"):
      raise ValueError(f"seeds={seeds!r}: choose common or independent.")
    if degenerate not in ("refuse", "train"):
      raise ValueError(f"degenerate={degenerate!r}: choose refuse or train.")
    if dtype not in ("float32", "float64"):
      raise ValueError(f"dtype={dtype!r}: choose float32 or float64.")
    if base.check_integer(num_seeds, "num_seeds") < 1:
      raise ValueError(f"num_seeds must be at least 1; got {num_seeds}.")
    cast = lambda leaf: _cast(leaf, dtype)
    data, test = jax.tree.map(cast, data), jax.tree.map(cast, test)
    num_examples = len(jax.tree.leaves(data)[0])
    loop.check(data, np.ones(num_examples))
    loop.check(test, np.ones(len(jax.tree.leaves(test)[0])))
    # Players and classes of the examples.
    self.learner, self.seeds, self.num_seeds = learner, seeds, num_seeds
    self.players = players or subsets.players_of(np.arange(num_examples))
    if self.players.owner.shape != (num_examples,):
      raise ValueError(
        f"These players own examples of shape {self.players.owner.shape}; "
        f"there are {num_examples}."
      )
    self.n = self.players.n
    self.degenerate, self.dtype = degenerate, dtype
    self._classes = None
    if learner.classes is not None:
      self._classes = learner.classes(data)
      learner.classes(test)
    self._words = np.asarray(jax.random.key_data(key), np.uint32)
    self._batching: dict[str, Any] = {
      "batch_size": batch_size,
      "microbatch": microbatch,
      "devices": devices,
      "memory_limit": memory_limit,
    }
    self._progress = progress
    self._evaluator: evaluate.Evaluator | None = None
    self.num_diverged = 0
    # What every training shares, and what a bank knows this retrainer by.
    with self._precision():
      self._shared = {
        "data": learner.prepare(data),
        "test": jax.tree.map(jnp.asarray, test),
      }
      outputs = jax.eval_shape(self._untrained, self._shared)
    self.num_targets = outputs.shape[0]
    self.config = {
      "learner": dict(learner.settings),
      "data": _digest(data),
      "test": _digest(test),
      "players": _digest(self.players.owner),
      "seeds": seeds,
      "key": self._words.ravel().tolist(),
      "degenerate": degenerate,
      "dtype": dtype,
    }

  @property
  def stats(self) -> evaluate.Stats:
    """What it has cost so far."""
    return self._prepared().stats

  @property
  def microbatch(self) -> int:
    """Trainings in one `vmap`; measured first if it was not given."""
    microbatch = self._prepared().prepare().microbatch
    assert microbatch is not None
    return microbatch

  def fix(self, microbatch: int) -> None:
    """Sets the microbatch, before anything is trained.

    Raises:
      ValueError: another one is in use already.
    """
    if self._batching["microbatch"] == microbatch:
      return
    if self._evaluator is not None or self._batching["microbatch"] is not None:
      raise ValueError(
        f"These values are made {microbatch} at a time, and this retrainer "
        "makes another number; give it microbatch="
        f"{microbatch}, or None."
      )
    self._batching["microbatch"] = microbatch

  def run(self, masks: base.Masks, seed: int = 0) -> Runs:
    """Trains once for every distinct mask, at one seed index.

    Raises:
      ValueError: masks of other players, none, one that keeps no example or
        one class only (unless `degenerate` is `train`), or more examples than
        the learner's capacity.
    """
    masks = base.check_masks(masks, self.n)
    self.check(masks)
    with self._precision():
      evaluator = self._prepared()
      if self.seeds == "common":
        evaluator.share(self._operands(seed))
        answers = evaluator(masks)
      else:
        answers = evaluator(np.hstack([masks, self._key_bits(masks, seed)]))
    values, diverged = answers[:, :-1].copy(), answers[:, -1] > 0
    values[diverged] = np.nan
    self.num_diverged += int(diverged.sum())
    return Runs(values, diverged)

  def __call__(self, masks: base.Masks) -> np.ndarray:
    """Values float64 `[B, T]`: means over the seeds that did not diverge.

    Raises:
      ValueError: what `run` refuses, or a mask whose trainings all diverged.
    """
    runs = [self.run(masks, seed) for seed in range(self.num_seeds)]
    return mean_over_seeds(np.stack([run.values for run in runs], axis=1))

  def check(self, masks: np.ndarray) -> None:
    """Refuses masks that cannot be trained on; see `run`."""
    # Groups and classes are counted, a player at a time: `[B, n] @ [n, C]`.
    owner = self.players.owner
    classes = self._classes
    if classes is None:
      classes = np.zeros(len(owner), np.int64)
    table = np.zeros((self.n + 1, classes.max() + 1))
    np.add.at(table, (owner, classes), 1)
    # By parts: the product copies its masks into floats.
    rows = max(1, _CHECK_BYTES // (8 * self.n))
    parts = [
      masks[start : start + rows] @ table[:-1]
      for start in range(0, len(masks), rows)
    ]
    counts = np.concatenate(parts) + table[-1:]
    total = counts.sum(axis=1)
    capacity = self.learner.capacity
    if capacity is not None and (total > capacity).any():
      row = int(total.argmax())
      raise ValueError(
        f"Mask {row} keeps {total[row]:.0f} examples; the learner has room for "
        f"{capacity}. Raise its capacity, or train with weight masks "
        "(capacity=None)."
      )
    if self.degenerate == "train":
      return
    empty = total == 0
    if empty.any():
      raise ValueError(
        f"{empty.sum()} masks keep no example (first: row "
        f"{np.flatnonzero(empty)[0]}). Leave them out, or say "
        "degenerate='train'."
      )
    single = (counts > 0).sum(axis=1) == 1
    if table.shape[1] > 1 and single.any():
      raise ValueError(
        f"{single.sum()} masks keep examples of one class only (first: row "
        f"{np.flatnonzero(single)[0]}). Leave them out, or say "
        "degenerate='train'."
      )

  def noise(self, masks: base.Masks, num_seeds: int) -> "Noise":
    """How far values move with the seed alone, on some masks.

    Raises:
      ValueError: fewer than two seeds, or what `run` refuses.
    """
    if num_seeds < 2:
      raise ValueError(f"Noise shows with two seeds or more; got {num_seeds}.")
    runs = [self.run(masks, seed).values for seed in range(num_seeds)]
    return noise_of(np.stack(runs, axis=1))

  def keys(self, seed: int = 0) -> tuple[base.Key, base.Key]:
    """The init and order key that all masks of a seed index share.

    For what differentiates the same training, or continues it.

    Raises:
      ValueError: independent seeds, where every mask has its own.
    """
    if self.seeds != "common":
      raise ValueError("Under independent seeds every mask has its own keys.")
    return _keys(_words(self._words, b"common", seed))

  def replica_bytes(self) -> int:
    """Bytes that one more training takes, as compiled.

    The difference of the compiler's own counts for microbatches of 8 and 4,
    on one device; of a CPU, which computes two of them at once, half of it.
    """
    made, devices = [], jax.local_devices()[:1]
    for rows in (4, 8):
      batching = {
        "batch_size": rows,
        "microbatch": rows,
        "devices": devices,
      }
      with self._precision():
        stats = self._compiled(batching).prepare()
      made.append(stats.memory_bytes or 0)
    return (made[1] - made[0]) // (4 * program.at_once(devices))

  def _prepared(self) -> evaluate.Evaluator:
    if self._evaluator is None:
      with self._precision():
        self._evaluator = self._compiled(self._batching)
        self._evaluator.prepare()
    return self._evaluator

  def _compiled(self, batching: dict[str, Any]) -> evaluate.Evaluator:
    rows = self.n + (_KEY_BITS if self.seeds == "independent" else 0)
    size, micro = batching["batch_size"], batching["microbatch"]
    if size is not None and micro is not None:
      # Whole microbatches on every device, or their size would be another.
      whole = micro * len(batching["devices"] or jax.local_devices())
      batching = batching | {"batch_size": -(-size // whole) * whole}
    return evaluate.compiled(
      self._train,
      rows,
      shared=self._operands(0),
      progress=self._progress,
      **batching,
    )

  def _train(self, row: jax.Array, shared: Any) -> jax.Array:
    """One training: outputs `[T]`, and 1 behind them if it diverged."""
    mask, words = row[: self.n], shared.get("words")
    if words is None:
      bits = row[self.n :].reshape(2, 32).astype(jnp.uint32)
      words = (bits << jnp.arange(32, dtype=jnp.uint32)[None]).sum(
        axis=1, dtype=jnp.uint32
      )
    weights = self.players.kept(mask).astype(self.dtype)
    state, finite = self.learner.fit(*_keys(words), shared["data"], weights)
    outputs = self.learner.read(state, shared["test"])
    finite &= jnp.isfinite(outputs).all()
    # The evaluator refuses NaN: a diverged training is a value of its own.
    return jnp.append(jnp.where(finite, outputs, 0), ~finite)

  def _untrained(self, shared: Any) -> jax.Array:
    key = jax.random.key(0)
    weights = jnp.ones(len(self.players.owner), self.dtype)
    state, _ = self.learner.fit(key, key, shared["data"], weights)
    return self.learner.read(state, shared["test"])

  def _operands(self, seed: int) -> dict[str, Any]:
    if self.seeds == "independent":
      return self._shared
    return self._shared | {"words": _words(self._words, b"common", seed)}

  def _key_bits(self, masks: np.ndarray, seed: int) -> np.ndarray:
    """bool `[B, 64]`: the key of each mask, the low bit of a word first."""
    hashes = packing.hash_masks(masks)
    words = np.stack(
      [
        _words(self._words, hash.astype("<u8").tobytes(), seed)
        for hash in hashes
      ]
    )
    octets = words.astype("<u4").view(np.uint8)
    return np.unpackbits(octets, axis=1, bitorder="little").view(bool)

  def _precision(self) -> Any:
    return jax.enable_x64(self.dtype == "float64")


def replica_formula(
  num_parameters: int,
  num_activations: int,
  *,
  num_examples: int,
  num_read: int,
  optimizer: str = "adam",
) -> int:
  """Bytes that one more training should take, in float32.

    max(c Q + 8 A, (c - 8) Q + 16 A, 16 R) + 8 N

  The first is the optimiser's step: parameters, gradients, states and a copy,
  c = 20 for Adam, 16 for momentum. The second is the backward pass of large
  batches. The third is reading all test points at once, afterwards: four
  copies of the widest layer's activations there, which is the most of all with
  many test points. Masks and weights of the examples come on top. Divide a
  device's memory by it for the trainings that fit, in one microbatch, or on a
  lone CPU in the two that it computes at once. On a CPU it is within 4 % of
  what the compiler counts for networks of one hidden layer of 32 to 400 units
  and weight masks, and within 18 % for index subsets, independent seeds, or 8
  units (rows `memory` of `experiments/bench_retrain.py`).

  Args:
    num_parameters: Q.
    num_activations: A, of all layers on a batch; with the inputs of the batch
      where every training has its own (independent seeds, index subsets).
    num_examples: N, the examples to train on.
    num_read: R, activations of the widest hidden layer on all test points.
    optimizer: the optimizer of the recipe.
  """
  states = 16 if optimizer == "sgd" else 20
  step = states * num_parameters + 8 * num_activations
  backward = (states - 8) * num_parameters + 16 * num_activations
  return max(step, backward, 16 * num_read) + 8 * num_examples


@dataclasses.dataclass(frozen=True)
class Noise:
  """The noise floor of independent seeds.

  Attributes:
    std: float64 `[T]`: standard deviation over seeds at a fixed mask, pooled
      over masks.
    share: float64 `[T]`: its square over the variance of one training's value
      over masks and seeds. No function of the mask alone explains more of such
      values than 1 less this.
    num_masks: the number of masks that at least two seeds answered.
  """

  std: np.ndarray
  share: np.ndarray
  num_masks: int


def noise_of(values: np.ndarray) -> Noise:
  """The noise floor, from float64 `[B, S, T]`, NaN where diverged.

  Raises:
    ValueError: no mask that two seeds answered.
  """
  sound: np.ndarray = np.all(np.isfinite(values), axis=2)
  many = sound.sum(axis=1) >= 2
  if not many.any():
    raise ValueError("No mask was answered by two seeds or more.")
  values, sound = values[many], sound[many][:, :, None]
  counts = sound.sum(axis=1)
  kept = np.where(sound, values, 0)
  means = kept.sum(axis=1) / counts
  within = np.where(sound, (values - means[:, None]) ** 2, 0).sum(axis=1)
  variance = within.sum(axis=0) / (counts - 1).sum()
  # Signal alone: the means still hold noise, a share of it each.
  between = means.var(axis=0, ddof=1) if len(means) > 1 else 0 * variance
  between = np.maximum(between - variance * (1 / counts).mean(), 0)
  total = between + variance
  share = np.divide(variance, total, out=np.zeros_like(total), where=total > 0)
  return Noise(np.sqrt(variance), share, len(values))


def mean_over_seeds(values: np.ndarray) -> np.ndarray:
  """float64 `[B, S, T]`, NaN where diverged, to means `[B, T]` of the others.

  Raises:
    ValueError: a mask whose trainings all diverged.
  """
  sound: np.ndarray = np.all(np.isfinite(values), axis=2)
  counts = sound.sum(axis=1)
  if (counts == 0).any():
    rows = np.flatnonzero(counts == 0)
    raise ValueError(
      f"All {values.shape[1]} trainings diverged for {len(rows)} masks (first: "
      f"row {rows[0]}). Lower the learning rate, or leave these masks out."
    )
  kept = np.where(sound[:, :, None], values, 0)
  return kept.sum(axis=1) / counts[:, None]


def _keys(words: base.Array) -> tuple[base.Key, base.Key]:
  """Of initialisation and of order, from a key's data."""
  key = jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")
  causes = zlib.crc32(b"init"), zlib.crc32(b"order")
  init, order = (jax.random.fold_in(key, cause) for cause in causes)
  return init, order


def _words(root: np.ndarray, cause: bytes, seed: int) -> np.ndarray:
  """uint32 `[2]`: a key's data, from SHA-256 of root, cause and seed index."""
  seed = base.check_integer(seed, "The seed index")
  if seed < 0:
    raise ValueError(f"The seed index must be at least 0; got {seed}.")
  text = root.astype("<u4").tobytes() + seed.to_bytes(8, "little") + cause
  return np.frombuffer(hashlib.sha256(text).digest()[:8], "<u4").astype(
    np.uint32
  )


def _cast(leaf: Any, dtype: str) -> np.ndarray:
  array = np.asarray(leaf)
  # bfloat16 counts; NumPy itself does not know it as a float.
  floating = jnp.issubdtype(array.dtype, jnp.floating)
  return array.astype(dtype) if floating else array


def _digest(tree: Any) -> str:
  """SHA-256 of the leaves of a pytree, their names, shapes and dtypes."""
  total = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    array = np.ascontiguousarray(leaf)
    name = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape};"
    total.update(name.encode())
    total.update(array.tobytes())
  return total.hexdigest()
