"""A minimal Debian, made from a package mirror: for machines that reach no image registry."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
WORK = ROOT / "build" / "image"
RELEASE = "bookworm"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
SECURITY_MIRROR = os.environ.get("DEBIAN_SECURITY_MIRROR", "http://deb.debian.org/debian-security")

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# As the slim images of registries: no documentation, no translations, no waiting for disks.
_LEFT_OUT = ("doc", "info", "locale", "man")
# What apt here was told about time and proxies holds inside too.
_APT_SETTINGS = (
    "Acquire::Check-Date",
    "Acquire::Check-Valid-Until",
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
)
_started_s = time.monotonic()


def step(what: str) -> None:
    """Say what begins, and how long everything took until now."""
    print(f"--- {what} ({time.monotonic() - _started_s:.0f} s)", flush=True)


def need(*programs: str) -> None:
    """End with what to do, unless we are root and have the programs."""
    if os.geteuid() != 0:
        sys.exit("this needs root, for chroot and mounts: sudo make image-test wheel-test")
    if missing := [program for program in programs if shutil.which(program) is None]:
        sys.exit(f"not installed: apt-get install --no-install-recommends {' '.join(missing)}")


def call(*words: str | Path) -> str:
    """Run a command to its end and return what it prints; ends the program where it fails."""
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def base() -> Path:
    """The tarball of a minimal Debian that reaches the network as this machine does; made once, and kept."""
    tarball = WORK / f"debian-{RELEASE}.tar"
    if tarball.is_file():
        return tarball
    WORK.mkdir(parents=True, exist_ok=True)
    tree, packed = WORK / "base", tarball.with_suffix(".part")
    shutil.rmtree(tree, ignore_errors=True)
    call("debootstrap", "--variant=minbase", RELEASE, tree, MIRROR)
    _make_slim(tree)
    _give_network(tree)
    call("tar", "--directory", tree, "--numeric-owner", "--create", "--file", packed, ".")
    shutil.rmtree(tree)
    packed.rename(tarball)
    return tarball


@contextlib.contextmanager
def clean_chroot() -> Iterator[Path]:
    """A fresh copy of the base."""
    tree = WORK / "chroot"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    try:
        call("tar", "--directory", tree, "--numeric-owner", "--extract", "--file", base())
        shutil.copy("/etc/resolv.conf", tree / "etc" / "resolv.conf")
        yield tree
    finally:
        shutil.rmtree(tree)


def in_chroot(tree: Path, *words: str, environment: Sequence[str] = ()) -> str:
    """Run a command in a chroot, with an environment of its own and /proc, and return what it prints."""
    # In namespaces of its own: nothing can stay mounted in what is removed later, and no run outside is seen.
    script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    words = ("env", "-i", f"PATH={PATH}", *environment, *words)
    return call("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, tree, *words)


def _make_slim(tree: Path) -> None:
    share = tree / "usr" / "share"
    for name in _LEFT_OUT:
        shutil.rmtree(share / name, ignore_errors=True)
    for place in ("var/cache/apt", "var/lib/apt/lists", "var/cache/debconf", "var/log"):
        for path in (tree / place).rglob("*"):
            if path.is_file():
                path.unlink()
    rules = [f"path-exclude /usr/share/{name}/*" for name in _LEFT_OUT]
    (tree / "etc/dpkg/dpkg.cfg.d/slim").write_text("\n".join([*rules, "force-unsafe-io", ""]))


def _give_network(tree: Path) -> None:
    sources = (
        f"deb {MIRROR} {RELEASE} main\n"
        f"deb {MIRROR} {RELEASE}-updates main\n"
        f"deb {SECURITY_MIRROR} {RELEASE}-security main\n"
    )
    (tree / "etc/apt/sources.list").write_text(sources)
    settings = call("apt-config", "dump", "--no-empty", *_APT_SETTINGS)
    (tree / "etc/apt/apt.conf.d/99-as-outside").write_text(settings + 'Acquire::Languages "none";\n')
    # pip brings certificates of its own, which know nothing of a proxy's; Debian's package would undo ours.
    outside, inside = Path("/etc/ssl/certs/ca-certificates.crt"), "/etc/certificates-of-outside.crt"
    if outside.is_file():
        shutil.copy(outside, tree / inside[1:])
        (tree / "etc/pip.conf").write_text(f"[global]\ncert = {inside}\n")
