#include "tensorrt/logging.h"

#include <atomic>
#include <cstdio>

#include "tensorrt/process.h"

namespace maskline {

namespace {

using nvinfer1::ILogger;
using nvinfer1::ILoggerFinder;

constexpr size_t kMessageBytes = 1024;

std::atomic<ILoggerFinder*> logger_finder{nullptr};

ILogger* engine_logger() noexcept
{
    ILoggerFinder* const finder = logger_finder;
    try {
        return finder == nullptr ? nullptr : finder->findLogger();
    } catch (...) {  // the interface does not promise noexcept
        return nullptr;
    }
}

// The logger that the process gave to its first builder or runtime.
ILogger* global_logger() noexcept
{
    auto const get_logger = tensorrt_function<ILogger*()>("getLogger");
    return get_logger == nullptr ? nullptr : get_logger();
}

}  // namespace

void set_logger_finder(ILoggerFinder* finder) noexcept
{
    ILoggerFinder* none = nullptr;
    if (finder != nullptr) {
        logger_finder.compare_exchange_strong(none, finder);  // a later one may not live as long
    }
}

void log_error(char const* operation, char const* message) noexcept
{
    char line[kMessageBytes];
    std::snprintf(line, sizeof line, "%s: %s", operation, message);
    ILogger* logger = engine_logger();
    if (logger == nullptr) {
        logger = global_logger();
    }
    if (logger == nullptr) {
        std::fprintf(stderr, "maskline plugins: %s\n", line);
        return;
    }
    logger->log(ILogger::Severity::kERROR, line);
}

}  // namespace maskline
