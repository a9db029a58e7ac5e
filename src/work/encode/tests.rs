//! Files written by the encoder, read back by the Parquet reader.

#![expect(clippy::unwrap_used, reason = "tests")]

use arrow::compute::concat_batches;
use chrono::DateTime;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::PageIndexPolicy;
use proptest::prelude::*;

use super::*;
use crate::error::VideoErrorKind;
use crate::tables::{ActionRow, LabelScore, PersonRow, ThumbnailRow, VideoStatus};

fn provenance() -> Provenance {
    Provenance {
        run_id: "20261123T073712123Z-ab12cd".into(),
        shard: 3,
        fingerprint: "f00d".into(),
        actions_model: Some("slowfast-r50".into()),
        persons_model: Some("yolov5s".into()),
    }
}

fn video(uri: &str) -> VideoRow {
    VideoRow {
        video_id: format!("id of {uri}").into(),
        uri: uri.into(),
        etag: "e".into(),
        version_id: None,
        size_bytes: 5_000_000_000,
        last_modified: DateTime::from_timestamp_micros(1_793_491_200_123_456).unwrap(),
        status: VideoStatus::Ok,
        error_kind: None,
        error_message: None,
        failures: None,
        container: Some("mov,mp4,m4a,3gp,3g2,mj2".into()),
        codec: Some("h264".into()),
        width: Some(1920),
        height: Some(1080),
        rotation: Some(90),
        mirrored: Some(true),
        frames_per_second: Some(30_000.0 / 1001.0),
        start_seconds: Some(-0.04),
        duration_seconds: Some(61.25),
        frames_decoded: 1836,
        frames_presented: Some(1836),
        decode_mode: None,
        full_decode_reason: None,
        segments: 29,
        boxes: 120,
        actions_model: Some("slowfast-r50".into()),
        persons_model: Some("yolov5s".into()),
        precision: Some("fp32"),
        fingerprint: "f00d".into(),
        run_id: "20261123T073712123Z-ab12cd".into(),
        shard: 3,
        indexed_at: DateTime::from_timestamp_micros(1_795_419_432_000_001).unwrap(),
        decode_seconds: 1.5,
        inference_seconds: 20.25,
    }
}

fn failed_video(uri: &str) -> VideoRow {
    VideoRow {
        status: VideoStatus::Failed,
        error_kind: Some(VideoErrorKind::NotAVideo),
        error_message: Some("no container format recognises the bytes".into()),
        container: None,
        codec: None,
        width: None,
        height: None,
        rotation: None,
        mirrored: None,
        frames_per_second: None,
        start_seconds: None,
        duration_seconds: None,
        frames_decoded: 0,
        frames_presented: Some(0),
        decode_mode: None,
        full_decode_reason: None,
        segments: 0,
        boxes: 0,
        actions_model: None,
        persons_model: None,
        precision: None,
        ..video(uri)
    }
}

fn action(uri: &str, segment: i64) -> ActionRow {
    let label = |label_id: i32, score| LabelScore { label_id, label: format!("label {label_id}").into(), score };
    ActionRow {
        video_id: format!("id of {uri}").into(),
        uri: uri.into(),
        segment,
        start_seconds: segment as f64 * 64.0 / 30.0,
        end_seconds: (segment + 1) as f64 * 64.0 / 30.0,
        frames: 64,
        top_label: (segment % 4 != 0).then(|| "label 5".into()),
        top_score: (segment % 4 != 0).then_some(0.75),
        top: (0..segment as i32 % 4).map(|i| label(5 + i, 0.75 / (i + 1) as f32)).collect(),
        scores: (segment % 2 == 0).then(|| vec![0.25, 0.75, segment as f32]),
        embedding: (segment % 3 == 0).then(Vec::new),
        run_id: "r".into(),
    }
}

fn person(uri: &str, frame: i64, r#box: i32) -> PersonRow {
    PersonRow {
        video_id: format!("id of {uri}").into(),
        uri: uri.into(),
        segment: (frame > 2).then_some(frame / 2),
        time_seconds: frame as f64 / 25.0,
        frame,
        r#box,
        label: "person".into(),
        x1: 1.5,
        y1: 0.0,
        x2: 1920.0,
        y2: 1079.75,
        confidence: 0.5,
        actions: (frame % 3 != 0).then(|| {
            let label = |label_id| LabelScore { label_id, label: "stand".into(), score: 0.5 };
            (0..r#box).map(label).collect()
        }),
        track_id: (r#box > 0).then_some(i64::from(r#box)),
        run_id: "r".into(),
    }
}

fn thumbnail(uri: &str, frame: i64) -> ThumbnailRow {
    ThumbnailRow {
        video_id: format!("id of {uri}").into(),
        uri: uri.into(),
        segment: (frame > 1).then_some(frame / 2),
        time_seconds: frame as f64 / 25.0,
        frame,
        width: 320,
        height: 180,
        jpeg: vec![0xff, 0xd8, frame as u8],
        run_id: "r".into(),
    }
}

fn reader(part: &PartFile) -> ParquetRecordBatchReaderBuilder<File> {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    ParquetRecordBatchReaderBuilder::try_new_with_options(File::open(&part.path).unwrap(), options).unwrap()
}

fn read(part: &PartFile) -> RecordBatch {
    let batches: Vec<RecordBatch> = reader(part).build().unwrap().map(Result::unwrap).collect();
    concat_batches(&part.table.schema(), &batches).unwrap()
}

fn columns<R: Row>(rows: &[R]) -> RecordBatch {
    R::to_batch(rows).unwrap()
}

/// Pushes all rows of a video.
fn push(
    encoder: &mut ShardEncoder,
    partition_path: &str,
    video: VideoRow,
    actions: &[ActionRow],
    persons: &[PersonRow],
) -> Result<()> {
    encoder.push_rows(partition_path, &video.uri, actions)?;
    encoder.push_rows(partition_path, &video.uri, persons)?;
    encoder.push(partition_path, video)
}

#[test]
fn rows_come_back_with_their_nulls_and_lists() {
    let dir = tempfile::tempdir().unwrap();
    let mut encoder = ShardEncoder::new(dir.path(), provenance());
    let actions: Vec<_> = (0..9).map(|segment| action("b", segment)).collect();
    let persons: Vec<_> = (0..6).flat_map(|frame| (0..2).map(move |i| person("b", frame, i))).collect();
    encoder.push("dt=2026-11-01", failed_video("a")).unwrap();
    let thumbnails: Vec<_> = (0..3).map(|frame| thumbnail("b", frame)).collect();
    encoder.push_rows("dt=2026-11-01", &"b".into(), &thumbnails).unwrap();
    push(&mut encoder, "dt=2026-11-01", video("b"), &actions, &persons).unwrap();
    let parts = encoder.finish().unwrap();

    assert_eq!(read(&parts[3]), columns(&thumbnails));
    assert_eq!(parts.iter().map(|part| part.table).collect::<Vec<_>>(), Table::ALL);
    assert_eq!(parts.iter().map(|part| part.rows).collect::<Vec<_>>(), [2, 9, 12, 3]);
    assert_eq!(read(&parts[0]), columns(&[failed_video("a"), video("b")]));
    assert_eq!(read(&parts[1]), columns(&actions));
    assert_eq!(read(&parts[2]), columns(&persons));
    for part in &parts {
        assert_eq!(part.size_bytes, part.path.metadata().unwrap().len());
        assert_eq!(reader(part).schema().fields(), part.table.schema().fields());
    }
    assert_eq!(parts[1].key, "actions/model=slowfast-r50/dt=2026-11-01/part-20261123T073712123Z-ab12cd-000003.parquet");
}

#[test]
fn files_say_who_made_them_and_carry_their_indexes() {
    let dir = tempfile::tempdir().unwrap();
    let mut encoder = ShardEncoder::new(dir.path(), provenance());
    push(&mut encoder, "dt=2026-11-01", video("a"), &[action("a", 0)], &[person("a", 0, 0)]).unwrap();
    for part in encoder.finish().unwrap() {
        let builder = reader(&part);
        let metadata = builder.metadata();
        let file = metadata.file_metadata();
        assert!(file.created_by().unwrap().starts_with("vidindex version "));
        let value = |key: &str| {
            let mut values = file.key_value_metadata().unwrap().iter();
            values.find(|value| value.key == format!("vidindex.{key}")).and_then(|value| value.value.clone()).unwrap()
        };
        assert_eq!(value("version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(value("schema_version"), "1");
        assert_eq!(value("run_id"), "20261123T073712123Z-ab12cd");
        assert_eq!(value("shard"), "3");
        assert_eq!(value("fingerprint"), "f00d");
        assert_eq!(value("actions_model"), "slowfast-r50");
        assert_eq!(value("persons_model"), "yolov5s");

        let group = metadata.row_group(0);
        let sorted: Vec<String> = group
            .sorting_columns()
            .unwrap()
            .iter()
            .map(|sorted| group.column(sorted.column_idx as usize).column_path().string())
            .collect();
        assert_eq!(sorted, part.table.sort_columns());
        for (index, column) in group.columns().iter().enumerate() {
            assert!(matches!(column.compression(), parquet::basic::Compression::ZSTD(_)));
            // Of vectors nobody asks for the least.
            let is_vector =
                ["scores.", "embedding."].iter().any(|name| column.column_path().string().starts_with(name));
            assert_eq!(column.column_index_offset().is_some(), !is_vector);
            assert!(column.offset_index_offset().is_some());
            let bloom = builder.get_row_group_column_bloom_filter(0, index).unwrap();
            if column.column_path().string() == "video_id" {
                let bloom = bloom.unwrap();
                assert!(bloom.check(&"id of a") && !bloom.check(&"id of b"));
            } else {
                assert!(bloom.is_none());
            }
        }
    }
}

#[test]
fn each_partition_gets_a_file_for_each_table_that_the_job_fills_even_without_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut encoder = ShardEncoder::new(dir.path(), provenance());
    push(&mut encoder, "dt=2026-11-01", video("z"), &[action("z", 0)], &[]).unwrap();
    push(&mut encoder, "dt=2026-11-02", video("a"), &[], &[person("a", 0, 0)]).unwrap();
    encoder.push("dt=2026-11-03", failed_video("b")).unwrap();
    let parts = encoder.finish().unwrap();
    let found: Vec<_> = parts.iter().map(|part| (part.table, part.partition_path.as_str(), part.rows)).collect();
    assert_eq!(
        found,
        [
            (Table::Videos, "dt=2026-11-01", 1),
            (Table::Actions, "dt=2026-11-01", 1),
            (Table::Persons, "dt=2026-11-01", 0),
            (Table::Videos, "dt=2026-11-02", 1),
            (Table::Actions, "dt=2026-11-02", 0),
            (Table::Persons, "dt=2026-11-02", 1),
            (Table::Videos, "dt=2026-11-03", 1),
            (Table::Actions, "dt=2026-11-03", 0),
            (Table::Persons, "dt=2026-11-03", 0),
        ]
    );
    assert_eq!(read(&parts[3]), columns(&[video("a")]));
}

#[test]
fn a_job_without_a_model_has_no_file_for_its_table() {
    let dir = tempfile::tempdir().unwrap();
    let no_model = Provenance { actions_model: None, ..provenance() };
    let mut encoder = ShardEncoder::new(dir.path(), no_model);
    encoder.push("dt=1", video("a")).unwrap();
    let tables: Vec<_> = encoder.finish().unwrap().iter().map(|part| part.table).collect();
    assert_eq!(tables, [Table::Videos, Table::Persons]);
}

#[test]
fn a_shard_without_videos_has_no_files() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(ShardEncoder::new(dir.path(), provenance()).finish().unwrap(), []);
}

#[test]
fn long_videos_come_in_pieces_and_make_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut encoder = ShardEncoder::new(dir.path(), provenance());
    let uri: Arc<str> = "a".into();
    encoder.push_rows("dt=1", &uri, &[action("a", 0), action("a", 1)]).unwrap();
    encoder.push_rows("dt=1", &uri, &[person("a", 0, 1)]).unwrap();
    push(&mut encoder, "dt=1", video("a"), &[action("a", 2)], &[person("a", 9, 0)]).unwrap();
    let parts = encoder.finish().unwrap();
    assert_eq!(read(&parts[1]), columns(&[action("a", 0), action("a", 1), action("a", 2)]));
    assert_eq!(read(&parts[2]), columns(&[person("a", 0, 1), person("a", 9, 0)]));
}

#[test]
fn wide_rows_are_cut_into_row_groups_by_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut encoder = ShardEncoder::new(dir.path(), provenance());
    let uri: Arc<str> = "a".into();
    let mut noise = 1_u32;
    for piece in 0..6 {
        let rows = (piece * 1000..(piece + 1) * 1000).map(|segment| {
            let embedding = std::iter::repeat_with(|| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                noise as f32
            });
            ActionRow { embedding: Some(embedding.take(4096).collect()), ..action("a", segment) }
        });
        encoder.push_rows("dt=1", &uri, &rows.collect::<Vec<_>>()).unwrap();
    }
    encoder.push("dt=1", video("a")).unwrap();
    let parts = encoder.finish().unwrap();
    let groups = reader(&parts[1]).metadata().num_row_groups();
    assert!((2..=4).contains(&groups), "{groups} row groups of 96 MiB");
}

#[test]
fn rows_that_would_make_a_wrong_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let encoder = |name: &str| {
        let dir = dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let mut encoder = ShardEncoder::new(dir, provenance());
        encoder.push("dt=2", video("b")).unwrap();
        encoder
    };
    let message = |result: Result<()>| result.unwrap_err().to_string();

    let earlier = encoder("earlier").push("dt=1", video("c"));
    assert_eq!(message(earlier), "the rows of c came after those of b");
    assert!(encoder("before").push("dt=2", video("a")).is_err());
    assert!(encoder("again").push("dt=2", video("b")).is_err());

    let mut unfinished = encoder("unfinished");
    unfinished.push_rows("dt=2", &"c".into(), &[action("c", 0)]).unwrap();
    assert_eq!(message(unfinished.push("dt=2", video("d"))), "the rows of c have no row of their video");
    assert!(unfinished.finish().is_err());

    let mut back = encoder("back in time");
    back.push_rows("dt=2", &"c".into(), &[action("c", 3)]).unwrap();
    assert!(message(back.push_rows("dt=2", &"c".into(), &[action("c", 2)])).contains("came after"));

    let no_model = Provenance { actions_model: None, ..provenance() };
    let mut encoder = ShardEncoder::new(dir.path(), no_model);
    let refused = encoder.push_rows("dt=1", &"a".into(), &[action("a", 0)]);
    assert!(message(refused).contains("the job has no such model"));
}

#[test]
fn a_scratch_disk_that_fails_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut encoder = ShardEncoder::new(dir.path().join("absent"), provenance());
    let error = encoder.push("dt=1", video("a")).unwrap_err();
    assert!(error.to_string().contains("absent/actions-0.parquet"), "{error}");
    assert!(error.hint().unwrap().contains("scratch disk"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_keep_the_order_of_partitions_videos_and_times(
        videos in proptest::collection::btree_map("[ab]=[0-3]", proptest::collection::btree_map(
            "[a-z]{1,3}", (proptest::collection::btree_set(0_i64..50, 0..9), proptest::collection::btree_set((0_i64..50, 0_i32..9), 0..9)), 1..4,
        ), 1..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut encoder = ShardEncoder::new(dir.path(), provenance());
        let (mut actions, mut persons) = (Vec::new(), Vec::new());
        for (partition, videos) in &videos {
            for (uri, (segments, boxes)) in videos {
                let segments: Vec<_> = segments.iter().map(|&segment| action(uri, segment)).collect();
                let boxes: Vec<_> = boxes.iter().map(|&(frame, i)| person(uri, frame, i)).collect();
                push(&mut encoder, partition, video(uri), &segments, &boxes).unwrap();
                actions.extend(segments.into_iter().map(|row| (partition.clone(), row)));
                persons.extend(boxes.into_iter().map(|row| (partition.clone(), row)));
            }
        }
        let parts = encoder.finish().unwrap();
        let rows = |table: Table| {
            let batches: Vec<_> = parts.iter().filter(|part| part.table == table).map(read).collect();
            concat_batches(&table.schema(), &batches).unwrap()
        };
        prop_assert_eq!(rows(Table::Actions), columns(&actions.into_iter().map(|(_, row)| row).collect::<Vec<_>>()));
        prop_assert_eq!(rows(Table::Persons), columns(&persons.into_iter().map(|(_, row)| row).collect::<Vec<_>>()));
    }
}
