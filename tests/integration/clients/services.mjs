// What @jupyterlab/services does with a server: node services.mjs URL TOKEN FRAMING SCENARIO
// It ends with status 0 when everything was as it should be.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const require = createRequire(join(process.env.KERNELPROTO_NODE, "/"));
const { KernelManager, KernelSpecManager, ServerConnection, SessionManager } =
  require("@jupyterlab/services");
const WebSocket = require("ws");

const [url, token, framing, scenario] = process.argv.slice(2);

// The WebSockets that were opened, so that one can be lost as a network loses it.
const sockets = [];

class Socket extends WebSocket {
  constructor(address, protocols) {
    super(address, framing === "v1" ? protocols : []);
    sockets.push(this);
  }
}

const serverSettings = ServerConnection.makeSettings({
  baseUrl: url,
  wsUrl: url.replace("http", "ws"),
  token,
  WebSocket: Socket,
});
const options = { serverSettings, standby: "never" };
const kernels = new KernelManager(options);

function until(signal, matches) {
  return new Promise((resolve) => {
    function look(sender, value) {
      if (matches(value)) {
        signal.disconnect(look);
        resolve(value);
      }
    }
    signal.connect(look);
  });
}

/** Run code; return its reply, with the outputs as {text, value, error}. */
async function run(kernel, code, onOutput = () => {}, content = {}) {
  const future = kernel.requestExecute({ code, ...content });
  const result = { text: "", value: undefined, error: undefined };
  future.onIOPub = ({ header, content }) => {
    if (header.msg_type === "stream") result.text += content.text;
    if (header.msg_type === "execute_result") result.value = content.data["text/plain"];
    if (header.msg_type === "error") result.error = content.ename;
    onOutput(result, future);
  };
  future.onStdin = ({ header, content }) => {
    assert.equal(header.msg_type, "input_request");
    future.sendInputReply({ value: `answer to ${content.prompt}`, status: "ok" }, header);
  };
  result.reply = (await future.done).content;
  return result;
}

const scenarios = {
  async lists() {
    const specs = new KernelSpecManager(options);
    await specs.ready;
    assert.equal(specs.specs.default, "fork/kernel");
    assert.equal(specs.specs.kernelspecs["fork/kernel"].language, "python");
    specs.dispose();
    const kernel = await kernels.startNew({ name: "fork/kernel" });
    await kernel.info;
    await kernels.refreshRunning();
    const model = [...kernels.running()].find(({ id }) => id === kernel.id);
    assert.equal(model.connections, 1);
    assert.equal((await kernels.findById(kernel.id)).name, "fork/kernel");
    await kernel.shutdown();
    await kernels.refreshRunning();
    assert.ok(![...kernels.running()].some(({ id }) => id === kernel.id));
  },

  async sessions() {
    const sessions = new SessionManager({ ...options, kernelManager: kernels });
    const asked = { path: "a b/ü.ipynb", name: "ü", type: "notebook" };
    const session = await sessions.startNew({ ...asked, kernel: { name: "fork/kernel" } });
    assert.equal((await run(session.kernel, "6 * 7")).value, "42");
    await session.setPath("other.ipynb");
    await sessions.refreshRunning();
    assert.deepEqual([...sessions.running()].map(({ path }) => path), ["other.ipynb"]);
    const old = session.kernel.id;
    await session.changeKernel({ name: "fork/kernel" });
    assert.notEqual(session.kernel.id, old);
    assert.equal((await run(session.kernel, "6 * 7")).value, "42");
    await session.shutdown();
    sessions.dispose();
  },

  async executes(kernel) {
    const result = await run(kernel, "print('hello'); 6 * 7");
    assert.equal(result.reply.status, "ok");
    assert.equal(result.text, "hello\n");
    assert.equal(result.value, "42");
    const failed = await run(kernel, "1 / 0");
    assert.equal(failed.reply.status, "error");
    assert.equal(failed.error, "ZeroDivisionError");
    const completed = await kernel.requestComplete({ code: "impor", cursor_pos: 5 });
    assert.ok(completed.content.matches.includes("import"));
  },

  async asks(kernel) {
    const result = await run(kernel, "print(input('who?'))", undefined, { allow_stdin: true });
    assert.equal(result.text, "answer to who?\n");
  },

  async comms(kernel) {
    await run(
      kernel,
      `def opened(comm, message):
           @comm.on_msg
           def echo(message):
               comm.send({"n": len(message["buffers"])}, buffers=message["buffers"])
       get_ipython().kernel.comm_manager.register_target("echo", opened)`.replace(/^ {7}/gm, ""),
    );
    const sent = new Uint8Array(2 ** 20).map((_, index) => index * 7);
    const comm = kernel.createComm("echo");
    const echoed = new Promise((resolve) => (comm.onMsg = resolve));
    await comm.open({}).done;
    await comm.send({}, {}, [sent.buffer]).done;
    const { content, buffers } = await echoed;
    assert.equal(content.data.n, 1);
    const received = buffers[0].buffer
      ? new Uint8Array(buffers[0].buffer, buffers[0].byteOffset, buffers[0].byteLength)
      : new Uint8Array(buffers[0]);
    assert.ok(Buffer.from(received).equals(Buffer.from(sent)));
    await comm.close().done;
  },

  async interrupts(kernel) {
    let interrupted;
    const result = await run(
      kernel,
      "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.01)",
      ({ text }) => {
        if (text) interrupted ??= kernel.interrupt();
      },
    );
    await interrupted;
    assert.equal(result.error, "KeyboardInterrupt");
  },

  async restarts(kernel) {
    await run(kernel, "x = 1");
    await kernel.restart();
    assert.equal((await run(kernel, "x")).error, "NameError");
    assert.equal((await run(kernel, "6 * 7")).value, "42");
  },

  async "survives a crash"(kernel) {
    const pid = Number((await run(kernel, "import os; os.getpid()")).value);
    const restarted = until(kernel.statusChanged, (status) => status.endsWith("restarting"));
    process.kill(pid, "SIGKILL");
    await restarted;
    const again = await run(kernel, "import os; os.getpid()");
    assert.notEqual(Number(again.value), pid);
  },

  async "hears why its work was lost"(kernel) {
    let text = "";
    const lost = run(kernel, "import os; os.kill(os.getpid(), 9)", (result) => {
      text = result.text;
    });
    await assert.rejects(lost, /Canceled future for execute_request/);
    assert.equal(text, "[the kernel died: signal 9 (SIGKILL)]\n");
    assert.equal((await run(kernel, "6 * 7")).value, "42");
  },

  async "hears that it is dead"(kernel) {
    const died = until(kernel.statusChanged, (status) => status === "dead");
    await new KernelManager(options).shutdown(kernel.id);
    await kernels.refreshRunning(); // as it does by itself every ten seconds
    await died;
  },

  async "comes back to a flood"(kernel) {
    const lines = 20_000;
    const texts = new Map(); // what it had not confirmed comes once more, under the same msg_id
    const arrived = [];
    const future = kernel.requestExecute({
      code: `for number in range(${lines}): print(number, flush=number % 100 == 0)`,
    });
    future.onIOPub = ({ header, content }) => {
      if (header.msg_type !== "stream") return;
      if (!texts.size) sockets.at(-1).terminate();
      texts.set(header.msg_id, content.text);
      arrived.push(header.msg_id);
    };
    const reply = (await future.done).content;
    assert.ok(sockets.length > 1);
    const text = [...texts.values()].join("");
    assert.deepEqual(text.split("\n"), [...Array(lines).keys(), ""].map(String));
    const order = new Map([...texts.keys()].map((id, index) => [id, index]));
    const isStepBack = (id, index) => index && order.get(id) !== order.get(arrived[index - 1]) + 1;
    assert.ok(arrived.filter(isStepBack).length <= 1, "it goes on once, and leaves nothing out");
    assert.equal(reply.status, "ok");
  },

  async "was away for a while"(kernel) {
    const half = 10_000;
    const folder = mkdtempSync(join(tmpdir(), "kp-"));
    const away = join(folder, "away");
    const code = `
      import os, time
      for number in range(${half}): print(number)
      while not os.path.exists(${JSON.stringify(away)}): time.sleep(0.01)
      for number in range(${half}, ${2 * half}): print(number)`.replace(/^ {6}/gm, "");
    const result = await run(kernel, code, ({ text }) => {
      if (!text.endsWith(`\n${half - 1}\n`)) return;
      const socket = sockets.at(-1);
      // Its pong comes when the server has been told that everything before was received.
      socket.once("pong", () => {
        socket.terminate();
        writeFileSync(away, "");
      });
      socket.ping();
    });
    rmSync(folder, { recursive: true });
    assert.ok(sockets.length > 1);
    assert.deepEqual(result.text.split("\n"), [...Array(2 * half).keys(), ""].map(String));
    assert.equal(result.reply.status, "ok");
  },
};

const play = scenarios[scenario];
console.debug = console.warn = () => {}; // it tells of each WebSocket
if (play.length) {
  const kernel = await kernels.startNew({ name: "fork/kernel" });
  await kernel.info;
  assert.equal(sockets.at(-1).protocol !== "", framing === "v1");
  await play(kernel);
  if (kernel.status !== "dead") await kernel.shutdown();
} else {
  await play();
}
process.exit(0); // its managers go on polling
