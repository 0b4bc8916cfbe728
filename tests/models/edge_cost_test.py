"""What cut edges cost, as the compiler counts: compiled for CPUs, never run.

Shapes of GPT-2 small: 12 blocks of 12 heads, d = 768, 50,257 tokens, 157
writers, 32,491 edges; one text of 128 tokens. With a vocabulary of 1,000 the
plain forward moves a third less, so that the same edges weigh more.
"""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from spex_jax.models import sites, transformer

# Counts are of the program; its machine code may be poor.
_FAST = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}


def _network(num_blocks, vocab_size=50_257):
  return transformer.network(
    transformer.Config(
      width=768, num_blocks=num_blocks, num_heads=12, num_kv_heads=12,
      head_width=64, num_neurons=3072, vocab_size=vocab_size,
      max_positions=1024, activation="gelu_new",
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
  return jax.jit(run).lower(cut, params, ref, ids).compile(_FAST)


def _bytes(net, readers):
  return _compiled(_value(net), net, readers).cost_analysis()["bytes accessed"]


_SLOW = pytest.mark.slow


@pytest.mark.slow_where("1000")
@pytest.mark.parametrize(
  "num_blocks, vocab_size, block, last, every",
  [
    (2, 50_257, 1, 1.15, 1.6),
    (4, 1_000, 0, 1.4, 3.6),
    pytest.param(12, 50_257, 8, 1.23, 3.4, marks=_SLOW),
    pytest.param(12, 1_000, 3, 1.34, 4.5, marks=_SLOW),
  ],
)
def test_a_read_costs_what_is_cut(num_blocks, vocab_size, block, last, every):
  """1.2 times a plain forward for one reader, 4 times for all of them.

  Readers of one row keep to that wherever they read. For 12 heads, each layer
  before them adds what its heads write: `block` is the last to keep to it,
  `last` what heads of the last block take.
  """
  net = _network(num_blocks, vocab_size)
  plain = _bytes(net, [])
  ratio = lambda *readers: _bytes(net, readers) / plain
  assert ratio("final_norm.in") <= 1.2
  assert ratio(f"blocks.{num_blocks - 1}.mlp.read") <= 1.2
  assert ratio(f"blocks.{block}.attn.q_in") <= 1.2
  assert ratio(f"blocks.{num_blocks - 1}.attn.k_in") <= last
  assert ratio(*net.readers) <= every


@pytest.mark.parametrize(
  "num_blocks, mebibytes",
  [(2, 133), pytest.param(12, 800, marks=pytest.mark.slow)],
)
def test_the_gradient_by_all_edges_is_lean(num_blocks, mebibytes):
  net = _network(num_blocks)
  run = _compiled(jax.grad(_value(net)), net, net.readers)
  assert run.memory_analysis().temp_size_in_bytes <= mebibytes * 2**20
