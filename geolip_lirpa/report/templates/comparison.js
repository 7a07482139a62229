"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 100;
  const FLAGS = ["", "wrong", "doubtful"];
  const text = (place) => (row) => data.strings[row[place]];
  // the folder, too, where it says more than what kind of files it has
  const base = (path) => path.replace(/\\/g, "/").replace(/(\.onnx|\.vnnlib)?(\.gz)?$/, "").split("/").slice(-2)
    .filter((name, place, names) => place === names.length - 1 || !["", ".", "onnx", "vnnlib"].includes(name)).join("/");
  const columns = [
    { name: "Benchmark", value: text(0), kind: "long" },
    { name: "Network", value: text(1), show: base, kind: "long" },
    { name: "Specification", value: text(2), show: base, kind: "long" },
    { name: "Method", value: text(3) },
    { name: "Verdict", value: text(4), kind: "verdict" },
    { name: "Expected", value: text(8), hidden: !data.expected },
    { name: "Seconds", value: (row) => row[5], show: (v) => v.toFixed(3), kind: "number" },
    { name: "Bound", value: (row) => row[6], shown: (row) => row[7], kind: "number" },
    { name: "Detail", value: text(10), kind: "detail" },
  ].filter((column) => !column.hidden);
  // numbers by size and words by their letters, 2 before 10
  const words = new Intl.Collator("en", { numeric: true }).compare;
  const rows = data.rows.map((row, order) => ({
    row, order, text: [0, 1, 2, 3, 4, 8, 10].map((k) => data.strings[row[k]]).concat(FLAGS[row[9]]).join("\n").toLowerCase(),
  }));
  const element = (id) => document.getElementById(id);
  const table = element("table"), body = table.tBodies[0], more = element("more");
  const state = { sort: null, down: false, limit: PAGE };
  let chosen = rows;

  function cell(column, row) {
    const td = document.createElement("td");
    const value = column.value(row);
    td.dataset.label = column.name;
    if (column.kind) td.className = column.kind;
    if (column.kind === "verdict") {
      const pill = document.createElement("span");
      pill.className = "pill " + value;
      pill.textContent = value;
      td.append(pill);
      if (row[9]) {
        const flag = document.createElement("span");
        flag.className = "flag";
        flag.textContent = row[9] === 1 ? " ✗ wrong" : " ? contradicted";
        td.append(flag);
      }
      return td;
    }
    td.textContent = column.shown ? column.shown(row) : value === null ? "" : column.show ? column.show(value) : value;
    if (column.show === base) td.title = value;
    return td;
  }

  function draw(from) {
    const fragment = document.createDocumentFragment();
    for (const { row } of chosen.slice(from, state.limit)) {
      const tr = document.createElement("tr");
      tr.className = FLAGS[row[9]];
      tr.append(...columns.map((column) => cell(column, row)));
      fragment.append(tr);
    }
    if (from === 0) body.replaceChildren(fragment);
    else body.append(fragment);
    const shown = Math.min(state.limit, chosen.length);
    element("shown").textContent = chosen.length === 0 ? "No line fits." :
      `${shown < chosen.length ? `The first ${shown} of ` : ""}${chosen.length} of ${rows.length} lines`;
    more.hidden = shown >= chosen.length;
    more.textContent = `Show ${Math.min(5 * PAGE, chosen.length - shown)} more`;
  }

  function choose() {
    const asked = element("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const method = element("method").value, verdict = element("verdict").value;
    chosen = rows.filter(({ row, text }) =>
      asked.every((word) => text.includes(word)) &&
      (!method || data.strings[row[3]] === method) &&
      (!verdict || (verdict === "!" ? row[9] !== 0 : data.strings[row[4]] === verdict)));
    if (state.sort) {
      const { value } = state.sort, sign = state.down ? -1 : 1;
      chosen.sort((a, b) => {
        const x = value(a.row), y = value(b.row);
        // what is missing stands last, whichever way
        if (x === null || y === null) return (x === null) - (y === null) || a.order - b.order;
        return sign * (typeof x === "number" ? x - y : words(x, y)) || a.order - b.order;
      });
    }
    state.limit = PAGE;
    draw(0);
  }

  function sortBy(column, down) {
    state.sort = column;
    state.down = down;
    columns.forEach(({ head }, k) => {
      if (columns[k] === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    element("sorter").value = column ? `${columns.indexOf(column)}${down ? "-" : "+"}` : "";
    choose();
  }

  const sorter = element("sorter");
  sorter.add(new Option("order of the files", ""));
  columns.forEach((column, k) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = column.name;
    button.addEventListener("click", () => sortBy(column, state.sort === column && !state.down));
    column.head = document.createElement("th");
    column.head.scope = "col";
    column.head.className = column.kind === "number" ? "number" : "";
    column.head.append(button);
    table.tHead.rows[0].append(column.head);
    sorter.add(new Option(`${column.name}, upwards`, `${k}+`));
    sorter.add(new Option(`${column.name}, downwards`, `${k}-`));
  });
  sorter.addEventListener("change", () => {
    const asked = sorter.value;
    if (asked) sortBy(columns[parseInt(asked, 10)], asked.endsWith("-"));
    else sortBy(null, false);
  });
  let waiting = 0;
  element("words").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(choose, 80);
  });
  for (const id of ["method", "verdict"]) element(id).addEventListener("change", choose);
  element("filters").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const from = state.limit;
    state.limit += 5 * PAGE;
    draw(from);
  });
  choose();
})();
