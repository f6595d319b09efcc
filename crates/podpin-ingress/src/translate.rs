//! The annotations of one Ingress, translated: settings of its services and routes, and what the plan has to know besides.
//!
//! Each part judges the annotations that it reads; [`Settings`] judges the rest by the table.

mod affinity;
mod canary;
mod cors;
mod filters;
mod guards;
mod snippet;
mod upstream;

pub(crate) use self::canary::Canary;
pub(crate) use self::guards::asked;
pub(crate) use self::upstream::{mount_path, strategy};

use std::collections::BTreeMap;

use crate::class::Class;
use crate::defaults::Defaults;
use crate::object::is_object_name;
use crate::object::{ObjectName, Objects};
use crate::settings::Settings;
use crate::tree::Map;

/// Certificates that clients have to show, as `auth-tls-secret` asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientCertificates {
    /// The Secret with `ca.crt`.
    pub(crate) secret: ObjectName,
    /// Whether a client without one is refused.
    pub(crate) is_required: bool,
}

/// What translations of all Ingresses share.
pub(crate) struct Surroundings<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) defaults: &'a Defaults,
    /// The certificates that all hosts ask for; `None` if they differ, or ask for none.
    pub(crate) client_certificates: Option<ClientCertificates>,
}

/// An Ingress, but for its hosts and paths.
#[derive(Debug, Default)]
pub(crate) struct Translation {
    /// Settings of a service, but for its discovery.
    pub(crate) service: Map,
    /// Settings of a route, but for its hosts, matches and backends.
    pub(crate) route: Map,
    /// Further host names.
    pub(crate) aliases: Vec<String>,
    /// `rewrite-target`.
    pub(crate) rewrite_target: Option<String>,
    /// Whether paths are expressions.
    pub(crate) is_regex: bool,
    /// Whether requests without TLS are redirected; `None` if by the controller's default.
    pub(crate) ssl_redirect: Option<bool>,
    /// Whether they are redirected although podpin has no certificate for the host.
    pub(crate) is_redirect_forced: bool,
    /// Whether its routes are for the listener with client certificates only.
    pub(crate) needs_client_certificates: bool,
    /// Secrets with files for connections to pods.
    pub(crate) secrets: Vec<ObjectName>,
    /// Reasons why none of its paths may be served.
    pub(crate) withheld: Vec<String>,
}

/// The part of a canary that counts: nginx takes all other annotations from the main Ingress.
const CANARY_PREFIX: &str = "canary";

/// Translates the annotations of an Ingress in `namespace` that is no canary.
pub(crate) fn translate(
    settings: &mut Settings<'_>,
    namespace: &str,
    around: &Surroundings<'_>,
) -> Translation {
    let mut to = Translation::default();
    affinity::translate(settings, &mut to);
    upstream::translate(settings, namespace, around, &mut to);
    filters::translate(settings, namespace, around, &mut to);
    cors::translate(settings, &mut to);
    guards::translate(settings, namespace, around, &mut to);
    snippet::translate(settings, &mut to);
    to
}

/// Translates the annotations of an Ingress; `None` if it is no canary.
pub(crate) fn translate_canary(settings: &mut Settings<'_>) -> Option<Canary> {
    let canary = canary::translate(settings)?;
    affinity::canary_behaviour(settings);
    for name in settings.names().filter(|name| !name.starts_with(CANARY_PREFIX)).collect::<Vec<_>>() {
        if name != "affinity-canary-behavior" {
            let note = "nginx takes it from the main Ingress of the same host and path";
            settings.judge(name, Class::NotNeeded, note);
        }
    }
    Some(canary)
}

/// Returns the object that `text` names: `namespace/name`, or a name in `namespace`.
pub(crate) fn reference(text: &str, namespace: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    ObjectName { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// As [`reference`]; `None` if no object can have such a name. Files are mounted by it.
pub(crate) fn strict_reference(text: &str, namespace: &str) -> Option<ObjectName> {
    let name = reference(text, namespace);
    (is_object_name(&name.namespace) && is_object_name(&name.name)).then_some(name)
}

/// Returns the header fields of a ConfigMap that a route may set, and the names of those that it may not.
pub(crate) fn editable(fields: &BTreeMap<String, String>) -> (Vec<(&str, &str)>, Vec<&str>) {
    let may = |(name, value): &(&str, &str)| {
        podpin_config::rule::may_edit_header(name)
            && podpin_config::rule::is_field_value(value)
            && !value.contains('$')
    };
    let fields = fields.iter().map(|(name, value)| (name.as_str(), value.trim()));
    let (good, bad): (Vec<_>, Vec<_>) = fields.partition(may);
    (good, bad.into_iter().map(|(name, _)| name).collect())
}
