//! `podpin`: the command line. Each command is a file; what they share is here: arguments and exit codes.

mod check;
#[cfg(feature = "demo")]
mod demo;
mod exit_code;
mod import_ingress;
mod keygen;
mod reload;
mod run;
mod telemetry;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tikv_jemallocator::Jemalloc;

use crate::exit_code::BAD_CONFIGURATION;

/// Chosen by measurement: a fifth less for each idle stream than glibc's, and what streams held goes back to the system when
/// they leave, which glibc keeps (docs/performance.md). `.cargo/config.toml` has its settings.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// The version, with the commit that the binary is built from and its date; `build.rs` finds them.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("PODPIN_BUILT_FROM"), ")");

/// A layer-7 sticky-session reverse proxy for Server-Sent Events.
#[derive(Parser)]
#[command(name = "podpin", version = VERSION, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the proxy
    Run(ConfigArguments),
    /// Check a configuration, or a manifest with one, and print its routes with their effective timeouts
    Check(check::CheckArguments),
    /// Make an affinity key
    Keygen(keygen::KeygenArguments),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Translate Ingresses of ingress-nginx into a configuration, an overlay and a report
    #[command(after_help = import_ingress::EXIT_CODES)]
    ImportIngress(Box<import_ingress::ImportArguments>),
    /// Three pods behind the real proxy on this machine, with a page to watch them
    #[cfg(feature = "demo")]
    Demo(demo::DemoArguments),
}

/// Where the configuration is.
#[derive(clap::Args)]
struct ConfigArguments {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Run(arguments) => run::run(&arguments.config),
        Command::Check(arguments) => Ok(check::check(&arguments)),
        Command::Keygen(arguments) => keygen::keygen(&arguments),
        Command::Schema => {
            // A reader that has seen enough, such as `head`, is no failure.
            let _closed = io::stdout().write_all(podpin_config::JSON_SCHEMA.as_bytes());
            Ok(ExitCode::SUCCESS)
        }
        Command::ImportIngress(arguments) => import_ingress::import_ingress(&arguments),
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => demo::run(arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("podpin: {error:#}");
        ExitCode::from(BAD_CONFIGURATION)
    })
}
