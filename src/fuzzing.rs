//! What fuzzers feed with bytes: every parser of data that strangers may have made. Nothing may panic, hang or need more memory than
//! the data justifies. The targets for `cargo fuzz` in `tests/fuzz` call these functions, and so does the test below, with a little
//! damage to valid data.

use std::io::Write as _;
use std::path::Path;

use bytes::Bytes;

use crate::decode;
use crate::job::Job;
use crate::plan;
use crate::zoo::checkpoint::{self, Checkpoint};
use crate::zoo::descriptor::Descriptor;
use crate::zoo::inspect::ModelInfo;
use crate::zoo::weights::SafeTensors;

/// A pickle of a checkpoint.
pub fn pickle(data: &[u8]) {
    checkpoint::fuzz_pickle(data);
}

/// A PyTorch file.
pub fn torch(data: &[u8]) {
    with_file(data, |path| drop(Checkpoint::open(path)));
}

/// An ONNX file.
pub fn onnx(data: &[u8]) {
    if let Ok(info) = ModelInfo::parse(Path::new("/nowhere/model.onnx"), Bytes::copy_from_slice(data)) {
        drop(Descriptor::for_model(&info));
    }
}

/// A safetensors file.
pub fn safetensors(data: &[u8]) {
    with_file(data, |path| drop(SafeTensors::read(path)));
}

/// The messages of a decoder process, one on each line.
pub fn messages(data: &[u8]) {
    decode::fuzz_messages(data);
}

/// A job file.
pub fn job(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        drop(Job::parse("fuzzed.toml", text, &[]));
    }
}

/// A data file of an S3 inventory, in CSV before it is compressed.
pub fn inventory(data: &[u8]) {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    if encoder.write_all(data).is_ok()
        && let Ok(compressed) = encoder.finish()
    {
        with_file(&compressed, plan::fuzz_inventory);
    }
}

fn with_file(data: &[u8], read: impl FnOnce(&Path)) {
    let file = tempfile::NamedTempFile::new();
    if let Ok(mut file) = file
        && file.write_all(data).is_ok()
    {
        read(file.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Parser = fn(&[u8]);

    /// Valid data of each parser.
    fn seeds() -> Vec<(Parser, Vec<u8>)> {
        let pickled = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01X\x01\x00\x00\x00bq\x02]q\x03(G?\xf0\x00\x00\x00\x00\x00\x00Nee\x88u.";
        let header = br#"{"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"__metadata__":{"k":"v"}}"#;
        let tensors = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 8]].concat();
        let said = concat!(
            r#"{"Opened":{"container":"mov","codec":"h264","width":64,"height":48,"orientation":{"rotation":90,"mirrored":true},"frames_per_second":25.0,"duration_seconds":4.0}}"#,
            "\n",
            r#"{"Image":{"slot":0,"frame":3,"time_seconds":0.5,"width":64,"height":48}}"#,
            "\n",
            r#"{"Clip":{"slot":0,"width":8,"height":8,"segment":0,"start_seconds":0.0,"end_seconds":1.0,"frames":25,"sampled":[0,1,2]}}"#,
            "\n",
            r#"{"Ended":{"totals":{"frames_decoded":1,"frames_presented":1,"in_full":"damage","end_seconds":1.0,"damaged":0,"start_seconds":0.0,"decode_seconds":0.1,"fetch_seconds":0.0,"blocked_seconds":0.0},"error":{"kind":"Corrupt","message":"no"}}}"#,
        );
        let text = "[input]\nuri = \"s3://a/\"\npartition = '(?<camera>cam-[^/]+)/'\n[output]\nuri = \"s3://b/\"\n[persons]\nmodel = \"m.onnx\"\n\
                    [run]\nmax_failed = \"1%, corrupt=5%\"\nshard_bytes = \"1 GiB\"\n";
        let listed = "\"archive\",\"a+b%2Bc.mp4\",\"100\",\"2026-11-01T09:30:12.000Z\",\"9b2c\"\n";
        vec![
            (pickle, pickled.to_vec()),
            (onnx, std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-yolov5.onnx")).unwrap_or_default()[..4000].to_vec()),
            (safetensors, tensors),
            (messages, said.as_bytes().to_vec()),
            (job, text.as_bytes().to_vec()),
            (inventory, listed.repeat(3).into_bytes()),
            (torch, b"PK\x03\x04\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x08\0\0\0data.pklPK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]
        #[test]
        fn damaged_data_is_refused_or_read(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 0..6),
        ) {
            for (parse, mut data) in seeds() {
                for (at, byte, how) in &changes {
                    let at = at.index(data.len().max(1));
                    match how {
                        0 if at < data.len() => data[at] = *byte,
                        1 if at < data.len() => drop(data.remove(at)),
                        2 => data.insert(at.min(data.len()), *byte),
                        _ if at < data.len() => data[at] ^= 1 << (byte % 8),
                        _ => {}
                    }
                }
                parse(&data);
            }
        }
    }
}
