#include "tensorrt/process.h"

#include <dlfcn.h>

#include <NvInferVersion.h>

namespace maskline {

namespace {

#define MASKLINE_TEXT_OF(value) #value
#define MASKLINE_TEXT(value) MASKLINE_TEXT_OF(value)

constexpr char const* kTensorRtLibrary = "libnvinfer.so." MASKLINE_TEXT(NV_TENSORRT_MAJOR);

}  // namespace

void* tensorrt_symbol(char const* name) noexcept
{
    // Python and Triton load TensorRT without making its symbols global: it is asked for by name first.
    void* const library = dlopen(kTensorRtLibrary, RTLD_LAZY | RTLD_NOLOAD);
    if (library != nullptr) {
        void* const symbol = dlsym(library, name);
        dlclose(library);  // gives back the reference; the process keeps the library
        return symbol;
    }
    return dlsym(RTLD_DEFAULT, name);
}

void load_tensorrt() noexcept
{
    dlopen(kTensorRtLibrary, RTLD_LAZY);
}

}  // namespace maskline
