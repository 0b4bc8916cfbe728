"""What commands that talk to a model at an endpoint share of their settings."""

import dataclasses
import math
import os

from spex_jax import settings
from spex_jax.ablate import services
from spex_jax.agents import llm


@dataclasses.dataclass(frozen=True)
class Asking(settings.Settings):
  """An endpoint, and what a conversation with its models may cost."""

  endpoint: str = settings.field("", "where models are: https://HOST/v1")
  key_variable: str = settings.field(
    "OPENAI_API_KEY", "of the environment, which holds the endpoint's key"
  )
  tokens: int = settings.field(200_000, "of a conversation, at most", low=1)
  reply_tokens: int = settings.field(1024, "of a reply, at most", low=1)
  money: float | None = settings.field(
    None, "of a conversation, at most", above=0
  )
  price_prompt: float = settings.field(
    0.0, "of a million tokens of requests, in the unit of money", low=0
  )
  price_reply: float = settings.field(0.0, "likewise, of replies", low=0)

  def check(self) -> None:
    """Money is limited only where something has a price.

    Raises:
      settings.SettingError: a limit on money, and no price.
    """
    if self.money and not (self.price_prompt or self.price_reply):
      raise settings.SettingError("money", " needs prices.")


def service(
  config: Asking, most_bytes: int = services.Service.most_bytes
) -> services.Service:
  """The endpoint, with the key of the environment, if there is one."""
  key = os.environ.get(config.key_variable, "")
  return services.Service(config.endpoint, key, most_bytes=most_bytes)


def limits(
  config: Asking, rounds: int, seconds: float = llm.Limits.seconds
) -> llm.Limits:
  """Of one conversation."""
  return llm.Limits(
    rounds=rounds, tokens=config.tokens, seconds=seconds,
    money=config.money or math.inf,
    prices=(config.price_prompt, config.price_reply),
  )  # fmt: skip
