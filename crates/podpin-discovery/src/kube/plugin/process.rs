//! The run of a credential plugin: started in a process group of its own, given so much time, and killed with all that it
//! has started when it takes longer.

use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use k8s_openapi::jiff::Timestamp;
use kube::config::ExecConfig;
use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::kube::failure::excerpt;
use crate::kube::token;

/// An `ExecCredential` is a token or a certificate chain: some kilobytes.
const PRINTED_BYTES_MAX: usize = 1 << 20;

/// Bytes of standard error that are kept for the log.
const SAID_BYTES_MAX: usize = 4 << 10;

/// Why a plugin gave no credential. What it printed may be a secret and is in none of them; what it wrote to standard error is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    #[error("names no command to execute")]
    Nameless,
    #[error("cannot be executed: {0}")]
    Start(std::io::Error),
    #[error("has not answered within {limit:?}, and was killed{}", after_colon(.said))]
    Hung { limit: Duration, said: String },
    #[error("failed ({status}){}", after_colon(.said))]
    Failed { status: ExitStatus, said: String },
    #[error("printed more than an ExecCredential has: {} MiB", PRINTED_BYTES_MAX >> 20)]
    Flood,
    #[error("printed no ExecCredential")]
    Garbled,
    #[error("printed an ExecCredential without a token or a certificate and its key")]
    Nothing,
    #[error("printed an ExecCredential whose token {0}")]
    Token(token::TokenError),
    #[error("printed an ExecCredential whose expirationTimestamp is no time")]
    Expiration,
}

/// The credential that a plugin gave: a token, a certificate, or both.
#[derive(Debug)]
pub(crate) struct Credential {
    /// The value of `Authorization`.
    pub(crate) authorization: Option<HeaderValue>,
    /// The certificate of the client.
    pub(crate) identity: Option<Identity>,
    /// When it expires; `None` if that is not said.
    pub(crate) expires: Option<SystemTime>,
}

/// A certificate chain and its key, as PEM.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: SecretString,
}

/// The part of an `ExecCredential` that is read.
#[derive(Deserialize)]
struct Printed {
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<String>,
}

/// Runs the command of `exec` and returns the credential that it prints.
///
/// # Errors
/// [`PluginError`] if it prints none, or not within `limit`. No process of it is left then.
pub(crate) async fn run(exec: &ExecConfig, limit: Duration) -> Result<Credential, PluginError> {
    let mut running = Running::start(exec)?;
    let (mut printed, mut said) = (Vec::new(), Vec::new());
    let ended = timeout(limit, running.output(&mut printed, &mut said)).await;
    let said = excerpt(String::from_utf8_lossy(&said).trim());
    let status = ended.map_err(|_| PluginError::Hung { limit, said: said.clone() })??;
    running.has_ended();
    if !status.success() {
        return Err(PluginError::Failed { status, said });
    }
    if !said.is_empty() {
        tracing::info!(plugin = exec.command, "the credential plugin says: {said}");
    }
    credential_of(&printed)
}

/// A plugin that runs. Its whole process group is killed when this is dropped before it has ended.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    fn start(exec: &ExecConfig) -> Result<Running, PluginError> {
        let child = command(exec)?.spawn().map_err(PluginError::Start)?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Running { child, group: id.and_then(Pid::from_raw) })
    }

    /// Reads all that it writes, and waits for its end.
    async fn output(&mut self, printed: &mut Vec<u8>, said: &mut Vec<u8>) -> Result<ExitStatus, PluginError> {
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let (length, _, status) = tokio::join!(
            read(stdout, printed, PRINTED_BYTES_MAX),
            read(stderr, said, SAID_BYTES_MAX),
            self.child.wait()
        );
        if length > PRINTED_BYTES_MAX {
            return Err(PluginError::Flood);
        }
        status.map_err(PluginError::Start)
    }

    fn has_ended(&mut self) {
        self.group = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(group) = self.group else { return };
        if let Err(error) = kill_process_group(group, Signal::KILL) {
            tracing::debug!(%error, "the credential plugin has ended before it was killed");
        }
    }
}

/// Reads to the end, keeps the first `most` bytes, and returns how many there were: a writer must not wait for a reader.
async fn read(stream: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>, most: usize) -> usize {
    let Some(mut stream) = stream else { return 0 };
    let mut buffer = [0; 4_096];
    let mut all = 0_usize;
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        all = all.saturating_add(length);
        let kept = length.min(most.saturating_sub(into.len()));
        into.extend_from_slice(buffer.get(..kept).unwrap_or_default());
    }
    all
}

/// Makes the command as client-go does. A plugin has no terminal: no person sits at one of a proxy.
fn command(exec: &ExecConfig) -> Result<Command, PluginError> {
    let name = exec.command.as_deref().filter(|name| !name.is_empty()).ok_or(PluginError::Nameless)?;
    let mut command = Command::new(name);
    command.args(exec.args.iter().flatten());
    for variable in exec.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            command.env(name, value);
        }
    }
    let cluster = exec.cluster.as_ref().filter(|_| exec.provide_cluster_info);
    let info = json!({
        "kind": "ExecCredential",
        "apiVersion": exec.api_version,
        "spec": match cluster {
            Some(cluster) => json!({"interactive": false, "cluster": cluster}),
            None => json!({"interactive": false}),
        },
    });
    command.env("KUBERNETES_EXEC_INFO", info.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    Ok(command)
}

/// Reads an `ExecCredential` (client.authentication.k8s.io), which some plugins write as YAML.
fn credential_of(printed: &[u8]) -> Result<Credential, PluginError> {
    // Nothing at all is a document of YAML.
    let printed =
        Some(printed.trim_ascii()).filter(|printed| !printed.is_empty()).ok_or(PluginError::Garbled)?;
    let printed: Printed = serde_saphyr::from_slice(printed).map_err(|_| PluginError::Garbled)?;
    let status = printed.status.ok_or(PluginError::Nothing)?;
    let authorization = status.token.map(|token| token::authorization(token.as_bytes())).transpose();
    let authorization = authorization.map_err(PluginError::Token)?;
    let identity = match (status.client_certificate_data, status.client_key_data) {
        (Some(certificate), Some(key)) => Some(Identity { certificate, key: key.into() }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err(PluginError::Nothing),
    };
    if authorization.is_none() && identity.is_none() {
        return Err(PluginError::Nothing);
    }
    let expires = status.expiration_timestamp.map(|text| text.parse::<Timestamp>()).transpose();
    let expires = expires.map_err(|_| PluginError::Expiration)?.map(SystemTime::from);
    Ok(Credential { authorization, identity, expires })
}

fn after_colon(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> ExecConfig {
        let exec = json!({
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script],
            "env": [{"name": "GREETING", "value": "hello"}],
        });
        serde_json::from_value(exec).unwrap()
    }

    const LIMIT: Duration = Duration::from_secs(60);

    async fn refused(script: &str) -> String {
        run(&shell(script), LIMIT).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_token_a_certificate_and_an_expiry_are_read_from_json_and_yaml() {
        let json = r#"echo '{"kind":"ExecCredential","status":{"token":"abc\n","expirationTimestamp":"2026-11-22T13:47:19Z"}}'"#;
        let credential = run(&shell(json), LIMIT).await.unwrap();
        assert_eq!(credential.authorization.unwrap(), "Bearer abc");
        let expires = credential.expires.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(expires.as_secs(), 1_795_355_239);
        let yaml = r"printf 'status:\n  clientCertificateData: c\n  clientKeyData: k\n'";
        let credential = run(&shell(yaml), LIMIT).await.unwrap();
        assert!(credential.authorization.is_none() && credential.identity.unwrap().certificate == "c");
    }

    #[tokio::test]
    async fn what_is_no_credential_is_refused_without_a_word_of_what_was_printed() {
        let cases = [
            ("true", "no ExecCredential"),
            ("echo 'SECRET {'", "no ExecCredential"),
            ("echo '{}'", "without a token or a certificate"),
            (r#"echo '{"status":{}}'"#, "without a token or a certificate"),
            (r#"echo '{"status":{"clientCertificateData":"SECRET"}}'"#, "without a token or a certificate"),
            (r#"echo '{"status":{"token":""}}'"#, "whose token is empty"),
            (r#"echo '{"status":{"token":"SEC RET"}}'"#, "whose token is not a token"),
            (r#"echo '{"status":{"token":"SECRET","expirationTimestamp":"soon"}}'"#, "is no time"),
            ("yes SECRET | head -c 3000000", "more than an ExecCredential"),
            ("echo login first >&2; echo SECRET; exit 3", "failed (exit status: 3): login first"),
        ];
        for (script, expected) in cases {
            let words = refused(script).await;
            assert!(words.contains(expected) && !words.contains("SECRET"), "{script}: {words}");
        }
        let missing = ExecConfig { command: Some("no-such-plugin".to_owned()), ..shell("") };
        let words = run(&missing, LIMIT).await.unwrap_err().to_string();
        assert!(words.contains("cannot be executed: No such file"), "{words}");
        let nameless = ExecConfig { command: None, ..shell("") };
        assert!(matches!(run(&nameless, LIMIT).await, Err(PluginError::Nameless)));
    }

    #[tokio::test]
    async fn a_plugin_that_hangs_is_killed_with_all_that_it_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("alive");
        // A child of the child holds the FIFO open for writing: its reader is at the end when that is gone.
        let script = format!("mkfifo {0}; echo waiting for you >&2; (exec sleep 1000) >{0}", fifo.display());
        let start = Instant::now();
        let reader = tokio::task::spawn_blocking(move || {
            while !fifo.exists() {
                std::thread::yield_now();
            }
            std::fs::read(fifo).unwrap()
        });
        let words = run(&shell(&script), Duration::from_secs(2)).await.unwrap_err().to_string();
        assert!(words.contains("not answered within 2s, and was killed: waiting for you"), "{words}");
        assert_eq!(reader.await.unwrap(), b"");
        assert!(start.elapsed() < Duration::from_secs(900));
    }

    #[tokio::test]
    async fn a_plugin_is_told_what_client_go_tells_it() {
        let script = r#"test "$GREETING" = hello && echo "$KUBERNETES_EXEC_INFO" >&2 && exit 1"#;
        let mut exec = shell(script);
        assert!(refused(script).await.contains(r#"\"spec\":{\"interactive\":false}"#));
        exec.provide_cluster_info = true;
        exec.cluster = Some(serde_json::from_value(json!({"server": "https://api"})).unwrap());
        let words = run(&exec, LIMIT).await.unwrap_err().to_string();
        assert!(
            words.contains("client.authentication.k8s.io/v1") && words.contains("https://api"),
            "{words}"
        );
    }
}
