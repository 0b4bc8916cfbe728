"""The page: one file, no address, and whatever a name holds stays text.

What a browser does with it is in `page_browser_test.py`.
"""

import base64
import dataclasses
import hashlib
import html
import html.parser
import json
import re

import numpy as np
import pytest

import spex_jax as spex
from spex_jax.indices import attribution as attribution_lib
from spex_jax.report import page
from spex_jax.report.page import context_data

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


def data(text):
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
  names = data(text)[0]["views"][0]["names"]
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
  text = found.page()
  assert len(text.encode()) <= page.MOST and "left out" not in text


def test_a_page_has_a_limit_and_says_what_it_lacks():
  table = page.table(["x"], [["<" * 30] for _ in range(1000)], "Wide")
  files = [("a.json", "x" * 700_000), ("b.npz", bytes(400_000)), ("c.csv", "1")]
  text = page.html([page.Run("Q", views=[table], files=files)])
  assert 600_000 < len(text.encode()) <= page.MOST
  assert "b.npz (533 kB): a page has at most 1,000 kB" in text
  told = data(text)[0]
  assert [name for name, *_ in told["files"]] == ["a.json", "c.csv"]
  # Then pictures, then rows.
  image = page.image(bytes(30_000), "Picture")
  text = page.html([page.Run("Q", views=[image] + [table] * 8)] * 2)
  assert len(text.encode()) <= page.MOST and "Picture (40 kB)" in text
  titles = [view["title"] for run in data(text) for view in run["views"]]
  assert "Wide (the first 100 of 1,000 rows)" in titles


def test_a_page_of_a_long_answer_keeps_what_is_strongest():
  body = on_context(tokens=[f"w{k}" for k in range(200)])
  (cue,) = body["cues"]
  scores = [0.001 * k + 1 / 3 for k in range(200)]
  body["cues"] = [cue | {"scores": scores}] * 500
  _, (view, *_) = page.context(body)
  text = page.html([page.Run("Q", views=[view])])
  assert len(text.encode()) <= page.MOST
  (told,) = data(text)
  assert "but the 20 largest: a page has at most" in text
  kept = told["views"][0]["cues"][0]["scores"]
  assert [i for i, _ in kept] == list(range(199, 179, -1))


def test_sources_are_shaded_by_what_they_are_cited_by():
  cited = on_context()["citations"]
  own = {"strengths": [1.5, 2.5], "needed": [1]}
  _, (view, *_) = page.citations(cited | own)
  assert view["parts"][0]["strengths"] == [1.5, 2.5]
  assert view["parts"][0]["needed"] == [1]
  _, (view, *_) = page.citations(cited)  # Of a file without them.
  assert view["parts"][0]["strengths"] == view["parts"][0]["values"]


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
  told = data(attribution.page("<i>Which?</i>"))
  (view,) = told[0]["views"]
  # The sum of the scores answers.
  terms = spex.SparseFourier.from_terms(
    3, [(tuple(who), value) for who, value in view["targets"][0]["terms"]]
  )
  masks = np.array([[True, False, True], [False] * 3])
  np.testing.assert_allclose(terms(masks), attribution(masks)[:, 0], rtol=1e-6)
  found = explained().interactions("BII")
  view = data(found.page())[0]["views"][0]
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
  view = data(explained().page("Why?", scene))[0]["views"][0]
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
           "holds": True, "known": True}  # fmt: skip
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
    "vocabulary": {"context": list(tokens), "output_context": None,
                   "response": list(answer)},
    "input_context": "".join(tokens), "output_context": None,
    "output_current": "".join(answer),
    "citations": cited,
  }  # fmt: skip


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


@pytest.mark.parametrize(
  "r2, interval, bad",
  [(0.9, [0.1, 1.0], False), (0.9, [-0.1, 1.0], True), (0.4, [0.3, 0.5], True)],
)
def test_an_interval_of_r2_that_reaches_below_0_warns(r2, interval, bad):
  body = on_context()["citations"]
  body |= {"r2": r2, "r2_interval": interval, "r2_by": "4 masks set aside"}
  (name, told, against), *_ = context_data._trusted(body)
  assert (name, against) == ("R²", bad)
  assert f"{interval[0]:.3f}..{interval[1]:.3f}, 4 masks set aside" in told
