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
    words: arguments of the command, which takes none.
    model: a directory, or a name on the hub.
    port: the port it listens at; 0 for a free one.

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
    words: arguments of the command, which takes none.
    category: the category of the function, of `generating.CATEGORIES`.
    seed: the seed of the benchmark that it is of.
    number: its number in that benchmark, from 0.
    budget: how many inputs may be asked; None for the category's usual number.
    port: the port it listens at, 0 for a free one; None for the pipe.

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
