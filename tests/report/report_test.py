"""`spex report`: what folders of commands hold, as runs of a page."""

import dataclasses
import html
import html.parser
import itertools
import json
import pathlib
import re
import shlex

import numpy as np
import pytest

import spex_jax as spex
from spex_jax import base, cli
from spex_jax.circuits import identities, judged, measured
from spex_jax.context import inseq, token_scores
from spex_jax.jobs import circuits, report, report_files
from spex_jax.report import page
from tests import command
from tests.report import page_test


def test_report_of_every_kind_of_folder(tmp_path, capsys):
  (tmp_path / "mine.py").write_text("def value(m):\n  return m @ [1.0, 2, 3]\n")
  explanation, coar, data, circuit, patch, edit, other = (
    tmp_path / name for name in "abcdefg"
  )
  for folder in (coar, data, circuit, patch, edit, other):
    folder.mkdir()
  # By the command, which records what it was asked.
  code = cli.main(
    ["explain", "--config=callable", "--config.n=3", "--config.function="
     f"{__name__}:value", f"--workdir={explanation}"]
  )  # fmt: skip
  assert code == 0
  base.write_json(
    coar / "attribution.json",
    {"method": "COAR", "keep": 0.9,
     "names": ["blocks.0.attn 0", "blocks.1.attn 0"],
     "units": "nat", "scores": [1.0, -2.0], "std": None, "baseline": 0.5,
     "correlation": 0.2, "notes": []},
  )  # fmt: skip
  item = {"players": [0, 1], "value": -0.5, "std": 0.1}
  base.write_json(
    data / "attribution.json",
    {"method": "least squares", "names": ["x", "y"], "units": "nat", "lds": 0.9,
     "lds_interval": [0.8, 0.95], "ceiling_interval": [0.9, 1.0],
     "r2": [0.8], "ceiling": 0.96,
     "points": [{"point": 0, "title": "row 370: 8", "helpful": [],
                 "harmful": [item], "synergy": [],
                 "redundancy": []}],
     "checks": [{"players": [0, 1], "target": 0, "estimate": -0.5,
                 "measured": -0.4, "low": -0.6, "high": -0.2,
                 "verdict": "survives"}]},
  )  # fmt: skip
  base.write_json(circuit / "curve.json", page_test.curve())
  base.write_json(
    circuit / "circuit.json",
    {"edges": [["embed", "final_norm.in", 0]], "scores": [-1.0], "cmd": 0.1},
  )
  (patch / "resid_pre.csv").write_text("layer,moved\n0,0.5\n1,0.25\n")
  site = {"shape": [1, 4], "units": [1, 2]}
  base.write_json(edit / "edit.json", {"sites": {"blocks.0.attn": site}})
  (other / "cues.json").write_text(
    '{"rows": [{"cue": "x", "value": 1.5}], "a": {"b": {"c": [1, 2]}}}'
  )
  output = tmp_path / "report.html"
  folders = (explanation, coar, data, circuit, patch, edit, other)
  code, out, _ = command.run(
    capsys, "report", *map(str, folders), f"--output={output}"
  )
  assert code == 0 and "kB" in out
  text = output.read_text()
  told = page_test.data(text)
  kinds = [[view["kind"] for view in run["views"]] for run in told]
  assert kinds[0][0] == "sets" and kinds[1] == ["sets"]
  assert told[1]["views"][0]["layers"] == ["blocks.0.attn", "blocks.1.attn"]
  assert "<dt>R² of scores</dt>" in text  # The sets have an R² of their own.
  assert kinds[2] == ["table", "table"] and kinds[3][0] == "curve"
  assert [run[0] for run in kinds[4:]] == ["table"] * 3
  assert told[4]["views"][0]["rows"] == [[0, 0.5], [1, 0.25]]
  assert [view["rows"] for view in told[6]["views"]] == [
    [["a.b.c", "1, 2"]], [["x", 1.5]],
  ]  # fmt: skip
  for view in told[2]["views"]:
    assert "row 370: 8" in view["rows"][0] and view["signed"]
  assert "0.900, 95 % 0.800 to 0.950, by least squares" in text
  assert "0.960, 95 % 0.900 to 1.000: retrained again" in text
  question = html.unescape(re.search("<h1>(.*?)</h1>", text)[1])
  assert question.startswith("Which of the 3 players of")
  assert "--config=callable" in text
  line = command.refused(capsys, "report", str(tmp_path / "none"))
  assert "There is no folder" in line
  (tmp_path / "empty").mkdir()
  assert "holds nothing" in command.refused(
    capsys, "report", str(tmp_path / "empty")
  )


def value(masks):
  return masks @ np.array([1.0, 2, 3])


@pytest.mark.parametrize(
  ("name", "form"), [("attribution.json", "own"), ("a.json", "inseq")]
)
def test_scores_of_tokens_by_the_names_that_commands_give(tmp_path, name, form):
  found = token_scores.Attribution(
    "saliency", "probability", ("a", "\u202eb"), (1, 2), ("<i>",), (3,),
    ("<i>",), (3,), (0,), np.array([[0.25, -2.0]]), None,
    {"entropy": np.array([1.5])}, False,
  )  # fmt: skip
  found.save(tmp_path / name, form)
  (run,) = report.read(tmp_path)
  shown, table = run.views
  assert shown["kind"] == "context" and shown["context"] == ["a", "\\u202eb"]
  assert shown["cues"][0]["scores"] == [[1, -2.0], [0, 0.25]]
  assert table["columns"] == ["token", "entropy", "strongest tokens"]
  assert table["rows"][0][0] == "<i>" and "b (-2)" in table["rows"][0][2]
  assert [name for name, _, _ in run.trust] == ["scores"]
  page.html([run])
  # Inseq's own file is offered, whichever was written.
  assert inseq.is_output(json.loads(dict(run.files)[OF_INSEQ[name]]))


OF_INSEQ = {"attribution.json": "inseq.json", "a.json": "a.json"}


def test_what_a_model_cannot_do_warns(tmp_path):
  found = report_files.READERS["curve.json"](
    _written(tmp_path / "curve.json", page_test.curve())
  )
  against = {name: bad for name, _, bad in found.trust}
  assert against["accuracy"] and against["effect"]
  told = {name: text for name, text, _ in found.trust}
  assert "of 1 edges keep 0.000 at most" in told["random circuits"]
  assert found.views[0]["edges_chosen"] == 1
  # Of neurons there is no curve; of files, what the command said.
  (tmp_path / "curve.json").unlink()
  _written(tmp_path / "circuit.json", {"neurons": [], "faithfulness": 0.25})
  lines = circuits.measured_lines(
    circuits.Asked(),
    measured.Measured(np.zeros(2), np.ones(2), *2 * [np.zeros(2, bool)]),
  )
  body = {"command": "", "version": "", "date": "", "facts": [*lines.items()]}
  base.write_json(tmp_path / "run.json", body)
  (run,) = report.read(tmp_path)
  assert [(name, bad) for name, _, bad in run.trust] == [
    ("accuracy", True), ("effect", True), ("faithfulness", True),
  ]  # fmt: skip


def _written(path, body):
  base.write_json(path, body)
  return path


def test_an_answer_and_its_context(tmp_path):
  body = page_test.on_context()
  (tmp_path / "mine.json").write_text(json.dumps(body))
  (run,) = report.read(tmp_path)
  told = {name: (text, against) for name, text, against in run.trust}
  assert told["total"] == (
    "the sources sum to +1, v(all) - v(none) is +1 (log_probability)", False
  )  # fmt: skip
  assert told["tokens"][0].startswith("of 2 of 2")
  kinds = [view["kind"] for view in run.views]
  assert kinds == ["context", "table", "citations", "table"]
  assert run.views[0]["response"] == [" x", "\\u202ey"]
  assert run.views[1]["rows"] == [
    ["\\u202ey", 2.0, page_test.HOSTILE[1], 0.5, "b"]
  ]
  parts = run.views[2]["parts"]
  assert [part["name"] for part in parts] == ["the whole answer", "x",
                                              "\\u202ey"]  # fmt: skip
  assert [part["sum"] for part in parts] == [1.0, 0.5, 0.5]
  page.html([run])
  (tmp_path / "inseq").write_text(dict(run.files)["inseq.json"])
  assert inseq.read(tmp_path / "inseq")["cci_scores"][0]["cti_token"] == "y"
  (tmp_path / "inseq").unlink()

  # Sums that do not meet the ends, or a field that is missing, are told.
  body["citations"]["total"] = 2.0
  (tmp_path / "mine.json").write_text(json.dumps(body["citations"]))
  assert {n: b for n, _, b in report.read(tmp_path)[0].trust}["total"]
  del body["citations"]["values"]
  (tmp_path / "mine.json").write_text(json.dumps(body["citations"]))
  (run,) = report.read(tmp_path)
  assert not run.trust and run.views[0]["title"] == "mine.json"


def test_index_order_and_larger_sets_are_those_of_the_run(tmp_path):
  found = dataclasses.replace(
    page_test.explained(),
    fourier=spex.SparseFourier.from_terms(4, TRIPLE),
    names=None,
  )
  (view,) = page_test.data(found.page())[0]["views"]
  assert 3 in [len(who) for who, *_ in view["targets"][0]["sets"]]
  found.save(tmp_path / "explanation.json")
  write(tmp_path / "run.json", ["explanation.json"], index="STII", order=3)
  (run,) = report.read(tmp_path)
  told = {tuple(s): v for s, v, *_ in run.views[0]["targets"][0]["sets"]}
  assert told == {(0, 1, 2): 2.0, (3,): -1.0}
  assert run.views[0]["index"] == "STII"
  write(tmp_path / "run.json", ["explanation.json"], index="STII", order=2)
  assert "of up to 2: the" in report.read(tmp_path)[0].views[0]["title"]


# 2 x0 x1 x2 - x3.
TRIPLE = [
  *(((*who,), 0.25 * (-1) ** len(who))
    for k in (1, 2, 3) for who in itertools.combinations(range(3), k)),
  ((), -0.25), ((3,), 0.5),
]  # fmt: skip


def write(path, wrote, **more):
  """A record, as `jobs.record` keeps it."""
  facts = [["asked", f"Why {path.name}?"], ["model", "m\u202e\ud800"],
           ["again", "spex x"], ["wrote", ", ".join(wrote)]]  # fmt: skip
  body = {"command": "spex explain", "version": "1", "date": "today",
          "facts": facts}  # fmt: skip
  base.write_json(path, body | more)


def test_each_run_of_a_shared_folder_has_its_own_files(tmp_path, monkeypatch):
  body = page_test.on_context()
  (tmp_path / "c.json").write_text(json.dumps(body["citations"]))
  (tmp_path / "e.json").write_text('{"value": 1.5}')
  write(tmp_path / "c.json.run.json", ["out/c.json"])
  write(tmp_path / "e.json.run.json", ["out/e.json"], seed=3)
  strays = ('{"sources": [], "spans": []}', '{"sites": {"x": {"shape": 3}}}')
  for number, text in enumerate(strays):
    (tmp_path / f"stray{number}.json").write_text(text)
  cited, other = report.read(tmp_path)
  assert [view["kind"] for view in cited.views] == [
    "citations", "table", "table",
  ]  # fmt: skip
  assert cited.question == "Why c.json.run.json?" and not other.trust
  assert "seed" not in cited.facts and other.facts["seed"] == "3"
  assert other.facts["left out"].startswith("stray0.json, stray1.json:")
  # Answers are no part of what was asked, and no fact can turn a line around.
  assert {*cited.facts} == {"command", "model", "version"}
  assert cited.facts["model"] == "m\\u202e\\ud800"
  page.html([cited, other])
  for path in tmp_path.glob("*.run.json"):
    path.unlink()
  monkeypatch.chdir(tmp_path)
  (run,) = report.read(pathlib.Path("."))
  assert run.question == f"What is in {tmp_path.name}?"


def test_what_is_no_text_is_offered_or_named(tmp_path):
  names = ["scores.npz", "circuit.svg", "rows.jsonl", "other.bin", "x.csv"]
  for name in names:
    (tmp_path / name).write_text("x\n1\n")
  write(tmp_path / "run.json", names)
  (run,) = report.read(tmp_path)
  assert dict(run.files) == {
    "scores.npz": b"x\n1\n", **dict.fromkeys(
      ("circuit.svg", "rows.jsonl", "x.csv"), "x\n1\n"
    ),
  }  # fmt: skip
  assert run.facts["left out"] == "other.bin (0 kB)"


def test_what_circuits_of_files_keep_is_the_trust(tmp_path):
  told = judged.Judged(
    ("a", "b"), np.array([[1.0, 2.0], [2.0, 4.0]]), np.array([2.0, 4.0]),
    *2 * [np.zeros(2)], *2 * [np.array([2, 3])],
    identities.Identities(0.0, 1e-9, "resample"),
  )  # fmt: skip
  assert report_files.kept(circuits.kept_line(told)) == [
    ("faithfulness", "a 0.500 (0.500..0.500), b 1.000 (1.000..1.000)", False)
  ]  # fmt: skip
  assert report_files.kept("a 0.499 (0.4..0.6)")[0][2]


def test_a_sweep_has_its_question_command_and_settings(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mine.py").write_text(
    "from tests.sweeps import small\n"
    "def get_config():\n  return small.config()\n"
    "def sweep():\n  yield {'scale': 1.0}\n  yield {'scale': 2.0}\n"
  )
  words = ["sweep", "run", "--config=mine.py", "--workdir=run"]
  assert command.run(capsys, *words, "--config.rows=8")[0] == 0
  (run,) = report.read(pathlib.Path("run"))
  assert run.question.startswith("What are 16 masks of 2 items worth to ")
  assert run.facts["command"] == shlex.join(["spex", *words, "--config.rows=8"])
  views = {view["title"]: view["rows"] for view in run.views}
  assert ["rows", "8"] in views["Settings of all items"]
  assert views["What items change"] == [[1.0], [2.0]]
  assert {"config.json", "items.json"} <= {name for name, _ in run.files}
