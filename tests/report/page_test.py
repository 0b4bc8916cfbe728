"""The page: one file, no address, and whatever a name holds stays text.

What a browser does with it is in `page_browser_test.py`.
"""

import base64
import dataclasses
import hashlib
import html
import html.parser
import itertools
import json
import pathlib
import re

import numpy as np
import pytest

import spex_jax as spex
from spex_jax import base, cli
from spex_jax.circuits import measured
from spex_jax.context import scored
from spex_jax.indices import attribution as attribution_lib
from spex_jax.jobs import circuits, report, report_files
from spex_jax.report import page
from tests import command

HOSTILE = (
  "</script><script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  "\u202e&quot;'\"<!--",
  "a",
)


def explained(n=4, count=4):
  """An expansion of `count` sets, all masks asked."""
  rng = np.random.default_rng(0)
  players = sorted(
    {tuple(sorted(rng.choice(n, 2, False))) for _ in range(count)}
  )
  terms = [((), 1.0)] + [
    (tuple(map(int, who)), float(rng.normal())) for who in players
  ]
  return spex.Explanation(
    fourier=spex.SparseFourier.from_terms(n, terms),
    faithfulness=0.9,
    faithfulness_std=0.01,
    noise_floor=None,
    num_evaluations=1 << 4,
    num_repeats=0,
    held_out=8,
    method="exact",
    names=HOSTILE if n == 4 else None,
    units="<b>",
  )


class _Reader(html.parser.HTMLParser):
  def __init__(self):
    super().__init__()
    self.tags, self.texts, self._open = [], {}, None

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    self._open = tag

  def handle_data(self, data):
    self.texts.setdefault(self._open, []).append(data)


def _data(text):
  return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def _read(text):
  reader = _Reader()
  reader.feed(text)
  return reader


def test_the_policy_allows_its_own_style_and_script_alone():
  text = explained().page("Why?")
  reader = _read(text)
  policy = next(
    a["content"] for tag, a in reader.tags if tag == "meta" and "content" in a
  )
  assert policy.startswith("default-src 'none';") and "unsafe" not in policy
  for tag in ("style", "script"):
    inside = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    assert len(inside) == 1
    digest = hashlib.sha256(inside[0].encode()).digest()
    assert f"'sha256-{base64.b64encode(digest).decode()}'" in policy
  script = re.findall("<script>(.*?)</script>", text, re.DOTALL)[0]
  for word in ("innerHTML", "outerHTML", "insertAdjacent", "eval(", "fetch("):
    assert word not in script
  addresses = {
    value
    for _, attributes in reader.tags
    for name, value in attributes.items()
    if name in ("src", "href", "action", "srcset")
  }
  assert not addresses


def test_hostile_names_and_questions_are_text():
  text = explained().page("<script>alert(2)</script>")
  reader = _read(text)
  assert [tag for tag, _ in reader.tags].count("script") == 2
  assert not [tag for tag, _ in reader.tags if tag in ("img", "b")]
  data = _data(text)
  names = data[0]["views"][0]["names"]
  assert names[0] == HOSTILE[0] and names[1] == HOSTILE[1]


def test_trust_comes_first_and_warns():
  run = page.Run("Q", [("R²", "0.2", True)], {"model": "m"})
  text = page.html([run])
  assert "Do not rely on this answer." in text
  assert text.index('class="trust bad"') < text.index("What was asked")
  assert not page.trust(explained())[0][2]


def test_a_page_of_a_thousand_sets_is_small():
  found = explained(n=60, count=1300)
  count = int(found.fourier.count)
  assert count > 900
  assert len(found.page().encode()) < 1_000_000


def test_a_page_needs_a_run_and_finite_numbers():
  with pytest.raises(ValueError, match="one run or more"):
    page.html([])
  view = {"kind": "table", "title": "t", "columns": [], "rows": [[np.nan]]}
  with pytest.raises(ValueError, match="JSON"):
    page.html([page.Run("Q", views=[view])])


def test_a_notebook_gets_the_page_in_a_sandbox():
  found = explained()
  reader = _read(found._repr_html_())
  ((tag, attributes),) = reader.tags
  assert tag == "iframe"
  assert "allow-same-origin" not in attributes["sandbox"]
  assert attributes["srcdoc"] == found.page()
  sets = found.interactions()
  ((tag, attributes),) = _read(sets._repr_html_()).tags
  assert tag == "iframe" and attributes["srcdoc"] == sets.page()


def test_every_result_is_a_frame_and_a_page():
  pandas = pytest.importorskip("pandas")
  scores = np.array([[1.0, -2.0, 0.5]])
  attribution = attribution_lib.Attribution(scores, [0.5], "COAR", scores**2)
  frame = attribution.to_pandas()
  assert isinstance(frame, pandas.DataFrame)
  assert frame["score"].tolist() == [1.0, -2.0, 0.5]
  assert frame["std"].tolist() == [1.0, 4.0, 0.25]
  told = _data(attribution.page("<i>Which?</i>"))
  (view,) = told[0]["views"]
  # The sum of the scores answers.
  terms = spex.SparseFourier.from_terms(
    3, [(tuple(who), value) for who, value in view["targets"][0]["terms"]]
  )
  masks = np.array([[True, False, True], [False] * 3])
  np.testing.assert_allclose(terms(masks), attribution(masks)[:, 0], rtol=1e-6)
  found = explained().interactions("BII")
  view = _data(found.page())[0]["views"][0]
  assert view["targets"][0]["terms"] is None
  assert len(view["targets"][0]["sets"]) == len(found)
  assert found.to_pandas()["set"][0] == tuple(
    found.labels()[i] for i in next(iter(found))[0]
  )


def test_a_text_runs_and_players_stand_in_it():
  scene = page.prose("a <b> c", [[(0, 1)], [(2, 5), (6, 7)], [(4, 6)], []])
  assert scene["pieces"] == [
    ["a", 0], [" ", -1], ["<b>", 1], [" ", 2], ["c", 1],
  ]  # fmt: skip
  assert "".join(text for text, _ in scene["pieces"]) == "a <b> c"
  view = _data(explained().page("Why?", scene))[0]["views"][0]
  assert view["pieces"] == scene["pieces"] and "columns" not in view


def test_a_picture_has_the_outline_of_every_player():
  owner = np.array([[0, 0, 1], [0, 0, -1], [2, 1, 1]])
  scene = page.picture(np.arange(9.0).reshape(3, 3), owner)
  assert scene["size"] == [3, 3]
  assert scene["image"].startswith("data:image/png;base64,")
  assert scene["shapes"] == [
    "M0 0H2V2H0Z", "M2 0H3V1H2ZM1 2H3V3H1Z", "M0 2H1V3H0Z",
  ]  # fmt: skip
  large = page.picture(np.zeros((300, 200, 3)), np.zeros((300, 200), int))
  assert large["size"] == [67, 100] and large["shapes"] == ["M0 0H67V100H0Z"]


def test_frames_hold_every_set():
  pytest.importorskip("pandas")
  found = explained()
  frame = found.to_pandas("BII")
  assert list(frame["value"]) == found.interactions("BII").values.tolist()
  assert frame["order"].max() == 2


def test_shapiq_reads_its_file(tmp_path):
  shapiq = pytest.importorskip("shapiq")
  found = explained()
  (text,) = [text for name, text in page.raw(found) if name == "shapiq.json"]
  path = tmp_path / "shapiq.json"
  path.write_text(text)
  read = shapiq.InteractionValues.from_json_file(path)
  for who, value in found.interactions("FBII"):
    assert read[who] == value


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
     "r2": [0.8], "ceiling": None,
     "points": [{"point": 0, "helpful": [], "harmful": [item], "synergy": [],
                 "redundancy": []}],
     "checks": [{"players": [0, 1], "target": 0, "estimate": -0.5,
                 "measured": -0.4, "low": -0.6, "high": -0.2,
                 "verdict": "survives"}]},
  )  # fmt: skip
  base.write_json(circuit / "curve.json", curve())
  base.write_json(
    circuit / "circuit.json",
    {"edges": [["embed", "final_norm.in", 0]], "scores": [-1.0], "cmd": 0.1},
  )
  (patch / "resid_pre.csv").write_text("layer,moved\n0,0.5\n1,0.25\n")
  site = {"shape": [1, 4], "units": [1, 2]}
  base.write_json(edit / "edit.json", {"sites": {"blocks.0.attn": site}})
  (other / "cues.json").write_text('{"rows": [{"cue": "x", "value": 1.5}]}')
  output = tmp_path / "report.html"
  folders = (explanation, coar, data, circuit, patch, edit, other)
  code, out, _ = command.run(
    capsys, "report", *map(str, folders), f"--output={output}"
  )
  assert code == 0 and "kB" in out
  text = output.read_text()
  told = _data(text)
  kinds = [[view["kind"] for view in run["views"]] for run in told]
  assert kinds[0][0] == "sets" and kinds[1] == ["sets"]
  assert told[1]["views"][0]["layers"] == ["blocks.0.attn", "blocks.1.attn"]
  assert "<dt>R² of scores</dt>" in text  # The sets have an R² of their own.
  assert kinds[2] == ["table", "table"] and kinds[3][0] == "curve"
  assert [run[0] for run in kinds[4:]] == ["table"] * 3
  assert told[4]["views"][0]["rows"] == [[0, 0.5], [1, 0.25]]
  assert told[6]["views"][0]["rows"] == [["x", 1.5]]
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


def curve():
  """As `circuits_shown` writes it."""
  edge = {"name": "embed -> final_norm.in", "from": "embed", "kind": "",
          "into": ["final_norm.in"], "score": -1.0}  # fmt: skip
  head = {"name": "embed -> blocks.0.attn.k_in 0", "from": "embed", "kind": "k",
          "into": ["blocks.0.heads.0"], "score": 0.5}  # fmt: skip
  return {
    "sizes": [1, 2], "connected": [1, 1], "faithfulness": [0.25, 1.0],
    "random": [[0.0, 1.0]], "cmd": 0.1, "cpr": 0.9, "start": 0,
    "identities": {"full": 0.0, "empty": 1e-9}, "ablation": "resample",
    "units": "logit", "faithful": 0.25, "interval": [0.2, 0.3],
    "edges_chosen": 1, "num_pairs": 8, "accuracy": 0.0, "clean": -0.25,
    "corrupted": -0.125, "edges": [edge, head],
    "circuits": [[0], [0, 1]],
  }  # fmt: skip


def on_context(tokens=("a", " b", " c"), answer=(" x", "\u202ey")):
  """As `spex context` writes it, with names of a stranger's."""
  span = {
    "span": [0, 2], "value": "log_probability", "values": [1.5, -0.5],
    "none": -2.0, "total": 1.0, "terms": [[[0], 1.75], [[0, 1], -0.75]],
    "sets": [{"sources": [0, 1], "kind": "either", "value": -0.75,
              "interval": [-1.0, -0.5]}],
    "needed": [], "r2": 0.9, "method": "exact", "criterion": "greedy",
  }  # fmt: skip
  total = {"none": -1.0, "pcxmi": 0.5, "values": [0.75, -0.25], "sum": 0.5,
           "holds": True}  # fmt: skip
  cited = span | {
    "sources": [HOSTILE[0], HOSTILE[1]], "tokens": list(answer),
    "response_ids": [1, 2], "forwards": 4, "decoder": "exact", "notes": [],
    "spans": [span | {"cited": [0]}],
    "totals": [total | {"token": t, "piece": answer[t]} for t in (0, 1)],
  }  # fmt: skip
  cue = {
    "index": 1, "token": "y", "score": 2.0, "contrast": 3,
    "contrast_token": "z", "contrast_text": HOSTILE[1],
    "scores": [0.1, 0.9, 0.2], "output_scores": None, "chosen": [1],
    "shift": 0.5,
  }  # fmt: skip
  return {
    "metric": "kl_divergence", "method": "saliency",
    "target": "contrast_prob_diff", "sensitivity": [0.1, 2.0], "selected": [1],
    "cues": [cue], "context_tokens": list(tokens),
    "output_context_tokens": [], "response_tokens": list(answer),
    "citations": cited,
  }  # fmt: skip


@pytest.mark.parametrize(
  ("name", "form"), [("attribution.json", "own"), ("a.json", "inseq")]
)
def test_scores_of_tokens_by_the_names_that_commands_give(tmp_path, name, form):
  found = scored.Attribution(
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


def test_what_a_model_cannot_do_warns(tmp_path):
  found = report_files.READERS["curve.json"](
    _written(tmp_path / "curve.json", curve())
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


def test_ends_and_noise_as_large_as_the_answer_warn():
  found = dataclasses.replace(
    explained(),
    fourier=spex.SparseFourier.from_terms(2, [((), 1.0), ((0,), 0.5)]),
    names=None,
    ends=(np.array(1.4), np.array(1.25)),
    noise_floor=0.3,
  )
  against = {name: bad for name, _, bad in page.trust(found)}
  assert against == {
    "R²": False, "f(none)": False, "f(all)": True, "noise": True,
  }  # fmt: skip


def test_no_character_of_a_fact_or_line_turns_it_around():
  text = page.html(
    [page.Run("Q", [("R\u202e", "\ud800", False)], {"m\u202e": "\udfff"})]
  )
  assert "\u202e" not in text and "\\ud800" in text
  text.encode()


def test_an_answer_and_its_context(tmp_path):
  body = on_context()
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
  assert run.views[1]["rows"] == [["\\u202ey", 2.0, HOSTILE[1], 0.5, "b"]]
  parts = run.views[2]["parts"]
  assert [part["name"] for part in parts] == ["the whole answer", "x",
                                              "\\u202ey"]  # fmt: skip
  assert [part["sum"] for part in parts] == [1.0, 0.5, 0.5]
  page.html([run])

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
    explained(),
    fourier=spex.SparseFourier.from_terms(4, TRIPLE),
    names=None,
  )
  (view,) = _data(found.page())[0]["views"]
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
  body = on_context()
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
  assert other.facts["not shown"].startswith("stray0.json, stray1.json:")
  # Answers are no part of what was asked, and no fact can turn a line around.
  assert {*cited.facts} == {"command", "model", "version"}
  assert cited.facts["model"] == "m\\u202e\\ud800"
  page.html([cited, other])
  for path in tmp_path.glob("*.run.json"):
    path.unlink()
  monkeypatch.chdir(tmp_path)
  (run,) = report.read(pathlib.Path("."))
  assert run.question == f"What is in {tmp_path.name}?"
