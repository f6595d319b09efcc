//! Laws: no text makes the parser panic, and every refusal says where.

use std::path::Path;

use podpin_config::Config;
use proptest::prelude::*;

const VALID: &str = include_str!("contract.yaml");

/// Parses, and holds any refusal to its form.
fn parse_somehow(text: &str) -> Result<(), TestCaseError> {
    let Err(error) = Config::parse(text, "f", Path::new("")) else {
        return Ok(());
    };
    prop_assert!(!error.problems.is_empty());
    let lines = text.split('\n').count() + text.matches('\r').count() + 1;
    for problem in &error.problems {
        prop_assert!((1..=lines).contains(&problem.line) && problem.column >= 1, "{problem:?}");
        prop_assert!(!problem.message.is_empty());
    }
    let places: Vec<_> = error.problems.iter().map(|problem| (problem.line, problem.column)).collect();
    prop_assert!(places.is_sorted());
    prop_assert_eq!(error.to_string().lines().count(), error.problems.len());
    Ok(())
}

/// `VALID` with the characters from `at` replaced.
fn mutated(at: usize, removed: usize, inserted: &str) -> String {
    let before: String = VALID.chars().take(at).collect();
    let after: String = VALID.chars().skip(at + removed).collect();
    format!("{before}{inserted}{after}")
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}|[a-z\\[\\]{}:,\\-?*&!|>'\"%@ \n\t#]{0,120}|(?s:.{0,40})") {
        parse_somehow(&text)?;
    }

    #[test]
    fn a_damaged_file_is_read_or_refused(
        at in 0..VALID.len(),
        removed in 0usize..40,
        inserted in "[\\[\\]{}:,\\-?*&!|>'\"%@ \n\t#a-z0-9]{0,6}|off|null|\\PC",
    ) {
        parse_somehow(&mutated(at, removed, &inserted))?;
    }

    #[test]
    fn a_damaged_value_never_widens_what_is_accepted(value in "[a-zA-Z0-9.:/]{1,12}") {
        let text = VALID.replace("keepAlive: 15s", &format!("keepAlive: {value}"));
        if let Ok(config) = Config::parse(&text, "f", Path::new("")) {
            let keep_alive = config.services.first().and_then(|service| service.sse.keep_alive);
            prop_assert!(keep_alive.is_none_or(|value| (1..=600).contains(&value.as_secs())), "{value}");
        }
    }
}
