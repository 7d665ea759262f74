// Persons at JupyterLab: node jupyterlab_in_process.mjs CHROMIUM URL FOLDER SCREENSHOTS SCENARIO
// URL is that of the notebook, which test_jupyterlab_in_process.py has written to FOLDER.

import { strict as assert } from "node:assert";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";

import { launch, Notebook } from "./lab.mjs";

const [chromium, url, folder, screenshots, scenario] = process.argv.slice(2);

// The order of the cells.
const [HELLO, WIDGET, INPUT, LOOP, DEFINED, CRASH, PRINT, DEBUGGED] = Array(8).keys();

const browser = await launch(chromium);
const context = await browser.newContext();
const page = await context.newPage();
const notebook = new Notebook(page);
let taken = 0;

async function look(name, at = page) {
  if (!screenshots) return;
  taken += 1;
  await at.screenshot({ path: join(screenshots, `${scenario}-${taken}-${name}.png`) });
}

// Wait until the cell that prints has ended, and check that no line is missing or there twice.
async function seesAllLines() {
  await answer(PRINT, "the end");
  await notebook.isDone(PRINT);
  await notebook.shows(PRINT, "the end");
  const lines = (await notebook.text(PRINT)).split("\n").map((line) => line.trim());
  const printed = lines.filter((line) => line && !line.startsWith("go on?"));
  assert.equal(printed.join(" "), ["begin", ...Array(300).keys(), "the end"].join(" "));
}

async function answer(index, text) {
  await notebook.cell(index).locator("input.jp-Stdin-input").fill(text);
  await page.keyboard.press("Enter");
}

const scenarios = {
  async work() {
    await notebook.open(url);
    await notebook.run(HELLO);
    await notebook.shows(HELLO, "hello");

    await notebook.run(WIDGET);
    const handle = notebook.cell(WIDGET).locator(".noUi-handle");
    await handle.focus();
    await page.keyboard.press("ArrowRight");
    await notebook.shows(WIDGET, "moved to 4");
    await look("widget");

    await notebook.run(INPUT);
    await answer(INPUT, "Ada");
    await notebook.shows(INPUT, "hello Ada");

    await notebook.run(LOOP);
    await notebook.shows(LOOP, "looping");
    await notebook.command("i", "i");
    await notebook.shows(LOOP, "KeyboardInterrupt");
    await notebook.isIdle();
    await look("interrupt");

    await notebook.run(DEFINED);
    await notebook.shows(DEFINED, "True");
    await notebook.command("0", "0");
    await notebook.dialog("jp-mod-warn");
    await notebook.isIdle();
    await notebook.run(DEFINED);
    await notebook.shows(DEFINED, "False");
    await look("restart");

    await notebook.run(CRASH);
    assert.match(await notebook.dialog("jp-mod-accept"), /It will restart automatically/);
    await notebook.shows(CRASH, "[the kernel died: exit status 3]");
    await notebook.isIdle();
    await notebook.run(HELLO);
    await notebook.isDone(HELLO);
    await notebook.shows(HELLO, "hello");
    await look("crash");
  },

  async "connections and debugger"() {
    const sockets = [];
    await page.routeWebSocket(/channels/, (socket) => {
      sockets.push([socket, socket.connectToServer()]);
    });
    await notebook.open(url);

    await notebook.run(PRINT);
    await notebook.shows(PRINT, "begin");
    assert.equal(sockets.length, 1);
    for (const end of sockets[0]) await end.close();
    await writeFile(join(folder, "away"), "");
    await seesAllLines();
    await look("lost connection");

    const other = new Notebook(await context.newPage());
    await other.open(url);
    await notebook.run(HELLO);
    await notebook.shows(HELLO, "hello");
    await other.run(DEFINED);
    await other.shows(DEFINED, "True");
    assert.equal(await notebook.text(DEFINED), "");
    await look("two tabs", other.page);
    await other.page.close();

    await page.locator(".jp-DebuggerBugButton").click();
    await page.locator(".jp-DebuggerBugButton[aria-pressed=true]").waitFor();
    const cell = notebook.cell(DEBUGGED);
    await cell.locator(".cm-content").click();
    await cell.locator(".cm-breakpoint-gutter .cm-gutterElement").nth(2).click({ force: true });
    await page.locator(".jp-DebuggerBreakpoints-body", { hasText: "Cell" }).waitFor();
    await notebook.run(DEBUGGED);
    await page.locator(".jp-DebuggerCallstack-body", { hasText: "double" }).waitFor();
    await look("stopped");
    await page.keyboard.press("F9");
    await notebook.isDone(DEBUGGED);
    await notebook.shows(DEBUGGED, "42");
    await look("continued");
  },

  async reload() {
    page.on("dialog", (question) => question.accept()); // the notebook is not saved
    await notebook.open(url);
    await notebook.run(PRINT);
    await notebook.shows(PRINT, "begin");
    await page.reload();
    await notebook.cell(PRINT).locator(".jp-InputArea-prompt", { hasText: "[*]" }).waitFor();
    await notebook.shows(PRINT, "begin");
    await look("reloaded");
    await writeFile(join(folder, "away"), "");
    await notebook.cell(PRINT).locator("input.jp-Stdin-input").waitFor();
    await page.reload();
    await seesAllLines();
    await look("continued again");
    await notebook.run(HELLO);
    await notebook.isDone(HELLO);
    await notebook.shows(HELLO, "hello");
  },
};

try {
  await scenarios[scenario]();
} catch (error) {
  await look("failed");
  throw error;
} finally {
  await browser.close();
}
