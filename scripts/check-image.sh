#!/bin/bash
# The final stage of the image without a registry: the release binary of this machine, stripped as the Dockerfile does, over a base
# that is made here of what the binary is linked with. Then it runs as the manifests run it: read-only root, uid 65532, no
# capabilities, no new privileges. scripts/check-image.sh [BINARY]
#
# It needs buildah (as root) and unshare; where there is none, it says so and that is all.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${1:-${CARGO_TARGET_DIR:-target}/release/podpin}
skip() { echo "image: skipped, $*"; exit 0; }
command -v buildah >/dev/null || skip "no buildah here (apt-get install buildah)"
[ "$(id -u)" = 0 ] || skip "only root may make one here"
[ -x "$binary" ] || skip "no $binary: cargo build --release --package podpin --no-default-features"

work=$(mktemp -d)
storage=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)
mounted=
cleanup() {
    [ -z "$mounted" ] || buildah "${storage[@]}" umount --all >/dev/null 2>&1 || true
    buildah "${storage[@]}" rm --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap cleanup EXIT

# The stages of the Dockerfile that a registry would bring, made of this machine: what `build` leaves behind, and the base.
mkdir -p "$work/build/out" "$work/base/etc" "$work/base/tmp"
objcopy --only-keep-debug "$binary" "$work/podpin.debug"
objcopy --strip-all --add-gnu-debuglink="$work/podpin.debug" "$binary" "$work/build/out/podpin"
ldd "$work/build/out/podpin" | grep -oE '/[^ ]+' | while read -r library; do
    mkdir -p "$work/base$(dirname "$library")"
    cp -L "$library" "$work/base$library"
done
printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n' >"$work/base/etc/passwd"

image_of() { # <directory> <name> [user]
    local container
    container=$(buildah "${storage[@]}" from scratch)
    buildah "${storage[@]}" copy --quiet "$container" "$1" / >/dev/null
    [ -z "${3:-}" ] || buildah "${storage[@]}" config --user "$3" "$container"
    buildah "${storage[@]}" commit --quiet "$container" "$2" >/dev/null
    buildah "${storage[@]}" rm "$container" >/dev/null
}
image_of "$work/base" localhost/base 65532
image_of "$work/build" localhost/build

# The Dockerfile's own final stage, with those two in the place of what it names.
awk '/^FROM .* AS podpin$/ { print "FROM localhost/base AS podpin"; inside = 1; next } inside' Dockerfile |
    sed 's|--from=build|--from=localhost/build|' >"$work/Dockerfile"
version=$(sed -nE 's/^version = "([^"]+)"/\1/p' Cargo.toml | head -1)
buildah "${storage[@]}" build --quiet --isolation chroot --pull-never --build-arg "PODPIN_VERSION=$version" \
    --build-arg "PODPIN_COMMIT=$(git rev-parse HEAD 2>/dev/null || true)" --tag localhost/podpin --file "$work/Dockerfile" "$work/build" >/dev/null

inspect() { buildah "${storage[@]}" inspect --type image --format "$1" localhost/podpin; }
expect() { # <what> <found> <expected>
    [ "$2" = "$3" ] || { echo "image: $1 is '$2', not '$3'" >&2; exit 1; }
}
expect "the entry point" "$(inspect '{{.OCIv1.Config.Entrypoint}}')" "[/usr/local/bin/podpin]"
expect "the command" "$(inspect '{{.OCIv1.Config.Cmd}}')" "[run --config /etc/podpin/podpin.yaml]"
expect "the user" "$(inspect '{{.OCIv1.Config.User}}')" "65532"
expect "the version's label" "$(inspect '{{index .OCIv1.Config.Labels "org.opencontainers.image.version"}}')" "$version"
expect "the licence's label" "$(inspect '{{index .OCIv1.Config.Labels "org.opencontainers.image.licenses"}}')" "Apache-2.0"

container=$(buildah "${storage[@]}" from --pull-never localhost/podpin)
root=$(buildah "${storage[@]}" mount "$container")
mounted=1
[ -z "$(find "$root" -name sh -o -name bash -o -name busybox)" ] || { echo "image: there is a shell in it" >&2; exit 1; }
size=$(du -sm "$root" | cut -f1)
# A binary for tests is larger than what ships.
[[ $binary != */release/* ]] || [ "$size" -le 50 ] || { echo "image: $size MiB unpacked, more than 50" >&2; exit 1; }

# In namespaces of its own, as user 65532 without a capability, on a root that nothing can be written to: it starts, becomes
# ready, and ends with 0 at SIGTERM.
mkdir -p "$root/etc/podpin" "$root/proc"
cat >"$root/etc/podpin/podpin.yaml" <<'YAML'
listeners: [{name: http, address: 127.0.0.1:8080}]
admin: {address: 127.0.0.1:9901}
affinityKeys: ephemeral
routes: [{service: chat}]
services: {chat: {discovery: {static: [{name: a, address: "127.0.0.1:1"}]}}}
shutdown: {announce: 0s, spread: 0s}
YAML
cat >"$work/contain.py" <<'PYTHON'
"""Runs the image's entry point and command as a kubelet would let them run, and waits until it is ready."""
import ctypes, errno, os, signal, subprocess, sys, time, urllib.request

ROOT, NOBODY = sys.argv[1], 65532
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
libc = ctypes.CDLL(None, use_errno=True)


def contained():
    os.chroot(ROOT)
    os.chdir("/")
    capability = 0
    while libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    try:
        os.mkdir("/tmp/written")
        os._exit(97)
    except OSError as error:
        if error.errno != errno.EROFS:
            os._exit(98)


subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
print("image:", subprocess.run(["/usr/local/bin/podpin", "--version"], preexec_fn=contained, check=True,
                               capture_output=True, text=True).stdout.strip())
began = time.monotonic()
podpin = subprocess.Popen(["/usr/local/bin/podpin", "run", "--config", "/etc/podpin/podpin.yaml"], preexec_fn=contained,
                          env={}, stderr=subprocess.PIPE, text=True)
ready = None
while ready is None and podpin.poll() is None and time.monotonic() < began + 30:
    try:
        ready = time.monotonic() if urllib.request.urlopen("http://127.0.0.1:9901/readyz", timeout=1).status == 200 else None
    except OSError:
        time.sleep(0.005)
status = dict(line.split(":", 1) for line in open(f"/proc/{podpin.pid}/status") if ":" in line)
podpin.send_signal(signal.SIGTERM)
code = podpin.wait(60)
if ready is None or code != 0:
    sys.exit(f"image: not ready, or it ended with {code}:\n{podpin.stderr.read()}")
for name, expected in [("CapEff", 0), ("CapBnd", 0), ("NoNewPrivs", 1)]:
    found = int(status[name].strip(), 16)
    if found != expected:
        sys.exit(f"image: {name} is {found:x}")
print(f"image: ready {1000 * (ready - began):.0f} ms after its start, as uid {status['Uid'].split()[0]}, without capabilities, on a read-only root")
PYTHON
unshare --mount --net --pid --fork --kill-child bash -euo pipefail -c '
    mount --bind "$1" "$1"
    mount -o remount,bind,ro "$1"
    mount -t proc proc "$1/proc"
    mount -t proc proc /proc
    exec python3 "$2" "$1"
' bash "$root" "$work/contain.py"
echo "image: $size MiB unpacked, the binary $(du -m "$work/build/out/podpin" | cut -f1) MiB, its symbols $(du -m "$work/podpin.debug" | cut -f1) MiB"
