"""The removal test on functions of which the answer is known."""

import dataclasses

import jax
import numpy as np
import pytest

import spex_jax as spex
from experiments import spex_removal as removal
from spex_jax.ablate import gradients
from tests.jobs import small


def _question(number):
  """Redundant players 0 and 1: only both together matter; 2 matters some."""
  del number

  def f(masks):
    return 10.0 - 8.0 * ~(masks[:, 0] | masks[:, 1]) - 1.0 * ~masks[:, 2]

  def explain(method, budget):
    return spex.explain(
      f, 8, budget=budget, method=method, key=jax.random.key(0)
    )

  return removal.Question("it", 8, f, explain)


@pytest.mark.slow
def test_sets_are_found_by_whom_knows_sets():
  config = removal.Config(2, 256, (1, 2), ("auto", "occlusion"))
  measured = list(removal.run(config, _question))
  assert len(measured) == 2 * (1 + 2) * 2
  found = removal.curves(measured)
  # Out of 10: the pair takes 8; one by one, only player 2 takes anything.
  assert found["auto"][2] == pytest.approx((0.8, 0.0))
  assert found["auto"][1] == pytest.approx((0.1, 0.0))
  assert found["occlusion"][1] == pytest.approx((0.1, 0.0))
  assert found["occlusion"][2] == pytest.approx((0.1, 0.0))
  assert 0 <= found["random"][1][0] < 0.1
  text = removal.table(measured)
  assert "| auto | 1.00 ± 0.00 |" in text and "**0.80 ± 0.00**" in text


@pytest.mark.slow
def test_a_text_has_gradients_whatever_its_configuration_asks(tmp_path):
  model = str(small.bert(tmp_path / "model"))
  changes = {"model": model, "text": "fun film", "batch_size": 4}
  asked = removal.of_subject(
    "sentiment:quick", "seed", changes | {"microbatch": 4}, 1, tmp_path
  )
  assert asked.methods == gradients.METHODS and asked.n == 2
  assert asked.explain("exact", 4).method == "exact"


@pytest.mark.slow
def test_a_subject_with_gradients_and_its_figure(tmp_path):
  config = dataclasses.replace(
    removal.CONFIGS["quick"], num_inputs=1, methods=("occlusion",)
  )
  ask = lambda number: removal.of_subject(
    "digits:quick", "image", {"patch": 2}, number, tmp_path
  )
  measured = list(removal.run(config, ask))
  methods = {row["method"] for row in measured}
  assert methods == {
    "random", "occlusion", "gradient_x_input", "integrated_gradients",
  }  # fmt: skip
  for row in measured:
    assert np.isfinite(row["change"]) and row["n"] == 16
  removal.draw(measured, tmp_path / "removal.png")
  assert (tmp_path / "removal.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_game():
  question = removal.of_game("planted100", 3)
  found = question.explain("occlusion", 150)
  assert found.fourier.n == question.n == 100


def test_settings():
  assert removal._changes(["a.b=3", "c=mlp", "d=(1, 2)"]) == {
    "a.b": 3, "c": "mlp", "d": (1, 2),
  }  # fmt: skip
  with pytest.raises(ValueError, match="--set=x: write KEY=VALUE"):
    removal._changes(["x"])
  with pytest.raises(ValueError, match="'bogus'"):
    removal.of_subject("digits:quick", "bogus", {}, 0, "nowhere")
