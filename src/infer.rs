//! Inference: which device runs the models, and the model families. Only files below here name ONNX Runtime.

pub mod boxes;
mod closing;
pub mod detector;
pub mod person_actions;
pub mod session;
pub mod slowfast;

use std::fmt;
use std::str::FromStr;

pub use closing::close_sessions;

use crate::error::Error;

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

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best there is.
    Auto,
    /// This one or an error.
    Named(Device),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, number) = text.split_once(':').map_or((text, None), |(name, number)| (name, Some(number)));
        let number = number.map_or(Some(0), |digits| digits.parse().ok());
        let device = match (name, number) {
            ("auto", Some(0)) => return Ok(Self::Auto),
            ("cpu", Some(0)) => Device::Cpu,
            ("openvino", Some(0)) => Device::OpenVino,
            ("cuda", Some(number)) => Device::Cuda(number),
            ("tensorrt", Some(number)) => Device::TensorRt(number),
            _ => {
                return Err(Error::usage(format!("unknown device `{text}`"))
                    .with_hint("one of: auto, cpu, openvino, cuda:0, tensorrt:0"));
            }
        };
        Ok(Self::Named(device))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn devices_are_read_as_they_are_shown() {
        for device in [Device::Cpu, Device::OpenVino, Device::Cuda(1), Device::TensorRt(0)] {
            assert_eq!(device.to_string().parse::<DeviceChoice>().unwrap(), DeviceChoice::Named(device));
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Named(Device::Cuda(0)));
        assert!("cuda:x".parse::<DeviceChoice>().is_err());
        assert!("gpu".parse::<DeviceChoice>().unwrap_err().hint().unwrap().contains("cuda:0"));
    }
}
