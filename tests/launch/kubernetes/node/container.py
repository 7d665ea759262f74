"""A container of a pod: its image, its environment, its process and its state."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from tests.launch.kubernetes.node.client import RETRY_SECONDS, now
from tests.launch.kubernetes.node.environment import environment, expand
from tests.launch.kubernetes.node.references import NotThere

if TYPE_CHECKING:
    from tests.launch.kubernetes.node.pod import Pod

# A program of its own; this process does not import it.
ENCLOSE = Path(__file__).with_name("enclose.py")

OOM_ANNOTATION = "kernelproto.test/oom"
KILLED = 128 + signal.SIGKILL
LONGEST_REASON = 4096

_IMAGE = re.compile(r"[a-z0-9][\w./:@-]*")
_SLOW = re.compile(r"slow/(\d+(?:\.\d+)?)/")


class Container:
    """One container.

    Attributes:
        state: as in the status of the pod: waiting, running or terminated.
    """

    def __init__(self, pod: Pod, spec: dict) -> None:
        self.pod = pod
        self.spec = spec
        self.log = pod.folder / f"{spec['name']}.log"
        self.state: dict[str, dict] = {"waiting": {"reason": "ContainerCreating"}}
        self._preparation = anyio.CancelScope()
        self._process: anyio.abc.Process | None = None
        self._killed = False

    @property
    def is_running(self) -> bool:
        return "running" in self.state

    @property
    def exit_code(self) -> int:
        """The exit code of a container that has ended."""
        return self.state["terminated"]["exitCode"]

    def status(self) -> dict:
        return {
            "name": self.spec["name"],
            "image": self.spec["image"],
            "imageID": "",
            "ready": self.is_running,
            "started": self.is_running,
            "restartCount": 0,
            # The API server merges: states that are over have to be removed.
            "state": {"waiting": None, "running": None, "terminated": None, **self.state},
        }

    async def run(self) -> None:
        """Start the command as soon as image and environment are there, and wait for its end."""
        with self._preparation:
            await self._pull()
            variables = await self._environment()
            await self._serve(variables)

    def terminate(self) -> None:
        """Send SIGTERM; a container that has not started yet will not start."""
        if self._process is None:
            self._preparation.cancel()
        elif self._process.returncode is None:
            self._process.terminate()

    def settle(self) -> None:
        """Count a container that never started, or is not known here any more, as ended."""
        if "terminated" not in self.state:
            message = "The container could not be located when the pod was terminated"
            self._end(KILLED, "ContainerStatusUnknown", message=message)

    async def _pull(self) -> None:
        image = self.spec["image"]
        if not _IMAGE.fullmatch(image):
            problem = f'Failed to apply default image tag "{image}": invalid reference format'
            await self._wait_for_ever("InspectFailed", "InvalidImageName", problem)
        await self.pod.tell("Normal", "Pulling", f'Pulling image "{image}"')
        if image.startswith("missing/"):
            problem = f'failed to pull and unpack image "{image}": not found'
            await self._wait("Failed", "ErrImagePull", problem)
            back_off = f'Back-off pulling image "{image}"'
            await self._wait_for_ever("BackOff", "ImagePullBackOff", back_off)
        if slow := _SLOW.match(image):
            await anyio.sleep(float(slow[1]))
        await self.pod.tell("Normal", "Pulled", f'Successfully pulled image "{image}"')

    async def _environment(self) -> dict[str, str]:
        told = ""
        while True:
            try:
                return await environment(self.pod, self.spec)
            except NotThere as error:
                if told != str(error):
                    told = str(error)
                    await self._wait("Failed", "CreateContainerConfigError", told)
                await anyio.sleep(RETRY_SECONDS)

    async def _wait(self, event: str, reason: str, message: str) -> None:
        self.state = {"waiting": {"reason": reason, "message": message}}
        await self.pod.report()
        await self.pod.tell("Warning", event, message)

    async def _wait_for_ever(self, event: str, reason: str, message: str) -> None:
        await self._wait(event, reason, message)
        await anyio.sleep_forever()

    async def _serve(self, variables: dict[str, str]) -> None:
        path = self._write_spec(variables)
        started, problem = now(), ""
        try:
            problem = await self._start(path)
            if not problem:
                self.state = {"running": {"startedAt": started}}
                self.pod.change()
                await self.pod.tell("Normal", "Started", f"Started container {self.spec['name']}")
            assert self._process is not None
            await self._process.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await self._kill()
            self._take_exit_code(started, problem)
            self.pod.change()

    async def _start(self, spec: Path) -> str:
        """Start the command; return the reason if that fails."""
        pipe, other_end = os.pipe()
        try:
            with anyio.CancelScope(shield=True), os.fdopen(other_end):
                async with await anyio.open_file(self.log, "wb") as log:
                    self._process = await anyio.open_process(
                        [sys.executable, "-I", "-S", ENCLOSE, str(spec), str(other_end)],
                        stdin=subprocess.DEVNULL,
                        stdout=log.wrapped,
                        stderr=subprocess.STDOUT,
                        pass_fds=[other_end],
                        start_new_session=True,
                    )
            await anyio.wait_readable(pipe)
            return os.read(pipe, LONGEST_REASON).decode(errors="replace")
        finally:
            os.close(pipe)

    def _write_spec(self, variables: dict[str, str]) -> Path:
        root = self.pod.folder / f"{self.spec['name']}.root"
        root.mkdir()
        command = [*self.spec["command"], *self.spec.get("args", [])]
        spec = {
            "command": [expand(word, variables) for word in command],
            "env": variables,
            "cwd": self.spec.get("workingDir") or "/",
            "hostname": self.pod.meta["name"],
            "root": str(root),
            "mounts": [
                {
                    "source": self.pod.volumes[mount["name"]],
                    "path": mount["mountPath"],
                    "read_only": mount.get("readOnly", False),
                }
                for mount in self.spec.get("volumeMounts", [])
            ],
        }
        path = self.pod.folder / f"{self.spec['name']}.json"
        path.touch(0o600)
        path.write_text(json.dumps(spec))
        return path

    async def _kill(self) -> None:
        """Kill process 1 of the container, and with it all others; wait until they are gone."""
        process = self._process
        if process is None:
            return
        while process.returncode is None:
            self._killed = True
            _kill_first(process.pid)
            with anyio.move_on_after(RETRY_SECONDS):
                await process.wait()

    def _take_exit_code(self, started: str, problem: str) -> None:
        code = self._process.returncode if self._process else None
        code = KILLED if code is None or code < 0 else code
        annotations = self.pod.meta.get("annotations", {})
        if problem:
            self._end(code, "StartError", started, message=problem)
        elif code == KILLED and not self._killed and annotations.get(OOM_ANNOTATION) == "true":
            self._end(code, "OOMKilled", started)
        else:
            self._end(code, "Error" if code else "Completed", started)

    def _end(self, code: int, reason: str, started: str | None = None, **more: str) -> None:
        times = {"startedAt": started, "finishedAt": now()} if started else {}
        self.state = {"terminated": {"exitCode": code, "reason": reason, **times, **more}}


def _kill_first(starter: int) -> None:
    """Kill process 1 of a container, or its starter if there is none yet."""
    with suppress(OSError):
        children = Path(f"/proc/{starter}/task/{starter}/children").read_text().split()
        for pid in children or [starter]:
            os.kill(int(pid), signal.SIGKILL)
