//! TLS towards clients and towards pods: which files, and which versions. The files themselves are read by the proxy.

use std::{net::IpAddr, path::PathBuf};

use crate::{
    name,
    node::{Node, Position},
    section::Section,
};

/// TLS of a listener.
#[derive(Clone, Debug, Eq)]
pub struct ListenerTls {
    /// The oldest version that clients may speak. Default 1.2.
    pub min_version: TlsVersion,
    /// At least one; the first is for clients that name none of the others.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients show certificates of their own. Default: no certificate is requested.
    pub client_auth: Option<ClientAuth>,
    /// Key material of session tickets: the first encrypts, all decrypt. Empty: the process makes a key of its own.
    pub ticket_keys: Vec<FileAt>,
    /// The answer to a request in plain text. Default: 400.
    pub plain_http: PlainHttp,
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
    /// Whether clients are told the names of the authorities. Default: yes.
    pub advertise: bool,
    /// The parts that pods are told. Default: all but the certificates themselves, whose size pods may not expect in a head.
    pub forward: Vec<CertificatePart>,
}

/// A part of a client's certificate that pods are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificatePart {
    /// The subject's name.
    Subject,
    /// The issuer's name.
    Issuer,
    /// The subject alternative names.
    SubjectAltNames,
    /// The SHA-256 hash of the certificate.
    Fingerprint,
    /// The certificate.
    Certificate,
    /// The certificates that the client has shown behind its own.
    Chain,
}

impl CertificatePart {
    const ALL: [(&str, CertificatePart); 6] = [
        ("subject", CertificatePart::Subject),
        ("issuer", CertificatePart::Issuer),
        ("subjectAltNames", CertificatePart::SubjectAltNames),
        ("fingerprint", CertificatePart::Fingerprint),
        ("certificate", CertificatePart::Certificate),
        ("chain", CertificatePart::Chain),
    ];

    /// The parts that pods are told by default.
    fn short() -> Vec<CertificatePart> {
        vec![Self::Subject, Self::Issuer, Self::SubjectAltNames, Self::Fingerprint]
    }

    fn read(section: &Section<'_>) -> Vec<CertificatePart> {
        let Some(list) = section.get("forward").filter(|node| !node.is_off()) else {
            return if section.get("forward").is_some() { Vec::new() } else { Self::short() };
        };
        let mut parts = Vec::new();
        for item in list.items("a list of parts of a certificate").unwrap_or_default() {
            match item.choice(&Self::ALL) {
                Some(part) if parts.contains(&part) => item.fail("this part is in the list already"),
                part => parts.extend(part),
            }
        }
        parts
    }
}

/// The answer to HTTP in plain text on a port of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainHttp {
    /// 400 that says so.
    #[default]
    Refuse,
    /// A redirect to the same place by https.
    Redirect,
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
    /// The certificate's private key: PKCS #8, PKCS #1 or SEC 1.
    pub key_file: FileAt,
}

/// TLS to the pods of a service.
#[derive(Clone, Debug, Eq)]
pub struct PodTls {
    /// The name that the pods' certificates are for, a DNS name or an IP address; there with `verify`. `None` if the pod's
    /// address, which is not looked for in its certificate.
    pub server_name: Option<String>,
    /// The authorities that sign the pods' certificates, in PEM. `None` if those that the system trusts.
    pub ca_file: Option<FileAt>,
    /// The certificate that pods are shown. Default: none.
    pub certificate: Option<CertificateFiles>,
    /// Whether the pods' certificates are checked. Default: yes.
    pub verify: bool,
    /// Where the configuration has it.
    pub at: Position,
}

/// A file, and where the configuration names it.
#[derive(Clone, Debug, Eq)]
pub struct FileAt {
    /// Absolute, or joined to the configuration file's directory.
    pub file: PathBuf,
    /// Line and column.
    pub at: Position,
}

// Where something is written says nothing about what it is: moved down a line, it is the same.

impl PartialEq for ListenerTls {
    fn eq(&self, other: &Self) -> bool {
        let Self { min_version, certificates, client_auth, ticket_keys, plain_http, at: _ } = self;
        (min_version, certificates, client_auth)
            == (&other.min_version, &other.certificates, &other.client_auth)
            && (ticket_keys, plain_http) == (&other.ticket_keys, &other.plain_http)
    }
}

impl PartialEq for PodTls {
    fn eq(&self, other: &Self) -> bool {
        let Self { server_name, ca_file, certificate, verify, at: _ } = self;
        (server_name, ca_file, certificate, verify)
            == (&other.server_name, &other.ca_file, &other.certificate, &other.verify)
    }
}

impl PartialEq for FileAt {
    fn eq(&self, other: &Self) -> bool {
        let Self { file, at: _ } = self;
        *file == other.file
    }
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
        let ticket_keys = section.get("ticketKeys").map(read_ticket_keys).unwrap_or_default();
        let choices = [("refuse", PlainHttp::Refuse), ("redirect", PlainHttp::Redirect)];
        let plain_http = section.choice("plainHttp", &choices, PlainHttp::default());
        Some(Self { min_version, certificates, client_auth, ticket_keys, plain_http, at: node.position() })
    }
}

impl PodTls {
    pub(crate) fn read(node: &Node<'_>) -> Option<Self> {
        let section = node.section_or_off("a mapping")??;
        let verify = section.boolean("verify", true);
        let name = match section.get("serverName") {
            None if verify => section.require("serverName", "the name that the pods' certificates are for"),
            name => name,
        };
        let server_name = name.and_then(read_server_name);
        let ca_file = section.get("caFile").and_then(read_file_at);
        let shown = ["certFile", "keyFile"].iter().any(|key| section.get(key).is_some());
        let certificate = if shown { read_pair(&section) } else { None };
        Some(Self { server_name, ca_file, certificate, verify, at: node.position() })
    }
}

fn read_server_name(node: &Node<'_>) -> Option<String> {
    let text = node.text("a DNS name or an IP address")?;
    if text.parse::<IpAddr>().is_err()
        && let Some(refusal) = name::refuse_dns_name(text)
    {
        node.fail(refusal);
        return None;
    }
    Some(text.to_owned())
}

fn read_client_auth(node: &Node<'_>) -> Option<ClientAuth> {
    let section = node.section_or_off("a mapping")??;
    let required = section.choice("mode", &[("required", true), ("optional", false)], true);
    let advertise = section.choice("advertise", &[("on", true), ("off", false)], true);
    let forward = CertificatePart::read(&section);
    Some(ClientAuth { ca_file: read_file(&section, "caFile")?, required, advertise, forward })
}

fn read_ticket_keys(node: &Node<'_>) -> Vec<FileAt> {
    let items = node.items("a list of {file}").unwrap_or_default();
    if items.is_empty() && node.is_sequence() {
        node.fail("at least one key is needed; `podpin keygen` prints one");
    }
    let read = |item| Section::of(item).and_then(|section| read_file(&section, "file"));
    items.iter().filter_map(read).collect()
}

fn read_certificate(item: &Node<'_>) -> Option<CertificateFiles> {
    read_pair(&Section::of(item)?)
}

fn read_pair(section: &Section<'_>) -> Option<CertificateFiles> {
    let cert_file = read_file(section, "certFile");
    let key_file = read_file(section, "keyFile");
    Some(CertificateFiles { cert_file: cert_file?, key_file: key_file? })
}

/// Reads the path of a file that has to be given.
pub(crate) fn read_file(section: &Section<'_>, key: &str) -> Option<FileAt> {
    section.require(key, "the path of a file").and_then(read_file_at)
}

fn read_file_at(node: &Node<'_>) -> Option<FileAt> {
    Some(FileAt { file: node.file_path()?, at: node.position() })
}
