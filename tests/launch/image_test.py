"""The image: what its file copies is there, pinned, and runs as it should.

No daemon builds it here; its steps are read.
"""

import fnmatch
import json
import pathlib
import re
import shlex

import pytest

from launch.k8s import pods

_ROOT = pathlib.Path(__file__).parents[2]
_LOCKS = sorted((_ROOT / "launch/locks").glob("*.lock"))


def _steps():
  """`(instruction, rest)` of the Dockerfile, lines joined."""
  text = (_ROOT / "launch/Dockerfile").read_text()
  text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ")
  return [line.split(None, 1) for line in text.splitlines() if line.strip()]


def _of(name):
  return [rest for instruction, rest in _steps() if instruction == name]


def _sent_to_the_daemon(path):
  """Whether .dockerignore lets a path through: its last word counts."""
  sent = True
  for line in (_ROOT / ".dockerignore").read_text().splitlines():
    if not line or line.startswith("#"):
      continue
    pattern = line.removeprefix("!").removeprefix("**/")
    parts = pathlib.PurePosixPath(path).parts
    names = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    names += parts if "**/" in line else ()
    if any(fnmatch.fnmatch(name, pattern) for name in names):
      sent = line.startswith("!")
  return sent


def test_everything_that_is_copied_is_there_and_is_sent():
  sources = [
    source for step in _of("COPY") for source in shlex.split(step)[:-1]
  ]
  assert "requirements-core.lock" in sources and "spex_jax" in sources
  for source in sources:
    found = list(_ROOT.glob(source))
    assert found, source
    for place in found:
      assert _sent_to_the_daemon(place.relative_to(_ROOT).as_posix()), place
  assert _sent_to_the_daemon("spex_jax/jobs/sweep.py")


@pytest.mark.parametrize(
  "path",
  [".git/config", "runs/x/config.json", ".venv/bin/python", "secret.json",
   "spex_jax/jobs/__pycache__/sweep.cpython-312.pyc", "tests/conftest.py"],
)  # fmt: skip
def test_nothing_else_is_sent(path):
  assert not _sent_to_the_daemon(path)


def test_signals_reach_the_command():
  """Exec forms, so that no shell stands between; process 1 is tini."""
  (entry,), (words,) = _of("ENTRYPOINT"), _of("CMD")
  assert json.loads(entry) == ["tini", "--", "spex"]
  assert json.loads(words) == ["--help"]
  assert any("tini" in step for step in _of("RUN"))


def test_the_image_runs_as_a_user_whose_group_owns_volumes():
  assert _of("USER")[-1] == "spex"
  assert any(f"useradd --uid {pods._GROUP} " in step for step in _of("RUN"))


def test_every_package_is_installed_by_its_hash():
  installs = re.findall(r"pip install[^&;]*", "; ".join(_of("RUN")))
  assert len(installs) == 4
  for words in installs:
    assert "--require-hashes" in words or "--no-deps" in words


def test_every_accelerator_that_is_named_has_a_lock():
  text = (_ROOT / "launch/Dockerfile").read_text()
  (named,) = re.findall(r"# ACCELERATOR is (.*)\.", text)
  names = set(re.split(r", | or ", named))
  assert names == {"cpu"} | {p.stem for p in _LOCKS} - {"stores"}
  assert _of("ARG") == ["ACCELERATOR=cpu"]


def _pins(path):
  """Versions of a lock on Python 3.12, and how many hashes each has."""
  pins, last = {}, ""
  for line in path.read_text().splitlines():
    found = re.match(r"([\w.-]+)==(\S+)( ; (.*?))? ?\\?$", line)
    if found:
      last = found[1]
      if "< '3.12'" not in (found[4] or ""):
        pins[last] = [found[2], 0]
    elif "--hash=sha256:" in line and last in pins:
      pins[last][1] += 1
  return pins


@pytest.mark.parametrize("path", _LOCKS, ids=lambda path: path.stem)
def test_locks_are_hashed_and_agree_with_the_core(path):
  pins, core = _pins(path), _pins(_ROOT / "requirements-core.lock")
  assert pins and all(hashes for _, hashes in pins.values())
  # botocore has no python-dateutil 4 yet; matplotlib takes both.
  common = (pins.keys() & core.keys()) - {"python-dateutil"}
  assert common
  assert {n: pins[n][0] for n in common} == {n: core[n][0] for n in common}
  wanted = path.with_suffix(".txt").read_text()
  for name in re.findall(r"^([\w-]+)", wanted, flags=re.M):
    assert name in pins
  for word in ("://", "index-url", "torch", "tensorflow"):
    assert word not in path.read_text()
