//! Devices and precisions as job files and command lines name them. Independent of ONNX Runtime, which
//! [`infer`](crate::infer) maps them to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::nearest::nearest;

/// The device that a model runs on, as one of ONNX Runtime's execution providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// ONNX Runtime's own CPU kernels.
    Cpu,
    /// Intel OpenVINO on the CPU.
    OpenVino,
    /// NVIDIA CUDA, by device number.
    Cuda(u32),
    /// NVIDIA through TensorRT, by device number. The first run of a model builds an engine, which takes minutes.
    TensorRt(u32),
}

impl Device {
    /// Whether both models compute on the same CPU cores. Then they run in turn, and batching has no benefit.
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

/// The device that a user selects: `auto`, `cpu`, `openvino`, `cuda`, `cuda:N`, `tensorrt` or `tensorrt:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The fastest available device.
    #[default]
    Auto,
    /// This device. Opening a model fails if it is not available.
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
                return Err(Error::usage(format!("{text:?} is not a device")).with_hint(hint));
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

/// Whether this machine's processor multiplies bfloat16 itself (AVX-512 bf16).
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Whether this machine's processor adds products of 8-bit integers in 32 bits (VNNI).
pub fn has_integer_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    return true;
}

/// The number format in which the models compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The format that suits the device.
    Auto,
    /// 32-bit floating point.
    Fp32,
    /// bfloat16.
    Bf16,
    /// 16-bit floating point.
    Fp16,
}

impl Precision {
    /// All precisions, in the order in which messages list them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Fp32, Self::Bf16, Self::Fp16];

    /// The format in which a device computes if a job asks for this one. `has_bf16` tells whether the processor multiplies
    /// bfloat16 itself; if not, OpenVINO computes in 32 bits.
    pub fn on(self, device: Device, has_bf16: bool) -> Self {
        match (self, device) {
            (Self::Auto | Self::Bf16, Device::OpenVino) if has_bf16 => Self::Bf16,
            (Self::Auto | Self::Bf16, Device::OpenVino) | (Self::Auto, Device::Cpu) => Self::Fp32,
            (Self::Auto, Device::Cuda(_) | Device::TensorRt(_)) => Self::Fp16,
            (precision, _) => precision,
        }
    }

    /// The name in the job file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn auto_is_the_fastest_format_that_the_device_computes_itself() {
        use Precision::{Auto, Bf16, Fp16, Fp32};
        assert_eq!([Auto.on(Device::Cpu, true), Auto.on(Device::Cuda(0), false)], [Fp32, Fp16]);
        for (precision, has_bf16, expected) in
            [(Auto, true, Bf16), (Auto, false, Fp32), (Bf16, true, Bf16), (Bf16, false, Fp32), (Fp32, true, Fp32)]
        {
            assert_eq!(precision.on(Device::OpenVino, has_bf16), expected, "{precision:?} {has_bf16}");
        }
    }

    #[test]
    fn devices_parse_from_their_displayed_names() {
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
