//! Tensors of a checkpoint as arrays: shapes checked, quantised where asked, progress told.
//!
//! Knows how matrices and vectors are stored, not which of them a decoder has (`weights`).

use std::ops::Range;
use std::rc::Rc;

use mlxcel_mlx_bridge::{Array, Dtype, Quantized, QuantizedLayout, QuantizedMode};

use super::arithmetic::length;
use super::cuda::{Kernels, TiledMatrix};
use super::description::{Linear, Share};
use super::weights::MatrixWeights;
use crate::api::{LoadStep, Quantization};
use crate::checkpoint::{Checkpoint, CheckpointError, Tensor, TensorDtype};

/// Why a weight could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// The checkpoint does not have it, or is damaged.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Quantisation was asked for in a layout that does not exist.
    #[error(
        "cannot quantise to {0} bits in groups of {1}; bits are 2, 3, 4, 5, 6 or 8, groups 32, 64 or 128"
    )]
    Quantization(u32, u32),
    /// The model is quantised as it is stored.
    #[error(
        "the model is already quantised ({0} has {1} bits); leave quantisation out, or take a model with float weights"
    )]
    AlreadyQuantized(String, u32),
    /// The model cannot be divided between so many ranks.
    #[error(transparent)]
    Portion(#[from] super::portion::PortionError),
    /// MLX refused.
    #[error(transparent)]
    Mlx(#[from] mlxcel_mlx_bridge::Error),
}

/// How weights are made ready.
pub(crate) struct Preparation {
    /// Quantise float matrices to this.
    pub(crate) quantize: Option<Quantization>,
    /// The dtype of norms and biases.
    pub(crate) vectors: Dtype,
    /// Lay quantised matrices out for these kernels, where they can take them.
    pub(crate) tiles: Option<Rc<Kernels>>,
}

/// Reads the weights of one checkpoint.
pub(crate) struct WeightSource<'a> {
    checkpoint: &'a Checkpoint,
    preparation: Preparation,
    progress: &'a mut dyn FnMut(LoadStep),
    done_bytes: u64,
    total_bytes: u64,
}

impl<'a> WeightSource<'a> {
    /// # Errors
    /// When the quantisation asked for does not exist.
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        preparation: Preparation,
        progress: &'a mut dyn FnMut(LoadStep),
    ) -> Result<Self, WeightError> {
        if let Some(q) = preparation.quantize.filter(|q| !q.exists()) {
            return Err(WeightError::Quantization(q.bits(), q.group_size()));
        }
        let total_bytes = checkpoint.total_bytes();
        Ok(Self { checkpoint, preparation, progress, done_bytes: 0, total_bytes })
    }

    /// About this share of all bytes will be asked for.
    pub(crate) fn expect_share(&mut self, share: f64) {
        self.total_bytes = (self.total_bytes as f64 * share) as u64;
    }

    /// A matrix `[outputs, inputs]`.
    pub(crate) fn matrix(&mut self, linear: &Linear) -> Result<MatrixWeights, WeightError> {
        match self.checkpoint.quantization().for_module(&linear.name) {
            Some(stored) if self.preparation.quantize.is_some() => {
                Err(WeightError::AlreadyQuantized(linear.name.clone(), stored.bits()))
            }
            Some(stored) => self.quantized(linear, stored),
            _ => self.dense(linear),
        }
    }

    /// A vector `[width]` in the preparation's dtype.
    pub(crate) fn vector(&mut self, name: &str, width: usize) -> Result<Array, WeightError> {
        self.vector_part(name, 0..width, width)
    }

    /// Elements of a vector `[width]` in the preparation's dtype.
    pub(crate) fn vector_part(
        &mut self,
        name: &str,
        part: Range<usize>,
        width: usize,
    ) -> Result<Array, WeightError> {
        let tensor = self.tensor(name, &[width], part, 0..1)?;
        Ok(float_array(&tensor)?.astype(self.preparation.vectors)?)
    }

    /// Kernels of some channels of a convolution by channels, f32 `[taps, channels]`. They are stored channel by channel,
    /// with an axis of one input before or behind the taps.
    pub(crate) fn kernels(
        &mut self,
        name: &str,
        channels: Range<usize>,
        [all, taps]: [usize; 2],
    ) -> Result<Array, WeightError> {
        let mut tensor = self.checkpoint.tensor(name)?;
        if tensor.shape != [all, 1, taps] {
            tensor.expect_shape(&[all, taps, 1])?;
        }
        tensor.shape = vec![all, taps];
        let tensor = self.told(tensor.part(channels, 0..taps));
        let kernels = float_array(&tensor)?.astype(Dtype::Float32)?.transpose(&[1, 0])?;
        Ok(kernels.contiguous()?)
    }

    fn quantized(
        &mut self,
        linear: &Linear,
        quantization: Quantization,
    ) -> Result<MatrixWeights, WeightError> {
        let Share { outputs, inputs, whole } = share_of(linear);
        let words = |inputs: usize| inputs * quantization.bits() as usize / 32;
        let groups = |inputs: usize| inputs / quantization.group_size() as usize;
        let mut part = |side: &str, count: &dyn Fn(usize) -> usize| {
            let columns = count(inputs.start)..count(inputs.end);
            let shape = [whole[0], count(whole[1])];
            self.tensor(&format!("{}.{side}", linear.name), &shape, outputs.clone(), columns)
        };
        let packed = part("weight", &words)?;
        packed.expect_dtype(&[TensorDtype::U32])?;
        let scales = part("scales", &groups)?;
        let (scales, biases) = match quantization {
            Quantization::Affine { .. } => {
                let biases = part("biases", &groups)?;
                (float_array(&scales)?, Some(float_array(&biases)?))
            }
            Quantization::Mxfp4 => {
                scales.expect_dtype(&[TensorDtype::U8])?;
                (array(&scales, Dtype::Uint8)?, None)
            }
        };
        let weight = array(&packed, Dtype::Uint32)?;
        self.laid_out(Quantized { weight, scales, biases, layout: layout(quantization) })
    }

    fn dense(&mut self, linear: &Linear) -> Result<MatrixWeights, WeightError> {
        let Share { outputs, inputs, whole } = share_of(linear);
        let tensor = self.tensor(&format!("{}.weight", linear.name), &whole, outputs, inputs)?;
        let weight = float_array(&tensor)?;
        match self.preparation.quantize {
            Some(quantization) if whole[1].is_multiple_of(quantization.group_size() as usize) => {
                let matrix = self.laid_out(Quantized::quantize(&weight, layout(quantization))?)?;
                // Evaluated one by one, so that no more than one float matrix is in memory.
                mlxcel_mlx_bridge::eval(&matrix.arrays())?;
                Ok(matrix)
            }
            _ => Ok(MatrixWeights::Dense(weight)),
        }
    }

    /// A quantised matrix as the arithmetic reads it.
    fn laid_out(&self, matrix: Quantized) -> Result<MatrixWeights, WeightError> {
        let tiled = match &self.preparation.tiles {
            Some(kernels) => TiledMatrix::new(kernels, &matrix, self.preparation.vectors)?,
            None => None,
        };
        Ok(tiled.map_or(MatrixWeights::Quantized(matrix), MatrixWeights::Tiled))
    }

    /// Input features of a matrix that must stay together.
    pub(crate) fn grain(&self, linear: &Linear) -> usize {
        let stored = self.checkpoint.quantization().for_module(&linear.name);
        let whole = share_of(linear).whole[1];
        let made = self.preparation.quantize.filter(|made| whole.is_multiple_of(made.group_size() as usize));
        stored.or(made).map_or(1, |quantization| quantization.group_size() as usize)
    }

    /// Some rows and columns of a tensor of a shape.
    fn tensor(
        &mut self,
        name: &str,
        expected: &[usize],
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Result<Tensor, WeightError> {
        let tensor = self.checkpoint.tensor(name)?;
        tensor.expect_shape(expected)?;
        Ok(self.told(tensor.part(rows, columns)))
    }

    /// Tells that a tensor has been read.
    fn told(&mut self, tensor: Tensor) -> Tensor {
        self.done_bytes += tensor.bytes.as_ref().len() as u64;
        (self.progress)(LoadStep {
            what: "loading weights".to_owned(),
            done_bytes: self.done_bytes,
            total_bytes: self.total_bytes.max(self.done_bytes),
        });
        tensor
    }
}

/// What is held of a matrix.
pub(crate) fn share_of(linear: &Linear) -> Share {
    let all = || Share {
        outputs: 0..linear.outputs,
        inputs: 0..linear.inputs,
        whole: [linear.outputs, linear.inputs],
    };
    linear.share.clone().unwrap_or_else(all)
}

fn layout(quantization: Quantization) -> QuantizedLayout {
    let mode = match quantization {
        Quantization::Affine { .. } => QuantizedMode::Affine,
        Quantization::Mxfp4 => QuantizedMode::Mxfp4,
    };
    let number = |value: u32| length(value as usize);
    QuantizedLayout { bits: number(quantization.bits()), group_size: number(quantization.group_size()), mode }
}

fn float_array(tensor: &Tensor) -> Result<Array, WeightError> {
    tensor.expect_dtype(&[TensorDtype::F32, TensorDtype::F16, TensorDtype::BF16])?;
    let dtype = match tensor.dtype {
        TensorDtype::F16 => Dtype::Float16,
        TensorDtype::BF16 => Dtype::Bfloat16,
        _ => Dtype::Float32,
    };
    Ok(array(tensor, dtype)?)
}

/// The tensor's bytes as an array, without a copy where the device can read host memory.
fn array(tensor: &Tensor, dtype: Dtype) -> mlxcel_mlx_bridge::Result<Array> {
    let shape: Vec<i32> = tensor.shape.iter().map(|&size| length(size)).collect();
    Array::from_owner(tensor.bytes.clone(), 0..tensor.bytes.as_ref().len(), dtype, &shape)
}
