#!/bin/bash
# What can be checked of the Dockerfile without a Docker engine: that it copies what exists and is not ignored, that it
# builds packages and copies binaries of the workspace, with the workspace's Rust version.
set -euo pipefail
cd "$(dirname "$0")/.."

failures=0
fail() {
    echo "Dockerfile: $*" >&2
    failures=$((failures + 1))
}

# Sources of `COPY a b dest`, without those from another stage.
sources=$(awk '$1 == "COPY" && $2 !~ /^--from/ { for (i = 2; i < NF; i++) print $i }' Dockerfile)
for source in $sources; do
    [ -e "$source" ] || fail "COPY $source: no such file"
    grep -qx -- "!$source" .dockerignore || fail "COPY $source: kept out by .dockerignore"
done

# Every member of the workspace has to be in the build context, or cargo does not resolve it.
for manifest in crates/*/Cargo.toml tests/Cargo.toml; do
    grep -qx "${manifest%%/*}" <<<"$sources" || fail "$manifest is a member and is not copied"
done

# Files that the sources include from outside the copied directories.
while IFS=: read -r file path; do
    target=$(realpath -m --relative-to=. "$(dirname "$file")/$path")
    [ -e "$target" ] || continue
    grep -qx "${target%%/*}" <<<"$sources" || fail "$file includes $target, which is not copied"
done < <(grep -rnoE 'include_(str|bytes)!\("[^"]+"' crates --include='*.rs' | sed -E 's/^([^:]+):[0-9]+:.*\("(.*)"$/\1:\2/')

for package in $(grep -oE -- '--package [a-z-]+' Dockerfile | awk '{ print $2 }'); do
    [ -f "crates/$package/src/main.rs" ] || [ -d "crates/$package/src/bin" ] || fail "$package has no binary"
    grep -q "COPY --from=build /out/$package " Dockerfile || fail "$package is built and not copied"
done

grep -q 'objcopy --strip-all' Dockerfile || fail "the binaries are not stripped"
grep -q 'objcopy --only-keep-debug' Dockerfile || fail "the symbols are not kept"
grep -qE '^(HEALTHCHECK|USER root)' Dockerfile && fail "a HEALTHCHECK needs a shell, and the image runs as nonroot"
for label in title description licenses version revision created; do
    grep -q "org.opencontainers.image.$label=" Dockerfile || fail "no label org.opencontainers.image.$label"
done

grep -q 'cargo build .*--no-default-features' Dockerfile || fail "the demo and its Redis client are in the image"

wanted=$(sed -nE 's/^rust-version = "([0-9.]+)"/\1/p' Cargo.toml)
grep -q "^FROM rust:$wanted-" Dockerfile || fail "the builder is not Rust $wanted, the workspace's rust-version"
grep -qE "^channel = \"$wanted(\.[0-9]+)?\"" rust-toolchain.toml || fail "rust-toolchain.toml is not Rust $wanted, the rust-version"

[ "$failures" -eq 0 ] || exit 1
