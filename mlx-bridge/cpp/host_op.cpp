// A node of the graph whose work is a Rust closure running on the CPU stream.
#include <cstring>

#include <mlx/backend/cpu/encoder.h>
#include <mlx/primitives.h>

#include "mlxcel-mlx-bridge/src/ffi.rs.h"

namespace mlxcel {

namespace {

class HostOp;

// What one evaluation needs once the graph has let go of the node.
struct Call {
  struct Buffer {
    std::shared_ptr<mx::array::Data> data;
    std::uint8_t* at;
    std::size_t bytes;
    mx::Shape shape;
    mx::Strides strides; // empty when row-contiguous
    std::uint8_t dtype;
    std::uint8_t itemsize;
  };

  std::shared_ptr<HostOp> op;
  std::vector<Buffer> inputs;
  std::vector<Buffer> outputs;

  void run();
};

Call::Buffer buffer_of(mx::array& a) {
  return Call::Buffer{
      a.data_shared_ptr(),
      a.data<std::uint8_t>(),
      a.nbytes(),
      a.shape(),
      a.flags().row_contiguous || a.size() == 0 ? mx::Strides{} : a.strides(),
      code_of(a.dtype()),
      static_cast<std::uint8_t>(a.itemsize())};
}

class HostOp final : public mx::Primitive, public std::enable_shared_from_this<HostOp> {
 public:
  HostOp(mx::Stream stream, rust::Str name, rust::Box<HostKernel> kernel)
      : mx::Primitive(stream), name_(name), kernel_(std::move(kernel)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto call = std::make_shared<Call>();
    call->op = shared_from_this();
    call->inputs.reserve(inputs.size());
    for (auto& in : inputs) {
      call->inputs.push_back(buffer_of(const_cast<mx::array&>(in)));
    }
    call->outputs.reserve(outputs.size());
    for (auto& out : outputs) {
      out.set_data(mx::allocator::malloc(out.nbytes()));
      if (out.nbytes() > 0 && out.data<std::uint8_t>() == nullptr) {
        throw std::bad_alloc();
      }
      call->outputs.push_back(buffer_of(out));
    }
    mx::cpu::get_command_encoder(stream()).dispatch([call = std::move(call)] { call->run(); });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("host op `" + name_ + "` runs on the CPU only");
  }

  const char* name() const override {
    return name_.c_str();
  }

  const HostKernel& kernel() const {
    return *kernel_;
  }

 private:
  std::string name_;
  rust::Box<HostKernel> kernel_;
};

// Copies `from`, whose elements lie `strides` apart, to `to` in row-major order.
std::uint8_t* gather(const Call::Buffer& from, std::size_t axis, const std::uint8_t* at, std::uint8_t* to) {
  auto count = from.shape[axis];
  auto step = from.strides[axis] * from.itemsize;
  if (axis + 1 < from.shape.size()) {
    for (int i = 0; i < count; ++i, at += step) {
      to = gather(from, axis + 1, at, to);
    }
    return to;
  }
  if (step == from.itemsize) {
    std::memcpy(to, at, count * step);
    return to + count * step;
  }
  for (int i = 0; i < count; ++i, at += step, to += from.itemsize) {
    std::memcpy(to, at, from.itemsize);
  }
  return to;
}

HostView view_of(const Call::Buffer& buffer, std::uint8_t* at) {
  return HostView{at, buffer.bytes, Ints(buffer.shape.data(), buffer.shape.size()), buffer.dtype};
}

void Call::run() {
  std::vector<std::unique_ptr<std::uint64_t[]>> copies;
  std::vector<HostView> views;
  views.reserve(inputs.size() + outputs.size());
  for (auto& in : inputs) {
    auto* at = in.at;
    if (!in.strides.empty()) {
      copies.push_back(std::make_unique_for_overwrite<std::uint64_t[]>(in.bytes / 8 + 1));
      at = reinterpret_cast<std::uint8_t*>(copies.back().get());
      gather(in, 0, in.at, at);
    }
    views.push_back(view_of(in, at));
  }
  for (auto& out : outputs) {
    views.push_back(view_of(out, out.at));
  }
  using Views = rust::Slice<const HostView>;
  try {
    op->kernel().run(Views(views.data(), inputs.size()), Views(views.data() + inputs.size(), outputs.size()));
  } catch (const std::exception& e) {
    // Nothing may read what was in this memory before.
    for (auto& out : outputs) {
      std::memset(out.at, 0, out.bytes);
    }
    throw std::runtime_error(std::string("host op `") + op->name() + "`: " + e.what());
  }
}

std::shared_ptr<HostOp> primitive(rust::Str name, rust::Box<HostKernel> kernel) {
  return std::make_shared<HostOp>(mx::default_stream(mx::Device::cpu), name, std::move(kernel));
}

} // namespace

std::unique_ptr<ArrayList> host_op(
    rust::Str name,
    Arrays inputs,
    Ints shapes,
    rust::Slice<const std::uint8_t> ranks,
    rust::Slice<const std::uint8_t> dtypes,
    rust::Box<HostKernel> kernel) {
  std::vector<mx::Shape> out_shapes;
  std::vector<mx::Dtype> out_dtypes;
  auto* at = shapes.data();
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    out_shapes.emplace_back(at, at + ranks[i]);
    out_dtypes.push_back(dtype_of(dtypes[i]));
    at += ranks[i];
  }
  return give(mx::array::make_arrays(
      std::move(out_shapes), out_dtypes, primitive(name, std::move(kernel)), vector_of(inputs)));
}

Ptr host_op_single(rust::Str name, Arrays inputs, Ints shape, std::uint8_t dtype, rust::Box<HostKernel> kernel) {
  return give(mx::array(shape_of(shape), dtype_of(dtype), primitive(name, std::move(kernel)), vector_of(inputs)));
}

} // namespace mlxcel
