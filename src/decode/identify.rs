//! Explains why a file's pictures cannot be decoded: it is text or a playlist, is encrypted, or needs a missing codec.

use std::io::{self, Read, Seek};

use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Packet, Stream, codec, codec::packet::side_data};

use super::avio::RemoteBytes;
use crate::error::{VideoError, VideoErrorKind};

/// Bytes that are examined at the beginning of a file.
const HEAD_BYTES: u64 = 64 * 1024;

/// Demuxers for files that only refer to other files or addresses.
const PLAYLISTS: [&str; 6] = ["hls", "dash", "concat", "imf", "sdp", "rtsp"];

/// Demuxers for formats with a text header before raw pictures. The pixels of a grey picture can look like text as
/// well.
const TEXT_HEADERS: [&str; 2] = ["yuv4mpegpipe", "mpjpeg"];

/// Sizes of a transport stream packet: plain, with a recorder's timestamp, with error correction.
const TS_PACKET_BYTES: [usize; 3] = [188, 192, 204];

/// Stream type of H.264 with encrypted slices (Apple's SAMPLE-AES) in a transport stream.
const SAMPLE_AES_H264: u32 = 0xdb;

/// Reads the first 64 KiB of the file and rewinds `source`.
pub(super) fn head(source: &mut RemoteBytes) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    source.take(HEAD_BYTES).read_to_end(&mut head)?;
    source.rewind()?;
    Ok(head)
}

/// Rejects text and playlists before a demuxer opens them. `format` is the demuxer that recognizes the file, if any.
pub(super) fn refuse_text(head: &[u8], format: Option<&str>) -> Result<(), VideoError> {
    let not_a_video = |message| Err(VideoError::new(VideoErrorKind::NotAVideo, message));
    match (text(head), format) {
        (_, Some(format)) if TEXT_HEADERS.contains(&format) => Ok(()),
        (Some(text), _) => not_a_video(format!("the file is {}", kind_of_text(text))),
        (None, Some(format)) if PLAYLISTS.contains(&format) => {
            not_a_video(format!("the file is a playlist ({format})"))
        }
        (None, Some(_)) => Ok(()),
        (None, None) => not_a_video("no known container format".to_owned()),
    }
}

/// The beginning of the file as text, if it is text.
fn text(head: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // Only the last character was cut off.
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let is_printable = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\x0c');
    text.chars().all(is_printable).then_some(text)
}

fn kind_of_text(text: &str) -> &'static str {
    let beginning: String =
        text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}').chars().take(4096).collect();
    let beginning = beginning.to_lowercase();
    let starts = |with| beginning.starts_with(with);
    let contains = |part| beginning.contains(part);
    match () {
        () if starts("#extm3u") => "a playlist (M3U)",
        () if starts("ffconcat version") => "a list of files to join (ffconcat)",
        () if starts("[playlist]") => "a playlist (PLS)",
        () if starts("<") && contains("<mpd") => "a playlist (DASH manifest)",
        () if starts("<") && contains("<playlist") => "a playlist (XSPF)",
        () if starts("<!doctype html") || (starts("<") && contains("<html")) => "HTML text",
        () if starts("<") => "XML text",
        () if starts("{") || starts("[") => "JSON text",
        () => "plain text",
    }
}

/// FFmpeg's name of a stream's codec, or `unknown`.
pub(super) fn codec_name(stream: &Stream<'_>) -> &'static str {
    match stream.parameters().id() {
        codec::Id::None => "unknown",
        id => id.name(),
    }
}

/// The error for a codec without a decoder. It names the codec and the container's code for it.
pub(super) fn no_decoder(stream: &Stream<'_>) -> VideoError {
    let codec = match codec_name(stream) {
        "unknown" => "an unknown codec",
        name => name,
    };
    let message = match codec_tag(stream) {
        0 => format!("no decoder for {codec}"),
        tag => format!("no decoder for {codec} ({})", fourcc(tag)),
    };
    VideoError::new(VideoErrorKind::Unsupported, message)
}

/// The container's code for the codec; 0 if it has none.
fn codec_tag(stream: &Stream<'_>) -> u32 {
    let parameters = stream.parameters();
    // SAFETY: the parameters are live; the field is a plain integer.
    unsafe { (*parameters.as_ptr()).codec_tag }
}

/// The four characters of the code if all are printable, otherwise its number.
fn fourcc(tag: u32) -> String {
    let bytes = tag.to_le_bytes();
    match bytes.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        true => bytes.map(char::from).iter().collect(),
        false => format!("{tag:#x}"),
    }
}

/// Rejects a stream that the container marks as fully encrypted.
pub(super) fn refuse_encrypted_stream(input: &Input, stream: &Stream<'_>, head: &[u8]) -> Result<(), VideoError> {
    let tag = codec_tag(stream);
    let is_transport_stream = input.format().name() == "mpegts";
    if stream.metadata().get("enc_key_id").is_some() {
        Err(encrypted("Matroska content encryption"))
    } else if input.metadata().get("ASF_Protection_Type").is_some() {
        Err(encrypted("Windows Media DRM"))
    } else if tag == u32::from_le_bytes(*b"drmi") {
        Err(encrypted("FairPlay"))
    } else if is_transport_stream && tag == SAMPLE_AES_H264 {
        Err(encrypted("SAMPLE-AES"))
    } else if is_transport_stream && is_scrambled(head, stream.id()) {
        Err(encrypted("scrambled transport stream"))
    } else {
        Ok(())
    }
}

/// Whether the beginning of an MP4 file describes an encrypted track. FFmpeg does not expose the sample entry that
/// states this.
pub(super) fn has_common_encryption(input: &Input, head: &[u8]) -> bool {
    input.format().name().starts_with("mov,") && head.windows(4).any(|name| name == b"encv")
}

/// Rejects a packet that the container marks as encrypted.
pub(super) fn refuse_encrypted_packet(packet: &Packet) -> Result<(), VideoError> {
    match packet.side_data().any(|data| data.kind() == side_data::Type::EncryptionInfo) {
        true => Err(encrypted("Common Encryption")),
        false => Ok(()),
    }
}

/// The error for a video that cannot be decoded without its key.
pub(super) fn encrypted(scheme: &str) -> VideoError {
    VideoError::new(VideoErrorKind::Encrypted, format!("the pictures are encrypted ({scheme})"))
}

/// Whether most packets of a stream are scrambled at the beginning of a transport stream. `id` is the stream's PID.
fn is_scrambled(head: &[u8], id: i32) -> bool {
    const SYNC: u8 = 0x47;
    let in_step = |first: usize, bytes: usize| (0..4).all(|n| head.get(first + n * bytes) == Some(&SYNC));
    let mut sizes = TS_PACKET_BYTES.iter().flat_map(|&bytes| (0..bytes).map(move |first| (first, bytes)));
    let Some((first, bytes)) = sizes.find(|&(first, bytes)| in_step(first, bytes)) else { return false };
    let (mut packets, mut scrambled) = (0, 0);
    for packet in head[first..].chunks_exact(bytes) {
        if i32::from(u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff) == id {
            packets += 1;
            scrambled += usize::from(packet[3] & 0xc0 != 0);
        }
    }
    scrambled * 2 > packets
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn text_is_distinguished_from_pictures() {
        let refusal = |head: &[u8], format| refuse_text(head, format).map_err(|error| error.message);
        let text = |head: &str| refusal(head.as_bytes(), None).unwrap_err();
        assert_eq!(text("#EXTM3U\n#EXTINF:9.9,\na.ts\n"), "the file is a playlist (M3U)");
        assert_eq!(
            text("\u{feff}<?xml version=\"1.0\"?>\r\n<MPD type=\"static\">"),
            "the file is a playlist (DASH manifest)"
        );
        assert_eq!(text("ffconcat version 1.0\nfile a.mp4\n"), "the file is a list of files to join (ffconcat)");
        assert_eq!(text(" {\"a\": 1}"), "the file is JSON text");
        assert_eq!(text("<!DOCTYPE html><title>Gone</title>"), "the file is HTML text");
        assert_eq!(text("<svg xmlns=\"http://www.w3.org/2000/svg\"/>"), "the file is XML text");
        assert_eq!(text("1\n00:00:01,000 --> 00:00:02,000\nHallo\n"), "the file is plain text");
        // The text is cut in the middle of a character.
        assert!(refusal(&"grüße".as_bytes()[..3], Some("srt")).is_err());
        // A playlist in Latin-1.
        assert_eq!(refusal(b"#EXTM3U\ngr\xfc\xdfe.ts\n", Some("hls")).unwrap_err(), "the file is a playlist (hls)");
        assert_eq!(refusal(b"\x00\x00\x00\x20ftypisom", Some("mov")), Ok(()));
        assert_eq!(refusal(b"YUV4MPEG2 W4 H2 F25:1\nFRAME\nrrrrrrrrrrrr", Some("yuv4mpegpipe")), Ok(()));
        assert_eq!(refusal(&[0x80, 0x01], None).unwrap_err(), "no known container format");
    }

    #[test]
    fn a_fourcc_is_printed_where_it_can_be() {
        assert_eq!(fourcc(u32::from_le_bytes(*b"vvc1")), "vvc1");
        assert_eq!(fourcc(0x1b), "0x1b");
    }

    #[test]
    fn scrambling_is_seen_in_every_packet_size() {
        for bytes in TS_PACKET_BYTES {
            let prefix = bytes % 8 % 5;
            let packet = |id: u16, scrambling: u8| {
                let mut packet = vec![0xff; prefix];
                packet.extend([0x47, (id >> 8) as u8, id as u8, 0x10 | scrambling << 6]);
                packet.resize(bytes, 0xff);
                packet
            };
            let stream = |scrambling| {
                let packets = (0..10).map(|n| packet(256, if n < 3 { 0 } else { scrambling }));
                packets.chain((0..20).map(|_| packet(257, 0))).flatten().collect::<Vec<_>>()
            };
            assert!(is_scrambled(&stream(2), 256), "{bytes}");
            assert!(!is_scrambled(&stream(2), 257) && !is_scrambled(&stream(0), 256), "{bytes}");
        }
        assert!(!is_scrambled(&[0; 4096], 0) && !is_scrambled(&[], 0));
    }
}
