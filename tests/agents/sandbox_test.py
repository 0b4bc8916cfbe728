"""Hostile code: each kind contained, and told."""

import math

import pytest

from spex_jax.agents import sandbox

_TICK = 0.7


@pytest.fixture(scope="module")
def box():
  with sandbox.Sandbox(seconds=_TICK, output=1 << 16) as own:
    yield own


def test_code_runs(box):
  code = "import numpy as np\ndef f(x): return np.sin(x)"
  outcome = box.run(code, [0.0, 1.0])
  assert outcome.status == "ok"
  assert outcome.outputs == pytest.approx((0, math.sin(1)))
  texts = box.run("def f(s): return s[::-1]", ["abc", "é"])
  assert texts.outputs == ("cba", "é")


_HOSTILE = {
  "forks": ("import os\ndef f(x): return os.fork()", "refused"),
  "forks aside": (
    "import sys\ndef f(x): return sys.modules['posix'].fork()", "refused"
  ),
  "writes": ("def f(x): open('/tmp/planted', 'w').write('x')", "refused"),
  "reads": ("def f(x): return open('/etc/passwd').read()", "refused"),
  "loads": ("import numpy\ndef f(x): return numpy.load('/etc/passwd')",
            "refused"),
  "sockets": ("import socket\ndef f(x): return 1", "refused"),
  "starts": ("import os\ndef f(x): os.execv('/bin/sh', ['sh'])", "refused"),
  "kills": ("import os\ndef f(x): os.kill(os.getppid(), 9)", "refused"),
  "lists": ("import os\ndef f(x): return str(os.listdir('/'))", "refused"),
  "10 GB": ("def f(x): return len(bytearray(10**10))", "memory"),
  "prints": ("def f(x):\n  while True: print('x' * 999)", "output"),
  "hangs": ("def f(x):\n  while True: pass", "time"),
  "sleeps": ("import time\ndef f(x): time.sleep(99)", "time"),
  "10 MB": ("def f(x): return 'a' * 10**7", "output"),
  "forks on": ("import os\nwhile True: os.fork()", "refused"),
  "threads": ("import _thread\ndef f(x):\n"
              "  return _thread.start_new_thread(print, ())", "error"),
  "closes": ("import os\nos.close(3)\nos.close(1)\nos.close(2)\n"
             "while True: pass", "died"),
  "swallows": ("def f(x):\n  while True:\n    try:\n      while True: pass\n"
               "    except BaseException: pass", "time"),
  "recurs": ("def f(x): return f(x)", "error"),
  "leaves": ("import os\nos._exit(3)", "died"),
  "stops": ("raise SystemExit(3)", "error"),
  "no Python": ("def f(x) return", "error"),
  "no function": ("g = 3", "error"),
  "empty": ("", "error"),
}  # fmt: skip


@pytest.mark.parametrize("name", _HOSTILE)
def test_hostile_code_is_contained_and_told(box, name):
  code, status = _HOSTILE[name]
  outcome = box.run(code, [1.0])
  assert outcome.status == status and outcome.error
  assert outcome.outputs == ()
  assert box.run("def f(x): return x", [2.0]).outputs == (2.0,)


def test_system_calls_are_filtered_where_the_hook_does_not_see(box):
  # ctypes asks no hook once it is loaded: the kernel refuses.
  code = (
    "import sys\nlibc = sys.modules['ctypes'].CDLL(None)\n"
    "def f(x): return [libc.fork(), libc.socket(2, 1, 0),"
    " libc.open(b'/etc/passwd', 0)][int(x)]"
  )
  outcome = box.run(code, [0.0, 1.0, 2.0])
  if not outcome.filtered and outcome.status == "ok":
    pytest.skip("no filter of system calls here")
  assert outcome.status == "refused" or outcome.outputs == (-1, -1, -1)


def test_the_environment_is_empty(box, monkeypatch):
  monkeypatch.setenv("SECRET_KEY", "hunter2")
  with sandbox.Sandbox(seconds=_TICK) as fresh:
    code = "import os\ndef f(x): return str(dict(os.environ))"
    outcome = fresh.run(code, [1.0])
  assert "hunter2" not in str(outcome.outputs) and outcome.status == "ok"


def test_what_raises_on_an_input_is_none_there(box):
  outcome = box.run("def f(x): return 1 / x", [1, 0, 2])
  assert outcome.outputs == (1.0, None, 0.5)
  assert "ZeroDivisionError" in outcome.error
  huge = box.run("def f(x): return 10**10000", [1])
  assert huge.outputs == (None,) and "33,220 bits" in huge.error
  odd = box.run("def f(x): return [x]", [1])
  assert odd.outputs == (None,) and "list" in odd.error


@pytest.mark.parametrize(
  "answer",
  [
    b'{"status": "ok", "outputs": [1, 2]}',
    b'{"status": "ok", "outputs": [{"a": 1}]}',
    b'{"status": "ok", "outputs": null}',
    b'{"status": "ok", "outputs": "a"}',
    b'{"status": "ok", "outputs": [1], "errors": 3}',
    b"[1]",
    b"[" * 20_000 + b"]" * 20_000,
    b"{",
  ],
)
def test_an_answer_of_its_own_is_none(box, answer):
  code = f"import os\nos.write(3, {answer!r})\nos._exit(0)"
  outcome = box.run(code, [1.0])
  assert outcome.status in ("error", "died") and outcome.error
  assert outcome.outputs == ()


@pytest.mark.parametrize("code", [None, 3, "x" * (2 << 20), "\ud800"])
def test_what_is_no_code_is_told(box, code):
  assert box.run(code, [1.0]).status == "error"


def test_a_server_that_is_gone_is_started_again():
  with sandbox.Sandbox(seconds=_TICK) as own:
    own.run("def f(x): return x", [1.0])
    own._process.kill()
    own._process.wait()
    assert own.run("def f(x): return x", [1.0]).outputs == (1.0,)


def test_limits_are_checked():
  with pytest.raises(ValueError, match="must be positive: seconds=0"):
    sandbox.Sandbox(seconds=0)
