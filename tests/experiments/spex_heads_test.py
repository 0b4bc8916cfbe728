"""Heads that a task needs: the quick size, and the questions themselves."""

import dataclasses

import numpy as np
import pytest

from experiments import spex_heads, tasks
from spex_jax.ablate import likelihoods
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.masks import sampling
from spex_jax.models import hub
from tests.jobs import small

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def net(tmp_path_factory):
  folder = tmp_path_factory.mktemp("gpt2")
  return hub.load(small.gpt2(folder, n_positions=160))


@pytest.mark.parametrize("name", tasks.TASKS)
def test_questions_are_distinct_and_have_one_right_answer(name):
  questions = tasks.TASKS[name]()
  assert len(questions) >= 40
  # A few of them name nobody.
  assert len({question.prompt for question in questions}) >= 34
  assert len({len(question.answers) for question in questions}) == 1
  for question in questions:
    assert len(set(question.answers)) == len(question.answers)
    assert all(answer.startswith(" ") for answer in question.answers)
    assert not question.prompt.endswith(" ")


def test_rows_hold_every_answer_behind_its_question(net):
  questions = [
    tasks.Question("the cat", (" sat on", " mat")),
    tasks.Question("the cat sat on the", (" mat", " cat sat")),
  ]
  found = tasks.rows(questions, net.tokenizer)
  assert found.num_choices == 2 and len(found.num_tokens) == 4
  texts = [
    net.tokenizer.decode(ids[seen > 0])
    for ids, seen in zip(*found.inputs.values())
  ]
  assert texts == [
    "the cat sat on", "the cat mat", "the cat sat on the mat",
    "the cat sat on the cat sat",
  ]  # fmt: skip
  # What the readout gives is the difference of plain log-probabilities.
  out = net.apply(net.params, **found.inputs)
  margin = likelihoods.choice(found.num_tokens, 2)(out, found.inputs)
  logs = np.asarray(out.logits, np.float64)
  logs -= np.log(np.exp(logs).sum(axis=-1, keepdims=True))
  scores = []
  for row, count in enumerate(found.num_tokens):
    ids = found.inputs["input_ids"][row]
    end = int(found.inputs["attention_mask"][row].sum())
    scores.append(
      sum(logs[row, at - 1, ids[at]] for at in range(end - count, end))
    )
  # Sums of a few float32 log-probabilities below 10.
  np.testing.assert_allclose(
    margin, [scores[0] - scores[1], scores[2] - scores[3]], rtol=0, atol=1e-4
  )
  with pytest.raises(ValueError, match="one number of answers"):
    tasks.rows([questions[0], tasks.Question("a", (" b",))], net.tokenizer)


def test_pruning_is_reported_for_every_method(net):
  config = dataclasses.replace(
    spex_heads.CONFIGS["quick"],
    methods=("proxyspex", "lasso", "coar", "random", "greedy"),
    budget=40,
    drawn=40,
    shares=(0.5,),
    most=4,
  )
  problem = spex_heads.of_task(net, "pronoun", config, True, "margin")
  found = list(spex_heads.run(problem, config))
  whole = found[0]
  assert whole["row"] == "unpruned" and whole["judged_on"] in (0.0, 0.5, 1.0)
  pruned = [row for row in found if row["row"] == "pruned"]
  assert [row["method"] for row in pruned] == list(config.methods)
  by_method = {row["method"]: row for row in pruned}
  # Three of six heads: 20 subsets, of which 40 draws miss few.
  assert 15 <= by_method["random"]["asked"] <= 20
  assert by_method["greedy"]["asked"] == 6 + 5 + 4
  everything = sampling.enumerate_masks(6)
  halves = everything[everything.sum(axis=1) == 3]
  best = np.asarray(problem.choose(halves)).max()
  assert all(row["chosen_on"] <= best + 1e-4 for row in pruned)
  text = spex_heads.table(found)
  assert f"pronoun, unpruned {whole['judged_on']:.3f}" in text


def test_prompts_are_judged_by_what_the_model_says(net, tmp_path):
  file = tmp_path / "prompts.txt"
  file.write_text("the cat\nthe cat sat on\n\nthe\n")
  problem = spex_heads.of_prompts(net, file, False)
  expected = []
  for line in ("the cat", "the"):
    ids = net.tokenizer.encode(line).ids
    logits = np.asarray(
      net.apply(net.params, input_ids=ids[None]).logits, np.float64
    )[0, -1]
    expected.append(logits.max() - np.log(np.exp(logits).sum()))
  whole = np.ones((1, problem.heads.n), bool)
  np.testing.assert_allclose(
    problem.choose(whole), [np.mean(expected)], rtol=0, atol=1e-5
  )
  file.write_text("one\n")
  with pytest.raises(ValueError, match="two beginnings or more"):
    spex_heads.of_prompts(net, file, False)


def test_pairs_are_judged_by_right_answers_above_wrong_ones(net):
  pairs = pairs_lib.Pairs(
    clean=[[1, 2, 3, 4], [5, 6, 7, 0]], corrupted=[[1, 2, 3, 5], [5, 9, 7, 0]],
    lengths=[4, 3], right=[[8, 9], [3, -1]], wrong=[[2], [1]],
  )  # fmt: skip
  margins = []
  for ids, count, right, wrong in (
    ([1, 2, 3, 4], 4, [8, 9], [2]), ([5, 6, 7], 3, [3], [1]),
  ):  # fmt: skip
    logits = net.apply(net.params, input_ids=np.array([ids])).logits
    last = np.asarray(logits, np.float64)[0, count - 1]
    margins.append(last[right].mean() - last[wrong].mean())
  for value, expected in (
    ("margin", margins), ("accuracy", np.array(margins) > 0),
  ):  # fmt: skip
    asked = tasks.of_pairs(pairs, value)
    out = net.apply(net.params, **asked.inputs)
    np.testing.assert_allclose(
      asked.read(out, asked.inputs), expected, rtol=0, atol=1e-5
    )


@pytest.mark.slow
def test_the_figure_has_a_panel_for_each_task(net, tmp_path):
  config = spex_heads.CONFIGS["quick"]
  found = []
  for name in ("recall", "word"):
    problem = spex_heads.of_task(net, name, config, False, "accuracy")
    found += list(spex_heads.run(problem, config))
  path = tmp_path / "heads.png"
  spex_heads.draw(found, str(path))
  assert path.read_bytes().startswith(b"\x89PNG")
