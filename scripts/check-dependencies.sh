#!/bin/bash
# What deny.toml says of the packages that podpin is built with, by cargo-deny where that is installed.
#
# Licences, bans and sources are held by tests/architecture/dependencies.rs as well, on any machine. Only cargo-deny knows
# advisories, and only with a copy of the advisory database, which it fetches: without a network that part is left out,
# and this script says so. Installing cargo-deny (`cargo install --locked cargo-deny`) takes five minutes of a core, so that
# nothing here does it unasked.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! cargo deny --version >/dev/null 2>&1; then
    echo "dependencies: no cargo-deny; the tests check licences, bans and sources, nothing checks advisories here"
    exit 0
fi
cargo deny --locked check bans licenses sources
if cargo deny fetch db >/dev/null 2>&1; then
    cargo deny check advisories
else
    echo "dependencies: the advisory database cannot be fetched here; advisories are not checked"
fi
