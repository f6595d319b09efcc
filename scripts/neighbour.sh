#!/bin/sh
# Five event streams behind HAProxy, and five behind Envoy, beside a neighbour who sends whatever may break the connection that they share:
# tests/e2e/neighbours.rs for ten minutes instead of one round. `scripts/neighbour.sh 60` runs for a minute.
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh test
cargo build --workspace --all-targets
PODPIN_NEIGHBOUR_SECONDS="${1:-600}" cargo nextest run --workspace --no-fail-fast --success-output final \
    -E 'package(podpin-tests) & test(/^neighbours::/)'
