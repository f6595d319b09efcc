//! TLS towards clients: which files, and which versions. The files themselves are read by the proxy.

use std::path::PathBuf;

use crate::{
    node::{Node, Position},
    section::Section,
};

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// The oldest version that clients may speak. Default 1.2.
    pub min_version: TlsVersion,
    /// At least one; the first is for clients that name none of the others.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients show certificates of their own. Default: nobody asks.
    pub client_auth: Option<ClientAuth>,
    /// Where the configuration has it.
    pub at: Position,
}

/// Certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// The authorities that sign them, in PEM.
    pub ca_file: FileAt,
    /// A client without one is refused. Default: yes.
    pub required: bool,
}

/// Versions of TLS, oldest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// A certificate and its private key, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, then those between it and the authority.
    pub cert_file: FileAt,
    /// Its private key: PKCS #8, PKCS #1 or SEC 1.
    pub key_file: FileAt,
}

/// A file, and where the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAt {
    /// Absolute, or joined to the configuration file's directory.
    pub file: PathBuf,
    /// Line and column.
    pub at: Position,
}

impl ListenerTls {
    pub(crate) fn read(node: &Node<'_>) -> Option<Self> {
        let section = node.section_or_off("a mapping")??;
        let choices = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
        let min_version = section.choice("minVersion", &choices, TlsVersion::default());
        let what = "a list of {certFile, keyFile}";
        let list = section.require("certificates", what)?;
        let items = list.items(what).unwrap_or_default();
        if items.is_empty() && list.is_sequence() {
            list.fail("at least one certificate is needed");
        }
        let certificates = items.iter().filter_map(read_certificate).collect();
        let client_auth = section.get("clientAuth").and_then(read_client_auth);
        Some(Self { min_version, certificates, client_auth, at: node.position() })
    }
}

fn read_client_auth(node: &Node<'_>) -> Option<ClientAuth> {
    let section = node.section_or_off("a mapping")??;
    let required = section.choice("mode", &[("required", true), ("optional", false)], true);
    Some(ClientAuth { ca_file: read_file(&section, "caFile")?, required })
}

fn read_certificate(item: &Node<'_>) -> Option<CertificateFiles> {
    let section = Section::of(item)?;
    let cert_file = read_file(&section, "certFile");
    let key_file = read_file(&section, "keyFile");
    Some(CertificateFiles { cert_file: cert_file?, key_file: key_file? })
}

fn read_file(section: &Section<'_>, key: &str) -> Option<FileAt> {
    let node = section.require(key, "the path of a file")?;
    Some(FileAt { file: node.file_path()?, at: node.position() })
}
