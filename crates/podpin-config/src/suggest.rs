//! "Did you mean": the known word that a misspelt one was probably meant to be.

/// Known words that look alike when case, `_` and `-` are ignored count as the same word.
fn plain(word: &str) -> String {
    word.chars().filter(|c| *c != '_' && *c != '-').flat_map(char::to_lowercase).collect()
}

/// The candidate nearest to `word`, if one is near enough to be what was meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = plain(word);
    // A third of the letters may be wrong; a longer word than any key is not worth the quadratic comparison.
    let allowed = (wanted.chars().count() / 3).max(1);
    if wanted.is_empty() || wanted.len() > 100 {
        return None;
    }
    let distances =
        candidates.into_iter().map(|known| (strsim::damerau_levenshtein(&wanted, &plain(known)), known));
    distances
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// `a`, `b` or `c`: words for a message.
pub(crate) fn list<'a>(words: impl IntoIterator<Item = &'a str>, last: &str) -> String {
    let mut quoted: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match quoted.pop() {
        Some(word) if quoted.is_empty() => word,
        Some(word) => format!("{} {last} {word}", quoted.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_the_known_one() {
        let known = ["keepAlive", "retry", "maxDuration", "eventBytesMax"];
        let cases = [
            ("keepAlve", Some("keepAlive")),
            ("keep_alive", Some("keepAlive")),
            ("keep-alive", Some("keepAlive")),
            ("KEEPALIVE", Some("keepAlive")),
            ("retyr", Some("retry")),
            ("max_durations", Some("maxDuration")),
            ("compression", None),
            ("x", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }

    #[test]
    fn a_list_of_words_reads_as_a_sentence() {
        assert_eq!(list(["a"], "or"), "`a`");
        assert_eq!(list(["a", "b", "c"], "or"), "`a`, `b` or `c`");
        assert_eq!(list([], "or"), "");
    }
}
