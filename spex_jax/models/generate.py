"""Greedy and sampled generation with a key-value cache.

One program reads the prompts, another makes one token after the other; shapes
are static. Every row of a batch keeps its own length: a prompt is padded on the
right, and the tokens made overwrite the padding, so that positions and what is
attended to are those of a forward on that row alone.

Shapes: B prompts, P positions of the longest, N new tokens, V vocabulary, S
slots of the cache.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from spex_jax import base
from spex_jax.models import attention, inputs, sites, transformer


class Generated(NamedTuple):
  """What was generated.

  Attributes:
    tokens: int32 `[B, N]`; the end token repeats behind the first.
    logprobs: `[B, N]`, of each token under the model, whatever the
      temperature; 0 behind the end.
    lengths: int32 `[B]`, tokens up to and with the end token.
  """

  tokens: jax.Array
  logprobs: jax.Array
  lengths: jax.Array


def empty_caches(
  config: transformer.Config, batch: int, num_slots: int, dtype: Any
) -> tuple[attention.Cache, ...]:
  """One cache per block, of zeros: `[B, S, K, h]`."""
  shape = (batch, num_slots, config.num_kv_heads, config.head_width)
  zeros = jnp.zeros(shape, dtype)
  return tuple(attention.Cache(zeros, zeros) for _ in range(config.num_blocks))


def extend(
  net: sites.Network,
  params: Any,
  input_ids: jax.Array,
  start: jax.Array | int,
  caches: tuple[attention.Cache, ...],
  edits: sites.Edits | None = None,
  logits_at: jax.Array | None = None,
  attention_mask: base.Array | None = None,
) -> tuple[jax.Array, tuple[attention.Cache, ...]]:
  """Runs tokens behind those in the caches: see `transformer.Decoder.extend`.

  Args:
    net: of `transformer.network`.
    params: its parameters.
    input_ids: int `[B, Q]`.
    start: int `[B]`, the slot of each row's first token, or a static number.
    caches: from `empty_caches`, or from an earlier call.
    edits: traced, or None; their positions are the Q, the S slots, or 1.
    logits_at: int `[B]`, one token per row to give logits for, or `[B, k]`,
      or None for all.
    attention_mask: `[B or 1, S]`, which slots are seen; None for all.

  Returns:
    Logits `[B, Q or k or 1, V]` and the caches.

  Raises:
    TypeError: a network that is no causal model.
    ValueError: an edit that does not fit; see `sites.Network.check`.
  """
  if not isinstance(net.module, transformer.Decoder):
    raise TypeError(
      f"{type(net.module).__name__} is no causal language model; only those "
      "generate."
    )
  net.check(edits)
  tap = sites.Tap(edits)
  run: Any = net.module.apply
  logits, caches = run(
    {"params": params}, tap, input_ids, start, caches, logits_at,
    attention_mask, method="extend",
  )  # fmt: skip
  tap.finish()
  return logits, caches


def generate(
  net: sites.Network,
  params: Any,
  input_ids: base.Array,
  max_new_tokens: int,
  *,
  attention_mask: base.Array | None = None,
  temperature: float = 0.0,
  top_k: int = 0,
  key: base.Key | None = None,
  end: int | None = None,
  edits: sites.Edits | None = None,
) -> Generated:
  """Continues prompts; pure, and jittable with static settings.

  Args:
    net: a causal model, of `transformer.network`.
    params: its parameters.
    input_ids: int `[B, P]`, padded on the right.
    max_new_tokens: N; at least 1.
    attention_mask: `[B, P]`, 1 on the prompt; all ones by default.
    temperature: 0 takes the likeliest token; above, logits are divided by it
      and a token is drawn.
    top_k: draws from the k likeliest only; 0 from all.
    key: consumed; needed where tokens are drawn.
    end: token behind which a row is over, or None.
    edits: at every step; on the axis of positions (of `cut` and `ref`, too) 1
      for all alike, or P + N, those of the prompt and the text made.

  Raises:
    TypeError: a network that is no causal model, or ids that are no integers.
    ValueError: more tokens than the model has positions, a prompt padded on
      the left or empty (where the mask is known), a setting out of range, or
      drawing without a key.
  """
  if not isinstance(net.module, transformer.Decoder):
    raise TypeError(
      f"{type(net.module).__name__} is no causal language model; only those "
      "generate."
    )
  config: transformer.Config = net.config
  ids = inputs.check_ids(input_ids, config.vocab_size, config.max_positions)
  batch, length = ids.shape
  mask = inputs.check_mask(attention_mask, ids.shape)
  mask = jnp.broadcast_to(mask, ids.shape)
  if not isinstance(mask, jax.core.Tracer):
    falls = bool((mask[:, 1:] <= mask[:, :-1]).all())
    if not falls or not bool(mask[:, 0].all()):
      raise ValueError(
        "Prompts must hold a token and be padded on the right: a row of "
        "attention_mask is ones, then zeros."
      )
  num_slots = length + max_new_tokens
  if max_new_tokens < 1 or num_slots > config.max_positions:
    raise ValueError(
      f"{length} tokens and {max_new_tokens} new ones must be at least 1 new "
      f"and at most {config.max_positions} together, the model's positions."
    )
  draws = temperature != 0
  if temperature < 0 or not 0 <= top_k <= config.vocab_size:
    raise ValueError(
      f"Need temperature >= 0 and top_k in 0..{config.vocab_size}; got "
      f"{temperature} and {top_k}."
    )
  if draws and key is None:
    raise ValueError("Drawing tokens (temperature > 0) needs a key.")
  if end is not None and not 0 <= end < config.vocab_size:
    raise ValueError(
      f"The end token must lie in 0..{config.vocab_size - 1}; got {end}."
    )
  keys = None if key is None else jax.random.split(key, max_new_tokens)

  def choose(logits, number):
    if keys is None or not draws:
      return logits.argmax(-1).astype(jnp.int32)
    logits = logits / temperature
    if top_k:
      low = jax.lax.top_k(logits, top_k)[0][:, -1:]
      logits = jnp.where(logits >= low, logits, -jnp.inf)
    return jax.random.categorical(keys[number], logits).astype(jnp.int32)

  lengths = mask.sum(axis=1, dtype=jnp.int32)
  dtype = jax.tree.leaves(params)[0].dtype
  caches = empty_caches(config, batch, num_slots, dtype)
  logits, caches = extend(
    net, params, ids, jnp.zeros_like(lengths), caches, edits, lengths - 1
  )

  def step(state, number):
    logits, caches, over = state
    wide = logits[:, 0].astype(jnp.promote_types(logits.dtype, jnp.float32))
    token = choose(wide, number)
    if end is not None:
      token = jnp.where(over, end, token)
    logprob = jax.nn.log_softmax(wide)
    logprob = jnp.take_along_axis(logprob, token[:, None], axis=1)[:, 0]
    logprob = jnp.where(over, 0, logprob)
    was_over = over
    if end is not None:
      over = over | (token == end)
    logits, caches = extend(
      net, params, token[:, None], lengths + number, caches, edits
    )
    return (logits, caches, over), (token, logprob, ~was_over)

  over = jnp.zeros(batch, bool)
  _, (tokens, logprobs, live) = jax.lax.scan(
    step, (logits, caches, over), jnp.arange(max_new_tokens)
  )
  return Generated(tokens.T, logprobs.T, live.sum(axis=0, dtype=jnp.int32))
