// A person at JupyterLab runs all cells: node lab_pictures.mjs CHROMIUM URL PICTURE
// URL is that of the notebook, whose cells all have an output. The outputs are printed, and the
// page is in PICTURE.

import { launch, Notebook } from "./lab.mjs";

const [chromium, url, picture] = process.argv.slice(2);

const browser = await launch(chromium);
const page = await browser.newPage({ viewport: { width: 1100, height: 800 } });
try {
  const notebook = new Notebook(page);
  page.setDefaultTimeout(90_000); // an engine may take its time
  await notebook.open(url);
  const count = await page.locator(".jp-CodeCell").count();
  for (let cell = 0; cell < count; cell++) {
    await notebook.run(cell);
    await notebook.isDone(cell);
    await notebook.cell(cell).locator(".jp-OutputArea-output").first().waitFor();
    console.log(await notebook.text(cell));
  }
  await notebook.isIdle();
} finally {
  await page.screenshot({ path: picture });
  await browser.close();
}
