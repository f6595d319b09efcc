//! Streams that leave: who, when, and whether their clients return.

pub mod controller;
pub mod desk;
pub mod leaving;
pub mod rebalance;
pub mod returns;
pub mod tally;
