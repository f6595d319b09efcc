//! The imports among the modules of one crate, read from its sources.
//!
//! Every path that begins with `crate`, `self` or `super` counts, in a `use` or in the middle of an expression; comments,
//! texts and unit tests do not. A path ends at the module that defines the item: re-exports (`pub use`) are followed.
//! Paths that begin with the name of a child module are left out: a parent always stands above its children.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::sources;

/// A module as the segments of its path; the root of the crate has none.
pub(crate) type Module = Vec<String>;

/// The modules of one crate, each with the names that it defines or passes on.
pub(crate) struct Modules {
    /// The tokens of each module's file, without its unit tests.
    tokens: BTreeMap<Module, Vec<String>>,
    /// The re-exports of each module: a name and the path behind it.
    passed_on: BTreeMap<Module, BTreeMap<String, Module>>,
}

impl Modules {
    /// Reads the files in `src` of the crate.
    pub(crate) fn read(src: &Path) -> Modules {
        let mut files = Vec::new();
        sources(src, &mut files);
        let is_library = src.join("lib.rs").is_file();
        // Beside a library, main.rs is a crate of its own that uses the library by its name.
        files.retain(|file| !(is_library && *file == src.join("main.rs")));
        let mut tokens: BTreeMap<_, _> =
            files.iter().map(|file| (module_of(src, file), read_tokens(file))).collect();
        let tests: Vec<Module> =
            tokens.iter().flat_map(|(module, tokens)| test_modules(module, tokens)).collect();
        tokens.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        let mut modules = Modules { tokens, passed_on: BTreeMap::new() };
        modules.passed_on =
            modules.tokens.keys().map(|module| (module.clone(), modules.exports_of(module))).collect();
        modules
    }

    /// Returns all modules but the root.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Module> {
        self.tokens.keys().filter(|module| !module.is_empty())
    }

    /// Returns pairs of a module and another one from which it imports.
    pub(crate) fn imports(&self) -> BTreeSet<(Module, Module)> {
        let mut imports = BTreeSet::new();
        for (module, tokens) in &self.tokens {
            for path in paths_in(tokens) {
                let target = self.definer(&self.absolute(module, &path));
                if target != *module {
                    imports.insert((module.clone(), target));
                }
            }
        }
        imports
    }

    /// Returns the re-exports of `module`: the last segments of its `pub use` paths.
    fn exports_of(&self, module: &Module) -> BTreeMap<String, Module> {
        let tokens = self.tokens.get(module).map(Vec::as_slice).unwrap_or_default();
        let mut exports = BTreeMap::new();
        for at in (0..tokens.len()).filter(|at| tokens[*at] == "use" && *at > 0 && is_public(&tokens[..*at]))
        {
            let mut paths = Vec::new();
            tree(tokens, at + 1, &[], &mut paths);
            for path in paths.into_iter().filter(|path| self.is_local(module, path)) {
                if let Some(name) = path.last().cloned() {
                    exports.insert(name, self.absolute(module, &path));
                }
            }
        }
        exports
    }

    /// Whether a path of a `use` begins inside of this crate.
    fn is_local(&self, module: &Module, path: &[String]) -> bool {
        path.first().is_some_and(|first| {
            let child = [module.as_slice(), std::slice::from_ref(first)].concat();
            matches!(first.as_str(), "crate" | "self" | "super") || self.tokens.contains_key(&child)
        })
    }

    /// Returns the path from the root of the crate.
    fn absolute(&self, module: &Module, path: &[String]) -> Module {
        let mut absolute = module.clone();
        for segment in path {
            match segment.as_str() {
                "crate" => absolute.clear(),
                "self" => {}
                "super" => drop(absolute.pop()),
                name => absolute.push(name.to_owned()),
            }
        }
        absolute
    }

    /// Returns the module that defines the item at `path`.
    fn definer(&self, path: &[String]) -> Module {
        let mut path = path.to_vec();
        // Every step goes down or along a re-export, of which no chain is longer than this.
        for _ in 0..16 {
            let depth = (0..=path.len()).rev().find(|depth| self.tokens.contains_key(&path[..*depth]));
            let (module, rest) = path.split_at(depth.unwrap_or(0));
            let behind = rest.first().and_then(|name| self.passed_on.get(module)?.get(name));
            match behind {
                Some(target) if target != &path => path = [target.as_slice(), &rest[1..]].concat(),
                _ => return module.to_vec(),
            }
        }
        Module::new()
    }
}

/// Returns the modules in files of their own that only unit tests have.
fn test_modules(module: &Module, tokens: &[String]) -> Vec<Module> {
    let begin = ["#", "[", "cfg", "(", "test", ")", "]"];
    let starts = (0..tokens.len()).filter(|at| tokens[*at..].iter().take(begin.len()).eq(begin));
    let declared = starts.filter_map(|at| {
        let mut item = tokens[at + begin.len()..].iter().take(8).skip_while(|token| *token != "mod").skip(1);
        let name = item.next()?;
        (item.next()? == ";").then(|| [module.as_slice(), std::slice::from_ref(name)].concat())
    });
    declared.collect()
}

fn is_public(before: &[String]) -> bool {
    match before {
        [.., last] if last == "pub" => true,
        [.., public, open, _, close] => public == "pub" && open == "(" && close == ")",
        _ => false,
    }
}

fn module_of(src: &Path, file: &Path) -> Module {
    let relative = file.strip_prefix(src).expect("a file of the crate").with_extension("");
    let segments = relative.iter().map(|part| part.to_string_lossy().into_owned());
    let module: Module = segments.collect();
    if matches!(module.as_slice(), [root] if root == "lib" || root == "main") {
        Module::new()
    } else {
        module
    }
}

/// Returns the paths in `tokens` that begin with `crate`, `self` or `super`.
fn paths_in(tokens: &[String]) -> Vec<Module> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = matches!(tokens[at].as_str(), "crate" | "self" | "super")
            && tokens.get(at + 1).is_some_and(|next| next == "::");
        at = if begins { tree(tokens, at, &[], &mut paths) } else { at + 1 };
    }
    paths
}

/// Reads one tree of a `use`, or a plain path, at `at`; returns the place after it.
fn tree(tokens: &[String], mut at: usize, prefix: &[String], paths: &mut Vec<Module>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    let after = tree(tokens, at, &path, paths);
                    at = after.max(at + 1);
                }
                return at + 1;
            }
            Some(name) if name.starts_with(|first: char| first.is_alphabetic() || first == '_') => {
                path.push(name.to_owned());
                at += 1;
            }
            _ => break,
        }
        if tokens.get(at).is_none_or(|token| token != "::") {
            break;
        }
        at += 1;
    }
    if path.len() > prefix.len() {
        paths.push(path);
    }
    if tokens.get(at).is_some_and(|token| token == "as") { at + 2 } else { at }
}

/// Returns the names and marks of a file up to its unit tests.
fn read_tokens(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).expect("a source file");
    let tests =
        ["mod tests {", "pub(crate) mod tests {"].map(|begin| text.find(&format!("#[cfg(test)]\n{begin}")));
    let tests = tests.into_iter().flatten().min().unwrap_or(text.len());
    let bare = without_texts(&text[..tests]);
    let mut tokens = Vec::new();
    let mut rest = bare.as_str();
    while let Some(first) = rest.chars().next() {
        let is_word = |char: char| char.is_alphanumeric() || char == '_';
        let length = if is_word(first) {
            rest.find(|char| !is_word(char)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        if !first.is_whitespace() {
            tokens.push(token.to_owned());
        }
        rest = after;
    }
    tokens
}

/// Returns the code without comments, string literals and character literals.
fn without_texts(text: &str) -> String {
    let mut bare = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '"' => string_length(rest),
            'r' if is_raw(rest) && !bare.ends_with(|char: char| char.is_alphanumeric() || char == '_') => {
                raw_length(rest)
            }
            '\'' => character_length(rest),
            _ => 0,
        };
        if skipped == 0 {
            bare.push(first);
        } else {
            bare.push(' ');
        }
        rest = &rest[skipped.max(if skipped == 0 { first.len_utf8() } else { 0 })..];
    }
    bare
}

fn string_length(rest: &str) -> usize {
    let mut escaped = true;
    for (at, char) in rest.char_indices() {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn is_raw(rest: &str) -> bool {
    rest[1..].trim_start_matches('#').starts_with('"')
}

fn raw_length(rest: &str) -> usize {
    let hashes = rest[1..].len() - rest[1..].trim_start_matches('#').len();
    let end = format!("\"{}", "#".repeat(hashes));
    let opened = 2 + hashes;
    rest[opened..].find(&end).map_or(rest.len(), |at| opened + at + end.len())
}

/// Returns the length of a character literal; 0 if the quote begins a lifetime.
fn character_length(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), _) => rest[3..].find('\'').map_or(rest.len(), |at| at + 4),
        (_, Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_tokens(file.path())
    }

    fn paths(text: &str) -> Vec<String> {
        paths_in(&tokens(text)).into_iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn paths_are_found_in_trees_and_in_expressions() {
        let cases: [(&str, &[&str]); 5] = [
            ("use crate::a::{self, b::C, d};", &["crate::a::self", "crate::a::b::C", "crate::a::d"]),
            ("pub(crate) use super::x as y;", &["super::x"]),
            ("let a = crate::a::b::<C>(self.x, self::d);", &["crate::a::b", "self::d"]),
            ("// use crate::a;\nlet text = \"crate::b\"; let raw = r#\"crate::\"c\"#;", &[]),
            ("fn f<'a>(c: char) -> bool { c == '\"' && crate::g('\\'') }", &["crate::g"]),
        ];
        for (text, expected) in cases {
            assert_eq!(paths(text), expected, "{text}");
        }
    }

    #[test]
    fn a_path_ends_at_the_module_that_defines_the_item() {
        let directory = tempfile::tempdir().unwrap();
        let files = [
            ("lib.rs", "mod a;\nmod b;\npub use a::c::Item;\npub use b::other as renamed;"),
            ("a.rs", "pub(crate) mod c;\npub(crate) use self::c::passed;"),
            ("a/c.rs", "pub struct Item;\npub fn passed() {}"),
            ("b.rs", "use crate::Item;\nuse crate::a::passed;\npub fn other() { crate::root_item(); }"),
        ];
        std::fs::create_dir(directory.path().join("a")).unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let imports = Modules::read(directory.path()).imports();
        let shown: Vec<String> =
            imports.iter().map(|(from, to)| format!("{} -> {}", from.join("::"), to.join("::"))).collect();
        assert_eq!(shown, ["a -> a::c", "b -> ", "b -> a::c"]);
    }
}
