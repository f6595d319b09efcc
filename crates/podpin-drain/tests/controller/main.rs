//! The controller with streams, endpoints and time of a test's own making: scenes, a law, and a race of threads.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics is a test that fails")]

mod hung;
mod laws;
mod places;
mod rebalancing;
mod scenes;
mod threads;
mod world;
