//! From Ingresses of ingress-nginx to a configuration of podpin: objects in, files and a report out.
//!
//! Every annotation, key of the controller's ConfigMap and field of an Ingress is reported with what becomes of it
//! ([`Class`]); none is dropped silently. What protects and cannot be taken over withholds its routes, which then answer 503
//! instead of serving without protection. The configuration is read by podpin's own parser before it is returned.
//! Reading files, the cluster, and writing the result are left to the command.

mod backend;
mod certificates;
mod class;
mod controller;
mod defaults;
mod document;
mod foreign;
mod import;
mod known;
mod location;
mod object;
mod options;
mod output;
mod path;
mod plan;
mod report;
mod selection;
mod settings;
mod translate;
mod tree;
mod words;

pub use class::{Class, Protection};
pub use foreign::FOREIGN;
pub use import::{Import, ImportError, import, missing_config_maps};
pub use known::{ANNOTATIONS, CONTROLLER_KEYS, Known, is_loss, lookup};
pub use object::{ObjectName, Objects};
pub use options::Options;
pub use output::{MARK, OutputFile};
pub use report::{Finding, Outcome, Report};
