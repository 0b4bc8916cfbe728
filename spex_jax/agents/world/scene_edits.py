"""Scenes changed by instructions: an edit of the scene graph.

  remove the red circle
  replace the red circle with a small blue square
  make the red circle blue
  move the red circle to the bottom left
  add a small blue square at the top left
  change the background to grass

"the red circle" are all things that are so; "everything" are all.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from spex_jax.agents.world import prompts, scenes

CAN = (
  "An edit is like 'remove the red circle', 'replace the red circle with a "
  "small blue square', 'make the red circle blue', 'move the red circle to the "
  "bottom left', 'add a small blue square' or 'change the background to grass'."
)


def edit(scene: scenes.Scene, instruction: str) -> scenes.Scene:
  """The scene after an instruction.

  Args:
    scene: the scene before the edit, which stays as it is.
    instruction: one sentence, such as the error message lists.

  Raises:
    ValueError: what it cannot read, and what it can; or a thing that is not
      there, with those that are.
  """
  if not isinstance(instruction, str):
    raise ValueError(f"An edit is a text. {CAN}")
  reader = prompts.Reader(instruction)
  verb = reader.take(*_VERBS)
  if verb is None:
    raise ValueError(f"Cannot read {instruction[:80]!r}. {CAN}")
  return _VERBS[verb](scene, reader)


def _referred(scene: scenes.Scene, reader: prompts.Reader) -> list[int]:
  """The numbers of the things that are spoken of."""
  if reader.take("everything"):
    return list(range(len(scene.things)))
  said = reader.thing()
  cell = said.pop("cell", None)
  found = [
    number
    for number, thing in enumerate(scene.things)
    if all(getattr(thing, name) == word for name, word in said.items())
    and cell in (None, (thing.row, thing.column))
  ]
  if not found:
    there = "; ".join(map(prompts.thing, scene.things)) or prompts.NOTHING
    named = " ".join(said.values()) or "thing"
    raise ValueError(f"No {named} is there: there is {there}.")
  return found


def _changed(
  scene: scenes.Scene, numbers: list[int], **changes: Any
) -> scenes.Scene:
  things = tuple(
    dataclasses.replace(thing, **changes) if number in numbers else thing
    for number, thing in enumerate(scene.things)
  )
  return scenes.Scene(things, scene.background)


def _remove(scene: scenes.Scene, reader: prompts.Reader) -> scenes.Scene:
  gone = _referred(scene, reader)
  reader.finish()
  return scene.kept([n not in gone for n in range(len(scene.things))])


def _replace(scene: scenes.Scene, reader: prompts.Reader) -> scenes.Scene:
  numbers = _referred(scene, reader)
  reader.word("'with'", ("with", "by"))
  said = reader.thing()
  reader.finish()
  if "cell" in said:
    raise ValueError(f"What replaces a thing stands where it stood. {CAN}")
  return _changed(scene, numbers, **said)


def _make(scene: scenes.Scene, reader: prompts.Reader) -> scenes.Scene:
  numbers = _referred(scene, reader)
  for name, words in scenes.ATTRIBUTES.items():
    if word := reader.take(*words):
      reader.finish()
      return _changed(scene, numbers, **{name: word})
  raise reader.error("a size, colour, texture or shape", scenes.COLOURS)


def _move(scene: scenes.Scene, reader: prompts.Reader) -> scenes.Scene:
  numbers = _referred(scene, reader)
  reader.word("'to'", ("to",))
  row, column = reader.position()
  reader.finish()
  return _changed(scene, numbers, row=row, column=column)


def _add(scene: scenes.Scene, reader: prompts.Reader) -> scenes.Scene:
  said = reader.thing()
  reader.finish()
  if not scene.free():
    raise ValueError("The scene is full: remove a thing first.")
  row, column = said.pop("cell", scene.free()[0])
  look = {"shape": "circle", "colour": "red"} | said
  new = scenes.Thing(**look, row=row, column=column)
  return scenes.Scene((*scene.things, new), scene.background)


def _change(scene: scenes.Scene, reader: prompts.Reader) -> scenes.Scene:
  reader.take("the")
  reader.word("'background'", ("background",))
  reader.word("'to'", ("to",))
  reader.take("a", "an")
  background = reader.word("a background", scenes.BACKGROUNDS)
  reader.take("background")
  reader.finish()
  return scenes.Scene(scene.things, background)


_VERBS: dict[str, Callable[[scenes.Scene, prompts.Reader], scenes.Scene]] = {
  "remove": _remove, "replace": _replace, "make": _make, "move": _move,
  "add": _add, "change": _change,
}  # fmt: skip
