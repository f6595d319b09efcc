//! What routes change: header fields, host, path, redirects.

use podpin_config::rule;

use super::{Surroundings, Translation, editable, reference};
use crate::class::Class;
use crate::settings::Settings;
use crate::tree::Tree;
use crate::words;

pub(super) fn translate(
    settings: &mut Settings<'_>,
    namespace: &str,
    around: &Surroundings<'_>,
    to: &mut Translation,
) {
    redirects(settings, to);
    if let Some(host) = settings.text("upstream-vhost") {
        let host = host.to_ascii_lowercase();
        match rule::refuse_dns_name(&host) {
            None => {
                to.route.set_from(&["rewrite", "hostname"], Tree::text(host), "upstream-vhost");
                settings.exact("upstream-vhost");
            }
            Some(_) => settings.judge_by_row("upstream-vhost", Class::NotSupported),
        }
    }
    if let Some(prefix) = settings.text("x-forwarded-prefix") {
        if rule::is_field_value(prefix) && !prefix.contains('$') {
            let path = ["headers", "request", "set", "X-Forwarded-Prefix"];
            to.route.set_from(&path, Tree::text(prefix), "x-forwarded-prefix");
            settings.exact("x-forwarded-prefix");
        } else {
            settings.judge("x-forwarded-prefix", Class::NotSupported, "without variables");
        }
    }
    custom_headers(settings, namespace, around, to);
    aliases(settings, to);
    paths(settings, to);
}

fn redirects(settings: &mut Settings<'_>, to: &mut Translation) {
    to.ssl_redirect = settings.flag("ssl-redirect");
    if to.ssl_redirect.is_some() {
        settings.exact("ssl-redirect");
    }
    match settings.flag("force-ssl-redirect") {
        Some(true) => {
            to.is_redirect_forced = true;
            settings.exact("force-ssl-redirect");
        }
        Some(false) => settings.exact("force-ssl-redirect"),
        None => {}
    }
    for name in ["permanent-redirect", "temporal-redirect"] {
        if settings.text(name).is_some() {
            settings.judge_by_row(name, Class::NotSupported);
            to.withheld.push(name.to_owned());
        }
    }
    if settings.flag("ssl-passthrough") == Some(true) {
        settings.judge_by_row("ssl-passthrough", Class::NotSupported);
        to.withheld.push("ssl-passthrough".to_owned());
    }
}

fn custom_headers(
    settings: &mut Settings<'_>,
    namespace: &str,
    around: &Surroundings<'_>,
    to: &mut Translation,
) {
    const NAME: &str = "custom-headers";
    let Some(text) = settings.text(NAME) else { return };
    let name = reference(text, namespace);
    let Some(fields) = around.objects.config_maps.get(&name) else {
        settings.judge(NAME, Class::NotSupported, &format!("the ConfigMap {name} is not in the input"));
        return;
    };
    let (good, bad) = editable(fields);
    for (field, value) in good {
        to.route.set_from(
            &["headers", "response", "set", field],
            Tree::text(value),
            &format!("ConfigMap {name}"),
        );
    }
    if !bad.is_empty() {
        settings.judge(NAME, Class::NotSupported, &format!("left out: {}", bad.join(", ")));
    }
    settings.exact(NAME);
}

fn aliases(settings: &mut Settings<'_>, to: &mut Translation) {
    let Some(text) = settings.text("server-alias") else { return };
    let mut refused = Vec::new();
    for alias in words::list(text) {
        match rule::parse_host(alias) {
            Ok(host) => to.aliases.push(host.to_string()),
            Err(_) => refused.push(alias),
        }
    }
    if refused.is_empty() {
        settings.exact("server-alias");
    } else {
        let note = format!("names only, no expressions; left out: {}", refused.join(", "));
        settings.judge("server-alias", Class::NotSupported, &note);
    }
}

/// Reads how paths are meant; the plan judges both settings, for it knows the paths.
fn paths(settings: &mut Settings<'_>, to: &mut Translation) {
    to.rewrite_target = settings.text("rewrite-target").map(str::to_owned);
    to.is_regex = settings.flag("use-regex") == Some(true);
    if settings.text("use-regex").and_then(words::flag) == Some(false) {
        settings.judge("use-regex", Class::NotNeeded, "off");
    }
}
