"""The documentation keeps its word: names are there, and examples run.

The pages themselves, and the stories, are made by `make docs`.
"""

import ast
import doctest
import importlib
import pathlib
import re
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spex_jax as spex
from spex_jax import context, models, report, shown
from spex_jax.ablate import columns, features
from spex_jax.ablate import gradients as by_gradient
from spex_jax.circuits import (
  circuit_files,
  judges,
  metrics,
  pairs,
  patching,
  scores,
  selection,
)
from spex_jax.indices import judging as data_judging
from spex_jax.influence import datamodels, gradient_baselines, trak
from spex_jax.models import generate, hooks, sites
from tests.jobs import small

_DOCS = pathlib.Path(__file__).parents[1] / "docs"
_STORIES = sorted((_DOCS / "stories").glob("*.py"))
_PAGES = sorted(_DOCS.glob("*.md")) + sorted(_DOCS.glob("*/*.md"))
# Modules whose docstrings have examples.
_WITH_EXAMPLES = ("api", "fourier.sparse", "indices.interactions")


def _calls(page: str = "coming_from.md"):
  """The right column of a page's tables: where it stands, and the call."""
  for number, line in enumerate((_DOCS / page).read_text().splitlines(), 1):
    found = re.search(r"\| `([^`]+)` \|$", line)
    if found and re.search(r"[(.]", found[1]):
      yield pytest.param(found[1], id=f"line {number}")


@pytest.mark.parametrize("path", _STORIES, ids=lambda path: path.stem)
def test_stories_are_scripts_with_a_title_a_picture_and_known_imports(path):
  tree = ast.parse(path.read_text())
  title, line = ast.get_docstring(tree).splitlines()[:2]
  assert line == "=" * len(title)
  assert re.search(r"^(figure|drawing) = ", path.read_text(), re.MULTILINE)
  rooms = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module.startswith("spex_jax"):
      room = importlib.import_module(node.module)
      for name in node.names:
        rooms[name.asname or name.name] = (
          getattr(room, name.name, None)
          or importlib.import_module(f"{node.module}.{name.name}")
        )  # fmt: skip
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
      room = rooms.get(node.value.id)
      assert room is None or hasattr(room, node.attr), ast.unparse(node)


def test_settings_and_their_helpers_can_be_compiled():
  for path in _DOCS.glob("*.py"):
    compile(path.read_text(), path, "exec")


def test_pages_that_are_linked_are_there():
  made = {"gallery": "stories"}  # By `make docs`, of these.
  for page in _PAGES:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
      target = (page.parent / link).resolve()
      folder = made.get(target.parent.name)
      if folder and target.stem == "index":
        target = _DOCS / folder / "README.rst"
      elif folder:
        target = _DOCS / folder / f"{target.stem}.py"
      assert target.exists(), f"{page.name}: {link}"
      # Of other pages the builder knows nothing.
      assert target.suffix != ".md" or target.is_relative_to(_DOCS), link


@pytest.mark.parametrize("name", _WITH_EXAMPLES)
def test_examples_of_docstrings_print_what_they_show(name):
  found = doctest.testmod(importlib.import_module(f"spex_jax.{name}"))
  assert found.attempted and not found.failed


def test_examples_of_pages_print_what_they_show():
  attempted = 0
  for page in _PAGES:
    text = "\n".join(re.findall(r"```pycon\n(.*?)```", page.read_text(), re.S))
    if ">>>" in text:
      test = doctest.DocTestParser().get_doctest(text, {}, page.name, page, 0)
      found = doctest.DocTestRunner().run(test)
      assert not found.failed, page
      attempted += found.attempted
  assert attempted


@pytest.mark.slow
@pytest.mark.parametrize("page", ["own_model", "pictures", "kept", "endpoints"])
def test_pages_of_how_to_run_as_they_stand(page, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  text = (_DOCS / "how_to" / f"{page}.md").read_text()
  code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
  exec(compile(code, page, "exec"), {})
  made = {path.name for path in tmp_path.iterdir()}
  shown = capsys.readouterr().out
  if page == "pictures":
    assert made >= {"bars.svg", "network.pdf", "text.png", "report.html"}
  elif page == "kept":
    first, second = map(int, re.findall(r"(\d+) masks", shown))
    assert second - first < 20 < first
  else:
    assert "players" in shown


def _value(masks):
  """Three terms, of orders 1, 1 and 2."""
  return 2.0 * masks[:, 0] - masks[:, 3] + 1.5 * (masks[:, 1] & masks[:, 2])


@pytest.fixture(scope="module")
def named(tmp_path_factory):
  """What the calls of `coming_from.md` name."""
  rng = np.random.default_rng(0)
  net = models.load(small.gpt2(tmp_path_factory.mktemp("docs") / "gpt2"))
  ids = net.tokenizer.encode("the film is").ids[None]
  other = net.tokenizer.encode("the fun is").ids[None]
  prompts = pairs.from_ids(
    [
      {
        "clean_ids": ids[0].tolist(),
        "corrupted_ids": other[0].tolist(),
        "right_ids": [1],
        "wrong_ids": [2],
      }
    ]
  )
  n, key = 6, jax.random.key(0)
  masks = rng.random((60, n)) < 0.5
  values = _value(masks)[:, None] + rng.normal(0, 0.1, (60, 2))
  rows = {"x": np.eye(4, 3, dtype=np.float32), "y": np.arange(4) % 2}
  margin = lambda p, example: example["x"] @ p["w"]
  scored = scores.score(net, net.params, prompts, metrics.logit_difference)
  answer = np.append(other[0], 1)
  runs = context.Runs.of_ids(
    net,
    np.concatenate([ids[0], answer]),
    answer,
    answer[-1:],
    (0, ids.shape[1]),
  )
  sources = context.sources.of_texts(
    ["the film is fun", "the film"], " is", net.tokenizer
  )
  found = spex.explain(_value, n, budget=64, key=key)
  x = rng.normal(size=(8, n))
  return {
    "spex": spex,
    "report": report,
    "models": models,
    "context": context,
    **{
      module.__name__.rpartition(".")[2]: module
      for module in (
        columns, sites, hooks, patching, generate, scores, selection,
        circuit_files, judges, datamodels, trak, gradient_baselines,
      )
    },
    "data_judging": data_judging,
    "by_gradient": by_gradient,
    "f": _value,
    "n": n,
    "key": key,
    "found": found,
    "pairs_of": found.interactions("FBII", order=2),
    "model": type("Model", (), {"predict": staticmethod(lambda x: x @ x[0])}),
    "X": x,
    "row": x[0],
    "net": net,
    "ids": ids,
    "kept": jnp.ones((1, 1, net.config.num_heads, 1)),
    "prompts": prompts,
    "metric": metrics.logit_difference,
    "scored": scored,
    "circuit": selection.greedy(scored.graph, scored.mean(), 8),
    "runs": runs,
    "reliance": context.pecore(net, runs),
    "sources": sources,
    "attributed": context.attribute(
      net, context.Generation.of_text(net, "the film is", " fun film")
    ),
    "cited": context.cite(
      net, sources, " fun", key=key, budget=4, method="contextcite"
    ),
    "masks": masks,
    "values": values,
    "margin": margin,
    "loss": lambda p, example: (margin(p, example) - example["y"]) ** 2,
    "params": {"w": jnp.asarray([0.1, -0.2, 0.3])},
    "train": rows,
    "test": jax.tree.map(lambda leaf: leaf[:2], rows),
    "game": features.game(
      lambda rows, w: rows @ w,
      features.columns([f"c{i}" for i in range(n)]),
      jnp.ones(n),
      jnp.zeros(n),
      jnp.arange(1.0, n + 1),
      absent="zero",
    ),
  }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("call", list(_calls()))
def test_calls_of_the_tables_run_as_they_stand(call, named):
  if "to_shapiq" in call:
    pytest.importorskip("shapiq")
  found = eval(call, dict(named))
  assert found is not None


def test_names_of_the_tables_are_known():
  """The same calls, read and not run."""
  rooms = {
    "spex": spex, "report": report, "models": models, "context": context,
    "columns": columns, "sites": sites, "hooks": hooks, "patching": patching,
    "generate": generate, "scores": scores, "selection": selection,
    "circuit_files": circuit_files, "judges": judges, "datamodels": datamodels,
    "trak": trak, "gradient_baselines": gradient_baselines,
    "data_judging": data_judging, "by_gradient": by_gradient,
  }  # fmt: skip
  calls = list(_calls())
  assert len(calls) > 30
  for parameter in calls:
    (call,) = parameter.values
    for node in ast.walk(ast.parse(call, mode="eval")):
      if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        room = rooms.get(node.value.id)
        assert room is None or hasattr(room, node.attr), call


def _figures(text: str) -> set[str]:
  """Numbers as they are written: .82, 1,024, -3.8."""
  return set(re.findall(r"(?<![\w.,])-?(?:\d[\d,]*)?(?:\.?\d+)(?!\w)", text))


def test_figures_of_papers_are_those_that_were_measured():
  """Every number of ours stands in the page of what was measured."""
  measured = (_DOCS.parent / "experiments" / "README.md").read_text()
  page = (_DOCS / "papers.md").read_text()
  seen = 0
  for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
    rows = [
      [cell.strip() for cell in line.strip("|").split("|")]
      for line in table.splitlines()
    ]
    (here,) = (k for k, name in enumerate(rows[0]) if name[:4] == "here")
    for row in rows[2:]:
      assert len(row) == len(rows[0]), row
      assert _figures(row[here]) <= _figures(measured), row
      seen += len(_figures(row[here]))
  assert seen > 100


def test_experiments_of_papers_say_what_to_expect():
  """Number and time at the top of each; its figures are those measured."""
  root = _DOCS.parent
  measured = _figures((root / "experiments" / "README.md").read_text())
  page = (_DOCS / "papers.md").read_text()
  named = sorted(set(re.findall(r"python -m experiments\.(\w+)", page)))
  assert len(named) > 15
  for name in named:
    source = (root / "experiments" / f"{name}.py").read_text()
    paragraphs = ast.get_docstring(ast.parse(source)).split("\n\n")
    told = [each for each in paragraphs if each.startswith("Expect")]
    assert len(told) == 1, name
    assert re.search(r"\b(minutes?|hours?|min)\b", told[0]), name
    # Sizes and plain counts are words of the command.
    figures = {each for each in _figures(told[0]) if "." in each}
    assert figures, name
    assert figures <= measured, (name, figures - measured)


def test_commits_of_papers_are_there():
  root = _DOCS.parent
  ask = lambda *words, **more: subprocess.run(
    ["git", *words], cwd=root, capture_output=True, text=True, **more
  )
  if ask("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
    pytest.skip("the history is not here")
  named = re.findall(r"\b[0-9a-f]{7}\b", (_DOCS / "papers.md").read_text())
  named = {name for name in named if re.search(r"[a-f]", name)}
  lines = "".join(f"{name}\n" for name in sorted(named))
  done = ask("cat-file", "--batch-check", input=lines)
  assert len(named) > 20 and "missing" not in done.stdout, done.stdout


def test_results_that_show_themselves_are_those_that_are_listed():
  for path in (_DOCS.parent / "spex_jax").rglob("*.py"):
    if "shown.Shown)" in path.read_text():
      name = path.relative_to(_DOCS.parent).with_suffix("")
      importlib.import_module(".".join(name.parts))
  text = (_DOCS / "how_to" / "pictures.md").read_text()
  _, _, table = text.partition("## Results that show themselves")
  found = re.findall(r"`(?:\w+\.)?([A-Z]\w+)`", table)
  classes = [
    each.__name__
    for each in shown.Shown.__subclasses__()
    if each.__module__.startswith("spex_jax.")
  ]
  assert sorted(found) == sorted(classes)


def test_every_figure_of_the_pictures_page_is_there():
  text = (_DOCS / "how_to" / "pictures.md").read_text()
  for room, name in re.findall(r"`report\.(?:(\w+)\.)?(\w+)", text):
    place = importlib.import_module(f"spex_jax.report.{room}".rstrip("."))
    assert hasattr(place, name), (room, name)
