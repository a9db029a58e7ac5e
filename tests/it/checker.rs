//! ONNX's own checker, with strict shape inference, accepts every kind of graph that the zoo writes, in every lowering.

use std::process::Command;

use vidindex::zoo::lower::Lowering;
use vidindex::zoo::{self, BuildOptions};

use crate::support;
use crate::support::said;

const CHECK: &str = "
import onnx, pathlib, sys
files = sorted(pathlib.Path(sys.argv[1]).glob('*.onnx'))
for file in files:
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except Exception as problem:
        sys.exit(f'{file.name}: {problem}')
print(len(files))
";

#[test]
fn every_kind_of_graph_passes_the_onnx_checker() {
    let Some(python) = support::python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let slowfasts = [
        "slowfast-tiny",
        "slowfast-tiny-4x16",
        "slowfast-tiny-ava",
        "slowfast-tiny-nl",
        "slowfast-tiny-nlsoftmax-ava",
        "slowfast-tiny-ttoc-grey",
        "slowfast-tiny-sample-diff",
        "slow-tiny-8x8",
        "slow-tiny-4x16-ava",
        "fast-tiny-32x2",
    ];
    let yolov5s = ["yolov5n", "yolov5n6", "yolov5n-v5", "yolov5n-raw", "yolov5n6-v5"];
    let mut count = 0;
    let mut write = |name: &str, lowering, half| {
        let out = folder.path().join(format!("{name}-{lowering}-{half}.onnx"));
        zoo::build(name, &BuildOptions { out, lowering, half, ..BuildOptions::default() }).unwrap();
        count += 1;
    };
    for half in [false, true] {
        slowfasts.iter().for_each(|name| Lowering::ALL.into_iter().for_each(|lowering| write(name, lowering, half)));
        yolov5s.iter().for_each(|name| write(name, Lowering::Plain, half));
    }
    let checked = Command::new(python).args(["-c", CHECK]).arg(folder.path()).output().unwrap();
    assert!(checked.status.success(), "{}", said(&checked));
    assert_eq!(String::from_utf8_lossy(&checked.stdout).trim(), count.to_string());
}
