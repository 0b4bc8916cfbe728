"""The other side of `sandbox`: a program that forks a child for each request.

It is run by its path, once what children may import is imported, and reads
requests from its standard input. A child has no environment, no files, no
network, no children: by resource limits, by another user where it was root, by
an audit hook that says what was refused, and on Linux by a filter of system
calls that lets nothing pass but memory, time and the pipes that it has.
"""

import contextlib
import ctypes
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
import time

_NOBODY = 65534
_BITS = 1024  # Of a whole number, about as far as floats reach.
# Read, write, close, fstat, lseek, memory, signals of its own, time, exit,
# futex, randomness; by architecture: its audit number and its numbers.
_CALLS = {
  "x86_64": (0xC000003E, (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 28,
                          35, 39, 60, 96, 131, 202, 228, 230, 231, 318)),
  "aarch64": (0xC00000B7, (57, 62, 63, 64, 80, 93, 94, 98, 101, 113, 115, 124,
                           132, 134, 135, 139, 169, 172, 214, 215, 216, 222,
                           226, 233, 278)),
}  # fmt: skip
_REFUSED = (
  "open", "os.", "socket.", "subprocess.", "ctypes.", "shutil.", "tempfile.",
  "signal.", "fcntl.", "mmap.", "pty.", "resource.", "urllib.", "http.",
  "syslog.", "_posixsubprocess",
)  # fmt: skip


def _filter() -> bool:
  """Lets only listed system calls pass, for good; whether the system has it."""
  known = _CALLS.get(platform.machine())
  if sys.platform != "linux" or known is None:
    return False
  arch, calls = known
  # BPF: load, jump if equal, return; offsets of `struct seccomp_data`.
  load = lambda at: struct.pack("HBBI", 0x20, 0, 0, at)
  leave = lambda what: struct.pack("HBBI", 0x06, 0, 0, what)
  equal = lambda value, yes, no: struct.pack("HBBI", 0x15, yes, no, value)
  lines = [load(4), equal(arch, 1, 0), leave(0x80000000), load(0)]
  lines += [
    equal(call, len(calls) - i, 0) for i, call in enumerate(calls)
  ]  # Past those behind it, and past the refusal.
  lines += [leave(0x00050000 | 1), leave(0x7FFF0000)]  # EPERM; allowed.
  text = b"".join(lines)
  program = ctypes.create_string_buffer(text)
  head = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(program))
  libc = ctypes.CDLL(None, use_errno=True)
  return (
    libc.prctl(38, 1, 0, 0, 0) == 0  # No new privileges.
    and libc.prctl(22, 2, ctypes.create_string_buffer(head), 0, 0) == 0
  )


def _refuse(event: str, arguments: tuple) -> None:
  if event == "import":
    if arguments[0] in sys.modules:
      return
    raise PermissionError(f"refused: import {arguments[0]}")
  if event.startswith(_REFUSED):
    raise PermissionError(f"refused: {event}")


def _limit(limits: dict) -> bool:
  """Gives up what the code must not have; whether calls are filtered."""
  pages = 1 << 17
  with contextlib.suppress(OSError), open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
  most = pages * resource.getpagesize() + limits["memory"]
  seconds = int(limits["seconds"]) + 1
  for what, value in (
    (resource.RLIMIT_AS, most),
    (resource.RLIMIT_CPU, seconds),
    (resource.RLIMIT_FSIZE, 0),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NOFILE, 16),
    (resource.RLIMIT_NPROC, 0),
  ):
    with contextlib.suppress(ValueError, OSError):
      resource.setrlimit(what, (value, value))
  with contextlib.suppress(OSError):
    os.chdir("/")
  if os.geteuid() == 0:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "unshare"):
      libc.unshare(0x40000000)  # A network of its own, with nothing in it.
    os.setgroups([])
    os.setgid(_NOBODY)
    os.setuid(_NOBODY)
  found = _filter()
  sys.addaudithook(_refuse)
  return found


def _plain(value: object) -> object:
  """A value as JSON has it."""
  if hasattr(value, "item") and getattr(value, "size", 0) == 1:
    value = value.item()  # type: ignore[attr-defined]
  if isinstance(value, int) and value.bit_length() > _BITS:
    raise OverflowError(f"f gave a number of {value.bit_length():,} bits")
  if value is None or isinstance(value, str | bool | int | float):
    return value
  raise TypeError(f"f gave {type(value).__name__}, which is no number or text")


def _answer(request: dict) -> dict:
  """Runs the code; what it raises is an answer, too."""
  inputs = request["inputs"]
  space: dict = {"__name__": "answer"}
  try:
    # This is the one place: a child that has given up all that it could harm.
    exec(compile(request["code"], "answer", "exec"), space)
    function = space.get(request["name"])
    if not callable(function):
      raise NameError(f"no function {request['name']} is defined")
    import numpy as np

    outputs, errors = [], {}
    with np.errstate(all="ignore"):
      for i, value in enumerate(inputs):
        try:
          outputs.append(_plain(function(value)))
        except (ArithmeticError, ValueError, LookupError, TypeError) as error:
          outputs.append(None)
          errors.setdefault(f"{type(error).__name__}: {error}"[:300], i)
    return {"status": "ok", "outputs": outputs, "errors": [*errors][:5]}
  except MemoryError:
    return {"status": "memory", "error": "MemoryError"}
  except PermissionError as error:
    return {"status": "refused", "error": str(error)[:300]}
  except BaseException as error:
    return {
      "status": "error",
      "error": f"{type(error).__name__}: {error}"[:300],
    }


def _child(request: dict, result: int, said: int) -> None:
  os.setsid()
  os.dup2(said, 1)
  os.dup2(said, 2)
  # Not below 3: a file that is opened would have the number of a pipe.
  nothing = os.open(os.devnull, os.O_RDONLY)
  os.dup2(nothing, 0)
  os.dup2(result, 3)
  os.closerange(4, 1024)
  sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
  sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
  filtered = _limit(request)
  answer = _answer(request) | {"filtered": filtered}
  with contextlib.suppress(Exception):
    sys.stdout.flush()
  text = json.dumps(answer).encode()
  while text:
    text = text[os.write(3, text) :]


def _serve(request: dict) -> dict:
  """Forks a child, listens to it within its limits, and ends it."""
  result, result_in = os.pipe()
  said, said_in = os.pipe()
  child = os.fork()
  if child == 0:
    try:
      _child(request, result_in, said_in)
    finally:
      os._exit(0)
  os.close(result_in)
  os.close(said_in)
  deadline = time.monotonic() + request["seconds"]
  texts = {result: b"", said: b""}
  open_ends, status = {result, said}, ""
  while open_ends and not status:
    left = deadline - time.monotonic()
    ready, _, _ = select.select([*open_ends], [], [], max(left, 0))
    if left <= 0 or not ready:
      status = "time"
    for end in ready:
      part = os.read(end, 1 << 16)
      texts[end] += part
      if not part:
        open_ends.discard(end)
      if len(texts[end]) > request["output"]:
        status = "output"
  for how in (os.killpg, os.kill):
    with contextlib.suppress(OSError):
      how(child, signal.SIGKILL)
  _, how_ended = os.waitpid(child, 0)
  os.close(result)
  os.close(said)
  answer: dict = {"status": status, "error": status}
  if not status:
    try:
      answer = json.loads(texts[result])
      if not isinstance(answer, dict):
        raise ValueError
    except (ValueError, RecursionError):
      number = os.WTERMSIG(how_ended) if os.WIFSIGNALED(how_ended) else 0
      status = "time" if number == signal.SIGXCPU else "died"
      answer = {"status": status, "error": f"ended by signal {number}"}
  return answer | {"said": texts[said][:2000].decode(errors="replace")}


def main() -> None:
  """Serves requests, JSON behind its length, until the input ends."""
  read, write = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
  while len(head := read.read(8)) == 8:
    request = json.loads(read.read(int.from_bytes(head, "little")))
    text = json.dumps(_serve(request)).encode()
    write.write(len(text).to_bytes(8, "little") + text)
    write.flush()
    del text  # The next child sees this frame, too.


if __name__ == "__main__":
  main()
