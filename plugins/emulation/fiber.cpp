#include "fiber.h"

#include <ucontext.h>

namespace emulation {

namespace {

Fiber* starting = nullptr;
ucontext_t starter;

}  // namespace

Fiber::Fiber(void (*body)()) : body_(body), stack_(new char[kStackBytes])
{
    ucontext_t start;
    getcontext(&start);
    start.uc_stack.ss_sp = stack_.get();
    start.uc_stack.ss_size = kStackBytes;
    start.uc_link = nullptr;
    makecontext(&start, enter, 0);
    starting = this;
    swapcontext(&starter, &start);
}

void Fiber::enter()
{
    Fiber* const self = starting;
    self->leave([] { setcontext(&starter); });
    self->body_();
}

}  // namespace emulation
