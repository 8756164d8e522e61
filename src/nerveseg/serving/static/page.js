// The session: what was dropped, what was found, and what is shown of it. All of it is in the memory of this tab.

import { overlay, png, show, thumbnail } from "./viewer.js";

const by = (id) => document.getElementById(id);
const [drop, file, problem, result, list, view] = ["drop", "file", "problem", "result", "list", "view"].map(by);
const SIGNS = { typical: "✓", atypical: "!", empty: "○", unknown: "?", failed: "×", waiting: "…" };
const AT_ONCE = 2; // requests: the server decodes one frame while it scores another
const UNSENT = "It could not be sent: the server does not answer, or it is a folder, or too large.";
const COLUMNS = [
  "image", "assessment", "message", "area", "area_mm2", "spacing_mm", "confidence", "atypicality", "height", "width",
  "model_version", "rle_mask",
];

let frames = []; // { name, file, spacing, state, found, message, button }
let shown = null;
let running = 0;

file.multiple = true; // not without scripts: the form sends one frame
by("form").className = "scripted";
file.addEventListener("change", () => {
  add([...file.files]);
  file.value = ""; // so that the same file can be chosen again
});
// Also outside the drop zone, where the browser would open the file in place of the page.
for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, () => drop.classList.add("over"));
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
addEventListener("drop", (event) => add([...event.dataTransfer.files]));
by("form").addEventListener("submit", (event) => event.preventDefault()); // Enter in the spacing

function add(files) {
  if (!files.length) return;
  const spacing = by("spacing").value.trim();
  const added = files.map((each) => ({ name: each.name, file: each, spacing, state: "waiting", found: null }));
  for (const frame of added) enlist(frame);
  frames.push(...added);
  select(added[0]);
  while (running < AT_ONCE && frames.some((frame) => frame.state === "waiting")) work();
}

function enlist(frame) {
  frame.button = document.createElement("button");
  frame.button.type = "button";
  frame.button.addEventListener("click", () => select(frame));
  frame.button.append(Object.assign(document.createElement("canvas"), { width: 112, height: 80 }), part("name"), part("what"));
  frame.button.querySelector(".name").textContent = frame.name;
  const item = document.createElement("li");
  item.append(frame.button);
  list.append(item);
  describe(frame);
}

function part(name) {
  return Object.assign(document.createElement("span"), { className: name });
}

// Segments waiting frames, one after another.
async function work() {
  running++;
  for (let frame; (frame = frames.find((one) => one.state === "waiting")); ) {
    frame.state = "sent";
    report();
    try {
      frame.found = await segment(frame);
      [frame.state, frame.message] = [frame.found.assessment, frame.found.message];
      await thumbnail(frame.button.firstElementChild, frame.found);
    } catch (error) {
      frame.state = "failed";
      frame.message = error instanceof TypeError ? UNSENT : error.message;
    }
    frame.file = null;
    describe(frame);
    if (frame === shown) await present(frame);
  }
  running--;
  report();
}

async function segment(frame) {
  const content = new FormData();
  content.append("spacing_mm", frame.spacing);
  content.append("frame", frame.file);
  for (;;) {
    const answer = await fetch("v1/segment?format=layers", { method: "POST", body: content });
    if (answer.ok) return answer.json();
    if (answer.status !== 429) throw new Error(await reason(answer)); // 429: others ask too; it is this frame's turn later
    await new Promise((resolve) => setTimeout(resolve, 1000 * (answer.headers.get("Retry-After") || 1)));
  }
}

async function reason(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `The server answered with status ${answer.status}.`;
  }
}

// What the list says of a frame.
function describe(frame) {
  const state = frame.state === "sent" ? "waiting" : frame.state;
  frame.button.className = state;
  const { area, area_mm2 } = frame.found ?? {};
  const figures = area ? [area_mm2 === null ? `${count(area)} px` : `${square(area_mm2)} mm²`] : [];
  const [sign, words] = [part("sign"), part("words")];
  sign.textContent = SIGNS[state];
  words.textContent = [state === "empty" ? "no nerve" : state, ...figures].join(" · ");
  frame.button.querySelector(".what").replaceChildren(sign, words);
}

function select(frame) {
  shown = frame;
  for (const one of frames) one.button.removeAttribute("aria-current");
  frame.button.setAttribute("aria-current", "true");
  return present(frame);
}

// Shows a frame's result, or why there is none; nothing while it waits.
async function present(frame) {
  problem.hidden = frame.state !== "failed";
  problem.textContent = frame.state === "failed" ? `${frame.name}: ${frame.message}` : "";
  result.hidden = !frame.found;
  if (!frame.found) return;
  const { found } = frame;
  const sentence = by("assessment");
  sentence.className = `assessment ${frame.state}`;
  const sign = part("sign");
  sign.textContent = SIGNS[frame.state];
  sign.setAttribute("aria-hidden", "true");
  sentence.replaceChildren(sign, frame.message);
  by("name").textContent = found.image;
  by("area").textContent = `${count(found.area)} px`;
  by("area-mm2").textContent = found.area_mm2 === null ? "–" : `${square(found.area_mm2)} mm²`;
  by("spacing-used").textContent = found.spacing_mm === null ? "unknown" : `${found.spacing_mm.join(" × ")} mm`;
  by("share").textContent = `${(100 * found.area / (found.width * found.height)).toFixed(2)} %`;
  by("confidence").textContent = found.confidence === null ? "–" : found.confidence.toFixed(3);
  by("atypicality").textContent = found.atypicality === null ? "–" : found.atypicality.toFixed(3);
  by("pixels").textContent = `${found.width} × ${found.height} px`;
  by("version").textContent = found.model_version;
  await show(found);
}

const count = (pixels) => pixels.toLocaleString("en");
const square = (area) => area.toLocaleString("en", { maximumSignificantDigits: 4 });

// How far it is, and what was found so far.
function report() {
  const done = frames.filter((frame) => !["waiting", "sent"].includes(frame.state));
  const going = done.length < frames.length;
  by("status").textContent = going ? `Segmenting … ${done.length} of ${frames.length} done` : "";
  by("session").hidden = !frames.length;
  const words = { typical: "typical", atypical: "atypical", empty: "without a nerve", unknown: "not assessed", failed: "failed" };
  const parts = Object.entries(words).map(([state, word]) => [done.filter((frame) => frame.state === state).length, word]);
  by("counts").textContent = [
    `${frames.length} ${frames.length === 1 ? "frame" : "frames"}`,
    ...parts.filter(([number]) => number).map((pair) => pair.join(" ")),
  ].join(" · ");
}

function step(way) {
  const next = frames[frames.indexOf(shown) + way];
  if (!next) return;
  next.button.scrollIntoView({ block: "nearest" });
  select(next);
}

view.addEventListener("keydown", (event) => {
  const way = { n: 1, p: -1 }[event.key.toLowerCase()];
  if (way && !event.ctrlKey && !event.metaKey && !event.altKey) step(way);
});

const stem = () => shown.name.replace(/\.[^.]*$/, "");
const save = (url, name) => Object.assign(document.createElement("a"), { href: url, download: name }).click();

function saveBlob(blob, name) {
  const url = URL.createObjectURL(blob);
  save(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // the download has begun by then
}

by("save-mask").addEventListener("click", () => save(png(shown.found.mask_png), `${stem()}_predicted_mask.png`));
by("save-overlay").addEventListener("click", async () => saveBlob(await overlay(), `${stem()}_predicted_overlay.png`));
by("save-table").addEventListener("click", () => {
  const cell = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  const rows = frames.filter((frame) => !["waiting", "sent"].includes(frame.state)).map((frame) => {
    const found = frame.found ?? { image: frame.name, assessment: frame.state, message: frame.message };
    return COLUMNS.map((name) => cell(Array.isArray(found[name]) ? found[name].join(" ") : found[name])).join(",");
  });
  saveBlob(new Blob([[COLUMNS.join(","), ...rows, ""].join("\r\n")], { type: "text/csv" }), "nerveseg_session.csv");
});
by("clear").addEventListener("click", () => {
  frames = [];
  shown = null;
  list.replaceChildren();
  result.hidden = problem.hidden = true;
  by("frame").removeAttribute("src");
  report();
});
