/* What sorts: a column's heading is a button, and says which way it is sorted. */
function headingButton(head, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...(head.querySelector("p") || head).childNodes);
  head.replaceChildren(button);
  button.addEventListener("click", act);
}

function markSorted(heads, column, down) {
  heads.forEach((head, n) => {
    if (n === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

/* The scoreboard: filters and sorting over the one table of class fl-board. Without this script all rows are shown. */
document.addEventListener("DOMContentLoaded", () => {
  const table = document.querySelector("table.fl-board");
  if (!table || !table.tBodies.length) return;
  const body = table.tBodies[0];
  const names = ["claim", "statement", "chapter", "run", "verdict", "effect"];
  const verdicts = ["holds", "fails", "negligible", "inconclusive", "not run"];

  // read before MathJax sets formulas, so that they can be searched as they are written
  const rows = [...body.rows].map((row, at) => {
    const said = Object.fromEntries(names.map((name, n) => [name, row.cells[n].textContent.replace(/\s+/g, " ").trim()]));
    const badge = row.cells[4].querySelector(".verdict");
    const verdict = verdicts.find((word) => badge && badge.textContent.includes(word)) || "";
    const text = Object.values(said).join(" ").toLowerCase();
    return { row, at, ...said, verdict, primary: Boolean(row.cells[0].querySelector("strong")), text };
  });
  const keys = {
    claim: (r) => r.claim, statement: (r) => r.statement, chapter: (r) => r.at, run: (r) => r.run,
    verdict: (r) => verdicts.indexOf(r.verdict),
    effect: (r) => { const value = parseFloat(r.effect.replace("\u2212", "-")); return Number.isNaN(value) ? Infinity : value; },
  };

  const form = document.createElement("form");
  form.className = "fl-filters";
  form.setAttribute("role", "search");
  form.setAttribute("aria-label", "Filter the claims");
  const field = (label, element, className = "") => {
    const around = document.createElement("label");
    around.className = className;
    around.append(...(className ? [element, label] : [label, element]));
    form.append(around);
    return element;
  };
  const choice = (name, label, values, all) => {
    const select = document.createElement("select");
    select.name = name;
    for (const [value, words] of [["", all], ...values.map((v) => (Array.isArray(v) ? v : [v, v]))]) select.add(new Option(words, value));
    return field(label, select);
  };
  const distinct = (name) => [...new Set(rows.map((r) => r[name]))];
  const words = document.createElement("input");
  words.type = "search";
  words.name = "text";
  field("Text", words);
  choice("chapter", "Chapter", distinct("chapter"), "all chapters");
  choice("run", "Run", distinct("run"), "all runs");
  choice("verdict", "Verdict", verdicts.filter((v) => rows.some((r) => r.verdict === v)), "all verdicts");
  choice("sort", "Sort by", names.filter((n) => n !== "chapter").map((n) => [n, n === "statement" ? "what it says" : n]), "chapter");
  const primary = document.createElement("input");
  primary.type = "checkbox";
  primary.name = "primary";
  field("primary claims only", primary, "fl-check");
  const count = document.createElement("p");
  count.className = "fl-count";
  count.setAttribute("role", "status");

  // cards on a phone are no table to a browser, and stay one to who cannot see them
  for (const [selector, role] of [["thead, tbody", "rowgroup"], ["tr", "row"], ["th", "columnheader"], ["td", "cell"]]) {
    for (const part of table.querySelectorAll(selector)) part.setAttribute("role", role);
  }
  table.setAttribute("role", "table");

  let down = false;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, n) => {
    headingButton(head, () => {
      const name = names[n] === "chapter" ? "" : names[n];
      down = form.elements.sort.value === name && !down;
      form.elements.sort.value = name;
      show();
    });
  });

  const show = () => {
    const { chapter, run, verdict, sort } = form.elements;
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const key = keys[sort.value || "chapter"];
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x === y ? 0 : x - y;
      return (down ? -order : order) || a.at - b.at;
    };
    rows.sort(compare);
    let shown = 0;
    for (const r of rows) {
      const fits = (!chapter.value || r.chapter === chapter.value) && (!run.value || r.run === run.value) &&
        (!verdict.value || r.verdict === verdict.value) && (!primary.checked || r.primary) &&
        wanted.every((word) => r.text.includes(word));
      r.row.hidden = !fits;
      shown += fits;
    }
    body.append(...rows.map((r) => r.row));
    markSorted(heads, names.indexOf(sort.value || "chapter"), down);
    count.textContent = `${shown} of ${rows.length} results shown` + (primary.checked ? ": primary claims only" : "");
    const kept = new URLSearchParams([...new FormData(form)].filter(([name, value]) => value && name !== "primary"));
    if (!primary.checked) kept.set("primary", "off");
    const address = new URL(location.href);
    address.hash = kept.toString();
    if (address.href !== location.href) history.replaceState(null, "", address);
  };

  // what a link asks for: scoreboard.html#verdict=fails
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const name of ["text", "chapter", "run", "verdict", "sort"]) if (asked.has(name)) form.elements[name].value = asked.get(name);
  primary.checked = asked.get("primary") !== "off" && rows.some((r) => r.primary);
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const kind of ["input", "change"]) {
    form.addEventListener(kind, (event) => { if (event.target.name === "sort") down = false; show(); });
  }
  const box = table.closest(".pst-scrollable-table-container") || table;
  box.before(form, count);
  show();
});

/* The leaderboard: each table of class fl-leaderboard sorts by a column, from its heading or, on a phone, from a list. */
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.fl-leaderboard")) {
    const [body, heads] = [table.tBodies[0], [...table.tHead.rows[0].cells]];
    const names = heads.map((head) => head.textContent.trim());
    const rows = [...body.rows].map((row, at) => ({ row, at, cells: [...row.cells].map((c) => c.textContent.trim()) }));
    const field = document.createElement("label");
    const select = document.createElement("select");
    select.add(new Option("place", ""));
    names.forEach((name, n) => select.add(new Option(name.toLowerCase(), n)));
    field.append("Sort by", select);
    const form = document.createElement("form");
    form.className = "fl-filters fl-order";
    form.setAttribute("aria-label", "Sort the table");
    form.append(field);
    form.addEventListener("submit", (event) => event.preventDefault());
    const number = (text) => parseFloat(text.replace("\u2212", "-"));
    let down = false;
    const show = () => {
      const n = select.value;
      const compare = (a, b) => {
        if (n === "") return a.at - b.at;
        const [x, y] = [number(a.cells[n]), number(b.cells[n])];
        if (Number.isNaN(x) && Number.isNaN(y)) return (down ? -1 : 1) * a.cells[n].localeCompare(b.cells[n]) || a.at - b.at;
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // what has no number comes last
        return (down ? y - x : x - y) || a.at - b.at;
      };
      body.append(...rows.sort(compare).map((r) => r.row));
      markSorted(heads, n === "" ? -1 : Number(n), down);
    };
    heads.forEach((head, n) => {
      headingButton(head, () => {
        // of balance and accuracy the largest first, of what moves the least
        down = select.value === String(n) ? !down : ["Balance", "Seeds", "Accuracy"].includes(names[n]);
        select.value = n;
        show();
      });
    });
    select.addEventListener("change", () => {
      down = ["Balance", "Seeds", "Accuracy"].includes(names[select.value]);
      show();
    });
    (table.closest(".pst-scrollable-table-container") || table).before(form);
  }
});
