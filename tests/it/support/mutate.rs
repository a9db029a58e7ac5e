//! The example `mutate`: damages videos in ways that respect the structure of their containers, so that the damage reaches deep
//! into demuxers and decoders. What it does follows from the seed.
//!
//!     cargo run --example mutate -- --seed 1 --count 300 VIDEOS OUT

#[path = "dice.rs"]
mod dice;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Parser;

use dice::Dice;

/// Damage videos: each output is a video of the folder with one to three mutations.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first output's seed; each further one has the next.
    #[arg(long, default_value = "1")]
    seed: u64,
    /// Number of outputs.
    #[arg(long, default_value = "300")]
    count: u64,
    /// Folder of small videos.
    videos: PathBuf,
    /// Folder for the outputs, named SEED-VIDEO.
    out: PathBuf,
}

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let at = self.below(of.len());
        of.get(at)
    }
}

/// An element of a container: a box, an element, a chunk, a packet or a page.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// Type and length.
    head: Range<usize>,
    /// With its head.
    whole: Range<usize>,
}

impl Part {
    fn body(&self) -> Range<usize> {
        self.head.end..self.whole.end
    }
}

/// The parts of a file, nested ones too.
fn parts(file: &[u8]) -> Vec<Part> {
    let mut found = Vec::new();
    match file {
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => boxes(file, 0..file.len(), 0, &mut found),
        [0x1a, 0x45, 0xdf, 0xa3, ..] => elements(file, 0..file.len(), 0, &mut found),
        [b'R', b'I', b'F', b'F', ..] => chunks(file, 0..file.len(), 0, &mut found),
        [b'O', b'g', b'g', b'S', ..] => found = starting_with(file, b"OggS", 27),
        [b'F', b'L', b'V', ..] => tags(file, &mut found),
        [0x47, ..] => found.extend((0..file.len() / 188).map(|n| part(n * 188, 4, 184))),
        [0, 0, 1, 0xba, ..] => found = starting_with(file, &[0, 0, 1], 4),
        _ => {}
    }
    found
}

fn part(start: usize, head: usize, body: usize) -> Part {
    Part { head: start..start + head, whole: start..start + head + body }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Boxes of ISO media files: length, type, and for some types more boxes.
fn boxes(file: &[u8], range: Range<usize>, depth: usize, found: &mut Vec<Part>) {
    let mut at = range.start;
    while at + 8 <= range.end && found.len() < 10_000 {
        let (length, head) = match number(&file[at..at + 4]) {
            0 => ((range.end - at) as u64, 8),
            1 if at + 16 <= range.end => (number(&file[at + 8..at + 16]), 16),
            length => (length, 8),
        };
        if length < head as u64 || length > (range.end - at) as u64 {
            return;
        }
        let length = length as usize;
        found.push(part(at, head, length - head));
        let inside = match &file[at + 4..at + 8] {
            b"moov" | b"trak" | b"mdia" | b"minf" | b"stbl" | b"edts" | b"dinf" | b"moof" | b"traf" | b"mvex"
            | b"udta" => 0,
            b"stsd" => 8,
            b"avc1" | b"hvc1" | b"hev1" | b"mp4v" | b"av01" | b"vp09" => 78,
            _ => usize::MAX,
        };
        if depth < 10 && inside < length - head {
            boxes(file, at + head + inside..at + length, depth + 1, found);
        }
        at += length;
    }
}

/// Elements of EBML, of which Matroska consists: id and length of variable size.
fn elements(file: &[u8], range: Range<usize>, depth: usize, found: &mut Vec<Part>) {
    // Segment, SeekHead, Info, Tracks, TrackEntry, Video, Audio, Cluster, BlockGroup, Cues, CuePoint, CueTrackPositions.
    const MASTERS: [u64; 14] = [
        0x1a45_dfa3,
        0x1853_8067,
        0x114d_9b74,
        0x4dbb,
        0x1549_a966,
        0x1654_ae6b,
        0xae,
        0xe0,
        0xe1,
        0x1f43_b675,
        0xa0,
        0x1c53_bb6b,
        0xbb,
        0xb7,
    ];
    let mut at = range.start;
    while at + 2 <= range.end && found.len() < 10_000 {
        let id_length = file[at].leading_zeros() as usize + 1;
        if id_length > 4 || at + id_length + 1 > range.end {
            return;
        }
        let id = number(&file[at..at + id_length]);
        let length_at = at + id_length;
        let length_length = file[length_at].leading_zeros() as usize + 1;
        if length_length > 8 || length_at + length_length > range.end {
            return;
        }
        let stated = number(&file[length_at..length_at + length_length]) & ((1 << (7 * length_length)) - 1);
        let head = id_length + length_length;
        let left = range.end - at - head;
        // All ones: unknown, up to the end.
        let body = if stated == (1 << (7 * length_length)) - 1 { left } else { (stated as usize).min(left) };
        found.push(part(at, head, body));
        if depth < 10 && MASTERS.contains(&id) {
            elements(file, at + head..at + head + body, depth + 1, found);
        }
        at += head + body;
    }
}

/// Chunks of RIFF, of which AVI consists: type, length, and for some types more chunks.
fn chunks(file: &[u8], range: Range<usize>, depth: usize, found: &mut Vec<Part>) {
    let mut at = range.start;
    while at + 8 <= range.end && found.len() < 10_000 {
        let length = u32::from_le_bytes([file[at + 4], file[at + 5], file[at + 6], file[at + 7]]) as usize;
        let body = length.min(range.end - at - 8);
        found.push(part(at, 8, body));
        if depth < 10 && body >= 4 && matches!(&file[at..at + 4], b"RIFF" | b"LIST") {
            chunks(file, at + 12..at + 8 + body, depth + 1, found);
        }
        at += 8 + body + body % 2;
    }
}

/// Tags of FLV: type, length, time.
fn tags(file: &[u8], found: &mut Vec<Part>) {
    let mut at = 13;
    while at + 11 <= file.len() {
        let body = (number(&file[at + 1..at + 4]) as usize).min(file.len() - at - 11);
        found.push(part(at, 11, body));
        at += 11 + body + 4;
    }
}

/// Parts that begin with a mark and reach to the next one.
fn starting_with(file: &[u8], mark: &[u8], head: usize) -> Vec<Part> {
    let starts: Vec<usize> = (0..file.len().saturating_sub(head)).filter(|at| file[*at..].starts_with(mark)).collect();
    let ends = starts.iter().skip(1).copied().chain([file.len()]);
    starts
        .iter()
        .zip(ends)
        .filter(|(start, end)| **start + head <= *end)
        .map(|(start, end)| part(*start, head, end - start - head))
        .collect()
}

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 10] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x8000_0000, u64::MAX];

/// Damages a file once.
fn mutate(file: &mut Vec<u8>, others: &[Vec<u8>], dice: &mut Dice) {
    let parts = parts(file);
    // Large parts are mostly pictures, small ones mostly what demuxers read.
    let chosen = match dice.below(3) {
        0 => parts.iter().max_by_key(|part| part.body().len() * (dice.below(8) + 1)).cloned(),
        _ => dice.pick(&parts).cloned(),
    };
    let chosen = chosen.unwrap_or_else(|| part(0, 0, file.len()));
    let (head, body) = (chosen.head.clone(), chosen.body());
    match dice.below(14) {
        // The structure.
        0 => drop(file.drain(chosen.whole)),
        1 => {
            let copy = file[chosen.whole.clone()].to_vec();
            let at = dice.pick(&parts).map_or(file.len(), |part| part.whole.start);
            file.splice(at..at, copy);
        }
        2 => {
            if let Some(other) = dice.pick(&parts).cloned() {
                let (first, second) =
                    if chosen.whole.start < other.whole.start { (chosen, other) } else { (other, chosen) };
                if first.whole.end <= second.whole.start {
                    let (a, b) = (file[first.whole.clone()].to_vec(), file[second.whole.clone()].to_vec());
                    file.splice(second.whole, a);
                    file.splice(first.whole, b);
                }
            }
        }
        3 => file.truncate(chosen.whole.start + dice.below(chosen.whole.len())),
        // Type or length of a part.
        4 | 5 => overwrite(file, head, dice),
        6 => {
            if let Some(other) = dice.pick(others) {
                let theirs = self::parts(other);
                let copy = dice.pick(&theirs).map_or(other.clone(), |part| other[part.whole.clone()].to_vec());
                file.splice(chosen.whole, copy);
            }
        }
        // What is in it.
        7 => file[body].fill(EDGES[dice.below(4)] as u8),
        8 | 9 => overwrite(file, body, dice),
        10 => {
            for _ in 0..dice.below(20) {
                overwrite(file, body.clone(), dice);
            }
        }
        11 => {
            let at = body.start + dice.below(body.len());
            let noise: Vec<u8> = (0..dice.below(64)).map(|_| dice.next() as u8).collect();
            file.splice(at..at, noise);
        }
        12 => {
            let from = body.start + dice.below(body.len());
            let length = dice.below(64).min(body.end - from);
            file.drain(from..from + length);
        }
        // A bit anywhere.
        _ => {
            let at = dice.below(file.len());
            if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
    }
}

/// Writes an edge or noise, of one to eight bytes, into a range.
fn overwrite(file: &mut [u8], range: Range<usize>, dice: &mut Dice) {
    let width = [1, 2, 4, 8][dice.below(4)];
    let value = if dice.below(2) == 0 { EDGES[dice.below(EDGES.len())] } else { dice.next() };
    let start = range.start + dice.below(range.len());
    let end = (start + width).min(range.end);
    let bytes = value.to_be_bytes();
    file[start..end].copy_from_slice(&bytes[8 - (end - start)..]);
}

fn read(folder: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let files = std::fs::read_dir(folder)?;
    files
        .map(|file| file.and_then(|file| Ok((file.file_name().display().to_string(), std::fs::read(file.path())?))))
        .collect()
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let videos = read(&arguments.videos)?;
    let contents: Vec<Vec<u8>> = videos.values().cloned().collect();
    std::fs::create_dir_all(&arguments.out)?;
    for seed in arguments.seed..arguments.seed + arguments.count {
        let mut dice = Dice(seed);
        // Each in turn, so that all kinds are there.
        let Some((name, content)) = videos.iter().nth((seed % videos.len() as u64) as usize) else { break };
        let mut file = content.clone();
        for _ in 0..1 + dice.below(3) {
            mutate(&mut file, &contents, &mut dice);
        }
        std::fs::write(arguments.out.join(format!("{seed}-{name}")), file)?;
    }
    Ok(())
}
