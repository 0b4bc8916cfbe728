"""Step functions: a number for each step of a generation, by Inseq's names.

Of the step's token y and its distribution p:

  logit, probability    of y
  log_probability       ln p(y), nats
  entropy               of p, nats
  crossentropy          -ln p(y)
  perplexity            2 ** crossentropy, as Inseq has it: crossentropy is in
                        nats all the same
  top_p_size            the fewest tokens that hold a share `top_p` of p, by
                        Inseq's rule: those whose cumulated share, from the
                        smallest on, is above 1 - top_p
  mc_dropout_prob_avg   (p(y) - mean) / standard deviation (ddof = 1) of p(y)
                        under dropout: a z-score, for all its name

And of a contrasted generation, its token y' and its distribution q at that
step:

  contrast_logits, contrast_prob             of y' in that run
  contrast_logits_diff, contrast_prob_diff   of y, less these
  pcxmi                 -log2(p(y) / q(y')), bits
  in_context_pvi        -ln p(y) + ln q(y')
  kl_divergence         KL(p || q), nats; of `top_k`, or of a share `top_p` of
                        the larger logits of both, where asked for

Where such a function is attributed and not printed, y' is read from p and not
from q, as Inseq does, unless inputs are `forced`; the divergence always is of
both, and q is constant in it. Sources: `inseq.attr.step_functions`, version
0.7.1; Yin and Neubig, arXiv:2202.10419 (contrasts); Fernandes et al.,
arXiv:2105.03482 (P-CXMI); Lu et al., arXiv:2310.12300 (in-context PVI).

Shapes: S steps, V tokens of the vocabulary, K passes with dropout.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import contrasts
from spex_jax.context import stepping
from spex_jax.models import sites

CONTRASTED = (
  "contrast_logits", "contrast_prob", "contrast_logits_diff",
  "contrast_prob_diff", "pcxmi", "in_context_pvi", "kl_divergence",
)  # fmt: skip
NAMES = (
  "logit", "probability", "log_probability", "entropy", "crossentropy",
  "perplexity", "top_p_size", "mc_dropout_prob_avg", *CONTRASTED,
)  # fmt: skip
# Counts have no slope.
STEPPED = ("top_p_size",)
# What a span's number is of its steps', as Inseq joins them.
JOINED: Mapping[str, str] = {
  "probability": "prod",
  "entropy": "sum",
  "crossentropy": "sum",
  "perplexity": "prod",
  "contrast_prob_diff": "prod",
  "contrast_prob": "prod",
  "pcxmi": "sum",
  "kl_divergence": "sum",
  "mc_dropout_prob_avg": "prod",
}


class Given(NamedTuple):
  """What step functions need besides the logits.

  Attributes:
    token: int `[S]`, y, the token of each step.
    rival: int `[S]`, y'; y where nothing is contrasted.
    contrast: `[S, V]`, the contrasted run's logits, or None.
    mean: `[S]`, of p(y) under dropout, or None.
    spread: `[S]`, its standard deviation, or None.
  """

  token: base.Array
  rival: base.Array
  contrast: base.Array | None = None
  mean: base.Array | None = None
  spread: base.Array | None = None


_log = jax.nn.log_softmax


def of(scores: jax.Array, token: base.Array) -> jax.Array:
  """Of `[S, V]` those of tokens `[S]`."""
  return jnp.take_along_axis(scores, jnp.asarray(token)[:, None], axis=-1)[:, 0]


def check(name: str, what: str = "target") -> str:
  """A step function's name.

  Raises:
    ValueError: another, with the list of those that there are.
  """
  if name not in NAMES:
    raise ValueError(f"{what}={name!r}: choose from {', '.join(NAMES)}.")
  return name


@functools.cache
def target(
  name: str, forced: bool = True, top_k: int = 0, top_p: float = 1.0
) -> Callable[[jax.Array, Given], jax.Array]:
  """A step function of logits `[S, V]` and a `Given`: `[S]`.

  The same object for the same settings, so that it is compiled once.

  Args:
    name: which step function, of `NAMES`.
    forced: whether y' is read from the contrasted run, not from this one.
    top_k: of `kl_divergence`, tokens that count; 0 for all.
    top_p: of `kl_divergence` and `top_p_size`, a share in 0..1.

  Raises:
    ValueError: an unknown name, or settings out of range.
  """
  check(name)
  if top_k < 0 or not 0 <= top_p <= 1:
    raise ValueError(
      f"top_k must be at least 0 and top_p lie in 0..1; got {top_k}, {top_p}."
    )
  found = {
    "logit": lambda p, g: of(p, g.token),
    "probability": _chosen(jax.nn.softmax),
    "log_probability": _chosen(jax.nn.log_softmax),
    "entropy": lambda p, g: -contrasts.kl(_log(p), jnp.zeros_like(p)),
    "crossentropy": lambda p, g: -of(_log(p), g.token),
    "perplexity": lambda p, g: 2.0 ** -of(_log(p), g.token),
    "top_p_size": lambda p, g: _kept(p, top_p).sum(axis=-1).astype(p.dtype),
    "mc_dropout_prob_avg": lambda p, g: (
      (of(jax.nn.softmax(p), g.token) - g.mean) / g.spread
    ),
    "contrast_logits": _other(lambda x: x, forced),
    "contrast_prob": _other(jax.nn.softmax, forced),
    "contrast_logits_diff": _less(lambda x: x, forced),
    "contrast_prob_diff": _less(jax.nn.softmax, forced),
    "pcxmi": lambda p, g: (
      -_less(jax.nn.log_softmax, forced)(p, g) / float(np.log(2))
    ),
    "in_context_pvi": lambda p, g: -_less(jax.nn.log_softmax, forced)(p, g),
    "kl_divergence": lambda p, g: _kl(p, g.contrast, top_k, top_p),
  }[name]

  def step(logits, given):
    chex.assert_rank([logits, given.token], [2, 1])
    value = found(logits, given)
    chex.assert_shape(value, logits.shape[:1])
    return value

  return step


def _chosen(transform):
  return lambda p, g: of(transform(p), g.token)


def _other(transform, forced):
  return lambda p, g: of(transform(g.contrast if forced else p), g.rival)


def _less(transform, forced):
  rival = _other(transform, forced)
  return lambda p, g: of(transform(p), g.token) - rival(p, g)


def _kept(logits, top_p):
  """Inseq's nucleus: bool `[S, V]`, the largest always in it."""
  order = jnp.argsort(logits, axis=-1)
  shares = jnp.cumsum(
    jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1)), axis=-1
  )
  keep = (shares > 1 - top_p).at[:, -1].set(True)
  rank = jnp.argsort(order, axis=-1)
  return jnp.take_along_axis(keep, rank, axis=-1)


def _kl(p, q, top_k, top_p):
  size = p.shape[-1]
  if top_k > size:
    raise ValueError(f"top_k={top_k}: the vocabulary has {size} tokens.")
  low = jnp.asarray(-jnp.inf, p.dtype)
  keep = jnp.ones(p.shape, bool)
  larger = lambda: jnp.where(keep, jnp.maximum(p, q), low)
  if top_p < 1:
    keep &= _kept(larger(), top_p)
  if top_k:
    keep &= larger() >= jax.lax.top_k(larger(), top_k)[0][:, -1:]
  # Where a token is left out of both it adds nothing, and has no slope.
  a, b = (jnp.where(keep, _log(jnp.where(keep, x, low)), 0.0) for x in (p, q))
  return jnp.where(keep, jnp.exp(a) * (a - b), 0.0).sum(axis=-1)


def under_dropout(
  net: sites.Network,
  params: Any,
  inputs: Mapping[str, base.Array],
  places: np.ndarray,
  token: base.Array,
  key: base.Key,
  *,
  passes: int = 5,
  rate: float = 0.1,
) -> tuple[jax.Array, jax.Array]:
  """Mean and standard deviation of p(y) under dropout: `[S]` twice.

  Dropout acts where Hugging Face's GPT-2 and T5 have most of theirs: on the
  embeddings, on attention's pattern, and on what attention and MLP write.

  Args:
    net: a causal model, or an encoder-decoder.
    params: the parameters of the network.
    inputs: the inputs of one row, by name.
    places: int `[S]`, the positions that predict the steps.
    token: int `[S]`, y, the token of each step.
    key: a random key, consumed by the draws of what is dropped.
    passes: K, at least 2.
    rate: the share of entries that is dropped, in 0..1.

  Raises:
    ValueError: settings out of range.
  """
  if passes < 2 or not 0 < rate < 1:
    raise ValueError(
      f"Dropout needs at least 2 passes and a rate in 0..1; got {passes}, "
      f"{rate}."
    )
  drawn = _dropped(
    sites.Model(net), rate, params, dict(inputs), places, token,
    jax.random.split(key, passes),
  )  # fmt: skip
  return drawn.mean(axis=0), drawn.std(axis=0, ddof=1)


@functools.partial(jax.jit, static_argnums=0)
def _dropped(held, rate, params, inputs, places, token, keys):
  """p(y) `[K, S]`, of each key's dropout."""
  ends = (".attn.pattern", ".cross.pattern", ".attn.out", ".cross.out")
  dropped = tuple(
    x for x in held.net.sites if x.endswith((*ends, ".mlp.out", "embed"))
  )
  plain = lambda: held.net.apply(params, None, dropped, **inputs).activations
  shapes = jax.eval_shape(plain)

  def one(key):
    scale = {
      site: jax.random.bernoulli(own, 1 - rate, shapes[site].shape) / (1 - rate)
      for site, own in zip(dropped, jax.random.split(key, len(dropped)))
    }
    out = held.net.apply(params, sites.Edits(scale=scale), **inputs).logits
    return of(jax.nn.softmax(out[0, places].astype(jnp.float32)), token)

  return jax.lax.map(one, keys)


def printed(
  held: sites.Model,
  params: Any,
  inputs: Mapping[str, base.Array],
  places: np.ndarray,
  given: Given,
  names: tuple[str, ...],
  **settings: Any,
) -> dict[str, np.ndarray]:
  """Step functions of one forward: name to float64 `[S]`.

  Args:
    held: the network, hashable.
    params: the parameters of the network.
    inputs: the inputs of one row, by name.
    places: int `[S]`, the positions that predict the steps.
    given: what they need besides the logits.
    names: which step functions, of `NAMES`.
    **settings: `top_k` and `top_p`, as for `target`.

  Raises:
    ValueError: an unknown name, or values that are not finite.
  """
  logits = stepping.run(held, params, dict(inputs), places[None])[0]
  found = {}
  for name in names:
    step = target(check(name, "step_scores"), True, **settings)
    found[name] = np.asarray(step(logits, given), np.float64)
    if not np.isfinite(found[name]).all():
      raise ValueError(
        f"Scores by {name} are not finite: {found[name]}. "
        + "Dropout that changes nothing has no spread."
        * (name == "mc_dropout_prob_avg")
      )
  return found
