//! The one boundary between Rust and C++: every function here is one MLX call or a handful.
//!
//! Anything that can throw returns `Result`. Knows no ownership beyond the array handle; the
//! safe types around it say which thread, which dtype and which error a caller gets.
#![allow(
    unreachable_pub,
    missing_docs,
    reason = "items inside a cxx bridge are private to the crate, whatever their visibility says"
)]

use crate::host::HostKernel;
use crate::owner::Owner;

#[allow(clippy::too_many_arguments, reason = "these are MLX's own signatures")]
#[cxx::bridge(namespace = "mlxcel")]
pub mod mlx {
    /// Elementwise functions of one array.
    #[derive(Debug)]
    enum Unary {
        Abs,
        Ceil,
        Cos,
        Erf,
        Exp,
        Expm1,
        Floor,
        IsFinite,
        Log,
        Log1p,
        LogicalNot,
        Negative,
        Reciprocal,
        Round,
        Rsqrt,
        Sigmoid,
        Sign,
        Sin,
        Sqrt,
        Square,
        StopGradient,
        Tanh,
    }

    /// Elementwise functions of two arrays, broadcast against each other.
    #[derive(Debug)]
    enum Binary {
        Add,
        BitwiseAnd,
        BitwiseOr,
        Divide,
        Equal,
        FloorDivide,
        Greater,
        GreaterEqual,
        LeftShift,
        Less,
        LessEqual,
        LogAddExp,
        LogicalAnd,
        LogicalOr,
        Matmul,
        Maximum,
        Minimum,
        Multiply,
        NotEqual,
        Power,
        Remainder,
        RightShift,
        Subtract,
    }

    /// Reductions over axes.
    #[derive(Debug)]
    enum Reduce {
        All,
        Any,
        LogSumExp,
        Max,
        Mean,
        Min,
        Prod,
        Sum,
        Var,
    }

    /// Functions along one axis with an integer argument or none.
    #[derive(Debug)]
    enum Along {
        ArgMax,
        ArgMin,
        ArgPartition,
        ArgSort,
        Partition,
        Repeat,
        Sort,
        TopK,
    }

    /// Memory figures, in bytes.
    enum Memory {
        Active,
        Cache,
        Limit,
        Peak,
    }

    /// Operations of a group of processes.
    enum Collect {
        AllGather,
        AllMax,
        AllSum,
        SumScatter,
    }

    /// How a quantised matrix is stored.
    struct QuantizedLayout<'a> {
        bits: i32,
        group_size: i32,
        mode: &'a str,
    }

    /// The numbers of `fast::rope`.
    struct Rope {
        dims: i32,
        traditional: bool,
        has_base: bool,
        base: f32,
        scale: f32,
    }

    /// One buffer of a host operation; valid only during the call that receives it.
    struct HostView<'a> {
        data: *mut u8,
        bytes: usize,
        shape: &'a [i32],
        dtype: u8,
    }

    /// What a CUDA kernel is compiled from.
    struct CudaSource<'a> {
        name: &'a str,
        header: &'a str,
        body: &'a str,
        shared_bytes: i32,
    }

    /// How a CUDA kernel is launched: threads in all, threads of a block, and what its outputs begin as.
    struct CudaLaunch {
        threads: [i32; 3],
        block: [i32; 3],
        has_fill: bool,
        fill: f32,
    }

    /// One property of a device: text, or a number when `is_number`.
    struct DeviceProperty {
        name: String,
        text: String,
        number: usize,
        is_number: bool,
    }

    extern "Rust" {
        type HostKernel;
        fn run(self: &HostKernel, inputs: &[HostView], outputs: &[HostView]) -> Result<()>;

        type Owner;
    }

    unsafe extern "C++" {
        include!("bridge.h");

        #[namespace = "mlx::core"]
        #[cxx_name = "array"]
        type CxxArray;

        /// Several arrays returned at once.
        type ArrayList;
        fn len(self: &ArrayList) -> usize;
        fn at(self: &ArrayList, index: usize) -> Result<UniquePtr<CxxArray>>;

        // array.cpp
        fn array_from_bytes(data: &[u8], shape: &[i32], dtype: u8) -> Result<UniquePtr<CxxArray>>;
        /// # Safety
        /// `data` must be readable for the shape's bytes, aligned to the dtype, until `owner` is dropped.
        unsafe fn array_from_owner(
            data: *const u8,
            shape: &[i32],
            dtype: u8,
            owner: Box<Owner>,
        ) -> Result<UniquePtr<CxxArray>>;
        fn array_clone(a: &CxxArray) -> UniquePtr<CxxArray>;
        fn array_shape(a: &CxxArray) -> &[i32];
        fn array_dtype(a: &CxxArray) -> u8;
        fn array_size(a: &CxxArray) -> usize;
        fn array_nbytes(a: &CxxArray) -> usize;
        fn array_copy_to(a: &CxxArray, out: &mut [u8]) -> Result<()>;
        fn array_bytes(a: &CxxArray) -> Result<&[u8]>;
        fn eval(arrays: &[*const CxxArray]) -> Result<()>;
        fn async_eval(arrays: &[*const CxxArray]) -> Result<()>;

        // ops.cpp
        fn full(shape: &[i32], value: f64, dtype: u8) -> Result<UniquePtr<CxxArray>>;
        fn arange(start: f64, stop: f64, step: f64, dtype: u8) -> Result<UniquePtr<CxxArray>>;
        fn unary(op: Unary, a: &CxxArray) -> Result<UniquePtr<CxxArray>>;
        fn binary(op: Binary, a: &CxxArray, b: &CxxArray) -> Result<UniquePtr<CxxArray>>;
        fn reduce(op: Reduce, a: &CxxArray, axes: &[i32], keep_dims: bool) -> Result<UniquePtr<CxxArray>>;
        fn along(
            op: Along,
            a: &CxxArray,
            argument: i32,
            axis: i32,
            keep_dims: bool,
        ) -> Result<UniquePtr<CxxArray>>;
        fn reshape(a: &CxxArray, shape: &[i32]) -> Result<UniquePtr<CxxArray>>;
        fn transpose(a: &CxxArray, axes: &[i32]) -> Result<UniquePtr<CxxArray>>;
        fn expand_dims(a: &CxxArray, axes: &[i32]) -> Result<UniquePtr<CxxArray>>;
        fn squeeze(a: &CxxArray, axes: &[i32]) -> Result<UniquePtr<CxxArray>>;
        fn broadcast_to(a: &CxxArray, shape: &[i32]) -> Result<UniquePtr<CxxArray>>;
        fn slice(a: &CxxArray, start: &[i32], stop: &[i32], strides: &[i32]) -> Result<UniquePtr<CxxArray>>;
        fn slice_update(
            a: &CxxArray,
            update: &CxxArray,
            start: &[i32],
            stop: &[i32],
            strides: &[i32],
        ) -> Result<UniquePtr<CxxArray>>;
        fn concatenate(arrays: &[*const CxxArray], axis: i32) -> Result<UniquePtr<CxxArray>>;
        fn stack(arrays: &[*const CxxArray], axis: i32) -> Result<UniquePtr<CxxArray>>;
        fn split(a: &CxxArray, parts: i32, axis: i32) -> Result<UniquePtr<ArrayList>>;
        fn split_at(a: &CxxArray, indices: &[i32], axis: i32) -> Result<UniquePtr<ArrayList>>;
        fn take(a: &CxxArray, indices: &CxxArray, axis: i32) -> Result<UniquePtr<CxxArray>>;
        fn take_along_axis(a: &CxxArray, indices: &CxxArray, axis: i32) -> Result<UniquePtr<CxxArray>>;
        fn put_along_axis(
            a: &CxxArray,
            indices: &CxxArray,
            values: &CxxArray,
            axis: i32,
        ) -> Result<UniquePtr<CxxArray>>;
        fn pad(a: &CxxArray, low: &[i32], high: &[i32], value: f32) -> Result<UniquePtr<CxxArray>>;
        fn contiguous(a: &CxxArray) -> Result<UniquePtr<CxxArray>>;
        fn astype(a: &CxxArray, dtype: u8) -> Result<UniquePtr<CxxArray>>;
        fn view(a: &CxxArray, dtype: u8) -> Result<UniquePtr<CxxArray>>;
        fn select(condition: &CxxArray, yes: &CxxArray, no: &CxxArray) -> Result<UniquePtr<CxxArray>>;
        fn softmax(a: &CxxArray, axes: &[i32], precise: bool) -> Result<UniquePtr<CxxArray>>;
        fn cumsum(a: &CxxArray, axis: i32, reverse: bool, inclusive: bool) -> Result<UniquePtr<CxxArray>>;
        fn tril(a: &CxxArray, diagonal: i32) -> Result<UniquePtr<CxxArray>>;
        fn triu(a: &CxxArray, diagonal: i32) -> Result<UniquePtr<CxxArray>>;

        // linear.cpp
        fn quantize(w: &CxxArray, layout: &QuantizedLayout) -> Result<UniquePtr<ArrayList>>;
        /// # Safety
        /// `biases` must be null or point to a live array.
        unsafe fn dequantize(
            w: &CxxArray,
            scales: &CxxArray,
            biases: *const CxxArray,
            layout: &QuantizedLayout,
        ) -> Result<UniquePtr<CxxArray>>;
        /// # Safety
        /// `biases` must be null or point to a live array.
        unsafe fn quantized_matmul(
            x: &CxxArray,
            w: &CxxArray,
            scales: &CxxArray,
            biases: *const CxxArray,
            transpose: bool,
            layout: &QuantizedLayout,
        ) -> Result<UniquePtr<CxxArray>>;
        /// # Safety
        /// `biases` must be null or point to a live array.
        unsafe fn gather_qmm(
            x: &CxxArray,
            w: &CxxArray,
            scales: &CxxArray,
            biases: *const CxxArray,
            experts: &CxxArray,
            layout: &QuantizedLayout,
        ) -> Result<UniquePtr<CxxArray>>;
        fn gather_mm(x: &CxxArray, w: &CxxArray, experts: &CxxArray) -> Result<UniquePtr<CxxArray>>;
        fn conv1d(
            x: &CxxArray,
            w: &CxxArray,
            stride: i32,
            padding: i32,
            groups: i32,
        ) -> Result<UniquePtr<CxxArray>>;

        // fast.cpp
        /// # Safety
        /// `weight` must be null or point to a live array.
        unsafe fn rms_norm(x: &CxxArray, weight: *const CxxArray, eps: f32) -> Result<UniquePtr<CxxArray>>;
        /// # Safety
        /// `weight` and `bias` must be null or point to live arrays.
        unsafe fn layer_norm(
            x: &CxxArray,
            weight: *const CxxArray,
            bias: *const CxxArray,
            eps: f32,
        ) -> Result<UniquePtr<CxxArray>>;
        /// # Safety
        /// `freqs` must be null or point to a live array.
        unsafe fn rope(
            x: &CxxArray,
            options: &Rope,
            offset: i32,
            freqs: *const CxxArray,
        ) -> Result<UniquePtr<CxxArray>>;
        /// # Safety
        /// `freqs` must be null or point to a live array.
        unsafe fn rope_at(
            x: &CxxArray,
            options: &Rope,
            offsets: &CxxArray,
            freqs: *const CxxArray,
        ) -> Result<UniquePtr<CxxArray>>;
        /// # Safety
        /// `mask` and `sinks` must be null or point to live arrays.
        unsafe fn attention(
            queries: &CxxArray,
            keys: &CxxArray,
            values: &CxxArray,
            scale: f32,
            mask_mode: &str,
            mask: *const CxxArray,
            sinks: *const CxxArray,
        ) -> Result<UniquePtr<CxxArray>>;

        // random.cpp
        fn random_seed(seed: u64) -> Result<()>;
        fn random_key(seed: u64) -> Result<UniquePtr<CxxArray>>;
        fn random_split(key: &CxxArray, parts: i32) -> Result<UniquePtr<CxxArray>>;
        /// # Safety
        /// `key` must be null or point to a live array.
        unsafe fn random_uniform(
            low: f32,
            high: f32,
            shape: &[i32],
            dtype: u8,
            key: *const CxxArray,
        ) -> Result<UniquePtr<CxxArray>>;
        /// # Safety
        /// `key` must be null or point to a live array.
        unsafe fn random_normal(
            shape: &[i32],
            dtype: u8,
            key: *const CxxArray,
        ) -> Result<UniquePtr<CxxArray>>;
        /// # Safety
        /// `key` must be null or point to a live array.
        unsafe fn random_categorical(
            logits: &CxxArray,
            axis: i32,
            key: *const CxxArray,
        ) -> Result<UniquePtr<CxxArray>>;

        // device.cpp
        fn version() -> String;
        fn device_available(gpu: bool, index: i32) -> Result<bool>;
        fn device_count(gpu: bool) -> Result<i32>;
        fn device_is_gpu() -> Result<bool>;
        fn device_index() -> Result<i32>;
        fn device_set(gpu: bool, index: i32) -> Result<()>;
        fn device_info(gpu: bool, index: i32) -> Result<Vec<DeviceProperty>>;
        fn stream_new(gpu: bool, index: i32) -> Result<i32>;
        fn stream_default(gpu: bool, index: i32) -> Result<i32>;
        fn stream_set_default(gpu: bool, index: i32, stream: i32) -> Result<()>;
        fn stream_synchronize(gpu: bool, index: i32, stream: i32) -> Result<()>;
        fn synchronize() -> Result<()>;
        fn memory(which: Memory) -> Result<usize>;
        fn memory_reset_peak() -> Result<()>;
        fn memory_set_limit(bytes: usize) -> Result<usize>;
        fn memory_set_cache_limit(bytes: usize) -> Result<usize>;
        fn memory_clear_cache() -> Result<()>;

        // cuda_kernel.cpp
        type CudaKernel;
        fn cuda_kernel(
            source: &CudaSource,
            inputs: &[&str],
            outputs: &[&str],
        ) -> Result<UniquePtr<CudaKernel>>;
        fn cuda_launch(
            kernel: &CudaKernel,
            inputs: &[*const CxxArray],
            shapes: &[i32],
            ranks: &[u8],
            dtypes: &[u8],
            launch: &CudaLaunch,
        ) -> Result<UniquePtr<ArrayList>>;

        // distributed.cpp
        type Group;
        fn group_available(backend: &str) -> Result<bool>;
        fn group_init(backend: &str) -> Result<UniquePtr<Group>>;
        fn group_rank(group: &Group) -> Result<i32>;
        fn group_size(group: &Group) -> Result<i32>;
        fn group_collect(how: Collect, a: &CxxArray, group: &Group) -> Result<UniquePtr<CxxArray>>;

        // host_op.cpp
        fn host_op(
            name: &str,
            inputs: &[*const CxxArray],
            shapes: &[i32],
            ranks: &[u8],
            dtypes: &[u8],
            kernel: Box<HostKernel>,
        ) -> Result<UniquePtr<ArrayList>>;
        fn host_op_single(
            name: &str,
            inputs: &[*const CxxArray],
            shape: &[i32],
            dtype: u8,
            kernel: Box<HostKernel>,
        ) -> Result<UniquePtr<CxxArray>>;
    }
}
