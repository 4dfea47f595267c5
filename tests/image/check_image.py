"""Build the Dockerfile for real and use the image as `docker run` would, with buildah and without a registry.

Leaves nothing but the base's tarball in build/image. Needs root, debootstrap, buildah, and mirrors of
Debian's and Python's packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from debian import ROOT, WORK, base, call, need, step

BASE, IMAGE, CONTAINER = "localhost/debian-slim", "localhost/asrswitch", "asrswitch-test"
USER, ANOTHER_USER = 1000, 4321
MIB = 1 << 20
MODELS = ("digits-small", "digits-large")
BUILD_TOOLS = ("as", "c++", "cc", "clang", "cmake", "cpp", "g++", "gcc", "ld", "make", "ninja", "pip", "pip3")


def main() -> None:
    """Build, look, run."""
    need("debootstrap", "buildah")
    step("base")
    tarball = base()
    with storage() as buildah:
        build(buildah, tarball)
        step("configuration")
        config = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"]["config"]
        check_config(config)
        buildah("from", "--pull-never", "--name", CONTAINER, IMAGE)
        tree = Path(buildah("mount", CONTAINER).strip())
        check_files(tree)
        with tempfile.TemporaryDirectory(dir=WORK, prefix="results-") as results:
            check_commands(buildah, config, Path(results))
        check_health(tree, config)
        check_read_only(tree, config)
    step("image test: ok")


class Buildah:
    """buildah with a storage of its own."""

    def __init__(self, directory: Path) -> None:
        self._words = ["buildah", "--storage-driver", "vfs"]
        self._words += ["--root", str(directory / "root"), "--runroot", str(directory / "run")]

    def __call__(self, *words: str | Path) -> str:
        """Run a subcommand that is to succeed, and return what it prints."""
        return call(*self._words, *words)

    def show(self, *words: str | Path) -> None:
        """Run a subcommand that is to succeed, and let it speak."""
        if code := subprocess.run([*self._words, *words]).returncode:
            sys.exit(f"buildah {words[0]}: exit code {code}")

    def run(self, *words: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as its user and in its directory."""
        # This isolation shares the machine's processes, among which others may measure; Docker's does not.
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *self._words]
        command += ["run", "--isolation", "chroot", *options, CONTAINER, "--", *words]
        return subprocess.run(command, capture_output=True, text=True)


@contextlib.contextmanager
def storage() -> Iterator[Buildah]:
    """A place for images and containers, removed in the end."""
    directory = Path(tempfile.mkdtemp(dir=WORK, prefix="storage-"))
    buildah = Buildah(directory)
    try:
        yield buildah
    finally:
        buildah("rm", "--all")  # which unmounts
        shutil.rmtree(directory)


def build(buildah: Buildah, tarball: Path) -> None:
    """The base as an image, and the Dockerfile on top of it."""
    container = buildah("from", "scratch").strip()
    buildah("add", container, tarball)
    buildah("commit", "--rm", container, BASE)
    step("docker build")
    threads = os.environ.get("BUILD_THREADS", str(os.cpu_count()))
    arguments = [f"--build-arg=BASE={BASE}", f"--build-arg=BUILD_THREADS={threads}"]
    # Docker's format, as Docker builds it: the other one has no health line.
    form = ["--isolation", "chroot", "--format", "docker", "--pull-never"]
    buildah.show("build", *form, *arguments, "--tag", IMAGE, ROOT)


def check_config(config: dict[str, Any]) -> None:
    """What the image says of itself."""
    version = next(
        line.split('"')[1]
        for line in (ROOT / "asrswitch" / "__init__.py").read_text().splitlines()
        if line.startswith("__version__")
    )
    labels = config["Labels"]
    expect(labels["org.opencontainers.image.version"], version, "label of the version")
    expect(labels["org.opencontainers.image.licenses"], "MIT", "label of the licence")
    expect(labels["org.opencontainers.image.base.name"], BASE, "label of the base")
    expect(sorted(config["Volumes"]), ["/models", "/results"], "volumes")
    expect("ASRSWITCH_MODELS=/models" in config["Env"], True, "place of fetched models")
    expect(config["User"], f"{USER}:{USER}", "user")
    expect(config["Entrypoint"] + config["Cmd"], ["asrswitch", "--iters", "50"], "command")


def check_files(tree: Path) -> None:
    """No compiler, no installer; and how large it is."""
    places = [tree / place for place in ("bin", "usr/bin", "usr/local/bin", "opt/asrswitch/bin")]
    found = [name for name in BUILD_TOOLS for place in places if os.path.lexists(place / name)]
    expect(found, [], "build tools in the image")
    total, own = size_bytes(tree), size_bytes(tree / "opt")
    print(f"image: {total / MIB:.0f} MiB unpacked, of which /opt/asrswitch {own / MIB:.0f} MiB")


def check_commands(buildah: Buildah, config: dict[str, Any], results: Path) -> None:
    """Verbs, as the image's user and as another, with what a user may mount and set."""
    os.chown(results, USER, USER)
    volume = f"--volume={results}:/results"
    entry = config["Entrypoint"]

    step("--iters 3")
    settings = ["--env=INFERENCE_THREADS=1", "--env=CONTEXT_LENGTH=512"]
    output = succeed(buildah.run(*entry, "--iters", "3", options=[volume, *settings]))
    print(output)
    (log,) = (results / "runs").glob("*/run.jsonl")
    expect(log.stat().st_uid, USER, "owner of the log")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    plan = records[0]["plan"]
    expect((plan["threads"], plan["context"]), (1, 512), "threads and context from the environment")
    loads = [record["model"] for record in records if record["record"] == "load"]
    expect(sorted(loads), sorted(MODELS * 3), "loads in the log")
    expect(records[-1]["reason"], "complete", "end of the log")

    step("report, doctor, mistakes")
    succeed(buildah.run(*entry, "report", f"runs/{log.parent.name}", options=[volume]))
    print(succeed(buildah.run(*entry, "doctor", options=[volume])))
    expect(buildah.run(*entry, "--iters", "none", options=[volume]).returncode, 2, "exit code of a mistake")

    step("leak-check --cycles 3")
    print(succeed(buildah.run(*entry, "leak-check", "--cycles", "3", "--check", options=[volume])))

    step("another user")
    another = results / "another"
    another.mkdir()
    os.chown(another, ANOTHER_USER, ANOTHER_USER)
    options = [f"--user={ANOTHER_USER}:{ANOTHER_USER}", f"--volume={another}:/results"]
    succeed(buildah.run(*entry, "--iters", "1", "--quiet", options=options))
    (log,) = (another / "runs").glob("*/run.jsonl")
    expect(log.stat().st_uid, ANOTHER_USER, "owner of another user's log")


def docker_run(tree: Path, results: str, *words: str, started: str = "now") -> list[str]:
    """The command line for `docker run --read-only --tmpfs /tmp -v RESULTS:/results`, begun at a time."""
    script = """set -e
        root=$0 results=$1 started=$2
        shift 2
        mount --bind "$root" "$root"
        mount -o remount,bind,ro "$root"
        mount -t proc proc "$root/proc"
        mount -t tmpfs -o nosuid,nodev,noexec,mode=1777 tmpfs "$root/tmp"
        mount --bind "$results" "$root/results"
        mount -t tmpfs tmpfs "$root/dev"
        for device in null zero random urandom; do
            touch "$root/dev/$device"
            mount --bind "/dev/$device" "$root/dev/$device"
        done
        mkdir -m 1777 "$root/dev/shm"
        touch -d "$started" "$root/dev"
        exec chroot --userspec=1000:1000 "$root" env -i -C /results "$@"
    """
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    return [*namespaces, "sh", "-c", script, str(tree), results, started, *words]


def check_health(tree: Path, config: dict[str, Any]) -> None:
    """The health line's answers, by the age of the container and of the log."""
    step("health")
    kind, line = config["Healthcheck"]["Test"]
    expect(kind, "CMD-SHELL", "health line")
    with tempfile.TemporaryDirectory(dir=WORK, prefix="results-") as results:
        os.chown(results, USER, USER)
        for started, written, healthy in (
            ("2 hours ago", None, True),  # a verb without a log
            ("2 hours ago", "now", True),
            ("2 hours ago", "1 hour ago", False),
            ("now", "1 hour ago", True),  # the log of an earlier run
        ):
            if written:
                call("touch", "-d", written, f"{results}/run.jsonl")
            done = subprocess.run(docker_run(tree, results, "/bin/sh", "-c", line, started=started))
            what = f"health of a container begun {started}, its log written {written}"
            expect(done.returncode == 0, healthy, what)


def check_read_only(tree: Path, config: dict[str, Any]) -> None:
    """A run on a read-only file system, as process 1, ended as by `docker stop`."""
    step("read-only, stopped")
    environment = [variable for variable in config["Env"] if variable.startswith("PATH=")]
    with tempfile.TemporaryDirectory(dir=WORK, prefix="results-") as results:
        os.chown(results, USER, USER)
        words = [*environment, *config["Entrypoint"], "--iters", "1000000"]
        with subprocess.Popen(docker_run(tree, results, *words), stdout=subprocess.DEVNULL) as process:
            wait_for_cycle(process, Path(results))
            (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(first), signal.SIGTERM)
            expect(process.wait(timeout=60), 128 + signal.SIGTERM, "exit code of a stopped run")
        (log,) = Path(results).glob("runs/*/run.jsonl")
        end = json.loads(log.read_text().splitlines()[-1])
        expect((end["record"], end["reason"]), ("end", "stopped"), "end of a stopped run's log")


def wait_for_cycle(process: subprocess.Popen[bytes], results: Path) -> None:
    """Return when a cycle stands in the log."""
    deadline = time.monotonic() + 60
    while not any('"after_unload"' in log.read_text() for log in results.glob("runs/*/run.jsonl")):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"read-only: no cycle within 60 s; exit code {process.poll()}")
        time.sleep(0.1)


def size_bytes(tree: Path) -> int:
    """What the files below a directory hold."""
    files = (path.lstat() for path in tree.rglob("*") if not path.is_dir() or path.is_symlink())
    return sum(status.st_size for status in files)


def succeed(done: subprocess.CompletedProcess[str]) -> str:
    """The output of a command that is to succeed."""
    expect(done.returncode, 0, f"exit code of {done.args[-4:]}\n{done.stdout}{done.stderr}")
    return done.stdout


def expect(is_: object, should_be: object, what: str) -> None:
    """End the program with one message unless both are equal."""
    if is_ != should_be:
        sys.exit(f"{what}\nis {is_!r}, should be {should_be!r}")


if __name__ == "__main__":
    main()
