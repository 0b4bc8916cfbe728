"""The drawn world: pictures, their words, and back."""

import dataclasses
import hashlib
import itertools
import json

import numpy as np
import pytest

from spex_jax.agents.world import (
  concepts,
  describing,
  prompts,
  rendering,
  scene_edits,
  scenes,
  seeing,
)


def _drawn(count, seed=0, **given):
  rng = np.random.default_rng(seed)
  return [scenes.draw(rng, **given) for _ in range(count)]


def test_pictures_are_these_bytes():
  digest = hashlib.sha256()
  for scene in _drawn(40, low=0, high=9):
    digest.update(rendering.render(scene).tobytes())
  # With another, `scenes.VERSION` must be another, too.
  assert scenes.VERSION == 1
  assert digest.hexdigest() == _DIGEST


_DIGEST = "a7b1b71953406b02b328eeb142b2a1a3a5603bac2aba391a0b2a219e80141ea7"


def test_a_circle_is_a_circle():
  thing = scenes.Thing("circle", "red", "large", row=0, column=2)
  scene = scenes.Scene((thing,), "plain")
  picture = rendering.render(scene, 96)
  middles = (np.arange(96) + 0.5) * 12288 / 96
  x, y = middles[None, :] - 2.5 * 4096, middles[:, None] - 0.5 * 4096
  far = x**2 + y**2
  inside = (picture == scenes.COLOURS["red"]).all(-1)
  assert inside[far < 1860**2].all()
  assert not inside[far > 1900**2].any()
  np.testing.assert_array_equal(rendering.masks(scene, 96)[0], inside)
  area = np.pi * 1880**2 / 12288**2
  assert rendering.areas(scene, 96)[0] == pytest.approx(area, rel=0.03)


def test_things_differ_from_grounds_in_colour():
  grounds = {
    tuple(pixel)
    for name in scenes.BACKGROUNDS
    for pixel in rendering.ground(name, 64).reshape(-1, 3).tolist()
  }
  own = [*scenes.COLOURS.values(), *scenes.INKS.values()]
  shaded = [rendering.shaded(colour) for colour in scenes.COLOURS.values()]
  assert not grounds & {*own, *shaded}
  assert len({*own, *shaded}) == len(own) + len(shaded)


@pytest.mark.parametrize("size", [48, 64, 100])
def test_what_is_drawn_is_seen(size):
  for scene in _drawn(12, seed=size, low=0, high=9):
    found = seeing.see(rendering.render(scene, size))
    assert found.background == scene.background
    assert {*found.things} == {*scene.things}


def test_no_two_things_look_alike():
  looks = {}
  for words in itertools.product(*scenes.ATTRIBUTES.values()):
    thing = scenes.Thing(**dict(zip(scenes.ATTRIBUTES, words)), row=2, column=0)
    patch = rendering.painted(thing, 48)
    data = patch.mask.tobytes() + patch.pixels[patch.mask].tobytes()
    assert looks.setdefault(data, thing) == thing
  assert len(looks) == 16 * 10 * 3 * 4


def test_scenes_are_kept_as_json():
  for scene in _drawn(5):
    body = json.loads(json.dumps(scenes.to_json(scene)))
    assert scenes.from_json(body) == scene
  with pytest.raises(ValueError, match="version 7"):
    scenes.from_json({"version": 7})
  with pytest.raises(ValueError, match="No scene: KeyError"):
    scenes.from_json({"version": scenes.VERSION})


def test_words_are_read_as_they_are_written():
  for scene in _drawn(60, low=0, high=9):
    assert prompts.read(prompts.write(scene)) == scene


def test_relations_place_things():
  text = (
    "a large red striped circle left of a small blue square on a grass "
    "background"
  )
  for rng in (None, np.random.default_rng(3)):
    scene = prompts.read(text, rng)
    one, other = scene.things
    assert (one.shape, one.colour, one.size, one.texture) == (
      "circle", "red", "large", "striped",
    )  # fmt: skip
    assert (other.shape, other.colour, other.size) == (
      "square", "blue", "small",
    )  # fmt: skip
    assert one.column < other.column
    assert (0, "left of", 1) in scenes.relations(scene)
    assert scene.background == "grass"


def test_what_a_prompt_leaves_open_is_drawn():
  found = {
    prompts.read("a red thing and a moon", np.random.default_rng(seed))
    for seed in range(30)
  }
  assert {scene.things[0].colour for scene in found} == {"red"}
  assert {scene.things[1].shape for scene in found} == {"moon"}
  assert len({scene.things[0].shape for scene in found}) > 5
  assert len({scene.background for scene in found}) > 3


@pytest.mark.parametrize(
  ("text", "word"),
  [
    ("a red circel", "'circel'.*as 'circle' would be.*Colours: red"),
    ("", "ends where"),
    ("a red blue circle", "'blue'"),
    ("a red circle on a moon background", "'moon'.*background is needed"),
    ("a red circle beside a square", "'beside'.*relation"),
    ("a red circle at the side", "'side'.*place"),
    ("a red circle on a grass background now", "'now'.*the end"),
    ("a circle at the left left of a square at the left", "No places"),
    (" and ".join(["a moon"] * 10), "10 things"),
    ("a" * 3000, "up to 2000 letters"),
    (None, "text"),
  ],
)
def test_a_prompt_that_cannot_be_read_names_the_word(text, word):
  with pytest.raises(ValueError, match=word):
    prompts.read(text)


_SCENE = "a large red circle at the top and a small blue house at the left"


@pytest.mark.parametrize(
  ("instruction", "after"),
  [
    ("remove the red circle", "a small blue house at the left"),
    ("remove everything", "nothing"),
    ("replace the circle with a green striped moon",
     "a large green striped moon at the top and a small blue house at the "
     "left"),
    ("make the house pink",
     "a large red circle at the top and a small pink house at the left"),
    ("move the thing at the top to the bottom right",
     "a large red circle at the bottom right and a small blue house at the "
     "left"),
    ("add a small black star",
     _SCENE + " and a small black star in the centre"),
    ("change the background to snow", _SCENE + " on a snow background"),
  ],
)  # fmt: skip
def test_edits(instruction, after):
  scene = scene_edits.edit(prompts.read(_SCENE), instruction)
  assert scene == prompts.read(after)


@pytest.mark.parametrize(
  ("instruction", "message"),
  [
    ("paint it black", "An edit is like"),
    ("remove the green circle", "No green circle is there: .*red solid circle"),
    ("make the circle", "ends where"),
    ("move the circle to the left", "Two things at the left"),
    ("change the background to mud", "'mud'"),
    (3, "An edit is a text"),
  ],
)
def test_an_edit_that_cannot_be_done_says_why(instruction, message):
  with pytest.raises(ValueError, match=message):
    scene_edits.edit(prompts.read(_SCENE), instruction)


def test_a_full_scene_takes_no_more():
  (scene,) = _drawn(1, low=9, high=9)
  with pytest.raises(ValueError, match="full"):
    scene_edits.edit(scene, "add a moon")


def test_descriptions_are_of_pixels():
  given = _drawn(4)
  pictures = [rendering.render(scene) for scene in given]
  for scene, text in zip(given, describing.describe(pictures)):
    assert {*prompts.read(text).things} == {*scene.things}
  with pytest.raises(ValueError, match="Picture 1: .*no background"):
    describing.describe([pictures[0], np.zeros((64, 64, 3), np.uint8)])
  spoilt = pictures[0].copy()
  spoilt[32, 32] = 1, 2, 3
  with pytest.raises(ValueError, match="row 1, column 1"):
    seeing.see(spoilt)


@pytest.mark.parametrize(
  ("picture", "message"),
  [
    (np.zeros((64, 64), np.uint8), r"uint8 \[H, W, 3\]"),
    (np.zeros((64, 64, 3)), "got float64"),
    (np.zeros((0, 64, 3), np.uint8), "no pixels"),
    (np.zeros((64, 60, 3), np.uint8), "square"),
    (np.zeros((16, 16, 3), np.uint8), "48"),
  ],
)
def test_broken_pictures_are_named(picture, message):
  with pytest.raises(ValueError, match=message):
    seeing.see(picture)


def test_what_pictures_have_in_common():
  texts = [
    "a small red circle at the left and a blue moon at the top",
    "a large red circle and a green striped house at the top",
    "a red circle at the bottom",
  ]
  pictures = [
    rendering.render(prompts.read(f"{text} on a sky background"))
    for text in texts
  ]
  assert describing.summarise(pictures) == (
    "sky background (1), solid red circle (1)"
  )
  assert describing.summarise([]) == "nothing in common"
  assert not seeing.is_blank(pictures[0])
  assert seeing.is_blank(np.full((9, 9, 3), 7, np.uint8))


def test_concepts():
  red = concepts.parse("red thing")
  circle = concepts.parse("a red circle")
  grass = concepts.parse("grass background")
  assert [*map(str, (red, circle, grass))] == [
    "red thing", "red circle", "grass background",
  ]  # fmt: skip
  assert circle.implies(red)
  assert not red.implies(circle)
  scene = prompts.read("a red square and a blue circle on a grass background")
  assert [c.holds(scene) for c in (red, circle, grass)] == [True, False, True]
  assert len(concepts.of_words()) == 16 + 10 + 4 + 160 + 64 + 40 + 8
  assert all(concepts.parse(str(c)) == c for c in concepts.of_words(3))
  for text in ("", "red red circle", "quick fox", "mud background"):
    with pytest.raises(ValueError, match="concept|background"):
      concepts.parse(text)
  assert concepts.shared(scene.things) == concepts.Concept(texture="solid")


def test_scenes_are_checked():
  one = scenes.Thing("moon", "red")
  with pytest.raises(ValueError, match="Two things at the centre"):
    scenes.Scene((one, one))
  with pytest.raises(ValueError, match="No colour 'mauve'"):
    dataclasses.replace(one, colour="mauve")
  with pytest.raises(ValueError, match="Row 3"):
    dataclasses.replace(one, row=3)
  with pytest.raises(ValueError, match="size=16"):
    rendering.render(scenes.Scene((one,)), 16)
  with pytest.raises(ValueError, match="from 0 to 9"):
    _drawn(1, low=2, high=10)
