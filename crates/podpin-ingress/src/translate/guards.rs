//! Settings that protect: what is off is no loss; certificates of clients may be taken over.

use super::{ClientCertificates, Surroundings, Translation, strict_reference};
use crate::class::Class;
use crate::settings::Settings;
use crate::words;

/// Settings that are a flag, and protect only if it is on.
const SWITCHES: [&str; 4] = [
    "enable-global-auth",
    "enable-modsecurity",
    "enable-owasp-core-rules",
    "auth-tls-pass-certificate-to-upstream",
];

/// Settings that are a number, and protect only if it is not 0.
const RATES: [&str; 4] = ["limit-rps", "limit-rpm", "limit-rate", "limit-rate-after"];

pub(super) fn translate(
    settings: &mut Settings<'_>,
    namespace: &str,
    around: &Surroundings<'_>,
    to: &mut Translation,
) {
    for name in SWITCHES {
        match settings.text(name).map(words::flag) {
            Some(Some(false)) => settings.judge(name, Class::NotNeeded, "off"),
            Some(_) => settings.judge_by_row(name, Class::Protecting),
            None => {}
        }
    }
    for name in RATES {
        if settings.text(name) == Some("0") {
            settings.judge(name, Class::NotNeeded, "0: without a limit");
        }
    }
    if settings.text("lua-resty-waf") == Some("inactive") {
        settings.judge("lua-resty-waf", Class::NotNeeded, "off");
    }
    client_certificates(settings, namespace, around, to);
}

/// Returns the certificates that an Ingress asks for; `None` if none, `Err` if podpin cannot ask for them.
pub(crate) fn asked(settings: &Settings<'_>, namespace: &str) -> Result<Option<ClientCertificates>, ()> {
    let Some(secret) = settings.text("auth-tls-secret") else { return Ok(None) };
    let is_required = match settings.text("auth-tls-verify-client") {
        None | Some("on") => true,
        Some("optional") => false,
        Some("off") => return Ok(None),
        Some(_) => return Err(()),
    };
    let secret = strict_reference(secret, namespace).ok_or(())?;
    Ok(Some(ClientCertificates { secret, is_required }))
}

fn client_certificates(
    settings: &mut Settings<'_>,
    namespace: &str,
    around: &Surroundings<'_>,
    to: &mut Translation,
) {
    const SECRET: &str = "auth-tls-secret";
    const MODE: &str = "auth-tls-verify-client";
    match asked(settings, namespace) {
        Ok(None) => {
            for name in settings.names().filter(|name| name.starts_with("auth-tls-")).collect::<Vec<_>>() {
                settings.judge(name, Class::NotNeeded, "nginx asks for no certificate");
            }
        }
        Ok(own @ Some(_)) if own == around.client_certificates => {
            settings.approximate(SECRET);
            settings.judge(MODE, Class::Approximate, "`clientAuth.mode`");
            to.needs_client_certificates = true;
        }
        Ok(Some(_)) => {
            let note = "hosts of one listener ask for different certificates, or some for none: leave the host on an ingress";
            settings.judge(SECRET, Class::Protecting, note);
            settings.judge(MODE, Class::Protecting, note);
        }
        Err(()) => {
            settings.judge(SECRET, Class::Protecting, "podpin verifies every certificate that it is shown");
            settings.judge(MODE, Class::Protecting, "`on` and `optional` only");
        }
    }
}
