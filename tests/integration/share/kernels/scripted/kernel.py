"""A kernel that starts in 60 ms and has bad habits on request, written on zmq alone.

It runs what it is told to execute as Python, with this module's names in reach: code can send
whatever it likes, on every channel. It encrypts where its connection file has keys for that, and
registers where it is handed a registration file. The second argument lists its habits:

    talks            it writes to standard output before it does anything else
    absent           it binds no port, and stays
    careless         it goes on when somebody else has one of its ports
    mute             it answers nothing but heartbeats
    no-iopub         it binds all ports but iopub
    no-welcome       it does not greet subscribers, like kernels before JEP 65
    shell-only       it does not listen on control, like kernels before protocol 5.3
    no-shutdown      it does not follow a shutdown_request
    no-sigterm       it ignores SIGTERM
    plain            it ignores the keys for encryption
"""

import hashlib
import hmac
import json
import os
import signal
import sys
import time
import traceback

import zmq

DELIMITER = b"<IDS|MSG>"
CONTEXT = zmq.Context()
SESSION = os.urandom(8).hex()


def bind(channel, kind):
    socket = CONTEXT.socket(kind)
    socket.set(zmq.SNDHWM, 0)  # so that output that is lost was lost by the client
    if "curve_secretkey" in INFO and "plain" not in HABITS:
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_PUBLICKEY, INFO["curve_publickey"].encode())
        socket.set(zmq.CURVE_SECRETKEY, INFO["curve_secretkey"].encode())
    if "registration_port" in INFO:
        INFO[channel + "_port"] = socket.bind_to_random_port(f"tcp://{INFO['ip']}")
        return socket
    separator = "-" if INFO["transport"] == "ipc" else ":"
    try:
        socket.bind(f"{INFO['transport']}://{INFO['ip']}{separator}{INFO[channel + '_port']}")
    except zmq.ZMQError:
        if "careless" not in HABITS:
            raise
    return socket


def register():
    """Tell the launcher the ports, and wait for its signed answer."""
    ports = {name: str(port) for name, port in INFO.items() if name.endswith("_port")}
    del ports["registration_port"]
    content = json.dumps({"kernel_id": INFO["kernel_id"], **ports}).encode()
    socket = CONTEXT.socket(zmq.DEALER)
    socket.connect(f"tcp://{INFO['registration_ip']}:{INFO['registration_port']}")
    socket.send_multipart([DELIMITER, sign([content]), content])
    delimiter, signature, answer = socket.recv_multipart()
    assert delimiter == DELIMITER
    assert signature == sign([answer])
    socket.close()


def frames(msg_type, content, parent=b"{}"):
    """Return a whole message, signed."""
    header = {
        "msg_id": os.urandom(8).hex(),
        "msg_type": msg_type,
        "session": SESSION,
        "username": "kernel",
        "date": "2026-11-20T12:00:00Z",
        "version": "5.5",
    }
    parts = [json.dumps(header).encode(), parent, b"{}", json.dumps(content).encode()]
    return [DELIMITER, sign(parts), *parts]


def sign(parts):
    return hmac.new(INFO["key"].encode(), b"".join(parts), hashlib.sha256).hexdigest().encode()


def publish(msg_type, parent=b"{}", *, topic=b"topic", **content):
    iopub.send_multipart([topic, *frames(msg_type, content, parent)])


def serve(socket):
    """Receive a request and do what it asks for; return whether to go on."""
    request = socket.recv_multipart()
    start = request.index(DELIMITER)
    client, parent = request[:start], request[start + 2]
    msg_type = json.loads(parent)["msg_type"]
    if "mute" in HABITS:
        return True
    publish("status", parent, execution_state="busy")
    content = {"status": "ok"}
    if msg_type == "execute_request":
        content |= execute(json.loads(request[start + 5])["code"], socket, client, parent)
    answer = frames(msg_type.replace("_request", "_reply"), content, parent)
    socket.send_multipart([*client, *answer])
    publish("status", parent, execution_state="idle")
    return msg_type != "shutdown_request" or "no-shutdown" in HABITS


def execute(code, socket, client, parent):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        exec(
            compile(code, "<request>", "exec"),
            {**globals(), "socket": socket, "client": client, "parent": parent},
        )
    except BaseException as error:
        failure = {
            "ename": type(error).__name__,
            "evalue": str(error),
            "traceback": traceback.format_exception(error),
        }
        publish("error", parent, **failure)
        return {"status": "error", "execution_count": 1, **failure}
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return {"execution_count": 1}


def say(text, parent):
    publish("stream", parent, name="stdout", text=text)


def pause():
    """Wait to be interrupted. Python may miss a signal that arrives just before one long sleep."""
    while True:
        time.sleep(0.05)


def welcome():
    subscription = iopub.recv()
    if subscription[:1] == b"\1":
        topic = subscription[1:]
        publish("iopub_welcome", topic=topic, subscription=topic.decode())


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        INFO = json.load(file)
    HABITS = set(sys.argv[2].split())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "no-sigterm" in HABITS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "talks" in HABITS:
        sys.stdout.write("hello\n")
        sys.stdout.flush()
    if "absent" in HABITS:
        signal.pause()

    heartbeat, shell, stdin = (bind(channel, zmq.ROUTER) for channel in ("hb", "shell", "stdin"))
    iopub = (
        CONTEXT.socket(zmq.PUB)
        if "no-iopub" in HABITS
        else bind("iopub", zmq.PUB if "no-welcome" in HABITS else zmq.XPUB)
    )
    poller = zmq.Poller()
    for readable in [shell, heartbeat, *([iopub] if iopub.type == zmq.XPUB else [])]:
        poller.register(readable, zmq.POLLIN)
    if "shell-only" not in HABITS:
        control = bind("control", zmq.ROUTER)
        poller.register(control, zmq.POLLIN)
    if "registration_port" in INFO:
        register()
    serving = True
    while serving:
        for ready, _ in poller.poll():
            if ready is heartbeat:
                heartbeat.send_multipart(heartbeat.recv_multipart())
            elif ready is iopub:
                welcome()
            else:
                serving = serve(ready) and serving
    os._exit(0)  # libzmq may take seconds over ending a context whose peer has just gone
