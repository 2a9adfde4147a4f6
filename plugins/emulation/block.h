// The threads of one block: fibers that meet at barriers. From one barrier to the next a warp goes as far as it can
// before another begins, which is where a missing barrier shows; the order of warps and of lanes is shuffled each time.
#pragma once

#include <csetjmp>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fiber.h"
#include "grid.h"

namespace emulation {

// Threads that wait until `expected` of them have come to the same place.
struct Barrier {
    unsigned expected = 0;
    std::optional<Where> where = std::nullopt;
    std::vector<unsigned> waiting = {};
};

// A barrier of lanes of a warp that also hands values around. There are two rounds of values: a lane can be at most one
// exchange ahead of another, so that what it gives there does not overwrite what the other has still to read.
struct Exchange {
    Barrier barrier;
    unsigned round = 0;
    uint64_t values[2][kWarp] = {};
};

class Block
{
public:
    // Runs `body` in every thread to its end, or to the first fault. Returns what the fault was, or nothing.
    std::string run(unsigned threads, Body body, void const* arguments);

    // For the thread that runs.
    void wait_for_all(Where where) { wait(all_, where); }
    uint64_t const* exchange(unsigned mask, uint64_t value, Where where);
    int lane() const { return static_cast<int>(thread_ % kWarp); }

private:
    static void run_threads();

    void prepare(unsigned threads, Body body, void const* arguments);
    [[noreturn]] void run_next();
    [[noreturn]] void end();
    void make_current(unsigned thread);
    Fiber& idle_fiber();
    void make_all_ready();
    void wait(Barrier& barrier, Where where);
    void release(Barrier& barrier);
    [[noreturn]] void stop(std::string const& fault);

    Body body_ = nullptr;
    void const* arguments_ = nullptr;
    unsigned threads_ = 0;
    unsigned ended_ = 0;
    std::string fault_;
    jmp_buf launcher_;

    unsigned thread_ = 0;            // that runs
    Fiber* fiber_ = nullptr;         // on which it runs
    std::vector<unsigned> ready_;    // threads that can run, the next one last
    std::vector<Fiber*> fiber_of_;   // of each thread that waits or waited
    std::vector<Fiber*> idle_;
    std::vector<std::unique_ptr<Fiber>> fibers_;

    Barrier all_;
    std::vector<std::map<unsigned, Exchange>> exchanges_;  // of each warp, by mask
};

// Blocks run one after another, all in this one.
extern Block block;

}  // namespace emulation
