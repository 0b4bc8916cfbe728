
// Running text; `choose` is called with the tokens of `asked` that are clicked.
function running(pieces, asked, choose) {
  const line = make("p", undefined, "running");
  line.dir = "auto";
  const tokens = pieces.map((piece, i) => {
    const token = make("span", piece, "token");
    line.append(token);
    if (!asked.has(i)) return token;
    token.tabIndex = 0;
    token.setAttribute("role", "button");
    token.addEventListener("click", () => choose(i));
    token.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(i);
    });
    return token;
  });
  return [line, tokens];
}

function press(buttons, chosen) {
  buttons.forEach((button) =>
    button.setAttribute("aria-pressed", String(button === chosen)));
}

function showContext(view, parent) {
  const cues = new Map(view.cues.map((cue) => [cue.index, cue]));
  const [answer, tokens] = running(view.response, cues, choose);
  const seen = view.context.concat(view.output_context);
  const [above, words] = running(seen, new Set());
  const said = make("p", undefined, "answer");
  said.setAttribute("aria-live", "polite");
  const most = Math.max(0, ...view.sensitivity.map(Math.abs));
  tokens.forEach((token, i) => {
    shade(token, view.sensitivity[i], most);
    token.title = `${view.metric} ${told(view.sensitivity[i])}`;
    if (view.selected.includes(i)) token.classList.add("chosen");
  });
  function choose(i) {
    const cue = cues.get(i);
    const limit = Math.max(0, ...cue.scores.map(([, value]) => Math.abs(value)));
    words.forEach((word) => {
      word.classList.remove("chosen");
      word.removeAttribute("title");
      shade(word, 0, 1);
    });
    for (const [at, value] of cue.scores) {
      shade(words[at], value, limit);
      words[at].title = signed(value);
    }
    cue.chosen.forEach((at) => words[at].classList.add("chosen"));
    const named = cue.chosen.map((at) => words[at].textContent.trim()).join(", ");
    const own = view.response[i].trim();
    said.textContent = cue.said ? `“${own}”: ${cue.said}`
      : `“${own}”, without context “${cue.else}”: P-CXMI ${signed(cue.shift)} nats; ` +
      (named ? `cues: ${named}` : "no cue stands out");
    press(tokens.filter((_, at) => cues.has(at)), tokens[i]);
  }
  parent.append(make("p", view.note || "The redder a token of the answer, the further the " +
    "context moves its prediction; framed ones pass the selector. A click (or " +
    "Enter) shows what of the context it looks at.", "note"));
  parent.append(make("h3", "Context"), above, make("h3", "Answer"), answer, said);
  const first = view.selected.find((i) => cues.has(i));
  if (view.cues.length) choose(first === undefined ? view.cues[0].index : first);
  else said.textContent = "No token passes the selector.";
}

// Left of the sources: a bracket for each set, dashed where either suffices.
function brackets(stage, rows, sets) {
  const old = stage.querySelector("svg");
  if (old) old.remove();
  if (!sets.length) return;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "arcs");
  svg.setAttribute("aria-hidden", "true");
  stage.prepend(svg);
  const origin = stage.getBoundingClientRect();
  const edge = rows[0].getBoundingClientRect().left - origin.left - 4;
  sets.slice(0, MOST).forEach((set, k) => {
    const ends = set.sources.map((i) => {
      const box = rows[i].getBoundingClientRect();
      return box.top - origin.top + box.height / 2 + 3 * k;
    });
    const x = edge - 8 - 6 * (k % 5);
    const line = ends.map((y) => `M${edge} ${y}H${x}`).join("");
    draw(svg, "path", {
      d: `${line}M${x} ${Math.min(...ends)}V${Math.max(...ends)}`,
      class: set.value > 0 ? "against" : "helps", "stroke-width": 2,
      "stroke-dasharray": set.kind === "either" ? "5 3" : "none",
    });
  });
}

function showCitations(view, parent) {
  const single = new Map(view.parts.slice(view.tokens)
    .map((one) => [one.span[0], one]));
  const [answer, tokens] = running(view.response, single,
    (i) => choose(single.get(i), tokens[i]));
  const stage = make("div", undefined, "stage sources");
  const said = make("p", undefined, "answer");
  said.setAttribute("aria-live", "polite");
  const kept = view.sources.map(() => true);
  const list = make("ul");
  const tools = make("div", undefined, "tools");
  let part = view.parts[0];
  const rows = view.sources.map((text, i) => {
    const row = make("button", undefined, "source");
    row.type = "button";
    row.append(make("span", `[${i}]`, "note"), make("span", "", "number"),
      make("span", text));
    row.addEventListener("click", () => {
      kept[i] = !kept[i];
      update();
    });
    stage.append(row);
    return row;
  });
  const wholes = view.parts.slice(0, view.tokens).map((one) => {
    const button = make("button", one.name);
    button.type = "button";
    button.addEventListener("click", () => choose(one, button));
    tools.append(button);
    return button;
  });
  const chosen = [...wholes, ...tokens.filter((_, i) => single.has(i))];
  const value = (terms) => terms.reduce((sum, [who, worth]) =>
    sum + (who.every((i) => kept[i]) ? worth : 0), part.none);
  function update() {
    const gone = kept.filter((is) => !is).length;
    const name = part.value === "log_probability" ? "ln p" : part.value;
    if (part.none === null || part.total === null)
      said.textContent = `${part.name}: v(all) - v(none) was not asked for`;
    else if (gone && part.terms)
      said.textContent = `${part.name}: the expansion has ${name} ` +
        `${told(value(part.terms))} without ${gone} of ${kept.length} sources`;
    else
      said.textContent = `${part.name}: ${name} ${told(part.none)} without ` +
        `sources, ${told(part.none + part.total)} with all, ` +
        signed(part.total) + (part.additive
        ? `; the sources sum to ${signed(part.sum)}` : "");
    if (!part.terms)
      said.textContent += "; there is no expansion here that could answer clicks";
    rows.forEach((row, i) => {
      row.disabled = !part.terms;
      row.setAttribute("aria-pressed", kept[i]);
    });
    brackets(stage, rows, part.sets.filter((set) =>
      set.sources.every((i) => kept[i])));
  }
  function choose(one, button) {
    part = one;
    kept.fill(true);
    const limit = Math.max(0, ...part.strengths.map(Math.abs));
    rows.forEach((row, i) => {
      row.children[1].textContent = signed(part.values[i]);
      row.title = part.strengths[i] === part.values[i] ? ""
        : `cited by what the answer loses without it: ${signed(part.strengths[i])}`;
      shade(row, part.strengths[i], limit);
    });
    tokens.forEach((token, i) => token.classList.toggle("chosen",
      part !== view.parts[0] && i >= part.span[0] && i < part.span[1]));
    list.replaceChildren(...part.sets.map((set) => make("li",
      (set.kind === "either" ? "either of " : "together ") +
      set.sources.map((i) => `[${i}]`).join(", ") +
      `: ${signed(set.value)} beside all others` + (set.interval
      ? `, ${set.interval.map(signed).join(" to ")} on average over the masks`
      : ""))));
    if (part.needed.length)
      list.append(make("li", "needed, each alone: " +
        part.needed.map((i) => `[${i}]`).join(", ")));
    press(chosen, button);
    update();
  }
  parent.append(make("p", "Choose the answer, a sentence or a token; sources " +
    "in red raise its probability, blue ones lower it. A click on a source " +
    "removes it, and the expansion answers; the redder, the more the answer " +
    "loses without it. Brackets join sources that count " +
    "together: whole where each is needed, dashed where either suffices.",
    "note"), answer, tools, said, stage, list);
  choose(part, wholes[0]);
  new ResizeObserver(() => brackets(stage, rows, part.sets.filter((set) =>
    set.sources.every((i) => kept[i])))).observe(stage);
}
