//! A checkpoint and the decoder that its configuration describes.

use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::decoder::Decoder;
use crate::families;
use crate::serving::LoadError;

/// Opens the model in `path`, a directory or one GGUF file. Its tensors bear the names of the description.
pub(crate) fn described(path: &Path) -> Result<(Checkpoint, Decoder), LoadError> {
    let mut checkpoint = Checkpoint::open(path)?;
    let family = |reason| LoadError::Family { path: path.to_owned(), reason };
    let description = families::describe(checkpoint.config()).map_err(family)?;
    checkpoint.rename(&families::weight_name);
    Ok((checkpoint, description))
}
