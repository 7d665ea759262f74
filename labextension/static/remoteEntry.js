// A plug-in of JupyterLab: after a page is loaded again, running cells show their next outputs.
//
// JupyterLab forgets which cell a request belongs to when the page is loaded again. It then ignores
// the outputs and the reply, although the server sends them. This plug-in keeps the cell of each
// request in the sessionStorage of the tab. Just before the page is left, it also keeps the outputs
// of the running cells, which the file of the notebook may lack, and the question of an input().
//
// JupyterLab loads this file as it is; there is no build step.

(() => {
  const KEY = "kernelproto:";
  const MOST_REQUESTS = 1000; // per kernel; the oldest are forgotten
  const MOST_CHARACTERS = 2 ** 20; // of the outputs of one kernel's running cells

  /** The requests of one kernel that have no reply yet, in the sessionStorage. */
  class Requests {
    constructor(kernelId) {
      this.key = KEY + kernelId;
      this.saved = JSON.parse(sessionStorage.getItem(this.key) ?? "null") ?? {
        cells: [],
        outputs: [],
        question: null,
      };
      this.cells = new Map(this.saved.cells); // msg_id -> cell id
      this.earlier = new Set(this.cells.keys()); // sent before the page was loaded
      this.question = this.saved.question; // an input_request without an answer
    }

    add(msgId, cellId) {
      for (const [earlier, cell] of this.cells) {
        if (cell === cellId) this.remove(earlier); // its outputs are out of date
      }
      this.cells.set(msgId, cellId);
      while (this.cells.size > MOST_REQUESTS) this.remove(this.cells.keys().next().value);
      this.save();
    }

    remove(msgId) {
      if (!this.cells.delete(msgId)) return;
      if (this.question?.parent_header.msg_id === msgId) this.question = null;
      this.earlier.delete(msgId);
      this.save();
    }

    clear() {
      this.cells.clear();
      this.earlier.clear();
      this.question = null;
      sessionStorage.removeItem(this.key);
    }

    save(outputs = []) {
      if (this.cells.size === 0) return this.clear();
      const text = JSON.stringify({ cells: [...this.cells], outputs, question: this.question });
      try {
        sessionStorage.setItem(this.key, text);
      } catch {
        // The storage is full: JupyterLab behaves as without this plug-in.
        sessionStorage.removeItem(this.key);
      }
    }
  }

  /** Shows the messages of one kernel in the cells of one notebook. */
  class Continuation {
    constructor(notebook, kernel) {
      this.notebook = notebook;
      this.kernel = kernel;
      this.requests = new Requests(kernel.id);
      this.displays = new Map(); // display_id -> [cell, index of the output]
      this.early = []; // messages that came before the notebook had its cells
      this.isReady = false;
      this.onMessage = (_, { msg, direction }) => {
        if (direction === "send") this.noteSent(msg);
        else if (this.isReady) this.receive(msg);
        else this.early.push(msg);
      };
      this.onLeave = () => this.keepOutputs();
      kernel.anyMessage.connect(this.onMessage);
      window.addEventListener("pagehide", this.onLeave);
    }

    /** The notebook has its cells. */
    begin() {
      for (const msgId of this.requests.earlier) {
        const cell = this.cellOf(msgId);
        if (cell) cell.model.trusted = true; // as JupyterLab does when the user runs a cell
        this.setRunning(cell, true);
      }
      for (const [cellId, outputs] of this.requests.saved.outputs) {
        this.cell(cellId)?.model.outputs.fromJSON(outputs);
      }
      this.isReady = true;
      const { question } = this.requests;
      if (question) this.receive(question);
      for (const msg of this.early.splice(0)) this.receive(msg);
    }

    end() {
      this.kernel.anyMessage.disconnect(this.onMessage);
      window.removeEventListener("pagehide", this.onLeave);
    }

    noteSent(msg) {
      const cellId = msg.metadata?.cellId;
      if (msg.header.msg_type === "execute_request" && cellId) {
        this.requests.add(msg.header.msg_id, cellId);
      }
      if (msg.header.msg_type === "input_reply") this.requests.question = null;
    }

    receive(msg) {
      const type = msg.header.msg_type;
      if (type === "status" && /restarting|dead/.test(msg.content.execution_state)) {
        for (const msgId of this.requests.earlier) this.setRunning(this.cellOf(msgId), false);
        this.requests.clear();
        return;
      }
      const msgId = msg.parent_header?.msg_id;
      const cell = this.requests.earlier.has(msgId) ? this.cellOf(msgId) : undefined;
      if (type === "input_request") this.requests.question = msg;
      if (cell) this.show(cell, type, msg);
      if (type === "execute_reply") this.requests.remove(msgId);
    }

    show(cell, type, msg) {
      const { outputs } = cell.model;
      const { transient, ...content } = msg.content;
      const displayId = transient?.display_id;
      switch (type) {
        case "execute_result":
        case "display_data":
        case "stream":
        case "error": {
          const length = outputs.add({ ...content, output_type: type });
          if (displayId) this.displays.set(displayId, [cell, length - 1]);
          break;
        }
        case "update_display_data": {
          const [shown, index] = this.displays.get(displayId) ?? [];
          if (shown && index < shown.model.outputs.length) {
            shown.model.outputs.set(index, { ...content, output_type: "display_data" });
          }
          break;
        }
        case "clear_output":
          outputs.clear(content.wait);
          break;
        case "input_request":
          cell.outputArea?.onInputRequest?.(msg, this.kernel);
          break;
        case "execute_reply":
          cell.model.executionCount = content.execution_count ?? null;
          this.setRunning(cell, false);
          break;
      }
    }

    setRunning(cell, isRunning) {
      if (!cell) return;
      cell.model.executionState = isRunning ? "running" : "idle"; // since JupyterLab 4.3
      if (isRunning) cell.setPrompt("*");
      else cell.setPrompt(`${cell.model.executionCount ?? ""}`);
    }

    keepOutputs() {
      const ids = new Set(this.requests.cells.values());
      const outputs = [...ids]
        .map((id) => [id, this.cell(id)?.model.outputs.toJSON()])
        .filter(([, shown]) => shown);
      const isSmall = JSON.stringify(outputs).length <= MOST_CHARACTERS;
      this.requests.save(isSmall ? outputs : []);
    }

    cellOf(msgId) {
      return this.cell(this.requests.cells.get(msgId));
    }

    cell(cellId) {
      const { widgets } = this.notebook;
      return widgets.find(({ model }) => model.id === cellId && model.type === "code");
    }
  }

  function follow(panel) {
    const context = panel.sessionContext;
    let continuation;
    const change = async () => {
      continuation?.end();
      const kernel = context.session?.kernel;
      const begun = (continuation = kernel && new Continuation(panel.content, kernel));
      await panel.context.ready;
      if (begun && begun === continuation) begun.begin();
    };
    context.kernelChanged.connect(change);
    panel.disposed.connect(() => continuation?.end());
    if (context.session?.kernel) change();
  }

  let scope;
  window._JUPYTERLAB ??= {};
  window._JUPYTERLAB.kernelproto = {
    init(shareScope) {
      scope = shareScope;
    },
    async get() {
      const [version] = Object.values(scope["@jupyterlab/notebook"]);
      const { INotebookTracker } = (await version.get())();
      const plugin = {
        id: "kernelproto:outputs",
        description: "Continues the outputs of running cells after a page is loaded again.",
        autoStart: true,
        requires: [INotebookTracker],
        activate(_, tracker) {
          tracker.forEach(follow);
          tracker.widgetAdded.connect((_, panel) => follow(panel));
        },
      };
      return () => ({ __esModule: true, default: plugin });
    },
  };
})();
