//! Tokens drawn from rows of logits on the device, the same ones that the sampler on the host would choose.

use mlxcel_mlx_bridge::cuda::Launch;
use mlxcel_mlx_bridge::{Array, Dtype, Result};

use super::library::{Instance, Kernels, defect, is_supported, tag};
use crate::decoder::length;
use crate::sampling::Draw;

/// Tokens drawn from logits.
pub(crate) struct Drawn {
    /// U32 `[rows]`; 0 where a row failed.
    pub(crate) ids: Array,
    /// U32 `[2 * rows]`, for the host: the ids, and not 0 where a row has a logit that is no number, or no token that is
    /// possible.
    pub(crate) told: Array,
}

/// Draws from each row of `logits`, `[rows, vocabulary]`; nothing where the kernel cannot take them.
pub(crate) fn draw(kernels: &Kernels, logits: &Array, draws: &[Draw]) -> Result<Option<Drawn>> {
    let dtype = logits.dtype();
    let &[rows, vocab] = logits.shape() else { return Ok(None) };
    if !is_supported(dtype) || vocab % 8 != 0 || vocab > MOST_TOKENS || rows as usize != draws.len() {
        return Ok(None);
    }
    let words: Vec<u32> = draws.iter().flat_map(|draw| words(*draw)).collect();
    let words = Array::from_slice(&words, &[rows, length(WORDS)])?;
    let name = format!("sample_{}", tag(dtype));
    let instance = || Instance {
        name: name.clone(),
        inputs: &["logits", "draws"],
        outputs: &["told", "weights"],
        dtype,
        shared_bytes: 0,
        body: "mlxcel::sample<T>(logits, reinterpret_cast<const mlxcel::Draw*>(draws), told, weights, \
               logits_shape[1]);"
            .to_owned(),
    };
    let outputs = [(&[2 * rows][..], Dtype::Uint32), (&[rows, vocab][..], Dtype::Uint32)];
    let launch = Launch::linear(rows as usize, THREADS);
    let made = kernels.launch(&name, instance, (&[logits, &words], &outputs), launch)?;
    let [told, _] = <[Array; 2]>::try_from(made).map_err(|_| defect("sampling returns two arrays"))?;
    Ok(Some(Drawn { ids: told.slice(&[0], &[rows])?, told }))
}

/// As the kernel reads it.
fn words(draw: Draw) -> [u32; WORDS] {
    let Draw { temperature, top_k, top_p, least, random } = draw;
    [temperature.to_bits(), top_k, top_p.to_bits(), least, random as u32, (random >> 32) as u32]
}

const WORDS: usize = 6;
/// As in kernels/sample.cuh.
const THREADS: u32 = 1024;
const MOST_TOKENS: i32 = 1 << 19;
