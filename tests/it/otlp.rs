//! The export of metrics with OTLP, against a collector on loopback.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use prost::Message;

use crate::support::{Scratch, run, said, stderr, stdout, test_video, vidindex};

/// Paths and bodies of requests.
type Received = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Accepts every export.
fn collector() -> (String, Received) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let received = Received::default();
    let keep = received.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let (mut path, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                    break;
                }
                let line = line.trim().to_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.starts_with("post ") {
                    path = line.split(' ').nth(1).unwrap().to_owned();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            keep.lock().unwrap().push((path, body));
            let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    (endpoint, received)
}

fn text(value: &Option<AnyValue>) -> String {
    match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes.iter().map(|attribute| (attribute.key.clone(), text(&attribute.value))).collect()
}

#[test]
fn a_collector_gets_what_the_metrics_file_has() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 2.0, &["-pix_fmt", "yuv420p"]);
    std::fs::write(scratch.videos().join("bad.mp4"), "no video").unwrap();
    let job = scratch.job(&scratch.small_models());
    let file = scratch.path("vidindex.prom");
    let (endpoint, received) = collector();
    let mut command = vidindex(["run".as_ref(), job.as_os_str()]);
    command.args(["--device", "cpu", "--metrics"]).arg(&file).env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let run_id = stdout(&output).lines().last().unwrap().to_owned();

    let received = received.lock().unwrap();
    let (path, body) = received.last().unwrap();
    assert_eq!(path, "/v1/metrics");
    let export = ExportMetricsServiceRequest::decode(&body[..]).unwrap();
    let [of_resource] = &export.resource_metrics[..] else { panic!("{export:#?}") };
    let resource = attributes(&of_resource.resource.as_ref().unwrap().attributes);
    assert_eq!((&*resource["service.name"], &*resource["vidindex.run_id"]), ("vidindex", &*run_id));
    assert_eq!((&*resource["vidindex.task"], resource["host.name"].is_empty()), ("0", false));

    let mut exported = BTreeMap::new();
    for metric in of_resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
        let (total, points) = match metric.data.as_ref().unwrap() {
            Data::Sum(sum) if sum.is_monotonic => ("_total", &sum.data_points),
            Data::Gauge(gauge) => ("", &gauge.data_points),
            other => panic!("{other:?}"),
        };
        for point in points {
            let Some(number_data_point::Value::AsDouble(value)) = point.value else { panic!("{point:?}") };
            let labels: Vec<_> =
                attributes(&point.attributes).into_iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
            exported.insert((format!("{}{total}", metric.name.replace('.', "_")), labels.join(",")), value);
        }
    }
    let file = std::fs::read_to_string(&file).unwrap();
    let own = format!("run_id=\"{run_id}\",task=\"0\"");
    let mut count = 0;
    for line in file.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.strip_suffix('}').unwrap().split_once('{').unwrap();
        let labels = labels.strip_prefix(&own).unwrap().trim_start_matches(',');
        let value: f64 = value.parse().unwrap();
        assert_eq!(exported.get(&(name.to_owned(), labels.to_owned())), Some(&value), "{line}\n{exported:#?}");
        count += 1;
    }
    assert!(count >= 16 && count == exported.len(), "{count} of {}", exported.len());
    assert_eq!(exported[&("vidindex_video_errors_total".to_owned(), "kind=\"not_a_video\"".to_owned())], 1.0);
}

#[test]
fn a_collector_that_is_not_there_stops_nothing_and_a_wrong_address_is_a_mistake() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 1.0, &["-pix_fmt", "yuv420p"]);
    let job = scratch.job(&scratch.small_models());
    let with = |endpoint: &str| {
        let mut command = vidindex(["run".as_ref(), job.as_os_str()]);
        let command = command.args(["--device", "cpu", "--reindex"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        command.output().unwrap()
    };
    // Nothing listens on this port.
    let absent = with("http://127.0.0.1:9");
    assert!(absent.status.success(), "{}", said(&absent));
    assert!(stderr(&absent).contains("the last metrics were not exported"), "{}", stderr(&absent));
    let wrong = with("not an address");
    assert_eq!(wrong.status.code(), Some(2), "{}", said(&wrong));
    assert!(stderr(&wrong).contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{}", stderr(&wrong));
    run(&job, &["--reindex"], 0);
}
