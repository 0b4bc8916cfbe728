"""Citations of a model behind an endpoint that scores what it is given.

An OpenAI-compatible `/completions` that gives the log-probabilities of the
prompt's own tokens: by `prompt_logprobs` (vLLM) or by `echo` with `logprobs`
(llama-server, vLLM). The prompt goes as token ids, so that its tokens are those
of the sources; hosted chat endpoints give no such thing, and are refused at the
start. To score another model's answer, use a local model: `scoring.scorer`.

What an endpoint cannot give: whole distributions (no "jsd"), and, where it does
not name the likeliest token besides, whether the answer is the greedy one: sets
are then told by the midpoint alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import absent, closed, evaluate, services
from spex_jax.ablate import text as text_lib
from spex_jax.context import scoring, templates
from spex_jax.context import sources as sources_lib

WAYS = ("prompt_logprobs", "echo")
# Certain tokens come as 0.0: the odds of a float32 that is all but 1.
_SUREST = -1e-7


class Unscored(ValueError):
  """The endpoint does not give the log-probabilities of a prompt."""


def scorer(
  service: services.Service,
  model: str,
  sources: sources_lib.Sources,
  response: str | Sequence[int],
  *,
  by: str | None = None,
  retry: closed.Retry | None = None,
  **settings: Any,
) -> scoring.Scorer:
  """A scorer for `citing.cite` whose forwards are requests, one a mask.

  Args:
    service: where; its url ends before "/completions".
    model: the name that the endpoint knows it by.
    sources: prompt and sources, made with the tokenizer of that model.
    response: text or ids, at least one token.
    by: how log-probabilities are asked for, of `WAYS`; None tries them in this
      order, by one request each.
    retry: the retry of requests; by default of those that may pass.
    **settings: further arguments of `evaluate.host`: `cache`,
      `calls_per_second`.

  Raises:
    ValueError: an unknown way, a response of no tokens, one that spells a
      special token, or `Unscored`: the endpoint answers without
      log-probabilities of the prompt.
  """
  if by is not None and by not in WAYS:
    raise ValueError(f"by={by!r}: choose from {', '.join(WAYS)}.")
  if not len(response):
    raise ValueError("The response has no tokens: nothing can be scored.")
  if isinstance(response, str):
    templates.refuse_special(sources.tokenizer, "response", response)
  whole, count = text_lib.continued(
    sources.prompt, response, sources.tokenizer, max_length=sources.max_length
  )
  see = absent.inputs(whole, sources.tokenizer, "remove")

  # One request a mask: the prompt that is left, with the response behind it.
  def ask(mask: np.ndarray, way: str) -> np.ndarray:
    given = see(jnp.asarray(mask))
    seen = np.asarray(given["attention_mask"][0], bool)
    ids = np.asarray(given["input_ids"][0])[seen].tolist()
    body = {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0}
    more = (
      {"prompt_logprobs": 2}
      if way == WAYS[0]
      else {"echo": True, "logprobs": 2}
    )
    answer = service.post("/completions", body | more)
    return _read(answer, way, ids, count)

  # The first way that this endpoint takes, tried with all sources.
  full, refusals = np.ones(sources.n, bool), []
  retry = retry or closed.Retry(on=(services.Overloaded,))
  found = None
  for way in WAYS if by is None else (by,):
    try:
      found = retry.wrap(lambda mask, way=way: ask(mask, way))(full)
      break
    except (Unscored, services.Refused) as error:
      refusals.append(f"{way}: {error}")
  if found is None:
    raise Unscored(
      f"{service.url} gives no log-probabilities of a prompt "
      f"({'; '.join(refusals)}). Score the answer with a local model, or use "
      "vLLM or llama-server."
    )
  rows = lambda masks: np.stack([ask(mask, way) for mask in masks])
  run = evaluate.host(rows, sources.n, retry=retry, **settings)
  return Remote(sources, whole.encoding.ids[-count:], run)


class Remote(scoring.Scorer):
  """A scorer by requests; margins are NaN where the endpoint says none."""

  def __call__(self, masks: base.Masks) -> scoring.Scores:
    found = super().__call__(masks)
    margins = np.where(found.margins == _UNKNOWN, np.nan, found.margins)
    return scoring.Scores(found.log_odds, margins)

  def expect(self, masks: int) -> None:
    del masks

  @property
  def memory_bytes(self) -> None:
    return None


# Evaluators refuse NaN; no margin of two logits is this.
_UNKNOWN = -1e30


def _read(answer: Any, way: str, ids: list[int], count: int) -> np.ndarray:
  """Log-odds and margins of the last tokens of the prompt: `[2 count]`."""
  try:
    choice = answer["choices"][0]
    if way == WAYS[0]:
      found = choice.get("prompt_logprobs") or answer.get("prompt_logprobs")
      pairs = [_of_table(table, t) for table, t in zip(found[1:], ids[1:])]
    else:
      said = choice["logprobs"]
      tops = said.get("top_logprobs") or [None] * len(said["token_logprobs"])
      pairs = [
        (float(own), _best(top, own))
        for own, top in zip(
          said["token_logprobs"][1 : len(ids)], tops[1 : len(ids)]
        )
      ]
    if len(pairs) != len(ids) - 1:
      raise Unscored(f"{len(pairs) + 1} of {len(ids)} tokens are scored.")
    logs, margins = np.array(pairs[-count:], float).T
  except (KeyError, IndexError, TypeError, AttributeError) as error:
    raise Unscored("the answer has no log-probabilities of it.") from error
  logs = np.minimum(logs, _SUREST)
  return np.concatenate([logs - np.log(-np.expm1(logs)), margins])


def _of_table(table: Mapping[str, Any], token: int) -> tuple[float, float]:
  """A token's log-probability and margin from vLLM's table by ids."""
  plain = {
    int(k): float(v["logprob"] if isinstance(v, Mapping) else v)
    for k, v in table.items()
  }
  others = [v for k, v in plain.items() if k != token]
  own = plain[token]
  return own, own - max(others) if others else _UNKNOWN


def _best(top: Mapping[str, float] | None, own: float) -> float:
  """The margin over the likeliest others, which are named by text alone."""
  if not top:
    return _UNKNOWN
  best = sorted(map(float, top.values()), reverse=True)
  if own < best[0]:
    return own - best[0]
  return own - best[1] if len(best) > 1 else _UNKNOWN
