"""PyTorch answers through its adapter; needs `make peers-torch` if marked."""

import json
import sys

import jax
import numpy as np
import pytest

from spex_jax.models import generate, hub, t5
from tests.models import checkpoints, marian_test, t5_test
from third_party import process, torch_peer

# Stands for the worker: it gives back what it was sent.
_FAKE = """#!{python}
import json, sys
import numpy as np
for line in iter(sys.stdin.readline, ""):
  request = json.loads(line)
  answer = {{"torch": "0"}}
  if request["task"] in ("neurons", "filters"):
    with np.load(request["inputs"]) as file:
      values = file["rows"] * 1.0 + sum(file[name].sum() for name in file)
    np.savez(request["out"], values=values + request.get("layers", 0))
    answer = {{"seconds": [0.5], "cpu": [0.75]}}
  elif request["task"] == "generate":
    with np.load(request["inputs"]) as file:
      tokens = file["rows"][:, :request["number"]]
      np.savez(request["out"], tokens=tokens, logits=file["mask"])
    answer = {{}}
  elif request["task"] in ("embed", "heads"):
    with np.load(request["inputs"]) as file:
      rows = file["rows"]
      values = rows.sum(axis=1) + request["batch"] + file[request["task"] ==
        "heads" and "tokens" or "coef"].sum()
    np.savez(request["out"], values=values)
    answer = {{"seconds": [0.5] * request["repeats"]}}
    if request.get("each"):
      answer = {{"error": "ValueError: " + str(request["target"])}}
  elif request["task"] == "products":
    answer = {{"rate": sum(request["shapes"][0]) * request["threads"]}}
  elif request["task"] == "trainings":
    spent = request["models"] * request["epochs"] / request["threads"]
    answer = {{"seconds": [spent] * request["repeats"],
               "busy": [2 * spent] * request["repeats"]}}
  print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def fake(tmp_path):
  path = tmp_path / "python"
  path.write_text(_FAKE.format(python=sys.executable))
  path.chmod(0o755)
  with torch_peer.Torch(path) as peer:
    yield peer


def test_a_missing_environment_names_the_remedy(tmp_path, monkeypatch):
  monkeypatch.setenv("SPEX_TORCH_PYTHON", str(tmp_path / "none"))
  with pytest.raises(process.PeerError, match="run `make peers-torch`"):
    torch_peer.Torch()


def test_what_is_sent_and_given_back(fake):
  rows = np.array([[1, 2], [3, 4]])
  values, seconds = fake.embed(
    "folder", rows, np.array([0.5, 0.25]), batch=10, threads=1, repeats=2
  )
  np.testing.assert_array_equal(values, [13.75, 17.75])
  assert seconds == (0.5, 0.5)
  values, _ = fake.heads(
    "folder", np.array([5, 6]), 3, rows > 1, batch=1, threads=1
  )
  np.testing.assert_array_equal(values, [13, 14])
  with pytest.raises(process.PeerError, match="`heads` raised ValueError: 3"):
    fake.heads(
      "folder", np.array([5]), 3, rows > 1, batch=1, threads=1, each=True
    )
  assert fake.products([(2, 3, 4)], threads=2) == 18
  tokens, logits = fake.generate("folder", rows, rows > 1, 1)
  np.testing.assert_array_equal(tokens, [[1], [3]])
  np.testing.assert_array_equal(logits, [[0, 1], [1, 1]])
  seconds, busy = fake.trainings(6, 4, threads=3, repeats=2)
  assert seconds == (8, 8) and busy == (16, 16)


def test_components_are_sent(fake):
  masks = np.array([[1, 0], [1, 1]], bool)
  tokens, targets = np.array([[5, 6]]), np.array([7])
  found, seconds = fake.neurons(
    "folder", tokens, targets, masks, batch=1, threads=1
  )
  np.testing.assert_array_equal(found, masks + 21.0)
  assert seconds == (0.5,) and fake.cpu_seconds == (0.75,)
  network = {"kernel0": np.ones(2), "kernel1": np.ones(3), "head": np.ones(1)}
  found, _ = fake.filters(
    network, np.ones((1, 1, 2, 2)), targets, masks, threads=1
  )
  np.testing.assert_array_equal(found, masks + 3 + 6 + 4 + 7 + 2.0)


@pytest.mark.peers
def test_the_peer_multiplies_and_trains():
  with torch_peer.Torch() as peer:
    assert peer.products([(64, 64, 64)], threads=1) > 1e8
    one, four = (
      min(peer.trainings(count, 1, threads=1, repeats=3)[0])
      for count in (10, 40)
    )
    assert 0 < one < four
    with pytest.raises(process.PeerError, match="embed"):
      peer.embed("/nowhere", np.ones((1, 2)), np.ones(3), batch=1, threads=1)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["relu", "gated", "marian"])
def test_encoder_decoders_generate_what_transformers_does(name, tmp_path):
  if name == "marian":
    told = {"bad_words_ids": [[10]], "decoder_start_token_id": 10}
    settings, tensors = marian_test.HUB | told, marian_test.tensors()
  else:
    settings = t5_test.HUB | t5_test.CHANGES[name]
    settings |= {"is_encoder_decoder": True, "pad_token_id": 0}
    settings |= {"decoder_start_token_id": 0}
    config = t5.config_from_hub(settings)
    params = checkpoints.random_params(t5.network(config))
    tensors = t5_test.tensors_of(config, params)
  folder = checkpoints.save(tmp_path, settings, tensors)
  if name == "marian":
    (folder / "generation_config.json").write_text(json.dumps(told))
  ids = np.random.default_rng(0).integers(0, 10, (4, 7))
  mask = np.arange(7)[None] < np.array([7, 3, 5, 1])[:, None]
  with torch_peer.Torch() as peer:
    tokens, logits = peer.generate(folder, ids, mask, 12)
  net = hub.load(folder)
  out = jax.jit(
    lambda params: generate.generate(
      net, params, ids, 12, attention_mask=mask, logits=True
    )
  )(net.params)
  np.testing.assert_array_equal(out.tokens, tokens)
  assert checkpoints.difference(out.logits, logits) < 1e-5
