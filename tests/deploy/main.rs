//! Probe.
#[test]
fn probe() {
    let all: Vec<serde_json::Value> = serde_saphyr::from_multiple("a: 1\nb: [x, 0440, off, \"1\", null, ~, 1.5, true]\nc: |\n  x\n---\nz: {}\n").unwrap();
    println!("{all:?}");
    println!("{:?}", serde_saphyr::from_multiple::<serde_json::Value>("a: 1\na: 2\n"));
}
