"use strict";
// Numbers in words, for people.

const bytesInWords = (count) => {
  for (const unit of ["B", "KiB", "MiB"]) {
    if (count < 1024) return `${Number(count.toPrecision(3))} ${unit}`;
    count /= 1024;
  }
  return `${Number(count.toPrecision(3))} GiB`;
};

const macsInWords = (count) => {
  for (const [power, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (count >= power) return `${Number((count / power).toPrecision(3))} ${unit} MACs`;
  }
  return `${Math.round(count)} MACs`;
};

const share = (value) => {
  const percent = 100 * value;
  const digits = percent >= 9.95 ? 1 : percent >= 0.095 ? 2 : 3;
  return `${percent.toFixed(value === 1 || value === 0 ? 0 : digits)}%`;
};

const FORMS = {
  share,
  times: (value) => `${value.toFixed(2)}x`,
  bytes: bytesInWords,
  db: (value) => `${value.toFixed(1)} dB`,
  number: (value) => String(Number(value.toPrecision(4))),
};

const inForm = (axis, value) => (value === null || value === undefined ? "–" : FORMS[axis.form](value));
const steps = (count) => `${count} step${count === 1 ? "" : "s"}`;
const listed = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);
