"""Shows: a kernel server for many users, and a client that does not use kernelproto.

Needs: kernelproto[ipykernel,server]
Run:   python examples/13_serve.py

JupyterLab can use the same server, `python -m kernelproto.server`, with the options
`--gateway-url=http://127.0.0.1:8888` and `--GatewayClient.auth_token=TOKEN`.
"""

import json
import subprocess
import sys
import urllib.request
from itertools import count

from websockets.sync.client import ClientConnection, connect


def execute(socket: ClientConnection, code: str) -> str:
    """Run code with Jupyter's messages; return the printed text."""
    header = {"msg_id": f"cell-{next(numbers)}", "msg_type": "execute_request"}
    header |= {"session": "me", "version": "5.3"}
    request = {"channel": "shell", "header": header, "content": {"code": code}}
    socket.send(json.dumps(request))
    text = ""
    while True:
        message = json.loads(socket.recv(timeout=60))
        if message["parent_header"].get("msg_id") != header["msg_id"]:
            continue
        if message["msg_type"] == "stream":
            text += message["content"]["text"]
        elif message["content"].get("execution_state") == "idle":
            return text


numbers = count(1)
command = [sys.executable, "-m", "kernelproto.server", "--port", "0", "--token", "secret"]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
    assert server.stderr is not None
    line = next(line for line in server.stderr if "http://" in line)  # the address of the server
    url = line[line.index("http://") :].strip().rstrip("/")

    headers = {"Authorization": "token secret"}
    asked = urllib.request.Request(f"{url}/api/kernels", method="POST", headers=headers)
    with urllib.request.urlopen(asked) as response:
        kernel = json.load(response)
    print("started:", kernel["name"])

    channels = f"{url}/api/kernels/{kernel['id']}/channels".replace("http", "ws", 1)
    with connect(channels, additional_headers=headers, proxy=None) as socket:
        execute(socket, "x = 6")
        print("it prints:", execute(socket, "print(x * 7)").strip())

    server.terminate()  # it closes WebSockets and ends all kernels
print("the server has ended with", server.returncode)
