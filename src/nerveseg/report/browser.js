// The frame browser. It reads what browser.py wrote into the page; a frame's picture is decoded when it is shown.
"use strict";
(() => {
  const PER_PAGE = 24;
  const LARGEST = 16; // zoom
  const SVG = "http://www.w3.org/2000/svg";
  const data = JSON.parse(document.getElementById("frame-data").textContent);
  const { fields, labels, frames } = data;
  const root = document.getElementById("frames");
  const find = (selector, within = root) => within.querySelector(selector);
  const viewer = find(".viewer");
  const form = find("form");
  const layers = ["truth", ...labels.map((_, number) => `p${number}`)];
  const names = ["Truth", ...labels.map((label) => label[0].toUpperCase() + label.slice(1))];
  const ordering = new Intl.Collator(undefined, { numeric: true });

  const first = fields.findIndex((field) => field.digits !== null);
  const unset = { sort: first < 0 ? "name" : fields[first].key, order: "ascending" };
  let wanted = { ...unset }; // sort, order, and by fields' keys a text, or KEY.min and KEY.max
  let chosen = []; // numbers of the frames that are shown, in order
  let start = 0; // of the page, in `chosen`
  let opened = -1; // in `chosen`

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const shape = (tag, attributes) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const text = (field, fact) => {
    if (field.digits === null) return fact || "unknown";
    return fact === null ? "undefined" : fact.toFixed(field.digits);
  };

  // What is drawn

  const source = (number) => data.folder
    ? `${data.folder}/${number}${data.suffix}`
    : `data:${data.type};base64,${document.getElementById(`frame-${number}`).textContent}`;

  const picture = (number) => {
    const { size: [width, height], outlines } = frames[number];
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}` });
    svg.append(shape("image", { href: source(number), width, height, preserveAspectRatio: "none" }));
    outlines.forEach((d, layer) => { if (d) svg.append(shape("path", { class: layers[layer], d })); });
    return svg;
  };

  const summary = (number) => {
    const { facts } = frames[number];
    const shown = [...new Set([fields[first], fields.find(({ key }) => key === wanted.sort), fields.find(({ key }) => key === "outcome")])];
    const told = shown.filter(Boolean).map((field) => {
      const value = text(field, facts[fields.indexOf(field)]);
      return (field.digits === null ? value : `${field.title} ${value}`).replaceAll(" ", "\u00a0"); // breaks only between facts
    });
    return told.join(", ");
  };

  const showGrid = () => {
    const tiles = chosen.slice(start, start + PER_PAGE).map((number, place) => {
      const image = picture(number);
      image.setAttribute("aria-hidden", "true");
      const button = element("button", { type: "button" }, image, element("b", {}, frames[number].name), element("span", {}, summary(number)));
      button.addEventListener("click", () => show(start + place));
      return element("li", {}, button);
    });
    find(".grid").replaceChildren(...tiles);
    const last = Math.min(start + PER_PAGE, chosen.length);
    find(".count").textContent = chosen.length === frames.length ? `All ${frames.length} frames` : `${chosen.length} of ${frames.length} frames`;
    find(".pager .place").textContent = chosen.length ? `${start + 1} to ${last} of ${chosen.length}` : "No frame matches";
    find(".pager .before").disabled = start === 0;
    find(".pager .after").disabled = last === chosen.length;
  };

  // What is chosen

  const matches = ({ facts }) => fields.every(({ key, digits }, place) => {
    const fact = facts[place];
    if (digits === null) return wanted[key] === undefined || wanted[key] === fact;
    const low = wanted[`${key}.min`], high = wanted[`${key}.max`];
    return (low === undefined || (fact !== null && fact >= Number(low))) && (high === undefined || (fact !== null && fact <= Number(high)));
  });

  const choose = () => {
    const place = fields.findIndex((field) => field.key === wanted.sort);
    const value = (number) => place < 0 ? frames[number].name : frames[number].facts[place];
    const sign = wanted.order === "descending" ? -1 : 1;
    const compare = (one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === null || b === null) return (a === null) - (b === null); // undefined ones last
      return sign * (typeof a === "string" ? ordering.compare(a, b) : a - b);
    };
    chosen = [...frames.keys()].filter((number) => matches(frames[number])).sort(compare);
    start = 0;
    showGrid();
  };

  const fill = () => {
    for (const control of form.elements) {
      if (control.name) control.value = wanted[control.name] ?? (isText(control.name) ? "*" : "");
    }
    const ranged = Object.keys(wanted).some((key) => /\.(min|max)$/.test(key));
    if (ranged) find(".ranges").open = true;
  };

  const remember = (address) => {
    try {
      history.replaceState(null, "", address);
    } catch { /* some viewers of pages do not let a page change its address */ }
  };

  const follow = (address) => { // an address as browser.py writes it: facts to filter by, or a frame to open
    const given = Object.fromEntries(new URLSearchParams(address.slice(address.indexOf("?") + 1)));
    const name = given.frame;
    delete given.frame;
    wanted = { ...unset, ...given };
    fill();
    choose();
    if (name === undefined) {
      if (viewer.open) viewer.close();
      root.scrollIntoView();
      root.focus({ preventScroll: true });
      return;
    }
    const at = chosen.findIndex((number) => frames[number].name === name);
    if (at >= 0) show(at);
  };

  const labelled = (label, control) => {
    control.id = `frames-${control.name}`;
    return element("div", {}, element("label", { for: control.id }, label), control);
  };
  const options = (values) => values.map(([value, label]) => element("option", { value }, label));
  const buildForm = () => {
    const [choices, ranges] = form.querySelectorAll(".choices");
    const sorts = [["name", "Name"], ...fields.map(({ key, title }) => [key, title])];
    choices.append(
      labelled("Sort by", element("select", { name: "sort" }, ...options(sorts))),
      labelled("Order", element("select", { name: "order" }, ...options([["ascending", "lowest first"], ["descending", "highest first"]]))),
    );
    fields.forEach(({ key, title, digits }, place) => {
      if (digits === null) {
        const values = [...new Set(frames.map(({ facts }) => facts[place]))].sort(ordering.compare);
        const all = [["*", "all"], ...values.map((value) => [value, value || "unknown"])];
        choices.append(labelled(title, element("select", { name: key }, ...options(all))));
        return;
      }
      const bound = (end, label) => element("input", {
        name: `${key}.${end}`, type: "number", step: "any", placeholder: label, "aria-label": `${title}, ${label}`,
      });
      ranges.append(element("fieldset", {}, element("legend", {}, title), element("div", {}, bound("min", "from"), bound("max", "to"))));
    });
    form.addEventListener("input", () => {
      wanted = Object.fromEntries([...new FormData(form)].filter(([key, value]) => value !== (isText(key) ? "*" : "")));
      choose();
      remember(`#frames?${new URLSearchParams(wanted)}`);
    });
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      wanted = { ...unset };
      fill();
      choose();
      remember("#frames");
    });
    form.addEventListener("submit", (event) => event.preventDefault());
  };
  const isText = (key) => fields.some((each) => each.key === key && each.digits === null);

  // Outlines

  const toggle = (layer) => {
    const hidden = root.classList.toggle(`no-${layer}`);
    root.querySelectorAll(`.layers [data-layer="${layer}"]`).forEach((button) => button.setAttribute("aria-pressed", String(!hidden)));
  };
  const toggleAll = () => {
    const shown = layers.filter((layer) => !root.classList.contains(`no-${layer}`));
    (shown.length ? shown : layers).forEach(toggle);
  };
  const buildLayers = () => root.querySelectorAll(".layers").forEach((group) => {
    group.append(...layers.map((layer, number) => {
      const button = element("button", { type: "button", "aria-pressed": "true", "data-layer": layer }, element("i", { class: layer }), names[number]);
      button.addEventListener("click", () => toggle(layer));
      return button;
    }));
  });

  // One frame

  let view; // its svg, and the part of it that is shown: centre and zoom, in pixels of the frame

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const look = (zoom, x, y) => {
    const [width, height] = view.size;
    view.zoom = clamp(zoom, 1, LARGEST);
    const across = width / view.zoom, down = height / view.zoom;
    view.x = clamp(x, across / 2, width - across / 2);
    view.y = clamp(y, down / 2, height - down / 2);
    view.svg.setAttribute("viewBox", `${view.x - across / 2} ${view.y - down / 2} ${across} ${down}`);
  };
  const whole = () => look(1, view.size[0] / 2, view.size[1] / 2);
  const spot = ({ clientX, clientY }) => new DOMPoint(clientX, clientY).matrixTransform(view.svg.getScreenCTM().inverse());
  const zoomAt = (factor, { x, y } = view) => { // the spot stays where it is
    const zoom = clamp(view.zoom * factor, 1, LARGEST), rest = view.zoom / zoom;
    look(zoom, x + (view.x - x) * rest, y + (view.y - y) * rest);
  };

  const show = (at) => {
    opened = clamp(at, 0, chosen.length - 1);
    const number = chosen[opened];
    const { name, size, facts } = frames[number];
    const svg = picture(number);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${name} with the outlines of ${names.join(" and ")}`);
    view = { svg, size };
    whole();
    listen(svg);
    find(".stage").replaceChildren(svg);
    find("h3", viewer).textContent = name;
    find("header .place", viewer).textContent = `${opened + 1} of ${chosen.length}`;
    find(".facts dl").replaceChildren(...fields.flatMap((each, place) => [
      element("dt", {}, each.title), element("dd", {}, text(each, facts[place])),
    ]));
    find("footer .before", viewer).disabled = opened === 0;
    find("footer .after", viewer).disabled = opened === chosen.length - 1;
    if (!viewer.open) viewer.showModal();
    remember(`#frames?${new URLSearchParams({ frame: name })}`);
  };

  const closed = () => {
    const page = Math.floor(opened / PER_PAGE) * PER_PAGE;
    if (page !== start) {
      start = page;
      showGrid();
    }
    const tile = find(".grid").children[opened - start];
    if (tile) find("button", tile).focus();
    remember("#frames");
  };

  const listen = (svg) => {
    const down = new Map(); // pointers, and where each began
    let apart = 0, moved = false;
    const spread = () => {
      const [one, other] = [...down.values()];
      return Math.hypot(one.now.clientX - other.now.clientX, one.now.clientY - other.now.clientY);
    };
    svg.addEventListener("pointerdown", (event) => {
      svg.setPointerCapture(event.pointerId);
      if (!down.size) moved = false;
      down.set(event.pointerId, { began: event, now: event });
      if (down.size === 2) apart = spread();
    });
    svg.addEventListener("pointermove", (event) => {
      const pointer = down.get(event.pointerId);
      if (!pointer) return;
      const before = spot(pointer.now);
      pointer.now = event;
      if (Math.hypot(event.clientX - pointer.began.clientX, event.clientY - pointer.began.clientY) > 6) moved = true;
      if (down.size === 2) {
        const [one, other] = [...down.values()].map(({ now }) => spot(now));
        const now = spread();
        zoomAt(now / apart, { x: (one.x + other.x) / 2, y: (one.y + other.y) / 2 });
        apart = now;
        moved = true;
      } else if (view.zoom > 1) {
        const after = spot(event);
        look(view.zoom, view.x + before.x - after.x, view.y + before.y - after.y);
      }
    });
    const up = (event) => {
      const pointer = down.get(event.pointerId);
      if (!pointer) return;
      const alone = down.size === 1;
      down.delete(event.pointerId);
      if (!alone || event.type === "pointercancel") return;
      const right = event.clientX - pointer.began.clientX, below = event.clientY - pointer.began.clientY;
      if (!moved) toggleAll();
      else if (view.zoom === 1 && Math.abs(right) > 50 && Math.abs(right) > 2 * Math.abs(below)) show(opened - Math.sign(right));
    };
    svg.addEventListener("pointerup", up);
    svg.addEventListener("pointercancel", up);
    svg.addEventListener("dblclick", (event) => view.zoom > 1 ? whole() : zoomAt(3, spot(event)));
    svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoomAt(2 ** (-event.deltaY / 300), spot(event));
    }, { passive: false });
  };

  const typed = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    const step = view ? 0.1 * view.size[0] / view.zoom : 0;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const outlines = { t: () => toggle("truth"), p: () => layers.slice(1).forEach(toggle) };
    const inViewer = {
      ArrowLeft: () => show(opened - 1), ArrowRight: () => show(opened + 1),
      Home: () => show(0), End: () => show(chosen.length - 1),
      "+": () => zoomAt(1.5), "=": () => zoomAt(1.5), "-": () => zoomAt(1 / 1.5), 0: whole,
    };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const move = viewer.open && event.shiftKey && moves[key];
    const act = move ? () => look(view.zoom, view.x + move[0], view.y + move[1]) : outlines[key] ?? (viewer.open && inViewer[key]);
    if (!act) return;
    event.preventDefault();
    act();
  };

  const turn = (pages) => {
    start += pages * PER_PAGE;
    showGrid();
    root.querySelector(".bar").scrollIntoView({ block: "nearest" });
  };

  buildForm();
  buildLayers();
  fill();
  choose();
  find(".filters").open = matchMedia("(min-width: 52rem)").matches;
  find(".pager .before").addEventListener("click", () => turn(-1));
  find(".pager .after").addEventListener("click", () => turn(1));
  find("footer .before", viewer).addEventListener("click", () => show(opened - 1));
  find("footer .after", viewer).addEventListener("click", () => show(opened + 1));
  find(".in").addEventListener("click", () => zoomAt(1.5));
  find(".out").addEventListener("click", () => zoomAt(1 / 1.5));
  find(".whole").addEventListener("click", whole);
  find(".close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", closed);
  root.addEventListener("keydown", typed);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#frames?"]');
    if (!link) return;
    event.preventDefault();
    follow(link.getAttribute("href"));
  });
  document.addEventListener("follow", (event) => follow(event.detail));
  addEventListener("hashchange", () => { if (location.hash.startsWith("#frames?")) follow(location.hash); });
  root.hidden = false;
  if (location.hash.startsWith("#frames?")) follow(location.hash);
})();
