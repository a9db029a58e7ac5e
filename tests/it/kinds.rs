//! The rows of files that cannot be decoded contain the reason: encrypted, an unknown codec, or not a video.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::support::{Scratch, ffmpeg, run, tables, test_video};

const KEY: &str = "76a6c65c5ea762046bd749a2e632ccbb";
const KEY_ID: &str = "a7e61c373e219033c21091fa607bf3b8";

/// Indexes the videos of the folder, some of which must fail or be partial, and returns their rows by name.
fn rows(scratch: &Scratch) -> BTreeMap<String, Map<String, Value>> {
    let job = scratch.job(&scratch.small_models());
    run(&job, &["--set", "input.include=[\"**/*\"]"], 3);
    tables::assert_counts(&scratch.index());
    let rows = tables::rows(&scratch.index(), "videos");
    let name = |row: &Map<String, Value>| row["uri"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    rows.into_iter().map(|row| (name(&row), row)).collect()
}

fn assert_row(row: &Map<String, Value>, status: &str, kind: &str, message: &str) {
    assert_eq!((row["status"].as_str(), row["error_kind"].as_str()), (Some(status), Some(kind)), "{row:?}");
    let found = row["error_message"].as_str().unwrap();
    assert!(found.starts_with(message), "{row:?}");
    assert!(!found.contains("0x5") && !found.contains("0x7f"), "the message contains an address: {found}");
}

/// Encodes three seconds of H.264 with a key frame every second.
fn encode(path: &Path, options: &[&str]) {
    let h264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "10", "-sc_threshold", "0", "-flags", "+bitexact"];
    test_video(path, "96x64", "10", 3.0, &[&h264[..], options].concat());
}

fn position(bytes: &[u8], part: &[u8]) -> usize {
    bytes.windows(part.len()).position(|window| window == part).unwrap()
}

/// Changes the bytes of a file.
fn edit(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    edit(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Renames all boxes of this name in an MP4 file.
fn rename(bytes: &mut [u8], from: &[u8; 4], to: &[u8; 4]) {
    let at: Vec<usize> = (0..bytes.len() - 4).filter(|&i| bytes[i..].starts_with(from)).collect();
    assert!(!at.is_empty());
    at.into_iter().for_each(|i| bytes[i..i + 4].copy_from_slice(to));
}

#[test]
fn encrypted_videos_are_recognized_in_every_container() {
    let scratch = Scratch::new();
    let file = |name: &str| scratch.videos().join(name);
    let cenc = ["-encryption_scheme", "cenc-aes-ctr", "-encryption_key", KEY, "-encryption_kid", KEY_ID];
    let fragments = ["-movflags", "+frag_keyframe+empty_moov+default_base_moof"];
    encode(&file("cenc.mp4"), &cenc);
    encode(&file("cenc_fragments.mp4"), &[&fragments[..], &cenc].concat());
    // Without the boxes that describe how each sample is encrypted, as with a scheme that FFmpeg does not know.
    encode(&file("cenc_unknown_form.mp4"), &[&fragments[..], &cenc].concat());
    edit(&file("cenc_unknown_form.mp4"), |bytes| {
        [b"senc", b"saiz", b"saio"].iter().for_each(|name| rename(bytes, name, b"free"));
    });
    encode(&file("fairplay.mp4"), &[]);
    edit(&file("fairplay.mp4"), |bytes| rename(bytes, b"avc1", b"drmi"));

    // The title reserves space for the header of an encrypted track.
    encode(&file("webm.mkv"), &["-metadata:s:v", &format!("title={}", "x".repeat(60))]);
    edit(&file("webm.mkv"), |bytes| {
        let name = position(bytes, &[b'x'; 60]) - 3;
        assert_eq!(&bytes[name..name + 3], [0x53, 0x6e, 0x80 | 60]);
        let element = |id: &[u8], body: &[u8]| [id, &[0x80 | body.len() as u8], body].concat();
        let algorithm = element(&[0x47, 0xe1], &[5]);
        let encryption = element(&[0x50, 0x35], &[algorithm, element(&[0x47, 0xe2], &[7; 16])].concat());
        let encoding = element(&[0x62, 0x40], &[element(&[0x50, 0x33], &[1]), encryption].concat());
        let encodings = element(&[0x6d, 0x80], &encoding);
        let void = element(&[0xec], &vec![0; 63 - encodings.len() - 2]);
        bytes[name..name + 63].copy_from_slice(&[encodings, void].concat());
    });

    encode(&file("scrambled.ts"), &[]);
    edit(&file("scrambled.ts"), |bytes| {
        for packet in bytes.chunks_exact_mut(188) {
            if u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff == 256 {
                let header = if packet[3] & 0x20 == 0 { 4 } else { 5 + usize::from(packet[4]) };
                packet[3] |= 0x80;
                packet[header..].iter_mut().for_each(|byte| *byte ^= 0x5a);
            }
        }
    });
    encode(&file("sample_aes.ts"), &[]);
    edit(&file("sample_aes.ts"), |bytes| {
        let mut found = 0;
        for packet in bytes.chunks_exact_mut(188) {
            // The program map table, with one stream of type H.264.
            if u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff == 4096 {
                let section = &mut packet[5..];
                let length = 3 + (usize::from(section[1] & 0x0f) << 8 | usize::from(section[2]));
                assert_eq!(section[12], 0x1b);
                section[12] = 0xdb;
                let checksum = crc32_mpeg(&section[..length - 4]).to_be_bytes();
                section[length - 4..length].copy_from_slice(&checksum);
                found += 1;
            }
        }
        assert!(found > 0);
    });

    test_video(&file("drm.wmv"), "96x64", "10", 3.0, &["-c:v", "wmv2"]);
    edit(&file("drm.wmv"), |bytes| {
        let texts: Vec<u8> = [&b"secret"[..], b"DRM\0", b"key\0", b"http://example.com/\0"]
            .into_iter()
            .flat_map(|text| [&(text.len() as u32).to_le_bytes()[..], text].concat())
            .collect();
        // The content encryption object.
        let guid = [0xfb, 0xb3, 0x11, 0x22, 0x23, 0xbd, 0xd2, 0x11, 0xb4, 0xb7, 0, 0xa0, 0xc9, 0x55, 0xfc, 0x6e];
        let object = [&guid[..], &(24 + texts.len() as u64).to_le_bytes(), &texts].concat();
        let header = u64::from_le_bytes(*bytes[16..].first_chunk().unwrap()) + object.len() as u64;
        bytes[16..24].copy_from_slice(&header.to_le_bytes());
        let objects = u32::from_le_bytes(*bytes[24..].first_chunk().unwrap()) + 1;
        bytes[24..28].copy_from_slice(&objects.to_le_bytes());
        bytes.splice(30..30, object);
    });

    let rows = rows(&scratch);
    for (name, message) in [
        ("cenc.mp4", "the pictures are encrypted (Common Encryption)"),
        ("cenc_fragments.mp4", "the pictures are encrypted (Common Encryption)"),
        ("cenc_unknown_form.mp4", "the pictures are encrypted (Common Encryption)"),
        ("fairplay.mp4", "the pictures are encrypted (FairPlay)"),
        ("webm.mkv", "the pictures are encrypted (Matroska content encryption)"),
        ("scrambled.ts", "the pictures are encrypted (scrambled transport stream)"),
        ("sample_aes.ts", "the pictures are encrypted (SAMPLE-AES)"),
        ("drm.wmv", "the pictures are encrypted (Windows Media DRM)"),
    ] {
        assert_row(&rows[name], "failed", "encrypted", message);
    }
}

/// The CRC-32 of MPEG-2 Systems.
fn crc32_mpeg(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte) << 24,
            |crc, _| {
                if crc & 1 << 31 == 0 { crc << 1 } else { crc << 1 ^ 0x04c1_1db7 }
            },
        )
    })
}

#[test]
fn codecs_without_a_decoder_are_reported_by_their_name_in_the_container() {
    let scratch = Scratch::new();
    let file = |name: &str| scratch.videos().join(name);
    encode(&file("unknown.mp4"), &[]);
    edit(&file("unknown.mp4"), |bytes| rename(bytes, b"avc1", b"zzz9"));
    test_video(&file("avs2.avi"), "96x64", "10", 1.0, &["-c:v", "mpeg4"]);
    edit(&file("avs2.avi"), |bytes| rename(bytes, b"FMP4", b"AVS2"));
    encode(&file("unknown.mkv"), &[]);
    edit(&file("unknown.mkv"), |bytes| {
        let at = position(bytes, b"V_MPEG4/ISO/AVC");
        bytes[at..at + 15].copy_from_slice(b"V_MPEG9/ISO/XYZ");
    });
    let rows = rows(&scratch);
    assert_row(&rows["unknown.mp4"], "failed", "unsupported", "no decoder for an unknown codec (zzz9)");
    assert_row(&rows["avs2.avi"], "failed", "unsupported", "no decoder for avs2 (AVS2)");
    assert_row(&rows["unknown.mkv"], "failed", "unsupported", "no decoder for an unknown codec");
    // The known properties are in the row.
    let known = |name: &str| ["container", "codec", "width"].map(|column| rows[name][column].clone());
    assert_eq!(known("avs2.avi"), [Value::from("avi"), "avs2".into(), 96.into()]);
    assert_eq!(known("unknown.mp4")[1], "unknown");
}

#[test]
fn playlists_and_text_files_are_not_videos_and_are_not_followed() {
    let scratch = Scratch::new();
    test_video(&scratch.path("target.ts"), "96x64", "10", 1.0, &["-pix_fmt", "yuv420p"]);
    let target = scratch.path("target.ts").display().to_string();
    let cases = [
        (
            "hls.m3u8",
            format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{target}\n#EXT-X-ENDLIST\n"),
            "a playlist (M3U)",
        ),
        ("list.ffconcat", format!("ffconcat version 1.0\nfile '{target}'\n"), "a list of files to join (ffconcat)"),
        (
            "manifest.mpd",
            format!(
                "<?xml version=\"1.0\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\" \
                 profiles=\"urn:mpeg:dash:profile:isoff-on-demand:2011\"><Period><AdaptationSet mimeType=\"video/mp4\">\
                 <Representation id=\"1\" bandwidth=\"1\"><BaseURL>{target}</BaseURL></Representation>\
                 </AdaptationSet></Period></MPD>\n"
            ),
            "a playlist (DASH manifest)",
        ),
        (
            "list.xspf",
            format!(
                "<?xml version=\"1.0\"?>\n<playlist version=\"1\" xmlns=\"http://xspf.org/ns/0/\"><trackList><track>\
                 <location>file://{target}</location></track></trackList></playlist>\n"
            ),
            "a playlist (XSPF)",
        ),
        ("list.pls", format!("[playlist]\nFile1={target}\nNumberOfEntries=1\n"), "a playlist (PLS)"),
        ("metadata.json.mp4", format!("[{}]", vec!["{\"id\": 1, \"tags\": [\"a\", \"b\"]}"; 3000].join(",")), "JSON text"),
        ("error.html.mp4", "<!DOCTYPE html>\n<html><body>403 Forbidden</body></html>\n".to_owned(), "HTML text"),
        (
            "error.xml.mp4",
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code></Error>".to_owned(),
            "XML text",
        ),
        (
            "drawing.svg.mp4",
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"64\" height=\"64\"><rect width=\"64\" height=\"64\"/></svg>"
                .to_owned(),
            "XML text",
        ),
        ("subtitles.srt.mp4", "1\n00:00:01,000 --> 00:00:02,000\nGrüße\n\n".repeat(50), "plain text"),
    ];
    for (name, text, _) in &cases {
        std::fs::write(scratch.videos().join(name), text).unwrap();
    }
    // Not UTF-8, but still a playlist.
    let latin =
        [&b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,gr\xfc\xdfe\n"[..], target.as_bytes(), b"\n#EXT-X-ENDLIST\n"];
    let latin = latin.concat();
    std::fs::write(scratch.videos().join("latin.m3u8"), latin).unwrap();
    let rows = rows(&scratch);
    for (name, _, kind) in &cases {
        assert_row(&rows[*name], "failed", "not_a_video", &format!("the file is {kind}"));
    }
    assert_row(&rows["latin.m3u8"], "failed", "not_a_video", "the file is a playlist (hls)");
}

/// A text header does not make a file a text. All bytes of this video's frames are the letter `r`, a grey.
#[test]
fn a_video_that_consists_of_text_characters_is_indexed() {
    let scratch = Scratch::new();
    let grey = scratch.videos().join("grey.y4m");
    let source = "color=c=0x727272:size=64x64:rate=10:duration=1,format=gray";
    ffmpeg(&["-f", "lavfi", "-i", source, "-pix_fmt", "gray", "-color_range", "pc", grey.to_str().unwrap()]);
    assert!(std::fs::read(&grey).unwrap().iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()));
    let job = scratch.job(&scratch.small_models());
    run(&job, &["--set", "input.include=[\"**/*\"]"], 0);
    assert_eq!(tables::rows(&scratch.index(), "videos")[0]["frames_presented"], 10);
}

#[test]
fn error_messages_contain_those_of_ffmpeg_without_addresses() {
    let scratch = Scratch::new();
    let file = |name: &str| scratch.videos().join(name);
    encode(&file("no_index.mp4"), &[]);
    edit(&file("no_index.mp4"), |bytes| bytes.truncate(bytes.len() / 2));
    encode(&file("damaged.mkv"), &[]);
    edit(&file("damaged.mkv"), |bytes| {
        let (middle, end) = (bytes.len() / 2, bytes.len() - 200);
        bytes[middle..end].iter_mut().step_by(7).for_each(|byte| *byte ^= 0xa5);
    });
    let rows = rows(&scratch);
    assert_row(&rows["no_index.mp4"], "failed", "corrupt", "failed to open the container");
    assert_row(&rows["damaged.mkv"], "partial", "corrupt", "");
    let message = |name: &str| rows[name]["error_message"].as_str().unwrap();
    assert!(message("no_index.mp4").ends_with("([mov,mp4,m4a,3gp,3g2,mj2] moov atom not found)"), "{rows:?}");
    assert!(message("damaged.mkv").contains("(["), "{rows:?}");
    assert!(rows.values().all(|row| !row["error_message"].as_str().unwrap().contains(" @ ")), "{rows:?}");
}
