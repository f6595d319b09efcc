//! The loop of one resource in one namespace: list, watch, list again when there is a reason, and never faster than is
//! good. What is read is written into an [`Index`].
//!
//! Not kube's `watcher` with its `default_backoff`, which delays the relist after a 410 by 20 s, hides bookmarks and
//! loses what it cannot read. Bounds: a watch starts at most once a second after the first; a failure is followed by
//! 0.2 to 2.5 s of silence; what cannot be read brings a relist at once the first time, later ones ever more seldom.

use std::convert::Infallible;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::kube::client::ApiClient;
use crate::kube::cluster::Cluster;
use crate::kube::failure::Failure;
use crate::kube::pace::{around, asked_wait, backoff};
use crate::kube::reports::Reports;
use crate::kube::wire::{
    Deleted, Lines, Nameless, Object, Parts, Said, Selection, Suspect, read_line, read_object,
};
use crate::kube::{KubeEvent, KubeSettings, RelistReason};
use crate::slice::version_of;

/// Between the starts of two watches. An API server that answers 200 and ends at once would be asked thousands of times
/// a second; once a second is nothing to it, and no later than anyone would notice.
const WATCH_SPACING: Duration = Duration::from_secs(1);

/// How long after a list that would empty a service the second one is asked for: an API server that starts needs about
/// as long to fill its cache, and a service that is really empty has no endpoint for clients meanwhile.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);

/// The second relist for what cannot be read; the first comes at once, each further one waits twice as long, up to
/// `relist_every`.
const MALFORMED_AGAIN: Duration = Duration::from_secs(2);

/// The server's clock may run a little slower than ours when a watch ends.
const END_GRACE: Duration = Duration::from_secs(10);

/// So many failures in a row are taken for a configuration that has changed (another CA, another address), too.
const RENEWAL_FAILURES: u32 = 8;

/// An API server that starts answers 401 or 403 until it has read its own Roles and tokens, which takes seconds. Before this is
/// over, a refusal after a success is not called missing rights.
const REFUSAL_PASSES: Duration = Duration::from_secs(10);

/// Lists that lose their continue token before the last page are begun anew this often at once.
const RESTARTS_MAX: u32 = 3;

/// The receiver of the objects of one resource, which turns changes into events.
pub(crate) trait Index {
    /// The resource.
    type Object: Object;
    /// A list that is being read, item by item and page by page.
    type Pending: Default + Send;

    /// Returns the words for what happens while nothing can be read.
    fn kept(&self) -> &'static str;

    /// The longest wait after such a failure.
    fn backoff_max(failure: &Failure) -> Duration;

    /// Adds an item of a list.
    ///
    /// # Errors
    /// [`Nameless`] if the object has no name; it was not added.
    fn stage(
        &self,
        pending: &mut Self::Pending,
        object: &Self::Object,
        emit: Emit<'_>,
    ) -> Result<(), Nameless>;

    /// Notes an item of a list that cannot be read.
    fn unreadable(&self, pending: &mut Self::Pending, parts: &Parts);

    /// Takes the whole list over. Returns whether all of it was believed; if not, the next list should come soon.
    fn replace(&self, pending: Self::Pending, emit: Emit<'_>) -> bool;

    /// Adds or replaces an object.
    ///
    /// # Errors
    /// [`Nameless`] if the object has no name; nothing was changed.
    fn put(&self, object: &Self::Object, emit: Emit<'_>) -> Result<(), Nameless>;

    /// Removes an object.
    fn remove(&self, deleted: &Deleted, emit: Emit<'_>);

    /// Handles an event beside the objects.
    fn notify(&self, notice: Notice<'_>, emit: Emit<'_>);
}

/// An event beside the objects themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Notice<'n> {
    /// A watch after a time without one.
    Connected,
    /// A list or a watch that failed.
    Failed {
        /// Whether it is the first failure after a success, or at all.
        first: bool,
        /// The failure.
        failure: &'n Failure,
        /// The failure in words; `None` if they are the same as for the one before.
        words: Option<&'n str>,
    },
    /// A list that was read and taken over.
    Listed(RelistReason),
    /// A message that nothing has happened up to now.
    Bookmark,
    /// An object that could not be read, and what is known of it.
    Malformed(&'n Parts),
}

/// The receiver of events.
pub(crate) type Emit<'t> = &'t (dyn Fn(KubeEvent) + Sync);

/// The reflector of one resource in one namespace.
pub(crate) struct Reflector<'f, I> {
    /// Name of the namespace.
    name: &'f str,
    settings: &'f KubeSettings,
    client: ApiClient,
    selection: Selection,
    index: I,
    /// Last version received; empty before the first list.
    version: String,
    /// When and why the next list is due.
    relist: (Instant, RelistReason),
    /// Before that, no watch is started.
    next_watch: Instant,
    /// Failures in a row.
    failures: u32,
    /// When the next relist for something malformed may be, counted from the one before; zero = at once.
    malformed_delay: Duration,
    /// Whether the server has ever sent a bookmark, so that silence means something.
    sends_bookmarks: bool,
    /// State that was reported last; `None` if none was yet.
    connected: Option<Result<(), Failure>>,
    /// When the credentials or rights were refused first that had been good before; `None` if they are not refused.
    refused_since: Option<Instant>,
    /// Whether the last failure was taken for one that passes.
    passing: bool,
    reports: Reports,
}

/// How a watch came to its end.
enum End {
    /// The server ended it, or it is time for a list.
    Over,
    /// A list is needed now.
    Relist(RelistReason),
    /// A watch that was refused or has broken.
    Failed(Failure),
}

impl<'f, I: Index> Reflector<'f, I> {
    /// The objects of the namespace `name` with the labels of `selector`, written into `index`.
    pub(crate) fn new(
        name: &'f str,
        settings: &'f KubeSettings,
        client: ApiClient,
        selector: Option<String>,
        index: I,
    ) -> Reflector<'f, I> {
        let now = Instant::now();
        Reflector {
            name,
            settings,
            client,
            selection: Selection::of(I::Object::RESOURCE, name, selector),
            index,
            version: String::new(),
            relist: (now, RelistReason::Start),
            next_watch: now,
            failures: 0,
            malformed_delay: Duration::ZERO,
            sends_bookmarks: false,
            connected: None,
            refused_since: None,
            passing: false,
            reports: Reports::default(),
        }
    }

    /// Lists and watches for ever.
    pub(crate) async fn follow(mut self, emit: Emit<'_>) -> Infallible {
        loop {
            let (due, reason) = self.relist;
            if due <= Instant::now()
                && let Err(failure) = self.list(reason, emit).await
            {
                self.fail(failure, emit).await;
                continue;
            }
            sleep_until(self.next_watch.min(self.relist.0)).await;
            if self.relist.0 <= Instant::now() {
                continue;
            }
            match self.watch(emit).await {
                End::Over => {}
                End::Relist(reason) => self.relist = (Instant::now(), reason),
                End::Failed(failure) => {
                    if !matches!(failure, Failure::Unreachable(_)) {
                        self.relist = (Instant::now(), RelistReason::Error);
                    }
                    self.fail(failure, emit).await;
                }
            }
        }
    }

    /// Reads all pages and takes them over.
    async fn list(&mut self, reason: RelistReason, emit: Emit<'_>) -> Result<(), Failure> {
        let mut restarts = 0;
        let (pending, unreadable, version) = loop {
            match self.pages(emit).await {
                Err(Failure::Expired) if restarts < RESTARTS_MAX => restarts += 1,
                other => break other?,
            }
        };
        self.version = version;
        let believed = self.index.replace(pending, emit);
        self.schedule(reason, unreadable, believed);
        self.index.notify(Notice::Listed(reason), emit);
        Ok(())
    }

    /// All items, whether there were any that cannot be read, and the version.
    async fn pages(&mut self, emit: Emit<'_>) -> Result<(I::Pending, bool, String), Failure> {
        let mut pending = I::Pending::default();
        let mut unreadable = false;
        let mut token: Option<String> = None;
        loop {
            let answer =
                self.selection.page(&self.client, token.as_deref(), self.settings.list_timeout).await;
            // Only a continue token can be too old: beginning anew at once would be told the same.
            let first = token.is_none();
            let too_old =
                |failure| if first && failure == Failure::Expired { refused_list::<I>() } else { failure };
            let answer = answer.map_err(too_old)?;
            let page = answer.items().map_err(too_old)?;
            for item in &page.items {
                unreadable |= self.stage(&mut pending, item, emit).is_err();
            }
            match page.more {
                Some(more) => token = Some(more),
                None => return Ok((pending, unreadable, page.version)),
            }
        }
    }

    fn stage(&mut self, pending: &mut I::Pending, item: &RawValue, emit: Emit<'_>) -> Result<(), Unreadable> {
        let read = read_object(item.get());
        let taken = read.and_then(|object| Ok(self.index.stage(pending, &object, emit)?));
        taken.map_err(|suspect| {
            self.index.unreadable(pending, &suspect.parts);
            self.suspect(&suspect, emit);
            Unreadable
        })
    }

    /// When the next list is due, after one that was read for `reason`.
    fn schedule(&mut self, reason: RelistReason, unreadable: bool, believed: bool) {
        let now = Instant::now();
        if !unreadable && reason == RelistReason::Periodic {
            self.malformed_delay = Duration::ZERO;
        }
        self.relist = (now + around(self.settings.relist_every), RelistReason::Periodic);
        if unreadable {
            self.relist_for_malformed(MALFORMED_AGAIN);
        }
        if !believed {
            self.relist = self.relist.min_by_time((now + CONFIRM_AFTER, RelistReason::Confirm));
        }
    }

    fn relist_for_malformed(&mut self, at_least: Duration) {
        let delay = self.malformed_delay.max(at_least);
        self.malformed_delay =
            (delay * 2).clamp(MALFORMED_AGAIN, self.settings.relist_every.max(MALFORMED_AGAIN));
        self.relist = self.relist.min_by_time((Instant::now() + delay, RelistReason::Malformed));
    }

    /// Watches from the last version on until there is a reason not to.
    async fn watch(&mut self, emit: Emit<'_>) -> End {
        let started = Instant::now();
        self.next_watch = started + WATCH_SPACING;
        let within = self.settings.watch_timeout;
        let mut lines = match self.selection.watch(&self.client, &self.version, within).await {
            Ok(lines) => lines,
            Err(Failure::Expired) => return End::Relist(RelistReason::Expired),
            Err(failure) => return End::Failed(failure),
        };
        self.connect(emit);
        let mut heard = false;
        let end = self.hear(&mut lines, started + within + END_GRACE, &mut heard, emit).await;
        match end {
            // Neither an event nor a bookmark: this version may be one that never comes to anything.
            End::Over | End::Failed(_) if !heard && started.elapsed() * 2 >= within => {
                End::Relist(RelistReason::Expired)
            }
            end => end,
        }
    }

    async fn hear(&mut self, lines: &mut Lines, until: Instant, heard: &mut bool, emit: Emit<'_>) -> End {
        let after = self.settings.silence_max;
        loop {
            let silent_at = Instant::now() + after;
            let line = match timeout_at(until.min(self.relist.0).min(silent_at), lines.next()).await {
                Ok(Ok(Some(line))) => line,
                Err(_) if self.sends_bookmarks && Instant::now() >= silent_at => {
                    return End::Failed(Failure::Silent { verb: "watch", after });
                }
                Ok(Ok(None)) | Err(_) => return End::Over,
                Ok(Err(failure)) => return End::Failed(failure),
            };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            *heard = true;
            let said = read_line(line);
            if let Some(end) = self.take(said, emit) {
                return end;
            }
        }
    }

    /// Takes one line of a watch over. `Some` when that was its last.
    fn take(&mut self, said: Said<I::Object>, emit: Emit<'_>) -> Option<End> {
        match said {
            Said::Put(object) => return self.put(&object, emit),
            Said::Deleted(deleted) => {
                if self.advance(deleted.parts.version.as_deref()).is_err() {
                    return Some(End::Relist(RelistReason::Expired));
                }
                self.index.remove(&deleted, emit);
            }
            Said::Bookmark(version) => {
                if self.advance(Some(&version)).is_err() {
                    return Some(End::Relist(RelistReason::Expired));
                }
                self.sends_bookmarks = true;
                self.index.notify(Notice::Bookmark, emit);
            }
            Said::Failed(Failure::Expired) => return Some(End::Relist(RelistReason::Expired)),
            Said::Failed(failure) => return Some(End::Failed(failure)),
            Said::Unknown(word) => {
                if self.reports.is_new("", "unknown event", Instant::now()) {
                    tracing::warn!(namespace = self.name, %word, "unknown kind of event in a watch: left out");
                }
                self.index.notify(Notice::Malformed(&Parts::default()), emit);
            }
            Said::Malformed(suspect) => {
                self.suspect(&suspect, emit);
                self.relist_for_malformed(Duration::ZERO);
            }
        }
        None
    }

    fn put(&mut self, object: &I::Object, emit: Emit<'_>) -> Option<End> {
        if self.advance(object.version()).is_err() {
            return Some(End::Relist(RelistReason::Expired));
        }
        if let Err(nameless) = self.index.put(object, emit) {
            self.suspect(&nameless.into(), emit);
            self.relist_for_malformed(Duration::ZERO);
        }
        None
    }

    /// Goes on to `version`. An error when that is a step back, which no watch of a sound server takes.
    fn advance(&mut self, version: Option<&str>) -> Result<(), Backwards> {
        let Some(version) = version else { return Ok(()) };
        let backwards = match (version_of(Some(&self.version)), version_of(Some(version))) {
            (Some(before), Some(now)) => now < before,
            // Versions are opaque in principle.
            _ => false,
        };
        if backwards {
            tracing::warn!(
                namespace = self.name,
                from = self.version,
                to = version,
                "the resource version went backwards"
            );
            return Err(Backwards);
        }
        version.clone_into(&mut self.version);
        Ok(())
    }

    fn suspect(&mut self, suspect: &Suspect, emit: Emit<'_>) {
        let Suspect { parts, why } = suspect;
        let name = parts.name.as_deref().unwrap_or("?");
        if self.reports.is_new(name, "unreadable", Instant::now()) {
            tracing::warn!(
                namespace = self.name,
                kind = I::Object::RESOURCE.kind,
                name,
                service = parts.service.as_deref().unwrap_or("?"),
                %why,
                "an object that cannot be read is left out"
            );
        }
        self.index.notify(Notice::Malformed(parts), emit);
    }

    fn connect(&mut self, emit: Emit<'_>) {
        self.failures = 0;
        self.refused_since = None;
        if self.connected == Some(Ok(())) {
            return;
        }
        tracing::info!(namespace = self.name, "following {}s", I::Object::RESOURCE.kind);
        self.connected = Some(Ok(()));
        self.index.notify(Notice::Connected, emit);
    }

    /// Tells and logs what has changed, and waits before the next attempt.
    async fn fail(&mut self, failure: Failure, emit: Emit<'_>) {
        let answers = |failure: &Failure| matches!(failure, Failure::Refused { .. } | Failure::Plugin(_));
        let was_silent = matches!(&self.connected, Some(Err(before)) if !answers(before));
        if answers(&failure) && was_silent {
            // It is back, and what it refuses while it starts should not cost what the outage did.
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let is_refused = matches!(failure, Failure::Refused { code: 401, .. } | Failure::Plugin(_));
        let outdated = (is_refused && !self.client.renews_credentials())
            || self.failures.is_multiple_of(RENEWAL_FAILURES);
        let passing = self.passes(&failure);
        let was_passing = std::mem::replace(&mut self.passing, passing);
        let known = matches!(&self.connected, Some(Err(before)) if before.resembles(&failure))
            && was_passing == self.passing;
        let words = if self.passing { failure.passing_words() } else { failure.to_string() };
        if !known {
            tracing::warn!(
                namespace = self.name,
                reason = words,
                "{}s cannot be followed: {}",
                I::Object::RESOURCE.kind,
                self.index.kept()
            );
        }
        let (first, words) = (!matches!(self.connected, Some(Err(_))), (!known).then_some(words.as_str()));
        self.index.notify(Notice::Failed { first, failure: &failure, words }, emit);
        let wait = backoff(self.failures, I::backoff_max(&failure), fastrand::f64());
        let wait = wait.max(asked_wait(&failure, fastrand::f64()));
        self.connected = Some(Err(failure));
        sleep(wait).await;
        if outdated {
            self.renew().await;
        }
    }

    /// Notes a failure; returns whether it is a refusal that a server which starts would send as well.
    fn passes(&mut self, failure: &Failure) -> bool {
        let is_refusal = matches!(failure, Failure::Refused { code: 401 | 403, .. });
        if !is_refusal || self.version.is_empty() {
            self.refused_since = None;
            return false;
        }
        let now = Instant::now();
        now.duration_since(*self.refused_since.get_or_insert(now)) < REFUSAL_PASSES
    }

    /// A client never reads its kubeconfig anew; a new client does.
    async fn renew(&mut self) {
        match Cluster::reach(self.settings).await.and_then(|cluster| cluster.client()) {
            Ok(client) => self.client = client,
            Err(error) => tracing::debug!(%error, "the configuration cannot be read now; the old one stays"),
        }
    }
}

/// An item of a list that cannot be read.
struct Unreadable;

/// A resource version that is smaller than the one before.
struct Backwards;

/// The earlier of two plans.
trait Sooner {
    fn min_by_time(self, other: Self) -> Self;
}

impl Sooner for (Instant, RelistReason) {
    fn min_by_time(self, other: Self) -> Self {
        if other.0 < self.0 { other } else { self }
    }
}

/// 410 for a list that named no version: an API server that is not itself.
fn refused_list<I: Index>() -> Failure {
    let (resource, message) = (I::Object::RESOURCE, "a list from its beginning is refused".to_owned());
    Failure::Refused { verb: "list", resource, code: 410, message, retry_after: None }
}
