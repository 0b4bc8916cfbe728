"""A service on the network that is sent a secret key: requests, within limits.

The key goes to one address and nowhere else: redirects are not followed, plain
http is for this machine alone, and no error text has the key in it. An answer
has a size and a time that it may take. What may pass is `Overloaded`, which
`closed.Retry` tries again after; all else is `Refused`.
"""

import dataclasses
import datetime
import email.utils
import ipaddress
import json
import math
import time
import urllib.parse
from typing import Any

import httpx2

from spex_jax import base

_SHOWN = 300  # Letters of an answer in a message.
_SHORT = 8  # Letters: a shorter key is none, and might be a word.
_MOST_ASKED = 3600.0  # Seconds that Retry-After counts for.
_PASSING = (408, 409, 425, 429)  # Of states below 500.


class Overloaded(Exception):
  """The service failed in a way that may pass: worth another attempt.

  Attributes:
    retry_after: seconds that it asked to be left alone for, an hour at most,
      or None.
  """

  def __init__(self, message: str, retry_after: float | None = None):
    super().__init__(message)
    self.retry_after = retry_after


class Refused(Exception):
  """The service refused the request: another attempt would end alike."""


@dataclasses.dataclass(frozen=True)
class Service:
  """Where requests go.

  Attributes:
    url: https, or http on this machine ("localhost"); without a user in it.
    key: sent as a bearer token; "" for none. Never written anywhere.
    timeout: seconds until a request counts as failed: until it is connected,
      between two parts of the answer, and for the whole of its body.
    most_bytes: how many bytes an answer may have.

  Raises:
    ValueError: another address, a key that no header can hold, or limits that
      are not positive.
  """

  url: str
  key: str = dataclasses.field(default="", repr=False)
  timeout: float = 60.0
  most_bytes: int = 1 << 23

  def __post_init__(self):
    try:
      url = httpx2.URL(self.url)
    except (httpx2.InvalidURL, TypeError) as error:
      raise ValueError(f"url={self.url!r} is no address.") from error
    if url.userinfo:
      raise ValueError("The url has a user in it; give the key apart.")
    if not url.host or url.scheme not in ("http", "https"):
      raise ValueError(f"url={self.url!r}: give https://HOST/...")
    if url.scheme == "http" and not _is_here(url.host):
      raise ValueError(
        f"url={self.url!r}: plain http can be read on its way, and so could "
        "the key and the texts; give https. (http is for localhost alone.)"
      )
    if not (self.key.isascii() and (self.key or "x").isprintable()):
      raise ValueError("The key holds what no header can: a line's end, say.")
    if not (0 < self.timeout < math.inf and self.most_bytes > 0):
      raise ValueError(
        f"Limits must be positive: timeout={self.timeout}, "
        f"most_bytes={self.most_bytes}."
      )

  def post(self, path: str, body: Any) -> Any:
    """Sends JSON to a path below the url, and returns the JSON answered.

    Raises:
      Overloaded: no connection, a timeout, an answer that breaks off or is no
        JSON, status 408, 409, 425, 429 or 5xx.
      Refused: any other status, a redirect, an answer that is too long.
    """
    headers = {"Accept-Encoding": "identity"}
    if self.key:
      headers["Authorization"] = f"Bearer {self.key}"
    try:
      with (
        httpx2.Client(
          follow_redirects=False,
          timeout=self.timeout,
          # A proxy of the environment would read what is sent to this machine.
          trust_env=httpx2.URL(self.url).scheme == "https",
        ) as client,
        client.stream(
          "POST", self.url.rstrip("/") + path, json=body, headers=headers
        ) as answer,
      ):
        data = self._read(answer)
    except httpx2.HTTPError as error:
      text = f"{type(error).__name__}: {error}"
      raise Overloaded(f"{self.url}: {self.safe(text)}") from None
    self._check_status(answer, data)
    try:
      return self._without_key(json.loads(data))
    except RecursionError:
      raise Refused(f"{self.url}: the answer is nested too deep.") from None
    except ValueError as error:
      raise Overloaded(
        f"{self.url}: the answer is no JSON: {self.safe(str(error))}"
      ) from None

  def _read(self, answer: httpx2.Response) -> bytes:
    """The body, within its limits."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
      raise Refused(f"{self.url}: the answer is packed, unasked.")
    data, deadline = bytearray(), time.monotonic() + self.timeout
    for part in answer.iter_raw():
      data += part
      if len(data) > self.most_bytes:
        raise Refused(
          f"{self.url}: the answer is longer than {self.most_bytes:,} bytes."
        )
      if time.monotonic() > deadline:
        raise Overloaded(
          f"{self.url}: the answer takes more than {self.timeout:g} s."
        )
    return bytes(data)

  def _without_key(self, answer: Any) -> Any:
    """An answer without the key, which it may repeat: it is kept in files."""
    text, own = json.dumps(answer), json.dumps(self.key)[1:-1]
    if len(self.key) < _SHORT or own not in text:
      return answer
    return json.loads(text.replace(own, "[key]"))

  def _check_status(self, answer: httpx2.Response, data: bytes) -> None:
    status = answer.status_code
    if status == 200:
      return
    if 300 <= status < 400:
      to = self.safe(answer.headers.get("Location", "nowhere"))
      raise Refused(
        f"{self.url}: status {status}, a redirect to {to}, which the key is "
        "not sent to: give that address itself if you trust it."
      )
    said = self.safe(data.decode(errors="replace"))
    message = f"{self.url}: status {status}, {said!r}"
    if status in _PASSING or status >= 500:
      raise Overloaded(message, _seconds(answer.headers.get("Retry-After")))
    raise Refused(message)

  def safe(self, text: str) -> str:
    """The start of a text as a message may hold it: without the key."""
    if self.key:
      for form in (self.key, urllib.parse.quote(self.key, safe="")):
        text = text.replace(form, "[key]")
    return base.printable(text)[:_SHOWN]


def _is_here(host: str) -> bool:
  """Whether a host is this machine by its name alone."""
  if host == "localhost":
    return True
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def _seconds(text: str | None) -> float | None:
  """What Retry-After asks for: seconds, or a date; None if it is neither."""
  if text is None:
    return None
  try:
    found = float(text)
  except ValueError:
    try:
      then = email.utils.parsedate_to_datetime(text)
    except ValueError:
      return None
    if then.tzinfo is None:
      then = then.replace(tzinfo=datetime.UTC)
    found = (then - datetime.datetime.now(datetime.UTC)).total_seconds()
  return min(found, _MOST_ASKED) if found >= 0 else None  # NaN is not.
