//! The whole file: text in, a configuration or every problem out.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::Path,
};

use crate::{
    access_log::AccessLog,
    admin::Admin,
    error::{ConfigError, Problem},
    keys::AffinityKeys,
    kubernetes::Kubernetes,
    listener::{Listener, ListenerLimits, read_listeners},
    node::{Context, Node, read_tree},
    route::{Known, Route, meet_on_a_host, read_routes},
    section::Section,
    service::{ReadServices, Service, read_services},
    shutdown::Shutdown,
    unit::Cidr,
};

/// A ConfigMap holds 1 MiB at most; the YAML reader takes a multiple of the file in memory.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A configuration. Every name in it resolves, every number is in range.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// At least one; names and addresses are unique.
    pub listeners: Vec<Listener>,
    /// The port for probes and metrics.
    pub admin: Admin,
    /// Threads that serve clients, 1 to 1024. `None` if as many as the CPU quota allows.
    pub workers: Option<usize>,
    /// Peers whose `X-Forwarded-*` and `Forwarded` headers are believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Limits of the listeners.
    pub limits: ListenerLimits,
    /// The keys that sign affinity tokens.
    pub affinity_keys: AffinityKeys,
    /// Where the access log goes.
    pub access_log: AccessLog,
    /// At least one, in the order of the file; no two match the same host, path and headers.
    pub routes: Vec<Route>,
    /// At least one, in the order of the file; names are unique.
    pub services: Vec<Service>,
    /// How the cluster is reached; of no effect when no service is discovered there.
    pub kubernetes: Kubernetes,
    /// How podpin itself leaves.
    pub shutdown: Shutdown,
}

impl Config {
    /// Reads and parses `path`; relative paths inside are relative to its directory.
    ///
    /// # Errors
    /// The file cannot be read, is longer than 4 MiB or not UTF-8, or says something that [`Config::parse`] refuses.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let refuse = |problem| ConfigError { file: name.clone(), problems: vec![problem] };
        let text = read_file(path).map_err(refuse)?;
        Self::parse(&text, &name, path.parent().unwrap_or(Path::new("")))
    }

    /// Parses `text`; `base` is the directory that relative paths are resolved against, `name` is what errors call the
    /// file.
    ///
    /// # Errors
    /// Every problem of the file, with line and column; only the first one when the text is not YAML.
    ///
    /// ```
    /// use std::path::Path;
    /// use podpin_config::Config;
    ///
    /// let text = "
    /// listeners: [{name: http, address: '127.0.0.1:8080'}]
    /// affinityKeys: ephemeral
    /// routes: [{name: all, service: chat}]
    /// services:
    ///   chat:
    ///     discovery: {static: [{name: pod-a, address: '127.0.0.1:9001'}]}
    /// ";
    /// let config = Config::parse(text, "podpin.yaml", Path::new("/etc/podpin"))?;
    /// assert_eq!(config.services[0].name, "chat");
    ///
    /// let wrong = text.replace("affinityKeys", "affinityKey");
    /// let errors = Config::parse(&wrong, "podpin.yaml", Path::new("/etc/podpin")).unwrap_err();
    /// assert!(errors.to_string().contains("podpin.yaml:3:1: "), "{errors}");
    /// # Ok::<(), podpin_config::ConfigError>(())
    /// ```
    pub fn parse(text: &str, name: &str, base: &Path) -> Result<Self, ConfigError> {
        let refuse = |problems| ConfigError { file: name.to_owned(), problems };
        let tree = read_tree(text).map_err(|problem| refuse(vec![problem]))?;
        let context = Context::new(base);
        let config = Self::read(&Node::root(&tree, &context));
        let problems = context.into_problems();
        config.filter(|_| problems.is_empty()).ok_or_else(|| refuse(problems))
    }

    /// The service called `name`.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// `None` if the root is no mapping; all other problems are only reported.
    fn read(root: &Node<'_>) -> Option<Self> {
        let section = Section::of(root)?;
        let admin = Admin::read(&section.section("admin"));
        let listeners = section.require("listeners", "at least one listener");
        let trusted = section.get("trustedProxies").map(read_ranges).unwrap_or_default();
        let services = section.require("services", "at least one service");
        let ReadServices { services, names, rivals } = services.map(read_services).unwrap_or_default();
        let listeners =
            listeners.map(|list| read_listeners(list, admin.address, &trusted)).unwrap_or_default();
        let listener_names: Vec<&str> = listeners.iter().map(|listener| listener.name.as_str()).collect();
        let known = Known { names: &names, listeners: &listener_names, services: &services };
        let routes = section.require("routes", "at least one route");
        let routes = routes.map(|list| read_routes(list, &known)).unwrap_or_default();
        for one in rivals {
            if one.has_domain || meet_on_a_host(&routes, &one.services) {
                one.fail();
            }
        }
        Some(Self {
            listeners,
            admin,
            workers: section.get("workers").and_then(|node| node.count(1..=1024)),
            trusted_proxies: trusted,
            limits: ListenerLimits::read(&section.section("limits")),
            affinity_keys: AffinityKeys::read(section.get("affinityKeys")),
            access_log: AccessLog::read(section.get("accessLog")),
            routes,
            services,
            kubernetes: Kubernetes::read(&section.section("kubernetes")),
            shutdown: Shutdown::read(&section.section("shutdown")),
        })
    }
}

fn read_ranges(list: &Node<'_>) -> Vec<Cidr> {
    let read = |item: &Node<'_>| match item.text("an address range such as 10.0.0.0/8")?.parse::<Cidr>() {
        Ok(range) => Some(range),
        Err(error) => {
            item.fail(format!("{error}; found {}", item.found()));
            None
        }
    };
    list.items("a list of address ranges").unwrap_or_default().iter().filter_map(read).collect()
}

/// Reads a file of at most 4 MiB.
pub(crate) fn read_file(path: &Path) -> Result<String, Problem> {
    let whole = |message: String| Problem { line: 0, column: 0, path: String::new(), message };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            Err(whole("is a directory, not a file".to_owned()))
        }
        Err(error) => Err(whole(format!("cannot be read: {error}"))),
        Ok(length) if length as u64 > FILE_BYTES_MAX => Err(whole("is longer than 4 MiB".to_owned())),
        Ok(_) => String::from_utf8(bytes).map_err(|error| not_utf8(&error)),
    }
}

fn not_utf8(error: &std::string::FromUtf8Error) -> Problem {
    let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
    let valid = String::from_utf8_lossy(valid);
    Problem {
        line: valid.matches('\n').count() + 1,
        column: valid.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
        path: String::new(),
        message: "not UTF-8".to_owned(),
    }
}
