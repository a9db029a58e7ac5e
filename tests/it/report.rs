//! The page of the report in a real Chromium: search, filters, mouse and keyboard, and a page of ten thousand videos.
//! Screenshots are saved below the target directory, as `tmp/report-*.png`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use vidindex::error::VideoErrorKind;
use vidindex::job::Job;
use vidindex::run::attempt::AttemptId;
use vidindex::run::commit::ShardTotals;
use vidindex::run::record::job_key;
use vidindex::run::{ModelRef, RunRecord, Todo, VideoObject};
use vidindex::tables::{ActionRow, LabelScore, PersonRow, Provenance, ThumbnailRow, VideoRow, VideoStatus};
use vidindex::work::commit::{ShardRows, commit};
use vidindex::work::encode::ShardEncoder;
use vidindex::{seal, store};

use crate::support::browser::{Browser, key};
use crate::support::{Scratch, query, run, said, stderr, stdout, tables, test_video, vidindex};

fn report(job: &Path, page: &Path, args: &[&str], code: i32) -> std::process::Output {
    let mut command = vidindex(["report".as_ref(), job.as_os_str(), "-o".as_ref(), page.as_os_str()]);
    let output = command.args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    output
}

#[test]
fn the_page_works_with_mouse_and_keyboard() {
    let scratch = Scratch::new();
    let videos = scratch.videos();
    // The path of the first video contains markup and a script, which the page must escape.
    let hostile =
        videos.join("<img src=x onerror=\"document.title='hijacked'\"> & <").join("script>document.title='hijacked'<");
    std::fs::create_dir_all(&hostile).unwrap();
    test_video(&hostile.join("script>.mp4"), "320x240", "30", 5.0, &["-pix_fmt", "yuv420p"]);
    test_video(&videos.join("good.mp4"), "320x180", "30", 9.0, &["-pix_fmt", "yuv420p"]);
    std::fs::write(videos.join("text.mp4"), "this is not a video\n".repeat(100)).unwrap();
    let job = scratch.job(&format!("{}[report]\nthumbnails = true\n", scratch.small_models()));
    run(&job, &[], 3);
    let page = scratch.path("report.html");
    assert_eq!(stdout(&report(&job, &page, &[], 0)), page.to_str().unwrap());
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(!html.contains("<img src=x") && !html.contains("hijacked"), "the page contains unescaped text");

    let thumbnails: Vec<_> = tables::rows(&scratch.index(), "thumbnails")
        .into_iter()
        .filter(|row| row["uri"].as_str().unwrap().ends_with("good.mp4"))
        .collect();
    assert!((2..=32).contains(&thumbnails.len()), "{} thumbnails", thumbnails.len());
    assert_eq!((&thumbnails[0]["width"], &thumbnails[0]["height"]), (&json!(160), &json!(90)));

    let Some(browser) = Browser::start() else { return };
    browser.open(&page);
    assert_eq!(browser.count(".row"), 3);
    assert!(browser.text("#totals").contains("1 failed"), "{}", browser.text("#totals"));
    assert_eq!(browser.text("#state-of-run"), "complete, 1 failed");
    assert_eq!(browser.count("#state-of-run.ok"), 0, "a run with failures is not green");
    assert!(browser.text("#failures").contains("not_a_video"));
    assert!(browser.text(".examples").contains("text.mp4"));
    browser.script("scrollTo(0, document.querySelector('.browser').offsetTop - 12)");

    // A search selects the first match.
    browser.keys("/good".chars());
    assert_eq!((browser.count(".row"), browser.text("#count")), (1, "1 of 3".to_owned()));
    assert!(browser.text("#video h2").starts_with("good.mp4"));

    // A click selects a segment; keys select the next one and zoom.
    let bars = browser.count(".bar[data-segment]");
    assert!(bars >= 4, "{bars} bars");
    browser.click(".plot .bar[data-segment='2']");
    let slider = |attribute: &str| {
        browser.script(&format!("return document.querySelector('.plot').getAttribute('{attribute}')"))
    };
    assert_eq!(slider("aria-valuenow"), "3");
    assert!(browser.text(".moment h3").starts_with("Segment 2"), "{}", browser.text(".moment h3"));
    browser.script("document.querySelector('.plot').focus()");
    browser.keys([key::RIGHT]);
    assert_eq!(slider("aria-valuenow"), "4");
    let before = browser.script("return document.querySelector('.inner').clientWidth").as_f64().unwrap();
    browser.keys(['+']);
    assert_eq!(browser.script("return document.querySelector('.inner').clientWidth").as_f64().unwrap(), 2.0 * before);
    browser.keys(['0']);
    browser.keys([key::END]);
    assert_eq!(slider("aria-valuenow"), slider("aria-valuemax"));

    // The tooltip shows the scores of the segment below the mouse.
    browser.hover(".plot .bar[data-segment='1']");
    let expected = tables::rows(&scratch.index(), "actions")
        .into_iter()
        .find(|row| row["uri"].as_str().unwrap().ends_with("good.mp4") && row["segment"] == 1)
        .unwrap();
    let tip = browser.text("#tip");
    assert!(tip.contains(expected["top_label"].as_str().unwrap()), "{tip}");
    assert!(tip.contains(&format!("{:.2}", expected["top_score"].as_f64().unwrap())), "{tip}");

    // The thumbnails are complete, and show the boxes of their frames.
    browser.wait("return [...document.images].every((image) => image.complete && image.naturalWidth > 0)");
    browser.click(".strip button");
    let frame = &thumbnails[0]["frame"];
    let boxes = tables::rows(&scratch.index(), "persons")
        .into_iter()
        .filter(|row| row["uri"].as_str().unwrap().ends_with("good.mp4") && row["frame"] == *frame)
        .count();
    assert_eq!(browser.count(".moment rect") as usize, boxes.min(40));

    // The images of the strip are in the order of time, whatever was shown before: the tab key follows it.
    let order = browser.script("return [...document.querySelectorAll('.strip button')].map((b) => +b.dataset.picture)");
    assert!(order.as_array().unwrap().is_sorted_by_key(|picture| picture.as_u64()), "{order}");

    // Filters by label and score keep a video if one of its segments matches.
    let label = expected["top_label"].as_str().unwrap();
    let choose = format!(
        "const [select, name] = [document.querySelector('#label'), {}];
         select.value = [...select.options].find((option) => option.text === name).value;
         select.dispatchEvent(new Event('input'))",
        json!(label)
    );
    browser.script(&choose);
    assert!(browser.text(".row .facts").contains("match"), "{}", browser.text(".row .facts"));
    assert!(browser.text(".best h3").contains(label));
    browser.script("const s = document.querySelector('#score'); s.value = 1; s.dispatchEvent(new Event('input'))");
    assert_eq!((browser.count(".row"), browser.count("#moments-list li")), (0, 0));
    assert_eq!(browser.text("#moments-count"), "none with a score of at least 1.00");
    browser.click("#clear");
    assert_eq!(browser.count(".row"), 3);
    assert!(!browser.visible("#moments"));

    // The path with markup is shown as text, in the list and in the heading.
    browser.script("document.querySelector('#search').value = ''");
    browser.keys("/onerror".chars());
    assert!(browser.text("#video .folder").contains("<img src=x onerror="), "{}", browser.text("#video .folder"));
    assert_eq!(browser.text("#video h2 "), "script>.mp4 ✓ ok");
    browser.keys([key::ESCAPE]);

    // What a screen reader gets.
    let nodes = browser.accessibility_nodes().join("\n");
    for line in ["listbox Videos", "slider Segments", "searchbox Search", "heading Timeline", "button Zoom in"] {
        assert!(nodes.contains(line), "{line} is missing in\n{nodes}");
    }
    assert!(browser.script("return document.title").as_str().unwrap().ends_with("vidindex"));
    assert_eq!(browser.script("return performance.getEntriesByType('resource').length"), 0, "resources were fetched");
    assert_eq!(browser.console_messages(), [""; 0]);
    let background = "return getComputedStyle(document.body).backgroundColor";
    let light = browser.script(background);
    browser.set_colour_scheme("dark");
    assert_ne!(browser.script(background), light);
}

#[test]
fn a_label_lists_the_moments_of_the_view_and_jumps_to_them() {
    let scratch = Scratch::new();
    let job = archive(&scratch, 40);
    let page = scratch.path("report.html");
    report(&job, &page, &[], 0);
    let Some(browser) = Browser::start() else { return };
    browser.open(&page);
    // The strongest moments of a video do not repeat each other: those with the same label do not overlap.
    let strongest = browser.script(
        "return [...document.querySelectorAll('.best li')].map((li) => [li.querySelector('.name').innerText, li.querySelector('.when').innerText])",
    );
    let strongest = strongest.as_array().unwrap();
    assert!((1..=8).contains(&strongest.len()), "{strongest:?}");
    assert!(strongest.iter().enumerate().all(|(at, moment)| !strongest[..at].contains(moment)), "{strongest:?}");

    browser.click("#labels button");
    let label = browser.text("#moments-title").strip_prefix("Moments of ").unwrap().to_owned();
    assert_eq!(browser.script("return document.querySelector('#score').value"), "0.5");
    browser.script("document.querySelector('#more-moments').click(); document.querySelector('#more-moments').click()");
    let sql = format!("SELECT peak_score FROM current_moments WHERE label = '{label}' ORDER BY peak_score DESC");
    let expected: Vec<Value> = serde_json::from_str(&query(&scratch.index(), &["--format", "json", &sql])).unwrap();
    assert!(browser.text("#moments-count").starts_with(&format!("{} in ", expected.len())));
    let score = |moment: &Value| format!("{:.2}", moment["peak_score"].as_f64().unwrap());
    let first = browser.text("#moments-list li");
    assert!(first.contains(&score(&expected[0])), "{first}");
    let shown = browser.count("#moments-list li");
    assert_eq!(shown as usize, expected.len().min(384));
    browser.screenshot("moments-light");

    // The last one is in another video. A click selects its video and the segment of its peak.
    browser.script("document.querySelector('#moments-list li:last-child').scrollIntoView({ block: 'center' })");
    let name = browser.text("#moments-list li:last-child .name");
    browser.click("#moments-list li:last-child button");
    assert!(browser.text("#video h2").starts_with(&name));
    assert!(browser.text(".moment .wanted").contains(&label));
    let peak = browser.text(".moment .wanted .count");
    assert_eq!(peak, browser.text("#moments-list li:last-child .count"));
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn the_page_fits_a_phone_and_is_printed_whole() {
    let scratch = Scratch::new();
    let job = archive(&scratch, 90);
    let page = scratch.path("report.html");
    report(&job, &page, &[], 0);
    let Some(browser) = Browser::start() else { return };
    browser.set_size(375, 800);
    browser.open(&page);
    browser.click("#labels button");
    let too_wide = "const page = document.documentElement; return page.scrollWidth > page.clientWidth";
    assert_eq!(browser.script(too_wide), false, "it scrolls sideways on a phone");
    browser.script("scrollTo(0, document.querySelector('.moments').offsetTop - 12)");
    browser.screenshot("phone-light");
    browser.set_size(1440, 900);
    browser.script("document.querySelector('#clear').click(); document.querySelector('#label').value = -1");
    browser.script("document.querySelector('#label').dispatchEvent(new Event('input'))");

    // Only the visible rows exist on the screen, all of them on paper.
    assert!(browser.count(".row") < 90);
    browser.script("dispatchEvent(new Event('beforeprint'))");
    assert_eq!(browser.count("#printed tbody tr"), 90);
    let plot = browser.script("return document.querySelector('.plot').clientWidth").as_f64().unwrap();
    assert!((450.0..=700.0).contains(&plot), "the timeline does not fill the paper: {plot}");
    browser.script("dispatchEvent(new Event('afterprint'))");
    assert_eq!(browser.count("#printed tr"), 0);
    let pages = browser.printed_pages();
    assert!((3..=12).contains(&pages), "{pages} pages");
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn the_page_and_the_sheet_of_an_index_have_what_is_current_in_it() {
    let scratch = Scratch::new();
    let videos = scratch.videos();
    let clip = |name: &str, seconds: f64| {
        test_video(&videos.join(name), "320x180", "30", seconds, &["-pix_fmt", "yuv420p"]);
    };
    clip("a.mp4", 5.0);
    clip("b & <c>.mp4", 3.0);
    clip("gone.mp4", 3.0);
    std::fs::write(videos.join("text.mp4"), "this is not a video\n".repeat(100)).unwrap();
    let job = scratch.job(&format!("{}[report]\nthumbnails = true\n", scratch.small_models()));
    let page = scratch.path("report.html");
    assert!(stderr(&report(&job, &page, &["--current"], 2)).contains("there are no runs in"));
    run(&job, &[], 3);
    clip("a.mp4", 7.0);
    clip("new.mp4", 4.0);
    std::fs::write(videos.join("b & <c>.mp4"), "damaged since".repeat(100)).unwrap();
    std::fs::remove_file(videos.join("gone.mp4")).unwrap();
    run(&job, &["--confirm-deleted"], 3);

    report(&job, &page, &["--current"], 0);
    let count = |table: &str, name: &str| {
        let sql = format!("SELECT count(*) FROM current_{table} WHERE uri LIKE '%/{name}'");
        query(&scratch.index(), &["--format", "lines", &sql]).trim().parse::<usize>().unwrap()
    };
    let sheet = scratch.path("sheet.svg");
    let drawn = vidindex(["sheet".as_ref(), job.as_os_str(), "-o".as_ref(), sheet.as_os_str()]).output().unwrap();
    assert!(drawn.status.success(), "{}", said(&drawn));
    assert_eq!(stdout(&drawn), sheet.to_str().unwrap());

    let Some(browser) = Browser::start() else { return };
    browser.open(&page);
    assert_eq!(browser.text("h1"), "Index");
    assert_eq!(browser.text("#state-of-run"), "current, 1 failed");
    // The damaged version does not hide what is known of the good one; what was never indexed is listed as failed.
    assert!(browser.text("#totals").contains("3 ok, 1 failed"), "{}", browser.text("#totals"));
    assert!(browser.text("#failures").contains("text.mp4"), "{}", browser.text("#failures"));
    let names = browser.script("return [...document.querySelectorAll('.row .name')].map((name) => name.innerText)");
    assert_eq!(names, json!(["a.mp4", "b & <c>.mp4", "new.mp4", "text.mp4"]));
    for (search, name) in [("a.mp4", "a.mp4"), ("<c>", "b & <c>.mp4"), ("new", "new.mp4")] {
        browser.script(&format!(
            "const s = document.querySelector('#search'); s.value = {}; s.dispatchEvent(new Event('input'))",
            json!(search)
        ));
        let facts = browser.text("#video .title .quiet");
        let [segments, boxes] = ["actions", "persons"].map(|table| count(table, name));
        assert!(facts.contains(&format!("{segments} segment")) && facts.contains(&format!("{boxes} box")), "{facts}");
        let bars = browser
            .script("return new Set([...document.querySelectorAll('.plot .bar')].map((b) => b.dataset.segment)).size");
        assert_eq!(bars, segments, "{name}");
    }
    assert_eq!(browser.console_messages(), [""; 0]);

    browser.load(&sheet);
    let titles = browser.script("return [...document.querySelectorAll('.t')].map((title) => title.textContent)");
    assert_eq!(titles, json!(["a.mp4", "b & <c>.mp4", "new.mp4"]));
    let pictures: usize = ["a.mp4", "b & <c>.mp4", "new.mp4"].iter().map(|name| count("thumbnails", name).min(6)).sum();
    assert_eq!(browser.count("image") as usize, pictures);
    assert!(browser.count("rect.b") > 0 && browser.count("rect.c") > 0 && browser.count("path") as usize == pictures);
    browser.screenshot("sheet");
    let one = ["sheet", job.to_str().unwrap(), "--containing", "new", "-o", sheet.to_str().unwrap()];
    assert!(vidindex(one).output().unwrap().status.success());
    browser.load(&sheet);
    assert_eq!(browser.count(".t"), 1);
    let none = vidindex(["sheet", job.to_str().unwrap(), "--containing", "elsewhere"]).output().unwrap();
    assert_eq!(none.status.code(), Some(2));
    assert!(stderr(&none).contains("there are no such videos in"), "{}", stderr(&none));
}

#[test]
fn pages_without_a_detector_and_with_scored_persons() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "320x180", "30", 5.0, &["-pix_fmt", "yuv420p"]);
    let both = scratch.small_person_models();
    let actions_only = scratch.small_models().split("[persons]").next().unwrap().to_owned();
    let create = |name: &str, models: &str| {
        let job = scratch.job(&format!("{models}[report]\nthumbnails = true\n"));
        let index = scratch.path(name).display().to_string();
        let output = format!("output.uri={index}");
        run(&job, &["--set", &output], 0);
        let page = scratch.path(&format!("{name}.html"));
        report(&job, &page, &["--set", &output], 0);
        (PathBuf::from(index), page)
    };
    let (_, without_persons) = create("actions", &actions_only);
    let (index, with_persons) = create("persons", &both);

    let Some(browser) = Browser::start() else { return };
    browser.open(&without_persons);
    assert!(browser.text("#totals").contains("no persons model"), "{}", browser.text("#totals"));
    assert!(browser.count(".bar[data-segment]") >= 2);
    browser.wait("return [...document.images].every((image) => image.complete && image.naturalWidth > 0)");
    browser.click(".strip button");
    assert_eq!(browser.count(".moment rect"), 0);
    assert_eq!(browser.console_messages(), [""; 0]);

    // The actions of each person are shown next to its box.
    browser.open(&with_persons);
    let thumbnails = tables::rows(&index, "thumbnails");
    let row = tables::rows(&index, "persons")
        .into_iter()
        .find(|row| row["frame"] == thumbnails[0]["frame"] && !row["actions"].is_null())
        .unwrap();
    browser.wait("return document.querySelector('.strip button') !== null");
    browser.click(".strip button");
    let label = row["actions"][0]["label"].as_str().unwrap();
    assert!(browser.text(".moment").contains(label), "{label} is not in {}", browser.text(".moment"));
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn a_page_of_ten_thousand_videos_contains_only_the_visible_rows() {
    let scratch = Scratch::new();
    let job = archive(&scratch, 10_000);
    let page = scratch.path("report.html");
    report(&job, &page, &[], 0);
    let bytes = std::fs::metadata(&page).unwrap().len();
    eprintln!("the page of ten thousand videos has {bytes} bytes");
    assert!(bytes < 16 << 20);

    let Some(browser) = Browser::start() else { return };
    browser.open(&page);
    let assert_few_elements = |what: &str| {
        let (rows, all) = (browser.count(".row"), browser.count("*"));
        assert!((1..=40).contains(&rows), "{what}: {rows} rows");
        assert!(all < 2500, "{what}: {all} elements");
    };
    assert_few_elements("at first");
    assert_eq!(browser.text("#count"), "10,000");
    browser.screenshot("many-light");
    browser.script("scrollTo(0, document.querySelector('.browser').offsetTop - 12)");
    browser.screenshot("browser-light");
    browser.set_colour_scheme("dark");
    browser.screenshot("browser-dark");
    browser.script("scrollTo(0, 0)");
    browser.screenshot("many-dark");
    browser.set_colour_scheme("light");

    browser.script("document.querySelector('#list').focus()");
    browser.keys([key::END]);
    assert_few_elements("at the end");
    let active =
        "return document.getElementById(document.querySelector('#list').getAttribute('aria-activedescendant'))";
    assert_eq!(browser.script(&format!("{active}.getAttribute('aria-posinset')")), "10000");
    browser.keys([key::DOWN, key::TAB]);
    browser.script("document.querySelector('#list').scrollTop = 250000");
    browser.wait("return [...document.querySelectorAll('.row')].some((row) => Number(row.dataset.position) > 4000)");
    assert_few_elements("in the middle");

    browser.keys("/cam-07 0300".chars());
    assert!(browser.text("#count").ends_with(" of 10,000"), "{}", browser.text("#count"));
    assert_few_elements("searched");
    browser.keys([key::ESCAPE]);
    browser.click("#labels button");
    assert_few_elements("filtered");
    assert!(browser.text(".row .facts").contains("match"));
    browser
        .script("const s = document.querySelector('#sort'); s.value = 'matches'; s.dispatchEvent(new Event('input'))");
    browser.script("scrollTo(0, document.querySelector('.browser').offsetTop - 12)");
    browser.screenshot("filtered-light");
    (0..3).for_each(|_| browser.click("[aria-label='Zoom in']"));
    browser.screenshot("zoomed-light");
    browser.script(
        "document.querySelector('#clear').click(); const s = document.querySelector('#state');
        s.value = 'status:failed'; s.dispatchEvent(new Event('input'))",
    );
    assert_few_elements("failed ones");
    browser.screenshot("failed-light");
    browser.set_size(420, 900);
    browser.script("scrollTo(0, 0)");
    browser.screenshot("narrow-light");
    assert_eq!(browser.console_messages(), [""; 0]);
}

#[test]
fn an_unsealed_run_has_a_page_and_a_missing_run_has_none() {
    let scratch = Scratch::new();
    test_video(&scratch.videos().join("a.mp4"), "160x120", "25", 2.0, &["-pix_fmt", "yuv420p"]);
    let job = scratch.job(&scratch.small_models());
    let page = scratch.path("report.html");
    let no_runs = report(&job, &page, &[], 2);
    assert!(stderr(&no_runs).contains("there are no runs in"), "{}", stderr(&no_runs));
    let planned = stdout(&vidindex(["plan".as_ref(), job.as_os_str()]).output().unwrap());
    report(&job, &page, &[], 0);
    let worked =
        vidindex(["work".as_ref(), job.as_os_str()]).args(["--run", &planned, "--task", "0/1"]).output().unwrap();
    assert!(worked.status.success(), "{}", said(&worked));
    report(&job, &page, &["--run", &planned], 0);
    let other = report(&job, &page, &["--run", "20000101T000000000Z-000000"], 2);
    assert!(stderr(&other).contains(&planned), "the hint does not name the latest run: {}", stderr(&other));

    let Some(browser) = Browser::start() else { return };
    browser.open(&page);
    assert_eq!(browser.count(".row"), 1);
    assert!(browser.text("#video h2").starts_with("a.mp4"));
    // Without thumbnails, no space is reserved for them.
    assert_eq!((browser.count(".thumb"), browser.count(".strip button")), (0, 0));
    assert!(browser.count(".plot .bar") > 0);
    assert_eq!(browser.console_messages(), [""; 0]);
}

const CLIP_SECONDS: f64 = 64.0 / 30.0;
const RUN: &str = "20261101T060000000Z-a1b2c3";
const LABELS: [&str; 14] = [
    "abseiling",
    "answering questions",
    "applauding",
    "carrying baby",
    "catching or throwing frisbee",
    "cleaning floor",
    "dancing ballet",
    "jogging",
    "juggling balls",
    "playing guitar",
    "pushing cart",
    "riding a bike",
    "shaking hands",
    "walking the dog",
];

/// Reproducible pseudorandom numbers.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / f64::from(1_u32 << 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() * end as f64) as usize
    }
}

/// Writes and seals a run of synthetic videos with the library, and returns its job file.
fn archive(scratch: &Scratch, videos: usize) -> PathBuf {
    let models = "[actions]\nmodel = \"models/slowfast-r50-8x8.onnx\"\n[persons]\nmodel = \"models/yolov5s.onnx\"\n";
    let job_file = scratch.job(&format!("{models}[report]\nthumbnails = true\n"));
    let job = Job::load(&job_file, &[]).unwrap();
    let started = Utc::now() - TimeDelta::minutes(190);
    let model = |id: &str| Some(ModelRef { id: id.to_owned(), sha256: "00".to_owned(), random: false });
    let record = RunRecord {
        run_id: RUN.parse().unwrap(),
        created_at: started,
        newest_row: None,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fingerprint: "0123456789abcdef".to_owned(),
        actions_model: model("slowfast-r50-8x8-1f3a"),
        persons_model: model("yolov5s-77c0"),
        shards: 1,
        videos: videos as u64,
        bytes: 0,
        job: job.clone(),
    };
    let provenance = Provenance {
        run_id: RUN.to_owned(),
        shard: 0,
        fingerprint: record.fingerprint.clone(),
        actions_model: Some("slowfast-r50-8x8-1f3a".to_owned()),
        persons_model: Some("yolov5s-77c0".to_owned()),
    };
    let folder = scratch.path("scratch");
    std::fs::create_dir(&folder).unwrap();
    let mut encoder = ShardEncoder::new(&folder, provenance);
    let mut totals = ShardTotals::default();
    let mut dice = Dice(7);
    let scenes: Vec<_> = (0..48).map(|_| Scene::new(&mut dice)).collect();
    for n in 0..videos {
        let uri = format!("s3://archive/2026/cam-{:02}/october/recording-{n:05}.mp4", n * 24 / videos);
        let rows = video(&uri, n, &scenes, &mut dice);
        totals.add(&rows.video);
        let uri = &rows.video.uri;
        encoder.push_rows("dt=2026-11-01", uri, &rows.actions).unwrap();
        encoder.push_rows("dt=2026-11-01", uri, &rows.persons).unwrap();
        encoder.push_rows("dt=2026-11-01", uri, &rows.thumbnails).unwrap();
        encoder.push("dt=2026-11-01", rows.video).unwrap();
    }
    totals.wall_seconds = totals.decode_seconds + totals.inference_seconds;
    let parts = encoder.finish().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let output = store::open(&job.output.uri, &job.store).await.unwrap();
        let body = serde_json::to_vec(&record).unwrap();
        output.put(&job_key(&record.run_id), body.into()).await.unwrap();
        let rows = ShardRows::merged(&parts, totals);
        commit(&*output, RUN, 0, &AttemptId::unique(), rows).await.unwrap();
        seal::seal(&*output, RUN, 1, started).await.unwrap();
    });
    job_file
}

/// A picture with people in it.
struct Scene {
    jpeg: Vec<u8>,
    /// Boxes of the people, in shares of the picture's size.
    boxes: Vec<[f64; 4]>,
}

impl Scene {
    fn new(dice: &mut Dice) -> Self {
        const SIZE: (usize, usize) = (320, 180);
        let boxes: Vec<[f64; 4]> = (0..dice.below(4))
            .map(|_| {
                let (height, x, bottom) =
                    (0.35 + 0.4 * dice.next(), 0.05 + 0.75 * dice.next(), 0.8 + 0.18 * dice.next());
                [x, (bottom - height).max(0.02), x + height * 0.22, bottom]
            })
            .collect();
        let (sky, hour) = ([110.0 + 90.0 * dice.next(), 140.0 + 60.0 * dice.next(), 190.0], 0.5 + 0.5 * dice.next());
        let mut pixels = Vec::new();
        for row in 0..SIZE.1 {
            for column in 0..SIZE.0 {
                let (x, y) = (column as f64 / SIZE.0 as f64, row as f64 / SIZE.1 as f64);
                let ground = if y < 0.58 {
                    sky.map(|c| c * (0.75 + 0.4 * y))
                } else {
                    [104.0, 112.0, 92.0].map(|c| c * (0.6 + 0.5 * y))
                };
                let person = boxes.iter().position(|[x1, y1, x2, y2]| {
                    let (u, v) = ((x - x1) / (x2 - x1), (y - y1) / (y2 - y1));
                    let head = ((u - 0.5) / 0.24).powi(2) + ((v - 0.1) / 0.1).powi(2) < 1.0;
                    let body = (0.18..0.6).contains(&v) && (0.18..0.82).contains(&u);
                    let legs = (0.6..1.0).contains(&v) && ((0.22..0.46).contains(&u) || (0.54..0.78).contains(&u));
                    (0.0..1.0).contains(&u) && (head || body || legs)
                });
                let colour = match person {
                    Some(n) => [[60.0, 66.0, 90.0], [150.0, 70.0, 60.0], [210.0, 200.0, 180.0]][n % 3],
                    None => ground,
                };
                pixels.extend(colour.map(|c: f64| (c * hour) as u8));
            }
        }
        let mut jpeg = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut jpeg, 60);
        encoder.encode(&pixels, SIZE.0 as u16, SIZE.1 as u16, jpeg_encoder::ColorType::Rgb).unwrap();
        Self { jpeg, boxes }
    }
}

/// The rows of one video.
struct Rows {
    video: VideoRow,
    actions: Vec<ActionRow>,
    persons: Vec<PersonRow>,
    thumbnails: Vec<ThumbnailRow>,
}

fn video(uri: &str, n: usize, scenes: &[Scene], dice: &mut Dice) -> Rows {
    let at: DateTime<Utc> = "2026-11-01T05:00:00Z".parse().unwrap();
    let object = VideoObject {
        key: uri.to_owned(),
        uri: uri.to_owned(),
        size_bytes: 1 << 20,
        etag: "e".to_owned(),
        version_id: None,
        last_modified: at,
        partition: Vec::new(),
        todo: Todo::default(),
    };
    let (video_id, uri): (Arc<str>, Arc<str>) = (object.video_id().into(), uri.into());
    let run_id: Arc<str> = RUN.into();
    let error = match n % 97 {
        13 => Some((VideoErrorKind::Corrupt, "failed to read the file: Invalid data found when processing input")),
        29 => Some((VideoErrorKind::NotAVideo, "no known container format")),
        31 if n.is_multiple_of(2) => Some((VideoErrorKind::Timeout, "decoding took longer than 3600 s")),
        _ => None,
    };
    let status = match error {
        None => VideoStatus::Ok,
        Some((VideoErrorKind::Corrupt, _)) => VideoStatus::Partial,
        Some(_) => VideoStatus::Failed,
    };
    // Some videos take one to three minutes, most are short, and failed ones have no duration.
    let seconds = match status {
        VideoStatus::Failed => 0.0,
        _ if n.is_multiple_of(40) => 60.0 + 120.0 * dice.next(),
        _ => 6.0 + 20.0 * dice.next(),
    };
    let usual = [dice.below(LABELS.len()), dice.below(LABELS.len()), dice.below(LABELS.len())];
    let mut actions = Vec::new();
    let mut now = 0;
    for segment in 0..(seconds / CLIP_SECONDS).ceil() as i64 {
        if dice.next() < 0.25 {
            now = dice.below(3);
        }
        let sure = 0.35 + 0.6 * dice.next();
        let score = |label: usize, score: f64| LabelScore {
            label_id: label as i32,
            label: LABELS[label].into(),
            score: score as f32,
        };
        let mut top = vec![score(usual[now], sure)];
        let mut rest = 1.0 - sure;
        for label in (0..LABELS.len()).filter(|label| *label != usual[now]).skip(dice.below(6)).take(4) {
            let share = rest * (0.3 + 0.4 * dice.next());
            rest -= share;
            top.push(score(label, share.min(sure)));
        }
        top.sort_by(|a, b| b.score.total_cmp(&a.score));
        actions.push(ActionRow {
            video_id: video_id.clone(),
            uri: uri.clone(),
            segment,
            start_seconds: segment as f64 * CLIP_SECONDS,
            end_seconds: ((segment + 1) as f64 * CLIP_SECONDS).min(seconds),
            frames: 64,
            top_label: Some(top[0].label.clone()),
            top_score: Some(top[0].score),
            top,
            scores: None,
            embedding: None,
            run_id: run_id.clone(),
        });
    }
    let (mut persons, mut thumbnails) = (Vec::new(), Vec::new());
    // Only every fiftieth video has thumbnails, because the page has a size limit.
    let has_thumbnails = n.is_multiple_of(if n < 100 { 1 } else { 50 });
    for second in 0..seconds as i64 {
        let scene = &scenes[dice.below(scenes.len())];
        for (number, [x1, y1, x2, y2]) in scene.boxes.iter().enumerate() {
            persons.push(PersonRow {
                video_id: video_id.clone(),
                uri: uri.clone(),
                segment: None,
                time_seconds: second as f64,
                frame: second * 30,
                r#box: number as i32,
                label: "person".into(),
                x1: (x1 * 1920.0) as f32,
                y1: (y1 * 1080.0) as f32,
                x2: (x2 * 1920.0) as f32,
                y2: (y2 * 1080.0) as f32,
                confidence: (0.4 + 0.5 * dice.next()) as f32,
                actions: None,
                track_id: None,
                run_id: run_id.clone(),
            });
        }
        if has_thumbnails && second % 4 == 1 {
            thumbnails.push(ThumbnailRow {
                video_id: video_id.clone(),
                uri: uri.clone(),
                segment: None,
                time_seconds: second as f64,
                frame: second * 30,
                width: 320,
                height: 180,
                jpeg: scene.jpeg.clone(),
                run_id: run_id.clone(),
            });
        }
    }
    let known = status != VideoStatus::Failed;
    let video = VideoRow {
        video_id,
        uri,
        etag: "e".to_owned(),
        version_id: None,
        size_bytes: 1 << 20,
        last_modified: at,
        status,
        error_kind: error.map(|(kind, _)| kind),
        error_message: error.map(|(_, message)| message.to_owned()),
        failures: None,
        container: known.then(|| "mov,mp4".to_owned()),
        codec: known.then(|| "h264".to_owned()),
        width: known.then_some(1920),
        height: known.then_some(1080),
        rotation: known.then_some(0),
        mirrored: known.then_some(false),
        frames_per_second: known.then_some(30.0),
        start_seconds: known.then_some(0.0),
        duration_seconds: known.then_some(seconds),
        frames_decoded: (seconds * 30.0) as i64,
        frames_presented: Some((seconds * 30.0) as i64),
        decode_mode: None,
        full_decode_reason: None,
        segments: actions.len() as i64,
        boxes: persons.len() as i64,
        actions_model: Some("slowfast-r50-8x8-1f3a".to_owned()),
        persons_model: Some("yolov5s-77c0".to_owned()),
        precision: Some("fp32"),
        fingerprint: "0123456789abcdef".to_owned(),
        run_id,
        shard: 0,
        indexed_at: at + TimeDelta::hours(1),
        decode_seconds: seconds / 40.0,
        inference_seconds: seconds / 5.0,
    };
    Rows { video, actions, persons, thumbnails }
}
