"""The script for TPU pods: what it tells gcloud, and how it goes on."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.launch import kubelet

_ROOT = kubelet.ROOT
_SCRIPT = str(_ROOT / "launch/tpu_pod.sh")
_CONFIG = "experiments/configs/sweep_digits.py"
_GIVEN = (
  "--name=pod", "--zone=z", f"--config={_CONFIG}:quick",
  "--workdir=gs://bucket/run",
)  # fmt: skip
_WATCH = (
  "--watch", "--accelerator_type=v6e-16", "--runtime_version=v2", "--pause=0",
)  # fmt: skip


def _program(place, text):
  place.parent.mkdir(exist_ok=True)
  place.write_text(text)
  place.chmod(0o755)
  return place


@pytest.fixture
def fake(tmp_path, monkeypatch):
  """A folder for what fakes know; gcloud and Python of it are on the path.

  The Python ends with what is in `complete` when it is asked for that, and
  with what is in `python` else.
  """
  gcloud = _ROOT / "tests/launch/fake_gcloud.py"
  _program(
    tmp_path / "bin/gcloud", f'#!/bin/sh\nexec {sys.executable} {gcloud} "$@"\n'
  )
  _program(
    tmp_path / "bin/python3",
    f'#!/bin/sh\nF={tmp_path}\necho "$@" >> $F/asked\n'
    'case "$*" in *.complete*) C=complete;; *) C=python;; esac\n'
    "exit $(cat $F/$C 2>/dev/null || echo 0)\n",
  )
  monkeypatch.setenv("FAKE", str(tmp_path))
  monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
  return tmp_path


def _call(*words, given=_GIVEN, **more):
  return subprocess.run(
    [_SCRIPT, *given, *words],
    cwd=_ROOT, capture_output=True, text=True, timeout=60, **more,
  )  # fmt: skip


def _calls(fake):
  """What gcloud was told: its third and fourth word, and all."""
  place = fake / "calls"
  lines = place.read_text().splitlines() if place.exists() else []
  return [json.loads(line) for line in lines]


def _actions(fake):
  return [words[3] for words in _calls(fake)]


def _command(words):
  """The words of what workers are told."""
  (text,) = (w for w in words if w.startswith("--command="))
  return shlex.split(text.removeprefix("--command="))


@pytest.mark.parametrize("name", ["tpu_pod.sh", "tpu_worker.sh"])
def test_scripts_are_bash(name):
  subprocess.run(["bash", "-n", _ROOT / "launch" / name], check=True)
  assert "set -euo pipefail" in (_ROOT / "launch" / name).read_text()


def test_help_has_every_flag():
  said = _call("--help", given=()).stdout
  text = (_ROOT / "launch/tpu_pod.sh").read_text()
  (body,) = re.findall(r"read_flags\(\) \{.*?\n\}", text, flags=re.S)
  for flag in re.findall(r"--\w+", body):
    assert flag in said
  assert said.startswith("Runs a sweep on the workers of a TPU pod")


def test_one_run_copies_installs_and_runs(fake):
  extra = ['--config.text=it\'s $HOME; a  "b"', "--sinks=a,b"]
  done = _call("--project=p", "--internal_ip", "--", *extra)
  assert done.returncode == 0, done.stderr
  copy, install, run = _calls(fake)
  assert copy[:4] == ["compute", "tpus", "tpu-vm", "scp"]
  bundle = re.fullmatch(r".*/(spex-[0-9a-f]{12})\.tgz", copy[5])
  assert bundle and copy[6].endswith("/sweep") and copy[7] == "pod:"
  for words in (copy, install, run):
    for word in ("--zone=z", "--project=p", "--worker=all", "--internal-ip"):
      assert word in words
  assert _command(install)[-2:] == [
    f"{bundle[1]}/launch/tpu_worker.sh", "install",
  ]  # fmt: skip
  words = _command(run)
  where = words.index("run")
  assert words[where - 1] == f"{bundle[1]}/launch/tpu_worker.sh"
  assert words[where + 2 :] == [
    "sweep", "run", "--config=sweep/sweep_digits.py:quick",
    "--workdir=gs://bucket/run", "--distributed", "--timeout=900", *extra,
  ]  # fmt: skip
  # The sweep was checked before, and what is there after.
  asked = (fake / "asked").read_text()
  assert "--dry_run" in asked and "sweep status" in asked


@pytest.mark.parametrize(
  ("code", "ends"), [(0, 0), (65, 65), (75, 75), (255, 75), (1, 75)]
)
def test_how_one_run_ends(fake, code, ends):
  (fake / "codes").write_text(f"{code}\n")
  assert _call().returncode == ends


def test_what_was_given_up_is_no_success(fake):
  (fake / "complete").write_text("1")
  done = _call()
  assert done.returncode == 65 and "not all is there" in done.stderr


def test_a_watch_makes_the_pod_again_and_goes_on(fake):
  """Not there; waited for; preempted in the first run; made again; done."""
  (fake / "states").write_text(
    "\n".join(["", "WAITING_FOR_RESOURCES", "ACTIVE", "SUSPENDING",
               "SUSPENDED", "", "ACTIVE"]) + "\n"
  )  # fmt: skip
  (fake / "codes").write_text("255\n0\n")
  done = _call(*_WATCH, "--spot", "--delete")
  assert done.returncode == 0, done.stderr
  run = ["scp", "ssh", "ssh"]
  assert _actions(fake) == [
    "list", "create", "list", "list", *run,
    "list", "list", "delete", "list", "create", "list", *run, "delete",
  ]  # fmt: skip
  first, again = (c for c in _calls(fake) if c[3] == "create")
  assert first == again == [
    "compute", "tpus", "queued-resources", "create", "pod", "--node-id=pod",
    "--zone=z", "--accelerator-type=v6e-16", "--runtime-version=v2", "--spot",
  ]  # fmt: skip
  ids = [
    words[words.index("run") + 1]
    for words in map(_command, (c for c in _calls(fake) if c[3] == "ssh"))
    if "run" in words
  ]
  assert len(set(ids)) == 2  # The second does not follow the first.


def test_a_watch_ends_at_bad_input(fake):
  (fake / "states").write_text("ACTIVE\n")
  (fake / "codes").write_text("65\n0\n")
  done = _call(*_WATCH)
  assert done.returncode == 65
  assert _actions(fake) == ["list", "scp", "ssh", "ssh"]
  assert "queued-resources delete pod --zone=z" in done.stderr  # It costs.


def test_a_watch_gives_up_after_its_attempts(fake):
  (fake / "states").write_text("ACTIVE\n")
  (fake / "codes").write_text("134\n")
  done = _call(*_WATCH, "--attempts=3")
  assert done.returncode == 75 and "3 runs did not finish" in done.stderr
  assert _actions(fake).count("scp") == 3


def test_stop_asks_the_workers(fake):
  done = _call("--stop", given=_GIVEN[:2])
  assert done.returncode == 0
  (words,) = _calls(fake)
  assert _command(words)[-1] == "stop"


def test_a_dry_run_prints_the_commands_and_starts_nothing(fake):
  done = _call(*_WATCH, "--dry_run")
  assert done.returncode == 0, done.stderr
  said = [line for line in done.stderr.splitlines() if line.startswith("+ ")]
  assert [line.split()[5] for line in said] == ["create", "scp", "ssh", "ssh"]
  assert not _calls(fake)


def test_no_gcloud(tmp_path):
  """With nothing on the path but what the script needs before."""
  for name in ("bash", "env", "dirname"):
    (tmp_path / name).symlink_to(shutil.which(name))
  done = _call(env={"PATH": str(tmp_path)})
  assert done.returncode == 64 and "gcloud is not installed" in done.stderr


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (("--zone=",), "--zone needs a value"),
    (("--watch=1",), "--watch has no value"),
    (("surplus",), "unknown argument surplus; see --help"),
    (("--name=Pod",), "lower-case letters, digits and -"),
    (("--attempts=x",), "--attempts=x is no whole number"),
    (("--workdir=/runs/x",), "workers share none: give a URL"),
    (("--config=nowhere.py",), "no sweep nowhere.py here"),
    (("--code=nowhere",), "--code=nowhere: no folder"),
    (("--watch",), "--watch needs --accelerator_type="),
    (("--spot",), "--spot and --delete are for --watch"),
  ],
)
def test_wrong_use_is_one_line(fake, words, message):
  done = _call(*words)
  assert done.returncode == 64
  assert message in done.stderr and done.stderr.count("\n") == 1
  assert not _calls(fake)


def test_what_is_missing_is_named(fake):
  done = _call(given=("--name=pod",))
  assert done.returncode == 64 and "--zone=... is missing" in done.stderr


def test_a_sweep_that_is_refused_starts_nothing(fake):
  done = _call(f"--python={sys.executable}", "--", "--config.row=1")
  assert done.returncode == 65
  assert "Did you mean rows?" in done.stderr
  assert not _calls(fake)
