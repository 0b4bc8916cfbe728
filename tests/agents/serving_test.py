"""Servers on this machine: a model, for any client, and a function."""

import dataclasses
import io
import json

import httpx2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.ablate import services
from spex_jax.agents import llm, loopback, serving
from spex_jax.agents.find import functions, network_functions, served, strings
from spex_jax.models import transformer
from tests import tokenizers_small
from tests.models import checkpoints

_CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"


def _network():
  tokenizer = tokenizers_small.gpt_like()
  tokenizer.chat_template, tokenizer.max_length = _CHAT, 80
  config = transformer.Config(
    width=16, num_blocks=1, num_heads=2, num_kv_heads=2, head_width=8,
    num_neurons=16, vocab_size=tokenizer.vocab_size, max_positions=80,
  )  # fmt: skip
  net = transformer.network(config)
  params = jax.jit(net.init)(jax.random.key(0))
  return dataclasses.replace(net, params=params, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def net():
  return _network()


@pytest.fixture(scope="module")
def server(net):
  with loopback.Server(serving.Model(net, "tiny").routes()) as own:
    yield own


def _logs(net, ids):
  """Log-probabilities behind each token, `[P, V]`."""
  return np.asarray(jax.nn.log_softmax(checkpoints.Compiled(net).logits(ids)))


def _post(server, path, body):
  return httpx2.post(f"{server.url}{path}", json=body, timeout=60)


def test_a_model_answers_our_own_endpoint(server):
  service = services.Service(f"{server.url}/v1", timeout=60)
  chat = llm.Endpoint(service, "tiny", max_tokens=4)
  messages = [{"role": "user", "content": "the film"}]
  body = {"messages": messages, "max_tokens": 4, "temperature": 0}
  told = _post(server, "/v1/chat/completions", body).json()
  text = told["choices"][0]["message"]["content"]
  assert told["usage"]["prompt_tokens"] > 3
  if text.strip():
    assert chat.chat(messages).text == text
  else:  # What random parameters say.
    with pytest.raises(services.Refused, match="empty"):
      chat.chat(messages)


def test_an_echoed_prompt_has_the_model_s_log_probabilities(net, server):
  ids = net.tokenizer.encode("the film is fun").ids
  body = {"model": "tiny", "prompt": ids.tolist(), "max_tokens": 0,
          "echo": True, "logprobs": 2}  # fmt: skip
  found = _post(server, "/v1/completions", body).json()["choices"][0]
  logs = _logs(net, ids)
  wanted = [logs[i, token] for i, token in enumerate(ids[1:])]
  told = found["logprobs"]["token_logprobs"]
  assert told[0] is None
  # float32 sums of 16 terms, padded otherwise.
  np.testing.assert_allclose(told[1:], wanted, atol=1e-5)
  tops = found["logprobs"]["top_logprobs"]
  assert len(tops[1]) in (1, 2)  # Parts of letters look alike.
  assert max(tops[1].values()) == pytest.approx(logs[0].max(), abs=1e-5)
  assert found["text"] == "the film is fun"


def test_greedy_replies_are_the_likeliest_tokens(net, server):
  ids = net.tokenizer.encode("the film").ids.tolist()
  body = {"prompt": ids, "max_tokens": 3, "temperature": 0, "logprobs": 1}
  found = _post(server, "/v1/completions", body).json()["choices"][0]
  for logprob in found["logprobs"]["token_logprobs"]:
    logs = _logs(net, ids)[-1]
    assert logprob == pytest.approx(float(logs.max()), abs=1e-5)
    ids.append(int(logs.argmax()))


@pytest.mark.parametrize(
  ("path", "body", "status", "complaint"),
  [
    ("/v1/completions", {}, 400, "prompt"),
    ("/v1/completions", [], 400, "JSON object"),
    ("/v1/completions", {"prompt": "a", "stream": True}, 400, "streamed"),
    ("/v1/completions", {"prompt": "a", "n": 3}, 400, "n=1"),
    ("/v1/completions", {"prompt": [10**6]}, 400, "vocabulary|token"),
    ("/v1/completions", {"prompt": "a", "max_tokens": -1}, 400, "max_tokens"),
    ("/v1/completions", {"prompt": "a" * 99}, 400, "room for 0"),
    ("/v1/completions", {"prompt": "a", "temperature": 9}, 400, "from 0 to 2"),
    ("/v1/chat/completions", {"messages": []}, 400, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": 1}]}, 400, "both texts"),
    ("/v1/nothing", {}, 404, "there are /v1/models"),
  ],
)
def test_bad_requests_are_told(server, path, body, status, complaint):
  answer = _post(server, path, body)
  assert answer.status_code == status
  message = answer.json()["error"]["message"]
  assert any(part in message for part in complaint.split("|"))


def test_what_is_no_request_is_told(server):
  url = f"{server.url}/v1/completions"
  assert httpx2.post(url, content=b"{no").status_code == 400
  asked = httpx2.post(url, json={}, headers={"Host": "evil.example"})
  assert asked.status_code == 403
  assert httpx2.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "tiny"


def test_openai_s_client_talks_to_it(server):
  openai = pytest.importorskip("openai")
  client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
  assert [model.id for model in client.models.list()] == ["tiny"]
  chat = client.chat.completions.create(
    model="tiny", messages=[{"role": "user", "content": "the film"}],
    max_tokens=4, logprobs=True, top_logprobs=2, temperature=0,
  )  # fmt: skip
  choice = chat.choices[0]
  assert choice.finish_reason in ("stop", "length")
  assert len(choice.logprobs.content) == chat.usage.completion_tokens
  parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "film"}]
  again = client.chat.completions.create(
    model="tiny", messages=[{"role": "user", "content": parts}],
    max_tokens=4, temperature=0,
  )  # fmt: skip
  assert again.choices[0].message == choice.message
  text = client.completions.create(
    model="tiny", prompt="the film", max_tokens=2, echo=True, logprobs=1
  )
  assert text.choices[0].text.startswith("the film")
  with pytest.raises(openai.BadRequestError, match="n=1"):
    client.completions.create(model="tiny", prompt="a", n=2)


def test_a_model_needs_parameters(net):
  with pytest.raises(ValueError, match="parameters and a tokenizer"):
    serving.Model(dataclasses.replace(net, params=None), "tiny")


def _query(budget=5):
  return functions.Query(strings.make(0, 0), budget)


def test_a_function_over_http():
  own = strings.make(0, 0)
  with loopback.Server(served.routes(_query())) as server:
    found = _post(server, "/query", {"inputs": ["abc", "x1"]}).json()
    assert found == {"outputs": own.values(["abc", "x1"]), "left": 3}
    about = httpx2.get(f"{server.url}/about").json()
    assert about["about"]["category"] == "strings" and "truth" not in about
    over = _post(server, "/query", {"inputs": ["a"] * 4})
    assert over.status_code == 400 and "3 of 5" in str(over.json())


def test_a_function_over_a_pipe():
  lines = ['{"inputs": ["abc"]}', "", "{no", '{"inputs": 3}', '{"about": 1}']
  out = io.StringIO()
  served.pipe(_query(), lines, out.write)
  told = [json.loads(line) for line in out.getvalue().splitlines()]
  assert told[0]["outputs"] == strings.make(0, 0).values(["abc"])
  assert "error" in told[1] and "error" in told[2]
  assert told[3]["left"] == 4


@pytest.mark.slow
def test_units_are_functions_of_words(net):
  make, seen = network_functions.maker(net), {}
  for index in range(30):
    own = make(0, index)
    truth, n = own.truth, own.about["n"]
    if n != 10 or truth["kind"] in seen:
      continue
    seen[truth["kind"]] = own
    if truth["kind"] == "feature":
      continue
    ids = net.tokenizer.encode(truth["text"], bos="yes").ids
    out = net.apply(
      net.params, capture=(truth["site"],), input_ids=jnp.asarray(ids)[None]
    )
    unit = np.asarray(out.activations[truth["site"]])[0, -1, truth["number"]]
    # The length of what a head writes, or a neuron.
    wanted = np.linalg.norm(unit) if np.ndim(unit) else unit
    whole = own.values(np.ones((1, n), bool))
    assert whole[0] == pytest.approx(float(wanted), abs=1e-5)
  assert {*seen} == {*network_functions.KINDS}
  # A principal direction: the mean over all subsets is none of it.
  own = seen["feature"]
  rows = (np.arange(1024)[:, None] >> np.arange(10) & 1).astype(bool)
  values = own.values(rows)
  assert abs(values.mean()) < 1e-6 < values.std()
