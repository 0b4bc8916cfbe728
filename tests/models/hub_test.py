"""Loading: what fits is read exactly, everything else is named."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import spex_jax
from spex_jax.models import hub, rope, weights
from tests.models import checkpoints

_TIED = checkpoints.LLAMA | {"tie_word_embeddings": True}


def _save(tmp_path, settings=_TIED, change=None, drop=()):
  shapes = checkpoints.llama_shapes(settings)
  tensors = checkpoints.random_tensors(shapes) | (change or {})
  for key in drop:
    del tensors[key]
  return checkpoints.save(tmp_path / "model", settings, tensors), tensors


def test_sharded_files_cast_and_placed_on_a_mesh(tmp_path):
  folder, tensors = _save(tmp_path)
  whole = hub.load(folder)
  (folder / "model.safetensors").unlink()
  names = sorted(tensors)
  index = {}
  for number, part in enumerate((names[:7], names[7:])):
    file = f"model-{number + 1:05d}-of-00002.safetensors"
    safetensors.numpy.save_file(
      {key: tensors[key] for key in part}, folder / file
    )
    index |= dict.fromkeys(part, file)
  path = folder / "model.safetensors.index.json"
  path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
  mesh = jax.make_mesh(
    (2, 4), ("masks", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  net = hub.load(str(folder), dtype=jnp.bfloat16, mesh=mesh)
  assert net.tokenizer is None
  for got, want in zip(
    jax.tree.leaves(net.params), jax.tree.leaves(whole.params), strict=True
  ):
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, np.asarray(want, ml_dtypes.bfloat16))
  block = net.params["blocks_0"]
  split = {
    "q": (block["attn"]["q"]["kernel"], (None, "model")),
    "k": (block["attn"]["k"]["kernel"], ()),  # 2 heads on 4 devices: whole.
    "out": (block["attn"]["out"]["kernel"], ("model",)),
    "up": (block["mlp"]["up"]["kernel"], ()),  # 10 neurons on 4 devices.
    "norm": (block["norm1"]["scale"], ()),
  }
  for name, (leaf, spec) in split.items():
    assert leaf.sharding == jax.NamedSharding(mesh, jax.P(*spec)), name
  ids = np.array([[3, 1, 4]])
  out = jax.jit(net.apply)(net.params, input_ids=ids).logits
  narrow = hub.load(folder, dtype=jnp.bfloat16)
  alone = jax.jit(narrow.apply)(narrow.params, input_ids=ids).logits
  assert checkpoints.difference(out, alone) < 0.05  # Sums in another order.
  # A promise that a shard does not keep, and a shard that is not there.
  index["model.norm.weight"], first = file, index["model.norm.weight"]
  index["lost"] = first
  path.write_text(json.dumps({"weight_map": index}))
  with pytest.raises(ValueError, match="'lost' is missing, listed by"):
    hub.load(folder)
  (folder / file).unlink()
  with pytest.raises(FileNotFoundError, match=f"missing: {file}"):
    hub.load(folder)


def test_every_fault_is_named_in_one_message(tmp_path):
  norm = "model.layers.0.input_layernorm.weight"
  folder, _ = _save(
    tmp_path,
    change={
      norm: np.ones(11, np.float32),
      "model.layers.1.self_attn.q_proj.weight": np.ones((7, 12), np.float32),
      "model.layers.2.mlp.up_proj.weight": np.ones((10, 12), np.float32),
      "model.layers.0.mlp.up_proj.scales": np.ones(3, np.float32),
    },
    drop=["model.norm.weight"],
  )
  with pytest.raises(ValueError) as error:
    hub.load(folder)
  message = str(error.value)
  assert "(5 faults)" in message and str(folder) in message
  for part in (
    f"'{norm}' of shape (11,) gives 'blocks_0/norm1/scale' the shape (11,); "
    "it must be (12,)",
    "'model.layers.1.self_attn.q_proj.weight' has shape (7, 12): it cannot "
    "be split",
    "the model has no 'blocks_2/mlp/up/kernel'",
    "no rule takes the tensor 'model.layers.0.mlp.up_proj.scales'",
    "no tensor fills 'final_norm/scale' (12,)",
  ):
    assert part in message


def test_a_parameter_is_filled_once(tmp_path):
  folder, _ = _save(
    tmp_path,
    change={
      "model.layers.0.mlp.gate_up_proj.weight": np.ones((20, 12), np.float32)
    },
  )
  with pytest.raises(ValueError, match="would fill .*gate/kernel' a second"):
    hub.load(folder)


@pytest.mark.parametrize("cut", [10, 200, 6000])
def test_truncated_files_and_pickles_are_refused(tmp_path, cut):
  folder, _ = _save(tmp_path)
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:cut])
  with pytest.raises(ValueError, match="model.safetensors is truncated"):
    hub.load(folder)
  path.rename(folder / "pytorch_model.bin")
  with pytest.raises(ValueError, match=r"pytorch_model.bin but no .*refused"):
    hub.load(folder)
  (folder / "pytorch_model.bin").unlink()
  with pytest.raises(FileNotFoundError, match="holds no model.safetensors"):
    hub.load(folder)


def test_a_tensor_of_whole_numbers_is_refused(tmp_path):
  folder, _ = _save(
    tmp_path, change={"model.norm.weight": np.ones(12, np.int8)}
  )
  with pytest.raises(ValueError, match="'model.norm.weight' is stored as I8"):
    hub.load(folder)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_narrow_tensors_are_widened(tmp_path, kind):
  value = np.linspace(0, 1, 12).astype(kind)
  folder, _ = _save(tmp_path, change={"model.norm.weight": value})
  got = hub.load(folder).params["final_norm"]["scale"]
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, value.astype(np.float32))


_YARN = {"rope_type": "yarn"}


@pytest.mark.parametrize(
  "change, message",
  [
    ({"model_type": "mamba"}, "type 'mamba' are not supported; supported are "),
    (
      {"architectures": ["LlamaForTokens"]},
      "LlamaForTokens is not supported; of",
    ),
    ({"shiny_gate": 3}, "not known here .*: shiny_gate=3"),
    (
      {"hidden_act": "mish"},
      r"config\.json: .*sets hidden_act='mish'; it must be one of gelu",
    ),
    ({"rope_scaling": _YARN}, "'yarn' of this llama must set factor"),
    (
      {"rope_scaling": {"type": "mrope", "factor": 2.0}},
      r"RoPE scaling 'mrope' \(rope_scaling\.rope_type\), which is not",
    ),
    (
      {"rope_scaling": {"type": "linear", "factor": 2.0, "beta": 1}},
      "not known here: {'rope_scaling.beta': 1}",
    ),
    ({"rope_scaling": {"type": "linear"}}, "this llama must set factor"),
    (
      {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
      "must set low_freq_factor, high_freq_factor, original_max_position",
    ),
    ({"sliding_window": 7}, "sliding_window=7"),
    ({"quantization_config": {"bits": 4}}, "quantization_config=.* not impl"),
    ({"hidden_size": None}, "must set hidden_size"),
    ({"num_key_value_heads": 3}, "cannot share 3 key-value heads"),
    ({"head_dim": 5}, r"of 5 entries \(head_dim\)"),
  ],
)
def test_settings_that_are_not_implemented_are_named(tmp_path, change, message):
  folder, _ = _save(tmp_path)
  (folder / "config.json").write_text(json.dumps(_TIED | change))
  with pytest.raises(ValueError, match=message):
    hub.load(folder)


@pytest.mark.parametrize(
  "family, change, message",
  [
    ("mistral", {"attention_bias": True}, "attention_bias=True"),
    ("gemma2", {"use_bidirectional_attention": True}, "bidirectional"),
    ("qwen2", {"layer_types": ["chunked_attention"] * 2}, "layer_types must"),
    ("qwen2", {"layer_types": ["full_attention"]}, "for each of 2 layers"),
  ],
)
def test_settings_of_relatives(tmp_path, family, change, message):
  settings = checkpoints.relative(family) | change
  folder = tmp_path / "model"
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(settings))
  with pytest.raises(ValueError, match=message):
    hub.load(folder)


@pytest.mark.parametrize(
  "family, change, expected",
  [
    ("mistral", {}, (4096, 4096)),  # The default of an absent setting.
    ("mistral", {"sliding_window": None}, ()),
    ("gemma2", {"sliding_window": 8}, (8, None)),
    ("qwen2", {"sliding_window": 8}, ()),
    (
      "qwen2",
      {"sliding_window": 8, "use_sliding_window": True,
       "max_window_layers": 1},
      (None, 8),
    ),
    ("phi3", {"sliding_window": 8}, (8, 8)),
  ],
)  # fmt: skip
def test_which_blocks_slide(family, change, expected):
  from spex_jax.models import llama

  config = llama.config_from_hub(checkpoints.relative(family) | change)
  assert config.windows == expected


def test_a_path_that_is_none(tmp_path):
  with pytest.raises(FileNotFoundError, match="neither a directory nor"):
    hub.load(tmp_path / "nowhere")
  with pytest.raises(FileNotFoundError, match="neither a directory nor"):
    hub.load("~/gpt2")
  (tmp_path / "empty").mkdir()
  with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
    hub.load(tmp_path / "empty")
  (tmp_path / "empty" / "config.json").write_text("{")
  with pytest.raises(ValueError, match="is not JSON"):
    hub.load(tmp_path / "empty")


def test_hub_names_need_the_library(monkeypatch, tmp_path):
  folder, _ = _save(tmp_path)
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(ImportError, match="pip install huggingface_hub"):
    hub.load("someone/model")

  class Hub:
    @staticmethod
    def snapshot_download(name, allow_patterns):
      assert name == "someone/model"
      assert not any(pathlib.Path("x.bin").match(p) for p in allow_patterns)
      return str(folder)

  monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
  assert hub.load("someone/model").config.num_blocks == 2
  with pytest.raises(FileNotFoundError, match="did not give it: Assertion"):
    hub.load("gpt2")  # A plain name is asked for, too.


def test_dtypes_that_are_refused(tmp_path):
  folder, _ = _save(tmp_path)
  with pytest.raises(ValueError, match="must be floating; got int32"):
    hub.load(folder, dtype=jnp.int32)
  with pytest.raises(ValueError, match="needs the JAX setting"):
    hub.load(folder, dtype=np.float64)
  with pytest.raises(ValueError, match="dtype='float99' is none; give float32"):
    hub.load(folder, dtype="float99")


def test_another_pooling_than_the_mean_is_refused(tmp_path):
  folder, _ = _save(tmp_path)
  (folder / "1_Pooling").mkdir()
  path = folder / "1_Pooling" / "config.json"
  path.write_text(json.dumps({"pooling_mode_cls_token": True}))
  with pytest.raises(ValueError, match="only the mean over tokens"):
    hub.load(folder)
  path.write_text(
    json.dumps(
      {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    )
  )
  hub.load(folder)


def test_modules_behind_the_network_are_known_or_refused(tmp_path):
  folder, _ = _save(tmp_path)
  known = ["models.Transformer", "models.Pooling", "models.Normalize"]
  for kinds, words in (
    (known, None),
    ([*known, "models.Dense"], "names Dense; only Transformer, Pooling"),
    ([None], "is no list of modules"),
  ):
    body = [
      kind and {"type": f"sentence_transformers.{kind}"} for kind in kinds
    ]
    (folder / "modules.json").write_text(json.dumps(body))
    if words is None:
      hub.load(folder)
      continue
    with pytest.raises(ValueError, match=words):
      hub.load(folder)


def test_every_transform_of_every_rule_exists():
  import importlib

  for kind, (module, architectures) in hub.FAMILIES.items():
    family = importlib.import_module(f"spex_jax.models.{module}")
    for name in ("config_from_hub", "rules", "network"):
      assert callable(getattr(family, name)), kind
    assert architectures
  for settings in (checkpoints.GPT2, checkpoints.NEOX, checkpoints.LLAMA):
    family = hub._family(settings, pathlib.Path("x"))
    for rule in family.rules(family.config_from_hub(settings)):
      assert rule.transform.partition(":")[0] in weights.TRANSFORMS


def test_the_frequencies_of_llama3_are_continuous():
  plain = rope.Rope(5e5, 128)
  scaled = rope.Rope(5e5, 128, "llama3", 8.0, 1.0, 4.0, 8192)
  ratio = rope.frequencies(plain) / rope.frequencies(scaled)
  # High frequencies kept, low ones divided by 8, none above or between twice.
  assert ratio[0] == 1 and ratio[-1] == 8
  assert (np.diff(ratio) >= -1e-12).all()
  assert ((ratio > 1.01) & (ratio < 7.9)).sum() > 3


@pytest.mark.slow
def test_load_is_imported_lazily():
  code = (
    "import sys, spex_jax.models as m; "
    "assert 'spex_jax.models.hub' not in sys.modules; m.load; "
    "assert 'safetensors' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
  assert spex_jax.models.load is hub.load
  with pytest.raises(AttributeError, match="no attribute 'loaded'"):
    _ = spex_jax.models.loaded


def test_class_names(tmp_path):
  path = tmp_path / "config.json"
  path.write_text('{"id2label": {"1": "b", "0": "a", "10": "k"}}')
  with pytest.raises(ValueError, match="need 3 different names for 0..2"):
    hub.class_names(tmp_path, 3)
  path.write_text('{"id2label": {"1": "b", "0": "a"}}')
  assert hub.class_names(tmp_path, 2) == ("a", "b")
  path.write_text("{}")
  assert hub.class_names(tmp_path, 2) == ("0", "1")
