"""What cut edges cost, as the compiler counts: compiled for CPUs, never run.

Shapes of GPT-2 small: 12 blocks of 12 heads, d = 768, 50,257 tokens, 157
writers, 32,491 edges; one text of 128 tokens.
"""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from spex_jax.models import sites, transformer


def _network(num_blocks):
  return transformer.network(
    transformer.Config(
      width=768, num_blocks=num_blocks, num_heads=12, num_kv_heads=12,
      head_width=64, num_neurons=3072, vocab_size=50_257, max_positions=1024,
      activation="gelu_new",
    )
  )  # fmt: skip


def _value(net):
  def value(cut, params, ref, ids):
    edits = sites.Edits(cut=cut, ref=ref) if cut else None
    logits = net.apply(params, edits, input_ids=ids).logits
    return logits[:, -1, 0].sum()

  return value


def _compiled(run, net, readers) -> Any:
  """`run(cut, params, ref, ids)` with the edges into some readers."""
  params = jax.eval_shape(net.init, jax.random.key(0))
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  cut = {name: shape(1, 1, *net.readers[name]) for name in readers}
  ref = shape(1, 128, len(net.writers), 768)
  ids = jax.ShapeDtypeStruct((1, 128), jnp.int32)
  return jax.jit(run).lower(cut, params, ref, ids).compile()


def _bytes(net, readers):
  return _compiled(_value(net), net, readers).cost_analysis()["bytes accessed"]


@pytest.mark.parametrize(
  "num_blocks", [2, pytest.param(12, marks=pytest.mark.slow)]
)
def test_a_read_costs_what_is_cut(num_blocks):
  net = _network(num_blocks)
  plain = _bytes(net, [])
  # Into the heads of the first third and the MLPs of the first half: further on
  # every writer before adds a share, up to 1.32 for the last reader.
  ratio = lambda *readers: _bytes(net, readers) / plain
  assert ratio(f"blocks.{num_blocks // 3}.attn.q_in") <= 1.2
  assert ratio(f"blocks.{num_blocks // 2}.mlp.read") <= 1.2
  assert ratio("final_norm.in") <= 1.35
  assert ratio(*net.readers) <= 4


@pytest.mark.parametrize(
  "num_blocks, mebibytes",
  [(2, 133), pytest.param(12, 800, marks=pytest.mark.slow)],
)
def test_the_gradient_by_all_edges_is_lean(num_blocks, mebibytes):
  net = _network(num_blocks)
  run = _compiled(jax.grad(_value(net)), net, net.readers)
  assert run.memory_analysis().temp_size_in_bytes <= mebibytes * 2**20
