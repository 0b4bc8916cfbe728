"""Scenes from and to words: a controlled language, "text to image".

  a large red striped circle left of a small blue square on a grass background

A prompt names things, joined by commas, "and" or a relation, then perhaps a
background; a thing has an article, its attributes in any order, a shape or
"thing", and perhaps its place ("at the top left", "in the centre"). What it
does not say is drawn at random by a generator, or takes a default.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from spex_jax.agents.world import scenes

NOTHING = "nothing"
_ARTICLES = ("a", "an", "the", "one")
_JOINS = (",", "and", "with")
_DEFAULTS = {
  "shape": "circle", "colour": "red", "size": "medium", "texture": "solid",
}  # fmt: skip
_MOST = 2_000  # Letters.
CAN = (
  "A prompt is like 'a large red striped circle left of a small blue square "
  "at the bottom right on a grass background', or 'nothing on a grass "
  "background'. "
  + " ".join(
    f"{name.capitalize()}s: {', '.join(words)}."
    for name, words in {
      **scenes.ATTRIBUTES, "background": scenes.BACKGROUNDS,
      "relation": scenes.RELATIONS, "position": scenes.POSITIONS,
    }.items()
  )
)  # fmt: skip


def write(scene: scenes.Scene) -> str:
  """The words of a scene: `read(write(scene)) == scene`."""
  said = " and ".join(map(thing, scene.things)) or NOTHING
  return f"{said} on a {scene.background} background"


def thing(given: scenes.Thing) -> str:
  """The words of a thing and its place."""
  where = "in" if given.position == "centre" else "at"
  said = f"a {given.size} {given.colour} {given.texture} {given.shape}"
  return f"{said} {where} the {given.position}"


def read(text: str, rng: np.random.Generator | None = None) -> scenes.Scene:
  """The scene of a prompt.

  Args:
    text: the prompt, such as "a red circle".
    rng: what draws all that is not said; None for a medium solid red circle in
      the first free cell, the middle first, on a plain background.

  Raises:
    ValueError: what it cannot read, and what it can.
  """
  if not isinstance(text, str) or len(text) > _MOST:
    raise ValueError(f"A prompt is a text of up to {_MOST} letters. {CAN}")
  reader = Reader(text)
  found, relations = [], []
  if reader.take(NOTHING) is None:
    found.append(reader.thing())
    while not reader.is_at("on", ""):
      relations.append(reader.relation())
      found.append(reader.thing())
  background = None
  if reader.take("on"):
    reader.take(*_ARTICLES)
    background = reader.word("a background", scenes.BACKGROUNDS)
    reader.take("background")
  reader.finish()
  return _scene(found, relations, background, rng)


class Reader:
  """A prompt's words, from the first to the last."""

  def __init__(self, text: str):
    """Of a text."""
    self._words = re.findall(r"[^\s,.;]+|,", text.lower())
    self._at = 0

  def is_at(self, *words: str) -> bool:
    """Whether the next word is one of these; "" is the end."""
    here = self._words[self._at :][:1]
    return (here[0] if here else "") in words

  def take(self, *words: str) -> str | None:
    """The next word, where it is one of these."""
    if not self.is_at(*words) or self.is_at(""):
      return None
    self._at += 1
    return self._words[self._at - 1]

  def word(self, what: str, known: Any) -> str:
    """The next word, which must be known; raises ValueError."""
    found = self.take(*known)
    if found is None:
      raise self.error(what, known)
    return found

  def finish(self) -> None:
    """Raises ValueError unless all words are read."""
    if not self.is_at(""):
      raise self.error("the end", ())

  def error(self, what: str, known: Any) -> ValueError:
    """That the next word is not what is needed; with what can be read."""
    here = self._words[self._at :][:1]
    if not here:
      return ValueError(f"The prompt ends where {what} is needed. {CAN}")
    every = [w for words in scenes.ATTRIBUTES.values() for w in words]
    close = difflib.get_close_matches(here[0], [*known, *every], 1)
    hint = f", as {close[0]!r} would be" if close else ""
    return ValueError(
      f"Cannot read {here[0]!r}, word {self._at + 1} of the prompt: {what} is "
      f"needed{hint}. {CAN}"
    )

  def relation(self) -> str | None:
    """What joins two things: one of `RELATIONS`, or None; raises ValueError."""
    if self.take(*_JOINS):
      while self.take(*_JOINS):
        pass
      return None
    if self.take("above"):
      return "above"
    if self.take("below", "under"):
      return "below"
    if self.take("to"):
      self.word("'the'", ("the",))
    side = self.word(
      "a relation, 'and', or 'on a ... background'", ("left", "right")
    )
    self.word("'of'", ("of",))
    return f"{side} of"

  def thing(self) -> dict[str, Any]:
    """A thing: what is said of it, its `cell` too; raises ValueError."""
    self.take(*_ARTICLES)
    found: dict[str, Any] = {}
    while "shape" not in found:
      if self.take("thing", "object"):
        break
      for name, words in scenes.ATTRIBUTES.items():
        word = None if name in found else self.take(*words)
        if word is not None:
          found[name] = word
          break
      else:
        raise self.error(
          "a size, colour, texture or shape that it does not have yet",
          [*scenes.ATTRIBUTES["shape"], *scenes.COLOURS],
        )
    if self.take("at", "in"):
      found["cell"] = self.position()
    return found

  def position(self) -> tuple[int, int]:
    """A place; raises ValueError."""
    self.take("the")
    one = self.word("a place", ("top", "bottom", "left", "right", "centre"))
    side = self.take("left", "right") if one in ("top", "bottom") else None
    return scenes.POSITIONS[f"{one} {side}" if side else one]


def _scene(
  found: list[dict[str, Any]],
  relations: list[str | None],
  background: str | None,
  rng: np.random.Generator | None,
) -> scenes.Scene:
  """Fills in what is not said."""
  if background is None:
    background = "plain" if rng is None else str(rng.choice(scenes.BACKGROUNDS))
  looks: list[Mapping[str, str]] = [
    {
      name: own.get(name)
      or (_DEFAULTS[name] if rng is None else str(rng.choice(words)))
      for name, words in scenes.ATTRIBUTES.items()
    }
    for own in found
  ]
  if len(found) > len(scenes.POSITIONS):
    raise ValueError(f"{len(found)} things; a scene holds nine. {CAN}")
  order = scenes.Scene().free()
  if rng is not None:
    order = [order[i] for i in rng.permutation(len(order))]
  cells = _placed(found, relations, order, [], looks)
  if cells is None:
    raise ValueError(f"No places are as the prompt has them. {CAN}")
  things = [
    scenes.Thing(**look, row=row, column=column)
    for look, (row, column) in zip(looks, cells)
  ]
  return scenes.Scene(tuple(things), background)


def _placed(
  found: list[dict[str, Any]],
  relations: list[str | None],
  order: list[tuple[int, int]],
  before: list[tuple[int, int]],
  looks: list[Mapping[str, str]],
) -> list[tuple[int, int]] | None:
  """A cell for each thing, the first that fit; None where none do."""
  at = len(before)
  if at == len(found):
    return before
  said = found[at].get("cell")
  later = [own.get("cell") for own in found[at + 1 :]]
  for cell in order if said is None else [said]:
    if cell in before or (said is None and cell in later):
      continue
    relation = relations[at - 1] if at else None
    if relation is not None:
      one, other = (
        scenes.Thing(**look, row=row, column=column)
        for look, (row, column) in zip(looks[at - 1 :], (before[-1], cell))
      )
      if not scenes.RELATIONS[relation](one, other):
        continue
    rest = _placed(found, relations, order, [*before, cell], looks)
    if rest is not None:
      return rest
  return None
