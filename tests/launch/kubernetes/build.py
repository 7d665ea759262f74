"""Build the programs of Kubernetes from Debian's source package, for the tests with them.

    python -m tests.launch.kubernetes.build

``make kubernetes`` installs the packages that it needs, and runs it. The programs stay in a cache
folder, see binaries.cache(); programs that are there are not built again. Nothing else of the
system changes: apt keeps its lists of source packages in a folder of the build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.integration.installing import say
from tests.launch.kubernetes.binaries import PROGRAMS, VERSION, cache
from tests.launch.kubernetes.schemas import PACKAGE, find_schemas

NICENESS = 10

# The packages that have a version: that of the programs, and that of the API.
NAMES = ("component-base/version", "client-go/pkg/version")


def main() -> None:
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    if all((folder / name).exists() for name in PROGRAMS):
        say(f"the programs of Kubernetes {VERSION} are in {folder}")
    else:
        os.nice(NICENESS)
        build = folder / "build"
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir()
        compile_programs(fetch_source(build), build, folder)
        shutil.rmtree(build)
    if find_schemas() is None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        run(*pip, "--no-deps", "--only-binary=:all:", f"--dest={folder}", PACKAGE)


def fetch_source(build: Path) -> Path:
    """Return the folder of Debian's source package, below a GOPATH."""
    parts, lists = build / "parts", build / "lists"
    parts.mkdir()
    lists.mkdir()
    for path in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")):
        if path.suffix in (".list", ".sources") and path.exists():
            (parts / path.name).write_text(source_packages(path.read_text()))
    apt = [
        "apt-get",
        "--quiet=2",
        *("-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={parts}"),
        *("-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={build}"),
        *("-o", "APT::Sandbox::User=root"),
    ]
    say("fetching the source package of kubernetes")
    run(*apt, "update")
    run(*apt, "source", "kubernetes", cwd=build)
    sources = list(build.glob("kubernetes-*/"))
    if not any(source.name.endswith(VERSION) for source in sources):
        found = ", ".join(source.name for source in sources)
        sys.exit(f"this recipe builds Kubernetes {VERSION} of Debian 12, but here apt has {found}")
    target = build / "go" / "src" / "k8s.io" / "kubernetes"
    target.parent.mkdir(parents=True)
    return sources[0].rename(target)


def source_packages(text: str) -> str:
    """Change lines for apt, of either format, so that they name source packages."""
    text = re.sub(r"^Types:.*$", "Types: deb-src", text, flags=re.MULTILINE)
    return re.sub(r"^deb\s", "deb-src ", text, flags=re.MULTILINE)


def compile_programs(source: Path, build: Path, folder: Path) -> None:
    """Compile the programs, without the parts for the clouds of companies."""
    say("compiling: this takes 7 minutes of processor time")
    environment = {
        "GOCACHE": str(build / "cache"),
        **os.environ,
        "GOPATH": str(build / "go"),
        "GO111MODULE": "off",
        "GOPROXY": "off",
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
        "PWD": str(source),
    }
    out = build / "out"
    out.mkdir()
    go = ("go", "build", "-o", out)
    run(*go, "./vendor/k8s.io/kube-openapi/cmd/openapi-gen", cwd=source, env=environment)
    generate_descriptions(out / "openapi-gen", source, environment)
    major, minor = VERSION.split(".")[:2]
    values = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor}
    flags = ["-s -w"]
    for package in NAMES:
        prefix = f"-X k8s.io/kubernetes/vendor/k8s.io/{package}"
        flags += [f"{prefix}.{name}={value}" for name, value in values.items()]
    programs = [f"./cmd/{name}" for name in PROGRAMS]
    options = ("-trimpath", "-tags=providerless", f"-ldflags={' '.join(flags)}")
    run(*go, *options, *programs, cwd=source, env=environment)
    for name in PROGRAMS:
        (out / name).replace(folder / name)
    say(f"the programs of Kubernetes {VERSION} are in {folder} now")


def generate_descriptions(program: Path, source: Path, environment: dict[str, str]) -> None:
    """Generate the only source file that is not in the package: the descriptions of the API."""
    folders = set()
    for parent in ("pkg", "staging/src/k8s.io"):
        for path in source.joinpath(parent).rglob("*.go"):
            name = str(path.parent.relative_to(source)).replace("staging/src/", "vendor/")
            if "code-generator" in name or "sample-" in name or path.name.endswith("_test.go"):
                continue
            if "+k8s:openapi-gen=" in path.read_text(errors="replace"):
                folders.add(f"k8s.io/kubernetes/{name}")
    run(
        *(program, "-i", ",".join(sorted(folders))),
        *("-p", "k8s.io/kubernetes/pkg/generated/openapi", "-O", "zz_generated.openapi"),
        *("-h", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt"),
        *("-r", program.with_name("violations")),
        cwd=source,
        env=environment,
    )


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a program; it prints to this terminal."""
    try:
        subprocess.run(command, cwd=cwd, env=env, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"the programs of Kubernetes cannot be built: {error}")


if __name__ == "__main__":
    main()
