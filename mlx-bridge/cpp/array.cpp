// Arrays: making them, looking at them, evaluating them.
#include <algorithm>
#include <array>
#include <cstring>

#include <mlx/primitives.h>

#include "mlxcel-mlx-bridge/src/ffi.rs.h"

namespace mlxcel {

namespace {

// The order of Rust's `Dtype`.
const std::array<mx::Dtype, 13> kDtypes = {
    mx::bool_,
    mx::uint8,
    mx::uint16,
    mx::uint32,
    mx::uint64,
    mx::int8,
    mx::int16,
    mx::int32,
    mx::int64,
    mx::float16,
    mx::bfloat16,
    mx::float32,
    mx::float64,
};

// Below this a comparison with the memory limit, which takes a lock, cannot matter.
constexpr double kUncheckedBytes = 64 << 20;

double bytes_of(const mx::Shape& shape, mx::Dtype dtype) {
  double bytes = mx::size_of(dtype);
  for (auto dim : shape) {
    bytes *= dim;
  }
  return bytes;
}

// MLX's CPU allocator does not check what the system gave it, so an array that cannot
// exist must be refused before it is evaluated.
void check_fits(const mx::array& a) {
  double bytes = bytes_of(a.shape(), a.dtype());
  if (bytes < kUncheckedBytes || bytes <= double(mx::get_memory_limit())) {
    return;
  }
  // A broadcast holds no memory of its own.
  if (a.has_primitive() && std::string(a.primitive().name()) == "Broadcast") {
    return;
  }
  struct TooLarge : std::bad_alloc {
    std::string text;
    const char* what() const noexcept override {
      return text.c_str();
    }
  } error;
  error.text = "the array needs " + std::to_string(bytes) + " bytes, the memory limit is " +
      std::to_string(mx::get_memory_limit());
  throw error;
}

// A failed task leaves its error on the stream, where it would fail every later
// evaluation too; synchronising takes it off.
template <typename F>
void evaluating(F&& f) {
  try {
    f();
  } catch (...) {
    for (auto device : {mx::Device(mx::Device::cpu), mx::default_device()}) {
      try {
        mx::synchronize(mx::default_stream(device));
      } catch (...) {
        // The first error is the one to report.
      }
    }
    throw;
  }
}

// An array over memory that MLX's own allocator did not make. The CPU allocator keeps a
// size before each buffer and points at that, so the pointer is moved back by as much;
// only `Allocator::size` reads it, which MLX asks of owned buffers alone. Backends with a
// device wrap the memory themselves (Metal) or copy it (CUDA).
std::optional<std::ptrdiff_t> cpu_buffer_offset() {
#ifdef MLXCEL_CPU_BACKEND
  static const auto offset = []() -> std::optional<std::ptrdiff_t> {
    auto distance = [](std::size_t bytes) {
      auto data = mx::allocator::malloc(bytes);
      auto buffer = data.buffer();
      return static_cast<char*>(buffer.raw_ptr()) - static_cast<char*>(buffer.ptr());
    };
    // Of any other allocator nothing is known, so its memory is copied.
    constexpr std::ptrdiff_t kHeader = sizeof(std::size_t);
    bool known = !mx::is_available(mx::Device::gpu) && distance(64) == kHeader && distance(8192) == kHeader;
    return known ? std::optional<std::ptrdiff_t>(kHeader) : std::nullopt;
  }();
  return offset;
#else
  return std::nullopt;
#endif
}

} // namespace

mx::Dtype dtype_of(std::uint8_t code) {
  return kDtypes.at(code);
}

std::uint8_t code_of(mx::Dtype dtype) {
  for (std::size_t i = 0; i < kDtypes.size(); ++i) {
    if (kDtypes[i] == dtype) {
      return static_cast<std::uint8_t>(i);
    }
  }
  throw std::invalid_argument("complex64 arrays are not supported");
}

std::vector<mx::array> vector_of(Arrays arrays) {
  std::vector<mx::array> out;
  out.reserve(arrays.size());
  for (auto* a : arrays) {
    out.push_back(*a);
  }
  return out;
}

Ptr give(mx::array a) {
  check_fits(a);
  return std::make_unique<mx::array>(std::move(a));
}

std::unique_ptr<ArrayList> give(std::vector<mx::array> arrays) {
  std::for_each(arrays.begin(), arrays.end(), check_fits);
  return std::make_unique<ArrayList>(std::move(arrays));
}

Ptr array_from_bytes(rust::Slice<const std::uint8_t> bytes, Ints shape, std::uint8_t dtype) {
  auto data = mx::allocator::malloc(bytes.size());
  void* to = data.buffer().raw_ptr();
  if (to == nullptr && !bytes.empty()) {
    throw std::bad_alloc();
  }
  if (!bytes.empty()) {
    std::memcpy(to, bytes.data(), bytes.size());
  }
  return std::make_unique<mx::array>(std::move(data), shape_of(shape), dtype_of(dtype));
}

Ptr array_from_owner(const std::uint8_t* data, Ints shape, std::uint8_t dtype, rust::Box<Owner> owner) {
  // std::function must be copyable, a Box is not.
  auto kept = std::make_shared<rust::Box<Owner>>(std::move(owner));
  auto* from = const_cast<std::uint8_t*>(data);
  if (auto offset = cpu_buffer_offset()) {
    auto release = [kept](mx::allocator::Buffer) {};
    mx::allocator::Data alias(mx::allocator::Buffer(from - *offset), release);
    return std::make_unique<mx::array>(std::move(alias), shape_of(shape), dtype_of(dtype));
  }
  auto release = [kept](void*) {};
  return std::make_unique<mx::array>(static_cast<void*>(from), shape_of(shape), dtype_of(dtype), release);
}

Ptr array_clone(const mx::array& a) {
  return std::make_unique<mx::array>(a);
}

Ints array_shape(const mx::array& a) {
  return Ints(a.shape().data(), a.ndim());
}

std::uint8_t array_dtype(const mx::array& a) {
  return code_of(a.dtype());
}

std::size_t array_size(const mx::array& a) {
  return a.size();
}

std::size_t array_nbytes(const mx::array& a) {
  return a.nbytes();
}

void array_copy_to(const mx::array& a, rust::Slice<std::uint8_t> out) {
  mx::array from = a;
  evaluating([&] {
    from.eval();
    if (!from.flags().row_contiguous) {
      from = mx::contiguous(from);
      from.eval();
    }
  });
  if (out.size() != from.nbytes()) {
    throw std::invalid_argument("the destination must have the array's size in bytes");
  }
  if (!out.empty()) {
    std::memcpy(out.data(), from.data<std::uint8_t>(), out.size());
  }
}

rust::Slice<const std::uint8_t> array_bytes(const mx::array& a) {
  mx::array same = a;
  evaluating([&] { same.eval(); });
  if (!same.flags().row_contiguous) {
    throw std::invalid_argument("the array must be row-contiguous; call contiguous() first");
  }
  if (same.size() == 0) {
    return {};
  }
  return rust::Slice<const std::uint8_t>(same.data<std::uint8_t>(), same.nbytes());
}

void eval(Arrays arrays) {
  evaluating([&] { mx::eval(vector_of(arrays)); });
}

void async_eval(Arrays arrays) {
  evaluating([&] { mx::async_eval(vector_of(arrays)); });
}

} // namespace mlxcel
