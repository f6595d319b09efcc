//! What an import is asked for.

use std::collections::BTreeSet;

use crate::object::ObjectName;

/// Choices of the person who imports.
#[derive(Clone, Debug)]
pub struct Options {
    /// The IngressClass whose Ingresses are imported.
    pub ingress_class: String,
    /// The prefix of annotations, without a slash.
    pub annotations_prefix: String,
    /// The namespace whose Ingresses are imported. `None` if all.
    pub namespace: Option<String>,
    /// The host that is imported. `None` if all.
    pub host: Option<String>,
    /// The controller's ConfigMap. `None` if the one that is called `ingress-nginx-controller`, where there is one.
    pub config_map: Option<ObjectName>,
    /// Protections that may be lost: names of settings, or those of [`crate::Protection`].
    pub allowed_losses: BTreeSet<String>,
    /// The kustomization of podpin's own objects, as the overlay names it.
    pub base: String,
    /// The namespace in which podpin will run.
    pub own_namespace: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ingress_class: "nginx".to_owned(),
            annotations_prefix: "nginx.ingress.kubernetes.io".to_owned(),
            namespace: None,
            host: None,
            config_map: None,
            allowed_losses: BTreeSet::new(),
            base: "../base".to_owned(),
            own_namespace: "podpin".to_owned(),
        }
    }
}
