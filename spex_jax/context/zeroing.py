"""Value zeroing: how a block's output turns where a token's values are zero.

In every block, all heads' values of one token become 0, and 1 less the cosine
of what the block then gives at a position with what it gives else is the
token's share there. Blocks are apart: each reads what it reads in the plain
run. Shares below `LEAST` are 0, those of a position sum to 1, and its score is
the mean over blocks. Of an encoder's tokens the values are those of the
decoder's cross-attention. No target enters. Source: Mohebbi et al.,
arXiv:2301.12971; Inseq 0.7.1, which takes the last block's output behind the
final norm, and the least share, from Hugging Face's hidden states.

Shapes: S steps, P positions of the input, L blocks, D positions of the output.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.context import games, stepping
from spex_jax.models import sites

LEAST = 1e-5


def value_zeroing(game: games.Game) -> np.ndarray:
  """The mean share of blocks: `[S, T]`.

  Raises:
    ValueError: as `games.scores`.
  """
  held, params, inputs, places, _ = games.arguments(game)
  pair = len(stepping.input_sites(game.net)) == 2
  found = {}
  for side in game.sides:
    values = "cross.v" if pair and side == "input_ids" else "attn.v"
    stack = "decoder.blocks" if pair else "blocks"
    causal = side == "decoder_input_ids" or not pair
    found[side] = _shares(
      held, params, inputs, places, side, stack, values, causal
    )
  return games.scores(game, found)


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6, 7))
def _shares(held, params, inputs, places, side, stack, values, causal):
  """Scores `[S, P]` of a side's tokens."""
  net: sites.Network = held.net
  num = len([x for x in net.sites if _is(x, stack, values)])
  final = stack.replace("blocks", "final_norm")
  ends = [f"{stack}.{n}.resid_post" for n in range(num)]
  if final in net.sites:
    ends[-1] = final
  starts = [f"{stack}.{n}.resid_pre" for n in range(num)]
  plain = net.apply(params, None, (*starts, *ends), **inputs).activations
  kept = {x: (jnp.ones(plain[x].shape, bool), plain[x]) for x in starts}
  length = np.shape(inputs[side])[1]
  cosine = lambda a, b: (
    (a * b).sum(-1)
    / jnp.maximum(jnp.linalg.norm(a, axis=-1), 1e-8)
    / jnp.maximum(jnp.linalg.norm(b, axis=-1), 1e-8)
  )

  def of(token):
    stays = (jnp.arange(length) != token)[None, :, None, None]
    cut = {f"{stack}.{n}.{values}": stays for n in range(num)}
    edits = sites.Edits(replace=kept, scale=cut)
    out = net.apply(params, edits, tuple(ends), **inputs).activations
    return jnp.stack([1 - cosine(out[x], plain[x])[0] for x in ends])

  shares = jax.lax.map(of, jnp.arange(length))  # [P, L, D]
  shares = jnp.where(shares < LEAST, 0, shares)
  if causal:
    seen = jnp.arange(shares.shape[2])[None] >= jnp.arange(length)[:, None]
    shares = jnp.where(seen[:, None], shares, 0)
  total = shares.sum(axis=0, keepdims=True)
  shares = shares / jnp.where(total == 0, 1, total)
  return shares.mean(axis=1).T[places]


def _is(site: str, stack: str, values: str) -> Any:
  return site.startswith(f"{stack}.") and site.endswith(f".{values}")
