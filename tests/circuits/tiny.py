"""Networks of 2 layers, 2 heads, width 8 in float64, and pairs of prompts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.ablate import spans
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import rope, sites, transformer
from tests.models import checkpoints

VOCAB = 11


@functools.cache
def network(kind="gpt2", num_blocks=2):
  """A network and its parameters, float64 where that is switched on."""
  grouped = kind == "llama"
  net = transformer.network(
    transformer.Config(
      width=8,
      num_blocks=num_blocks,
      num_heads=2,
      num_kv_heads=1 if grouped else 2,
      head_width=4,
      num_neurons=6,
      norm="rms" if grouped else "layer",
      activation="silu" if grouped else "gelu_new",
      gated=grouped,
      score_scale=0.5,
      vocab_size=VOCAB,
      max_positions=8,
      rotary=rope.Rope(theta=100.0, width=4) if grouped else None,
    )
  )
  # Wide enough that every edge matters.
  params = jax.tree.map(
    lambda x: 2 * np.asarray(x, np.float64), checkpoints.random_params(net)
  )
  return net, params


def pairs(count=3, wrong=1):
  """Pairs of 3 and 4 tokens, with two spans."""
  rng = np.random.default_rng(5)
  length = 4
  clean = rng.integers(1, VOCAB, (count, length))
  corrupted = clean.copy()
  corrupted[:, 1] = (clean[:, 1] + 3) % VOCAB
  lengths = np.full(count, length)
  lengths[1::2] = 3
  at = np.arange(length)[None]
  owner = np.where(at < lengths[:, None], (at >= 2).astype(np.int32), 2)
  answers = np.stack([rng.permutation(VOCAB)[:3] for _ in range(count)])
  return pairs_lib.Pairs(
    np.where(at < lengths[:, None], clean, 0),
    np.where(at < lengths[:, None], corrupted, 0),
    lengths,
    answers[:, :1],
    answers[:, 1 : 1 + wrong],
    spans=spans.Spans(("subject", "rest"), owner.astype(np.int32)),
  )


def alone(pair, net, params, edits=None, *, corrupted=False):
  """Logits `[V]` behind one prompt, run without a batch or padding."""
  length = int(pair.lengths[0])
  ids = (pair.corrupted if corrupted else pair.clean)[:, :length]
  run = _run(net.module, length)
  return run(params, edits or sites.Edits(), jnp.asarray(ids))


def activation(pair, net, params, name, *, corrupted=False):
  """What a site holds on one prompt, float64 `[1, P, ...]`."""
  length = int(pair.lengths[0])
  ids = (pair.corrupted if corrupted else pair.clean)[:, :length]
  return np.asarray(_captured(net.module)(params, jnp.asarray(ids))[name])


def written(pair, net, params):
  """What writers write on one corrupted prompt, `[1, P, W, d]`."""
  length = int(pair.lengths[0])
  ids = jnp.asarray(pair.corrupted[:, :length])
  return _contributions(net.module)(params, ids)


@functools.cache
def _run(module, length):
  net = transformer.network(module.config)
  del length
  run = lambda params, edits, ids: net.apply(params, edits, input_ids=ids)
  return jax.jit(lambda *given: run(*given).logits[0, -1])


@functools.cache
def _captured(module):
  net = transformer.network(module.config)
  names = tuple(
    x for x in net.sites if not x.endswith(("q_in", "k_in", "v_in"))
  )
  run = lambda params, ids: net.apply(params, capture=names, input_ids=ids)
  return jax.jit(lambda *given: run(*given).activations)


@functools.cache
def _contributions(module):
  net = transformer.network(module.config)
  return jax.jit(lambda params, ids: net.contributions(params, input_ids=ids))
