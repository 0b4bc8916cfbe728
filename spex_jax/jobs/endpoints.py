"""What commands that talk to a model at an endpoint share of their settings."""

import math
import os
from typing import Protocol

from spex_jax import settings
from spex_jax.ablate import services
from spex_jax.agents import llm


class Settings(Protocol):
  """Those of an endpoint and of what a conversation may cost."""

  @property
  def endpoint(self) -> str: ...
  @property
  def key_variable(self) -> str: ...
  @property
  def tokens(self) -> int: ...
  @property
  def money(self) -> float | None: ...
  @property
  def price_prompt(self) -> float: ...
  @property
  def price_reply(self) -> float: ...


def check(config: Settings) -> None:
  """Raises SettingError where money is limited and nothing has a price."""
  if config.money and not (config.price_prompt or config.price_reply):
    raise settings.SettingError("money", " needs prices.")


def service(
  config: Settings, most_bytes: int = services.Service.most_bytes
) -> services.Service:
  """The endpoint, with the key of the environment, if there is one."""
  key = os.environ.get(config.key_variable, "")
  return services.Service(config.endpoint, key, most_bytes=most_bytes)


def limits(
  config: Settings, rounds: int, seconds: float = llm.Limits.seconds
) -> llm.Limits:
  """Of one conversation."""
  return llm.Limits(
    rounds=rounds, tokens=config.tokens, seconds=seconds,
    money=config.money or math.inf,
    prices=(config.price_prompt, config.price_reply),
  )  # fmt: skip
