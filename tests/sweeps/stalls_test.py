"""Waits are told of, and end; signals that ask a sweep to end."""

import os
import signal
import threading

import pytest

from spex_jax.sweeps import processes, stalls


def test_a_wait_is_told_of_and_ends():
  said, lost, ended = [], [], threading.Event()
  watch = stalls.Watch(0.3, first=0.02, tell=said.append, end=ended.set)
  with watch.on("the values of 3 rows", lost.append):
    assert ended.wait(60)
  assert said[0].startswith("waiting for the values of 3 rows, since ")
  assert "no answer within 0.3 s" in said[-1] and "3 rows" in said[-1]
  assert lost == ["no answer within 0.3 s (--stall), from the values of 3 rows"]


def test_what_returns_is_not_told_of():
  said = []
  watch = stalls.Watch(60, first=60, tell=said.append, end=said.clear)
  for _ in range(3):
    with watch.on("it", said.append):
      pass
  with pytest.raises(KeyError), watch.on("it", said.append):
    raise KeyError
  assert said == [] and threading.active_count() < 50
  with pytest.raises(ValueError, match="stall=nan"):
    stalls.Watch(float("nan"))


def test_a_terminal_that_goes_asks_to_end():
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  try:
    with processes.until_signalled() as asked:
      assert not asked()
      os.kill(os.getpid(), signal.SIGHUP)
      assert asked()
    # Under nohup it is no word of anybody.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with processes.until_signalled() as asked:
      os.kill(os.getpid(), signal.SIGHUP)
      assert not asked()
  finally:
    signal.signal(signal.SIGHUP, before)
