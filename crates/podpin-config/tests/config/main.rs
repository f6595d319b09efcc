//! The configuration file seen from outside: what is accepted, what is refused and in which words.

mod discovery;
mod drains;
mod examples;
mod json_schema;
mod laws;
mod refusals;
mod routes;
mod values;

use std::path::Path;

use podpin_config::Config;

/// The three entries that every file needs, each in one line.
const REST: [(&str, &str); 3] = [
    ("listeners:", "listeners: [{name: http, address: 0.0.0.0:8080}]\n"),
    ("routes:", "routes: [{service: chat}]\n"),
    ("services:", "services: {chat: {discovery: {static: []}}}\n"),
];

/// `text`, followed by those of the three entries that it lacks.
fn with_the_rest(text: &str) -> String {
    let missing = REST.iter().filter(|(key, _)| !text.lines().any(|line| line.starts_with(key)));
    std::iter::once(format!("{text}\n")).chain(missing.map(|(_, line)| (*line).to_owned())).collect()
}

/// `keys` of a service `chat`, from line 3 and column 5 on.
fn of_a_service(keys: &str) -> String {
    let indented: Vec<String> = keys.lines().map(|line| format!("    {line}")).collect();
    with_the_rest(&format!("services:\n  chat:\n{}", indented.join("\n")))
}

/// `keys` of a service `chat` that has a discovery, from line 4 and column 5 on.
fn in_a_service(keys: &str) -> String {
    of_a_service(&format!("discovery: {{static: []}}\n{keys}"))
}

fn parse(text: &str) -> Config {
    Config::parse(text, "podpin.yaml", Path::new("/etc/podpin"))
        .unwrap_or_else(|error| panic!("{text}\n{error}"))
}
