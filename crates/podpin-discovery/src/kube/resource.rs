//! The resources of the API that are followed, and how their objects are requested.

/// The label by which a slice belongs to a Service.
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A kind of object that is listed and watched, and how it is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    /// Kind of a single object.
    pub(crate) kind: &'static str,
    /// As it stands in a path and in a Role.
    pub(crate) plural: &'static str,
    /// As it stands in a Role; empty for the core group.
    pub(crate) group: &'static str,
    /// Group and version as they stand in a path.
    pub(crate) root: &'static str,
    /// How much of each object is asked for.
    pub(crate) extent: Extent,
}

/// How much of each object the server is asked to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    Whole,
    /// `metadata` only (PartialObjectMetadata of meta.k8s.io/v1), a fraction of a Pod. A server that sends all of it
    /// is understood, too.
    Metadata,
}

impl Resource {
    /// Whether `kind` is that of a list of these.
    pub(super) fn is_list_kind(&self, kind: &str) -> bool {
        let own = kind.strip_suffix("List") == Some(self.kind);
        own || (self.extent == Extent::Metadata && kind == "PartialObjectMetadataList")
    }

    /// Whether `kind` is that of one of these.
    pub(super) fn is_kind(&self, kind: &str) -> bool {
        kind == self.kind || (self.extent == Extent::Metadata && kind == "PartialObjectMetadata")
    }
}
