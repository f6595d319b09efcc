//! `podpin import-ingress`: files in, files out, exit codes, and what is never overwritten.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::command_line::run;

const INGRESS: &str = "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: chat
  namespace: prod
  annotations:
    nginx.ingress.kubernetes.io/affinity: cookie
spec:
  ingressClassName: nginx
  rules:
    - host: chat.example.com
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: chat, port: {number: 80}}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: chat, namespace: prod}
spec: {selector: {app: chat}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ingress-nginx-controller, namespace: ingress-nginx}
data: {hsts: 'false'}
";

/// Imports `text` into `directory`.
async fn import(directory: &Path, text: &str, more: &[&str]) -> (i32, String, String) {
    let input = directory.join("in/deep");
    fs::create_dir_all(&input).unwrap();
    fs::write(input.join("all.yaml"), text).unwrap();
    let (input, out) = (directory.join("in"), directory.join("out"));
    let mut arguments = vec!["import-ingress", "-f", input.to_str().unwrap(), "--out", out.to_str().unwrap()];
    arguments.extend(more);
    run(&arguments).await
}

#[tokio::test]
async fn what_is_taken_over_exactly_exits_with_0_and_again_with_the_same_files() {
    let directory = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = import(directory.path(), INGRESS, &[]).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("1 Ingresses, 1 routes, 1 services"), "{stdout}");
    let read = |name: &str| fs::read_to_string(directory.path().join("out").join(name)).unwrap();
    let names =
        ["podpin.yaml", "REPORT.md", "kustomization.yaml", "deployment.yaml", "rights.yaml", "verify.sh"];
    let first: Vec<String> = names.iter().map(|name| read(name)).collect();
    assert!(first[0].contains("hostnames: [chat.example.com]"), "{}", first[0]);
    let mode = fs::metadata(directory.path().join("out/verify.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    let (code, ..) = import(directory.path(), INGRESS, &["--report", "json"]).await;
    assert_eq!(code, 0);
    assert_eq!(first, names.map(read));
}

#[tokio::test]
async fn exit_codes_tell_approximations_from_protections_that_are_lost() {
    let directory = tempfile::tempdir().unwrap();
    let with = |line: &str| {
        INGRESS.replace(
            "affinity: cookie\n",
            &format!("affinity: cookie\n    nginx.ingress.kubernetes.io/{line}\n"),
        )
    };
    let (code, stdout, _) = import(directory.path(), &with("proxy-read-timeout: '3600'"), &[]).await;
    assert_eq!(code, 3, "{stdout}");
    let limited = with("limit-rps: '5'");
    let (code, stdout, _) = import(directory.path(), &limited, &[]).await;
    assert_eq!(code, 4, "{stdout}");
    assert!(stdout.contains("--allow-loss"), "{stdout}");
    for name in ["rate-limits", "limit-rps"] {
        let (code, stdout, _) = import(directory.path(), &limited, &["--allow-loss", name]).await;
        assert_eq!(code, 3, "{stdout}");
    }
    let (code, _, stderr) = import(directory.path(), &limited, &["--allow-loss", "everything"]).await;
    assert_eq!(code, 2, "{stderr}");
}

#[tokio::test]
async fn a_configuration_that_was_taken_over_is_never_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (code, ..) = import(directory.path(), INGRESS, &[]).await;
    assert_eq!(code, 0);
    let path = directory.path().join("out/podpin.yaml");
    fs::write(&path, "# mine\n").unwrap();
    let (code, _, stderr) = import(directory.path(), INGRESS, &[]).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("podpin.yaml exists"), "{stderr}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "# mine\n");
}

#[tokio::test]
async fn input_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let (code, _, stderr) =
        run(&["import-ingress", "-f", "/nonexistent.yaml", "--out", out.to_str().unwrap()]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("/nonexistent.yaml"), "{stderr}");
    let (code, _, stderr) = run(&["import-ingress", "--out", out.to_str().unwrap()]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("-f"), "{stderr}");
}

/// Answers requests to a cluster of one Ingress, whose list comes in two pages.
async fn answer_as_a_cluster(listener: TcpListener) {
    loop {
        let Ok((mut socket, _)) = listener.accept().await else { return };
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = socket.read_u8().await else { break };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let (status, body) = respond(path);
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let _gone = socket.write_all(format!("{head}{body}").as_bytes()).await;
    }
}

fn respond(path: &str) -> (&'static str, String) {
    let list = |kind: &str, items: &str, more: &str| {
        let metadata = format!("{{\"resourceVersion\":\"5\",\"continue\":\"{more}\"}}");
        ("200 OK", format!("{{\"kind\":\"{kind}List\",\"metadata\":{metadata},\"items\":[{items}]}}"))
    };
    let ingress = |name: &str| {
        format!(
            "{{\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"prod\",\"annotations\":{{\"nginx.ingress.kubernetes.io/custom-headers\":\"prod/fields\"}}}},\
             \"spec\":{{\"ingressClassName\":\"nginx\",\"rules\":[{{\"host\":\"{name}.example.com\",\"http\":{{\"paths\":[{{\"path\":\"/\",\"pathType\":\
             \"Prefix\",\"backend\":{{\"service\":{{\"name\":\"chat\",\"port\":{{\"number\":80}}}}}}}}]}}}}]}}}}"
        )
    };
    match path {
        _ if path.starts_with("/apis/networking.k8s.io/v1/ingresses") && path.contains("continue=") => {
            list("Ingress", &ingress("two"), "")
        }
        _ if path.starts_with("/apis/networking.k8s.io/v1/ingresses") => list("Ingress", &ingress("one"), "next"),
        _ if path.starts_with("/apis/networking.k8s.io/v1/ingressclasses") => list("IngressClass", "", ""),
        _ if path.starts_with("/api/v1/services") => {
            let service = "{\"metadata\":{\"name\":\"chat\",\"namespace\":\"prod\"},\"spec\":{\"selector\":{\"a\":\"b\"},\"ports\":[{\"name\":\"web\",\"port\":80}]}}";
            list("Service", service, "")
        }
        _ if path.starts_with("/api/v1/namespaces/prod/configmaps/fields") => (
            "200 OK",
            "{\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"fields\",\"namespace\":\"prod\"},\"data\":{\"X-Team\":\"chat\"}}"
                .to_owned(),
        ),
        _ => ("404 Not Found", "{\"kind\":\"Status\",\"code\":404,\"message\":\"not found\"}".to_owned()),
    }
}

#[tokio::test]
async fn a_cluster_is_read_by_itself_page_by_page_with_the_config_maps_that_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("config");
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: \"http://{address}\"}}}}]\nusers: [{{name: u, user: {{}}}}]\n\
         contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n"
    );
    fs::write(&kubeconfig, text).unwrap();
    let out = directory.path().join("out");
    let arguments = [
        "import-ingress",
        "--from-cluster",
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    let (code, stdout, stderr) = tokio::select! {
        ended = run(&arguments) => ended,
        () = answer_as_a_cluster(listener) => unreachable!("the cluster answers for ever"),
    };
    assert_eq!(code, 3, "{stdout}{stderr}");
    let config = fs::read_to_string(out.join("podpin.yaml")).unwrap();
    for part in ["one.example.com", "two.example.com", "port: web", "X-Team: chat"] {
        assert!(config.contains(part), "{part} is not in\n{config}");
    }
}
