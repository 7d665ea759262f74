"""KubernetesProvider: kernels in pods of Kubernetes, ``kubernetes/NAME``.

The parts that do the work are imported when there are settings: every finder makes this provider.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from kernelproto.interfaces import KernelAttributes, KernelHandle, KernelManager
from kernelproto.launch.spec.configuration import configuration
from kernelproto.launch.spec.naming import no_such_kernel
from kernelproto.wire.connection import ConnectionInfo

if TYPE_CHECKING:
    from kernelproto.kubernetes.launch import PodHost
    from kernelproto.kubernetes.settings import KubernetesSettings, PodKernel


class KubernetesProvider:
    """Runs kernels in pods of Kubernetes, ``kubernetes/NAME``.

    Each kernel is a pod of its own, reached over tcp with TLS. The messages of a kernel wait in its
    pod while no program is connected, so they outlive this program. Nothing of the cluster is
    called before the first launch, unless *config_map* is set.

    Args:
        kernels: the kernel types by name.
        config_map: the name of a ConfigMap with further kernel types: its keys are names, its
            values the settings of a PodKernel as JSON.
        namespace: the namespace of pods, Secrets and ConfigMaps; by default that of the kubeconfig
            file, or of the pod of this program.
        kubeconfig: the path of a kubeconfig file. By default the cluster of the pod of this program
            if it runs in one, or else the file in the variable KUBECONFIG, or ``~/.kube/config``.
        context: the name of a context in that file; by default its current one.
        instance: a label for all programs that share their kernels, and remove leftovers of each
            other; see remove_leftovers().
        port: the port of the host in each pod.

    Raises:
        ValueError: a setting is not valid.
    """

    id = "kubernetes"

    def __init__(
        self,
        kernels: Mapping[str, PodKernel] | None = None,
        *,
        config_map: str | None = None,
        namespace: str | None = None,
        kubeconfig: str | None = None,
        context: str | None = None,
        instance: str = "default",
        port: int = 8765,
    ) -> None:
        self._configured: PodHost | None = None
        if kernels or config_map or kubeconfig:
            from kernelproto.kubernetes.settings import KubernetesSettings

            self._configured = _pod_host(
                KubernetesSettings(
                    kernels=kernels or {},
                    config_map=config_map,
                    namespace=namespace,
                    kubeconfig=kubeconfig,
                    context=context,
                    instance=instance,
                    port=port,
                )
            )

    def load_config(self, config: Mapping[str, object] | None) -> None:
        """Take ``{"kernels": {NAME: {"image": ...}}, "namespace": ...}``; see the arguments above.

        Raises:
            ValueError: *config* has another form.
        """
        if config is None:
            return
        from kernelproto.kubernetes.settings import KubernetesSettings

        self._configured = _pod_host(configuration(config, KubernetesSettings, self.id))

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Yield the kernel types of the settings, and those of the ConfigMap if there is one.

        A ConfigMap that cannot be read is logged and left out.
        """
        if self._configured is not None:
            for kernel_type in await self._configured.kernel_types():
                yield kernel_type

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Make a pod, wait until it runs, and start the kernel; it need not be ready then.

        The time until the pod runs is limited by ``Timeouts.queue`` and ``queue_seconds`` of the
        kernel type. It does not count for ``Timeouts.startup``.

        Args:
            name: the name of a kernel type.
            cwd: the kernel's working directory in the pod; by default that of the image.
            launch_params: ``env``, ``encryption``, ``detached``, ``listed_as`` and those that the
                schema of the kernel type declares, such as ``cpu`` and ``memory``.

        Raises:
            NoSuchKernel: there is no such kernel type.
            InvalidLaunchParameter: a parameter is unknown, or has a value that is not allowed.
            KernelExitedEarly: the pod has ended or will never run, or the command cannot be run.
            KernelNotReady: the pod did not run in time, for the reason in the message.
            KubernetesError: the API of the cluster refuses the pod or cannot be reached; ``fault``
                has the kind, such as "quota" or "forbidden".
        """
        if self._configured is None:
            raise no_such_kernel(name, [], remedy=f"configure the kernel provider {self.id!r}")
        return await self._configured.launch(name, cwd=cwd, launch_params=launch_params)

    async def adopt(self, handle: KernelHandle) -> tuple[ConnectionInfo, KernelManager]:
        """Take over the kernel of a pod.

        Raises:
            KernelInUse: a running program owns the kernel, perhaps this one.
            DiscoveryError: the kernel has ended, or cannot be adopted.
            LaunchError: the API of the cluster cannot be used.
        """
        return await self._host.adopt(handle)

    async def adopt_messages(self, handle: KernelHandle) -> tuple[ConnectionInfo, KernelManager]:
        """Take over a kernel with all messages that its host still has; see ``AdoptsMessages``."""
        return await self._host.adopt(handle, replays=True)

    async def find_launched(self, name: str, kernel_id: str) -> KernelHandle | None:
        """Return the handle of the kernel that is listed under an id; see FindsLaunched.

        A pod whose launch was interrupted before the start of the kernel is removed.

        Raises:
            KernelInUse: a running program is launching the kernel.
            DiscoveryError: the Secret of the pod cannot be used.
            LaunchError: the API or the host cannot be reached, or a program on another machine may
                be launching the kernel.
        """
        return None if self._configured is None else await self._host.find_launched(name, kernel_id)

    async def remove_leftovers(self) -> int:
        """Remove pods of this instance that no program needs; return their number.

        These are pods that have ended, pods that have not run although their launch has ended, and
        pods of lost nodes. Pods that run are left: their kernels end by themselves, unless a
        program adopts them. Each launch does this as well, at most once a minute.

        Raises:
            LaunchError: the API of the cluster cannot be used.
        """
        return await self._host.remove_leftovers()

    @property
    def _host(self) -> PodHost:
        if self._configured is None:
            from kernelproto.kubernetes.settings import KubernetesSettings

            self._configured = _pod_host(KubernetesSettings())
        return self._configured


def _pod_host(settings: KubernetesSettings) -> PodHost:
    from kernelproto.kubernetes.launch import PodHost

    return PodHost(settings)
