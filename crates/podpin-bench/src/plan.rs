//! How long each measurement takes. The default plan ends in about four minutes, `--quick` in about one, on
//! two busy cores with four peers.

use std::time::Duration;

use crate::cli::Settings;

/// The extent of a run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Interleaved rounds; the median is reported.
    pub(crate) rounds: u32,
    /// Idle streams, when none are named.
    pub(crate) memory_streams: Vec<u32>,
    /// Rest before memory is read: allocators give back and caches settle.
    pub(crate) memory_rest: Duration,
    /// Rest between opening a load and the window in which it is measured.
    pub(crate) warm_up: Duration,
    /// How long CPU and events are counted.
    pub(crate) events_window: Duration,
    pub(crate) latency_window: Duration,
    pub(crate) requests_window: Duration,
    pub(crate) sessions: u32,
    pub(crate) burst_mb: u32,
    /// Connections, streams or waiting requests whose memory `http2` compares.
    pub(crate) http2_count: u32,
}

impl Plan {
    /// The plan for these settings.
    pub(crate) fn new(settings: &Settings) -> Self {
        let mut plan = if settings.quick { Self::quick() } else { Self::full() };
        plan.rounds = settings.rounds.unwrap_or(plan.rounds);
        plan
    }

    fn full() -> Self {
        Self {
            rounds: 3,
            memory_streams: vec![2_000, 9_500],
            memory_rest: Duration::from_millis(1_000),
            warm_up: Duration::from_millis(600),
            events_window: Duration::from_millis(2_500),
            latency_window: Duration::from_millis(2_000),
            requests_window: Duration::from_millis(1_200),
            sessions: 3_000,
            burst_mb: 60,
            http2_count: 2_000,
        }
    }

    fn quick() -> Self {
        Self {
            rounds: 1,
            memory_streams: vec![2_000],
            memory_rest: Duration::from_millis(500),
            warm_up: Duration::from_millis(300),
            events_window: Duration::from_millis(1_500),
            latency_window: Duration::from_millis(1_500),
            requests_window: Duration::from_millis(800),
            sessions: 1_500,
            burst_mb: 30,
            http2_count: 500,
        }
    }
}
