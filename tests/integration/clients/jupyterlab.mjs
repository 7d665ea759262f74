// A person at JupyterLab: node jupyterlab.mjs CHROMIUM URL [SCREENSHOT]
// It opens the notebook of that address, runs its first cell, and says what comes of it.

import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.KERNELPROTO_NODE, "/"));
const { chromium } = require("playwright-core");

const [executablePath, url, screenshot] = process.argv.slice(2);

const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox", // which root cannot have
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const page = await browser.newPage();
try {
  page.setDefaultTimeout(45_000);
  await page.goto(url);
  // JupyterLab runs nothing, and does not say so, before the kernel is there.
  await page.locator("#jp-main-statusbar").getByText("| Idle").waitFor();
  const cell = page.locator(".jp-CodeCell").first();
  await cell.locator(".cm-content").click();
  await page.keyboard.press("Shift+Enter");
  const output = cell.locator(".jp-OutputArea-output").first();
  await output.waitFor();
  // It has been run when the star at its side has become a number.
  await cell.locator(".jp-InputArea-prompt", { hasText: /\[\d+\]/ }).waitFor();
  console.log(await output.innerText());
} finally {
  if (screenshot) await page.screenshot({ path: screenshot });
  await browser.close();
}
