"""Endpoints, budgets and agents: scripted, and never a failure of the run."""

import ast
import json
import math
import time

import numpy as np
import pytest

from spex_jax.ablate import closed, services
from spex_jax.agents import llm, loopback, running, sandbox
from spex_jax.agents.find import functions, generating, model_referee, referees
from spex_jax.agents.interpreters import agent
from spex_jax.store import folders

_ASK = [{"role": "user", "content": "Hello"}]
_RETRY = closed.Retry(
  on=(services.Overloaded,), attempts=2, sleep=lambda seconds: None
)


def _body(content, **more):
  message = {"role": "assistant", "content": content} | more
  usage = {"prompt_tokens": 7, "completion_tokens": 3}
  return {"choices": [{"message": message, "finish_reason": "stop"}],
          "usage": usage}  # fmt: skip


class _Server:
  """Answers as it is told, one after the other; keeps what it was sent."""

  def __init__(self, *answers):
    self.seen, self._answers = [], list(answers)
    self.server = loopback.Server({"/v1/chat/completions": self._answer})

  def _answer(self, body):
    self.seen.append(body)
    answer = self._answers.pop(0)
    if isinstance(answer, Exception):
      raise answer
    return answer

  def endpoint(self, folder=None, key="secret-key"):
    service = services.Service(
      f"{self.server.url}/v1", key, timeout=5, most_bytes=1 << 16
    )
    return llm.Endpoint(service, "m", retry=_RETRY, folder=folder)


def test_a_reply_is_kept_by_its_request(tmp_path):
  own = _Server(_body("Hi"), _body("Ho"))
  with own.server:
    chat = own.endpoint(folders.opened(tmp_path))
    first = chat.chat(_ASK)
    assert (first.text, first.prompt_tokens, first.reply_tokens) == ("Hi", 7, 3)
    assert chat.chat(_ASK) == first and len(own.seen) == 1
    assert chat.chat([*_ASK, *_ASK]).text == "Ho"
  for file in tmp_path.rglob("*"):
    assert file.is_dir() or b"secret-key" not in file.read_bytes()
  assert "secret-key" not in repr(chat._service)


@pytest.mark.parametrize(
  ("answer", "complaint"),
  [
    (_body(None), "empty: content None"),
    (_body(""), "empty"),
    (_body("   "), "empty"),
    (_body(["a"]), "empty"),
    ({}, "no message"),
    ([], "no message"),
    (None, "no message"),
    ("text", "no message"),
    ({"choices": [None]}, "no message"),
    (_body("x" * (1 << 17)), "longer than 65,536"),
    (ValueError("bad request"), "status 400"),
  ],
)
def test_a_reply_that_is_none_is_refused(answer, complaint):
  own = _Server(answer)
  with own.server, pytest.raises(services.Refused, match=complaint):
    own.endpoint().chat(_ASK)


def test_a_request_is_counted_where_the_endpoint_is_silent():
  own = _Server(_body("Hi") | {"usage": None})
  with own.server:
    reply = own.endpoint().chat([{"role": "user", "content": "a" * 4000}])
  assert reply.prompt_tokens >= 1000 and reply.reply_tokens == 1


def test_what_may_pass_is_tried_again_so_often():
  own = _Server(RuntimeError("busy"), _body("Hi"))
  with own.server:
    assert own.endpoint().chat(_ASK).text == "Hi"
  own = _Server(*[RuntimeError("busy")] * 3)
  with own.server, pytest.raises(services.Overloaded):
    own.endpoint().chat(_ASK)
  assert len(own.seen) == 2


def test_calls_of_tools_are_read():
  call = {"id": "1", "function": {"name": "f", "arguments": '{"x": 1}'}}
  odd = {"id": "2", "function": {"name": "g", "arguments": "{no"}}
  reply = llm.parsed(_body(None, tool_calls=[call, odd]))
  assert [c.name for c in reply.calls] == ["f", "g"]
  assert [c.arguments for c in reply.calls] == [{"x": 1}, {}]


@pytest.mark.parametrize(
  ("limits", "name"),
  [
    ({"rounds": 2}, "rounds"),
    ({"tokens": 22}, "tokens"),
    ({"seconds": 1.5}, "seconds"),
    ({"money": 3.0, "prices": (1e5, 1e5)}, "money"),
  ],
)
def test_budgets_stop_hard(limits, name):
  inner = llm.Scripted([llm.Reply("a", (), 10, 5)] * 9)
  ticks = iter(np.arange(0.0, 9.0))
  meter = llm.Meter(inner, llm.Limits(**limits), clock=lambda: next(ticks))
  with pytest.raises(llm.Spent, match=f"budget of {name} is used up"):
    for _ in range(9):
      meter.chat(_ASK)
  assert len(inner.seen) == meter.rounds == 2
  assert meter.tokens == 30
  if "money" in limits:
    assert meter.money == pytest.approx(30 * 0.1)


def test_limits_are_positive():
  with pytest.raises(ValueError, match="must be positive"):
    llm.Limits(rounds=0)
  with pytest.raises(ValueError, match="at least one token"):
    llm.Endpoint(services.Service("https://a.b"), "m", max_tokens=0)


_FINAL = """\
[DESCRIPTION] a line
[DOMAIN] none
[CODE]
```python
def f(x):
  return 2 * x + 1
```"""


def _numeric():
  truth = {
    "family": "linear", "parameters": {"slope": 2.0, "offset": 1.0},
    "variant": "clean", "code": "def f(x): return 2 * x + 1",
  }  # fmt: skip
  about = {"category": "numeric", "inputs": "numbers", "outputs": "numbers"}
  values = lambda xs: 2 * np.asarray(xs, float) + 1
  return functions.Function("n", "numeric", about, truth, values, values)


def test_an_agent_asks_and_answers():
  chat = llm.Scripted(["I ask.\nQUERY: [0, 1, 2.5]", _FINAL])
  own = _numeric()
  query = functions.Query(own, 10)
  answer = agent.interactive(chat)(query, 10)
  assert query.spent == 3 and "2.5 -> 6.0" in chat.seen[1][-1]["content"]
  assert (answer.description, answer.domain) == ("a line", None)
  with sandbox.Sandbox() as box:
    assert referees.judge(own, answer, box)["paper"] == 1
  assert sum(turn.get("tokens", 0) for turn in answer.transcript) > 20
  # An endpoint refuses a message with other names in it.
  sent = {name for asked in chat.seen for turn in asked for name in turn}
  assert sent == {"role", "content"}


@pytest.mark.parametrize(
  ("said", "told"),
  [
    ("no query here", "There is no line QUERY"),
    ("QUERY: [1, 2", "There is no line QUERY"),
    ("\n" * 200_000 + "QUERY", "There is no line QUERY"),
    ("QUERY: [1, oops]", "not one"),
    (f"QUERY: {list(range(50))}", "at most 40"),
    (f"QUERY: {list(range(20))}", "20 inputs, and 9"),
    ('QUERY: ["a"]', "failed"),
    ("QUERY: " + "[" * 5000 + "]" * 5000, "not one"),
  ],
)
def test_an_agent_is_told_what_was_wrong(said, told):
  chat = llm.Scripted([said, _FINAL])
  agent.interactive(chat)(functions.Query(_numeric(), 9), 9)
  assert told in chat.seen[1][-1]["content"]


def test_an_agent_in_a_loop_ends():
  chat = llm.Scripted(["QUERY: [1]"] * 9)
  answer = agent.interactive(chat)(functions.Query(_numeric(), 99), 99)
  assert "the same 3 times" in answer.error
  talks = llm.Scripted([f"hm {i}" for i in range(9)])
  run = agent.interactive(talks, rounds=5)
  answer = run(functions.Query(_numeric(), 99), 99)
  assert "No description within 5" in answer.error
  assert "Come to an end" in talks.seen[-1][-1]["content"]
  # What was said, and what it cost, is kept all the same.
  said = [t for t in answer.transcript if t["role"] == "assistant"]
  assert [t["content"] for t in said] == [f"hm {i}" for i in range(5)]
  assert all(t["tokens"] > 0 for t in said)


def test_likely_first_tokens_come_along():
  tops = [{"token": "1", "logprob": -0.1}, {"token": " 0", "logprob": -2.0}]
  body = _body("1")
  body["choices"][0]["logprobs"] = {"content": [{"top_logprobs": tops}]}
  own = _Server(body)
  with own.server:
    service = services.Service(f"{own.server.url}/v1", timeout=5)
    reply = llm.Endpoint(service, "m", alternatives=2).chat(_ASK)
  assert reply.first == {"1": -0.1, " 0": -2.0}
  assert own.seen[0]["top_logprobs"] == 2


@pytest.mark.parametrize("category", [*generating.CATEGORIES])
def test_one_shot_shows_outputs(category):
  own = generating.generate(1, category, 1)[0]
  chat = llm.Scripted([_FINAL])
  answer = agent.one_shot(chat, 5)(functions.Query(own, 20), 20)
  assert chat.seen[0][1]["content"].count("->") == 5
  assert "2 * x + 1" in answer.code


@pytest.mark.parametrize(
  "reply",
  [
    llm.Spent("over"),
    services.Refused("no"),
    services.Overloaded("busy"),
    "[DESCRIPTION] nothing [CODE] import os; os.fork()",
    "[DESCRIPTION]",
    "[DESCRIPTION] a [CODE] ```" + "\n" * 200_000,
  ],
)
def test_a_model_s_failure_is_of_one_answer(reply):
  run = agent.one_shot(llm.Scripted([reply]))
  with sandbox.Sandbox(seconds=1) as box:
    found = running.interpreted(_numeric(), "a", run, 40, box, 5)
  assert found["error"] and found["paper"] == 0
  assert len(found["answer"]["transcript"]) >= 2
  json.dumps(found, allow_nan=False)


def test_a_talk_without_end_ends_and_is_kept():
  class Slow:
    def chat(self, messages, tools=None):
      if len(messages) > 3:
        time.sleep(30)
      return llm.Reply("QUERY: [1]", (), 10, 5)

  with sandbox.Sandbox(seconds=1) as box:
    run = agent.interactive(Slow())
    found = running.interpreted(_numeric(), "a", run, 40, box, 0.3)
  assert "TimeoutError" in found["error"]
  assert (found["tokens"], found["queries"]) == (15, 1)


@pytest.mark.parametrize("category", model_referee.CATEGORIES)
def test_a_judge_is_right_by_chance_or_by_the_truth(category):
  own = generating.generate(3, category, 1)[0]
  tests = model_referee.tests(own)
  assert len(tests) == 10 and len({right for _, right in tests}) > 1
  for choices, right in tests:
    assert len(choices) == 3
    if category == "entities":
      assert [v == 1 for v in own.values(choices)].index(True) == right
    else:
      pairs = [map(ast.literal_eval, one.split(" -> ")) for one in choices]
      hits = [own.values([x]) == [y] for x, y in pairs]
      assert hits == [i == right for i in range(3)]
  knows = llm.Scripted([f"It is {right + 1}." for _, right in tests])
  assert model_referee.referee(lambda: knows)(own, "the truth") == 1
  same = llm.Scripted(["2, not 1 or 3"] * 10)
  share = sum(right == 1 for _, right in tests) / 10
  assert model_referee.referee(lambda: same)(own, "nothing") == share
  assert "nothing" in same.seen[0][0]["content"]


def test_a_domain_is_read():
  text = _FINAL.replace("none", "it is odd in (-12.5, 30)")
  answer = agent.one_shot(llm.Scripted([text]))(
    functions.Query(_numeric(), 40), 40
  )
  assert answer.domain == {"low": -12.5, "high": 30.0}
  assert math.isclose(answer.transcript[-1]["tokens"], 10 + len(text) // 4 + 1)
