//! What the bytes of a packet tell without decoding it: whether frames refer to it, whether decoding can start at it,
//! whether it shows a frame. Does not use FFmpeg.

/// NAL unit types of H.264 (ITU-T H.264, table 7-1).
const H264_SLICES: std::ops::RangeInclusive<u8> = 1..=5;
const H264_IDR: u8 = 5;
const H264_SEI: u8 = 6;
/// NAL unit types of HEVC (ITU-T H.265, table 7-1): slices of IDR pictures, and of all that allow random access.
const HEVC_IDR: std::ops::RangeInclusive<u8> = 19..=20;
const HEVC_RANDOM_ACCESS: std::ops::RangeInclusive<u8> = 16..=23;
/// SEI payload type of a recovery point (ITU-T H.264, D.1.8).
const RECOVERY_POINT: u8 = 6;

/// Codecs whose packets tell enough to leave some out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// `length_bytes` of the length before each NAL unit; `None` for start codes (Annex B).
    H264 { length_bytes: Option<usize> },
    /// The same.
    Hevc { length_bytes: Option<usize> },
    /// VP8, RFC 6386.
    Vp8,
    /// VP9, bitstream specification 6.2.
    Vp9,
    /// AV1: a packet is a temporal unit, which shows one frame.
    Av1,
    /// Every frame is a key frame.
    Intra,
}

/// What a decoder must do to continue at a key frame without the packets before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing: the key frame resets it.
    Clean,
    /// It must forget the frames before.
    AfterFlush,
    /// It cannot.
    Impossible,
}

impl Codec {
    /// H.264 with this codec configuration: `avcC` (ISO/IEC 14496-15) or, in Annex B, parameter sets.
    pub(super) fn h264(configuration: &[u8]) -> Self {
        let is_boxed = configuration.first() == Some(&1);
        Self::H264 { length_bytes: configuration.get(4).filter(|_| is_boxed).map(|byte| usize::from(byte & 3) + 1) }
    }

    /// HEVC with this codec configuration: `hvcC` or, in Annex B, parameter sets.
    pub(super) fn hevc(configuration: &[u8]) -> Self {
        let is_boxed = configuration.first() == Some(&1);
        Self::Hevc { length_bytes: configuration.get(21).filter(|_| is_boxed).map(|byte| usize::from(byte & 3) + 1) }
    }

    /// Whether the decoder can leave out frames that no other frame refers to, by itself.
    pub(super) fn skips_non_references(self) -> bool {
        matches!(self, Self::H264 { .. })
    }

    /// Whether other frames may refer to the frame of this packet. `None` if its bytes do not tell.
    pub(super) fn is_reference(self, packet: &[u8]) -> Option<bool> {
        match self {
            Self::H264 { length_bytes } => {
                let mut slices = nal_units(packet, length_bytes).filter(|nal| H264_SLICES.contains(&(nal[0] & 0x1f)));
                slices.next().map(|slice| slice[0] >> 5 & 3 != 0)
            }
            Self::Intra => Some(false),
            _ => None,
        }
    }

    /// How the frames from this packet on can be decoded without those before it, except frames that are presented before
    /// it. `packet` is marked as a key frame.
    pub(super) fn start(self, packet: &[u8]) -> Start {
        let start = match self {
            Self::H264 { length_bytes } => {
                let kinds = |kind| nal_units(packet, length_bytes).filter(move |nal| nal[0] & 0x1f == kind);
                let mut messages = kinds(H264_SEI);
                match kinds(H264_IDR).next() {
                    Some(_) => Some(Start::Clean),
                    None => messages.any(|nal| is_recovery_point(&nal[1..])).then_some(Start::AfterFlush),
                }
            }
            Self::Hevc { length_bytes } => {
                // Slices have types below 32 (H.265, table 7-1).
                let mut slices =
                    nal_units(packet, length_bytes).map(|nal| nal[0] >> 1 & 0x3f).filter(|kind| *kind < 32);
                slices.next().and_then(|kind| match kind {
                    _ if HEVC_IDR.contains(&kind) => Some(Start::Clean),
                    _ if HEVC_RANDOM_ACCESS.contains(&kind) => Some(Start::AfterFlush),
                    _ => None,
                })
            }
            Self::Vp8 | Self::Vp9 | Self::Av1 | Self::Intra => Some(Start::Clean),
        };
        start.unwrap_or(Start::Impossible)
    }

    /// Whether the packet is decoded but shows no frame.
    pub(super) fn is_hidden(self, packet: &[u8]) -> bool {
        match self {
            Self::Vp8 => packet.first().is_none_or(|byte| byte & 0x10 == 0),
            Self::Vp9 => is_hidden_vp9(packet),
            _ => packet.is_empty(),
        }
    }
}

/// The NAL units of a packet, without their lengths or start codes. Never empty ones.
fn nal_units(packet: &[u8], length_bytes: Option<usize>) -> Box<dyn Iterator<Item = &[u8]> + '_> {
    match length_bytes {
        Some(length_bytes) => {
            let mut rest = packet;
            Box::new(std::iter::from_fn(move || {
                let (length, after) = rest.split_at_checked(length_bytes)?;
                let length = length.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
                let (nal, after) = after.split_at_checked(length).filter(|(nal, _)| !nal.is_empty())?;
                rest = after;
                Some(nal)
            }))
        }
        None => {
            let starts = packet.windows(3).enumerate().filter(|(_, code)| *code == [0, 0, 1]);
            Box::new(starts.filter_map(|(at, _)| packet.get(at + 3..).filter(|nal| !nal.is_empty())))
        }
    }
}

/// Whether an SEI contains a recovery point from which on all frames are exact.
fn is_recovery_point(mut sei: &[u8]) -> bool {
    let number = |sei: &mut &[u8]| {
        let mut number = 0usize;
        while let Some((byte, rest)) = sei.split_first() {
            *sei = rest;
            number += usize::from(*byte);
            if *byte != 0xff {
                return Some(number);
            }
        }
        None
    };
    // The last byte is the trailing bits.
    while sei.len() > 2 {
        let (Some(kind), Some(size)) = (number(&mut sei), number(&mut sei)) else { return false };
        let Some((payload, rest)) = sei.split_at_checked(size) else { return false };
        if kind == usize::from(RECOVERY_POINT) {
            // `recovery_frame_cnt`, of which the code is a single 1 if it is zero.
            return payload.first().is_some_and(|byte| byte & 0x80 != 0);
        }
        sei = rest;
    }
    false
}

fn is_hidden_vp9(packet: &[u8]) -> bool {
    let (Some(first), Some(last)) = (packet.first(), packet.last()) else { return true };
    // A superframe: encoders put hidden frames together with the frame that is shown after them.
    if last & 0xe0 == 0xc0 {
        return false;
    }
    // Marker (2 bits), profile (2, low bit first), a reserved bit in profile 3, `show_existing_frame`, `frame_type`,
    // `show_frame`.
    let at = if first >> 4 & 3 == 3 { 5 } else { 4 };
    let bit = |at: u8| first >> (7 - at) & 1 == 1;
    !bit(at) && !bit(at + 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOXED: Codec = Codec::H264 { length_bytes: Some(4) };
    const ANNEX_B: Codec = Codec::H264 { length_bytes: None };

    fn boxed(nals: &[&[u8]]) -> Vec<u8> {
        nals.iter().flat_map(|nal| [&(nal.len() as u32).to_be_bytes(), *nal].concat()).collect()
    }

    fn annex_b(nals: &[&[u8]]) -> Vec<u8> {
        nals.iter().flat_map(|nal| [&[0, 0, 0, 1], *nal].concat()).collect()
    }

    #[test]
    fn h264_slices_tell_whether_they_are_references() {
        let delimiter: &[u8] = &[0x09, 0xf0];
        for (slice, expected) in [(0x65, true), (0x41, true), (0x21, true), (0x01, false)] {
            let nals: [&[u8]; 2] = [delimiter, &[slice, 0x88]];
            assert_eq!(BOXED.is_reference(&boxed(&nals)), Some(expected));
            assert_eq!(ANNEX_B.is_reference(&annex_b(&nals)), Some(expected));
        }
        assert_eq!(BOXED.is_reference(&boxed(&[delimiter])), None);
    }

    #[test]
    fn h264_starts_at_idr_frames_and_at_exact_recovery_points() {
        let start = |nals: &[&[u8]]| BOXED.start(&boxed(nals));
        assert_eq!(start(&[&[0x65, 1]]), Start::Clean);
        assert_eq!(start(&[&[0x41, 1]]), Start::Impossible);
        // Payload 5 (user data) of two bytes, then payload 6: `recovery_frame_cnt` is zero, then two.
        assert_eq!(start(&[&[0x06, 5, 2, 9, 9, 6, 1, 0xc4, 0x80], &[0x41, 1]]), Start::AfterFlush);
        assert_eq!(start(&[&[0x06, 5, 2, 9, 9, 6, 1, 0x64, 0x80], &[0x41, 1]]), Start::Impossible);
        assert_eq!(start(&[&[0x06, 5, 2, 9, 9, 6, 1, 0x64, 0x80], &[0x65, 1]]), Start::Clean);
    }

    #[test]
    fn hevc_starts_at_random_access_points() {
        let hevc = Codec::Hevc { length_bytes: None };
        for (kind, expected) in [
            (1u8, Start::Impossible),
            (9, Start::Impossible),
            (16, Start::AfterFlush),
            (19, Start::Clean),
            (21, Start::AfterFlush),
        ] {
            assert_eq!(hevc.start(&annex_b(&[&[32 << 1, 1], &[kind << 1, 1]])), expected, "{kind}");
        }
    }

    #[test]
    fn hidden_frames_of_vp8_and_vp9_are_told() {
        assert!(!Codec::Vp8.is_hidden(&[0x10]) && Codec::Vp8.is_hidden(&[0x00]));
        // Key frame that is shown; inter frame that is hidden; the same in a superframe; an existing frame is shown.
        assert!(!Codec::Vp9.is_hidden(&[0b1000_0010, 0]) && Codec::Vp9.is_hidden(&[0b1000_0100, 0]));
        assert!(!Codec::Vp9.is_hidden(&[0b1000_0100, 0xc1]) && !Codec::Vp9.is_hidden(&[0b1000_1000, 0]));
        assert!(Codec::Vp9.is_hidden(&[0b1011_0010, 0]), "profile 3 has a reserved bit");
    }

    #[test]
    fn the_configuration_tells_the_length_of_lengths() {
        assert_eq!(Codec::h264(&[1, 100, 0, 31, 0xff]), BOXED);
        assert_eq!(Codec::h264(&[0, 0, 0, 1, 0x67]), ANNEX_B);
        assert_eq!(Codec::hevc(&[[1; 21].as_slice(), &[0x0d]].concat()), Codec::Hevc { length_bytes: Some(2) });
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(packet in prop::collection::vec(any::<u8>(), 0..60), length in prop::option::of(1usize..5)) {
            let codecs = [Codec::H264 { length_bytes: length }, Codec::Hevc { length_bytes: length }, Codec::Vp8, Codec::Vp9];
            for codec in codecs {
                let _ = (codec.is_reference(&packet), codec.start(&packet), codec.is_hidden(&packet));
            }
        }
    }
}
