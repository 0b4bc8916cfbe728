"""Networks whose heads share keys and values, as ones in which none does.

Every query head gets keys and values of its own, equal to those that it shared:
the function stays the same, and its graph has a row for each head at k and v
(`graph.Graph.of(net, ungrouped=True)`), so that edges into single heads can be
cut and scored, as EAP-IG's `ungroup_grouped_query_attention` has it.

Shapes: H heads, K key-value heads, h head width, d width.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

from spex_jax.models import sites, transformer

_SHARED = re.compile(r".*\bblocks_\d+/attn/(k|v|k_norm)/(kernel|bias|scale)")


def network(net: sites.Network) -> sites.Network:
  """The network of a causal model with K = H; without its parameters.

  Raises:
    TypeError: another kind of network.
  """
  config = net.config
  if not isinstance(config, transformer.Config):
    raise TypeError(
      "Keys and values are shared in causal language models alone; got "
      f"{type(config).__name__}."
    )
  alone = dataclasses.replace(config, num_kv_heads=config.num_heads)
  found = transformer.network(alone)
  return dataclasses.replace(found, tokenizer=net.tokenizer)


def params(net: sites.Network, given: Any) -> Any:
  """Parameters of `network(net)` that compute what `given` do in `net`.

  Args:
    net: a causal model whose heads share keys and values, or not.
    given: the parameters of that network.

  Returns:
    Those with `k` and `v` of every block repeated: kernels `[d, H, h]`, biases
    `[H, h]`.
  """
  times = net.config.num_heads // net.config.num_kv_heads
  rows = net.config.num_kv_heads

  def grown(path: Any, leaf: jax.Array) -> jax.Array:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    inside = _SHARED.fullmatch(name)
    if times == 1 or inside is None:
      return leaf
    if inside[1] == "k_norm":  # Of all heads as one: a scale for each entry.
      if net.config.qk_norm != "all":
        return leaf
      return jnp.repeat(leaf.reshape(rows, -1), times, axis=0).reshape(-1)
    return jnp.repeat(leaf, times, axis=leaf.ndim - 2)

  return jax.tree_util.tree_map_with_path(grown, given)
