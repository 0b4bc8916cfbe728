"""A MAIA without a language model: experiments by rule, from queries alone.

Exemplars are reduced to the fewest things that still make the unit fire; of
these every attribute is varied, which leaves concepts. Panels of all pairs of
words then look for a second concept that fires, or one that silences. SPEX over
which of the concepts are there, decoys among them, gives the label its form. A
noisy unit is asked again, on other pictures of the same content.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spex_jax.agents.find import functions
from spex_jax.agents.maia import tools as tools_lib
from spex_jax.agents.maia import unit_labels
from spex_jax.agents.world import concepts, prompts, scenes

_TRIED = 6  # Exemplars.
_GROUNDS = 4  # Other backgrounds that a scene is put on.
_HOSTS = 3  # Things that attributes are put on.
_PLAYERS = 6  # Concepts and decoys.
_SPREAD = 5.5  # Of noise, between silence and firing.
_CELLS = scenes.GRID**2
_TOLD = "It fires for: {}."
Test = Callable[[Sequence[scenes.Scene]], list[bool]]


def run(tools: tools_lib.Tools) -> tools_lib.Finding:
  """The label of a unit; raises as the tools."""
  found = tools.exemplars()
  tools.display(found.numbers)
  span = found.top - found.silent
  if span <= _SPREAD * found.noise + 1e-9:
    return tools_lib.Finding(
      unit_labels.Label("none"), "It fires for no picture of the data set."
    )
  bench = _Bench(tools, found)
  fired = [n for n, own in zip(found.numbers, found.fired) if own]
  seen = [prompts.read(text) for text in tools.describe(fired)]
  implicants = _implicants(bench, seen)
  logical = _reasoned(bench, implicants)
  if logical is None:
    return tools_lib.Finding(
      unit_labels.Label("none"),
      "No concept of the world explains when it fires.",
    )
  if sum(concept.background is not None for concept in logical.concepts) > 1:
    return tools_lib.Finding(
      logical, _TOLD.format(logical)
    )  # No scene has both.
  players = _players(bench, logical, seen)
  interactions = tools_lib.explained(
    lambda masks: bench.levels(
      [bench.presence(players, mask) for mask in np.asarray(masks)]
    ),
    [str(player) for player in players],
    1 << len(players),
  )
  values = dict(interactions)
  label = unit_labels.of_interactions(players, values, 0.3 * span) or logical
  return tools_lib.Finding(label, _TOLD.format(label), interactions)


class _Bench:
  """Asks for scenes: whether they make the unit fire."""

  def __init__(self, tools: tools_lib.Tools, found: tools_lib.Exemplars):
    self._tools = tools
    self.rng = functions.rng(0, "scripted")
    span = found.top - found.silent
    self._threshold = found.silent + 0.45 * span
    share = found.noise / span
    self._repeats = 1 if share < 0.02 else 3 if share < 0.1 else 5
    # Until a background is known that is silent alone, any is as good.
    self.ground = scenes.BACKGROUNDS[0]
    blanks = [scenes.Scene((), name) for name in scenes.BACKGROUNDS]
    fired = self.fires(blanks)
    self.grounds = [n for n, own in zip(scenes.BACKGROUNDS, fired) if own]
    self.silent = [n for n in scenes.BACKGROUNDS if n not in self.grounds]
    self.ground = self.silent[0] if self.silent else self.ground

  def levels(self, asked: Sequence[scenes.Scene]) -> np.ndarray:
    """Mean activations, `[B]`, of pictures of the same content."""
    every = [
      dataclasses.replace(
        s, things=tuple(unit_labels.scattered(s.things, self.rng))
      )
      if number
      else s
      for s in asked
      for number in range(self._repeats)
    ]
    numbers = self._exact(every)
    found = self._tools.activations(numbers)
    return found.reshape(len(asked), self._repeats).mean(1)

  def fires(self, asked: Sequence[scenes.Scene]) -> list[bool]:
    """Whether each makes the unit fire."""
    if not asked:
      return []
    return [bool(level > self._threshold) for level in self.levels(asked)]

  def _exact(self, asked: Sequence[scenes.Scene]) -> list[int]:
    """Pictures of scenes, without what a generator drew besides."""
    numbers = self._tools.text2image([prompts.write(scene) for scene in asked])
    told = self._tools.describe(numbers)
    found = []
    for number, text, scene in zip(numbers, told, asked):
      cells = {(thing.row, thing.column) for thing in scene.things}
      for thing in prompts.read(text).things:
        if (thing.row, thing.column) not in cells:
          said = f"remove the {prompts.thing(thing)[2:]}"
          (number,) = self._tools.edit([number], [said])
      found.append(number)
    return found

  def presence(
    self, players: Sequence[concepts.Concept], mask: Sequence[bool]
  ) -> scenes.Scene:
    """A scene with the concepts of a mask, and none of the others."""
    # The same whenever it is asked.
    rng = functions.rng(0, "presence", *players, *map(bool, mask))
    there = [c for c, own in zip(players, mask) if own]
    away = [c for c, own in zip(players, mask) if not own]
    return unit_labels.scene_of(there, away, rng, "large", self.ground)

  def others(self, name: str, scene: scenes.Scene) -> list[str]:
    """Words of an attribute that no thing of a scene has, if there are any."""
    used = {getattr(thing, name) for thing in scene.things}
    known = scenes.ATTRIBUTES[name]
    free = [own for own in known if own not in used] or known
    return [str(word) for word in self.rng.permutation(free)]


def _implicants(
  bench: _Bench, seen: Sequence[scenes.Scene]
) -> collections.Counter[tuple[concepts.Concept, ...]]:
  """Concepts, or pairs that are needed together, to how many they explain."""
  found: collections.Counter[tuple[concepts.Concept, ...]] = (
    collections.Counter()
  )
  for name in bench.grounds:
    found[(concepts.Concept(background=name),)] += 1
  for scene in seen[:_TRIED]:
    known = [
      own for own in found if all(concept.holds(scene) for concept in own)
    ]
    if known:
      found.update(known)
    elif own := _reduced(bench, scene):
      found[own] += 1
  return found


def _reduced(
  bench: _Bench, scene: scenes.Scene
) -> tuple[concepts.Concept, ...] | None:
  """What of a scene makes it fire: one concept, or two; None where unclear."""
  things = tuple(dataclasses.replace(t, size="large") for t in scene.things)
  scene = scenes.Scene(things, scene.background)
  if not all(bench.fires([scene])):
    return None
  # A ground on which nothing depends, for this scene and all that follow; the
  # present one may be what fires, or what silences.
  others = dict.fromkeys([bench.ground, *bench.silent])
  tried = [name for name in others if name != scene.background][:_GROUNDS]
  moved = [dataclasses.replace(scene, background=name) for name in tried]
  passed = bench.fires(moved)
  ground = not any(passed)
  bench.ground = tried[0 if ground else passed.index(True)]
  if not ground:
    scene = dataclasses.replace(scene, background=bench.ground)
  scene = _fewest(bench.fires, scene)
  if len(scene.things) + ground > 2:
    return None
  own = []
  for number in range(len(scene.things)):
    scene, needed = _needed(bench, bench.fires, scene, number)
    if not needed:
      return None
    own.append(needed)
  found = [concepts.Concept(**needed) for needed in own if len(needed) < 3]
  if ground:
    found.append(concepts.Concept(background=scene.background))
  if len(own) == 1 and len(own[0]) > 1 and not ground:
    return _split(bench, own[0])
  return tuple(found) if len(found) == len(own) + ground else None


def _fewest(test: Test, scene: scenes.Scene) -> scenes.Scene:
  """A scene without all things that a test does without."""
  for thing in scene.things:
    less = scene.kept([own != thing for own in scene.things])
    if test([less])[0]:
      scene = less
  return scene


def _needed(
  bench: _Bench, test: Test, scene: scenes.Scene, number: int
) -> tuple[scenes.Scene, dict[str, str]]:
  """The fewest attributes of a thing that a test needs; and a scene with them.

  They are put, all subsets of them, on three things that do not pass it, no two
  of which share a word where enough are left: a word that fires or silences by
  another concept is on one of them at most, and the other two decide.
  """
  given = scene.things[number]
  put = lambda thing: dataclasses.replace(
    scene, things=(*scene.things[:number], thing, *scene.things[number + 1 :])
  )
  words = {name: bench.others(name, scene) for name in concepts.OF_THINGS}
  others = []
  for turn in range(3 * _HOSTS):
    own: Any = {name: free[turn % len(free)] for name, free in words.items()}
    others.append(dataclasses.replace(given, **own))
  passed = test([put(other) for other in others])
  quiet = [other for other, own in zip(others, passed) if not own]
  hosts: list[scenes.Thing] = []
  for other in quiet:
    if not any(_alike(other, host) for host in hosts):
      hosts.append(other)
  hosts = [*hosts, *(own for own in quiet if own not in hosts)][:_HOSTS]
  if not hosts:
    return scene, {}
  names = [
    own
    for count in range(1, len(concepts.OF_THINGS) + 1)
    for own in itertools.combinations(concepts.OF_THINGS, count)
  ]
  tried = [
    put(dataclasses.replace(host, **{n: getattr(given, n) for n in own}))
    for own in names
    for host in hosts
  ]
  passed = np.reshape(test(tried), (len(names), len(hosts)))
  for place, own in enumerate(names):
    if 2 * passed[place].sum() > len(hosts):
      found = tried[place * len(hosts) + int(passed[place].argmax())]
      return found, {name: getattr(given, name) for name in own}
  return scene, {}


def _alike(one: scenes.Thing, other: scenes.Thing) -> bool:
  """Whether two things share a word of what concepts are of."""
  return any(
    getattr(one, name) == getattr(other, name) for name in concepts.OF_THINGS
  )


def _split(
  bench: _Bench, needed: dict[str, str]
) -> tuple[concepts.Concept, ...] | None:
  """Whether attributes that one thing needs may be those of two things."""
  for name, word in needed.items():
    one = concepts.Concept(**{name: word})
    rest = {n: w for n, w in needed.items() if n != name}
    other = concepts.Concept(**rest)
    both = 0
    for _ in range(3):
      things = [
        concepts.embody(one, bench.rng, [other], "large"),
        concepts.embody(other, bench.rng, [one], "large"),
      ]
      # None may fire alone, as a thing of a second concept would.
      asked = (things, things[:1], things[1:])
      both += bench.fires([
        scenes.Scene((*unit_labels.scattered(own, bench.rng),), bench.ground)
        for own in asked
      ]) == [True, False, False]  # fmt: skip
    if both >= 2:
      return one, other
  return (concepts.Concept(**needed),) if len(needed) < 3 else None


def _reasoned(
  bench: _Bench, implicants: collections.Counter[tuple[concepts.Concept, ...]]
) -> unit_labels.Label | None:
  """The label that implicants leave; partners and blockers are looked for."""
  pairs = [own for own in implicants if len(own) == 2]
  singles = [own[0] for own, _ in implicants.most_common() if len(own) == 1]
  if singles:
    first = singles[0]
    apart = [  # One that implies the other says nothing beside it.
      own
      for own in singles[1:]
      if not (own.implies(first) or first.implies(own))
    ]
    partner = apart[0] if apart else _partner(bench, first)
    if partner is not None:
      return unit_labels.Label("or", (first, partner))
    blocker = _blocker(bench, first)
    if blocker is not None:
      return unit_labels.Label("and-not", (first, blocker))
    return unit_labels.Label("one", (first,))
  if pairs:
    return unit_labels.Label("and", max(pairs, key=implicants.__getitem__))
  return None


def _panel(away: concepts.Concept) -> list[scenes.Thing]:
  """Things with every pair of words between them, none of a concept."""
  found = []
  for (i, shape), (j, colour) in itertools.product(
    enumerate(scenes.ATTRIBUTES["shape"]), enumerate(scenes.COLOURS)
  ):
    for step in range(2):  # The next texture, where the first is the concept's.
      texture = scenes.TEXTURES[(i + j + step) % len(scenes.TEXTURES)]
      thing = scenes.Thing(shape, colour, "large", texture)
      if not away.matches(thing):
        found.append(thing)
        break
  return found


def _culprit(
  bench: _Bench, test: Test, things: Sequence[scenes.Thing], scene: scenes.Scene
) -> concepts.Concept | None:
  """The concept of one of some things that, beside a scene, passes a test.

  Asked in groups that fill the picture; what passes is asked again alone.
  """
  held = list(scene.things)
  room = _CELLS - len(held)
  made = lambda own: dataclasses.replace(
    scene, things=tuple(unit_labels.scattered([*own, *held], bench.rng))
  )
  groups = [things[i : i + room] for i in range(0, len(things), room)]
  for group, passes in zip(groups, test([made(own) for own in groups])):
    if not passes:
      continue
    alone = test([made([thing]) for thing in group])
    for thing, own in zip(group, alone):
      if own:
        _, needed = _needed(bench, test, made([thing]), 0)
        if 0 < len(needed) < 3:
          return concepts.Concept(**needed)
  return None


def _partner(bench: _Bench, first: concepts.Concept) -> concepts.Concept | None:
  """Another concept that makes it fire where the first is away."""
  blank = scenes.Scene((), bench.ground)
  return _culprit(bench, bench.fires, _panel(first), blank)


def _blocker(bench: _Bench, first: concepts.Concept) -> concepts.Concept | None:
  """A concept that silences it where the first is there."""
  silences: Test = lambda asked: [not own for own in bench.fires(asked)]
  scene = _firing(bench, first)
  if scene is None:
    return None
  if first.background is None:
    named = [n for n in scenes.BACKGROUNDS if n != scene.background]
    quiet = silences([
      dataclasses.replace(scene, background=name) for name in named
    ])  # fmt: skip
    if sum(quiet) == 1:
      return concepts.Concept(background=named[quiet.index(True)])
  return _culprit(bench, silences, _panel(first), scene)


def _firing(bench: _Bench, first: concepts.Concept) -> scenes.Scene | None:
  """The least scene of a concept that fires; a thing may block itself."""
  for _ in range(8):
    scene = unit_labels.scene_of([first], [], bench.rng, "large", bench.ground)
    if bench.fires([scene])[0]:
      return scene
  return None


def _players(
  bench: _Bench, label: unit_labels.Label, seen: Sequence[scenes.Scene]
) -> list[concepts.Concept]:
  """The concepts of a label, and decoys from the exemplars."""
  own = list(label.concepts)
  commonest = collections.Counter(
    concepts.Concept(**{name: getattr(thing, name)})
    for scene in seen
    for thing in scene.things
    for name in concepts.OF_THINGS
  )
  for decoy, _ in commonest.most_common():
    if len(own) == _PLAYERS:
      break
    # Decoys are of words that neither the concepts nor other decoys have.
    words = {name for c in own for name in c.attributes.items()}
    if not words & decoy.attributes.items() and decoy.texture is None:
      own.append(decoy)
  return own
