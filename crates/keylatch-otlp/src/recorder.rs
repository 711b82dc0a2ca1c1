//! The metrics of the `metrics` crate, as OpenTelemetry's.
//!
//! Counters and gauges are atomics that the exporter reads; a histogram is recorded at once. There is one instrument for
//! each name, made when its first series is.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};
use metrics_util::registry::{Registry, Storage};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use parking_lot::Mutex;

/// Records what the macros of the `metrics` crate count. Made by [`Exporter::recorder`](crate::Exporter::recorder).
pub struct Recorder(Registry<Key, Arc<Instruments>>, Arc<Instruments>);

impl Recorder {
    pub(crate) fn new(meter: Meter, buckets: Vec<(&'static str, Vec<f64>)>) -> Self {
        let instruments = Arc::new(Instruments { meter, buckets, described: Mutex::default(), made: Mutex::default() });
        Self(Registry::new(instruments.clone()), instruments)
    }

    fn describe(&self, name: &KeyName, unit: Option<Unit>, meaning: SharedString) {
        self.1.described.lock().insert(name.as_str().to_owned(), (unit, meaning));
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, meaning: SharedString) {
        self.describe(&name, unit, meaning);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, meaning: SharedString) {
        self.describe(&name, unit, meaning);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, meaning: SharedString) {
        self.describe(&name, unit, meaning);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.0.get_or_create_counter(key, |counter| Counter::from_arc(counter.clone()))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.0.get_or_create_gauge(key, |gauge| Gauge::from_arc(gauge.clone()))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.0.get_or_create_histogram(key, |histogram| Histogram::from_arc(histogram.clone()))
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

struct Instruments {
    meter: Meter,
    buckets: Vec<(&'static str, Vec<f64>)>,
    described: Mutex<HashMap<String, (Option<Unit>, SharedString)>>,
    made: Mutex<HashMap<String, Made>>,
}

/// An instrument, which was made.
enum Made {
    /// The exporter reads its series.
    Read(Series),
    Recorded(opentelemetry::metrics::Histogram<f64>),
}

/// The series of a counter or a gauge.
type Series = Arc<Mutex<Vec<(Vec<KeyValue>, Arc<AtomicU64>)>>>;

/// Builds an instrument with the description of its name.
macro_rules! described {
    ($self:ident, $name:ident, $builder:expr) => {{
        let described = $self.described.lock();
        let (unit, meaning) = described.get($name).map_or((None, ""), |(unit, meaning)| (*unit, &**meaning));
        let unit = unit.map_or("", |unit| unit.as_canonical_label());
        $builder.with_description(meaning.to_owned()).with_unit(unit)
    }};
}

impl Instruments {
    /// A new series of the instrument that `make` makes.
    fn series(&self, key: &Key, make: impl FnOnce(&str, Series)) -> Arc<AtomicU64> {
        let value = Arc::<AtomicU64>::default();
        let mut made = self.made.lock();
        let series = match made.get(key.name()) {
            Some(Made::Read(series)) => series.clone(),
            // A name that is both has one meaning here: what it was first.
            Some(Made::Recorded(_)) => return value,
            None => {
                let series = Series::default();
                made.insert(key.name().to_owned(), Made::Read(series.clone()));
                make(key.name(), series.clone());
                series
            }
        };
        series.lock().push((labels(key), value.clone()));
        value
    }
}

impl Storage<Key> for Instruments {
    type Counter = Arc<AtomicU64>;
    type Gauge = Arc<AtomicU64>;
    type Histogram = Arc<Recorded>;

    fn counter(&self, key: &Key) -> Arc<AtomicU64> {
        self.series(key, |name, series| {
            let counter = described!(self, name, self.meter.u64_observable_counter(name.to_owned()));
            let read = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
                series
                    .lock()
                    .iter()
                    .for_each(|(labels, value)| observer.observe(value.load(Ordering::Relaxed), labels));
            };
            // The meter keeps it.
            let _ = counter.with_callback(read).build();
        })
    }

    fn gauge(&self, key: &Key) -> Arc<AtomicU64> {
        self.series(key, |name, series| {
            let gauge = described!(self, name, self.meter.f64_observable_gauge(name.to_owned()));
            let read = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
                let value = |value: &AtomicU64| f64::from_bits(value.load(Ordering::Relaxed));
                series.lock().iter().for_each(|(labels, series)| observer.observe(value(series), labels));
            };
            let _ = gauge.with_callback(read).build();
        })
    }

    fn histogram(&self, key: &Key) -> Arc<Recorded> {
        let name = key.name();
        let make = || {
            let mut histogram = described!(self, name, self.meter.f64_histogram(name.to_owned()));
            if let Some((_, bounds)) = self.buckets.iter().find(|(suffix, _)| name.ends_with(suffix)) {
                histogram = histogram.with_boundaries(bounds.clone());
            }
            histogram.build()
        };
        let mut made = self.made.lock();
        let histogram = match made.entry(name.to_owned()).or_insert_with(|| Made::Recorded(make())) {
            Made::Recorded(histogram) => histogram.clone(),
            Made::Read(_) => make(),
        };
        Arc::new(Recorded(histogram, labels(key)))
    }
}

/// A series of a histogram.
struct Recorded(opentelemetry::metrics::Histogram<f64>, Vec<KeyValue>);

impl HistogramFn for Recorded {
    fn record(&self, value: f64) {
        self.0.record(value, &self.1);
    }
}

fn labels(key: &Key) -> Vec<KeyValue> {
    key.labels().map(|label| KeyValue::new(label.key().to_owned(), label.value().to_owned())).collect()
}
