//! The credential plugin of a kubeconfig (`exec`), and the credential that it gave last.
//!
//! Run by ourselves: kube waits for a plugin without end, cannot stop it, and runs it anew for each client and certificate.
//! Here one plugin is run once for all who use it, however many services, namespaces and reloads there are (client-go has
//! such a cache, too). Its credential is renewed before it expires, and when the API server refuses it. A run that fails is
//! repeated after pauses that grow, and what it gave before stays in use: the API server knows best how long that is valid.

mod process;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use kube::config::ExecConfig;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::kube::KubeError;
pub(crate) use crate::kube::plugin::process::{Credential, Identity};

/// So long before its end a credential is renewed, as client-go and kube do; half of its life if that is shorter.
const RENEWED_BEFORE: Duration = Duration::from_secs(60);

/// The shortest time between two renewals of credentials that expire at once, or have expired already.
const RENEWED_AFTER_MIN: Duration = Duration::from_secs(5);

/// The pause after a run that failed, or gave what the API server refuses; doubled for each further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Plugins that are remembered: a process has one at a time, and another one after a reload.
const PLUGINS_MAX: usize = 8;

/// All plugins of the process.
static PLUGINS: Mutex<Vec<Arc<Plugin>>> = Mutex::new(Vec::new());

/// A credential plugin, shared by all who use it.
#[derive(Debug)]
pub(crate) struct Plugin {
    exec: ExecConfig,
    state: Mutex<State>,
    /// Whose turn it is to run the command.
    turn: tokio::sync::Mutex<()>,
    wake: Notify,
    /// Tasks that renew the credential.
    keepers: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    given: Option<Given>,
    /// Number of the last credential.
    number: u64,
    /// Whether the API server has refused the last one.
    refused: bool,
    /// Credentials in a row that were refused.
    refusals: u32,
    /// Runs in a row that failed, and the words of the last failure.
    failures: u32,
    failure: Option<Arc<str>>,
    /// Not before that is the command run by itself again; `None` if at any time.
    pause_until: Option<Instant>,
}

/// A credential that a plugin gave.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// Number of the credential, by which a refusal is told from that of an older one.
    pub(crate) number: u64,
    pub(crate) credential: Arc<Credential>,
    /// When the next one is due; `None` if that one does not expire.
    due: Option<Instant>,
}

impl Given {
    /// Returns the value of `Authorization`; `None` if the credential is a certificate alone.
    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.credential.authorization.as_ref()
    }
}

impl Plugin {
    /// Returns the plugin of this configuration, the same one for the same configuration.
    pub(crate) fn of(exec: &ExecConfig) -> Arc<Plugin> {
        let mut plugins = locked(&PLUGINS);
        if let Some(known) = plugins.iter().find(|known| is_same(&known.exec, exec)) {
            return Arc::clone(known);
        }
        if plugins.len() >= PLUGINS_MAX {
            plugins.remove(0);
        }
        let plugin = Arc::new(Plugin {
            exec: exec.clone(),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            wake: Notify::new(),
            keepers: AtomicUsize::new(0),
        });
        plugins.push(Arc::clone(&plugin));
        plugin
    }

    /// Returns the credential to use now, even if it has expired meanwhile; `None` if there never was one.
    pub(crate) fn given(&self) -> Option<Given> {
        locked(&self.state).given.clone()
    }

    /// Returns a credential that is valid as far as is known; runs the command, for up to `limit`, if there is none.
    ///
    /// # Errors
    /// [`KubeError::Plugin`] if the command gives none.
    pub(crate) async fn obtain(&self, limit: Duration) -> Result<(), KubeError> {
        let before = locked(&self.state).number;
        let _turn = self.turn.lock().await;
        let is_valid = {
            let state = locked(&self.state);
            let is_due = || state.given.as_ref().is_none_or(|given| given.due.is_some_and(is_over));
            state.number > before || !(state.refused || is_due())
        };
        if is_valid {
            return Ok(());
        }
        self.run(limit).await.map_err(|words| KubeError::Plugin(words.to_string()))
    }

    /// Notes that the API server refuses the credential with this number. Returns why there is no other one yet; `None` if no
    /// attempt has failed.
    pub(crate) fn refused(&self, number: u64) -> Option<Arc<str>> {
        let mut state = locked(&self.state);
        if state.number == number && !state.refused {
            state.refused = true;
            state.refusals = state.refusals.saturating_add(1);
            self.wake.notify_one();
        }
        state.failure.clone()
    }

    /// Notes that the API server has accepted the credential with this number.
    pub(crate) fn accepted(&self, number: u64) {
        let mut state = locked(&self.state);
        if state.number == number {
            state.refused = false;
            state.refusals = 0;
        }
    }

    /// Whether a task renews the credential.
    pub(crate) fn is_kept(&self) -> bool {
        self.keepers.load(Ordering::Relaxed) > 0
    }

    /// Renews the credential whenever that is due, and logs when that fails and when it succeeds again; for ever. A run may take
    /// `limit`.
    pub(crate) async fn keep(&self, limit: Duration) -> ! {
        let _keeper = Keeper::of(&self.keepers);
        let mut said: Option<Arc<str>> = None;
        loop {
            match self.next_run() {
                Some(next) => tokio::select! {
                    () = sleep_until(next) => {}
                    () = self.wake.notified() => continue,
                },
                None => {
                    self.wake.notified().await;
                    continue;
                }
            }
            let _turn = self.turn.lock().await;
            if self.next_run().is_none_or(|next| !is_over(next)) {
                continue;
            }
            match self.run(limit).await {
                Err(words) if said.as_ref() != Some(&words) => {
                    tracing::error!(
                        "{words}: it is run again and again, and what it gave before stays in use"
                    );
                    said = Some(words);
                }
                Err(_) => {}
                Ok(()) if said.take().is_some() => {
                    tracing::info!("the credential plugin {} gives credentials again", self.name());
                }
                Ok(()) => {}
            }
        }
    }

    /// Returns when the command is to be run next; `None` if not before something happens.
    fn next_run(&self) -> Option<Instant> {
        let state = locked(&self.state);
        let due = match &state.given {
            Some(given) if !state.refused => given.due?,
            _ => Instant::now(),
        };
        Some(state.pause_until.map_or(due, |until| due.max(until)))
    }

    /// Runs the command once and keeps what it gives, or why it gives nothing.
    async fn run(&self, limit: Duration) -> Result<(), Arc<str>> {
        let outcome = process::run(&self.exec, limit).await;
        let mut state = locked(&self.state);
        let outcome = match outcome {
            Ok(credential) => {
                state.number += 1;
                state.failures = 0;
                state.failure = None;
                state.refused = false;
                let due =
                    credential.expires.map(|end| Instant::now() + renewed_after(end, SystemTime::now()));
                let number = state.number;
                state.given = Some(Given { number, credential: Arc::new(credential), due });
                Ok(())
            }
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                let words: Arc<str> =
                    format!("the credential plugin {} of the kubeconfig {error}", self.name()).into();
                state.failure = Some(Arc::clone(&words));
                Err(words)
            }
        };
        state.pause_until = Some(Instant::now() + pause(state.failures.max(state.refusals)));
        outcome
    }

    /// The command, without its arguments, which may be secrets.
    fn name(&self) -> &str {
        self.exec.command.as_deref().unwrap_or("without a command")
    }
}

/// Counts a task that renews a credential, as long as it lives.
struct Keeper<'p>(&'p AtomicUsize);

impl Keeper<'_> {
    fn of(keepers: &AtomicUsize) -> Keeper<'_> {
        keepers.fetch_add(1, Ordering::Relaxed);
        Keeper(keepers)
    }
}

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Nothing that holds these locks can leave a half-done state behind, so a panic elsewhere is no reason to stop.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_same(one: &ExecConfig, other: &ExecConfig) -> bool {
    // The cluster is in no file under `exec`, and is left out when a configuration is written.
    let parts =
        |exec: &ExecConfig| (serde_json::to_value(exec).ok(), serde_json::to_value(&exec.cluster).ok());
    parts(one) == parts(other)
}

fn is_over(moment: Instant) -> bool {
    moment <= Instant::now()
}

/// Returns after how long a credential is renewed that is given at `now` and expires at `end`.
fn renewed_after(end: SystemTime, now: SystemTime) -> Duration {
    let life = end.duration_since(now).unwrap_or_default();
    life.saturating_sub(RENEWED_BEFORE).max(life / 2).max(RENEWED_AFTER_MIN)
}

/// Returns the pause after so many attempts in a row that came to nothing.
fn pause(attempts: u32) -> Duration {
    match attempts.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => PAUSE_MIN.saturating_mul(2_u32.saturating_pow(doublings.min(16))).min(PAUSE_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_renewed_a_minute_before_it_expires_or_at_half_of_its_life() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (life, after) in [(3_600, 3_540), (120, 60), (70, 35), (10, 5), (1, 5), (0, 5)] {
            assert_eq!(renewed_after(now + Duration::from_secs(life), now).as_secs(), after, "{life}");
        }
        assert_eq!(renewed_after(now - Duration::from_secs(9), now), RENEWED_AFTER_MIN);
    }

    #[test]
    fn pauses_grow_up_to_a_minute() {
        let pauses: Vec<u64> = (0..9).map(|attempts| pause(attempts).as_secs()).collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
    }
}
