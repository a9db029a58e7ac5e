//! The conformance suite of stores: the same tests run on a directory, an S3 server, the in-memory store and the store
//! that injects failures. Tests that apply to only one kind follow below.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use vidindex::store::faulty::{FaultyStore, ReadFault, WriteFault};
use vidindex::store::memory::MemoryStore;
use vidindex::store::{Encryption, ObjectMeta, PutNew, Scanned, Store, StoreConfig, StoreError, StoreErrorKind, open};

use crate::support;
use crate::support::breaking_proxy::BreakingProxy;
use crate::support::s3::S3Server;

/// A store that is used by only one test, and the resources that it needs.
struct Scene {
    store: Arc<dyn Store>,
    kind: Kind,
    _directory: Option<tempfile::TempDir>,
    _server: Option<Arc<S3Server>>,
}

enum Kind {
    Opened {
        /// The URI of a root that does not exist.
        missing: String,
        config: StoreConfig,
    },
    Memory(MemoryStore),
}

impl Scene {
    /// A store whose root is `prefix`.
    async fn below(&self, prefix: &str) -> Arc<dyn Store> {
        let uri = self.store.uri(prefix);
        match &self.kind {
            Kind::Opened { config, .. } => open(&uri, config).await.unwrap(),
            Kind::Memory(objects) => {
                let below = MemoryStore::bucket(&uri);
                let keys = objects.keys().into_iter();
                keys.filter_map(|key| Some(key.strip_prefix(prefix)?.to_owned()))
                    .for_each(|key| below.insert(&key, ""));
                Arc::new(below)
            }
        }
    }

    /// The URI of a root that does not exist, and the error that a user gets.
    async fn missing_root(&self) -> (String, StoreError) {
        match &self.kind {
            Kind::Opened { missing, config } => (missing.clone(), first_error(missing, config).await),
            Kind::Memory(_) => {
                let absent = MemoryStore::absent_directory("/absent");
                (absent.uri(""), absent.list("").try_collect::<Vec<_>>().await.unwrap_err())
            }
        }
    }
}

async fn local() -> Option<Scene> {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("a root+é %");
    std::fs::create_dir(&root).unwrap();
    let config = StoreConfig::default();
    Some(Scene {
        store: open(root.to_str().unwrap(), &config).await.unwrap(),
        kind: Kind::Opened { missing: directory.path().join("absent").to_str().unwrap().to_owned(), config },
        _directory: Some(directory),
        _server: None,
    })
}

async fn s3(bucket: &str) -> Option<Scene> {
    let server = S3Server::shared()?;
    server.create_bucket(bucket);
    let config = server.config();
    Some(Scene {
        store: open(&format!("s3://{bucket}/a root+é %"), &config).await.unwrap(),
        kind: Kind::Opened { missing: "s3://absent-bucket/prefix/".to_owned(), config },
        _directory: None,
        _server: Some(server),
    })
}

fn in_memory(objects: &MemoryStore, store: impl Store + 'static) -> Scene {
    Scene { store: Arc::new(store), kind: Kind::Memory(objects.clone()), _directory: None, _server: None }
}

async fn memory_bucket() -> Option<Scene> {
    let objects = MemoryStore::bucket("s3://bucket/a root+é %");
    Some(in_memory(&objects, objects.clone()))
}

async fn memory_directory() -> Option<Scene> {
    let objects = MemoryStore::directory("/a root+é %");
    Some(in_memory(&objects, objects.clone()))
}

async fn faulty() -> Option<Scene> {
    let objects = MemoryStore::bucket("s3://bucket/a root+é %");
    Some(in_memory(&objects, FaultyStore::new(objects.clone())))
}

/// Runs each function on each kind of store.
macro_rules! conformance {
    ($($name:ident)*) => {
        conformance! { local: $($name)* }
        conformance! { memory_bucket: $($name)* }
        conformance! { memory_directory: $($name)* }
        conformance! { faulty: $($name)* }
        mod s3 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let bucket = stringify!($name).replace('_', "-");
                if let Some(scene) = super::s3(&bucket).await {
                    super::$name(scene).await;
                }
            })*
        }
    };
    ($kind:ident: $($name:ident)*) => {
        mod $kind {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::$kind().await.unwrap()).await;
            })*
        }
    };
}

conformance! {
    lists_more_keys_than_a_page_holds
    lists_below_a_prefix_only
    scans_each_object_once
    scans_without_excluded_folders
    lists_the_folders_directly_below_a_prefix
    supports_keys_with_special_characters
    reads_ranges_at_the_edges
    reads_an_empty_object
    put_replaces_and_changes_the_etag
    put_new_has_one_winner_among_concurrent_writers
    put_file_uploads_small_and_large_files
    publish_is_idempotent
    publish_replaces_an_existing_object
    delete_accepts_many_keys_and_missing_keys
    missing_objects_are_not_found
    a_missing_root_is_reported_quickly
    head_agrees_with_the_listing
}

async fn lists_more_keys_than_a_page_holds(scene: Scene) {
    let keys: Vec<String> = (0..2300).map(|n| format!("videos/cam-{}/{n:05}.mp4", n % 3)).collect();
    put_all(&scene, &keys).await;
    let mut expected = keys;
    expected.sort();
    assert_eq!(listed(&scene, "").await, expected);
}

async fn lists_below_a_prefix_only(scene: Scene) {
    put_all(&scene, &["a/1", "a/b/2", "ab/3", "c"].map(String::from)).await;
    assert_eq!(listed(&scene, "a/").await, ["a/1", "a/b/2"]);
    assert_eq!(listed(&scene, "a/b/").await, ["a/b/2"]);
    assert!(listed(&scene, "absent/").await.is_empty());
    assert_eq!(listed(&scene, "").await.len(), 4);
}

async fn scans_each_object_once(scene: Scene) {
    // A folder with a single subfolder, so that the first branch is deeper, and a folder with more subfolders than a
    // page.
    let deep = ["a/b/1", "a/b/c/2", "a/b/c/d/3", "a/b/e/4", "a/5"].map(String::from);
    let wide: Vec<String> = (0..1100).map(|n| format!("wide/{n:04}/x")).collect();
    let keys: Vec<String> = deep.into_iter().chain(wide).collect();
    put_all(&scene, &keys).await;
    for prefix in ["", "a/", "a/b/", "wide/", "wide/0007/"] {
        let below = scene.below(prefix).await;
        let (mut found, _) = scanned(&*below, |_| true).await;
        found.iter_mut().for_each(|key| key.insert_str(0, prefix));
        let mut expected: Vec<_> = keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
        expected.sort();
        assert_eq!(found, expected, "{prefix}");
    }
}

async fn scans_without_excluded_folders(scene: Scene) {
    put_all(&scene, &["a/1", "a/b/2", "b/3", "c", "excluded/4", "excluded/b/5"].map(String::from)).await;
    let (found, excluded) = scanned(&*scene.store, |folder| folder != "excluded/").await;
    assert_eq!(found, ["a/1", "a/b/2", "b/3", "c"]);
    assert_eq!(excluded, ["excluded/"]);
    assert_eq!(scanned(&*scene.store, |_| false).await.0, ["c"]);
}

async fn lists_the_folders_directly_below_a_prefix(scene: Scene) {
    put_all(&scene, &["a/1", "a/b c/2", "a/b c/d/3", "a/e/4", "f"].map(String::from)).await;
    assert_eq!(scene.store.folders("a/").await.unwrap(), ["b c", "e"]);
    assert_eq!(scene.store.folders("").await.unwrap(), ["a"]);
    assert!(scene.store.folders("absent/").await.unwrap().is_empty());
}

async fn supports_keys_with_special_characters(scene: Scene) {
    let keys = [
        "with space/a b.mp4",
        "plus+and%20percent.mp4",
        "what?#is&this=.mp4",
        "ünï/日本語.mp4",
        "quote'\"<>.mp4",
        "colon:semi;at@$,!*()~[].mp4",
        "=equals/dt=2026-11-01.mp4",
        "back\\slash.mp4",
    ]
    .map(String::from);
    put_all(&scene, &keys).await;
    let mut expected = keys.to_vec();
    expected.sort();
    assert_eq!(listed(&scene, "").await, expected);
    for key in &keys {
        assert_eq!(scene.store.get(key).await.unwrap(), key.as_bytes(), "{key}");
        assert_eq!(scene.store.head(key).await.unwrap().key, *key);
        assert!(scene.store.uri(key).ends_with(&format!("/a root+é %/{key}")), "{}", scene.store.uri(key));
        let published = format!("published/{key}");
        scene.store.publish(key, &published).await.unwrap();
        assert_eq!(scene.store.get(&published).await.unwrap(), key.as_bytes(), "{key}");
        scene.store.delete(&[key.clone(), published]).await.unwrap();
    }
    assert!(listed(&scene, "").await.is_empty());
}

async fn reads_ranges_at_the_edges(scene: Scene) {
    let body: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    scene.store.put("k", body.clone().into()).await.unwrap();
    let etag = scene.store.head("k").await.unwrap().etag;
    let size = body.len() as u64;
    for (offset, length) in [
        (0, 1),
        (0, size),
        (0, size + 1),
        (1, size),
        (size - 1, 1),
        (size - 1, 10),
        (500, 1000),
        (0, 0),
        (7, 0),
        (size, 1),
        (size, 0),
        (size + 5, 10),
        (0, u64::MAX),
        (10, u64::MAX),
    ] {
        let read = scene.store.get_range("k", offset, length).await.unwrap();
        let start = offset.min(size) as usize;
        let end = offset.saturating_add(length).min(size) as usize;
        assert_eq!(read.bytes, body[start..end.max(start)], "{offset}+{length}");
        assert_eq!(read.etag, etag, "{offset}+{length}");
    }
    assert_eq!(scene.store.get("k").await.unwrap(), body);
}

async fn reads_an_empty_object(scene: Scene) {
    scene.store.put("empty", Bytes::new()).await.unwrap();
    assert!(scene.store.get("empty").await.unwrap().is_empty());
    let meta = scene.store.head("empty").await.unwrap();
    assert_eq!(meta.size_bytes, 0);
    let read = scene.store.get_range("empty", 0, 100).await.unwrap();
    assert!(read.bytes.is_empty());
    assert_eq!(read.etag, meta.etag);
    assert_eq!(listed(&scene, "").await, ["empty"]);
}

async fn put_replaces_and_changes_the_etag(scene: Scene) {
    let before = Bytes::from_static(b"first");
    scene.store.put("d/k", before.clone()).await.unwrap();
    let first = scene.store.get_range("d/k", 0, 5).await.unwrap();
    scene.store.put("d/k", Bytes::from_static(b"other")).await.unwrap();
    let second = scene.store.get_range("d/k", 0, 5).await.unwrap();
    assert_eq!(first.bytes, before);
    assert_eq!(second.bytes, "other");
    assert_ne!(first.etag, second.etag);
    assert!(!second.etag.is_empty() && !second.etag.contains('"'));
    assert_eq!(scene.store.head("d/k").await.unwrap().etag, second.etag);
}

async fn put_new_has_one_winner_among_concurrent_writers(scene: Scene) {
    for round in 0..5 {
        let key = format!("commits/{round}/0001.json");
        let bodies: Vec<Bytes> = (0..8).map(|writer| Bytes::from(vec![b'a' + writer; 20_000])).collect();
        let writers = bodies.iter().map(|body| {
            let (store, key, body) = (Arc::clone(&scene.store), key.clone(), body.clone());
            tokio::spawn(async move { store.put_new(&key, body).await })
        });
        let outcomes: Vec<PutNew> =
            futures::future::join_all(writers).await.into_iter().map(|outcome| outcome.unwrap().unwrap()).collect();
        let winners: Vec<usize> = (0..8).filter(|&writer| outcomes[writer] == PutNew::Created).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        assert_eq!(scene.store.get(&key).await.unwrap(), bodies[winners[0]]);
        assert_eq!(scene.store.put_new(&key, Bytes::from_static(b"late")).await.unwrap(), PutNew::Exists);
        assert_eq!(scene.store.get(&key).await.unwrap(), bodies[winners[0]]);
        assert_eq!(listed(&scene, &format!("commits/{round}/")).await, [key]);
    }
}

async fn put_file_uploads_small_and_large_files(scene: Scene) {
    for (key, megabytes) in [("empty", 0), ("small.parquet", 1), ("large.parquet", 40)] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut body = Vec::with_capacity(megabytes << 20);
        for block in 0..megabytes << 7 {
            body.extend((0..8192_u32).map(|n| (n ^ block as u32) as u8));
        }
        file.write_all(&body).unwrap();
        file.flush().unwrap();
        scene.store.put_file(key, file.path()).await.unwrap();
        assert_eq!(scene.store.head(key).await.unwrap().size_bytes, body.len() as u64);
        assert!(scene.store.get(key).await.unwrap() == body, "{key}");
        assert!(file.path().exists());
    }
    let error = scene.store.put_file("k", std::path::Path::new("/nowhere/at/all")).await.unwrap_err();
    assert!(error.message.contains("/nowhere/at/all"), "{error}");
    assert_eq!(listed(&scene, "").await, ["empty", "large.parquet", "small.parquet"]);
}

async fn publish_is_idempotent(scene: Scene) {
    scene.store.put("attempt/part", Bytes::from_static(b"rows")).await.unwrap();
    for _ in 0..2 {
        scene.store.publish("attempt/part", "tables/dt=1/part").await.unwrap();
        assert_eq!(scene.store.get("tables/dt=1/part").await.unwrap(), "rows");
    }
    scene.store.delete(&["attempt/part".to_owned()]).await.unwrap();
    scene.store.publish("attempt/part", "tables/dt=1/part").await.unwrap();
    assert_eq!(listed(&scene, "").await, ["tables/dt=1/part"]);
    let error = scene.store.publish("attempt/part", "tables/other").await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
    assert!(error.message.contains("attempt/part"), "{error}");
}

async fn publish_replaces_an_existing_object(scene: Scene) {
    scene.store.put("to", Bytes::from_static(b"old")).await.unwrap();
    scene.store.put("from", Bytes::from_static(b"new")).await.unwrap();
    scene.store.publish("from", "to").await.unwrap();
    assert_eq!(scene.store.get("to").await.unwrap(), "new");
}

async fn delete_accepts_many_keys_and_missing_keys(scene: Scene) {
    let keys: Vec<String> = (0..1200).map(|n| format!("parts/{}/{n}", n % 7)).collect();
    put_all(&scene, &keys).await;
    scene.store.put("kept", Bytes::from_static(b"x")).await.unwrap();
    let mut deleted = keys.clone();
    deleted.push("parts/absent/key".to_owned());
    scene.store.delete(&deleted).await.unwrap();
    scene.store.delete(&deleted).await.unwrap();
    scene.store.delete(&[]).await.unwrap();
    assert_eq!(listed(&scene, "").await, ["kept"]);
}

async fn missing_objects_are_not_found(scene: Scene) {
    scene.store.put("there/is", Bytes::from_static(b"x")).await.unwrap();
    for key in ["absent", "there/absent", "there/is/below-a-file"] {
        let errors = [
            scene.store.head(key).await.unwrap_err(),
            scene.store.get(key).await.unwrap_err(),
            scene.store.get_range(key, 0, 10).await.unwrap_err(),
            scene.store.get_range(key, 10, 0).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
            assert!(error.message.contains(&scene.store.uri(key)), "{error}");
        }
    }
}

async fn a_missing_root_is_reported_quickly(scene: Scene) {
    let begun = Instant::now();
    let (missing, error) = scene.missing_root().await;
    assert_eq!(error.kind, StoreErrorKind::NoRoot, "{error}");
    assert!(error.message.contains(missing.trim_end_matches('/')), "{error}");
    assert!(error.hint.is_some());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

async fn head_agrees_with_the_listing(scene: Scene) {
    scene.store.put("k", Bytes::from_static(b"some bytes")).await.unwrap();
    let listed: Vec<ObjectMeta> = scene.store.list("").try_collect().await.unwrap();
    let head = scene.store.head("k").await.unwrap();
    assert_eq!(listed[0].etag, head.etag);
    assert_eq!(listed[0].size_bytes, head.size_bytes);
    // The HTTP header has a resolution of a second.
    assert!((listed[0].last_modified - head.last_modified).abs() < chrono::TimeDelta::seconds(1));
    assert!((chrono::Utc::now() - head.last_modified).abs() < chrono::TimeDelta::minutes(5));
}

#[tokio::test]
async fn local_listing_omits_incomplete_files_invalid_names_and_broken_links() {
    use std::os::unix::ffi::OsStrExt;
    let scene = local().await.unwrap();
    let root = std::path::PathBuf::from(scene.store.uri("x")).parent().unwrap().to_owned();
    put_all(&scene, &["d/k".to_owned()]).await;
    std::fs::write(root.join("d/.vidindex-tmp-abc"), "half").unwrap();
    std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"d/\xff.mp4")), "x").unwrap();
    std::os::unix::fs::symlink("..", root.join("d/cycle")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("d/dangling")).unwrap();
    std::os::unix::fs::symlink("self", root.join("d/self")).unwrap();
    std::os::unix::fs::symlink("k", root.join("d/link")).unwrap();
    std::os::unix::fs::symlink("d", root.join("folder-link")).unwrap();
    assert_eq!(listed(&scene, "").await, ["d/k", "d/link", "folder-link/k", "folder-link/link"]);
}

#[tokio::test]
async fn local_scan_does_not_open_an_excluded_folder() {
    use std::fs::{File, FileTimes};
    let scene = local().await.unwrap();
    put_all(&scene, &["entered/a", "excluded/b"].map(String::from)).await;
    let folder = |name: &str| std::path::PathBuf::from(scene.store.uri(name));
    let read_at = |name: &str| std::fs::metadata(folder(name)).unwrap().accessed().unwrap();
    let long_ago = std::time::UNIX_EPOCH;
    for name in ["entered", "excluded"] {
        File::open(folder(name)).unwrap().set_times(FileTimes::new().set_accessed(long_ago)).unwrap();
    }
    assert_eq!(scanned(&*scene.store, |folder| folder != "excluded/").await.0, ["entered/a"]);
    assert_eq!(read_at("excluded"), long_ago);
    if read_at("entered") == long_ago {
        assert!(std::env::var_os("VIDINDEX_TEST_REQUIRE").is_none(), "the file system does not record access times");
        eprintln!("skipped: the file system does not record access times");
    }
}

#[tokio::test]
async fn local_keys_cannot_leave_the_root() {
    let scene = local().await.unwrap();
    for key in ["../x", "a/../../x", "/etc/hostname", "a//b", "./a", "", "a/"] {
        assert!(scene.store.put(key, Bytes::new()).await.is_err(), "{key}");
        assert!(scene.store.get(key).await.is_err(), "{key}");
    }
}

#[tokio::test]
async fn local_delete_removes_empty_directories() {
    let scene = local().await.unwrap();
    put_all(&scene, &["a/b/c/k".to_owned(), "a/other".to_owned()]).await;
    scene.store.publish("a/b/c/k", "published").await.unwrap();
    scene.store.delete(&["a/b/c/k".to_owned()]).await.unwrap();
    assert!(!std::path::Path::new(&scene.store.uri("a/b")).exists());
    assert!(std::path::Path::new(&scene.store.uri("a")).exists());
    scene.store.delete(&["a/other".to_owned(), "published".to_owned()]).await.unwrap();
    assert!(listed(&scene, "").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn local_writes_succeed_while_empty_directories_are_removed() {
    let scene = local().await.unwrap();
    let tasks = (0..4).map(|task| {
        let store = Arc::clone(&scene.store);
        tokio::spawn(async move {
            for n in 0..200 {
                let key = format!("deep/er/and/deeper/{task}-{n}");
                store.put(&key, Bytes::from_static(b"x")).await.unwrap();
                store.delete(&[key]).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert!(listed(&scene, "").await.is_empty());
}

#[tokio::test]
async fn local_root_that_is_a_file_is_rejected() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = first_error(file.path().to_str().unwrap(), &StoreConfig::default()).await;
    assert_eq!(error.kind, StoreErrorKind::NoRoot);
    assert!(error.message.contains("is a file"), "{error}");
}

#[tokio::test]
async fn memory_directory_is_created_by_its_first_write() {
    let store = MemoryStore::absent_directory("/absent");
    assert!(store.list("videos/").try_collect::<Vec<_>>().await.unwrap().is_empty());
    assert_eq!(store.get("k").await.unwrap_err().kind, StoreErrorKind::NoRoot);
    store.put("k", Bytes::from_static(b"x")).await.unwrap();
    store.publish("k", "published").await.unwrap();
    store.delete(&["published".to_owned()]).await.unwrap();
    assert_eq!(store.get("k").await.unwrap_err().kind, StoreErrorKind::NotFound, "publish did not rename the object");
    assert!(store.list("").try_collect::<Vec<_>>().await.unwrap().is_empty());
}

/// Three objects, whose content is their key.
fn three() -> MemoryStore {
    let objects = MemoryStore::bucket("s3://bucket/");
    ["a", "b", "c"].into_iter().for_each(|key| objects.insert(key, key));
    objects
}

#[tokio::test]
async fn faulty_writes_fail_as_configured_and_then_succeed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for fault in [WriteFault::Refused(StoreErrorKind::AccessDenied), WriteFault::AnswerLost] {
        let objects = three();
        let store = FaultyStore::new(objects.clone()).failing_writes([Some(fault); 4]);
        let errors = [
            store.put("new", Bytes::new()).await.unwrap_err(),
            store.put_file("file", file.path()).await.unwrap_err(),
            store.publish("a", "published").await.unwrap_err(),
            store.delete(&["a".to_owned(), "b".to_owned()]).await.unwrap_err(),
        ];
        let (kind, keys) = match fault {
            WriteFault::Refused(kind) => (kind, vec!["a", "b", "c"]),
            WriteFault::AnswerLost => (StoreErrorKind::Transient, vec!["b", "c", "file", "new", "published"]),
        };
        assert!(errors.iter().all(|error| error.kind == kind && error.message.contains("s3://bucket/")), "{errors:?}");
        assert_eq!(objects.keys(), keys);
        store.put("new", Bytes::new()).await.unwrap();
        store.delete(&["a".to_owned(), "b".to_owned()]).await.unwrap();
        assert!(objects.keys().iter().all(|key| key != "b"));
    }
}

#[tokio::test]
async fn faulty_put_new_with_a_lost_response_finds_its_own_object() {
    let objects = three();
    let store =
        FaultyStore::new(objects.clone()).failing_writes([Some(WriteFault::OUTAGE), Some(WriteFault::AnswerLost)]);
    let put = || store.put_new("new", Bytes::from_static(b"ours"));
    assert_eq!(put().await.unwrap_err().kind, StoreErrorKind::Transient);
    assert_eq!(objects.keys(), ["a", "b", "c"]);
    assert_eq!(put().await.unwrap(), PutNew::Exists);
    assert_eq!(objects.contents()["new"], "ours");
}

#[tokio::test]
async fn faulty_delete_can_stop_in_the_middle() {
    let objects = three();
    let store = FaultyStore::new(objects.clone()).failing_writes([None, Some(WriteFault::OUTAGE)]);
    store.delete(&["a", "b", "c"].map(str::to_owned)).await.unwrap_err();
    assert_eq!(objects.keys(), ["b", "c"]);
}

#[tokio::test]
async fn faulty_reads_fail_or_are_truncated_as_configured() {
    let objects = MemoryStore::bucket("s3://bucket/");
    objects.insert("k", "whole");
    objects.insert("l", "other");
    let denied = Some(ReadFault::Refused(StoreErrorKind::AccessDenied));
    let store = FaultyStore::new(objects.clone()).failing_reads([denied; 6]);
    let errors = [
        store.get("k").await.unwrap_err(),
        store.get_range("k", 0, 3).await.unwrap_err(),
        store.head("k").await.unwrap_err(),
        store.folders("").await.unwrap_err(),
        store.list("").try_collect::<Vec<_>>().await.unwrap_err(),
        store.scan(Arc::new(|_| true)).try_collect::<Vec<_>>().await.unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.kind == StoreErrorKind::AccessDenied), "{errors:?}");
    assert_eq!(store.get("k").await.unwrap(), "whole");

    let store = FaultyStore::new(objects).failing_reads([None, Some(ReadFault::CutOff(2)), Some(ReadFault::CutOff(1))]);
    assert_eq!(store.get("k").await.unwrap(), "whole");
    assert_eq!(store.get_range("k", 1, 4).await.unwrap().bytes, "ho");
    let listed = store.list("").collect::<Vec<_>>().await;
    assert_eq!(listed[0].as_ref().unwrap().key, "k");
    assert_eq!(listed[1].as_ref().unwrap_err().kind, StoreErrorKind::Transient);
    assert_eq!(listed.len(), 2);
}

/// A request that is polled manually can be dropped before or after its effect.
#[tokio::test]
async fn faulty_requests_pause_before_and_after_their_effect() {
    let objects = three();
    let store = FaultyStore::new(objects.clone());
    let mut put = store.put("new", Bytes::new());
    assert!(futures::poll!(&mut put).is_pending() && objects.keys().len() == 3);
    assert!(futures::poll!(&mut put).is_pending() && objects.keys().len() == 4);
    assert!(futures::poll!(&mut put).is_ready());
}

#[tokio::test]
async fn unknown_schemes_are_rejected() {
    for uri in ["gs://bucket/", "https://example.com/x", "", "s3:///prefix"] {
        let error = open(uri, &StoreConfig::default()).await.err().unwrap();
        assert_eq!(error.kind, StoreErrorKind::NoRoot, "{uri}");
        assert!(error.hint.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_directory_markers_are_not_listed() {
    let Some(scene) = s3("markers").await else { return };
    put_all(&scene, &["folder/".to_owned(), "folder/k".to_owned()]).await;
    assert_eq!(listed(&scene, "").await, ["folder/k"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_unknown_credentials_are_reported() {
    let Some(server) = S3Server::start() else { return };
    server.create_bucket("denied");
    let store = open("s3://denied/", &server.config()).await.unwrap();
    server.reject_all_credentials();
    let begun = Instant::now();
    for error in [
        store.list("").try_collect::<Vec<_>>().await.unwrap_err(),
        store.get("k").await.unwrap_err(),
        store.head("k").await.unwrap_err(),
        store.put("k", Bytes::from_static(b"x")).await.unwrap_err(),
        store.put_new("k", Bytes::from_static(b"x")).await.unwrap_err(),
        store.delete(&["k".to_owned()]).await.unwrap_err(),
        store.publish("k", "l").await.unwrap_err(),
        first_error("s3://denied/", &server.config()).await,
    ] {
        // The server does not know the access key, which is different from a denied action.
        assert_eq!(error.kind, StoreErrorKind::Credentials, "{error}");
        assert!(error.message.contains("s3://denied/"), "{error}");
        assert!(error.hint.is_some(), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_bucket_that_was_deleted_is_a_missing_root_and_not_a_missing_object() {
    let Some(server) = S3Server::shared() else { return };
    server.create_bucket("short-lived");
    let store = open("s3://short-lived/p/", &server.config()).await.unwrap();
    assert!(server.request("DELETE", "/short-lived", b"").unwrap().starts_with("HTTP/1.1 204"));
    for error in [
        store.list("").try_collect::<Vec<_>>().await.unwrap_err(),
        store.head("k").await.unwrap_err(),
        store.get("k").await.unwrap_err(),
        store.put("k", Bytes::from_static(b"x")).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, StoreErrorKind::NoRoot, "{error}");
        assert!(error.message.contains("the bucket does not exist"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_endpoint_that_does_not_respond_is_reported_within_ten_seconds() {
    support::s3::set_credentials();
    // The kernel accepts connections, but nothing is ever sent.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoints = [
        format!("http://127.0.0.1:{}", support::s3::free_port()),
        format!("http://{}", silent.local_addr().unwrap()),
        // An address that is reserved for documentation. The network may drop or reject packets to it.
        "http://192.0.2.1:9000".to_owned(),
        "https://192.0.2.1".to_owned(),
        "http://no-such-host.invalid".to_owned(),
    ];
    let checks = endpoints.map(|endpoint| async move {
        let begun = Instant::now();
        let config = StoreConfig { endpoint: Some(endpoint.clone()), ..StoreConfig::default() };
        let error = first_error("s3://bucket/prefix/", &config).await;
        eprintln!("{endpoint}: {:?}: {error}", begun.elapsed());
        assert_eq!(error.kind, StoreErrorKind::Transient, "{error}");
        assert!(error.hint.as_ref().unwrap().contains(&endpoint), "{error:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{endpoint}: {:?}", begun.elapsed());
    });
    futures::future::join_all(checks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_missing_credentials_are_reported_within_ten_seconds() {
    if std::env::var("VIDINDEX_TEST_CHILD").is_ok() {
        for config in [
            StoreConfig { endpoint: Some("http://127.0.0.1:9".to_owned()), ..StoreConfig::default() },
            StoreConfig::default(),
        ] {
            let begun = Instant::now();
            let error = first_error("s3://bucket/", &config).await;
            eprintln!("{:?}: {error}", begun.elapsed());
            assert_eq!(error.kind, StoreErrorKind::Credentials, "{error:?}");
            assert!(error.hint.as_ref().unwrap().contains("AWS_ACCESS_KEY_ID"), "{error:?}");
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        }
        return;
    }
    // In a process without credentials, and with a metadata service that never responds, as outside of AWS.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for metadata_service in [Some(format!("http://{}", silent.local_addr().unwrap())), None] {
        let child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::s3_missing_credentials_are_reported_within_ten_seconds", "--nocapture"])
            .env_clear()
            .env("VIDINDEX_TEST_CHILD", "1")
            .env("HOME", "/nonexistent")
            .envs(metadata_service.map(|address| ("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)))
            .output()
            .await
            .unwrap();
        let output = String::from_utf8_lossy(&child.stderr);
        eprintln!("{output}");
        assert!(child.status.success(), "{output}");
        // A name that matches no test succeeds as well.
        assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_read_with_a_truncated_body_is_resumed() {
    let Some(server) = S3Server::shared() else { return };
    server.create_bucket("broken-bodies");
    let body = Bytes::from((0..3_000_000_u32).map(|n| (n / 7) as u8).collect::<Vec<_>>());
    open("s3://broken-bodies/", &server.config()).await.unwrap().put("k", body.clone()).await.unwrap();
    for (times, succeeds) in [(2, true), (20, false)] {
        let proxy = BreakingProxy::to(server.address(), "GET /broken-bodies/k", 700_000, times).await;
        let retry_seconds = Some(if succeeds { 60 } else { 1 });
        let config = StoreConfig { endpoint: Some(proxy.endpoint()), retry_seconds, ..StoreConfig::default() };
        let store = open("s3://broken-bodies/", &config).await.unwrap();
        let read = store.get_range("k", 1000, 2_900_000).await;
        if succeeds {
            assert!(read.unwrap().bytes == body.slice(1000..2_901_000));
            assert_eq!(proxy.broken(), times);
            assert!(store.get("k").await.unwrap() == body);
        } else {
            // 2.9 MB in pieces of 700 kB take five attempts, which do not fit in a second. The bucket responds, so that
            // the object is unreadable.
            assert_eq!(read.unwrap_err().kind, StoreErrorKind::Unreadable);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_requests_say_who_pays_how_to_encrypt_and_who_asks() {
    let Some(server) = S3Server::shared() else { return };
    server.create_bucket("settings");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![7; 20 << 20]).unwrap();
    let through = async |config: StoreConfig, uri: &str| {
        let proxy = BreakingProxy::to(server.address(), "nothing", 0, 0).await;
        let store = open(uri, &StoreConfig { endpoint: Some(proxy.endpoint()), ..config }).await.unwrap();
        (proxy, store)
    };
    let (proxy, store) = through(server.config(), "s3://settings/").await;
    store.put("plain", Bytes::from_static(b"body")).await.unwrap();
    let sent = proxy.sent();
    assert!(sent.contains("authorization: aws4") && !sent.contains("request-payer") && !sent.contains("encryption"));

    let config = StoreConfig {
        requester_pays: Some(true),
        encryption: Some(Encryption::Kms),
        kms_key: Some("alias/index".to_owned()),
        ..server.config()
    };
    let (proxy, store) = through(config, "s3://settings/").await;
    store.put("encrypted", Bytes::from_static(b"body")).await.unwrap();
    store.put_file("large", file.path()).await.unwrap();
    store.publish("encrypted", "copy").await.unwrap();
    assert_eq!(store.get("copy").await.unwrap(), "body");
    let sent = proxy.sent();
    let signed = "signedheaders=";
    for request in sent.split("authorization: ").skip(1) {
        let headers = request.split(signed).nth(1).unwrap().split(',').next().unwrap();
        assert!(headers.contains("x-amz-request-payer"), "{headers}");
    }
    assert_eq!(sent.matches("x-amz-request-payer: requester").count(), sent.matches("authorization: ").count());
    // Two objects and a copy; the parts of the large one do not repeat it.
    assert_eq!(sent.matches("x-amz-server-side-encryption: aws:kms").count(), 3);
    assert_eq!(sent.matches("x-amz-server-side-encryption-aws-kms-key-id: alias/index").count(), 3);

    let config = StoreConfig { anonymous: Some(true), ..server.config() };
    let (proxy, store) = through(config, "s3://settings/").await;
    // Whether the server accepts it or not.
    let _ = store.get("plain").await;
    assert!(proxy.sent().contains("get /settings/plain") && !proxy.sent().contains("authorization"));
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conditional_put_with_a_lost_response_recognizes_its_own_object() {
    let Some(server) = S3Server::shared() else { return };
    server.create_bucket("lost-responses");
    let proxy = BreakingProxy::to(server.address(), "PUT /lost-responses/", 0, 1).await;
    let config = StoreConfig { endpoint: Some(proxy.endpoint()), ..StoreConfig::default() };
    let store = open("s3://lost-responses/", &config).await.unwrap();
    assert_eq!(store.put_new("commit", Bytes::from_static(b"mine")).await.unwrap(), PutNew::Created);
    assert_eq!(proxy.broken(), 1);
    assert_eq!(store.put_new("commit", Bytes::from_static(b"theirs")).await.unwrap(), PutNew::Exists);
    assert_eq!(store.get("commit").await.unwrap(), "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_compatible_server_without_delete_objects_gets_single_deletes() {
    support::s3::set_credentials();
    let (endpoint, heads) = serving(|head| match head.split(' ').next() {
        Some("POST") => "501 Not Implemented",
        Some("DELETE") => "204 No Content",
        _ => "200 OK",
    })
    .await;
    let config = StoreConfig { endpoint: Some(endpoint), ..StoreConfig::default() };
    let store = open("s3://old/p/", &config).await.unwrap();
    store.delete(&(0..20).map(|n| format!("k{n}")).collect::<Vec<_>>()).await.unwrap();
    let heads = heads.lock().unwrap();
    assert_eq!(heads.iter().filter(|head| head.starts_with("DELETE /old/p/k")).count(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_bucket_in_another_region_is_found_unless_a_region_is_set() {
    support::s3::set_credentials();
    // The responses of S3 for a bucket in eu-west-3. In the right region, access is denied.
    let (endpoint, heads) = serving(|head| match head.contains("/eu-west-3/s3/") {
        true => "403 Forbidden\r\nx-amz-bucket-region: eu-west-3",
        false => "301 Moved Permanently\r\nx-amz-bucket-region: eu-west-3",
    })
    .await;
    let config = StoreConfig { endpoint: Some(endpoint), ..StoreConfig::default() };
    let store = open("s3://far/", &config).await.unwrap();
    assert_eq!(store.head("k").await.unwrap_err().kind, StoreErrorKind::AccessDenied);
    assert!(heads.lock().unwrap().last().unwrap().contains("/eu-west-3/s3/aws4_request"));
    let set = StoreConfig { region: Some("us-west-1".to_owned()), ..config };
    let error = open("s3://far/", &set).await.err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::NoRoot);
    assert!(error.hint.unwrap().contains("region = \"eu-west-3\""));
}

/// A server that responds to each request with the status and headers that `response` returns for the request's
/// headers, and without a body.
async fn serving(response: fn(&str) -> &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            client.read_exact(&mut body).await.unwrap();
            let reply = format!("HTTP/1.1 {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", response(&head));
            seen.lock().unwrap().push(head);
            client.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    (endpoint, heads)
}

async fn put_all(scene: &Scene, keys: &[String]) {
    // The content of each object is its key.
    stream::iter(keys.to_vec())
        .map(|key| async move { scene.store.put(&key, key.clone().into()).await })
        .buffer_unordered(32)
        .try_collect::<()>()
        .await
        .unwrap();
}

/// The listed keys, sorted. Checks that none is listed twice.
async fn listed(scene: &Scene, prefix: &str) -> Vec<String> {
    let objects: Vec<ObjectMeta> = scene.store.list(prefix).try_collect().await.unwrap();
    let mut counts = HashMap::new();
    for object in &objects {
        *counts.entry(object.key.as_str()).or_insert(0) += 1;
    }
    assert!(counts.values().all(|&count| count == 1), "{counts:?}");
    let mut keys: Vec<String> = objects.into_iter().map(|object| object.key).collect();
    keys.sort();
    keys
}

/// The keys of the objects that a scan finds, sorted, and the folders that it does not enter.
async fn scanned(store: &dyn Store, enter: fn(&str) -> bool) -> (Vec<String>, Vec<String>) {
    let (mut found, mut excluded) = (Vec::new(), Vec::new());
    for scanned in store.scan(Arc::new(enter)).try_collect::<Vec<_>>().await.unwrap() {
        match scanned {
            Scanned::Object(object) => found.push(object.key),
            Scanned::NotEntered(key) => excluded.push(key),
            Scanned::Unlisted { reason, .. } => panic!("{reason}"),
        }
    }
    found.sort();
    (found, excluded)
}

/// The error that a user gets who opens and lists this root.
async fn first_error(uri: &str, config: &StoreConfig) -> StoreError {
    match open(uri, config).await {
        Err(error) => error,
        Ok(store) => store.list("").try_collect::<Vec<_>>().await.unwrap_err(),
    }
}
