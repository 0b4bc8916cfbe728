"""What a scene may hold: "red circle", "striped thing", "grass background".

A concept is some of a thing's attributes, or a background. It is there where
one thing has all of them.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.agents.world import scenes

OF_THINGS = ("texture", "colour", "shape")  # As words stand; not the size.


@dataclasses.dataclass(frozen=True, order=True)
class Concept:
  """A concept; words that are None do not matter.

  Attributes:
    shape: the word for a thing's shape.
    colour: the word for its colour.
    texture: the word for its texture.
    background: the word for a background; then all others are None.

  Raises:
    ValueError: a word that there is not, no word, or a thing and a background.
  """

  shape: str | None = None
  colour: str | None = None
  texture: str | None = None
  background: str | None = None

  def __post_init__(self):
    known = {**scenes.ATTRIBUTES, "background": scenes.BACKGROUNDS}
    given = dataclasses.asdict(self)
    for name, word in given.items():
      if word is not None and word not in known[name]:
        raise ValueError(
          f"No {name} {word!r}; there are {', '.join(known[name])}."
        )
    if bool(self.attributes) == bool(self.background):
      raise ValueError("A concept is of a thing, or a background: one of them.")

  @functools.cached_property
  def attributes(self) -> dict[str, str]:
    """Those of a thing that matter."""
    own = {name: getattr(self, name) for name in OF_THINGS}
    return {name: word for name, word in own.items() if word is not None}

  def matches(self, thing: scenes.Thing) -> bool:
    """Whether a thing has all of it; of a background never."""
    own = self.attributes
    return bool(own) and all(
      getattr(thing, name) == word for name, word in own.items()
    )

  def holds(self, scene: scenes.Scene) -> bool:
    """Whether it is there."""
    if self.background is not None:
      return scene.background == self.background
    return any(map(self.matches, scene.things))

  def implies(self, other: "Concept") -> bool:
    """Whether the other is there wherever this is."""
    if self.background or other.background:
      return self == other
    return other.attributes.items() <= self.attributes.items()

  def __str__(self) -> str:
    if self.background is not None:
      return f"{self.background} background"
    words = [*self.attributes.values()]
    return " ".join(words if self.shape else [*words, "thing"])


def parse(text: str) -> Concept:
  """The concept that `str` wrote; an article before it may stand.

  Raises:
    ValueError: no concept.
  """
  words = text.lower().split()
  words = words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words
  if words[1:] == ["background"]:
    return Concept(background=words[0])
  found: dict[str, str] = {}
  for word in words[:-1] if words[-1:] == ["thing"] else words:
    names = [n for n in OF_THINGS if word in scenes.ATTRIBUTES[n]]
    if not names or names[0] in found:
      raise ValueError(
        f"{text!r} is no concept: it has a texture, a colour and a shape or "
        "'thing', or is '... background'."
      )
    found[names[0]] = word
  return Concept(**found)


def of_words(most: int = 2) -> list[Concept]:
  """All of things with up to so many words, and all backgrounds."""
  found = []
  for count in range(1, most + 1):
    for names in itertools.combinations(OF_THINGS, count):
      words = (scenes.ATTRIBUTES[name] for name in names)
      found += [
        Concept(**dict(zip(names, own))) for own in itertools.product(*words)
      ]
  return [*found, *(Concept(background=name) for name in scenes.BACKGROUNDS)]


def embody(
  concept: Concept,
  rng: np.random.Generator,
  avoid: Sequence[Concept] = (),
  size: str | None = None,
) -> scenes.Thing:
  """A thing of a concept, of none of others; all else at random.

  Args:
    concept: a concept of a thing, not of a background.
    rng: a NumPy generator, whose state moves on.
    avoid: concepts that the thing must not be of.
    size: of `scenes.SIZES`; at random where it is None.

  Raises:
    ValueError: a background, or a concept that implies one to avoid.
  """
  if concept.background or any(map(concept.implies, avoid)):
    raise ValueError(f"No thing is {concept} and none of {[*map(str, avoid)]}.")
  for _ in range(1000):
    words: dict[str, Any] = {
      name: str(rng.choice(known)) for name, known in scenes.ATTRIBUTES.items()
    }
    words |= concept.attributes | ({"size": size} if size else {})
    thing = scenes.Thing(**words)
    if not any(other.matches(thing) for other in avoid):
      return thing
  raise ValueError(f"No {concept} was found that is none of {avoid}.")


def shared(things: Sequence[scenes.Thing]) -> Concept | None:
  """What things have in common, all of it; None where that is nothing."""
  own = {name: {getattr(thing, name) for thing in things} for name in OF_THINGS}
  same = {name: words.pop() for name, words in own.items() if len(words) == 1}
  return Concept(**same) if same else None
