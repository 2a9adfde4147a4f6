// Stands in for libnvinfer where only its plugin registry counts.
#include <vector>

#include <NvInferRuntime.h>
#include <dlfcn.h>

namespace {

using namespace nvinfer1;

class Registry : public IPluginRegistry
{
public:
    PluginLibraryHandle loadLibrary(AsciiChar const* path) noexcept override
    {
        using GetCreators = IPluginCreatorInterface* const*(int32_t&);
        void* const library = dlopen(path, RTLD_NOW);
        int32_t count = 0;
        IPluginCreatorInterface* const* const found
            = reinterpret_cast<GetCreators*>(dlsym(library, "getCreators"))(count);
        creators_.insert(creators_.end(), found, found + count);
        return library;
    }

    bool registerCreator(IPluginCreatorInterface& creator, AsciiChar const*) noexcept override
    {
        creators_.push_back(&creator);
        return true;
    }

    IPluginCreatorInterface* const* getAllCreators(int32_t* count) const noexcept override
    {
        *count = static_cast<int32_t>(creators_.size());
        return creators_.data();
    }

    // Without `override`, for TensorRT 10.7 has no such function.
    virtual IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t* count) noexcept
    {
        return getAllCreators(count);
    }

    void setErrorRecorder(IErrorRecorder*) noexcept override {}
    IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
    bool isParentSearchEnabled() const override { return false; }
    void setParentSearchEnabled(bool) override {}
    void deregisterLibrary(PluginLibraryHandle) noexcept override {}
    bool deregisterCreator(IPluginCreatorInterface const&) noexcept override { return false; }
    IPluginResource* acquirePluginResource(AsciiChar const*, IPluginResource*) noexcept override { return nullptr; }
    int32_t releasePluginResource(AsciiChar const*) noexcept override { return 0; }
    IPluginCreatorInterface* getCreator(AsciiChar const*, AsciiChar const*, AsciiChar const*) noexcept override
    {
        return nullptr;
    }

#if NV_TENSORRT_MAJOR < 11  // of plugins older than ours
    bool registerCreator(IPluginCreator&, AsciiChar const*) noexcept override { return false; }
    bool deregisterCreator(IPluginCreator const&) noexcept override { return false; }
    IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept override { return nullptr; }
    IPluginCreator* getPluginCreator(AsciiChar const*, AsciiChar const*, AsciiChar const*) noexcept override
    {
        return nullptr;
    }
#endif

private:
    std::vector<IPluginCreatorInterface*> creators_;
};

Registry registry;

}  // namespace

extern "C" IPluginRegistry* getPluginRegistry() noexcept
{
    return &registry;
}

// For the test, which has only ctypes.

extern "C" void load_plugin_library(char const* path)
{
    registry.loadLibrary(path);
}

extern "C" int32_t creator_count()
{
    int32_t count = 0;
    registry.getAllCreators(&count);
    return count;
}
