//! One suite for every store: what holds in a directory holds in a bucket.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use support::s3::{CREDENTIALS, S3Server};
use vidindex::store::{self, PutNew, Store, StoreConfig, StoreErrorKind};

#[tokio::test]
async fn a_directory_is_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("not there yet");
    let missing = open(root.to_str().unwrap(), None).await;
    assert_eq!(missing.list("").next().await.unwrap().unwrap_err().kind, StoreErrorKind::NoRoot);
    conforms(|name| {
        let path = root.join(name);
        async move { open(path.to_str().unwrap(), None).await }
    })
    .await;
    // Nothing half-written is left.
    let left = walkdir::WalkDir::new(&root).into_iter().map(|entry| entry.unwrap().file_name().to_owned());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with(".vidindex-tmp-")));
}

#[tokio::test]
async fn a_bucket_is_a_store() {
    let Some(server) = S3Server::start(&["suite"]) else { return };
    let endpoint = server.endpoint.clone();
    conforms(|name| {
        let (endpoint, uri) = (endpoint.clone(), format!("s3://suite/some/prefix/{name}"));
        async move { open(&uri, Some(&endpoint)).await }
    })
    .await;

    let started = Instant::now();
    let missing = open("s3://nowhere/", Some(&server.endpoint)).await;
    let error = missing.list("").next().await.unwrap().unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NoRoot, "{error}");
    assert!(error.to_string().contains("nowhere") && error.hint.is_some(), "{error}");
    let unreachable = open("s3://suite/", Some("http://127.0.0.1:9")).await;
    let error = unreachable.list("").next().await.unwrap().unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unreachable, "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

async fn open(uri: &str, endpoint: Option<&str>) -> Arc<dyn Store> {
    if endpoint.is_some() {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            for (name, value) in CREDENTIALS {
                // SAFETY: called once, and this binary reads the environment through std alone.
                unsafe { std::env::set_var(name, value) };
            }
        });
    }
    let config = StoreConfig { endpoint: endpoint.map(str::to_owned), ..Default::default() };
    store::open(uri, &config).await.unwrap()
}

/// Runs the suite, each part in a store of its own.
async fn conforms<F: Future<Output = Arc<dyn Store>>>(open: impl Fn(&'static str) -> F) {
    whole_objects(&*open("objects").await).await;
    odd_keys(&*open("keys").await).await;
    long_listings(open("listing").await).await;
    ranges(&*open("ranges").await).await;
    one_of_many_wins(open("race").await).await;
    files(&*open("files").await).await;
    publishing(&*open("publish").await).await;
    refuses_what_leads_out(&*open("out").await).await;
}

async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.list(prefix).map_ok(|object| object.key).try_collect().await.unwrap()
}

async fn whole_objects(store: &dyn Store) {
    assert_eq!(store.head("a").await.unwrap_err().kind, StoreErrorKind::NotFound);
    assert_eq!(store.get("a").await.unwrap_err().kind, StoreErrorKind::NotFound);
    assert_eq!(store.get_range("a", 0, 1).await.unwrap_err().kind, StoreErrorKind::NotFound);
    store.put("a", Bytes::from_static(b"first")).await.unwrap();
    let first = store.head("a").await.unwrap();
    assert_eq!((first.size_bytes, first.key.as_str()), (5, "a"));
    assert!(!first.etag.is_empty() && !first.etag.contains('"'));
    assert!((chrono::Utc::now() - first.last_modified).num_seconds().abs() < 60);
    assert_eq!(store.list("").try_next().await.unwrap().unwrap(), first);

    store.put("a", Bytes::from_static(b"other")).await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), "other");
    let changed = store.get_range("a", 0, 5).await.unwrap();
    assert_ne!(changed.etag, first.etag, "another content is another version");
    assert_eq!(changed.etag, store.head("a").await.unwrap().etag);

    store.put("empty", Bytes::new()).await.unwrap();
    assert_eq!(store.get("empty").await.unwrap(), "");
    store.delete(&["a".to_owned(), "never/there".to_owned(), "empty".to_owned()]).await.unwrap();
    assert_eq!(keys(store, "").await, Vec::<String>::new());
    assert!(store.uri("x/y").ends_with("/objects/x/y"));
}

async fn odd_keys(store: &dyn Store) {
    let odd = ["a b+c.mp4", "dt=2026-11-01/ü.mp4", "100%/#1?.mp4", "q&a;'\"/~.mp4", "日本/動画.mp4"];
    for key in odd {
        store.put(key, Bytes::copy_from_slice(key.as_bytes())).await.unwrap();
    }
    let listed: BTreeSet<_> = keys(store, "").await.into_iter().collect();
    assert_eq!(listed, odd.iter().map(|key| (*key).to_owned()).collect());
    for key in odd {
        assert_eq!(store.get(key).await.unwrap(), key);
        let copy = format!("copies/{key}");
        store.publish(key, &copy).await.unwrap();
        assert_eq!(store.get(&copy).await.unwrap(), key);
    }
    assert_eq!(keys(store, "copies/").await.len(), odd.len());
}

async fn long_listings(store: Arc<dyn Store>) {
    let key = |i: usize| format!("{}/{i:05}", ["even", "odd"][i % 2]);
    let puts = (0..2300).map(|i| {
        let store = store.clone();
        async move { store.put(&key(i), Bytes::from_static(b"x")).await.unwrap() }
    });
    futures::stream::iter(puts).buffer_unordered(16).collect::<Vec<_>>().await;
    let all = keys(&*store, "").await;
    assert_eq!(all.len(), 2300);
    assert!(all.is_sorted());
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 2300);
    assert_eq!(keys(&*store, "odd/").await.len(), 1150);
    assert_eq!(keys(&*store, "none/").await.len(), 0);
    store.delete(&all).await.unwrap();
    assert_eq!(keys(&*store, "").await.len(), 0);
}

async fn ranges(store: &dyn Store) {
    let content: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    store.put("v", content.clone().into()).await.unwrap();
    for (offset, length) in [(0, 1), (0, 100_000), (99_999, 1), (99_990, 100), (5, 0), (100_000, 10), (200_000, 1)] {
        let read = store.get_range("v", offset, length).await.unwrap();
        let (from, to) = ((offset as usize).min(100_000), ((offset + length) as usize).min(100_000));
        assert_eq!(read.bytes, content[from..to.max(from)], "{length} from {offset}");
        assert!(!read.etag.is_empty());
    }
    store.put("empty", Bytes::new()).await.unwrap();
    assert_eq!(store.get_range("empty", 0, 10).await.unwrap().bytes, "");
}

async fn one_of_many_wins(store: Arc<dyn Store>) {
    for round in 0..20 {
        let key = format!("commit-{round}");
        let writers = (0..8).map(|writer| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move { store.put_new(&key, vec![writer; 1000].into()).await.unwrap() })
        });
        let results: Vec<_> = futures::future::join_all(writers).await.into_iter().map(Result::unwrap).collect();
        let winners: Vec<u8> = (0..8).filter(|w| results[*w as usize] == PutNew::Created).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(store.get(&key).await.unwrap(), vec![winners[0]; 1000]);
    }
    assert_eq!(store.put_new("commit-0", Bytes::from_static(b"late")).await.unwrap(), PutNew::Exists);
}

async fn files(store: &dyn Store) {
    let dir = tempfile::tempdir().unwrap();
    for size in [0, 1000, 40 * 1024 * 1024 + 17] {
        let content: Vec<u8> = (0..size).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let file = dir.path().join("part");
        std::fs::write(&file, &content).unwrap();
        store.put_file("deep/er/part", &file).await.unwrap();
        assert!(store.get("deep/er/part").await.unwrap() == content, "{size} bytes");
    }
    assert!(store.put_file("never", &dir.path().join("missing")).await.is_err());
    assert_eq!(keys(store, "").await, ["deep/er/part"]);
}

async fn publishing(store: &dyn Store) {
    store.put("_vidindex/a", Bytes::from_static(b"one")).await.unwrap();
    store.put("table/a", Bytes::from_static(b"earlier")).await.unwrap();
    store.publish("_vidindex/a", "table/a").await.unwrap();
    assert_eq!(store.get("table/a").await.unwrap(), "one");
    // Again, whether the source is still there or not.
    store.publish("_vidindex/a", "table/a").await.unwrap();
    store.delete(&["_vidindex/a".to_owned()]).await.unwrap();
    store.publish("_vidindex/a", "table/a").await.unwrap();
    assert_eq!(store.get("table/a").await.unwrap(), "one");
    assert_eq!(store.publish("_vidindex/b", "table/b").await.unwrap_err().kind, StoreErrorKind::NotFound);
}

async fn refuses_what_leads_out(store: &dyn Store) {
    if store.uri("").starts_with("s3://") {
        // To a bucket `..` is a name like any other.
        return;
    }
    for key in ["../x", "a/../../x", "/x", ""] {
        assert!(store.put(key, Bytes::new()).await.is_err(), "{key:?}");
    }
}
