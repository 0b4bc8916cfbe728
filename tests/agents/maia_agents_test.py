"""Agents: by rule, from exemplars alone, and language models."""

import base64
import json

import numpy as np
import pytest

from spex_jax.ablate import closed, services
from spex_jax.agents import llm, loopback, sandbox
from spex_jax.agents.maia import (
  exemplars,
  scripted,
  talking,
  unit_labels,
  units,
)
from spex_jax.agents.maia import tools as tools_lib
from spex_jax.agents.world import outside, rendering, scenes

_TRUTHS = (
  "striped circle",
  "night background",
  "grass background or red thing",
  "circle or striped thing",
  "circle and red thing",
  "red thing and snow background",
  "red thing but not circle",
  "circle but not plain background",
)


@pytest.fixture(scope="module")
def pictures():
  rng = np.random.default_rng(5)
  return [rendering.render(scenes.draw(rng)) for _ in range(300)]


def _tools(pictures, label, noise=0.0, distractors=0, **given):
  unit = units.Synthetic("u", unit_labels.parse(label), noise)
  source = tools_lib.World(0, distractors)
  return tools_lib.Tools(unit, pictures, source, **given)


@pytest.mark.parametrize("truth", _TRUTHS)
def test_rules_find_the_truth(pictures, truth):
  tools = _tools(pictures, truth)
  found = scripted.run(tools)
  assert str(found.label) == truth
  assert found.description == f"It fires for: {truth}."
  assert tools.asked < 600 and found.interactions is not None
  # The form was read off the interactions.
  assert unit_labels.of_interactions(
    [unit_labels.parse(x).concepts[0] for x in found.interactions.labels()],
    dict(found.interactions), 0.2,
  ) == found.label  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("truth", [_TRUTHS[2], _TRUTHS[6]])
def test_rules_bear_noise_and_distractors(pictures, truth):
  found = scripted.run(_tools(pictures, truth, noise=0.1, distractors=1))
  assert str(found.label) == truth


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_unit_that_never_fires_is_said_to_be_one(pictures, noise):
  for run in (scripted.run, exemplars.run):
    if noise and run is exemplars.run:
      continue  # It knows no more than that noise is highest somewhere.
    found = run(_tools(pictures, "nothing", noise))
    assert str(found.label) == "nothing" and "fires" in found.description


def test_rules_end_where_the_budget_does(pictures):
  from spex_jax.agents.find import functions

  with pytest.raises(functions.Overspent):
    scripted.run(_tools(pictures, _TRUTHS[4], budget=30))
  with pytest.raises(ValueError, match="no pictures"):
    scripted.run(_tools([], _TRUTHS[4]))


@pytest.mark.parametrize(
  ("truth", "is_right"),
  [("striped circle", True), ("night background", True),
   ("circle and red thing", False), ("red thing but not circle", False)],
)  # fmt: skip
def test_exemplars_alone_tell_single_concepts(pictures, truth, is_right):
  tools = _tools(pictures, truth)
  found = exemplars.run(tools)
  assert (str(found.label) == truth) == is_right
  assert tools.asked == 0 and tools.shown


_FINAL = "[DESCRIPTION] It likes red.\n[LABEL] red thing"


def _call(tool, **arguments):
  return "CALL: " + json.dumps({"tool": tool, "arguments": arguments})


def test_a_model_experiments_and_labels(pictures):
  replies = [
    "I look first.\n" + _call("exemplars"),
    _call("text2image", prompts=["a large solid red moon"]) + "\n"
    + _call("describe", pictures=[15]) + "\n" + _call("display", pictures=[15]),
    "```python\ndef f(i): return 'a blue moon'\n```",
    _FINAL,
  ]  # fmt: skip
  chat = llm.Scripted(replies)
  with sandbox.Sandbox(seconds=2) as box:
    tools = _tools(pictures, "red thing", box=box)
    found = talking.agent(chat, language="LANGUAGE", sees=True)(tools)
  assert str(found.label) == "red thing" and not found.error
  assert found.description == "It likes red."
  assert "LANGUAGE" in chat.seen[0][0]["content"]
  parts = chat.seen[2][-1]["content"]
  assert "red solid moon" in parts[0]["text"]
  (picture,) = parts[1:]
  data = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
  np.testing.assert_array_equal(outside.decoded(data), tools.picture(15))
  assert chat.seen[3][-1]["content"].count("picture ") == 8
  assert [own["tool"] for own in tools.journal] == [
    "exemplars", "text2image", "describe", "display", "code",
  ]  # fmt: skip


@pytest.mark.parametrize(
  ("said", "told"),
  [
    ("nothing", "There is no line CALL"),
    ("CALL: {no}", "not done: "),
    (_call("paint"), "No tool 'paint'"),
    (_call("text2image", prompts=["a mauve moon"]), "'mauve'.*It can|'mauve'"),
    (_call("interactions", picture=3), "No picture 3"),
    (_call("activations", pictures=[0] * 33), "takes"),
    ("\n".join([_call("display", pictures=[9])] * 10), "2 calls are left out"),
    ("```python\nwhile True: pass\n```", "ended by time"),
  ],
)
def test_a_model_is_told_what_was_wrong(pictures, said, told):
  chat = llm.Scripted([said, _FINAL])
  with sandbox.Sandbox(seconds=0.5) as box:
    talking.agent(chat)(_tools(pictures, "red thing", box=box))
  text = chat.seen[1][-1]["content"]
  assert any(part in text for part in told.split("|")), text


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
  "failure",
  [services.Overloaded("busy"), services.Refused("no"), llm.Spent("over")],
)
def test_an_endpoint_may_fail_in_any_round(pictures, place, failure):
  replies = [_call("exemplars"), _call("display", pictures=[0])][:place]
  chat = llm.Scripted([*replies, failure, _FINAL])
  found = talking.agent(chat)(_tools(pictures, "red thing"))
  assert found.error == f"{type(failure).__name__}: {failure}"
  assert len(found.transcript) == 2 + 2 * place


def test_talks_end(pictures):
  chat = llm.Scripted(["hm"] * 9)
  found = talking.agent(chat)(_tools(pictures, "red thing"))
  assert "the same 3 times" in found.error
  chat = llm.Scripted([f"hm {i}" for i in range(9)])
  found = talking.agent(chat, rounds=3)(_tools(pictures, "red thing"))
  assert "No label within 5" in found.error
  assert "Come to an end" in chat.seen[-1][-1]["content"]
  chat = llm.Scripted(["[LABEL] something nice"])
  found = talking.agent(chat)(_tools(pictures, "red thing"))
  assert found.error.startswith("The label cannot be read: 'something nice'")
  meter = llm.Meter(llm.Scripted([_call("exemplars")] * 9), llm.Limits(1))
  found = talking.agent(meter)(_tools(pictures, "red thing"))
  assert "budget of rounds" in found.error


class _Draws:
  """An endpoint that draws by the world, or answers what it is told to."""

  def __init__(self, answer=None):
    self.answer, self.seen = answer, []
    self.world = tools_lib.World(0)
    self.server = loopback.Server({
      "/v1/images/generations": self.images, "/v1/images/edits": self.edits,
      "/v1/chat/completions": self.chat,
    })  # fmt: skip

  def _answer(self, pictures):
    if self.answer is not None:
      return self.answer
    data = base64.b64encode(outside.encoded(pictures[0])).decode()
    return {"data": [{"b64_json": data}]}

  def images(self, body):
    self.seen.append(body)
    return self._answer(self.world.generate([body["prompt"]]))

  def edits(self, body):
    self.seen.append(body)
    data = base64.b64decode(body["image"].partition(",")[2])
    return self._answer(
      self.world.edit([outside.decoded(data)], [body["prompt"]])
    )

  def chat(self, body):
    self.seen.append(body)
    (message,) = body["messages"]
    pictures = [
      outside.decoded(
        base64.b64decode(part["image_url"]["url"].partition(",")[2])
      )
      for part in message["content"][1:]
    ]
    said = "; ".join(self.world.describe(pictures))
    return {"choices": [{"message": {"content": said}}]}

  def source(self):
    service = services.Service(f"{self.server.url}/v1", timeout=5)
    sees = llm.Endpoint(service, "sees")
    return outside.Source(
      service, "draws", sees, size=256,
      retry=closed.Retry(on=(services.Overloaded,), attempts=1),
    )  # fmt: skip


def test_generators_and_describers_plug_in():
  own = _Draws()
  with own.server:
    source = own.source()
    made = source.generate(["a red moon on a sky background"])
    changed = source.edit(made, ["make the moon blue"])
    (text,) = source.describe(changed)
    both = source.summarise([*made, *changed])
  assert text == (
    "a " + text.split()[1] + " blue " + text.partition("blue ")[2]
  ) and "moon" in text  # fmt: skip
  assert "red" in both and "blue" in both
  assert own.seen[0] == {
    "prompt": "a red moon on a sky background", "model": "draws", "n": 1,
    "size": "256x256", "response_format": "b64_json",
  }  # fmt: skip


@pytest.mark.parametrize(
  ("answer", "message"),
  [
    ({"data": []}, "has no picture: IndexError"),
    ({"data": [{"b64_json": "!"}]}, "has no picture"),
    ({"data": [{"b64_json": "aGVsbG8="}]}, "no picture: cannot identify"),
    ([], "has no picture: TypeError"),
  ],
)
def test_an_answer_without_a_picture_is_refused(answer, message):
  own = _Draws(answer)
  with own.server, pytest.raises(services.Refused, match=message):
    own.source().generate(["a moon"])
