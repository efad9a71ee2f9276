"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const cases = data.cases;
  const at = (id) => document.getElementById(id);
  const body = document.querySelector("#table tbody");
  const rows = Array.from(body.rows);
  const heads = Array.from(document.querySelectorAll("#table thead th"));
  const COLUMNS = ["run", "case", "verdict", "comment", "mask_sha256"];
  const MARKS = { accepted: "✓ accepted", flagged: "⚑ flagged", "": "" };
  const HIGHEST = 480;  // pixels of the picture
  const words = new Intl.Collator("en", { numeric: true });
  let order = cases.map((_, k) => k);
  let shown = Math.max(cases.findIndex((c) => c.done), 0);
  let changed = false;

  // -- the table ----------------------------------------------------------------------------
  const wanted = {
    all: () => true,
    outlier: (c) => c.outlier,
    noted: (c) => c.done && c.notes.length > 0,
    failed: (c) => !c.done,
    open: (c) => !c.verdict,
    flagged: (c) => c.verdict === "flagged",
  };

  function value(k, column) {
    if (column === 0) return cases[k].name;
    if (column === heads.length - 1) return cases[k].verdict;
    const cell = rows[k].cells[column];
    return cell.dataset.value === undefined ? NaN : Number(cell.dataset.value);
  }

  function compare(a, b) {
    return typeof a === "string" ? words.compare(a, b) : a - b;
  }

  function arrange() {
    const head = heads.findIndex((th) => th.hasAttribute("aria-sort"));
    const down = heads[head].getAttribute("aria-sort") === "descending" ? -1 : 1;
    const keys = cases.map((_, k) => value(k, head));
    const all = cases.map((_, k) => k);
    all.sort(function (a, b) {
      const empty = (k) => typeof keys[k] === "number" && isNaN(keys[k]);
      if (empty(a) || empty(b)) return empty(a) - empty(b) || a - b;  // empty cells stay below
      return down * compare(keys[a], keys[b]) || a - b;
    });
    const keep = wanted[at("filter").value];
    order = all.filter((k) => keep(cases[k]));
    body.replaceChildren(...order.map((k) => rows[k]));
    place();
  }

  function sortBy(column) {
    const head = heads[column];
    const next = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    heads.forEach((th) => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", next);
    arrange();
  }

  // -- the picture --------------------------------------------------------------------------
  function drawn(name, attributes, parent) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (parent) parent.appendChild(element);
    return element;
  }

  // The sagittal, coronal and axial plane have one scale: in a row, stacked, or the axial one beside
  // the others. Widths and heights in mm -> each plane's corner, and the size of all.
  function arrangements([s, c, a]) {
    const gap = Math.max(...s, ...c, ...a) / 60;
    const wide = Math.max(s[0], c[0]), high = s[1] + gap + c[1];
    const row = Math.max(s[1], c[1], a[1]), column = Math.max(wide, a[0]), both = Math.max(high, a[1]);
    const [left, top, side] = [a[0] + gap, (both - high) / 2, (n, all) => (all - n) / 2];
    return [
      {
        size: [s[0] + c[0] + a[0] + 2 * gap, row],
        corners: [
          [0, side(s[1], row)], [s[0] + gap, side(c[1], row)],
          [s[0] + c[0] + 2 * gap, side(a[1], row)],
        ],
      },
      {
        size: [left + wide, both],
        corners: [
          [left + side(s[0], wide), top], [left + side(c[0], wide), top + s[1] + gap],
          [0, side(a[1], both)],
        ],
      },
      {
        size: [column, a[1] + gap + high],
        corners: [
          [side(s[0], column), a[1] + gap], [side(c[0], column), a[1] + 2 * gap + s[1]],
          [side(a[0], column), 0],
        ],
      },
    ];
  }

  function picture(parts) {
    const room = [Math.max(at("planes").clientWidth - 16, 120), HIGHEST];
    const scale = ({ size }) => Math.min(room[0] / size[0], room[1] / size[1]);  // pixels a mm
    const best = arrangements(parts.map((p) => p.size)).reduce((a, b) => (scale(b) > scale(a) ? b : a));
    const [width, height] = best.size, pixels = scale(best);
    const svg = drawn("svg", {
      viewBox: `0 0 ${width} ${height}`, width: width * pixels, height: height * pixels, role: "img",
    });
    drawn("title", {}, svg).textContent = "sagittal, coronal and axial plane";
    parts.forEach((p, k) => plane(p, best.corners[k], pixels, svg));
    return svg;
  }

  function plane(p, corner, pixels, svg) {
    const [width, height] = p.size, px = 1 / pixels;
    const group = drawn("g", { transform: `translate(${corner})` }, svg);
    drawn("image", {
      href: "data:image/png;base64," + p.png, width, height, preserveAspectRatio: "none",
    }, group);
    const scale = `scale(${width / p.grid[0] / 2} ${height / p.grid[1] / 2})`;
    p.outlines.forEach(function (d, k) {
      if (!d) return;
      const s = data.structures[k];
      drawn("path", { d, transform: scale, class: "halo" }, group);
      drawn("path", {
        d, transform: scale, class: "edge", stroke: s.colour, "stroke-dasharray": s.dash,
      }, group);
    });
    const font = { "font-size": 12 * px, "stroke-width": 2.5 * px, "dominant-baseline": "central" };
    const letter = (text, x, y, anchor) => {
      drawn("text", { x, y, "text-anchor": anchor, ...font }, group).textContent = text;
    };
    if (width > 60 * px) {
      letter(p.letters[0], 5 * px, height / 2, "start");
      letter(p.letters[1], width - 5 * px, height / 2, "end");
    }
    if (height > 80 * px) {  // a thin slab has no room above and below
      letter(p.letters[2], width / 2, height - 10 * px, "middle");
      letter(p.letters[3], width / 2, 10 * px, "middle");
      if (width > 110 * px) letter(p.name, 5 * px, 10 * px, "start");
    }
    if (p.name !== "axial") return;  // one scale, one bar
    const y = height - 6 * px;
    drawn("line", { x1: 6 * px, x2: 6 * px + p.bar, y1: y, y2: y, class: "mm" }, group);
    letter(`${p.bar} mm`, 6 * px, y - 10 * px, "start");
  }

  function place() {
    const k = order.indexOf(shown);
    at("place").textContent = k < 0 ? `not among the ${order.length} cases of the table`
      : `${k + 1} of ${order.length}`;
  }

  function show(k) {
    shown = k;
    const c = cases[k];
    rows.forEach((row) => row.classList.remove("shown"));
    rows[k].classList.add("shown");
    at("name").textContent = c.name;
    place();
    draw();
    at("notes").replaceChildren(...c.notes.map(function (text) {
      const li = document.createElement("li");
      li.textContent = text;
      return li;
    }));
    at("comment").value = c.comment;
    verdict();
  }

  function draw() {
    const c = cases[shown], source = at(`planes-${shown}`);
    if (source) return at("planes").replaceChildren(picture(JSON.parse(source.textContent)));
    const why = document.createElement("p");
    why.textContent = !c.done ? "failed: no mask" : c.missing || "loading…";
    at("planes").replaceChildren(why);
  }

  function step(by) {
    if (!order.length) return;
    const k = order.indexOf(shown);
    const next = k < 0 ? 0 : Math.min(Math.max(k + by, 0), order.length - 1);
    show(order[next]);
    const row = rows[shown], list = row.closest(".list");
    const top = row.offsetTop - list.querySelector("thead").offsetHeight;
    if (top < list.scrollTop) list.scrollTop = top;
    const bottom = row.offsetTop + row.offsetHeight - list.clientHeight;
    if (bottom > list.scrollTop) list.scrollTop = bottom;
  }

  // -- the review ---------------------------------------------------------------------------
  function verdict() {
    const c = cases[shown];
    at("accept").setAttribute("aria-pressed", c.verdict === "accepted");
    at("flag").setAttribute("aria-pressed", c.verdict === "flagged");
  }

  function mark(k) {
    const c = cases[k];
    rows[k].cells[heads.length - 1].textContent =
      MARKS[c.verdict] + (c.comment ? (c.verdict ? ", comment" : "comment") : "");
  }

  function count() {
    at("reviewed").textContent = cases.filter((c) => c.verdict).length;
  }

  function judge(word) {
    const c = cases[shown];
    c.verdict = c.verdict === word ? "" : word;
    changed = true;
    verdict();
    mark(shown);
    count();
  }

  function say(text) {
    at("said").textContent = text;
  }

  // A spreadsheet would run a cell that begins like a formula; the apostrophe goes off on loading.
  const risky = /^[=+\-@\t\r']/;
  const cell = (text) => {
    const safe = risky.test(text) ? "'" + text : text;
    return /[",\r\n]/.test(safe) ? '"' + safe.replace(/"/g, '""') + '"' : safe;
  };
  const bare = (text) => (text[0] === "'" && risky.test(text.slice(1)) ? text.slice(1) : text);

  function save() {
    const said = cases.filter((c) => c.verdict || c.comment);
    if (!said.length) return say("No case is reviewed yet: accept or flag one.");
    const lines = said.map((c) => [data.run, c.name, c.verdict, c.comment, c.mask].map(cell));
    const text = [COLUMNS, ...lines].map((l) => l.join(",") + "\r\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = `review_${data.run}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    changed = false;
    say(`Saved ${said.length} reviewed ${said.length === 1 ? "case" : "cases"}.`);
  }

  function parse(text) {
    const table = [[""]];
    let quoted = false;
    for (let k = 0; k < text.length; k++) {
      const line = table[table.length - 1];
      const c = text[k];
      if (quoted) {
        if (c !== '"') line[line.length - 1] += c;
        else if (text[k + 1] === '"') { line[line.length - 1] += c; k++; }
        else quoted = false;
      } else if (c === '"') quoted = true;
      else if (c === ",") line.push("");
      else if (c === "\n") table.push([""]);
      else if (c !== "\r") line[line.length - 1] += c;
    }
    return table.filter((line) => line.length > 1 || line[0]);
  }

  function load(text) {
    const [head, ...lines] = parse(text.replace(/^\ufeff/, ""));
    if (!head || head.join() !== COLUMNS.join()) {
      return say(`This is no review: its columns must be ${COLUMNS.join(", ")}.`);
    }
    const known = new Map(cases.map((c, k) => [c.name, k]));
    for (const line of lines) {
      const k = known.get(bare(line[1] || ""));
      if (line.length !== COLUMNS.length || !(line[2] in MARKS)) {
        return say("This review is damaged: save it from its page again.");
      }
      if (line[0] !== data.run || k === undefined || cases[k].mask !== line[4]) {
        return say(`This review is of another run (${line[0].slice(0, 16)}): use the page of that run.`);
      }
    }
    for (const line of lines) {
      const k = known.get(bare(line[1]));
      cases[k].verdict = line[2];
      cases[k].comment = bare(line[3]);
      mark(k);
    }
    count();
    show(shown);
    say(`Loaded ${lines.length} reviewed ${lines.length === 1 ? "case" : "cases"}.`);
  }

  // -- what starts it -----------------------------------------------------------------------
  heads.forEach((th, column) => th.firstElementChild.addEventListener("click", () => sortBy(column)));
  rows.forEach((row, k) => row.addEventListener("click", () => show(k)));
  at("filter").addEventListener("change", arrange);
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  at("accept").addEventListener("click", () => judge("accepted"));
  at("flag").addEventListener("click", () => judge("flagged"));
  at("comment").addEventListener("input", function () {
    cases[shown].comment = this.value;
    changed = true;
    mark(shown);
  });
  at("save").addEventListener("click", save);
  at("load").addEventListener("change", function () {
    if (this.files.length) this.files[0].text().then(load, () => say("This file cannot be read."));
    this.value = "";
  });
  const keys = {
    ArrowRight: () => step(1), ArrowLeft: () => step(-1), a: () => judge("accepted"),
    f: () => judge("flagged"), c: () => at("comment").focus(),
    o: () => at("planes").classList.toggle("bare"),
  };
  document.addEventListener("keydown", function (event) {
    if (event.key === "Escape") return document.activeElement.blur();
    const typing = /^(TEXTAREA|SELECT|INPUT)$/.test(event.target.tagName);
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  window.addEventListener("resize", draw);
  window.addEventListener("beforeunload", (event) => { if (changed) event.preventDefault(); });
  document.addEventListener("DOMContentLoaded", () => show(shown));
  data.structures.forEach(function (s) {
    const li = document.createElement("li");
    const line = drawn("svg", { viewBox: "0 0 40 12" }, li);
    drawn("path", {
      d: "M2 6H38", stroke: s.colour, "stroke-width": 3, "stroke-dasharray": s.dash, fill: "none",
    }, line);
    li.append(s.name);
    at("legend").append(li);
  });
  cases.forEach((_, k) => mark(k));
  count();
  arrange();
  show(shown);
})();
