"""Records transformers that Tracr compiles from programs, as numbers alone.

  python third_party/record_tracr.py OUT.npz

Python is one with JAX, tracr-pypi 1.0.0 and dm-haiku 0.0.17. What these
programs compute, and by which edges, is known by construction (Lindner et al.
2023, arXiv 2301.05062): `experiments.known_circuits` loads the weights.

Of each program the file has `NAME/MODULE/w` and `/b` (Haiku's names), and of
prompts `NAME/ids` `[N, P]`, which begin with Tracr's own first token, the
stream that it ends in, `NAME/stream` `[N, P, d]`, and where in it the output
is, `NAME/output` `[K]` (one-hot of K values, or one number).
"""

import sys

import numpy as np

PROMPTS = 6
_LENGTH = 5
_WORDS = ("x", "y", "z")


def programs():
  """RASP programs by name, as Tracr's authors and ACDC's have them."""
  from tracr.compiler import lib
  from tracr.rasp import rasp

  is_x = (rasp.tokens == "x").named("is_x")
  return {
    "reverse": lib.make_reverse(rasp.tokens),
    "share": lib.make_frac_prevs(is_x),  # Of "x" among the tokens so far.
  }


def record(program) -> dict[str, np.ndarray]:
  """Weights of a compiled program, and what it computes."""
  from tracr.compiler import compiling

  model = compiling.compile_rasp_to_model(
    program, vocab={*_WORDS}, max_seq_len=_LENGTH, compiler_bos="BOS"
  )
  found = {
    f"{module}/{name}": np.asarray(value)
    for module, leaves in model.params.items()
    for name, value in leaves.items()
  }
  rng = np.random.default_rng(0)
  prompts = [
    ["BOS", *rng.choice(_WORDS, _LENGTH).tolist()] for _ in range(PROMPTS)
  ]
  assert model.input_encoder is not None and model.output_encoder is not None
  found["ids"] = np.array([model.input_encoder.encode(p) for p in prompts])
  outs = [model.apply(prompt) for prompt in prompts]
  found["stream"] = np.stack([out.transformer_output[0] for out in outs])
  name = str(program.label)
  labels = model.residual_labels
  at = [i for i, x in enumerate(labels) if x.split(":")[0].startswith(name)]
  found["output"] = np.array(at)
  return found


def main(out: str) -> None:
  """Writes the file `out`."""
  numbers = {
    f"{name}/{key}": value
    for name, program in programs().items()
    for key, value in record(program).items()
  }
  np.savez_compressed(out, allow_pickle=False, **numbers)


if __name__ == "__main__":
  main(*sys.argv[1:])
