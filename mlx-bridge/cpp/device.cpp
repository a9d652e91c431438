// Devices, streams and memory.
#include "mlxcel-mlx-bridge/src/ffi.rs.h"

#if defined(MLXCEL_CUDA_BACKEND) && defined(__linux__)
#include <dlfcn.h>

// MLX's library does not name the driver it calls (build/driver.rs): it is looked up among what is loaded for all, when
// it is first called. Where there is none, what MLX says of the GPU is an error like any other.
__attribute__((constructor)) static void load_driver() {
  dlopen("libcuda.so.1", RTLD_LAZY | RTLD_GLOBAL);
}
#endif

namespace mlxcel {

namespace {

mx::Device device_of(bool gpu, std::int32_t index) {
  return mx::Device(gpu ? mx::Device::gpu : mx::Device::cpu, index);
}

mx::Device available(bool gpu, std::int32_t index) {
  auto device = device_of(gpu, index);
  if (!mx::is_available(device)) {
    throw std::runtime_error(
        std::string("there is no device ") + (gpu ? "gpu:" : "cpu:") + std::to_string(index) + " here");
  }
  return device;
}

} // namespace

rust::String version() {
  return rust::String(mx::version());
}

bool device_available(bool gpu, std::int32_t index) {
  return mx::is_available(device_of(gpu, index));
}

std::int32_t device_count(bool gpu) {
  return mx::device_count(gpu ? mx::Device::gpu : mx::Device::cpu);
}

bool device_is_gpu() {
  return mx::default_device().type == mx::Device::gpu;
}

std::int32_t device_index() {
  return mx::default_device().index;
}

void device_set(bool gpu, std::int32_t index) {
  mx::set_default_device(available(gpu, index));
}

rust::Vec<DeviceProperty> device_info(bool gpu, std::int32_t index) {
  rust::Vec<DeviceProperty> out;
  for (const auto& [name, value] : mx::device_info(available(gpu, index))) {
    DeviceProperty property{name, "", 0, false};
    if (auto* text = std::get_if<std::string>(&value)) {
      property.text = *text;
    } else {
      property.number = std::get<std::size_t>(value);
      property.is_number = true;
    }
    out.push_back(std::move(property));
  }
  return out;
}

std::int32_t stream_new(bool gpu, std::int32_t index) {
  return mx::new_stream(available(gpu, index)).index;
}

std::int32_t stream_default(bool gpu, std::int32_t index) {
  return mx::default_stream(available(gpu, index)).index;
}

void stream_set_default(bool gpu, std::int32_t index, std::int32_t stream) {
  mx::set_default_stream(mx::Stream(stream, available(gpu, index)));
}

void stream_synchronize(bool gpu, std::int32_t index, std::int32_t stream) {
  mx::synchronize(mx::Stream(stream, available(gpu, index)));
}

void synchronize() {
  mx::synchronize();
}

std::size_t memory(Memory which) {
  switch (which) {
    case Memory::Active:
      return mx::get_active_memory();
    case Memory::Cache:
      return mx::get_cache_memory();
    case Memory::Limit:
      return mx::get_memory_limit();
    case Memory::Peak:
      return mx::get_peak_memory();
  }
  throw std::invalid_argument("unknown memory figure");
}

void memory_reset_peak() {
  mx::reset_peak_memory();
}

std::size_t memory_set_limit(std::size_t bytes) {
  return mx::set_memory_limit(bytes);
}

std::size_t memory_set_cache_limit(std::size_t bytes) {
  return mx::set_cache_limit(bytes);
}

void memory_clear_cache() {
  mx::clear_cache();
}

} // namespace mlxcel
