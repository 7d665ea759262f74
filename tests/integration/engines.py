"""The engines of the tests: podman, Slurm and Kubernetes, with the settings of their providers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tests.kubernetes.conftest import Kernels
from tests.launch.batch.cluster import Cluster
from tests.launch.container.podman import Podman
from tests.launch.kubernetes.cluster import Cluster as KubernetesCluster

ENGINES = ("container", "slurm", "kubernetes")


class Engine(NamedTuple):
    """An engine that runs.

    Attributes:
        config: the settings of its provider, with the kernel type ``python``, as JSON.
        left: returns the containers, jobs, or pods and Secrets.
    """

    config: dict[str, Any]
    left: Callable[[], object]


@contextmanager
def open_engine(kind: str, **settings: Any) -> Generator[Engine]:
    """Start an engine for the block.

    Args:
        kind: one of ENGINES.
        settings: of the kernel type.

    Raises:
        NoPodman, NoSlurm, NoControlPlane: the engine is not installed, or does not run here.
    """
    with tempfile.TemporaryDirectory(prefix="kp-") as folder:
        if kind == "container":
            with closing(Podman()) as podman:
                options = {"engine": "podman", "engine_options": podman.options}
                # Working directories may be temporary folders of root.
                kernel = podman.kernel(user="0:0", **settings)
                options["folder"] = f"{folder}/c"
                yield Engine(_config(options, kernel), podman.containers)
        elif kind == "slurm":
            with closing(Cluster()) as slurm:
                options = {"folder": slurm.shared, "config": slurm.config, "poll_seconds": 0.2}
                yield Engine(_config(options, slurm.kernel(**settings)), slurm.jobs)
        else:
            with closing(KubernetesCluster()) as cluster:
                kernels = Kernels(cluster, cluster.new_namespace(), Path(folder))
                options = {"kubeconfig": kernels.kubeconfig}
                yield Engine(
                    _config(options, kernels.kernel(**settings)),
                    lambda: [*kernels.pods(), *kernels.secrets()],
                )


def _config(options: Mapping[str, object], kernel: object) -> dict[str, Any]:
    return msgspec.to_builtins({**options, "kernels": {"python": kernel}})
