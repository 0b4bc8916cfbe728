"""A service that is sent a key: where it goes, and what an answer may be."""

import http.server
import threading

import pytest

from spex_jax.ablate import closed, services

_KEY = "SECRET-KEY/1"


class _Server:
  """Answers as it is told; keeps what it was sent."""

  def __init__(self, status=200, headers=None, body=b"{}"):
    self.seen = []
    outer = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        outer.seen.append(self.headers.get("Authorization"))
        self.send_response(status)
        for name, value in (headers or {}).items():
          self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

      def log_message(self, *unused):
        pass

    self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
    self._thread = threading.Thread(
      target=self._http.serve_forever, args=(0.01,)
    )

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *unused):
    self._http.shutdown()
    self._http.server_close()
    self._thread.join()


def _asked(server, **limits):
  return services.Service(server.url, _KEY, **limits).post("/ask", {"a": 1})


def test_a_key_that_is_repeated_is_not_given_back():
  with _Server(body=b'{"a": ["Bearer SECRET-KEY\\/1"]}') as server:
    assert _asked(server) == {"a": ["Bearer [key]"]}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_follows_no_redirect(status):
  with _Server() as other:
    headers = {"Location": f"{other.url}?key={_KEY}"}
    with _Server(status, headers) as server:
      with pytest.raises(services.Refused, match="a redirect to http"):
        _asked(server)
      assert server.seen == [f"Bearer {_KEY}"]
    assert other.seen == []


@pytest.mark.parametrize(
  ("url", "match"),
  [
    ("http://example.org/v1", "plain http can be read"),
    ("http://127.0.0.1.example.org/v1", "plain http can be read"),
    ("http://localhost.example.org", "plain http can be read"),
    ("http://localhost@example.org/v1", "a user in it"),
    ("https://me:secret@example.org/v1", "a user in it"),
    ("ftp://example.org", "give https"),
    ("example.org/v1", "give https"),
    ("https://", "give https"),
    ("https://exa mple.org\n", "no address|give https"),
  ],
)
def test_only_safe_addresses_are_taken(url, match):
  with pytest.raises(ValueError, match=match) as caught:
    services.Service(url, "k")
  assert "secret" not in str(caught.value)


def test_addresses_that_are_taken():
  for url in (
    "https://example.org/v1",
    "http://localhost:80",
    "http://127.0.0.9:1/v1",
    "http://[::1]:80/v1",
  ):
    assert "hidden" not in repr(services.Service(url, "hidden"))
  with pytest.raises(ValueError, match="no header can"):
    services.Service("https://example.org", "key\n")
  with pytest.raises(ValueError, match="Limits must be positive"):
    services.Service("https://example.org", timeout=float("nan"))


@pytest.mark.parametrize("status", [400, 401, 500])
def test_no_text_has_the_key(status):
  """Not even a part, where the text is cut."""
  body = b"x" * 280 + b" bad key SECRET-KEY/1 or SECRET-KEY%2F1 \x1b[31m"
  with _Server(status, body=body) as server:
    kinds = (services.Refused, services.Overloaded)
    with pytest.raises(kinds) as caught:
      _asked(server)
  text = str(caught.value)
  assert "SECR" not in text and text.isprintable()
  assert caught.value.__cause__ is None


@pytest.mark.parametrize(
  ("after", "seconds"),
  [
    ("7", 7), ("1.5", 1.5), ("31536000", 3600), ("1e5", 3600),
    ("9" * 400, 3600), ("-1", None), ("nan", None), ("soon", None),
    ("Wed, 21 Oct 2015 07:28:00 GMT", None),
    ("Wed, 21 Oct 2099 07:28:00 GMT", 3600), ("\xb2", None),
  ],
)  # fmt: skip
def test_waits_that_are_asked_for_have_a_ceiling(after, seconds):
  with (
    _Server(429, {"Retry-After": after}) as server,
    pytest.raises(services.Overloaded, match="status 429") as caught,
  ):
    _asked(server)
  assert caught.value.retry_after == seconds


def test_nobody_waits_for_longer_than_a_retry_allows():
  waits = []

  def fn(masks):
    raise services.Overloaded("busy", 601.0)

  retry = closed.Retry((services.Overloaded,), sleep=waits.append)
  with pytest.raises(services.Overloaded) as caught:
    retry.wrap(fn)([])
  assert waits == [] and "asks for 601 s" in caught.value.__notes__[0]
  with pytest.raises(ValueError, match="waits >= 0"):
    closed.Retry((services.Overloaded,), most_asked=float("inf"))


@pytest.mark.parametrize(
  ("body", "error", "match"),
  [
    (b"[" * 200_000, services.Refused, "nested too deep"),
    (b"x" * 2_000_000, services.Refused, "longer than 1,000,000 bytes"),
    (b"\xff\xfe", services.Overloaded, "is no JSON"),
    (b"", services.Overloaded, "is no JSON"),
    (b"9" * 5000, services.Overloaded, "is no JSON"),
  ],
  ids=range(5),
)
def test_answers_have_limits(body, error, match):
  with _Server(body=body) as server, pytest.raises(error, match=match):
    _asked(server, most_bytes=1_000_000)


def test_a_packed_answer_is_refused():
  """A few bytes may be many, unpacked."""
  with (
    _Server(headers={"Content-Encoding": "gzip"}) as server,
    pytest.raises(services.Refused, match="packed, unasked"),
  ):
    _asked(server)


def test_nobody_there():
  with _Server() as server:
    pass
  with pytest.raises(services.Overloaded, match="ConnectError"):
    _asked(server)


def test_no_proxy_sees_what_is_sent_to_this_machine(monkeypatch):
  with _Server() as proxy, _Server() as server:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
      monkeypatch.setenv(name, proxy.url)
    assert _asked(server) == {}
    assert proxy.seen == [] and server.seen == [f"Bearer {_KEY}"]
