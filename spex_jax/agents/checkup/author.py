"""A programmatic author in a model's place: scenes to code, with defects.

It is an `llm.Chat`: it reads the caption of a request as the world's language
has it, and writes code. Defects are seeded into what it writes; each feedback
that tells of a rendering mends one, the one that it tells of first. Without
feedback it repeats itself: what a loop of feedback is worth can be measured.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from spex_jax.agents import llm
from spex_jax.agents.checkup import dialogues, strokes
from spex_jax.agents.world import prompts

_SHRUNK = 0.4


def _syntax(code: str, language: str) -> str:
  """Without its last bracket."""
  end = max(code.rfind(mark) for mark in ")>}")
  return code[:end] + code[end + 1 :]


def _hangs(code: str, language: str) -> str:
  """Goes round for ever; where a language cannot, ends in the middle."""
  if language == "matplotlib":
    return code + "while True:\n  pass\n"
  return code[: len(code) // 2]


def _recoloured(drawn: list[strokes.Stroke]) -> list[strokes.Stroke]:
  """Red for green for blue, but of the background."""
  turned = lambda c: (c[2], c[0], c[1])
  return drawn[:1] + [
    dataclasses.replace(own, colour=turned(own.colour)) for own in drawn[1:]
  ]


def _moved(drawn: list[strokes.Stroke]) -> list[strokes.Stroke]:
  """Upside down."""
  return drawn[:1] + [_mapped(own, lambda x, y: (x, strokes.SIDE - y), 1.0)
                      for own in drawn[1:]]  # fmt: skip


def _shrunk(drawn: list[strokes.Stroke]) -> list[strokes.Stroke]:
  """Small, in the corner."""
  small = lambda x, y: (_SHRUNK * x, _SHRUNK * y)
  return drawn[:1] + [_mapped(own, small, _SHRUNK) for own in drawn[1:]]


def _mapped(own, place, scale) -> strokes.Stroke:
  if own.kind == "polygon":
    points = tuple(place(*point) for point in own.points)
  else:
    middle, (a, b) = own.points
    points = (place(*middle), (scale * a, scale * b))
  return dataclasses.replace(own, points=points)


# Of the text, and of what is drawn; what a rendering tells of comes first.
_OF_CODE = {"syntax": _syntax, "hangs": _hangs}
_OF_STROKES = {
  "blank": lambda drawn: [],
  "missing": lambda drawn: drawn[: max(1, len(drawn) // 2)],
  "colour": _recoloured,
  "place": _moved,
  "small": _shrunk,
}
DEFECTS = (*_OF_CODE, *_OF_STROKES)
_TOLD = {"syntax": ("error",), "hangs": ("time", "error"), "blank": ("blank",)}


class Author:
  """See the module; deterministic."""

  def __init__(self, language: str, defects: Sequence[str] = ()):
    """Writes one language.

    Args:
      language: the language it writes, one of `strokes.LANGUAGES`.
      defects: of `DEFECTS`, all of which its first program has.

    Raises:
      ValueError: a defect or a language that there is not.
    """
    for name in defects:
      if name not in DEFECTS:
        raise ValueError(f"No defect {name!r}; there are {', '.join(DEFECTS)}.")
    strokes.write([], language)  # Raises for what is no language.
    self._language, self._defects = language, tuple(defects)

  def chat(
    self,
    messages: Sequence[llm.Message],
    tools: Sequence[Mapping] | None = None,
  ) -> llm.Reply:
    """See `llm.Chat`.

    Raises:
      ValueError: a caption that the world's language does not have.
    """
    del tools
    said = [str(m["content"]) for m in messages if m["role"] == "user"]
    if options := dialogues.options_of(said[0]):
      text = self._recognised(said[0], options)
    else:
      left = list(self._defects)
      for feedback in said[1:]:
        self._mend(left, feedback)
      text = f"```\n{self.code(dialogues.caption_of(said[0]), left)}```"
    return llm.Reply(text, (), sum(map(len, said)) // 4, len(text) // 4 + 1)

  def code(self, caption: str, defects: Sequence[str] = ()) -> str:
    """The program of a caption; raises as `prompts.read`."""
    drawn = strokes.of_scene(prompts.read(caption))
    for name in defects:
      if name in _OF_STROKES:
        drawn = _OF_STROKES[name](drawn)
    code = strokes.write(drawn, self._language)
    for name in defects:
      if name in _OF_CODE:
        code = _OF_CODE[name](code, self._language)
    return code

  def _mend(self, left: list[str], feedback: str) -> None:
    status = dialogues.status_of(feedback)
    if not left or not status:
      return
    told = [name for name in left if status in _TOLD.get(name, ())]
    hidden = [name for name in left if name not in _TOLD]
    for name in (told or hidden or left)[:1]:
      left.remove(name)

  def _recognised(self, request: str, options: Sequence[str]) -> str:
    """The option whose own program has most lines of the one that is shown."""
    shown = collections.Counter(dialogues.code_of(request).splitlines())

    def shared(option: str) -> float:
      own = collections.Counter(self.code(option).splitlines())
      return (own & shown).total() / max(own.total(), 1)

    scores = [shared(option) for option in options]
    return f"[{scores.index(max(scores)) + 1}]"
