//! `podpin import-ingress`: reads manifests, has them translated, and writes the files and the report.
//!
//! A file that an import has not written is never replaced, so that a configuration which was taken over is safe.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use podpin_discovery::{Inventory, KubeSettings};
use podpin_ingress::{
    Import, MARK, ObjectName, Objects, Options, Outcome, Protection, import, is_loss, missing_config_maps,
};

use crate::exit_code::{IMPORT_APPROXIMATE, IMPORT_LOSES_PROTECTION};

/// The end of the command's help.
pub(crate) const EXIT_CODES: &str = "Exit codes: 0 everything is taken over as it is; 3 with approximations or settings that are not supported; 4 a protection \
would be lost, and its routes answer 503 (see --allow-loss); 1 the input cannot be read or the files cannot be written. \
docs/migration.md has the tables.";

/// Manifests are read whole; a cluster's Ingresses are a few megabytes.
const INPUT_BYTES_MAX: u64 = 256 << 20;

/// Folders within folders; deeper ones are links that lead in a circle.
const DEPTH_MAX: usize = 16;

/// Files that an earlier import may have left, and this one does not need.
const OPTIONAL_FILES: [&str; 2] = ["certificates.yaml", "rights.yaml"];

/// Arguments of `podpin import-ingress`.
#[derive(clap::Args)]
pub(crate) struct ImportArguments {
    /// Manifests: a file, a directory with *.yaml, *.yml and *.json, or - for standard input
    #[arg(short, long, value_name = "FILE|DIR|-")]
    file: Vec<PathBuf>,
    /// Read Ingresses, IngressClasses, Services and the ConfigMaps that they name from the cluster; no Secrets
    #[arg(long)]
    from_cluster: bool,
    /// The kubeconfig for --from-cluster [default: KUBECONFIG, then ~/.kube/config]
    #[arg(long, value_name = "FILE", requires = "from_cluster")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "CONTEXT", requires = "from_cluster")]
    context: Option<String>,
    /// Only Ingresses of this namespace
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The IngressClass whose Ingresses are imported
    #[arg(long, value_name = "CLASS", default_value = "nginx")]
    ingress_class: String,
    /// The controller's --annotations-prefix
    #[arg(long, value_name = "PREFIX", default_value = "nginx.ingress.kubernetes.io")]
    annotations_prefix: String,
    /// The controller's ConfigMap, among the manifests [default: the one that is called ingress-nginx-controller]
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = object_name)]
    configmap: Option<ObjectName>,
    /// Only this host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// The directory for podpin.yaml, REPORT.md, verify.sh and the overlay; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The path of podpin's deploy/base, as the overlay names it
    #[arg(long, value_name = "PATH", default_value = "../base")]
    base: String,
    /// The form of the report on standard output
    #[arg(long, value_enum, default_value_t = ReportForm::Text)]
    report: ReportForm,
    /// Serve although this protection is lost: auth, addresses, rate-limits, firewall, client-certificates, snippets, or the name
    /// of one annotation
    #[arg(long, value_name = "NAME", value_parser = loss)]
    allow_loss: Vec<String>,
}

/// The form of a report.
#[derive(Clone, Copy, clap::ValueEnum)]
enum ReportForm {
    /// Lines for a terminal, without what is exact
    Text,
    /// Everything, for programs
    Json,
    /// Everything, as REPORT.md has it
    Md,
}

fn object_name(text: &str) -> Result<ObjectName, String> {
    let (namespace, name) = text.split_once('/').ok_or("expected NAMESPACE/NAME")?;
    Ok(ObjectName { namespace: namespace.to_owned(), name: name.to_owned() })
}

fn loss(text: &str) -> Result<String, String> {
    if is_loss(text) {
        return Ok(text.to_owned());
    }
    let names: Vec<&str> = Protection::ALL.into_iter().map(Protection::name).collect();
    Err(format!(
        "nothing that protects is called so; expected {}, or the name of an annotation",
        names.join(", ")
    ))
}

/// Imports, writes the files and prints the report.
pub(crate) fn import_ingress(arguments: &ImportArguments) -> anyhow::Result<ExitCode> {
    if arguments.file.is_empty() && !arguments.from_cluster {
        bail!(
            "no manifests: name files or directories with -f, `-f -` for standard input, or say --from-cluster"
        );
    }
    let mut objects = Objects::default();
    for path in &arguments.file {
        read(path, &mut objects)?;
    }
    let options = Options {
        ingress_class: arguments.ingress_class.clone(),
        annotations_prefix: arguments.annotations_prefix.trim_end_matches('/').to_owned(),
        namespace: arguments.namespace.clone(),
        host: arguments.host.as_ref().map(|host| host.to_ascii_lowercase()),
        config_map: arguments.configmap.clone(),
        allowed_losses: arguments.allow_loss.iter().cloned().collect(),
        base: arguments.base.clone(),
        ..Options::default()
    };
    if arguments.from_cluster {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(read_cluster(arguments, &options, &mut objects)).context("the cluster")?;
    }
    let import = import(objects, &options)?;
    write(&import, &arguments.out)?;
    match arguments.report {
        ReportForm::Text => print!("{}", import.report.text()),
        ReportForm::Json => print!("{}", import.report.json()),
        ReportForm::Md => print!("{}", import.report.markdown()),
    }
    Ok(match import.report.outcome() {
        Outcome::Exact => ExitCode::SUCCESS,
        Outcome::Approximate => ExitCode::from(IMPORT_APPROXIMATE),
        Outcome::Lost => ExitCode::from(IMPORT_LOSES_PROTECTION),
    })
}

async fn read_cluster(
    arguments: &ImportArguments,
    options: &Options,
    objects: &mut Objects,
) -> anyhow::Result<()> {
    let settings = KubeSettings {
        kubeconfig: arguments.kubeconfig.clone(),
        context: arguments.context.clone(),
        ..KubeSettings::default()
    };
    let cluster = Inventory::open(settings).await?;
    for object in cluster.ingresses(arguments.namespace.as_deref()).await? {
        objects.add_value("the cluster", &object);
    }
    // The controller's own names others.
    for _ in 0..2 {
        for name in missing_config_maps(objects, options) {
            if let Some(object) = cluster.config_map(&name.namespace, &name.name).await? {
                objects.add_value("the cluster", &object);
            }
        }
    }
    Ok(())
}

fn read(path: &Path, objects: &mut Objects) -> anyhow::Result<()> {
    if path == Path::new("-") {
        return add(&mut io::stdin().lock(), "standard input", objects).context("standard input");
    }
    let shown = || path.display().to_string();
    if path.is_dir() {
        let mut files = BTreeSet::new();
        collect(path, 0, &mut files).with_context(shown)?;
        for file in &files {
            read_file(file, objects)?;
        }
        return Ok(());
    }
    read_file(path, objects)
}

fn read_file(path: &Path, objects: &mut Objects) -> anyhow::Result<()> {
    let shown = path.display().to_string();
    let mut file = fs::File::open(path).with_context(|| shown.clone())?;
    add(&mut file, &shown, objects).with_context(|| shown.clone())
}

fn add(from: &mut dyn Read, place: &str, objects: &mut Objects) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let read = from.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if read as u64 > INPUT_BYTES_MAX {
        bail!("longer than 256 MiB");
    }
    match String::from_utf8(bytes) {
        Ok(text) => objects.add_text(place, &text),
        Err(_) => objects.add_fault(place, "not UTF-8"),
    }
    Ok(())
}

/// Collects manifests below `directory`; hidden files are left out.
fn collect(directory: &Path, depth: usize, into: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let is_manifest = path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if is_hidden {
            continue;
        }
        if path.is_dir() && depth < DEPTH_MAX {
            collect(&path, depth + 1, into)?;
        } else if is_manifest && path.is_file() {
            into.insert(path);
        }
    }
    Ok(())
}

/// Writes the files; all of them, or none if one is there that no import has written.
fn write(import: &Import, directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    for file in &import.files {
        let path = directory.join(file.name);
        if path.exists() && !is_ours(&path)? {
            bail!("{} exists and is not of an import: choose another directory for --out", path.display());
        }
    }
    for name in OPTIONAL_FILES {
        let path = directory.join(name);
        let is_needed = import.files.iter().any(|file| file.name == name);
        if !is_needed && path.exists() && is_ours(&path)? {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    for file in &import.files {
        let path = directory.join(file.name);
        let written = fs::write(&path, &file.text);
        let mode = if file.is_executable { 0o755 } else { 0o644 };
        written
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Returns whether an import has written the file: its first two lines say so.
fn is_ours(path: &Path) -> anyhow::Result<bool> {
    let mut head = Vec::new();
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    file.take(256).read_to_end(&mut head).with_context(|| path.display().to_string())?;
    let head = String::from_utf8_lossy(&head);
    Ok(head.lines().take(2).any(|line| line.contains(MARK)))
}
