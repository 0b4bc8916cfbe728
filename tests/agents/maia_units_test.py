"""Units of known truth and real ones, labels, tools, judges."""

import dataclasses

import jax
import numpy as np
import pytest

from spex_jax.agents.find import functions
from spex_jax.agents.maia import (
  grading,
  network_units,
  spurious,
  unit_labels,
  units,
)
from spex_jax.agents.maia import tools as tools_lib
from spex_jax.agents.world import prompts, rendering, scenes
from spex_jax.models import convnet, pixels, resnet, vit

_AS_IT_IS = pixels.Preparation()


def _picture(text, size=64):
  return rendering.render(prompts.read(text), size)


_TEXTS = (
  "a large red circle and a blue moon at the top on a grass background",
  "a large red square and a green circle at the left on a sand background",
  "a blue square on a sky background",
)


@pytest.mark.parametrize(
  ("label", "fires"),
  [
    ("red thing", [1, 1, 0]), ("red circle", [1, 0, 0]),
    ("moon or sky background", [1, 0, 1]), ("circle and red thing", [1, 1, 0]),
    ("square but not circle", [0, 0, 1]), ("nothing", [0, 0, 0]),
  ],
)  # fmt: skip
def test_units_are_their_labels(label, fires):
  truth = unit_labels.parse(label)
  unit = units.Synthetic("u", truth)
  seen = unit.call([_picture(text) for text in _TEXTS])
  np.testing.assert_array_equal(seen.activations > 0, fires)
  assert (seen.activations[seen.activations > 0] >= 0.5).all()
  assert seen.activations.max() < 1
  np.testing.assert_array_equal(seen.maps.max((1, 2)) > 0, fires)
  assert [truth.holds(prompts.read(text)) for text in _TEXTS] == fires
  assert str(truth) == label and unit_labels.parse(f' "{label}". ') == truth


def test_levels_are_of_areas():
  scene = prompts.read("a large red square and a small red circle at the top")
  share = (2 * 1880 / 4096) ** 2
  unit = units.Synthetic("u", unit_labels.parse("red thing"))
  (level,) = unit.call([rendering.render(scene, 192)]).activations
  assert level == pytest.approx(0.5 + 0.5 * share, abs=0.02)
  both = units.Synthetic("u", unit_labels.parse("circle and square"))
  (level,) = both.call([rendering.render(scene, 192)]).activations
  share = np.pi * (1150 / 4096) ** 2
  assert level == pytest.approx(0.5 + 0.5 * share, abs=0.02)


def test_noise_is_of_the_picture():
  pictures = [_picture(text) for text in _TEXTS] * 2
  unit = units.Synthetic("u", unit_labels.parse("nothing"), noise=0.5)
  first = unit.call(pictures).activations
  np.testing.assert_array_equal(first[:3], first[3:])
  assert len({*first}) == 3
  other = units.Synthetic("v", unit_labels.parse("nothing"), noise=0.5)
  assert (other.call(pictures).activations != first).all()


def test_pictures_that_are_broken_or_strange_are_named():
  unit = units.Synthetic("u", unit_labels.parse("red thing"))
  good = _picture(_TEXTS[0])
  for odd, message in (
    (good.astype(float), "Picture 1: .*float64"),
    (good[:, :60], "Picture 1 is"),
    (np.arange(good.size, dtype=np.uint8).reshape(good.shape),
     "Picture 1: .*no background"),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=message):
      unit.call([good, odd])
  blank = np.zeros_like(good)
  assert unit.call([blank]).activations == [0]


@pytest.mark.parametrize("kind", unit_labels.KINDS)
def test_truths_are_drawn(kind):
  rng = np.random.default_rng(0)
  seen = [scenes.draw(rng) for _ in range(300)]
  found = [units.generate(1, kind, index, seen) for index in range(8)]
  assert found == [units.generate(1, kind, index, seen) for index in range(8)]
  assert len({*found}) > 4
  for label in found:
    assert label.kind == kind
    assert 0.012 <= np.mean([label.holds(scene) for scene in seen]) <= 0.6
    assert sum(c.background is not None for c in label.concepts) <= 1
  with pytest.raises(ValueError, match="No kind 'xor'"):
    units.generate(1, "xor", 0, seen)
  with pytest.raises(ValueError, match="give more"):
    units.generate(1, kind, 0, [])


def test_labels_have_signatures():
  red, circle, moon = (
    unit_labels.parse(text).concepts[0]
    for text in ("red thing", "circle", "moon")
  )
  players = [moon, circle, red]
  found = lambda values: unit_labels.of_interactions(players, values, 0.2)
  assert found({(1,): 0.7, (0,): 0.1}) == unit_labels.Label("one", (circle,))
  assert str(found({(1,): 0.7, (2,): 0.8, (1, 2): -0.7})) == (
    "circle or red thing"
  )
  assert str(found({(1, 2): 0.7})) == "circle and red thing"
  assert str(found({(2,): 0.7, (1, 2): -0.7})) == "red thing but not circle"
  for odd in (
    {}, {(1,): -0.5}, {(1,): 0.5, (2,): 0.5}, {(1,): 0.5, (1, 2): 0.5},
    {(0, 1): 0.5, (1, 2): 0.5}, {(0,): 0.5, (1, 2): -0.5},
  ):  # fmt: skip
    assert found(odd) is None
  with pytest.raises(ValueError, match="kinds have"):
    unit_labels.Label("and", (red,))


def test_judges_tell_right_from_wrong():
  truth = unit_labels.parse("moon and red circle")
  unit = units.Synthetic("u", truth)
  right = grading.verdict(unit, truth, truth, 0)
  assert right["truth_table_accuracy"] == 1 == right["predictive_score"]
  assert right["right"] and right["mean_negative"] == 0
  half = grading.verdict(unit, unit_labels.parse("moon"), truth, 0)
  assert half["truth_table_accuracy"] == 0.75 and not half["right"]
  assert 0.4 < half["predictive_score"] < 0.9
  none = grading.verdict(unit, unit_labels.parse("nothing"), truth, 0)
  assert none["predictive_score"] == 0.5
  assert none["truth_table_accuracy"] == 0.75
  # Implied concepts: there is no red circle where nothing is red.
  one = unit_labels.parse("red circle")
  assert grading.table(one, unit_labels.parse("red thing"), 0) == pytest.approx(
    2 / 3
  )
  assert grading.roc_area(np.array([1.0, 0.5]), np.array([0.5, 0.0])) == 0.875


def _tools(label="red thing", **given):
  rng = np.random.default_rng(1)
  pictures = [rendering.render(scenes.draw(rng)) for _ in range(70)]
  unit = units.Synthetic("u", unit_labels.parse(label))
  return tools_lib.Tools(unit, pictures, tools_lib.World(0), **given), pictures


def test_exemplars_are_the_strongest_of_all():
  tools, pictures = _tools()
  found = tools.exemplars(5)
  unit = units.Synthetic("u", unit_labels.parse("red thing"))
  every = unit.call(pictures).activations
  np.testing.assert_allclose(found.activations, np.sort(every)[::-1][:5])
  for number, level in zip(found.numbers, found.activations):
    assert unit.call([tools.picture(number)]).activations == level
  assert found.silent == found.noise == 0
  assert tools.asked == 0


def test_tools_are_typed_and_counted():
  tools, _ = _tools(budget=40)
  told = tools.use(
    "text2image", {"prompts": ["a large solid red circle", "a moon"]}
  )
  assert told.splitlines()[1].startswith("picture 1: 0.")
  assert "picture 2: 0" in tools.use(
    "edit", {"pictures": [0], "edits": ["make the circle blue"]}
  )
  assert "red solid circle" in tools.use("describe", {"pictures": [0]})
  assert "solid" in tools.use("summarise", {"pictures": [0, 2]})
  tools.use("display", {"pictures": [2, 0, 2]})
  assert tools.shown == [2, 0]
  assert tools.calls["text2image"] == 2 and len(tools.journal) == 5
  told = tools.use("interactions", {"picture": 0})
  assert "red solid circle" in told
  for name, given, message in (
    ("paint", {}, "No tool 'paint'"),
    ("code", {"code": "x", "count": 1}, "No tool 'code'"),
    ("edit", {"pictures": [0]}, "edit takes"),
    ("display", {"pictures": ["0"]}, "pictures: display takes"),
    ("display", {"pictures": []}, "takes"),
    ("display", {"pictures": [99]}, "No picture 99"),
    ("edit", {"pictures": [0, 1], "edits": ["remove everything"]}, "one each"),
    ("text2image", {"prompts": ["a mauve circle"]}, "'mauve'"),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=message):
      tools.use(name, given)
  with pytest.raises(functions.Overspent, match="of 40 are left"):
    tools.activations([0] * 40)


@pytest.mark.parametrize(
  ("code", "message"),
  [
    ("def f(i):\n  while True: pass", "time"),
    ("def f(i): return ''", "draws nothing"),
    ("def f(i): return 1 / 0", "draws nothing.*ZeroDivisionError"),
    ("import socket\ndef f(i): return ''", "refused"),
    ("def f(i): return 'a mauve circle'", "mauve"),
    ("oops", "error"),
  ],
)
def test_code_that_draws_nothing_says_why(code, message, box):
  tools, _ = _tools(box=box)
  with pytest.raises(ValueError, match=message):
    tools.use("code", {"code": code, "count": 2})


def test_code_draws(box):
  tools, _ = _tools(box=box)
  code = 'def f(i): return f\'a large {["red", "blue"][i]} moon\''
  told = tools.use("code", {"code": code, "count": 2}).splitlines()
  assert [line.endswith(": 0") for line in told] == [False, True]


def test_distractors_are_drawn_beside():
  source = tools_lib.World(0, distractors=2)
  texts = ["a red moon on a sky background"] * 2
  found = [
    prompts.read(text) for text in source.describe(source.generate(texts))
  ]
  assert [len(scene.things) for scene in found] == [3, 3]
  assert found[0] != found[1]


def test_pictures_of_others_have_segments():
  tools, _ = _tools()

  @dataclasses.dataclass
  class Left:
    name: str = "left"

    def call(self, pictures):
      own = np.stack(pictures)[:, :, :20].mean((1, 2, 3)) / 255
      return units.Seen(own, own[:, None, None])

  picture = np.zeros((60, 60, 3), np.uint8)
  picture[:20, :10] = 200
  tools = tools_lib.Tools(Left(), [picture], tools_lib.World(0), budget=600)
  found = tools.interactions(tools.exemplars().numbers[0], budget=512)
  assert len(found.labels()) >= 1 and found.n == 9


@pytest.mark.slow
def test_filters_of_a_resnet_and_a_module_of_ones_own():
  config = resnet.Config(
    3, embedding_size=4, hidden_sizes=(4, 8), depths=(1, 1), layer_type="basic"
  )
  net = resnet.network(config)
  params = net.init(jax.random.key(0))
  pictures = [_picture(text) for text in _TEXTS]
  site = "stages.1.blocks.0.act"
  (unit,) = network_units.of_network(net, site, [3], _AS_IT_IS, params)
  seen = unit.call(pictures)
  values = np.stack([_AS_IT_IS(picture) for picture in pictures])
  own = net.apply(params, None, (site,), pixel_values=values).activations[site]
  np.testing.assert_allclose(seen.maps, own[:, 3], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(seen.activations, seen.maps.max((1, 2)))
  small = convnet.small(2, 3, width=4, norm="none")
  mine = convnet.network(small, 64)
  state = mine.init(jax.random.key(1))
  logits = network_units.of_network(mine, "logits", [0, 1], params=state)
  both = np.stack([unit.call(pictures).activations for unit in logits], 1)
  want = mine.apply(state, None, (), pixel_values=values).logits
  np.testing.assert_allclose(both, want, rtol=1e-4, atol=1e-5)
  for site, number, message in (
    ("attic", 0, "No site 'attic'"), ("logits", 2, "it has 2"),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=message):
      network_units.of_network(mine, site, [number], params=state)
  with pytest.raises(ValueError, match="no parameters"):
    network_units.of_network(mine, "logits", [0])


@pytest.mark.slow
def test_neurons_and_heads_of_a_vit_have_places():
  config = vit.Config(
    width=8, num_blocks=1, num_heads=2, num_kv_heads=2, head_width=4,
    num_neurons=12, image_size=64, patch_size=16, num_channels=3, num_labels=2,
  )  # fmt: skip
  net = vit.network(config)
  params = net.init(jax.random.key(0))
  pictures = [_picture(text) for text in _TEXTS]
  values = np.stack([_AS_IT_IS(picture) for picture in pictures])
  for site in ("blocks.0.mlp.neurons", "blocks.0.attn.heads"):
    (unit,) = network_units.of_network(net, site, [1], params=params)
    seen = unit.call(pictures)
    own = net.apply(params, None, (site,), pixel_values=values)
    own = np.asarray(own.activations[site])[:, 1:, 1]
    own = own if own.ndim == 2 else np.linalg.norm(own, axis=-1)
    np.testing.assert_allclose(
      seen.maps, own.reshape(3, 4, 4), rtol=1e-4, atol=1e-5
    )


def test_effects_are_those_of_a_table():
  rng = np.random.default_rng(0)
  thing, ground = rng.normal(size=(4, 1)), rng.normal(size=(1, 4))
  cells = np.stack([thing + 0 * ground, 0 * thing + ground, thing * ground], -1)
  found = spurious.effects(np.tile(cells.reshape(16, 3), (2, 1)))
  np.testing.assert_allclose(found.share[:2], [1, 0], atol=1e-12)
  assert found.both[2] > 0 and found.both[0] < 1e-20
  np.testing.assert_allclose(found.thing[0], thing.var())
  assert [*spurious.kept(found, 1)] == [0]
  with pytest.raises(ValueError, match="crossed"):
    spurious.effects(np.zeros((15, 2)))


def test_spurious_pictures_are_biased_and_shifted():
  train = spurious.drawn(0, "train", 300, 0.9)
  assert (train.y == train.grounds).mean() == pytest.approx(0.9, abs=0.06)
  test = spurious.drawn(0, "test", 50, 0.0)
  assert (test.y != test.grounds).all()
  assert (
    test.x.shape == (50, 3, 32, 32) and 0 <= test.x.min() < test.x.max() <= 1
  )
  assert len(spurious.crossed(0, 2)) == 32
  with pytest.raises(ValueError, match="share=2"):
    spurious.drawn(0, "train", 3, 2)
