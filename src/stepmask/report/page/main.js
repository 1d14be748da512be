"use strict";
// Puts the page together: what is chosen decides what every part shows.

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const page = document.getElementById("page");
  const state = { study: 0, entry: 0, budget: 0.5, x: "macs", y: "psnr", cut: 50, difference: false };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const setTheme = (name) => { document.documentElement.dataset.theme = name; };
  setTheme(dark.matches ? "dark" : "light");

  const study = () => data.studies[state.study];
  const savers = () => study().entries.map((_, i) => i).filter((i) => study().entries[i].values.macs !== 1 || study().entries.length === 1);
  const hasTradeOff = () => study().axes.length > 0;
  const costsOf = (one) => savers().map((i) => costOf(one, i)).filter(Number.isFinite);
  const ticks = (one) => (budgetAxis(one).form === "share" ? 100 : 10); // of the slider, in one unit of its axis
  const indices = () => {
    const one = study();
    if (one.methods.length === 1) return savers();
    const mine = one.entries[state.entry].method;
    return withinBudget(one, state.budget, axisOf(one, state.y)).map((i) => (one.entries[i].method === mine ? state.entry : i))
      .filter((i) => savers().includes(i));
  };

  const start = () => {
    const one = study();
    state.entry = savers()[0] ?? 0;
    if (!hasTradeOff()) return;
    if (!axisOf(one, state.x)) state.x = budgetAxis(one).key;
    if (!axisOf(one, state.y)) state.y = one.axes.find((axis) => axis.role === "quality").key;
    const costs = costsOf(one);
    if (!costs.some((cost) => cost <= state.budget)) state.budget = costs.sort((a, b) => a - b)[Math.floor(costs.length / 2)];
    follow(null);
  };
  // The entry that the budget picks: of the same method where it has one, else of ours, else the best.
  const follow = (name) => {
    const one = study();
    const found = withinBudget(one, state.budget, axisOf(one, state.y)).filter((i) => savers().includes(i));
    const ours = (i) => one.methods.find((method) => method.name === one.entries[i].method).ours;
    const picked = found.find((i) => one.entries[i].method === name) ?? found.find(ours) ?? found[0];
    if (picked !== undefined) state.entry = picked;
  };
  const choose = (index) => {
    const cost = costOf(study(), index);
    state.entry = index;
    if (Number.isFinite(cost)) state.budget = cost;
    refresh();
  };

  const parts = {};
  const tiles = () => {
    const entry = study().entries[state.entry];
    const map = entry.map;
    const found = [];
    // Where entries change, tiles stay in their places: nothing below them moves.
    const add = (value, form, words, has) => {
      const known = Number.isFinite(value);
      if (known || (hasTradeOff() && has)) found.push(el("div", { class: "tile" }, el("b", {}, known ? form(value) : "–"), el("span", {}, words)));
    };
    const any = (key) => study().entries.some((one) => Number.isFinite(one.values[key]));
    const interval = entry.interval ? ` (95%: ${entry.interval.map((value) => value.toFixed(1)).join(" to ")})` : "";
    const budget = budgetAxis(study());
    if (!budget || budget.key === "macs") add(map?.macs ?? entry.values.macs, share, "of the full run's MACs", true);
    else add(entry.values[budget.key], FORMS[budget.form], budget.label, true);
    add(entry.values.psnr, FORMS.db, `PSNR, higher is closer${interval}`, true);
    add(entry.values.speedup, FORMS.times, "the denoiser's speed", any("speedup"));
    add(map?.peakBytes ?? (study().methods.length === 1 ? entry.values.cache : undefined), bytesInWords, "of cache per image", true);
    add(map?.sites.length, (count) => `${map.times.length} × ${count}`, "steps × sites", true);
    return el("div", { class: "tiles", "aria-live": "polite" }, found);
  };

  const tradeOff = () => {
    const one = study();
    const quality = one.axes.filter((axis) => axis.role === "quality").map((axis) => [axis.key, axis.label]);
    const cost = one.axes.filter((axis) => axis.role === "cost").map((axis) => [axis.key, axis.label]);
    const [costs, budget, fine] = [costsOf(one), budgetAxis(one), ticks(one)];
    parts.shown = el("output", {}, inForm(budget, state.budget));
    parts.budget = el("input", { type: "range", min: Math.floor(fine * Math.min(...costs)), max: Math.ceil(fine * Math.max(...costs)),
      step: 1, value: Math.round(fine * state.budget), "aria-label": `Budget: ${budget.label}`,
      oninput: (event) => { state.budget = Number(event.target.value) / fine; follow(one.entries[state.entry].method); refresh(); } });
    parts.plot = el("div", { class: "plot", tabindex: 0, role: "group",
      "aria-label": "Quality against cost. Left and right go along the settings of a method, up and down from method to method; the list beside has the same numbers.",
      onkeydown: (event) => {
        if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key)) return;
        event.preventDefault();
        const next = walkPlot(one, state, event.key);
        if (next !== undefined) choose(next);
      } });
    parts.list = el("div", { class: "scroll" });
    const single = one.methods.length === 1;
    const redraw = () => refresh();
    return el("section", { class: "card", id: "tradeoff", "aria-labelledby": "tradeoff-title" },
      el("div", { class: "head" }, el("div", {}, el("h2", { id: "tradeoff-title" }, "Quality against cost"),
        el("p", { class: "lead" }, single ? "Every mask of the family is a point. The budget picks the best that costs at most so much."
          : "Every measured setting is a point. The list has of each method the most expensive setting within the budget"
            + (one.slack ? `, or ${share(one.slack).replace(".00", "")} above it.` : "."))),
      el("div", { class: "controls" },
        quality.length > 1 ? chooser("quality", quality, state.y, (key) => { state.y = key; redraw(); }) : null,
        cost.length > 1 ? chooser("cost", cost, state.x, (key) => { state.x = key; redraw(); }) : null)),
      el("div", { class: "tradeoff" },
        el("div", {}, parts.plot, el("p", { class: "hint" }, "Choose a point to see its map and pictures.",
          matchMedia("(pointer: coarse)").matches ? null : " Drag to zoom, double-click to see everything.")),
        el("div", {}, el("label", { class: "field wide", style: "display:flex;margin-bottom:10px" }, "budget", parts.budget, parts.shown), parts.list)));
  };

  const facts = () => {
    const one = study();
    const entry = one.entries[state.entry];
    const list = (title, rows) => (rows.length ? [title ? el("h3", {}, title) : null, rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])] : []);
    const measured = one.axes.map((axis) => [axis.label, inForm(axis, entry.values[axis.key])]).filter(([, value]) => value !== "–");
    return el("section", { class: "card", id: "provenance" }, el("details", { open: parts.factsOpen, ontoggle: (event) => { parts.factsOpen = event.target.open; } },
      el("summary", {}, "Where this comes from"),
      el("dl", { class: "facts" }, list(hasTradeOff() ? `${entry.method}, ${entry.setting}` : null, [...measured, ...entry.facts]),
        list(entry.facts.length || measured.length ? "How it was made" : null, one.facts))));
  };

  const everything = () => {
    const one = study();
    if (!hasTradeOff()) return null;
    const all = savers().sort((a, b) => one.methods.findIndex((m) => m.name === one.entries[a].method) - one.methods.findIndex((m) => m.name === one.entries[b].method)
      || costOf(one, b) - costOf(one, a));
    return el("section", { class: "card", id: "rows" }, el("details", { open: parts.allOpen, ontoggle: (event) => { parts.allOpen = event.target.open; } },
      el("summary", {}, `All ${all.length} rows`),
      el("div", { class: "scroll" }, entryList(one, state, all, choose, one.axes))));
  };

  // Focus stays where it was when a part is drawn anew.
  const swap = (name, made) => {
    const old = parts[name];
    const held = old && old.contains(document.activeElement) ? document.activeElement : null;
    const path = held && (held.dataset.entry ? `[data-entry="${held.dataset.entry}"]` : held.tagName === "INPUT" ? `input[type="${held.type}"]` : held.tagName === "SUMMARY" ? "summary" : null);
    const next = made || el("div", { hidden: true });
    if (old) old.replaceWith(next);
    parts[name] = next;
    if (path) next.querySelector(path)?.focus({ preventScroll: true });
  };

  const refresh = () => {
    const one = study();
    const entry = one.entries[state.entry];
    parts.theme.textContent = isDark() ? "Light" : "Dark";
    parts.theme.setAttribute("aria-label", `Show the page ${isDark() ? "light" : "dark"}`);
    if (hasTradeOff()) {
      parts.shown.textContent = inForm(budgetAxis(one), state.budget);
      if (document.activeElement !== parts.budget) parts.budget.value = Math.round(ticks(one) * state.budget);
      drawPlot(parts.plot, one, state, choose);
      const quality = axisOf(one, state.y);
      const short = one.axes.filter((axis) => axis === budgetAxis(one) || axis.key === "speedup" || axis === quality);
      const held = parts.list.contains(document.activeElement) ? document.activeElement.dataset.entry : undefined;
      parts.list.replaceChildren(entryList(one, state, indices(), choose, short));
      if (held !== undefined) parts.list.querySelector(`[data-entry="${held}"]`)?.focus({ preventScroll: true });
    }
    swap("tiles", tiles());
    swap("pictures", compareSection(one, state, hasTradeOff() ? indices() : [0], choose));
    if (parts.mapOf !== entry.map || !parts.map) {
      const none = hasTradeOff() && !entry.map;
      swap("map", entry.map ? mapSection(entry.map) : none ? el("section", { class: "card", id: "map" }, el("h2", {}, "What runs when"),
        el("p", { class: "lead" }, `There is no mask of ${entry.method}, ${entry.setting}, so no map.`)) : null);
      parts.mapOf = entry.map;
    }
    swap("facts", facts());
    swap("rows", everything());
  };

  const draw = () => {
    start();
    for (const name of ["tiles", "pictures", "map", "facts", "rows"]) parts[name] = el("div", {});
    parts.mapOf = undefined;
    const choices = data.studies.map((one, i) => [String(i), one.name]);
    const several = choices.length > 1 ? chooser("results of", choices, String(state.study), (value) => { state.study = Number(value); draw(); page.querySelector("header select").focus(); }) : null;
    parts.theme = el("button", { type: "button", class: "button", onclick: () => { setTheme(isDark() ? "light" : "dark"); refresh(); } });
    page.replaceChildren(
      el("header", { class: "top" }, el("div", { class: "title" }, el("h1", {}, study().name), el("p", { class: "soft" }, `${data.title}, from ${data.source}`)),
        several, parts.theme),
      parts.tiles, hasTradeOff() ? tradeOff() : "", parts.pictures, parts.map, parts.facts, parts.rows,
      el("p", { class: "foot" }, `Made by stepmask report, version ${data.version}. This file needs no network.`));
    refresh();
  };

  dark.addEventListener("change", (event) => { setTheme(event.matches ? "dark" : "light"); refresh(); });
  draw();
})();
