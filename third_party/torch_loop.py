"""Trains an MLP 64-32-10 again and again in PyTorch, as a loop is written.

  python torch_loop.py '{"models": 100, "epochs": 30}'

Runs in an environment that has PyTorch and nothing else. 300 random examples,
half of them at weight 0, batches of 50, momentum .9 with Nesterov: the work of
the row `loops` of `experiments/bench_retrain.py`. Prints one JSON line.
"""

import json
import sys
import time

import torch


def main() -> None:
  """Trains so many models three times; the best rate counts."""
  settings = json.loads(sys.argv[1])
  torch.manual_seed(0)
  x, y = torch.randn(300, 64), torch.randint(0, 10, (300,))
  test = torch.randn(40, 64)

  def train() -> torch.Tensor:
    net = torch.nn.Sequential(
      torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
    )
    rule = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True)
    each = torch.nn.CrossEntropyLoss(reduction="none")
    weights = (torch.rand(300) < 0.5).float()
    for _ in range(settings["epochs"]):
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
  best = float("inf")
  for _ in range(3):
    begin, busy = time.perf_counter(), time.process_time()
    for _ in range(settings["models"]):
      train()
    best = min(best, time.perf_counter() - begin)
    busy = time.process_time() - busy
  found = {
    "torch": torch.__version__,
    "models_per_s": settings["models"] / best,
    "models_per_cpu_s": settings["models"] / busy,
  }
  print(json.dumps(found))


if __name__ == "__main__":
  main()
