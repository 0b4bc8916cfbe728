"""A gcloud for tests: keeps its arguments, and plays a pod of two workers.

In the folder FAKE: `calls` gets a line of JSON for each call; `states` has one
state of the pod a line, of which the last stays; `codes` has what runs on the
workers end with, one a line. Where there is a folder `workers`, commands are
run there, each worker in a home of its own, as gcloud does: side by side.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

_FAKE = pathlib.Path(os.environ["FAKE"])


def _next(name, default):
  """The first line of a file, which is taken unless it is the last."""
  place = _FAKE / name
  lines = place.read_text().splitlines() if place.exists() else []
  if len(lines) > 1:
    place.write_text("\n".join(lines[1:]) + "\n")
  return lines[0] if lines else default


def _workers():
  return sorted((_FAKE / "workers").glob("*"))


def _copy(words):
  """Of `scp`: every source into every home."""
  place = next(i for i, word in enumerate(words) if word.endswith(":"))
  for source in words[:place]:
    if source.startswith("-"):
      continue
    for home in _workers():
      if pathlib.Path(source).is_dir():
        target = home / pathlib.Path(source).name
        shutil.copytree(source, target, dirs_exist_ok=True)
      else:
        shutil.copy(source, home)


def _run(command):
  """On all workers at once; the code of the first that failed.

  A file `preempted` takes the pod away: nothing of it is left, and ssh fails.
  """
  running = [
    subprocess.Popen(
      ["bash", "-c", command],
      cwd=home,
      env={**os.environ, "HOME": str(home), "WORKER": home.name,
           "PATH": f"{_FAKE}/worker_bin:{os.environ['PATH']}"},
      start_new_session=True,
    )
    for home in _workers()
  ]  # fmt: skip
  while None in [process.poll() for process in running]:
    time.sleep(0.05)
    if (_FAKE / "preempted").exists():
      (_FAKE / "preempted").unlink()
      for process, home in zip(running, _workers(), strict=True):
        leader = int((home / ".spex/running").read_text().split()[0])
        for session in (leader, process.pid):
          os.killpg(session, signal.SIGKILL)
        shutil.rmtree(home)
        home.mkdir()
      return 255
  return next((p.returncode for p in running if p.returncode), 0)


def main(words):
  """One call."""
  with (_FAKE / "calls").open("a") as file:
    file.write(json.dumps(words) + "\n")
  _, _, what, action, *rest = words
  if (what, action) == ("queued-resources", "list"):
    print(_next("states", ""))
  if (what, action) == ("tpu-vm", "scp"):
    _copy(rest)
  if (what, action) == ("tpu-vm", "ssh"):
    (command,) = (w.partition("=")[2] for w in rest if "--command=" in w)
    code = _run(command) if _workers() else 0
    if " run " in command and not _workers():
      code = int(_next("codes", "0"))
    return code
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
