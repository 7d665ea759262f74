"""A client of an API server for tests: it blocks, and it knows no kinds."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

import httpx

CALL_SECONDS = 60
MERGE = "application/merge-patch+json"

WITHOUT_NAMESPACE = ("ClusterRole", "ClusterRoleBinding", "Namespace")


class ApiError(Exception):
    """The API server refuses a request.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """Args:
    url: of the API server.
    ca_file: the certificates by which it is known.
    token: tells it which user asks.
    """

    def __init__(self, url: str, ca_file: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=url,
            verify=ssl.create_default_context(cafile=ca_file),
            headers={"Authorization": f"Bearer {token}"},
            timeout=CALL_SECONDS,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),  # tests search for leaks
        )

    def call(
        self, method: str, path: str, body: object = None, *, kind: str = "application/json"
    ) -> Any:
        """Send a request; return the object of the answer.

        Raises:
            ApiError: the server refuses it.
            httpx.HTTPError: the server does not answer.
        """
        content = None if body is None else json.dumps(body)
        response = self._http.request(method, path, content=content, headers={"Content-Type": kind})
        if not response.is_success:
            raise ApiError(response.status_code, response.text)
        if response.headers["Content-Type"].startswith("application/json"):
            return response.json()
        return response.text

    def get(self, path: str, **query: str | int) -> Any:
        return self.call("GET", f"{path}?{urlencode(query)}" if query else path)

    def create(self, path: str, body: object) -> Any:
        return self.call("POST", path, body)

    def patch(self, path: str, body: object) -> Any:
        return self.call("PATCH", path, body, kind=MERGE)

    def delete(self, path: str, **options: object) -> Any:
        """Delete an object, or all of a list; *options* such as ``gracePeriodSeconds``."""
        return self.call("DELETE", path, options)

    def exists(self, path: str) -> bool:
        try:
            self.get(path)
        except ApiError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            return False
        return True

    def apply(self, body: dict, namespace: str = "default", *, dry: bool = False) -> Any:
        """Create an object of any kind; its metadata may name another namespace.

        Args:
            body: the object.
            namespace: the namespace, unless the object names one.
            dry: whether the server only checks the object.
        """
        group, kind = body["apiVersion"], body["kind"].lower()
        folder = f"/apis/{group}" if "/" in group else f"/api/{group}"
        if body["kind"] not in WITHOUT_NAMESPACE:
            folder += f"/namespaces/{body['metadata'].get('namespace', namespace)}"
        plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
        return self.create(f"{folder}/{plural}" + ("?dryRun=All" if dry else ""), body)

    def wait_for(
        self, path: str, condition: Callable[[dict | None], bool], *, seconds: int = CALL_SECONDS
    ) -> dict | None:
        """Wait until an object fulfils a condition; None stands for one that does not exist.

        Args:
            path: of one object, such as ``/api/v1/namespaces/default/pods/one``.
            condition: gets the object.
            seconds: the longest time to wait.

        Raises:
            TimeoutError: it does not; the text has the object's last state.
        """
        last = None
        with closing(self.follow(path, seconds)) as states:
            for last in states:
                if condition(last):
                    return last
        raise TimeoutError(f"waited for {path} for {seconds} s: {json.dumps(last)}")

    def follow(self, path: str, seconds: int) -> Iterator[dict | None]:
        """Yield the states of an object, the present one first, for so many seconds."""
        folder, _, name = path.rpartition("/")
        selector = {"fieldSelector": f"metadata.name={name}"}
        found = self.get(folder, **selector)
        yield found["items"][0] if found["items"] else None
        query = {
            **selector,
            "watch": "1",
            "resourceVersion": found["metadata"]["resourceVersion"],
            "timeoutSeconds": str(seconds),
        }
        with self._http.stream("GET", folder, params=query) as response:
            for line in response.iter_lines():
                event = json.loads(line)
                yield None if event["type"] == "DELETED" else event["object"]

    def close(self) -> None:
        self._http.close()
