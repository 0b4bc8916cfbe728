"""The script for TPU pods: what it tells gcloud, and how it goes on."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time

import pytest

from launch import local
from spex_jax.sweeps import state
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

  To this Python all is well with a sweep unless there is a file `missing`.
  """
  gcloud = _ROOT / "tests/launch/fake_gcloud.py"
  _program(
    tmp_path / "bin/gcloud", f'#!/bin/sh\nexec {sys.executable} {gcloud} "$@"\n'
  )
  _program(
    tmp_path / "bin/python3",
    f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
    f"[ -e {tmp_path}/missing ] || echo '{{\"complete\": true}}'\n",
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
  (fake / "missing").touch()
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


# In place of what `install` makes: `spex` of this checkout, on a CPU, whose
# processes find each other at an address of the test.
_WORKER_PYTHON = """\
#!/bin/bash
mkdir -p env/bin
cat > env/bin/spex <<'END'
#!/bin/bash
words=()
for word in "$@"; do
  if [[ $word == --distributed ]]; then
    words+=("--coordinator=127.0.0.1:$PORT" --process_id=$WORKER
            --num_processes=2)
  else
    words+=("$word")
  fi
done
export JAX_PLATFORMS=cpu PYTHONPATH=$CHECKOUT:$PYTHONPATH
exec "$PYTHON" -c 'from spex_jax import cli; cli.run()' "${words[@]}"
END
chmod +x env/bin/spex
"""


@pytest.mark.cluster
def test_a_pod_that_is_preempted_makes_the_bytes_of_one_process(fake, tmp_path):
  """Two workers of a pod that vanishes, with all that was on it; then done."""
  for number in range(2):
    (fake / "workers" / str(number)).mkdir(parents=True)
  (fake / "worker_bin").mkdir()
  _program(fake / "worker_bin/python3", _WORKER_PYTHON)
  (fake / "states").write_text("ACTIVE\nSUSPENDED\n\nACTIVE\n")
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  config, run = "tests/launch/sweep_sums.py", tmp_path / "runs/pod"
  script = subprocess.Popen(
    [_SCRIPT, *_GIVEN[:2], *_WATCH, f"--config={config}:double",
     f"--workdir=file://{run}", f"--python={sys.executable}",
     "--code=tests/launch"],
    cwd=_ROOT, text=True, stderr=subprocess.PIPE,
    env=os.environ | {
      "PORT": str(port), "CHECKOUT": str(_ROOT), "PYTHON": sys.executable,
      "PAUSE": "0.1", "SPEX_POLL": "0.1",
    },
  )  # fmt: skip
  deadline = time.monotonic() + 120
  while len(list(run.glob("shards/*.json"))) < 6:
    assert time.monotonic() < deadline and script.poll() is None
    time.sleep(0.05)
  before = {p.name: p.stat().st_mtime_ns for p in run.glob("shards/*.json")}
  (fake / "preempted").touch()
  _, said = script.communicate(timeout=120)
  assert script.returncode == 0, said
  assert "run 1 on pod" in said and "run 1 ended with 255" in said
  assert "pod pod is SUSPENDED: made again" in said and "run 2 on pod" in said
  assert state.status(run).complete
  after = {p.name: p.stat().st_mtime_ns for p in run.glob("shards/*.json")}
  assert before.items() <= after.items() and len(before) < len(after)
  alone = tmp_path / "alone"
  words = local.command(f"{config}:double", str(alone), 0, 1)
  subprocess.run(words, cwd=_ROOT, check=True, timeout=120)
  made, wanted = (
    {p.name: p.read_bytes() for p in (place / "shards").iterdir()
     if not p.name.startswith(".")}
    for place in (run, alone)
  )  # fmt: skip
  assert made == wanted
