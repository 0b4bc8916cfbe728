"""Failure modes of class logits, against a classifier that fails by plan."""

import numpy as np
import pytest

from spex_jax.agents.maia import missed_classes
from spex_jax.agents.world import seeing

_CLASSES = ("circle", "moon", "star")
_WORDS = {
  "background": ("plain", "grass", "sky"), "colour": ("red", "blue"),
  "texture": ("solid", "striped"), "position": ("top", "centre"),
}  # fmt: skip
_SMALL = dict(seed=1, attributes=_WORDS, count=60, failures=4, partners=3,
              checks=12, size=48)  # fmt: skip


def _classifier(fails):
  """Sees all, but for shapes of which `fails` says what they are taken for."""

  def logits(pictures):
    found = np.zeros((len(pictures), len(_CLASSES)))
    for row, picture in zip(found, pictures):
      scene = seeing.see(picture)
      (thing,) = scene.things
      row[_CLASSES.index(thing.shape)] = 2.0
      other, by = fails(thing, scene.background)
      row[_CLASSES.index(other)] += by
    return found

  return logits


def test_a_planted_combination_is_found():
  planted = lambda thing, ground: (
    "moon",
    5.0 * (thing.texture == "striped" and ground == "grass"),
  )
  report = missed_classes.study(
    _classifier(planted), "circle", _CLASSES, **_SMALL
  )
  (mode,) = report.modes
  assert mode.values == {"background": "grass", "texture": "striped"}
  assert mode.missed == 1 and mode.otherwise == 0 and mode.taken_for == "moon"
  # The margin falls by the two together: an AND, over what partners have.
  (who, value), *_ = mode.strongest()
  assert who == "background x texture"
  assert value < -2
  assert 0 < report.missed < 0.5
  assert report.by_word["texture"]["solid"] == 0 < report.by_word["background"][
    "grass"
  ]  # fmt: skip
  assert all("striped" in text and "grass" in text for text in report.exemplars)
  assert (
    "background grass, texture striped: missed 100%, otherwise 0%; "
    in str(report)
  )


def test_a_single_word_all_and_nothing():
  small = lambda thing, ground: ("star", 3.0 * (thing.size == "small"))
  report = missed_classes.study(_classifier(small), "moon", _CLASSES, **_SMALL)
  assert [mode.values for mode in report.modes] == [{"size": "small"}]
  right = missed_classes.study(
    _classifier(lambda *_: ("star", 0.0)), "circle", _CLASSES, **_SMALL
  )
  assert right.missed == 0 and not right.modes and not right.exemplars
  wrong = missed_classes.study(
    _classifier(lambda *_: ("star", 3.0)), "circle", _CLASSES, **_SMALL
  )
  assert wrong.missed == 1 and not wrong.modes and wrong.exemplars


def test_what_cannot_be_studied_is_named():
  good = _classifier(lambda *_: ("star", 0.0))
  for logits, shape, words, message in (
    (good, "ring", _WORDS, "shape='ring'"),
    (good, "moon", {"weather": ("dry",)}, "No attribute 'weather'"),
    (lambda x: np.zeros((len(x), 2)), "moon", _WORDS, r"finite, \[60, 3\]"),
    (lambda x: np.full((len(x), 3), np.nan), "moon", _WORDS, "finite"),
  ):
    with pytest.raises(ValueError, match=message):
      missed_classes.study(
        logits, shape, _CLASSES, **(_SMALL | {"attributes": words})
      )
