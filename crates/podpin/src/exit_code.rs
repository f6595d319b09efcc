//! The exit codes that a script may rely on, besides 0.

/// The operator's input is at fault: bad configuration, unusable key, address in use.
pub(crate) const BAD_CONFIGURATION: u8 = 1;

/// An import has approximations, or settings that are not supported.
pub(crate) const IMPORT_APPROXIMATE: u8 = 3;

/// An import would lose a protection whose loss was not allowed.
pub(crate) const IMPORT_LOSES_PROTECTION: u8 = 4;

/// Exit code that a shell reports for a process that SIGINT ended.
pub(crate) const INTERRUPTED: u8 = 130;
