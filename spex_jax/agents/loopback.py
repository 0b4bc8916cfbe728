"""A small HTTP server on this machine alone: JSON in, JSON out, errors told.

with loopback.Server({"/v1/echo": lambda body: body}) as server:
  print(server.url)
"""

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

_MOST = 1 << 23  # Bytes of a request.
Route = Callable[[Any], Any]


class Refused(Exception):
  """A request that is wrong; its text is the answer, with status 400."""


class Server:
  """Serves from its own thread, one request at a time."""

  def __init__(self, routes: Mapping[str, Route], port: int = 0):
    """Listens; answers once it is entered, or in `forever`.

    Args:
      routes: path to what answers a request's body (None for a GET).
      port: 0 takes one that is free.

    Raises:
      OSError: the port is taken.
    """
    lock = threading.Lock()

    class Handler(_Handler):
      own_routes = routes
      own_lock = lock

    self._http = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    self._http.daemon_threads = True
    self._thread = threading.Thread(
      target=self._http.serve_forever, args=(0.05,), daemon=True
    )

  @property
  def url(self) -> str:
    """Where it is, without a path."""
    return f"http://127.0.0.1:{self._http.server_port}"

  def __enter__(self) -> "Server":
    self._thread.start()
    return self

  def __exit__(self, *_: Any) -> None:
    self._http.shutdown()
    self._http.server_close()

  def forever(self) -> None:
    """Answers until interrupted."""
    try:
      self._http.serve_forever()
    finally:
      self._http.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
  """One request."""

  own_routes: Mapping[str, Route] = {}
  own_lock = threading.Lock()
  timeout = 30.0
  protocol_version = "HTTP/1.1"

  def do_GET(self) -> None:
    self._respond(None)

  def do_POST(self) -> None:
    size = self.headers.get("Content-Length", "")
    if not size.isdigit() or int(size) > _MOST:
      self.close_connection = True
      self._send(413, _error(f"A body of up to {_MOST:,} bytes is needed."))
      return
    try:
      body = json.loads(self.rfile.read(int(size)))
    except (ValueError, RecursionError) as error:
      self._send(400, _error(f"The body is no JSON: {error}"))
      return
    self._respond(body)

  def _respond(self, body: Any) -> None:
    # A page in a browser could name this machine by a name of its own.
    host = self.headers.get("Host", "").rsplit(":", 1)[0]
    if host not in ("127.0.0.1", "localhost", "[::1]"):
      self._send(403, _error("Ask 127.0.0.1."))
      return
    route = self.own_routes.get(self.path.partition("?")[0])
    if route is None:
      known = ", ".join(self.own_routes)
      self._send(404, _error(f"No {self.path}; there are {known}."))
      return
    try:
      with self.own_lock:
        answer = route(body)
      self._send(200, answer)
    except (Refused, ValueError, TypeError, KeyError) as error:
      self._send(400, _error(f"{error}"))
    except Exception as error:
      self._send(500, _error(f"{type(error).__name__}: {error}"))

  def _send(self, status: int, body: Any) -> None:
    data = json.dumps(body).encode()
    with contextlib.suppress(ConnectionError):  # Nobody waits any more.
      self.send_response(status)
      self.send_header("Content-Type", "application/json")
      self.send_header("Content-Length", str(len(data)))
      self.end_headers()
      self.wfile.write(data)

  def log_message(self, format: str, *args: Any) -> None:
    """Nothing: what is asked is nobody else's."""


def _error(text: str) -> dict[str, Any]:
  return {"error": {"message": text, "type": "invalid_request_error"}}
