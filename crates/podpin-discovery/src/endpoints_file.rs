//! The endpoints file: a YAML list of `{name, address, state, zone, weight, generation}`, read whole or refused whole.
//!
//! ```yaml
//! - {name: pod-a, address: 10.0.0.1:8080, generation: "2"}
//! - {name: pod-b, address: "[fd00::2]:8080", state: draining, zone: b, weight: 2}   # state: ready | draining | notReady
//! ```
//!
//! The same strictness as for the configuration: an unknown key or a second endpoint of a name is an error with its
//! line and column, because what was meant cannot be known. When and how often it is read is left to `file.rs`.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use podpin_config::Problem;
use podpin_endpoints::{Condition, EndpointId, Observed};
use saphyr::{LoadableYamlNode, MarkedYaml, Marker, Scalar, YamlData};

/// Endpoints in one file; ten times the largest service that the project measures.
const ENDPOINTS_MAX: usize = 100_000;

/// Problems that are told of one file: who has more has one cause, and reads the first.
const PROBLEMS_MAX: usize = 20;

/// Block collections may be opened on one line only this deep (`- - - -`): the YAML reader recurses there without a
/// bound of its own, and a list of mappings needs two.
const INDENT_MAX: usize = 256;

/// As in the configuration file.
const WEIGHT_MAX: u32 = 1_000;

/// Longest DNS subdomain (RFC 1123): what a pod's name may be.
const NAME_CHARS_MAX: usize = 253;

/// Longest Kubernetes label value.
const ZONE_CHARS_MAX: usize = 63;

const KEYS: &str = "name, address, state, zone, weight or generation";

/// An endpoints file that was refused, with what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct EndpointsFileError {
    /// Name of the file in messages.
    pub file: String,
    /// At least one problem, in the order of the file; the first twenty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for EndpointsFileError {
    /// `file:line:column: path: message`, one problem a line, without a newline at the end.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> =
            self.problems.iter().map(|problem| format!("{}:{problem}", self.file)).collect();
        out.write_str(&lines.join("\n"))
    }
}

/// Parses the text of an endpoints file; `name` is what errors call the file.
///
/// # Errors
/// Everything that is wrong with it: syntax, unknown or repeated keys, bad values, a name or an address twice, more
/// than 100,000 entries, nothing at all (an empty list is written `[]`).
///
/// ```
/// use podpin_discovery::parse_endpoints;
/// use podpin_endpoints::Condition;
///
/// let text = "
/// - {name: pod-a, address: '10.0.0.1:8080'}
/// - {name: pod-b, address: '10.0.0.2:8080', state: draining}
/// ";
/// let observed = parse_endpoints(text, "endpoints.yaml")?;
/// assert_eq!(observed[0].condition, Condition::Ready);
/// assert_eq!(observed[1].condition, Condition::Draining { serving: true });
///
/// let error = parse_endpoints("[{name: pod-a}]", "endpoints.yaml").unwrap_err();
/// assert!(error.to_string().starts_with("endpoints.yaml:1:"), "{error}");
/// # Ok::<(), podpin_discovery::EndpointsFileError>(())
/// ```
pub fn parse_endpoints(text: &str, name: &str) -> Result<Vec<Observed>, EndpointsFileError> {
    let mut reading = Reading::default();
    let endpoints = reading.document(text.strip_prefix('\u{feff}').unwrap_or(text));
    let problems = reading.problems;
    if problems.is_empty() {
        Ok(endpoints)
    } else {
        Err(EndpointsFileError { file: name.to_owned(), problems })
    }
}

/// The problem of a file that is not text: its first byte that is not UTF-8.
pub(crate) fn not_utf8(text: &[u8], error: std::str::Utf8Error, name: &str) -> EndpointsFileError {
    let valid = text.get(..error.valid_up_to()).unwrap_or_default();
    let valid = String::from_utf8_lossy(valid);
    let line = valid.split('\n').count();
    let column = valid.rsplit('\n').next().map_or(1, |last| last.chars().count() + 1);
    let problem = Problem { line, column, path: String::new(), message: "not valid UTF-8".to_owned() };
    EndpointsFileError { file: name.to_owned(), problems: vec![problem] }
}

/// State of the reading so far.
#[derive(Default)]
struct Reading {
    problems: Vec<Problem>,
    /// The line of the first endpoint of each name, and of each address.
    names: HashMap<String, usize>,
    addresses: HashMap<SocketAddr, usize>,
}

/// A value and the path by which messages call it.
struct Value<'y> {
    yaml: &'y MarkedYaml<'y>,
    path: String,
}

impl Reading {
    fn document(&mut self, text: &str) -> Vec<Observed> {
        if let Some(line) = too_deep(text) {
            self.report(line, INDENT_MAX + 1, String::new(), "nested too deep".to_owned());
            return Vec::new();
        }
        let documents = match MarkedYaml::load_from_str(text) {
            Ok(documents) => documents,
            Err(error) => {
                self.fail_at(*error.marker(), String::new(), format!("not valid YAML: {}", error.info()));
                return Vec::new();
            }
        };
        match documents.as_slice() {
            [] => self.fail_empty(),
            [root] => return self.list(root),
            [_, second, ..] => {
                self.fail_at(second.span.start, String::new(), "a second YAML document".to_owned());
            }
        }
        Vec::new()
    }

    fn list(&mut self, root: &MarkedYaml<'_>) -> Vec<Observed> {
        match &root.data {
            YamlData::Sequence(items) if items.len() > ENDPOINTS_MAX => {
                let message = format!("{} endpoints; at most {ENDPOINTS_MAX} are read", items.len());
                self.fail_at(root.span.start, String::new(), message);
            }
            YamlData::Sequence(items) => {
                let read = items.iter().enumerate().filter_map(|(index, item)| self.endpoint(index, item));
                return read.collect();
            }
            YamlData::BadValue | YamlData::Value(Scalar::Null) => self.fail_empty(),
            _ => {
                let message = "expected a list of endpoints (`- {name: .., address: ..}`)";
                self.fail_at(root.span.start, String::new(), message.to_owned());
            }
        }
        Vec::new()
    }

    fn fail_empty(&mut self) {
        let message = "the file is empty; a list without endpoints is written []";
        self.report(1, 1, String::new(), message.to_owned());
    }

    fn endpoint(&mut self, index: usize, item: &MarkedYaml<'_>) -> Option<Observed> {
        let path = format!("[{index}]");
        let YamlData::Mapping(mapping) = &item.data else {
            self.fail_at(item.span.start, path, format!("expected a mapping with {KEYS}"));
            return None;
        };
        let mut entry = Entry::default();
        for (key, yaml) in mapping {
            let path = |key: &str| format!("{path}.{key}");
            match key.data.as_str() {
                Some("name") => entry.name = self.name(&Value { yaml, path: path("name") }),
                Some("address") => entry.address = self.address(&Value { yaml, path: path("address") }),
                Some("state") => entry.condition = self.state(&Value { yaml, path: path("state") }),
                Some("zone") => entry.zone = self.zone(&Value { yaml, path: path("zone") }),
                Some("generation") => {
                    entry.generation = self.generation(&Value { yaml, path: path("generation") });
                }
                Some("weight") => entry.weight = self.weight(&Value { yaml, path: path("weight") }),
                Some(other) => {
                    let message = format!("unknown key; expected {KEYS}");
                    self.fail_at(key.span.start, path(&excerpt(other)), message);
                }
                None => self.fail_at(key.span.start, path("?"), format!("a key must be {KEYS}")),
            }
        }
        for required in ["name", "address"] {
            if !mapping.keys().any(|key| key.data.as_str() == Some(required)) {
                self.fail_at(item.span.start, path.clone(), format!("`{required}` is missing"));
            }
        }
        entry.observed()
    }

    fn name(&mut self, value: &Value<'_>) -> Option<String> {
        let name = self.word(value, NAME_CHARS_MAX, "an endpoint name")?;
        let line = value.yaml.span.start.line();
        if let Some(first) = first_of(&mut self.names, name.clone(), line) {
            self.fail(value, format!("duplicate endpoint name `{name}`; the first is on line {first}"));
        }
        Some(name)
    }

    fn address(&mut self, value: &Value<'_>) -> Option<SocketAddr> {
        const EXPECTED: &str = "an IP address and port such as 10.0.0.1:8080";
        let text = self.text(value, EXPECTED)?;
        let Ok(address) = text.parse::<SocketAddr>() else {
            let hint = if text.parse::<IpAddr>().is_ok() { "; the port is missing" } else { "" };
            self.fail(value, format!("expected {EXPECTED}, found `{}`{hint}", excerpt(text)));
            return None;
        };
        if address.port() == 0 {
            self.fail(value, "the port must not be 0".to_owned());
        }
        // ::ffff:10.0.0.1 and 10.0.0.1 are one place.
        let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
        let line = value.yaml.span.start.line();
        if let Some(first) = first_of(&mut self.addresses, canonical, line) {
            self.fail(value, format!("duplicate endpoint address {address}; the first is on line {first}"));
        }
        Some(address)
    }

    fn state(&mut self, value: &Value<'_>) -> Option<Condition> {
        match value.yaml.data.as_str() {
            Some("ready") => Some(Condition::Ready),
            Some("draining") => Some(Condition::Draining { serving: true }),
            Some("notReady") => Some(Condition::NotReady { serving: false }),
            _ => {
                self.fail_expected(value, "ready, draining or notReady");
                None
            }
        }
    }

    fn zone(&mut self, value: &Value<'_>) -> Option<String> {
        if matches!(value.yaml.data, YamlData::Value(Scalar::Null)) {
            return None;
        }
        self.word(value, ZONE_CHARS_MAX, "a zone")
    }

    fn generation(&mut self, value: &Value<'_>) -> Option<String> {
        if matches!(value.yaml.data, YamlData::Value(Scalar::Null)) {
            return None;
        }
        self.word(value, NAME_CHARS_MAX, "a generation")
    }

    fn weight(&mut self, value: &Value<'_>) -> Option<u32> {
        let weight = value.yaml.data.as_integer().and_then(|number| u32::try_from(number).ok());
        let weight = weight.filter(|weight| (1..=WEIGHT_MAX).contains(weight));
        if weight.is_none() {
            self.fail_expected(value, &format!("a whole number from 1 to {WEIGHT_MAX}"));
        }
        weight
    }

    /// A name as the configuration allows it: it becomes a metric label and a field of logs.
    fn word(&mut self, value: &Value<'_>, chars_max: usize, what: &str) -> Option<String> {
        let text = self.text(value, what)?;
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let edges = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric());
        if !edges || text.len() > chars_max || !text.chars().all(inner) {
            let rule = "of A-Z, a-z, 0-9, ., _ and -, beginning and ending with a letter or digit";
            self.fail(value, format!("`{}` is not {what}: at most {chars_max} {rule}", excerpt(text)));
            return None;
        }
        Some(text.to_owned())
    }

    fn text<'y>(&mut self, value: &Value<'y>, what: &str) -> Option<&'y str> {
        match &value.yaml.data {
            YamlData::Value(Scalar::String(text)) => return Some(text),
            YamlData::Value(Scalar::Integer(_) | Scalar::FloatingPoint(_) | Scalar::Boolean(_)) => {
                self.fail_expected(value, &format!("{what} in quotes"));
            }
            _ => self.fail_expected(value, what),
        }
        None
    }

    fn fail_expected(&mut self, value: &Value<'_>, what: &str) {
        let found = match &value.yaml.data {
            YamlData::Value(Scalar::String(text)) => format!("`{}`", excerpt(text)),
            YamlData::Value(Scalar::Integer(number)) => format!("`{number}`"),
            YamlData::Value(Scalar::FloatingPoint(number)) => format!("`{number}`"),
            YamlData::Value(Scalar::Boolean(truth)) => format!("`{truth}`"),
            YamlData::Value(Scalar::Null) => "nothing".to_owned(),
            YamlData::Sequence(_) => "a list".to_owned(),
            YamlData::Mapping(_) => "a mapping".to_owned(),
            YamlData::Representation(..) | YamlData::Tagged(..) | YamlData::Alias(_) | YamlData::BadValue => {
                "something else".to_owned()
            }
        };
        self.fail(value, format!("expected {what}, found {found}"));
    }

    fn fail(&mut self, value: &Value<'_>, message: String) {
        self.fail_at(value.yaml.span.start, value.path.clone(), message);
    }

    fn fail_at(&mut self, at: Marker, path: String, message: String) {
        self.report(at.line(), at.col() + 1, path, message);
    }

    fn report(&mut self, line: usize, column: usize, path: String, message: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { line, column, path, message });
        }
    }
}

/// The fields of one entry; those that are absent or were refused are `None`.
#[derive(Default)]
struct Entry {
    name: Option<String>,
    address: Option<SocketAddr>,
    condition: Option<Condition>,
    zone: Option<String>,
    weight: Option<u32>,
    generation: Option<String>,
}

impl Entry {
    fn observed(self) -> Option<Observed> {
        let (name, address) = (self.name?, self.address?);
        Some(Observed {
            zone: self.zone.map(Into::into),
            generation: self.generation.map(Into::into),
            weight: self.weight.unwrap_or(1),
            condition: self.condition.unwrap_or(Condition::Ready),
            reversible_drain: true,
            ..Observed::ready(EndpointId::of_address(&name, address), name, address)
        })
    }
}

/// The line where `key` stands already; notes `line` for it when it is new.
fn first_of<K: Hash + Eq>(lines: &mut HashMap<K, usize>, key: K, line: usize) -> Option<usize> {
    match lines.entry(key) {
        MapEntry::Occupied(first) => Some(*first.get()),
        MapEntry::Vacant(free) => {
            free.insert(line);
            None
        }
    }
}

/// The first line that opens block collections beyond all reason.
fn too_deep(text: &str) -> Option<usize> {
    let opens = |byte: &u8| matches!(byte, b' ' | b'\t' | b'-' | b'?' | b':');
    let indent = |line: &str| line.bytes().take_while(opens).count();
    text.split(['\n', '\r']).position(|line| indent(line) > INDENT_MAX).map(|index| index + 1)
}

/// The beginning of `text`, fit for a log line.
fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let short: String = text.chars().take(CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(CHARS_MAX).is_some() { short + "..." } else { short }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use proptest::prelude::*;

    use super::*;

    /// Pieces of YAML, and of its corruption.
    const PIECES: &[&str] = &[
        "- ",
        "? ",
        ": ",
        ":",
        "{",
        "}",
        "[",
        "]",
        ",",
        "&a",
        "*a",
        "!t ",
        "!!str ",
        "|",
        "|2-\n",
        ">",
        "\"",
        "'",
        "\\",
        "\n",
        "\n  ",
        "\n    ",
        " ",
        "\t",
        "#",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "%TAG ! x\n",
        "a",
        "name",
        "address",
        "10.0.0.1:80",
        "\u{e4}",
        "\u{2028}",
        "\u{feff}",
        "\r",
        "\0",
        "<<",
        "~",
        "0x1",
        "1e400",
        "@",
        "`",
        "!<x>",
        "\u{1f600}",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

        #[test]
        fn no_text_makes_the_reader_panic_and_every_refusal_says_why(
            pieces in prop::collection::vec(prop::sample::select(PIECES), 0..14),
        ) {
            if let Err(error) = parse_endpoints(&pieces.concat(), "file") {
                prop_assert!(!error.problems.is_empty() && error.problems.iter().all(|problem| problem.line > 0));
            }
        }
    }

    fn problems(text: &str) -> String {
        parse_endpoints(text, "file").expect_err(text).to_string()
    }

    #[test]
    fn every_field_is_read_and_the_rest_has_defaults() {
        let text = "
- {name: a, address: 10.0.0.1:8080}
- name: b.1_x
  address: '[fd00::2]:9'
  state: draining
  zone: eu-1b
  weight: 1000
  generation: chat-7d4b9c
- {name: c, address: 10.0.0.1:8081, state: notReady, zone: null}
- {name: d, address: 10.0.0.1:8082, state: ready}
";
        let read = parse_endpoints(text, "file").unwrap();
        let facts: Vec<_> = read
            .iter()
            .map(|one| (&*one.name, one.address.to_string(), one.condition, one.zone.as_deref(), one.weight))
            .collect();
        let draining = Condition::Draining { serving: true };
        let not_ready = Condition::NotReady { serving: false };
        assert_eq!(
            facts,
            [
                ("a", "10.0.0.1:8080".into(), Condition::Ready, None, 1),
                ("b.1_x", "[fd00::2]:9".into(), draining, Some("eu-1b"), 1_000),
                ("c", "10.0.0.1:8081".into(), not_ready, None, 1),
                ("d", "10.0.0.1:8082".into(), Condition::Ready, None, 1),
            ]
        );
        let generations: Vec<_> = read.iter().map(|one| one.generation.as_deref()).collect();
        assert_eq!(generations, [None, Some("chat-7d4b9c"), None, None]);
        assert!(read.iter().all(|one| one.reversible_drain && one.uid.is_none() && one.node.is_none()));
        assert_eq!(read[1].id, EndpointId::of_address("b.1_x", read[1].address));
    }

    #[test]
    fn an_empty_list_is_a_list() {
        for text in ["[]", "[]\n", "---\n[]\n...\n", "\u{feff}[]", "# nobody\n[]"] {
            assert_eq!(parse_endpoints(text, "file").unwrap(), [], "{text:?}");
        }
    }

    #[test]
    fn every_mistake_has_its_place_and_its_cure() {
        let name = "of A-Z, a-z, 0-9, ., _ and -, beginning and ending with a letter or digit";
        let cases = [
            ("", "file:1:1: the file is empty; a list without endpoints is written []".to_owned()),
            ("# only this", "file:1:1: the file is empty; a list without endpoints is written []".into()),
            ("null", "file:1:1: the file is empty; a list without endpoints is written []".into()),
            ("endpoints: []", "file:1:1: expected a list of endpoints (`- {name: .., address: ..}`)".into()),
            ("[]\n---\n[]", "file:3:1: a second YAML document".into()),
            ("- {name: a", "file:2:1: not valid YAML: while parsing a flow mapping, did not find expected ',' or '}'".into()),
            ("- a", "file:1:3: [0]: expected a mapping with name, address, state, zone, weight or generation".into()),
            ("- {address: 10.0.0.1:80}", "file:1:3: [0]: `name` is missing".into()),
            ("- {name: a}", "file:1:3: [0]: `address` is missing".into()),
            (
                "- name: a\n  adress: 10.0.0.1:80",
                "file:2:3: [0].adress: unknown key; expected name, address, state, zone, weight or generation\n\
                 file:1:3: [0]: `address` is missing".into(),
            ),
            ("- {name: a, name: b, address: 10.0.0.1:80}", "file:1:13: not valid YAML: duplicated key in mapping".into()),
            ("- {name: 7, address: 10.0.0.1:80}", "file:1:10: [0].name: expected an endpoint name in quotes, found `7`".into()),
            ("- {name: ~, address: 10.0.0.1:80}", "file:1:10: [0].name: expected an endpoint name, found nothing".into()),
            ("- {name: -a, address: 10.0.0.1:80}", format!("file:1:10: [0].name: `-a` is not an endpoint name: at most 253 {name}")),
            ("- {name: a, address: 10.0.0.1}", "file:1:22: [0].address: expected an IP address and port such as 10.0.0.1:8080, found `10.0.0.1`; the port is missing".into()),
            ("- {name: a, address: pod:80}", "file:1:22: [0].address: expected an IP address and port such as 10.0.0.1:8080, found `pod:80`".into()),
            ("- {name: a, address: 10.0.0.1:0}", "file:1:22: [0].address: the port must not be 0".into()),
            ("- {name: a, address: [1]}", "file:1:22: [0].address: expected an IP address and port such as 10.0.0.1:8080, found a list".into()),
            ("- {name: a, address: 10.0.0.1:80, state: notready}", "file:1:42: [0].state: expected ready, draining or notReady, found `notready`".into()),
            ("- {name: a, address: 10.0.0.1:80, zone: 1}", "file:1:41: [0].zone: expected a zone in quotes, found `1`".into()),
            ("- {name: a, address: 10.0.0.1:80, zone: z_}", format!("file:1:41: [0].zone: `z_` is not a zone: at most 63 {name}")),
            ("- {name: a, address: 10.0.0.1:80, generation: 2}", "file:1:47: [0].generation: expected a generation in quotes, found `2`".into()),
            ("- {name: a, address: 10.0.0.1:80, generation: a b}", format!("file:1:47: [0].generation: `a b` is not a generation: at most 253 {name}")),
            ("- {name: a, address: 10.0.0.1:80, weight: 0}", "file:1:43: [0].weight: expected a whole number from 1 to 1000, found `0`".into()),
            ("- {name: a, address: 10.0.0.1:80, weight: 1.5}", "file:1:43: [0].weight: expected a whole number from 1 to 1000, found `1.5`".into()),
            ("- {name: a, address: 10.0.0.1:80, 7: x}", "file:1:35: [0].?: a key must be name, address, state, zone, weight or generation".into()),
            (
                "- {name: a, address: 10.0.0.1:80}\n- {name: a, address: 10.0.0.2:80}",
                "file:2:10: [1].name: duplicate endpoint name `a`; the first is on line 1".into(),
            ),
            (
                "- {name: a, address: 10.0.0.1:80}\n- {name: b, address: '[::ffff:10.0.0.1]:80'}",
                "file:2:22: [1].address: duplicate endpoint address [::ffff:10.0.0.1]:80; the first is on line 1".into(),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(problems(text), expected, "{text}");
        }
    }

    #[test]
    fn bombs_are_refused_and_not_run() {
        let deep_blocks = "- ".repeat(100_000);
        assert_eq!(problems(&deep_blocks), "file:1:257: nested too deep");
        assert!(problems(&"[".repeat(100_000)).contains("recursion limit"));
        assert!(problems(&"- &a ".repeat(100_000)).contains("not valid YAML"));
        assert!(problems(&"- !a ".repeat(100_000)).contains("not valid YAML"));
        let mut laughs = String::from("- &l0 [x]\n");
        for level in 1..40 {
            let below = level - 1;
            writeln!(laughs, "- &l{level} [*l{below}, *l{below}]").unwrap();
        }
        assert!(problems(&laughs).contains("alias"), "{}", problems(&laughs));
        let long = "- {name: x}\n".repeat(1_000);
        assert_eq!(problems(&long).lines().count(), PROBLEMS_MAX);
    }

    #[test]
    fn one_endpoint_too_many_is_refused() {
        let text = "- a\n".repeat(ENDPOINTS_MAX + 1);
        assert_eq!(problems(&text), "file:1:1: 100001 endpoints; at most 100000 are read");
    }
}
