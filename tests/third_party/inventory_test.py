"""Licences are told from metadata, and the list of components from the lock."""

import email.message
import json
import pathlib

import pytest

import spex_jax
from third_party import inventory

_ROOT = pathlib.Path(__file__).parents[2]
_A, _B = "a" * 64, "b" * 64
_LOCK = f"""numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:{_A} \\
    --hash=sha256:{_B}
numpy==0.0.1 ; python_full_version < '3' \\
    --hash=sha256:{_B}
not-there==1.0 \\
    --hash=sha256:{_A}
"""


@pytest.fixture
def lock(tmp_path):
  path = tmp_path / "x.lock"
  path.write_text(_LOCK)
  return path


def _metadata(**fields):
  made = email.message.Message()
  for name, value in fields.items():
    for each in value if isinstance(value, list) else [value]:
      made[name.replace("_", "-")] = each
  return made


_BSD = "LicenseRef-BSD"  # How many clauses is not said.
_OSI = "License :: OSI Approved :: "


@pytest.mark.parametrize(
  ("fields", "expression"),
  [
    ({"License_Expression": "mit or apache-2.0"}, "MIT OR Apache-2.0"),
    ({"License": "MPL-2.0 AND MIT"}, "MPL-2.0 AND MIT"),
    ({"License": "BSD 3-Clause License"}, "BSD-3-Clause"),
    (
      {"License": "BSD", "Classifier": [f"{_OSI}MIT License"]},
      _BSD,
    ),
    (
      {"License": "All rights\nreserved", "Classifier": [f"{_OSI}BSD License"]},
      _BSD,
    ),
    (
      {"Classifier": [f"{_OSI}MIT License", f"{_OSI}Apache Software License"]},
      "Apache-2.0 AND MIT",
    ),
    ({"License": "as you like"}, ""),
    ({"Classifier": [f"{_OSI}MIT License", f"{_OSI}Something New"]}, ""),
    ({"Classifier": ["Programming Language :: Python"]}, ""),
  ],
)
def test_a_licence_of_metadata(fields, expression):
  assert inventory.licence(_metadata(**fields)) == expression


@pytest.mark.parametrize(
  ("expression", "allowed"),
  [
    ("MIT", True),
    ("GPL-3.0-only", False),
    ("MIT AND GPL-3.0-only", False),
    ("MIT OR GPL-3.0-only", True),
    ("(GPL-2.0-only OR AGPL-3.0-only) AND MIT", False),
    ("BSD-2-Clause AND Apache-2.0 WITH LLVM-exception", True),
    ("GPL-2.0-only WITH Classpath-exception-2.0", False),
    ("", False),
  ],
)
def test_what_is_allowed(expression, allowed):
  assert inventory.is_allowed(expression) is allowed


def test_a_lock_is_read(lock):
  first, second, third = inventory.pins(lock)
  assert first.hashes == (_A, _B) and first.version == "2.4.6"
  assert not second.is_needed_here and third.is_needed_here
  # Of the real ones, the names that pip would read.
  for name in ("requirements.lock", "requirements-core.lock"):
    text = (_ROOT / name).read_text()
    found = inventory.pins(_ROOT / name)
    assert len(found) == sum("==" in line for line in text.splitlines())
    assert sum(len(pin.hashes) for pin in found) == text.count("--hash=")


def test_faults_are_told(lock, monkeypatch):
  rows = {row.name: row for row in inventory.listed(inventory.pins(lock))}
  assert rows["not-there"].fault == "is not installed"
  monkeypatch.setattr(inventory, "licence", lambda _: "GPL-3.0-only")
  rows = {row.name: row for row in inventory.listed(inventory.pins(lock)[::2])}
  if "numpy" in rows:  # The lock names it below Python 3.12.
    assert rows["numpy"].fault == "GPL-3.0-only is not allowed"


def test_what_is_installed_may_be_used():
  rows = list(inventory.listed(inventory.pins(_ROOT / "requirements.lock")))
  assert len(rows) > 60
  faults = [row for row in rows if row.fault not in ("", "is not installed")]
  assert not faults


def test_components_are_whole_and_the_same_again():
  lock = _ROOT / "requirements-core.lock"
  found = inventory.pins(lock)
  bill = inventory.bill(found, ["jax", "ml_collections"])
  assert bill == inventory.bill(found, ["jax", "ml_collections"])
  assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
  urls = [own["bom-ref"] for own in bill["components"]]
  assert {url.partition("@")[0] for url in urls} == {
    f"pkg:pypi/{pin.requirement.name}" for pin in found
  }
  for own in bill["components"]:
    (reference,) = own["externalReferences"]
    assert all(len(h["content"]) == 64 for h in reference["hashes"])
  edges = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
  us = f"pkg:pypi/spex-jax@{spex_jax.__version__}"
  assert edges.keys() == {us, *urls} and len(urls) == len({*urls})
  assert {name.partition("@")[0] for name in edges[us]} == {
    "pkg:pypi/jax", "pkg:pypi/ml-collections"
  }  # fmt: skip
  assert all(other in urls for own in edges.values() for other in own)
  assert json.loads(json.dumps(bill)) == bill


def test_what_we_ask_for_is_that_of_the_setup():
  names = inventory.required(_ROOT / "setup.cfg")
  assert {"jax", "numpy", "ml_collections"} < {*names}


def test_a_component_has_its_marker_and_two_versions_are_two(lock):
  bill = inventory.bill(inventory.pins(lock), ["numpy"])
  first, second, third = bill["components"]
  assert [first["version"], second["version"]] == ["2.4.6", "0.0.1"]
  assert "3.12" in first["properties"][0]["value"]
  assert "properties" not in third and "licenses" not in third
