"""Recorded checkpoints beside the repository, and weights of the same keys.

A few lines that load by a family's rules, for the tests of the families; what
users call, with its errors, has tests of its own.
"""

import json
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def shared():
  """The folder of recorded checkpoints; skips the test where it is absent."""
  found = os.environ.get("SPEX_SHARED")
  for base in [found] if found else [p / "shared" for p in _ROOT.parents]:
    if (pathlib.Path(base) / "models").is_dir():
      return pathlib.Path(base) / "models"
  pytest.skip("no recorded checkpoints: ../shared/models is absent")


def recorded(name, family):
  """The network of a directory, its parameters, and what it should give."""
  import safetensors.numpy

  directory = shared() / name
  hub = json.loads((directory / "config.json").read_text())
  net = family.network(family.config_from_hub(hub))
  tensors = safetensors.numpy.load_file(directory / "model.safetensors")
  reference = dict(np.load(directory / "reference.npz"))
  return net, params_of(net, family.rules(net.config), tensors), reference


def params_of(net, rules, tensors):
  """Parameters from tensors; every key taken, every parameter filled once."""
  expected = jax.tree_util.tree_flatten_with_path(
    jax.eval_shape(net.init, jax.random.key(0))
  )[0]
  shapes = {
    "/".join(part.key for part in path): leaf.shape for path, leaf in expected
  }
  filled = {}
  for key, tensor in tensors.items():
    hits = [r for r in rules if re.fullmatch(r.pattern, key)]
    assert len(hits) == 1, f"{len(hits)} rules take {key}"
    (rule,) = hits
    if not rule.path:
      continue
    path = re.fullmatch(rule.pattern, key).expand(rule.path)
    assert path not in filled, path
    value = _transformed(rule.transform, tensor, net.config)
    assert shapes[path] == value.shape, (path, shapes[path], value.shape)
    filled[path] = jnp.asarray(value)
  assert filled.keys() == shapes.keys()
  tree = {}
  for path, value in filled.items():
    *parents, name = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = value
  return tree


def _transformed(name, tensor, config):
  name, _, _ = name.partition(":")
  if name.startswith("heads"):
    heads = (config.num_heads, config.head_width)
    if name == "heads_in":
      return tensor.reshape(*heads, -1).transpose(2, 0, 1)
    return tensor.T.reshape(*heads, -1)
  return {"": tensor, "transpose": tensor.T}[name]


def shaken(params, seed=0, signed=False):
  """Parameters off their initial values, so that a skipped one shows.

  By 0.05 to 0.25, which leaves variances positive; `signed`, by 0.4 times a
  normal, which spreads vectors in all directions.
  """
  rng = np.random.default_rng(seed)

  def shake(leaf):
    if signed:
      return leaf + np.float32(0.4 * rng.normal(size=leaf.shape))
    return leaf + np.float32(0.2 * rng.random(leaf.shape) + 0.05)

  return jax.tree.map(shake, params)


def relative(actual, expected):
  """max|difference| / max|expected|."""
  actual, expected = (np.asarray(a, np.float64) for a in (actual, expected))
  assert actual.shape == expected.shape
  return np.abs(actual - expected).max() / np.abs(expected).max()
