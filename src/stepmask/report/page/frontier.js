"use strict";
// Quality against cost: every entry as a point, drawn by plotly, and a list of what each method has for a budget.

const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "x", "cross", "star", "hexagon", "pentagon"];
const GLYPHS = ["●", "■", "◆", "▲", "▼", "✖", "✚", "★", "⬢", "⬟"];

const markOf = (study, name) => {
  const method = study.methods.find((one) => one.name === name);
  const alike = study.methods.filter((one) => one.colour === method.colour);
  return alike.indexOf(method) % SYMBOLS.length;
};
const methodOf = (study, entry) => study.methods.find((method) => method.name === entry.method);
const hue = (method) => (isDark() ? method.dark : method.colour);
const axisOf = (study, key) => study.axes.find((axis) => axis.key === key);
// Budgets are given in the first of the costs.
const budgetAxis = (study) => study.axes.find((axis) => axis.role === "cost");
const costOf = (study, i) => study.entries[i].values[budgetAxis(study).key];

// Of every method the dearest entry within a budget, the best of those that cost about as much; as indices, best first.
const withinBudget = (study, budget, quality) => {
  const worth = (i) => {
    const value = study.entries[i].values[quality.key];
    return Number.isFinite(value) ? (quality.better === "higher" ? value : -value) : -Infinity;
  };
  const cost = (i) => costOf(study, i);
  const within = study.entries.map((_, i) => i).filter((i) => Number.isFinite(cost(i)) && cost(i) <= budget * (1 + study.slack) + 1e-9);
  const found = study.methods.flatMap((method) => {
    const own = within.filter((i) => study.entries[i].method === method.name);
    const most = Math.max(...own.map(cost));
    return own.filter((i) => cost(i) >= most - 0.01).sort((a, b) => worth(b) - worth(a)).slice(0, 1);
  });
  return found.sort((a, b) => worth(b) - worth(a));
};

// plotly reads some tags in texts; what comes from files must not be taken for one.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const tracesOf = (study, state) => {
  const [x, y] = [axisOf(study, state.x), axisOf(study, state.y)];
  const drawn = (entry) => [x, y].every((axis) => Number.isFinite(entry.values[axis.key]));
  const groups = new Map();
  study.entries.forEach((entry, i) => {
    if (!drawn(entry)) return;
    const key = JSON.stringify([entry.method, entry.values.seed ?? null]);
    groups.set(key, [...(groups.get(key) || []), i]);
  });
  const chosen = study.entries[state.entry];
  const traces = [...groups.values()].map((members) => {
    members.sort((a, b) => study.entries[a].values[x.key] - study.entries[b].values[x.key]);
    const entries = members.map((i) => study.entries[i]);
    const method = methodOf(study, entries[0]);
    const strong = entries[0].method === chosen.method;
    const interval = y.key === "psnr" && entries.every((entry) => entry.interval);
    return {
      type: "scatter", mode: "lines+markers", name: plain(method.name), customdata: members,
      x: entries.map((entry) => entry.values[x.key]), y: entries.map((entry) => entry.values[y.key]),
      text: entries.map((entry) => plain(`${entry.method}, ${entry.setting}\n${inForm(x, entry.values[x.key])}, ${inForm(y, entry.values[y.key])}`).replace(/\n/g, "<br>")),
      hovertemplate: "%{text}<extra></extra>", opacity: strong ? 1 : 0.62,
      line: { color: hue(method), width: strong ? 2.6 : 1.2 },
      marker: { color: hue(method), size: strong ? 9 : 7, symbol: SYMBOLS[markOf(study, method.name)] },
      error_y: interval && strong ? { type: "data", symmetric: false, thickness: 1, width: 3, color: hue(method),
        array: entries.map((entry) => Math.max(0, entry.interval[1] - entry.values.psnr)),
        arrayminus: entries.map((entry) => Math.max(0, entry.values.psnr - entry.interval[0])) } : undefined,
    };
  });
  if (drawn(chosen)) {
    traces.push({ type: "scatter", mode: "markers", x: [chosen.values[x.key]], y: [chosen.values[y.key]], hoverinfo: "skip",
      marker: { size: 19, color: "rgba(0,0,0,0)", line: { width: 2.5, color: colourOf("ink") } } });
  }
  return traces;
};

const layoutOf = (study, state) => {
  const line = { gridcolor: colourOf("grid"), linecolor: colourOf("line"), zeroline: false, automargin: true, ticks: "outside",
    tickcolor: colourOf("line"), ticklen: 5 };
  const forms = { share: { tickformat: ".0%" }, times: { ticksuffix: "x" }, bytes: { tickformat: ".3s", ticksuffix: "B" }, db: {}, number: {} };
  const axis = (key) => {
    const one = axisOf(study, key);
    return { ...line, ...forms[one.form], title: { text: plain(one.form === "db" ? `${one.label}, dB` : one.label), standoff: 10, font: { size: 13 } } };
  };
  const coarse = matchMedia("(pointer: coarse)").matches;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 52, r: 12, t: 10, b: 48 }, showlegend: false,
    hovermode: "closest", dragmode: coarse ? false : "zoom", font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: colourOf("soft") },
    hoverlabel: { bgcolor: colourOf("card"), bordercolor: colourOf("line"), font: { color: colourOf("ink"), size: 13 }, align: "left" },
    xaxis: { ...axis(state.x), fixedrange: coarse }, yaxis: { ...axis(state.y), fixedrange: coarse }, uirevision: `${state.x} ${state.y} ${state.study}`,
    shapes: state.x === budgetAxis(study).key ? [{ type: "line", x0: state.budget, x1: state.budget, yref: "paper", y0: 0, y1: 1,
      line: { color: colourOf("soft"), width: 1, dash: "dot" } }] : [],
  };
};

const drawPlot = (plot, study, state, choose) => {
  const first = !plot.classList.contains("js-plotly-plot");
  Plotly.react(plot, tracesOf(study, state), layoutOf(study, state), { displayModeBar: false, responsive: true });
  if (first) {
    plot.on("plotly_click", (event) => {
      const index = event.points.map((point) => point.customdata).find((one) => one !== undefined);
      if (index !== undefined) choose(index);
    });
  }
};

// Arrow keys go along the points of a method, and from method to method.
const walkPlot = (study, state, key) => {
  const here = study.entries[state.entry];
  const cost = (i) => costOf(study, i) ?? 0;
  const points = study.entries.map((_, i) => i).filter((i) => study.entries[i].values.macs !== 1);
  if (key === "ArrowLeft" || key === "ArrowRight") {
    const own = points.filter((i) => study.entries[i].method === here.method).sort((a, b) => cost(a) - cost(b));
    return own[own.indexOf(state.entry) + (key === "ArrowRight" ? 1 : -1)];
  }
  const names = study.methods.map((method) => method.name).filter((name) => points.some((i) => study.entries[i].method === name));
  const name = names[names.indexOf(here.method) + (key === "ArrowDown" ? 1 : -1)];
  const near = points.filter((i) => study.entries[i].method === name);
  return near.sort((a, b) => Math.abs(cost(a) - state.budget) - Math.abs(cost(b) - state.budget))[0];
};

const pickButton = (study, index, choose, more) => {
  const entry = study.entries[index];
  const method = methodOf(study, entry);
  const mark = el("span", { class: "mark", "aria-hidden": "true", style: `color:${hue(method)}` }, GLYPHS[markOf(study, method.name)]);
  return el("button", { type: "button", class: "pick", onclick: () => choose(index), "data-entry": index }, mark, el("span", {}, entry.method, more || null));
};

const entryList = (study, state, indices, choose, axes) => {
  const rows = indices.map((i) => {
    const entry = study.entries[i];
    const click = (event) => { if (!event.target.closest("button")) choose(i); };
    return el("tr", { "aria-current": i === state.entry ? "true" : null, onclick: click },
      el("td", {}, pickButton(study, i, choose)), el("td", {}, entry.setting),
      axes.map((axis) => el("td", { class: "right" }, inForm(axis, entry.values[axis.key]))));
  });
  return el("table", { class: "list" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "method"), el("th", { scope: "col" }, "setting"),
      axes.map((axis) => el("th", { scope: "col", class: "right", title: axis.label }, axis.label.split(/,| against| per /)[0])))),
    el("tbody", {}, rows));
};
