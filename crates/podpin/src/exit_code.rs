//! The exit codes that a script may rely on, besides 0.

/// The operator's input is at fault: bad configuration, unusable key, address in use.
pub(crate) const BAD_CONFIGURATION: u8 = 1;

/// Exit code that a shell reports for a process that SIGINT ended.
pub(crate) const INTERRUPTED: u8 = 130;
