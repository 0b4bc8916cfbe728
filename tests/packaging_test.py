"""What is installed: every lock pinned, hashed, whole and free of addresses."""

import ast
import configparser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
import yaml

import spex_jax

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_LOCKS = (
  "requirements.lock",
  "requirements-core.lock",
  "docs/requirements.lock",
  "third_party/requirements.lock",
  "third_party/requirements-shapiq.lock",
)

# Modules whose package has another name.
_PACKAGE_OF = {
  "PIL": "pillow",
  "absl": "absl-py",
  "orbax": "orbax-checkpoint",
  "sklearn": "scikit-learn",
}
# Imported only where the user has it: conversions to and from its types,
# trees that they grew, and models fetched by name.
_OPTIONAL = {
  "shapiq", "lightgbm", "xgboost", "huggingface_hub", "pandas", "duckdb",
}  # fmt: skip


def _pins(name):
  """`{(package, version, marker): number of hashes}` of a lock."""
  pins, entry = {}, None
  for line in (_ROOT / name).read_text().splitlines():
    line = line.removesuffix("\\").strip()
    if line.startswith("--hash=sha256:"):
      pins[entry] += 1
    elif line:
      requirement, _, marker = line.partition(";")
      package, _, version = requirement.strip().partition("==")
      entry = package, version, marker.strip()
      assert version, f"{name}: {line} is not pinned"
      assert entry not in pins, f"{name}: {line} appears twice"
      pins[entry] = 0
  return pins


def _required(section, option):
  """Names of the packages that setup.cfg asks for."""
  config = configparser.ConfigParser()
  config.read(_ROOT / "setup.cfg")
  lines = config[section][option].split("\n")
  names = [re.match(r"[\w.-]+", line) for line in lines if line]
  return {name[0].lower().replace("_", "-") for name in names if name}


@pytest.mark.parametrize("name", _LOCKS)
def test_every_pin_has_its_hashes(name):
  pins = _pins(name)
  assert pins
  assert not [pin for pin, hashes in pins.items() if hashes == 0]


@pytest.mark.parametrize("name", _LOCKS)
def test_locks_name_no_address_and_no_other_framework(name):
  text = (_ROOT / name).read_text().lower()
  for word in ("://", "index-url", "find-links", "@", "torch", "tensorflow"):
    assert word not in text


def test_the_core_lock_is_part_of_the_whole():
  # The whole may need a package in more places: markers differ.
  core, whole = (
    {(package, version): hashes for (package, version, _), hashes in own}
    for own in (
      _pins("requirements-core.lock").items(),
      _pins("requirements.lock").items(),
    )
  )
  assert core.items() <= whole.items()


def test_locks_hold_what_the_package_requires():
  core = {package for package, _, _ in _pins("requirements-core.lock")}
  whole = {package for package, _, _ in _pins("requirements.lock")}
  assert _required("options", "install_requires") <= core
  for extra in ("dev", "clients"):
    assert _required("options.extras_require", extra) <= whole


def test_nothing_but_the_required_is_in_the_core():
  # Tools of development would make the first run of the main job slower.
  core = {package for package, _, _ in _pins("requirements-core.lock")}
  assert not core & _required("options.extras_require", "dev")


def test_every_import_is_required():
  imported = set()
  for path in (_ROOT / "spex_jax").rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        imported |= {alias.name.split(".")[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom) and not node.level:
        imported.add(str(node.module).split(".")[0])
  others = imported - sys.stdlib_module_names - {"spex_jax"} - _OPTIONAL
  packages = {_PACKAGE_OF.get(name, name).replace("_", "-") for name in others}
  assert packages <= _required("options", "install_requires")


def test_what_is_cited_is_this_version_and_its_papers():
  cited = yaml.safe_load((_ROOT / "CITATION.cff").read_text())
  assert cited["cff-version"] == "1.2.0" and cited["authors"]
  assert cited["version"] == spex_jax.__version__
  day = cited["date-released"]
  changes = (_ROOT / "CHANGELOG.md").read_text()
  assert f"## [{cited['version']}] - {day}\n" in changes
  papers = (_ROOT / "docs" / "papers.md").read_text()
  named = {*re.findall(r"arXiv (\d{4}\.\d{5})", papers)}
  assert named <= {each["url"][-10:] for each in cited["references"]}
  for each in cited["references"]:
    assert each["title"] and each["authors"]
    (own,) = each["identifiers"]
    assert own["value"] == f"arXiv:{each['url'][-10:]}"


def test_what_is_said_of_versions_is_so():
  text = (_ROOT / "docs" / "versions.md").read_text()
  config = configparser.ConfigParser()
  config.read(_ROOT / "setup.cfg")
  lowest = re.search(r"jax>=(\S+)", config["options"]["install_requires"])
  pythons = re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"])
  locked = [own[1] for own in _pins("requirements.lock") if own[0] == "jax"]
  newest = max(locked, key=lambda version: [*map(int, version.split("."))])
  assert lowest is not None
  assert f"| jax | {lowest[1]} | {newest} |" in text
  assert f"| Python | {pythons[0]} | {pythons[-1]} |" in text
  assert all(version in text for version in locked)


def _copied(folder):
  """A copy of the tracked files."""
  listed = subprocess.run(
    ["git", "ls-files", "-z"], cwd=_ROOT, capture_output=True, check=True
  ).stdout
  for name in filter(None, listed.decode().split("\0")):
    if (_ROOT / name).is_file():
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(_ROOT / name, folder / name)
  return folder


def _packed(sdist):
  """Names in an sdist, below its folder."""
  with tarfile.open(sdist) as file:
    return {name.partition("/")[2] for name in file.getnames()}


def _files(root):
  return {
    str(path.relative_to(root))
    for path in (root / "spex_jax").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
  }


def test_what_is_built_is_whole_and_runs_elsewhere(tmp_path):
  """An sdist, of it a wheel, and the command of that; nothing is fetched."""
  target, source = tmp_path / "target", _copied(tmp_path / "source")
  held = {
    str(path.relative_to(source))
    for path in source.rglob("*")
    if path.is_file() and path.relative_to(source).parts[0][0] != "."
  }
  make = (
    "import sys; from setuptools import build_meta as b; "
    "print(b.build_sdist(sys.argv[1]))"
  )
  subprocess.run(
    [sys.executable, "-c", make, str(tmp_path)], check=True,
    cwd=source, capture_output=True,
  )  # fmt: skip
  (sdist,) = tmp_path.glob("*.tar.gz")
  assert held <= _packed(sdist)
  alone = ["--quiet", "--no-deps", "--no-index"]
  pip = [sys.executable, "-m", "pip"]
  subprocess.run(
    [*pip, "wheel", *alone, "--no-build-isolation", "-w", str(tmp_path),
     str(sdist)],
    check=True,
  )  # fmt: skip
  (wheel,) = tmp_path.glob("*.whl")
  # Compiled when it is imported, as where it is installed by `make`.
  subprocess.run(
    [*pip, "install", *alone, "--no-compile", "-t", str(target), str(wheel)],
    check=True,
  )
  assert _files(target) == _files(_ROOT)
  (tmp_path / "mine.py").write_text("def value(m):\n  return m @ [1.0, 2, 3]\n")
  subprocess.run(
    [
      sys.executable, target / "bin" / "spex", "explain", "--config=callable",
      "--config.function=mine:value", "--config.n=3", "--workdir=out",
    ],
    cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(target)}, check=True,
  )  # fmt: skip
  assert (tmp_path / "out" / "explanation.json").exists()
