//! `podpin demo`: three real event stream pods behind the real proxy, in one process, on one command.
//!
//! For a person it prints where to look and runs until Ctrl-C; the page is served by the pods
//! (`podpin-example`). With `--for` it needs no person: it drives its own clients, reconnects every one of them
//! halfway, and ends with a table and an exit code that says whether any pin or event was lost. With `--rollout` all pods
//! are replaced under them instead, with `--kill` one dies, and the table says whether any client noticed; with `--herd` all
//! clients lose their connections at one moment, and the table has the curve of their arrivals. The proxy gets
//! what any operator would give it: a configuration text and an endpoints file, both in a directory that vanishes.

mod client;
mod front;
mod herd;
mod latency;
mod load;
mod place;
mod plain;
mod pods;
mod report;
mod upheaval;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use podpin_example::{Log, parse_interval, publish_ticks};
use tokio::signal::unix::{SignalKind, signal};

use self::front::Front;
use self::load::{Halfway, Plan};
use self::place::{DrainTimes, Place};
use self::plain::PlainProxy;
use self::pods::DemoPods;
use self::upheaval::{Kind, Upheaval};

/// Clients with `--for` when nothing else is said: enough to see the spread over pods, within any file limit.
const CLIENTS_DEFAULT: usize = 200;

/// Run time with --rollout, --kill or --herd when nothing else is said: long enough for a quiet time between any two changes.
const UPHEAVAL_TIME: Duration = Duration::from_secs(20);

/// Seconds in which a herd may come back: a crowd without the limit, and done within the half of the run time.
const HERD_SECONDS: usize = 5;

/// For a person a stopped pod is drained so slowly that it can be seen, and so fast that it is no wait.
const SPREAD_FOR_A_PERSON: Duration = Duration::from_secs(1);

/// Parts of the run time, of which one is for the streams of a replaced pod to leave: half of what there is for each.
const SPREAD_PARTS: u32 = 8;

/// A pod whose streams have not left so long after their time is stopped all the same.
const DRAIN_PATIENCE: Duration = Duration::from_secs(4);

/// Time between events: slow enough for a person to follow, fast enough to measure with.
const TICK_FOR_A_PERSON: Duration = Duration::from_secs(1);
const TICK_FOR_A_TABLE: Duration = Duration::from_millis(100);

/// The endpoints file is there before the proxy starts: this passes in milliseconds or never.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Three pods behind the proxy on this machine, to look at or to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArguments {
    /// Run without a person for this long (such as 10s), then print a table; exit code 1 if a pin or event was lost
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_run_time)]
    run_time: Option<Duration>,
    /// Replace all pods under the clients, as a rolling update does; exit code 1 if a client noticed [default run time: 20s]
    #[arg(long)]
    rollout: bool,
    /// Let a pod die under the clients at half time; exit code 1 if a client noticed [default run time: 20s]
    #[arg(long, conflicts_with = "rollout")]
    kill: bool,
    /// Cut all clients' connections at half time; they come back together, and the table shows how many in each second
    #[arg(long, conflicts_with_all = ["rollout", "kill"])]
    herd: bool,
    /// Clients that the demo drives itself [default: 200 without a person, else none]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: Option<u32>,
    /// Address of the proxy; if its port is taken, the next free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Address of the admin port; if it is taken, the next free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
    /// Time between the numbered events [default: 1s, with --for 100ms]
    #[arg(long, value_name = "DURATION", value_parser = parse_interval)]
    tick: Option<Duration>,
    /// Print nothing but the table
    #[arg(long)]
    quiet: bool,
}

impl DemoArguments {
    /// `None` if the demo is for a person.
    fn run_time(&self) -> Option<Duration> {
        let has_end = self.herd || self.upheaval().is_some();
        self.run_time.or_else(|| has_end.then_some(UPHEAVAL_TIME))
    }

    fn upheaval(&self) -> Option<Kind> {
        match (self.rollout, self.kill) {
            (true, _) => Some(Kind::Rollout),
            (false, true) => Some(Kind::Kill),
            (false, false) => None,
        }
    }

    /// Returns how many clients a second may come; `None` if any number may.
    fn rate(&self) -> Option<usize> {
        self.herd.then(|| (self.client_count() / HERD_SECONDS).max(1))
    }

    fn halfway(&self) -> Halfway {
        match self.upheaval() {
            Some(_) => Halfway::Stay,
            None if self.herd => Halfway::ComeAsHerd,
            None => Halfway::ComeAgain,
        }
    }

    fn drain_times(&self) -> DrainTimes {
        let spread = self.run_time().map_or(SPREAD_FOR_A_PERSON, |run_time| run_time / SPREAD_PARTS);
        DrainTimes { spread, timeout: spread + DRAIN_PATIENCE }
    }

    fn client_count(&self) -> usize {
        let unspoken = if self.run_time().is_some() { CLIENTS_DEFAULT } else { 0 };
        self.clients.and_then(|clients| usize::try_from(clients).ok()).unwrap_or(unspoken)
    }

    fn tick(&self) -> Duration {
        let unspoken = if self.run_time().is_some() { TICK_FOR_A_TABLE } else { TICK_FOR_A_PERSON };
        self.tick.unwrap_or(unspoken)
    }
}

/// Runs the demo to its end: Ctrl-C, SIGTERM, or the time given with `--for`.
///
/// # Errors
/// When the pods or the proxy cannot be started.
pub(crate) fn run(arguments: DemoArguments) -> anyhow::Result<ExitCode> {
    let place = Place::find(arguments.listen, arguments.admin)?;
    let log = Log::memory();
    let pods = DemoPods::start(&log, &place, arguments.drain_times())?;
    let front =
        Front::start(&place.configuration(arguments.drain_times(), arguments.rate()), place.directory())?;
    front.wait_ready(READY_TIMEOUT).context("the proxy did not become ready")?;
    if !arguments.quiet {
        announce(&arguments, &place, &pods)?;
    }
    let plain = PlainProxy::start(pods.cluster())?;
    pods.cluster().compare_with(plain.url());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(attend(&arguments, &place, &pods, log));
    drop(runtime);
    drop(plain);
    front.stop();
    code
}

async fn attend(
    arguments: &DemoArguments,
    place: &Place,
    pods: &DemoPods,
    log: Arc<Log>,
) -> anyhow::Result<ExitCode> {
    let clients = arguments.client_count();
    if clients == 0 {
        tokio::select! {
            _ = publish_ticks(log, arguments.tick()) => {}
            interrupted = interrupted() => interrupted?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let plan = Plan {
        address: place.reachable_listen(),
        clients,
        run_time: arguments.run_time(),
        halfway: arguments.halfway(),
        tick: arguments.tick(),
        quiet: arguments.quiet,
    };
    let begin = |(kind, run_time)| Upheaval::begin(kind, pods.cluster(), run_time);
    let upheaval = arguments.upheaval().zip(arguments.run_time()).map(begin).transpose()?;
    let mut report = load::drive(&plan, log, interrupted()).await?;
    report.changes = upheaval.map(Upheaval::end);
    write!(std::io::stdout().lock(), "{report}")?;
    Ok(if report.is_flawless() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Standard output belongs to the table when there is going to be one.
fn announce(arguments: &DemoArguments, place: &Place, pods: &DemoPods) -> std::io::Result<()> {
    let text = announcement(arguments, place, pods);
    if arguments.client_count() == 0 {
        std::io::stdout().lock().write_all(text.as_bytes())
    } else {
        std::io::stderr().lock().write_all(text.as_bytes())
    }
}

fn announcement(arguments: &DemoArguments, place: &Place, pods: &DemoPods) -> String {
    let url = place.url();
    let admin = place.admin_url();
    let mut text = format!("\npodpin demo: {} behind the proxy\n\n", pods.summary());
    for moved in place.moved() {
        text.push_str(&format!("  note     {moved}\n"));
    }
    text.push_str(&format!(
        "  open     {url}/\n  admin    {admin}/  (also /api/streams, /api/endpoints, /metrics)\n"
    ));
    if arguments.run_time().is_none() {
        text.push_str(&format!("  curl     curl -N -c jar -b jar {url}/events\n\n"));
        text.push_str(
            "Open the page in two tabs and in a private window, see which pod each is on, then stop\n",
        );
        text.push_str(
            "that pod on the page: the stream goes on at another pod, over the same connection and without\n",
        );
        text.push_str("a gap. Kill one: the same, although there was no warning.\n");
        text.push_str("Ctrl-C ends the demo.\n");
    }
    text.push('\n');
    text
}

async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}

fn parse_run_time(text: &str) -> Result<Duration, String> {
    let run_time = parse_interval(text).map_err(|error| error.to_string())?;
    if run_time < Duration::from_secs(1) {
        return Err("there is nothing to see in less than 1s".to_owned());
    }
    Ok(run_time)
}
