"""Language models as agents: they write calls of tools, and see what comes.

Prompts are our own. A call is a line of JSON, checked before it is done; code
is run in the sandbox alone, and draws by prompts. What goes wrong in a call is
told to the model; what ends a talk (a budget, the endpoint) ends it for this
unit, and its transcript is kept.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from spex_jax.agents import llm
from spex_jax.agents.find import functions
from spex_jax.agents.maia import tools as tools_lib
from spex_jax.agents.maia import unit_labels
from spex_jax.agents.world import outside

_SHOWN = 4_000  # Letters of what a model is told at once.
_CALLS = 8  # Of a reply.
_PICTURES = 16  # Of a message.
_ALIKE = 3  # Equal replies in a row end a talk.
_ENDS = (*llm.ENDS, functions.Overspent, functions.Failed)
_CALL = re.compile(r"^\s*CALL:?\s*(\{.*\})\s*$", re.M)
_FENCE = re.compile(r"```(?:python)?\s*\n(.*?)```", re.S)
_LABEL = re.compile(r"\[LABEL\]:?\s*([^\n\[]+)")
_DESCRIPTION = re.compile(r"\[DESCRIPTION\]:?\s*([^\[]+)")
_ABOUT = {
  "exemplars": "the pictures of a data set for which the unit is most active",
  "text2image": "pictures of prompts",
  "edit": "pictures changed by an instruction each",
  "activations": "what the unit does on pictures",
  "describe": "what is on pictures, in words",
  "summarise": "what pictures have in common",
  "display": "shows you pictures",
  "interactions": "which things on a picture matter, alone and together",
  "code": "pictures of the prompts that f(i), Python, gives for i below count",
}
_TASK = """\
You study one unit of a vision model: what on a picture makes it fire? Make
experiments: form hypotheses, draw pictures that tell them apart, look at what
the unit does, and doubt what you believe. Try whether it needs two things
together, either of two, or one without another.

To use a tool, write one line each:
CALL: {{"tool": "text2image", "arguments": {{"prompts": ["..."]}}}}
Tools:
{tools}
A block of ```python with a function f(i) is a call of code, for i below 8.

{language}

When you know, write both sections, and no call:
[DESCRIPTION] what makes it fire, in a sentence
[LABEL] one of: CONCEPT; CONCEPT or CONCEPT; CONCEPT and CONCEPT; CONCEPT but
not CONCEPT; nothing. A concept is like "striped red circle", "red thing" or
"grass background".
"""


def agent(
  chat: llm.Chat, rounds: int = 20, language: str = "", sees: bool = False
) -> Any:
  """What asks a model, which uses the tools of a unit, in turns.

  Args:
    chat: who answers; a `llm.Meter` ends it where a budget is used up.
    rounds: after which the model is told to come to an end, and two more.
    language: what a prompt for a picture may be, in words, for the model.
    sees: whether the model is sent the pictures that it displays.

  Returns:
    Tools to a finding; it raises nothing that a model or an endpoint does.
  """

  def run(tools: tools_lib.Tools) -> tools_lib.Finding:
    messages: list[dict[str, Any]] = []
    try:
      text = _talked(chat, tools, messages, rounds, language, sees)
      label = unit_labels.parse(_LABEL.findall(text)[-1])
    except _ENDS as error:
      said = f"{type(error).__name__}: {error}"
    except ValueError as error:
      said = f"The label cannot be read: {error}"
    else:
      told = _DESCRIPTION.findall(text)
      description = told[-1].strip() if told else ""
      return tools_lib.Finding(label, description, None, (*messages,))
    return tools_lib.Finding(
      unit_labels.Label("none"), "", None, (*messages,), said[:300]
    )

  return run


def _talked(
  chat: llm.Chat,
  tools: tools_lib.Tools,
  messages: list[dict[str, Any]],
  rounds: int,
  language: str,
  sees: bool,
) -> str:
  """A model's last reply."""
  listed = "\n".join(
    f"- {name} {tools_lib.signature(name)}: {_ABOUT[name]}"
    for name in tools.allowed
  )
  task = _TASK.format(tools=listed, language=language)
  messages += [
    {"role": "system", "content": task}, {"role": "user", "content": "Begin."},
  ]  # fmt: skip
  seen: dict[int, list[int]] = {}  # Message to the pictures that go with it.
  said: list[str] = []
  for number in range(rounds + 2):
    said.append(_replied(chat, tools, messages, seen))
    if _LABEL.search(said[-1]):
      return said[-1]
    if said[-_ALIKE:] == said[-1:] * _ALIKE:
      raise llm.Spent(f"The model said the same {_ALIKE} times.")
    before = len(tools.shown)
    told = _done(tools, said[-1])[:_SHOWN]
    if number >= rounds - 1:
      told += "\n\nCome to an end now: write [DESCRIPTION] and [LABEL]."
    if sees and tools.shown[before:]:
      seen[len(messages)] = tools.shown[before:][:_PICTURES]
    messages.append({"role": "user", "content": told})
  raise llm.Spent(f"No label within {rounds + 2} rounds.")


def _replied(
  chat: llm.Chat,
  tools: tools_lib.Tools,
  messages: list[dict[str, Any]],
  seen: dict[int, list[int]],
) -> str:
  """What a model replies; it joins the messages."""
  sent: list[dict[str, Any]] = []
  for place, own in enumerate(messages):
    if place in seen:
      pictures = [tools.picture(number) for number in seen[place]]
      sent.append(outside.message(own["content"], pictures))
    else:
      sent.append({"role": own["role"], "content": own["content"]})
  reply = chat.chat(sent)
  messages.append({
    "role": "assistant", "content": reply.text, "money": reply.money,
    "tokens": reply.prompt_tokens + reply.reply_tokens,
  })  # fmt: skip
  return reply.text


def _done(tools: tools_lib.Tools, text: str) -> str:
  """What a model is told on its calls, or on why they were none."""
  calls: Sequence[Any] = [
    *_CALL.findall(text),
    *(
      {"tool": "code", "arguments": {"code": code, "count": 8}}
      for code in _FENCE.findall(text)
    ),
  ]
  if not calls:
    return "There is no line CALL: {...} and no [LABEL] in that."
  told = []
  for call in calls[:_CALLS]:
    try:
      own = json.loads(call) if isinstance(call, str) else call
      told.append(tools.use(str(own.get("tool")), own.get("arguments", {})))
    except (ValueError, RecursionError, functions.Overspent) as error:
      told.append(f"That call is not done: {error}")
  if len(calls) > _CALLS:
    told.append(f"{len(calls) - _CALLS} calls are left out: {_CALLS} a reply.")
  return "\n".join(told)
