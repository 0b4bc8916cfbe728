r"""MoCo v2: features that tell a picture's views from all other pictures.

A query encoder is trained so that a view's vector is close to that of another
view of the same picture, by a key encoder that follows it slowly, and far from
those in a queue of earlier keys:

  loss = -log exp(q.k / t) / (exp(q.k / t) + sum_j exp(q.queue_j / t))

He et al., arXiv:1911.05722 (algorithm 1; shuffled batch norm, section 3.3);
Chen et al., arXiv:2003.04297 (two-layer head, blur, cosine). Order of a step,
as in their code: the key encoder moves, keys are computed, the loss is of the
queue before this step's keys enter it. Deviations: Adam by default, and a key
encoder that follows faster, as steps are hundreds here and not 10^6 (the
paper's are sgd, .03, 1e-4, .999; sgd has Nesterov momentum, as in all of
`training`); pictures of a batch drawn with replacement; statistics of batch
norm measured once at the end.

Shapes: N pictures, B a batch, K keys in the queue, D numbers in a vector.
"""

import dataclasses
import functools
from typing import Any

import chex
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from spex_jax import base
from spex_jax.agents.checkup import augmenting, encoders
from spex_jax.training import loop


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to pretrain; hashable, so it can be static under jit.

  Attributes:
    steps: how many batches it is trained on, one step each.
    batch_size: B, pictures in a batch, at least 1.
    queue: K, keys of other pictures in the queue, a multiple of B.
    width: D; and of the layer between, F.
    momentum: in [0, 1], the share of itself that the key encoder keeps a step.
    temperature: t, by which dot products are divided before the softmax.
    learning_rate: at first; it falls to 0 by a cosine.
    optimizer: the name of the update rule, see `loop.Recipe`.
    weight_decay: how strongly parameters are pulled to 0, see `loop.Recipe`.
    groups: parts of a batch with statistics of their own, 2 or more for
      shuffled batch norm: a query and its key are then of different company.
    views: how far the augmented views of a picture may lie apart.
  """

  steps: int = 2500
  batch_size: int = 64
  queue: int = 1024
  width: int = 64
  momentum: float = 0.97
  temperature: float = 0.2
  learning_rate: float = 2e-3
  optimizer: Any = "adam"
  weight_decay: float = 0.0
  groups: int = 2
  views: augmenting.Views = augmenting.VIEWS

  def __post_init__(self):
    if min(self.steps, self.batch_size, self.width, self.groups) < 1:
      raise ValueError(f"Sizes must be at least 1: {self}.")
    if self.queue < 1 or self.queue % self.batch_size:
      raise ValueError(
        f"queue={self.queue} must be a multiple of batch_size="
        f"{self.batch_size}: keys enter it a batch at a time."
      )
    if self.batch_size % self.groups:
      raise ValueError(
        f"batch_size={self.batch_size} must be a multiple of groups="
        f"{self.groups}."
      )
    if not 0 <= self.momentum <= 1 or not self.temperature > 0:
      raise ValueError(
        f"momentum={self.momentum} must lie in [0, 1], temperature="
        f"{self.temperature} above 0."
      )
    self.recipe()

  def recipe(self) -> loop.Recipe:
    """Of the query encoder's optimiser."""
    return loop.Recipe(
      1, self.batch_size, self.learning_rate, self.optimizer, "cosine",
      self.weight_decay,
    )  # fmt: skip


class Head(nn.Module):
  """Two layers to a vector of length 1."""

  width: int

  @nn.compact
  def __call__(self, features: jax.Array) -> jax.Array:
    """`[..., F]` to `[..., D]`."""
    hidden = nn.relu(nn.Dense(features.shape[-1])(features))
    return unit(nn.Dense(self.width)(hidden))


@flax.struct.dataclass
class State:
  """A pretraining between two steps.

  Attributes:
    query: parameters of encoder and head, which gradients move.
    keys: parameters of the same shapes, of the key encoder, which follow.
    rule: the state of the optimiser.
    queue: float32 `[K, D]`, of length 1.
    place: int32 `[]`, the row that the next key takes, the oldest.
  """

  query: Any
  keys: Any
  rule: Any
  queue: jax.Array
  place: jax.Array


@flax.struct.dataclass
class Pretrained:
  """What a pretraining gives.

  Attributes:
    params: of the query encoder, without the head; `Encoder.settle` them.
    losses: `[steps]`, of each batch, before its step.
  """

  params: Any
  losses: jax.Array


def unit(x: jax.Array) -> jax.Array:
  """`[..., D]`, of length 1; 0 stays 0."""
  chex.assert_type(x, float)
  tiny = jnp.finfo(x.dtype).tiny
  return x * jax.lax.rsqrt((x**2).sum(axis=-1, keepdims=True) + tiny)


def info_nce(
  query: jax.Array, key: jax.Array, queue: jax.Array, temperature: float
) -> jax.Array:
  """The loss `[]` of one query, in nats; `vmap` over queries and keys.

  Args:
    query: `[D]`, of length 1.
    key: `[D]`, of another view of the same picture.
    queue: `[K, D]`, of other pictures.
    temperature: t, above 0: small ones sharpen the softmax.
  """
  chex.assert_rank([query, key, queue], [1, 1, 2])
  chex.assert_equal_shape([query, key, queue[0]])
  dot = lambda left, right: jnp.matmul(
    left, right, precision=jax.lax.Precision.HIGHEST
  )
  near = dot(query, key) / temperature
  far = dot(queue, query) / temperature
  return jax.nn.logsumexp(jnp.append(far, near)) - near


def enqueue(
  queue: jax.Array, place: jax.Array, keys: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """A queue `[K, D]` whose oldest keys made way, and the next place.

  Args:
    queue: float `[K, D]`, the keys of earlier batches.
    place: int `[]`, a multiple of B.
    keys: `[B, D]`; K is a multiple of B.
  """
  chex.assert_rank([queue, place, keys], [2, 0, 2])
  chex.assert_is_divisible(len(queue), len(keys))
  queue = jax.lax.dynamic_update_slice_in_dim(queue, keys, place, axis=0)
  return queue, (place + len(keys)) % len(queue)


def follow(keys: Any, query: Any, momentum: float) -> Any:
  """The key encoder's parameters, a little nearer to the query encoder's."""
  return jax.tree.map(
    lambda k, q: momentum * k + (1 - momentum) * q, keys, query
  )


def start(
  key: base.Key, encoder: encoders.Encoder, settings: Settings
) -> State:
  """The state before the first step; `key` is consumed."""
  body, head, queue = jax.random.split(key, 3)
  features = jnp.zeros(encoder.width)
  query = {
    "encoder": encoder.init(body),
    "head": Head(settings.width).init(head, features)["params"],
  }
  shape = (settings.queue, settings.width)
  return State(
    query=query,
    keys=query,
    rule=_rule(settings).init(query),
    queue=unit(jax.random.normal(queue, shape)),
    place=jnp.zeros((), jnp.int32),
  )


def step(
  state: State,
  key: base.Key,
  pictures: jax.Array,
  encoder: encoders.Encoder,
  settings: Settings,
) -> tuple[State, jax.Array]:
  """One step on a batch; the next state, and the loss before it, `[]`.

  Batched: statistics of batch norm and keys are of the batch.

  Args:
    state: the state before the step.
    key: consumed, by the views and by the shuffling of keys.
    pictures: float `[B, 3, S, S]`, in [0, 1].
    encoder: the module that makes features; static under jit.
    settings: how to pretrain; static under jit.
  """
  chex.assert_shape(pictures, (settings.batch_size, 3, None, None))
  first, second, shuffling = jax.random.split(key, 3)

  def views(key):
    keys = jax.random.split(key, len(pictures))
    make = lambda key, picture: augmenting.view(key, picture, settings.views)
    return jax.vmap(make)(keys, pictures)

  def vectors(params, x) -> Any:
    features = encoder.features(params["encoder"], x, settings.groups)
    return Head(settings.width).apply({"params": params["head"]}, features)

  keys = follow(state.keys, state.query, settings.momentum)
  order = jax.random.permutation(shuffling, len(pictures))
  shuffled = vectors(keys, views(second)[order])
  near = jax.lax.stop_gradient(shuffled[jnp.argsort(order)])

  def loss(query):
    found = vectors(query, views(first))
    each = jax.vmap(info_nce, (0, 0, None, None))
    return each(found, near, state.queue, settings.temperature).mean()

  value, slope = jax.value_and_grad(loss)(state.query)
  updates, rule = _rule(settings).update(slope, state.rule, state.query)
  query = jax.tree.map(jnp.add, state.query, updates)
  queue, place = enqueue(state.queue, state.place, near)
  return State(query, keys, rule, queue, place), value


def pretrain(
  key: base.Key,
  pictures: base.Array,
  encoder: encoders.Encoder,
  settings: Settings,
  mesh: jax.sharding.Mesh | None = None,
) -> Pretrained:
  """All steps, of a program that is compiled by itself: not to be jitted.

  The host calls each step: XLA's CPU convolves four times as slowly within a
  scan as outside of one.

  Args:
    key: a random key, consumed by all that is drawn.
    pictures: uint8 `[N, 3, S, S]`.
    encoder: whose features are to be learnt.
    settings: how many steps, of what size; see `Settings`.
    mesh: over whose first axis batches are spread, parameters on each; of
      Auto axes. Groups that its size divides keep statistics on devices.
  """
  pictures = jnp.asarray(pictures)
  chex.assert_rank(pictures, 4)
  chex.assert_type(pictures, jnp.uint8)
  beginning, going = jax.random.split(key)
  state, losses = start(beginning, encoder, settings), []
  for number in range(settings.steps):
    state, loss = _walk(state, going, number, pictures, encoder, settings, mesh)
    losses.append(loss)
  return Pretrained(state.query["encoder"], jnp.stack(losses))


@functools.partial(jax.jit, static_argnames=("encoder", "settings", "mesh"))
def _walk(state, key, number, pictures, encoder, settings, mesh):
  """A step on a batch that is drawn."""
  picking, varying = jax.random.split(jax.random.fold_in(key, number))
  rows = jax.random.randint(picking, (settings.batch_size,), 0, len(pictures))
  batch = pictures[rows].astype(jnp.float32) / 255
  if mesh is not None:
    spec = jax.sharding.PartitionSpec(mesh.axis_names[0])
    place = jax.sharding.NamedSharding(mesh, spec)
    batch = jax.lax.with_sharding_constraint(batch, place)
  return step(state, varying, batch, encoder, settings)


def _rule(settings: Settings) -> Any:
  return loop.optimizer(settings.recipe(), settings.steps)
