// TensorRT as it is in this process. The plugin library is not linked against it, so that one file serves a process
// that loads TensorRT by any name and from any place.
#pragma once

namespace maskline {

// Address of a C function of the TensorRT of our major version that this process has loaded; null where there is none.
void* tensorrt_symbol(char const* name) noexcept;

// Loads the TensorRT of our major version for the rest of the process, by the loader's search path. Where there is none
// nothing happens.
void load_tensorrt() noexcept;

template <typename Signature>
Signature* tensorrt_function(char const* name) noexcept
{
    return reinterpret_cast<Signature*>(tensorrt_symbol(name));
}

}  // namespace maskline
