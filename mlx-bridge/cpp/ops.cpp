// Elementwise functions, reductions, and functions of shape and order.
#include "mlxcel-mlx-bridge/src/ffi.rs.h"

namespace mlxcel {

Ptr full(Ints shape, double value, std::uint8_t dtype) {
  auto type = dtype_of(dtype);
  return give(mx::full(shape_of(shape), mx::array(value, type), type));
}

Ptr arange(double start, double stop, double step, std::uint8_t dtype) {
  return give(mx::arange(start, stop, step, dtype_of(dtype)));
}

Ptr unary(Unary op, const mx::array& a) {
  switch (op) {
    case Unary::Abs:
      return give(mx::abs(a));
    case Unary::Ceil:
      return give(mx::ceil(a));
    case Unary::Cos:
      return give(mx::cos(a));
    case Unary::Erf:
      return give(mx::erf(a));
    case Unary::Exp:
      return give(mx::exp(a));
    case Unary::Expm1:
      return give(mx::expm1(a));
    case Unary::Floor:
      return give(mx::floor(a));
    case Unary::IsFinite:
      return give(mx::isfinite(a));
    case Unary::Log:
      return give(mx::log(a));
    case Unary::Log1p:
      return give(mx::log1p(a));
    case Unary::LogicalNot:
      return give(mx::logical_not(a));
    case Unary::Negative:
      return give(mx::negative(a));
    case Unary::Reciprocal:
      return give(mx::reciprocal(a));
    case Unary::Round:
      return give(mx::round(a));
    case Unary::Rsqrt:
      return give(mx::rsqrt(a));
    case Unary::Sigmoid:
      return give(mx::sigmoid(a));
    case Unary::Sign:
      return give(mx::sign(a));
    case Unary::Sin:
      return give(mx::sin(a));
    case Unary::Sqrt:
      return give(mx::sqrt(a));
    case Unary::Square:
      return give(mx::square(a));
    case Unary::StopGradient:
      return give(mx::stop_gradient(a));
    case Unary::Tanh:
      return give(mx::tanh(a));
  }
  throw std::invalid_argument("unknown unary function");
}

Ptr binary(Binary op, const mx::array& a, const mx::array& b) {
  switch (op) {
    case Binary::Add:
      return give(mx::add(a, b));
    case Binary::BitwiseAnd:
      return give(mx::bitwise_and(a, b));
    case Binary::BitwiseOr:
      return give(mx::bitwise_or(a, b));
    case Binary::Divide:
      return give(mx::divide(a, b));
    case Binary::Equal:
      return give(mx::equal(a, b));
    case Binary::FloorDivide:
      return give(mx::floor_divide(a, b));
    case Binary::Greater:
      return give(mx::greater(a, b));
    case Binary::GreaterEqual:
      return give(mx::greater_equal(a, b));
    case Binary::LeftShift:
      return give(mx::left_shift(a, b));
    case Binary::Less:
      return give(mx::less(a, b));
    case Binary::LessEqual:
      return give(mx::less_equal(a, b));
    case Binary::LogAddExp:
      return give(mx::logaddexp(a, b));
    case Binary::LogicalAnd:
      return give(mx::logical_and(a, b));
    case Binary::LogicalOr:
      return give(mx::logical_or(a, b));
    case Binary::Matmul:
      return give(mx::matmul(a, b));
    case Binary::Maximum:
      return give(mx::maximum(a, b));
    case Binary::Minimum:
      return give(mx::minimum(a, b));
    case Binary::Multiply:
      return give(mx::multiply(a, b));
    case Binary::NotEqual:
      return give(mx::not_equal(a, b));
    case Binary::Power:
      return give(mx::power(a, b));
    case Binary::Remainder:
      return give(mx::remainder(a, b));
    case Binary::RightShift:
      return give(mx::right_shift(a, b));
    case Binary::Subtract:
      return give(mx::subtract(a, b));
  }
  throw std::invalid_argument("unknown binary function");
}

Ptr reduce(Reduce op, const mx::array& a, Ints axes, bool keep_dims) {
  auto over = ints_of(axes);
  switch (op) {
    case Reduce::All:
      return give(mx::all(a, over, keep_dims));
    case Reduce::Any:
      return give(mx::any(a, over, keep_dims));
    case Reduce::LogSumExp:
      return give(mx::logsumexp(a, over, keep_dims));
    case Reduce::Max:
      return give(mx::max(a, over, keep_dims));
    case Reduce::Mean:
      return give(mx::mean(a, over, keep_dims));
    case Reduce::Min:
      return give(mx::min(a, over, keep_dims));
    case Reduce::Prod:
      return give(mx::prod(a, over, keep_dims));
    case Reduce::Sum:
      return give(mx::sum(a, over, keep_dims));
    case Reduce::Var:
      return give(mx::var(a, over, keep_dims));
  }
  throw std::invalid_argument("unknown reduction");
}

Ptr along(Along op, const mx::array& a, std::int32_t argument, std::int32_t axis, bool keep_dims) {
  switch (op) {
    case Along::ArgMax:
      return give(mx::argmax(a, axis, keep_dims));
    case Along::ArgMin:
      return give(mx::argmin(a, axis, keep_dims));
    case Along::ArgPartition:
      return give(mx::argpartition(a, argument, axis));
    case Along::ArgSort:
      return give(mx::argsort(a, axis));
    case Along::Partition:
      return give(mx::partition(a, argument, axis));
    case Along::Repeat:
      return give(mx::repeat(a, argument, axis));
    case Along::Sort:
      return give(mx::sort(a, axis));
    case Along::TopK:
      return give(mx::topk(a, argument, axis));
  }
  throw std::invalid_argument("unknown function along an axis");
}

Ptr reshape(const mx::array& a, Ints shape) {
  return give(mx::reshape(a, shape_of(shape)));
}

Ptr transpose(const mx::array& a, Ints axes) {
  return give(axes.empty() ? mx::transpose(a) : mx::transpose(a, ints_of(axes)));
}

Ptr expand_dims(const mx::array& a, Ints axes) {
  return give(mx::expand_dims(a, ints_of(axes)));
}

Ptr squeeze(const mx::array& a, Ints axes) {
  return give(axes.empty() ? mx::squeeze(a) : mx::squeeze(a, ints_of(axes)));
}

Ptr broadcast_to(const mx::array& a, Ints shape) {
  return give(mx::broadcast_to(a, shape_of(shape)));
}

namespace {

// MLX clamps a range past the end, which would hide a wrong index.
void check_slice(const mx::array& a, Ints start, Ints stop, Ints strides) {
  if (start.size() != a.ndim() || stop.size() != a.ndim() || strides.size() != a.ndim()) {
    throw std::invalid_argument("a slice must name a start and a stop for each axis");
  }
  for (std::size_t i = 0; i < start.size(); ++i) {
    auto dim = a.shape(static_cast<int>(i));
    bool within = start[i] >= 0 && start[i] <= stop[i] && stop[i] <= dim;
    if (strides[i] < 1 || !within) {
      throw std::invalid_argument(
          "a slice must lie within its axis, got " + std::to_string(start[i]) + ".." + std::to_string(stop[i]) +
          " step " + std::to_string(strides[i]) + " of axis " + std::to_string(i) + " with " +
          std::to_string(dim) + " elements");
    }
  }
}

} // namespace

Ptr slice(const mx::array& a, Ints start, Ints stop, Ints strides) {
  check_slice(a, start, stop, strides);
  return give(mx::slice(a, shape_of(start), shape_of(stop), shape_of(strides)));
}

Ptr slice_update(const mx::array& a, const mx::array& update, Ints start, Ints stop, Ints strides) {
  check_slice(a, start, stop, strides);
  return give(mx::slice_update(a, update, shape_of(start), shape_of(stop), shape_of(strides)));
}

Ptr concatenate(Arrays arrays, std::int32_t axis) {
  return give(mx::concatenate(vector_of(arrays), axis));
}

Ptr stack(Arrays arrays, std::int32_t axis) {
  return give(mx::stack(vector_of(arrays), axis));
}

std::unique_ptr<ArrayList> split(const mx::array& a, std::int32_t parts, std::int32_t axis) {
  return give(mx::split(a, parts, axis));
}

std::unique_ptr<ArrayList> split_at(const mx::array& a, Ints indices, std::int32_t axis) {
  return give(mx::split(a, shape_of(indices), axis));
}

Ptr take(const mx::array& a, const mx::array& indices, std::int32_t axis) {
  return give(mx::take(a, indices, axis));
}

Ptr take_along_axis(const mx::array& a, const mx::array& indices, std::int32_t axis) {
  return give(mx::take_along_axis(a, indices, axis));
}

Ptr put_along_axis(const mx::array& a, const mx::array& indices, const mx::array& values, std::int32_t axis) {
  return give(mx::put_along_axis(a, indices, values, axis));
}

Ptr pad(const mx::array& a, Ints low, Ints high, float value) {
  std::vector<int> axes(a.ndim());
  for (std::size_t i = 0; i < axes.size(); ++i) {
    axes[i] = static_cast<int>(i);
  }
  return give(mx::pad(a, axes, shape_of(low), shape_of(high), mx::array(value, a.dtype())));
}

Ptr contiguous(const mx::array& a) {
  return give(mx::contiguous(a));
}

Ptr astype(const mx::array& a, std::uint8_t dtype) {
  return give(mx::astype(a, dtype_of(dtype)));
}

Ptr view(const mx::array& a, std::uint8_t dtype) {
  return give(mx::view(a, dtype_of(dtype)));
}

Ptr select(const mx::array& condition, const mx::array& yes, const mx::array& no) {
  return give(mx::where(condition, yes, no));
}

Ptr softmax(const mx::array& a, Ints axes, bool precise) {
  return give(mx::softmax(a, ints_of(axes), precise));
}

Ptr cumsum(const mx::array& a, std::int32_t axis, bool reverse, bool inclusive) {
  return give(mx::cumsum(a, axis, reverse, inclusive));
}

Ptr tril(const mx::array& a, std::int32_t diagonal) {
  return give(mx::tril(a, diagonal));
}

Ptr triu(const mx::array& a, std::int32_t diagonal) {
  return give(mx::triu(a, diagonal));
}

} // namespace mlxcel
