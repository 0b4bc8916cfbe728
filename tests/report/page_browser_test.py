"""The page in a real Chromium: clicks, keys, no request, no complaint."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest

from spex_jax.report import page
from tests.report import page_test

pytestmark = pytest.mark.slow
_CHROMIUM = next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser",
                                  "google-chrome"))),
  None,
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
  playwright = pytest.importorskip("playwright.sync_api")
  with playwright.sync_playwright() as running:
    own = running.chromium.executable_path  # Of `make browser`, elsewhere.
    if _CHROMIUM is None and not pathlib.Path(own).exists():
      pytest.skip("no Chromium here: make browser")
    browser = running.chromium.launch(
      executable_path=_CHROMIUM, args=["--no-sandbox"]
    )
    yield browser
    browser.close()


@pytest.fixture(params=["light", "dark"])
def opened(browser, request, tmp_path):
  """Opens a page; at the end, nothing was said and nothing else was asked."""
  said, asked = [], []
  tab = browser.new_page(color_scheme=request.param)
  tab.on("console", lambda message: said.append(message.text))
  tab.on("pageerror", lambda error: said.append(str(error)))
  tab.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
  tab.on("request", lambda one: asked.append(one.url))

  def show(text):
    path = pathlib.Path(tmp_path, "page.html")
    path.write_text(text, encoding="utf-8")
    tab.goto(path.as_uri())
    return tab

  yield show
  assert not said
  assert len(asked) == 1
  tab.close()


def _shown(tab) -> float:
  return float(tab.locator(".answer").first.inner_text().split()[1])


def test_the_expansion_answers_clicks_and_keys(opened):
  found = page_test.explained()
  tab = opened(found.page())
  players = tab.locator(".player")
  assert players.count() == 4
  assert players.nth(0).inner_text() == page_test.HOSTILE[0]
  kept = np.ones((1, 4), bool)
  assert _shown(tab) == pytest.approx(float(found.fourier(kept)[0]), abs=1e-3)
  players.nth(0).click()
  kept[0, 0] = False
  assert _shown(tab) == pytest.approx(float(found.fourier(kept)[0]), abs=1e-3)
  players.nth(2).focus()
  tab.keyboard.press("Enter")
  kept[0, 2] = False
  assert _shown(tab) == pytest.approx(float(found.fourier(kept)[0]), abs=1e-3)
  assert players.nth(2).get_attribute("aria-pressed") == "false"
  tab.get_by_text("keep all").click()
  assert players.nth(0).get_attribute("aria-pressed") == "true"
  with tab.expect_download() as download:
    tab.get_by_text("explanation.json").click()
  saved = pathlib.Path(download.value.path()).read_text()
  assert saved.startswith("{") and '"targets"' in saved


def test_the_slider_shows_what_was_measured(opened):
  view = {"kind": "curve", "title": "Circuits"} | page_test.curve()
  tab = opened(page.html([page.Run("Which edges?", views=[view])]))
  answer = tab.locator(".answer")
  assert "measured faithfulness 0.250" in answer.inner_text()
  tab.locator("input[type=range]").focus()
  tab.keyboard.press("ArrowRight")
  assert answer.inner_text().startswith("2 edges (1 connected)")
  assert "1.000" in answer.inner_text()
  assert tab.locator("svg.circuit path").count() == 2


def test_players_of_a_running_text_are_pressed(opened):
  found = page_test.explained()
  scene = page.prose("a <img> b c", [[(0, 1)], [(2, 7)], [(8, 9)], [(10, 11)]])
  tab = opened(found.page("Which words?", scene))
  assert tab.locator(".prose").inner_text() == "a <img> b c"
  whole = _shown(tab)
  tab.locator(".prose .player").nth(1).focus()
  tab.keyboard.press(" ")
  kept = np.array([[True, False, True, True]])
  now = float(found.fourier(kept)[0])
  assert _shown(tab) == pytest.approx(now, abs=1e-3) and now != whole


def test_players_of_a_picture_are_pressed(opened):
  found = page_test.explained()
  picture = page.picture(np.eye(2), np.arange(4).reshape(2, 2))
  tab = opened(found.page("Which patches?", picture))
  tab.locator("path.shape").nth(1).click()
  kept = np.array([[True, False, True, True]])
  now = float(found.fourier(kept)[0])
  assert _shown(tab) == pytest.approx(now, abs=1e-3)
  assert tab.locator("svg.arcs path").count() > 0


def test_interactions_alone_answer_nothing(opened):
  tab = opened(page_test.explained().interactions().page())
  arcs = tab.locator("svg.arcs path").count()
  for number in range(4):
    tab.locator(".player").nth(number).click()
  assert tab.locator(".answer").inner_text() == ""
  assert arcs > 0 and tab.locator("svg.arcs path").count() == 0


def test_a_circuit_is_drawn(opened):
  view = {"kind": "circuit", "title": "The circuit",
          "edges": page_test.curve()["edges"]}  # fmt: skip
  tab = opened(page.html([page.Run("Which edges?", views=[view])]))
  assert tab.locator("svg.circuit path").count() == 2


def test_plain_numbers_of_a_table_have_no_sign_and_no_colour(opened):
  view = page.table(["seconds", "zero"], [[31.18, -0.0]], "Numbers")
  worth = page.table(["seconds", "worth"], [[31.18, 2]], "W", ["worth"])
  tab = opened(page.html([page.Run("How long?", views=[view, worth])]))
  cells = tab.locator("td")
  assert cells.all_inner_texts() == ["31.18", "0", "31.18", "+2"]
  assert cells.nth(0).get_attribute("class") == "number"
  assert cells.nth(3).get_attribute("class") == "number plus"


def test_of_many_players_those_of_the_strongest_sets_stand_in_front(opened):
  found = page_test.explained(n=200, count=60)
  tab = opened(found.page())
  front = tab.locator(".stage > .players .player")
  strongest = next(who for who, _ in found.interactions() if len(who) > 1)
  names = front.all_inner_texts()
  assert 40 <= len(names) <= 48
  assert {found.interactions().labels()[i] for i in strongest} <= {*names}
  rest = tab.locator("details")
  assert (
    rest.inner_text()
    == f"{200 - len(names)} other players, of weaker " + ("sets or none")
  )
  tab.locator("summary").click()
  rest.locator(".player").nth(0).click()
  assert "without 1 of 200" in tab.locator(".answer").inner_text()
  # No arc goes over more than a few lines.
  for arc in tab.locator("svg.arcs path").all():
    assert arc.bounding_box()["height"] < 200


def test_bytes_are_downloaded_as_they_are(opened):
  content = bytes(range(256))
  tab = opened(page.html([page.Run("Q", files=[("a.npz", content)])]))
  with tab.expect_download() as download:
    tab.get_by_text("a.npz").click()
  assert pathlib.Path(download.value.path()).read_bytes() == content


def test_a_notebooks_frame_runs(opened):
  tab = opened(f"<!doctype html>{page_test.explained()._repr_html_()}")
  inside = tab.frame_locator("iframe")
  inside.locator(".player").nth(1).click()
  assert "without 1 of 4 players" in inside.locator(".answer").inner_text()


def test_tokens_show_their_cues_and_sources_their_sums(opened):
  body = page_test.on_context()
  shown, _ = page.context(body)[1]
  cited, _ = page.citations(body["citations"])[1]
  tab = opened(page.html([page.Run("Why?", views=[shown, cited])]))
  words = tab.locator(".running").first.locator(".token")
  assert words.nth(1).get_attribute("class") == "token chosen"
  said = tab.locator(".answer")
  assert "cues: b" in said.nth(0).inner_text()
  assert page_test.HOSTILE[1] in said.nth(0).inner_text()
  assert "the sources sum to +1" in said.nth(1).inner_text()
  sources = tab.locator("button.source")
  assert page_test.HOSTILE[0] in sources.nth(0).inner_text()
  assert tab.locator("svg.arcs path").count() == 1
  sources.nth(1).click()
  assert "ln p -0.25 without 1 of 2" in said.nth(1).inner_text()
  assert tab.locator("svg.arcs path").count() == 0
  tab.locator(".running").nth(2).locator(".token[role=button]").first.focus()
  tab.keyboard.press("Enter")
  assert (
    "x: ln p -1 without sources, -0.5 with all, +0.5"
    in said.nth(1).inner_text()
  )
  assert sources.nth(0).is_disabled()


def test_arcs_run_behind_the_words_of_other_lines(opened):
  names = (
    "alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium",
    "total_phenols", "flavanoids", "nonflavanoid_phenols", "proanthocyanins",
    "color_intensity", "hue", "od280/od315_of_diluted_wines", "proline",
  )  # fmt: skip
  found = dataclasses.replace(page_test.explained(n=13, count=40), names=names)
  tab = opened(found.page())
  tab.set_viewport_size({"width": 700, "height": 900})
  chips = tab.locator(".players .player")
  boxes = [chip.bounding_box() for chip in chips.all()]
  assert len({box["y"] for box in boxes}) == 3
  chips.nth(3).click()  # What is removed hides them, too.

  def inside():
    return [
      tab.screenshot(clip={
        "x": box["x"] + 3, "y": box["y"] + 4, "width": box["width"] - 6,
        "height": box["height"] - 8,
      })
      for box in boxes
    ]  # fmt: skip

  with_arcs = inside()
  arcs = tab.locator("svg.arcs path")
  heights = [arc.bounding_box()["height"] for arc in arcs.all()]
  assert max(heights) > 5 and len(heights) > 3
  tab.locator("svg.arcs").evaluate("svg => svg.remove()")
  assert with_arcs == inside()
