//! The problems of a configuration file: all of them at once, each with its place.
//!
//! An operator fixes a file in one go when all of its problems are shown together; hence a list, and a `Display` that
//! editors and CI logs understand (`file:line:column: path: message`, one problem a line).

use std::fmt;

/// A file that was refused, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Name of the file in messages, as the caller gave it.
    pub file: String,
    /// At least one problem, in the order of the file.
    pub problems: Vec<Problem>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    /// Writes one problem a line, without a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{problem}", self.file)?;
        }
        Ok(())
    }
}

/// A problem and its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, counted from 1; 0 when the file as a whole could not be read.
    pub line: usize,
    /// Column in characters, counted from 1; 0 when the file as a whole could not be read.
    pub column: usize,
    /// The offending key, such as `services.chat.sse.keepAlive` or `routes[0].service`; empty for the whole file.
    pub path: String,
    /// The problem and, where it can be told, the text to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    /// `12:5: services.chat.sse.keepAlve: unknown key; did you mean `keepAlive`?`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, " {}:", self.path)?;
        }
        write!(f, " {}", self.message)
    }
}
