// A person at JupyterLab: node jupyterlab.mjs CHROMIUM URL [SCREENSHOT]
// It opens the notebook of that address, runs its first cell, and prints the output.

import { launch, Notebook } from "./lab.mjs";

const [chromium, url, screenshot] = process.argv.slice(2);

const browser = await launch(chromium);
const page = await browser.newPage();
try {
  const notebook = new Notebook(page);
  await notebook.open(url);
  await notebook.run(0);
  await notebook.isDone(0);
  await notebook.shows(0, /./);
  console.log(await notebook.text(0));
} finally {
  if (screenshot) await page.screenshot({ path: screenshot });
  await browser.close();
}
