"""What others made and we are installed with: its licences, and a list of it.

  python -m third_party.inventory licences [--lock=requirements.lock]
  python -m third_party.inventory sbom --output=FILE [--lock=...-core.lock]

`licences` reads what every package that a lock pins for this Python and system
says of its licence in its installed metadata, prints a table, and fails on one
that is unknown, not allowed, or not installed. In order: `License-Expression`
(PEP 639), a `License` that is a name or an expression, classifiers (of several
all must be allowed, as they do not say which of them counts). An expression is
allowed where one side of every OR and both of every AND are.

`sbom` writes all that a lock pins, whatever the system, as CycloneDX 1.6 JSON:
name, version, package URL, the SHA-256 of every file that may be installed,
when it is needed, and, where it is installed here, its licence and what it
needs. No time is in it: the same lock and environment give the same bytes.
"""

import configparser
import importlib.metadata
import json
import pathlib
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from absl import app, flags
from packaging import licenses, requirements, utils

import spex_jax

_ROOT = pathlib.Path(__file__).resolve().parents[1]
UNKNOWN = ""
# Permissive ones, and MPL-2.0, whose copyleft ends at its own files.
ALLOWED = frozenset({
  "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
  "HPND", "ISC", "LicenseRef-BSD", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0",
  "Unlicense", "Zlib",
})  # fmt: skip
# What metadata says in other words; "BSD" leaves open how many clauses.
_SAID = {
  "3-Clause BSD License": "BSD-3-Clause",
  "Apache 2.0": "Apache-2.0",
  "Apache Software License": "Apache-2.0",
  "BSD": "LicenseRef-BSD",
  "BSD 3-Clause License": "BSD-3-Clause",
  "BSD License": "LicenseRef-BSD",
  "ISC License (ISCL)": "ISC",
  "MIT License": "MIT",
  "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
  "Python Software Foundation License": "PSF-2.0",
  "The Unlicense (Unlicense)": "Unlicense",
}


class Pin(NamedTuple):
  """A line of a lock.

  Attributes:
    requirement: its name, `==version`, and when it is needed.
    hashes: SHA-256 of files that may be installed.
  """

  requirement: requirements.Requirement
  hashes: tuple[str, ...]

  @property
  def version(self) -> str:
    (own,) = self.requirement.specifier
    return own.version

  @property
  def is_needed_here(self) -> bool:
    marker = self.requirement.marker
    return marker is None or marker.evaluate()


def pins(lock: pathlib.Path) -> list[Pin]:
  """All lines of a lock that `make lock` wrote."""
  found = []
  for entry in re.split(r"^(?=\w)", lock.read_text(), flags=re.MULTILINE)[1:]:
    head, *rest = entry.split("--hash=sha256:")
    requirement = requirements.Requirement(head.strip().rstrip("\\").strip())
    hashes = tuple(part.strip().rstrip("\\").strip() for part in rest)
    found.append(Pin(requirement, hashes))
  return found


def licence(metadata: Any) -> str:
  """The SPDX expression of a package's metadata, or `UNKNOWN`."""
  for text in (metadata.get("License-Expression"), metadata.get("License")):
    text = (text or "").strip()
    if text in _SAID:
      return _SAID[text]
    try:
      return licenses.canonicalize_license_expression(text)
    except licenses.InvalidLicenseExpression:
      continue  # A licence's whole text, or none.
  last = [
    line.rpartition(" :: ")[2]
    for line in metadata.get_all("Classifier") or ()
    if line.startswith("License :: OSI Approved :: ")
  ]
  if not last or any(each not in _SAID for each in last):
    return UNKNOWN
  return " AND ".join(sorted({_SAID[each] for each in last}))


def is_allowed(expression: str) -> bool:
  """Whether one side of every OR, and both of every AND, are allowed."""
  if expression == UNKNOWN:
    return False
  # An exception permits more than the licence that it belongs to.
  text = re.sub(r" WITH [^\s()]+", "", expression)
  parts = re.findall(r"[()]|[^\s()]+", text)
  words = {"(": "(", ")": ")", "AND": "and", "OR": "or"}
  # Nothing is left but brackets, and, or, True and False.
  return eval(" ".join(words.get(p) or str(p in ALLOWED) for p in parts))


class Row(NamedTuple):
  """A package, and what became of it; `fault` is "" where it may be used."""

  name: str
  version: str
  licence: str
  fault: str


def listed(found: Sequence[Pin]) -> Iterator[Row]:
  """A row for each pin that is needed on this Python and system."""
  for pin in found:
    if not pin.is_needed_here:
      continue
    name = pin.requirement.name
    try:
      expression = licence(importlib.metadata.metadata(name))
    except importlib.metadata.PackageNotFoundError:
      yield Row(name, pin.version, UNKNOWN, "is not installed")
      continue
    fault = "" if is_allowed(expression) else f"{expression} is not allowed"
    if expression == UNKNOWN:
      fault = "says of its licence nothing that is known"
    yield Row(name, pin.version, expression, fault)


def bill(found: Sequence[Pin], direct: Sequence[str]) -> dict[str, Any]:
  """A CycloneDX document of pins, and which of them we ask for ourselves.

  Args:
    found: of a lock.
    direct: names, as setup.cfg has them.
  """
  components: dict[str, dict[str, Any]] = {}
  of_name: dict[str, list[str]] = {}
  for pin in found:
    name = utils.canonicalize_name(pin.requirement.name)
    url = f"pkg:pypi/{name}@{pin.version}"
    if url in components:  # Of another Python, in the same version.
      continue
    of_name.setdefault(name, []).append(url)
    components[url] = own = {
      "type": "library", "bom-ref": url, "name": name, "version": pin.version,
      "purl": url,
      "externalReferences": [{
        "type": "distribution", "url": f"https://pypi.org/simple/{name}/",
        "hashes": [{"alg": "SHA-256", "content": h} for h in pin.hashes],
      }],
    }  # fmt: skip
    if pin.requirement.marker is not None:
      marker = str(pin.requirement.marker)
      own["properties"] = [{"name": "python:marker", "value": marker}]
    expression = _installed(name, pin.version, licence) or UNKNOWN
    if expression != UNKNOWN:
      own["licenses"] = [{"expression": expression}]
  us = f"pkg:pypi/spex-jax@{spex_jax.__version__}"
  needs = {us: [utils.canonicalize_name(name) for name in direct]}
  for url, own in components.items():
    needs[url] = _installed(own["name"], own["version"], _needed) or []
  document = {
    "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
    "metadata": {"component": {
      "type": "library", "bom-ref": us, "name": "spex-jax", "purl": us,
      "version": spex_jax.__version__,
      "licenses": [{"expression": "Apache-2.0"}],
    }},
    "components": list(components.values()),
    "dependencies": [
      {"ref": url, "dependsOn": sorted(
        each for name in set(names) for each in of_name.get(name, ())
      )}
      for url, names in needs.items()
    ],
  }  # fmt: skip
  serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document, sort_keys=True))
  return {"serialNumber": f"urn:uuid:{serial}"} | document


def _installed(name, version, read):
  """What `read` makes of a package's metadata; None of another version's."""
  try:
    found = importlib.metadata.metadata(name)
  except importlib.metadata.PackageNotFoundError:
    return None
  return read(found) if found["Version"] == version else None


def _needed(metadata: Any) -> list[str]:
  """Names of what a package needs here, without its extras."""
  asked = map(requirements.Requirement, metadata.get_all("Requires-Dist") or ())
  return [
    utils.canonicalize_name(each.name)
    for each in asked
    if each.marker is None or each.marker.evaluate({"extra": ""})
  ]


def required(setup: pathlib.Path) -> list[str]:
  """Names of what a setup.cfg asks for."""
  config = configparser.ConfigParser()
  config.read(setup)
  asked = config["options"]["install_requires"].split("\n")
  return [requirements.Requirement(each).name for each in asked if each]


def main(argv: Sequence[str]) -> int:
  """Does what the word asks for; 1 where a licence is not allowed."""
  given, word = flags.FLAGS, "".join(argv[1:])
  if word == "licences":
    table = list(listed(pins(_ROOT / (given.lock or "requirements.lock"))))
    for row in table:
      print(f"{row.name:24} {row.version:12} {row.licence or row.fault}")
    counts = Counter(row.licence for row in table if not row.fault)
    told = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    print(f"{len(table)} packages: {told}")
    for row in table:
      if row.fault:
        print(f"{row.name} {row.version} {row.fault}")
    return int(any(row.fault for row in table))
  if word == "sbom" and given.output:
    lock = given.lock or "requirements-core.lock"
    document = bill(pins(_ROOT / lock), required(_ROOT / "setup.cfg"))
    path = pathlib.Path(given.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(f"{path}: {len(document['components'])} components")
    return 0
  raise app.UsageError("Say licences, or sbom with --output=FILE.")


if __name__ == "__main__":
  flags.DEFINE_string("lock", None, "Another lock, from the checkout's root.")
  flags.DEFINE_string("output", None, "File of the list of components.")
  app.run(main)
