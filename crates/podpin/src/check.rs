//! `podpin check`: the same rules as `podpin run`, and what comes out of them route by route.

use std::fmt::{Display, Write};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use podpin_config::{
    Config, ConfigError, Discovery, Found, Handover, Host, PathMatch, Position, Problem, Route, Service,
    Strategy, format_bytes, format_duration,
};
use podpin_control::Depth;

use crate::exit_code::BAD_CONFIGURATION;
use crate::telemetry;

/// The longest configuration that is read from standard input; as for files.
const STDIN_BYTES_MAX: u64 = 4 << 20;

/// The arguments of `podpin check`.
#[derive(clap::Args)]
pub(crate) struct CheckArguments {
    /// The configuration file, or a manifest with a ConfigMap that has a podpin.yaml; `-` = standard input
    #[arg(short, long, value_name = "FILE", required_unless_present = "file")]
    config: Option<PathBuf>,
    /// The same without the option
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    /// Read no other file: keys and certificates are elsewhere (always so for manifests)
    #[arg(long)]
    no_files: bool,
    /// Ask the cluster whether it has the Services and ports, and whether they may be read
    #[arg(long)]
    live: bool,
}

/// Prints each route with its effective timeouts, or every error.
pub(crate) fn check(arguments: &CheckArguments) -> ExitCode {
    let file = arguments.config.as_deref().or(arguments.file.as_deref()).unwrap_or(Path::new("-"));
    let found = match read(file) {
        Ok(found) => found,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    // What `run` would warn of and serve with all the same is a warning here, too.
    telemetry::init_warnings();
    let mut outcome = ExitCode::SUCCESS;
    for Found { manifest, config } in &found {
        let is_text_only = arguments.no_files || manifest.is_some();
        let depth = if is_text_only { Depth::Text } else { Depth::Files };
        if let Err(error) = podpin_control::verify(config, depth) {
            eprintln!("{}", located(file, error.position(), &error));
            return ExitCode::from(BAD_CONFIGURATION);
        }
        println!("{}: ok", manifest.as_ref().map_or(shown(file), |name| format!("{}, {name}", shown(file))));
        if is_text_only {
            println!("the files that it names were not read");
        }
        for route in &config.routes {
            print!("{}", describe(config, route));
        }
        if arguments.live && !is_served(file, config) {
            outcome = ExitCode::from(BAD_CONFIGURATION);
        }
    }
    outcome
}

/// Returns the name of a file in messages.
fn shown(file: &Path) -> String {
    if file == Path::new("-") { "stdin".to_owned() } else { file.display().to_string() }
}

fn read(file: &Path) -> Result<Vec<Found>, ConfigError> {
    if file != Path::new("-") {
        return Config::load_all(file);
    }
    let mut text = String::new();
    let refuse = |message| ConfigError {
        file: shown(file),
        problems: vec![Problem { line: 0, column: 0, path: String::new(), message }],
    };
    let read = std::io::stdin().take(STDIN_BYTES_MAX + 1).read_to_string(&mut text);
    let length = read.map_err(|error| refuse(format!("cannot be read: {error}")))?;
    if length as u64 > STDIN_BYTES_MAX {
        return Err(refuse("is longer than 4 MiB".to_owned()));
    }
    Config::parse_all(&text, &shown(file), Path::new(""))
}

/// Asks the cluster about the services that are discovered there; returns whether all of them have what they name.
fn is_served(file: &Path, config: &Config) -> bool {
    let surveys = match podpin_control::survey(config) {
        Ok(surveys) => surveys,
        Err(error) => {
            eprintln!("{}", located(file, error.position(), &error));
            return false;
        }
    };
    println!("\nin the cluster:");
    for (name, survey) in &surveys {
        println!("  service {name}: {} endpoints, {} ready", survey.endpoints, survey.ready);
    }
    let problems =
        surveys.iter().flat_map(|(name, survey)| survey.problems.iter().map(move |one| (name, one)));
    let mut is_served = true;
    for (name, problem) in problems {
        eprintln!("{}: services.{name}: {problem}", shown(file));
        is_served = false;
    }
    is_served
}

/// Describes the error, with the place in the configuration that it comes from.
pub(crate) fn located(file: &Path, at: Option<Position>, error: &impl Display) -> String {
    let file = shown(file);
    match at {
        Some(at) => format!("{file}:{}:{}: {error}", at.line, at.column),
        None => format!("{file}: {error}"),
    }
}

fn describe(config: &Config, route: &Route) -> String {
    let mut text = format!("\nroute {}: {} {}\n", route.name, hosts(route), matches(route));
    let sum: u32 = route.backends.iter().map(|backend| backend.weight).sum();
    for backend in &route.backends {
        let Some(service) = config.service(&backend.service) else { continue };
        let share = format!(", weight {} of {sum}", backend.weight);
        text.push_str(&describe_service(service, if route.backends.len() > 1 { &share } else { "" }));
    }
    text
}

fn describe_service(service: &Service, share: &str) -> String {
    let mut text = String::new();
    let times = &service.timeouts;
    let sse = &service.sse;
    let lines = [
        ("service", format!("{} ({}, {}{share})", service.name, source(service), strategy(service))),
        (
            "timeouts",
            format!(
                "connect {}, responseHeader {}, upstreamIdle {}, clientWrite {}",
                format_duration(times.connect),
                duration(times.response_header),
                duration(times.upstream_idle),
                duration(times.client_write)
            ),
        ),
        ("retries", service.retries.attempts.to_string()),
        (
            "sse",
            format!(
                "keepAlive {}, retry {}, maxDuration {}, eventBytesMax {}",
                duration(sse.keep_alive),
                duration(sse.retry.normal),
                duration(sse.max_duration),
                format_bytes(sse.event_bytes_max)
            ),
        ),
        ("affinity", affinity(service)),
        ("drain", drain(service)),
        ("tls", tls_to_pods(service)),
        (
            "limits",
            format!(
                "streamsPerEndpoint {}, streamsPerClient {}, streamsPerClientIP {}",
                number(service.limits.streams_per_endpoint),
                number(service.limits.streams_per_client),
                number(service.limits.streams_per_client_ip)
            ),
        ),
    ];
    for (name, value) in lines {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "  {name:<9} {value}");
    }
    text
}

fn hosts(route: &Route) -> String {
    let names: Vec<String> = route
        .hosts
        .iter()
        .map(|host| match host {
            Host::Exact(name) => name.clone(),
            Host::Wildcard(suffix) => format!("*{suffix}"),
        })
        .collect();
    if names.is_empty() { "any host".to_owned() } else { names.join(", ") }
}

fn matches(route: &Route) -> String {
    let matches = route.matches.iter().map(|one| {
        let path = match &one.path {
            PathMatch::Exact(value) => format!("={value}"),
            PathMatch::Prefix(value) if value.ends_with('/') => format!("{value}*"),
            PathMatch::Prefix(value) => format!("{value}/*"),
        };
        one.headers.iter().fold(path, |text, header| format!("{text} with {header}"))
    });
    matches.collect::<Vec<_>>().join(", ")
}

fn source(service: &Service) -> String {
    match &service.discovery {
        Discovery::Static(endpoints) => format!("static, {} endpoints", endpoints.len()),
        Discovery::File(path) => format!("file {}", path.display()),
        Discovery::Kubernetes(of) => {
            let namespace = of.namespace.as_deref().unwrap_or("its own namespace");
            format!("kubernetes service {} in {namespace}", of.service)
        }
        Discovery::Dns(of) => match of.port {
            Some(port) => format!("addresses of {} on port {port}", of.name),
            None => format!("services of {}", of.name),
        },
    }
}

fn strategy(service: &Service) -> &'static str {
    match service.balance.strategy {
        Strategy::LeastStreams => "leastStreams",
        Strategy::RoundRobin => "roundRobin",
        Strategy::Random => "random",
    }
}

fn affinity(service: &Service) -> String {
    let absolute = format_duration(service.affinity.absolute_timeout);
    match &service.affinity.cookie {
        None => "off".to_owned(),
        Some(cookie) => {
            let age = cookie.max_age.map_or_else(|| "session".to_owned(), format_duration);
            format!("cookie {} path {}, maxAge {age}, absoluteTimeout {absolute}", cookie.name, cookie.path)
        }
    }
}

fn drain(service: &Service) -> String {
    let drain = &service.drain;
    let handover = match drain.handover {
        Handover::None => "none",
        Handover::LastEventId => "lastEventId",
        Handover::Overlap => "overlap",
    };
    let (spread, timeout) = (format_duration(drain.spread), format_duration(drain.timeout));
    format!("spread {spread}, timeout {timeout}, handover {handover}")
}

fn tls_to_pods(service: &Service) -> String {
    let Some(tls) = &service.tls else { return "off".to_owned() };
    let trusted = match &tls.ca_file {
        _ if !tls.verify => "any certificate (verify: false)".to_owned(),
        Some(file) => file.file.display().to_string(),
        None => "the system's authorities".to_owned(),
    };
    let name = tls.server_name.as_deref().unwrap_or("no name");
    format!("to pods: serverName {name}, trusting {trusted}")
}

fn duration(value: Option<Duration>) -> String {
    value.map_or_else(|| "off".to_owned(), format_duration)
}

fn number(value: Option<u32>) -> String {
    value.map_or_else(|| "off".to_owned(), |number| number.to_string())
}
