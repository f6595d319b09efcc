//! Configuration files of any bytes: taken, or refused with the place of each problem.

use std::path::Path;

use podpin_config::Config;

/// The whole input is a file.
pub fn configuration(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Err(error) = Config::parse(text, "podpin.yaml", Path::new("/etc/podpin")) else { return };
    assert!(!error.problems.is_empty(), "refused without a reason");
    let lines = lines(text);
    for problem in &error.problems {
        assert!((1..=lines).contains(&problem.line), "line {} of {lines}: {problem}", problem.line);
        assert!(problem.column >= 1, "no column: {problem}");
        assert!(!problem.message.is_empty(), "no message");
    }
    assert_eq!(error.to_string().lines().count(), error.problems.len(), "one problem a line: {error}");
}

/// The last line that a problem may be in: YAML ends lines as it likes (YAML 1.2 section 5.4), and what is missing at
/// the end of a file is missing behind its last line.
pub(crate) fn lines(text: &str) -> usize {
    text.matches(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count() + 2
}
