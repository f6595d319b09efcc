//! `podpin keygen`: 32 random bytes as 43 characters of base64url.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Arguments of `podpin keygen`.
#[derive(clap::Args)]
pub(crate) struct KeygenArguments {
    /// Write the key to this file with mode 0600 instead of printing it; never overwrites
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Makes a key and prints or writes it.
pub(crate) fn keygen(arguments: &KeygenArguments) -> anyhow::Result<ExitCode> {
    let mut material = [0_u8; 32];
    getrandom::fill(&mut material).context("no random bytes")?;
    let key = URL_SAFE_NO_PAD.encode(material);
    let Some(path) = &arguments.out else {
        println!("{key}");
        return Ok(ExitCode::SUCCESS);
    };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            if let Err(error) = writeln!(file, "{key}") {
                // An empty file would refuse to be replaced later.
                fs::remove_file(path).with_context(|| path.display().to_string())?;
                return Err(error).with_context(|| path.display().to_string());
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} exists: a key in use must not be overwritten; choose another file", path.display())
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}
