"""The sdist, the wheel built from it, and that wheel in a Debian that has Python and the C++ library alone.

Leaves the sdist and the wheel in build/image/dist. Needs root, debootstrap, a C++ compiler, python3-venv, and
mirrors of Debian's and Python's packages.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from debian import ROOT, WORK, call, clean_chroot, in_chroot, need, step

NEWEST_GLIBC = (2, 28)  # that of RHEL 8 and Debian 10
PACKAGES = ("python3", "libstdc++6")


def main() -> None:
    """Build, look, install, run."""
    need("debootstrap", "c++")
    dist = WORK / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="asrswitch-") as tools:
        step("sdist and wheel")
        wheel, pip = build(Path(tools) / "venv", dist)
    step("clean Debian")
    with clean_chroot() as tree:
        in_chroot(tree, "apt-get", "update", "-q")
        apt = ("apt-get", "install", "-qy", "--no-install-recommends", "-oDpkg::Use-Pty=0", *PACKAGES)
        in_chroot(tree, *apt, environment=["DEBIAN_FRONTEND=noninteractive"])
        for file in (wheel, pip):
            shutil.copy(file, tree / "root")
        step("install")
        in_chroot(tree, "python3", "-m", "venv", "--without-pip", "/venv")
        install = ("-m", "pip", "install", "-q", "--no-cache-dir", f"/root/{wheel.name}")
        in_chroot(tree, "/venv/bin/python", *install, environment=[f"PYTHONPATH=/root/{pip.name}"])
        step("--iters 2")
        print(in_chroot(tree, "env", "-C", "/tmp", "/venv/bin/python", "-m", "asrswitch", "--iters", "2"))
    step("wheel test: ok")


def build(venv: Path, dist: Path) -> tuple[Path, Path]:
    """Make the sdist and, of nothing else, the wheel; return that and pip's own."""
    call(sys.executable, "-m", "venv", venv)
    python = venv / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", "build", "auditwheel")
    call(python, "-m", "build", "--sdist", "--outdir", dist, ROOT)
    (sdist,) = dist.glob("asrswitch-*.tar.gz")
    call(python, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", dist, sdist)
    (wheel,) = dist.glob("asrswitch-*.whl")
    for file in (sdist, wheel):
        print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")
    shown = call(python, "-m", "auditwheel", "show", wheel)
    print(shown)
    tag = re.search(r'"manylinux_(\d+)_(\d+)_\w+"', " ".join(shown.split()))
    if tag is None or (int(tag[1]), int(tag[2])) > NEWEST_GLIBC:
        sys.exit(f"{wheel.name}: needs a C library newer than glibc {'.'.join(map(str, NEWEST_GLIBC))}")
    call(python, "-m", "pip", "download", "-q", "--no-deps", "--dest", venv, "pip")
    (pip,) = venv.glob("pip-*.whl")
    return wheel, Path(shutil.copy(pip, dist))


if __name__ == "__main__":
    main()
