// What is drawn: bars of accuracies, layers, and the scatter of the front. Texts are set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") made.textContent = value;
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function shape(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

export const share = (value) => (value === null ? "no sample" : `${(100 * value).toFixed(1)} %`);

export function colour(task, count) {
  return count <= 8 ? `var(--task-${task})` : `hsl(${Math.round((360 * task) / count)} 55% 50%)`;
}

// One group of bars: [{name, value, low, high}], the first of them ours.
export function bars(title, note, rows) {
  const list = element("ul");
  rows.forEach((row, i) => {
    const track = element("div", { className: "track", "aria-hidden": "true" });
    if (row.value !== null) {
      const fill = element("div", { className: "fill" });
      fill.style.width = `${100 * row.value}%`;
      const span = element("div", { className: "span" });
      span.style.left = `${100 * row.low}%`;
      span.style.width = `${100 * Math.max(row.high - row.low, 0)}%`;
      track.append(fill, span);
    }
    const interval = row.value === null ? "" : ` [${(100 * row.low).toFixed(0)}, ${(100 * row.high).toFixed(0)}]`;
    list.append(
      element("li", { className: i === 0 ? "ours" : "" },
        element("span", { className: "who", text: row.name }), track,
        element("span", { className: "value", text: share(row.value) }),
        element("span", { className: "interval", text: interval })),
    );
  });
  const heading = element("h3", { text: title });
  if (note) heading.append(element("span", { className: "soft", text: ` ${note}` }));
  return element("section", { className: "group" }, heading, list);
}

// Owners and kept magnitude of one layer.
export function layer(row, tasks) {
  const line = element("tr", { className: row.name === "all" ? "ours" : "" });
  line.append(element("th", { scope: "row", text: row.name }));
  const kept = element("td");
  if (row.kept !== null) {
    const track = element("div", { className: "track", "aria-hidden": "true" });
    const fill = element("div", { className: "fill" });
    fill.style.width = `${Math.min(100, 100 * row.kept)}%`;
    track.append(fill);
    kept.append(track, element("span", { className: "value", text: share(row.kept) }));
  } else kept.textContent = "unchanged";
  const owned = element("td");
  const total = (row.owned || []).reduce((a, b) => a + b, 0);
  if (total) {
    const stack = element("div", { className: "stack", "aria-hidden": "true" });
    row.owned.forEach((n, t) => {
      const part = element("div", { title: `${tasks[t].name}: ${n.toLocaleString("en")}` });
      part.style.width = `${(100 * n) / total}%`;
      part.style.background = colour(t, tasks.length);
      stack.append(part);
    });
    const words = row.owned.map((n, t) => `${tasks[t].name} ${((100 * n) / total).toFixed(1)} %`).join(", ");
    owned.append(stack, element("span", { className: "unseen", text: words }));
  } else owned.textContent = "no owners";
  line.append(kept, owned, element("td", { className: "n", text: row.elements.toLocaleString("en") }));
  return line;
}

const BOX = { width: 640, height: 400, left: 56, right: 16, top: 16, bottom: 48 };

function ticks(low, high) {
  const step = [0.01, 0.02, 0.05, 0.1, 0.2].find((one) => (high - low) / one <= 6) || 0.25;
  const all = [];
  for (let at = Math.ceil(low / step) * step; at <= high + 1e-9; at += step) all.push(at);
  return all;
}

// Which points no other beats on both axes.
export function best(points) {
  return points.map((a) => !points.some((b) => b.x >= a.x && b.y >= a.y && (b.x > a.x || b.y > a.y)));
}

// The scatter. points: [{x, y, label, here}], chosen(i) is called for a click or Enter, told(i) for what has the focus.
export function scatter(svg, points, axes, chosen, told) {
  const focused = svg.contains(document.activeElement) ? document.activeElement.dataset.at : null;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${BOX.width} ${BOX.height}`);
  if (!points.length) return;
  const range = (values) => {
    const low = Math.min(...values), high = Math.max(...values), pad = Math.max((high - low) * 0.08, 0.01);
    return [Math.max(0, low - pad), Math.min(1, high + pad)];
  };
  const [x0, x1] = range(points.map((p) => p.x)), [y0, y1] = range(points.map((p) => p.y));
  const X = (v) => BOX.left + ((v - x0) / (x1 - x0)) * (BOX.width - BOX.left - BOX.right);
  const Y = (v) => BOX.height - BOX.bottom - ((v - y0) / (y1 - y0)) * (BOX.height - BOX.top - BOX.bottom);
  for (const at of ticks(x0, x1)) {
    svg.append(shape("line", { class: "grid", x1: X(at), x2: X(at), y1: BOX.top, y2: BOX.height - BOX.bottom }));
    svg.append(shape("text", { class: "tick", x: X(at), y: BOX.height - BOX.bottom + 18, "text-anchor": "middle" }, `${Math.round(100 * at)}`));
  }
  for (const at of ticks(y0, y1)) {
    svg.append(shape("line", { class: "grid", x1: BOX.left, x2: BOX.width - BOX.right, y1: Y(at), y2: Y(at) }));
    svg.append(shape("text", { class: "tick", x: BOX.left - 8, y: Y(at) + 4, "text-anchor": "end" }, `${Math.round(100 * at)}`));
  }
  const middle = (BOX.height - BOX.bottom + BOX.top) / 2;
  svg.append(shape("text", { class: "axis", x: (BOX.left + BOX.width - BOX.right) / 2, y: BOX.height - 8, "text-anchor": "middle" }, `${axes[0]}, %`));
  svg.append(shape("text", { class: "axis", transform: `translate(14 ${middle}) rotate(-90)`, "text-anchor": "middle" }, `${axes[1]}, %`));
  const beaten = best(points);
  const edge = points.filter((_, i) => beaten[i]).sort((a, b) => a.x - b.x);
  svg.append(shape("polyline", { class: "edge", points: edge.map((p) => `${X(p.x)},${Y(p.y)}`).join(" ") }));
  const order = points.map((_, i) => i).sort((a, b) => points[a].x - points[b].x || points[a].y - points[b].y);
  const dots = order.map((i, rank) => {
    const point = points[i];
    const dot = shape("circle", {
      class: `dot${beaten[i] ? " front" : ""}${point.here ? " here" : ""}`,
      cx: X(point.x), cy: Y(point.y), r: beaten[i] ? 7 : 5, role: "button", "data-at": i,
      tabindex: rank === 0 ? 0 : -1, "aria-label": point.label,
    });
    dot.append(shape("title", {}, point.label));
    dot.addEventListener("click", () => chosen(i));
    dot.addEventListener("focus", () => told(i));
    dot.addEventListener("keydown", (event) => {
      const to = { ArrowRight: rank + 1, ArrowUp: rank + 1, ArrowLeft: rank - 1, ArrowDown: rank - 1, Home: 0, End: order.length - 1 }[event.key];
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); chosen(i); }
      else if (to !== undefined && dots[to]) {
        event.preventDefault();
        dot.setAttribute("tabindex", -1);
        dots[to].setAttribute("tabindex", 0);
        dots[to].focus();
      }
    });
    return dot;
  });
  svg.append(...dots);
  if (focused !== null) {
    const again = dots.find((dot) => dot.dataset.at === focused);
    if (again) { dots[0].setAttribute("tabindex", -1); again.setAttribute("tabindex", 0); again.focus(); }
  }
}
