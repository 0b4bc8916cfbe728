"""Generators and describers behind an endpoint, in the place of the world.

Pictures come from `/images/generations`, edits from `/images/edits` (with the
picture as a data URL in JSON, as servers of open models take it; OpenAI's own
wants a form), words from a chat whose messages have parts `image_url`. What
comes back is checked: an answer without a picture that can be read is
`services.Refused`.
"""

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_jax.ablate import closed, services
from spex_jax.agents import llm

_PIXELS = 1 << 24  # Of a picture, at most.
_DESCRIBE = "Say in one sentence what is on this picture, and nothing else."
_SUMMARISE = "Say in one sentence what these pictures have in common."


class Source:
  """Pictures from a generator, words from a model that sees."""

  def __init__(
    self,
    service: services.Service,
    model: str,
    sees: llm.Chat,
    *,
    size: int = 512,
    retry: closed.Retry | None = None,
  ):
    """Nothing is asked yet.

    Args:
      service: where; its url ends before "/images/generations".
      model: the name that the endpoint knows the generator by.
      sees: who describes; it takes messages with pictures.
      size: the side of a picture in pixels; it is square.
      retry: after failures that may pass; three attempts by default.
    """
    self._service, self._model, self._sees = service, model, sees
    self._size = f"{size}x{size}"
    self._retry = retry or closed.Retry(on=(services.Overloaded,), attempts=3)

  def generate(self, texts: Sequence[str]) -> list[np.ndarray]:
    """A picture of each prompt: uint8 `[H, W, 3]`.

    Raises:
      services.Overloaded: whatever may pass, and did not.
      services.Refused: a refusal, or an answer without a picture.
    """
    return [
      self._asked("/images/generations", {"prompt": text}) for text in texts
    ]

  def edit(
    self, pictures: Sequence[np.ndarray], edits: Sequence[str]
  ) -> list[np.ndarray]:
    """Pictures after an instruction each; raises as `generate`."""
    return [
      self._asked("/images/edits", {"prompt": text, "image": data_url(picture)})
      for picture, text in zip(pictures, edits, strict=True)
    ]

  def describe(self, pictures: Sequence[np.ndarray]) -> list[str]:
    """What is on each; raises as `llm.Chat`."""
    return [
      self._sees.chat([message(_DESCRIBE, [picture])]).text.strip()
      for picture in pictures
    ]

  def summarise(self, pictures: Sequence[np.ndarray]) -> str:
    """What several have in common; raises as `llm.Chat`."""
    return self._sees.chat([message(_SUMMARISE, pictures)]).text.strip()

  def _asked(self, path: str, own: dict[str, Any]) -> np.ndarray:
    body = own | {
      "model": self._model, "n": 1, "size": self._size,
      "response_format": "b64_json",
    }  # fmt: skip
    ask: Any = lambda given: self._service.post(path, given)
    retried: Any = self._retry.wrap(ask)
    answer = retried(body)
    try:
      data = base64.b64decode(answer["data"][0]["b64_json"], validate=True)
    except (LookupError, TypeError, binascii.Error, ValueError) as error:
      raise services.Refused(
        f"The answer to {path} has no picture: {type(error).__name__}."
      ) from error
    return decoded(data)


def message(text: str, pictures: Sequence[np.ndarray]) -> dict[str, Any]:
  """A user's message with pictures, as chats take it."""
  parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
  parts += [
    {"type": "image_url", "image_url": {"url": data_url(picture)}}
    for picture in pictures
  ]
  return {"role": "user", "content": parts}


def encoded(picture: np.ndarray) -> bytes:
  """A picture as a PNG file."""
  from PIL import Image  # Slow to import.

  file = io.BytesIO()
  Image.fromarray(picture).save(file, "png")
  return file.getvalue()


def data_url(picture: np.ndarray) -> str:
  """A picture as an address that holds it."""
  return "data:image/png;base64," + base64.b64encode(encoded(picture)).decode()


def decoded(data: bytes) -> np.ndarray:
  """A picture file's pixels: uint8 `[H, W, 3]`.

  Raises:
    services.Refused: it is none, or has more than 16 million pixels.
  """
  from PIL import Image  # Slow to import.

  try:
    with Image.open(io.BytesIO(data)) as image:
      if image.width * image.height > _PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels")
      return np.array(image.convert("RGB"))
  except (OSError, ValueError, SyntaxError) as error:
    raise services.Refused(f"That is no picture: {error}") from error
