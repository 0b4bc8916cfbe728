"""One long training that survives kills: `loop.train` in parts that are kept.

After every few epochs the parameters, the optimiser's state and the losses so
far are saved by `checkpoint`, whose manifest vouches for every byte. The same
call goes on from the last of them; where that one is damaged, from the one
before. Many short trainings need none of this: there a shard of the bank or the
sweep is what a kill costs.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from spex_jax import base
from spex_jax.training import checkpoint, loop

_KEPT = 2  # Checkpoints: one may be damaged.


def train(
  path: str,
  init_key: base.Key,
  order_key: base.Key,
  data: loop.Data,
  weights: base.Array,
  *,
  init: Callable[[base.Key], loop.Params],
  losses: Callable[[loop.Params, loop.Data], jax.Array],
  recipe: loop.Recipe,
  config: dict[str, Any],
  every: int = 1,
  augment: Callable[[base.Key, loop.Data], loop.Data] | None = None,
  rows: base.Array | None = None,
  progress: Callable[[int, int], None] = lambda done, asked: None,
) -> loop.Trained:
  """Trains, or goes on.

  However often it is killed, the result is the same bit for bit; that of
  another `every`, or of `loop.train`, may differ in last digits, as another
  program does. Arguments without more are those of `loop.train`.

  Args:
    path: a folder of its own.
    init_key: consumed by `init`.
    order_key: of orders and augmentation.
    data: pytree of arrays with a leading axis N.
    weights: float `[N]`, or `[M]` with `rows`.
    init: key to parameters.
    losses: parameters and a batch to the loss of each example.
    recipe: how to train.
    augment: key and one example to one of the same shapes.
    rows: int `[M]`, the example in each slot; None for every example.
    config: what the training depends on besides recipe, keys and shapes, as
      JSON: which data and which loss.
    every: epochs of a part.
    progress: told epochs done and asked for, after each part.

  Returns:
    As `loop.train`.

  Raises:
    ValueError: `every` below 1, or a folder of another training (naming the
      keys that differ).
    OSError: no room; the last checkpoint stays.
  """
  if base.check_integer(every, "every") < 1:
    raise ValueError(f"every must be at least 1; got {every}.")
  folder, asked = pathlib.Path(path), recipe.num_epochs
  for draft in folder.glob(".*.tmp"):  # Of a kill.
    shutil.rmtree(draft, ignore_errors=True)
  weights = jnp.asarray(weights, jnp.float32)
  of = {
    **config,
    "recipe": dataclasses.asdict(recipe),
    "every": every,
    "keys": [jax.random.key_data(k).tolist() for k in (init_key, order_key)],
    "shapes": [[list(leaf.shape), str(leaf.dtype)] for leaf in
               jax.tree.leaves((data, weights, rows))],
  }  # fmt: skip

  def program(order_key, data, weights, rows):
    return loop.steps(
      order_key, data, weights,
      losses=losses, recipe=recipe, augment=augment, rows=rows,
    )  # fmt: skip

  given = (order_key, data, weights, rows)
  start = jax.jit(lambda key, *given: program(*given).start(init(key)))

  def part(state, epochs, *given):
    return jax.lax.scan(program(*given).epoch, state, epochs)

  go_on = jax.jit(part, donate_argnums=0)
  like = jax.eval_shape(start, init_key, *given)
  per_epoch = recipe.num_steps(len(weights)) // asked
  done, state, seen = _latest(folder, like, of, per_epoch)
  if state is None:
    state, seen = start(init_key, *given), np.zeros(0, np.float32)
  while done < asked:
    epochs = jnp.arange(done, min(done + every, asked))
    state, new = go_on(state, epochs, *given)
    done += len(epochs)
    seen = np.concatenate([seen, np.asarray(new).reshape(-1)])
    _keep(folder, done, {"state": state, "losses": seen}, of)
    progress(done, asked)
  return loop.Trained(params=state[0], losses=jnp.asarray(seen))


def _latest(
  folder: pathlib.Path, like: Any, config: dict[str, Any], per_epoch: int
) -> tuple[int, Any, np.ndarray]:
  """Epochs, state and losses of the last sound checkpoint; else none."""
  for place in reversed(_places(folder)):
    done = int(place.name)
    losses = jax.ShapeDtypeStruct((done * per_epoch,), jnp.float32)
    try:
      found = checkpoint.restore(
        place, {"state": like, "losses": losses}, config
      )
    except checkpoint.DamagedError as error:
      logging.warning("%s It is left out.", error)
      shutil.rmtree(place)
      continue
    return done, jax.tree.map(jnp.asarray, found["state"]), found["losses"]
  return 0, None, np.zeros(0, np.float32)


def _keep(
  folder: pathlib.Path, done: int, state: Any, config: dict[str, Any]
) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  checkpoint.save(folder / f"{done:08d}", state, config)
  for place in _places(folder)[:-_KEPT]:
    shutil.rmtree(place)


def _places(folder: pathlib.Path) -> list[pathlib.Path]:
  """Checkpoints, the oldest first."""
  return sorted(p for p in folder.glob("*") if p.name.isdigit() and p.is_dir())
