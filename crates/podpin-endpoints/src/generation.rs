//! Generations: the endpoints that one rollout made.
//!
//! Kubernetes names a pod of a ReplicaSet `<deployment>-<pod-template-hash>-<suffix>`. Hash and suffix are written in an
//! alphabet without vowels and without 0, 1 and 3 (`k8s.io/apimachinery/pkg/util/rand`), so the part before the suffix names the
//! ReplicaSet, and all pods of one template have it in common. An EndpointSlice names no owner, so the name has to do.

/// Characters of a generated hash or suffix.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Length of the suffix that the API server appends to `generateName`.
const SUFFIX_LENGTH: usize = 5;

/// Longest pod name that is generated: a longer prefix is cut, and no hyphen may be left before the suffix.
const GENERATED_NAME_MAX: usize = 63;

/// Longest `pod-template-hash`: a number of 32 bits in decimal digits.
const HASH_LENGTH_MAX: usize = 10;

/// Returns the generation of the pod with this name: that of its ReplicaSet. `None` if the name is not that of a ReplicaSet's
/// pod: pods of a StatefulSet (`chat-0`) are succeeded by pods of the same name.
///
/// ```
/// use podpin_endpoints::generation_of_pod;
///
/// assert_eq!(generation_of_pod("chat-7d4b9c-x2x9k"), Some("chat-7d4b9c"));
/// assert_eq!(generation_of_pod("chat-0"), None);
/// ```
#[must_use]
pub fn generation_of_pod(name: &str) -> Option<&str> {
    let (set, suffix) = name.split_at_checked(name.len().checked_sub(SUFFIX_LENGTH)?)?;
    if !is_generated(suffix) {
        return None;
    }
    match set.strip_suffix('-') {
        Some(set) => {
            let (deployment, hash) = set.rsplit_once('-')?;
            (!deployment.is_empty() && hash.len() <= HASH_LENGTH_MAX && is_generated(hash)).then_some(set)
        }
        // The prefix was cut, perhaps within the hash.
        None => (name.len() == GENERATED_NAME_MAX).then_some(set),
    }
}

fn is_generated(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_the_replica_set_in_the_name_of_a_pod() {
        let long = "a".repeat(50);
        let cut = format!("{long}-7d4b9c8x2x9k");
        assert_eq!(cut.len(), GENERATED_NAME_MAX);
        let table = [
            ("chat-7d4b9c-x2x9k", Some("chat-7d4b9c")),
            ("chat-web-5b8d7c9f64-bcdfg", Some("chat-web-5b8d7c9f64")),
            (&*cut, Some(&cut[..58])),
            ("chat-0", None),
            ("chat-12345", None),
            ("chat-web-24567", None),
            ("node-exporter-x2x9k", None),
            ("chat-x2x9k", None),
            ("-7d4b9c-x2x9k", None),
            ("chat-7d4b9c-x2x9", None),
            ("chat-7d4b9c-x2x9kk", None),
            ("chat-7d4b9c-x2a9k", None),
            ("chat--x2x9k", None),
            ("chat-22222222222-x2x9k", None),
            ("x2x9k", None),
            ("pod", None),
            ("", None),
            ("chat-7d4b9c-äx9k", None),
        ];
        for (name, generation) in table {
            assert_eq!(generation_of_pod(name), generation, "{name}");
        }
    }
}
