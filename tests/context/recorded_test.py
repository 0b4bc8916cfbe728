"""Against Inseq 0.7.1 on random GPT-2 and T5, by numbers that are stored.

Sensitivities to 1e-5, cues to 1e-4 of the largest: float32 on both sides, of
two blocks (`third_party/record_inseq.py`).
"""

import json
import pathlib

import numpy as np
import pytest

from spex_jax import context
from spex_jax.context import cues, inseq, sensitivity
from spex_jax.models import hub
from tests.models import checkpoints

_FOLDER = pathlib.Path(__file__).with_name("recorded")
_METRICS = (
  "kl_divergence", "pcxmi", "in_context_pvi", "contrast_prob_diff",
  "contrast_prob",
)  # fmt: skip


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def found(request, tmp_path_factory):
  """Network, runs, predictions, and what Inseq gave."""
  with np.load(_FOLDER / f"{request.param}.npz") as file:
    arrays = dict(file)
  tensors = {key[2:]: x for key, x in arrays.items() if key[:2] == "t_"}
  settings = json.loads(str(arrays["config"]))
  folder = tmp_path_factory.mktemp("model") / request.param
  net = hub.load(checkpoints.save(folder, settings, tensors))
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
