//! Which Ingresses are imported: those of one class, and of one namespace or host if only they are wanted.

use crate::object::{Ingress, Objects};
use crate::options::Options;

/// Whether an Ingress is imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// It is, with a remark about its class.
    Imported(Option<&'static str>),
    /// It is not, for this reason.
    Skipped(String),
}

const CLASS: &str = "kubernetes.io/ingress.class";

/// Returns whether `ingress` is imported.
pub(crate) fn select(ingress: &Ingress, objects: &Objects, options: &Options) -> Selection {
    let skipped = |reason: String| Selection::Skipped(format!("Ingress {}: {reason}", ingress.name));
    if options.namespace.as_ref().is_some_and(|namespace| *namespace != ingress.name.namespace) {
        return skipped("of another namespace".to_owned());
    }
    if let Some(host) = &options.host {
        let has_host = ingress.rules.iter().any(|rule| rule.host.as_ref() == Some(host));
        if !has_host {
            return skipped(format!("not for {host}"));
        }
    }
    let named = ingress.class.as_ref().or_else(|| ingress.annotations.get(CLASS));
    match named {
        Some(class) if *class == options.ingress_class => Selection::Imported(None),
        Some(class) => skipped(format!("of the class {class}")),
        None if objects.classes.is_empty() => Selection::Imported(Some(
            "no class, and no IngressClass in the input: imported, although nginx serves it only as the default class or with \
             --watch-ingress-without-class",
        )),
        None if objects.classes.get(&options.ingress_class) == Some(&true) => Selection::Imported(None),
        None => skipped(format!("no class, and {} is not the default one", options.ingress_class)),
    }
}
