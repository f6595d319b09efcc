//! Endpoints from a file of their own, re-read on change.
//!
//! A list that cannot be read takes nothing away: it is told, and the last good one stands. A file that is being
//! written is not garbled yet; it is told only when it has stayed so for a while.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use podpin_endpoints::Observed;
use tokio::time::timeout;

use crate::endpoints_file::{EndpointsFileError, not_utf8, parse_endpoints};
use crate::watch::{FileWatch, read_bounded};

/// How long a file must stay missing or garbled before it is told: longer than an editor or a copy takes between
/// truncating and the last write, shorter than a person looks away.
const PATIENCE: Duration = Duration::from_millis(200);

/// An endpoints file.
#[derive(Clone, Debug)]
pub struct FileSource {
    path: Arc<Path>,
}

/// Why there is no list in a file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such file (yet, or any more).
    #[error("{}: no such file", .0.display())]
    Missing(PathBuf),
    /// The file is there and cannot be read: no permission, not a regular file, too large.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        error: io::Error,
    },
    /// The file is no list of endpoints.
    #[error(transparent)]
    Garbled(#[from] EndpointsFileError),
}

/// State of the file after a look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileEvent {
    /// The full list; for [`podpin_endpoints::Update::Replace`].
    Endpoints(Vec<Observed>),
    /// A file that cannot be read or is no list of endpoints, and why; the last good list stands.
    Garbled(String),
    /// No file; the last good list stands.
    Missing,
}

impl FileSource {
    /// The file at `path`, which need not exist yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> FileSource {
        FileSource { path: path.into().into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the list as it is now. Blocks.
    ///
    /// # Errors
    /// When the file is missing, cannot be read, or is not a list of endpoints.
    pub fn read(&self) -> Result<Vec<Observed>, ReadError> {
        let bytes = read_bounded(&self.path).map_err(|error| self.unreadable(error))?;
        let name = self.path.to_string_lossy();
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(parse_endpoints(text, &name)?),
            Err(error) => Err(not_utf8(&bytes, error, &name).into()),
        }
    }

    fn unreadable(&self, error: io::Error) -> ReadError {
        let path = self.path.to_path_buf();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ReadError::Missing(path),
            _ => ReadError::Io { path, error },
        }
    }

    /// Tells what the file says now and whenever that changes, for ever; drop the future to stop.
    ///
    /// The first event comes at once. Afterwards an event differs from the one before; a list is told within about
    /// 50 ms, a missing or garbled file when it has stayed so for 200 ms.
    ///
    /// # Panics
    /// Outside a tokio runtime with time.
    pub async fn watch(self, on: impl FnMut(FileEvent) + Send) -> ! {
        let watch = FileWatch::new([self.path.to_path_buf()]);
        self.follow(watch, on).await
    }

    async fn follow(self, mut watch: FileWatch, mut on: impl FnMut(FileEvent) + Send) -> ! {
        let mut told = None;
        loop {
            let event = self.event().await;
            let settled = told.is_none()
                || matches!(event, FileEvent::Endpoints(_))
                || timeout(PATIENCE, watch.changed()).await.is_err();
            if !settled {
                continue;
            }
            if told.as_ref() != Some(&event) {
                on(event.clone());
                told = Some(event);
            }
            watch.changed().await;
        }
    }

    async fn event(&self) -> FileEvent {
        let source = self.clone();
        match tokio::task::spawn_blocking(move || source.read()).await {
            Ok(Ok(endpoints)) => FileEvent::Endpoints(endpoints),
            Ok(Err(ReadError::Missing(_))) => FileEvent::Missing,
            Ok(Err(error @ (ReadError::Io { .. } | ReadError::Garbled(_)))) => {
                FileEvent::Garbled(error.to_string())
            }
            // The runtime is being shut down, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use podpin_endpoints::EndpointId;
    use tempfile::TempDir;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::watch::tests::{change, without_poll};

    /// A file that is being watched, and what is told of it.
    struct Watched {
        directory: TempDir,
        path: PathBuf,
        events: UnboundedReceiver<FileEvent>,
        task: JoinHandle<()>,
    }

    impl Watched {
        /// Watches `relative` in a fresh directory that holds `content` there, if any.
        fn new(relative: &str, content: Option<&str>) -> Watched {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(relative);
            if let Some(content) = content {
                fs::write(&path, content).unwrap();
            }
            let (sender, events) = unbounded_channel();
            let source = FileSource::new(&path);
            let watch = without_poll([path.clone()]);
            let task =
                tokio::spawn(
                    async move { source.follow(watch, move |event| drop(sender.send(event))).await },
                );
            Watched { directory, path, events, task }
        }

        async fn event(&mut self) -> FileEvent {
            let event = timeout(Duration::from_secs(10), self.events.recv()).await;
            event.expect("nothing was told").expect("the watch has ended")
        }

        /// The names in the next event, which must be a list.
        async fn names(&mut self) -> Vec<String> {
            match self.event().await {
                FileEvent::Endpoints(list) => list.iter().map(|one| one.name.to_string()).collect(),
                other => panic!("a list was expected: {other:?}"),
            }
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    const A: &str = "- {name: a, address: 10.0.0.1:80}";
    const B: &str = "- {name: b, address: 10.0.0.2:80}";

    #[tokio::test]
    async fn the_list_is_told_at_once_and_after_every_change() {
        let mut file = Watched::new("endpoints.yaml", Some(A));
        assert_eq!(file.names().await, ["a"]);
        fs::write(&file.path, B).unwrap();
        assert_eq!(file.names().await, ["b"]);
        let next = file.directory.path().join("next");
        fs::write(&next, format!("{A}\n{B}")).unwrap();
        fs::rename(&next, &file.path).unwrap();
        assert_eq!(file.names().await, ["a", "b"]);
        fs::write(&file.path, "[]").unwrap();
        assert_eq!(file.names().await, [""; 0], "an empty list counts at once");
    }

    #[tokio::test]
    async fn a_missing_file_is_told_and_picked_up_when_it_comes() {
        let mut file = Watched::new("later/endpoints.yaml", None);
        assert_eq!(file.event().await, FileEvent::Missing);
        fs::create_dir(file.path.parent().unwrap()).unwrap();
        fs::write(&file.path, A).unwrap();
        assert_eq!(file.names().await, ["a"]);
        fs::remove_file(&file.path).unwrap();
        assert_eq!(file.event().await, FileEvent::Missing);
        fs::write(&file.path, A).unwrap();
        assert_eq!(file.names().await, ["a"], "told again, so that the alarm can end");
    }

    #[tokio::test]
    async fn a_garbled_file_is_told_with_its_place_and_the_cure_is_too() {
        let mut file = Watched::new("endpoints.yaml", Some("- {name: a"));
        assert!(matches!(file.event().await, FileEvent::Garbled(_)), "garbled from the start");
        fs::write(&file.path, A).unwrap();
        assert_eq!(file.names().await, ["a"]);
        fs::write(&file.path, format!("{A}\n- {{name: b, adress: 10.0.0.2:80}}")).unwrap();
        let FileEvent::Garbled(why) = file.event().await else { panic!("garbled was expected") };
        assert!(why.contains("endpoints.yaml:2:13: [1].adress: unknown key"), "{why}");
        fs::write(&file.path, A).unwrap();
        assert_eq!(file.names().await, ["a"]);
    }

    #[tokio::test]
    async fn a_file_that_is_being_written_is_not_garbled_yet() {
        let mut file = Watched::new("endpoints.yaml", Some(A));
        assert_eq!(file.names().await, ["a"]);
        let mut probe = without_poll([file.path.clone()]);
        fs::write(&file.path, "- {name: b, addr").unwrap();
        // By now the half-written text has been seen by a watch of the same kind.
        change(&mut probe).await;
        fs::write(&file.path, B).unwrap();
        assert_eq!(file.names().await, ["b"]);
    }

    #[tokio::test]
    async fn only_a_new_list_is_told() {
        let mut file = Watched::new("endpoints.yaml", Some(A));
        assert_eq!(file.names().await, ["a"]);
        let mut probe = without_poll([file.path.clone()]);
        for comment in 0..10 {
            fs::write(&file.path, format!("# {comment}\n{A}")).unwrap();
            change(&mut probe).await;
        }
        fs::write(&file.path, B).unwrap();
        assert_eq!(file.names().await, ["b"]);
    }

    #[test]
    fn a_read_says_what_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let source = FileSource::new(directory.path().join("endpoints.yaml"));
        assert!(matches!(source.read(), Err(ReadError::Missing(_))));
        fs::write(source.path(), A).unwrap();
        assert_eq!(source.read().unwrap().len(), 1);
        fs::write(source.path(), b"# \xc3\xa4\n- \xff").unwrap();
        let error = source.read().unwrap_err();
        assert!(matches!(error, ReadError::Garbled(_)));
        assert!(error.to_string().ends_with("endpoints.yaml:2:3: not valid UTF-8"), "{error}");
        let beneath_a_file = FileSource::new(source.path().join("endpoints.yaml"));
        assert!(matches!(beneath_a_file.read(), Err(ReadError::Missing(_))));
        let a_directory = FileSource::new(directory.path());
        assert!(matches!(a_directory.read(), Err(ReadError::Io { .. })));
    }

    #[test]
    fn the_same_endpoint_in_a_file_and_in_the_configuration_has_one_identity() {
        let in_file = parse_endpoints(A, "file").unwrap();
        assert_eq!(in_file[0].id, EndpointId::of_address("a", "10.0.0.1:80".parse().unwrap()));
    }
}
