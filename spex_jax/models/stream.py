"""Names of the sites, writers and readers of a stack of blocks.

The residual stream is the embedding plus what every block adds. Its writers
are `embed`, then per block each head and the MLP; its readers are each head's
q, k and v input, each MLP and the final norm, by the names of the sites before
their norms: `attn.q_in`, `attn.k_in`, `attn.v_in`, `mlp.read`, `final_norm.in`.
Biases of attention's output belong to no writer. The embedding includes that of
positions.
"""

from typing import Any

from spex_jax.models import blocks, experts


def block_sites(config: blocks.Config, number: int) -> tuple[str, ...]:
  """The sites of one block, in the order of computation."""
  post, sandwich = config.order == "post", config.order == "sandwich"
  attn = ["in", "q", "k", "v"]
  if not post:
    attn = ["q_in", "k_in", "v_in", *attn]
  if config.rotary is not None:
    attn += ["q_rot", "k_rot"]
  attn += ["scores", "pattern", "z", "heads", "out"]
  if sandwich:
    attn.append("heads_post_norm")
  if post or sandwich:
    attn.append("post_norm")
  names = ["resid_pre", *(f"attn.{name}" for name in attn)]
  if config.order != "parallel":
    names.append("resid_mid")
  if not post:
    names.append("mlp.read")
  names.append("mlp.in")
  if config.has_experts(number):
    names += [f"mlp.{name}" for name in experts.SITES]
  else:
    names += ["mlp.pre", "mlp.neurons"]
  names.append("mlp.out")
  if post or sandwich:
    names.append("mlp.post_norm")
  names.append("resid_post")
  return tuple(f"blocks.{number}.{name}" for name in names)


def writers(config: blocks.Config) -> tuple[str, ...]:
  """The writers in order, `embed`, `blocks.L.heads.H`, `blocks.L.mlp`."""
  names = ["embed"]
  for number in range(config.num_blocks):
    names += [
      f"blocks.{number}.heads.{head}" for head in range(config.num_heads)
    ]
    names.append(f"blocks.{number}.mlp")
  return tuple(names)


def writer_sites(config: blocks.Config) -> tuple[str, ...]:
  """The sites that hold what the writers write, in order."""
  sandwich = config.order == "sandwich"
  heads = "attn.heads_post_norm" if sandwich else "attn.heads"
  mlp = "mlp.post_norm" if sandwich else "mlp.out"
  names = ["embed"]
  for number in range(config.num_blocks):
    names += [f"blocks.{number}.{heads}", f"blocks.{number}.{mlp}"]
  return tuple(names)


def readers(config: blocks.Config) -> dict[str, tuple[int, int]]:
  """Reader to its rows and the number of writers before it."""
  found = {}
  before = 1
  for number in range(config.num_blocks):
    site = f"blocks.{number}"
    found[f"{site}.attn.q_in"] = (config.num_heads, before)
    found[f"{site}.attn.k_in"] = (config.num_kv_heads, before)
    found[f"{site}.attn.v_in"] = (config.num_kv_heads, before)
    heads = 0 if config.order == "parallel" else config.num_heads
    found[f"{site}.mlp.read"] = (1, before + heads)
    before += config.num_heads + 1
  return found | {"final_norm.in": (1, before)}


def edges(config: blocks.Config) -> dict[str, Any]:
  """What a `sites.Network` says of its edges."""
  return {
    "writers": writers(config),
    "writer_sites": writer_sites(config),
    "readers": readers(config),
  }
