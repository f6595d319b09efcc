//! Lines of nginx's own configuration: those that are known, and those that a person has to read.
//!
//! A statement that is not known may protect, so it counts as protecting. Statements end with a semicolon or a block; quotes
//! and comments are respected, nothing else of nginx's grammar is needed.

use podpin_config::rule;

use super::Translation;
use crate::class::Class;
use crate::settings::Settings;
use crate::tree::Tree;
use crate::words;

/// Statements of a snippet that a report quotes, and the characters of each.
const QUOTED_MAX: usize = 100;
const QUOTED_CHARS_MAX: usize = 100;

/// Directives that have no meaning in podpin, or ask for what it does.
const NOT_NEEDED: [&str; 27] = [
    "proxy_buffering",
    "proxy_request_buffering",
    "proxy_buffer_size",
    "proxy_buffers",
    "proxy_busy_buffers_size",
    "proxy_max_temp_file_size",
    "proxy_cache",
    "proxy_cache_bypass",
    "proxy_no_cache",
    "proxy_http_version",
    "chunked_transfer_encoding",
    "gzip",
    "brotli",
    "tcp_nodelay",
    "tcp_nopush",
    "proxy_connect_timeout",
    "proxy_read_timeout",
    "proxy_send_timeout",
    "send_timeout",
    "keepalive_timeout",
    "access_log",
    "error_log",
    "proxy_socket_keepalive",
    "proxy_ignore_client_abort",
    "client_body_buffer_size",
    "underscores_in_headers",
    "client_body_temp_path",
];

/// Fields that podpin writes for pods by itself.
const WRITTEN: [&str; 9] = [
    "connection",
    "upgrade",
    "host",
    "x-real-ip",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "accept-encoding",
];

/// The statements of a snippet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Snippet {
    statements: Vec<Vec<String>>,
}

impl Snippet {
    /// Splits `text` into statements and their words.
    pub(crate) fn read(text: &str) -> Self {
        let mut reader = Reader::default();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            reader.take(c, &mut chars);
        }
        reader.end_statement();
        Self { statements: reader.statements }
    }
}

#[derive(Default)]
struct Reader {
    statements: Vec<Vec<String>>,
    statement: Vec<String>,
    word: String,
    /// Open blocks of the statement, all of which belong to it.
    depth: usize,
}

impl Reader {
    fn take(&mut self, c: char, rest: &mut std::iter::Peekable<std::str::Chars<'_>>) {
        match c {
            '#' if self.word.is_empty() => while rest.next_if(|c| *c != '\n').is_some() {},
            '"' | '\'' if self.word.is_empty() => self.quoted(c, rest),
            ';' if self.depth == 0 => self.end_statement(),
            '{' => {
                self.depth += 1;
                self.word.push(c);
            }
            '}' => {
                self.word.push(c);
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    self.end_statement();
                }
            }
            '\\' => {
                self.word.push(c);
                self.word.extend(rest.next());
            }
            c if c.is_whitespace() => self.end_word(),
            c => self.word.push(c),
        }
    }

    fn quoted(&mut self, quote: char, rest: &mut std::iter::Peekable<std::str::Chars<'_>>) {
        while let Some(c) = rest.next() {
            match c {
                '\\' => self.word.extend(rest.next()),
                c if c == quote => break,
                c => self.word.push(c),
            }
        }
        // An empty text is a word, too.
        self.statement.push(std::mem::take(&mut self.word));
    }

    fn end_word(&mut self) {
        if !self.word.is_empty() {
            self.statement.push(std::mem::take(&mut self.word));
        }
    }

    fn end_statement(&mut self) {
        self.end_word();
        if !self.statement.is_empty() {
            self.statements.push(std::mem::take(&mut self.statement));
        }
    }
}

pub(super) fn translate(settings: &mut Settings<'_>, to: &mut Translation) {
    for name in ["configuration-snippet", "server-snippet"] {
        let Some(text) = settings.text(name) else { continue };
        let snippet = Snippet::read(text);
        if snippet.statements.is_empty() {
            settings.judge(name, Class::NotNeeded, "comments only");
        }
        let mut quoted = 0;
        for statement in &snippet.statements {
            let (class, note) = judge(statement, to);
            let text = words::excerpt(&statement.join(" "), QUOTED_CHARS_MAX);
            match class {
                Class::Exact if name == "server-snippet" => {
                    settings.judge(
                        name,
                        Class::Approximate,
                        "for the routes of this Ingress, not for the whole host",
                    );
                }
                Class::Exact | Class::NotNeeded => settings.judge(name, class, ""),
                _ if quoted == QUOTED_MAX => settings.judge(name, class, "and more lines"),
                _ => settings.judge(name, class, &format!("`{text}`{note}")),
            }
            quoted += usize::from(class > Class::Exact);
        }
    }
}

/// Returns the class of a statement, and puts what it does into the route.
fn judge(statement: &[String], to: &mut Translation) -> (Class, &'static str) {
    let words: Vec<&str> = statement.iter().map(String::as_str).collect();
    match words.as_slice() {
        [directive, ..] if NOT_NEEDED.contains(directive) => (Class::NotNeeded, ""),
        ["proxy_set_header", name, ..] if WRITTEN.contains(&name.to_ascii_lowercase().as_str()) => {
            (Class::NotNeeded, "")
        }
        ["proxy_set_header", name, value] => set(to, "request", name, value),
        ["add_header", name, value] | ["add_header", name, value, "always"] => {
            set(to, "response", name, value)
        }
        ["proxy_hide_header", name] => remove(to, "response", &[name]),
        ["more_set_headers", fields @ ..] => each(fields, |field| match field.split_once(':') {
            Some((name, value)) => set(to, "response", name.trim(), value.trim()),
            None => (Class::NotSupported, ""),
        }),
        ["more_set_input_headers", fields @ ..] => each(fields, |field| match field.split_once(':') {
            Some((name, value)) => set(to, "request", name.trim(), value.trim()),
            None => (Class::Protecting, ""),
        }),
        ["more_clear_headers", names @ ..] => remove(to, "response", names),
        _ => (Class::Protecting, ""),
    }
}

fn each(fields: &[&str], mut judge: impl FnMut(&str) -> (Class, &'static str)) -> (Class, &'static str) {
    if fields.is_empty() || fields.iter().any(|field| field.starts_with('-')) {
        return (Class::NotSupported, " (with options)");
    }
    let judged = fields.iter().map(|field| judge(field));
    judged.max_by_key(|(class, _)| *class).unwrap_or((Class::NotSupported, ""))
}

fn set(to: &mut Translation, direction: &str, name: &str, value: &str) -> (Class, &'static str) {
    let is_request = direction == "request";
    if value.contains('$') || !rule::may_edit_header(name) || !rule::is_field_value(value) {
        // A field of a request may be what an application goes by; one of a response informs a browser.
        let class = if is_request { Class::Protecting } else { Class::NotSupported };
        return (class, " (literal values of fields that podpin does not write itself only)");
    }
    if value.is_empty() && is_request {
        return remove(to, direction, &[name]);
    }
    to.route.set_from(&["headers", direction, "set", name], Tree::text(value), "snippet");
    (Class::Exact, "")
}

fn remove(to: &mut Translation, direction: &str, names: &[&str]) -> (Class, &'static str) {
    if names.is_empty() || !names.iter().all(|name| rule::may_edit_header(name)) {
        return (if direction == "request" { Class::Protecting } else { Class::NotSupported }, "");
    }
    let path = ["headers", direction, "remove"];
    let mut list = match to.route.get(&path) {
        Some(Tree::List(list)) => list.clone(),
        _ => Vec::new(),
    };
    for name in names {
        let item = Tree::text(*name);
        if !list.contains(&item) {
            list.push(item);
        }
    }
    to.route.set(&path, Tree::List(list));
    (Class::Exact, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_with_semicolons_and_blocks() {
        let snippet = Snippet::read(
            "# a comment; with a semicolon\nproxy_buffering off;\nmore_set_headers \"X-A: 1; b\" 'X-B: 2';\n\
             if ($http_x = \"a;b\") { return 403; }\nlocation / { deny all; allow 1.2.3.4; }\nlast",
        );
        let lines: Vec<String> = snippet.statements.iter().map(|words| words.join(" ")).collect();
        let expected = [
            "proxy_buffering off",
            "more_set_headers X-A: 1; b X-B: 2",
            "if ($http_x = a;b ) { return 403; }",
            "location / { deny all; allow 1.2.3.4; }",
            "last",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_is_not_known_may_protect() {
        let mut to = Translation::default();
        let mut class = |text: &str| {
            let snippet = Snippet::read(text);
            judge(&snippet.statements[0], &mut to).0
        };
        assert_eq!(class("deny all;"), Class::Protecting);
        assert_eq!(class("proxy_set_header X-User $remote_user;"), Class::Protecting);
        assert_eq!(class("proxy_set_header Connection '';"), Class::NotNeeded);
        assert_eq!(class("proxy_set_header X-A b;"), Class::Exact);
        assert_eq!(class("add_header X-A $host;"), Class::NotSupported);
        assert_eq!(class("more_clear_headers Server;"), Class::Exact);
        assert_eq!(class("content_by_lua_block { ngx.exit(403) }"), Class::Protecting);
        assert_eq!(to.route.flow(), "{headers: {request: {set: {X-A: b}}, response: {remove: [Server]}}}");
    }
}
