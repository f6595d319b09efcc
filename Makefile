# Everything a person types. `make` alone lists the targets; each needs only rustup's cargo, gcc and make:
# scripts/setup.sh brings the rest (Debian packages) or says which command does.

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test bench parts check fuzz setup image image-check sbom

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## build podpin and watch event streams being pinned to pods (ARGS="--for 10s --clients 200" runs alone)
	@scripts/setup.sh demo
	$(CARGO) build --release --package podpin
	$(TARGET_DIR)/release/podpin demo $(ARGS)

# One build of everything with the features that the tests need, so that nothing is compiled twice; the end-to-end tests
# run the binary that lies in the target directory then.
test: ## all tests: unit, property, documentation, end to end and browser
	@scripts/setup.sh test
	$(CARGO) build --workspace --all-targets
	$(CARGO) test --workspace --doc --quiet
	@if $(CARGO) nextest --version >/dev/null 2>&1; then set -x; $(CARGO) nextest run --workspace --no-fail-fast $(ARGS); \
	else set -x; $(CARGO) test --workspace --all-targets --no-fail-fast $(ARGS); fi

bench: ## podpin beside nginx, HAProxy and a TCP relay: about 4 minutes (ARGS=--quick: a minute)
	@scripts/setup.sh bench
	$(CARGO) build --release --package podpin --package podpin-bench
	$(TARGET_DIR)/release/podpin-bench $(ARGS)

parts: ## the speed of single parts: cookie verification, event framing, picking an endpoint, worst requests, handshakes
	$(CARGO) run --release --package podpin-affinity --example verify
	$(CARGO) run --release --package podpin-sse --example throughput
	$(CARGO) run --release --package podpin-endpoints --example pick
	$(CARGO) build --release --package podpin
	$(CARGO) run --release --package podpin-tests --example worst_cases
	$(CARGO) run --release --package podpin-tests --example handshakes

check: ## formatting, lints, documentation, Dockerfile, dependencies
	@scripts/setup.sh demo
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	$(CARGO) clippy --workspace --no-default-features -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' $(CARGO) doc --workspace --no-deps
	scripts/check-dockerfile.sh
	scripts/check-dependencies.sh

fuzz: ## the fuzzer over every parser, 30 seconds each (ARGS="300 request_head": one of them, longer)
	@scripts/setup.sh demo
	scripts/fuzz.sh $(ARGS)

image: ## the container image, by docker, podman or buildah (ARGS="--target example" builds the example service's)
	scripts/image.sh $(ARGS)

image-check: ## the image's final stage with this machine's release binary, started as a kubelet would (buildah, root)
	@scripts/setup.sh demo image
	$(CARGO) build --release --no-default-features --package podpin
	scripts/check-image.sh

sbom: ## the bill of materials of the proxy, CycloneDX JSON, from cargo's metadata
	@mkdir -p $(TARGET_DIR)
	scripts/sbom.py $(TARGET_DIR)/podpin.cdx.json

setup: ## the Debian packages that demo, test and bench need
	@scripts/setup.sh demo test bench
