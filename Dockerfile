# syntax=docker/dockerfile:1
# docker build -t podpin .
# docker build -t podpin-example --target example .

FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY crates crates
COPY tests tests
# Without default features the proxy has no `podpin demo`, which would link the example service and its Redis client.
# The caches keep downloads and compiled dependencies between builds; they are no part of a layer, so the binaries are
# copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --no-default-features --package podpin --package podpin-example \
    && mkdir /out \
    && cp target/release/podpin target/release/podpin-example /out/

# The base has glibc, libgcc and CA certificates, no shell; `nonroot` is uid 65532. Its Debian must be the builder's.
FROM gcr.io/distroless/cc-debian12:nonroot AS example
COPY --from=build /out/podpin-example /usr/local/bin/podpin-example
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/podpin-example"]

FROM gcr.io/distroless/cc-debian12:nonroot AS podpin
COPY --from=build /out/podpin /usr/local/bin/podpin
# The proxy and its admin port.
EXPOSE 8080 9901
ENTRYPOINT ["/usr/local/bin/podpin"]
CMD ["run", "--config", "/etc/podpin/podpin.yaml"]
