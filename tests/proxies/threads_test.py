"""Fits side by side: the answers of one after the other, and no trace left."""

import threading

import jax
import numpy as np
import pytest
import threadpoolctl

from spex_jax.proxies import threads


def test_answers_in_order_by_more_than_one_thread(monkeypatch):
  monkeypatch.setattr(threads.os, "cpu_count", lambda: 3)
  barrier = threading.Barrier(3, timeout=60)  # Passed by three together alone.

  def fit(item):
    barrier.wait()
    return item**2, threading.get_ident()

  squares, who = zip(*threads.side_by_side(fit, range(6)))
  assert squares == (0, 1, 4, 9, 16, 25)
  assert threading.get_ident() not in who


@pytest.mark.parametrize("why", ["one core", "accelerator", "one item"])
def test_one_after_the_other(monkeypatch, why):
  monkeypatch.setattr(threads.os, "cpu_count", lambda: 1 + (why != "one core"))
  if why == "accelerator":
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  items = range(1 if why == "one item" else 3)
  who = threads.side_by_side(lambda _: threading.get_ident(), items)
  assert set(who) == {threading.get_ident()}


def test_context_and_errors_go_through(monkeypatch):
  monkeypatch.setattr(threads.os, "cpu_count", lambda: 2)
  limits = lambda: [
    one["num_threads"] for one in threadpoolctl.threadpool_info()
  ]
  before = limits()
  caller, raised = (
    np.errstate(divide="raise"),
    pytest.raises(FloatingPointError),
  )
  with caller, raised:
    threads.side_by_side(lambda x: np.ones(1) / x, (1.0, 0.0))
  assert limits() == before
