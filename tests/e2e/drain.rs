//! Drain end to end: streams leave an endpoint that goes away, politely and at a pace, and no other stream notices.

mod beginning;
mod forced;
mod goodbye;
mod keep;
mod pace;
mod rollout;
