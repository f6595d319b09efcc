//! The files of `deploy/`, read by the types and the parser that will read them in earnest.
//!
//! Every manifest goes through its k8s-openapi type and back, and nothing of it may be lost, so a misspelt field is
//! found here instead of being ignored by a cluster. Every kustomization is put together, and then its parts have to
//! fit: names that exist, selectors that find pods, ports and times that agree with the podpin configuration inside.
//! What only an API server knows (allowed values, admission) is left to one.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the report")]

mod bundle;
mod chart;
mod configuration;
mod custom;
mod documents;
mod example;
mod fitting;
mod hardening;
mod imported;
mod kinds;
mod manifests;
mod monitoring;
mod release;
mod workload;
