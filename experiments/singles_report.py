"""What the rows of `bench_singles` say: medians, a table and a figure."""

import pathlib

import numpy as np

from experiments import rows
from spex_jax.report import plots

OURS = "auto"

Medians = dict[tuple[str, int], dict[str, tuple[float, float, int]]]


def medians(measured: list[rows.Row]) -> Medians:
  """Median `mse` and mean `top5` over seeds, by game, budget and method.

  The third number counts the seeds at which the method failed.
  """
  groups: dict[tuple[str, int], dict[str, list[rows.Row]]] = {}
  for row in measured:
    cell = groups.setdefault((row["game"], row["budget"]), {})
    cell.setdefault(row["method"], []).append(row)
  out: Medians = {}
  for cell, methods in groups.items():
    out[cell] = {}
    for method, members in methods.items():
      good = [row for row in members if "error" not in row]
      out[cell][method] = (
        float(np.median([row["mse"] for row in good])) if good else np.inf,
        float(np.mean([row["top5"] for row in good])) if good else 0.0,
        len(members) - len(good),
      )
  return out


def table(measured: list[rows.Row]) -> str:
  """A markdown table of medians; the smallest error of a line is bold."""
  found = medians(measured)
  methods = list(dict.fromkeys(m for cell in found.values() for m in cell))
  how = {row["game"]: (row["truth"], row["truth_mse"]) for row in measured}
  lines = []
  for (game, budget), cell in found.items():
    best = min(error for error, _, _ in cell.values())
    cells = []
    for method in methods:
      error, top, failed = cell.get(method, (np.inf, 0.0, 0))
      text = f"{error:.1e}, {top:.2f}" if np.isfinite(error) else "–"
      text = f"**{text}**" if error == best < np.inf else text
      cells.append(text + (f" ({failed} failed)" if failed else ""))
    truth, own = how[game]
    known = truth if truth == "exact" else f"{truth} ({own:.0e})"
    lines.append([game, str(budget), *cells, known])
  header = ["game", "masks", *methods, "truth"]
  return rows.table(header, lines)


def verdict(measured: list[rows.Row]) -> str:
  """In how many cells ours has the smallest error, and against whom not."""
  found = medians(measured)
  wins, told = 0, []
  for (game, budget), cell in found.items():
    best = min(cell, key=lambda method: cell[method][0])
    # Below this, everyone is exact but for rounding.
    if cell[OURS][0] <= max(cell[best][0], 1e-12):
      wins += 1
    else:
      told.append(f"{game} at {budget} masks ({best})")
  text = f"{OURS} has the smallest error in {wins} of {len(found)} cells"
  text += f"; not in {', '.join(told)}." if told else "."
  ratios = [
    cell[OURS][0] / min(error for m, (error, _, _) in cell.items() if m != OURS)
    for cell in found.values()
    if len(cell) > 1
  ]
  if ratios:
    mean = np.exp(np.mean(np.log(np.maximum(ratios, 1e-12))))
    text += f" Its error over the best other's: {mean:.2f}, geometric mean."
  within = [row["within"] for row in measured if "within" in row]
  if within:
    text += f" Errors within 1.645 standard errors: {np.mean(within):.3f}."
  return text


def draw(measured: list[rows.Row], path: pathlib.Path) -> None:
  """Error against budget, a panel for each game."""
  from matplotlib import figure  # Slow to import.

  found = medians(measured)
  names = list(dict.fromkeys(game for game, _ in found))
  columns = min(4, len(names))
  lines = -(-len(names) // columns)
  out = figure.Figure(
    figsize=(3 * columns, 2.6 * lines + 0.5), layout="constrained"
  )
  panels = list(out.subplots(lines, columns, squeeze=False).ravel())
  for axes in panels[len(names) :]:
    axes.axis("off")
  colors = ["#b2182b", "#999999", "#2166ac", "#1b7837", "#762a83", "#e08214"]
  methods = list(dict.fromkeys(m for cell in found.values() for m in cell))
  for name, axes in zip(names, panels):
    budgets = [budget for game, budget in found if game == name]
    for method, color in zip(methods, colors):
      heights = [
        max(found[name, budget].get(method, (np.inf,))[0], 1e-16)
        for budget in budgets
      ]
      points = [(x, y) for x, y in zip(budgets, heights) if np.isfinite(y)]
      if points:
        mine = method == OURS
        label = "ours (auto)" if mine else f"{method} (peer)"
        axes.plot(
          *zip(*points),
          "o-",
          color=color,
          lw=2.2 if mine else 1.2,
          ms=4,
          label=label,
          zorder=3 if mine else 2,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
    axes.minorticks_off()
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.set_title(name, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
  out.supxlabel("masks", fontsize=10)
  out.supylabel("squared error / mean square", fontsize=10)
  handles, labels = panels[0].get_legend_handles_labels()
  out.legend(
    handles,
    labels,
    loc="outside upper center",
    ncols=3,
    fontsize=8,
    frameon=False,
  )
  plots.save(out, path)
