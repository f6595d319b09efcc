# syntax=docker/dockerfile:1
# make image                                  podpin, by docker, podman or buildah
# make image ARGS="--target example"          the example service
# make image ARGS="--target demo"             podpin demo, with three pods in one process
# docker build --target symbols --output target/symbols .      what strip took out of the binaries, for debuggers

FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY crates crates
COPY tests tests
# The repository is no part of the context: scripts/image.sh says the commit, for `podpin --version`.
ARG PODPIN_COMMIT=
ARG PODPIN_COMMIT_DATE=
# Without default features the proxy has no `podpin demo`, which would link the example service and its Redis client.
# The caches keep downloads and compiled dependencies between builds; they are no part of a layer, so the binaries are
# copied out of them. The symbols, six times the size of the code, stay behind, each under the build id that the binary has.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --no-default-features --package podpin --package podpin-example \
    && mkdir /out /symbols \
    && for program in podpin podpin-example; do \
        objcopy --only-keep-debug "target/release/$program" "/symbols/$program.debug" \
        && objcopy --strip-all --add-gnu-debuglink="/symbols/$program.debug" "target/release/$program" "/out/$program" \
        || exit 1; \
    done

# The demo needs what the proxy leaves out: built only where `--target demo` asks for it.
FROM build AS build-demo
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package podpin \
    && objcopy --strip-all target/release/podpin /out/podpin-demo

# docker run --rm --network host podpin-demo:0.1.0
FROM gcr.io/distroless/cc-debian12:nonroot AS demo
COPY --from=build-demo /out/podpin-demo /usr/local/bin/podpin
ENTRYPOINT ["/usr/local/bin/podpin", "demo"]

FROM scratch AS symbols
COPY --from=build /symbols/ /

# The base has glibc, libgcc and CA certificates, no shell; `nonroot` is uid 65532. Its Debian must be the builder's.
FROM gcr.io/distroless/cc-debian12:nonroot AS example
COPY --from=build /out/podpin-example /usr/local/bin/podpin-example
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/podpin-example"]

FROM gcr.io/distroless/cc-debian12:nonroot AS podpin
ARG PODPIN_VERSION=
ARG PODPIN_COMMIT=
ARG PODPIN_COMMIT_DATE=
LABEL org.opencontainers.image.title="podpin" \
    org.opencontainers.image.description="Sticky-session reverse proxy for Server-Sent Events" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="$PODPIN_VERSION" \
    org.opencontainers.image.revision="$PODPIN_COMMIT" \
    org.opencontainers.image.created="$PODPIN_COMMIT_DATE"
COPY --from=build /out/podpin /usr/local/bin/podpin
# The proxy and its admin port.
EXPOSE 8080 9901
ENTRYPOINT ["/usr/local/bin/podpin"]
CMD ["run", "--config", "/etc/podpin/podpin.yaml"]
