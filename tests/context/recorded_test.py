"""Against Inseq 0.7.1 and ContextCite 0.0.4, by numbers that are stored.

Sensitivities to 1e-5, cues and attributions to 1e-4 of the largest: float32 on
both sides, of two blocks (`third_party/record_inseq.py` and
`record_inseq_attribute.py`).
"""

import itertools
import json
import pathlib

import jax
import numpy as np
import pytest

from spex_jax import context
from spex_jax.context import (
  cues,
  discretized,
  games,
  inseq,
  reagent,
  sensitivity,
  sources,
  steps,
  token_scores,
)
from spex_jax.models import hub
from tests.context import games as recorded_games
from tests.models import checkpoints

_FOLDER = pathlib.Path(__file__).with_name("recorded")
_METRICS = (
  "kl_divergence", "pcxmi", "in_context_pvi", "contrast_prob_diff",
  "contrast_prob",
)  # fmt: skip


def _recorded(name, folder):
  """A network, and all that was recorded of it."""
  with np.load(_FOLDER / f"{name}.npz") as file:
    arrays = dict(file)
  tensors = {key[2:]: x for key, x in arrays.items() if key[:2] == "t_"}
  settings = json.loads(str(arrays["config"]))
  return hub.load(checkpoints.save(folder / name, settings, tensors)), arrays


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def found(request, tmp_path_factory):
  """Network, runs, predictions, and what Inseq gave."""
  net, arrays = _recorded(request.param, tmp_path_factory.mktemp("model"))
  ids = [arrays[x] for x in ("with_context", "without_context", "response")]
  runs = context.Runs.of_ids(net, *ids, tuple(arrays["context"]))
  return net, runs, sensitivity.logits(net, runs), arrays


@pytest.mark.parametrize("metric", _METRICS)
def test_sensitivities(found, metric):
  net, runs, predictions, arrays = found
  got = sensitivity.scores(net, runs, metric, predictions=predictions)
  np.testing.assert_allclose(got, arrays[f"cti_{metric}"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow_where(
  "t5-saliency",
  "gpt2-input",
  "-pcxmi",
  "saliency-kl",
  "t5-occlusion",
  "gradient-contrast",
)
@pytest.mark.parametrize(
  ("method", "target"),
  [
    *itertools.product(
      ("saliency", "input_x_gradient", "occlusion", "attention"),
      ("contrast_prob_diff", "kl_divergence"),
    ),
    ("saliency", "pcxmi"),
    ("occlusion", "in_context_pvi"),
  ],
)
def test_cues(found, method, target):
  net, runs, predictions, arrays = found
  got = cues.impute(
    net, runs, range(len(runs.response)), predictions, method=method,
    target=target, unknown=2,
  )  # fmt: skip
  want = arrays[f"cci_{method}_{target}"]
  # Where the run without context would end the text, Inseq drops the special
  # token and takes the one before it, of the prefix, for the contrast.
  own = got.contrasts > 2
  assert own.sum() >= 3
  theirs = arrays[f"contrast_{target}"]
  assert got.contrasts[own].tolist() == theirs[own].tolist()
  np.testing.assert_allclose(
    got.scores[own], want[own], rtol=1e-4, atol=1e-4 * np.abs(want[own]).max()
  )


def test_the_structure_is_inseqs(found, tmp_path):
  net, runs, _, _ = found
  kind = "t5" if runs.is_encoder_decoder else "gpt2"
  theirs = inseq.read(_FOLDER / f"{kind}.json")
  ours = context.pecore(net, runs, targets="all")
  ours.save(tmp_path / "ours.json", "inseq")
  again = inseq.read(tmp_path / "ours.json")
  assert list(again) == list(inseq.FIELDS)
  assert {*again} == {*theirs}
  assert {*again["cci_scores"][0]} == {*theirs["cci_scores"][0]}
  assert again == ours.to_inseq()


_ATTRIBUTED = (
  "saliency", "input_x_gradient", "integrated_gradients",
  "sequential_integrated_gradients", "layer_gradient_x_activation",
  "occlusion", "attention", "value_zeroing",
)  # fmt: skip
_CONTRASTED = (
  "contrast_prob_diff", "contrast_logits_diff", "pcxmi", "in_context_pvi",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(found):
  """Network, the generation and its rival, and what Inseq gave."""
  net, runs, _, _ = found
  kind = "t5" if runs.is_encoder_decoder else "gpt2"
  with np.load(_FOLDER / f"{kind}_attribute.npz") as file:
    arrays = dict(file)
  source, answer, rival = runs.with_context, runs.response, arrays["rival"]
  if runs.is_encoder_decoder:
    answer, rival = (np.append(x, 1) for x in (answer, rival))
  else:
    source = source[: len(source) - len(answer)]
  make = lambda ids: context.Generation.of_ids(net, source, ids)
  return net, make(answer), make(rival), arrays


def _attributed(made, **settings):
  net, own, rival, _ = made
  kept = (1,) if own.prefix is None else (1, 0)
  return context.attribute(
    net, own, contrast=rival, unknown=2, kept=kept, **settings
  )


def _close(got, want, name):
  """Scores `[tokens, steps]`, of rows that Inseq has.

  Shares of value zeroing are 1 less a cosine near 1, in float32.
  """
  limit = 1e-3 if name.startswith("value_zeroing") else 1e-4
  assert got.shape[1] == want.shape[1], name
  size = min(len(got), len(want))
  assert not got[size:].any() and not want[size:].any()
  np.testing.assert_allclose(
    got[:size], want[:size], rtol=1e-4, atol=limit * np.abs(want).max(),
    err_msg=name,
  )  # fmt: skip


def _table(scored):
  """Of a causal model's source and response as one."""
  parts = [scored.scores, scored.prefix_scores]
  if scored.is_encoder_decoder:
    return scored.scores.T
  return np.concatenate(parts, axis=1).T


@pytest.mark.slow_where(
  "t5-saliency",
  "t5-integrated",
  "sequential",
  "gpt2-input",
  "t5-value",
  "t5-occlusion",
)
@pytest.mark.parametrize("method", _ATTRIBUTED)
def test_attributions(made, method):
  *_, arrays = made
  got = _attributed(made, method=method)
  checked = 0
  if method in arrays:
    _close(_table(got), arrays[method], method)
    checked += 1
  name = f"{method}_both"
  if name in arrays and method != "occlusion":
    both = _attributed(made, method=method, prefix=True)
    _close(both.scores.T, arrays[name], name)
    _close(both.prefix_scores.T, arrays[f"{name}_target"], name)
    checked += 1
  assert checked, f"Inseq has no {method}"


@pytest.mark.slow_where("t5")
def test_a_layer(made):
  _, own, _, arrays = made
  method = "layer_gradient_x_activation"
  layer = "blocks.0.mlp.out"
  if own.prefix is not None:
    layer = "encoder.blocks.0.resid_post"
  got = _attributed(made, method=method, layer=layer)
  _close(_table(got), arrays[f"{method}_deep"], method)


@pytest.mark.slow_where("t5")
def test_step_scores(made):
  *_, arrays = made
  names = [name for name in steps.NAMES if f"step_{name}" in arrays]
  assert len(names) >= 11  # Two fail in Inseq, of a causal model.
  for name in names:
    share = 0.7 if name == "top_p_size" else 1.0
    got = _attributed(
      made, method="attention", step_scores=(name,), top_p=share
    ).step_scores[name]
    np.testing.assert_allclose(
      got, arrays[f"step_{name}"], rtol=1e-4, atol=1e-5, err_msg=name
    )


@pytest.mark.slow_where("t5")
@pytest.mark.parametrize(
  "target",
  [
    "contrast_prob_diff",
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in ("logit", "entropy", "crossentropy", "perplexity",
                   "contrast_logits", *_CONTRASTED[1:])
    ),
  ],
)  # fmt: skip
def test_attributed_step_functions(made, target):
  *_, arrays = made
  if f"saliency_{target}" not in arrays:
    pytest.skip("fails in Inseq, of a causal model")
  got = _attributed(made, target=target)
  _close(_table(got), arrays[f"saliency_{target}"], target)


@pytest.mark.slow_where("contrast_prob_diff")
@pytest.mark.parametrize("target", ["contrast_prob_diff", "kl_divergence"])
def test_forced_contrasts(made, target):
  _, own, _, arrays = made
  if own.prefix is not None:
    pytest.skip("Inseq's contrasted run has this run's encoder, with its slope")
  got = _attributed(made, target=target, forced=True)
  _close(_table(got), arrays[f"saliency_{target}_forced"], target)


def _game(made):
  """The same as a game, for what has settings of its own."""
  net, own, _, _ = made
  pair = own.prefix is not None
  size = len(own.inputs()["input_ids"][0])
  return games.Game(
    net, net.params, own.inputs(), own.places(), steps.target("probability"),
    steps.Given(own.response, own.response), (("input_ids", 0, size),), 2,
    (1, 0) if pair else (1,),
  )  # fmt: skip


@pytest.mark.slow_where("t5")
def test_discretized_gradients(made):
  *_, arrays = made
  got = discretized.discretized_integrated_gradients(_game(made), neighbours=8)
  _close(got.T, arrays["discretized_integrated_gradients"], "discretized")


def test_reagent_by_the_same_draws(made):
  *_, arrays = made
  if "reagent" not in arrays:
    pytest.skip("Inseq's ReAGent does not run on this kind of model")
  game = _game(made)
  own = lambda name: arrays[f"reagent_draw_{name}"][..., : game.num_tokens]
  state = reagent.start(game, own("start"))
  draws = reagent.Draws(own("replaced"), own("tokens"), own("others"))
  state = reagent.rounds(game, state, draws)
  got, want = reagent.mean(game, state).T, arrays["reagent"]
  # Inseq repeats a score for each dimension and takes the norm; it is NaN, here
  # 0, where no probe ended.
  ended = np.asarray(state[1]).any(axis=1)
  assert ended.any() and (want.any(axis=0) == ended).all()
  width = game.net.config.width
  _close(got[:, ended], want[:, ended] / np.sqrt(width), "reagent")


def test_inseqs_own_file_is_read(made):
  _, own, _, _ = made
  kind = "gpt2" if own.prefix is None else "t5"
  (theirs,) = token_scores.load(_FOLDER / f"{kind}_attribution.json")
  ours = _attributed(made, method="saliency")
  assert (theirs.method, theirs.target) == ("saliency", "probability")
  np.testing.assert_allclose(_table(theirs), _table(ours), rtol=1e-4, atol=1e-5)
  assert theirs.source_ids == ours.source_ids
  assert theirs.response_ids == ours.response_ids
  assert theirs.behind_ids == ours.behind_ids


def test_contextcites_masks_values_and_weights(tmp_path):
  net, arrays = _recorded("context_cite", tmp_path)
  own = [x for name, x in sorted(arrays.items()) if name[:7] == "source_"]
  made = sources.of_ids(own, arrays["query"], recorded_games.tokenizer())
  ours = context.cite(
    net, made, arrays["response"], key=jax.random.key(0),
    budget=len(arrays["masks"]), method="contextcite", batch_size=8,
  )  # fmt: skip
  # A mask that comes twice is asked once.
  _, first = np.unique(arrays["masks"], axis=0, return_index=True)
  first = np.sort(first)
  np.testing.assert_array_equal(ours.masks, arrays["masks"][first])
  np.testing.assert_allclose(
    ours.scores.log_odds, arrays["log_odds"][first], rtol=1e-4, atol=1e-4
  )
  for span in ((0, 4), (1, 3), (2, 3)):
    name = "{}:{}".format(*span)
    np.testing.assert_allclose(
      ours.scores.of("log_odds", *span), arrays[f"values_{name}"][first],
      rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    # Its lasso stops at a gap of 1e-4 of the values' square, ours at 1e-10.
    want = arrays[f"weights_{name}"][:-1]
    np.testing.assert_allclose(
      ours.span(*span).values, want, atol=1e-2 * np.abs(want).max()
    )
