"""Drawing by code: renderers, defects and feedback, records, metrics, SPEX."""

import os
import stat

import jax
import numpy as np
import pytest

from spex_jax.ablate import services
from spex_jax.agents import llm
from spex_jax.agents.checkup import (
  author,
  dialogues,
  drawing_metrics,
  embedder,
  externals,
  renderers,
  statements,
  strokes,
  three_tests,
)
from spex_jax.agents.world import prompts, rendering

_CAPTION = "a large red house in the centre on a plain background"
_PLOT = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\n"


@pytest.fixture(scope="module")
def studio():
  with renderers.Studio(size=48, seconds=1.5) as own:
    yield own


def _svg(inside, box="0 0 10 10"):
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{inside}</svg>'
  )


_CODE = {
  "text": ("matplotlib", _PLOT + "ax.set_title('x', fontsize=19)", "ok"),
  "nothing": ("matplotlib", "x = 1", "error"),
  "blank": ("matplotlib", "import matplotlib.pyplot as plt\nplt.figure()",
            "blank"),
  "hangs": ("matplotlib", "while True: pass", "time"),
  "no Python": ("matplotlib", "def f(", "error"),
  "reads": ("matplotlib", _PLOT + "plt.imread('/etc/passwd')", "refused"),
  "saves": ("matplotlib", _PLOT + "fig.savefig('a.png')", "ok"),
  "memory": ("matplotlib", "x = bytearray(10**10)", "memory"),
  "no XML": ("svg", "<svg", "error"),
  "no svg": ("svg", "<html/>", "error"),
  "unknown": ("svg", _svg("<image href='a.png'/>"), "error"),
  "empty": ("svg", _svg(""), "blank"),
  "bad path": ("svg", _svg('<path d="M 1"/>'), "error"),
  "bad colour": ("svg", _svg('<circle r="4" fill="reddish"/>'), "error"),
  "no size": ("svg", _svg('<circle r="4"/>', "0 0 0 9"), "error"),
}  # fmt: skip


@pytest.mark.parametrize("name", _CODE)
def test_what_becomes_of_code_is_a_status(studio, name):
  language, code, status = _CODE[name]
  found = studio.render(language, code)
  assert found.status == status, found.error
  assert (found.error == "") == (status == "ok")
  assert (found.picture is None) == (status not in ("ok", "blank"))


_SHAPES = {
  "rect": ('<rect x="2" y="4" width="6" height="4"/>', 24),
  "transformed": ('<g transform="translate(2 4) scale(2)">'
                  '<rect width="3" height="2"/></g>', 24),
  "turned": ('<rect x="2" y="4" width="6" height="4" '
             'transform="rotate(90 5 5)"/>', 24),
  "ellipse": ('<ellipse cx="5" cy="5" rx="4" ry="2"/>', np.pi * 8),
  "triangle": ('<polygon points="1,1 9,1 1,9"/>', 32),
  "path": ('<path d="M1 1H9V9z"/>', 32),
  "relative": ('<path d="m1 1 l8 0 0 8"/>', 32),
  "hole": ('<path d="M1 1h8v8h-8z M3 3h4v4h-4z"/>', 48),
  "arcs": ('<path d="M1 5 A4 4 0 0 1 9 5 A4 4 0 0 1 1 5Z"/>', np.pi * 16),
  "large arc": ('<path d="M5 1 A4 4 0 1 1 1 5 L5 5 Z"/>', np.pi * 12),
  "curve": ('<path d="M1 1 C1 9 9 9 9 1 Z"/>', 38.4),
  "parabola": ('<path d="M1 1 Q5 9 9 1 Z"/>', 64 / 3),
  "smooth": ('<path d="M1 5 Q3 1 5 5 T9 5 V9 H1 Z"/>', 32),
  "line": ('<line x1="1" y1="5" x2="9" y2="5" stroke="black" '
           'stroke-width="2"/>', 16),
  "gone": ('<rect width="9" height="9" style="fill: none"/>'
           '<circle cx="5" cy="5" r="2"/>', np.pi * 4),
}  # fmt: skip


@pytest.mark.parametrize("name", _SHAPES)
def test_shapes_of_svg_have_their_area(studio, name):
  inside, area = _SHAPES[name]
  found = studio.render("svg", _svg(inside))
  assert found.status == "ok", found.error
  dark = 1 - found.picture.mean(axis=2) / 255
  # Polygons of Pillow cover their outlines: half a fine pixel around.
  assert dark.sum() * 100 / 48**2 == pytest.approx(area, rel=0.06, abs=0.4)


def test_opacity_and_gradients_of_svg(studio):
  half = studio.render("svg", _svg('<rect width="10" height="10" opacity=".5"/>'
                                   '<circle r="1" fill="red"/>'))  # fmt: skip
  assert abs(int(half.picture[30, 30, 0]) - 127) <= 1
  shaded = studio.render("svg", _svg(
    '<defs><linearGradient id="g"><stop stop-color="blue"/></linearGradient>'
    '</defs><rect width="5" height="10" fill="url(#g)"/>'))  # fmt: skip
  assert shaded.picture[20, 5].tolist() == [0, 0, 255]


@pytest.mark.parametrize("language", ["matplotlib", "svg"])
def test_the_author_draws_what_the_world_shows(studio, language):
  for caption in (
    "a large red circle at the left and a large blue star at the top right on "
    "a plain background",
    "a large green moon in the centre and a large black ring at the bottom on "
    "a plain background",
    "a large yellow bicycle at the top left on a plain background",
  ):
    found = studio.render(language, author.Author(language).code(caption))
    assert found.status == "ok", found.error
    truth = rendering.render(prompts.read(caption), 48).astype(float)
    # Edges are smoothed here, and there not: most pixels agree all the same.
    off = np.abs(found.picture - truth).max(axis=2) > 60
    assert off.mean() < 0.06


@pytest.mark.parametrize("language", ["matplotlib", "svg"])
@pytest.mark.parametrize("defect", author.DEFECTS)
def test_feedback_mends_each_defect(studio, language, defect):
  writer = author.Author(language, (defect,))
  first, last = three_tests.improve(writer, _CAPTION, language, studio, 1)
  clean = studio.render(language, author.Author(language).code(_CAPTION))
  assert first.sha256 != clean.sha256
  assert last.status == "ok" and last.sha256 == clean.sha256
  if defect == "syntax":  # Without feedback nothing is mended.
    records = three_tests.improve(
      writer, _CAPTION, language, studio, 1, feedback=False
    )
    assert [r.status for r in records] == ["error", "error"]


def test_a_recogniser_of_text_tells_its_own_code():
  options = three_tests.captions(0, "objects", 4)
  caption, code, found = "", "", None
  for caption in options:
    code = author.Author("svg").code(caption)
    found = three_tests.recognise(
      author.Author("svg"), caption, "svg", code, options, "objects"
    )
    assert found.answer == caption
  unsure = three_tests.recognise(
    llm.Scripted(["I cannot tell [9]"]), caption, "svg", code, options
  )
  assert unsure.answer == "" and "names no option" in unsure.error
  assert found is not None
  assert drawing_metrics.accuracy([found, unsure]) == {
    "all": 0.5, "objects": 1.0, "": 0.0
  }  # fmt: skip


_FAILURES = [
  services.Overloaded("later"), services.Refused("no"), llm.Spent("all"),
  TimeoutError("slow"),
]  # fmt: skip


@pytest.mark.parametrize("failure", _FAILURES, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_endpoint_that_fails_in_a_round_ends_that_conversation(
  studio, failure, at
):
  good = f"```svg\n{author.Author('svg').code(_CAPTION)}```"
  chat = llm.Scripted([*[good] * at, failure])
  found = three_tests.improve(chat, _CAPTION, "svg", studio, 2)
  assert [r.status for r in found] == ["ok"] * at + ["endpoint"]
  assert type(failure).__name__ in found[-1].error
  lost = three_tests.recognise(
    llm.Scripted([failure]), _CAPTION, "svg", "", [_CAPTION, "x"]
  )
  assert lost.status == "endpoint" and lost.answer == ""


def test_replies_are_read(studio):
  chat = llm.Scripted(["no code at all"])
  (found,) = three_tests.improve(chat, _CAPTION, "svg", studio, 0)
  assert found.status == "no code" and found.as_json()["code"] == ""
  text = "First ```\na\n``` then\n```python\nb\n```"
  assert dialogues.code_of(text) == "b\n"
  assert dialogues.code_of("see <svg><g/></svg>.") == "<svg><g/></svg>"
  choices = ("[2]", "perhaps 2", "[9]", "none", "1 or [2]", "0")
  assert [dialogues.choice_of(t, 3) for t in choices] == [
    1, 1, None, None, 1, None
  ]  # fmt: skip


def test_captions_are_of_their_level():
  for level in ("textures", "shapes", "objects", "scenes"):
    found = three_tests.captions(3, level, 5)
    assert len(set(found)) == 5 and found == three_tests.captions(3, level, 5)
    assert all(prompts.write(prompts.read(own)) == own for own in found)
  with pytest.raises(ValueError, match="No level 'words'"):
    three_tests.captions(0, "words", 1)


def test_what_is_not_known_is_named(studio):
  with pytest.raises(ValueError, match="No language 'logo'"):
    studio.render("logo", "fd 10")
  if "processing" not in externals.installed():
    with pytest.raises(ValueError, match="It needs bwrap, xvfb-run"):
      studio.render("processing", "void setup() {}")
  with pytest.raises(ValueError, match="No language 'logo'"):
    strokes.write([], "logo")
  with pytest.raises(ValueError, match="No defect 'typo'"):
    author.Author("svg", ("typo",))
  with pytest.raises(ValueError, match="from 1 to 256"):
    renderers.Studio(0)


def test_programs_from_outside_run_in_bubblewrap(tmp_path, monkeypatch):
  """Stand-ins of the programs: what they are asked is what is tested."""
  monkeypatch.setenv("PATH", str(tmp_path))
  assert externals.installed() == ()
  drawing = "/bin/echo P3 2 1 255 255 0 0 0 0 255"
  programs = {
    "bwrap": 'while [ "$1" != --chdir ]; do shift; done; cd "$2"\n'
    "while case $1 in pdf*|xvfb*) false;; esac; do shift; done\n"
    'exec "$@"',
    "pdflatex": "case $(/bin/cat drawing.tex) in *wrong*) echo '! Bad.';"
    " exit 1;; *slow*) exec /bin/sleep 9;; esac",
    "pdftoppm": f"{drawing} > drawing.png",
    "xvfb-run": 'shift; exec "$@"',
    "processing-java": "/bin/grep -q 'void draw' *.pde && case $* in "
    f"--sketch=/*' --run') {drawing} > drawing.png;; esac",
  }
  for name, text in programs.items():
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setattr(os, "defpath", str(tmp_path))
  assert externals.installed() == ("tikz", "processing")
  code = strokes.write(strokes.of_scene(prompts.read(_CAPTION)), "tikz")
  status, error, picture = externals.render("tikz", code, 32, 5)
  assert (status, error) == ("ok", "")
  assert np.shape(picture) == (32, 32, 3)
  assert externals.render("tikz", "wrong", 32, 5)[:2] == ("error", "! Bad.")
  assert externals.render("tikz", "slow", 32, 0.2)[0] == "time"
  code = strokes.write(strokes.of_scene(prompts.read(_CAPTION)), "processing")
  assert externals.render("processing", code, 32, 5)[:2] == ("ok", "")
  (tmp_path / "processing").write_text("#!/bin/sh\n[ $1 = cli ]\n")
  (tmp_path / "processing").chmod(0o700)
  status, error, _ = externals.render("processing", code, 32, 5)
  assert status == "error" and "it drew nothing" in error
  (tmp_path / "xvfb-run").unlink()
  assert externals.installed() == ("tikz",)


def test_frechet_is_that_of_gaussians():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(400, 3))
  assert drawing_metrics.frechet(x, x) == pytest.approx(0, abs=1e-9)
  assert drawing_metrics.frechet(x, x + [3, 0, 4]) == pytest.approx(25)
  # Of commuting covariances: the sum of squares of differences of deviations.
  scale = np.array([2.0, 1.0, 0.5])
  centred = (x - x.mean(axis=0)) @ np.linalg.inv(
    np.linalg.cholesky(np.cov(x, rowvar=False))
  ).T
  expected = ((scale - 1) ** 2).sum()
  assert drawing_metrics.frechet(centred, centred * scale) == pytest.approx(
    expected
  )
  with pytest.raises(ValueError, match="two pictures or more"):
    drawing_metrics.frechet(x[:1], x)


def _by_colour():
  """An embedder whose pictures and captions are colours."""
  table = {"red": [1.0, 0, 0], "green": [0, 1.0, 0], "blue": [0, 0, 1.0]}

  def seen(pictures):
    found = np.asarray(pictures, float).mean(axis=(1, 2)) + 1e-9
    return found / np.linalg.norm(found, axis=1, keepdims=True)

  return embedder.Embedder(
    seen, lambda texts: np.array([table[t] for t in texts]), "colours"
  )


def test_fidelity_and_diversity_are_as_written_out():
  pictures = np.zeros((3, 4, 4, 3), np.uint8)
  pictures[0, ..., 0] = pictures[1, ..., 1] = pictures[2, ..., 1] = 255
  own, pool = _by_colour(), ["red", "green", "blue"]
  found = drawing_metrics.fidelity(
    own, pictures, ["red", "blue", "green"], pool
  )
  # The second is green, called blue: red is as far, green is nearer.
  np.testing.assert_allclose(found, [1, 0.25, 1])
  with pytest.raises(ValueError, match="no caption but 'red'"):
    drawing_metrics.fidelity(own, pictures[:1], ["red"], ["red"])
  features = own.pictures(pictures)
  assert drawing_metrics.diversity(features) == pytest.approx(2 / 3)
  assert drawing_metrics.diversity(features[:1]) == 0


def test_a_summary_counts_what_drew_nothing(studio):
  chat = lambda *code: llm.Scripted([f"```\n{own}\n```" for own in code])
  codes = (
    _svg('<rect width="10" height="10" fill="red"/><circle r="2"/>'),
    _svg('<circle r="2"/><rect y="1" width="10" height="9" fill="red"/>'),
    _svg(""),
    "<svg",
  )
  records = [
    three_tests.draw(chat(code), "red", "svg", studio, "shapes")
    for code in codes
  ]
  true = np.stack([np.asarray(r.picture) for r in records[:2]])
  found = drawing_metrics.summary(
    records, _by_colour(), ["green", "blue"], true
  )
  assert (found["programs"], found["compiled"], found["drawn"]) == (
    4,
    0.75,
    0.5,
  )
  assert found["fidelity"] == 0.5 and found["embedder"] == "colours"
  assert found[drawing_metrics.FRECHET] == pytest.approx(0, abs=1e-4)
  none = drawing_metrics.summary(records[3:], _by_colour(), ["green"], true)
  assert none["fidelity"] == 0 and none[drawing_metrics.FRECHET] is None


def test_phrases_keep_words_together():
  one, other = embedder.phrases([
    "a red circle and a blue star", "a blue circle and a red star"
  ])  # fmt: skip
  assert one[:2].sum() == 6 and not np.array_equal(one, other)
  np.testing.assert_array_equal(one.sum(axis=0), other.sum(axis=0))


@pytest.mark.parametrize("language", ["matplotlib", "svg"])
def test_statements_are_found_and_taken_away(language):
  code = author.Author(language).code(_CAPTION)
  names, keep = statements.split(language, code)
  drawn = strokes.of_scene(prompts.read(_CAPTION))
  assert len(names) == len(drawn)
  mask = np.ones(len(names), bool)
  mask[1] = False
  less = strokes.write([*drawn[:1], *drawn[2:]], language)
  again, _ = statements.split(language, keep(mask))
  assert again == statements.split(language, less)[0]
  with pytest.raises(ValueError, match="does not parse"):
    statements.split(language, "<(")
  with pytest.raises(ValueError, match="matplotlib and svg"):
    statements.split("tikz", code)


def test_spex_finds_the_statements_that_make_it(studio):
  # Red where either of two covers the picture, unless a third lies on top.
  full = '<rect x="0" y="0" width="10" height="10" fill="{}"/>'
  inside = "".join(full.format(c) for c in ("red", "#ff0000", "blue"))
  found = statements.explain(
    jax.random.key(0), "svg", _svg(inside + '<circle r=".1" fill="lime"/>'),
    "red", ["green", "blue"], studio, _by_colour(),
  )  # fmt: skip
  values = found.interactions("FBII", order=1)
  assert values[2] < -4 and abs(values[0] - values[1]) < 0.1 < values[0]
  assert abs(values[3]) < 0.5
  for code, told in (
    (_svg(""), "no statement that can be taken away"),
    (_svg('<rect x="90" width="1" height="1"/>'), "draws nothing"),
  ):
    with pytest.raises(ValueError, match=told):
      statements.explain(jax.random.key(0), "svg", code, "red", ["green"],
                         studio, _by_colour())  # fmt: skip
  with pytest.raises(ValueError, match="a caption besides 'red'"):
    statements.value_fn(lambda mask: "", "svg", "red", ["red"], studio,
                        _by_colour())  # fmt: skip
