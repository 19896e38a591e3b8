// --- elements
const byId = name => document.getElementById(name);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const part = (svg, tag, attributes, text) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  svg.append(element);
  return element;
};

// --- numbers
const percent = (share, digits = 1) => share == null ? "" : `${(100 * share).toFixed(digits)}\u00a0%`;
const short = value => {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(0).replace("e+", "e");
  return String(Number(value.toPrecision(3)));
};
const counted = number => number.toLocaleString("en");
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted, base = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(times => times * base).find(size => size >= rough * .999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step);
  return found;
}
function logTicks(low, high) {
  const found = [];
  for (let n = Math.ceil(Math.log10(low) - 1e-9); 10 ** n <= high * 1.000001; n++) found.push(10 ** n);
  const every = Math.ceil(found.length / 6);
  return found.length > 1 ? found.filter((_, n) => n % every === 0) : [low, high];
}

// --- plots: lines, dots and bars between two axes; what is nearest to the pointer is said
const BOX = { left: 48, right: 408, top: 24, bottom: 208 };
const COLOURS = ["var(--ink)", "var(--mark)", "var(--third)", "#8e6bbf", "#b8436b", "#7a8794", "#a08a2c", "#3aa0a0"];
const hue = number => `hsl(${(number * 137.508) % 360} 60% 50%)`;
function scaleOf(axis, values, from, to) {
  const known = values.filter(Number.isFinite).filter(value => !axis.log || value > 0);
  const sorted = [...known].sort((one, other) => one - other), last = sorted.length - 1, cut = axis.cut ?? 0;
  let low = axis.low ?? sorted[Math.floor(cut * last)], high = axis.high ?? sorted[Math.ceil((1 - cut) * last)];
  if (!known.length && axis.low === undefined) [low, high] = axis.log ? [1, 10] : [0, 1];
  if (low === high) [low, high] = axis.log ? [low / 2, high * 2] : [low - .5, high + .5];
  const at = axis.log ? Math.log : value => value, base = at(low), span = at(high) - base;
  const within = value => axis.cut || axis.log ? Math.min(Math.max(value, low), high) : value;  // what is cut lies at the edge
  const place = value => from + (to - from) * (at(within(value)) - base) / span;
  return { place, marks: axis.log ? logTicks(low, high) : ticks(low, high, axis.wanted ?? 4) };
}
function plot(svg, { x = {}, y = {}, series, label }) {
  svg.replaceChildren();
  svg.setAttribute("viewBox", "0 0 420 250");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  const points = series.flatMap(one => one.points);
  const across = scaleOf(x, points.map(point => point[0]), BOX.left, BOX.right);
  const up = scaleOf(y, points.map(point => point[1]), BOX.bottom, BOX.top);
  drawAxes(svg, x, y, across, up);
  const near = [];
  for (const [n, one] of series.entries()) {
    const colour = one.colour ?? COLOURS[n % COLOURS.length];
    const known = one.points.filter(point => Number.isFinite(point[1]));
    const places = known.map(point => [across.place(point[0]), up.place(point[1])]);
    (DRAW[one.kind] ?? DRAW.line)(svg, places, { ...one, colour });
    places.forEach((place, i) => near.push({ place, text: known[i][2] ??
      `${one.name ? one.name + ": " : ""}${(x.show ?? short)(known[i][0])}, ${(y.show ?? short)(known[i][1])}` }));
  }
  drawNames(svg, series);
  sayNearest(svg, near, label);
}
const DRAW = {
  line: (svg, places, { colour, dashed }) => part(svg, "polyline", { points: places.map(place => place.join()).join(" "),
    fill: "none", stroke: colour, "stroke-width": 1.8, "stroke-dasharray": dashed ? "5 4" : "none" }),
  dots: (svg, places, { colour, radius, radii }) => places.forEach((place, i) => part(svg, "circle",
    { cx: place[0], cy: place[1], r: radii?.[i] ?? radius ?? 3, fill: colour, "fill-opacity": .65 })),
  bars: (svg, places, { colour, wide }) => places.forEach(place => part(svg, "rect",
    { x: place[0] - wide / 2, y: Math.min(place[1], BOX.bottom - .5), width: wide, height: Math.max(.5, BOX.bottom - place[1]), fill: colour })),
};
function drawAxes(svg, x, y, across, up) {
  for (const mark of up.marks) {
    part(svg, "line", { class: "grid", x1: BOX.left, x2: BOX.right, y1: up.place(mark), y2: up.place(mark) });
    if (!y.bare) part(svg, "text", { x: BOX.left - 6, y: up.place(mark) + 4, "text-anchor": "end" }, (y.show ?? short)(mark));
  }
  for (const mark of across.marks) {
    if (!x.bare) part(svg, "text", { x: across.place(mark), y: BOX.bottom + 17, "text-anchor": "middle" }, (x.show ?? short)(mark));
  }
  part(svg, "path", { class: "axis", d: `M${BOX.left} ${BOX.top}V${BOX.bottom}H${BOX.right}` });
  part(svg, "text", { x: BOX.right, y: BOX.bottom + 36, "text-anchor": "end" }, x.title ?? "");
  part(svg, "text", { x: BOX.left - 42, y: BOX.top - 12 }, y.title ?? "");
}
function drawNames(svg, series) {  // below the plot, where they have room
  const names = series.map((one, n) => one.name && make("span", { textContent: one.name,
    style: `color: ${one.colour ?? COLOURS[n % COLOURS.length]}` })).filter(Boolean);
  svg.parentNode.querySelector(".names")?.remove();
  if (names.length) svg.after(make("div", { className: "names" }, ...names));
}
function sayNearest(svg, near, label) {  // to the pointer; or, by arrow keys, one after the other
  const dot = part(svg, "circle", { class: "near", r: 3.5, visibility: "hidden" });
  const text = part(svg, "text", { "text-anchor": "middle", visibility: "hidden", style: "paint-order: stroke; stroke: var(--paper); stroke-width: 4px" });
  const show = found => {
    dot.setAttribute("cx", found.place[0]); dot.setAttribute("cy", found.place[1]);
    text.setAttribute("x", Math.min(Math.max(found.place[0], 110), 310)); text.setAttribute("y", found.place[1] < 40 ? found.place[1] + 20 : found.place[1] - 9);
    text.textContent = found.text;
    for (const element of [dot, text]) element.setAttribute("visibility", "visible");
  };
  const hide = () => [dot, text].forEach(element => element.setAttribute("visibility", "hidden"));
  let at = -1;
  svg.setAttribute("tabindex", near.length ? 0 : -1);
  svg.onkeydown = event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !near.length) return;
    event.preventDefault();
    at = Math.min(Math.max(at + step, 0), near.length - 1);
    show(near[at]);
    svg.setAttribute("aria-label", `${label}: ${near[at].text}`);
    live.textContent = near[at].text;
  };
  svg.onblur = hide;
  svg.onpointermove = event => {
    if (!near.length) return;
    const box = svg.getBoundingClientRect(), times = 420 / box.width;
    const here = [(event.clientX - box.left) * times, (event.clientY - box.top) * times];
    const far = ({ place }) => (place[0] - here[0]) ** 2 + (place[1] - here[1]) ** 2;
    show(near.reduce((best, one) => far(one) < far(best) ? one : best));
  };
  svg.onpointerleave = hide;
}
const live = make("div", { className: "unseen", role: "status" });  // read aloud
addEventListener("DOMContentLoaded", () => document.body.append(live));

// --- tables that are sorted by their heads: columns of { title, value, cell, text, bars }
function sortable(table, columns, rows, order) {
  let [by, falls] = order;
  const draw = () => {
    const value = columns[by].value, sign = falls ? -1 : 1;
    const empty = row => value(row) === null || value(row) === undefined;
    const sorted = [...rows()].sort((one, other) => empty(one) - empty(other) || (empty(one) ? 0 :
      sign * (typeof value(one) === "string" ? value(one).localeCompare(value(other)) : value(one) - value(other))));
    table.replaceChildren(make("thead", {}, make("tr", {}, ...columns.map(head))), make("tbody", {}, ...sorted.map(line)));
  };
  const head = (column, n) => {
    const button = make("button", { type: "button", textContent: column.title + (n === by ? falls ? " ↓" : " ↑" : "") });
    const cell = make("th", { scope: "col", className: kind(column) }, button);
    if (n === by) cell.setAttribute("aria-sort", falls ? "descending" : "ascending");
    button.onclick = () => {
      falls = n === by ? !falls : !column.text;
      by = n;
      draw();
      table.querySelectorAll("th button")[n].focus();
    };
    return cell;
  };
  const kind = column => [column.text && "text", column.bars && "bars", column.wrap && "wrap"].filter(Boolean).join(" ");
  const line = row => {
    const element = make("tr", {}, ...columns.map(column => {
      const cell = (column.cell ?? column.value)(row);
      return make("td", { className: kind(column) }, cell ?? "");
    }));
    if (row.isOn?.()) element.className = "on";
    return element;
  };
  draw();
  return draw;
}

// --- sound and tokens
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const heat = level => {  // black, violet, orange, white
  const x = level / 255;
  return [255 * Math.min(1, 1.9 * x), 255 * Math.max(0, 1.6 * x - .6), 255 * (x < .5 ? 1.2 * x : Math.max(0, 3 * x - 2) + .6 * (1 - x))];
};
function paint(canvas, width, height, colourOf) {
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let x = 0; x < width; x++) for (let y = 0; y < height; y++)
    image.data.set([...colourOf(x, height - 1 - y), 255], 4 * (y * width + x));
  context.putImageData(image, 0, 0);
}
const tokenColour = token => {  // neighbouring numbers must not look alike
  const turn = (token * .618034) % 1 * 6, level = n => 255 * (.25 + .65 * Math.max(0, Math.min(1, Math.abs((turn + n) % 6 - 3) - 1)));
  return [level(0), level(4), level(2)];
};
function drawClip(clip, nameOf) {
  const figure = make("figure");
  if (clip.grid) {
    const canvas = make("canvas", { className: "sound", ariaLabel: `spectrogram of ${clip.id}`, role: "img" }), cells = bytes(clip.grid);
    paint(canvas, clip.frames, clip.bands, (x, y) => heat(cells[x * clip.bands + y]));
    const [low, high] = clip.bounds.map(textContent => make("span", { textContent }));
    figure.append(make("div", { className: "heard" }, canvas, high, low));
  }
  for (const tokens of clip.tokens) {
    const canvas = make("canvas", { className: "tokens", title: `${new Set(tokens).size} different tokens in ${tokens.length}` });
    paint(canvas, tokens.length, 1, x => tokenColour(tokens[x]));
    figure.append(canvas);
  }
  figure.append(make("div", { className: "ruler" }, ...ticks(0, clip.seconds, 5).map(second => {
    const share = `${100 * second / clip.seconds}%`;  // of the strip, and of the mark: none sticks out
    return make("span", { textContent: `${short(second)} s`, style: `left: ${share}; transform: translateX(-${share})` });
  })));
  if (clip.audio) {
    const player = make("audio", { controls: true, preload: "metadata", src: clip.audio });
    player.setAttribute("aria-label", clip.id);
    figure.append(player);
  }
  const truth = new Set(clip.labels), said = clip.said.map(([c, share]) =>
    make("span", { className: truth.has(c) ? "tag right" : "tag", textContent: `${truth.has(c) ? "✓ " : ""}${nameOf(c)} ${percent(share, 0)}` }));
  const missed = clip.labels.filter(c => !clip.said.some(([other]) => other === c)).map(nameOf);
  figure.append(make("figcaption", {}, make("strong", { textContent: clip.id }), `, ${clip.seconds} s: ${clip.labels.map(nameOf).join(", ") || "no label"}`,
    make("div", {}, ...said), missed.length ? `not among these: ${missed.join(", ")}` : ""));
  return figure;
}
