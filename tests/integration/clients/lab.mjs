// JupyterLab in Chromium: the browser, and a notebook on a page.

import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.KERNELPROTO_NODE, "/"));
const { chromium } = require("playwright-core");

export function launch(executablePath) {
  return chromium.launch({
    executablePath,
    args: [
      "--no-sandbox", // root needs this
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

export class Notebook {
  constructor(page) {
    this.page = page;
    page.setDefaultTimeout(40_000);
  }

  async open(url) {
    await this.page.goto(url);
    await this.isIdle();
  }

  // JupyterLab runs no cell, and does not say so, before the kernel is ready.
  async isIdle() {
    await this.page.locator("#jp-main-statusbar").getByText("| Idle").waitFor();
  }

  cell(index) {
    return this.page.locator(".jp-CodeCell").nth(index);
  }

  async run(index) {
    await this.cell(index).locator(".cm-content").click();
    await this.page.keyboard.press("Control+Enter");
  }

  // Wait until a cell has an output with this text.
  async shows(index, text) {
    const outputs = this.cell(index).locator(".jp-OutputArea-output", { hasText: text });
    await outputs.first().waitFor();
  }

  // Wait until the star beside a cell has become a number.
  async isDone(index) {
    await this.cell(index).locator(".jp-InputArea-prompt", { hasText: /\[\d+\]/ }).waitFor();
  }

  async text(index) {
    const outputs = await this.cell(index).locator(".jp-OutputArea-output").allInnerTexts();
    return outputs.join("\n");
  }

  // Press keys in command mode.
  async command(...keys) {
    for (const key of ["Escape", ...keys]) await this.page.keyboard.press(key);
  }

  // Wait for a dialog, press its button, and return the text.
  async dialog(button) {
    const dialog = this.page.locator(".jp-Dialog");
    const text = await dialog.innerText();
    await dialog.locator(`button.${button}`).click();
    await dialog.waitFor({ state: "detached" });
    return text;
  }
}
