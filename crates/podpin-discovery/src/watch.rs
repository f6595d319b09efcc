//! Tells when files have changed, whatever way they were changed: written in place, renamed over, deleted and made
//! again, or swapped underneath by a symlink somewhere on the way (a mounted ConfigMap or Secret).
//!
//! inotify watches inodes, but what matters here is what a *path* leads to. So every directory through which the
//! lookup of a path passes is watched for the one entry by which it goes on, and the lookup is done anew after every
//! event:
//!
//! ```text
//! /etc/podpin/endpoints.yaml      watched: /     for etc
//!   -> ..data/endpoints.yaml               /etc  for podpin
//!      ..data -> ..2026_11             /etc/podpin for endpoints.yaml, ..data, ..2026_11
//!                              /etc/podpin/..2026_11 for endpoints.yaml
//! ```
//!
//! Where inotify says nothing (network file systems, no more instances), the contents are compared every few seconds.
//! What the files mean is left to those who read them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::timeout;

/// After the first event, how long it must be silent before the files are looked at: an editor's three system calls
/// are one change. Local writes of some kilobytes follow each other within 1 ms.
const SILENCE: Duration = Duration::from_millis(5);

/// ..and how long at most a busy writer can put that off.
const DEBOUNCE_MAX: Duration = Duration::from_millis(20);

/// How often contents are compared without any event: the worst delay where inotify says nothing. Reading files of
/// some kilobytes costs about 20 µs each time.
const POLL: Duration = Duration::from_secs(5);

/// The same where there is no inotify at all.
const POLL_ALONE: Duration = Duration::from_secs(1);

/// Symlinks on one way, as in Linux (ELOOP).
const LINKS_MAX: usize = 40;

/// The largest file that is read: 100,000 endpoints with long names are 16 MiB.
pub(crate) const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Watches a fixed set of paths, existing or not.
#[derive(Debug)]
pub struct FileWatch {
    survey: Arc<Mutex<Survey>>,
    signal: Arc<Signal>,
    seen: Vec<Content>,
    /// An event or a poll is waiting to be looked into; kept here so that a dropped `changed()` loses nothing.
    suspicious: bool,
    poll: Duration,
}

impl FileWatch {
    /// Begins to watch `paths`; relative ones are relative to the present working directory. What they lead to now is
    /// what [`FileWatch::changed`] compares with, so read the files after this. Blocks for some system calls.
    #[must_use]
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> FileWatch {
        let signal = Arc::new(Signal::default());
        match Signal::watcher(&signal) {
            Ok(watcher) => FileWatch::start(paths, signal, Some(watcher), POLL),
            Err(error) => {
                tracing::warn!(%error, poll = ?POLL_ALONE, "no inotify; files are polled");
                FileWatch::start(paths, signal, None, POLL_ALONE)
            }
        }
    }

    fn start(
        paths: impl IntoIterator<Item = PathBuf>,
        signal: Arc<Signal>,
        watcher: Option<RecommendedWatcher>,
        poll: Duration,
    ) -> FileWatch {
        let paths = paths.into_iter().map(|path| std::path::absolute(&path).unwrap_or(path)).collect();
        let armed = BTreeSet::new();
        let mut survey = Survey { paths, watcher, armed, signal: Arc::clone(&signal) };
        let seen = survey.look();
        // The first look is at once, not at the first poll: the thread that looks is there from the beginning, and what it
        // takes is no surprise at the first change.
        FileWatch { survey: Arc::new(Mutex::new(survey)), signal, seen, suspicious: true, poll }
    }

    /// Waits until the content or the existence of at least one path differs from what it was at the last return (or
    /// at the start). Several changes may be told as one; the same content written again is none. Cancel safe.
    ///
    /// # Panics
    /// Outside a tokio runtime with time.
    pub async fn changed(&mut self) {
        loop {
            if !self.suspicious {
                self.wait().await;
            }
            let survey = Arc::clone(&self.survey);
            let look = tokio::task::spawn_blocking(move || hold(&survey).look());
            // An Err means that the runtime is being shut down.
            let Ok(seen) = look.await else { return std::future::pending().await };
            self.suspicious = false;
            if seen != self.seen {
                self.seen = seen;
                return;
            }
        }
    }

    /// Waits for a burst of events to be over, or for the next poll.
    async fn wait(&mut self) {
        let event = || self.signal.raised.notified();
        let heard = timeout(self.poll, event()).await.is_ok();
        // Before the next await: if the caller drops this there, the event is used up.
        self.suspicious = true;
        if heard {
            let silence = async { while timeout(SILENCE, event()).await.is_ok() {} };
            // Either way it is time to look; nothing is lost, a later event raises the signal again.
            let _ = timeout(DEBOUNCE_MAX, silence).await;
        }
    }
}

/// Between notify's thread and the task that waits.
#[derive(Debug, Default)]
struct Signal {
    raised: Notify,
    /// The paths whose events matter: every entry on the way of a lookup. A directory on the way is such an entry, so
    /// that its own end is heard, too.
    interest: Mutex<BTreeSet<PathBuf>>,
}

impl Signal {
    /// A watcher whose events are heard by `signal`.
    fn watcher(signal: &Arc<Signal>) -> notify::Result<RecommendedWatcher> {
        let listener = Arc::clone(signal);
        notify::recommended_watcher(move |event| listener.hear(event))
    }

    /// Called on notify's own thread.
    fn hear(&self, event: notify::Result<Event>) {
        if event.is_ok_and(|event| !self.concerns_us(&event)) {
            return;
        }
        self.raised.notify_one();
    }

    fn concerns_us(&self, event: &Event) -> bool {
        let of_change = match event.kind {
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            // Reading changes a time stamp, too.
            EventKind::Modify(ModifyKind::Metadata(kind)) => kind != notify::event::MetadataKind::AccessTime,
            EventKind::Any
            | EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_)
            | EventKind::Other => true,
        };
        let interest = hold(&self.interest);
        of_change
            && (event.need_rescan()
                || event.paths.is_empty()
                || event.paths.iter().any(|path| interest.contains(path)))
    }
}

/// Looks at the files, and keeps the watches where the lookups pass.
#[derive(Debug)]
struct Survey {
    paths: Vec<PathBuf>,
    watcher: Option<RecommendedWatcher>,
    /// The directories that are watched.
    armed: BTreeSet<PathBuf>,
    signal: Arc<Signal>,
}

impl Survey {
    /// Watches first and reads then, so that no change falls between.
    fn look(&mut self) -> Vec<Content> {
        self.arm();
        self.paths.iter().map(|path| Content::of(path)).collect()
    }

    fn arm(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut before = BTreeSet::new();
        // A link may be swapped between the lookup and the watch; twice the same way means that it was not.
        for _ in 0..LINKS_MAX {
            let ways: Vec<Step> = self.paths.iter().flat_map(|path| way_of(path)).collect();
            let directories: BTreeSet<PathBuf> = ways.iter().map(|step| step.directory.clone()).collect();
            let interest: BTreeSet<PathBuf> =
                ways.iter().map(|step| step.directory.join(&step.entry)).collect();
            if interest == before {
                break;
            }
            hold(&self.signal.interest).clone_from(&interest);
            for directory in self.armed.difference(&directories) {
                // An Err means that it is not there any more, and its watch neither.
                let _ = watcher.unwatch(directory);
            }
            // Those that are watched already, too: the name may have come to mean another directory. What cannot be
            // watched (no permission to list it) is left to the poll.
            for directory in &directories {
                if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                    tracing::debug!(%error, directory = %directory.display(), "cannot watch; polled instead");
                }
            }
            self.armed = directories;
            before = interest;
        }
    }
}

/// A step of a lookup: `entry` is looked up in `directory`.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    directory: PathBuf,
    entry: OsString,
}

/// All steps of the lookup of the absolute `path`, through its symlinks, as far as it leads.
fn way_of(path: &Path) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut links = 0;
    let mut here = PathBuf::from("/");
    let mut ahead: Vec<OsString> = entries_reversed(path);
    while let Some(entry) = ahead.pop() {
        if entry == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&entry);
        steps.push(Step { directory: here.clone(), entry });
        let Ok(metadata) = fs::symlink_metadata(&next) else { break };
        if !metadata.is_symlink() {
            here = next;
            continue;
        }
        let Ok(target) = fs::read_link(&next) else { break };
        links += 1;
        if links > LINKS_MAX {
            break;
        }
        if target.is_absolute() {
            here = PathBuf::from("/");
        }
        ahead.extend(entries_reversed(&target));
    }
    steps
}

/// The names in `path` and its `..`, last first.
fn entries_reversed(path: &Path) -> Vec<OsString> {
    let entry = |component: Component<'_>| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    path.components().rev().filter_map(entry).collect()
}

/// The target of a path, small enough to keep.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    Unreadable(io::ErrorKind),
    Bytes(u64),
}

impl Content {
    fn of(path: &Path) -> Content {
        match read_bounded(path) {
            Ok(bytes) => {
                let mut hasher = DefaultHasher::new();
                hasher.write(&bytes);
                Content::Bytes(hasher.finish())
            }
            Err(error) => Content::Unreadable(error.kind()),
        }
    }
}

/// Reads a regular file of at most [`FILE_BYTES_MAX`].
pub(crate) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    podpin_config::read_file(path, FILE_BYTES_MAX)
}

/// Nothing that holds these locks can leave a half-done state behind, so a panic elsewhere is no reason to stop.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// So long that whatever a test sees has come from inotify.
    const NEVER: Duration = Duration::from_secs(3_600);

    /// A watch that does not poll.
    pub(crate) fn without_poll(paths: impl IntoIterator<Item = PathBuf>) -> FileWatch {
        let signal = Arc::new(Signal::default());
        let watcher = Signal::watcher(&signal).unwrap();
        FileWatch::start(paths, signal, Some(watcher), NEVER)
    }

    /// Waits for the next change.
    pub(crate) async fn change(watch: &mut FileWatch) {
        timeout(Duration::from_secs(10), watch.changed()).await.expect("no change was noticed");
    }

    /// Nothing may be noticed: looks at once, as a poll would, instead of waiting for something not to happen.
    async fn assert_unchanged(watch: &mut FileWatch) {
        let survey = Arc::clone(&watch.survey);
        let seen = tokio::task::spawn_blocking(move || hold(&survey).look()).await.unwrap();
        assert_eq!(seen, watch.seen);
    }

    fn directory() -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        (directory, path)
    }

    #[tokio::test]
    async fn every_way_of_changing_a_file_is_noticed() {
        let (directory, path) = directory();
        let mut watch = without_poll([path.clone()]);
        fs::write(&path, "created").unwrap();
        change(&mut watch).await;
        fs::write(&path, "written in place").unwrap();
        change(&mut watch).await;
        let other = directory.path().join("other");
        fs::write(&other, "renamed over").unwrap();
        fs::rename(&other, &path).unwrap();
        change(&mut watch).await;
        fs::write(&path, "and written again").unwrap();
        change(&mut watch).await;
        fs::remove_file(&path).unwrap();
        change(&mut watch).await;
        fs::write(&path, "back").unwrap();
        change(&mut watch).await;
        assert_unchanged(&mut watch).await;
    }

    #[tokio::test]
    async fn any_of_several_files_counts_and_their_neighbours_do_not() {
        let (directory, first) = directory();
        let second = directory.path().join("second");
        let mut watch = without_poll([first, second.clone()]);
        fs::write(directory.path().join("neighbour"), "x").unwrap();
        assert_unchanged(&mut watch).await;
        fs::write(&second, "x").unwrap();
        change(&mut watch).await;
    }

    #[tokio::test]
    async fn the_symlink_swap_of_a_mounted_config_map_is_noticed_every_time() {
        let (directory, path) = directory();
        let at = |name: &str| directory.path().join(name);
        let publish = |version: &str| {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("file"), version).unwrap();
            symlink(version, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        };
        publish("..2026_1");
        symlink("..data/file", &path).unwrap();
        let mut watch = without_poll([path.clone()]);
        for version in 2..5 {
            publish(&format!("..2026_{version}"));
            change(&mut watch).await;
            fs::remove_dir_all(at(&format!("..2026_{}", version - 1))).unwrap();
            assert_unchanged(&mut watch).await;
        }
        fs::write(at("..2026_4").join("file"), "written in the swapped directory").unwrap();
        change(&mut watch).await;
    }

    #[tokio::test]
    async fn directories_may_come_later_go_and_come_again() {
        let (directory, _) = directory();
        let deep = directory.path().join("one/two");
        let path = deep.join("file");
        let mut watch = without_poll([path.clone()]);
        for content in ["first", "second"] {
            fs::create_dir_all(&deep).unwrap();
            fs::write(&path, content).unwrap();
            change(&mut watch).await;
            fs::remove_dir_all(directory.path().join("one")).unwrap();
            change(&mut watch).await;
        }
        fs::create_dir_all(&deep).unwrap();
        fs::write(&path, "third").unwrap();
        change(&mut watch).await;
        fs::rename(directory.path().join("one"), directory.path().join("away")).unwrap();
        change(&mut watch).await;
        fs::rename(directory.path().join("away"), directory.path().join("one")).unwrap();
        change(&mut watch).await;
        fs::write(&path, "fourth").unwrap();
        change(&mut watch).await;
    }

    #[tokio::test]
    async fn a_directory_behind_a_symlink_may_be_swapped() {
        let (directory, _) = directory();
        let at = |name: &str| directory.path().join(name);
        for name in ["blue", "green"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("file"), name).unwrap();
        }
        symlink(at("blue"), at("current")).unwrap();
        let mut watch = without_poll([at("current/../current/file")]);
        symlink(at("green"), at("next")).unwrap();
        fs::rename(at("next"), at("current")).unwrap();
        change(&mut watch).await;
        fs::write(at("blue/file"), "nobody looks here any more").unwrap();
        assert_unchanged(&mut watch).await;
        fs::write(at("green/file"), "new").unwrap();
        change(&mut watch).await;
    }

    #[tokio::test]
    async fn without_inotify_the_poll_notices() {
        let (_directory, path) = directory();
        let mut watch = FileWatch::start([path.clone()], Arc::default(), None, Duration::from_millis(10));
        fs::write(&path, "1").unwrap();
        change(&mut watch).await;
        fs::write(&path, "2").unwrap();
        change(&mut watch).await;
    }

    #[tokio::test]
    async fn a_change_is_not_lost_with_a_wait_that_was_dropped() {
        let (_directory, path) = directory();
        let mut watch = without_poll([path.clone()]);
        fs::write(&path, "1").unwrap();
        // Dropped at whatever await it has reached: while it waits, while it debounces, while it looks.
        for _ in 0..500 {
            tokio::select! {
                biased;
                () = watch.changed() => return,
                () = tokio::task::yield_now() => {}
            }
        }
        change(&mut watch).await;
    }

    #[tokio::test]
    async fn an_event_that_was_heard_before_a_drop_is_looked_into_afterwards() {
        let (_directory, path) = directory();
        let mut watch = without_poll([path.clone()]);
        fs::write(&path, "1").unwrap();
        // The watcher's thread has raised the signal, and the wait that used it up is dropped while it debounces.
        watch.signal.raised.notified().await;
        watch.signal.raised.notify_one();
        tokio::select! {
            biased;
            () = watch.changed() => panic!("there was no time to debounce"),
            () = tokio::task::yield_now() => {}
        }
        assert!(watch.suspicious);
        change(&mut watch).await;
    }

    #[test]
    fn a_loop_of_symlinks_ends() {
        let (directory, path) = directory();
        symlink(&path, directory.path().join("other")).unwrap();
        symlink(directory.path().join("other"), &path).unwrap();
        assert!(way_of(&path).len() <= (LINKS_MAX + 1) * path.components().count());
        assert!(matches!(Content::of(&path), Content::Unreadable(_)));
    }

    #[test]
    fn the_way_of_a_path_names_every_lookup() {
        let (directory, path) = directory();
        let root = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir(root.join("..v1")).unwrap();
        symlink("..v1", root.join("..data")).unwrap();
        symlink("..data/file", &path).unwrap();
        let steps = way_of(&root.join("file"));
        let last: Vec<(&Path, &str)> = steps
            .iter()
            .rev()
            .take(4)
            .rev()
            .map(|step| (step.directory.as_path(), step.entry.to_str().unwrap()))
            .collect();
        let inside = root.join("..v1");
        assert_eq!(last, [(&*root, "file"), (&*root, "..data"), (&*root, "..v1"), (&*inside, "file")]);
        assert_eq!(steps.first().map(|step| step.directory.as_path()), Some(Path::new("/")));
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let (directory, path) = directory();
        assert_eq!(read_bounded(directory.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(read_bounded(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::File::create(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert_eq!(read_bounded(&path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
