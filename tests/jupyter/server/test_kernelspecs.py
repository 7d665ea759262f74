from __future__ import annotations

import pytest
from jupyter_client.kernelspec import KernelSpec

from kernelproto.jupyter.server.kernelspecs import kernel_type_of


@pytest.mark.parametrize(
    ("name", "stanza", "kernel_type"),
    [
        ("ir", None, "ir"),
        ("ir", {}, "ir"),
        ("ir", {"provisioner_name": "kernelproto"}, "ir"),
        ("ir", {"provisioner_name": "local-provisioner"}, "ir"),
        ("ir", {"provisioner_name": "yarn-provisioner"}, "provisioned/ir"),
        (
            "ir",
            {"provisioner_name": "kernelproto", "config": {"limits": {"open_files": 99}}},
            "provisioned/ir",
        ),
        ("env/science", {"provisioner_name": "yarn-provisioner"}, "env/science"),
    ],
)
def test_kernel_type(name: str, stanza: dict[str, object] | None, kernel_type: str) -> None:
    metadata = {} if stanza is None else {"kernel_provisioner": stanza}
    spec = KernelSpec(argv=["R", "{connection_file}"], metadata=metadata)
    assert kernel_type_of(name, spec) == kernel_type
