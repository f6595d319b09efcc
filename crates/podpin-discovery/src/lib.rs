//! Discovery of endpoints: static lists, files, names in DNS and Kubernetes, each turned into the one vocabulary of
//! [`podpin_endpoints::Update`].
//!
//! Nothing here decides what is believed or who is picked; and whatever fails here takes no endpoint away: the last
//! good list stands until there is a better one (fail static). [`FileWatch`] serves every other file that is re-read
//! on change, too.

mod dns;
mod endpoints_file;
mod file;
mod kube;
mod listed;
mod slice;
mod watch;

pub use dns::{NameEvent, NameSource, follow_names};
pub use endpoints_file::{EndpointsFileError, parse_endpoints};
pub use file::{FileEvent, FileSource, ReadError};
pub use kube::{
    FailureKind, Inventory, InventoryError, Known, KubeError, KubeEvent, KubeService, KubeSettings, Mismatch,
    RelistReason, Survey, TokenError, check, digest, follow, survey,
};
pub use listed::static_endpoints;
pub use slice::{Merged, PortRef, SlicePort, observe};
pub use watch::FileWatch;
