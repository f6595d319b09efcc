//! A kubeconfig with its certificate authority and its token file, in a directory of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use tempfile::TempDir;

use super::slice::NAMESPACE;

/// The files by which a client finds an API server. Dropping it removes them.
#[derive(Debug)]
pub struct Kubeconfig {
    directory: TempDir,
}

impl Kubeconfig {
    pub(super) fn write(server: SocketAddr, authority: Option<&str>, token: Option<&str>) -> Kubeconfig {
        let kubeconfig = Kubeconfig { directory: tempfile::tempdir().expect("a temporary directory") };
        let scheme = if authority.is_some() { "https" } else { "http" };
        let mut cluster = format!("server: {scheme}://{server}");
        if let Some(authority) = authority {
            let path = kubeconfig.directory.path().join("ca.crt");
            fs::write(&path, authority).expect("the certificate authority");
            cluster.push_str(&format!(", certificate-authority: {}", path.display()));
        }
        let mut user = String::new();
        if let Some(token) = token {
            kubeconfig.write_token(token);
            user = format!("tokenFile: {}", kubeconfig.token_path().display());
        }
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{{cluster}}}}}]\n\
             users: [{{name: test, user: {{{user}}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test, namespace: {NAMESPACE}}}}}]\n"
        );
        fs::write(kubeconfig.path(), text).expect("the kubeconfig");
        kubeconfig
    }

    /// Returns the path.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("config")
    }

    /// Replaces the token in one step, as a kubelet rotates a projected one.
    pub fn write_token(&self, token: impl AsRef<[u8]>) {
        let next = self.directory.path().join("token.next");
        fs::write(&next, token).expect("the next token");
        fs::rename(&next, self.token_path()).expect("renamed over the old one");
    }

    /// The line `kubernetes: ...` of a proxy's configuration that names it.
    pub fn setting(&self) -> String {
        format!("kubernetes: {{kubeconfig: \"{}\"}}", self.path().display())
    }

    /// Returns the path of the token file.
    pub fn token_path(&self) -> PathBuf {
        self.directory.path().join("token")
    }
}
