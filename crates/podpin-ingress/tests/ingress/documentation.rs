//! docs/migration.md has the tables of the code, row by row.

use std::fs;
use std::path::Path;

use podpin_ingress::{ANNOTATIONS, CONTROLLER_KEYS, Class, FOREIGN, Known, Protection};

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/migration.md");
    fs::read_to_string(path).unwrap()
}

fn row(known: &Known) -> String {
    let classes: Vec<&str> = known.classes.iter().map(|class| class.words()).collect();
    let target = match known.target {
        "-" => String::new(),
        target => target.split(", ").map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "),
    };
    let note = known.note.replace('|', "\\|").replace('<', "&lt;");
    format!("| `{}` | {target} | {} | {note} |", known.name, classes.join(", "))
}

/// Returns the rows below a heading, to the next one.
fn rows<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let (_, after) =
        page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = after.lines().take_while(|line| !line.starts_with('#'));
    section.filter(|line| line.starts_with("| `")).collect()
}

fn compare(heading: &str, table: &[Known]) {
    let expected: Vec<String> = table.iter().map(row).collect();
    let page = page();
    let found = rows(&page, heading);
    assert!(expected == found, "docs/migration.md, {heading}, has to be\n{}\n", expected.join("\n"));
}

#[test]
fn the_page_has_every_annotation() {
    compare("## Annotations", ANNOTATIONS);
}

#[test]
fn the_page_has_every_key_of_the_controller() {
    compare("## The controller's ConfigMap", CONTROLLER_KEYS);
}

#[test]
fn the_page_has_annotations_of_others() {
    compare("## Annotations of others", FOREIGN);
}

#[test]
fn the_page_has_every_class_and_every_protection() {
    let page = page();
    for class in Class::ALL {
        assert!(page.contains(&format!("| {class} |")), "{class}");
    }
    for protection in Protection::ALL {
        assert!(page.contains(&format!("`{}`", protection.name())), "{}", protection.name());
    }
}
