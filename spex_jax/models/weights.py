"""How a checkpoint's tensors become parameters: one rule per kind of tensor."""

from typing import NamedTuple


class Rule(NamedTuple):
  r"""Where the tensors of some checkpoint keys go.

  Attributes:
    pattern: regular expression that a whole key must match.
    path: of the parameter, parts joined by "/", with the pattern's groups
      (`blocks_\1/attn/q/kernel`); "" for a tensor that is not needed.
    transform: name of what is done to the tensor, perhaps with an argument
      behind a colon; "" for nothing.
  """

  pattern: str
  path: str
  transform: str = ""
