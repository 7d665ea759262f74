// The server renders the page. This script fetches it repeatedly, replaces the parts that have
// changed, and sends the requests of the buttons. It never makes HTML from text.

const POLL_MS = 2000;
const MOST_PAUSE_MS = 30_000;
const PAGE_TIMEOUT_MS = 15_000;
const ACTION_TIMEOUT_MS = 120_000;
const DONE_MS = 8000;

// The pause after a fetch is at least this many times its duration: a large page is expensive.
const PAUSE_FACTOR = 4;

// A table with fewer rows has neither filter nor sort.
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

// The token is stored for this tab and this page only. Unlike a cookie, the browser never sends it.
const STORE = `kernelproto token ${location.pathname}`;
let token = null;

let timer = null;
let passing = null;
let turn = 0;
let failures = 0;
let inDialog = null;
let order = new Map(); // the positions of the rows on the server's page
const pending = new Set(); // the kernels with an action that runs

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
  if (!isLogin(document)) {
    remember(token);
    fillIn(document);
    refresh();
  } else if (given) {
    refuse();
  } else if (token !== null) {
    signIn(); // the page was reloaded
  }
}

// Login ------------------------------------------------------------------------------------------

function isLogin(page) {
  return page.getElementById("login") !== null;
}

async function signIn() {
  say("", false);
  try {
    const page = await fetchPage();
    if (isLogin(page)) {
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
  say("This token is unknown. Try another one.", true);
  document.getElementById("token").select();
}

function signOut(page) {
  const hadToken = token !== null;
  token = null;
  remember(null);
  show(page);
  if (hadToken) {
    say("Your token is no longer valid. Sign in again.", true);
  }
}

function show(page) {
  document.title = page.title;
  fillIn(page);
  document.body.replaceWith(page.body);
  document.querySelector("h1").focus();
}

// A browser may block storage. Then the user signs in again after a reload.
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

// A refusal of the server, with a message for the user.
class Refusal extends Error {}

async function fetchPage() {
  const response = await ask("./", "GET", "text/html", PAGE_TIMEOUT_MS);
  if (response.status === 429) {
    throw new Refusal((await response.json()).message);
  }
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  if (!isLogin(page) && page.getElementById("kernels") === null) {
    throw new Error("this is another page"); // an error page of the server or of a proxy
  }
  return page;
}

async function refresh() {
  clearTimeout(timer);
  if (document.hidden || isLogin(document)) {
    return;
  }
  turn += 1;
  const mine = turn;
  const began = performance.now();
  let page = null;
  try {
    page = await fetchPage();
  } catch {
    // Reported below.
  }
  if (mine !== turn) {
    return; // a later refresh has begun
  }
  if (page === null) {
    failures += 1;
    connection("Connection lost, trying again", true);
  } else if (isLogin(page)) {
    signOut(page);
    return;
  } else {
    failures = 0;
    connection("Live", false);
    update(page);
  }
  const pause = Math.max(POLL_MS * 2 ** failures, PAUSE_FACTOR * (performance.now() - began));
  timer = setTimeout(refresh, Math.min(pause, MOST_PAUSE_MS));
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
    document.querySelector("h1").focus(); // the kernel's row, which had the focus, is gone
  }
}

// Cells that have not changed stay, and keep the focus.
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

// Rows move when the user changes the sort. A new value moves its row only while neither pointer nor
// focus is in the table, so no row moves away under a click.
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

// Numbers in descending order, words in ascending order; equal rows in the order of the server.
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

// Behind a proxy only the browser knows the address of the page.
function fillIn(page) {
  for (const element of page.querySelectorAll(".here")) {
    element.textContent = location.origin + location.pathname;
  }
}

// Actions ----------------------------------------------------------------------------------------

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
    confirmAction(kernel, owner, action);
  }
}

function onSubmit(event) {
  if (event.target.id === "login") {
    event.preventDefault(); // a submit would put the token into the address
    token = new FormData(event.target).get("token").trim();
    signIn();
  } else if (event.submitter.value === "yes") {
    act(...inDialog);
  }
}

// An admin's page names the owner of another user's kernel.
function confirmAction(kernel, owner, action) {
  inDialog = [kernel, owner, action];
  const dialog = document.querySelector("dialog");
  document.getElementById("question").textContent = `${action.verb} ${nameOf(kernel, owner)}?`;
  document.getElementById("consequence").textContent = action.consequence;
  dialog.querySelector("[value=yes]").textContent = action.verb;
  dialog.showModal();
}

async function act(kernel, owner, action) {
  if (pending.has(kernel)) {
    return;
  }
  const name = nameOf(kernel, owner);
  pending.add(kernel);
  document.getElementById(`kernel-${kernel}`)?.setAttribute("aria-busy", "true");
  say(`${action.doing} ${name} …`, false);
  try {
    const query = owner === undefined ? "" : `?include_all=1&owner=${encodeURIComponent(owner)}`;
    const path = `api/kernels/${encodeURIComponent(kernel)}${action.path}${query}`;
    const response = await ask(path, action.method, "application/json", ACTION_TIMEOUT_MS);
    if (!response.ok) {
      throw new Error((await response.json()).message);
    }
    say(`K${name.slice(1)} ${action.done}.`, false);
    passing = setTimeout(say, DONE_MS, "", false); // an error stays
  } catch (error) {
    say(`${action.doing} ${name} failed: ${error.message}`, true);
  } finally {
    pending.delete(kernel);
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
    element.textContent = text; // screen readers announce each change
  }
  element?.classList.toggle("error", isError);
}

begin();
