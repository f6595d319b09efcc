#!/bin/bash
# Builds an image by docker, podman or buildah, whichever works: scripts/image.sh [option of `build`]...
# The tag is the workspace's version; `--target example` makes podpin-example instead, `--target demo` podpin-demo.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -nE 's/^version = "([^"]+)"/\1/p' Cargo.toml | head -1)
commit=$(git rev-parse HEAD 2>/dev/null || true)
date=$(git log -1 --format=%cs 2>/dev/null || true)
name=podpin
case " $* " in
    *" --target example "*) name=podpin-example ;;
    *" --target demo "*) name=podpin-demo ;;
esac

# A client without its daemon builds nothing.
for candidate in docker podman buildah; do
    command -v "$candidate" >/dev/null || continue
    if [ "$candidate" = buildah ] || timeout 20 "$candidate" info >/dev/null 2>&1; then
        engine=$candidate
        break
    fi
done
[ -n "${engine:-}" ] || { echo "image: neither docker nor podman nor buildah works here" >&2; exit 1; }

arguments=(--build-arg "PODPIN_VERSION=$version" --build-arg "PODPIN_COMMIT=$commit" --build-arg "PODPIN_COMMIT_DATE=$date" --tag "$name:$version" "$@" .)
echo "image: $engine builds $name:$version"
if [ "$engine" = docker ]; then
    exec env DOCKER_BUILDKIT=1 docker build "${arguments[@]}"
fi
exec "$engine" build --layers "${arguments[@]}"
