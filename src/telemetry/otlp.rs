//! Exports the counters of a worker with OTLP over HTTP, if the standard variables of OpenTelemetry name a collector.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::Progress;
use super::readings::{Kind, readings};
use crate::error::{Error, Result};
use crate::machine::host_name;

/// The variables that turn the export on. The exporter reads them, and others such as `OTEL_EXPORTER_OTLP_HEADERS` and
/// `OTEL_METRIC_EXPORT_INTERVAL`.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"];

/// The export of a task. Without an endpoint, nothing is exported.
#[derive(Debug)]
pub struct Otlp(Option<SdkMeterProvider>);

impl Otlp {
    /// Starts the export in a thread of its own. That the collector cannot be reached is logged, and stops nothing.
    ///
    /// # Errors
    /// If the variables are wrong.
    pub fn start(run_id: &str, task: u32, progress: &Arc<Progress>) -> Result<Self> {
        let is_set = |name: &&str| std::env::var(name).is_ok_and(|value| !value.is_empty());
        if !ENDPOINTS.iter().any(is_set) || std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value == "true") {
            return Ok(Self(None));
        }
        // Fails if there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let exporter = MetricExporter::builder().with_http().build().map_err(|error| {
            Error::usage(format!("failed to export metrics with OTLP: {error}"))
                .with_hint("OTEL_EXPORTER_OTLP_ENDPOINT is the address of a collector, such as http://localhost:4318")
        })?;
        let mut resource = Resource::builder().with_service_name("vidindex").with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", format!("{run_id}-{task}")),
            KeyValue::new("vidindex.run_id", run_id.to_owned()),
            KeyValue::new("vidindex.task", i64::from(task)),
        ]);
        if let Some(host) = host_name() {
            resource = resource.with_attribute(KeyValue::new("host.name", host));
        }
        let provider =
            SdkMeterProvider::builder().with_periodic_exporter(exporter).with_resource(resource.build()).build();
        register(&provider, progress);
        Ok(Self(Some(provider)))
    }

    /// Exports the final state.
    pub async fn finish(mut self) {
        let Some(provider) = self.0.take() else { return };
        let ended = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last metrics were not exported");
        }
    }
}

fn register(provider: &SdkMeterProvider, progress: &Arc<Progress>) {
    let meter = provider.meter("vidindex");
    for reading in readings(progress) {
        let own = reading.name;
        let unit = match own {
            _ if own.ends_with("seconds") => "s",
            _ if own.starts_with("bytes") => "By",
            _ => "1",
        };
        let name = format!("vidindex.{own}");
        let progress = progress.clone();
        let values = move || {
            let reading = readings(&progress).into_iter().find(|reading| reading.name == own);
            reading.into_iter().flat_map(|reading| {
                let attribute = move |value: &'static str| reading.label.map(|label| KeyValue::new(label, value));
                reading.values.into_iter().map(move |(value, number)| (number, Vec::from_iter(attribute(value))))
            })
        };
        match reading.kind {
            Kind::Gauge => {
                let gauge = meter.f64_observable_gauge(name).with_description(reading.help).with_unit(unit);
                gauge.with_callback(move |to| values().for_each(|(number, of)| to.observe(number, &of))).build();
            }
            Kind::Counter => {
                let counter = meter.f64_observable_counter(name).with_description(reading.help).with_unit(unit);
                counter.with_callback(move |to| values().for_each(|(number, of)| to.observe(number, &of))).build();
            }
        }
    }
}
