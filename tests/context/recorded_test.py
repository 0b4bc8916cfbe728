"""Against Inseq 0.7.1 and ContextCite 0.0.4, by numbers that are stored.

Sensitivities to 1e-5, cues to 1e-4 of the largest: float32 on both sides, of
two blocks (`third_party/record_inseq.py`).
"""

import json
import pathlib

import jax
import numpy as np
import pytest

from spex_jax import context
from spex_jax.context import cues, inseq, sensitivity, sources
from spex_jax.models import hub
from tests.context import games
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


@pytest.mark.parametrize("target", ["contrast_prob_diff", "kl_divergence"])
@pytest.mark.parametrize(
  "method", ["saliency", "input_x_gradient", "occlusion", "attention"]
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


def test_contextcites_masks_values_and_weights(tmp_path):
  net, arrays = _recorded("context_cite", tmp_path)
  own = [x for name, x in sorted(arrays.items()) if name[:7] == "source_"]
  made = sources.of_ids(own, arrays["query"], games.tokenizer())
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
