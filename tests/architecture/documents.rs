//! The documents: links and anchors that resolve, and reference pages that list what the source has, no more and no less.
//!
//! Pages are compared with the text of the source, in the files where such names are made and nowhere else: metrics, labels,
//! fields of the access log, replies. What a page says about a name is for its readers to judge.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::{fail_if_any, sources};

/// Folder of everything that is measured and logged.
const TELEMETRY: &str = "crates/podpin-proxy/src/telemetry";

/// Links that the documents have at least. Fewer found means that the search is broken.
const LINKS_MIN: usize = 150;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the code of a source file, without its tests.
fn code(path: impl AsRef<Path>) -> String {
    let text = read(path);
    text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}

/// Collects the Markdown files of `directory` and of those below.
fn collect_pages(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect_pages(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            into.push(path);
        }
    }
}

/// Returns every page that is checked.
fn pages() -> Vec<PathBuf> {
    let names = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"];
    let mut pages: Vec<PathBuf> = names.iter().map(|name| root().join(name)).collect();
    collect_pages(&root().join("docs"), &mut pages);
    pages.sort();
    pages
}

/// Returns the lines of a page that are no fenced code.
fn lines_outside_code(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let is_outside = |line: &&str| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    };
    text.lines().filter(is_outside).collect()
}

/// Returns a line without what stands between backticks; a span that goes on in the next line stays.
fn without_code(line: &str) -> String {
    let parts: Vec<&str> = line.split('`').collect();
    if parts.len().is_multiple_of(2) { line.to_owned() } else { parts.into_iter().step_by(2).collect() }
}

/// Returns the targets of all links and pictures of a page.
fn links(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    for line in lines_outside_code(text) {
        let line = without_code(line);
        let ends = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        let pictures = line.split(" src=\"").skip(1).filter_map(|rest| rest.split_once('"'));
        targets.extend(ends.chain(pictures).map(|(target, _)| target.to_owned()));
    }
    targets
}

/// Returns the anchor of a heading, as GitHub makes it: lower case, hyphens for spaces, no punctuation.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|char| if char == ' ' { '-' } else { char }).collect()
}

/// Returns the anchors of a page; a heading that comes again has a number behind it.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings = lines_outside_code(text).into_iter().filter(|line| line.starts_with('#'));
    let slugs = headings.map(|line| slug(line.trim_start_matches('#').trim()));
    slugs
        .map(|slug| {
            let count = seen.entry(slug.clone()).or_default();
            *count += 1;
            if *count == 1 { slug } else { format!("{slug}-{}", *count - 1) }
        })
        .collect()
}

/// Returns what is wrong with a link of a page; `None` if it leads somewhere.
fn fault_of_link(page: &Path, target: &str) -> Option<String> {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() { page.to_owned() } else { page.parent()?.join(path) };
    if !file.exists() {
        return Some(format!("{}: there is no {target}", page.display()));
    }
    let is_page = file.extension().is_some_and(|extension| extension == "md");
    let is_missing = is_page && !anchor.is_empty() && !anchors(&read(&file)).contains(anchor);
    is_missing.then(|| format!("{}: no heading makes the anchor of {target}", page.display()))
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut followed = 0;
    let mut problems = Vec::new();
    for page in pages() {
        let targets = links(&read(&page));
        let inside =
            targets.iter().filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
        for target in inside {
            followed += 1;
            problems.extend(fault_of_link(&page, target));
        }
    }
    fail_if_any(&problems);
    assert!(followed >= LINKS_MIN, "only {followed} links were found");
}

#[test]
fn anchors_are_made_as_github_makes_them() {
    let page =
        "# On Kubernetes\n## `podpin check` and *run*\n```\n# no heading\n```\n### Why? (1)\n### Why? (1)\n";
    let expected = ["on-kubernetes", "podpin-check-and-run", "why-1", "why-1-1"];
    assert_eq!(anchors(page), BTreeSet::from(expected.map(str::to_owned)));
    let line = "[`a`](b.md) `[c](d.md)` and [e](#f), [g](h/i.md#j) <img src=\"k.png\">";
    assert_eq!(links(line), ["b.md", "#f", "h/i.md#j", "k.png"]);
}

/// Returns the first cells of the table rows of a text, those that are one name in backticks.
fn names_in_tables(text: &str) -> Vec<&str> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    cells.map(|(name, _)| name).collect()
}

/// Returns what of two lists of names does not agree: those of a page, and those of the source.
fn disagreements(page: &str, documented: &[&str], known: &BTreeSet<String>) -> Vec<String> {
    let listed: BTreeSet<String> = documented.iter().map(|name| (*name).to_owned()).collect();
    let mut problems: Vec<String> =
        known.difference(&listed).map(|name| format!("{page} does not list {name}.")).collect();
    problems
        .extend(listed.difference(known).map(|name| format!("{page} lists {name}, which does not exist.")));
    if documented.len() > listed.len() {
        problems.push(format!("{page} lists a name twice: {documented:?}"));
    }
    problems
}

/// Returns the names of all metrics that are registered, by their declarations: `field: Family = "name", "help";`.
fn registered_metrics() -> BTreeSet<String> {
    let mut files = vec![root().join(TELEMETRY).join("metrics.rs")];
    sources(&root().join(TELEMETRY).join("metrics"), &mut files);
    let mut names = BTreeSet::new();
    for file in files {
        let text = code(file);
        let declarations = text.lines().filter_map(|line| line.split_once(" = \""));
        let fields = declarations.filter(|(left, _)| {
            let field = left.trim_start().split_once(": ").map_or("", |(field, _)| field);
            !field.is_empty() && field.chars().all(|char| matches!(char, 'a'..='z' | '0'..='9' | '_'))
        });
        let found = fields.filter_map(|(_, right)| right.split_once("\","));
        names.extend(found.map(|(name, _)| format!("podpin_{name}")));
    }
    names
}

/// Returns the values that a text declares for labels: `Variant => "value",`.
fn label_values(text: &str) -> Vec<&str> {
    let arms = text.lines().filter_map(|line| line.trim().split_once(" => \""));
    let variants = arms.filter(|(left, _)| {
        left.starts_with(char::is_uppercase) && left.chars().all(|char| char.is_ascii_alphanumeric())
    });
    variants.filter_map(|(_, right)| right.strip_suffix("\",")).collect()
}

#[test]
fn the_page_of_metrics_lists_those_that_are_registered_and_no_others() {
    let page = read("docs/metrics.md");
    let documented = names_in_tables(&page);
    let metrics: Vec<&str> = documented.into_iter().filter(|name| name.starts_with("podpin_")).collect();
    let registered = registered_metrics();
    assert!(registered.len() >= 50, "only {registered:?} were found in the source");
    let mut problems = disagreements("docs/metrics.md", &metrics, &registered);
    let labels =
        ["labels.rs", "labels/discovery.rs"].map(|file| code(Path::new(TELEMETRY).join(file))).concat();
    let values = label_values(&labels);
    assert!(values.len() >= 100, "only {values:?} were found in the source");
    let missing = values.iter().filter(|value| !page.contains(&format!("`{value}`")));
    problems.extend(missing.map(|value| format!("docs/metrics.md does not have the label value `{value}`.")));
    fail_if_any(&problems);
}

/// Returns the words of a text that have the form of a metric's name.
fn metric_names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    words.filter(|word| word.strip_prefix("podpin_").is_some_and(|rest| !rest.is_empty()))
}

#[test]
fn every_metric_that_a_page_names_is_registered() {
    let registered = registered_metrics();
    let mut problems = Vec::new();
    // The changelog names what was.
    for page in pages().into_iter().filter(|page| !page.ends_with("CHANGELOG.md")) {
        let text = read(&page);
        let unknown = metric_names(&text).filter(|name| {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(*part));
            !registered.contains(*name) && !family.is_some_and(|family| registered.contains(family))
        });
        problems.extend(unknown.map(|name| format!("{}: there is no metric {name}.", page.display())));
    }
    fail_if_any(&problems);
}

/// Returns the name of a field as serde renames it.
fn camel_case(field: &str) -> String {
    let mut name = String::new();
    let mut begins_word = false;
    for char in field.chars() {
        if char == '_' {
            begins_word = true;
        } else {
            name.push(if begins_word { char.to_ascii_uppercase() } else { char });
            begins_word = false;
        }
    }
    name
}

/// Returns the text from behind `begin` to `end`.
fn between<'t>(text: &'t str, begin: &str, end: &str) -> &'t str {
    let behind = text.split_once(begin).unwrap_or_else(|| panic!("{begin} is not there")).1;
    behind.split(end).next().unwrap_or_default()
}

#[test]
fn the_page_of_the_access_log_lists_its_fields_reasons_and_errors() {
    let page = read("docs/access-log.md");
    let log = code(Path::new(TELEMETRY).join("access_log.rs"));
    let record = between(&log, "pub struct Record {", "\n}");
    let fields = record.lines().filter_map(|line| line.trim_start().strip_prefix("pub ")?.split_once(':'));
    let known: BTreeSet<String> = fields.map(|(field, _)| camel_case(field)).collect();
    assert!(known.len() >= 20, "only {known:?} were found in the source");
    let section = between(&page, "\n## Fields\n", "\n## ");
    let mut problems = disagreements("docs/access-log.md", &names_in_tables(section), &known);
    let labels = code(Path::new(TELEMETRY).join("labels.rs"));
    let reasons = label_values(between(&labels, "CloseReason, \"reason\", {", "\n}"));
    let replies = code("crates/podpin-proxy/src/http/reply.rs");
    let errors = replies.split("#[error(\"").skip(1).filter_map(|rest| rest.split_once("\")]"));
    // An error with a value in it is not in the page to the letter.
    let texts = errors.map(|(text, _)| text).filter(|text| !text.contains('{'));
    let written = reasons.into_iter().chain(texts);
    let missing = written.filter(|text| !page.contains(&format!("`{text}`")));
    problems.extend(missing.map(|text| format!("docs/access-log.md does not have `{text}`.")));
    fail_if_any(&problems);
}
