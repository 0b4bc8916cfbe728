"""What an interpreter gives, and what it is: a function of a query."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from spex_jax.agents.find import functions


@dataclasses.dataclass(frozen=True)
class Answer:
  """An interpretation.

  Attributes:
    description: what the function does, in words.
    domain: the interval where the function is odd, `low` and `high`; None.
    code: a program `f(x)`, run in a sandbox alone.
    family: a name, as `naming.canonical` has it; "" for none.
    parameters: likewise; None where the answer says none.
    sets: of inputs that act together, of a `setfn`.
    transcript: what was said on the way, of a language model, with the
      `tokens` and the `money` of each reply.
    error: what ended it early; then it scores 0.
  """

  description: str
  code: str
  domain: Mapping[str, float] | None = None
  family: str = ""
  parameters: Mapping[str, Any] | None = None
  sets: tuple[tuple[int, ...], ...] | None = None
  transcript: tuple[Mapping[str, Any], ...] = ()
  error: str = ""


Interpreter = Callable[[functions.Query, int], Answer]
