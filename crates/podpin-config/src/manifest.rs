//! Configurations inside Kubernetes manifests: the `podpin.yaml` of a ConfigMap, read where it lies.
//!
//! A configuration is checked before it is applied, and then it lies in git as a block of text in a ConfigMap. Problems are told
//! with the lines and columns of that file. The block is therefore parsed with its indentation, behind as many empty lines as stand
//! before it: YAML permits both, and every position is that of the outer file without any arithmetic.

use std::path::Path;

use saphyr::{LoadableYamlNode, MarkedYaml, YamlData};

use crate::error::{ConfigError, Problem};
use crate::node::Position;
use crate::parse::{Config, read_file};

/// The key of a ConfigMap under which the image looks for its configuration.
const KEY: &str = "podpin.yaml";

/// A configuration, and the place that it was found in.
#[derive(Clone, Debug)]
pub struct Found {
    /// `ConfigMap podpin`; `None` if the file is the configuration itself.
    pub manifest: Option<String>,
    /// The configuration.
    pub config: Config,
}

/// The text of a configuration in a manifest.
struct Embedded {
    name: String,
    text: String,
    /// The place of the text in the outer file, if positions inside are not those of the outer file.
    apart: Option<Position>,
}

impl Config {
    /// Reads the configuration in `path`, or the configurations in its ConfigMaps if it is a manifest.
    ///
    /// # Errors
    /// As [`Config::load`]; and for a manifest without any configuration.
    pub fn load_all(path: &Path) -> Result<Vec<Found>, ConfigError> {
        let name = path.display().to_string();
        let refuse = |problem| ConfigError { file: name.clone(), problems: vec![problem] };
        let text = read_file(path).map_err(refuse)?;
        Self::parse_all(&text, &name, path.parent().unwrap_or(Path::new("")))
    }

    /// Parses `text` as [`Config::parse`] does, or the configurations in its ConfigMaps if it is a manifest. Relative paths of
    /// the latter are those of the image, `/etc/podpin`.
    ///
    /// # Errors
    /// Every problem, with its place in `text`.
    pub fn parse_all(text: &str, name: &str, base: &Path) -> Result<Vec<Found>, ConfigError> {
        let Some(embedded) = embedded(text) else {
            return Ok(vec![Found { manifest: None, config: Self::parse(text, name, base)? }]);
        };
        let mut problems = Vec::new();
        let mut found = Vec::with_capacity(embedded.len());
        for one in embedded {
            match Self::parse(&one.text, name, Path::new("/etc/podpin")) {
                Ok(config) => found.push(Found { manifest: Some(one.name), config }),
                Err(error) => problems.extend(error.problems.into_iter().map(|problem| one.placed(problem))),
            }
        }
        if found.is_empty() && problems.is_empty() {
            let message = format!("a Kubernetes manifest without a ConfigMap that has a `{KEY}`");
            problems.push(Problem { line: 1, column: 1, path: String::new(), message });
        }
        match problems.is_empty() {
            true => Ok(found),
            false => Err(ConfigError { file: name.to_owned(), problems }),
        }
    }
}

impl Embedded {
    /// Gives a problem the place of the text, if its own is not that of the outer file.
    fn placed(&self, problem: Problem) -> Problem {
        let Some(at) = self.apart else { return problem };
        let Problem { line, column, path, message } = problem;
        let message = format!("{message} (line {line}, column {column} of `{KEY}`)");
        Problem { line: at.line, column: at.column, path, message }
    }
}

/// Returns the configurations in the ConfigMaps of a manifest; `None` if the text is none.
fn embedded(text: &str) -> Option<Vec<Embedded>> {
    // Reading YAML twice costs a multiple of the file; a configuration has no `kind`.
    text.contains("kind:").then_some(())?;
    let documents = MarkedYaml::load_from_str(text).ok()?;
    let is_object = |document: &MarkedYaml<'_>| {
        [text_at(document, "apiVersion"), text_at(document, "kind")].iter().all(Option::is_some)
    };
    documents.iter().any(is_object).then_some(())?;
    let maps = documents.iter().filter(|document| text_at(document, "kind") == Some("ConfigMap"));
    Some(maps.filter_map(|map| in_config_map(map, text)).collect())
}

fn in_config_map(map: &MarkedYaml<'_>, outer: &str) -> Option<Embedded> {
    let (key, value) = entry(entry(map, "data")?.1, KEY)?;
    let content = value.data.as_str()?;
    let named = entry(map, "metadata").and_then(|(_, metadata)| text_at(metadata, "name"));
    let name = format!("ConfigMap {}", named.unwrap_or("without a name"));
    let at = Position::from(key.span.start);
    Some(match in_place(outer, at.line) {
        Some(text) => Embedded { name, text, apart: None },
        None => Embedded { name, text: content.to_owned(), apart: Some(at) },
    })
}

/// Returns the block of text whose key stands on `line`, at its place; `None` if it is written in another way than with `|`.
fn in_place(outer: &str, line: usize) -> Option<String> {
    let opening = outer.lines().nth(line.checked_sub(1)?)?;
    let (_, indicator) = opening.split_once(':')?;
    indicator.trim_start().starts_with('|').then_some(())?;
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let mut text = "\n".repeat(line);
    for line in outer.lines().skip(line) {
        let is_inside = line.trim().is_empty() || indent(line) > indent(opening);
        if !is_inside {
            break;
        }
        text.push_str(line);
        text.push('\n');
    }
    Some(text)
}

fn entry<'y, 'i>(node: &'y MarkedYaml<'i>, name: &str) -> Option<(&'y MarkedYaml<'i>, &'y MarkedYaml<'i>)> {
    let YamlData::Mapping(mapping) = &node.data else { return None };
    mapping.iter().find(|(key, _)| key.data.as_str() == Some(name))
}

fn text_at<'y>(node: &'y MarkedYaml<'_>, name: &str) -> Option<&'y str> {
    entry(node, name)?.1.data.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INNER: [&str; 6] = [
        "listeners: [{name: http, address: '127.0.0.1:8080'}]",
        "affinityKeys: [{id: k1, file: keys/k1}]",
        "routes: [{name: all, service: chat}]",
        "services:",
        "  chat:",
        "    discovery: {kubernetes: {service: chat, port: http}}",
    ];

    fn manifest(inner: &[&str]) -> String {
        let block: String = inner.iter().map(|line| format!("    {line}\n")).collect();
        format!(
            "# podpin\napiVersion: v1\nkind: Service\nmetadata: {{name: podpin}}\n---\napiVersion: v1\nkind: ConfigMap\n\
             metadata:\n  name: podpin\ndata:\n  other: x\n  podpin.yaml: |\n{block}  later: y\n"
        )
    }

    fn parse(text: &str) -> Result<Vec<Found>, ConfigError> {
        Config::parse_all(text, "cm.yaml", Path::new("base"))
    }

    #[test]
    fn a_configuration_is_found_in_its_config_map_with_paths_of_the_image() {
        let found = parse(&manifest(&INNER)).unwrap();
        assert_eq!((found.len(), found[0].manifest.as_deref()), (1, Some("ConfigMap podpin")));
        let keys = format!("{:?}", found[0].config.affinity_keys);
        assert!(keys.contains("/etc/podpin/keys/k1"), "{keys}");
        let plain = parse(&INNER.join("\n")).unwrap();
        assert!(plain[0].manifest.is_none());
    }

    #[test]
    fn problems_have_the_positions_of_the_outer_file() {
        let mut inner = INNER;
        inner[5] = "    discovry: {kubernetes: {service: chat, port: http}}";
        let error = parse(&manifest(&inner)).unwrap_err().to_string();
        // The block begins on line 13, indented by 4.
        assert!(error.contains("cm.yaml:18:9: services.chat.discovry"), "{error}");
        let broken = parse(&manifest(&["listeners: [", "routes: x"])).unwrap_err().to_string();
        assert!(broken.contains("cm.yaml:1"), "{broken}");
    }

    #[test]
    fn a_text_in_quotes_has_the_position_of_its_key_and_its_own_in_words() {
        let quoted = INNER.join("\\n").replace("services:", "servces:");
        let text = format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\",\n \"data\": {{\"podpin.yaml\": \"{quoted}\"}}}}"
        );
        let text = text.replace("\"kind\":", "kind:");
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains("cm.yaml:2:11: servces") && error.contains("(line 4, column 1"), "{error}");
    }

    #[test]
    fn a_manifest_without_a_configuration_is_refused() {
        let error = parse("apiVersion: v1\nkind: ConfigMap\ndata: {a: b}\n").unwrap_err().to_string();
        assert!(error.contains("without a ConfigMap"), "{error}");
    }
}
