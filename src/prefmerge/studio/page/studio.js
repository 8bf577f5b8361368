// The page: its state, what it asks the server, and what it shows of the answers. The state lives in the address, after
// the #, so a reload loses nothing and two pages have nothing in common.

import { UNITS, geometric, apportion, move, percent, typed } from "/page/dials.js";
import { bars, colour, element, layer, scatter, share } from "/page/charts.js";

const TOKEN = new URLSearchParams(location.search).get("token") || "";
const SESSION = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
const WAIT = 120; // ms without a change before the server is asked
const FEW = 5; // parameters that are all shown; of more, those that one tries first
const ALIVE = 4000; // ms between questions whether it is still there
const $ = (id) => document.getElementById(id);

let about; // what /api/start said
let state; // {dials, locks, method, values, target, shown, x, y, name}
let anchor = null; // the dial that moves, and the ratios of the others when it began
let before = []; // dials to go back to
let measured = null, beside = [], points = [], rows = [];
const running = {};

// The server

async function ask(path, body, method = "POST") {
  const headers = { "X-Studio-Token": TOKEN, "X-Studio-Session": SESSION };
  const controller = new AbortController();
  if (running[path]) running[path].abort();
  running[path] = controller;
  const made = { method, headers, signal: controller.signal };
  if (body !== undefined) { made.body = JSON.stringify(body); headers["Content-Type"] = "application/json"; }
  const answer = await fetch(path, made);
  if (answer.ok) return answer;
  let told = { error: `The studio answers ${answer.status}.`, field: "" };
  try { told = await answer.json(); } catch { /* not JSON */ }
  if (answer.status === 403) gone(`The studio was started again with another address. ${kept()}`);
  throw Object.assign(new Error(told.error), told);
}

// The lines of a job, one after the other: results to `on`, progress to the bar.
async function job(path, body, on) {
  const answer = await ask(path, body), mine = running[path];
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += value || "";
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines.filter(Boolean).map((one) => JSON.parse(one))) {
      if (line.progress) progress(...line.progress);
      else if (line.error) throw Object.assign(new Error(line.error), line);
      else if (line.result) on(line.result);
      // An older question that arrived after this one has ended it, and nobody waits for that one any more: ask again.
      else if (line.cancelled && running[path] === mine) return job(path, body, on);
    }
    if (done) return;
  }
}

function failed(error, field = "") {
  if (error.name === "AbortError") return;
  if (error instanceof TypeError) gone(`The studio has stopped, or cannot be reached. ${kept()}`);
  else wrong(error.field || field, error.message);
  idle();
}

function gone(text) {
  $("banner").textContent = text;
  $("banner").hidden = false;
}

const kept = () => `Start it again with: prefmerge studio ${about ? about.path : "…"}. Nothing is lost: put this behind the new address: ${location.hash}`;

async function alive() {
  try {
    await ask("/api/alive", undefined, "GET");
    $("banner").hidden = true;
  } catch (error) { failed(error); }
  setTimeout(alive, ALIVE);
}

function progress(done, total, what) {
  const bar = $("progress");
  bar.hidden = false;
  if (total) { bar.max = total; bar.value = done; } else bar.removeAttribute("value");
  $("status").textContent = total ? `${what}: ${done} of ${total}` : what;
}

function idle(text = "") {
  $("progress").hidden = true;
  $("status").textContent = text;
}

// What is wrong, beside the control that it belongs to

function wrong(field, text) {
  const place = document.querySelector(`[data-error="${CSS.escape(field)}"]`) || document.querySelector('[data-error=""]');
  place.textContent = text;
  place.hidden = false;
  place.setAttribute("role", "alert");
  const control = $(`control-${field}`) || $({ labels: "labels-text" }[field] || field || "none");
  if (control?.closest("details")) control.closest("details").open = true;
  if (control && control.matches("input, select, textarea")) control.setAttribute("aria-invalid", "true");
}

function right(...fields) {
  for (const place of document.querySelectorAll("[data-error]")) {
    if (fields.length && !fields.includes(place.dataset.error)) continue;
    place.hidden = true;
    place.removeAttribute("role");
  }
  if (!fields.length) for (const control of document.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
  else for (const field of fields) (($(`control-${field}`) || $(field))?.removeAttribute("aria-invalid"));
}

// The state

function remember() {
  history.replaceState(null, "", `${location.pathname}${location.search}#${encodeURIComponent(JSON.stringify(state))}`);
}

function recalled() {
  const count = about.tasks.length;
  const fresh = { dials: about.dials, locks: Array(count).fill(false), method: about.method, values: {}, target: "dials", shown: null, x: "target", y: "mean", name: "" };
  try {
    const old = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    const whole = Array.isArray(old.dials) && old.dials.length === count && old.dials.every((d) => Number.isInteger(d) && d >= 0);
    if (whole && old.dials.reduce((a, b) => a + b, 0) === UNITS && about.methods.some((m) => m.name === old.method)) {
      if (!Array.isArray(old.locks) || old.locks.length !== count) old.locks = fresh.locks;
      if (!old.shown || !Array.isArray(old.shown.dials) || old.shown.dials.length !== count) { old.shown = null; old.target = "dials"; }
      return { ...fresh, ...old };
    }
  } catch { /* another page's, or none */ }
  return fresh;
}

function wanted() {
  const method = about.methods.find((one) => one.name === state.method);
  const values = {};
  for (const one of method.parameters) if (state.values[one.name]) values[one.name] = state.values[one.name];
  return { dials: state.dials.map((d) => d / UNITS), method: state.method, values };
}

// Dials

function buildDials() {
  $("dials").replaceChildren(...about.tasks.map((task, t) => {
    const dot = element("span", { className: "dot-of", "aria-hidden": "true" });
    dot.style.background = colour(t, about.tasks.length);
    const name = element("span", { className: "name", id: `task-${t}` }, dot, element("b", { text: task.name }));
    if (task.classes.length) {
      const classes = task.classes.join(", ");
      name.append(element("span", { className: "soft", text: classes, title: classes }));
    }
    const range = element("input", { type: "range", id: `range-${t}`, min: 0, max: UNITS, step: "any", "aria-labelledby": `task-${t}` });
    range.addEventListener("input", () => moved(t, Number(range.value)));
    range.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 100, ArrowUp: 100, ArrowLeft: -100, ArrowDown: -100, PageUp: 1000, PageDown: -1000, Home: -UNITS, End: UNITS }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      moved(t, state.dials[t] + by);
    });
    const box = element("input", { id: `control-dial-${t}`, inputMode: "decimal", autocomplete: "off", "aria-label": `${task.name}, percent` });
    box.addEventListener("change", () => {
      const units = typed(box.value);
      if (units === null) { wrong(`dial-${t}`, `${JSON.stringify(box.value)} is no number from 0 to 100.`); return; }
      moved(t, units);
      box.value = percent(state.dials[t]);
    });
    const lock = element("button", { type: "button", className: "lock", id: `lock-${t}`, "aria-label": `Lock ${task.name}`, title: "Lock: the dial stays where it is" });
    lock.append(padlock());
    lock.addEventListener("click", () => { state.locks[t] = !state.locks[t]; anchor = null; remember(); showDials(); });
    const spread = element("div", { className: "spread", id: `spread-${t}`, hidden: true, "aria-hidden": "true" });
    const told = element("span", { className: "spread-told", id: `spread-told-${t}`, hidden: true });
    return element("div", { className: "dial" }, name, range,
      element("span", { className: "box" }, box, "%"), lock, spread, told,
      element("p", { className: "error", "data-error": `dial-${t}`, hidden: true }));
  }));
}

function padlock() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  for (const d of ["M5 11h14v9H5z", "M8 11V8a4 4 0 0 1 8 0v3"]) {
    const path = document.createElementNS(svg.namespaceURI, "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

function moved(t, value) {
  if (state.locks[t]) return;
  if (!anchor || anchor.task !== t) { anchor = { task: t, ratios: [...state.dials] }; keepUndo(); }
  state.dials = move(state.dials, t, value, state.locks, anchor.ratios);
  changed();
}

function setDials(dials) {
  keepUndo();
  anchor = null;
  state.dials = dials;
  changed();
}

function keepUndo() {
  before.push([...state.dials]);
  if (before.length > 100) before.shift();
}

function showDials() {
  const shown = state.shown;
  const free = state.locks.filter((locked) => !locked).length;
  state.dials.forEach((dial, t) => {
    const range = $(`range-${t}`), box = $(`control-dial-${t}`), lock = $(`lock-${t}`);
    range.value = dial;
    range.setAttribute("aria-valuetext", `${percent(dial)} %`);
    range.disabled = box.disabled = state.locks[t] || (free === 1 && state.dials.length > 1);
    if (document.activeElement !== box) box.value = percent(dial);
    lock.setAttribute("aria-pressed", state.locks[t]);
    const spread = $(`spread-${t}`), told = $(`spread-told-${t}`);
    spread.hidden = told.hidden = !shown;
    if (!shown) return;
    const span = element("i"), at = element("b");
    span.style.left = `${shown.low[t] / 100}%`;
    span.style.width = `${(shown.high[t] - shown.low[t]) / 100}%`;
    at.style.left = `${shown.dials[t] / 100}%`;
    spread.replaceChildren(span, at);
    told.textContent = `${Math.round(shown.low[t] / 100)} to ${Math.round(shown.high[t] / 100)} %`;
  });
  $("undo").disabled = !before.length;
}

// Method and its parameters

function buildMethods() {
  $("method").replaceChildren(...about.methods.map((one) => element("option", { value: one.name, text: one.name })));
}

function showMethod() {
  const method = about.methods.find((one) => one.name === state.method);
  $("method").value = state.method;
  $("summary").textContent = `${method.summary[0].toUpperCase()}${method.summary.slice(1)}.`;
  $("idle").hidden = method.dials;
  $("idle").textContent = `${method.name} has no use for a preference: ${about.measurable ? "here the dials only say what the target is made of" : "with it the dials change nothing"}.`;
  const first = (one) => one.usual || method.parameters.length <= FEW;
  $("parameters").replaceChildren(...method.parameters.filter(first).map(parameter));
  $("more").replaceChildren(...method.parameters.filter((one) => !first(one)).map(parameter));
  $("more-part").hidden = !$("more").children.length;
  if (method.parameters.some((one) => !first(one) && state.values[one.name])) $("more-part").open = true;
}

function parameter(one) {
  const id = `control-${one.name}`, value = state.values[one.name] || "";
  const fields = element("span", { className: "fields" });
  const set = (text) => { state.values[one.name] = text; right(one.name); changed(); };
  if (one.kind === "choice") {
    const select = element("select", { id }, element("option", { value: "", text: "default" }),
      ...one.choices.map((choice) => element("option", { value: choice, text: choice })));
    select.value = value;
    select.addEventListener("change", () => set(select.value));
    fields.append(select);
  } else {
    const box = element("input", { id, autocomplete: "off", spellcheck: false, value });
    box.addEventListener("input", () => set(box.value));
    if (one.kind === "range") {
      const range = element("input", { type: "range", min: one.low, max: one.high, step: 10 ** -Math.min(one.digits, 2), "aria-label": `${one.name}, slider`, id: `slider-${one.name}` });
      range.addEventListener("input", () => { box.value = range.value; set(range.value); });
      box.addEventListener("input", () => { if (Number.isFinite(Number(box.value)) && box.value !== "") range.value = box.value; });
      fields.append(range);
    }
    fields.append(box);
  }
  return element("div", { className: "parameter" }, element("label", { htmlFor: id, text: one.name }), fields,
    element("p", { className: "help", text: one.help }),
    element("p", { className: "error", "data-error": one.name, hidden: true }));
}

function showUsed(used) {
  for (const [name, text] of Object.entries(used)) {
    const control = $(`control-${name}`), slider = $(`slider-${name}`);
    if (!control) continue;
    if (control.tagName === "SELECT") control.options[0].text = state.values[name] ? "default" : `default (${text})`;
    else control.placeholder = text;
    if (slider && !state.values[name]) slider.value = text;
  }
}

// What was changed is asked for

let timer = null;
function changed() {
  remember();
  showDials();
  showBars();
  document.body.classList.add("changed");
  clearTimeout(timer);
  timer = setTimeout(refresh, WAIT);
}

async function refresh() {
  right();
  const body = wanted();
  $("bars").classList.add("stale");
  const hand = byHand(body);
  try {
    if (about.measurable) {
      await job("/api/measure", body, (result) => {
        if (result.tasks) measured = result.tasks;
        if (result.beside) beside = result.beside;
        $("bars").classList.remove("stale");
        showBars();
      });
      idle(spoken());
    }
    if ($("layers-part").open) await showLayers(body);
  } catch (error) { failed(error); }
  await hand;
  drawFront();
  document.body.classList.remove("changed");
}

async function byHand(body) {
  try {
    const made = await (await ask("/api/byhand", { ...body, name: state.name })).json();
    $("command").textContent = made.command;
    $("recipe").textContent = made.recipe || "No recipe file can say this; the command does.";
    $("notes").replaceChildren(...made.notes.map((note) => element("li", { text: note })));
    showUsed(made.used);
  } catch (error) { failed(error); }
}

// Bars

const mixes = () => (state.target === "shown" && state.shown ? state.shown.dials : state.dials);

function weighed(tasks, units) {
  let sum = 0, variance = 0, whole = 0;
  tasks.forEach((task, t) => {
    if (task.accuracy === null || !units[t]) return;
    const p = (task.right + 1) / (task.n + 2);
    whole += units[t];
    sum += units[t] * task.accuracy;
    variance += units[t] ** 2 * p * (1 - p) / task.n;
  });
  if (!whole) return { value: null, low: null, high: null };
  const value = sum / whole, half = (1.959964 * Math.sqrt(variance)) / whole;
  return { value, low: Math.max(0, value - half), high: Math.min(1, value + half) };
}

const even = () => Array(about.tasks.length).fill(1);

function showBars() {
  if (!about.measurable || !measured) return;
  const models = [{ name: "this merge", tasks: measured }, ...beside];
  const target = state.target === "shown" ? state.shown.what : "as the dials say";
  const group = (title, note, of) => bars(title, note, models.map((model) => ({ name: model.name, ...of(model.tasks) })));
  $("bars").replaceChildren(
    group("At the target", target, (tasks) => weighed(tasks, mixes())),
    group("All tasks alike", "", (tasks) => weighed(tasks, even())),
    ...about.tasks.map((task, t) => group(task.name, `${measured[t].n} samples`, (tasks) => ({ value: tasks[t].accuracy, low: tasks[t].low, high: tasks[t].high }))),
  );
  $("measured-how").hidden = false;
  $("glance").hidden = false;
  $("glance").textContent = `At the target: ${models.map((model) => `${model.name} ${share(weighed(model.tasks, mixes()).value)}`).join(" · ")}`;
}

function spoken() {
  const here = weighed(measured, mixes()).value;
  return here === null ? "" : `At the target ${share(here)}, over all tasks ${share(weighed(measured, even()).value)}.`;
}

// The front

const axis = {
  target: { title: "at the target", of: (tasks) => weighed(tasks, mixes()).value },
  mean: { title: "all tasks alike", of: (tasks) => weighed(tasks, even()).value },
  rest: { title: "the other tasks", of: (tasks) => weighed(tasks, others()).value },
};

// The tasks that the axis across does not show.
function others() {
  const own = state.x.startsWith("task:") ? [Number(state.x.slice(5))] : mixes().flatMap((d, t) => (d >= 0.02 * UNITS ? [t] : []));
  const rest = about.tasks.map((_, t) => (own.includes(t) ? 0 : 1));
  return rest.some(Boolean) ? rest : even();
}

function axisOf(key) {
  if (!key.startsWith("task:")) return axis[key];
  const t = Number(key.slice(5));
  return { title: about.tasks[t].name, of: (tasks) => tasks[t].accuracy };
}

function buildAxes() {
  for (const [id, keys] of [["axis-x", ["target", "mean"]], ["axis-y", ["mean", "rest", "target"]]]) {
    const options = [...keys.map((key) => [key, axis[key].title]), ...about.tasks.map((task, t) => [`task:${t}`, task.name])];
    $(id).replaceChildren(...options.map(([value, text]) => element("option", { value, text })));
    const which = id.slice(-1);
    if (options.some(([value]) => value === state[which])) $(id).value = state[which];
    else state[which] = keys[0];
    $(id).addEventListener("change", () => { state[which] = $(id).value; remember(); drawFront(); });
  }
}

function drawFront() {
  if (!points.length) return;
  const x = axisOf(state.x), y = axisOf(state.y);
  const seen = points.map((point, i) => ({ i, x: x.of(point.tasks), y: y.of(point.tasks), point })).filter((one) => one.x !== null && one.y !== null);
  for (const one of seen) {
    const dials = one.point.dials.map((d, t) => `${about.tasks[t].name} ${percent(d)} %`).join(", ");
    one.label = `${x.title} ${share(one.x)}, ${y.title} ${share(one.y)}; ${one.point.method}, scale ${one.point.scale}; ${dials}`;
    one.here = same(one.point);
  }
  $("front").hidden = false;
  $("front").removeAttribute("hidden");
  scatter($("front"), seen, [x.title, y.title], (i) => take(seen[i]), (i) => { $("point").textContent = seen[i].label; });
}

const same = (point) => point.method === state.method && point.scale === ($("control-scale")?.value || $("control-scale")?.placeholder) && point.dials.every((d, t) => d === state.dials[t]);

function take(one) {
  state.method = one.point.method;
  state.values = { ...one.point.values, scale: one.point.scale };
  showMethod();
  $("point").textContent = `Set: ${one.label}`;
  setDials([...one.point.dials]);
}

async function sweep() {
  if (running.sweep) { running["/api/front"].abort(); return; }
  running.sweep = true;
  $("sweep").textContent = "Stop";
  const body = wanted();
  const old = points;
  points = [];
  try {
    await job("/api/front", body, (result) => {
      points.push(...result.points.map((point) => ({ ...point, method: body.method, values: body.values })));
      progress(result.done, result.total, "measuring the front");
      drawFront();
    });
    idle(`${points.length} merges measured.`);
  } catch (error) { if (error.name === "AbortError") idle("Stopped."); failed(error); }
  if (!points.length) points = old;
  keepFront();
  running.sweep = false;
  $("sweep").textContent = "Measure the front";
}

function keepFront() {
  try { sessionStorage.setItem(`front ${about.path}`, JSON.stringify(points)); } catch { /* too large: it is measured again */ }
}

// Layers

async function showLayers(body) {
  await job("/api/layers", body, (result) => {
    rows = [result.total, ...result.layers];
    $("layers").replaceChildren(...rows.map((row) => layer(row, about.tasks)));
  });
  idle(about.measurable ? spoken() : `${share(rows[0].kept ?? null)} of the magnitude is kept.`);
}

// What is seen at the target

function encoded(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve({ name: file.name, base64: reader.result.slice(reader.result.indexOf(",") + 1) });
    reader.onerror = () => reject(Object.assign(new Error(`${file.name} cannot be read.`), { field: "" }));
    reader.readAsDataURL(file);
  });
}

async function give(kind, files) {
  right(kind);
  const size = [...files].reduce((sum, file) => sum + file.size, 0), most = about.limits[kind];
  if (size > most) { wrong(kind, `${(size / 2 ** 20).toFixed(1)} MiB is more than the studio takes at once, ${most / 2 ** 20} MiB. Give fewer.`); return; }
  try {
    const body = { files: await Promise.all([...files].map(encoded)) };
    const show = (result) => {
      state.shown = { ...result, what: `from ${result.samples} ${kind}` };
      state.target = "shown";
      showShown();
      setDials([...result.dials]);
    };
    if (kind === "labels") show(await (await ask("/api/labels", body)).json());
    else { await job("/api/inputs", body, show); idle(); }
  } catch (error) { failed(error, kind); }
}

function showShown() {
  const shown = state.shown;
  $("target-row").hidden = !shown;
  if (!shown) { $("shown").replaceChildren(); return; }
  const notes = shown.notes.map((note) => element("p", { className: "note", text: note }));
  const doubt = shown.tells ? [] : [element("p", { className: "note", text: "These do not tell which tasks the target is made of. More of them would." })];
  $("shown").replaceChildren(element("p", { text: `The dials stand as ${shown.samples} ${shown.what.split(" ").pop()} say. The marks below them are ${Math.round(100 * shown.level)} % intervals.` }), ...doubt, ...notes);
  $("target").replaceChildren(element("option", { value: "shown", text: shown.what }), element("option", { value: "dials", text: "what the dials say" }));
  $("target").value = state.target;
}

function droppable(id, kind) {
  const place = $(id);
  place.addEventListener("dragover", (event) => { event.preventDefault(); place.classList.add("over"); });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    place.classList.remove("over");
    if (event.dataTransfer.files.length) give(kind, event.dataTransfer.files);
    else if (kind === "labels") $("labels-text").value = event.dataTransfer.getData("text");
  });
}

// Writing

async function write(event) {
  event.preventDefault();
  right("name");
  $("written").textContent = "";
  const button = $("write").querySelector("button");
  button.disabled = true;
  try {
    await job("/api/write", { ...wanted(), name: $("name").value }, (result) => {
      $("written").textContent = `Written: ${result.written}, with its receipt.`;
    });
    idle();
  } catch (error) {
    failed(error, "name");
    if (error.field && error.field !== "name") wrong("name", error.message); // it stands at its control too, far up
  }
  button.disabled = false;
}

function copies(button, from) {
  $(button).addEventListener("click", async () => {
    try { await navigator.clipboard.writeText($(from).textContent); $(button).textContent = "Copied"; }
    catch { getSelection().selectAllChildren($(from)); $(button).textContent = "Selected: press Ctrl-C"; }
    setTimeout(() => { $(button).textContent = "Copy"; }, 2500);
  });
}

function save() {
  const link = element("a", { href: URL.createObjectURL(new Blob([$("recipe").textContent])), download: `${state.name || "NAME"}.yaml` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// The beginning

function listen() {
  const count = about.tasks.length;
  $("uniform").addEventListener("click", () => setDials(apportion(even(), UNITS)));
  $("late").addEventListener("click", () => setDials(geometric(0.5, count)));
  $("early").addEventListener("click", () => setDials(geometric(2, count)));
  $("undo").addEventListener("click", () => { state.dials = before.pop() || state.dials; anchor = null; changed(); });
  $("method").addEventListener("change", () => { state.method = $("method").value; right(); showMethod(); changed(); });
  $("target").addEventListener("change", () => { state.target = $("target").value; remember(); showBars(); drawFront(); });
  $("labels-set").addEventListener("click", () => {
    if ($("labels-text").value.trim()) give("labels", [new File([$("labels-text").value], "labels.txt")]);
    else wrong("labels", "There is no label yet: write one a line.");
  });
  for (const kind of ["labels", "inputs"]) {
    $(`${kind}-file`).addEventListener("change", () => { if ($(`${kind}-file`).files.length) give(kind, $(`${kind}-file`).files); $(`${kind}-file`).value = ""; });
    droppable(`${kind}-drop`, kind);
  }
  $("sweep").addEventListener("click", sweep);
  $("layers-part").addEventListener("toggle", () => { if ($("layers-part").open) showLayers(wanted()).catch(failed); });
  $("write").addEventListener("submit", write);
  $("name").addEventListener("input", () => { state.name = $("name").value; right("name"); remember(); byHand(wanted()); });
  $("save-recipe").addEventListener("click", save);
  copies("copy-command", "command");
  copies("copy-recipe", "recipe");
  addEventListener("hashchange", () => { state = recalled(); showAll(); refresh(); });
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault()); // not to open the file
}

function showAll() {
  $("name").value = state.name;
  showMethod();
  showShown();
  showDials();
}

async function begin() {
  try { about = await (await ask("/api/start", undefined, "GET")).json(); } catch (error) { failed(error); return; }
  state = recalled();
  document.title = `${about.path} · prefmerge studio`;
  $("what").textContent = `${about.run ? "Run" : "Recipe"} ${about.path}, ${about.tasks.length} tasks`;
  $("out-dir").textContent = about.out_dir === "." ? "the folder where the studio was started" : about.out_dir;
  $("accuracy-part").hidden = $("front-part").hidden = !about.measurable;
  $("target-part").hidden = !about.run;
  $("inputs-drop").hidden = !about.inputs;
  $("inputs-told").textContent = about.kind === "text" ? "Or texts without labels: drop a .txt (one a line) or a .csv here" : "Or images without labels: drop them here";
  $("legend").replaceChildren(...about.tasks.map((task, t) => {
    const dot = element("span", { className: "dot-of", "aria-hidden": "true" });
    dot.style.background = colour(t, about.tasks.length);
    return element("li", {}, dot, task.name);
  }));
  buildDials();
  buildMethods();
  buildAxes();
  listen();
  showAll();
  remember();
  if (!about.measurable) {
    explain(about.run ? "This run kept no held-out samples, so no accuracy is measured: it shows who owns what." : "A recipe has no samples, so no accuracy is measured: it shows who owns what.");
    $("layers-part").open = true;
  }
  try { points = JSON.parse(sessionStorage.getItem(`front ${about.path}`)) || []; } catch { points = []; }
  await refresh();
  alive();
}

// Why something is not shown.
function explain(text) {
  $("what").textContent += `. ${text}`;
}

begin();
