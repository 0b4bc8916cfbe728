"""Waits that are told of, and end.

A user's function may never return: a server that does not answer, a lock. No
thread can be stopped from outside; so a limit ends the process, and what it
was at counts as a failed attempt. A function that hangs without letting other
threads run is beyond this; `launch.local --stall` ends that, too.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

LIMIT = 3600.0  # Seconds, by default.
_FIRST = 10.0  # Seconds before the first word; then twice as many.
_LEAVE = os._exit  # A value function has another, while it runs.


def _print(text: str) -> None:
  print(f"spex: {text}", file=sys.stderr, flush=True)


class Watch:
  """What a thread looks after while the main one waits."""

  def __init__(
    self,
    limit: float = LIMIT,
    *,
    first: float = _FIRST,
    tell: Callable[[str], None] = _print,
    end: Callable[[], None] = lambda: _LEAVE(os.EX_TEMPFAIL),
  ):
    """Nothing is waited for yet.

    Args:
      limit: seconds of one wait; 0 for no end.
      first: seconds before it is told of.
      tell: shows a line of text; prints it by default.
      end: ends the process; a test replaces it.

    Raises:
      ValueError: a limit that is no number of seconds.
    """
    if not limit >= 0:
      raise ValueError(f"stall={limit}: seconds, from 0 (no limit) up.")
    self._limit, self._first = limit, first
    self._tell, self._end = tell, end

  @contextlib.contextmanager
  def on(self, what: str, lost: Callable[[str], None]) -> Iterator[None]:
    """Looks after the block.

    Args:
      what: what is waited for, in words, for the lines that are told.
      lost: notes why, before the process is ended.
    """
    over = threading.Event()
    thread = threading.Thread(
      target=self._look, args=(what, lost, over), daemon=True
    )
    thread.start()
    try:
      yield
    finally:
      over.set()
      thread.join()

  def _look(
    self, what: str, lost: Callable[[str], None], over: threading.Event
  ) -> None:
    begin, word = time.monotonic(), self._first
    while True:
      ends = self._limit or float("inf")
      passed = time.monotonic() - begin
      if over.wait(max(min(word, ends) - passed, 0.0)):
        return
      passed = time.monotonic() - begin
      if passed >= ends:
        break
      if passed >= word:
        self._tell(f"waiting for {what}, since {passed:.0f} s")
        word *= 2
    cause = f"no answer within {self._limit:g} s (--stall), from {what}"
    with contextlib.suppress(Exception):  # A store that is away: end it still.
      lost(cause)
    self._tell(f"{cause}: ended; the same command goes on")
    self._end()
