// Fibers: places where a function can stop in the middle and go on later, without threads of the operating system.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <memory>

namespace emulation {

// ucontext makes a fiber its stack; from then on _setjmp and _longjmp switch, because swapcontext asks the operating
// system each time, which takes many times as long.
class Fiber
{
public:
    // A fiber that will run `body`, which must never return, from its first `resume`.
    explicit Fiber(void (*body)());

    Fiber(Fiber const&) = delete;
    Fiber& operator=(Fiber const&) = delete;

    // Stops the running fiber, which must be this one; `next` resumes another. Returns when this one is resumed.
    template <typename Next> void leave(Next next)
    {
        if (_setjmp(state_) == 0) {
            next();
        }
    }

    // Goes on where this fiber was left. What runs now is lost unless it was left.
    [[noreturn]] void resume() { _longjmp(state_, 1); }

private:
    static constexpr size_t kStackBytes = 65536;

    static void enter();

    void (*body_)();
    std::unique_ptr<char[]> stack_;
    jmp_buf state_;
};

}  // namespace emulation
