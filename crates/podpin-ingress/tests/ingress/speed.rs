//! The cost of an import grows with its input.

use std::fmt::Write;

use podpin_ingress::Options;

use crate::imported;

/// Ingresses and Services as a platform team has them: half of them share a host, all are told apart by path.
fn many(number: usize) -> String {
    let mut text = String::new();
    for at in 0..number {
        let host = at / 2;
        write!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: app-{at}\n  namespace: team-{}\n  annotations:\n    \
             nginx.ingress.kubernetes.io/affinity: cookie\n    nginx.ingress.kubernetes.io/proxy-read-timeout: '{}'\n    \
             nginx.ingress.kubernetes.io/enable-cors: 'true'\nspec:\n  ingressClassName: nginx\n  tls: [{{hosts: [h{host}.example.com], \
             secretName: tls-{host}}}]\n  rules:\n    - host: h{host}.example.com\n      http: {{paths: [{{path: /p{at}, pathType: Prefix, \
             backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, \
             namespace: team-{}}}\nspec: {{selector: {{a: b}}, ports: [{{name: http, port: 80}}]}}\n",
            at % 50,
            at + 30,
            at % 50,
        )
        .unwrap();
    }
    text
}

/// Returns how many allocations an import takes.
fn cost(number: usize) -> u64 {
    let text = many(number);
    let allocations = allocation_counter::measure(|| {
        let import = imported(&text, &Options::default());
        assert_eq!(import.report.ingresses, number);
        assert_eq!(import.report.routes, number);
    });
    allocations.count_total
}

#[test]
fn a_thousand_ingresses_cost_ten_times_a_hundred() {
    let (hundred, thousand) = (cost(100), cost(1_000));
    assert!(thousand < 12 * hundred, "{hundred} allocations for 100, {thousand} for 1000");
}
