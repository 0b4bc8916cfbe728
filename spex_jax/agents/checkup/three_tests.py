"""The three tests: draw a concept, recognise one, improve a drawing.

After Sharma et al., "A Vision Check-up for Language Models" (CVPR 2024), whose
concepts go from textures over shapes and objects to scenes; ours are the
world's, so that captions have a truth. A failure is that of one record, never
of the run.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.agents import llm
from spex_jax.agents.checkup import dialogues, renderers
from spex_jax.agents.world import prompts, scenes

# What ends a conversation: a budget, the endpoint, the clock.
_CENTRE = 1  # Row and column.


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
  """One program of a caption.

  Attributes:
    caption: what it was to draw, or does.
    language: the language of its code.
    code: the program, "" where there is none.
    status: how rendering ended, one of `renderers.STATUSES`.
    sha256: of the pixels, or "".
    task: "draw", "improve" or "recognise".
    level: the level of the caption, one of `scenes.LEVELS`.
    round: of the improvement, from 0.
    error: what went wrong, in a line; "" for nothing.
    answer: what was recognised: a caption, or "".
    tokens: how many the request and the reply have together.
    money: what they cost, in the unit of the prices.
    picture: uint8 `[S, S, 3]`, where there is one.
  """

  caption: str
  language: str
  code: str
  status: str
  sha256: str = ""
  task: str = "draw"
  level: str = ""
  round: int = 0
  error: str = ""
  answer: str = ""
  tokens: int = 0
  money: float = 0.0
  picture: np.ndarray | None = None

  def as_json(self) -> dict[str, Any]:
    """All but the picture."""
    own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    del own["picture"]
    return own


def captions(seed: int, level: str, count: int) -> list[str]:
  """Distinct captions of a level, as the world's language has them.

  A level's captions turn on its own words: textures on a large square, shapes
  and objects in the centre of a plain ground, scenes of two to four things.

  Args:
    seed: an integer, the seed of the draws.
    level: which kind of captions, a name of `scenes.LEVELS`.
    count: at most; fewer where there are no more.

  Raises:
    ValueError: no such level.
  """
  if level not in scenes.LEVELS:
    raise ValueError(
      f"No level {level!r}; there are {', '.join(scenes.LEVELS)}."
    )
  rng = np.random.default_rng([seed, list(scenes.LEVELS).index(level)])
  words = scenes.LEVELS[level]
  colours = list(scenes.COLOURS)
  found: dict[str, None] = {}
  for number in range(50 * count):
    if len(found) == count:
      break
    word = words[number % len(words)]
    if level == "scenes":
      own = scenes.draw(rng, 2, 4, {"background": [word]})
    else:
      colour = str(rng.choice(colours))
      shape, texture = word, "solid"
      if level == "textures":
        shape, texture = "square", word
      thing = scenes.Thing(shape, colour, "large", texture, _CENTRE, _CENTRE)
      own = scenes.Scene((thing,))
    found[prompts.write(own)] = None
  return list(found)


def draw(
  chat: llm.Chat,
  caption: str,
  language: str,
  studio: renderers.Studio,
  level: str = "",
) -> Record:
  """A program of a caption; whatever fails is its status."""
  return improve(chat, caption, language, studio, 0, level=level)[0]


def improve(
  chat: llm.Chat,
  caption: str,
  language: str,
  studio: renderers.Studio,
  rounds: int,
  *,
  feedback: bool = True,
  level: str = "",
) -> list[Record]:
  """A first program and what feedback makes of it, round by round.

  A conversation that the endpoint or a budget ends has a last record that says
  so; earlier ones stand.

  Args:
    chat: the language model that writes the programs.
    caption: what the picture should show, in words.
    language: the language to write in, one of `strokes.LANGUAGES`.
    studio: what renders the programs, within a sandbox.
    rounds: of feedback; 0 for none.
    feedback: whether a round tells what became of the code; else it only asks
      for the program again.
    level: the level of the caption, kept in the records.
  """
  task = "improve" if rounds else "draw"
  base = Record(caption, language, "", "no code", task=task, level=level)
  messages: list[dict[str, str]] = [
    {"role": "system", "content": dialogues.SYSTEM},
    {"role": "user", "content": dialogues.draw(caption, language)},
  ]
  found: list[Record] = []
  for number in range(rounds + 1):
    own = dataclasses.replace(base, round=number)
    try:
      reply = chat.chat(messages)
    except llm.ENDS as error:
      said = f"{type(error).__name__}: {error}"[:300]
      return [
        *found, dataclasses.replace(own, status="endpoint", error=said)
      ]  # fmt: skip
    own = dataclasses.replace(
      own, tokens=reply.prompt_tokens + reply.reply_tokens, money=reply.money
    )
    found.append(_rendered(own, dialogues.code_of(reply.text), studio))
    last = found[-1]
    told = dialogues.improve(last.status, last.error)
    messages += [
      {"role": "assistant", "content": reply.text},
      {"role": "user", "content": told if feedback else dialogues.again()},
    ]
  return found


def _rendered(own: Record, code: str, studio: renderers.Studio) -> Record:
  if not code.strip():
    return dataclasses.replace(own, error="the reply has no ``` block")
  seen = studio.render(own.language, code)
  return dataclasses.replace(
    own, code=code, status=seen.status, error=seen.error[:300],
    sha256=seen.sha256, picture=seen.picture,
  )  # fmt: skip


def recognise(
  chat: llm.Chat,
  caption: str,
  language: str,
  code: str,
  options: Sequence[str],
  level: str = "",
) -> Record:
  """Which caption a model takes a program for.

  Args:
    chat: the language model that reads the program.
    caption: what the program draws; one of the options.
    language: the language that the program is in.
    code: the program that is shown.
    options: captions, in the order in which they are shown.
    level: the level of the caption, kept in the record.
  """
  own = Record(caption, language, code, "ok", task="recognise", level=level)
  request = dialogues.recognise(code, options)
  try:
    reply = chat.chat([{"role": "user", "content": request}])
  except llm.ENDS as error:
    said = f"{type(error).__name__}: {error}"[:300]
    return dataclasses.replace(own, status="endpoint", error=said)
  place = dialogues.choice_of(reply.text, len(options))
  return dataclasses.replace(
    own, answer="" if place is None else options[place],
    error="the reply names no option" if place is None else "",
    tokens=reply.prompt_tokens + reply.reply_tokens, money=reply.money,
  )  # fmt: skip
