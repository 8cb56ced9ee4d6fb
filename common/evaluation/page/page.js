"use strict";
// Draws the data of the page. Every text becomes a text node: nothing is ever parsed as HTML.
const [main, player, source] = ["main", "player", "data"].map((id) => document.getElementById(id));
const data = JSON.parse(source.textContent);
const GT = "#aaff28", BOX = "#00e1ff", REGION = "#ffffff", SCALE = 2; // of the canvas to the maps
let playing = null; // the card whose clip is in the player

function el(name, { aria = {}, ...options } = {}, ...children) {
  const node = Object.assign(document.createElement(name), options);
  for (const key in aria) node.setAttribute(key === "role" ? key : `aria-${key}`, aria[key]);
  node.append(...children.filter((child) => child !== null));
  return node;
}

function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  node.append(...children);
  return node;
}

// Tables and curves -------------------------------------------------------------------------------
function table({ title, columns, rows }, k) {
  const head = el("tr", {}, el("th"), ...columns.map((c) => el("th", { scope: "col" }, c)));
  const body = rows.map(([name, ...cells]) =>
    el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((cell) => el("td", {}, cell))));
  const wide = { className: "wide", tabIndex: 0, aria: { role: "region", label: title } };
  return el("details", { open: k === 0 }, el("summary", {}, title), el("div", wide,
    el("table", {}, el("thead", {}, head), el("tbody", {}, ...body))));
}

const short = (x) => Number(x.toPrecision(4)).toString();
function plot(lines, text, range) { // lines: [[[x, y]]]; range: of y, by default that of the lines
  const [W, H, L, B] = [300, 150, 44, 18], xs = lines.flat().map(([x]) => x);
  const ys = lines.flat().map(([, y]) => y), [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  const [low, high] = range || [Math.min(...ys), Math.max(...ys)];
  const px = (x) => L + (W - L - 6) * (x1 > x0 ? (x - x0) / (x1 - x0) : 0.5);
  const py = (y) => 8 + (H - B - 12) * (high > low ? (high - y) / (high - low) : 0.5);
  const label = (x, y, value, end) => svg("text", { x, y, "text-anchor": end }, short(value));
  const draw = (points, k) => svg("polyline", { class: k ? "second" : "first",
    points: points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ") });
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": text },
    label(L - 4, 14, high, "end"), label(L - 4, H - B, low, "end"), label(L, H - 4, x0, "start"),
    label(W - 6, H - 4, x1, "end"), ...lines.map(draw));
  return Object.assign(picture, { px });
}

function logCurve([name, points]) {
  const [step, value] = points.at(-1), text = `${name}: ${short(value)} at step ${step}`;
  return el("figure", {}, plot([points], text), el("figcaption", {}, text));
}

// Heatmaps ----------------------------------------------------------------------------------------
// Base64 of float32 → a map (size, size) from 0 to 1, resized as torch's bilinear interpolation
function enlarge({ h, w, data: text }, size, align) {
  const x = new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const nodes = (length) => Array.from({ length: size }, (_, i) => {
    const at = align ? i * (length - 1) / (size - 1) : Math.max(0, (i + 0.5) * length / size - 0.5);
    const first = Math.min(Math.floor(at), length - 1);
    return [first, Math.min(first + 1, length - 1), at - first];
  });
  const out = new Float64Array(size * size), columns = nodes(w);
  nodes(h).forEach(([a, b, v], i) => columns.forEach(([c, d, u], j) => {
    const top = x[a * w + c] * (1 - u) + x[a * w + d] * u;
    out[i * size + j] = top * (1 - v) + (x[b * w + c] * (1 - u) + x[b * w + d] * u) * v;
  }));
  const low = out.reduce((p, q) => Math.min(p, q)), high = out.reduce((p, q) => Math.max(p, q));
  return out.map((y) => (high > low ? (y - low) / (high - low) : 0));
}

function expand(runs, size) { // value, length, value, length, … → a map
  const out = new Float64Array(size * size);
  for (let i = 0, at = 0; i < runs.length; i += 2) out.fill(runs[i], at, at += runs[i + 1]);
  return out;
}

function boxMask(boxes, size) { // as common.metrics.boxes_to_map: edges are truncated
  const out = new Uint8Array(size * size);
  for (const box of boxes) {
    const [x0, y0, x1, y1] = box.slice(0, 4).map((v) => Math.floor(v * size));
    for (let y = y0; y < y1; y++) out.fill(1, y * size + x0, y * size + x1);
  }
  return out;
}

function ciou(mask, gt) { // Σ mask · gt / (Σ gt + Σ mask · [gt = 0])
  let hits = 0, area = 0;
  for (let i = 0; i < gt.length; i++) { hits += mask[i] * gt[i]; area += gt[i] || mask[i]; }
  return hits / area;
}

function stroke(context, path, colour, width) { // with a dark rim, so that it shows on any image
  for (const [strokeStyle, line] of [["#000", width + 2], [colour, width]])
    Object.assign(context, { strokeStyle, lineWidth: line * context.canvas.width / 448 })
      .stroke(path);
}

function outline(mask, size) {
  const path = new Path2D();
  for (let y = 0; y < size; y++) for (let x = 0; x < size; x++) {
    const inside = mask[y * size + x] > 0, s = SCALE * (x + 1), t = SCALE * (y + 1);
    const right = x + 1 < size && inside !== mask[y * size + x + 1] > 0;
    const below = y + 1 < size && inside !== mask[(y + 1) * size + x] > 0;
    path.moveTo(s, right ? t - SCALE : t);
    if (right) path.lineTo(s, t);
    if (below) path.lineTo(s - SCALE, t);
  }
  return path;
}

function drawHeat(context, map, size, opacity) {
  const heat = new ImageData(size, size), layer = el("canvas", { width: size, height: size });
  map.forEach((h, i) => {
    const colour = data.colours[Math.round(255 * h)];
    for (let k = 0; k < 3; k++) heat.data[4 * i + k] = colour[k];
    heat.data[4 * i + 3] = 255 * opacity * h * h; // nothing where the heatmap is 0
  });
  layer.getContext("2d").putImageData(heat, 0, 0);
  context.drawImage(layer, 0, 0, size * SCALE, size * SCALE);
}

function drawBox(context, [x0, y0, x1, y1, score], side) {
  const path = new Path2D(), at = [x0 * side + 6, y0 * side + 24];
  path.rect(x0 * side, y0 * side, (x1 - x0) * side, (y1 - y0) * side);
  stroke(context, path, BOX, 2);
  Object.assign(context, { font: "bold 22px sans-serif", fillStyle: BOX, strokeStyle: "#000" });
  for (const write of ["strokeText", "fillText"]) context[write](score?.toFixed(2) ?? "", ...at);
}

// A card: a sample with its clips -----------------------------------------------------------------
function card(sample, gallery, audio, moved = () => {}) {
  const { size } = gallery, T = sample.frames.length, cache = new Map();
  const state = { clip: 0, opacity: 0.85, tau: 0.5, rule: "first",
    frame: Math.max(0, sample.labels.findIndex(Boolean)) }; // the first that is annotated
  const image = el("img", { alt: `image: ${sample.name}` });
  const canvas = el("canvas", { width: size * SCALE, height: size * SCALE, aria: { role: "img" } });
  const text = el("output", { className: "score" }), more = el("span", { className: "dim" });
  const marks = el("div", { className: "marks" });
  const slider = (name, max, step, change) => {
    const input = el("input", { type: "range", min: 0, max, step, className: name });
    input.addEventListener("input", () => { change(Number(input.value)); draw(); });
    return [el("label", { className: "slider" }, name, input), input];
  };
  const [opacity, opacityInput] = slider("opacity", 1, 0.01, (x) => { state.opacity = x; });
  const [tau, tauInput] = slider("threshold", 1, 0.005, (x) => { state.tau = x; state.rule = ""; });
  const [time, timeInput] = slider("time", T - 1, 1, (x) => { state.frame = x; seek(); });
  const cells = (sample.labels.length ? sample : sample.clips[0]).labels.map((name, k) => el("span",
    { title: name || "not annotated", className: /^(background|)$/.test(name) ? name : "on",
      onclick: () => { state.frame = k; seek(); draw(); } }));
  const button = (options, ...text) => el("button", { type: "button", ...options }, ...text);
  const buttons = sample.clips.map((_, k) => button({ onclick: () => press(k) }));
  const once = (key, make) => cache.get(key) || cache.set(key, make()).get(key);

  function press(k) { // shows a clip and plays it; a second time stops it
    const isPlaying = playing === self && state.clip === k && !player.paused, last = playing;
    [state.clip, playing] = [k, self];
    player.pause();
    if (last) last.mark();
    if (!isPlaying && sample.clips[k].audio >= 0) {
      player.src = `data:audio/ogg;base64,${audio[sample.clips[k].audio]}`;
      if (state.frame === T - 1) state.frame = 0;
      player.onerror = (e) => { more.textContent = `cannot play: ${e.message ?? "no Ogg here"}`; };
      player.onloadedmetadata = () => { seek(); player.play().catch(player.onerror); };
    }
    draw();
  }
  function seek() {
    if (playing === self && player.duration) player.currentTime = player.duration * state.frame / T;
  }
  function follow() { // the frame that belongs to the moment of the sound track
    const frame = Math.min(T - 1, Math.floor(T * player.currentTime / player.duration + 1e-3));
    if (frame >= 0 && frame !== state.frame && !player.paused) { state.frame = frame; draw(); }
    if (!player.paused && playing === self) requestAnimationFrame(follow);
  }
  function mark() {
    buttons.forEach((node, k) => {
      const { name, audio: sound } = sample.clips[k], isShown = k === state.clip;
      const isPlaying = isShown && playing === self && !player.paused;
      node.textContent = `${sound < 0 ? "" : isPlaying ? "⏸ " : "▶ "}${name}`;
      node.setAttribute("aria-pressed", isShown);
    });
  }
  function placeMarks({ maps, marks: rules }) {
    const all = Object.entries(rules).map(([name, taus]) => [name, taus[state.frame]]);
    if (state.rule === "first" && all.length) [[state.rule]] = all;
    for (const [name, value] of all) if (name === state.rule) state.tau = value;
    [tauInput.value, opacityInput.value, timeInput.value] = [state.tau, state.opacity, state.frame];
    timeInput.ariaValueText = `${sample.times[state.frame]} s`;
    marks.replaceChildren(...all.map(([name, value], k) => {
      const mark = button({ className: k ? "low" : "", aria: { pressed: name === state.rule },
        onclick: () => { state.rule = name; draw(); } }, name), at = 100 * value;
      Object.assign(mark.style, { left: `${at}%`, transform: `translateX(-${at}%)` });
      return mark;
    }));
    tau.hidden = marks.hidden = opacity.hidden = !maps.length;
  }
  function draw() {
    const clip = sample.clips[state.clip], t = state.frame, key = `${state.clip} ${t}`;
    const context = canvas.getContext("2d"), boxes = clip.boxes[t] || [];
    placeMarks(clip);
    image.src = sample.frames[t];
    context.clearRect(0, 0, canvas.width, canvas.height);
    let mask = boxMask(boxes, size), where = "of the box";
    if (clip.maps.length) {
      const map = once(`map ${key}`, () => enlarge(clip.maps[t], size, gallery.align));
      mask = map.map((x) => (x > state.tau ? 1 : 0));
      where = `at threshold ${state.tau.toFixed(3)}`;
      drawHeat(context, map, size, state.opacity);
      stroke(context, outline(mask, size), REGION, 1.5);
    }
    const gt = clip.gt[t]?.length ? once(`gt ${key}`, () => expand(clip.gt[t], size)) : null;
    if (gt) stroke(context, once(`path ${key}`, () => outline(gt, size)), GT, 3);
    for (const box of boxes) drawBox(context, box, size * SCALE);
    text.textContent = gt ? `IoU ${ciou(mask, gt).toFixed(4).replace("NaN", "–")} ${where}` :
      `${boxes.length} ${boxes.length === 1 ? "box" : "boxes"}`;
    const { times: seconds, labels: annotated } = sample;
    const facts = { seconds, annotated, predicted: clip.labels, ...clip.facts };
    more.textContent = Object.entries(facts).filter(([, x]) => x.length).map(([name, x]) =>
      `${name}: ${x[t].toFixed?.(3) ?? (x[t] || "not here")}`).join(" · ");
    canvas.setAttribute("aria-label", `${clip.name}: ${text.textContent}`);
    cells.forEach((cell, k) => cell.classList.toggle("now", k === t));
    mark();
    moved(state.tau);
  }
  const self = { mark, follow, node: el("article", { className: "card" },
    el("h3", {}, `${sample.group}${sample.group && ": "}${sample.name}`),
    el("div", { className: sample.width < 160 ? "view small" : "view" }, image, canvas),
    el("div", { className: "buttons" }, ...buttons),
    ...(T > 1 ? [time, el("div", { className: "strip" }, ...cells)] : []), opacity, tau, marks,
    el("div", {}, text, " ", more)) }; // the last, since its height changes while a video plays
  draw();
  return self.node;
}

for (const event of ["play", "pause", "ended"])
  player.addEventListener(event, () => { playing?.mark(); playing?.follow(); });

// The page ----------------------------------------------------------------------------------------
function legend(maps) {
  if (!maps) return el("div", { className: "dim" }, "lime: ground truth · cyan: predicted boxes");
  const bar = el("canvas", { width: 256, height: 12, aria: { role: "img", label: "colours" } });
  data.colours.forEach((colour, i) => Object.assign(bar.getContext("2d"),
    { fillStyle: `rgb(${colour})` }).fillRect(i, 0, 1, 12));
  return el("div", { className: "dim" }, el("div", { className: "legend" }, "heatmap: least", bar,
    "greatest"), "lime: ground truth · white: above the threshold · cyan: predicted boxes");
}

function gallery(g) {
  const parts = g.name ? [el("h2", {}, g.name)] : [], names = Object.keys(g.curves);
  let moved = () => {};
  if (names.length) {
    const lines = names.map((name) => g.curves[name].map((y, k) => [g.taus[k], y]));
    const picture = plot(lines, `${names.join(", ")} against the threshold`, [0, 1]);
    const cursor = picture.appendChild(svg("line", { class: "cursor", y1: 4, y2: 134 }));
    const caption = el("figcaption");
    moved = (tau) => {
      const k = Math.round(tau * (g.taus.length - 1));
      for (const x of ["x1", "x2"]) cursor.setAttribute(x, picture.px(tau));
      caption.replaceChildren(`The whole set at threshold ${g.taus[k].toFixed(2)}:`,
        ...names.map((name, i) => el("span", { className: i ? "second" : "first" },
          ` ${name} ${(100 * g.curves[name][k]).toFixed(1)}\u00a0%`)));
    };
    parts.push(el("figure", { className: "curve" }, picture, caption));
  }
  return el("section", {}, ...parts, el("div", { className: "cards" },
    ...g.samples.map((sample) => card(sample, g, data.audio, moved))));
}

main.append(el("h1", {}, data.title));
if (data.note) main.append(el("p", { className: "note" }, data.note));
if (data.paper) main.append(el("p", {}, "Paper: ",
  el("a", { href: data.paper.url, rel: "noreferrer" }, data.paper.title)));
if (data.facts) main.append(el("dl", {}, ...data.facts.flatMap(([name, value]) =>
  [el("dt", {}, name), el("dd", {}, value)])));
if (data.demo) setTimeout(() => main.append(...demoForm()));
if (data.tables?.length) main.append(el("h2", {}, "Metrics"), ...data.tables.map(table));
const shown = data.galleries.flatMap((g) => g.samples);
if (shown.length) main.append(legend(shown.some((s) => s.clips[0].maps.length)));
main.append(...data.galleries.map(gallery));
const curves = Object.entries(data.series || {}).map(logCurve);
if (curves[0]) main.append(el("h2", {}, "Training"), el("div", { className: "curves" }, ...curves));
