"use strict";
// Elements from text and attributes. Text is never read as HTML.

const el = (tag, attributes, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) made.style.setProperty(name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
};

const segments = (label, choices, chosen, choose) => {
  const group = el("div", { class: "segments", role: "group", "aria-label": label });
  const press = (value) => {
    for (const button of group.children) button.setAttribute("aria-pressed", button.dataset.value === String(value));
  };
  for (const [value, text] of choices) {
    const click = () => { press(value); choose(value); };
    group.append(el("button", { type: "button", "data-value": value, onclick: click }, text));
  }
  press(chosen);
  return { group, press };
};

const chooser = (label, choices, chosen, choose) => {
  const select = el("select", { onchange: (event) => choose(event.target.value) },
    choices.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
  return el("label", { class: "field" }, label, select);
};

const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const isDark = () => document.documentElement.dataset.theme === "dark";
