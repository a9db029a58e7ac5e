//! Detects that an MP4 file ends inside the header of a fragment, while the file is read. Does not use FFmpeg.
//!
//! FFmpeg either rejects such a file entirely or silently stops before the fragment.

/// Bytes of a box header: size, type, and a 64-bit size where 32 bits are not enough.
const HEADER_BYTES: usize = 16;

/// Follows the top-level boxes of an MP4 file through the reads, which may come in any order.
#[derive(Debug)]
pub(super) struct Fragments {
    size_bytes: u64,
    /// Offset of the next box that was not seen yet. `None` once the boxes can no longer be followed.
    next: Option<u64>,
    /// The part of its header that was read.
    header: Vec<u8>,
    /// Offset of the fragment whose header is incomplete.
    cut_at: Option<u64>,
}

impl Fragments {
    /// A file of `size_bytes`, before the first read.
    pub(super) fn new(size_bytes: u64) -> Self {
        Self { size_bytes, next: Some(0), header: Vec::new(), cut_at: None }
    }

    /// Notes the bytes that were read at `offset`.
    pub(super) fn see(&mut self, offset: u64, bytes: &[u8]) {
        while let Some(next) = self.next {
            let at = next + self.header.len() as u64;
            let Some(new) = at.checked_sub(offset).and_then(|skip| bytes.get(usize::try_from(skip).ok()?..)) else {
                return;
            };
            let new = &new[..new.len().min(HEADER_BYTES - self.header.len())];
            self.header.extend_from_slice(new);
            let left = self.size_bytes.saturating_sub(next).min(HEADER_BYTES as u64) as usize;
            if self.header.len() < left || left < 8 {
                return;
            }
            self.follow(next);
        }
    }

    /// Moves past the box at `at`, whose header was read completely.
    fn follow(&mut self, at: u64) {
        let header = std::mem::take(&mut self.header);
        let size = match header.first_chunk().map(|size| u32::from_be_bytes(*size)) {
            Some(1) => header[8..].first_chunk().map(|size| u64::from_be_bytes(*size)),
            Some(size) => Some(u64::from(size)),
            None => None,
        };
        let kind = &header[4..8];
        let is_box = kind.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
        self.next = size.filter(|size| is_box && *size >= 8).and_then(|size| at.checked_add(size));
        if self.next.is_some_and(|next| next > self.size_bytes) && kind == b"moof" {
            self.cut_at = Some(at);
        }
    }

    /// Offset of the fragment whose header is truncated by the end of the file, if one was found.
    pub(super) fn cut_at(&self) -> Option<u64> {
        self.cut_at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn boxes(sizes: &[(u32, &[u8; 4])]) -> Vec<u8> {
        let mut file = Vec::new();
        for (size, kind) in sizes {
            file.extend_from_slice(&size.to_be_bytes());
            file.extend_from_slice(*kind);
            file.resize(file.len() + *size as usize - 8, 0);
        }
        file
    }

    proptest! {
        #[test]
        fn a_cut_fragment_is_found_however_the_file_is_read(
            kept in 0usize..400,
            pieces in prop::collection::vec(1usize..90, 40),
        ) {
            let whole = boxes(&[(24, b"ftyp"), (60, b"moov"), (90, b"moof"), (70, b"mdat"), (80, b"moof"), (40, b"mdat")]);
            let file = &whole[..kept.min(whole.len())];
            let mut fragments = Fragments::new(file.len() as u64);
            let mut at = 0;
            for piece in pieces {
                let end = (at + piece).min(file.len());
                fragments.see(at as u64, &file[at..end]);
                at = end;
            }
            // If the pieces are long enough, the whole file was read.
            if at == file.len() {
                let expected = match file.len() { 92..174 => Some(84), 252..324 => Some(244), _ => None };
                prop_assert_eq!(fragments.cut_at(), expected);
            }
        }

        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), offset in 0u64..50) {
            let mut fragments = Fragments::new(bytes.len() as u64);
            fragments.see(offset, &bytes);
            fragments.see(0, &bytes);
        }
    }
}
