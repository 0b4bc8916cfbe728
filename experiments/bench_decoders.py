"""Decoders of uniform masks on recorded games, beside shapiq's and the lasso.

  python -m experiments.record_games --output=games --seed=1
  python -m experiments.bench_decoders --games=games --output=rows.jsonl

Every decoder is given the first N recorded masks of a game, for each budget N,
and scored by R^2 on masks that it never saw, with all its terms and with the
10, 30, 100 and 300 largest (the empty set is free). Ours is called with every
compiled program dropped, so `first_s` has all compilation in it, then again:
`best_s`. A peer's seconds are of its whole fit, in its own process, in the same
run; rows of an earlier run are taken by `--peer_rows` if they are of the very
same samples. LightGBM's threads wait for each other on so few samples: with one
of them (`--peer_threads`) a fit took 16 s that took over 80 with its default.
A fit that fails is a row too.

Prints a JSON line per fit, a markdown table, and each criterion with what was
measured. `--figures` draws R^2 against budget and against number of terms.
Expect 20 minutes for eight games at 512, 1,024 and 4,096 masks on 2 CPU cores,
most of them the peers'.

Shapes: n players, B masks, R test masks.
"""

import functools
import pathlib
import zlib
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import app, flags

import spex_jax as spex
from experiments import command, decoder_figures, decoder_report, games, rows
from spex_jax.fourier import sparse
from third_party import process, shapiq_peer

SIZES = (10, 30, 100, 300)
_MOST_PAIRED = 120  # Players: the lasso of order 2 is not run beyond.


def fingerprint(game: games.Recording, budget: int) -> str:
  """Of the samples and the test values: equal rows are of equal samples."""
  parts = game.masks[:budget], game.values[:budget], game.test_values
  return f"{zlib.crc32(b''.join(part.tobytes() for part in parts)):08x}"


def scores(fourier: sparse.SparseFourier, game: games.Recording) -> rows.Row:
  """R² at the test masks, of all terms and of the largest."""
  told = lambda f, name: rows.r2(game.test_values, f(game.test_masks), name)
  row = {"terms": sum(1 for members, _ in fourier.terms() if members)}
  row |= told(fourier, "r2")
  for k in SIZES:
    row |= told(fourier.truncate(k), f"r2@{k}")
  return row


def coverage(
  explanation: spex.Explanation, game: games.Recording
) -> float | None:
  """Share of test values inside the 90 % interval; None if none is known."""
  if explanation.errors is None:
    return None
  low, high = explanation.interval(game.test_masks, 0.9)
  inside = (low <= game.test_values) & (game.test_values <= high)
  return round(float(inside.mean()), 4)


def ours(
  game: games.Recording, budget: int, method: str, repeats: int
) -> rows.Row:
  """One of our decoders on the first `budget` samples."""
  masks, values = game.masks[:budget], game.values[:budget]
  found: list[spex.Explanation] = []

  def fit():
    found.append(spex.decode(masks, values, method=method))

  jax.clear_caches()
  first, best = rows.seconds(fit, repeats=repeats)
  explanation = found[-1]
  stated, error = explanation.faithfulness, explanation.faithfulness_std
  return {
    "first_s": round(first, 3),
    "best_s": round(best, 3),
    "spoke": explanation.method,
    "stated": None if stated is None else round(float(stated), 4),
    "stated_std": None if stated is None else round(float(error), 4),
    "coverage": coverage(explanation, game),
    "notes": list(explanation.notes),
  } | scores(explanation.fourier, game)


def theirs(
  peer: shapiq_peer.Shapiq, game: games.Recording, budget: int, method: str
) -> Iterator[rows.Row]:
  """One of the peer's decoders; ProxySPEX brings a row of its trees."""
  fit = peer.decode(
    game.masks[:budget],
    game.values[:budget],
    game.test_masks,
    method=method,
    seed=0,
  )
  seconds = {
    "first_s": round(fit.seconds[0], 3),
    "best_s": round(min(fit.seconds), 3),
  }
  fourier = sparse.SparseFourier.from_supports(fit.supports, fit.coefs)
  yield {"method": method} | seconds | scores(fourier, game)
  if fit.trees is not None:
    told = rows.r2(game.test_values, fit.trees)
    yield {"method": "trees"} | seconds | told


def run(
  recordings: Sequence[games.Recording],
  budgets: Sequence[int],
  methods: Sequence[str],
  peer_methods: Sequence[str] = (),
  *,
  peer: Callable[[], shapiq_peer.Shapiq] = shapiq_peer.Shapiq,
  peer_rows: Sequence[rows.Row] = (),
  repeats: int = 1,
) -> Iterator[rows.Row]:
  """Yields a row per fit, as soon as it is measured.

  Args:
    recordings: the games.
    budgets: masks to fit on.
    methods: of `spex.decode`.
    peer_methods: of `shapiq_peer.DECODERS`.
    peer: starts the peer, at first and whenever it has died.
    peer_rows: of an earlier run: those of the games and budgets asked for are
      yielded in place of fits.
    repeats: later calls of ours.

  Raises:
    ValueError: a game with fewer masks than a budget, or peer rows of other
      samples.
  """
  common = rows.common("decoders")
  with process.Kept(peer) as running:
    for game in recordings:
      for budget in budgets:
        if budget > len(game.masks):
          raise ValueError(
            f"{game.name} has {len(game.masks)} masks; a budget is {budget}."
          )
        cell = {
          "game": game.name,
          "n": game.n,
          "budget": budget,
          "samples": fingerprint(game, budget),
        }
        known = _known(peer_rows, cell)
        yield from known
        for method in peer_methods:
          done = any(row["method"] == method for row in known)
          if done or (method == "lasso2" and game.n > _MOST_PAIRED):
            continue
          head = common | cell | {"side": "peer"}
          now = running()
          try:
            for row in theirs(now, game, budget, method):
              yield head | row
          except process.PeerError as error:
            yield head | {"method": method, "error": str(error)[-500:]}
        for method in methods:
          head = common | cell | {"side": "ours", "method": method}
          try:
            yield head | ours(game, budget, method, repeats)
          except Exception as error:  # Other cells may still be measured.
            text = f"{type(error).__name__}: {error}"
            yield head | {"error": text[-500:]}


def _known(peer_rows, cell):
  same = [
    row
    for row in peer_rows
    if row["side"] == "peer"
    and (row["game"], row["budget"]) == (cell["game"], cell["budget"])
  ]
  if any(row["samples"] != cell["samples"] for row in same):
    raise ValueError(
      f"The peer rows of {cell['game']} at {cell['budget']} masks are of other "
      "samples; run the peers again."
    )
  return same


def main(argv):
  """Prints rows, table and criteria; writes where the flags say."""
  del argv
  args = flags.FLAGS
  paths = sorted(pathlib.Path(args.games).glob("*.npz"))
  if not paths:
    raise app.UsageError(f"No recorded games (*.npz) in {args.games}.")
  threads = args.peer_threads or None
  found = run(
    [games.load(path) for path in paths],
    [int(budget) for budget in args.budgets],
    args.methods,
    args.peers,
    peer=functools.partial(shapiq_peer.Shapiq, threads=threads),
    peer_rows=rows.read(args.peer_rows) if args.peer_rows else (),
    repeats=args.repeats,
  )
  measured = rows.write(found, args.output)
  if args.figures:
    decoder_figures.draw(measured, pathlib.Path(args.figures))
  print(decoder_report.table(measured))
  print()
  print(decoder_report.verdicts(measured))


if __name__ == "__main__":
  flags.DEFINE_string("games", None, "Folder of recorded games.", required=True)
  flags.DEFINE_list("budgets", ["512", "1024", "4096"], "Masks to fit on.")
  flags.DEFINE_list("methods", ["auto"], "Of ours.")
  peers = shapiq_peer.DECODERS
  command.some_of("peers", peers, peers, "Of shapiq's")
  flags.DEFINE_integer("peer_threads", 1, "Of its OpenMP; 0 for its default.")
  flags.DEFINE_string("peer_rows", None, "Rows of the peers' earlier run.")
  flags.DEFINE_integer("repeats", 1, "Calls of ours after the first.")
  flags.DEFINE_string("figures", None, "Folder for the figures.")
  command.run(main)
