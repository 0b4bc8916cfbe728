"""Work of PyTorch and transformers; a worker inside their environment.

`torch_peer.py` starts it and `serving.py` answers for it. The models are
`transformers`' own, called as a user would who wants many masked forwards; what
is trained is PyTorch's own, in a loop as it is usually written. This file
imports nothing of ours.

Shapes: B masks, P tokens, L layers, H heads, F neurons, d width, T prompts or
images.
"""

import copy
import math
import time

import numpy as np
import torch
import transformers

from third_party import serving

_loaded = {}


def versions(request):
  """Versions, and the threads that PyTorch runs."""
  del request
  found = serving.versions_of("torch", "transformers", "numpy")
  return found | {"threads": str(torch.get_num_threads())}


def _model(kind, folder):
  if (kind, folder) not in _loaded:
    made = getattr(transformers, kind).from_pretrained(folder)
    _loaded[kind, folder] = made.eval()
  return _loaded[kind, folder]


def _timed(request, one_batch):
  """Answers of all rows; the seconds of each repeat, and of its processors."""
  torch.set_num_threads(request["threads"])
  with np.load(request["inputs"]) as file:
    arrays = {name: torch.from_numpy(file[name]) for name in file}
  count, size = len(arrays["rows"]), request["batch"]
  seconds, cpu, values = [], [], []
  with torch.inference_mode():
    for _ in range(1 + request["repeats"]):
      begin, busy = time.perf_counter(), time.process_time()
      values = [
        one_batch(arrays, slice(start, start + size))
        for start in range(0, count, size)
      ]
      seconds.append(time.perf_counter() - begin)
      cpu.append(time.process_time() - busy)
  np.savez(request["out"], values=torch.cat(values).double().numpy())
  return {"seconds": seconds[1:], "cpu": cpu[1:]}


def _margins(logits, labels):
  """The right logit less the largest other: `[R, V]` and `[R, 1]` to `[R]`."""
  right = logits.gather(1, labels)[:, 0]
  return right - logits.scatter(1, labels, -math.inf).amax(dim=1)


def embed(request):
  """A linear function of normalised mean-pooled embeddings of token rows."""
  model = _model("AutoModel", request["folder"])

  def one_batch(arrays, rows):
    ids = arrays["rows"][rows]
    out = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    mean = out.last_hidden_state.mean(dim=1)
    unit = mean / mean.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return unit @ arrays["coef"]

  return _timed(request, one_batch)


def heads(request):
  """Log-probability of a token with heads zeroed, by masks `[B, L * H]`.

  A hook before each output projection multiplies with the masks of the whole
  batch; with `each`, every mask has a forward and hooks of its own.
  """
  model = _model("AutoModelForCausalLM", request["folder"])
  layers = model.model.layers
  target, num_heads = request["target"], model.config.num_attention_heads

  def predict(tokens, masks):
    gates = masks.view(len(masks), len(layers), num_heads, 1)
    handles = []
    for number, layer in enumerate(layers):

      def hook(module, args, gate=gates[:, number]):
        z = args[0]
        split = z.view(len(z), z.shape[1], num_heads, -1)
        return ((split * gate[:, None]).reshape(z.shape),)

      handles.append(layer.self_attn.o_proj.register_forward_pre_hook(hook))
    try:
      ids = tokens.expand(len(masks), -1)
      logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
    finally:
      for handle in handles:
        handle.remove()
    return torch.log_softmax(logits[:, -1].float(), dim=-1)[:, target]

  def one_batch(arrays, rows):
    masks = arrays["rows"][rows].float()
    if not request["each"]:
      return predict(arrays["tokens"], masks)
    return torch.cat([predict(arrays["tokens"], row[None]) for row in masks])

  return _timed(request, one_batch)


def paths(request):
  """Path patching of every head into the logits, head by head, by hooks.

  Rows are pairs of prompts and their two answers, `[N, 2 P + 2]`. What heads
  give on both is kept; then for every head a forward of the clean prompts, with
  a hook before each output projection that puts in what all heads gave there,
  but for one what it gave on the other prompts. MLPs follow. Values are the
  logit of the first answer less that of the second, `[N, L * H]`.
  """
  model = _model("AutoModelForCausalLM", request["folder"])
  layers, heads = model.model.layers, model.config.num_attention_heads

  def run(ids, hook):
    handles = [
      layer.self_attn.o_proj.register_forward_pre_hook(hook(number))
      for number, layer in enumerate(layers)
    ]
    try:
      return model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
    finally:
      for handle in handles:
        handle.remove()

  def kept(ids):
    found = {}

    def hook(number):
      return lambda module, args: found.update({number: args[0]})

    run(ids, hook)
    return found

  def one_batch(arrays, rows):
    some = arrays["rows"][rows]
    clean, other, answers = some.split(
      [(some.shape[1] - 2) // 2] * 2 + [2], dim=1
    )
    ours, theirs = kept(clean), kept(other)
    values = []
    for layer in range(len(layers)):
      for head in range(heads):

        def hook(number, layer=layer, head=head):
          z = ours[number]
          if number == layer:
            split = z.view(*z.shape[:2], heads, -1).clone()
            width = split.shape[-1]
            part = slice(head * width, (head + 1) * width)
            split[:, :, head] = theirs[number][..., part]
            z = split.view(z.shape)
          return lambda module, args: (z,)

        logits = run(clean, hook)[:, -1].float().gather(1, answers)
        values.append(logits[:, 0] - logits[:, 1])
    return torch.stack(values, dim=1)

  return _timed(request, one_batch)


def neurons(request):
  """Margin of each prompt's next token, by masks `[B, L * F]`.

  A hook before each down-projection multiplies with the masks of the whole
  batch, whose rows are all prompts under all masks; with `each`, every mask has
  a forward of all prompts and hooks of its own, or with `apart` every prompt of
  every mask.
  """
  model = _model("AutoModelForCausalLM", request["folder"])
  layers = model.model.layers
  size = model.config.intermediate_size

  def predict(tokens, targets, masks):
    count = len(tokens)
    gates = masks.view(len(masks), len(layers), 1, size)
    gates = gates.repeat_interleave(count, dim=0)
    handles = [
      layer.mlp.down_proj.register_forward_pre_hook(
        lambda module, args, gate=gates[:, number]: (args[0] * gate,)
      )
      for number, layer in enumerate(layers)
    ]
    try:
      ids = tokens.repeat(len(masks), 1)
      logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
    finally:
      for handle in handles:
        handle.remove()
    wanted = targets.repeat(len(masks))[:, None]
    return _margins(logits[:, -1].float(), wanted).view(len(masks), count)

  def one_batch(arrays, rows):
    masks = arrays["rows"][rows].float()
    tokens, targets = arrays["tokens"], arrays["targets"]
    if not request["each"]:
      return predict(tokens, targets, masks)
    size = 1 if request["apart"] else len(tokens)
    each = [
      predict(part, wanted, row[None])
      for row in masks
      for part, wanted in zip(tokens.split(size), targets.split(size))
    ]
    return torch.cat(each, dim=1).view(len(masks), len(tokens))

  return _timed(request, one_batch)


def filters(request):
  """Margins of images `[B, T]` with filters' weights zeroed, mask by mask.

  As COAR's code does: for every mask a deep copy of the network, zeros in the
  weights of absent filters, and a forward on all images. The network is two
  convolutions with batch norm, ReLU and pools, and a linear head.
  """
  with np.load(request["inputs"]) as file:
    given = {name: torch.from_numpy(file[name]) for name in file}
  parts = []
  for number in range(request["layers"]):
    kernel = given[f"kernel{number}"]
    conv = torch.nn.Conv2d(
      kernel.shape[1], len(kernel), kernel.shape[2], padding=1, bias=False
    )
    norm = torch.nn.BatchNorm2d(len(kernel))
    with torch.no_grad():
      conv.weight.copy_(kernel)
      for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(norm, name).copy_(given[f"{name}{number}"])
    last = number == request["layers"] - 1
    pool = torch.nn.AdaptiveMaxPool2d(1) if last else torch.nn.MaxPool2d(2)
    parts += [conv, norm, torch.nn.ReLU(), pool]
  head = torch.nn.Linear(*given["head"].shape, bias=False)
  with torch.no_grad():
    head.weight.copy_(given["head"].T)
  model = torch.nn.Sequential(*parts, torch.nn.Flatten(), head).eval()
  labels = given["labels"][:, None]

  def one_batch(arrays, rows):
    found = []
    for mask in arrays["rows"][rows].bool():
      cut, first = copy.deepcopy(model), 0
      for part in cut:
        if isinstance(part, torch.nn.Conv2d):
          own = mask[first : first + part.out_channels]
          part.weight.data[~own] = 0
          first += part.out_channels
      logits = cut(arrays["images"])
      found.append(_margins(logits, labels))
    return torch.stack(found)

  return _timed(request, one_batch)


def generate(request):
  """Greedy texts of an encoder-decoder, and the logits of every step.

  As its generation configuration says, without beams and without an end.
  """
  model = _model("AutoModelForSeq2SeqLM", request["folder"])
  settings = model.generation_config
  settings.eos_token_id = settings.forced_eos_token_id = None
  with np.load(request["inputs"]) as file:
    ids, mask = (torch.from_numpy(file[name]) for name in ("rows", "mask"))
  with torch.inference_mode():
    made = model.generate(
      input_ids=ids,
      attention_mask=mask,
      max_new_tokens=request["number"],
      do_sample=False,
      num_beams=1,
      output_logits=True,
      return_dict_in_generate=True,
    )
  logits = torch.stack(made.logits, dim=1)
  np.savez(
    request["out"], tokens=made.sequences[:, 1:].numpy(), logits=logits.numpy()
  )
  return {}


def products(request):
  """Multiply-adds per second, times two, of plain matrix products."""
  torch.set_num_threads(request["threads"])
  best = 0.0
  with torch.inference_mode():
    for height, a, b in request["shapes"]:
      x, y = torch.randn(height, a), torch.randn(a, b)
      least = math.inf
      for _ in range(10):
        begin = time.perf_counter()
        x @ y
        least = min(least, time.perf_counter() - begin)
      best = max(best, 2 * height * a * b / least)
  return {"rate": best}


def trainings(request):
  """Seconds, by the clock and of processors, of training an MLP many times.

  An MLP 64-32-10 on 300 random examples, half of them at weight 0, in batches
  of 50, by momentum .9 with Nesterov: as much work as the row `loops` of
  `experiments/bench_retrain.py`.
  """
  torch.set_num_threads(request["threads"])
  torch.manual_seed(0)
  x, y = torch.randn(300, 64), torch.randint(0, 10, (300,))
  test = torch.randn(40, 64)

  def train():
    net = torch.nn.Sequential(
      torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
    )
    rule = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True)
    each = torch.nn.CrossEntropyLoss(reduction="none")
    weights = (torch.rand(300) < 0.5).float()
    for _ in range(request["epochs"]):
      order = torch.randperm(300)
      for start in range(0, 300, 50):
        rows = order[start : start + 50]
        loss = (weights[rows] * each(net(x[rows]), y[rows])).sum() / 50
        rule.zero_grad()
        loss.backward()
        rule.step()
    with torch.no_grad():
      return net(test)

  train()
  seconds, busy = [], []
  for _ in range(request["repeats"]):
    begin, spent = time.perf_counter(), time.process_time()
    for _ in range(request["models"]):
      train()
    seconds.append(time.perf_counter() - begin)
    busy.append(time.process_time() - spent)
  return {"seconds": seconds, "busy": busy}


if __name__ == "__main__":
  transformers.logging.set_verbosity_error()
  serving.serve(
    versions,
    embed,
    heads,
    paths,
    neurons,
    filters,
    generate,
    products,
    trainings,
  )
