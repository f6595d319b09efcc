//! Values with a unit, as operators write them: durations, sizes and address ranges.

mod bytes;
mod cidr;
mod duration;

pub use bytes::format_bytes;
pub(crate) use bytes::parse_bytes;
pub use cidr::{Cidr, CidrError};
pub use duration::format_duration;
pub(crate) use duration::{DurationError, DurationRange, parse_duration};
