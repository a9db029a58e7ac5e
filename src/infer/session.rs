//! ONNX Runtime: finds its library, chooses the execution provider, opens and runs sessions.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use ort::environment::Environment;
use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider, ExecutionProviderDispatch};
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType};

use super::closing::{Stopper, stopper};
use super::memory::{InputTensor, Memory};
use super::streams::Streams;
use super::turn::Turn;
use crate::device::{Device, DeviceChoice, Precision, has_bf16, has_integer_products};
use crate::error::{Error, Result};
use crate::zoo::deploy::Deployment;
use crate::zoo::quantize::WeightBits;

/// The oldest supported version of ONNX Runtime.
const ONNXRUNTIME_MIN: &str = "1.24";

/// The folder into which `make setup` installs the library. It is searched in the current directory and above the binary.
const LOCAL_FOLDER: &str = ".onnxruntime";

/// The setting of a session that says where a model that is opened from memory has its external weights.
const EXTERNAL_WEIGHTS: &str = "session.model_external_initializers_file_folder_path";

/// The loaded library, and the device on which models run.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
    library: PathBuf,
    device: Device,
    precision: Precision,
    cores: usize,
    streams: Streams,
    turn: Turn,
}

impl Runtime {
    /// Loads the library (`library`, or the first one found) and chooses the device.
    ///
    /// # Errors
    /// If there is no library, or it does not support the device. The hint says what to install.
    pub fn load(library: Option<&Path>, choice: DeviceChoice, precision: Precision) -> Result<Self> {
        let library = find_library(library)?;
        let environment = environment(&library)?;
        let device = match choice {
            DeviceChoice::Auto => best_device(),
            DeviceChoice::Named(device) => device,
        };
        if !is_available(device) {
            return Err(missing_provider(device, &library));
        }
        check_precision(device, precision)?;
        if precision == Precision::Bf16 && precision.on(device, has_bf16()) != precision {
            tracing::warn!("this processor does not multiply bfloat16, so the models compute in fp32");
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let streams = Streams::of_cores(cores);
        Ok(Self { environment, library, device, precision, cores, streams, turn: Turn::default() })
    }

    /// The device on which models run.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The file of the library.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// The devices that this library supports.
    pub fn providers(&self) -> Vec<Device> {
        let known = [Device::TensorRt(0), Device::Cuda(0), Device::OpenVino, Device::Cpu];
        known.into_iter().filter(|device| is_available(*device)).collect()
    }

    /// The precision in which models compute: for `auto`, the fastest that the device computes itself.
    pub fn precision(&self) -> Precision {
        self.precision.on(self.device, has_bf16())
    }

    /// The same, with another precision.
    ///
    /// # Errors
    /// If the device does not support it.
    pub fn with_precision(&self, precision: Precision) -> Result<Self> {
        check_precision(self.device, precision)?;
        Ok(Self { precision, ..self.clone() })
    }

    /// How many models compute at the same time. A GPU takes care of that itself.
    pub fn streams(&self) -> usize {
        if self.device.is_cpu() { self.streams.count() } else { 1 }
    }

    /// The same, with another number of streams on a CPU.
    #[must_use]
    pub fn with_streams(&self, count: usize) -> Self {
        Self { streams: Streams::new(count), ..self.clone() }
    }

    /// Threads of each stream.
    fn threads(&self) -> usize {
        (self.cores / self.streams()).max(1)
    }

    /// How many bits of a quantised model's weights the device can use without overflow.
    pub fn weight_bits(&self) -> WeightBits {
        if self.device.is_cpu() && !has_integer_products() { WeightBits::Seven } else { WeightBits::Eight }
    }

    /// The precisions in which the device computes.
    pub fn precisions(&self) -> Vec<Precision> {
        let computes = |precision: &Precision| {
            precision.on(self.device, has_bf16()) == *precision && check_precision(self.device, *precision).is_ok()
        };
        Precision::ALL.into_iter().filter(computes).collect()
    }

    /// Opens a model, in 16-bit floats if the precision says so. `fixed` sets the lengths of free dimensions, by name, so
    /// that the provider can optimize for them.
    ///
    /// # Errors
    /// If ONNX Runtime rejects the file or the provider cannot start (no GPU, missing CUDA libraries).
    pub fn open(&self, deployment: &Deployment, fixed: &[(String, i64)]) -> Result<Model> {
        if self.device.is_cpu() && !has_integer_products() && deployment.has_full_weights() {
            let model = deployment.path().display();
            tracing::warn!(%model, "quantised for processors with VNNI: results are wrong on this one; quantise it here");
        }
        if matches!(self.device, Device::OpenVino | Device::TensorRt(_)) {
            let mut integers = deployment.clone();
            if integers.round_only_before_convolutions() {
                if matches!(self.device, Device::TensorRt(_)) {
                    integers.make_symmetric();
                }
                return self.open_as_is(&integers, fixed);
            }
        }
        if !self.computes_in_half() {
            return self.open_as_is(deployment, fixed);
        }
        let mut half = deployment.clone();
        if half.compute_in_half() == 0 {
            return self.open_as_is(deployment, fixed);
        }
        match self.open_as_is(&half, fixed) {
            Err(error) if self.precision == Precision::Auto => {
                let opened = self.open_as_is(deployment, fixed)?;
                tracing::warn!(model = %half.path().display(), %error, "not in 16-bit floats");
                Ok(opened)
            }
            opened => opened,
        }
    }

    fn open_as_is(&self, deployment: &Deployment, fixed: &[(String, i64)]) -> Result<Model> {
        let path = deployment.path();
        // Opening a session waits for the whole GPU, which is forbidden while another one measures its algorithms.
        let turn = (!self.device.is_cpu()).then(|| self.turn.alone());
        let opened = stopper().and_then(|stopper| Ok((self.session(deployment, fixed)?, stopper)));
        drop(turn);
        let (session, stopper) = opened.map_err(|error| {
            let failed = Error::failed(format!("failed to open {} on {}: {error}", path.display(), self.device));
            match self.device {
                Device::Cuda(_) | Device::TensorRt(_) => {
                    failed.with_hint("check `nvidia-smi`, and that CUDA and cuDNN are installed in the versions that the library was built for")
                }
                _ => failed,
            }
        })?;
        let (streams, turn, known) = (self.streams.clone(), self.turn.clone(), HashSet::new());
        Ok(Model { session, stopper, path: path.to_owned(), device: self.device, streams, turn, known })
    }

    fn session(&self, deployment: &Deployment, fixed: &[(String, i64)]) -> ort::Result<Session> {
        let mut builder = Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(self.threads())?
            // Waiting threads sleep, because decoders need the cores.
            .with_intra_op_spinning(false)?;
        if let Some(folder) = deployment.path().parent() {
            // Large models have their weights in files beside them.
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            builder = builder.with_config_entry(EXTERNAL_WEIGHTS, folder.to_string_lossy())?;
        }
        for (dimension, length) in fixed {
            builder = builder.with_dimension_override(dimension, *length)?;
        }
        if let Some(provider) = self.provider() {
            builder = builder.with_execution_providers([provider.error_on_failure()])?;
        }
        builder.commit_from_memory(&deployment.encode())
    }

    fn computes_in_half(&self) -> bool {
        matches!(self.device, Device::Cuda(_)) && self.precision() == Precision::Fp16
    }

    fn provider(&self) -> Option<ExecutionProviderDispatch> {
        match self.device {
            Device::Cpu => None,
            Device::OpenVino => {
                let precision = if self.precision() == Precision::Bf16 { "bf16" } else { "f32" };
                let mut config = serde_json::json!({"CPU": {
                    "INFERENCE_PRECISION_HINT": precision,
                    "NUM_STREAMS": "1",
                    "INFERENCE_NUM_THREADS": self.threads().to_string(),
                }});
                if self.streams.count() > 1 {
                    // The threads of all streams would be bound to the same cores.
                    config["CPU"]["ENABLE_CPU_PINNING"] = "NO".into();
                }
                Some(
                    ep::OpenVINO::default()
                        .with_device_type("CPU")
                        .with_arbitrary_config("load_config", config)
                        .build(),
                )
            }
            Device::Cuda(number) => {
                let provider = ep::CUDA::default().with_device_id(number as i32);
                let tf32 = self.precision != Precision::Fp32;
                // With channels last, convolutions in 16-bit floats run on tensor cores without a change of layout.
                Some(provider.with_tf32(tf32).with_prefer_nhwc(self.computes_in_half()).build())
            }
            Device::TensorRt(number) => {
                let half = self.precision() == Precision::Fp16;
                let cache = std::env::temp_dir().join("vidindex-tensorrt");
                let provider = ep::TensorRT::default().with_device_id(number as i32).with_fp16(half);
                Some(provider.with_engine_cache(true).with_engine_cache_path(cache.display()).build())
            }
        }
    }
}

/// An open model. One thread owns it.
pub struct Model {
    session: Session,
    /// Declared after `session`, so that it is dropped later: its drop signals that the session is closed.
    stopper: Arc<Stopper>,
    path: PathBuf,
    device: Device,
    streams: Streams,
    turn: Turn,
    /// Shapes of the inputs so far. A GPU's libraries measure their algorithms for each new one.
    known: HashSet<Vec<Vec<usize>>>,
}

/// A model's output: its shape and elements, row major.
pub type OutputTensor<'a> = (&'a [i64], &'a [f32]);

/// Receives the values of a graph: the index of the name, the shape, the elements.
pub type See<'a> = dyn FnMut(usize, &[i64], &[f32]) + 'a;

/// A result, and how long the model took for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timed<T> {
    /// What was computed.
    pub output: T,
    /// Seconds that the model ran, without the wait for its turn.
    pub seconds: f64,
}

impl<T> Timed<T> {
    /// Converts the output, and keeps the time.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Timed<U> {
        Timed { output: convert(self.output), seconds: self.seconds }
    }
}

impl Model {
    /// Makes the model's input tensors.
    pub fn memory(&self) -> Memory {
        Memory::new(&self.session, self.device, &self.turn)
    }

    /// Runs the model, and converts its output of this name with `read`, which gets the shape and the elements.
    ///
    /// # Errors
    /// If ONNX Runtime fails. The job cannot continue.
    pub fn run<T>(
        &mut self,
        inputs: &[InputTensor],
        output: &str,
        read: impl FnOnce(&[i64], &[f32]) -> Result<T>,
    ) -> Result<Timed<T>> {
        self.run_for(inputs, &[output], |outputs| match outputs {
            [(shape, data)] => read(shape, data),
            _ => Err(Error::failed("the model has no output")),
        })
    }

    /// As [`Model::run`], with several outputs, in the order of `names`.
    ///
    /// # Errors
    /// As for [`Model::run`].
    pub fn run_for<T>(
        &mut self,
        inputs: &[InputTensor],
        names: &[&str],
        read: impl FnOnce(&[OutputTensor<'_>]) -> Result<T>,
    ) -> Result<Timed<T>> {
        let failed = |error: ort::Error| Error::failed(format!("failed to run {}: {error}", self.path.display()));
        let is_new = self.known.insert(inputs.iter().map(|input| input.shape.clone()).collect());
        let (streams, turn) = (self.streams.clone(), self.turn.clone());
        let stream = self.device.is_cpu().then(|| streams.take());
        let alone = (!self.device.is_cpu() && is_new).then(|| turn.alone());
        let beside = (!self.device.is_cpu() && !is_new).then(|| turn.beside_others());
        let started = std::time::Instant::now();
        let values = inputs.iter().map(|input| (input.name.as_str(), SessionInputValue::from(&input.tensor)));
        let values: Vec<_> = values.collect();
        let outputs = self.session.run_with_options(values, &self.stopper).map_err(failed)?;
        let seconds = started.elapsed().as_secs_f64();
        drop((stream, alone, beside));
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            found.push(floats(&outputs[*name]).map_err(failed)?);
        }
        let found: Vec<OutputTensor<'_>> = found.iter().map(|(shape, data)| (*shape, &data[..])).collect();
        Ok(Timed { output: read(&found)?, seconds })
    }
}

impl Model {
    /// Runs the model, and passes these outputs to `see`: the index of the name, the shape and the elements.
    ///
    /// # Errors
    /// As for [`Model::run`].
    pub fn observe(&mut self, inputs: &[InputTensor], names: &[&str], see: &mut See<'_>) -> Result<()> {
        self.run_for(inputs, names, |outputs| {
            outputs.iter().enumerate().for_each(|(at, (shape, values))| see(at, shape, values));
            Ok(())
        })?;
        Ok(())
    }
}

/// The shape of an output, and its elements converted to 32-bit floats.
fn floats(value: &DynValue) -> ort::Result<(&[i64], Cow<'_, [f32]>)> {
    fn converted<T: PrimitiveTensorElementType + Copy + 'static>(
        value: &DynValue,
        convert: fn(T) -> f32,
    ) -> ort::Result<(&[i64], Cow<'_, [f32]>)> {
        let (shape, data) = value.try_extract_tensor::<T>()?;
        Ok((shape, data.iter().copied().map(convert).collect()))
    }
    match value.dtype().tensor_type() {
        Some(TensorElementType::Float16) => converted(value, f16::to_f32),
        Some(TensorElementType::Bfloat16) => converted(value, bf16::to_f32),
        Some(TensorElementType::Float64) => converted(value, |number: f64| number as f32),
        _ => value.try_extract_tensor::<f32>().map(|(shape, data)| (&shape[..], data.into())),
    }
}

/// Finds the library that a run would load. The order is: `asked` (the flag or `VIDINDEX_ONNXRUNTIME`), `ORT_DYLIB_PATH`,
/// beside the binary, in a folder `.onnxruntime` above the binary or in the current directory.
///
/// # Errors
/// If there is no library, or the requested one does not exist.
pub fn find_library(asked: Option<&Path>) -> Result<PathBuf> {
    let environment = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    if let Some(path) = asked.map(Path::to_owned).or(environment) {
        let file = if path.is_dir() { library_in(&path) } else { resolved(&path) };
        return file.ok_or_else(|| {
            Error::usage(format!("no ONNX Runtime library at {}", path.display()))
                .with_hint("the flag --onnxruntime and ORT_DYLIB_PATH take a file (libonnxruntime.so.*) or its folder")
        });
    }
    let mut folders = Vec::new();
    if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        folders.push(folder.to_owned());
        folders.push(folder.join("../lib"));
        folders.extend(folder.ancestors().take(4).map(|above| above.join(LOCAL_FOLDER)));
    }
    folders.push(PathBuf::from(LOCAL_FOLDER));
    folders.iter().find_map(|folder| library_in(folder)).ok_or_else(|| {
        Error::failed("the library of ONNX Runtime (libonnxruntime.so) was not found").with_hint(
            "run `make setup`, or `pip install onnxruntime-openvino` and pass its folder onnxruntime/capi to --onnxruntime",
        )
    })
}

fn library_in(folder: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime.so")))
        .collect();
    found.sort();
    found.pop().as_deref().and_then(resolved)
}

/// Resolves links, because the library searches its providers beside the path by which it was opened.
fn resolved(library: &Path) -> Option<PathBuf> {
    library.canonicalize().ok().filter(|path| path.is_file())
}

fn environment(library: &Path) -> Result<Environment> {
    let hint = format!("it must be ONNX Runtime {ONNXRUNTIME_MIN} or newer, for this machine's architecture");
    let failed = |why: String| Error::failed(format!("failed to load {}: {why}", library.display())).with_hint(&hint);
    // The binding panics if the library is too old. Users should not see a stack trace then.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let opened = std::panic::catch_unwind(|| {
        let builder = ort::init_from(library).map_err(|error| error.to_string())?;
        builder.with_name("vidindex").with_telemetry(false).build().map_err(|error| error.to_string())
    });
    std::panic::set_hook(hook);
    match opened {
        Ok(Ok(environment)) => {
            environment.set_log_level(ort::logging::LogLevel::Error);
            Ok(environment)
        }
        Ok(Err(why)) => Err(failed(why)),
        Err(_) => Err(failed("its version is not supported".into())),
    }
}

fn is_available(device: Device) -> bool {
    match device {
        Device::Cpu => Ok(true),
        Device::OpenVino => ep::OpenVINO::is_available(),
        Device::Cuda(_) => ep::CUDA::is_available(),
        Device::TensorRt(_) => ep::TensorRT::is_available(),
    }
    .unwrap_or(false)
}

/// CUDA if the library supports it and there is a driver, otherwise OpenVINO, otherwise the CPU. TensorRT must be requested,
/// because it spends minutes on each new model.
fn best_device() -> Device {
    let has_gpu = Path::new("/proc/driver/nvidia/version").exists() || Path::new("/dev/nvidiactl").exists();
    if has_gpu && is_available(Device::Cuda(0)) {
        Device::Cuda(0)
    } else if is_available(Device::OpenVino) {
        Device::OpenVino
    } else {
        Device::Cpu
    }
}

fn missing_provider(device: Device, library: &Path) -> Error {
    let package = match device {
        Device::OpenVino => "the PyPI wheel onnxruntime-openvino (`make setup` installs it)",
        Device::Cuda(_) | Device::TensorRt(_) => "the PyPI wheel onnxruntime-gpu, with CUDA and cuDNN (and TensorRT)",
        Device::Cpu => "the PyPI wheel onnxruntime",
    };
    Error::usage(format!("device `{device}` is not in {}", library.display()))
        .with_hint(format!("install {package} and pass its folder to --onnxruntime, or use --device auto"))
}

fn check_precision(device: Device, precision: Precision) -> Result<()> {
    let fits = match precision {
        Precision::Auto | Precision::Fp32 => true,
        Precision::Bf16 => device == Device::OpenVino,
        Precision::Fp16 => matches!(device, Device::Cuda(_) | Device::TensorRt(_)),
    };
    if fits {
        return Ok(());
    }
    let name = precision.as_str();
    Err(Error::usage(format!("precision `{name}` is not supported on device `{device}`"))
        .with_hint("bf16 runs on openvino, fp16 on cuda and tensorrt; auto and fp32 run everywhere"))
}
