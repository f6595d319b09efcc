//! A script that asks the old and the new side for every host and path, and shows where they differ.

use crate::output::MARK;
use crate::plan::Plan;

const HEAD: &str = r#"
# Asks ingress-nginx and podpin for each host and path, and shows where status or header fields differ.
#
#   OLD=http://203.0.113.7 NEW=http://127.0.0.1:8080 ./verify.sh
#
# OLD and NEW are addresses; the host of each request is said in `Host`. With https the certificates are not checked.
set -u
: "${OLD:?the address of ingress-nginx, such as http://203.0.113.7}"
: "${NEW:?the address of podpin, such as http://127.0.0.1:8080}"
different=0

# Header fields that differ from request to request, or are each proxy's own.
own='^(date|set-cookie|x-request-id|server|connection|keep-alive|transfer-encoding|content-length|strict-transport-security):'

ask() {
    curl --silent --insecure --max-time 10 --output /dev/null --dump-header - --header "Host: $2" "$1$3" |
        tr -d '\r' | awk 'NR == 1 {print $2; next} NF {i = index($0, ":"); print tolower(substr($0, 1, i)) substr($0, i + 1)}' |
        grep -Ev "$own" | sort
}

compare() {
    old=$(ask "$OLD" "$1" "$2")
    new=$(ask "$NEW" "$1" "$2")
    if [ "$old" = "$new" ]; then
        echo "same       $1$2"
    else
        different=1
        echo "DIFFERENT  $1$2"
        printf '%s\n' "$old" | sed 's/^/    old  /'
        printf '%s\n' "$new" | sed 's/^/    new  /'
    fi
}

"#;

/// Returns the script for the hosts and paths of a plan that are served.
pub(super) fn script(plan: &Plan) -> String {
    let mut out = format!("#!/bin/sh\n# {MARK}.{HEAD}");
    for (host, path) in &plan.served {
        // Any name stands for those that a wildcard, or no name, means.
        let host = host.replacen('*', "verify", 1);
        let host = if host == "verify" { "verify.example" } else { &host };
        out.push_str(&format!("compare {} {}\n", quoted(host), quoted(path)));
    }
    out.push_str("exit $different\n");
    out
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
