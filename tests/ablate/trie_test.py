"""Rows that begin alike are run once: beside a run of its own for each mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from spex_jax.ablate import likelihoods, readouts, trie
from spex_jax.context import sources
from tests.context import games
from tests.models import checkpoints

_PLAYERS, _END, _FIRST = [[3, 1], [4], [4, 15, 9], [2]], [6, 5], [7]
_ANSWER = [8, 2, 8]


def _prompt(count):
  """Players, and behind them what stays, with `count` tokens of an answer."""
  end = [*_END, *_ANSWER[:count]]
  return sources.of_ids(_PLAYERS, end, games.tokenizer(), before=_FIRST).prompt


def _value_fn(read, count, **settings):
  net = checkpoints.compiled(checkpoints.GPT2)[0].net
  return trie.evaluator(
    net, _prompt(count), count, trie.score_of(read), params=net.params,
    tokenizer=games.tokenizer(), **settings,
  )  # fmt: skip


def _alone(mask, count):
  """Log-probabilities of the last predictions, of a run by itself."""
  some = [i for ids, kept in zip(_PLAYERS, mask) if kept for i in ids]
  run = [*_FIRST, *some, *_END, *_ANSWER[: max(count - 1, 0)]]
  logits = checkpoints.compiled(checkpoints.GPT2)[0].logits(run)
  return special.log_softmax(logits[-max(count, 1) :], axis=-1)


@pytest.mark.parametrize(("block", "rows"), [(2, 3), (16, None)])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_each_row_is_a_run_of_its_own(count, block, rows):
  masks = games.masks(len(_PLAYERS))
  read = likelihoods.continuation(count, reduce=None) if count else (
    readouts.log_probability([8, 2])
  )  # fmt: skip
  value_fn = _value_fn(read, count, block=block, batch_size=rows)
  # In any order, and the same mask more than once.
  order = np.random.default_rng(0).permutation(np.tile(np.arange(16), 2))
  found = value_fn(masks[order])
  for row, mask in enumerate(masks[order]):
    logs = _alone(mask, count)
    want = logs[range(count), _ANSWER[:count]] if count else logs[0, [8, 2]]
    # Two blocks in float32, whose sums have another order.
    np.testing.assert_allclose(found[row], want, atol=2e-5)


def test_one_player_and_one_mask():
  value_fn = _value_fn(readouts.margin(8, 2), 0)
  mask = np.array([[False, True, False, False]])
  logs = _alone(mask[0], 0)[0]
  np.testing.assert_allclose(value_fn(mask), [logs[8] - logs[2]], atol=2e-5)
  assert value_fn.stats.evaluations == 1


def test_what_cannot_be_run_behind_a_cache():
  net = checkpoints.compiled(checkpoints.GPT2)[0].net
  tokenizer = games.tokenizer()
  assert trie.fits(net, _prompt(0), 0) and trie.fits(net, _prompt(3), 3)
  # Nothing stays before the answer: its first token is predicted by nothing.
  bare = sources.of_ids(_PLAYERS, _ANSWER, tokenizer).prompt
  assert trie.fits(net, bare, 0) and not trie.fits(net, bare, 3)
  with pytest.raises(MemoryError, match="raise memory_limit"):
    _value_fn(readouts.logit(8), 0, memory_limit=1 << 10)


def test_a_cache_is_affordable_up_to_the_limit_and_on_one_device(monkeypatch):
  net, whole = checkpoints.compiled(checkpoints.GPT2)[0].net, _prompt(0)
  monkeypatch.setattr(jax, "device_count", lambda: 1)
  need = trie.cache_bytes(net, whole, jnp.float32)
  for dtype, bytes_ in [(None, need), (jnp.bfloat16, need // 2)]:
    of = lambda limit, dtype=dtype: trie.affordable(
      net, whole, net.params, dtype=dtype, memory_limit=limit
    )
    assert of(bytes_) and not of(bytes_ - 1)
  assert trie.affordable(net, whole, net.params)  # Of 1 GiB.
  monkeypatch.setattr(trie, "limit_of", lambda limit: need - 1)
  assert not trie.affordable(net, whole, net.params)
  monkeypatch.undo()
  monkeypatch.setattr(jax, "device_count", lambda: 2)
  assert not trie.affordable(net, whole, net.params)


def test_a_score_reads_what_its_readout_reads():
  logits = np.random.default_rng(0).normal(size=(2, 3, 16)).astype(np.float32)
  rows = special.log_softmax(logits, axis=-1)
  words = np.array([_ANSWER, _ANSWER[::-1]])
  read = likelihoods.continuation(3, reduce=None)
  found = trie.score_of(read)(jnp.asarray(logits), jnp.asarray(words))
  want = np.take_along_axis(rows, words[..., None], axis=-1)[..., 0]
  # A sum of 16 exponentials in float32.
  np.testing.assert_allclose(found, want, atol=1e-5)
  # Nothing is predicted but what comes next: no tokens are given.
  one = trie.score_of(readouts.margin(8, 2))
  found = one(jnp.asarray(logits[:, :1]), jnp.zeros((2, 0), jnp.int32))
  np.testing.assert_allclose(found, logits[:, 0, 8] - logits[:, 0, 2])
