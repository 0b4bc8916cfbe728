"""The benchmark of decoders runs; its figures are those of the rows."""

import dataclasses
import math

import numpy as np
import pytest

import spex_jax as spex
from experiments import bench_decoders, decoder_figures, decoder_report, games
from spex_jax.fourier import sparse
from third_party import process, shapiq_peer


def _game(name="planted6-1", seed=0, num_masks=64):
  return games.record(
    games.planted(seed, 6, 5, None), name, seed, num_masks, 40
  )


class _Peer:
  """Stands for shapiq: finds the truth, but dies of the second lasso."""

  started = 0

  def __init__(self):
    type(self).started += 1
    self.alive = True

  def decode(self, masks, values, test_masks, *, method, seed):
    if method == "lasso2":
      self.alive = False
      raise process.PeerError("The peer ended")
    supports = np.eye(6, dtype=bool)[:2]
    trees = np.full(len(test_masks), 3.0) if method == "proxyspex" else None
    return shapiq_peer.Fit(supports, np.array([1.0, 2.0]), trees, (0.5, 0.25))

  def close(self):
    self.alive = False


@pytest.mark.slow
def test_rows_of_both_sides():
  game = _game()
  _Peer.started = 0
  rows = list(
    bench_decoders.run(
      [game],
      [32, 64],
      ["lasso", "nonsense"],
      ["lasso2", "proxyspex", "lasso1"],
      peer=_Peer,
    )
  )
  assert [(r["budget"], r["side"], r["method"]) for r in rows] == [
    (budget, *who)
    for budget in (32, 64)
    for who in (
      ("peer", "lasso2"),
      ("peer", "proxyspex"),
      ("peer", "trees"),
      ("peer", "lasso1"),
      ("ours", "lasso"),
      ("ours", "nonsense"),
    )
  ]
  # A new one for each that died.
  assert _Peer.started == 3
  crash, peer, trees, _, ours, failed = rows[:6]
  assert crash["error"] == "The peer ended"
  assert failed["error"].startswith("ValueError: Unknown method")
  fourier = sparse.SparseFourier.from_terms(6, [((0,), 1.0), ((1,), 2.0)])
  truth, guess = game.test_values, fourier(game.test_masks)
  total = ((truth - truth.mean()) ** 2).sum()
  assert peer["r2"] == round(1 - ((truth - guess) ** 2).sum() / total, 4)
  assert trees["r2"] == round(1 - ((truth - 3) ** 2).sum() / total, 4)
  assert (peer["first_s"], peer["best_s"], peer["terms"]) == (0.5, 0.25, 2)
  assert ours["first_s"] > 0 and ours["best_s"] > 0
  assert ours["r2@300"] == ours["r2"] <= 1
  assert ours["spoke"] == "lasso" and ours["samples"] == peer["samples"]


def test_terms_are_counted_without_the_empty_set_which_is_free():
  game = _game()
  terms = [((), 9.0)] + [((i,), float(i + 1)) for i in range(6)]
  terms += [((i, (i + 1) % 6), 0.1 + 0.1 * i) for i in range(6)]
  fourier = sparse.SparseFourier.from_terms(6, terms)
  row = bench_decoders.scores(fourier, game)
  assert row["terms"] == 12 and row["r2@30"] == row["r2"]
  largest = sorted(terms[1:], key=lambda term: -abs(term[1]))[:10]
  guess = 9.0 + sum(
    c * (1 - 2.0 * game.test_masks[:, s]).prod(1) for s, c in largest
  )
  truth = game.test_values
  total = ((truth - truth.mean()) ** 2).sum()
  expected = 1 - ((truth - guess) ** 2).sum() / total
  # Four decimals are kept.
  assert row["r2@10"] == pytest.approx(expected, abs=1e-4)
  assert row["r2@10"] != row["r2"]


def test_known_rows_stand_for_the_peer_if_of_the_same_samples():
  game = _game()
  known = {
    "game": game.name,
    "budget": 32,
    "side": "peer",
    "method": "lasso1",
    "samples": bench_decoders.fingerprint(game, 32),
    "r2": 0.5,
  }
  _Peer.started = 0
  run = lambda row: list(
    bench_decoders.run(
      [game], [32], [], ["lasso1"], peer=_Peer, peer_rows=[row]
    )
  )
  assert run(known) == [known] and _Peer.started == 0
  with pytest.raises(ValueError, match="planted6-1 at 32 masks are of other"):
    run(known | {"samples": "0"})
  # Another budget's are not taken.
  assert len(run(known | {"budget": 64})) == 1 and _Peer.started == 1


def test_a_budget_beyond_the_recording_is_refused():
  with pytest.raises(
    ValueError, match="planted6-1 has 64 masks; a budget is 9"
  ):
    list(bench_decoders.run([_game()], [96], ["lasso"]))


def test_equal_samples_have_equal_fingerprints():
  game = _game()
  same = bench_decoders.fingerprint(_game("other"), 32)
  assert bench_decoders.fingerprint(game, 32) == same
  assert bench_decoders.fingerprint(game, 33) != same
  values = game.values.copy()
  values[31] += 1e-9
  changed = dataclasses.replace(game, values=values)
  assert bench_decoders.fingerprint(changed, 32) != same


def test_coverage_is_of_the_ninety_percent_interval():
  game = _game()
  explanation = spex.decode(game.masks[:48], game.values[:48], method="lasso")
  # Errors as of a smaller game's, so that some of its values lie outside.
  explanation = dataclasses.replace(explanation, errors=explanation.errors / 4)
  low, high = explanation.interval(game.test_masks, 0.9)
  hits = [a <= v <= b for a, v, b in zip(low, game.test_values, high)]
  assert 0 < sum(hits) < len(hits)
  share = bench_decoders.coverage(explanation, game)
  assert share == round(sum(hits) / len(hits), 4)
  untested = dataclasses.replace(explanation, errors=None)
  assert bench_decoders.coverage(untested, game) is None


def _row(game, budget, side, method, r2, **more):
  row = {"game": game, "budget": budget, "side": side, "method": method}
  return row | {"r2": r2, "r2@30": r2, "terms": 3, "best_s": 2.0} | more


_ROWS = [
  _row("cancer30-1", 1024, "ours", "auto", 0.99, coverage=0.9, spoke="spex"),
  _row("cancer30-1", 1024, "peer", "proxyspex", 0.95, best_s=4.0),
  _row("cancer30-1", 1024, "peer", "lasso2", 0.98),
  _row("pixels64", 1024, "ours", "auto", 0.88, coverage=0.97),
  _row("pixels64", 1024, "peer", "proxyspex", 0.84, best_s=6.0),
  {"game": "pixels64", "budget": 1024, "side": "peer", "method": "lasso2"}
  | {"error": "segmentation fault"},
  _row("pixels64", 1024, "peer", "trees", 0.92),
  _row("hierarchy100", 1024, "ours", "auto", 0.9995),
]


def test_margins_and_ratios_by_hand():
  found = decoder_report.cells(_ROWS)
  assert decoder_report.margins(found) == pytest.approx(
    {("cancer30-1", 1024): 0.01, ("pixels64", 1024): -0.04}
  )
  assert decoder_report.margins_at_30(found) == pytest.approx(
    {("cancer30-1", 1024): 0.04, ("pixels64", 1024): 0.04}
  )
  # .01 / .02 and .12 / .08; hierarchy100 is not natural, and has no peer.
  expected = math.sqrt(0.5 * 1.5)
  assert decoder_report.error_ratio(found, 1024) == pytest.approx(expected)
  assert decoder_report.error_ratio(found, 512) is None
  perfect = [*_ROWS, _row("cancer30-1", 1024, "ours", "auto", 1.0)]
  assert decoder_report.error_ratio(
    decoder_report.cells(perfect), 1024
  ) == pytest.approx(math.sqrt(0.1 * 1.5))


def test_criteria_are_met_missed_or_not_measured():
  failed = _ROWS[0] | {"game": "x", "error": "ValueError: a |\n b"}
  lines = decoder_report.verdicts([*_ROWS, failed]).splitlines()
  word = lambda text: [
    line.split(" | ")[0].strip("| ") for line in lines if text in line
  ]
  assert word("worst of 2 cells (pixels64 at 1024)")[0] == "MISSED"
  assert word("R² with 30 terms") == ["met"]
  assert word("hierarchy100") == ["met"]
  assert word("neurons860") == ["–"]
  assert word("natural games, 1024") == ["MISSED"]
  assert word("90 % interval, least") == ["met"]
  assert word("90 % interval, most") == ["MISSED"]
  assert word("(4.0 s over 10.0 s): at most 1") == ["met"]
  assert word("| x 1024 auto | ValueError: a / b |") == ["FAILED"]
  assert word("pixels64 1024 lasso2 (peer)") == ["crash"]


def test_the_table_has_a_line_for_each_cell():
  table = decoder_report.table(_ROWS)
  (line,) = (x for x in table.splitlines() if x.startswith("| pixels64 "))
  assert "| 0.880 (3) | 0.880 |" in line
  assert "| 0.840 (3) | 0.840 | 0.920 | – | crash | -0.040 |" in line
  assert len(table.splitlines()) == 2 + 3
  gram = _row("pixels64", 1024, "ours", "gram", 0.5)
  other = decoder_report.table([*_ROWS, gram]).split("\n\n")[1]
  assert "| pixels64 | 1024 | 0.500 (3), 2.0 s |" in other


def test_figures_show_every_game(tmp_path):
  sizes = {f"r2@{size}": 0.1 for size in (10, 100, 300)}
  rows = [row | sizes for row in _ROWS if "error" not in row]
  decoder_figures.draw(rows, tmp_path / "new")
  for name in ("r2_by_budget.png", "r2_by_terms.png"):
    content = (tmp_path / "new" / name).read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 10_000
