//! Input tensors, in memory that the device copies from fast.

use std::fmt::Debug;

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::value::{DynTensor, PrimitiveTensorElementType, Tensor};

use super::turn::Turn;
use crate::device::Device;
use crate::error::{Error, Result};

/// Makes the input tensors of a model.
#[derive(Debug)]
pub struct Memory {
    allocator: Allocator,
    /// Taken while memory of a GPU is allocated.
    turn: Option<Turn>,
}

/// An input tensor, and the name of the input.
#[derive(Debug)]
pub struct InputTensor {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) tensor: DynTensor,
}

impl Memory {
    /// For a GPU, memory is pinned: the GPU reads it without help of the processor.
    pub(super) fn new(session: &Session, device: Device, turn: &Turn) -> Self {
        let allocator = match device {
            Device::Cpu | Device::OpenVino => Allocator::default(),
            Device::Cuda(number) | Device::TensorRt(number) => pinned(session, number).unwrap_or_else(|error| {
                tracing::warn!(%device, %error, "no pinned memory, so copies to the GPU are slower");
                Allocator::default()
            }),
        };
        Self { allocator, turn: (!device.is_cpu()).then(|| turn.clone()) }
    }

    /// Makes an input tensor of this shape, row major. `fill` writes its elements.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn input<T: PrimitiveTensorElementType + Debug>(
        &self,
        name: &str,
        shape: &[usize],
        fill: impl FnOnce(&mut [T]),
    ) -> Result<InputTensor> {
        let failed = |error: ort::Error| Error::failed(format!("failed to allocate a model's input: {error}"));
        let turn = self.turn.as_ref().map(Turn::beside_others);
        let mut tensor = Tensor::<T>::new(&self.allocator, shape.to_vec()).map_err(failed)?;
        drop(turn);
        fill(tensor.try_extract_tensor_mut::<T>().map_err(failed)?.1);
        Ok(InputTensor { name: name.to_owned(), shape: shape.to_vec(), tensor: tensor.upcast() })
    }
}

fn pinned(session: &Session, number: u32) -> ort::Result<Allocator> {
    let place = AllocationDevice::CUDA_PINNED;
    let info = MemoryInfo::new(place, number as i32, AllocatorType::Device, MemoryType::CPUInput)?;
    Allocator::new(session, info)
}
