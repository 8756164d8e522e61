// The picture: a frame, its mask over it, zoom. Knows nothing of the session.

const by = (id) => document.getElementById(id);
const [view, stage, frame, fill, outline] = ["view", "stage", "frame", "fill", "outline"].map(by);
const [masked, opacity] = ["masked", "opacity"].map(by);
const NERVE = [0, 200, 255]; // red, green, blue: the colour of predictions in the report
const COLOUR = `rgb(${NERVE})`;
const MOST = 16; // times the size at which the whole frame is seen
const STEP = 1.5;
let zoom = 1;

// A mask from run lengths, "start length ..." down the columns from 1: a byte per pixel, row by row.
export function decode(runs, height, width) {
  const mask = new Uint8Array(height * width);
  const numbers = runs ? runs.split(" ").map(Number) : [];
  for (let at = 0; at < numbers.length; at += 2) {
    for (let pixel = numbers[at] - 1; pixel < numbers[at] - 1 + numbers[at + 1]; pixel++) {
      mask[(pixel % height) * width + Math.floor(pixel / height)] = 1;
    }
  }
  return mask;
}

// The sides of pixels between mask and background, as the path of an SVG.
function edges(mask, height, width) {
  const parts = [];
  const inside = (row, column) =>
    row >= 0 && row < height && column >= 0 && column < width ? mask[row * width + column] : 0;
  const runs = (lines, length, differ, write) => {
    for (let line = 0; line <= lines; line++) {
      for (let at = 0, start = -1; at <= length; at++) {
        const edge = at < length && differ(line, at);
        if (edge && start < 0) start = at;
        if (!edge && start >= 0) {
          write(line, start, at - start);
          start = -1;
        }
      }
    }
  };
  runs(height, width, (row, column) => inside(row - 1, column) !== inside(row, column),
    (row, column, length) => parts.push(`M${column} ${row}h${length}`));
  runs(width, height, (column, row) => inside(row, column - 1) !== inside(row, column),
    (column, row, length) => parts.push(`M${column} ${row}v${length}`));
  return parts.join("");
}

// Shows a frame with its mask; resolves once it can be seen.
export async function show(found) {
  const { height, width } = found;
  const mask = decode(found.rle_mask, height, width);
  frame.src = png(found.frame_png);
  frame.alt = `Frame ${found.image}. ${found.message}`;
  try {
    await frame.decode();
  } catch {
    return; // another frame was chosen meanwhile
  }
  paint(fill, mask, height, width);
  outline.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const sides = edges(mask, height, width);
  for (const path of outline.children) path.setAttribute("d", sides);
  enlarge(1);
}

export const png = (base64) => `data:image/png;base64,${base64}`;

function paint(canvas, mask, height, width) {
  [canvas.height, canvas.width] = [height, width];
  const pixels = new ImageData(width, height);
  mask.forEach((nerve, at) => nerve && pixels.data.set([...NERVE, 255], 4 * at));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

// A small picture of a frame with its mask.
export async function thumbnail(canvas, found) {
  const picture = new Image();
  picture.src = png(found.frame_png);
  await picture.decode();
  const mask = document.createElement("canvas");
  paint(mask, decode(found.rle_mask, found.height, found.width), found.height, found.width);
  const context = canvas.getContext("2d");
  const scale = Math.min(canvas.width / found.width, canvas.height / found.height);
  const [width, height] = [found.width * scale, found.height * scale];
  const place = [(canvas.width - width) / 2, (canvas.height - height) / 2, width, height];
  context.drawImage(picture, ...place);
  context.globalAlpha = 0.6;
  context.drawImage(mask, ...place);
}

// The frame with its mask at the frame's size, as it is shown, as a PNG.
export function overlay() {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [frame.naturalWidth, frame.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(frame, 0, 0);
  if (masked.checked) {
    context.globalAlpha = opacity.value / 100;
    context.drawImage(fill, 0, 0);
    context.globalAlpha = 1;
    context.strokeStyle = COLOUR;
    context.stroke(new Path2D(outline.lastElementChild.getAttribute("d")));
  }
  return new Promise((resolve) => canvas.toBlob(resolve));
}

// Zooms, and keeps what is in the middle there.
function enlarge(wanted) {
  const middle = [
    (view.scrollLeft + view.clientWidth / 2) / stage.offsetWidth,
    (view.scrollTop + view.clientHeight / 2) / stage.offsetHeight,
  ];
  zoom = Math.min(Math.max(wanted, 1), MOST);
  lay();
  view.scrollLeft = middle[0] * stage.offsetWidth - view.clientWidth / 2;
  view.scrollTop = middle[1] * stage.offsetHeight - view.clientHeight / 2;
  by("zoom").textContent = `${Math.round(100 * zoom)} %`;
  by("out").disabled = by("fit").disabled = zoom === 1;
  by("in").disabled = zoom === MOST;
}

function lay() {
  if (!frame.naturalWidth) return;
  const [width, height] = [frame.naturalWidth, frame.naturalHeight];
  const whole = Math.min(view.parentElement.clientWidth, (0.75 * innerHeight * width) / height);
  view.style.height = `${(whole * height) / width}px`;
  view.classList.toggle("zoomed", zoom > 1);
  stage.style.width = `${whole * zoom}px`;
  stage.style.height = `${(whole * zoom * height) / width}px`;
}

function look() {
  fill.style.opacity = opacity.value / 100;
  fill.hidden = !masked.checked;
  outline.toggleAttribute("hidden", !masked.checked);
  opacity.disabled = !masked.checked;
}

const KEYS = {
  "+": () => enlarge(zoom * STEP),
  "=": () => enlarge(zoom * STEP), // + without Shift
  "-": () => enlarge(zoom / STEP),
  0: () => enlarge(1),
  m: () => masked.click(),
};
by("in").addEventListener("click", KEYS["+"]);
by("out").addEventListener("click", KEYS["-"]);
by("fit").addEventListener("click", KEYS[0]);
masked.addEventListener("change", look);
opacity.addEventListener("input", look);
view.addEventListener("keydown", (event) => {
  const act = KEYS[event.key.toLowerCase()];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
});
view.addEventListener("wheel", (event) => {
  if (!event.ctrlKey) return; // the page scrolls
  event.preventDefault();
  enlarge(event.deltaY < 0 ? zoom * STEP : zoom / STEP);
}, { passive: false });
view.addEventListener("pointermove", (event) => {
  if (event.pointerType !== "mouse" || !(event.buttons & 1)) return; // a finger scrolls by itself
  view.scrollLeft -= event.movementX;
  view.scrollTop -= event.movementY;
});
frame.draggable = false;
new ResizeObserver(lay).observe(view.parentElement);
look();
