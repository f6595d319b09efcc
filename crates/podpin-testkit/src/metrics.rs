//! Prometheus' text format, as far as a test needs it.

use std::collections::BTreeMap;

/// A sample: name, labels, value.
#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// A scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
    types: BTreeMap<String, String>,
}

impl Metrics {
    /// Reads a scrape.
    ///
    /// # Panics
    /// At a line that is not in the text format.
    pub fn parse(text: &str) -> Metrics {
        let mut metrics = Metrics::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(declaration) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declaration.split_once(' ').expect("a type");
                metrics.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let sample = sample(line).unwrap_or_else(|| panic!("not a metric: {line}"));
                metrics.samples.push(sample);
            }
        }
        metrics
    }

    /// The sum of all samples of `name` that carry these labels; 0 when there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// Whether there is a sample of `name` with these labels.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matching(name, labels).next().is_some()
    }

    /// The declared type of a metric.
    pub fn kind(&self, name: &str) -> Option<&str> {
        self.types.get(name).map(String::as_str)
    }

    /// The names of the labels of the first sample of `name`.
    pub fn label_names(&self, name: &str) -> Vec<String> {
        let first = self.matching(name, &[]).next();
        first.map(|sample| sample.labels.keys().cloned().collect()).unwrap_or_default()
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = &'a Sample> + 'a {
        self.samples.iter().filter(move |sample| {
            let carries =
                |(key, value): &(&str, &str)| sample.labels.get(*key).is_some_and(|have| have == value);
            sample.name == name && labels.iter().all(carries)
        })
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, inside) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels = BTreeMap::new();
    let mut rest = inside.strip_suffix('}')?;
    while let Some((key, after)) = rest.split_once("=\"") {
        // Label values of ours never hold a quotation mark.
        let (value, after) = after.split_once('"')?;
        labels.insert(key.trim_start_matches(',').to_owned(), value.to_owned());
        rest = after;
    }
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_runs_over_the_samples_that_carry_the_labels() {
        let metrics = Metrics::parse(
            "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\na{x=\"2\"} 8\nb 1.5\n",
        );
        assert_eq!(metrics.sum("a", &[("x", "1")]), 7.0);
        assert_eq!(metrics.sum("a", &[]), 15.0);
        assert_eq!(metrics.sum("b", &[]), 1.5);
        assert_eq!(metrics.kind("a"), Some("counter"));
        assert!(!metrics.has("a", &[("x", "9")]));
    }
}
