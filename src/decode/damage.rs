//! Damaged pictures, as FFmpeg reports them by return values, by flags, or only in its log.
//!
//! - A decoder that conceals errors sets flags on the frame. With frame threads (H.264) it may set them after the frame
//!   was handed out, so its log, which is complete, is read too.
//! - HEVC sets no flags. Missing reference pictures appear in the log; other damage inside a slice is not reported at
//!   all.
//! - The Matroska and FLV demuxers skip what they cannot read and report that only in their log.
//!
//! Damage counts from the first key frame of a recording, in presentation order. Before it, references may be missing
//! because the recording was cut between two key frames, which is harmless.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ffmpeg_next::codec::decoder;
use ffmpeg_next::frame::Video as Frame;
use ffmpeg_next::{Packet, ffi};

/// How a decoder's log messages about a damaged picture begin.
const DECODER_COMPLAINTS: [&[u8]; 3] = [b"concealing ", b"error while decoding MB", b"Could not find ref with POC"];
/// How a demuxer's log message begins when the file ends earlier than expected.
const CUT_COMPLAINT: &[u8] = b"File ended prematurely";

/// What was found in the log. The process decodes one video, so all of it is about that video.
static LOGGED: Mutex<Logged> = Mutex::new(Logged { pictures: BTreeSet::new(), demuxer_errors: 0, is_cut: false });

struct Logged {
    /// Damaged pictures, by their time on the timeline.
    pictures: BTreeSet<i64>,
    demuxer_errors: u64,
    /// Whether the file ends inside an element.
    is_cut: bool,
}

fn logged() -> MutexGuard<'static, Logged> {
    LOGGED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts the damage in one video.
pub(super) struct Damage {
    /// Whether the demuxer skips what it cannot read without an error.
    demuxer_skips: bool,
    /// Time of the first key frame of the current recording, on the timeline.
    key: Option<i64>,
    /// Whether the decoder has returned a key frame of the current recording.
    has_decoded_key: bool,
    /// Whether the last two packets were marked incomplete, earlier one first.
    suspects: [bool; 2],
    /// Packets that could not be read or decoded.
    packets: u64,
}

impl Damage {
    /// Installs the reader of FFmpeg's log, for the rest of the process.
    pub(super) fn listen() {
        // SAFETY: the callback is thread safe, as FFmpeg requires, and a function lives as long as the process.
        unsafe { ffi::av_log_set_callback(Some(listen)) };
    }

    /// For a file in this container, given by FFmpeg's name.
    pub(super) fn new(container: &str) -> Self {
        let demuxer_skips = container.contains("matroska") || container == "flv";
        Self { demuxer_skips, key: None, has_decoded_key: false, suspects: [false; 2], packets: 0 }
    }

    /// Notes a packet that is about to be decoded, at time `at` on the timeline. `begins_part` tells whether another
    /// recording begins with it.
    pub(super) fn packet(&mut self, decoder: &mut decoder::Video, packet: &Packet, at: Option<i64>, begins_part: bool) {
        // Where recordings were joined, the packet counters of a transport stream jump. FFmpeg then marks one of the
        // two packets before the key frame as incomplete, although nothing is lost.
        let [before, last] = if packet.is_key() { [false; 2] } else { self.suspects };
        self.packets += u64::from(before && self.key.is_some());
        self.suspects = [last, packet.is_corrupt()];
        if begins_part {
            (self.key, self.has_decoded_key) = (None, false);
        }
        if packet.is_key() {
            self.key = self.key.or(at);
        }
        // SAFETY: only this module uses `opaque`. Each decoding thread gets a copy with its packet and never reads it.
        unsafe { (*decoder.as_mut_ptr()).opaque = to_opaque(at.filter(|at| self.counts(*at))) };
    }

    /// Notes a frame that the decoder returned, at time `at` on the timeline.
    pub(super) fn frame(&mut self, frame: &Frame, at: i64) {
        self.has_decoded_key |= frame.is_key();
        if (frame.is_corrupt() || frame.has_decode_errors()) && self.counts(at) {
            logged().pictures.insert(at);
        }
    }

    /// Notes a packet that the decoder rejected.
    pub(super) fn refused(&mut self) {
        self.packets += u64::from(self.has_decoded_key);
    }

    /// Notes a packet that could not be read.
    pub(super) fn unreadable(&mut self) {
        self.packets += 1;
    }

    /// Number of damaged packets and pictures. Call it after all packets were read.
    pub(super) fn total(&mut self) -> u64 {
        let suspects = std::mem::take(&mut self.suspects).into_iter().filter(|suspect| *suspect).count();
        self.packets += if self.key.is_some() { suspects as u64 } else { 0 };
        let logged = logged();
        let demuxer_errors = if self.demuxer_skips { logged.demuxer_errors } else { 0 };
        self.packets + demuxer_errors + logged.pictures.len() as u64
    }

    /// Whether the demuxer found that the file ends inside an element.
    pub(super) fn is_cut(&self) -> bool {
        logged().is_cut
    }

    fn counts(&self, at: i64) -> bool {
        self.key.is_some_and(|key| at >= key)
    }
}

/// Encodes a picture's time as the pointer that the decoder carries along. Null if damage to the picture does not
/// count.
fn to_opaque(at: Option<i64>) -> *mut c_void {
    std::ptr::without_provenance_mut(at.map_or(0, |at| at.wrapping_sub(i64::MIN) as usize))
}

fn from_opaque(opaque: *mut c_void) -> Option<i64> {
    Some(opaque.addr()).filter(|at| *at != 0).map(|at| (at as i64).wrapping_add(i64::MIN))
}

/// FFmpeg's log callback. `V` is C's `va_list`, whose Rust type differs between platforms.
unsafe extern "C" fn listen<V>(object: *mut c_void, level: c_int, format: *const c_char, arguments: V) {
    if !object.is_null() && !format.is_null() {
        // SAFETY: FFmpeg logs about objects that begin with a pointer to their class, and the format is a C string.
        let (class, format) = unsafe { (*object.cast::<*const ffi::AVClass>(), CStr::from_ptr(format).to_bytes()) };
        // SAFETY: classes and their names are constants.
        let name = unsafe { class.as_ref().map(|class| CStr::from_ptr(class.class_name).to_bytes()) };
        match name {
            Some(b"AVCodecContext") if DECODER_COMPLAINTS.iter().any(|begin| format.starts_with(begin)) => {
                // SAFETY: an object of this class is a codec context.
                let opaque = unsafe { (*object.cast::<ffi::AVCodecContext>()).opaque };
                logged().pictures.extend(from_opaque(opaque));
            }
            Some(b"AVFormatContext") if level <= ffi::AV_LOG_ERROR => match format.starts_with(CUT_COMPLAINT) {
                true => logged().is_cut = true,
                false => logged().demuxer_errors += 1,
            },
            _ => {}
        }
    }
    type Callback<V> = unsafe extern "C" fn(*mut c_void, c_int, *const c_char, V);
    // SAFETY: this is the function with exactly this signature; `V` is its `va_list`.
    unsafe {
        let print: Callback<V> = std::mem::transmute(ffi::av_log_default_callback as *const ());
        print(object, level, format, arguments);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_its_way_through_the_decoder() {
        for at in [-1, 0, 1, i64::MAX, i64::MIN + 1] {
            assert_eq!(from_opaque(to_opaque(Some(at))), Some(at));
        }
        assert_eq!(from_opaque(to_opaque(None)), None);
    }
}
