#!/bin/bash
# Runs the fuzzer: scripts/fuzz.sh [seconds for each target, default 30] [target...]
#
# On the stable toolchain: libFuzzer needs compiler flags that only nightly offers, which RUSTC_BOOTSTRAP unlocks. No
# sanitizer, because the workspace forbids unsafe code; what is looked for are panics, broken laws, hangs and memory. New
# inputs are gathered in fuzz/corpus-new, which is not kept; what breaks something is written to fuzz/artifacts. Fix
# it, and keep the input, as small as it gets (cargo fuzz tmin), in fuzz/corpus: the tests replay it from then on.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-30}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for file in fuzz/fuzz_targets/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi

cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
# The versions that the workspace is built with.
cp Cargo.lock fuzz/Cargo.lock
export RUSTC_BOOTSTRAP=1
for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus-new/$target"
    cargo fuzz run --sanitizer none "$target" "fuzz/corpus-new/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=5 -rss_limit_mb=2048 -max_len=4096
done
