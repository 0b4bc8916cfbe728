"""Greedy and sampled generation with a key-value cache.

One program reads the prompts, another makes one token after the other; shapes
are static. Every row of a batch keeps its own length: a prompt is padded on the
right, and the tokens made overwrite the padding, so that positions and what is
attended to are those of a forward on that row alone. Of an encoder-decoder the
encoder, and its keys and values for every block of the decoder, are computed
once; the prompt below is then that of the decoder, its start token.

Shapes: B prompts, P positions of the longest, N new tokens, V vocabulary, S
slots of the cache.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.models import (
  attention,
  checks,
  inputs,
  seq2seq,
  seq2seq_blocks,
  sites,
  transformer,
)

# One of each block of a decoder, and of an encoder-decoder the encoder's, too.
Caches = tuple[attention.Cache, ...] | seq2seq_blocks.Caches


class Generated(NamedTuple):
  """What was generated.

  Attributes:
    tokens: int32 `[B, N]`; the end token repeats behind the first.
    logprobs: `[B, N]`, of each token under the model, in nats, whatever the
      temperature and what is suppressed; 0 behind the end.
    lengths: int32 `[B]`, tokens up to and with the end token.
    logits: `[B, N, V]`, from which each token was chosen, before temperature;
      None unless asked for. Behind the end they go on.
    activations: captured site to `[B, N, ...]`, at the position that predicts
      each token: as `apply` gives them for the whole text, with keys in S slots
      (`attn.scores`, `attn.pattern`) and without the axis of positions. Of an
      encoder, and of keys and values of cross-attention, as `apply` gives them.
  """

  tokens: jax.Array
  logprobs: jax.Array
  lengths: jax.Array
  logits: jax.Array | None
  activations: Mapping[str, jax.Array]


class Extended(NamedTuple):
  """What some more tokens give.

  Attributes:
    logits: `[B, Q or k or 1, V]`.
    caches: the caches, which hold these tokens, too.
    activations: captured site to activation, after its edits.
  """

  logits: jax.Array
  caches: Caches
  activations: Mapping[str, jax.Array]


def empty_caches(
  config: transformer.Config, batch: int, num_slots: int, dtype: Any
) -> tuple[attention.Cache, ...]:
  """One cache per block, of zeros: `[B, S, K, h]`."""
  shape = (batch, num_slots, config.num_kv_heads, config.head_width)
  zeros = jnp.zeros(shape, dtype)
  return tuple(attention.Cache(zeros, zeros) for _ in range(config.num_blocks))


def begin(
  net: sites.Network,
  params: Any,
  num_slots: int,
  edits: sites.Edits | None = None,
  capture: Sequence[str] = (),
  **encoder: base.Array,
) -> tuple[seq2seq_blocks.Caches, Mapping[str, jax.Array]]:
  """Runs an encoder: what a decoder of S tokens needs of it.

  Args:
    net: an encoder-decoder, whose encoder is run.
    params: the parameters of the network.
    num_slots: S, the most tokens of the decoder.
    edits: traced, or None. Those at sites of the encoder, and at keys and
      values of cross-attention, are applied here, the others by `extend`.
    capture: static patterns; of the same sites.
    **encoder: `input_ids` int `[B, P]`, perhaps `attention_mask` `[B, P]`.

  Returns:
    The caches, and what was captured.

  Raises:
    TypeError: another network.
    ValueError: an edit that does not fit, or a capture that names no site.
  """
  if not isinstance(net.module, seq2seq.EncoderDecoder):
    raise TypeError(f"{type(net.module).__name__} is no encoder-decoder.")
  net.check(edits)
  own, _ = _split(net, edits, checks.match(net.sites, capture))
  return _run(net, params, own, num_slots, method="begin", **encoder)


def extend(
  net: sites.Network,
  params: Any,
  input_ids: jax.Array,
  start: jax.Array | int,
  caches: Caches,
  edits: sites.Edits | None = None,
  logits_at: jax.Array | None = None,
  attention_mask: base.Array | None = None,
  capture: Sequence[str] = (),
  position_ids: base.Array | None = None,
) -> Extended:
  """Runs tokens behind those in the caches: see `transformer.Decoder.extend`.

  Args:
    net: a causal model, or an encoder-decoder: then all is of its decoder.
    params: the parameters of the network.
    input_ids: int `[B, Q]`, the ids of the tokens that are run.
    start: int `[B]`, the slot of each row's first token, or a static number.
    caches: from `empty_caches` or `begin`, or from an earlier call.
    edits: traced, or None; their positions are the Q, the S slots, or 1.
      Those that `begin` applies are not applied again.
    logits_at: int `[B]`, one token per row to give logits for, or `[B, k]`,
      or None for all.
    attention_mask: `[B or 1, S]`, which slots are seen; None for all. Of a
      causal model also `[1, Q, S]`, by each token.
    capture: static; patterns of site names. Sites of `begin` are left out.
    position_ids: int `[B or 1, Q]`, of a causal model; None for the slots.

  Raises:
    TypeError: a network that does not generate.
    ValueError: an edit that does not fit, see `sites.Network.check`, or a
      capture that names no site.
  """
  _check_module(net)
  net.check(edits)
  _, each = _split(net, edits, checks.match(net.sites, capture))
  places = {} if position_ids is None else {"position_ids": position_ids}
  (logits, caches), found = _run(
    net, params, each, input_ids, start, caches, logits_at, attention_mask,
    method="extend", **places,
  )  # fmt: skip
  return Extended(logits, caches, found)


def generate(
  net: sites.Network,
  params: Any,
  input_ids: base.Array,
  max_new_tokens: int,
  *,
  attention_mask: base.Array | None = None,
  decoder_input_ids: base.Array | None = None,
  decoder_attention_mask: base.Array | None = None,
  temperature: float = 0.0,
  top_k: int = 0,
  key: base.Key | None = None,
  end: int | None = None,
  suppress: Sequence[int] | None = None,
  edits: sites.Edits | None = None,
  capture: Sequence[str] = (),
  logits: bool = False,
) -> Generated:
  """Continues prompts; pure, and jittable with static settings.

  Args:
    net: a causal model, of `transformer.network`, or an encoder-decoder, of
      `seq2seq.network`.
    params: the parameters of the network.
    input_ids: int `[B, P]`, padded on the right; of an encoder-decoder what
      the encoder reads, padded anywhere. Under jit, padding anywhere is moved
      to the right first, and a row without any token gives tokens of -1 and
      NaN.
    max_new_tokens: N; at least 1.
    attention_mask: `[B, P]`, 1 on the prompt; all ones by default.
    decoder_input_ids: the decoder input ids of an encoder-decoder, int `[B,
      D]`, what its text begins with, padded on the right; the start token by
      default.
    decoder_attention_mask: `[B, D]`, as `attention_mask`.
    temperature: 0 takes the likeliest token; above, logits are divided by it
      and a token is drawn.
    top_k: draws from the k likeliest only; 0 from all.
    key: a random key, consumed; needed where tokens are drawn.
    end: token behind which a row is over, or None.
    suppress: tokens that are never made; None for those that an
      encoder-decoder's configuration names, none of a causal model.
    edits: at every step; on the axis of positions (of `cut` and `ref`, too) 1
      for all alike, or P + N, those of the prompt and the text made. Of an
      encoder-decoder the decoder's are D + N, the encoder's P.
    capture: static; patterns of the names of sites that are recorded.
    logits: static; whether to return those of every step.

  Raises:
    TypeError: a network that does not generate, ids that are no integers, or
      inputs of a decoder for a causal model.
    ValueError: more tokens than the model has positions, a prompt padded on
      the left or empty (where the mask is known), an edit, a capture or a
      setting out of range, or drawing without a key.
  """
  _check_module(net)
  net.check(edits)
  config = net.config
  captured = checks.match(net.sites, capture)
  found: Mapping[str, jax.Array] = {}
  if isinstance(net.module, seq2seq.EncoderDecoder):
    if decoder_input_ids is None:
      shape = (np.shape(input_ids)[0], 1)
      decoder_input_ids = np.full(shape, config.start_id, np.int32)
    ids, lengths = _prompts(
      config,
      decoder_input_ids,
      decoder_attention_mask,
      max_new_tokens,
      "decoder_",
    )
    once, each = _split(net, edits, captured)
    caches, found = _run(
      net, params, once, ids.shape[1] + max_new_tokens, input_ids,
      attention_mask, method="begin",
    )  # fmt: skip
    suppress = config.suppressed if suppress is None else suppress
  else:
    if decoder_input_ids is not None or decoder_attention_mask is not None:
      raise TypeError("A causal model has no decoder_input_ids; one prompt.")
    ids, lengths = _prompts(config, input_ids, attention_mask, max_new_tokens)
    each = edits, captured
    dtype = jax.tree.leaves(params)[0].dtype
    num_slots = ids.shape[1] + max_new_tokens
    caches = empty_caches(config, len(ids), num_slots, dtype)
  choose = _chooser(
    config.vocab_size, max_new_tokens, temperature, top_k, key, suppress or ()
  )
  if end is not None and not 0 <= end < config.vocab_size:
    raise ValueError(
      f"The end token must lie in 0..{config.vocab_size - 1}; got {end}."
    )
  run = lambda tap, *rest: _run(net, params, tap, *rest, method="extend")
  if ids.shape[1] > 1:
    # Its logits are not asked for, so they are not computed. The last token of
    # a prompt runs again as the first step, so that all steps are alike.
    (_, caches), _ = run(
      (each[0], frozenset()), ids, jnp.zeros_like(lengths), caches, lengths - 1
    )

  def step(state, number):
    token, caches, over = state
    (scores, caches), seen = run(
      each, token[:, None], lengths - 1 + number, caches
    )
    wide = scores[:, 0].astype(jnp.promote_types(scores.dtype, jnp.float32))
    token = choose(wide, number)
    if end is not None:
      token = jnp.where(over, end, token)
    logprob = jnp.take_along_axis(jax.nn.log_softmax(wide), token[:, None], 1)
    made = Generated(
      tokens=token,
      logprobs=jnp.where(over, 0, logprob[:, 0]),
      lengths=~over,
      logits=scores[:, 0] if logits else None,
      activations={
        site: x.take(0, axis=_axis(site)) for site, x in seen.items()
      },
    )
    if end is not None:
      over = over | (token == end)
    return (token, caches, over), made

  last = jnp.take_along_axis(ids, lengths[:, None] - 1, axis=1)[:, 0]
  over = jnp.zeros(len(ids), bool)
  start = (last.astype(jnp.int32), caches, over)
  _, made = jax.lax.scan(step, start, jnp.arange(max_new_tokens))
  made = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), made)
  chex.assert_shape(made.tokens, (len(ids), max_new_tokens))
  empty = (lengths == 0)[:, None]
  return made._replace(
    tokens=jnp.where(empty, -1, made.tokens),
    logprobs=jnp.where(empty, jnp.nan, made.logprobs),
    lengths=made.lengths.sum(axis=1, dtype=jnp.int32),
    activations={**found, **made.activations},
  )


def _check_module(net: sites.Network) -> None:
  kinds = (transformer.Decoder, seq2seq.EncoderDecoder)
  if not isinstance(net.module, kinds):
    raise TypeError(
      f"{type(net.module).__name__} is no causal language model and no "
      "encoder-decoder; only those generate."
    )


def _split(net, edits, captured):
  """Edits and captures of the sites passed once, and of those at every step."""
  if not isinstance(net.module, seq2seq.EncoderDecoder):
    return (None, frozenset()), (edits, captured)

  def part(once):
    keep = lambda site: seq2seq.computed_once(site) == once
    chosen = frozenset(filter(keep, captured))
    if edits is None:
      return None, chosen
    at = {
      name: {k: v for k, v in getattr(edits, name).items() if keep(k)}
      for name in ("replace", "scale", "add")
    }
    return dataclasses.replace(edits, **at), chosen

  return part(True), part(False)


def _run(net, params, tapped, *args, method, **kwargs):
  """A method of the module, and what was captured meanwhile."""
  tap = sites.Tap(*tapped)
  run: Any = net.module.apply
  out = run({"params": params}, tap, *args, method=method, **kwargs)
  tap.finish()
  return out, tap.activations


def _prompts(config, ids, mask, num, name=""):
  """Prompts `[B, P]` and their lengths `[B]`, checked; `num` tokens follow."""
  ids = inputs.check_ids(
    ids, config.vocab_size, config.max_positions, f"{name}input_ids"
  )
  mask = inputs.check_mask(mask, ids.shape, f"{name}attention_mask")
  mask = jnp.broadcast_to(mask, ids.shape)
  if not isinstance(mask, jax.core.Tracer):
    falls = bool((mask[:, 1:] <= mask[:, :-1]).all())
    if not falls or not bool(mask[:, 0].all()):
      raise ValueError(
        "Prompts must hold a token and be padded on the right: a row of "
        f"{name}attention_mask is ones, then zeros."
      )
  else:  # Of unknown values: what is padded moves behind, in order.
    order = jnp.argsort(~mask, axis=1, stable=True)
    ids = jnp.take_along_axis(jnp.asarray(ids), order, axis=1)
  length, limit = ids.shape[1], config.max_positions
  if num < 1 or (limit is not None and length + num > limit):
    most = "any number" if limit is None else f"{limit}, the model's positions,"
    raise ValueError(
      f"{length} tokens and {num} new ones must be at least 1 new and at most "
      f"{most} together."
    )
  return ids, mask.sum(axis=1, dtype=jnp.int32)


def _chooser(vocab_size, num, temperature, top_k, key, suppress):
  """Logits `[B, V]` and the number of a step to tokens int32 `[B]`."""
  if temperature < 0 or not 0 <= top_k <= vocab_size:
    raise ValueError(
      f"Need temperature >= 0 and top_k in 0..{vocab_size}; got "
      f"{temperature} and {top_k}."
    )
  if temperature and key is None:
    raise ValueError("Drawing tokens (temperature > 0) needs a key.")
  never = np.array(sorted({*suppress}), np.int32)
  if never.size and not 0 <= never[0] <= never[-1] < vocab_size:
    raise ValueError(
      f"suppress must lie in 0..{vocab_size - 1}; got {never.tolist()}."
    )
  if len(never) == vocab_size:
    raise ValueError("All tokens are suppressed; one must be left.")
  keys = None if key is None else jax.random.split(key, num)

  def choose(logits, number):
    chex.assert_shape(logits, (None, vocab_size))
    if never.size:
      logits = logits.at[:, never].set(-jnp.inf)
    if keys is None or not temperature:
      return logits.argmax(-1).astype(jnp.int32)
    logits = logits / temperature
    if top_k:
      low = jax.lax.top_k(logits, top_k)[0][:, -1:]
      logits = jnp.where(logits >= low, logits, -jnp.inf)
    return jax.random.categorical(keys[number], logits).astype(jnp.int32)

  return choose


def _axis(site: str) -> int:
  """The axis of positions of a site's activation."""
  return 2 if site.endswith((".scores", ".pattern")) else 1
