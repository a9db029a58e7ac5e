//! Time per inference of each model in each lowering on each device of this machine, for one clip or image.
//!
//! ```text
//! cargo bench --bench lowering                                  slowfast-r50-8x8
//! cargo bench --bench lowering -- slowfast-r101-8x8 yolov5s     others; `all` for all
//! ```
//! The variants take turns, so that other load on the machine affects all of them equally. The minimum is the time that
//! is least affected.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

use std::path::Path;
use std::process::Command;

use vidindex::device::{Device, DeviceChoice, Precision};
use vidindex::infer::session::{Model, Runtime};
use vidindex::zoo::deploy::Deployment;
use vidindex::zoo::inspect::{ModelInfo, TensorInfo};
use vidindex::zoo::lower::Lowering;
use vidindex::zoo::registry::{self, MODELS};
use vidindex::zoo::{self, BuildOptions, Network, slowfast};

const ROUNDS: usize = 9;

/// The measured devices and precisions, by name.
const DEVICES: [(&str, Device, Precision); 3] = [
    ("cpu", Device::Cpu, Precision::Fp32),
    ("openvino", Device::OpenVino, Precision::Fp32),
    ("openvino bf16", Device::OpenVino, Precision::Bf16),
];

/// Set in the process that measures one device, because a process can load ONNX Runtime only once.
const CHILD: &str = "VIDINDEX_BENCH_DEVICE";

fn main() {
    let requested: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let Ok(device) = std::env::var(CHILD) else {
        println!("| model | device | lowering | median ms | minimum ms | of plain |\n|---|---|---|---|---|---|");
        for (name, ..) in DEVICES {
            let own = std::env::current_exe().unwrap();
            assert!(Command::new(own).args(&requested).env(CHILD, name).status().unwrap().success());
        }
        return;
    };
    let (name, device, precision) = DEVICES.into_iter().find(|(name, ..)| *name == device).unwrap();
    let runtime = match Runtime::load(None, DeviceChoice::Named(device), precision) {
        Ok(runtime) => runtime,
        Err(error) => return eprintln!("skipped {name}: {error}"),
    };
    let is_requested = |name: &str| match requested.as_slice() {
        [] => name == "slowfast-r50-8x8",
        requested => requested.iter().any(|requested| requested == name || requested == "all"),
    };
    for model in MODELS.iter().filter(|model| is_requested(model.name)) {
        let lowerings = match registry::network(model.name).unwrap() {
            Network::SlowFast(..) => &Lowering::ALL[..],
            Network::Yolov5(_) => &[Lowering::Plain],
        };
        measure(model.name, name, &runtime, lowerings);
    }
}

fn measure(name: &str, device: &str, runtime: &Runtime, lowerings: &[Lowering]) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lowering");
    let mut variants: Vec<(Lowering, Variant, Vec<f64>)> = lowerings
        .iter()
        .map(|&lowering| {
            let out = folder.join(format!("{name}-{lowering}.onnx"));
            let options = BuildOptions { out, lowering, ..BuildOptions::default() };
            (lowering, Variant::open(runtime, zoo::build(name, &options).unwrap().info), vec![])
        })
        .collect();
    for round in 0..=ROUNDS {
        for (_, variant, seconds) in &mut variants {
            let took = variant.run();
            // The first run prepares the session, and is not measured.
            if round > 0 {
                seconds.push(took);
            }
        }
    }
    let mut plain = None;
    for (lowering, _, seconds) in &mut variants {
        seconds.sort_by(f64::total_cmp);
        let (median, minimum) = (seconds[seconds.len() / 2], seconds[0]);
        let ratio = minimum / *plain.get_or_insert(minimum);
        println!("| {name} | {device} | {lowering} | {:.0} | {:.0} | {ratio:.2} |", median * 1e3, minimum * 1e3);
    }
}

/// A model with its input.
struct Variant {
    model: Model,
    info: ModelInfo,
    data: Vec<Vec<f32>>,
}

impl Variant {
    fn open(runtime: &Runtime, info: ModelInfo) -> Self {
        let model = runtime.open(&Deployment::read(&info.path).unwrap(), &[("batch".into(), 1)]).unwrap();
        let data = info.inputs.iter().map(|input| match input.name.as_str() {
            slowfast::BOXES_INPUT => vec![0.0, 32.0, 32.0, 192.0, 224.0],
            _ => (0..shape(input).iter().product::<i64>()).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect(),
        });
        let data = data.collect();
        Self { model, info, data }
    }

    /// Returns the seconds that the inference took.
    fn run(&mut self) -> f64 {
        let memory = self.model.memory();
        let input = |(input, data): (&TensorInfo, &Vec<f32>)| {
            let shape: Vec<usize> = shape(input).into_iter().map(|length| length as usize).collect();
            memory.input(&input.name, &shape, |values: &mut [f32]| values.copy_from_slice(data)).unwrap()
        };
        let inputs: Vec<_> = self.info.inputs.iter().zip(&self.data).map(input).collect();
        self.model.run(&inputs, &self.info.outputs[0].name, |_, _| Ok(())).unwrap().seconds
    }
}

/// The shape of an input for one clip or image, with one box, and with frames of 256 x 256 where the size is dynamic.
fn shape(input: &TensorInfo) -> Vec<i64> {
    let length = |d| input.fixed(d).map_or(if d < 3 { 1 } else { 256 }, |length| length as i64);
    (0..input.shape.len()).map(length).collect()
}
