"""The architecture as a test: which room may import which, and how large.

Reads every import with `ast`, those inside functions too, so that nothing has
to be installed or run.
"""

import ast
import pathlib
import subprocess
import sys
import textwrap

import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_MAX_LINES = 500

_MODEL_USERS = {"base", "models", "ablate", "api"}
# What each room may import besides itself. `None`: anything.
_MAY_IMPORT = {
  "base": set(),
  "masks": {"base"},
  "fourier": {"base", "masks"},
  "proxies": {"base", "masks", "fourier"},
  "indices": {"base", "fourier"},
  "explanation": {"base", "masks", "fourier", "indices"},
  "api": {
    "base", "masks", "fourier", "proxies", "indices", "explanation",
  },
  "models": {"base"},
  "datasets": {"base"},
  "training": {"base"},
  "ablate": {"base", "masks", "models", "datasets"},
  # Packed masks and their hashes are the layout on disk.
  "store": {"base", "masks"},
  # Datamodels are first-order Fourier fits; SparseFourier is read out here.
  "influence": {
    "base", "masks", "fourier", "models", "training", "ablate", "store",
    "indices", "api",
  },
  # Masks are drawn here, and component models are Fourier fits.
  "components": _MODEL_USERS | {"masks", "fourier", "indices"},
  "circuits": {"base", "models", "ablate"},
  "context": _MODEL_USERS,
  "agents": _MODEL_USERS,
  "sweeps": {"base", "store", "settings"},
  "report": {"base", "indices", "sweeps"},
  # The command: settings that name nothing, what to do with them, the flags.
  "configs": set(),
  "settings": set(),
  "usage": set(),
  "jobs": None,
  "cli": None,
  "__init__": None,
}  # fmt: skip

# Other frameworks, the peers, and what stands on top of the package.
_FORBIDDEN = {
  "torch", "tensorflow", "keras", "spectralexplain", "sparse_transform",
  "experiments", "launch", "third_party", "tests",
}  # fmt: skip

# Slow to import: only inside the functions that use them.
_LAZY = {
  "sklearn", "scipy", "matplotlib", "pandas", "pyarrow", "orbax", "optax",
  "shapiq", "lightgbm", "tokenizers", "safetensors", "huggingface_hub",
  "PIL", "fsspec", "duckdb",
}  # fmt: skip


def _imports(tree, package):
  """Yields `(dotted name, line, runs on import)` of every import."""
  inner = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
      isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ):
      inner.update(id(child) for child in ast.walk(node) if child is not node)
  for node in ast.walk(tree):
    top = id(node) not in inner
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name, node.lineno, top
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        parts = package[: len(package) - node.level + 1]
        base = ".".join([*parts, base] if base else parts)
      for alias in node.names:
        yield f"{base}.{alias.name}", node.lineno, top


def violations(root):
  """Lists what in `root/spex_jax` breaks the architecture, one line each."""
  found = []
  for path in sorted((root / "spex_jax").rglob("*.py")):
    parts = path.relative_to(root).with_suffix("").parts
    name, room = "/".join(parts[1:]) + ".py", parts[1]
    if room not in _MAY_IMPORT:
      found.append(f"{name}: no such room; add {room} to the architecture")
      continue
    if len(parts) > 3:
      found.append(f"{name}: folders are one deep")
    if parts[-1] == "utils":
      found.append(f"{name}: a helper lives in the room that owns its noun")
    allowed = _MAY_IMPORT[room]
    tree = ast.parse(path.read_text(), str(path))
    for target, line, top in _imports(tree, parts[:-1]):
      head, *rest = target.split(".")
      where = f"{name}:{line}"
      if head in _FORBIDDEN:
        found.append(f"{where}: imports {head}")
      elif head in _LAZY and top and room not in ("cli", "jobs"):
        found.append(f"{where}: imports {head} at module level; do it lazily")
      elif head == "spex_jax" and allowed is not None:
        other = rest[0] if rest else "the package itself"
        if other != room and other not in allowed:
          found.append(f"{where}: {room} may not import {other}")
  return found


def _too_long(root):
  folders = ("spex_jax", "tests", "experiments", "third_party", "launch")
  files = [
    path
    for folder in folders
    for path in (root / folder).rglob("*.py")
    if not any(part.startswith(".venv") for part in path.parts)
  ]
  sizes = {str(p.relative_to(root)): p.read_text().count("\n") for p in files}
  return {name: size for name, size in sizes.items() if size > _MAX_LINES}


def test_imports_follow_the_architecture():
  assert (_ROOT / "spex_jax" / "base.py").exists()
  assert not violations(_ROOT)


def test_no_file_is_too_long():
  assert not _too_long(_ROOT)


def test_every_allowed_room_is_a_room():
  named = set().union(*(rooms for rooms in _MAY_IMPORT.values() if rooms))
  assert named <= set(_MAY_IMPORT)


def _plant(root, files):
  for name, text in files.items():
    path = root / "spex_jax" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
  return root


@pytest.mark.parametrize(
  ("name", "text", "complaint"),
  [
    ("masks/bch.py", "from spex_jax.fourier import sparse", "import fourier"),
    ("masks/bch.py", "import spex_jax.fourier.sparse", "import fourier"),
    ("masks/bch.py", "from spex_jax import api", "import api"),
    ("masks/bch.py", "from ..fourier import sparse", "import fourier"),
    ("masks/bch.py", "from .. import fourier", "import fourier"),
    ("masks/bch.py", "import spex_jax", "import the package itself"),
    ("base.py", "from spex_jax.masks import bch", "import masks"),
    ("fourier/spex.py", "def f():\n  import spex_jax.indices", "import indic"),
    ("fourier/spex.py", "from spex_jax import ablate", "import ablate"),
    ("api.py", "from spex_jax import ablate", "import ablate"),
    ("models/mlp.py", "from spex_jax import masks", "import masks"),
    ("ablate/evaluate.py", "from spex_jax import fourier", "import fourier"),
    ("indices/table.py", "from spex_jax import report", "import report"),
    ("report/plots.py", "from spex_jax import fourier", "import fourier"),
    ("report/plots.py", "from experiments import a", "imports experiments"),
    ("models/hub.py", "def f():\n  import torch.nn", "imports torch"),
    ("cli.py", "from tensorflow import keras", "imports tensorflow"),
    ("fourier/regress.py", "import sklearn.linear_model", "module level"),
    ("base.py", "if TYPE_CHECKING:\n  from spex_jax import masks", "import m"),
    ("fourier/regress.py", "if 1:\n  from scipy import fft", "module level"),
    ("attic/new.py", "", "no such room"),
    ("masks/deep/bch.py", "", "one deep"),
    ("masks/utils.py", "", "owns its noun"),
  ],
)
def test_a_planted_violation_is_found(tmp_path, name, text, complaint):
  found = violations(_plant(tmp_path, {name: text}))
  assert len(found) == 1
  assert complaint in found[0]


def test_what_the_architecture_allows_passes(tmp_path):
  files = {
    "__init__.py": "from spex_jax.api import explain",
    "base.py": "import jax\nimport numpy as np",
    "fourier/spex.py": "from spex_jax import base\nfrom ..masks import bch",
    "fourier/gram.py": "from . import sparse\nimport spex_jax.fourier.sparse",
    "fourier/regress.py": "def f():\n  import sklearn.linear_model",
    "api.py": "from spex_jax.indices import table",
    "ablate/evaluate.py": "from spex_jax import masks, models",
    "report/plots.py": "if TYPE_CHECKING:\n  import matplotlib.figure",
    "cli.py": "import sklearn\nfrom spex_jax import ablate, explain, report",
  }
  assert not violations(_plant(tmp_path, files))


def test_a_long_file_is_found(tmp_path):
  _plant(tmp_path, {"base.py": "\n" * 501, "api.py": "\n" * 500})
  assert _too_long(tmp_path) == {"spex_jax/base.py": 501}


_PROBE = """
import time
start = time.perf_counter()
import jax
middle = time.perf_counter()
import spex_jax
end = time.perf_counter()
import sys
from jax._src import xla_bridge
assert not xla_bridge._backends, f"backends: {list(xla_bridge._backends)}"
for name in ("torch", "tensorflow", "scipy", "sklearn", "matplotlib",
             "orbax", "optax", "tokenizers", "safetensors",
             "huggingface_hub"):
  assert name not in sys.modules, f"{name} was imported"
print((end - middle) / (middle - start))
"""


def test_import_is_quick_and_starts_no_backend():
  # Beside JAX's own import, half of which it takes on an idle machine: a busy
  # one slows both. The best of three, after one that fills the file cache.
  shares = []
  for _ in range(4):
    run = subprocess.run(
      [sys.executable, "-c", _PROBE], cwd=_ROOT, text=True, capture_output=True
    )
    assert run.returncode == 0, run.stderr
    shares.append(float(run.stdout))
  assert min(shares[1:]) < 1, f"import took {shares} times that of jax"


def test_the_probe_sees_a_backend():
  text = _PROBE.replace("import spex_jax", "import jax; jax.devices()")
  run = subprocess.run(
    [sys.executable, "-c", text], cwd=_ROOT, text=True, capture_output=True
  )
  assert "backends" in run.stderr
