"use strict";

const by = (id) => document.getElementById(id);
const [form, drop, file, problem, result] = ["form", "drop", "file", "problem", "result"].map(by);
let latest = 0; // answers to earlier frames are discarded

file.addEventListener("change", () => file.files.length && send(file.files[0]));

// Also outside the drop zone, where the browser would open the file in place of the page.
for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, () => drop.classList.add("over"));
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  file.files = event.dataTransfer.files;
  send(event.dataTransfer.files[0]);
});

async function send(frame) {
  const mine = ++latest;
  say("Segmenting …");
  result.classList.add("waiting");
  const content = new FormData();
  content.append("frame", frame);
  try {
    const answer = await fetch(form.action, { method: "POST", body: content });
    if (!answer.ok) throw new Error(await reason(answer));
    await show(frame.name, answer, mine);
  } catch (error) {
    if (mine !== latest) return;
    result.hidden = true;
    say("", error instanceof TypeError ? "The server did not answer, or the file is too large." : error.message);
  }
}

async function reason(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `The server answered with status ${answer.status}.`;
  }
}

async function show(name, answer, mine) {
  const overlay = by("overlay");
  const picture = URL.createObjectURL(await answer.blob());
  if (mine !== latest) return;
  URL.revokeObjectURL(overlay.src);
  overlay.src = picture;
  await overlay.decode();
  const { naturalWidth: width, naturalHeight: height } = overlay;
  const area = Number(answer.headers.get("X-Area"));
  const [confidence, atypicality] = ["X-Confidence", "X-Atypicality"].map((header) => answer.headers.get(header));
  by("name").textContent = name;
  by("area").textContent = `${area.toLocaleString("en")} px`;
  by("share").textContent = `${(100 * area / (width * height)).toFixed(2)} %`;
  by("confidence").textContent = confidence ? Number(confidence).toFixed(3) : "–";
  by("atypicality").textContent = atypicality ? Number(atypicality).toFixed(3) : "–";
  by("size").textContent = `${width} × ${height} px`;
  by("version").textContent = answer.headers.get("X-Model-Version");
  result.hidden = false;
  result.classList.remove("waiting");
  say(area ? "" : "No nerve was found.");
}

function say(status, wrong = "") {
  by("status").textContent = status;
  problem.textContent = wrong;
  problem.hidden = !wrong;
}
