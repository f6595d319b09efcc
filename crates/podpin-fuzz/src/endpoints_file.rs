//! Endpoints files of any bytes: taken, with no endpoint twice, or refused with the place of each problem.

use std::collections::HashSet;

use podpin_discovery::parse_endpoints;

use crate::configuration::lines;

/// The whole input is a file.
pub fn endpoints_file(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let lines = lines(text);
    match parse_endpoints(text, "endpoints.yaml") {
        Ok(endpoints) => {
            let addresses: HashSet<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
            assert_eq!(addresses.len(), endpoints.len(), "an address twice");
        }
        Err(error) => {
            assert!(!error.problems.is_empty(), "refused without a reason");
            for problem in &error.problems {
                let line = problem.line;
                assert!((1..=lines).contains(&line), "line {line} of {lines}: {problem}");
                assert!(problem.column >= 1, "no column: {problem}");
            }
            assert_eq!(
                error.to_string().lines().count(),
                error.problems.len(),
                "one problem a line: {error}"
            );
        }
    }
}
