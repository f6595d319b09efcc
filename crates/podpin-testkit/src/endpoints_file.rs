//! The file of a service with `discovery.file`, replaced as operators and kubelets replace it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// An endpoints file in a directory of its own.
#[derive(Debug)]
pub struct EndpointsFile {
    directory: TempDir,
    version: std::cell::Cell<u32>,
}

impl Default for EndpointsFile {
    fn default() -> EndpointsFile {
        EndpointsFile::absent()
    }
}

impl EndpointsFile {
    /// A path where no file is yet.
    pub fn absent() -> EndpointsFile {
        let directory = tempfile::tempdir().expect("a temporary directory");
        EndpointsFile { directory, version: std::cell::Cell::new(0) }
    }

    /// A file that lists these endpoints: name, address, state.
    pub fn with(endpoints: &[(&str, SocketAddr, &str)]) -> EndpointsFile {
        let file = EndpointsFile::absent();
        file.write(endpoints);
        file
    }

    /// Returns the path.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("endpoints.yaml")
    }

    /// Replaces the list in one step.
    pub fn write(&self, endpoints: &[(&str, SocketAddr, &str)]) {
        self.write_text(&list(endpoints));
    }

    /// Replaces the text in one step (a new file, renamed over the old one).
    pub fn write_text(&self, text: &str) {
        let next = self.directory.path().join("endpoints.yaml.next");
        fs::write(&next, text).expect("write the next file");
        fs::rename(&next, self.path()).expect("rename it over the old one");
    }

    /// Replaces the list as a kubelet replaces a mounted ConfigMap: a new directory, and the link `..data` swapped.
    pub fn swap(&self, endpoints: &[(&str, SocketAddr, &str)]) {
        self.version.set(self.version.get() + 1);
        let root = self.directory.path();
        let version = format!("..version_{}", self.version.get());
        fs::create_dir(root.join(&version)).expect("a directory for the version");
        fs::write(root.join(&version).join("endpoints.yaml"), list(endpoints)).expect("write the version");
        link(Path::new(&version), &root.join("..data"));
        if !self.path().is_symlink() {
            link(Path::new("..data/endpoints.yaml"), &self.path());
        }
    }

    /// Removes it.
    pub fn remove(&self) {
        fs::remove_file(self.path()).expect("remove the file");
    }
}

fn link(target: &Path, at: &Path) {
    let next = at.with_file_name("..next");
    std::os::unix::fs::symlink(target, &next).expect("a link");
    fs::rename(&next, at).expect("the link swapped");
}

fn list(endpoints: &[(&str, SocketAddr, &str)]) -> String {
    if endpoints.is_empty() {
        return "[]\n".to_owned();
    }
    let line = |(name, address, state): &(&str, SocketAddr, &str)| {
        format!("- {{name: {name}, address: \"{address}\", state: {state}}}\n")
    };
    endpoints.iter().map(line).collect()
}
