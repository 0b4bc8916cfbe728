"""The client of a closed model against a server of our own."""

import http.server
import json
import math
import threading

import numpy as np
import pytest

from experiments import closed_model
from spex_jax.ablate import closed, services

_QUESTION = closed_model.Question(
  text="good but long good", prompt="Say: {text}", answer="yes", rival="no"
)
_WEIGHTS = {"good": 1.0, "but": -0.5, "long": -1.5, "fun": 2.0, "ok": 0.25}


class _Server:
  """Speaks the protocol; answers `script` first, then as a model would."""

  def __init__(self):
    self.script, self.requests = [], []
    outer = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        outer.requests.append((self.path, dict(self.headers), body))
        status, headers, answer = 200, {}, outer.answer(body)
        if outer.script:
          status, headers, answer = outer.script.pop(0)
        data = answer if isinstance(answer, bytes) else json.dumps(answer)
        data = data if isinstance(data, bytes) else data.encode()
        self.send_response(status)
        for name, value in headers.items():
          self.send_header(name, value)
        if "Content-Length" not in headers:
          self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

      def log_message(self, *unused):
        pass

    self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
    self._thread = threading.Thread(
      target=self._http.serve_forever, args=(0.01,)
    )

  def answer(self, body):
    [message] = body["messages"]
    words = message["content"].removeprefix("Say: ").split()
    margin = sum(_WEIGHTS[word] for word in words)
    yes = -math.log1p(math.exp(-margin))
    tokens = {"yes": yes, "no": yes - margin, "perhaps": -9.0}
    if not words:
      del tokens["yes"]  # Not among the likeliest.
    listed = [{"token": t, "logprob": p} for t, p in tokens.items()]
    token = {"token": "yes", "top_logprobs": listed}
    return {"choices": [{"logprobs": {"content": [token]}}]}

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *unused):
    self._http.shutdown()
    self._http.server_close()
    self._thread.join()


@pytest.fixture
def server():
  with _Server() as one:
    yield one


def _all_masks():
  return (np.arange(16)[:, None] >> np.arange(4) & 1).astype(bool)


def test_values_are_margins_of_the_kept_words(server):
  client = closed_model.Client(server.url + "/", "tiny", key="secret")
  masks = _all_masks()
  values = closed_model.evaluator(client, _QUESTION)(masks)
  weights = np.array([_WEIGHTS[word] for word in _QUESTION.words])
  expected = masks @ weights
  # No words: "yes" counts as the least likely listed, -9; "no" is log 1/2.
  expected[0] = -9 + math.log(2)
  # A difference of logarithms of size 10.
  np.testing.assert_allclose(values, expected, rtol=0, atol=1e-13)
  assert len(server.requests) == 16
  path, headers, body = server.requests[-1]
  assert path == "/v1/chat/completions"
  assert headers["Authorization"] == "Bearer secret"
  assert body["messages"][0]["content"] == "Say: good but long good"
  assert (body["model"], body["max_tokens"], body["top_logprobs"]) == (
    "tiny",
    1,
    20,
  )
  assert "secret" not in repr(client)


def test_passing_failures_are_tried_again_as_the_server_asks(server):
  waits = []
  retry = closed.Retry(
    (services.Overloaded,), first_seconds=1, sleep=waits.append
  )
  client = closed_model.Client(server.url, "tiny")
  server.script = [
    (429, {"Retry-After": "7"}, {"error": "slow down"}),
    (503, {}, b"down"),
    (200, {}, b'{"choices": ['),  # Cut off.
    (200, {"Content-Length": "50"}, b"short"),
  ]
  value_fn = closed_model.evaluator(client, _QUESTION, retry=retry)
  np.testing.assert_allclose(value_fn(np.ones((1, 4), bool)), [0], atol=1e-13)
  assert waits == [7, 2, 4, 8]
  assert value_fn.stats.retries == 4
  assert "Authorization" not in server.requests[0][1]


@pytest.mark.parametrize(
  ("answer", "complaint"),
  [
    ((401, {}, {"error": "no such key"}), "status 401.*no such key"),
    ((200, {}, {"choices": [{"logprobs": None}]}), "support `logprobs`"),
    (
      (
        200,
        {},
        {"choices": [{"logprobs": {"content": [{"top_logprobs": []}]}}]},
      ),
      "empty list",
    ),
  ],
)
def test_refusals_are_raised_at_once(server, answer, complaint):
  server.script = [answer]
  client = closed_model.Client(server.url, "tiny")
  with pytest.raises(services.Refused, match=complaint):
    closed_model.evaluator(client, _QUESTION)(np.ones((1, 4), bool))
  assert len(server.requests) == 1


def test_nobody_listens():
  with _Server() as gone:
    url = gone.url
  client = closed_model.Client(url, "tiny")
  with pytest.raises(services.Overloaded, match="refused"):
    client.first_token("hello")


def test_a_second_run_asks_nothing(server, tmp_path):
  path = tmp_path / "answers.jsonl"
  values = []
  for key in ("one", "two"):
    client = closed_model.Client(server.url, "tiny", key)
    config = closed_model.cache_config(client, _QUESTION)
    assert key not in config
    with closed.File(path, config) as cache:
      value_fn = closed_model.evaluator(client, _QUESTION, cache=cache)
      values.append(value_fn(_all_masks()))
  np.testing.assert_array_equal(*values)
  assert len(server.requests) == 16


def test_a_text_is_explained(server, tmp_path):
  """Every margin is a sum over words, the empty text's aside: 32 of 32."""
  question = closed_model.Question(
    "good but long fun ok", "Say: {text}", "yes", "no"
  )
  client = closed_model.Client(server.url, "tiny")
  explanation, stats = closed_model.explain(
    client,
    question,
    cache=tmp_path / "answers.jsonl",
    budget=32,
    calls_per_second=None,
  )
  assert len(server.requests) == 32 == stats.evaluations - stats.repeated
  found = explanation.interactions("Moebius", order=1, names=question.words)
  empty = -9 + math.log(2)
  for (player,), value in found:
    expected = _WEIGHTS[question.words[player]] - empty
    # Sums of 32 logarithms of size 10.
    assert value == pytest.approx(expected, abs=1e-11)
  assert len(found) == 5


def test_unfit_questions_are_refused():
  with pytest.raises(ValueError, match="must hold {text}"):
    closed_model.Question("a b", "no place", "yes", "no")
  with pytest.raises(ValueError, match="no words"):
    closed_model.Question("  ", "{text}", "yes", "no")
