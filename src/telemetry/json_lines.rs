//! Log lines as JSON: besides what was logged, each has the host, the run and task of the process, and the fields of the spans
//! around it, such as the shard and the video.

use std::fmt;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

static IDENTITY: OnceLock<Map<String, Value>> = OnceLock::new();

/// Says what this process works on. Every later JSON line has these fields. Only the first call counts.
pub(crate) fn identify(run_id: &str, task: u32, tasks: u32) {
    let identity = json!({"run_id": run_id, "task": task, "tasks": tasks});
    if let Value::Object(fields) = identity {
        let _ = IDENTITY.set(fields);
    }
}

/// Formats an event as one JSON object.
pub(super) struct JsonLines {
    host: Option<String>,
}

impl JsonLines {
    /// `host` is the name of this machine, if known.
    pub(super) fn new(host: Option<String>) -> Self {
        Self { host }
    }
}

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        line.insert(
            "timestamp".to_owned(),
            chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true).into(),
        );
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.insert("target".to_owned(), event.metadata().target().into());
        if let Some(host) = &self.host {
            line.insert("host".to_owned(), host.as_str().into());
        }
        line.extend(IDENTITY.get().cloned().unwrap_or_default());
        // Inner spans come last, and win.
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<JsonFields>>() {
                line.extend(object(&fields.fields));
            }
        }
        let mut fields = String::new();
        JsonFields::new().format_fields(Writer::new(&mut fields), event)?;
        line.insert("fields".to_owned(), object(&fields).into());
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// The fields that [`JsonFields`] wrote.
fn object(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}
