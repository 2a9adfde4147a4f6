// Only in libmaskline_plugins_registered.so: registers the plugins as the library is loaded, for hosts such as Triton
// that do no more than load it. It is a library of its own because TensorRT refuses to load one the plain way whose
// plugins are registered already.
#include <algorithm>
#include <cstdio>
#include <string_view>

#include "library.h"
#include "tensorrt/plugin.h"
#include "tensorrt/process.h"

namespace {

using nvinfer1::IPluginCreatorInterface;
using nvinfer1::IPluginCreatorV3One;
using nvinfer1::IPluginRegistry;

bool is_same(IPluginCreatorInterface const& creator, IPluginCreatorV3One const& ours)
{
    if (std::string_view(creator.getInterfaceInfo().kind) != ours.getInterfaceInfo().kind) {
        return false;
    }
    auto const& other = static_cast<IPluginCreatorV3One const&>(creator);
    return other.getPluginName() == std::string_view(ours.getPluginName())
        && other.getPluginVersion() == std::string_view(ours.getPluginVersion())
        && other.getPluginNamespace() == std::string_view(ours.getPluginNamespace());
}

// The registry's own look-up logs an error for what it does not have.
bool has(IPluginRegistry const& registry, IPluginCreatorV3One const& ours)
{
    int32_t count = 0;
    IPluginCreatorInterface* const* const creators = registry.getAllCreators(&count);
    return std::any_of(creators, creators + count,
        [&ours](IPluginCreatorInterface const* creator) { return is_same(*creator, ours); });
}

void register_missing(IPluginRegistry& registry, IPluginCreatorInterface& creator)
{
    auto const& ours = static_cast<IPluginCreatorV3One const&>(creator);
    if (!has(registry, ours) && !registry.registerCreator(creator, maskline::kPluginNamespace)) {
        std::fprintf(stderr, "maskline plugins: TensorRT refused to register %s.\n", ours.getPluginName());
    }
}

// The process's plugin registry; null where it has no TensorRT.
IPluginRegistry* find_registry()
{
    auto const get_registry = maskline::tensorrt_function<IPluginRegistry*()>("getPluginRegistry");
    return get_registry == nullptr ? nullptr : get_registry();
}

__attribute__((constructor)) void register_all()
{
    IPluginRegistry* registry = find_registry();
    if (registry == nullptr) {
        maskline::load_tensorrt();  // with LD_PRELOAD this library comes before TensorRT
        registry = find_registry();
    }
    if (registry == nullptr) {
        std::fprintf(stderr,
            "maskline plugins: nothing was registered, for neither this process nor the library path has TensorRT %d. "
            "Load TensorRT first, or load libmaskline_plugins.so through its registry.\n",
            NV_TENSORRT_MAJOR);
        return;
    }
    int32_t count = 0;
    IPluginCreatorInterface* const* const creators = getCreators(count);
    std::for_each(creators, creators + count,
        [registry](IPluginCreatorInterface* creator) { register_missing(*registry, *creator); });
}

}  // namespace
