"""Embeddings: a text's, mixed by players' strengths, and readouts of a model's.

Readouts are a head on an embedding, itself, or how alike two are.

Shapes: B rows, P positions, d width, K classes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import absent, components, parts, readouts
from spex_jax.ablate import text as text_lib
from spex_jax.models import sites, tokens


def game(
  net: sites.Network,
  prompt: text_lib.Prompt,
  tokenizer: tokens.Tokenizer,
  read: readouts.Readout,
  *,
  way: str = "mask",
  token: int | str | None = None,
  edits: sites.Edits | None = None,
  params: Any = None,
  capture: tuple[str, ...] = (),
  units: str = "",
  **fixed: base.Array,
) -> base.Game:
  """Players that own tokens of a text: their embeddings are mixed.

  The baseline is the all-absent input: in an absent player's places stand the
  embeddings of the mask token, or of `token`.

  Args:
    net: a network with the site `embed.tokens` (T5: `encoder.embed.tokens`).
    prompt: the tokens of the text, and the player of each.
    tokenizer: the tokenizer of the model.
    read: of the output. Given the ids of the whole text, so that one which
      reads the tokens themselves (`log_perplexity`) has no baseline here.
    way: "mask"; the others of `absent.WAYS` move or hide tokens, which has no
      derivative.
    token: what absent tokens become, as for `absent.inputs`.
    edits: what is done to the network whoever is kept, as for
      `components.game`.
    params: the parameters of the network; its own by default.
    capture: names of the sites that `read` asks for.
    units: the units of the values.
    **fixed: inputs that do not depend on the mask, of one row.

  Raises:
    ValueError: another way, no such site, or as `absent.inputs`.
  """
  if way != "mask":
    raise ValueError(
      f"way={way!r}: gradients need absent tokens to stay in their places as "
      "another token, way='mask'. For other ways use a method of masks."
    )
  site = next((s for s in net.sites if s.endswith("embed.tokens")), None)
  if site is None:
    raise ValueError("The network has no site 'embed.tokens' to differentiate.")
  params = net.given(params)
  see = absent.inputs(prompt, tokenizer, way, token=token)
  whole, nothing = see(np.ones(prompt.n, bool)), see(np.zeros(prompt.n, bool))

  def embeddings(params, edits, given):
    # The rest of the network is not run: the compiler drops it.
    inputs: dict[str, Any] = {**fixed, **given}
    return net.apply(params, edits, capture=(site,), **inputs).activations

  owner = prompt.players.owner
  mixed = components.game(
    net,
    parts.Players(prompt.names, {site: owner[None, :, None]}),
    {**fixed, **whole},
    read,
    absent=jax.jit(embeddings)(params, edits, nothing),
    edits=edits,
    params=params,
    capture=capture,
    units=units,
  )
  # The token that stands for the absent ones, as absent.inputs chose it.
  owned = np.flatnonzero(owner < prompt.n)[0]
  name = tokenizer.token(int(np.asarray(nothing["input_ids"])[0, owned]))
  words = f"the embedding of {name!r} for each token"
  return dataclasses.replace(mixed, absent=words)


def head(
  kernel: base.Array, bias: base.Array, read: readouts.Readout
) -> readouts.Readout:
  """A readout of the logits that a linear head gives to an embedding.

  Args:
    kernel: `[d, K]`; the network's `logits` are its embedding `[B, d]`.
    bias: float `[K]`, one for each class.
    read: of the head's logits `[B, K]`.

  Raises:
    ValueError: a kernel and a bias that do not fit each other. When read:
      embeddings of another width.
  """
  kernel, bias = (np.asarray(x, np.float32) for x in (kernel, bias))
  if kernel.ndim != 2 or bias.shape != kernel.shape[1:]:
    raise ValueError(
      f"A head is a kernel [d, K] and a bias [K]; got {kernel.shape} and "
      f"{bias.shape}."
    )

  def through(output, inputs):
    vectors = output.logits.astype(jnp.float32)
    if vectors.ndim != 2 or vectors.shape[1] != len(kernel):
      raise ValueError(
        f"The head takes embeddings [B, {len(kernel)}]; got {vectors.shape}."
      )
    logits = jnp.dot(vectors, kernel, precision="highest") + bias[None]
    return read(dataclasses.replace(output, logits=logits), inputs)

  return through


def embedding(pool: str = "mean") -> readouts.Readout:
  """An embedding of the input: `[B, d]`.

  Args:
    pool: "mean" of the last hidden states over the tokens that are seen,
      "first" or "last" of these, or a captured site of shape `[B, d]`.

  Raises:
    ValueError: when read, a site that was not captured or has another shape.
  """

  def read(output, inputs):
    if pool not in ("mean", "first", "last"):
      return _captured(output, pool)
    states = output.hidden[-1]
    if states.ndim != 3:
      raise ValueError(
        f"pool={pool!r} needs hidden states [B, P, d]; got {states.shape}. "
        "Name a captured site instead."
      )
    seen = readouts.seen_tokens(inputs, states.shape[:2])
    if pool == "mean":
      weight = seen.astype(jnp.float32)[..., None]
      return (states * weight).sum(axis=1) / weight.sum(axis=1)
    at = readouts.ends(seen)[0 if pool == "first" else 1]
    return jnp.take_along_axis(states, at[:, None, None], axis=1)[:, 0]

  return read


def similarity(reference: base.Array, pool: str = "mean") -> readouts.Readout:
  """Cosine of the embedding and that of the unmasked input.

  Args:
    reference: `[d]`, what `embedding(pool)` gives for the unmasked input.
    pool: how positions become one, as for `embedding`.

  Raises:
    ValueError: a reference that is no vector, or zero. When read: embeddings
      of another width.
  """
  unit = np.asarray(reference, np.float64)
  length = np.linalg.norm(unit)
  if unit.ndim != 1 or not 0 < length < np.inf:
    raise ValueError(
      f"The reference must be one embedding [d], finite and not zero; got "
      f"shape {unit.shape} of length {length:g}."
    )
  unit = (unit / length).astype(np.float32)
  embed = embedding(pool)

  def read(output, inputs):
    vectors = embed(output, inputs).astype(jnp.float32)
    if vectors.shape[1] != len(unit):
      raise ValueError(
        f"The reference has {len(unit)} entries; embeddings have "
        f"{vectors.shape[1]}."
      )
    return vectors @ unit / jnp.linalg.norm(vectors, axis=1)

  return read


def _captured(output: sites.Output, site: str) -> jax.Array:
  if site not in output.activations:
    known = ", ".join(sorted(output.activations)) or "nothing"
    raise ValueError(
      f"pool={site!r}: choose mean, first or last, or capture that site; "
      f"captured is {known}."
    )
  vectors = output.activations[site]
  if vectors.ndim != 2:
    raise ValueError(
      f"An embedding must be [B, d]; site {site!r} has {vectors.shape}."
    )
  return vectors
