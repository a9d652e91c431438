// MLX's own groups of processes.
#include <mlx/distributed/distributed.h>
#include <mlx/distributed/ops.h>

#include "mlxcel-mlx-bridge/src/ffi.rs.h"

namespace mlxcel {

namespace md = mx::distributed;

bool group_available(rust::Str backend) {
  return md::is_available(std::string(backend));
}

std::unique_ptr<Group> group_init(rust::Str backend) {
  return std::make_unique<Group>(md::init(true, std::string(backend)));
}

std::int32_t group_rank(const Group& group) {
  return group.inner.rank();
}

std::int32_t group_size(const Group& group) {
  return group.inner.size();
}

Ptr group_collect(Collect how, const mx::array& a, const Group& group) {
  switch (how) {
    case Collect::AllSum:
      return give(md::all_sum(a, group.inner));
    case Collect::AllMax:
      return give(md::all_max(a, group.inner));
    case Collect::AllGather:
      return give(md::all_gather(a, group.inner));
    case Collect::SumScatter:
      return give(md::sum_scatter(a, group.inner));
    default:
      throw std::invalid_argument("unknown collective operation");
  }
}

} // namespace mlxcel
