//! Where models run and in which arithmetic, as jobs and command lines name it. Knows no runtime.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::nearest::nearest;

/// Where a model runs: one of ONNX Runtime's execution providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// ONNX Runtime's own CPU kernels.
    Cpu,
    /// Intel's, on the CPU.
    OpenVino,
    /// NVIDIA, by device number.
    Cuda(u32),
    /// NVIDIA through TensorRT, by device number. The first run of a model builds an engine, which takes minutes.
    TensorRt(u32),
}

impl Device {
    /// Whether both models compute on the same cores: then they take turns, and a batch brings nothing.
    pub fn is_cpu(self) -> bool {
        matches!(self, Self::Cpu | Self::OpenVino)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::OpenVino => f.write_str("openvino"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::TensorRt(number) => write!(f, "tensorrt:{number}"),
        }
    }
}

/// What a user asks for: `auto`, `cpu`, `openvino`, `cuda`, `cuda:N`, `tensorrt` or `tensorrt:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The fastest device that is there.
    #[default]
    Auto,
    /// This one or an error.
    Named(Device),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        const KINDS: [&str; 5] = ["auto", "cpu", "openvino", "cuda", "tensorrt"];
        let (kind, number) = text.split_once(':').map_or((text, None), |(kind, number)| (kind, Some(number)));
        let gpu = number.map_or(Some(0), |digits| digits.parse::<u16>().ok().map(u32::from));
        let device = match (kind, number, gpu) {
            ("auto", None, _) => return Ok(Self::Auto),
            ("cpu", None, _) => Device::Cpu,
            ("openvino", None, _) => Device::OpenVino,
            ("cuda", _, Some(number)) => Device::Cuda(number),
            ("tensorrt", _, Some(number)) => Device::TensorRt(number),
            _ => {
                let known = "devices: auto, cpu, openvino, cuda:N, tensorrt:N";
                let near = if KINDS.contains(&kind) { None } else { nearest(kind, &KINDS) };
                let hint = near.map_or(known.to_owned(), |near| format!("did you mean `{near}`? ({known})"));
                return Err(Error::usage(format!("{text:?} is no device")).with_hint(hint));
            }
        };
        Ok(Self::Named(device))
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Named(device) => device.fmt(f),
        }
    }
}

/// The arithmetic that the models run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// What suits the device.
    Auto,
    /// 32-bit floating point.
    Fp32,
    /// bfloat16.
    Bf16,
    /// 16-bit floating point.
    Fp16,
    /// 8-bit integers, for models quantised that way.
    Int8,
}

impl Precision {
    /// All of them, in the order in which messages name them.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Fp32, Self::Bf16, Self::Fp16, Self::Int8];

    /// The name as in the job file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_shown() {
        let devices = [Device::Cpu, Device::OpenVino, Device::Cuda(1), Device::TensorRt(0)].map(DeviceChoice::Named);
        for device in devices.into_iter().chain([DeviceChoice::Auto]) {
            assert_eq!(device.to_string().parse::<DeviceChoice>().unwrap(), device);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Named(Device::Cuda(0)));
        for text in ["cuda:x", "gpu", "cpu:0", "auto:1", "cuda:-1", "cuda:", ""] {
            assert!(text.parse::<DeviceChoice>().unwrap_err().hint().unwrap().contains("cuda:N"), "{text}");
        }
        let typo = "cude:0".parse::<DeviceChoice>().unwrap_err();
        assert!(typo.hint().unwrap().starts_with("did you mean `cuda`?"), "{typo}");
        let known = "cpu:1".parse::<DeviceChoice>().unwrap_err();
        assert!(known.hint().unwrap().starts_with("devices: "), "its kind is right: {:?}", known.hint());
    }
}
