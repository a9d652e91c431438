//! Where the rows of a product come from: as they are, or the residual stream's, summed and normed by every block.
//!
//! The kernel's side is `kernels/rows.cuh`; what the product does with them, `product` says.

use mlxcel_mlx_bridge::Array;

use super::library::float;
use crate::decoder::residual::Residual;
use crate::decoder::weights::NormWeights;

/// Where the rows of a product come from.
pub(super) struct Rows<'a> {
    /// `[rows, inputs]`.
    x: &'a Array,
    normed: Option<Normed<'a>>,
}

/// How they are normed.
struct Normed<'a> {
    delta: Option<&'a Array>,
    weights: &'a NormWeights,
    /// Shared memory that they take.
    bytes: usize,
}

impl<'a> Rows<'a> {
    /// As they are.
    pub(super) fn plain(x: &'a Array) -> Self {
        Self { x, normed: None }
    }

    /// The residual stream's, with what is pending, under a norm; nothing where they are better normed once.
    pub(super) fn normed(residual: &'a Residual, weights: &'a NormWeights, rows: usize) -> Option<Self> {
        let (x, delta, width) = (&residual.hidden, residual.delta.as_ref(), weights.weight.size());
        // One kernel for one row, one for all others.
        let most = if rows == 1 { 1 } else { NORMED_ROWS };
        let bytes = most * (width + NORMED_PADDING) * x.dtype().size();
        let alike = weights.weight.dtype() == x.dtype()
            && delta.is_none_or(|delta| delta.dtype() == x.dtype() && delta.shape() == x.shape());
        let few = rows <= NORMED_ROWS && bytes <= NORMED_BYTES;
        let normed = Normed { delta, weights, bytes };
        (few && alike && x.size() == rows * width).then_some(Self { x, normed: Some(normed) })
    }

    /// The rows, `[rows, inputs]`, before any norm.
    pub(super) fn x(&self) -> &'a Array {
        self.x
    }

    /// Dynamic shared memory that a block needs for them.
    pub(super) fn shared_bytes(&self) -> usize {
        self.normed.as_ref().map_or(0, |normed| normed.bytes)
    }

    /// Part of the name of kernels for it.
    pub(super) fn name(&self) -> String {
        self.normed.as_ref().map_or_else(String::new, |normed| {
            let (adds, epsilon) = (u8::from(normed.delta.is_some()), normed.weights.epsilon.to_bits());
            format!("_normed_{adds}_{}_{epsilon:08x}", normed.bytes)
        })
    }

    /// The names of `arrays` in the kernel.
    pub(super) fn names(&self) -> &'static [&'static str] {
        match &self.normed {
            None => &["x"],
            Some(Normed { delta: None, .. }) => &["x", "norm"],
            Some(_) => &["x", "norm", "delta"],
        }
    }

    /// What the kernel reads of them.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &'a Array> {
        let norm = self.normed.as_ref().map(|normed| &normed.weights.weight);
        [Some(self.x), norm, self.normed.as_ref().and_then(|normed| normed.delta)].into_iter().flatten()
    }

    /// Whether the kernel returns the sum of what it normed.
    pub(super) fn sums(&self) -> bool {
        self.normed.as_ref().is_some_and(|normed| normed.delta.is_some())
    }

    /// `rows` as the template takes it.
    pub(super) fn declaration(&self, threads: usize) -> String {
        let Some(normed) = &self.normed else { return "const mlxcel::PlainRows<T> rows = {x};\n".to_owned() };
        let adds = normed.delta.is_some();
        let (delta, sum) = if adds { ("delta", "sum") } else { ("nullptr", "nullptr") };
        let epsilon = float(normed.weights.epsilon);
        format!(
            "const mlxcel::NormedRows<T, {threads}, {adds}> rows = {{x, {delta}, norm, {sum}, {epsilon}}};\n"
        )
    }
}

/// Rows that are normed by every block of a product anew: more rows are cheaper to norm once.
const NORMED_ROWS: usize = 4;
/// Shared memory for normed rows that a block can have besides its own.
const NORMED_BYTES: usize = 38 * 1024;
/// As in kernels/rows.cuh.
const NORMED_PADDING: usize = 32;

#[cfg(test)]
mod tests {
    use mlxcel_mlx_bridge::Dtype;

    use super::*;

    fn ones(shape: &[i32]) -> Array {
        Array::ones(shape, Dtype::Bfloat16).expect("ones")
    }

    fn norm(width: i32) -> NormWeights {
        NormWeights { weight: ones(&[width]), epsilon: 1e-5 }
    }

    #[test]
    fn rows_that_are_plain_are_all_that_a_kernel_reads() {
        let x = ones(&[9, 64]);
        let rows = Rows::plain(&x);
        assert_eq!((rows.names(), rows.arrays().count(), rows.shared_bytes()), (&["x"][..], 1, 0));
        assert!(!rows.sums() && rows.name().is_empty());
        assert_eq!(rows.declaration(128), "const mlxcel::PlainRows<T> rows = {x};\n");
    }

    #[test]
    fn what_a_kernel_that_norms_reads_returns_and_shares_follows_from_what_is_pending() {
        let weights = norm(64);
        let still = Residual { hidden: ones(&[1, 64]), delta: None };
        let rows = Rows::normed(&still, &weights, 1).expect("one row");
        assert_eq!((rows.names(), rows.sums()), (&["x", "norm"][..], false));
        assert_eq!(rows.shared_bytes(), 96 * 2);
        let pending = Residual { hidden: ones(&[3, 64]), delta: Some(ones(&[3, 64])) };
        let rows = Rows::normed(&pending, &weights, 3).expect("three rows");
        assert_eq!(
            (rows.names(), rows.sums(), rows.arrays().count()),
            (&["x", "norm", "delta"][..], true, 3)
        );
        assert_eq!(rows.shared_bytes(), 4 * 96 * 2, "one kernel for two to four rows");
        let declared = rows.declaration(256);
        assert!(declared.starts_with("const mlxcel::NormedRows<T, 256, true> rows = {x, delta, norm, sum, "));
    }

    #[test]
    fn many_and_wide_rows_are_normed_once() {
        let many = Residual { hidden: ones(&[5, 64]), delta: None };
        assert!(Rows::normed(&many, &norm(64), 5).is_none());
        let wide = Residual { hidden: ones(&[2, 8192]), delta: None };
        assert!(Rows::normed(&wide, &norm(8192), 2).is_none());
        let other = NormWeights { weight: Array::ones(&[64], Dtype::Float32).expect("ones"), epsilon: 1e-5 };
        let one = Residual { hidden: ones(&[1, 64]), delta: None };
        assert!(Rows::normed(&one, &other, 1).is_none(), "a norm of another dtype");
    }
}
