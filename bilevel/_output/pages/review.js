// Decisions on rows: a row's number → [decision, the number of its new class]. The browser keeps them for this run.
const find = id => document.getElementById(id);
const body = find("doubtful").tBodies[0], rows = [...body.rows];
let decisions = {}, keeps = true, exported = true;
try {
  decisions = JSON.parse(localStorage.getItem(review.key) ?? "{}");
} catch {
  keeps = false;
}

function keep() {
  exported = false;
  try {
    localStorage.setItem(review.key, JSON.stringify(decisions));
  } catch {
    keeps = false;
  }
  find("kept").textContent = keeps
    ? "This browser keeps your decisions until you come back."
    : "This browser cannot keep your decisions: export them before you close the page.";
}

function decide(row, decision, label) {
  const {given, proposed} = row.dataset;
  if (decision === "accept" && given === proposed) return;
  if (decision === "other" && label === given) decision = "reject";
  if (decision === "other" && label === proposed) decision = "accept";
  if (decision) decisions[row.dataset.row] = [decision, Number({accept: proposed, reject: given, other: label}[decision])];
  else delete decisions[row.dataset.row];
}

function paint(row) {
  const [decision, label] = decisions[row.dataset.row] ?? [], cell = row.querySelector(".choice");
  const select = cell.querySelector("select");
  if (decision) row.dataset.decision = decision;
  else delete row.dataset.decision;
  cell.dataset.value = decision ?? "";
  cell.querySelector(".said").textContent = decision ? `${decision}: ${review.classes[label]}` : "";
  for (const button of cell.querySelectorAll("button")) button.setAttribute("aria-pressed", button.value === decision);
  if (decision === "other") fill(select);
  select.value = decision === "other" ? label : "";
  select.classList.toggle("chosen", decision === "other");
}

// The labels to choose from are put into a row's list when somebody goes there.
function fill(select) {
  if (select.length === 1) review.classes.forEach((name, code) => select.add(new Option(name, code)));
}

const plain = text => text.toLowerCase().replace(/\s+/g, " ");
function show() {
  const text = plain(find("search").value).trim(), [given, proposed, state] =
    ["given", "proposed", "state"].map(id => find(id).value);
  let count = 0;
  for (const row of rows) {
    const data = row.dataset;
    const fits = {"": true, other: data.given !== data.proposed, open: !data.decision, decided: data.decision}[state];
    row.hidden = !(fits && (given === "" || given === data.given) && (proposed === "" || proposed === data.proposed)
      && texts.get(row).includes(text));
    count += !row.hidden;
  }
  if (body.querySelector("tr[tabindex='0']")?.hidden) stop(visible()[0]);
  const total = Object.keys(decisions).length;
  find("status").textContent = `${count} of ${rows.length} rows shown, ${total} decided`;
  find("export").disabled = !total;
  for (const id of ["accept-all", "reject-all", "undo-all"]) find(id).disabled = !count;
}

function change(some, decision, label) {
  for (const row of some) {
    decide(row, decision, label);
    paint(row);
  }
  keep();
  show();
}

const visible = () => [...body.rows].filter(row => !row.hidden);
// The row that Tab goes to.
function stop(row) {
  if (!row) return;
  body.querySelector("tr[tabindex='0']")?.setAttribute("tabindex", -1);
  row.tabIndex = 0;
}
function go(row) {
  stop(row);
  row?.focus();
}
const next = row => { do row = row.nextElementSibling; while (row?.hidden); return row; };
const previous = row => { do row = row.previousElementSibling; while (row?.hidden); return row; };

function cell(text) {
  if (/^[=+\-@]/.test(text) && isNaN(text)) text = " " + text;  // behind a space, spreadsheets do not compute it
  return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function decided() {
  const lines = [["table", "checksum", "row", "given", "decision", "label"]];
  for (const row of [...rows].sort((a, b) => a.dataset.row - b.dataset.row)) {
    const [decision, label] = decisions[row.dataset.row] ?? [];
    if (decision) {
      const labels = [review.classes[row.dataset.given], decision, review.classes[label]];
      lines.push([review.table, review.checksum, row.dataset.row, ...labels]);
    }
  }
  return "\ufeff" + lines.map(line => line.map(cell).join(",") + "\r\n").join("");
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([decided()], {type: "text/csv"}));
  link.download = "decisions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  exported = true;
}

const texts = new Map(rows.map(row => {
  const pictures = [...row.querySelectorAll("img")].map(image => image.alt);
  return [row, plain([row.textContent, ...pictures].join(" "))];
}));
for (const row of rows) {
  row.querySelector(".choice").append(find("choice").content.cloneNode(true));
  const {given, proposed} = row.dataset;
  row.querySelector("button[value=accept]").disabled = given === proposed;
  row.tabIndex = row === rows[0] ? 0 : -1;
  paint(row);
}
for (const [id, name] of [["given", "given"], ["proposed", "proposed"]]) {
  const codes = [...new Set(rows.map(row => Number(row.dataset[name])))].sort((a, b) => a - b);
  for (const code of codes) find(id).add(new Option(review.classes[code], code));
}
const headers = [...find("doubtful").tHead.rows[0].cells];
headers.forEach((header, place) => find("order").add(new Option(header.textContent, place)));
find("order").addEventListener("change", event => headers[event.target.value]?.click());

find("search").addEventListener("input", show);
for (const id of ["given", "proposed", "state"]) find(id).addEventListener("change", show);
for (const decision of ["accept", "reject", "undo"]) {
  find(`${decision}-all`).addEventListener("click", () => change(visible(), decision === "undo" ? "" : decision));
}
find("export").addEventListener("click", download);
body.addEventListener("focusin", event => event.target.matches("select") && fill(event.target));
body.addEventListener("pointerdown", event => event.target.matches("select") && fill(event.target));
body.addEventListener("click", event => {
  const row = event.target.closest("tr");
  if (event.target.matches("button")) {
    const pressed = event.target.getAttribute("aria-pressed") === "true";
    change([row], pressed ? "" : event.target.value);
  }
});
body.addEventListener("change", event => {
  if (event.target.matches("select")) change([event.target.closest("tr")], event.target.value && "other", event.target.value);
});
body.addEventListener("keydown", event => {
  const row = event.target.closest("tr");
  if (event.target.matches("select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const done = {a: "accept", r: "reject", u: ""}[event.key];
  if (event.key === "ArrowDown" || event.key === "ArrowUp") go((event.key === "ArrowDown" ? next : previous)(row));
  else if (event.key === "o") row.querySelector("select").focus();
  else if (done !== undefined) {
    const after = next(row) ?? previous(row);
    change([row], done);
    go(done ? after : row);
  } else return;
  event.preventDefault();
});
addEventListener("beforeunload", event => { if (!keeps && !exported) event.preventDefault(); });
if (!keeps) find("kept").textContent = "This browser cannot keep your decisions: export them before you close the page.";
show();
