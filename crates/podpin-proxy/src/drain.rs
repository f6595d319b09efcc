//! Streams that leave: who, when, and whether their clients return.

pub(crate) mod controller;
pub(crate) mod desk;
pub(crate) mod leaving;
pub(crate) mod rebalance;
pub(crate) mod returns;
pub(crate) mod tally;
