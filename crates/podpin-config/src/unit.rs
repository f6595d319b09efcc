//! Values with a unit, as operators write them: durations, sizes and address ranges.

mod bytes;
mod cidr;
mod duration;

pub use bytes::format_bytes;
pub(crate) use bytes::parse_bytes;
pub use cidr::{Cidr, CidrError};
pub(crate) use duration::DurationRange;
pub use duration::{DurationError, format_duration, parse_duration};
