"use strict";
// Whatever a name or a token holds, it is text: nothing here reads markup.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const MOST = 12; // Arcs that can be told apart.
const FIRST = 48; // Players of many that stand in front, at most.
const REACH = 130; // Pixels from line to line that an arc goes.
const WAYS = "Whole lines enter queries, MLPs and the output, dashed ones " +
  "keys, dotted ones values";
const SIGNS = "; blue helps, red works against";

function make(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function draw(parent, tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes))
    made.setAttribute(name, String(value));
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function told(value) {
  if (typeof value !== "number") return value === null ? "" : String(value);
  if (Number.isInteger(value)) return (value || 0).toLocaleString("en");
  return String(Number(value.toPrecision(4)));
}

function signed(value) {
  return (value > 0 ? "+" : "") + told(value);
}

// The expansion: the sum of F(S) (-1)^(kept players of S).
function expansion(terms, kept) {
  let total = 0;
  for (const [players, coefficient] of terms) {
    let odd = false;
    for (const player of players) if (kept[player]) odd = !odd;
    total += odd ? -coefficient : coefficient;
  }
  return total;
}

// Columns of `signs` have the sign in front, and its colour.
function table(columns, rows, shown, signs) {
  const box = make("div", undefined, "scroll");
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", shown);
  const made = make("table");
  const head = made.createTHead().insertRow();
  for (const name of columns) {
    const cell = make("th", name);
    cell.scope = "col";
    if (rows.length && rows.every((row) =>
      typeof row[head.cells.length] === "number")) cell.className = "number";
    head.append(cell);
  }
  const body = made.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    row.forEach((value, i) => {
      const cell = make("td", told(value));
      if (typeof value === "number") {
        cell.className = "number";
        if (signs.includes(i)) {
          cell.textContent = signed(value);
          cell.classList.add(value > 0 ? "plus" : value < 0 ? "minus" : "none");
        }
      }
      line.append(cell);
    });
  }
  box.append(made);
  return box;
}

function shade(element, value, limit) {
  const share = limit ? Math.min(1, Math.abs(value) / limit) : 0;
  const ink = value > 0 ? "192, 57, 43" : "11, 92, 173";
  const color = `rgba(${ink}, ${(0.6 * share).toFixed(3)})`;
  if (element instanceof SVGElement) element.style.fill = color;
  // Upon a colour of its own, which hides what runs behind.
  else element.style.backgroundImage = `linear-gradient(${color}, ${color})`;
}

// Where players stand: in an image, a running text, a grid, by layer, or one
// after the other. `add` makes an element of a player.
function layout(view, add, stage) {
  if (view.shapes) {
    const [wide, tall] = view.size;
    const svg = draw(stage, "svg", { viewBox: `0 0 ${wide} ${tall}`,
      class: "overlay" });
    draw(svg, "image", { href: view.image, width: wide, height: tall,
      preserveAspectRatio: "none" });
    view.names.forEach((_, i) => add(i, draw(svg, "path",
      { d: view.shapes[i] || "", class: "shape" })));
  } else if (view.pieces) {
    const text = make("div", undefined, "prose");
    text.dir = "auto";
    for (const [piece, i] of view.pieces)
      text.append(i < 0 ? piece : add(i, make("span", piece)));
    stage.append(text);
  } else if (view.columns) {
    const grid = make("div", undefined, "players grid");
    grid.style.gridTemplateColumns = `repeat(${view.columns}, minmax(2.4rem, 4rem))`;
    view.place.forEach(([row, column], i) => {
      const player = add(i, make("span", view.names[i]));
      player.style.gridRow = row + 1;
      player.style.gridColumn = column + 1;
      grid.append(player);
    });
    stage.append(grid);
  } else if (view.layers) {
    const rows = make("div", undefined, "rows");
    const lines = view.layers.map((name) => {
      const row = make("div", undefined, "row");
      row.append(make("span", name), make("div", undefined, "players"));
      rows.prepend(row);
      return row.lastChild;
    });
    view.names.forEach((name, i) => lines[view.layer_of[i]].append(
      add(i, make("span", name.slice(name.lastIndexOf(" ") + 1)))));
    stage.append(rows);
  } else {
    const line = make("div", undefined, "players over");
    view.names.forEach((name, i) => line.append(add(i, make("span", name))));
    stage.append(line);
    if (view.names.length <= FIRST) return;
    const rest = make("details");
    rest.append(make("summary"), make("div", undefined, "players over"));
    stage.append(rest);
  }
}

// Of many players, those of the strongest sets stand in front.
function fold(stage, sets, players) {
  const rest = stage.querySelector("details");
  if (!rest) return;
  const first = new Set();
  for (const [who] of sets) {
    if (first.size + who.length > FIRST) break;
    who.forEach((player) => first.add(player));
  }
  players.forEach(([one], i) =>
    (first.has(i) ? stage.querySelector(".players") : rest.lastChild)
      .append(one));
  rest.firstChild.textContent = `${told(players.length - first.size)} other ` +
    "players, of weaker sets or none";
}

function arcs(view, sets, players, stage, kept) {
  const old = stage.querySelector("svg.arcs");
  if (old) old.remove();
  const top = (player) => players[player][0].getClientRects()[0].top;
  const placed = view.shapes || view.columns || view.layers;
  const larger = sets.filter(([who]) => who.length > 1 &&
    who.every((player) => kept[player] && players[player].length &&
      players[player][0].getClientRects().length) &&
    // Of running lines, an arc over many would run through their words.
    (placed || Math.max(...who.map(top)) - Math.min(...who.map(top)) < REACH))
    .slice(0, MOST);
  if (!larger.length) return;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "arcs");
  svg.setAttribute("aria-hidden", "true");
  stage.prepend(svg);
  const origin = stage.getBoundingClientRect();
  const most = Math.abs(larger[0][1]) || 1;
  const first = stage.querySelector(".player").getClientRects()[0].top;
  for (const [who, value] of larger) {
    const boxes = who.map((player) => players[player][0].getClientRects()[0]);
    const ends = [];
    const width = 1 + 3 * Math.abs(value) / most;
    for (let i = 1; i < boxes.length; i++) {
      const pair = [boxes[i - 1], boxes[i]].sort((a, b) => a.top - b.top);
      const [x0, x1] = pair.map((box) => box.left - origin.left + box.width / 2);
      let [y0, y1] = pair.map((box) => box.top - origin.top +
        (view.shapes ? box.height / 2 : placed ? 2 : 0));
      // Below the first line there is a gap to rise in.
      const highest = !placed && pair[0].top > first + 1 ? 20 : 46;
      let [from, to] = [y0, y1].map((y) =>
        y - Math.min(highest, 14 + Math.abs(x1 - x0) / 8));
      if (!placed && pair[1].top >= pair[0].bottom) {
        // From line to line within the gap, and behind what lies between.
        y0 = pair[0].bottom - origin.top;
        from = to = (y0 + y1) / 2;
      }
      ends.push([x0, y0], [x1, y1]);
      draw(svg, "path", {
        d: `M${x0} ${y0}C${x0} ${from} ${x1} ${to} ${x1} ${y1}`,
        class: value > 0 ? "against" : "helps", "stroke-width": width,
        "stroke-opacity": 0.75, "stroke-dasharray": value > 0 ? "none" : "6 4",
      });
    }
    for (const [x, y] of ends)
      draw(svg, "circle", { cx: x, cy: y, r: 2.5, class: "dot" });
  }
}

function showSets(view, parent) {
  const stage = make("div", undefined, "stage");
  const kept = view.names.map(() => true);
  const answer = make("p", undefined, "answer");
  answer.setAttribute("aria-live", "polite");
  const tools = make("div", undefined, "tools");
  const under = make("div");
  const scale = make("p", undefined, "scale");
  let target = view.targets[0];
  const players = view.names.map(() => []);
  function add(i, element) {
    element.classList.add("player");
    element.tabIndex = 0;
    element.setAttribute("role", "button");
    element.setAttribute("aria-label", view.names[i]);
    const flip = () => {
      kept[i] = !kept[i];
      update();
    };
    element.addEventListener("click", flip);
    element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      flip();
    });
    players[i].push(element);
    return element;
  }
  function update() {
    players.forEach((own, i) => own.forEach((one) =>
      one.setAttribute("aria-pressed", kept[i])));
    arcs(view, target.sets, players, stage, kept);
    if (!target.terms) return;
    const all = expansion(target.terms, view.names.map(() => true));
    const now = expansion(target.terms, kept);
    const gone = kept.filter((is) => !is).length;
    answer.textContent = `expansion ${signed(now)} ${view.units}` + (gone
      ? `, ${signed(now - all)} without ${gone} of ${kept.length} players`
      : `, with all ${kept.length} players`);
  }
  function choose() {
    const single = new Map(target.sets.filter(([who]) => who.length === 1)
      .map(([who, value]) => [who[0], value]));
    const limit = Math.max(0, ...[...single.values()].map(Math.abs));
    players.forEach((own, i) => own.forEach((element) => {
      shade(element, single.get(i) || 0, limit);
      const tip = `${view.names[i]}: ${signed(single.get(i) || 0)} ${view.units}`;
      if (!view.shapes) element.title = tip;
      else if (element.firstChild) element.firstChild.textContent = tip;
      else draw(element, "title", {}, tip);
    }));
    scale.hidden = !limit;
    scale.replaceChildren(make("span", told(-limit)), make("span", "", "ramp"),
      make("span", `${signed(limit)} ${view.units}, alone`));
    const rows = target.sets.map(([who, value, std]) => {
      const row = [value];
      if (target.std) row.push("± " + told(std * target.std));
      return [...row, who.length, who.map((i) => view.names[i]).join(", ")];
    });
    const box = table(
      [`${view.index} (${view.units || "value"})`,
        ...(target.std ? ["95 %"] : []), "players", "set"],
      rows, "Sets and their values", [0]);
    // A row that is pointed at shows its members.
    box.querySelectorAll("tbody tr").forEach((line, row) => {
      const mark = (on) => target.sets[row][0].forEach((i) =>
        players[i].forEach((one) => one.classList.toggle("member", on)));
      line.addEventListener("mouseenter", () => mark(true));
      line.addEventListener("mouseleave", () => mark(false));
    });
    under.replaceChildren(box);
    fold(stage, target.sets, players);
    update();
  }
  if (view.targets.length > 1) {
    const list = make("select");
    list.setAttribute("aria-label", "target");
    view.targets.forEach((one, i) => {
      const option = make("option", one.name);
      option.value = i;
      list.append(option);
    });
    list.addEventListener("change", () => {
      target = view.targets[list.value];
      choose();
    });
    tools.append(list);
  }
  const back = (text, value) => {
    const button = make("button", text);
    button.type = "button";
    button.addEventListener("click", () => {
      kept.fill(value);
      update();
    });
    tools.append(button);
  };
  back(view.targets[0].terms ? "keep all" : "show all", true);
  back(view.targets[0].terms ? "remove all" : "hide all", false);
  const what = target.terms ? "removes a player, and brings it back"
    : "hides the sets of a player, and shows them again";
  parent.append(make("p", `A click (or Enter) ${what}. Red is positive, blue ` +
    "negative; arcs join the strongest sets" + (view.shapes || view.columns ||
    view.layers ? "" : " within a few lines") +
    ", dashed where negative.", "note"),
    answer, tools, stage, scale, under);
  stage.style.setProperty("--above", view.shapes ? "0" : "3.2rem");
  layout(view, add, stage);
  choose();
  new ResizeObserver(() =>
    arcs(view, target.sets, players, stage, kept)).observe(stage);
}

// Nodes by layer, heads left of their MLP; the strongest edges last.
function circuit(view, size, box) {
  const edges = view.circuits[size];
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "picture circuit");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${edges.length} edges`);
  box.replaceChildren(svg);
  const names = new Set();
  for (const i of edges) {
    names.add(view.edges[i].from);
    view.edges[i].into.forEach((name) => names.add(name));
  }
  const level = (name) => {
    const found = /^blocks\.(\d+)\.(.*)/.exec(name);
    if (!found) return name === "embed" ? -1 : Infinity;
    return Number(found[1]) + (found[2].startsWith("heads") ? 0 : 0.5);
  };
  const nodes = [...names].sort((a, b) => level(a) - level(b) ||
    a.localeCompare(b, "en", { numeric: true }));
  const levels = [...new Set(nodes.map(level))];
  const rows = levels.map((one) => nodes.filter((name) => level(name) === one));
  const wide = Math.max(560, 62 * Math.max(...rows.map((row) => row.length)));
  const tall = 58 * rows.length + 20;
  svg.setAttribute("viewBox", `0 0 ${wide} ${tall}`);
  const at = new Map();
  rows.forEach((row, i) => row.forEach((name, j) => at.set(name,
    [wide * (j + 1) / (row.length + 1), tall - 30 - 58 * i])));
  const most = Math.max(...edges.map((i) => Math.abs(view.edges[i].score))) || 1;
  const dashes = { k: "7 4", v: "1.5 4" };
  for (const i of [...edges].reverse()) {
    const edge = view.edges[i];
    const none = edge.score === null;
    const share = none ? 0.3 : Math.sqrt(Math.abs(edge.score) / most);
    for (const name of edge.into) {
      const [x0, y0] = at.get(edge.from);
      const [x1, y1] = at.get(name);
      const bend = (y0 - y1) / 2;
      // Past rows between, aside.
      const aside = Math.abs(x1 - x0) < 40 && y0 - y1 > 70 ? 60 : 0;
      const path = draw(svg, "path", {
        d: `M${x0} ${y0 - 11}C${x0 + aside} ${y0 - bend} ${x1 + aside} ` +
          `${y1 + bend} ${x1} ${y1 + 11}`,
        class: none ? "unscored" : edge.score > 0 ? "against" : "helps",
        "stroke-width": 0.7 + 3 * share, "stroke-opacity": 0.35 + 0.6 * share,
        "stroke-dasharray": dashes[edge.kind] || "none",
      });
      draw(path, "title", {},
        none ? edge.name : `${edge.name}: ${signed(edge.score)}`);
    }
  }
  for (const [name, [x, y]] of at) {
    const group = draw(svg, "g", {});
    draw(group, "title", {}, name);
    draw(group, "rect", { x: x - 24, y: y - 11, width: 48, height: 22, rx: 4,
      class: "node" });
    const short = name.replace(/^blocks\.(\d+)\.heads\./, "$1.")
      .replace(/^blocks\.(\d+)\.mlp.*/, "mlp $1").replace("final_norm.in", "output");
    draw(group, "text", { x, y: y + 4, "text-anchor": "middle" },
      short.length > 8 ? short.slice(0, 7) + "…" : short);
  }
}

function showCurve(view, parent) {
  const [wide, tall, left, low] = [640, 250, 46, 210];
  const svg = draw(parent, "svg", { viewBox: `0 0 ${wide} ${tall}`,
    class: "picture", role: "img",
    "aria-label": "Measured faithfulness by number of edges" });
  const all = [0, 1, ...view.faithfulness, ...view.random.flat()];
  const [least, most] = [Math.min(...all), Math.max(...all)];
  const first = Math.log(view.sizes[0]);
  const span = Math.log(view.sizes[view.sizes.length - 1]) - first || 1;
  const x = (size) => left + (wide - left - 20) * (Math.log(size) - first) / span;
  const y = (value) => low - (low - 16) * (value - least) / (most - least || 1);
  for (const level of [0, 1]) {
    draw(svg, "line", { x1: left, x2: wide - 20, y1: y(level), y2: y(level),
      class: "axis" });
    draw(svg, "text", { x: left - 8, y: y(level) + 4, "text-anchor": "end" },
      level);
  }
  if (view.random.length) {
    const ends = view.sizes.map((size, k) => view.random.map((row) => row[k]));
    const above = ends.map((values, k) =>
      `${x(view.sizes[k])},${y(Math.max(...values))}`);
    const below = ends.map((values, k) =>
      `${x(view.sizes[k])},${y(Math.min(...values))}`).reverse();
    draw(svg, "polygon", { points: [...above, ...below].join(" "), class: "band" });
  }
  draw(svg, "polyline", { class: "curve", points: view.sizes.map((size, k) =>
    `${x(size)},${y(view.faithfulness[k])}`).join(" ") });
  const dots = view.sizes.map((size, k) => draw(svg, "circle", { r: 4,
    cx: x(size), cy: y(view.faithfulness[k]), class: "dot" }));
  draw(svg, "text", { x: left, y: tall - 12 }, `${told(view.sizes[0])} edges`);
  draw(svg, "text", { x: wide - 20, y: tall - 12, "text-anchor": "end" },
    `${told(view.sizes[view.sizes.length - 1])} (all)`);
  const tools = make("div", undefined, "tools");
  const slider = make("input");
  slider.type = "range";
  slider.min = 0;
  slider.max = view.sizes.length - 1;
  slider.setAttribute("aria-label", "number of edges");
  const answer = make("p", undefined, "answer");
  answer.setAttribute("aria-live", "polite");
  const picture = make("div");
  tools.append(slider);
  parent.append(make("p", "The line is measured on pairs that gave no scores; " +
    `the band is that of random circuits as large. ${WAYS}${SIGNS}. The circuit that was chosen has ` +
    `${told(view.edges_chosen)} edges.`, "note"), tools, answer, picture);
  function choose() {
    const k = Number(slider.value);
    answer.textContent = `${told(view.sizes[k])} edges ` +
      `(${told(view.connected[k])} connected): measured faithfulness ` +
      view.faithfulness[k].toFixed(3);
    slider.setAttribute("aria-valuetext", answer.textContent);
    dots.forEach((dot, i) =>
      dot.setAttribute("class", i === k ? "chosen" : "dot"));
    if (view.circuits[k] && view.circuits[k].length) circuit(view, k, picture);
    else picture.replaceChildren(make("p", view.edges.length
      ? "Too many edges for a picture." : "", "note"));
  }
  slider.addEventListener("input", choose);
  slider.value = view.start;
  choose();
}

const SHOW = {
  sets: showSets,
  circuit: (view, parent) => {
    const box = make("div");
    const scored = view.edges.some((edge) => edge.score !== null);
    parent.append(make("p", `${WAYS}${scored ? SIGNS : ""}.`, "note"), box);
    circuit({ edges: view.edges, circuits: [[...view.edges.keys()]] }, 0, box);
  },
  curve: showCurve,
  context: showContext,
  citations: showCitations,
  table: (view, parent) => parent.append(
    table(view.columns, view.rows, view.title, view.signed)),
  image: (view, parent) => {
    const image = make("img");
    image.src = view.source;
    image.alt = view.title;
    parent.append(image);
  },
};

DATA.forEach((run, number) => {
  const parent = document.getElementById(`run-${number}`);
  for (const view of run.views) {
    const section = make("section");
    section.append(make("h2", view.title));
    parent.append(section);
    SHOW[view.kind](view, section);
  }
  if (!run.files.length) return;
  const section = make("section", undefined, "files");
  const tools = make("div", undefined, "tools");
  section.append(make("h2", "Raw data"), tools);
  for (const [name, text, bytes] of run.files) {
    const content = bytes === undefined ? text
      : Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
    const button = make("button", name);
    button.type = "button";
    button.addEventListener("click", () => {
      const link = make("a");
      link.href = URL.createObjectURL(new Blob([content]));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
    tools.append(button);
  }
  parent.append(section);
});
