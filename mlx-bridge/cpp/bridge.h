// What the Rust side calls: thin functions over MLX, one for each entry of src/ffi.rs.
// Every exception becomes a Rust error; its first character says the kind (see error.rs).
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <mlx/mlx.h>
#include <mlx/distributed/distributed.h>
#include <mlx/fast.h>

#include "rust/cxx.h"

namespace rust::behavior {

template <typename Try, typename Fail>
static void trycatch(Try&& func, Fail&& fail) noexcept try {
  func();
} catch (const std::bad_alloc& e) {
  fail(std::string("M") + e.what());
} catch (const std::logic_error& e) {
  fail(std::string("A") + e.what());
} catch (const std::overflow_error& e) {
  fail(std::string("A") + e.what());
} catch (const std::exception& e) {
  fail(std::string("R") + e.what());
} catch (...) {
  fail(std::string("Runknown C++ exception"));
}

} // namespace rust::behavior

namespace mlxcel {

namespace mx = mlx::core;

enum class Unary : std::uint8_t;
enum class Binary : std::uint8_t;
enum class Reduce : std::uint8_t;
enum class Along : std::uint8_t;
enum class Memory : std::uint8_t;
enum class Collect : std::uint8_t;
struct QuantizedLayout;
struct Rope;
struct HostView;
struct CudaSource;
struct CudaLaunch;
struct DeviceProperty;
struct HostKernel;
struct Owner;

using Ints = rust::Slice<const std::int32_t>;
using Arrays = rust::Slice<const mx::array* const>;
using Ptr = std::unique_ptr<mx::array>;

// Several arrays returned at once.
class ArrayList {
 public:
  explicit ArrayList(std::vector<mx::array> arrays) : arrays_(std::move(arrays)) {}
  std::size_t len() const {
    return arrays_.size();
  }
  Ptr at(std::size_t index) const {
    return std::make_unique<mx::array>(arrays_.at(index));
  }

 private:
  std::vector<mx::array> arrays_;
};

// The processes that one of them computes with.
class Group {
 public:
  explicit Group(mx::distributed::Group group) : inner(std::move(group)) {}
  const mx::distributed::Group inner;
};

// A kernel that MLX compiles when it is first evaluated.
class CudaKernel {
 public:
  explicit CudaKernel(mx::fast::CustomKernelFunction launch) : launch(std::move(launch)) {}
  const mx::fast::CustomKernelFunction launch;
};

// Hands an array to Rust; throws std::bad_alloc for one that could never be evaluated.
Ptr give(mx::array a);
std::unique_ptr<ArrayList> give(std::vector<mx::array> arrays);
mx::Dtype dtype_of(std::uint8_t code);
std::uint8_t code_of(mx::Dtype dtype);
std::vector<mx::array> vector_of(Arrays arrays);

inline mx::Shape shape_of(Ints s) {
  return mx::Shape(s.begin(), s.end());
}
inline std::vector<int> ints_of(Ints s) {
  return std::vector<int>(s.begin(), s.end());
}
inline std::optional<mx::array> optional_of(const mx::array* a) {
  return a ? std::optional<mx::array>(*a) : std::nullopt;
}

Ptr array_from_bytes(rust::Slice<const std::uint8_t> data, Ints shape, std::uint8_t dtype);
Ptr array_from_owner(const std::uint8_t* data, Ints shape, std::uint8_t dtype, rust::Box<Owner> owner);
Ptr array_clone(const mx::array& a);
Ints array_shape(const mx::array& a);
std::uint8_t array_dtype(const mx::array& a);
std::size_t array_size(const mx::array& a);
std::size_t array_nbytes(const mx::array& a);
void array_copy_to(const mx::array& a, rust::Slice<std::uint8_t> out);
rust::Slice<const std::uint8_t> array_bytes(const mx::array& a);
void eval(Arrays arrays);
void async_eval(Arrays arrays);

Ptr full(Ints shape, double value, std::uint8_t dtype);
Ptr arange(double start, double stop, double step, std::uint8_t dtype);
Ptr unary(Unary op, const mx::array& a);
Ptr binary(Binary op, const mx::array& a, const mx::array& b);
Ptr reduce(Reduce op, const mx::array& a, Ints axes, bool keep_dims);
Ptr along(Along op, const mx::array& a, std::int32_t argument, std::int32_t axis, bool keep_dims);
Ptr reshape(const mx::array& a, Ints shape);
Ptr transpose(const mx::array& a, Ints axes);
Ptr expand_dims(const mx::array& a, Ints axes);
Ptr squeeze(const mx::array& a, Ints axes);
Ptr broadcast_to(const mx::array& a, Ints shape);
Ptr slice(const mx::array& a, Ints start, Ints stop, Ints strides);
Ptr slice_update(const mx::array& a, const mx::array& update, Ints start, Ints stop, Ints strides);
Ptr concatenate(Arrays arrays, std::int32_t axis);
Ptr stack(Arrays arrays, std::int32_t axis);
std::unique_ptr<ArrayList> split(const mx::array& a, std::int32_t parts, std::int32_t axis);
std::unique_ptr<ArrayList> split_at(const mx::array& a, Ints indices, std::int32_t axis);
Ptr take(const mx::array& a, const mx::array& indices, std::int32_t axis);
Ptr take_along_axis(const mx::array& a, const mx::array& indices, std::int32_t axis);
Ptr put_along_axis(const mx::array& a, const mx::array& indices, const mx::array& values, std::int32_t axis);
Ptr pad(const mx::array& a, Ints low, Ints high, float value);
Ptr contiguous(const mx::array& a);
Ptr astype(const mx::array& a, std::uint8_t dtype);
Ptr view(const mx::array& a, std::uint8_t dtype);
Ptr select(const mx::array& condition, const mx::array& yes, const mx::array& no);
Ptr softmax(const mx::array& a, Ints axes, bool precise);
Ptr cumsum(const mx::array& a, std::int32_t axis, bool reverse, bool inclusive);
Ptr tril(const mx::array& a, std::int32_t diagonal);
Ptr triu(const mx::array& a, std::int32_t diagonal);

std::unique_ptr<ArrayList> quantize(const mx::array& w, const QuantizedLayout& layout);
Ptr dequantize(const mx::array& w, const mx::array& scales, const mx::array* biases, const QuantizedLayout& layout);
Ptr quantized_matmul(
    const mx::array& x,
    const mx::array& w,
    const mx::array& scales,
    const mx::array* biases,
    bool transpose,
    const QuantizedLayout& layout);
Ptr gather_qmm(
    const mx::array& x,
    const mx::array& w,
    const mx::array& scales,
    const mx::array* biases,
    const mx::array& experts,
    const QuantizedLayout& layout);
Ptr gather_mm(const mx::array& x, const mx::array& w, const mx::array& experts);
Ptr conv1d(const mx::array& x, const mx::array& w, std::int32_t stride, std::int32_t padding, std::int32_t groups);

Ptr rms_norm(const mx::array& x, const mx::array* weight, float eps);
Ptr layer_norm(const mx::array& x, const mx::array* weight, const mx::array* bias, float eps);
Ptr rope(const mx::array& x, const Rope& options, std::int32_t offset, const mx::array* freqs);
Ptr rope_at(const mx::array& x, const Rope& options, const mx::array& offsets, const mx::array* freqs);
Ptr attention(
    const mx::array& queries,
    const mx::array& keys,
    const mx::array& values,
    float scale,
    rust::Str mask_mode,
    const mx::array* mask,
    const mx::array* sinks);

void random_seed(std::uint64_t seed);
Ptr random_key(std::uint64_t seed);
Ptr random_split(const mx::array& key, std::int32_t parts);
Ptr random_uniform(float low, float high, Ints shape, std::uint8_t dtype, const mx::array* key);
Ptr random_normal(Ints shape, std::uint8_t dtype, const mx::array* key);
Ptr random_categorical(const mx::array& logits, std::int32_t axis, const mx::array* key);

rust::String version();
bool device_available(bool gpu, std::int32_t index);
std::int32_t device_count(bool gpu);
bool device_is_gpu();
std::int32_t device_index();
void device_set(bool gpu, std::int32_t index);
rust::Vec<DeviceProperty> device_info(bool gpu, std::int32_t index);
std::int32_t stream_new(bool gpu, std::int32_t index);
std::int32_t stream_default(bool gpu, std::int32_t index);
void stream_set_default(bool gpu, std::int32_t index, std::int32_t stream);
void stream_synchronize(bool gpu, std::int32_t index, std::int32_t stream);
void synchronize();
std::size_t memory(Memory which);
void memory_reset_peak();
std::size_t memory_set_limit(std::size_t bytes);
std::size_t memory_set_cache_limit(std::size_t bytes);
void memory_clear_cache();

std::unique_ptr<ArrayList> host_op(
    rust::Str name,
    Arrays inputs,
    Ints shapes,
    rust::Slice<const std::uint8_t> ranks,
    rust::Slice<const std::uint8_t> dtypes,
    rust::Box<HostKernel> kernel);
Ptr host_op_single(rust::Str name, Arrays inputs, Ints shape, std::uint8_t dtype, rust::Box<HostKernel> kernel);


std::unique_ptr<CudaKernel> cuda_kernel(
    const CudaSource& source, rust::Slice<const rust::Str> inputs, rust::Slice<const rust::Str> outputs);
std::unique_ptr<ArrayList> cuda_launch(
    const CudaKernel& kernel,
    Arrays inputs,
    Ints shapes,
    rust::Slice<const std::uint8_t> ranks,
    rust::Slice<const std::uint8_t> dtypes,
    const CudaLaunch& launch);

bool group_available(rust::Str backend);
std::unique_ptr<Group> group_init(rust::Str backend);
std::int32_t group_rank(const Group& group);
std::int32_t group_size(const Group& group);
Ptr group_collect(Collect how, const mx::array& a, const Group& group);

} // namespace mlxcel
