"use strict";
// The T x B map: what every cell does and why, as a tree grid that unfolds level by level.

// A site's label with those of the sites around it, lists of blocks left out.
const pathOf = (map, index) => {
  const found = [map.sites[index].label];
  for (let i = map.sites[index].parent; i !== null; i = map.sites[i].parent) {
    if (!map.sites[i].label.startsWith("all ")) found.unshift(map.sites[i].label);
  }
  return found.join(" › ");
};

const LEGEND = { c: "computes", C: "runs for what lies within it", f: "forecast", r: "reused", d: "not needed", w: "within what rests" };
const MOST_ROWS = 45;

const runs = (letter) => letter === "c" || letter === "C";

// Sites get their parent, what lies within them, and the steps at which they computed a value.
const prepareMap = (map) => {
  if (map.ready) return map;
  const path = [];
  map.sites.forEach((site, i) => {
    path.length = site.level;
    site.parent = site.level ? path[site.level - 1] : null;
    path.push(i);
    site.inside = [];
    path.slice(0, -1).forEach((around) => map.sites[around].inside.push(i));
    site.computed = [...site.states].flatMap((letter, step) => (letter === "c" ? [step] : []));
  });
  map.depth = Math.max(...map.sites.map((site) => site.level)) + 1;
  map.ready = true;
  return map;
};

// The steps whose values a cell is made from, newest first.
const sourcesOf = (site, step) => {
  const letter = site.states[step];
  if (letter !== "r" && letter !== "f") return [];
  const known = site.computed.filter((one) => one < step).reverse();
  return known.slice(0, letter === "f" ? site.terms || 2 : 1);
};

const usersOf = (site, step) =>
  [...site.states].flatMap((_, later) => (later > step && sourcesOf(site, later).includes(step) ? [later] : []));

const costAt = (map, index, step) => {
  const all = [index, ...map.sites[index].inside].map((i) => map.sites[i]);
  return all.reduce((sum, site) => sum + (runs(site.states[step]) ? site.cost : 0), 0);
};

const fullCost = (map, index) =>
  [index, ...map.sites[index].inside].reduce((sum, i) => sum + map.sites[i].cost, 0);

const stepShare = (map, step) => {
  if (map.always !== undefined) {
    return map.sites.reduce((sum, site) => sum + (runs(site.states[step]) ? site.cost : 0), map.always);
  }
  const leaves = map.sites.filter((site) => !site.inside.length);
  return leaves.filter((site) => runs(site.states[step])).length / leaves.length;
};

const why = (map, site, step) => {
  const letter = site.states[step];
  const asked = site.asked ? site.asked[step] : null;
  const sources = sourcesOf(site, step);
  const from = sources.length > 1 ? `steps ${listed([...sources].reverse().map(String))}` : `step ${sources[0]}`;
  if (letter === "c") {
    const users = usersOf(site, step);
    const later = users.length ? ` Its value is used again at ${users.length > 1 ? "steps" : "step"} ${listed(users.map(String))}.` : "";
    if (step === 0) return `Step 0 computes everything: there is nothing to reuse yet.${later}`;
    return asked === null ? "The mask does not name this site, so it computes at every step." : `The mask lets it compute.${later}`;
  }
  if (letter === "C") return "Its value as a whole is not needed here: it runs for what lies within it.";
  if (letter === "f") {
    if (sources.length < 2) return `A forecast is asked for, but only the value of ${from} is known: it is held.`;
    if (site.terms) return `A weighted sum of its values of ${from}, with weights learned for this step.`;
    const gain = site.gains && site.gains[step] !== undefined ? ` The slope counts ${Number(site.gains[step].toFixed(2))} times, as learned.` : "";
    const channels = site.channels > 1 ? ` Each of its ${site.channels} channels has a factor of its own.` : "";
    return `Extrapolates the line through its values of ${from}.${gain}${channels}`;
  }
  if (letter === "r") {
    const old = `Hands out its value of ${from}, ${steps(step - sources[0])} old.`;
    if (asked === "1") return `The mask lets it compute, but nothing that it reads has changed since: the value would be the same. ${old}`;
    if (asked === "l") return `A forecast is asked for, but one value alone is known. ${old}`;
    return old;
  }
  if (letter === "d") {
    return asked === "1" ? "The mask lets it compute, but nobody reads the value, now or later: eliminated." : "Nobody reads its value here.";
  }
  let around = site.parent;
  while (map.sites[around].parent !== null && !runs(map.sites[map.sites[around].parent].states[step])) around = map.sites[around].parent;
  const whole = map.sites[around];
  const how = { f: "is forecast", r: map.planned ? "is reused" : "is held", d: "is not needed" }[whole.states[step]];
  return `It lies within “${whole.label}”, which ${how} as a whole at this step: nothing in there is called.`;
};

const costWords = (map, index, step) => {
  const full = fullCost(map, index);
  const spent = costAt(map, index, step);
  if (!spent) return full ? `none; computing it takes ${share(full)} of a full step` : "none";
  return `${share(spent)} of a full step, ${macsInWords(spent * map.stepMacs)} per image`;
};

const byteWords = (site, step) => {
  const kept = Number(site.keep[step]);
  if (!kept) return `nothing is kept after this step; its value has ${bytesInWords(site.bytes)} per image`;
  const which = kept > 1 ? `its newest ${kept} values are` : "its newest value is";
  return `${which} kept after this step: ${bytesInWords(kept * site.bytes)} per image`;
};

const stateName = (map, letter) => (letter === "r" && !map.planned ? "held" : LEGEND[letter]);

const explainCell = (map, index, step) => {
  const site = map.sites[index];
  const rows = [["why", why(map, site, step)]];
  if (site.cost !== undefined) rows.push(["cost", costWords(map, index, step)]);
  if (site.bytes !== undefined && site.keep) rows.push(["cache", byteWords(site, step)]);
  const time = Number(Number(map.times[step]).toPrecision(6));
  return {
    letter: site.states[step],
    title: `Step ${step}, timestep ${time}: ${pathOf(map, index)}, ${stateName(map, site.states[step])}`,
    name: site.name, rows, sources: sourcesOf(site, step),
  };
};

const explainSite = (map, index) => {
  const site = map.sites[index];
  const counts = {};
  for (const letter of site.states) counts[letter] = (counts[letter] || 0) + 1;
  const parts = Object.keys(LEGEND).filter((letter) => counts[letter]);
  const rows = [["what", parts.map((letter) => `${stateName(map, letter)}: ${steps(counts[letter])}`).join(", ")]];
  if (site.inside.length) rows.push(["contains", `${site.inside.length} sites`]);
  if (site.cost !== undefined) {
    const kept = [...site.states].reduce((sum, _, step) => sum + costAt(map, index, step), 0) / site.states.length;
    rows.push(["cost", `${share(fullCost(map, index))} of a full step; under this mask ${share(kept)} on average`]);
  }
  if (site.bytes !== undefined) rows.push(["value", `${bytesInWords(site.bytes)} per image`]);
  return { letter: null, title: pathOf(map, index), name: site.name, rows, sources: [] };
};

const explainStep = (map, step) => {
  const time = Number(Number(map.times[step]).toPrecision(6));
  const what = map.always === undefined ? "of the innermost sites compute" : "of a full step's MACs run";
  const rows = [["what", `${share(stepShare(map, step))} ${what}`]];
  return { letter: null, title: `Step ${step}, timestep ${time}`, name: "all sites", rows, sources: [] };
};

const levelNames = (depth) => (depth === 3 ? ["stacks", "blocks", "branches"] : depth === 2 ? ["blocks", "branches"]
  : Array.from({ length: depth }, (_, i) => `level ${i + 1}`));

const mapSection = (raw) => {
  const map = prepareMap(raw);
  const count = map.times.length;
  const open = new Set();
  const openTo = (level) => {
    open.clear();
    map.sites.forEach((site, i) => { if (site.inside.length && site.level < level) open.add(i); });
  };
  let level = 0;
  while (level + 1 < map.depth && map.sites.filter((site) => site.level <= level + 1).length <= MOST_ROWS) level += 1;
  openTo(level);

  const body = el("tbody", {});
  const panel = el("div", { class: map.always === undefined ? "cell short" : "cell" });
  const heads = map.times.map((_, step) => {
    const every = count <= 26 ? 1 : count <= 130 ? 5 : 10 ** Math.ceil(Math.log10(count / 26));
    return el("th", { scope: "col", "data-step": step, "aria-label": `step ${step}` },
      el("i", { class: "bar", style: `height:${Math.max(1, Math.round(36 * stepShare(map, step)))}px` }),
      el("span", {}, step % every ? "\u00a0" : String(step)));
  });
  const measured = map.always === undefined ? "sites that compute" : "MACs of the step";
  const widest = Math.max(...map.sites.map((site) => site.label.length * 7.2 + site.level * 13 + 34), 110);
  const table = el("table", { class: "map", role: "treegrid", "aria-label": "Map of steps and sites", "--steps": count,
    "--names": `min(${Math.round(Math.min(widest, 250))}px, 36vw)` },
    el("colgroup", {}, el("col", { class: "names" }), el("col", { span: count })),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, el("span", {}, measured), el("span", {}, "step")), heads)), body);

  let marked = [];
  const show = (told, index, step) => {
    marked.forEach(([node, name]) => node.classList.remove(name));
    marked = [];
    const mark = (node, name) => { if (node) { node.classList.add(name); marked.push([node, name]); } };
    const row = index === null ? null : body.querySelector(`tr[data-site="${index}"]`);
    if (row) {
      mark(row, "here");
      if (step !== null) mark(row.children[step + 1], "here");
      told.sources.forEach((source) => mark(row.children[source + 1], "source"));
    }
    if (step !== null) mark(heads[step], "here");
    panel.replaceChildren(
      el("h3", { class: "legend" }, told.letter ? el("i", { class: told.letter }) : null, el("span", { style: "color:var(--ink)" }, told.title)),
      el("div", { class: "path" }, told.name),
      el("dl", {}, told.rows.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])));
  };
  const tell = (cell) => {
    const row = cell.closest("tr");
    const step = cell.dataset.step === undefined ? null : Number(cell.dataset.step);
    if (row.dataset.site === undefined) {
      if (step !== null) show(explainStep(map, step), null, step);
      return null;
    }
    const index = Number(row.dataset.site);
    const told = step === null ? explainSite(map, index) : explainCell(map, index, step);
    show(told, index, step);
    return told;
  };

  const rowOf = (site, i) => {
    const parent = site.inside.length > 0;
    const row = el("tr", { role: "row", class: site.begins && i ? "begins" : null, "data-site": i, "aria-level": site.level + 1,
      "aria-expanded": parent ? String(open.has(i)) : null });
    const head = el("th", { scope: "row", role: "rowheader", tabindex: -1, title: site.name, "--level": site.level });
    if (map.depth > 1) head.append(el("span", { class: "twist", "aria-hidden": "true" }, parent ? "▶" : ""));
    head.append(site.label);
    row.append(head);
    for (let step = 0; step < count; step += 1) {
      const cell = document.createElement("td");
      cell.className = site.states[step];
      cell.dataset.step = step;
      cell.tabIndex = -1;
      row.append(cell);
    }
    return row;
  };
  const isShown = (site) => site.parent === null || (open.has(site.parent) && isShown(map.sites[site.parent]));
  const cells = () => [...body.rows];
  const rove = (cell) => {
    body.querySelectorAll('[tabindex="0"]').forEach((one) => { one.tabIndex = -1; });
    cell.tabIndex = 0;
  };
  const draw = () => {
    body.replaceChildren(...map.sites.flatMap((site, i) => (isShown(site) ? [rowOf(site, i)] : [])));
    rove(body.rows[0].cells[0]);
  };
  const toggle = (index) => {
    if (!map.sites[index].inside.length) return;
    if (!open.delete(index)) open.add(index);
    draw();
    levels.press("");
  };
  const focusOn = (row, column) => {
    const cell = row.cells[Math.max(0, Math.min(count, column))];
    rove(cell);
    cell.focus();
    cell.scrollIntoView({ block: "nearest", inline: "nearest" });
  };

  body.addEventListener("focusin", (event) => {
    const told = tell(event.target);
    rove(event.target);
    event.target.setAttribute("aria-label", [told.title, ...told.rows.map(([name, text]) => `${name}: ${text}`)].join(". "));
  });
  table.addEventListener("mouseover", (event) => {
    const cell = event.target.closest("td, tbody th, thead th[data-step]");
    if (cell) tell(cell);
  });
  body.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (!head) return;
    const index = Number(head.parentElement.dataset.site);
    toggle(index);
    const row = body.querySelector(`tr[data-site="${index}"]`);
    if (row) row.cells[0].focus({ preventScroll: true });
  });
  body.addEventListener("keydown", (event) => {
    const row = event.target.closest("tr");
    const all = cells();
    const at = all.indexOf(row);
    const column = event.target.cellIndex;
    const index = Number(row.dataset.site);
    const unfolds = column === 0 && map.sites[index].inside.length;
    const reopened = () => { toggle(index); focusOn(body.querySelector(`tr[data-site="${index}"]`), column); };
    const moves = {
      ArrowUp: () => at > 0 && focusOn(all[at - 1], column),
      ArrowDown: () => at + 1 < all.length && focusOn(all[at + 1], column),
      ArrowLeft: () => (unfolds && open.has(index) ? reopened() : focusOn(row, column - 1)),
      ArrowRight: () => (unfolds && !open.has(index) ? reopened() : focusOn(row, column + 1)),
      Home: () => focusOn(event.ctrlKey ? all[0] : row, 0),
      End: () => focusOn(event.ctrlKey ? all.at(-1) : row, count),
      PageUp: () => focusOn(all[Math.max(0, at - 10)], column),
      PageDown: () => focusOn(all[Math.min(all.length - 1, at + 10)], column),
      Enter: reopened, " ": reopened,
    };
    if (!moves[event.key] || event.altKey || event.metaKey) return;
    event.preventDefault();
    moves[event.key]();
  });

  const levels = segments("How deep the map unfolds", levelNames(map.depth).map((name, i) => [i, name]), level, (chosen) => {
    openTo(chosen);
    draw();
  });
  const letters = Object.keys(LEGEND).filter((letter) => map.sites.some((site) => site.states.includes(letter)));
  draw();
  show(explainCell(map, 0, 0), 0, 0);
  const lead = map.planned ? "What runs on the model, after elimination." : "What the mask asks for. With --model, the report knows costs and bytes too.";
  return el("section", { class: "card", id: "map", "aria-labelledby": "map-title" },
    el("div", { class: "head" },
      el("div", {}, el("h2", { id: "map-title" }, "What runs when"),
        el("p", { class: "lead" }, `${lead} Steps go from noise at the left to the image; sites from input to output. Point at a cell, tap it, or walk there with the arrow keys.`)),
      map.depth > 1 ? levels.group : null),
    el("div", { class: "legend" }, letters.map((letter) => el("span", {}, el("i", { class: letter }), stateName(map, letter)))),
    panel, el("div", { class: "maps" }, table));
};
