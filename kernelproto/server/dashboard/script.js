// The page is what the server says it is: this fetches it again and again, exchanges what has
// changed, and sends what the buttons ask for. Nothing here makes HTML out of text.

const POLL_MS = 2000;
const LONGEST_PAUSE_MS = 30_000;
const PAGE_PATIENCE_MS = 15_000;
const ACTION_PATIENCE_MS = 120_000;
const DONE_MS = 8000;

// So many times as long as a look at the server takes, there is none: a large page is expensive.
const REST = 4;

// A table of fewer rows needs neither a filter nor an order.
const MANY_ROWS = 6;

const ACTIONS = {
  interrupt: {
    method: "POST",
    path: "/interrupt",
    doing: "Interrupting",
    done: "was interrupted",
  },
  restart: {
    method: "POST",
    path: "/restart",
    doing: "Restarting",
    done: "was restarted",
    verb: "Restart",
    consequence: "Its running code stops, and its variables are lost.",
  },
  shutdown: {
    method: "DELETE",
    path: "",
    doing: "Shutting down",
    done: "was shut down",
    verb: "Shut down",
    consequence: "Its running code stops, its variables are lost, and the kernel is gone.",
  },
};

// The token stays in this tab: it is for this page alone, no other request carries it by itself.
const STORE = `kernelproto token ${location.pathname}`;
let token = null;

let timer = null;
let passing = null;
let turn = 0;
let failures = 0;
let inQuestion = null;
let order = new Map(); // the places of the rows, as the server has them
const atWork = new Set();

function begin() {
  const here = new URL(location.href);
  const given = here.searchParams.get("token");
  here.searchParams.delete("token");
  history.replaceState(null, "", here);
  token = given || remembered();
  document.addEventListener("click", onClick);
  document.addEventListener("submit", onSubmit);
  document.addEventListener("input", onInput);
  document.addEventListener("visibilitychange", refresh);
  addEventListener("online", refresh);
  addEventListener("offline", refresh);
  if (!atDoor(document)) {
    remember(token);
    fillIn(document);
    refresh();
  } else if (given) {
    refuse();
  } else if (token !== null) {
    enter(); // the page was loaded again
  }
}

// The door ---------------------------------------------------------------------------------------

function atDoor(page) {
  return page.getElementById("door") !== null;
}

async function enter() {
  say("", false);
  try {
    const page = await fetchPage();
    if (atDoor(page)) {
      refuse();
    } else {
      remember(token);
      show(page);
      refresh();
    }
  } catch (error) {
    say(error instanceof Refusal ? error.message : "The server does not answer. Try again.", true);
  }
}

function refuse() {
  token = null;
  remember(null);
  say("The server does not know this token.", true);
  document.getElementById("token").select();
}

function leave(page) {
  const hadToken = token !== null;
  token = null;
  remember(null);
  show(page);
  if (hadToken) {
    say("The server does not know your token any more.", true);
  }
}

function show(page) {
  document.title = page.title;
  fillIn(page);
  document.body.replaceWith(page.body);
  document.querySelector("h1").focus();
}

// A browser may keep no storage for pages; then the token is gone when the page is loaded again.
function remembered() {
  try {
    return sessionStorage.getItem(STORE);
  } catch {
    return null;
  }
}

function remember(value) {
  try {
    if (value === null) {
      sessionStorage.removeItem(STORE);
    } else {
      sessionStorage.setItem(STORE, value);
    }
  } catch {
    return;
  }
}

// The page ---------------------------------------------------------------------------------------

function ask(path, method, accept, patience) {
  const headers = { Accept: accept };
  if (token !== null) {
    headers.Authorization = `token ${token}`;
  }
  return fetch(path, { method, headers, cache: "no-store", signal: AbortSignal.timeout(patience) });
}

// The server knows why it refuses, and says it to the user.
class Refusal extends Error {}

async function fetchPage() {
  const response = await ask("./", "GET", "text/html", PAGE_PATIENCE_MS);
  if (response.status === 429) {
    throw new Refusal((await response.json()).message);
  }
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  if (!atDoor(page) && page.getElementById("kernels") === null) {
    throw new Error("this is another page"); // the server has failed, or a proxy answers for it
  }
  return page;
}

async function refresh() {
  clearTimeout(timer);
  if (document.hidden || atDoor(document)) {
    return;
  }
  turn += 1;
  const mine = turn;
  const began = performance.now();
  let page = null;
  try {
    page = await fetchPage();
  } catch {
    // Told below.
  }
  if (mine !== turn) {
    return; // a later one is on its way
  }
  if (page === null) {
    failures += 1;
    connection("Connection lost, trying again", true);
  } else if (atDoor(page)) {
    leave(page);
    return;
  } else {
    failures = 0;
    connection("Live", false);
    update(page);
  }
  const rest = Math.max(POLL_MS * 2 ** failures, REST * (performance.now() - began));
  timer = setTimeout(refresh, Math.min(rest, LONGEST_PAUSE_MS));
}

function update(page) {
  fillIn(page);
  for (const id of ["summary", "lost"]) {
    exchange(document.getElementById(id), page.getElementById(id));
  }
  const kernels = document.getElementById("kernels");
  const newKernels = page.getElementById("kernels");
  const rows = kernels.querySelector("tbody");
  const newRows = newKernels.querySelector("tbody");
  const hadFocus = kernels.contains(document.activeElement);
  order = new Map([...(newRows?.children ?? [])].map((row, place) => [row.id, place]));
  if (rows !== null && newRows !== null) {
    updateRows(rows, newRows);
  } else {
    exchange(kernels, newKernels);
  }
  arrange(false);
  if (hadFocus && document.activeElement === document.body) {
    document.querySelector("h1").focus(); // the button has gone with its kernel
  }
}

// A cell that stays the same is left alone, so that the focus stays where it is.
function updateRows(rows, newRows) {
  const old = new Map([...rows.children].map((row) => [row.id, row]));
  for (const row of [...newRows.children]) {
    const known = old.get(row.id);
    if (known === undefined) {
      rows.append(row);
    } else {
      [...row.children].forEach((cell, column) => exchange(known.children[column], cell));
      old.delete(row.id);
    }
  }
  for (const row of old.values()) {
    row.remove();
  }
}

// Order and filter -------------------------------------------------------------------------------

function onInput(event) {
  if (event.target.closest("#tools") !== null) {
    arrange(true);
  }
}

// Rows move because the user asks for another order. A new value moves its row only while neither
// the pointer nor the focus is in the table, so that no row moves away under a click.
function arrange(isAsked) {
  const body = document.querySelector("#kernels tbody");
  const rows = [...(body?.children ?? [])];
  const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const column = document.getElementById("sort").value;
  let matching = 0;
  for (const row of rows) {
    row.hidden = words.length > 0 && !matches(row, words);
    matching += row.hidden ? 0 : 1;
  }
  tell("matches", words.length > 0 ? `${matching} of ${rows.length} match` : "", false);
  document.getElementById("tools").hidden =
    rows.length < MANY_ROWS && words.length === 0 && column === "";
  const isInUse = body?.matches(":hover, :focus-within");
  if (isAsked || column === "" || !isInUse) {
    let next = body?.firstElementChild;
    for (const row of sorted(rows, column)) {
      if (row === next) {
        next = next.nextElementSibling;
      } else {
        body.insertBefore(row, next);
      }
    }
  }
}

function matches(row, words) {
  const cells = [...row.children].slice(0, 3); // kernel and document, state, user
  const text = cells.map((cell) => cell.textContent).join(" ").toLowerCase();
  return words.every((word) => text.includes(word) || row.dataset.kernel.startsWith(word));
}

// Numbers fall, and words rise. Rows of the same value stay in the order of the server.
function sorted(rows, column) {
  const inOrder = rows
    .map((row) => ({ row, place: order.get(row.id) ?? 0, value: valueOf(row, column) }))
    .sort((one, other) => compare(one.value, other.value) || one.place - other.place);
  return inOrder.map(({ row }) => row);
}

function valueOf(row, column) {
  if (column === "") {
    return 0;
  }
  const cell = row.children[Number(column)];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
}

const { compare: compareWords } = new Intl.Collator(undefined, { numeric: true });

function compare(one, other) {
  return typeof one === "number" ? other - one : compareWords(one, other);
}

function exchange(old, fresh) {
  if (!old.isEqualNode(fresh)) {
    old.replaceWith(fresh);
  }
}

// Behind a proxy only the browser knows where the page is.
function fillIn(page) {
  for (const element of page.querySelectorAll(".here")) {
    element.textContent = location.origin + location.pathname;
  }
}

// What people do ---------------------------------------------------------------------------------

function onClick(event) {
  const button = event.target.closest("button[data-action]");
  if (button === null) {
    return;
  }
  const { kernel, owner } = button.closest("[data-kernel]").dataset;
  const action = ACTIONS[button.dataset.action];
  if (action.consequence === undefined) {
    act(kernel, owner, action);
  } else {
    makeSure(kernel, owner, action);
  }
}

function onSubmit(event) {
  if (event.target.id === "door") {
    event.preventDefault(); // which would put the token into the address
    token = new FormData(event.target).get("token").trim();
    enter();
  } else if (event.submitter.value === "yes") {
    act(...inQuestion);
  }
}

// The owner is named where the kernel is another user's, on an admin's page.
function makeSure(kernel, owner, action) {
  inQuestion = [kernel, owner, action];
  const dialog = document.querySelector("dialog");
  document.getElementById("question").textContent = `${action.verb} ${nameOf(kernel, owner)}?`;
  document.getElementById("consequence").textContent = action.consequence;
  dialog.querySelector("[value=yes]").textContent = action.verb;
  dialog.showModal();
}

async function act(kernel, owner, action) {
  if (atWork.has(kernel)) {
    return;
  }
  const name = nameOf(kernel, owner);
  atWork.add(kernel);
  document.getElementById(`kernel-${kernel}`)?.setAttribute("aria-busy", "true");
  say(`${action.doing} ${name} …`, false);
  try {
    const query = owner === undefined ? "" : `?include_all=1&owner=${encodeURIComponent(owner)}`;
    const path = `api/kernels/${encodeURIComponent(kernel)}${action.path}${query}`;
    const response = await ask(path, action.method, "application/json", ACTION_PATIENCE_MS);
    if (!response.ok) {
      throw new Error((await response.json()).message);
    }
    say(`K${name.slice(1)} ${action.done}.`, false);
    passing = setTimeout(say, DONE_MS, "", false); // what went wrong stays
  } catch (error) {
    say(`${action.doing} ${name} failed: ${error.message}`, true);
  } finally {
    atWork.delete(kernel);
    document.getElementById(`kernel-${kernel}`)?.removeAttribute("aria-busy");
    refresh();
  }
}

function nameOf(kernel, owner) {
  const name = `kernel ${kernel.slice(0, 8)}`;
  return owner === undefined ? name : `${name} of ${owner}`;
}

function say(text, isError) {
  clearTimeout(passing);
  tell("news", text, isError);
}

function connection(text, isError) {
  tell("connection", text, isError);
  document.body.classList.toggle("stale", isError);
}

function tell(id, text, isError) {
  const element = document.getElementById(id);
  if (element !== null && element.textContent !== text) {
    element.textContent = text; // which is read out: only what is new
  }
  element?.classList.toggle("error", isError);
}

begin();
