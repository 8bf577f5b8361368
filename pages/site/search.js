// Search over search-index.js, which is loaded when somebody begins to search. Works from a disk too.
"use strict";
const up = document.currentScript.dataset.up;
const form = document.querySelector("form[role=search]");
const input = form.querySelector("input");
const found = document.getElementById("found");
const MOST = 12;
let loading = null;

form.hidden = false;
form.addEventListener("submit", (event) => {
  event.preventDefault();
  found.querySelector("a")?.click();
});
input.addEventListener("focus", load);
input.addEventListener("input", () => load().then(show));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !found.hidden) {
    found.hidden = true;
    input.focus();
  } else if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    input.focus();
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && !found.hidden) {
    const links = [input, ...found.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    if (at < 0) return;
    event.preventDefault();
    links[Math.min(links.length - 1, Math.max(0, at + (event.key === "ArrowDown" ? 1 : -1)))].focus();
  }
});
document.addEventListener("click", (event) => {
  if (!found.contains(event.target) && event.target !== input) found.hidden = true;
});

function load() {
  loading ??= new Promise((done) => {
    const script = document.createElement("script");
    script.src = `${up}search-index.js`;
    script.onload = done;
    document.head.append(script);
  });
  return loading;
}

// Sections with more of the words come first. A word in a heading counts most, then in the title, then in the text.
function score(section, words) {
  const [, title, , heading, text] = section.map((one) => one.toLowerCase());
  let sum = 0;
  for (const word of words) {
    const here = 20 * heading.includes(word) + 5 * title.includes(word) + Math.min(4, text.split(word).length - 1);
    sum += here && here + 1000;
  }
  return sum;
}

function show() {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  found.replaceChildren();
  found.hidden = words.length === 0;
  if (found.hidden) return;
  const best = SECTIONS.map((section) => [score(section, words), section]).filter(([points]) => points > 0);
  best.sort(([a], [b]) => b - a);
  for (const [, [page, title, anchor, heading, text]] of best.slice(0, MOST)) {
    const link = document.createElement("a");
    link.href = `${up}${page}#${anchor}`;
    link.addEventListener("click", () => (found.hidden = true));
    link.append(heading === title ? title : `${heading} (${title})`, around(text, words[0]));
    found.append(link);
  }
  if (best.length === 0) found.append("Nothing has any of these words.");
}

// Some words around the first place, the place marked.
function around(text, word) {
  const small = document.createElement("small");
  const at = text.toLowerCase().indexOf(word);
  if (at < 0) {
    small.append(text.slice(0, 120));
    return small;
  }
  const mark = document.createElement("mark");
  mark.append(text.slice(at, at + word.length));
  small.append(at > 50 ? "…" : "", text.slice(Math.max(0, at - 50), at), mark, text.slice(at + word.length, at + 90));
  return small;
}
