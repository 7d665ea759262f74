// A person at JupyterLab while its kernel server is replaced: node jupyterlab_kept.mjs CHROMIUM URL
// FOLDER SCREENSHOTS. URL is that of the notebook, which test_jupyterlab_kept.py has written to
// FOLDER. Files in FOLDER say how far the cells, this script and the test are.

import { strict as assert } from "node:assert";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";

import { launch, Notebook } from "./lab.mjs";

const [chromium, url, folder, screenshots] = process.argv.slice(2);

// The order of the cells.
const [SET, SHOW] = [0, 1];
const RUN = { SIGKILL: 2, SIGTERM: 3 };

const browser = await launch(chromium);
const page = await browser.newPage();
const notebook = new Notebook(page);

async function look(name) {
  if (screenshots) await page.screenshot({ path: join(screenshots, `${name}.png`) });
}

async function exists(name) {
  while (!existsSync(join(folder, name))) await setTimeout(20);
}

try {
  await notebook.open(url);
  await notebook.run(SET);
  await notebook.isDone(SET);
  await look("1-variable-set");
  for (const [signal, cell] of Object.entries(RUN)) {
    await notebook.run(cell);
    await notebook.shows(cell, "begin");
    await writeFile(join(folder, `${signal}-seen`), "");
    await exists(`${signal}-ended`);
    await look(`${signal}-1-no-server`);
    await exists(`${signal}-back`);
    await notebook.shows(cell, "the end");
    await notebook.isDone(cell);
    await look(`${signal}-2-goes-on`);
    const lines = (await notebook.text(cell)).split("\n").map((line) => line.trim());
    const printed = lines.filter((line) => line);
    // After a SIGKILL, messages arrive twice if the page had not acknowledged them.
    if (signal === "SIGKILL" && printed[1] === "begin") printed.shift();
    assert.equal(printed.join(" "), ["begin", ...Array(300).keys(), "the end"].join(" "));
    await notebook.run(SHOW);
    await notebook.shows(SHOW, `x is 42 after ${signal}`);
    await notebook.isIdle();
    await look(`${signal}-3-same-variables`);
  }
} catch (error) {
  await look("failed");
  throw error;
} finally {
  await browser.close();
}
