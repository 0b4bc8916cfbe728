"""`spex serve`, `spex find serve`: a model or a function on this machine."""

import pathlib
import sys
from collections.abc import Sequence

from spex_jax.agents import loopback, serving
from spex_jax.agents.find import functions, generating, served
from spex_jax.agents.running import BUDGETS


def run(words: Sequence[str], model: str | None, port: int) -> None:
  """Serves a language model until it is interrupted.

  Args:
    words: none.
    model: a directory or a hub name.
    port: 0 for a free one.

  Raises:
    ValueError: words, no model, or one that cannot be served.
  """
  if words or not model:
    raise ValueError("`spex serve` needs --model=DIR_OR_NAME, and no word.")
  from spex_jax import models  # Slow to import.

  name = pathlib.Path(model).name
  own = serving.Model(models.load(model), name)
  server = loopback.Server(own.routes(), port)
  print(f"{name} at {server.url}/v1", flush=True)
  server.forever()


def function(
  words: Sequence[str],
  category: str,
  seed: int,
  number: int,
  budget: int | None,
  port: int | None,
) -> None:
  """Serves one function: over the standard input and output, or over HTTP.

  Args:
    words: none.
    category: of the function.
    seed: likewise.
    number: likewise.
    budget: of queries; None for the usual one.
    port: None for the pipe, 0 for a free one.

  Raises:
    ValueError: words, or what `generate` refuses.
  """
  if words:
    raise ValueError(f"unexpected argument {words[0]!r}; see --help.")
  (own,) = generating.generate(seed, category, 1, number)
  query = functions.Query(own, budget or BUDGETS[category])
  if port is None:

    def write(line: str) -> None:
      sys.stdout.write(line)
      sys.stdout.flush()

    served.pipe(query, sys.stdin, write)
    return
  server = loopback.Server(served.routes(query), port)
  print(f"{own.name} at {server.url}/query", flush=True)
  server.forever()
