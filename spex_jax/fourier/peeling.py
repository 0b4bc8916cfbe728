"""Bin tests and the peeling loop: folded values to a sparse support.

Every bin holds the sum of a few coefficients, each signed by the parities of
its set. A round reads candidate sets out of all bins at once, tests each on
all groups, adds the significant ones to the support, solves for all
coefficients, and looks again at what is left. Rounds use the cheapest reading
that still finds something:

  hard   one word a bin: the signs of its P values
  soft   Chase decoding over the least reliable signs
  joint  the same on sums of bins of different groups that agree in their
         signs, both signs of the reference tried

Source: SPEX (arXiv 2502.13870), section 4 and appendix. Deviations: joint
reading; a candidate must be significant in the groups it was not read from
(the peer tests its own bin alone); coefficients are the least-squares
solution after every round, where the peer averages; many bins peel at once.

Shapes: n players, C groups, B = 2^b bins a group, P delays, R = P - 1 parity
rows, K capacity, D = t players a set, W candidates, H rows read at once.
"""

import dataclasses
import enum
from collections.abc import Callable

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.fourier import folding
from spex_jax.masks import bch

_POSITIONS = 1 << 24  # Positions searched at once: 64 MB an array.


class Status(enum.IntEnum):
  """How peeling ended; read it on the host, it is never raised under jit."""

  RUNNING = 0
  EXPLAINED = 1  # The energy left fell below the cutoff.
  STALLED = 2  # No reading found another significant set.
  FULL = 3  # `capacity` was reached: raise it and decode again.
  ROUNDS = 4  # `max_rounds` were used up.


@dataclasses.dataclass(frozen=True)
class Settings:
  """What peeling may do; static under jit.

  Attributes:
    readings: names of readings, cheapest first: "hard", "soft", "joint".
    capacity: K, sets the support can hold.
    max_rounds: rounds of reading, all kinds together.
    cutoff: the share of the energy at which a function counts as explained;
      float32 leaves about 1e-12.
    num_flips: least reliable parities that soft reading may flip (2t in the
      paper).
    num_patterns: flip patterns it tries; t'(t' + 1) / 2 + 1, t' = num_flips.
    joint_flips: the same for joint reading.
    joint_patterns: the same for joint reading.
    bin_share: the least share of its bin's energy that a set must explain;
      0.1 is the paper's "multi-detect".
    z_set: the least significance over all groups, in standard errors.
    z_other: the same over the groups that a candidate was not read from.
    chunk: bins decoded at once; bounds working memory.
  """

  readings: tuple[str, ...] = ("hard", "soft")
  capacity: int = 512
  max_rounds: int = 100
  cutoff: float = 1e-9
  num_flips: int = 10
  num_patterns: int = 56
  joint_flips: int = 20
  joint_patterns: int = 200
  bin_share: float = 0.1
  z_set: float = 4.5
  z_other: float = 2.5
  chunk: int = 256


@flax.struct.dataclass
class Peeled:
  """The loop's state, and its result.

  Attributes:
    terms: the support; the empty set is in it from the start.
    coefs: `[K]` coefficients in the units of the folded values, 0 where unused.
    residual: `[C, B, P]` what is left.
    energy: mean square of the residual over that of the input, in [0, 1].
    reading: int32, the next reading: an index of `Settings.readings`.
    rounds: int32, the rounds of reading so far.
    status: int32, a `Status`.
  """

  terms: folding.Terms
  coefs: jax.Array
  residual: jax.Array
  energy: jax.Array
  reading: jax.Array
  rounds: jax.Array
  status: jax.Array


def read_words(
  geometry: folding.Geometry,
  rows: jax.Array,
  patterns: np.ndarray,
  keep: int,
  both_signs: bool,
) -> tuple[jax.Array, jax.Array]:
  """Candidate sets of observed rows. Batched over rows.

  Args:
    geometry: the plan's tables.
    rows: `[H, P]`, values of bins (or sums of bins); the first is the
      reference, whose set of parities is empty.
    patterns: bool `[Q, V]` flips.
    keep: candidates a row (and sign).
    both_signs: whether to distrust the sign of the reference too.

  Returns:
    int32 `[H, keep', D]` players, bool `[H, keep']` decodable; keep' is twice
    `keep` with `both_signs`.
  """
  chex.assert_shape(rows, (None, geometry.delays.shape[1]))
  chex.assert_type(rows, float)
  reference = jnp.where(rows[:, :1] < 0, -1.0, 1.0)
  words = [rows[:, 1:] * reference]
  if both_signs:
    words.append(-words[0])
  players, decoded = bch.decode_chase(
    geometry.code, jnp.concatenate(words), patterns, keep
  )
  split = len(rows), len(words) * players.shape[1]
  stack = lambda x: jnp.concatenate(jnp.split(x, len(words)), axis=1)
  return stack(players).reshape(*split, -1), stack(decoded).reshape(split)


def agreeing_bins(
  bins: jax.Array, anchors: jax.Array, num_partners: int, keep: int
) -> tuple[jax.Array, jax.Array]:
  """Bins of the other groups whose values agree with an anchor's up to sign.

  A set sits in one bin of every group with the same parities, so the values
  of those bins correlate: the first partner is one of the strongest in one
  other group, the rest are the best match to the sum so far.

  Args:
    bins: `[C, B, P]`.
    anchors: int32 `[H]`, c B + j.
    num_partners: first partners tried in each other group, at most B.
    keep: tuples kept for an anchor.

  Returns:
    int32 `[H, keep, C]` the bin of each group, and `[H, keep, P]` the signed
    sum of the normalised bins.
  """
  chex.assert_rank([bins, anchors], [3, 1])
  chex.assert_type([bins, anchors], [float, int])
  num_groups, num_bins, num_delays = bins.shape
  scale = jax.lax.rsqrt((bins**2).mean(axis=2, keepdims=True) + 1e-30)
  unit = bins * scale
  flat = unit.reshape(-1, num_delays)
  num_partners = min(num_partners, num_bins)

  def one_anchor(anchor):
    home, start = anchor // num_bins, flat[anchor]
    found = []
    for hop in range(1, num_groups):
      group = (home + hop) % num_groups
      scores = unit[group] @ start
      _, partners = jax.lax.top_k(jnp.abs(scores), num_partners)
      sign = jnp.sign(scores[partners])[:, None]
      total = start[None] + sign * unit[group][partners]
      chosen = jnp.zeros((num_partners, num_groups), jnp.int32)
      chosen = chosen.at[:, home].set(anchor % num_bins)
      chosen = chosen.at[:, group].set(partners)
      strength = jnp.abs(scores[partners])
      for other in range(1, num_groups):
        if other == hop:
          continue
        third = (home + other) % num_groups
        match = total @ unit[third].T
        best = jnp.argmax(jnp.abs(match), axis=1)
        value = jnp.take_along_axis(match, best[:, None], axis=1)
        total = total + jnp.sign(value) * unit[third][best]
        strength = strength + jnp.abs(value[:, 0])
        chosen = chosen.at[:, third].set(best)
      found.append((strength, chosen, total))
    strength, chosen, total = (jnp.concatenate(x) for x in zip(*found))
    _, top = jax.lax.top_k(strength, min(keep, len(strength)))
    return chosen[top], total[top]

  return jax.vmap(one_anchor)(anchors)


def peel(
  geometry: folding.Geometry,
  bins: jax.Array,
  players: jax.Array,
  used: jax.Array,
  settings: Settings,
  first: int | jax.Array = 0,
  stop: int | jax.Array | None = None,
) -> Peeled:
  """Decodes folded values into a support and its coefficients.

  Args:
    geometry: the plan's tables.
    bins: float32 `[C, B, P]` folded values, of centred and scaled values.
    players: int32 `[K, D]` a support to start from. Row 0 is the empty set,
      always asked about: centring leaves a small mean.
    used: bool `[K]`, which rows of `players` count.
    settings: the loop's settings; static.
    first: int32, the reading to begin with, an index of `settings.readings`.
    stop: int32, one behind the last to use; None for all of them. Neither is
      static: stages of a decoder share a program.

  Returns:
    The final state; `status` says how it ended.
  """
  num_groups, num_delays = geometry.bins.shape[1], geometry.delays.shape[1]
  chex.assert_shape(bins, (num_groups, None, num_delays))
  chex.assert_shape(players, (settings.capacity, geometry.code.t))
  chex.assert_shape(used, (settings.capacity,))
  chex.assert_type([bins, players, used], [float, int, bool])
  code, capacity = geometry.code, settings.capacity
  num_bins = bins.shape[1]
  power = jnp.maximum((bins**2).mean(), 1e-30)
  readings = _readings(geometry, bins.shape, settings)
  stop = len(readings) if stop is None else stop

  def running(state):
    return state.status == Status.RUNNING

  def one_round(state):
    # Candidates, by the reading in turn.
    terms = state.terms
    branches = [
      lambda rest, f=f: _distinct(f(rest), terms, code.n) for f in readings
    ]
    players, score = jax.lax.switch(state.reading, branches, state.residual)
    added = score > 0
    # Free rows take the new sets, strongest first.
    order = jnp.argsort(terms.used, stable=True)
    room = capacity - terms.used.sum()
    fits = added & (jnp.arange(capacity) < room)
    slots = jnp.where(fits, order, capacity)
    merged = terms.players.at[slots].set(players, mode="drop")
    used = terms.used.at[slots].set(True, mode="drop")
    # All coefficients again, without sets that fail their tests.
    terms = folding.locate(geometry, merged, used)
    coefs, residual = folding.solve(terms, state.coefs, bins, steps=6)
    terms, coefs = _prune(terms, coefs, residual, settings)
    residual = bins - folding.expand(terms, coefs, num_bins)
    energy = (residual**2).mean() / power
    # Without progress the next reading has its turn.
    progress = fits.any() & (energy < state.energy * (1 - 1e-6))
    reading = jnp.where(progress, first, state.reading + 1)
    full = added.any() & (room <= 0)
    status = jnp.select(
      [
        energy <= settings.cutoff,
        full,
        reading >= stop,
        state.rounds + 1 >= settings.max_rounds,
      ],
      [Status.EXPLAINED, Status.FULL, Status.STALLED, Status.ROUNDS],
      Status.RUNNING,
    )
    return Peeled(
      terms=terms,
      coefs=coefs,
      residual=residual,
      energy=energy,
      reading=jnp.minimum(reading, stop - 1),
      rounds=state.rounds + 1,
      status=status.astype(jnp.int32),
    )

  # The state of the support given.
  terms = folding.locate(geometry, players, used)
  coefs, residual = folding.solve(terms, jnp.zeros(capacity), bins, steps=6)
  energy = (residual**2).mean() / power
  start = Peeled(
    terms=terms,
    coefs=coefs,
    residual=residual,
    energy=energy,
    reading=jnp.asarray(first, jnp.int32),
    rounds=jnp.int32(0),
    status=jnp.where(
      energy <= settings.cutoff, Status.EXPLAINED, Status.RUNNING
    ).astype(jnp.int32),
  )
  return jax.lax.while_loop(running, one_round, start)


def _readings(
  geometry: folding.Geometry, shape: tuple[int, ...], settings: Settings
) -> list[Callable]:
  """Functions from residual bins to candidate players `[W, D]`, score `[W]`.

  A score above 0 marks a candidate that passed every test.
  """
  code, num_rows = geometry.code, geometry.code.num_rows
  num_groups, num_bins, num_delays = shape
  num_anchors = num_groups * num_bins

  def patterns(num_flips, num_patterns):
    num_flips = min(num_flips, num_rows)
    return bch.chase_patterns(num_flips, min(num_patterns, 2**num_flips))

  hard = np.zeros((1, 1), bool)
  soft = patterns(settings.num_flips, settings.num_patterns)
  wide = patterns(settings.joint_flips, settings.joint_patterns)

  def score(bins, energy, players, decoded, rows):
    """Tests candidates `[W, D]` read from the bins `rows` `[W, C]`, or -1."""
    terms = folding.locate(geometry, players, decoded)
    here = folding.project(terms, bins)
    spread = energy[jnp.arange(num_groups)[None], terms.bins] + 1e-30
    share = here**2 / spread
    read = rows >= 0
    matches = (~read | (rows == terms.bins)).all(axis=1)
    enough = (~read | (share >= settings.bin_share)).any(axis=1)

    def z(which):
      weight = jnp.where(which, 1 / spread, 0)
      size = jnp.sqrt(num_delays / jnp.maximum(weight.sum(axis=1), 1e-30))
      return (here * weight).sum(axis=1) * size

    total = z(jnp.ones_like(read))
    other = z(~read) * jnp.sign(total)
    independent = (other >= settings.z_other) | read.all(axis=1)
    strong = jnp.abs(total) >= settings.z_set
    good = decoded & matches & enough & independent & strong
    return jnp.where(good, jnp.abs(total), 0.0)

  def by_anchor(read_chunk, chunk, width):
    # The search for roots holds every position of every candidate.
    room = _POSITIONS // (width * code.num_positions)
    chunk = max(1, min(chunk, room, num_anchors))

    def reading(bins):
      energy = (bins**2).mean(axis=2)
      # The last chunk repeats anchors: duplicates are merged later.
      starts = np.minimum(np.arange(0, num_anchors, chunk), num_anchors - chunk)
      players, scores = jax.lax.map(
        lambda start: read_chunk(bins, energy, start + jnp.arange(chunk)),
        jnp.asarray(starts),
      )
      return players.reshape(-1, code.t), scores.reshape(-1)

    return reading

  def single(patterns, keep):
    def read_chunk(bins, energy, anchors):
      rows = bins.reshape(num_anchors, num_delays)[anchors]
      players, decoded = read_words(geometry, rows, patterns, keep, False)
      width = players.shape[1]
      group, place = anchors // num_bins, anchors % num_bins
      home = jnp.where(
        group[:, None] == jnp.arange(num_groups)[None], place[:, None], -1
      )
      players = players.reshape(-1, code.t)
      from_bins = jnp.repeat(home, width, axis=0)
      return players, score(
        bins, energy, players, decoded.reshape(-1), from_bins
      )

    return by_anchor(read_chunk, settings.chunk, keep)

  def joint(bins, energy, anchors):
    chosen, total = agreeing_bins(bins, anchors, num_partners=8, keep=4)
    rows = total.reshape(-1, num_delays)
    players, decoded = read_words(geometry, rows, wide, 2, True)
    width = players.shape[1]
    from_bins = jnp.repeat(chosen.reshape(-1, num_groups), width, axis=0)
    players = players.reshape(-1, code.t)
    return players, score(bins, energy, players, decoded.reshape(-1), from_bins)

  by_name = {
    "hard": single(hard, 1),
    "soft": single(soft, min(4, len(soft))),
    # Every anchor is read in several sums and by more patterns.
    "joint": by_anchor(joint, settings.chunk // 8, 16),
  }
  return [by_name[name] for name in settings.readings]


def _distinct(candidates, terms, n):
  """The `[K]` best candidates: no repeats, none that the support holds."""
  players, score = candidates
  chex.assert_shape(players, (*score.shape, terms.players.shape[1]))
  # Two mixes of the players identify a set, up to a chance of 2^-64.
  salt = np.random.default_rng(0).integers(0, 2**32, (2, n + 1), np.uint64)
  salt = jnp.asarray(salt.astype(np.uint32)).at[:, n].set(0)

  def label(rows):
    mix = salt[:, rows]
    return jax.lax.reduce(mix, np.uint32(0), jax.lax.bitwise_xor, (2,))

  everything = jnp.concatenate([label(terms.players), label(players)], axis=1)
  rank = jnp.concatenate([jnp.where(terms.used, -jnp.inf, 0.0), -score])
  # Unused rows of the support must hide nothing.
  rank = rank.at[: len(terms.used)].set(jnp.where(terms.used, -jnp.inf, 1.0))
  order = jnp.lexsort((rank, everything[0], everything[1]))
  ordered = everything[:, order]
  repeat = (ordered[:, 1:] == ordered[:, :-1]).all(axis=0)
  repeat = jnp.concatenate([jnp.zeros(1, bool), repeat])
  repeats = jnp.zeros(len(rank), bool).at[order].set(repeat)
  score = jnp.where(repeats[len(terms.used) :], 0.0, score)
  best = jnp.argsort(-score, stable=True)[: len(terms.used)]
  fill = len(terms.used) - len(best)
  players = jnp.pad(players[best], ((0, fill), (0, 0)), constant_values=n)
  return players, jnp.pad(score[best], (0, fill))


def _prune(terms, coefs, residual, settings):
  """Drops sets whose coefficient is not significant in what is left."""
  chex.assert_equal_shape([coefs, terms.used])
  num_groups, _, num_delays = residual.shape
  energy = (residual**2).mean(axis=2) + 1e-30
  spread = energy[jnp.arange(num_groups)[None], terms.bins]
  error = jax.lax.rsqrt((num_delays / spread).sum(axis=1))
  empty = jnp.arange(len(coefs)) == 0
  # Looser than the entry test: a set must not come and go.
  significant = jnp.abs(coefs) >= 0.75 * settings.z_set * error
  kept = terms.used & (empty | significant)
  return terms.replace(used=kept), jnp.where(kept, coefs, 0)
