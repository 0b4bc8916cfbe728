"""Predictions at the steps of a response, and their slopes by embeddings.

Unbatched in nothing: rows of a batch, each with its own places.

Shapes: B rows, P positions, R steps, V tokens, d width.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.models import seq2seq, sites

Added = Mapping[str, base.Array]


def input_sites(net: sites.Network) -> dict[str, str]:
  """Input ids to the site of their embeddings."""
  if isinstance(net.module, seq2seq.EncoderDecoder):
    return {
      "input_ids": "encoder.embed.tokens",
      "decoder_input_ids": "decoder.embed.tokens",
    }
  return {"input_ids": "embed.tokens"}


def predictions(
  net: sites.Network,
  params: Any,
  inputs: Mapping[str, Any],
  places: base.Array,
  added: Added | None = None,
) -> jax.Array:
  """Logits float32 `[B, R, V]` at positions `[B, R]` of a batch.

  Args:
    net: a causal model, or an encoder-decoder.
    params: the parameters of the network.
    inputs: the inputs of B rows, by name.
    places: int `[B, R]`, the positions whose logits are wanted.
    added: site to what is added to embeddings, `[B, P, d]`.
  """
  edits = sites.Edits(add=added) if added else None
  places = jnp.asarray(places)
  if "logits_to_keep" in net.optional:
    out = net.apply(params, edits, logits_to_keep=places, **inputs).logits
  else:
    out = net.apply(params, edits, **inputs).logits
    out = jnp.take_along_axis(out, places[..., None], axis=1)
  chex.assert_shape(out, (*places.shape, None))
  return out.astype(jnp.promote_types(out.dtype, jnp.float32))


@functools.partial(jax.jit, static_argnums=0)
def run(
  held: sites.Model,
  params: Any,
  inputs: Mapping[str, base.Array],
  places: base.Array,
) -> jax.Array:
  """`predictions`, compiled once for each network and shape."""
  return predictions(held.net, params, inputs, places)


def zeros(
  net: sites.Network, params: Any, inputs: Mapping[str, base.Array]
) -> dict[str, jax.Array]:
  """What adds nothing to the embeddings: a point to differentiate at."""
  dtype = jax.tree.leaves(params)[0].dtype
  width = net.config.width
  return {
    site: jnp.zeros((*np.shape(inputs[name]), width), dtype)
    for name, site in input_sites(net).items()
  }


def slopes(
  value: Callable[[Added], jax.Array], at: Added
) -> Callable[[jax.Array], dict[str, jax.Array]]:
  """Weights `[R]` of the values to the gradient of their sum, by site.

  The forward runs once, however many steps are asked for.
  """
  _, back = jax.vjp(value, at)
  return lambda weights: back(weights)[0]
