"use strict";
// Pictures of the full and of a masked run from the same noise, one over the other, and those of all methods in rows.

const compareSection = (study, state, indices, choose) => {
  const entry = study.entries[state.entry];
  if (!study.picture) return null;
  const count = study.numPictures;
  const layer = (uri, place, kind) => {
    const made = el("div", { class: kind });
    made.style.backgroundImage = `url("${uri}")`;
    made.style.backgroundPosition = `${count > 1 ? (100 * place) / (count - 1) : 0}% 0`;
    return made;
  };
  const grid = el("div", { class: "compare", "--columns": Math.min(4, count), "--count": count, "--cut": `${state.cut}%` });
  const cut = (value) => {
    state.cut = value;
    grid.style.setProperty("--cut", `${value}%`);
    wipe.value = value;
  };
  const wipe = el("input", { type: "range", class: "wipe", min: 0, max: 100, value: state.cut, "aria-label": "How much of each image is the masked one, in percent",
    oninput: (event) => cut(Number(event.target.value)) });
  const drag = (event) => {
    const image = event.target.closest(".image");
    if (!image || (event.pointerType === "mouse" && event.type === "pointermove" && !event.buttons)) return;
    const box = image.getBoundingClientRect();
    cut(Math.round(Math.max(0, Math.min(100, (100 * (event.clientX - box.left)) / box.width))));
  };
  grid.addEventListener("pointerdown", drag);
  grid.addEventListener("pointermove", drag);
  const shown = entry.picture || study.picture;
  for (let place = 0; place < count; place += 1) {
    const image = el("div", { class: "image", role: "img", "aria-label": `Image ${place + 1} of ${count}, full and ${entry.method}` }, layer(study.picture, place, "under"), layer(shown, place, "over"));
    grid.append(image);
  }
  const size = new Image();
  size.onload = () => grid.style.setProperty("--shape", `${size.width / count} / ${size.height}`);
  size.src = study.picture;

  const difference = el("input", { type: "checkbox", checked: state.difference, onchange: (event) => {
    state.difference = event.target.checked;
    grid.classList.toggle("difference", state.difference);
  } });
  grid.classList.toggle("difference", state.difference);
  const strip = (uri, label, note) => [label, el("img", { src: uri, alt: note })];
  const rows = indices.filter((i) => study.entries[i].picture && study.entries[i].picture !== study.picture).map((i) => {
    const one = study.entries[i];
    const numbers = el("small", {}, [inForm(budgetAxis(study), costOf(study, i)), inForm(axisOf(study, state.y), one.values[state.y])].join(", "));
    const button = pickButton(study, i, choose, numbers);
    if (i === state.entry) button.setAttribute("aria-current", "true");
    return strip(one.picture, button, `The first images of ${one.method}, ${one.setting}`);
  });
  const missing = entry.picture ? null : el("p", { class: "hint" }, `There are no pictures of ${entry.method}, ${entry.setting}.`);
  return el("section", { class: "card", id: "pictures", "aria-labelledby": "pictures-title" },
    el("div", { class: "head" },
      el("div", {}, el("h2", { id: "pictures-title" }, "The same noise, full and masked"),
        el("p", { class: "lead" }, "Move the slider, or drag across an image: the masked run is at the left of the line, the full run at the right.")),
      el("label", { class: "field" }, difference, "show the difference, 4 times as bright")),
    missing || [
      el("div", { class: "ends" }, el("span", {}, `◀ ${entry.method}, ${entry.setting}`), el("span", {}, "full run ▶")),
      wipe, grid],
    rows.length ? [el("h3", { class: "sub" }, "All methods at this budget"),
      el("div", { class: "strips" }, strip(study.picture, el("span", { class: "pick" }, el("span", {}, "full run", el("small", {}, "100%"))), "The first images of the full run"), rows)] : null);
};
