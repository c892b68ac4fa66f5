//! Metrics of scripts (library section 16): counters, gauges and histograms that the configuration declares.

use hsl::{Args, Array, Error, FunctionDef, NativeCx, Value};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Label sets of one metric; more are refused, so that a script cannot fill the memory with labels.
const SERIES_MAX: usize = 10_000;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up.
    Counter,
    /// Counts values by size.
    Histogram,
}

impl Kind {
    /// The kind of a name in configuration.
    pub fn from_name(name: &str) -> Option<Kind> {
        match name {
            "gauge" => Some(Kind::Gauge),
            "counter" => Some(Kind::Counter),
            "histogram" => Some(Kind::Histogram),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        }
    }
}

/// `metrics[]` of the running configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Declaration {
    /// Name.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// Text for the reader.
    pub help: String,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// Upper bounds of a histogram.
    pub buckets: Vec<f64>,
}

#[derive(Clone, Default)]
struct Series {
    value: f64,
    count: u64,
    counts: Vec<u64>,
}

struct Metric {
    declaration: Declaration,
    series: BTreeMap<Vec<Vec<u8>>, Series>,
}

/// The metrics of a process.
#[derive(Default)]
pub struct Metrics(Mutex<BTreeMap<String, Metric>>);

impl Metrics {
    /// Takes the declarations of a configuration. Values of metrics whose kind and labels stay are kept.
    pub fn declare(&self, declarations: Vec<Declaration>) {
        let mut metrics = self.0.lock();
        let mut old = std::mem::take(&mut *metrics);
        for declaration in declarations {
            let kept = old.remove(&declaration.id).filter(|m| {
                let had = &m.declaration;
                (had.kind, &had.labels, &had.buckets)
                    == (declaration.kind, &declaration.labels, &declaration.buckets)
            });
            let series = kept.map(|m| m.series).unwrap_or_default();
            metrics.insert(declaration.id.clone(), Metric { declaration, series });
        }
    }

    /// Adds metrics to the declared ones; those that are known already stay as they are.
    pub fn declare_more(&self, declarations: Vec<Declaration>) {
        let mut metrics = self.0.lock();
        for declaration in declarations {
            let id = declaration.id.clone();
            metrics.entry(id).or_insert_with(|| Metric { declaration, series: Default::default() });
        }
    }

    /// All metrics in the text format of Prometheus.
    pub fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut out = String::new();
        for (name, metric) in &*self.0.lock() {
            let declaration = &metric.declaration;
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "# HELP {name} {}",
                declaration.help.replace('\\', "\\\\").replace('\n', "\\n")
            );
            let _ = writeln!(out, "# TYPE {name} {}", declaration.kind.name());
            for (values, series) in &metric.series {
                let pairs: Vec<String> = declaration
                    .labels
                    .iter()
                    .zip(values)
                    .map(|(label, value)| {
                        let text = String::from_utf8_lossy(value);
                        let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                        format!("{label}=\"{text}\"")
                    })
                    .collect();
                let labels = |more: Option<String>| {
                    let all: Vec<String> = pairs.iter().cloned().chain(more).collect();
                    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
                };
                if declaration.kind != Kind::Histogram {
                    let _ = writeln!(out, "{name}{} {}", labels(None), series.value);
                    continue;
                }
                for (bound, count) in declaration.buckets.iter().zip(&series.counts) {
                    let _ = writeln!(out, "{name}_bucket{} {count}", labels(Some(format!("le=\"{bound}\""))));
                }
                let _ = writeln!(out, "{name}_bucket{} {}", labels(Some("le=\"+Inf\"".into())), series.count);
                let _ = writeln!(out, "{name}_sum{} {}", labels(None), series.value);
                let _ = writeln!(out, "{name}_count{} {}", labels(None), series.count);
            }
        }
        out
    }

    /// Changes one series; `None` for an unknown metric, wrong labels, or when `change` refuses.
    fn change(
        &self,
        name: &str,
        labels: &Array,
        change: impl FnOnce(&Declaration, &mut Series) -> Option<()>,
    ) -> Option<()> {
        let mut metrics = self.0.lock();
        let metric = metrics.get_mut(name)?;
        let key = key(&metric.declaration, labels)?;
        if !metric.series.contains_key(&key) && metric.series.len() >= SERIES_MAX {
            return None;
        }
        let mut series = metric.series.get(&key).cloned().unwrap_or_default();
        series.counts.resize(metric.declaration.buckets.len(), 0);
        change(&metric.declaration, &mut series)?;
        metric.series.insert(key, series);
        Some(())
    }

    fn get(&self, name: &str, labels: &Array) -> Option<Array> {
        let metrics = self.0.lock();
        let metric = metrics.get(name)?;
        let declaration = &metric.declaration;
        let series = metric.series.get(&key(declaration, labels)?).cloned().unwrap_or_default();
        let mut out = Array::new();
        out.insert_str("type", declaration.kind.name());
        if declaration.kind == Kind::Histogram {
            out.insert_str("count", series.count);
            out.insert_str("sum", series.value);
            let counts = series.counts.iter().copied().chain(std::iter::repeat(0));
            let buckets = declaration.buckets.iter().zip(counts);
            let buckets: Array =
                buckets.map(|(le, n)| Value::from(vec![Value::from(*le), Value::from(n)])).collect();
            out.insert_str("buckets", buckets);
        } else {
            out.insert_str("value", series.value);
        }
        Some(out)
    }
}

/// The values of exactly the declared labels, in their order.
fn key(declaration: &Declaration, labels: &Array) -> Option<Vec<Vec<u8>>> {
    if labels.len() != declaration.labels.len() {
        return None;
    }
    let value = |name: &String| labels.get_str(name).map(|v| v.to_str().into_vec());
    declaration.labels.iter().map(value).collect()
}

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure(
            "metrics_increment(name: string, labels: array, value?: number) -> boolean or none",
            "Adds to a gauge or a counter; a counter takes no negative number.",
            |cx, a| {
                let by = if a.given(2).is_some() { a.number(2) } else { 1.0 };
                Ok(change(cx, &a, |declaration, series| {
                    let fits = match declaration.kind {
                        Kind::Gauge => true,
                        Kind::Counter => by >= 0.0,
                        Kind::Histogram => false,
                    };
                    series.value += by;
                    (fits && by.is_finite()).then_some(())
                }))
            },
        ),
        FunctionDef::pure(
            "metrics_decrement(name: string, labels: array, value?: number) -> boolean or none",
            "Subtracts from a gauge.",
            |cx, a| {
                let by = if a.given(2).is_some() { a.number(2) } else { 1.0 };
                Ok(change(cx, &a, |declaration, series| {
                    series.value -= by;
                    (declaration.kind == Kind::Gauge && by.is_finite()).then_some(())
                }))
            },
        ),
        FunctionDef::pure(
            "metrics_set(name: string, labels: array, value: number) -> boolean or none",
            "Sets a gauge or a counter; gives a value to a histogram.",
            |cx, a| {
                let value = a.number(2);
                Ok(change(cx, &a, |declaration, series| {
                    if !value.is_finite() {
                        return None;
                    }
                    if declaration.kind != Kind::Histogram {
                        series.value = value;
                        return Some(());
                    }
                    series.count += 1;
                    series.value += value;
                    for (bound, count) in declaration.buckets.iter().zip(&mut series.counts) {
                        *count += u64::from(value <= *bound);
                    }
                    Some(())
                }))
            },
        ),
        FunctionDef::pure(
            "metrics_get(name: string, labels: array) -> array or none",
            "`type` and `value`; of a histogram `count`, `sum` and `buckets`.",
            |cx, a| Ok(metrics(cx).get(&a.string(0).to_text(), &a.array(1)).into()),
        ),
    ]
}

fn metrics(cx: &NativeCx<'_>) -> Arc<Metrics> {
    Arc::clone(&crate::environment::of(cx).metrics)
}

fn change(
    cx: &NativeCx<'_>,
    args: &Args<'_>,
    change: impl FnOnce(&Declaration, &mut Series) -> Option<()>,
) -> Value {
    let done = metrics(cx).change(&args.string(0).to_text(), &args.array(1), change);
    done.map(|()| true).into()
}

/// Reads `metrics` of a configuration file, as decoded from YAML.
///
/// # Errors
/// What is wrong, with the place in the list.
pub fn declarations(list: &Array) -> Result<Vec<Declaration>, Error> {
    let mut out = Vec::new();
    for (i, item) in list.values().enumerate() {
        let wrong = |what: &str| Error::exception(format!("/metrics/{i}: {what}"));
        let item = item.as_array().ok_or_else(|| wrong("expected a mapping"))?;
        let text = |key: &str| item.get_str(key).map(Value::to_string_lossy);
        let kind = text("type").ok_or_else(|| wrong("'type' is missing"))?;
        let kind = Kind::from_name(&kind)
            .ok_or_else(|| wrong(&format!("type '{kind}' found, expected gauge, counter or histogram")))?;
        let values = |key: &str| item.get_str(key).and_then(Value::as_array).cloned().unwrap_or_default();
        out.push(Declaration {
            id: text("id").ok_or_else(|| wrong("'id' is missing"))?,
            kind,
            help: text("help").unwrap_or_default(),
            labels: values("labels").values().map(Value::to_string_lossy).collect(),
            buckets: values("buckets").values().map(Value::to_number).collect(),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_keeps_what_did_not_change() {
        let declaration = |kind| Declaration {
            id: "seen".into(),
            kind,
            help: "Seen \\ things".into(),
            labels: vec!["of".into()],
            buckets: vec![1.0],
        };
        let metrics = Metrics::default();
        metrics.declare(vec![declaration(Kind::Counter)]);
        let mut labels = Array::new();
        labels.insert_str("of", "a\"b");
        let add = |metrics: &Metrics| {
            metrics.change("seen", &labels, |_, s| {
                s.value += 2.0;
                Some(())
            })
        };
        assert_eq!(add(&metrics), Some(()));
        metrics.declare(vec![declaration(Kind::Counter)]);
        assert!(metrics.text().contains("seen{of=\"a\\\"b\"} 2\n"), "{}", metrics.text());
        metrics.declare(vec![declaration(Kind::Gauge)]);
        assert!(!metrics.text().contains("} 2"), "{}", metrics.text());
        assert_eq!(metrics.change("seen", &Array::new(), |_, _| Some(())), None);
    }
}
