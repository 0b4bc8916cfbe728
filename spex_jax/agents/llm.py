"""Any language model behind an OpenAI-compatible endpoint, and its budget.

  service = services.Service("https://api.example.com/v1", key=os.environ[...])
  chat = llm.Meter(llm.Endpoint(service, "model"), llm.Limits(rounds=25))
  chat.chat([{"role": "user", "content": "Hello"}]).text

Requests go through `ablate.services`, which keeps the key to its address and
out of every message; no client library is needed. Replies are kept by the hash
of their request, so that a run that is repeated asks for nothing. What comes
back is checked: a reply that is no JSON, empty, too long or of another form is
an error of this request (`services.Overloaded` if it may pass, else `Refused`).
"""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from spex_jax import base
from spex_jax.ablate import closed, services
from spex_jax.store import folders

Message = Mapping[str, Any]


class Spent(RuntimeError):
  """A budget is used up; nothing was asked."""


# What ends a talk: a budget, the endpoint, the clock.
ENDS = (Spent, services.Refused, services.Overloaded, TimeoutError)


@dataclasses.dataclass(frozen=True)
class Call:
  """A call of a tool that a model asks for.

  Attributes:
    name: the name of the tool.
    arguments: as the model wrote them; {} where that is no JSON object.
    id: of the call, for the answer.
  """

  name: str
  arguments: Mapping[str, Any]
  id: str = ""


@dataclasses.dataclass(frozen=True)
class Reply:
  """What a model said.

  Attributes:
    text: "" where it only calls.
    calls: the tools that it asks for, in order.
    prompt_tokens: of the request; estimated where the endpoint is silent.
    reply_tokens: of the reply; estimated where the endpoint is silent.
    finish: why it ended: "stop", "length", "tool_calls", ...
    first: the likeliest first tokens, with their log-probabilities, where an
      `Endpoint` asks for them.
    money: what it cost, as a `Meter` counts.
  """

  text: str
  calls: tuple[Call, ...] = ()
  prompt_tokens: int = 0
  reply_tokens: int = 0
  finish: str = "stop"
  first: Mapping[str, float] = dataclasses.field(default_factory=dict)
  money: float = 0.0


class Chat(Protocol):
  """Who answers messages."""

  def chat(
    self, messages: Sequence[Message], tools: Sequence[Mapping] | None = None
  ) -> Reply:
    """The reply to messages."""
    ...


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a conversation may cost; the first that is reached ends it.

  No request is made once one is reached; the reply that reaches it counts.

  Attributes:
    rounds: how many requests may be made.
    tokens: how many requests and replies may have, together.
    money: in the unit of the prices.
    seconds: by the clock, from the first request on.
    prices: of a million tokens, of requests and of replies.
  """

  rounds: int = 25
  tokens: int = 200_000
  money: float = math.inf
  seconds: float = 600.0
  prices: tuple[float, float] = (0.0, 0.0)

  def __post_init__(self):
    limits = (self.rounds, self.tokens, self.money, self.seconds)
    if not all(limit > 0 for limit in limits) or min(self.prices) < 0:
      raise ValueError(f"Limits must be positive: {self}.")


class Scripted:
  """Replies as they were written down: for tests, and to play a run again."""

  def __init__(self, replies: Sequence[str | Reply | Exception]):
    """One a request, in order; the last ends it."""
    self._replies = list(replies)
    self.seen: list[list[Message]] = []

  def chat(
    self, messages: Sequence[Message], tools: Sequence[Mapping] | None = None
  ) -> Reply:
    """The next; see `Chat`.

    Raises:
      Spent: the script has no reply left.
    """
    del tools
    self.seen.append([dict(message) for message in messages])
    if not self._replies:
      raise Spent("No reply is left in the script.")
    reply = self._replies.pop(0)
    if isinstance(reply, Exception):
      raise reply
    if isinstance(reply, str):
      return Reply(reply, (), 10, len(reply) // 4 + 1)
    return reply


class Endpoint:
  """A model behind `/chat/completions`."""

  def __init__(
    self,
    service: services.Service,
    model: str,
    *,
    max_tokens: int = 1024,
    temperature: float = 0.0,
    seed: int | None = 0,
    alternatives: int = 0,
    retry: closed.Retry | None = None,
    folder: folders.Folder | None = None,
  ):
    """Nothing is asked yet.

    Args:
      service: where; its url ends before "/chat/completions".
      model: the name that the endpoint knows it by.
      max_tokens: how many tokens a reply has at most, 1 or more.
      temperature: 0 for the likeliest words.
      seed: of the endpoint's own draws, where it knows one; None for none.
      alternatives: so many of the likeliest first tokens come along.
      retry: after failures that may pass; three attempts by default.
      folder: where replies are kept by their request's hash; None for nowhere.

    Raises:
      ValueError: no name, no tokens, a negative temperature.
    """
    if not model or max_tokens < 1 or not 0 <= temperature < math.inf:
      raise ValueError(
        f"model={model!r}, max_tokens={max_tokens}, temperature={temperature}: "
        "a name, at least one token, a temperature from 0."
      )
    self._service, self._folder = service, folder
    self._body: dict[str, Any] = {
      "model": model, "max_tokens": max_tokens, "temperature": temperature,
    }  # fmt: skip
    if seed is not None:
      self._body["seed"] = seed
    if alternatives:
      self._body |= {"logprobs": True, "top_logprobs": alternatives}
    self._retry = retry or closed.Retry(on=(services.Overloaded,), attempts=3)

  def chat(
    self, messages: Sequence[Message], tools: Sequence[Mapping] | None = None
  ) -> Reply:
    """See `Chat`.

    Raises:
      services.Overloaded: whatever may pass, and did not.
      services.Refused: a refusal, or a reply that is none.
    """
    body = self._body | {"messages": [dict(m) for m in messages]}
    if tools:
      body["tools"] = [dict(tool) for tool in tools]
    text = json.dumps([self._service.url, body], sort_keys=True)
    file = f"replies/{hashlib.sha256(text.encode()).hexdigest()}.json"
    answer = kept = self._kept(file)
    if kept is None:
      # It passes on whatever it is given; its own functions take masks.
      ask: Any = lambda given: self._service.post("/chat/completions", given)
      retried: Any = self._retry.wrap(ask)
      answer = retried(body)
    reply = parsed(answer)
    if kept is None and self._folder is not None:
      data = base.to_json({"request": body, "answer": answer})
      self._folder.replace(file, data)
    # Four letters a token, where an endpoint counts none.
    asked = reply.prompt_tokens or len(text) // 4
    return dataclasses.replace(reply, prompt_tokens=asked)

  def _kept(self, file: str) -> Any:
    if self._folder is None:
      return None
    try:
      data = self._folder.read(file)
      return base.from_json(data, file, must_have_checksum=True)["answer"]
    except (FileNotFoundError, ValueError, KeyError):
      return None


def parsed(answer: Any) -> Reply:
  """The reply in an endpoint's answer.

  Raises:
    services.Refused: it is none: another form, neither a text nor a call.
  """
  try:
    choice = answer["choices"][0]
    message = choice["message"]
    text = message.get("content")
    calls = tuple(map(_call, message.get("tool_calls") or ()))
    finish = str(choice.get("finish_reason") or "stop")
    logs = (choice.get("logprobs") or {}).get("content") or [{}]
    first = {
      str(each["token"]): float(each["logprob"])
      for each in logs[0].get("top_logprobs") or ()
    }
    usage = answer.get("usage") or {}
    counts = [usage.get(n) for n in ("prompt_tokens", "completion_tokens")]
  except (LookupError, TypeError, ValueError, AttributeError) as error:
    shown = base.printable(str(answer))[:200]
    raise services.Refused(f"The reply has no message: {shown!r}") from error
  if not calls and not (isinstance(text, str) and text.strip()):
    raise services.Refused(
      f"The reply is empty: content {text!r}, finish_reason {finish!r}."
    )
  text = text if isinstance(text, str) else ""
  counts = [c if isinstance(c, int) and c >= 0 else None for c in counts]
  # Four letters a token, where an endpoint counts none.
  guess = len(text) // 4 + 1
  return Reply(
    text, calls, counts[0] or 0, guess if counts[1] is None else counts[1],
    finish, first,
  )  # fmt: skip


def _call(given: Mapping[str, Any]) -> Call:
  own = given["function"]
  try:
    arguments = json.loads(own.get("arguments") or "{}")
  except (ValueError, TypeError, RecursionError):
    arguments = {}
  if not isinstance(arguments, dict):
    arguments = {}
  return Call(str(own["name"]), arguments, str(given.get("id", "")))


class Meter:
  """A model within limits that stop hard.

  Attributes:
    rounds: how many requests have been made so far.
    tokens: of requests and replies so far.
    money: what they cost so far, in the unit of the prices.
  """

  def __init__(
    self,
    inner: Chat,
    limits: Limits,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Nothing is spent.

    Args:
      inner: the language model that answers.
      limits: what the conversation may cost.
      clock: seconds; a test has its own.
    """
    self._inner, self._limits, self._clock = inner, limits, clock
    self._start: float | None = None
    self.rounds = self.tokens = 0
    self.money = 0.0

  def chat(
    self, messages: Sequence[Message], tools: Sequence[Mapping] | None = None
  ) -> Reply:
    """See `Chat`.

    Raises:
      Spent: a limit is reached; nothing was asked.
    """
    now = self._clock()
    self._start = now if self._start is None else self._start
    limits = self._limits
    for name, spent, most in (
      ("rounds", self.rounds, limits.rounds),
      ("tokens", self.tokens, limits.tokens),
      ("money", self.money, limits.money),
      ("seconds", now - self._start, limits.seconds),
    ):
      if spent >= most:
        raise Spent(f"The budget of {name} is used up: {spent:g} of {most:g}.")
    self.rounds += 1
    reply = self._inner.chat(messages, tools)
    self.tokens += reply.prompt_tokens + reply.reply_tokens
    money = (
      reply.prompt_tokens * limits.prices[0]
      + reply.reply_tokens * limits.prices[1]
    ) / 1e6
    self.money += money
    return dataclasses.replace(reply, money=money)
