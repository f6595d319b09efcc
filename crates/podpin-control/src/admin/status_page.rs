//! The status page of the admin port: one table for each service, plain HTML that reloads itself.

use std::fmt::Write;

use podpin_proxy::clock;

use crate::admin::discovery::SourceView;
use crate::admin::views::EndpointView;
use crate::readiness::Readiness;

/// The head of the page, with its style.
const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"2\">\
<meta name=\"viewport\" content=\"width=device-width\"><title>podpin</title><style>\
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .8rem .35rem 0;border-bottom:1px solid #8884}\
td.n{text-align:right;font-variant-numeric:tabular-nums}.ready{color:#1a7f37}.draining,.ejected{color:#bc4c00}\
.resting{color:#888}.problem{color:#bc4c00}</style>";

/// Renders the page as of now.
pub(super) fn render(readiness: &Readiness) -> String {
    let shared = readiness.shared();
    let state = match (shared.lifecycle.is_draining(), readiness.is_ready()) {
        (true, _) => "leaving",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    let mut page = format!(
        "{HEAD}<h1>podpin: {state}</h1><p>{} streams. <a href=\"/metrics\">metrics</a> \
         <a href=\"/api/status\">status</a> <a href=\"/api/endpoints\">endpoints</a> <a href=\"/api/streams\">streams</a></p>",
        shared.streams.count()
    );
    for service in shared.snapshot().services.iter() {
        // Writing to a string cannot fail.
        let _infallible = write!(page, "<h2>{}</h2>", escape(&service.name));
        for problem in SourceView::new(service).problems() {
            let _infallible = write!(page, "<p class=\"problem\">{}</p>", escape(&problem));
        }
        page.push_str("<table><tr><th>endpoint<th>address<th>state<th>since<th>streams</tr>");
        for endpoint in EndpointView::all(service, clock::now()) {
            let state = if endpoint.ejected { "ejected" } else { endpoint.state };
            let _infallible = write!(
                page,
                "<tr><td>{}<td>{}<td class=\"{state}\">{state}<td>{}<td class=\"n\">{}</tr>",
                escape(&endpoint.name),
                endpoint.address,
                endpoint.since,
                endpoint.streams
            );
        }
        page.push_str("</table>");
    }
    page.push_str("</html>");
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use podpin_proxy::telemetry::labels::DiscoveryError;

    use super::*;
    use crate::fixture;

    #[test]
    fn the_page_names_every_endpoint() {
        let shared = fixture::started(&fixture::config(
            "{a: {discovery: {static: [{name: p, address: \"127.0.0.1:9\"}]}}}",
        ));
        let readiness = Readiness::new(shared, Duration::from_secs(9), clock::now());
        let page = render(&readiness);
        assert!(page.contains("podpin: ready") && page.contains("<td>p<td>127.0.0.1:9"), "{page}");
    }

    #[test]
    fn the_page_says_why_a_source_cannot_be_read() {
        let shared = fixture::shared("{a: {discovery: {kubernetes: {service: a, port: 80}}}}");
        shared.snapshot().services[0].source.failed(DiscoveryError::Forbidden, Some("403: <no>".into()));
        let page = render(&Readiness::new(shared, Duration::from_secs(9), clock::now()));
        assert!(page.contains("<p class=\"problem\">403: &lt;no&gt;</p>"), "{page}");
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
