"""Runs PyTorch and transformers in an environment of their own.

  with Torch() as peer:
    values, seconds = peer.heads(folder, tokens, target, masks, batch=32)

`make peers-torch` builds the environment. Nothing of ours runs meanwhile.

Shapes: B masks, P tokens, L layers, H heads, F neurons, d width, T prompts or
images.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from third_party import process

PeerError = process.PeerError


class Torch(process.Peer):
  """PyTorch and transformers' models in a process of their own.

  Attributes:
    cpu_seconds: processor time of each repeat of the last task.
  """

  cpu_seconds: tuple[float, ...] = ()

  adapter = "torch_adapter"
  variable = "SPEX_TORCH_PYTHON"
  environment = ".venv-torch"
  target = "peers-torch"

  def embed(
    self,
    folder: str | os.PathLike,
    rows: np.ndarray,
    coef: np.ndarray,
    *,
    batch: int,
    threads: int,
    repeats: int = 1,
  ) -> tuple[np.ndarray, tuple[float, ...]]:
    """`coef` times the normalised mean-pooled embedding of rows of tokens.

    Args:
      folder: an encoder's checkpoint.
      rows: int `[B, P]`, ids without padding.
      coef: `[d]`.
      batch: rows in a forward.
      threads: that it runs; one is faster where others use the machine.
      repeats: timed runs over all rows, behind one that is not.

    Returns:
      Values `[B]`, and the seconds of each repeat.

    Raises:
      PeerError: the peer raised, or died.
    """
    arrays = {"rows": rows.astype(np.int64), "coef": coef.astype(np.float32)}
    settings = {"batch": batch, "threads": threads, "repeats": repeats}
    return self._run("embed", arrays, folder, **settings)

  def heads(
    self,
    folder: str | os.PathLike,
    tokens: np.ndarray,
    target: int,
    masks: np.ndarray,
    *,
    batch: int,
    threads: int,
    each: bool = False,
    repeats: int = 1,
  ) -> tuple[np.ndarray, tuple[float, ...]]:
    """Log-probability of `target` behind `tokens`, with heads zeroed.

    Args:
      folder: a checkpoint of Llama's kind.
      tokens: int `[P]`.
      target: the next token.
      masks: bool `[B, L * H]`, layer-major, True = kept.
      batch: masks in a forward.
      threads: as for `embed`.
      each: a forward and hooks for every single mask instead.
      repeats: as for `embed`.

    Returns, raises: as `embed`.
    """
    arrays = {
      "rows": masks.astype(np.uint8),
      "tokens": np.asarray(tokens, np.int64)[None],
    }
    settings = {"batch": batch, "threads": threads, "repeats": repeats}
    return self._run(
      "heads", arrays, folder, target=int(target), each=each, **settings
    )

  def paths(
    self,
    folder: str | os.PathLike,
    clean: np.ndarray,
    corrupted: np.ndarray,
    answers: np.ndarray,
    *,
    threads: int,
    repeats: int = 1,
  ) -> tuple[np.ndarray, tuple[float, ...]]:
    """Path patching of every head into the logits, in a loop of hooks.

    Args:
      folder: a checkpoint of Llama's kind.
      clean: int `[T, P]`, prompts of one length, all in one forward.
      corrupted: int `[T, P]`.
      answers: int `[T, 2]`, whose logits' difference is read.
      threads: as for `embed`.
      repeats: as for `embed`.

    Returns:
      Values `[T, L * H]`, and the seconds of each repeat. Raises as `embed`.
    """
    rows = np.concatenate([clean, corrupted, answers], axis=1)
    settings = {"batch": len(rows), "threads": threads, "repeats": repeats}
    arrays = {"rows": rows.astype(np.int64)}
    return self._run("paths", arrays, folder, **settings)

  def neurons(
    self,
    folder: str | os.PathLike,
    tokens: np.ndarray,
    targets: np.ndarray,
    masks: np.ndarray,
    *,
    batch: int,
    threads: int,
    each: bool = False,
    apart: bool = False,
    repeats: int = 1,
  ) -> tuple[np.ndarray, tuple[float, ...]]:
    """Margins of next tokens, with neurons zeroed.

    Args:
      folder: a checkpoint of Llama's kind.
      tokens: int `[T, P]`, prompts of one length.
      targets: int `[T]`, the next token of each.
      masks: bool `[B, L * F]`, layer-major, True = kept.
      batch: masks in a forward, each with all prompts.
      threads: as for `embed`.
      each: a forward and hooks for every single mask instead.
      apart: with `each`, for every prompt of it, too.
      repeats: as for `embed`.

    Returns:
      Values `[B, T]`, and the seconds of each repeat. Raises as `embed`.
    """
    arrays = {
      "rows": masks.astype(np.uint8),
      "tokens": np.asarray(tokens, np.int64),
      "targets": np.asarray(targets, np.int64),
    }
    settings = {"batch": batch, "threads": threads, "repeats": repeats}
    return self._run(
      "neurons", arrays, folder, each=each, apart=apart, **settings
    )

  def filters(
    self,
    network: Mapping[str, np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    masks: np.ndarray,
    *,
    threads: int,
    repeats: int = 1,
  ) -> tuple[np.ndarray, tuple[float, ...]]:
    """Margins with filters' weights zeroed, one copy of the network a mask.

    Args:
      network: of layer N, from 0: `kernelN` `[F, C, k, k]` and the batch norm's
        `weightN`, `biasN`, `running_meanN`, `running_varN` `[F]`; `head`.
      images: float `[T, C, H, W]`.
      labels: int `[T]`.
      masks: bool `[B, filters]`, layer-major, True = kept.
      threads: as for `embed`.
      repeats: as for `embed`.

    Returns:
      Values `[B, T]`, and the seconds of each repeat. Raises as `embed`.
    """
    arrays = {
      "rows": masks.astype(np.uint8),
      "images": np.asarray(images, np.float32),
      "labels": np.asarray(labels, np.int64),
      **{name: np.asarray(x, np.float32) for name, x in network.items()},
    }
    layers = sum(name.startswith("kernel") for name in network)
    settings = {"batch": len(masks), "threads": threads, "repeats": repeats}
    return self._run("filters", arrays, "", layers=layers, **settings)

  def generate(
    self,
    folder: str | os.PathLike,
    ids: np.ndarray,
    mask: np.ndarray,
    number: int,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Greedy texts of an encoder-decoder that never end.

    Args:
      folder: its checkpoint.
      ids: int `[B, P]`, what the encoder reads.
      mask: `[B, P]`, 1 on the tokens.
      number: N, tokens to make.

    Returns:
      Tokens int `[B, N]` and the logits of every step `[B, N, V]`.

    Raises:
      PeerError: the peer raised, or died.
    """
    source, out = self._path("inputs"), self._path("found")
    arrays = {"rows": ids.astype(np.int64), "mask": mask.astype(np.int64)}
    np.savez(source, **arrays)
    self._ask(
      "generate",
      folder=os.fspath(folder),
      inputs=source,
      out=out,
      number=number,
    )
    with np.load(out) as file:
      return file["tokens"], file["logits"]

  def products(
    self, shapes: Sequence[tuple[int, int, int]], *, threads: int
  ) -> float:
    """Best rate of products `[height, a] @ [a, b]`, in operations a second."""
    given = [list(shape) for shape in shapes]
    return self._ask("products", shapes=given, threads=threads)["rate"]

  def trainings(
    self, models: int, epochs: int, *, threads: int, repeats: int = 3
  ) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Trains an MLP 64-32-10 on 300 examples, model after model.

    Args:
      models: that are trained in each repeat.
      epochs: of 6 batches.
      threads: as for `embed`.
      repeats: behind one training that is not timed.

    Returns:
      Seconds of each repeat, by the clock and of processors.

    Raises:
      PeerError: the peer raised, or died.
    """
    found = self._ask(
      "trainings",
      models=models,
      epochs=epochs,
      threads=threads,
      repeats=repeats,
    )
    return tuple(found["seconds"]), tuple(found["busy"])

  def _run(self, task, arrays, folder, **settings):
    source, out = self._path("inputs"), self._path("found")
    np.savez(source, **arrays)
    answer = self._ask(
      task, folder=os.fspath(folder), inputs=source, out=out, **settings
    )
    self.cpu_seconds = tuple(answer.get("cpu", ()))
    with np.load(out) as file:
      return file["values"], tuple(answer["seconds"])
