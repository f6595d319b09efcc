//! Imports of whole manifests, of every annotation by itself, of arbitrary ones, and of a thousand Ingresses.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the report")]

mod documentation;
mod laws;
mod manifests;
mod settings;
mod speed;

use podpin_ingress::{Import, Objects, Options, import};

/// Imports a text with these choices.
pub(crate) fn imported(text: &str, options: &Options) -> Import {
    let mut objects = Objects::default();
    objects.add_text("input.yaml", text);
    import(objects, options).unwrap_or_else(|error| panic!("{error}\n{}", error.text))
}

/// Returns the text of a file; empty if there is none.
pub(crate) fn file<'a>(import: &'a Import, name: &str) -> &'a str {
    import.files.iter().find(|file| file.name == name).map_or("", |file| &file.text)
}
