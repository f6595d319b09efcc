//! The import as a whole: objects in, files and a report out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use podpin_config::{Config, ConfigError};

use crate::certificates::Certificates;
use crate::class::Class;
use crate::controller;
use crate::defaults::Defaults;
use crate::foreign::FOREIGN;
use crate::known::{ANNOTATIONS, CONTROLLER_KEYS, lookup};
use crate::location::{Locations, Member, Role, hosts_of_expressions};
use crate::object::{Ingress, ObjectName, Objects};
use crate::options::Options;
use crate::output::overlay::local_name;
use crate::output::{self, OutputFile};
use crate::plan::{Ground, Plan, plan};
use crate::report::{Finding, Report};
use crate::selection::{Selection, select};
use crate::settings::Settings;
use crate::translate::{
    ClientCertificates, Surroundings, Translation, asked, strict_reference, translate, translate_canary,
};

/// Name of the controller's ConfigMap in its own chart.
const CONFIG_MAP: &str = "ingress-nginx-controller";

/// The namespace of the controller in its own manifests.
const CONTROLLER_NAMESPACE: &str = "ingress-nginx";

/// The directory of the configuration in podpin's Pod.
const CONFIG_DIRECTORY: &str = "/etc/podpin";

/// Settings that hold for every Ingress of their hosts, whichever Ingress has them.
const OF_THE_HOST: [&str; 2] = ["server-snippet", "auth-tls-"];

/// What an import makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Files for one directory: the report, and if any route was found the configuration and what goes with it.
    pub files: Vec<OutputFile>,
    /// What became of each setting.
    pub report: Report,
}

/// An import that made a configuration which podpin refuses. This is a fault of the import, not of its input.
#[derive(Debug, thiserror::Error)]
#[error("the import made a configuration that podpin refuses; please report this:\n{error}")]
pub struct ImportError {
    /// The reasons.
    #[source]
    pub error: ConfigError,
    /// The configuration.
    pub text: String,
}

/// Translates the Ingresses of `objects`.
///
/// The same objects give the same files, in whatever order they were added.
///
/// # Errors
/// The configuration is refused by podpin's own parser, which no input should bring about.
pub fn import(mut objects: Objects, options: &Options) -> Result<Import, ImportError> {
    objects.settle();
    let mut report = Report::default();
    let (defaults, everywhere) = controller(&objects, options, &mut report);
    let mut members = members(&objects, options, &mut report);
    let common = common_client_certificates(&members);
    translate_all(&mut members, &objects, &defaults, common.clone());
    let certificates = Certificates::collect(&mut members, &objects);
    note_redirects(&mut members, &certificates, &defaults);
    let expressions = hosts_of_expressions(&members);
    let mut locations = Locations::default();
    for number in 0..members.len() {
        locations.add(&mut members, number, &expressions, options);
    }
    for (number, member) in members.iter_mut().enumerate() {
        if matches!(member.role, Role::Canary(_)) {
            locations.join_canary(&mut member.settings, number, member.ingress, options);
        }
        judge_rest(&mut member.settings, member.ingress, options);
    }
    let blocked = blocked(&members, &objects, &everywhere, options);
    let blocked_hosts = blocked_hosts(&members, options);
    let ground = Ground {
        objects: &objects,
        defaults: &defaults,
        certificates: &certificates,
        blocked: &blocked,
        blocked_hosts: &blocked_hosts,
    };
    let mut plan = plan(&locations.all, &mut members, &ground);
    let secrets = secrets(&members, &certificates, common.as_ref());
    finish(&mut report, &mut plan, members, options);
    steps(&mut report, &secrets, &certificates, options);
    let mut files = Vec::new();
    if !plan.routes.is_empty() {
        let client_certificates = common.as_ref().filter(|_| !certificates.is_empty());
        files = output::files(&output::Result {
            plan: &plan,
            defaults: &defaults,
            certificates: &certificates,
            client_certificates,
            secrets,
            own_namespace: &options.own_namespace,
            base: &options.base,
        });
        check(&files)?;
    }
    let text = format!("<!-- {}. -->\n{}", output::MARK, report.markdown());
    files.push(OutputFile { name: "REPORT.md", text, is_executable: false });
    Ok(Import { files, report })
}

/// Returns the ConfigMaps that the objects name and do not have: the controller's own, and those with header fields.
#[must_use]
pub fn missing_config_maps(objects: &Objects, options: &Options) -> BTreeSet<ObjectName> {
    let default = || ObjectName { namespace: CONTROLLER_NAMESPACE.to_owned(), name: CONFIG_MAP.to_owned() };
    let own = options.config_map.clone().unwrap_or_else(default);
    let mut named: BTreeSet<ObjectName> = BTreeSet::new();
    if let Some(data) = objects.config_maps.get(&own) {
        let fields = ["add-headers", "proxy-set-headers"].into_iter().filter_map(|key| data.get(key));
        named.extend(fields.filter_map(|text| strict_reference(text.trim(), &own.namespace)));
    }
    let annotation = format!("{}/custom-headers", options.annotations_prefix);
    for ingress in &objects.ingresses {
        let text = ingress.annotations.get(&annotation);
        named.extend(text.and_then(|text| strict_reference(text.trim(), &ingress.name.namespace)));
    }
    named.insert(own);
    named.retain(|name| !objects.config_maps.contains_key(name));
    named
}

/// Has podpin's own parser read the configuration.
fn check(files: &[OutputFile]) -> Result<(), ImportError> {
    for file in files.iter().filter(|file| file.name == "podpin.yaml") {
        let parsed = Config::parse(&file.text, file.name, Path::new(CONFIG_DIRECTORY));
        parsed.map_err(|error| ImportError { error, text: file.text.clone() })?;
    }
    Ok(())
}

/// Translates the controller's ConfigMap; returns the defaults and the protections that are lost with it.
fn controller(objects: &Objects, options: &Options, report: &mut Report) -> (Defaults, Vec<String>) {
    let is_wanted = |name: &&ObjectName| match &options.config_map {
        Some(wanted) => *name == wanted,
        None => name.name == CONFIG_MAP,
    };
    let name = objects.config_maps.keys().find(is_wanted);
    let empty = BTreeMap::new();
    let (name, data) = match name.and_then(|name| objects.config_maps.get_key_value(name)) {
        Some((name, data)) => (name.clone(), data),
        None => (
            options.config_map.clone().unwrap_or(ObjectName {
                namespace: CONTROLLER_NAMESPACE.to_owned(),
                name: CONFIG_MAP.to_owned(),
            }),
            &empty,
        ),
    };
    let values = data.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut settings = Settings::new(format!("ConfigMap {name}"), CONTROLLER_KEYS, values);
    let defaults = controller::translate(&mut settings, &name.namespace, objects);
    settings.judge_rest(&|_| (Class::NotSupported, "unknown: look it up in the controller's documentation"));
    if data.is_empty() {
        let note = "no ConfigMap in the input (--configmap NAMESPACE/NAME): the controller's defaults are taken: HSTS for a year on hosts \
                    with TLS, redirects to https, 5s to connect, no fields with underscores";
        settings.note("the controller's ConfigMap", "", Class::Approximate, note);
    }
    let everywhere = settings
        .lost(&options.allowed_losses)
        .iter()
        .map(|name| format!("the controller's {name}"))
        .collect();
    report.findings.extend(settings.into_findings(&options.allowed_losses));
    (defaults, everywhere)
}

/// Selects Ingresses and reads their annotations; those of the wrong class are skipped.
fn members<'a>(objects: &'a Objects, options: &Options, report: &mut Report) -> Vec<Member<'a>> {
    for (place, fault) in &objects.faults {
        report.skipped.push(format!("{place}: {fault}"));
    }
    for (kind, number) in &objects.unused {
        report.skipped.push(format!("{number} of kind {kind}: not needed"));
    }
    let mut members = Vec::new();
    for ingress in &objects.ingresses {
        match select(ingress, objects, options) {
            Selection::Skipped(reason) => report.skipped.push(reason),
            Selection::Imported(remark) => {
                let mut settings = settings_of(ingress, options);
                if let Some(remark) = remark {
                    settings.note("spec.ingressClassName", "", Class::Approximate, remark);
                }
                note_faults(&mut settings, ingress, options);
                let role = match translate_canary(&mut settings) {
                    Some(canary) => Role::Canary(canary),
                    None => Role::Main(Translation::default()),
                };
                members.push(Member { ingress, settings, role });
            }
        }
    }
    members
}

fn settings_of<'a>(ingress: &'a Ingress, options: &Options) -> Settings<'a> {
    let prefix = &options.annotations_prefix;
    let own = ingress.annotations.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix(prefix.as_str())?.strip_prefix('/')?;
        Some((name, value.as_str()))
    });
    Settings::new(format!("Ingress {}", ingress.name), ANNOTATIONS, own)
}

/// Judges what the table has to say to settings that no translation has judged, and values that are no text.
fn judge_rest(settings: &mut Settings<'_>, ingress: &Ingress, options: &Options) {
    settings.judge_rest(&|_| (Class::NotNeeded, "no annotation of ingress-nginx, which ignores it, too"));
    for name in &ingress.odd_annotations {
        let note = "not a text: the API server would refuse it; read as it prints";
        let own =
            name.strip_prefix(options.annotations_prefix.as_str()).and_then(|name| name.strip_prefix('/'));
        match own {
            Some(name) => settings.judge(name, Class::Approximate, note),
            None => settings.note(name, "", Class::Approximate, note),
        }
    }
}

fn note_faults(settings: &mut Settings<'_>, ingress: &Ingress, options: &Options) {
    let prefix = format!("{}/", options.annotations_prefix);
    for (name, value) in ingress.annotations.iter().filter(|(name, _)| !name.starts_with(&prefix)) {
        if name.starts_with("nginx.ingress.kubernetes.io/") {
            let note = "the controller reads annotations of another prefix (--annotations-prefix)";
            settings.note(name, value, Class::NotNeeded, note);
        } else if let Some(known) = lookup(FOREIGN, name) {
            settings.note(name, value, known.worst(), known.note);
        }
    }
    for fault in &ingress.faults {
        settings.note("spec", fault, Class::NotSupported, "not read");
    }
    if ingress.default_backend.is_some() {
        settings.note("spec.defaultBackend", "", Class::Exact, "");
    }
}

/// Returns the certificates that every Ingress asks its clients for; `None` if they differ, or one asks for none.
fn common_client_certificates(members: &[Member<'_>]) -> Option<ClientCertificates> {
    let mains = members.iter().filter(|member| matches!(member.role, Role::Main(_)));
    let mut all = mains.map(|member| asked(&member.settings, &member.ingress.name.namespace));
    let first = all.next()?.ok()??;
    all.all(|other| other.as_ref() == Ok(&Some(first.clone()))).then_some(first)
}

fn translate_all(
    members: &mut [Member<'_>],
    objects: &Objects,
    defaults: &Defaults,
    client_certificates: Option<ClientCertificates>,
) {
    let has_tls = members.iter().any(|member| member.ingress.tls.iter().any(|entry| entry.secret.is_some()));
    // Without a listener of TLS nobody could show a certificate.
    let around =
        Surroundings { objects, defaults, client_certificates: client_certificates.filter(|_| has_tls) };
    for member in members {
        if let Role::Main(translation) = &mut member.role {
            *translation = translate(&mut member.settings, &member.ingress.name.namespace, &around);
        }
    }
}

fn note_redirects(members: &mut [Member<'_>], certificates: &Certificates, defaults: &Defaults) {
    for member in members {
        let Role::Main(translation) = &member.role else { continue };
        let is_covered = member.ingress.rules.iter().all(|rule| certificates.cover(rule.host.as_deref()));
        if translation.is_redirect_forced && !is_covered && defaults.trusted.is_empty() {
            let note = "podpin has no certificate for the host: name what ends TLS in `trustedProxies`, or clients are redirected for ever";
            member.settings.judge("force-ssl-redirect", Class::Approximate, note);
        }
    }
}

/// Returns for each member the reasons why none of its paths may be served.
fn blocked(
    members: &[Member<'_>],
    objects: &Objects,
    everywhere: &[String],
    options: &Options,
) -> Vec<Vec<String>> {
    let contradictions: BTreeSet<&ObjectName> = objects.contradictions.iter().collect();
    let reasons = |member: &Member<'_>| {
        let mut reasons: Vec<String> = everywhere.to_vec();
        if contradictions.contains(&member.ingress.name) {
            reasons.push("two different Ingresses of this name".to_owned());
        }
        if let Role::Main(translation) = &member.role {
            reasons.extend(member.settings.lost(&options.allowed_losses).into_iter().map(str::to_owned));
            reasons.extend(translation.withheld.iter().cloned());
        }
        reasons
    };
    members.iter().map(reasons).collect()
}

/// Returns the hosts that are protected as a whole, with the reasons.
fn blocked_hosts(members: &[Member<'_>], options: &Options) -> HashMap<Option<String>, Vec<String>> {
    let mut blocked: HashMap<Option<String>, Vec<String>> = HashMap::new();
    for member in members {
        let Role::Main(translation) = &member.role else { continue };
        let lost = member.settings.lost(&options.allowed_losses);
        let of_host = lost.iter().filter(|name| OF_THE_HOST.iter().any(|stem| name.starts_with(stem)));
        let reasons: Vec<String> =
            of_host.map(|name| format!("{name} of Ingress {}", member.ingress.name)).collect();
        if reasons.is_empty() {
            continue;
        }
        let own = member.ingress.rules.iter().map(|rule| rule.host.clone());
        for host in own.chain(translation.aliases.iter().cloned().map(Some)) {
            let there = blocked.entry(host).or_default();
            for reason in &reasons {
                if !there.contains(reason) {
                    there.push(reason.clone());
                }
            }
        }
    }
    blocked
}

fn secrets(
    members: &[Member<'_>],
    certificates: &Certificates,
    client_certificates: Option<&ClientCertificates>,
) -> BTreeSet<ObjectName> {
    let of_pods = members.iter().filter_map(|member| match &member.role {
        Role::Main(translation) => Some(translation.secrets.iter().cloned()),
        Role::Canary(_) => None,
    });
    let mut secrets: BTreeSet<ObjectName> = of_pods.flatten().collect();
    secrets.extend(certificates.secrets.keys().cloned());
    if !certificates.is_empty() {
        secrets.extend(client_certificates.map(|asked| asked.secret.clone()));
    }
    secrets
}

fn finish(report: &mut Report, plan: &mut Plan, members: Vec<Member<'_>>, options: &Options) {
    report.ingresses = members.len();
    report.routes = plan.routes.len();
    report.services = plan.services.len();
    report.withheld = std::mem::take(&mut plan.withheld);
    for member in members {
        let findings: Vec<Finding> = member.settings.into_findings(&options.allowed_losses);
        report.findings.extend(findings);
    }
}

/// Names what a person has to do besides.
fn steps(
    report: &mut Report,
    secrets: &BTreeSet<ObjectName>,
    certificates: &Certificates,
    options: &Options,
) {
    for secret in secrets {
        let issued = certificates.secrets.get(secret).and_then(|(_, issuer)| issuer.as_ref());
        let local = local_name(secret, &options.own_namespace);
        if let Some(issuer) = issued {
            if issuer.kind == "Issuer" {
                report.steps.push(format!(
                    "Issuer {} has to exist in the namespace {} for the Certificate {local}",
                    issuer.name, options.own_namespace
                ));
            }
        } else if local != secret.name {
            report.steps.push(format!(
                "Copy the Secret {secret} to {}/{local}: a Pod mounts Secrets of its own namespace only, and a copy does not follow the original",
                options.own_namespace
            ));
        }
    }
    if report.ingresses > 0 {
        let steps = [
            "nginx limits request bodies to 1m unless told otherwise; podpin has no such limit",
            "podpin writes no status.loadBalancer: external-dns and health checks of Argo CD go by podpin's Service",
            "Compare both sides with verify.sh before DNS moves",
        ];
        report.steps.extend(steps.map(str::to_owned));
    }
}
