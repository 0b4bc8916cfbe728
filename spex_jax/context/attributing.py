"""Attributes a generation, step by step: which tokens made each token.

  found = context.attribute(net, "The cat sat on", method="saliency")
  found.scores  # [steps, tokens of the prompt]
  found.words().normalised().save("out.json", "inseq")

Methods are `methods.METHODS`, targets and step scores `steps.NAMES`, both by
Inseq's names, which are what Inseq computes. All steps come from one compiled
program.

Shapes: S steps, N tokens of the source, D tokens behind it that a step may see,
R of the response.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from spex_jax import base
from spex_jax.context import cues, games, methods, stepping, steps, token_scores
from spex_jax.context import generations as generations_lib
from spex_jax.context import response_runs as runs_lib
from spex_jax.models import sites


def attribute(
  net: sites.Network,
  given: "generations_lib.Generation | runs_lib.Runs | str",
  *,
  method: str = "saliency",
  target: str = "probability",
  steps_of: Sequence[int] | None = None,
  prefix: bool | None = None,
  step_scores: Sequence[str] = (),
  contrast: generations_lib.Generation | None = None,
  aligned: Sequence[int] | None = None,
  forced: bool | None = None,
  top_k: int = 0,
  top_p: float = 1.0,
  layer: str | None = None,
  unknown: int | None = None,
  kept: Sequence[int] | None = None,
  params: Any = None,
  max_new_tokens: int = 32,
  budget: int = 1000,
  key: base.Key | None = None,
) -> token_scores.Attribution:
  """What each step of a generation owes to the tokens before it.

  Args:
    net: a causal model, or an encoder-decoder.
    given: a generation; runs of `cues`, of which the one without context is
      contrasted; or a prompt, whose response is made.
    method: how tokens are scored, one of `methods.METHODS`.
    target: what is attributed, of `steps.NAMES`; not of `methods.INTERNAL`.
    steps_of: indices of the response's tokens; all by default.
    prefix: also scores what stands behind the source; by default of a causal
      model alone.
    step_scores: names of `steps.NAMES` that are printed beside the scores.
    contrast: another generation, for the functions that contrast two.
    aligned: which of its tokens each token of the response is contrasted with;
      by default those in its place.
    forced: the contrasted token is read from the contrasted run; by default of
      runs alone, as `steps` says.
    top_k: tokens that `kl_divergence` counts, as for `steps.target`; 0 for all.
    top_p: a share in 0..1, as for `steps.target`.
    layer: the site of layer methods; the embeddings by default.
    unknown: the id in place of an occluded token; the tokenizer's unknown one
      by default, else its padding, else 0.
    kept: ids that nothing stands for; the end token by default, and a
      decoder's start token.
    params: the parameters of the network; its own by default.
    max_new_tokens: the most tokens of a response that is made.
    budget: masks, where a method draws some.
    key: a random key, consumed by methods and step functions that draw.

  Raises:
    TypeError: as `Generation`.
    ValueError: an unknown method, target or layer, with those that there are; a
      method that this architecture or this target does not have; a contrast
      that is missing or does not fit; a step outside the response; no key
      where something is drawn; or scores that are not finite.
  """
  methods.check(net, method)
  for name in (steps.check(target), *step_scores):
    steps.check(name, "step_scores")
  sloped = method not in (*methods.MASKING, *methods.INTERNAL)
  if target in steps.STEPPED and sloped:
    raise ValueError(
      f"target={target!r} counts tokens and has no slope; choose a method of "
      f"{', '.join(methods.MASKING[:2])}."
    )
  # What was generated, and which of its steps are asked about.
  params = net.given(params)
  made, contrast, forced = _read(
    net, given, contrast, forced, params, max_new_tokens
  )
  wanted = range(len(made.response)) if steps_of is None else steps_of
  chosen = np.array([cues.step_of(made, step) for step in wanted], np.int32)
  if not len(chosen):
    raise ValueError("steps_of names no step; nothing is attributed.")
  names = {target, *step_scores}
  places, inputs = made.places()[chosen], made.inputs()
  # Step functions, of which some are printed beside.
  held = sites.Model(net)
  shared = _given(held, params, made, chosen, contrast, aligned, names)
  key, own = (None, None) if key is None else jax.random.split(key)
  if "mc_dropout_prob_avg" in names:
    if own is None:
      raise ValueError("mc_dropout_prob_avg draws what is dropped; give a key.")
    drawn = steps.under_dropout(net, params, inputs, places, shared.token, own)
    shared = shared._replace(mean=drawn[0], spread=drawn[1])
  printed = steps.printed(
    held, params, inputs, places, shared, tuple(dict.fromkeys(step_scores)),
    top_k=top_k, top_p=top_p,
  )  # fmt: skip
  # The method's game.
  pair = made.prefix is not None
  also = not pair if prefix is None else prefix
  if kept is None:
    kept = cues.kept(net, pair)
  game = games.Game(
    net,
    params,
    inputs,
    places,
    steps.target(target, forced, top_k, top_p),
    shared,
    _spans(made, also),
    cues.stand_in(net) if unknown is None else unknown,
    tuple(kept),
    layer,
    key,
    budget,
  )
  found = methods.METHODS[method](game)
  num = len(made.source)
  # The last token of the response is behind every step.
  outside = np.pad(found[:, num:], [(0, 0), (0, 1)]) if also else None
  behind = np.append(made.before, made.response[-1])
  return token_scores.Attribution(
    method,
    target,
    made.spelt(made.source),
    tuple(made.source.tolist()),
    made.spelt(behind),
    tuple(behind.tolist()),
    made.spelt(made.response),
    tuple(made.response.tolist()),
    tuple(chosen.tolist()),
    found[:, :num],
    outside,
    printed,
    pair,
  )


def _read(net, given, contrast, forced, params, max_new_tokens):
  """The generation, the contrasted one, and whether its run is forced."""
  if isinstance(given, runs_lib.Runs):
    given.check(net)
    of_runs = generations_lib.Generation.of_runs
    contrast = of_runs(net, given, False) if contrast is None else contrast
    return of_runs(net, given), contrast, forced is not False
  if isinstance(given, str):
    given = generations_lib.Generation.of_text(
      net, given, params=params, max_new_tokens=max_new_tokens
    )
  return given, contrast, bool(forced)


def _given(held, params, made, chosen, contrast, aligned, names) -> steps.Given:
  """What the step functions of some names need, of chosen steps."""
  token = made.response[chosen]
  needs = sorted(names & {*steps.CONTRASTED})
  if not needs:
    return steps.Given(token, token)
  if contrast is None:
    raise ValueError(
      f"{', '.join(needs)} contrasts two generations; give the other one."
    )
  if (contrast.prefix is None) != (made.prefix is None):
    raise ValueError("The contrasted generation is of another kind of model.")
  size = len(contrast.response)
  if aligned is None:
    if size != len(made.response):
      raise ValueError(
        f"The contrasted response has {size} tokens and this one "
        f"{len(made.response)}; say which stand for which, aligned=."
      )
    at = chosen
  else:
    at = np.asarray(aligned, int)
    if at.shape != made.response.shape or at.min() < 0 or at.max() >= size:
      raise ValueError(
        f"aligned must have {len(made.response)} indices in 0..{size - 1}; got "
        f"{list(aligned)}."
      )
    at = at[chosen]
  inputs, places = contrast.inputs(), contrast.places()[at]
  logits = stepping.run(held, params, inputs, places[None])[0]
  return steps.Given(token, contrast.response[at], logits)


def _spans(made, also):
  size, more = len(made.source), len(made.before)
  found = [("input_ids", 0, size)]
  if also and made.prefix is not None:
    found.append(("decoder_input_ids", 0, more))
  elif also and more:
    found.append(("input_ids", size, size + more))
  return tuple(found)
