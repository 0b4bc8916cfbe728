"""Language models as interpreters: an agent that asks, and one that guesses.

After FIND's interactive agent (AIA) and its one-shot baseline; prompts are our
own. A model never touches the function: what it wants to know stands in a line
of JSON, and the code that it writes is run by the referee, in a sandbox.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spex_jax.agents import llm
from spex_jax.agents.find import functions, interpretations
from spex_jax.agents.interpreters import naive

_MOST = 40  # Inputs in a line.
_SHOWN = 4_000  # Letters of what a model is told at once.
_ALIKE = 3  # Equal replies in a row end a conversation.
# What ends a talk; the function, too.
_ENDS = (*llm.ENDS, functions.Overspent, functions.Failed)
_SECTIONS = re.compile(r"\[(DESCRIPTION|DOMAIN|CODE)\]")
# No run of spaces may cross lines: a reply of lines would take forever.
_FENCE = re.compile(r"```(?:python)?[ \t]*\r?\n(.*?)```", re.S)
_QUERY = re.compile(r"^[ \t]*QUERY:?[ \t]*(\[.*\])\s*?$", re.M)
_TASK = """\
You study a black box: a function of {inputs}. It gives {outputs}. {notes}
Find out what it computes.
"""
_ASKING = """\
To see outputs, write one line with a JSON list of at most {most} inputs:
QUERY: {example}
You will be shown the outputs. You may do so several times, {budget} inputs in
all. Vary inputs widely at first, then look closely where it is unclear.
"""
_ENDING = """\
When you know, write these three sections, and no query:
[DESCRIPTION] what it computes, in a sentence
[DOMAIN] for numbers, the interval where it is odd as "low, high", or "none"
[CODE] a Python function f(x) of one input, in a ```python block
"""


def interactive(
  chat: llm.Chat, rounds: int = 25
) -> interpretations.Interpreter:
  """An interpreter that asks a model, which asks the function, in turns.

  Args:
    chat: who answers; a `llm.Meter` ends it where a budget is used up.
    rounds: at most; before each of the last two the model is told to come to
      an end.
  """

  def talk(messages: list, query: functions.Query, budget: int) -> str:
    task = _task(query, min(budget, query.left))
    hints = query.about.get("hints")
    begin = f"Words to begin with: {json.dumps(hints)}." if hints else "Begin."
    messages += [_turn("system", task), _turn("user", begin)]
    said: list[str] = []
    for left in reversed(range(rounds)):
      said.append(_replied(chat, messages))
      if _SECTIONS.search(said[-1]):
        return said[-1]
      if said[-_ALIKE:] == said[-1:] * _ALIKE:
        raise llm.Spent(f"The model said the same {_ALIKE} times.")
      told = _told(query, said[-1])[:_SHOWN]
      if left <= 2:
        told += "\n\nCome to an end now.\n" + _ENDING
      messages.append(_turn("user", told))
    raise llm.Spent(f"No description within {rounds} rounds.")

  return _kept(talk)


def one_shot(chat: llm.Chat, count: int = 30) -> interpretations.Interpreter:
  """An interpreter that shows a model some outputs, and takes its guess."""

  def talk(messages: list, query: functions.Query, budget: int) -> str:
    xs = _first(query, min(count, budget, query.left))
    shown = f"Outputs:\n{_pairs(xs, query(xs))}\n\n{_ENDING}"
    messages += [_turn("system", _task(query, 0)), _turn("user", shown)]
    return _replied(chat, messages)

  return _kept(talk)


def _kept(
  talk: Callable[[list, functions.Query, int], str],
) -> interpretations.Interpreter:
  """An interpreter whose transcript is kept, whatever ended its talk."""

  def run(query: functions.Query, budget: int) -> interpretations.Answer:
    messages: list[dict[str, Any]] = []
    try:
      text = talk(messages, query, budget)
    except _ENDS as error:
      said = f"{type(error).__name__}: {error}"
      return interpretations.Answer(
        "none", "", transcript=(*messages,), error=said
      )
    return _answer(text, messages)

  return run


def _replied(chat: llm.Chat, messages: list[dict[str, Any]]) -> str:
  """What a model replies; it joins the messages."""
  plain = [
    {name: own[name] for name in ("role", "content")} for own in messages
  ]
  reply = chat.chat(plain)
  tokens = reply.prompt_tokens + reply.reply_tokens
  own = _turn("assistant", reply.text)
  messages.append(own | {"tokens": tokens, "money": reply.money})
  return reply.text


def _turn(role: str, text: str) -> dict[str, Any]:
  return {"role": role, "content": text}


def _task(query: functions.Query, budget: int) -> str:
  about = {"notes": ""} | dict(query.about)
  text = _TASK.format_map(about)
  if budget:
    example = json.dumps(_first(query, 3))
    text += _ASKING.format(most=_MOST, budget=budget, example=example)
  return text + _ENDING


def _first(query: functions.Query, count: int) -> list[Any]:
  """Inputs to begin with."""
  hints = query.about.get("hints")
  return list(hints)[:count] if hints else naive.inputs(query, count, "first")


def _told(query: functions.Query, text: str) -> str:
  """What a model is told on its queries, or on why they were none."""
  found = _QUERY.findall(text)
  if not found:
    return "There is no line QUERY: [...] and no [DESCRIPTION] in that."
  lines = []
  for given in found:
    try:
      xs = json.loads(given)
      if len(xs) > _MOST:
        raise ValueError(f"{len(xs)} inputs; at most {_MOST} at once")
      lines.append(_pairs(xs, query(xs)))
    except (ValueError, RecursionError) as error:
      lines.append(f"That query is not one: {error}")
    except (functions.Overspent, functions.Failed) as error:
      lines.append(str(error))
  return f"{chr(10).join(lines)}\n({query.left} inputs are left.)"


def _pairs(xs: Sequence[Any], ys: Sequence[Any]) -> str:
  plain = [y.item() if hasattr(y, "item") else y for y in ys]
  return "\n".join(
    f"{json.dumps(x)} -> {json.dumps(y)}" for x, y in zip(xs, plain)
  )


def sections(text: str) -> Mapping[str, str]:
  """The sections of a final reply, the last of each name."""
  parts = _SECTIONS.split(text)
  return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2])}


def _answer(
  text: str, messages: Sequence[Mapping[str, Any]]
) -> interpretations.Answer:
  found = sections(text)
  code = found.get("CODE", "")
  if fenced := _FENCE.findall(code):
    code = fenced[-1]
  numbers = re.findall(r"-?\d+(?:\.\d+)?", found.get("DOMAIN", ""))
  domain = None
  if len(numbers) == 2:
    low, high = sorted(map(float, numbers))
    domain = {"low": low, "high": high}
  return interpretations.Answer(
    found.get("DESCRIPTION", ""), code, domain, transcript=tuple(messages)
  )
